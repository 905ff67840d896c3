"use strict";
// Filter, search, sort, play, keep and copy. The page says everything without this script too.
(() => {
  const $ = (selector, root = document) => root.querySelector(selector);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const make = (name, facts) => Object.assign(document.createElement(name), facts);

  const grid = $(".films"), tools = $(".tools"), said = $("#said");
  const cards = all(".c"), blocks = [...grid.children];
  const find = $("input[type=search]", tools), sort = $("select", tools), chips = all("[data-show]", tools);
  const state = { show: "", find: "", sort: "", kept: new Set() };
  const texts = new Map();
  let singleKeys = true;

  const keyOf = (card) => $("h3, h4", card).textContent;
  const textOf = (card) => {
    if (!texts.has(card)) {
      const group = card.closest(".g");
      texts.set(card, `${card.textContent} ${group ? $(".x", group)?.textContent : ""}`.toLowerCase());
    }
    return texts.get(card);
  };

  // --- the state, and its copy in the address ---------------------------------------------------

  function read() {
    const words = new URLSearchParams(location.hash.slice(1));
    state.show = chips.some((chip) => chip.dataset.show === words.get("show")) ? words.get("show") : "";
    state.find = words.get("find") || "";
    state.sort = [...sort.options].some((option) => option.value === words.get("sort")) ? words.get("sort") : "";
    state.kept = new Set((words.get("kept") || "").split(".").map((number) => `f${number}`).filter((id) => cards.some((card) => card.id === id)));
  }

  function write() {
    const words = new URLSearchParams();
    for (const name of ["show", "find", "sort"]) if (state[name]) words.set(name, state[name]);
    if (state.kept.size) words.set("kept", [...state.kept].map((id) => id.slice(1)).sort((a, b) => a - b).join("."));
    history.replaceState(null, "", `#${words}`);
  }

  const ORDERS = {
    "": (card) => +card.id.slice(1),
    key: (card) => keyOf(card),
    sent: (card) => +card.dataset.t || Infinity,
    made: (card) => -(card.dataset.m || 0),
    cost: (card) => -(card.dataset.c || 0),
    state: (card) => chips.findIndex((chip) => card.classList.contains(chip.dataset.show || "-")),
  };

  function show({ announce = true } = {}) {
    const words = state.find.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const card of cards) {
      const fits = (!state.show || (state.show === "kept" ? state.kept.has(card.id) : card.classList.contains(state.show)))
        && words.every((word) => textOf(card).includes(word));
      card.hidden = !fits;
      shown += fits;
    }
    for (const block of blocks) if (block.matches(".g")) block.hidden = !all(".c", block).some((card) => !card.hidden);
    const order = ORDERS[state.sort];
    const ranked = blocks.map((block) => [order(block.matches(".c") ? block : $(".c", block)), block]);
    ranked.sort(([a], [b]) => (typeof a === "string" ? a.localeCompare(b, undefined, { numeric: true }) : a - b));
    grid.append(...ranked.map(([, block]) => block));
    for (const chip of chips) chip.setAttribute("aria-pressed", String(chip.dataset.show === state.show));
    $("#none").hidden = shown > 0 || !cards.length;
    $("#kept-count").textContent = state.kept.size;
    if (announce) said.textContent = shown === cards.length ? "" : `${shown} of ${cards.length} films`;
  }

  function change(facts) {
    Object.assign(state, facts);
    write();
    show();
  }

  // --- playing ----------------------------------------------------------------------------------

  const opens = (link) => ($("img", link)?.alt || link.textContent).startsWith("Open "); // no film

  function play(card, { muted = false, alone = true } = {}) {
    let video = $("video", card);
    const link = $("a.v", card);
    if (!video && link && opens(link)) return link.click();
    if (!video && link) {
      video = make("video", { controls: true, preload: "none", playsInline: true, src: link.href, poster: $("img", link)?.src || "" });
      video.setAttribute("aria-label", keyOf(card));
      link.replaceWith(video);
    }
    if (!video) return;
    if (alone) for (const other of all("video")) if (other !== video) other.pause();
    video.muted = muted;
    video.play().catch(() => { said.textContent = `${keyOf(card)} cannot be played here`; });
    if (alone) video.focus();
  }

  function playTakes(group) {
    for (const video of all("video")) video.pause();
    for (const card of all(".c", group)) {
      play(card, { muted: true, alone: false });
      const video = $("video", card);
      if (video) video.currentTime = 0;
    }
  }

  // --- keeping ----------------------------------------------------------------------------------

  function mark(card) {
    const kept = state.kept.has(card.id);
    const star = $(".star", card);
    star.setAttribute("aria-pressed", String(kept));
    star.textContent = kept ? "★" : "☆";
  }

  function keep(card) {
    if (!state.kept.delete(card.id)) state.kept.add(card.id);
    mark(card);
    write();
    $("#kept-count").textContent = state.kept.size;
    said.textContent = `${keyOf(card)} ${state.kept.has(card.id) ? "kept" : "not kept"}: ${state.kept.size} in all`;
  }

  const keptKeys = () => cards.filter((card) => state.kept.has(card.id)).map(keyOf);

  function exportKept() {
    $("#kept textarea").value = keptKeys().map((key) => `${key}\n`).join("");
    $("#kept").showModal();
  }

  function download() {
    const url = URL.createObjectURL(new Blob([$("#kept textarea").value], { type: "text/plain" }));
    make("a", { href: url, download: "kept.txt" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  }

  async function copy(text, button) {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = make("textarea", { value: text });
      (button.closest("dialog") || document.body).append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    const label = button.textContent;
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = label; }, 1500);
  }

  // --- moving -----------------------------------------------------------------------------------

  function step(by) {
    const open = all(".c", grid).filter((card) => !card.hidden);
    const at = open.indexOf(document.activeElement?.closest(".c"));
    focus(open[at < 0 ? (by > 0 ? 0 : open.length - 1) : Math.min(Math.max(at + by, 0), open.length - 1)]);
  }

  function focus(card) {
    if (!card) return;
    card.tabIndex = -1;
    card.focus({ preventScroll: true });
    card.scrollIntoView({ block: "center" });
  }

  function onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || $("dialog[open]")) return;
    if (event.target.closest("input, select, textarea")) return;
    const card = document.activeElement?.closest(".c"), video = event.target.closest("video");
    const letters = { k: () => card && keep(card), "/": () => find.focus(), e: exportKept, "?": () => $("#keys").showModal() };
    const act = { ArrowRight: () => step(1), ArrowLeft: () => step(-1), ...(singleKeys ? letters : {}) }[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    const moves = event.key.startsWith("Arrow") && event.target.closest(".chart, video"); // its own
    if (event.key === "Enter" && event.target === card) play(card);
    else if (event.key === "Escape" && video) { video.pause(); focus(card); }
    else if (act && !moves) act();
    else return;
    event.preventDefault();
  }

  function onClick(event) {
    const button = event.target.closest("button"), link = event.target.closest("a");
    if (button?.matches(".star")) keep(button.closest(".c"));
    else if (button?.matches("[data-show]")) change({ show: button.dataset.show });
    else if (button?.dataset.do === "close") button.closest("dialog").close();
    else if (button?.dataset.do === "copy") copy($("textarea", button.closest("dialog")).value, button);
    else if (button?.dataset.do === "download") download();
    else if (button?.dataset.do === "takes") playTakes(button.closest(".g"));
    else if (button?.matches(".cmd button")) copy($("code", button.parentElement).textContent, button);
    else if (button?.id === "export") exportKept();
    else if (button?.id === "help") $("#keys").showModal();
    else if (link?.matches("a.v") && !event.ctrlKey && !event.metaKey && !event.shiftKey) {
      if (opens(link)) return;
      event.preventDefault();
      play(link.closest(".c"));
    } else if (link?.hash.match(/^#f\d+$/)) {
      event.preventDefault();
      const card = document.getElementById(link.hash.slice(1));
      if (card?.hidden) change({ show: "", find: (find.value = "") });
      focus(card);
    }
  }

  // --- begin ------------------------------------------------------------------------------------

  for (const card of cards) {
    const star = make("button", { type: "button", className: "star" });
    star.setAttribute("aria-label", `Keep ${keyOf(card)}`);
    card.append(star);
  }
  for (const command of all(".cmd")) {
    const code = $("code", command), words = code.textContent.split(" ");
    code.replaceChildren(...words.flatMap((word, n) => [n ? " " : "", make("span", { textContent: word })]));
    command.append(make("button", { type: "button", textContent: "Copy" }));
  }
  for (const head of all(".gh")) {
    if (all("a.v", head.parentElement).every(opens)) continue; // nothing to play
    const button = make("button", { type: "button", textContent: "Play all takes" });
    button.dataset.do = "takes";
    head.append(button);
  }
  function begin() {
    read();
    find.value = state.find;
    sort.value = state.sort;
    for (const card of cards) mark(card);
    show({ announce: Boolean(state.show || state.find) });
  }
  document.addEventListener("keydown", onKey);
  document.addEventListener("click", onClick);
  find.addEventListener("input", () => change({ find: find.value }));
  find.addEventListener("keydown", (event) => { if (event.key === "Escape") change({ find: (find.value = "") }); });
  sort.addEventListener("change", () => change({ sort: sort.value }));
  $("#keys input").addEventListener("change", (event) => { singleKeys = event.target.checked; });
  window.addEventListener("hashchange", begin);
  window.addEventListener("beforeprint", () => { for (const image of all("img[loading=lazy]")) image.loading = "eager"; });
  begin();
  tools.hidden = false;
})();

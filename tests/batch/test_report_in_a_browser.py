"""The report in a real browser, from a file: it plays, filters, keeps, and asks nobody.

Needs Chromium (Debian: `apt install chromium`) and the dependency group `browser`; elsewhere these
tests are skipped. One browser serves all of them.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import attrs
import pytest
from sample_batch import FATES, make_batch, storyboards
from sample_report import COMMANDS, NOW, filled, hostile_texts, page_of, rows_with
from volume import volume

from apikley_async import Shot, Storyboard
from apikley_async.batch import Batch
from apikley_async.batch.report.build import build_report
from apikley_async.batch.report.model import Report
from apikley_async.batch.report.posters import make_posters
from apikley_async.batch.report.rows import read_rows
from apikley_async.batch.saved_files import hash_file

T = TypeVar("T")
playwright = pytest.importorskip("playwright.sync_api", reason="needs the group browser")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's Chromium"),
    pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning"),
    pytest.mark.timeout(240),  # a browser beside other work; a page that is wrong says so at once
]

PLACEHOLDER = Path(__file__).resolve().parents[2] / (
    "apikley_async/simulator/assets/placeholder.mp4"
)
# Of one storyboard both takes are done, so that they can be played together. Two films became
# uncertain together.
SHOWN = {key: fate for key, fate in FATES.items() if "paper-boat" not in key}
SHOWN["olive-grove.2"] = "uncertain"
SHOWN.pop("olive-grove")
# What keeps Chromium from asking for updates, and from a sandbox that containers lack.
OPTIONS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
    "--autoplay-policy=no-user-gesture-required",
)


def in_a_loop(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in a thread: the browser's own loop runs in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


@attrs.frozen
class Shown:
    """A page in the browser, and what it has said and asked for."""

    page: Any
    requests: list[str]
    messages: list[str]

    def visible(self) -> list[str]:
        """The keys of the films that are shown, in their order."""
        found: list[str] = self.page.eval_on_selector_all(
            ".c:not([hidden]) :is(h3, h4)",
            "all => all.filter(e => e.checkVisibility()).map(e => e.textContent)",
        )
        return found

    def hash(self) -> str:
        return str(self.page.evaluate("location.hash"))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """The report of a batch with films in every state; its page lies with the films."""
    folder = tmp_path_factory.mktemp("batch")
    films = dict.fromkeys(("kitten", "lighthouse", "night-train"), PLACEHOLDER)
    films |= dict.fromkeys(("paper-boat", "olive-grove", "tea"), PLACEHOLDER)

    async def make() -> Report:
        journal = folder / "campaign.db"
        await make_batch(journal, storyboards(2), SHOWN, films=films)
        make_posters([hash_file(path) for path in (folder / "films").glob("*.mp4")])
        async with Batch.open(journal, read_only=True) as batch:
            rows = await read_rows(batch, folder)
        return build_report(rows, COMMANDS, title="campaign", folder=folder / "films", now=NOW)

    made = in_a_loop(make())
    (folder / "films" / "report.html").write_text(page_of(made), encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def place(report: Report) -> Path:
    """The path of the page."""
    [path] = {Path(file.path).parent for film in report.films for file in film.files}
    return path / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as runner:
        browser = runner.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def tab(browser: Any) -> Any:
    """The one tab of nearly all tests: a new one takes a second of a processor."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.set_default_timeout(100_000)
    return page


@pytest.fixture
def open_page(tab: Any) -> Iterator[Callable[[Path], Shown]]:
    """Open a page from its file, as new: what it keeps, it keeps in its address."""
    shown = Shown(tab, [], [])
    listeners = {
        "request": lambda request: shown.requests.append(request.url),
        "console": lambda message: shown.messages.append(f"{message.type}: {message.text}"),
        "pageerror": lambda error: shown.messages.append(f"error: {error}"),
        "dialog": lambda dialog: (shown.messages.append("a dialog"), dialog.dismiss()),
    }

    def open_it(path: Path) -> Shown:
        for event, listener in listeners.items():
            tab.on(event, listener)
        tab.goto(path.as_uri())
        return shown

    yield open_it
    tab.goto("about:blank")
    for event, listener in listeners.items():
        tab.remove_listener(event, listener)


@pytest.fixture
def opened(open_page: Callable[[Path], Shown], place: Path) -> Iterator[Shown]:
    """The page of the report; it must end without a complaint or a request outside."""
    shown = open_page(place)
    yield shown
    assert shown.messages == []
    assert [url for url in shown.requests if not url.startswith(("file:", "data:", "blob:"))] == []


def playing(page: Any, *, or_ended: bool = False) -> list[str]:
    """The names of the films that play, or have played to their end."""
    found: list[str] = page.eval_on_selector_all(
        "video",
        "(all, too) => all.filter(v => !v.paused || (too && v.ended))"
        ".map(v => v.getAttribute('aria-label'))",
        or_ended,
    )
    return found


def wait_until_it_plays(page: Any, key: str) -> None:
    page.wait_for_function(
        "key => [...document.querySelectorAll('video')].some("
        "v => v.getAttribute('aria-label') === key && v.currentTime > 0.05)",
        arg=key,
    )


def test_films_play_one_at_a_time(opened: Shown) -> None:
    """On a click, and not before: nothing of a film is fetched until then."""
    page = opened.page
    assert not [url for url in opened.requests if url.endswith(".mp4")]

    page.locator("#f1 a.v").click()
    wait_until_it_plays(page, "kitten")
    assert page.locator("#f1 video").get_attribute("preload") == "none"
    page.locator("a.v[href='tea.mp4']").click()
    wait_until_it_plays(page, "tea")

    assert playing(page) == ["tea"]
    assert {url.rpartition("/")[2] for url in opened.requests if url.endswith(".mp4")} == {
        *("kitten.mp4", "tea.mp4"),
    }


def test_takes_play_together(opened: Shown) -> None:
    page = opened.page
    assert page.locator("section.g[aria-label^='night-train'] .gh button").count() == 0  # no film
    page.locator("section.g[aria-label^='paper-boat'] .gh button").click()

    wait_until_it_plays(page, "paper-boat.2")
    wait_until_it_plays(page, "paper-boat")
    keys = ["paper-boat", "paper-boat.2"]
    assert sorted(playing(page, or_ended=True)) == keys  # neither has stopped the other
    boxes = [page.locator(f"video[aria-label='{key}']").bounding_box() for key in keys]
    assert boxes[0]["y"] == boxes[1]["y"]


def test_filter_search_and_sort_are_kept_in_the_address(opened: Shown, report: Report) -> None:
    """A page that is opened with that address shows the same."""
    page = opened.page
    assert opened.visible() == [film.key for film in report.films]

    page.get_by_role("button", name="undecided").click()
    assert opened.visible() == ["lighthouse", "olive-grove.2", "tea.2"]
    page.get_by_role("searchbox").fill("steam GLASS")
    assert opened.visible() == ["tea.2"]
    assert page.get_by_role("status").inner_text() == "1 of 13 films"
    page.get_by_role("searchbox").fill("no such film")
    assert opened.visible() == []
    assert page.get_by_text("No film is like that.").is_visible()
    page.get_by_role("searchbox").fill("виадук")
    page.get_by_role("button", name="all").click()
    page.get_by_role("combobox").select_option("key")
    assert opened.visible() == ["night-train", "night-train.2"]
    page.reload()
    assert opened.visible() == ["night-train", "night-train.2"]

    page.get_by_role("searchbox").fill("")
    assert opened.visible()[:3] == ["harbour", "kitten", "kitten.2"]
    assert opened.hash() == "#sort=key"
    page.get_by_role("combobox").select_option("")
    assert opened.visible() == [film.key for film in report.films]


def test_good_takes_are_kept_by_keyboard_and_exported(opened: Shown, tmp_path: Path) -> None:
    page = opened.page
    for _ in range(3):
        page.keyboard.press("ArrowRight")
        page.keyboard.press("k")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("k")
    assert opened.hash() == "#kept=1.3"
    page.keyboard.press("/")
    page.keyboard.type("k")
    assert opened.hash() == "#find=k&kept=1.3"
    page.keyboard.press("Escape")
    page.get_by_role("button", name="kept").first.click()
    assert opened.visible() == ["kitten", "lighthouse"]
    page.reload()
    assert opened.visible() == ["kitten", "lighthouse"]

    page.locator("h1").click()
    page.keyboard.press("e")
    assert page.get_by_role("textbox", name="Kept films").input_value() == "kitten\nlighthouse\n"
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    download.value.save_as(tmp_path / "kept.txt")
    assert (tmp_path / "kept.txt").read_text() == "kitten\nlighthouse\n"
    page.get_by_role("button", name="Close").click()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    wait_until_it_plays(page, "kitten")
    page.keyboard.press("k")
    assert opened.hash() == "#show=kept&kept=3"
    page.keyboard.press("Escape")
    assert playing(page) == []
    assert page.evaluate("document.activeElement.id") == "f1"


def test_shortcuts_can_be_turned_off(opened: Shown) -> None:
    page = opened.page
    page.keyboard.press("?")
    page.get_by_role("checkbox").uncheck()
    page.get_by_role("button", name="Close").click()

    page.keyboard.press("ArrowRight")
    page.keyboard.press("k")

    assert opened.hash() == ""


def test_commands_are_copied_as_they_are(opened: Shown, report: Report) -> None:
    page = opened.page
    command = page.locator(".cmd").first

    command.get_by_role("button").click()

    assert page.evaluate("navigator.clipboard.readText()") == report.undecided[0].ways[0].command
    assert command.get_by_role("button").inner_text() == "Copied"


def test_commands_are_broken_at_blanks_only(opened: Shown, report: Report) -> None:
    """Whoever types a line that ends in `-` types a blank; what is longer than a line is broken."""
    page = opened.page
    lines = """span => {
        const range = document.createRange();
        range.selectNodeContents(span);
        return new Set([...range.getClientRects()].map(box => box.top)).size;
    }"""
    spans = page.locator(".cmd span")
    try:
        for width in (320, 400, 500, 640, 900, 1280):
            page.set_viewport_size({"width": width, "height": 900})
            assert spans.count() > 10
            assert {each.evaluate(lines) for each in spans.all()} == {1}, width
    finally:
        page.set_viewport_size({"width": 1280, "height": 900})
    page.locator(".cmd code").first.select_text()
    selected = page.evaluate("getSelection().toString()")

    assert selected == report.undecided[0].ways[0].command
    assert "--task-id" in selected


def test_a_link_leads_to_a_film_that_is_hidden(opened: Shown) -> None:
    page = opened.page
    page.get_by_role("button", name="here").click()
    assert "lighthouse" not in opened.visible()

    page.locator(".need a", has_text="lighthouse").first.click()

    assert "lighthouse" in opened.visible()
    assert page.evaluate("document.activeElement.id") == "f3"


def test_nothing_but_our_script_runs(open_page: Callable[[Path], Shown], place: Path) -> None:
    """Neither markup that gets in, nor a script from elsewhere: the policy stops both."""
    shown, failed = open_page(place), {}
    shown.page.on("requestfailed", lambda request: failed.update({request.url: request.failure}))
    stopped = shown.page.evaluate(
        """async () => {
            const stopped = [], note = (event) => stopped.push(event.effectiveDirective);
            addEventListener("securitypolicyviolation", note);
            const markup = "<img src=x onerror='window.ran = 1'>";
            try { document.body.innerHTML = markup; } catch { stopped.push("trusted types"); }
            try { await fetch("https://example.com/"); } catch { stopped.push("fetch"); }
            const image = new Image();
            image.src = "https://example.com/a.png";
            document.body.append(image);
            await new Promise((done) => setTimeout(done, 100));
            return [stopped, window.ran];
        }"""
    )

    assert stopped[1] is None
    assert {"trusted types", "fetch", "connect-src", "img-src"} <= set(stopped[0])
    assert failed["https://example.com/a.png"] == "csp"


def test_without_a_script_the_page_says_everything(
    browser: Any, place: Path, report: Report
) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(place.as_uri())
    text = page.inner_text("main")
    tools = page.locator(".tools").is_visible()
    links = page.locator("a.v").count()
    context.close()

    assert not tools
    assert links == sum(film.files != () and film.files[0].here for film in report.films)
    assert all(film.key in text for film in report.films)
    assert all(way.command in text for group in report.undecided for way in group.ways)


def test_it_reads_well_for_everybody(browser: Any, place: Path) -> None:
    """No violation that axe knows: in light, and in the dark on a phone."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    found = {}
    context = browser.new_context(bypass_csp=True)
    page = context.new_page()
    for scheme, width in (("light", 1280), ("dark", 390)):
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 900})
        page.goto(place.as_uri())
        page.evaluate("document.querySelector('#export').click()")
        page.keyboard.press("Escape")
        results = axe.run(page).response["violations"]
        found[scheme, width] = [
            (each["id"], [node["html"][:120] for node in each["nodes"][:3]]) for each in results
        ]
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    context.close()

    assert found == {key: [] for key in found}


def test_on_paper_it_has_no_buttons(opened: Shown) -> None:
    page = opened.page
    page.emulate_media(media="print", color_scheme="dark")
    hidden = [page.locator(each).first.is_visible() for each in (".tools", ".star", ".cmd button")]
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    paper = page.pdf(format="A4", print_background=True)
    page.emulate_media(media="null", color_scheme="null")

    assert hidden == [False, False, False]
    assert ground == "rgb(255, 255, 255)"
    assert paper.startswith(b"%PDF")
    assert b"/Subtype /Image" in paper  # the posters


def test_hostile_texts_do_nothing(
    open_page: Callable[[Path], Shown], report: Report, tmp_path: Path
) -> None:
    """Thousands of them: no script runs, no element appears, nothing is asked for."""
    page = tmp_path / "report.html"
    texts = filled(report, hostile_texts(10_000), copies=volume(14, 70))
    page.write_text(page_of(texts), encoding="utf-8")
    shown = open_page(page)
    counts = shown.page.evaluate(
        "['script', 'style', 'iframe', 'form', '[onerror]', '[onload]', '[onfocus]']"
        ".map(each => document.querySelectorAll(each).length)"
    )
    shown.page.get_by_role("searchbox").fill("<script>")
    found = len(shown.visible())
    outside = [url for url in shown.requests if not url.startswith(("file:", "data:"))]
    said = [each for each in shown.messages if "ERR_FILE_NOT_FOUND" not in each]

    assert counts == [1, 1, 0, 0, 0, 0, 0]
    assert 0 < found < len([film for group in texts.groups for film in group.films])
    assert outside == []
    assert said == []


def test_one_of_many_films_is_found(open_page: Callable[[Path], Shown], tmp_path: Path) -> None:
    count = volume(300, 1000)
    works = [
        (f"film-{number:04d}", Storyboard([Shot(f"Number {number}, a harbour at dawn.")]))
        for number in range(count)
    ]
    rows = in_a_loop(rows_with(tmp_path, works, {"film-0007": "failed"}))
    report = build_report(rows, COMMANDS, title="many", folder=tmp_path / "films", now=NOW)
    page = tmp_path / "report.html"
    page.write_text(page_of(report), encoding="utf-8")
    shown = open_page(page)
    shown.page.get_by_role("searchbox").fill("number 77,")
    found = shown.visible()

    assert found == [f"film-0{hundreds}77" for hundreds in range(count // 100)]

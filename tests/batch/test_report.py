"""The report of a batch: what it says of a journal, as a value, a page, JSON and CSV."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import attrs
import jsonschema_rs
import pytest
from calls import counted_calls
from sample_batch import FATES, make_batch, storyboards
from sample_report import NOW, filled, hostile_texts, page_of, report_of, rows_with
from volume import volume

from apikley_async import Shot, Storyboard
from apikley_async.batch import Batch, Item, ItemState
from apikley_async.batch.report import charts, history
from apikley_async.batch.report.exports import cell, report_csv, report_json
from apikley_async.batch.report.model import Category, Report, Span
from apikley_async.batch.report.page import figures_of
from apikley_async.batch.report.rows import FileFacts, JournalRows, picture_of, read_rows
from apikley_async.batch.report.texts import duration, sentence, shown, without_links
from apikley_async.errors import AuthenticationError

DOCS = Path(__file__).resolve().parents[2] / "docs"


async def rows_of(folder: Path, fates: Mapping[str, str], takes: int = 2) -> JournalRows:
    journal = folder / "campaign.db"
    await make_batch(journal, storyboards(takes), fates)
    async with Batch.open(journal, read_only=True) as batch:
        return await read_rows(batch, folder)


def words(report: Report) -> str:
    return "".join(text for text, _ in sentence(report.totals, report.made_at)).strip()


# --- the value ------------------------------------------------------------------------------------


async def test_the_sentence_of_truth(tmp_path: Path) -> None:
    """Films here, films that need somebody, money, risk, the first deadline, nothing paid twice."""
    report = report_of(await rows_of(tmp_path, FATES), tmp_path)

    assert words(report) == (
        "3 of 13 films are here; 8 need you: 2 undecided (sent, no answer came: perhaps paid), 5 "
        "failed and 1 lost a file; 2 not finished. 1,620 credits, 270 a film; 540 more at risk. "
        "The first link to a film that is not here ends in 23 h 2 min."
    )


async def test_the_headline_does_not_soothe_before_a_decision(tmp_path: Path) -> None:
    """Whether something is paid twice, the decision says; also without a price."""
    rows = await rows_of(tmp_path, FATES)
    unpriced = [{**attempt, "reserved": None, "credits": None} for attempt in rows.attempts]
    report = report_of(attrs.evolve(rows, attempts=unpriced), tmp_path)

    assert "2 undecided" in words(report)
    assert "twice" not in words(report)


async def test_the_balance_is_read_before_the_commands(tmp_path: Path) -> None:
    """What it says may forbid the command that pays again."""
    page = page_of(report_of(await rows_of(tmp_path, FATES), tmp_path))

    assert page.index("What the balance says") < page.index("<code>apikley batch")


async def test_a_batch_that_went_well_needs_nobody(tmp_path: Path) -> None:
    report = report_of(await rows_of(tmp_path, {"harbour": "dropped"}), tmp_path)

    assert words(report) == (
        "12 of 13 films are here; none needs you. 3,240 credits, 270 a film. "
        "Nothing was paid twice."
    )
    assert (report.undecided, report.failures, report.lost, report.unfinished) == (
        (),
        (),
        None,
        None,
    )


async def test_an_empty_batch(tmp_path: Path) -> None:
    async with Batch.open(tmp_path / "empty.db") as batch:
        rows = await read_rows(batch, tmp_path)

    report = report_of(rows, tmp_path)

    assert words(report) == "No film is planned yet."
    assert "No film is planned yet." in page_of(report)
    assert list(csv.reader(io.StringIO(report_csv(report))))[1:] == []


async def test_a_rehearsal_has_paid_nothing(tmp_path: Path) -> None:
    rows = await rows_of(tmp_path, {"harbour": "dropped"})
    files = {key: attrs.evolve(facts, simulated=True) for key, facts in rows.files.items()}
    report = report_of(attrs.evolve(rows, files=files), tmp_path)

    assert words(report) == (
        "12 of 13 films are here; none needs you. "
        "All was rehearsed on this machine, and nothing was paid."
    )


async def test_what_was_paid_twice_is_said(tmp_path: Path) -> None:
    """By the journal's own books: more tasks than a person has asked for."""
    rows = await rows_of(tmp_path, {"tea": "retried"})
    assert report_of(rows, tmp_path).totals.paid_twice == ()

    twice = {**rows.attempts[0], "task_id": "task_other", "token": "f" * 32}
    report = report_of(attrs.evolve(rows, attempts=[*rows.attempts, twice]), tmp_path)

    assert report.totals.paid_twice == (twice["key"],)
    assert words(report).endswith("1 film was paid more than once.")


async def test_undecided_films_come_with_all_that_is_known(tmp_path: Path) -> None:
    """Time, model, first words, cause, what is at risk, the balance and the commands."""
    report = report_of(await rows_of(tmp_path, FATES), tmp_path)

    lighthouse, tea = report.undecided
    [first], [second] = lighthouse.films, tea.films
    assert (first.key, second.key) == ("lighthouse", "tea.2")
    assert first.sent_at < second.sent_at < NOW
    assert first.model == "sora-2-pro-storyboard"
    assert first.words == "A lighthouse at dawn, aerial, slow push in."
    assert lighthouse.cause == "the connection broke off after 3.1 s"
    assert (first.credits, first.evidence) == (270, "nothing more taken so far")
    assert [(way.command, way.cost) for way in lighthouse.ways] == [
        ("apikley batch resolve --task-id TASK_ID campaign.yaml lighthouse", "nothing more"),
        (
            "apikley batch resubmit campaign.yaml lighthouse",
            "270 credits, a new charge; it is paid twice if it was received after all",
        ),
        ("apikley batch drop campaign.yaml lighthouse", "nothing more"),
    ]
    assert [(way.command, way.cost) for way in report.decide_all] == [
        ("apikley batch resolve --task-id 'ID ID ...' campaign.yaml", "nothing more"),
        (
            "apikley batch resubmit --undecided campaign.yaml",
            "540 credits, new charges; each of them that was received after all is paid twice",
        ),
        ("apikley batch drop --undecided campaign.yaml", "nothing more"),
    ]
    assert "nothing else was taken so far" in report.balances[0]


async def test_a_burst_that_was_killed_is_one_decision(tmp_path: Path) -> None:
    """Twenty films of one cause and one time: one table, and one command with all keys."""
    works = [(f"k{number}", Storyboard([Shot("A cat.", 10)], duration=10)) for number in range(20)]
    fates = {key: "uncertain" for key, _ in works}
    await make_batch(tmp_path / "campaign.db", works, fates)
    async with Batch.open(tmp_path / "campaign.db", read_only=True) as batch:
        report = report_of(await read_rows(batch, tmp_path), tmp_path)

    [group] = report.undecided
    keys = " ".join(key for key, _ in works)
    assert " ".join(film.key for film in group.films) == keys
    assert [way.command for way in group.ways] == [
        "apikley batch resolve --task-id 'ID ID ...' campaign.yaml",
        f"apikley batch resubmit campaign.yaml {keys}",
        f"apikley batch drop campaign.yaml {keys}",
    ]
    assert group.ways[1].cost == (
        "5,400 credits, new charges; each of them that was received after all is paid twice"
    )
    assert report.decide_all == ()
    page = page_of(report)
    assert page.count("<table") == 1
    assert page.count("resolve --task-id") == 1
    assert "5,400 credits</dd>" in page


async def test_what_an_adopted_copy_lacks_was_sent_before(tmp_path: Path) -> None:
    """Nobody knows when, and no balance tells: what is known is when the copy was adopted."""
    works = [(key, Storyboard([Shot("A cat.", 10)], duration=10)) for key in ("one", "two")]
    async with Batch.open(tmp_path / "first.db") as batch:
        await batch.add(works, allow_duplicates=True)
        await batch.backup(tmp_path / "copy.db")
        await batch.store.intend("one", "f" * 32, "0" * 64, None)
    async with Batch.open(tmp_path / "copy.db", adopt=True) as batch:
        await batch.store.record_balance(100.0)
        await batch.store.record_balance(100.0)
        report = report_of(await read_rows(batch, tmp_path), tmp_path)

    [group] = report.undecided
    assert [(film.key, film.lost, film.evidence) for film in group.films] == [
        ("one", True, "does not tell"),
        ("two", True, "does not tell"),
    ]
    assert report.balances == ()
    page = page_of(report)
    assert page.count("<td>before ") == 2
    assert "and up to a minute later" not in page


async def test_the_cost_of_what_has_no_price_is_not_guessed(tmp_path: Path) -> None:
    """Neither with others, nor alone."""
    rows = await rows_of(tmp_path, {"lighthouse": "uncertain", "tea.2": "unanswered"})
    first, second = rows.uncertain
    some = [first, attrs.evolve(second, reserved=None)]
    none = [attrs.evolve(each, reserved=None) for each in some]

    costs = [
        report_of(attrs.evolve(rows, uncertain=each), tmp_path).decide_all[1].cost
        for each in (some, none)
    ]

    twice = "each of them that was received after all is paid twice"
    assert costs == [
        f"270 credits, new charges, and 1 film of unknown price; {twice}",
        f"2 new charges of unknown price; {twice}",
    ]


async def test_what_is_being_sent_is_not_said_to_be_unpaid(tmp_path: Path) -> None:
    """A report may be written during a run, or after one that was killed."""
    rows = await rows_of(tmp_path, {"tea": "sending"})

    group = report_of(rows, tmp_path).unfinished

    assert group is not None
    assert group.cause == "1 being sent, and perhaps paid"
    assert group.cure.endswith("What was cut off is then for you to decide.")


async def test_why_films_were_not_submitted_stands_where_they_are_gone_on_with(
    tmp_path: Path,
) -> None:
    """The cause of most of them: the same command meets it again."""
    rows = await rows_of(tmp_path, {"tea": "planned", "kitten": "planned", "harbour": "planned"})
    refused = "The submission to sora-2-pro-storyboard was refused: Unauthorized (code 401)."
    causes = {"tea": refused, "kitten": refused, "harbour": "too many requests"}
    items = [attrs.evolve(item, cause=causes.get(item.key, item.cause)) for item in rows.items]

    group = report_of(attrs.evolve(rows, items=items), tmp_path).unfinished

    assert group is not None
    assert group.cause == f"none is paid. {refused.removesuffix('.')}"
    assert group.cure.startswith("When that is settled, run it again: it resumes")


async def test_why_films_were_not_submitted_is_of_the_last_run(tmp_path: Path) -> None:
    """What an earlier run met may be settled: a later one has stopped for another reason."""
    rows = await rows_of(tmp_path, {"tea": "planned"})
    planned = next(item for item in rows.items if item.key == "tea")
    sent = [{"key": planned.key, "event": "intend", "at": 1000.0}]
    items = [attrs.evolve(planned, cause="Unauthorized (code 401)")]

    causes = {900.0: "none is paid. Unauthorized (code 401)", 1100.0: "none is paid"}
    for began, cause in causes.items():
        given = attrs.evolve(rows, items=items, events=sent, runs=[began])
        group = report_of(given, tmp_path).unfinished
        assert group is not None
        assert group.cause == cause


async def test_failures_are_grouped_by_cause_with_cure_and_cost(tmp_path: Path) -> None:
    """Ids and numbers do not tell causes apart; a refused content is not sent again as it is."""
    report = report_of(await rows_of(tmp_path, FATES), tmp_path)

    groups = {group.title: group for group in report.failures}
    assert set(groups) == {"2 films failed", "1 film failed", "1 film expired", "1 film refused"}
    content = groups["2 films failed"]
    assert content.keys == ("kitten.2", "paper-boat.2")
    assert "photorealistic people" in content.cause
    assert "is likely to do so again" in content.cure
    assert [way.command for way in content.ways] == [
        "apikley batch retry --changed campaign.yaml kitten.2 paper-boat.2"
    ]
    assert content.ways[0].cost == "540 credits, new charges"
    other = groups["1 film failed"]
    assert other.ways[0].command == "apikley batch retry campaign.yaml night-train.2"
    assert other.cure == "Nothing was charged. The same input may succeed another time."
    assert groups["1 film expired"].ways[0].command.startswith("apikley batch revive")
    assert "takes its new content" in groups["1 film refused"].cure


async def test_one_cause_needs_no_list_of_keys(tmp_path: Path) -> None:
    fates = {f"{name}.2": "failed" for name in ("tea", "kitten", "lighthouse")}
    report = report_of(await rows_of(tmp_path, fates), tmp_path)

    [group] = report.failures
    assert group.title == "3 films failed"
    assert group.ways[0].command == "apikley batch retry campaign.yaml"


async def test_a_lost_file_is_fetched_again_while_the_service_has_it(tmp_path: Path) -> None:
    rows = await rows_of(tmp_path, FATES)

    lost = report_of(rows, tmp_path).lost
    too_late = report_of(rows, tmp_path, NOW + timedelta(days=2)).lost

    assert lost is not None
    assert lost.keys == ("lighthouse.2",)
    assert lost.ways[0].command == "apikley batch save campaign.yaml lighthouse.2"
    assert "1 film to fetch, the first within 23 h 3 min" in lost.cure
    assert too_late is not None
    assert "that is over" in too_late.cure
    assert report_of(rows, tmp_path).totals.counts[Category.LOST] == 1


async def test_a_film_of_two_files_is_lost_with_one_of_them(tmp_path: Path) -> None:
    rows = await rows_of(tmp_path, {})
    kitten, *others = rows.items
    two = attrs.evolve(kitten, files=kitten.files * 2)
    facts = FileFacts(here=(True, False), posters=(None, None))
    files = {**rows.files, kitten.key: facts}

    report = report_of(attrs.evolve(rows, items=[two, *others], files=files), tmp_path)

    assert report.films[0].category is Category.LOST
    assert 'href="kitten.mp4">file 2' not in page_of(report)


async def test_takes_stand_beside_each_other(tmp_path: Path) -> None:
    report = report_of(await rows_of(tmp_path, {}, takes=3), tmp_path)

    assert [[film.key for film in group.films] for group in report.groups][:1] == [
        ["kitten", "kitten.2", "kitten.3"]
    ]
    assert [film.take for film in report.groups[0].films] == [1, 2, 3]
    assert [film.take for film in report.groups[-1].films] == [0]


async def test_purged_films_are_no_takes_of_each_other(tmp_path: Path) -> None:
    """Without their prompts they look alike."""
    works = [(key, Storyboard([Shot(f"{key} walks.", 10)], duration=10)) for key in ("ann", "bob")]
    await make_batch(tmp_path / "campaign.db", works, {})
    async with Batch.open(tmp_path / "campaign.db") as batch:
        await batch.purge()
        rows = await read_rows(batch, tmp_path)

    assert len(report_of(rows, tmp_path).groups) == 2
    assert "walks" not in report_json(report_of(rows, tmp_path))


async def test_times_of_a_film(tmp_path: Path) -> None:
    """Of its last attempt; and the service's own time of completion where it fits."""
    report = report_of(await rows_of(tmp_path, FATES), tmp_path)

    tea = next(film for film in report.films if film.key == "tea")
    assert tea.attempts == 2
    assert tea.sent_at is not None
    assert tea.ready_at is not None
    assert tea.saved_at is not None
    assert tea.sent_at < tea.ready_at < tea.saved_at
    assert tea.made_in == pytest.approx((tea.ready_at - tea.sent_at).total_seconds(), abs=2)


async def test_a_film_that_was_found_later_was_made_since_it_was_sent(tmp_path: Path) -> None:
    """What a person, or a callback, has bound to it was in the making all the while."""
    report = report_of(await rows_of(tmp_path, {**FATES, "tea": "resolved"}), tmp_path)

    tea = next(film for film in report.films if film.key == "tea")
    assert tea.made_in == pytest.approx(150)
    [span] = [span for span in report.run.spans if span.key == "tea"]
    assert (span.accepted, span.ready) == (span.sent, pytest.approx(span.sent + 150))


def test_when_a_found_film_was_ready_only_the_service_knows() -> None:
    """Without its word nothing is said, rather than the time until somebody has asked."""
    events = [
        {"key": "tea", "event": event, "at": at}
        for event, at in [("intend", 10.0), ("doubt", 12.0), ("resolve", 900.0), ("succeed", 905.0)]
    ]
    item = Item("tea", ItemState.SUCCESS)
    told = attrs.evolve(item, success_at=datetime.fromtimestamp(190.0, UTC))

    assert history.times_of([item], events)["tea"].made_in is None
    assert history.times_of([told], events)["tea"].made_in == 180.0


async def test_a_picture_outside_of_the_batch_is_not_shown(tmp_path: Path) -> None:
    """A journal may come from elsewhere."""
    inside, outside = tmp_path / "here", tmp_path / "secret.png"
    inside.mkdir()
    for path in (inside / "a.png", outside):
        path.write_bytes(b"\x89PNG\r\n\x1a\n")
    rows = await rows_of(inside, {})
    shown_of = {}
    for name, image in (("kitten", inside / "a.png"), ("tea", outside)):
        board = attrs.evolve(rows.works[name], image=str(image))  # type: ignore[misc]
        shown_of[name] = picture_of(board, [inside])

    assert shown_of == {"kitten": inside / "a.png", "tea": None}
    link = inside / "link.png"
    link.symlink_to(outside)
    board = attrs.evolve(rows.works["tea"], image=str(link))  # type: ignore[misc]
    assert picture_of(board, [inside]) is None


# --- figures --------------------------------------------------------------------------------------


def test_percentiles_are_by_nearest_rank() -> None:
    assert history.spread([]) is None
    assert history.spread([3.0]) == history.Spread(1, 3.0, 3.0)
    hundred = history.spread(float(number) for number in range(1, 101))
    assert hundred == history.Spread(100, 50.0, 95.0)


def test_the_busiest_ten_seconds() -> None:
    """A window that is full for exactly ten seconds."""
    sent = [0.0, 1.0, 9.9, 10.0, 10.5]

    assert [*history.in_window(sent)] == [1, 2, 3, 3, 4]


def test_a_pause_ends_a_run() -> None:
    """Waiting overnight is no waiting for the limiter."""
    spans = [
        Span("a", 0.0, 1.0, 100.0, 101.0, Category.HERE),
        Span("b", 50.0, 51.0, 1_000.0, 1_001.0, Category.HERE),
        Span("c", 1_500.0, 1_501.0, None, None, Category.UNFINISHED),
        Span("d", 90_000.0, 90_001.0, None, None, Category.UNFINISHED),
    ]

    assert history.starts_of_runs(spans) == [0.0, 0.0, 0.0, 90_000.0]


def test_time_without_a_run_is_not_waiting_for_saving() -> None:
    """A run was killed, and the next one began an hour later: nobody could save a film then."""
    events = [{"at": at, "event": "accept"} for at in (3.0, 10.0)] + [{"at": 50.0, "event": "drop"}]
    spans = (
        Span("a", 0.0, 3.0, 100.0, 3_612.0, Category.HERE),  # ready when the run was dead
        Span("b", 5.0, 10.0, 3_700.0, 3_720.0, Category.HERE),
    )
    pauses = history.pauses_of(events, [0.0, 3_600.0])
    run = attrs.evolve(history.run_figures([], {}, [], []), spans=spans, pauses=pauses)

    chart = charts.timeline(run)

    assert pauses == ((10.0, 3_600.0),)
    assert chart is not None
    assert {kind: path.count("M") for kind, path in chart.paths.items()} == {
        "sending": 2,
        "making": 2,
        "saving": 2,
        "idle": 1,
    }


@pytest.mark.parametrize(
    ("span", "parts"),
    [
        ((0.0, 5.0), [(0, 5, False)]),
        ((0.0, 15.0), [(0, 10, False), (10, 15, True)]),
        ((12.0, 25.0), [(12, 20, True), (20, 25, False)]),
        (
            (0.0, 45.0),
            [(0, 10, False), (10, 20, True), (20, 30, False), (30, 40, True), (40, 45, False)],
        ),
        ((12.0, 12.0), [(12, 12, False)]),
        ((12.0, 15.0), [(12, 15, True)]),
        ((9.0, 5.0), [(9, 9, False)]),  # a clock was set back
    ],
)
def test_the_parts_of_a_span(
    span: tuple[float, float], parts: list[tuple[float, float, bool]]
) -> None:
    assert [*history.parted(*span, [(10.0, 20.0), (30.0, 40.0)])] == parts


async def test_the_figures_of_a_run(tmp_path: Path) -> None:
    run = report_of(await rows_of(tmp_path, FATES), tmp_path).run

    assert run.refused == 1
    assert None not in (run.made, run.fetched, run.waited)
    assert run.made is not None
    assert 60 < run.made.median <= run.made.high < 600
    assert 0 < run.busiest <= 20
    assert len(run.sent) == 14  # a film was refused once, one was retried, one never sent


@pytest.mark.parametrize(
    ("films", "note"), [(2, "5.0 a film; of runs that were not killed"), (0, "of runs that")]
)
def test_the_page_says_which_polls_it_knows(films: int, note: str) -> None:
    """A run counts its polls at its end: those of one that was killed are in no figure."""
    empty = history.run_figures([], {}, [], [])
    spans = tuple(Span(f"k{n}", 0.0, 1.0, 2.0, 3.0, Category.HERE) for n in range(films))

    figures = {
        each["name"]: each for each in figures_of(attrs.evolve(empty, spans=spans, polls=10))
    }

    assert figures["Polls"]["note"].startswith(note)


async def test_charts_stay_inside_their_frame(tmp_path: Path) -> None:
    run = report_of(await rows_of(tmp_path, FATES), tmp_path).run
    for chart in (charts.timeline(run), charts.pace(run)):
        assert chart is not None
        numbers = re.findall(r"M([\d.]+) ([\d.]+)", "".join(chart.paths.values()))
        assert numbers
        assert all(0 <= float(x) <= 1000 and 0 <= float(y) <= chart.height for x, y in numbers)
        assert all(28 <= tick.x <= 1000 - 28 for tick in chart.ticks)  # none is cut at an edge
        assert len(chart.ticks) < 15


def test_a_clock_gone_wild_costs_no_time() -> None:
    """A journal from elsewhere may say that a film took a thousand years."""
    spans = (
        Span("a", 0.0, 1.0, 3e10, 3e10, Category.HERE),
        Span("b", 1.0, 1.0, None, None, Category.UNFINISHED),
    )
    empty = history.run_figures([], {}, [], [])

    with counted_calls() as calls:
        chart = charts.timeline(attrs.evolve(empty, spans=spans, sent=(0.0, 1.0)))

    assert chart is not None
    assert len(chart.ticks) < 15
    assert calls.number < 1000


# --- the page -------------------------------------------------------------------------------------


class Tags(HTMLParser):
    """The tags of a page, with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.inside = ""
        self.raw: dict[str, str] = {}
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, given: Sequence[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(given)))
        self.inside = tag

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside in ("script", "style"):
            self.raw[self.inside] = self.raw.get(self.inside, "") + data
        else:
            self.text.append(data)

    def counts(self) -> Counter[tuple[str, tuple[str, ...]]]:
        return Counter((tag, tuple(sorted(given))) for tag, given in self.tags)

    def values(self, attribute: str) -> list[str]:
        return [given[attribute] or "" for _, given in self.tags if attribute in given]


async def test_only_our_script_and_style_run(tmp_path: Path) -> None:
    """The policy names both by their hash; nothing comes from elsewhere."""
    page = page_of(report_of(await rows_of(tmp_path, FATES), tmp_path))
    tags = Tags(page)
    [policy] = [
        given["content"] or ""
        for tag, given in tags.tags
        if given.get("http-equiv") == "Content-Security-Policy"
    ]

    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    for name in ("script", "style"):
        [text] = re.findall(rf"<{name}>(.*?)</{name}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy
        assert len(re.findall(rf"<{name}\b", page)) == 1
    assert not [name for _, given in tags.tags for name in given if name.startswith("on")]
    assert tags.values("style") == []
    links = [*tags.values("src"), *tags.values("href")]
    assert [link for link in links if re.match(r"\w+:|//", link) and link != "data:,"] == []
    assert page.index("Content-Security-Policy") < page.index("<style")


async def test_every_film_is_on_the_page(tmp_path: Path) -> None:
    rows = await rows_of(tmp_path, FATES)
    report = report_of(rows, tmp_path)
    tags = Tags(page_of(report))
    text = " ".join(tags.text)

    assert [link for link in tags.values("href") if link.endswith(".mp4")] == [
        file.url for film in report.films for file in film.files if file.here
    ]
    for film in report.films:
        assert film.key in text
        assert all(shot.text in text for shot in film.shots)
    ids = tags.values("id")
    assert len(ids) == len(set(ids))
    assert {f"f{film.number}" for film in report.films} <= set(ids)
    assert {link[1:] for link in tags.values("href") if link.startswith("#")} <= set(ids)


async def test_no_secret_is_in_a_report(tmp_path: Path) -> None:
    """No signed link, no token of an attempt, no link in a cause."""
    rows = await rows_of(tmp_path, FATES)
    token = rows.attempts[0]["token"]
    cause = f"https://files.example.com/x.mp4?sign=hush and {token}"
    items = [
        attrs.evolve(item, cause=cause, fail_message=cause)
        if item.state is not ItemState.DONE
        else item
        for item in rows.items
    ]
    report = report_of(attrs.evolve(rows, items=items), tmp_path)

    for text in (page_of(report), report_json(report), report_csv(report)):
        assert "hush" not in text
        assert "sign=" not in text
        assert not [each["token"] for each in rows.attempts if each["token"] in text]
        assert "files.example.com" not in text


async def test_many_undecided_films_stay_readable(tmp_path: Path) -> None:
    """Forty causes: a dozen with their commands, the others in a table."""
    works = [(f"k{number}", Storyboard([Shot("A cat.", 10)], duration=10)) for number in range(40)]
    fates = {key: "uncertain" for key, _ in works}
    await make_batch(tmp_path / "campaign.db", works, fates)
    async with Batch.open(tmp_path / "campaign.db", read_only=True) as batch:
        rows = await read_rows(batch, tmp_path)
    causes = ["a" * number for number in range(40)]
    uncertain = [
        attrs.evolve(item, cause=cause) for item, cause in zip(rows.uncertain, causes, strict=True)
    ]

    page = page_of(report_of(attrs.evolve(rows, uncertain=uncertain), tmp_path))

    assert "28 more that may have been paid" in page
    assert "All 40 at once" in page
    assert page.count("<tr>") == 29
    assert page.count("resolve --task-id") == 12 + 1
    assert page.count("--undecided") == 2


@pytest.mark.slow
async def test_a_thousand_films_are_a_small_page(tmp_path: Path) -> None:
    """Under 1 MB without posters, and at most four thousand calls of functions for a film."""
    count = volume(250, 1000)
    scenes = "A long scene with many words about a lighthouse at dawn, its keeper and the sea. "
    works = [
        (f"film-{number:04d}", Storyboard([Shot(f"{number}: {scenes * 2}"), Shot(scenes * 3)]))
        for number in range(count)
    ]
    fates = dict(zip((key for key, _ in works[::7]), ["uncertain", "failed"] * 500, strict=False))
    rows = await rows_with(tmp_path, works, fates)

    with counted_calls() as calls:
        report = report_of(rows, tmp_path)
        page = page_of(report)
        data, table = report_json(report), report_csv(report)

    assert calls.number < 4000 * len(works)
    assert len(page.encode()) < volume(260_000, 1_000_000)
    assert len(json.loads(data)["films"]) == count
    assert len(list(csv.reader(io.StringIO(table)))) == count + 1


@pytest.mark.slow
async def test_a_page_of_very_many_films_has_those_that_need_somebody(tmp_path: Path) -> None:
    """All are in JSON and CSV; nothing on the page leads to a film that it has not."""
    base = report_of(await rows_of(tmp_path, FATES), tmp_path)
    groups = tuple(
        attrs.evolve(
            group,
            films=tuple(
                attrs.evolve(film, number=number * 10 + take, key=f"{film.key}-{number}")
                for take, film in enumerate(group.films)
            ),
        )
        for number, group in enumerate(base.groups * volume(600, 1000))
    )
    report = attrs.evolve(base, groups=groups, undecided=(), failures=(), lost=None)
    needing = sum(film.category is not Category.HERE for film in report.films)
    assert needing > 5000

    tags = Tags(page_of(report))

    cards = [given["class"] for tag, given in tags.tags if tag == "article" and given.get("id")]
    assert 4900 < len(cards) <= 5000
    assert f"{len(report.films) - len(cards)} more films are not on this page" in " ".join(
        tags.text
    )
    ids = set(tags.values("id"))
    assert {link[1:] for link in tags.values("href") if link.startswith("#")} <= ids


# --- hostile texts --------------------------------------------------------------------------------


@pytest.mark.slow
async def test_ten_thousand_hostile_texts_stay_text(tmp_path: Path) -> None:
    """In elements, attributes and the title: a page of them has the tags of a harmless one."""
    base = report_of(await rows_of(tmp_path, FATES), tmp_path)
    texts, copies = hostile_texts(10_000), volume(20, 70)
    page = page_of(filled(base, texts, copies=copies))
    harmless = Tags(page_of(filled(base, ["plain words"] * len(texts), copies=copies)))

    tags = Tags(page)

    assert tags.counts() == harmless.counts()
    assert tags.raw == harmless.raw
    assert tags.values("id") == harmless.values("id")
    assert tags.values("class") == harmless.values("class")
    assert not re.search("[\0\x1b\u202e\u2066\u2028\x85]", page)
    found = " ".join("".join(tags.text).split())
    for group in filled(base, texts, copies=copies).groups:
        assert all(shot.text in found for shot in group.films[0].shots)


def test_hostile_texts_are_no_formulas_in_a_spreadsheet() -> None:
    """Whatever separates its cells."""
    for text in hostile_texts(10_000):
        written = cell(shown(text, 500))
        for part in re.split("[;\t]", written):
            assert not re.match(r"\s*[=+\-@|%\uff1d\uff0b\uff0d\uff20]", part), text


def test_what_is_shown_is_visible() -> None:
    assert shown("a\0b\u202ec\r\nd", 100) == "a b c d"
    assert shown("👨\u200d👩\u200d👧 می\u200cخواهم", 100) == "👨\u200d👩\u200d👧 می\u200cخواهم"
    assert shown("x" * 50, 10) == "xxxxxxx..."
    assert without_links(f"see https://a.b/c?d=e {'0f' * 16}!") == "see <url> ...!"
    assert without_links(AuthenticationError.advice) == AuthenticationError.advice
    assert without_links("at https://app.apikley.ru/keys?a=b, c://d") == "at <url> <url>"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"),
        (4.24, "4.2 s"),
        (59.6, "1 min"),
        (310, "5 min 10 s"),
        (12_000, "3 h 20 min"),
        (86_400, "1 d"),
        (187_300, "2 d 4 h"),
    ],
)
def test_spans_of_time_in_words(seconds: float, said: str) -> None:
    assert duration(seconds) == said


# --- JSON and CSV ---------------------------------------------------------------------------------


async def test_the_json_is_as_documented(tmp_path: Path) -> None:
    schema = jsonschema_rs.validator_for(json.loads((DOCS / "report.schema.json").read_text()))
    rows = await rows_of(tmp_path, FATES)
    infinite = [attrs.evolve(item, credits=float("inf")) for item in rows.items]
    empty = attrs.evolve(rows, items=[], attempts=[], events=[], uncertain=[], balances=[])

    for each in (rows, attrs.evolve(rows, items=infinite), empty):
        text = report_json(report_of(each, tmp_path))
        schema.validate(json.loads(text))
        assert "Infinity" not in text


async def test_the_csv_has_a_row_a_film(tmp_path: Path) -> None:
    report = report_of(await rows_of(tmp_path, FATES), tmp_path)

    text = report_csv(report)
    table = list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"))))

    assert text.startswith("\ufeff")
    assert [row["key"] for row in table] == [film.key for film in report.films]
    assert {row["state"] for row in table} >= {"done", "failed", "uncertain"}
    [tea] = [row for row in table if row["key"] == "tea"]
    assert (tea["take"], tea["credits"], tea["seconds"]) == ("1", "270.0", "15.0")

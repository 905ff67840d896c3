"""`apikley batch status`: which films, how much of them, and another process's run."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sqlite3
import threading
from pathlib import Path

import pytest
from cli.conftest import CommandResult, Run, fail_bad_films, write_manifest

from apikley_async import Client
from apikley_async.batch import Batch
from apikley_async.cli import batch_status
from apikley_async.cli.batch_status import WorkerWatch
from apikley_async.simulator import Constant, Fault, Simulator, Terms

pytestmark = pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning")


@pytest.fixture
def terms() -> Terms:
    return Terms(duration=Constant(0.01), decide=fail_bad_films)


@pytest.fixture
def mixed(service: Simulator, run: Run) -> Path:
    """A journal with a film that is done, one that failed, one uncertain, and one planned."""
    path = write_manifest("tea", "bad tea", "sea", "bee")
    run("batch", "run", path, "--yes", "--max-tasks", "2")
    service.script("create", [Fault.RESET_AFTER])
    run("batch", "run", path, "--yes", "--max-tasks", "3")
    return path


def films(result: CommandResult) -> dict[str, str]:
    """The states of the films that were reported, by key."""
    return {
        event["key"]: event["item_state"] for event in result.events if event["event"] == "film"
    }


def test_programs_get_every_film(mixed: Path, run: Run) -> None:
    """Done ones too, with what is known of them."""
    result = run("batch", "status", mixed, "--json")

    states = {"tea": "done", "bad tea": "failed", "sea": "uncertain", "bee": "planned"}
    assert films(result) == states
    done = result.events[0]
    assert done["credits"] == 150
    assert [Path(path).name for path in done["paths"]] == ["tea.mp4"]
    assert result.event("batch")["uncertain"] == 1
    assert (result.code, result.event("end")["reason"]) == (3, "needs a decision")


def test_people_get_what_is_not_done(mixed: Path, run: Run) -> None:
    result = run("batch", "status", mixed)

    assert [line.partition(":")[0] for line in result.out.splitlines()] == ["bad tea", "sea", "bee"]
    assert "1 done" in result.err.replace("1 failed, ", "")


def test_films_are_chosen_by_what_they_need(mixed: Path, run: Run) -> None:
    """And the exit code is about them."""
    failed = run("batch", "status", mixed, "--failed", "--json")
    undecided = run("batch", "status", mixed, "--undecided", "--json")
    both = run("batch", "status", mixed, "--undecided", "--failed", "--json")

    assert (failed.code, films(failed)) == (1, {"bad tea": "failed"})
    assert (undecided.code, films(undecided)) == (3, {"sea": "uncertain"})
    assert len(films(both)) == 2


def test_ids_are_for_other_commands(mixed: Path, service: Simulator, run: Run) -> None:
    """`apikley wait $(apikley batch status FILE --ids)`: nothing else is on stdout."""
    ids = [charge.task_id for charge in service.ledger.paid[:2]]

    assert run("batch", "status", mixed, "--ids").out.split() == ids
    assert run("batch", "status", mixed, "tea", "--ids").out.split() == ids[:1]
    assert run("batch", "status", mixed, "--undecided", "--ids").out == ""


def test_a_key_shows_everything(mixed: Path, service: Simulator, run: Run) -> None:
    """Attempts, times in both zones, ids, credits and files; a file that is gone is called so."""
    shown = run("batch", "status", mixed, "tea", "sea")
    Path("films/tea.mp4").unlink()
    gone = run("batch", "status", mixed, "tea")
    unknown = run("batch", "status", mixed, "coffee")

    tea, sent, file, sea, sent_too = shown.out.splitlines()
    assert tea.startswith("tea: done (task_")
    assert " UTC" in sent
    assert "accepted" in sent
    assert "150 credits" in sent
    assert file.endswith("films/tea.mp4")
    assert sea.startswith("sea: uncertain")
    assert "unknown" in sent_too
    assert gone.out.splitlines()[-1].endswith("tea.mp4: is gone")
    assert (unknown.code, "'coffee'" in unknown.err) == (2, True)


def test_the_totals_are_of_the_films_asked_for(mixed: Path, run: Run) -> None:
    """States and credits: those of the others are not counted among them."""
    whole = run("batch", "status", mixed, "--json").event("batch")
    tea = run("batch", "status", mixed, "tea", "--json").event("batch")
    sea = run("batch", "status", mixed, "sea", "--json").event("batch")
    failed = run("batch", "status", mixed, "--failed", "--json").event("batch")

    names = ("done", "failed", "uncertain", "planned", "spent", "at_risk")
    assert [whole.get(name) for name in names] == [1, 1, 1, 1, 150, 150]
    assert [tea.get(name) for name in names] == [1, None, None, None, 150, None]
    assert [sea.get(name) for name in names] == [None, None, 1, None, 0, 150]
    assert [failed.get(name) for name in names] == [None, 1, None, None, 0, None]
    assert "150 credits spent" not in run("batch", "status", mixed, "sea").err


def test_a_film_that_is_paid_and_not_saved_says_until_when(service: Simulator, run: Run) -> None:
    """And the command that saves it, into another folder too."""
    path = write_manifest("tea")
    run("batch", "run", path, "--yes")
    with contextlib.closing(sqlite3.connect(path.with_suffix(".db"))) as journal, journal:
        journal.execute("UPDATE item SET state = 'success'")  # as after a disk that was full

    shown = run("batch", "status", path)

    assert shown.code == 4
    assert re.search("1 film paid and not saved, at the service until 2.* UTC", shown.err)
    assert "To save into another folder: apikley batch save -o DIR campaign.jsonl" in shown.err


def test_workers_are_missed_and_come_back() -> None:
    """Said after a while, again each minute, and once when one is there; never while one is."""
    watch = WorkerWatch("a worker", "No worker makes these films", 15.0)
    said = [(at, text) for at in range(200) if (text := watch.look(3, 3, float(at)))]
    hindrance = watch.hindrance
    back = [watch.look(3, unclaimed, 200.0 + n) for n, unclaimed in enumerate((2, 3, 3))]

    assert [at for at, _ in said] == [15, 75, 135, 195]
    assert all(text == "No worker makes these films" for _, text in said)
    assert (hindrance, watch.hindrance) == ("waiting for a worker", "")
    assert back == ["A worker makes these films now.", None, None]
    assert all(watch.look(0, 0, 1000.0 + at) is None for at in range(200)), "there is nothing to do"


def test_of_a_file_it_is_asked_whether_a_run_is_at_work(
    service: Simulator, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing has changed for long: a film may take its time."""
    monkeypatch.setattr(batch_status, "INTERVAL", 0.01)
    monkeypatch.setattr(batch_status, "LONG_SILENCE", 0.05)
    path = write_manifest("tea")
    service.script("create", [Fault.code(402)])
    run("batch", "run", path, "--yes")
    maker = threading.Timer(0.5, lambda: run_batch(path))
    maker.start()

    result = run("batch", "status", path, "--follow")
    maker.join()

    asked, _, later = result.err.partition("A run makes these films now.")
    assert asked.count("does a run still make these films?") == 1, "again after a minute"
    assert "To go on: apikley batch run campaign.jsonl" in asked
    assert "tea: saved" in later


def test_another_process_s_run_is_followed(
    service: Simulator, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each film is reported when it changes, and the end is the end of the batch."""
    monkeypatch.setattr(batch_status, "INTERVAL", 0.01)
    path = write_manifest("tea", "bad tea")
    service.script("create", [Fault.code(402)])
    run("batch", "run", path, "--yes")
    assert run("batch", "status", path).code == 4
    codes: list[int] = []
    maker = threading.Timer(0.2, lambda: codes.append(run_batch(path)))
    maker.start()

    result = run("batch", "status", path, "--follow", "--json")
    maker.join()

    ends = {event["key"]: event["event"] for event in result.events if "paths" in event}
    assert result.code == 1
    assert ends["tea"] in ("film", "saved")
    assert result.event("batch")["done"] == 1
    assert result.event("batch")["failed"] == 1


def test_a_journal_from_elsewhere_may_name_a_time_that_is_none(mixed: Path, run: Run) -> None:
    with contextlib.closing(sqlite3.connect(mixed.with_suffix(".db"))) as journal, journal:
        journal.execute("UPDATE attempt SET began_at = 1e300")

    assert "tea: done" in run("batch", "status", mixed, "tea").out


def test_films_that_are_renamed_or_withdrawn_meanwhile_are_followed_too(
    service: Simulator, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another name is no error, and for a film that its manifest has lost nobody waits."""
    monkeypatch.setattr(batch_status, "INTERVAL", 0.01)
    path = write_manifest("tea", "sea")
    service.script("create", [Fault.code(402)] * 2)
    run("batch", "run", path, "--yes")
    rest = write_manifest("tea")

    async def rename() -> None:
        async with Batch.open(path.with_suffix(".db")) as batch:
            await batch.add(rest)
            await batch.rename("tea", "coffee")

    def change() -> None:
        asyncio.run(rename())
        run_batch(path)

    maker = threading.Timer(0.2, change)
    maker.start()

    result = run("batch", "status", path, "--follow", "--json")
    maker.join()

    assert (result.code, result.event("batch")["done"]) == (0, 1)
    assert "planned" not in result.event("batch")


def run_batch(path: Path) -> int:
    """Make a batch in a thread of its own, as another process does."""

    async def make() -> int:
        async with Client() as client, Batch.open(path.with_suffix(".db")) as batch:
            return len([item async for item in batch.run(client, folder="films")])

    return asyncio.run(make())

"""`apikley demo`: a batch that can be stopped anywhere, and is made only once."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from cli.conftest import Run

from apikley_async import Attempt, Client, Verdict
from apikley_async.batch import Batch, ItemEvent, ItemState, Journal, Transition
from apikley_async.cli import simulated_service
from apikley_async.cli.commands.demo import STORYBOARDS

KEYS = ["kitten", "lighthouse", "night-train", "olive-grove", "paper-boat", "tea"]

pytestmark = pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning")


@pytest.fixture(autouse=True)
def fast_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulated_service, "DEMO_SPEED", 300.0)


def run_demo(run: Run, folder: Path) -> tuple[int, str]:
    """Run the demo; returns its exit code and stderr."""
    result = run("demo", "-o", folder, "--films", "placeholder")
    return result.code, result.err


def films_in(folder: Path) -> list[str]:
    """The names of the films in a folder."""
    return sorted(path.stem for path in folder.glob("*.mp4"))


def test_the_demo_is_made_once(run: Run, tmp_path: Path) -> None:
    """Six films with readable names; run again, it submits nothing and says so. (A21)"""
    folder = tmp_path / "films"

    first, output = run_demo(run, folder)
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.mp4")}
    again, output_again = run_demo(run, folder)

    assert (first, again) == (0, 0)
    assert films_in(folder) == KEYS
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*.mp4")} == before
    assert output.count(": begun") == 6
    assert "simulated here, nothing was paid" in output
    assert not {"credits spent", "submitted as"} & {*output.splitlines()}
    assert "credits" not in output.lower().replace("apikley_api_key", "")
    assert ": begun" not in output_again
    assert "nothing was submitted" in output_again
    assert str(folder) in output


def test_other_files_are_left_alone(run: Run, tmp_path: Path) -> None:
    """A name that is taken is not paid for; move the file, and the run_demo resumes. (D15)"""
    folder = tmp_path / "films"
    folder.mkdir()
    mine = folder / "tea.mp4"
    mine.write_bytes(b"mine")

    code, output = run_demo(run, folder)

    assert code == 4
    assert mine.read_bytes() == b"mine"
    assert "tea.mp4 exists already; nothing was paid" in output
    assert f"To go on: apikley demo -o {folder} --films placeholder" in output
    mine.rename(tmp_path / "tea.mp4")
    assert run_demo(run, folder)[0] == 0
    assert films_in(folder) == KEYS


def test_a_removed_film_is_reported(run: Run, tmp_path: Path) -> None:
    """A finished batch makes nothing again, but reports what is gone."""
    folder = tmp_path / "films"
    run_demo(run, folder)
    (folder / "tea.mp4").unlink()

    code, output = run_demo(run, folder)

    assert code == 1
    assert "tea.mp4 is gone" in output
    assert ": begun" not in output


async def planned_journal(path: Path) -> Journal:
    """A journal in which every film is planned_journal and none is sent."""
    key = "simulated-0"
    path.with_suffix(".key").write_text(key)
    client = Client(key, base_url="http://127.0.0.1:1")
    async with client, Batch.open(path) as batch:
        await batch.add_films(sorted(STORYBOARDS.glob("*.json")))
        await batch.check_account(client)
    return await Journal.open(path)


async def write_killed_run(path: Path) -> None:
    """A killed run: a film ready and not films_in, others being made, one planned_journal."""
    clip = {"urls": ["http://127.0.0.1:1/results/1-1.mp4?sign=a"], "content": {}}
    journal = await planned_journal(path)
    try:
        for number, key in enumerate(KEYS[:5]):
            token, task_id = f"{number:032x}", f"task_{key}"
            await journal.intend(key, token, "0" * 64, None)
            attempt = Attempt(token, Verdict.ACCEPTED, task_id=task_id, ended_at=1.0)
            await journal.settle(key, attempt, Transition(ItemEvent.ACCEPT, task_id=task_id))
        await journal.apply("kitten", Transition(ItemEvent.SUCCEED, result=json.dumps(clip)))
        await journal.apply("lighthouse", Transition(ItemEvent.STALL, cause="the time was up"))
    finally:
        await journal.aclose()


async def write_run_killed_while_submitting(path: Path) -> None:
    """A run that was killed while a submission was under way."""
    journal = await planned_journal(path)
    try:
        await journal.intend("tea", "0" * 32, "0" * 64, None)
    finally:
        await journal.aclose()


def test_it_resumes_from_any_state(run: Run, tmp_path: Path) -> None:
    """A film that was ready is films_in through a new link; what was paid is not paid again."""
    folder = tmp_path / "films"
    folder.mkdir()
    asyncio.run(write_killed_run(folder / "demo.db"))

    code, output = run_demo(run, folder)

    assert code == 0, output
    assert films_in(folder) == KEYS
    assert output.count(": begun") == 1
    assert "1 film planned" in output

    async def tasks() -> dict[str, str | None]:
        async with Batch.open(folder / "demo.db", read_only=True) as batch:
            assert (await batch.status()).counts == {ItemState.DONE: 6}
            return {item.key: item.task_id async for item in batch.items()}

    bought = asyncio.run(tasks())
    assert [bought[key] for key in KEYS[:5]] == [f"task_{key}" for key in KEYS[:5]]


def test_a_submission_cut_off_by_a_crash_needs_a_decision(run: Run, tmp_path: Path) -> None:
    """It is not repeated until the user says so. (A1)"""
    folder = tmp_path / "films"
    folder.mkdir()
    asyncio.run(write_run_killed_while_submitting(folder / "demo.db"))

    code, output = run_demo(run, folder)

    assert code == 3
    assert f"apikley batch resubmit {folder}/demo.db tea" in output
    assert run("batch", "resubmit", folder / "demo.db", "tea", "--yes").code == 0
    assert run_demo(run, folder)[0] == 0
    assert films_in(folder) == KEYS


def test_a_demo_that_cannot_render_says_what_to_do(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Install the extra, or take the placeholder."""
    monkeypatch.setattr(simulated_service, "rendering_available", lambda: False)

    result = run("demo", "-o", tmp_path / "films")

    assert result.code == 2
    assert 'pip install ".[cli,simulator]"' in result.err
    assert "--films placeholder" in result.err
    assert not (tmp_path / "films").exists()

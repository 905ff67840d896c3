"""`apikley demo`: a batch that can be stopped anywhere, and that is made only once."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from cli.conftest import Run

from apikley_async import Attempt, Client, Verdict
from apikley_async.batch import Batch, Event, Journal, State, Step
from apikley_async.cli import simulated_service
from apikley_async.cli.commands.demo import STORYBOARDS

KEYS = ["kitten", "lighthouse", "night-train", "olive-grove", "paper-boat", "tea"]

pytestmark = pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning")


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulated_service, "DEMO_SPEED", 300.0)


def demo(run: Run, folder: Path) -> tuple[int, str]:
    told = run("demo", "-o", folder, "--films", "placeholder")
    return told.code, told.err


def saved(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.mp4"))


def test_the_demo_is_made_once(run: Run, tmp_path: Path) -> None:
    """Six films with names one can read; run again, it submits nothing and says so. (A21)"""
    folder = tmp_path / "films"

    first, told = demo(run, folder)
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.mp4")}
    again, told_again = demo(run, folder)

    assert (first, again) == (0, 0)
    assert saved(folder) == KEYS
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*.mp4")} == before
    assert told.count("submitted as") == 6
    assert "submitted as" not in told_again
    assert "nothing was submitted" in told_again
    assert str(folder) in told


def test_other_files_are_left_as_they_are(run: Run, tmp_path: Path) -> None:
    """A name that is taken is nobody's film; move the file, and the demo goes on. (D15)"""
    folder = tmp_path / "films"
    folder.mkdir()
    mine = folder / "tea.mp4"
    mine.write_bytes(b"mine")

    code, told = demo(run, folder)

    assert code == 4
    assert mine.read_bytes() == b"mine"
    assert "tea.mp4 exists already; nothing was paid" in told
    assert f"To go on: apikley demo -o {folder} --films placeholder" in told
    mine.rename(tmp_path / "tea.mp4")
    assert demo(run, folder)[0] == 0
    assert saved(folder) == KEYS


def test_a_film_that_was_removed_is_missed(run: Run, tmp_path: Path) -> None:
    """A finished batch makes nothing anew, but it says what is gone."""
    folder = tmp_path / "films"
    demo(run, folder)
    (folder / "tea.mp4").unlink()

    code, told = demo(run, folder)

    assert code == 1
    assert "tea.mp4 is gone" in told
    assert "submitted as" not in told


async def planned(path: Path) -> Journal:
    """A journal with everything planned, and nothing done."""
    key = "simulated-0"
    path.with_suffix(".key").write_text(key)
    client = Client(key, base_url="http://127.0.0.1:1")
    async with client, Batch.open(path) as batch:
        await batch.add_films(sorted(STORYBOARDS.glob("*.json")))
        await batch.belong_to(client)
    return await Journal.open(path)


async def left_midway(path: Path) -> None:
    """A run that was killed: a film ready and not saved, others in the making, one planned."""
    clip = {"urls": ["http://127.0.0.1:1/results/1-1.mp4?sign=a"], "content": {}}
    journal = await planned(path)
    try:
        for number, key in enumerate(KEYS[:5]):
            token, task_id = f"{number:032x}", f"task_{key}"
            await journal.intend(key, token, "0" * 64, None)
            attempt = Attempt(token, Verdict.ACCEPTED, task_id=task_id, ended_at=1.0)
            await journal.settle(key, attempt, Step(Event.ACCEPT, task_id=task_id))
        await journal.step("kitten", Step(Event.SUCCEED, result=json.dumps(clip)))
        await journal.step("lighthouse", Step(Event.STALL, cause="the time was up"))
    finally:
        await journal.aclose()


async def left_sending(path: Path) -> None:
    """A run that was killed while a submission was out."""
    journal = await planned(path)
    try:
        await journal.intend("tea", "0" * 32, "0" * 64, None)
    finally:
        await journal.aclose()


def test_it_goes_on_from_wherever_it_was_left(run: Run, tmp_path: Path) -> None:
    """A film that was ready is saved through a new link; what was bought is not bought again."""
    folder = tmp_path / "films"
    folder.mkdir()
    asyncio.run(left_midway(folder / "demo.db"))

    code, told = demo(run, folder)

    assert code == 0, told
    assert saved(folder) == KEYS
    assert told.count("submitted as") == 1
    assert "1 film planned" in told

    async def tasks() -> dict[str, str | None]:
        async with Batch.open(folder / "demo.db", read_only=True) as batch:
            assert (await batch.status()).counts == {State.DONE: 6}
            return {item.key: item.task_id async for item in batch.items()}

    bought = asyncio.run(tasks())
    assert [bought[key] for key in KEYS[:5]] == [f"task_{key}" for key in KEYS[:5]]


def test_what_was_out_needs_a_decision(run: Run, tmp_path: Path) -> None:
    """A submission that a crash has cut off is not repeated until somebody says so. (A1)"""
    folder = tmp_path / "films"
    folder.mkdir()
    asyncio.run(left_sending(folder / "demo.db"))

    code, told = demo(run, folder)

    assert code == 3
    assert f"apikley batch resubmit -- {folder}/demo.db tea" in told
    assert run("batch", "resubmit", folder / "demo.db", "tea").code == 0
    assert demo(run, folder)[0] == 0
    assert saved(folder) == KEYS


def test_a_demo_that_cannot_draw_says_what_to_do(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It installs, or is content with a placeholder, but never in silence."""
    monkeypatch.setattr(simulated_service, "rendering_available", lambda: False)

    told = run("demo", "-o", tmp_path / "films")

    assert told.code == 2
    assert 'pip install ".[cli,simulator]"' in told.err
    assert "--films placeholder" in told.err
    assert not (tmp_path / "films").exists()

"""Paid films whose files are lost, and prompts that are to be removed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cli.conftest import Run, write_manifest

from apikley_async import Client
from apikley_async.batch import Batch
from apikley_async.simulator import Fault, Simulator

pytestmark = pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning")


def test_save_downloads_lost_files_again(service: Simulator, run: Run) -> None:
    """Without paying; a file that was changed is left alone unless its film is named. (D17)"""
    run("batch", "run", write_manifest("tea", "sea"), "--yes", "-o", "out")
    film = Path("out/tea.mp4").read_bytes()
    Path("out/tea.mp4").unlink()
    Path("out/sea.mp4").write_bytes(b"mine")

    result = run("batch", "save", "campaign.db")
    named = run("batch", "save", "campaign.db", "sea")
    replaced = run("batch", "save", "campaign.db", "sea", "--overwrite")

    assert (result.code, named.code, replaced.code) == (0, 4, 0)
    assert "1 film fetched" in result.err
    assert Path("out/tea.mp4").read_bytes() == film
    assert "another file" in named.err
    assert Path("out/sea.mp4").stat().st_size > 4
    assert run("batch", "verify", "campaign.db").code == 0
    assert run("batch", "save", "campaign.db", "nobody").code == 2
    assert len(service.ledger.paid) == 2


def test_purge_removes_prompts_and_keeps_films(service: Simulator, run: Run) -> None:
    """No prompt is left in the journal's files; nothing is paid again. (A21)"""
    path = write_manifest("tea", "sea")
    service.script("create", [Fault.OK, Fault.code(402)])
    run("batch", "run", path, "--yes", "--max-running", "1")
    assert b"tea at dawn" in Path("campaign.db").read_bytes()

    result = run("batch", "purge", path)
    refused = run("batch", "purge", path, "sea")

    assert (result.code, refused.code) == (0, 2)
    left = b"".join(file.read_bytes() for file in Path().glob("campaign.db*"))
    assert b"tea at dawn" not in left
    assert b"sea at dawn" in left
    again = run("batch", "run", path, "--yes")
    assert again.code == 0
    assert "2 known" in again.err
    assert len(service.ledger.paid) == 2
    assert run("batch", "verify", path).code == 0


def test_a_folder_of_films_may_be_moved(service: Simulator, run: Run) -> None:
    """A run that names the new folder finds every film there, and downloads none. (D17)"""
    path = write_manifest("tea", "sea")
    run("batch", "run", path, "--yes", "-o", "old")
    Path("old").rename("new")

    lost = run("batch", "run", path, "-o", "other")
    result = run("batch", "run", path, "-o", "new")
    saved = run("batch", "save", path)

    assert lost.code == 1
    assert "is gone" in lost.err
    assert result.code == 0
    assert "is gone" not in result.err
    assert "0 films fetched" in saved.err
    assert run("batch", "verify", path).code == 0
    Path("new/sea.mp4").write_bytes(b"x" * Path("new/sea.mp4").stat().st_size)
    assert "sea" in run("batch", "verify", path).out


def test_the_next_run_uses_the_same_folder(
    service: Simulator, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it is started; but a folder outside the journal's must be named again."""
    service.script("create", [Fault.OK, Fault.code(402)])
    run("batch", "run", write_manifest("tea", "sea"), "--yes", "-o", "out")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    result = run("batch", "run", "../campaign.db", "--yes")
    outside = tmp_path.with_name(f"{tmp_path.name} outside")
    named = run("batch", "run", "../campaign.db", "--yes", "-o", outside)
    foreign = run("batch", "run", "../campaign.db", "--yes")

    assert (result.code, named.code, foreign.code) == (0, 0, 2)
    assert sorted(film.name for film in Path("../out").glob("*.mp4")) == ["sea.mp4", "tea.mp4"]
    assert "outside of the journal's folder: name a folder with -o" in foreign.err
    assert not Path("films").exists()


class Bucket:
    """A destination of a program; commands know nothing of it."""

    async def put(self, name: str, chunks: AsyncIterator[bytes], **facts: Any) -> str:
        async for _ in chunks:
            pass
        return f"s3://films/{name}"

    async def exists(self, name: str) -> bool:
        return False


def test_commands_say_what_they_know_of_films_in_a_destination(
    service: Simulator, run: Run
) -> None:
    path = write_manifest("tea", "sea")

    async def make() -> None:
        async with (
            Client(service.api_key, base_url=service.base_url) as client,
            Batch.open("campaign.db") as batch,
        ):
            await batch.add(path)
            _ = [item async for item in batch.run(client, destination=Bucket())]

    asyncio.run(make())
    status = run("batch", "status", path, "tea")
    events = run("batch", "status", path, "tea", "--json")
    verified = run("batch", "verify", path)
    saved = run("batch", "save", path)
    named = run("batch", "save", path, "tea")
    fetched = run("batch", "save", path, "tea", "-o", "out")
    reported = run("batch", "report", path)

    assert "  in a destination: s3://films/tea.mp4\n" in status.out
    assert events.event("film")["stored"] == ["s3://films/tea.mp4"]
    assert verified.code == 0
    assert "2 films in a destination: only the program that has it can look there" in verified.err
    assert "2 films in a destination" in saved.err
    assert (named.code, "name one (-o)" in named.err) == (2, True)
    assert fetched.code == 0
    assert Path("out/tea.mp4").exists()
    assert reported.code == 0

"""Names of films on the disk: two items never want one, and no paid film is replaced by another."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from batch.conformance_base import attempt
from batch.helpers import (
    board,
    films,
    make_client,
    open_batch,
    run_batch,
    simulated_service,
    states,
)

from apikley_async import Verdict
from apikley_async.batch import (
    Batch,
    Item,
    ItemEvent,
    ItemState,
    Journal,
    StoredFile,
    Transition,
    check_manifest,
)
from apikley_async.batch.film_names import FilmNames
from apikley_async.errors import ManifestConflictError, ManifestError
from apikley_async.simulator import Constant, Simulator, Terms
from apikley_async.testing import LoopClock

pytestmark = pytest.mark.virtual

KEY = "a-key-that-opens-nothing"
QUICK = Terms(duration=Constant(5))
TWO = Terms(duration=Constant(5), results=2)


async def made(
    folder: Path, terms: Terms, *keys: str, scene: str = "", overwrite: bool = False
) -> dict[str, ItemState]:
    """Make films of these keys; every life has a service of its own, and all know one API key."""
    life = sum(1 for _ in folder.iterdir())
    service = Simulator(terms, api_key=KEY, clock=LoopClock(), rng=random.Random(life))
    async with (
        service as simulator,
        make_client(simulator, seed=life) as client,
        open_batch(folder / "b.db") as batch,
    ):
        await batch.add([(key, board(scene or key)) for key in keys])
        await run_batch(batch, client, folder=folder, overwrite=overwrite)
        assert await batch.verify() == []
        return await states(batch)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.mp4")}


async def test_no_other_film_takes_the_names_of_a_film_of_two_files(tmp_path: Path) -> None:
    """`a` has a-1.mp4 and a-2.mp4; then `a-1` is made, even with overwrite. (A21, D15)"""
    await made(tmp_path, TWO, "a")
    before = contents(tmp_path)
    assert before.keys() == {"a-1.mp4", "a-2.mp4"}

    assert set((await made(tmp_path, QUICK, "a-1", overwrite=True)).values()) == {ItemState.DONE}

    after = contents(tmp_path)
    assert after.keys() == before.keys() | {"a-1 (film).mp4"}
    assert before.items() <= after.items()


async def test_a_film_of_two_files_takes_no_other_film_s_name(tmp_path: Path) -> None:
    """`a-1` is there, made or planned, when `a` turns out to have two files."""
    await made(tmp_path, QUICK, "a-1")
    before = contents(tmp_path)

    assert set((await made(tmp_path, TWO, "a", overwrite=True)).values()) == {ItemState.DONE}

    after = contents(tmp_path)
    assert after.keys() == {"a-1.mp4", "a (film)-1.mp4", "a (film)-2.mp4"}
    assert before.items() <= after.items()


async def test_another_films_file_is_no_strangers(tmp_path: Path) -> None:
    """kitten.json after kitten-1.json: both are made."""
    await made(tmp_path, QUICK, "kitten-1")

    ends = await made(tmp_path, QUICK, "kitten")

    assert set(ends.values()) == {ItemState.DONE}
    assert contents(tmp_path).keys() == {"kitten-1.mp4", "kitten.mp4"}


async def test_a_name_that_the_disk_cannot_take_stops_only_that_film(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On eCryptfs one has 143 bytes at most; that film is not paid. (D16)"""
    monkeypatch.setattr(os, "pathconf", lambda _path, _name: 143)
    long = "\u0436" * 70
    async with (
        simulated_service(QUICK) as simulator,
        make_client(simulator) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        await batch.add([(key, board(key)) for key in (long, "k1")])
        received = {item.key: item for item in await run_batch(batch, client, folder=tmp_path)}

        assert received["k1"].state is ItemState.DONE
        assert received[long].state is ItemState.PLANNED
        assert "146 bytes, and the disk takes 143" in received[long].cause
        assert len(simulator.ledger.paid) == 1


def test_check_reports_a_name_that_the_disk_cannot_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is planned, with its place."""
    path = tmp_path / "films.csv"
    key = "\u0436" * 70
    path.write_text(f"key,scene,duration,film_duration\n{key},A cat.,5,10\n", encoding="utf-8")
    assert check_manifest(path) == []

    monkeypatch.setattr(os, "pathconf", lambda _path, _name: 143)

    [fault] = check_manifest(path)
    assert fault.startswith("films.csv, line 2: key: ")


async def test_a_film_of_other_bytes_is_not_the_film(tmp_path: Path) -> None:
    """As many bytes, all of them x: `verify` says so."""
    await made(tmp_path, QUICK, "a")
    film = tmp_path / "a.mp4"
    film.write_bytes(b"x" * film.stat().st_size)

    async with open_batch(tmp_path / "b.db") as batch:
        [fault] = await batch.verify()

    assert "a.mp4 has changed" in fault


# --- a new key ------------------------------------------------------------------------------------


async def test_a_renamed_film_is_not_paid_again(tmp_path: Path) -> None:
    """Its attempts and files stay with it, and its manifest knows it under the new key. (A21)"""
    async with (
        simulated_service(QUICK) as simulator,
        make_client(simulator) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        await batch.add(films(1))
        [done] = await run_batch(batch, client, folder=tmp_path)
        renamed = [("new", board("k0"))]
        with pytest.raises(ManifestConflictError, match="paid twice"):
            await batch.add(renamed)

        item = await batch.rename("k0", "new")

        assert (item.key, item.task_id, item.files) == ("new", done.task_id, done.files)
        assert item.attempts == 1
        assert (await batch.add(renamed)).known == 1
        await run_batch(batch, client, folder=tmp_path)
        assert await batch.verify() == []
        assert len(simulator.ledger.paid) == 1


async def test_a_new_film_of_the_old_key_leaves_the_file_alone(tmp_path: Path) -> None:
    """The renamed film's file keeps its name; with overwrite too."""
    await made(tmp_path, QUICK, "a")
    before = contents(tmp_path)
    async with open_batch(tmp_path / "b.db") as batch:
        await batch.rename("a", "b")

    await made(tmp_path, QUICK, "a", scene="another", overwrite=True)

    after = contents(tmp_path)
    assert after.keys() == {"a.mp4", "a (film).mp4"}
    assert before.items() <= after.items()


async def test_a_key_that_is_taken_is_given_to_nobody_else(tmp_path: Path) -> None:
    """Nor one of the same file, nor one that is no key; nothing has changed."""
    async with open_batch(tmp_path / "b.db") as batch:
        await batch.add([(key, board(key)) for key in ("a", "b")])
        for new in ("b", "B", "../a", "", "nul"):
            with pytest.raises(ManifestError):
                await batch.rename("a", new)
        with pytest.raises(KeyError):
            await batch.rename("c", "d")

        assert [*await states(batch)] == ["a", "b"]
        assert (await batch.rename("a", "A")).key == "A"
        assert await batch.verify() == []


class CountingJournal(Journal):
    """Counts the reads of its items."""

    reads = 0

    async def items(self, *args: Any, **kwargs: Any) -> Sequence[Item]:
        self.reads += 1
        await asyncio.sleep(0.1)
        return await super().items(*args, **kwargs)


async def test_films_that_ask_at_once_read_the_journal_once(tmp_path: Path) -> None:
    """Whoever reads may be cancelled: then the next one reads."""
    journal = await CountingJournal.open(tmp_path / "a.db", clock=LoopClock())
    async with contextlib.aclosing(journal):
        names = FilmNames(journal, tmp_path)
        first = asyncio.ensure_future(names.stem("kitten-0", 1))
        await asyncio.sleep(0.05)
        first.cancel()
        keys = [f"kitten-{number}" for number in range(50)]

        assert await asyncio.gather(*(names.stem(key, 1) for key in keys)) == keys
        assert journal.reads == 2


async def test_films_that_others_add_and_save_meanwhile_keep_their_names(tmp_path: Path) -> None:
    """A run without an end names films for days, and other processes add theirs."""
    journal = await Journal.open(tmp_path / "b.db", clock=LoopClock(), shared=True)
    async with contextlib.aclosing(journal):
        batch = Batch(journal, clock=LoopClock())
        await batch.add([("other-1", board("other"))])
        here, there = FilmNames(journal, None), FilmNames(journal, None)
        assert [await names.stem("other-1", 1) for names in (here, there)] == ["other-1"] * 2

        await batch.add([("kitten", board("kitten")), ("dog", board("dog"))])
        assert await here.stem("kitten", 2) == "kitten"
        await saved_elsewhere(journal, "kitten", "kitten-1.mp4", "kitten-2.mp4")
        await batch.add([(key, board(key)) for key in ("kitten-1", "dog-1")])

        assert await there.stem("kitten-1", 1) == "kitten-1 (film)"
        assert await here.stem("dog", 2) == "dog (film)"


async def saved_elsewhere(journal: Journal, key: str, *names: str) -> None:
    """Another run makes the film, and puts its files into the destination."""
    await journal.claim("another run", 1, keys={key})
    await journal.intend(key, "t" * 32, "print", None, owner="another run")
    await journal.settle(
        key,
        attempt("t" * 32, Verdict.ACCEPTED, "task_1"),
        Transition(ItemEvent.ACCEPT, task_id="task_1"),
    )
    await journal.apply(key, Transition(ItemEvent.SUCCEED, result='{"urls": []}'))
    stored = tuple(StoredFile(name, 5, "00ff" * 16, f"s3://films/{name}") for name in names)
    await journal.apply(key, Transition(ItemEvent.SAVE, stored=stored))

"""The promises, held against what really happened: ledger, journal and files.

`faults_at_the_end` is asked when all is over; `Watched` tells of requests as they arrive.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import attrs

from apikley_async.batch import ItemState
from apikley_async.batch.store.schema import faults_of
from apikley_async.simulator import Simulator
from apikley_async.simulator.service.file_store import changed_bytes, with_label_box

__all__ = [
    "RESTING",
    "Books",
    "Watched",
    "faults_at_the_end",
    "scene_of",
    "small_film",
    "unheard_answers",
]

RESTING = {
    ItemState.DONE,
    ItemState.FAILED,
    ItemState.REJECTED,
    ItemState.UNCERTAIN,
    ItemState.EXPIRED,
    ItemState.DROPPED,
}


def small_film() -> bytes:
    """A film of some hundred bytes, no two places alike: a splice or a shift shows."""

    def box(kind: bytes, content: bytes) -> bytes:
        return (8 + len(content)).to_bytes(4, "big") + kind + content

    pictures = bytes((place * 37 + place // 251) % 256 for place in range(600))
    return box(b"ftyp", b"isom\0\0\0\0isom") + box(b"moov", bytes(40)) + box(b"mdat", pictures)


def scene_of(body: Any) -> str:
    """Which item a request was made for."""
    told: str = body["input"]["shots"][0]["Scene"]
    return told.removeprefix("The scene of ").removesuffix(".")


class Watched(list[Any]):
    """A list of the ledger; somebody is told of what is added, when it is added."""

    def __init__(self, told: Any) -> None:
        super().__init__()
        self._told = told

    def append(self, entry: Any) -> None:
        super().append(entry)
        self._told(entry)


@attrs.frozen
class Books:
    """Everything that is written down somewhere when a run is over."""

    items: dict[str, dict[str, Any]]
    attempts: dict[str, dict[str, Any]]
    faults: list[str]
    folder: Path
    simulator: Simulator

    @classmethod
    def opened(cls, place: Path, simulator: Simulator) -> Books:
        """Read the journal in *place*."""
        db = sqlite3.connect(place / "batch.db")
        db.row_factory = sqlite3.Row
        try:
            items = {row["key"]: dict(row) for row in db.execute("SELECT * FROM item")}
            attempts = {row["token"]: dict(row) for row in db.execute("SELECT * FROM attempt")}
            return cls(items, attempts, faults_of(db), place, simulator)
        finally:
            db.close()

    @property
    def states(self) -> dict[str, ItemState]:
        return {key: ItemState(item["state"]) for key, item in self.items.items()}

    def film_of(self, key: str) -> bytes | None:
        """The bytes that stand under an item's name."""
        file = self.folder / "films" / f"{key}.mp4"
        return file.read_bytes() if file.exists() else None

    def is_whole(self, key: str) -> bool:
        """Whether the file of *key* is its own film, in one of the versions there were."""
        data, task_id = self.film_of(key), self.items[key]["task_id"]
        film = with_label_box(small_film(), f"{task_id} 1")
        versions = range(self.happened("changed") + 1)
        if data is not None and self.happened("odd tail"):
            data = data.removesuffix(b"\r\n")
        return any(data == changed_bytes(film, version) for version in versions)

    def happened(self, fault: str) -> int:
        """How often a fault was inflicted."""
        return sum(entry.fault == fault for entry in self.simulator.ledger.faults)


def faults_at_the_end(books: Books, *, limit: int, per: float, key: str) -> Iterator[str]:
    """Name every promise that was broken."""
    ledger = books.simulator.ledger
    yield from (f"I12: {fault}" for fault in books.faults)
    yield from _of_money(books)
    yield from _of_files(books)
    yield from _of_ends(books)
    yield from _of_callbacks(books)
    if ledger.leaks:
        yield "I8: a file host was sent the key"
    if ledger.busiest_window(per) > limit:
        yield f"I7: {ledger.busiest_window(per)} creations in {per:g} s"
    for file in books.folder.rglob("*"):
        if file.is_file() and key.encode() in file.read_bytes():
            yield f"I8: the key is in {file.name}"


def _of_money(books: Books) -> Iterator[str]:
    ledger, states = books.simulator.ledger, books.states
    paid: dict[str, list[Any]] = {}
    for charge in ledger.paid:
        paid.setdefault(scene_of(charge.body), []).append(charge)
    for key, charges in paid.items():
        if len(charges) > 1:
            yield f"I1: {key} was paid {len(charges)} times"
        for charge in charges:
            bound = books.items[key]["task_id"] == charge.task_id
            if not bound and states[key] is not ItemState.UNCERTAIN:
                yield f"I2: {charge.task_id} of {key} is lost, {states[key].value}"
    for creation in ledger.creations:
        token = str(creation.callback_url).rpartition("/")[2][:32]
        if token not in books.attempts:
            yield f"I5: attempt {token[:8]} was sent and is not in the journal"
    tasks = {charge.task_id for charge in ledger.paid}
    for key, item in books.items.items():
        if item["task_id"] and item["task_id"] not in tasks:
            yield f"I2: {key} is bound to a task that nobody paid"


def unheard_answers(books: Books) -> Iterator[str]:
    """Name what was paid and answered without a fault, and is not bound.

    Only where no machine has died, nobody has cancelled, and no connection was broken: however
    late the program reads it, an answer that has arrived is read.
    """
    for creation in books.simulator.ledger.creations:
        if creation.outcome == "created" and creation.fault == "ok":
            key = scene_of(creation.body)
            if books.items[key]["task_id"] != creation.task_id:
                yield f"I2: the answer for {creation.task_id} of {key} was there and not read"


def _of_files(books: Books) -> Iterator[str]:
    folder = books.folder / "films"
    there = {path.name for path in folder.glob("*.mp4")} if folder.exists() else set()
    for key, state in books.states.items():
        name = f"{key}.mp4"
        if state is ItemState.DONE and name not in there:
            yield f"I3: {name} is done and not there"
        if name in there and not books.is_whole(key):
            yield f"I11: {name} has other bytes than its film"
    if strangers := there - {f"{key}.mp4" for key in books.items}:
        yield f"I11: nobody knows {sorted(strangers)}"


def _of_ends(books: Books) -> Iterator[str]:
    service = books.simulator.service
    for key, state in books.states.items():
        item = books.items[key]
        if state is ItemState.EXPIRED:
            yield f"I3: {key} was given up, though its film is there"
        if state is ItemState.FAILED and books.happened("fail for now") < 2:
            task = service.task(item["task_id"]) if item["task_id"] else None
            if task is None or task.failure is None:
                yield f"I3: {key} is failed, though its film is well"
        if state not in RESTING and not refused_on_purpose(books, key):
            yield f"I4: {key} is left {state.value}: {item['cause']}"


def _of_callbacks(books: Books) -> Iterator[str]:
    """A callback that was taken says what became of its attempt: no item stays uncertain then."""
    for call in books.simulator.ledger.callbacks:
        attempt = books.attempts.get(call.url.rpartition("/")[2][:32])
        if attempt is None or call.status != 200 or call.body_task_id != call.task_id:
            continue
        if books.items[attempt["key"]]["task_id"] is None:
            yield f"I2: {call.task_id} of {attempt['key']} was called out, heard and not bound"


def refused_on_purpose(books: Books, key: str) -> bool:
    """Whether an item stays in SUCCESS because another version than ours is offered now.

    A crash between naming the file and writing that down, then an exchanged film: what is there
    is whole and its own, and is not replaced by something that is different.
    """
    changed = books.happened("changed")
    return books.states[key] is ItemState.SUCCESS and bool(changed) and books.is_whole(key)


def journalled(place: Path, question: str, *values: Any) -> bool:
    """Whether the journal in *place* has such a row, for somebody who reads it from outside."""
    db = sqlite3.connect(place / "batch.db")
    try:
        return db.execute(question, values).fetchone() is not None
    finally:
        db.close()


def of_lives(states: Iterable[str]) -> bool:
    """Whether every item has come to rest."""
    return set(states) <= {state.value for state in RESTING}

"""Compares the promises with what really happened: ledger, journal and files.

`broken_promises` is called at the end of a run; `NotifyingList` reports requests as they arrive.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import attrs

from apikley_async.batch import ItemState
from apikley_async.batch.store.schema import file_faults, inconsistencies
from apikley_async.simulator import Simulator
from apikley_async.simulator.service.file_store import changed_bytes, with_label_box

__all__ = [
    "FINAL",
    "Evidence",
    "NotifyingList",
    "broken_promises",
    "scene_of",
    "small_film",
    "unread_responses",
]

FINAL = {
    ItemState.DONE,
    ItemState.FAILED,
    ItemState.REJECTED,
    ItemState.UNCERTAIN,
    ItemState.EXPIRED,
    ItemState.DROPPED,
}


def small_film() -> bytes:
    """A film of some hundred bytes without a repetition: a splice or a shift shows."""

    def box(kind: bytes, content: bytes) -> bytes:
        return (8 + len(content)).to_bytes(4, "big") + kind + content

    pictures = bytes((place * 37 + place // 251) % 256 for place in range(600))
    return box(b"ftyp", b"isom\0\0\0\0isom") + box(b"moov", bytes(40)) + box(b"mdat", pictures)


def scene_of(body: Any) -> str:
    """The key of the item that a request was made for."""
    scene: str = body["input"]["shots"][0]["Scene"]
    return scene.removeprefix("The scene of ").removesuffix(".")


class NotifyingList(list[Any]):
    """A list that calls *notify* with each entry when it is added."""

    def __init__(self, notify: Any) -> None:
        super().__init__()
        self._notify = notify

    def append(self, entry: Any) -> None:
        super().append(entry)
        self._notify(entry)


@attrs.frozen
class Evidence:
    """Journal, ledger and files at the end of a run."""

    items: dict[str, dict[str, Any]]
    attempts: dict[str, dict[str, Any]]
    faults: list[str]
    folder: Path
    simulator: Simulator

    @classmethod
    def opened(cls, place: Path, simulator: Simulator) -> Evidence:
        """Read the journal in *place*."""
        db = sqlite3.connect(place / "batch.db")
        db.row_factory = sqlite3.Row
        try:
            items = {row["key"]: dict(row) for row in db.execute("SELECT * FROM item")}
            attempts = {row["token"]: dict(row) for row in db.execute("SELECT * FROM attempt")}
            return cls(items, attempts, [*file_faults(db), *inconsistencies(db)], place, simulator)
        finally:
            db.close()

    @property
    def states(self) -> dict[str, ItemState]:
        return {key: ItemState(item["state"]) for key, item in self.items.items()}

    def film_of(self, key: str) -> bytes | None:
        """The bytes of the file with an item's name."""
        file = self.folder / "films" / f"{key}.mp4"
        return file.read_bytes() if file.exists() else None

    def is_whole(self, key: str) -> bool:
        """Whether the file of *key* is its own film, in one of its versions."""
        data, task_id = self.film_of(key), self.items[key]["task_id"]
        film = with_label_box(small_film(), f"{task_id} 1")
        versions = range(self.times_struck("changed") + 1)
        if data is not None and self.times_struck("odd tail"):
            data = data.removesuffix(b"\r\n")
        return any(data == changed_bytes(film, version) for version in versions)

    def times_struck(self, fault: str) -> int:
        """How often a fault struck."""
        return sum(entry.fault == fault for entry in self.simulator.ledger.faults)


def broken_promises(evidence: Evidence, *, limit: int, per: float, key: str) -> Iterator[str]:
    """Name every promise that was broken."""
    ledger = evidence.simulator.ledger
    yield from (f"I12: {fault}" for fault in evidence.faults)
    yield from _of_money(evidence)
    yield from _of_files(evidence)
    yield from _of_ends(evidence)
    yield from _of_callbacks(evidence)
    if ledger.leaks:
        yield "I8: a file host was sent the key"
    if ledger.busiest_window(per) > limit:
        yield f"I7: {ledger.busiest_window(per)} creations in {per:g} s"
    for file in evidence.folder.rglob("*"):
        if file.is_file() and key.encode() in file.read_bytes():
            yield f"I8: the key is in {file.name}"


def _of_money(evidence: Evidence) -> Iterator[str]:
    ledger, states = evidence.simulator.ledger, evidence.states
    paid: dict[str, list[Any]] = {}
    for charge in ledger.paid:
        paid.setdefault(scene_of(charge.body), []).append(charge)
    for key, charges in paid.items():
        if len(charges) > 1:
            yield f"I1: {key} was paid {len(charges)} times"
        for charge in charges:
            bound = evidence.items[key]["task_id"] == charge.task_id
            if not bound and states[key] is not ItemState.UNCERTAIN:
                yield f"I2: {charge.task_id} of {key} is lost, {states[key].value}"
    for creation in ledger.creations:
        token = str(creation.callback_url).rpartition("/")[2][:32]
        if token not in evidence.attempts:
            yield f"I5: attempt {token[:8]} was sent and is not in the journal"
    tasks = {charge.task_id for charge in ledger.paid}
    for key, item in evidence.items.items():
        if item["task_id"] and item["task_id"] not in tasks:
            yield f"I2: {key} is bound to a task that was never paid"


def unread_responses(evidence: Evidence) -> Iterator[str]:
    """Name what was paid and answered without a fault, and is not bound.

    Only for runs without kills, cancels and broken connections: there a response that has arrived
    is read, however late.
    """
    for creation in evidence.simulator.ledger.creations:
        if creation.outcome == "created" and creation.fault == "ok":
            key = scene_of(creation.body)
            if evidence.items[key]["task_id"] != creation.task_id:
                yield f"I2: the answer for {creation.task_id} of {key} had arrived and was not read"


def _of_files(evidence: Evidence) -> Iterator[str]:
    folder = evidence.folder / "films"
    there = {path.name for path in folder.glob("*.mp4")} if folder.exists() else set()
    for key, state in evidence.states.items():
        name = f"{key}.mp4"
        if state is ItemState.DONE and name not in there:
            yield f"I3: {name} is done and not there"
        if name in there and not evidence.is_whole(key):
            yield f"I11: {name} has other bytes than its film"
    if unknown := there - {f"{key}.mp4" for key in evidence.items}:
        yield f"I11: unknown files {sorted(unknown)}"


def _of_ends(evidence: Evidence) -> Iterator[str]:
    service = evidence.simulator.service
    for key, state in evidence.states.items():
        item = evidence.items[key]
        if state is ItemState.EXPIRED:
            yield f"I3: {key} was given up, though its film is there"
        if state is ItemState.FAILED and evidence.times_struck("fail for now") < 2:
            task = service.task(item["task_id"]) if item["task_id"] else None
            if task is None or task.failure is None:
                yield f"I3: {key} is failed, though its film is well"
        if state not in FINAL and not refused_on_purpose(evidence, key):
            yield f"I4: {key} is left {state.value}: {item['cause']}"


def _of_callbacks(evidence: Evidence) -> Iterator[str]:
    """A callback that was accepted names its task: its item must not stay uncertain."""
    for call in evidence.simulator.ledger.callbacks:
        attempt = evidence.attempts.get(call.url.rpartition("/")[2][:32])
        if attempt is None or call.status != 200 or call.body_task_id != call.task_id:
            continue
        if evidence.items[attempt["key"]]["task_id"] is None:
            yield f"I2: {call.task_id} of {attempt['key']} came by a callback and is not bound"


def refused_on_purpose(evidence: Evidence, key: str) -> bool:
    """Whether an item stays in SUCCESS because the service has another version of its film now.

    After a crash between naming the file and recording it, and a changed film: the file is whole
    and the item's own, and is not replaced by a different one.
    """
    changed = evidence.times_struck("changed")
    return evidence.states[key] is ItemState.SUCCESS and bool(changed) and evidence.is_whole(key)


def in_journal(place: Path, query: str, *values: Any) -> bool:
    """Whether the journal in *place* has such a row, read by another connection."""
    db = sqlite3.connect(place / "batch.db")
    try:
        return db.execute(query, values).fetchone() is not None
    finally:
        db.close()


def all_final(states: Iterable[str]) -> bool:
    """Whether every item is in a final state."""
    return set(states) <= {state.value for state in FINAL}

"""The values that go into a store of a batch and come out of it: films, attempts, costs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Self

import attrs

from apikley_async import SavedFile
from apikley_async._text import one_line
from apikley_async.batch.states import ItemEvent, ItemState

__all__ = [
    "AttemptCost",
    "Bounds",
    "ExpectedCallback",
    "Item",
    "LearnedValue",
    "ManifestEntry",
    "Owner",
    "PlanResult",
    "Spending",
    "StoredFile",
    "Transition",
]

LONGEST_LOCATION = 1000


@attrs.frozen
class ManifestEntry:
    """One film to be made, as a manifest names it.

    Attributes:
        key: its name in the batch, and the stem of its files.
        payload: the work as JSON.
        digest: the version and the SHA-256 of the content, "2:<hex>". Fields that equal their
            default are left out, so that a new optional field changes no digest.
        former: the digests of the same content in earlier versions. Version 1 has no prefix.
        base: the folder that a relative image belongs to.
        where: its place in the manifest, for messages ("films.yaml, line 12").
        named: whether the manifest gave the key; otherwise it was made from the content.
    """

    key: str
    payload: str = attrs.field(repr=False)
    digest: str = attrs.field(repr=False)
    base: str = ""
    where: str = ""
    named: bool = True
    former: tuple[str, ...] = attrs.field(default=(), converter=tuple[str, ...], repr=False)

    def matches(self, digest: str) -> bool:
        """Whether *digest*, of any version, is that of this content."""
        return digest == self.digest or digest in self.former


@attrs.frozen
class StoredFile:
    """A file of a film in a destination.

    Attributes:
        name: under which it was put there.
        size: in bytes.
        sha256: of its content.
        location: where it is, if the destination has said so; without a query.
    """

    name: str
    size: int
    sha256: str
    location: str | None = None

    @classmethod
    def at(cls, name: str, location: object, *, size: int, sha256: str) -> Self:
        """Describe a file by what its destination gave: no password, signature or token stays."""
        if location is None:
            return cls(name, size, sha256)
        text = one_line(location, LONGEST_LOCATION * 2).partition("?")[0].partition("#")[0]
        # Up to the last @: a user may be an address, and a password may hold one. Until nothing
        # is left to be taken away: what the journal gives is described anew, and stays the same.
        while (shorter := re.sub(r"//[^/]*@", "//", text)) != text:
            text = shorter
        return cls(name, size, sha256, text[:LONGEST_LOCATION].strip())


@attrs.frozen
class Item:
    """One film of a batch, as the journal knows it.

    Attributes:
        key: its name in the batch.
        state: where it stands.
        order: its number in the batch; items are made in this order.
        payload: the work as JSON; `work_of` gives the work.
        base: the folder that a relative image belongs to.
        digest: of its content, in the version in which it was planned; see
            `ManifestEntry.matches`.
        task_id: the paid task, once it is known.
        cause: why it is in this state, where the state does not say it.
        fail_code, fail_message: the service's words for a failure.
        credits: what the service says it consumed, or None.
        files: what was saved on a disk.
        stored: what was put into a destination.
        attempts: how often it was sent.
        result: the links of the film as JSON, once it is ready.
        success_at: when the film was ready, as far as known.
        gone: whether the manifest no longer names it.
    """

    key: str
    state: ItemState
    order: int = 0
    payload: str = attrs.field(default="", repr=False)
    base: str = attrs.field(default="", repr=False)
    digest: str = attrs.field(default="", repr=False)
    task_id: str | None = None
    cause: str = ""
    fail_code: str = ""
    fail_message: str = ""
    credits: float | None = None
    files: tuple[SavedFile, ...] = ()
    stored: tuple[StoredFile, ...] = ()
    attempts: int = 0
    result: str = attrs.field(default="", repr=False)
    success_at: datetime | None = None
    gone: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Give plain JSON values; neither the film's words nor its links are among them."""
        fields = [field.name for field in attrs.fields(Item) if field.repr]
        values = {name: getattr(self, name) for name in fields}
        return values | {
            "state": self.state.value,
            "files": [{**attrs.asdict(file), "path": str(file.path)} for file in self.files],
            "stored": [attrs.asdict(file) for file in self.stored],
            "success_at": self.success_at and self.success_at.isoformat(),
        }

    @property
    def may_change(self) -> bool:
        """Whether it may get other content: no task was ever created for it."""
        never_sent = self.state in (ItemState.PLANNED, ItemState.DROPPED) and not self.attempts
        return never_sent or self.state is ItemState.REJECTED


@attrs.frozen
class PlanResult:
    """What adding films has changed.

    Attributes:
        new: films that were added.
        known: films that were in the journal already, with the same content.
        gone: films of the same manifest that it no longer names.
        changed: films that have other content now.
        keys: the keys of all films that were named.
        remarks: what should be known before paying; see `ManifestSummary`.
    """

    new: int = 0
    known: int = 0
    gone: int = 0
    changed: int = 0
    keys: tuple[str, ...] = attrs.field(default=(), repr=False)
    remarks: tuple[str, ...] = attrs.field(default=(), repr=False)

    def __str__(self) -> str:
        counts = {"new": self.new, "changed": self.changed, "known": self.known, "gone": self.gone}
        parts = [f"{number} {word}" for word, number in counts.items()]
        return ", ".join(part for part in parts if not part.startswith("0 ")) or "nothing"


@attrs.frozen
class Transition:
    """An event of an item, and what is stored with it.

    Attributes:
        event: what happened; it decides the next state.
        cause: why, for a person.
        task_id: the paid task, where the event tells it.
        token: the uncertain attempt that the event is about; empty for all of the item.
        fail_code, fail_message: the service's words for a failure.
        credits: what the service says the film consumed.
        result: the links of the film as JSON.
        success_at: when the film was ready.
        files: what was saved on a disk.
        stored: what was put into a destination.
        by: who caused it, where that was a person or a callback.
        owner: the run that has the item from then on; empty where nothing changes about that.
    """

    event: ItemEvent
    cause: str = ""
    task_id: str | None = None
    token: str = ""
    fail_code: str = ""
    fail_message: str = ""
    credits: float | None = None
    result: str = attrs.field(default="", repr=False)
    success_at: datetime | None = None
    files: tuple[SavedFile, ...] = ()
    stored: tuple[StoredFile, ...] = ()
    by: str = ""
    owner: str = ""


@attrs.frozen
class Owner:
    """A run that has items to be made, and lives, as far as is known.

    Attributes:
        id: of the run.
        name: its process and machine.
        items: how many others could claim if it were dead.
        seen_at: when it was seen last, by the store's clock.
        lapses_in: seconds until it is believed to be dead.
    """

    id: str
    name: str
    items: int
    seen_at: float
    lapses_in: float


@attrs.frozen
class AttemptCost:
    """What an attempt costs that was accepted, or may have been.

    Attributes:
        token: of the attempt.
        key: of its item.
        uncertain: whether no task is known for it.
        reserved: credits that were set aside for it; None without a price.
        consumed: credits that the service says it consumed; None until then.
        kind: the work's `price_key`; None in a journal of an older version, and in place of an
            attempt that an adopted one has lost.
    """

    token: str
    key: str
    uncertain: bool
    reserved: float | None
    consumed: float | None
    kind: int | str | None = None


@attrs.frozen
class Bounds:
    """What all films of a store may cost together, whichever runs make them.

    Attributes:
        max_credits: credits that attempts have consumed or reserve, uncertain ones included; None
            for no bound.
        max_tasks: the same in attempts.
    """

    max_credits: float | None = None
    max_tasks: int | None = None


@attrs.frozen
class Spending:
    """What the attempts of a store cost together.

    Attributes:
        credits: that they have consumed or reserve; an attempt whose cost is not known counts at
            least as much as films of its kind have cost by now.
        tasks: how many they are.
        prices: the most that a film has cost, by `price_key`.
    """

    credits: float
    tasks: int
    prices: Mapping[int | str, float]


@attrs.frozen
class ExpectedCallback:
    """An attempt about which a callback may still come.

    Attributes:
        token: of the attempt.
        key: of its item.
        task_id: the task it became; None when that is uncertain, "" when it was given up.
        named: other tasks that were named for it, by callbacks or by a late answer.
        age: seconds since it began, by the store's clock.
        late: the task that a late answer or a rescue note named for it when it was given up: paid,
            and no item's.
    """

    token: str
    key: str
    task_id: str | None
    named: tuple[str, ...]
    age: float
    late: str | None = None


@attrs.frozen
class LearnedValue:
    """What an earlier run has learned of the service; a hint, never a fact.

    A store may come from elsewhere, so whoever reads a value validates it.

    Attributes:
        value: as it was written.
        age: seconds since then, by the store's clock.
    """

    value: str
    age: float

    def parsed(self, longest: int) -> Any:
        """Read it as JSON; None where it is none, or has more than *longest* characters."""
        if len(self.value) > longest:
            return None
        try:
            return json.loads(self.value)
        except (ValueError, RecursionError):
            return None

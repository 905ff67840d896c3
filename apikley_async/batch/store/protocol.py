"""The store of a batch: its values, and the protocol that every store implements.

Every change of an item is one transaction. It is made only if the item is still in the state that
the change begins in, and it is on the disk when the call returns. What is stored about an attempt
is found by its token, and may be stored again: a commit may have succeeded although its answer was
lost. Times are the store's own. `tests/batch/conformance.py` tests any store for all of this.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, Self

import attrs

from apikley_async import Attempt, SavedFile
from apikley_async._text import one_line
from apikley_async.batch.states import ItemEvent, ItemState

__all__ = [
    "LEASE",
    "AttemptCost",
    "Bounds",
    "ExpectedCallback",
    "Item",
    "LearnedValue",
    "ManifestEntry",
    "PlanResult",
    "Spending",
    "Store",
    "StoredFile",
    "Transition",
    "all_items",
]

LEASE = 60.0  # seconds for which an owner is alive after it was seen; it beats far more often
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


@attrs.frozen
class AttemptCost:
    """What an attempt costs that was accepted, or may have been.

    Attributes:
        token: of the attempt.
        key: of its item.
        uncertain: whether no task is known for it.
        reserved: credits that were set aside for it; None without a price.
        consumed: credits that the service says it consumed; None until then.
    """

    token: str
    key: str
    uncertain: bool
    reserved: float | None
    consumed: float | None


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
    """

    token: str
    key: str
    task_id: str | None
    named: tuple[str, ...]
    age: float


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


class Store(Protocol):
    """Where a batch is stored. What a method has changed is durable when it returns.

    Every method raises `JournalError` when the store fails; nothing more is sent after that.

    Several runs may use one store. Each is an *owner* with a random id, and makes the items that it
    has claimed. An owner is alive until `LEASE` seconds (60) after its last `claim`, `beat` or
    `intend`, by the store's clock. What a dead owner was sending is uncertain, and all that it
    owned is nobody's, from the next `claim` of anybody on. An item that is done, rejected, expired
    or dropped is nobody's, and so is one that gets new content.
    """

    @property
    def shared(self) -> bool:
        """Whether other processes may make films of this store at the same time."""
        ...

    async def plan(
        self,
        entries: Iterable[ManifestEntry],
        *,
        source: str = "",
        allow_duplicates: bool = False,
        failed: Collection[str] | None = (),
    ) -> PlanResult:
        """Store all entries, or none.

        *entries* are read to their end, in a thread, before the transaction begins: reading a
        long manifest blocks no other writer.

        Args:
            entries: the films.
            source: the manifest that names them. Items that it named before, and does not name
                now, are marked as gone.
            allow_duplicates: whether two keys may have the same content.
            failed: the FAILED items that may take new content, and are planned again then; None
                for all of them.

        Raises:
            ManifestConflictError: an entry contradicts another one, or the journal.
        """
        ...

    async def claim(
        self,
        owner: str,
        count: int,
        *,
        keys: Collection[str] | None = None,
        planned: bool = True,
    ) -> Sequence[Item]:
        """Give items to a run that no living run owns: nobody else gets them from now on.

        First come those that are ready (SUCCESS), the nearest expiry before the others, then those
        that are paid (SUBMITTED, STALLED), then those to be made (PLANNED, and not gone), in their
        order. What the owner has already is not given again.

        Args:
            owner: the id of the run.
            count: how many it gets at most.
            keys: only these items; None for all.
            planned: whether it gets items that are still to be paid.
        """
        ...

    async def unclaimed(self) -> int:
        """How many items a `claim` could give to a new owner: they want a run."""
        ...

    async def release(self, owner: str, keys: Collection[str] | None = None) -> None:
        """Give items back, so that others may claim them; items that are not its own stay.

        An item that is being sent stays with its owner.

        Args:
            owner: the id of the run.
            keys: of the items; None for all, at the end of the run.
        """
        ...

    async def beat(self, owner: str) -> Collection[str] | None:
        """Extend the lease of an owner, in an instant.

        Returns:
            None while the lease has held. Where it was over, others may have claimed what the owner
            had: the keys of the items that it still owns, with a new lease.
        """
        ...

    async def intend(
        self,
        key: str,
        token: str,
        fingerprint: str,
        reserved: float | None,
        *,
        owner: str | None = None,
        digest: str | None = None,
        kind: int | str | None = None,
        bounds: Bounds | None = None,
    ) -> None:
        """Move an item from PLANNED to SENDING, with a new attempt, before its POST is sent.

        The same call again changes nothing while the attempt is out. A former owner of the item or
        of the store is refused.

        Args:
            key: of the item.
            token: of the new attempt.
            fingerprint: of its request.
            reserved: credits that were set aside for it; None without a price. Where films of its
                kind have cost more, that is reserved.
            owner: who has claimed the item; None for an item that nobody has claimed, in a store
                that is not shared.
            kind: the work's `price_key`.
            bounds: what all attempts may cost, this one included; judged in the same transaction.

        Raises:
            LookupError: the item is another owner's, is not planned, or has other content by now.
            BudgetExceededError: the attempt does not fit into *bounds*.
        """
        ...

    async def settle(self, key: str, attempt: Attempt, transition: Transition) -> Item:
        """Store how an attempt has ended, and give the item as it is then.

        While the attempt is out, *transition* is applied. A late answer, for an attempt that
        seemed to be interrupted, counts only with a task's id: an UNCERTAIN item becomes
        SUBMITTED. Where the item was decided otherwise, or has another task, the id is kept with
        the attempt, logged, and given by `expected_callbacks`: that task was paid as well. The
        same call again changes nothing. A former owner may settle too, so that the id of a paid
        task is never lost.

        Raises:
            KeyError: the item has no such attempt.
        """
        ...

    async def apply(self, key: str, transition: Transition) -> Item:
        """Apply any other transition, and give the item as it is then.

        With a token, the same call again changes nothing.

        Raises:
            LookupError: the event does not apply to the item's state.
        """
        ...

    async def rename(self, key: str, new: str, *, by: str = "") -> Item:
        """Give an item another key; its attempts, history and files stay with it.

        Raises:
            KeyError: there is no item of that key.
            ManifestConflictError: another item has the new key, or one that names the same file.
            LookupError: the item is being sent.
        """
        ...

    async def purge(self, payloads: Mapping[str, str], *, by: str = "") -> None:
        """Replace the payloads of items, by key, and remove what answers repeat of them.

        The digest stays, so that the film is recognised. Nothing of the old text is left in what
        the store holds now.
        """
        ...

    async def item(self, key: str) -> Item:
        """One item; `KeyError` when there is none of that key."""
        ...

    async def items(
        self, states: Iterable[ItemState] | None = None, *, after: int = 0, count: int = 1000
    ) -> Sequence[Item]:
        """Items in their order: those behind number *after*, *count* of them at most."""
        ...

    async def counts(self) -> Mapping[ItemState, int]:
        """How many items are in each state; states without items are left out."""
        ...

    async def attempt_costs(self) -> Sequence[AttemptCost]:
        """What every attempt costs that was accepted, or may have been."""
        ...

    async def spending(self) -> Spending:
        """What the attempts cost together, as `intend` counts it, and what films have cost."""
        ...

    async def attempts(self, key: str | None = None) -> Sequence[Mapping[str, Any]]:
        """The attempts of an item, or of all, oldest first."""
        ...

    async def record_balance(self, balance: float) -> None:
        """Store the credits that the account has now."""
        ...

    async def balances(self) -> Sequence[tuple[float, float]]:
        """The balances that were stored: the time, in seconds since 1970, and the credits."""
        ...

    async def events(self, key: str | None = None) -> Sequence[Mapping[str, Any]]:
        """The history of an item, or of all, oldest first: at, key, event, from, to, token, by."""
        ...

    async def keep_callback(self, token: str, task_id: str) -> None:
        """Store the task that a callback names for an attempt; a few for each, no more."""
        ...

    async def expected_callbacks(self) -> Sequence[ExpectedCallback]:
        """The attempts about which a callback may still come, oldest first."""
        ...

    async def recent_attempts(self, within: float) -> Sequence[tuple[float, bool]]:
        """The attempts that ended within so many seconds: their age, and whether uncertain."""
        ...

    async def write_learned(self, name: str, value: str) -> None:
        """Store what was learned of the service, in the place of what *name* was before.

        It holds no words of a film and no key: `purge` leaves it as it is.
        """
        ...

    async def read_learned(self, name: str) -> LearnedValue | None:
        """What was learned last under that name, by any run; None for nothing."""
        ...

    async def bind(self, base_url: str, account: str) -> None:
        """Belong to an account; `JournalError` when the store belongs to another one."""
        ...

    async def add_folder(self, folder: Path) -> None:
        """Remember that films are saved in *folder*; a saved file lies in such a folder."""
        ...

    async def folders(self) -> Sequence[Path]:
        """The folders that films are or were saved in, the newest last."""
        ...

    async def salt(self) -> bytes:
        """The salt of the account's mark, which is stored instead of the API key."""
        ...

    async def verify(self) -> Sequence[str]:
        """Every fault found in what is stored; empty when all is well."""
        ...

    async def aclose(self) -> None: ...


async def all_items(store: Store, *states: ItemState, page_size: int = 1000) -> AsyncIterator[Item]:
    """Yield the items of a store in their order; only those in *states*, if any are given."""
    last = 0
    while page := await store.items(states or None, after=last, count=page_size):
        for item in page:
            yield item
        last = page[-1].order

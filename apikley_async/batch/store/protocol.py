"""What a batch needs of a journal: values, and the narrow protocol that stores implement.

Every step of an item is one transaction, made on the condition that the item is still in the
state the step begins in; it is on the disk when the call returns. What is written about an
attempt is found by its token, and may be written again: a commit may have been made although its
answer was lost. Times are the store's own. `tests/batch/conformance.py` holds any store to that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import attrs

from apikley_async import Attempt
from apikley_async.batch.states import Event, State

__all__ = ["Charge", "Entry", "Expected", "File", "Item", "Plan", "Step", "Store"]


@attrs.frozen
class Entry:
    """One film to be made, as a manifest names it.

    Attributes:
        key: its name in the batch, and the stem of its files.
        payload: the work as plain JSON values.
        digest: the version and the SHA-256 of the content, "2:<hex>". What equals its default
            is left out, so that a new optional field changes no digest.
        former: the digests of the same content in earlier versions. Version 1 has no prefix.
        base: the folder that a relative image belongs to.
        where: where it stands, for messages ("films.yaml, line 12").
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
        """Whether a digest, of any version, is that of this content."""
        return digest == self.digest or digest in self.former


@attrs.frozen
class File:
    """A saved file: where it is, and what must be in it."""

    path: Path
    size: int
    sha256: str


@attrs.frozen
class Item:
    """One film of a batch, as the journal knows it.

    Attributes:
        key: its name in the batch.
        state: where it stands.
        digest: of its content, in the version in which it was planned; see `Entry.matches`.
        task_id: the paid task, once it is known.
        cause: why it stands where it does, where that needs a word.
        fail_code, fail_message: the service's words for a failure.
        credits: what the service says it consumed, or None.
        files: what was saved.
        attempts: how often it was sent.
        success_at: when the film was ready, as far as known.
        gone: the manifest no longer names it.
    """

    key: str
    state: State
    order: int = 0
    payload: str = attrs.field(default="", repr=False)
    base: str = attrs.field(default="", repr=False)
    digest: str = attrs.field(default="", repr=False)
    task_id: str | None = None
    cause: str = ""
    fail_code: str = ""
    fail_message: str = ""
    credits: float | None = None
    files: tuple[File, ...] = ()
    attempts: int = 0
    result: str = attrs.field(default="", repr=False)
    success_at: datetime | None = None
    gone: bool = False

    @property
    def may_change(self) -> bool:
        """Whether other content may take its place: nothing was ever created for it."""
        never_sent = self.state in (State.PLANNED, State.DROPPED) and not self.attempts
        return never_sent or self.state is State.REJECTED


@attrs.frozen
class Plan:
    """What adding films changed: counts of items, and the *keys* of the films that were added.

    *remarks* say what should be known before paying; see `Survey`.
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
class Step:
    """A step of an item, and what is to be remembered with it.

    *token* names the uncertain attempt that it is about; without one it is about all of them.
    """

    event: Event
    cause: str = ""
    task_id: str | None = None
    token: str = ""
    fail_code: str = ""
    fail_message: str = ""
    credits: float | None = None
    result: str = attrs.field(default="", repr=False)
    success_at: datetime | None = None
    files: tuple[File, ...] = ()
    by: str = ""


@attrs.frozen
class Charge:
    """What an attempt that was, or may have been, accepted costs as far as is known."""

    token: str
    key: str
    uncertain: bool
    reserved: float | None
    consumed: float | None


@attrs.frozen
class Expected:
    """An attempt about which a callback may still come.

    Attributes:
        task_id: the task it became; None when that is uncertain, "" when it was given up.
        named: other tasks that were named for it, by callbacks or by a late answer.
        age: seconds since it began, by the store's clock.
    """

    token: str
    key: str
    task_id: str | None
    named: tuple[str, ...]
    age: float


class Store(Protocol):
    """Where a batch is written down. Every method is durable when it returns.

    Raises everywhere: `JournalError`, after which nothing more is sent.
    """

    async def plan(
        self,
        entries: Iterable[Entry],
        *,
        source: str = "",
        allow_duplicates: bool = False,
        failed: Collection[str] | None = (),
    ) -> Plan:
        """Write all entries down, or none; `ManifestConflictError` where they contradict.

        *entries* are read to their end, in a thread, before the transaction begins: whoever
        reads a long manifest keeps nobody from writing.

        A FAILED item takes new content, and is planned again, where *failed* names it (None: any).
        Items that an earlier state of the same *source* named, and this one does not, are gone.
        """
        ...

    async def intend(self, key: str, token: str, fingerprint: str, reserved: float | None) -> None:
        """PLANNED to SENDING, with a new attempt. No POST before this has returned.

        The same again changes nothing while the attempt is out. A former owner is refused.
        """
        ...

    async def settle(self, key: str, attempt: Attempt, step: Step) -> Item:
        """Write down what became of an attempt; the item as it stands then.

        While the attempt is out, *step* is made. A late answer, for an attempt that seemed to be
        interrupted, counts only with a task's id: an UNCERTAIN item becomes SUBMITTED. Where the
        item was decided otherwise, or has another task, the id is kept with the attempt, logged,
        and given by `expected`: it was bought besides. The same again changes nothing. A former
        owner may settle too: an id that was paid for is never lost.

        Raises:
            KeyError: the item has no such attempt.
        """
        ...

    async def step(self, key: str, step: Step) -> Item:
        """Any other step; `LookupError` when the item is in no state for it.

        With a token, the same again changes nothing.
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
        """Put other payloads in the place of items', by key; forget what answers repeat of them.

        The digest stays, so that the film is known again. Nothing of the old text is left in what
        the store holds now.
        """
        ...

    async def item(self, key: str) -> Item:
        """One item; `KeyError` when there is none of that key."""
        ...

    async def items(
        self, states: Iterable[State] | None = None, *, after: int = 0, count: int = 1000
    ) -> Sequence[Item]:
        """Items in their order, those behind number *after*, at most *count*."""
        ...

    async def counts(self) -> Mapping[State, int]:
        """How many items stand where."""
        ...

    async def charges(self) -> Sequence[Charge]:
        """Every attempt that was, or may have been, accepted, with what it was charged."""
        ...

    async def attempts(self, key: str | None = None) -> Sequence[Mapping[str, Any]]:
        """The attempts of an item, or of all, oldest first."""
        ...

    async def note_balance(self, balance: float) -> None:
        """Write down what the account has now."""
        ...

    async def balances(self) -> Sequence[tuple[float, float]]:
        """When the balance was written down, in seconds since 1970, and what it was."""
        ...

    async def events(self, key: str | None = None) -> Sequence[Mapping[str, Any]]:
        """The history of an item, or of all, oldest first: at, key, event, from, to, token, by."""
        ...

    async def receive(self, token: str, task_id: str) -> None:
        """Keep what a callback has named for an attempt; a few tasks for each, others are lost."""
        ...

    async def expected(self) -> Sequence[Expected]:
        """The attempts about which a callback may still come, oldest first."""
        ...

    async def ends(self, within: float) -> Sequence[tuple[float, bool]]:
        """How many seconds ago the last attempts ended, and whether they are uncertain."""
        ...

    async def bind(self, base_url: str, account: str) -> None:
        """Belong to an account; `JournalError` when it belongs to another."""
        ...

    async def keep_folder(self, folder: Path) -> None:
        """Remember where films are saved; the path of a saved file lies in such a folder."""
        ...

    async def folders(self) -> Sequence[Path]:
        """Where films are or were saved, the newest last."""
        ...

    async def salt(self) -> bytes:
        """What an account's mark is salted with."""
        ...

    async def verify(self) -> Sequence[str]:
        """Every fault found in what is written down; empty when all is well."""
        ...

    async def aclose(self) -> None: ...

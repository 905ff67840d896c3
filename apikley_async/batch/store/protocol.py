"""The store of a batch: the protocol that every store implements.

Every change of an item is one transaction. It is made only if the item is still in the state that
the change begins in, and it is on the disk when the call returns. What is stored about an attempt
is found by its token, and may be stored again: a commit may have succeeded although its answer was
lost. Times are the store's own. `tests/batch/conformance.py` tests any store for all of this.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from apikley_async import Attempt
from apikley_async.batch.states import ItemState
from apikley_async.batch.store.values import (
    AttemptCost,
    Bounds,
    ExpectedCallback,
    Item,
    LearnedValue,
    ManifestEntry,
    Owner,
    PlanResult,
    Spending,
    Transition,
)

__all__ = ["LEASE", "Store", "all_items"]

LEASE = 60.0  # seconds for which an owner is alive after it was seen; it beats far more often


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

    async def claimable(self) -> int:
        """How many items a `claim` could give to a new owner: they want a run."""
        ...

    async def owners(self, keys: Collection[str] | None = None) -> Sequence[Owner]:
        """The runs that have items to be made, of *keys* or of all, and whose leases hold."""
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

        Raises:
            JournalError: it is replaced, and the old text is still in the database's files.
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

    async def at_rest(self) -> int | None:
        """How many attempts there are, while none is out and no film is in the making; else None.

        What the account's balance is at such a moment owes nothing to when the service takes
        credits, or gives them back.
        """
        ...

    async def record_balance(self, balance: float, *, attempts: int | None = None) -> bool:
        """Store the credits that the account has now.

        Args:
            balance: the credits.
            attempts: what `at_rest` gave before they were asked for. If it gives something else
                now, or None, nothing is stored. None: store them in any case.

        Returns:
            Whether they were stored.
        """
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

    async def bind(self, base_url: str, account: str, *, taken_over: bool = False) -> None:
        """Belong to an account, whose digest is that of its key.

        A store that one process uses at a time may take another account until something is bought.

        Args:
            base_url: the address of its service.
            account: the digest of its key.
            taken_over: whether the service, asked with that key, knows a task of the store: then it
                is a new key of the same account.

        Raises:
            OtherKeyError: the store belongs to another account, or to this one with another key.
            JournalError: it belongs to another address.
        """
        ...

    async def add_folder(self, folder: Path) -> None:
        """Remember that films are saved in *folder*; a saved file lies in such a folder.

        Raises:
            DownloadError: its name cannot be stored.
        """
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


async def all_items(
    store: Store, *states: ItemState, after: int = 0, page_size: int = 1000
) -> AsyncIterator[Item]:
    """Yield the items of a store in their order, behind the one of order *after*.

    Only those in *states*, if any are given.
    """
    last = after
    while page := await store.items(states or None, after=last, count=page_size):
        for item in page:
            yield item
        last = page[-1].order

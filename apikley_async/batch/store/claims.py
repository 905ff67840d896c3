"""Claims: which run may make which items, in a store that several runs may use at once.

An owner is one run. It is alive until `LEASE` seconds after it was seen last, by the clock of the
store, which never jumps and which all who use the store share. Within the transaction in which
anybody claims, every dead owner is forgotten: what it was sending is uncertain, and what it had
claimed is nobody's.

Every function here runs in the journal's thread.
"""

from __future__ import annotations

import itertools
import os
import platform
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence

from apikley_async.batch.states import ItemEvent
from apikley_async.batch.store import items
from apikley_async.batch.store.database import marks
from apikley_async.batch.store.open_journal import OpenJournal
from apikley_async.batch.store.protocol import LEASE
from apikley_async.batch.store.rows import read_time
from apikley_async.batch.store.values import Item, Owner, Transition

__all__ = [
    "beat",
    "claim",
    "claimable",
    "forget_owners",
    "give",
    "make_uncertain",
    "owners",
    "release",
    "see_at_work",
    "spare_the_living",
]

LONG = 1.0  # seconds for which the lock may be held without further ado
KEYS_AT_ONCE = 500  # of one query; databases bound the number of its values
LATEST = 1e12  # seconds since 1970: after the expiry of any film
INTERRUPTED = "the last run ended while the submission was out"

# What is claimed, in this order: what is paid before what is not, the nearest expiry first.
SELECT_KEYS, SET_OWNER = "SELECT key", "UPDATE item SET owner = ?"
COUNT = "SELECT count(*)"
READY = "state = 'success'"
PAID = "state IN ('submitted', 'stalled')"
PLANNED = "state = 'planned' AND gone = 0"
WANTED = " OR ".join((READY, PAID, f"({PLANNED})"))
SELECT_OWNED = (
    "SELECT owner.id, owner.name, owner.seen_at, item.key"
    " FROM item JOIN owner ON owner.id = item.owner"
)
ORDERS = {READY: f"coalesce(success_at, {LATEST:.0f}), ord", PAID: "ord", PLANNED: "ord"}


def claim(
    journal: OpenJournal, owner: str, count: int, keys: Collection[str] | None, planned: bool
) -> list[Item]:
    """Give items to an owner that no living owner has; see `Store.claim`."""
    with journal.transaction():
        _see(journal, owner)
        _forget_dead(journal)
        chosen: list[str] = []
        for condition in (READY, PAID, PLANNED) if planned else (READY, PAID):
            if (left := count - len(chosen)) > 0:
                chosen += _claimable(journal, condition, left, keys)
        for some in _pages(chosen):
            journal.db.execute(f"{SET_OWNER} WHERE key IN ({marks(some)})", (owner, *some))
        return [item for some in _pages(chosen) for item in items.of_keys(journal, some)]


def _claimable(
    journal: OpenJournal, condition: str, count: int, keys: Collection[str] | None
) -> list[str]:
    """The first *count* items that nobody owns, of *keys* or of all."""
    query = f"{SELECT_KEYS} FROM item WHERE {condition} AND owner IS NULL"
    named: list[str] = []
    if keys is not None and len(keys) <= KEYS_AT_ONCE:
        named = [*keys]
        query = f"{query} AND key IN ({marks(named)})"
    query = f"{query} ORDER BY {ORDERS[condition]} LIMIT ? OFFSET ?"
    page = count if keys is None else KEYS_AT_ONCE
    found: list[str] = []
    for start in itertools.count(0, page):
        rows = journal.db.execute(query, (*named, page, start)).fetchall()
        found += [row[0] for row in rows if keys is None or row[0] in keys]
        if len(found) >= count or len(rows) < page:
            break
    return found[:count]


def _pages(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    return (keys[start : start + KEYS_AT_ONCE] for start in range(0, len(keys), KEYS_AT_ONCE))


def claimable(journal: OpenJournal) -> int:
    """How many items anybody might claim; see `Store.claimable`."""
    nobodys = "owner IS NULL OR owner NOT IN (SELECT id FROM owner WHERE seen_at > ?)"
    since = journal.lease_time() - LEASE
    counts = [
        journal.db.execute(f"{COUNT} FROM item WHERE {wanted} AND ({nobodys})", (since,))
        for wanted in ORDERS
    ]
    return sum(count.fetchone()[0] for count in counts)


def owners(journal: OpenJournal, keys: Collection[str] | None) -> list[Owner]:
    """The living runs that have items to be made; see `Store.owners`."""
    now = journal.lease_time()
    query = f"{SELECT_OWNED} WHERE ({WANTED}) AND owner.seen_at > ?"
    rows = journal.db.execute(query, (now - LEASE,)).fetchall()
    counts = Counter(tuple(row)[:3] for row in rows if keys is None or row["key"] in keys)
    return [
        Owner(run, name, count, seen_at, LEASE - (now - seen_at))
        for (run, name, seen_at), count in counts.items()
    ]


def release(journal: OpenJournal, owner: str, keys: Collection[str] | None) -> None:
    """Give items back; see `Store.release`."""
    query = "UPDATE item SET owner = NULL WHERE owner = ? AND state != 'sending'"
    with journal.transaction():
        if keys is not None:
            for some in _pages([*keys]):
                journal.db.execute(f"{query} AND key IN ({marks(some)})", (owner, *some))
            return
        journal.db.execute(query, (owner,))
        # While one of its submissions is out, the owner stays known until its lease is over.
        journal.db.execute(
            "DELETE FROM owner WHERE id = ?"
            " AND NOT EXISTS (SELECT 1 FROM item WHERE item.owner = owner.id)",
            (owner,),
        )


def beat(journal: OpenJournal, owner: str) -> list[str] | None:
    """Extend the lease of an owner; see `Store.beat`."""
    with journal.transaction(alone=False):
        now = journal.lease_time()
        seen = journal.db.execute(
            "UPDATE owner SET seen_at = ? WHERE id = ? AND seen_at > ?", (now, owner, now - LEASE)
        )
        if seen.rowcount:
            return None
    # It was dead, so others may be taking over what it had: one after the other.
    with journal.transaction():
        _see(journal, owner)
        rows = journal.db.execute("SELECT key FROM item WHERE owner = ?", (owner,)).fetchall()
    return [row[0] for row in rows]


def give(journal: OpenJournal, key: str, owner: str) -> None:
    """Let a run have an item that nobody else has. The caller has begun a transaction."""
    _see(journal, owner)
    journal.db.execute(f"{SET_OWNER} WHERE key = ? AND owner IS NULL", (owner, key))


def see_at_work(journal: OpenJournal, owner: str | None) -> None:
    """Extend the lease of an owner who sends something. The caller has begun a transaction."""
    if owner is not None and journal.shared:
        _see(journal, owner)


def spare_the_living(journal: OpenJournal, seconds: float) -> None:
    """Extend the leases of all who lived when this transaction began, *seconds* ago.

    Their threads may have waited for its lock with something else, and have not come to beat. The
    caller has begun it.
    """
    if journal.shared and seconds > LONG:
        began = journal.lease_time()
        journal.db.execute(
            "UPDATE owner SET seen_at = ? WHERE seen_at > ? AND seen_at < ?",
            (began + seconds, began - LEASE, began + seconds),
        )


def _forget_dead(journal: OpenJournal) -> None:
    """Forget the owners whose lease is over. The caller has begun a transaction."""
    if not journal.shared:  # all are of this process, and live as it does
        return
    # One statement decides, so that an owner who is seen at this moment is alive or dead for all.
    dead = journal.db.execute(
        "DELETE FROM owner WHERE seen_at <= ? RETURNING id, name, seen_at",
        (journal.lease_time() - LEASE,),
    ).fetchall()
    for owner, name, seen_at in dead:
        left = journal.db.execute(
            "SELECT item.key, attempt.token FROM item JOIN attempt ON attempt.key = item.key"
            " WHERE item.owner = ? AND item.state = 'sending' AND attempt.state = 'intent'",
            (owner,),
        ).fetchall()
        at = read_time(journal.wall_time() - (journal.lease_time() - seen_at))
        since = "" if at is None else f" after {at:%Y-%m-%d %H:%M:%S} UTC"
        cause = f"{name} was not heard of any more{since}, while the submission was out"
        make_uncertain(journal, [(key, token) for key, token in left], cause)
        journal.db.execute("UPDATE item SET owner = NULL WHERE owner = ?", (owner,))


def forget_owners(journal: OpenJournal) -> None:
    """Forget all owners: whoever opens a journal alone knows that they are dead.

    The caller has begun a transaction.
    """
    journal.db.execute("UPDATE item SET owner = NULL WHERE owner IS NOT NULL")
    journal.db.execute("DELETE FROM owner")


def make_uncertain(
    journal: OpenJournal, left: Iterable[tuple[str, str]], cause: str = INTERRUPTED
) -> None:
    """Make items uncertain whose attempts were out when their owner ended."""
    for key, token in left:
        items.move(journal, key, Transition(ItemEvent.CRASH, cause=cause, token=token))
        journal.db.execute(
            "UPDATE attempt SET state = 'unknown', cause = 'interrupted', ended_at = ?"
            " WHERE key = ? AND state = 'intent'",
            (journal.now[0], key),
        )


def _see(journal: OpenJournal, owner: str) -> None:
    """Note that an owner is alive."""
    journal.db.execute(
        "INSERT INTO owner (id, name, seen_at) VALUES (?, ?, ?)"
        " ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at",
        (
            owner,
            f"process {os.getpid()} on {platform.node() or 'some machine'}",
            journal.lease_time(),
        ),
    )

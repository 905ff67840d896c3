"""The tables of a journal, the migrations that make them, and what must always hold in them.

A migration is only ever added at the end; the number of migrations is the schema's version.
"""

from __future__ import annotations

import sqlite3
from typing import TypeAlias

from apikley_async.batch.states import TRANSITIONS, ItemEvent, ItemState
from apikley_async.batch.store.database import Database

__all__ = [
    "APPLICATION",
    "CLAIMS",
    "MIGRATIONS",
    "PURGE",
    "RENAME",
    "VERSION",
    "Migrations",
    "file_faults",
    "inconsistencies",
    "migrate",
]

Migrations: TypeAlias = tuple[tuple[str, ...], ...]

APPLICATION = 0x41506B6C  # "APkl": tells a journal from other databases

RENAME, PURGE = "rename", "purge"  # events of the history that change no state
SHARES = """SELECT coalesce(kind, '') AS kind, coalesce(credits, reserved, 0) AS credits,
    CASE WHEN credits IS NULL THEN 0 ELSE 1 END AS known, count(*) AS films FROM attempt
    WHERE task_id IS NOT NULL OR state IN ('intent', 'unknown', 'abandoned')
    GROUP BY 1, 2, 3"""  # what the attempts cost that were accepted, or may have been
UNSUMMED = """SELECT kind FROM (SELECT kind, credits, known, films FROM share
        EXCEPT SELECT kind, credits, known, films FROM spent) AS missing
    UNION SELECT kind FROM (SELECT kind, credits, known, films FROM spent WHERE films != 0
        EXCEPT SELECT kind, credits, known, films FROM share) AS outdated"""
STATES = ", ".join(f"'{state}'" for state in ItemState)

MIGRATIONS: Migrations = (
    (
        "CREATE TABLE meta (name TEXT PRIMARY KEY, value ANY NOT NULL) STRICT",
        f"""CREATE TABLE item (
            ord INTEGER PRIMARY KEY,
            key TEXT NOT NULL UNIQUE,
            payload TEXT NOT NULL,
            payload_sum TEXT NOT NULL,
            digest TEXT NOT NULL,
            base TEXT NOT NULL DEFAULT '',
            source TEXT NOT NULL DEFAULT '',
            state TEXT NOT NULL CHECK (state IN ({STATES})),
            task_id TEXT UNIQUE,
            cause TEXT,
            fail_code TEXT,
            fail_message TEXT,
            credits REAL,
            result TEXT,
            success_at REAL,
            files TEXT,
            gone INTEGER NOT NULL DEFAULT 0
        ) STRICT""",
        "CREATE INDEX item_state ON item (state, ord)",
        "CREATE INDEX item_digest ON item (digest)",
        """CREATE TABLE attempt (
            token TEXT PRIMARY KEY,
            key TEXT NOT NULL REFERENCES item (key),
            n INTEGER NOT NULL,
            state TEXT NOT NULL CHECK (state IN
                ('intent', 'accepted', 'refused', 'unsent', 'unknown', 'resolved', 'abandoned')),
            fingerprint TEXT NOT NULL,
            reserved REAL,
            began_at REAL NOT NULL,
            ended_at REAL,
            http INTEGER,
            code INTEGER,
            task_id TEXT,
            raw TEXT,
            cause TEXT
        ) STRICT""",
        "CREATE INDEX attempt_key ON attempt (key)",
        "CREATE INDEX attempt_state ON attempt (state)",
        """CREATE TABLE event (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            at REAL NOT NULL,
            mono REAL NOT NULL,
            key TEXT NOT NULL,
            event TEXT NOT NULL,
            "from" TEXT NOT NULL,
            "to" TEXT NOT NULL,
            cause TEXT,
            by TEXT
        ) STRICT""",
        "CREATE INDEX event_key ON event (key, seq)",
    ),
    (
        # The tasks that callbacks have named for attempts whose answer was missing.
        """CREATE TABLE inbox (
            token TEXT NOT NULL REFERENCES attempt (token),
            task_id TEXT NOT NULL,
            at REAL NOT NULL,
            PRIMARY KEY (token, task_id)
        ) STRICT""",
    ),
    (
        # What each attempt was charged; an item holds only what the last one was.
        "ALTER TABLE attempt ADD COLUMN credits REAL",
        """UPDATE attempt SET credits =
            (SELECT credits FROM item WHERE item.task_id = attempt.task_id)""",
        # The attempt that an event is about, where it is about one.
        "ALTER TABLE event ADD COLUMN token TEXT",
    ),
    (
        # The folders that films were saved in, relative to the journal; no file lies elsewhere.
        "CREATE TABLE folder (path TEXT PRIMARY KEY) STRICT",
        # The balance of the account before and after runs: evidence for uncertain films.
        "CREATE TABLE balance (at REAL PRIMARY KEY, credits REAL NOT NULL) STRICT",
    ),
    (
        # What runs have learned of the service, such as its rate limit: hints for the next run.
        """CREATE TABLE learned (
            name TEXT PRIMARY KEY,
            value TEXT NOT NULL,
            at REAL NOT NULL
        ) STRICT""",
    ),
    (
        # What was put into a destination, as JSON: names, sizes, digests and locations.
        "ALTER TABLE item ADD COLUMN stored TEXT",
    ),
    (
        # The runs that are making films. A run owns the items that it has claimed.
        """CREATE TABLE owner (
            id TEXT PRIMARY KEY,
            name TEXT NOT NULL,
            seen_at REAL NOT NULL
        ) STRICT""",
        "ALTER TABLE item ADD COLUMN owner TEXT",
        "CREATE INDEX item_owner ON item (owner) WHERE owner IS NOT NULL",
        # What an attempt is priced by, and the most that a film of each kind has cost.
        "ALTER TABLE attempt ADD COLUMN kind TEXT",
        """CREATE TABLE price (
            kind TEXT PRIMARY KEY,
            credits REAL NOT NULL
        ) STRICT""",
        # How many attempts cost so much, or reserve it while their cost is not known: the sum of
        # all is there without reading them.
        """CREATE TABLE spent (
            kind TEXT NOT NULL,
            credits REAL NOT NULL,
            known INTEGER NOT NULL,
            films INTEGER NOT NULL,
            PRIMARY KEY (kind, credits, known)
        ) STRICT""",
        f"INSERT INTO spent {SHARES}",
    ),
)
VERSION = len(MIGRATIONS)
CLAIMS = 7  # the version of the schema from which on items are claimed


def migrate(db: sqlite3.Connection, migrations: Migrations = MIGRATIONS) -> None:
    """Upgrade the tables, one version after the other, within the caller's transaction."""
    [version] = db.execute("PRAGMA user_version").fetchone()
    for number, script in enumerate(migrations[version:], start=version + 1):
        for statement in script:
            db.execute(statement)
        db.execute(f"PRAGMA user_version = {number}")


# --- what must always hold ------------------------------------------------------------------------

INVARIANTS = {
    "an item is submitted, ready or done without a task id": """
        SELECT key FROM item WHERE task_id IS NULL
        AND state IN ('submitted', 'success', 'done', 'failed', 'stalled', 'expired')""",
    "an item is planned although an attempt may have been processed": """
        SELECT key FROM attempt JOIN item USING (key)
        WHERE item.state = 'planned' AND attempt.state IN ('intent', 'unknown')""",
    "an item is uncertain without an uncertain attempt": """
        SELECT key FROM item WHERE state = 'uncertain'
        AND key NOT IN (SELECT key FROM attempt WHERE state = 'unknown')""",
    "two attempts of one item were accepted without a person's decision": """
        SELECT key FROM attempt WHERE state IN ('accepted', 'resolved') GROUP BY key
        HAVING count(*) > 1 + (SELECT count(*) FROM event
            WHERE event.key = attempt.key AND event IN ('retry', 'resubmit'))""",
    "an item is claimed by nobody who is known": """
        SELECT key FROM item WHERE owner IS NOT NULL AND owner NOT IN (SELECT id FROM owner)""",
    "the credits of attempts are not their sum": f"WITH share AS ({SHARES}) {UNSUMMED}",
    "an attempt belongs to no item": """
        SELECT key FROM attempt WHERE key NOT IN (SELECT key FROM item)""",
    "the history does not end in the item's state": """
        SELECT item.key FROM item JOIN event ON event.seq =
            (SELECT max(seq) FROM event WHERE event.key = item.key)
        WHERE event."to" != item.state""",
    "an item has changed its state without a history": """
        SELECT key FROM item WHERE state != 'planned' AND key NOT IN (SELECT key FROM event)""",
}


def file_faults(db: sqlite3.Connection) -> list[str]:
    """Check pages and references of a file; list every fault found."""
    pages = db.execute("PRAGMA integrity_check(20)")
    faults = [f"the file: {row[0]}" for row in pages if row[0] != "ok"]
    references = db.execute("PRAGMA foreign_key_check")
    return faults + [f"a reference leads nowhere: {tuple(row)}" for row in references]


def inconsistencies(db: Database) -> list[str]:
    """Check rows and history; list every fault found."""
    faults: list[str] = []
    for fault, query in INVARIANTS.items():
        faults += [f"{row[0]}: {fault}" for row in db.execute(query)]
    states: dict[str, str] = {}
    for key, event, before, following in db.execute(
        'SELECT key, event, "from", "to" FROM event ORDER BY seq'
    ):
        if states.get(key, ItemState.PLANNED) != before:
            faults.append(f"{key}: the history breaks off before {event}")
        if event in (RENAME, PURGE) and before == following:
            continue
        if TRANSITIONS.get((ItemState(before), ItemEvent(event))) != following:
            faults.append(f"{key}: {event} does not lead from {before} to {following}")
        states[key] = following
    return faults

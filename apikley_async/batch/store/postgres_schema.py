"""The tables of a journal in PostgreSQL: those of a file, in its own types.

A version is only ever added at the end.
"""

from __future__ import annotations

from apikley_async._postgres import Versions
from apikley_async.batch.store.schema import STATES

__all__ = ["PART", "VERSIONS"]

PART = "journal"

VERSIONS: Versions = (
    (
        "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
        f"""CREATE TABLE item (
            ord BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
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
            credits DOUBLE PRECISION,
            result TEXT,
            success_at DOUBLE PRECISION,
            files TEXT,
            gone INTEGER NOT NULL DEFAULT 0,
            stored TEXT,
            owner TEXT
        )""",
        "CREATE INDEX item_state ON item (state, ord)",
        "CREATE INDEX item_digest ON item (digest)",
        "CREATE INDEX item_owner ON item (owner) WHERE owner IS NOT NULL",
        """CREATE TABLE attempt (
            token TEXT PRIMARY KEY,
            key TEXT NOT NULL REFERENCES item (key) DEFERRABLE,
            n INTEGER NOT NULL,
            state TEXT NOT NULL CHECK (state IN
                ('intent', 'accepted', 'refused', 'unsent', 'unknown', 'resolved', 'abandoned')),
            fingerprint TEXT NOT NULL,
            reserved DOUBLE PRECISION,
            began_at DOUBLE PRECISION NOT NULL,
            ended_at DOUBLE PRECISION,
            http BIGINT,
            code BIGINT,
            task_id TEXT,
            raw TEXT,
            cause TEXT,
            credits DOUBLE PRECISION,
            kind TEXT
        )""",
        "CREATE INDEX attempt_key ON attempt (key)",
        "CREATE INDEX attempt_state ON attempt (state)",
        """CREATE TABLE event (
            seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            at DOUBLE PRECISION NOT NULL,
            mono DOUBLE PRECISION NOT NULL,
            key TEXT NOT NULL,
            event TEXT NOT NULL,
            "from" TEXT NOT NULL,
            "to" TEXT NOT NULL,
            cause TEXT,
            by TEXT,
            token TEXT
        )""",
        "CREATE INDEX event_key ON event (key, seq)",
        """CREATE TABLE inbox (
            token TEXT NOT NULL REFERENCES attempt (token),
            task_id TEXT NOT NULL,
            at DOUBLE PRECISION NOT NULL,
            PRIMARY KEY (token, task_id)
        )""",
        """CREATE TABLE folder (
            path TEXT PRIMARY KEY,
            rowid BIGINT GENERATED ALWAYS AS IDENTITY
        )""",
        "CREATE TABLE balance (at DOUBLE PRECISION PRIMARY KEY, credits DOUBLE PRECISION NOT NULL)",
        """CREATE TABLE learned (
            name TEXT PRIMARY KEY,
            value TEXT NOT NULL,
            at DOUBLE PRECISION NOT NULL
        )""",
        """CREATE TABLE owner (
            id TEXT PRIMARY KEY,
            name TEXT NOT NULL,
            seen_at DOUBLE PRECISION NOT NULL
        )""",
        "CREATE TABLE price (kind TEXT PRIMARY KEY, credits DOUBLE PRECISION NOT NULL)",
        """CREATE TABLE spent (
            kind TEXT NOT NULL,
            credits DOUBLE PRECISION NOT NULL,
            known INTEGER NOT NULL,
            films BIGINT NOT NULL,
            PRIMARY KEY (kind, credits, known)
        )""",
        # The number of the last transaction that each open journal has committed: whoever has lost
        # the answer to a COMMIT finds here whether it happened.
        """CREATE TABLE session (
            id TEXT PRIMARY KEY,
            number BIGINT NOT NULL,
            at DOUBLE PRECISION NOT NULL
        )""",
        # 32 hexadecimal digits that name the journal, and salt the mark of its account.
        """INSERT INTO meta (name, value)
            VALUES ('journal_id', replace(gen_random_uuid()::text, '-', ''))""",
    ),
)

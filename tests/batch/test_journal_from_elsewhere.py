"""Journals and inboxes that come from elsewhere: nothing in them is run, or believed unread."""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from batch.helpers import board, films, make_client, open_batch, run_batch, simulated_service
from batch.pictures import png

from apikley_async.batch.store.rows import payload_sum
from apikley_async.errors import JournalError, ManifestError
from apikley_async.webhook import Inbox

pytestmark = pytest.mark.virtual

ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x FROM n"
VIEW = (
    "ALTER TABLE item RENAME TO hidden",
    f"CREATE VIEW item AS SELECT hidden.* FROM hidden, ({ENDLESS})",  # noqa: S608
)


@contextlib.contextmanager
def edited(path: Path) -> Iterator[sqlite3.Connection]:
    """The file as somebody else sees it."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA foreign_keys = OFF")
        yield db
        db.commit()


async def begun(path: Path) -> Path:
    """A journal of one planned film, k0, that was closed well."""
    async with open_batch(path) as batch:
        await batch.add(films(1))
    return path


def rewritten(db: sqlite3.Connection, **fields: object) -> None:
    """The film with other fields, and sums that fit to them."""
    names = [row[1] for row in db.execute("PRAGMA table_info(item)")]
    item = dict(zip(names, db.execute("SELECT * FROM item").fetchone(), strict=True))
    item |= fields
    item["payload_sum"] = payload_sum(str(item["key"]), str(item["payload"]))
    db.execute("DELETE FROM item")
    marks = ", ".join("?" * len(item))
    db.execute(f"INSERT INTO item ({', '.join(item)}) VALUES ({marks})", [*item.values()])  # noqa: S608


async def looked_at(path: Path, *, read_only: bool = True) -> list[str]:
    async with open_batch(path, read_only=read_only) as batch:
        await batch.status()
        await batch.estimate()
        faults = await batch.verify()
        assert [item async for item in batch.items()]
        return faults


# --- the schema -----------------------------------------------------------------------------------

SCHEMAS = {
    "a view in a table's place": VIEW,
    "a trigger": ("CREATE TRIGGER t AFTER UPDATE ON item BEGIN DELETE FROM attempt; END",),
    "a table more": ("CREATE TABLE more (x)",),
    "an index on an expression": ("CREATE INDEX i ON item (abs(ord))",),
    "a column more": ("ALTER TABLE meta ADD COLUMN more TEXT",),
    "a table less": ("DROP TABLE inbox",),
}


async def test_only_our_schema_is_opened(tmp_path: Path) -> None:
    """Not for reading either; the file is left as it is. (J8)"""
    believed = []
    for number, (kind, statements) in enumerate(SCHEMAS.items()):
        path = await begun(tmp_path / f"{number}.db")
        with edited(path) as db:
            for statement in statements:
                db.execute(statement)
        before = path.read_bytes()
        for read_only in (True, False):
            try:
                await looked_at(path, read_only=read_only)
            except JournalError as error:
                if "not as this program makes journals" in error.message:
                    continue
            believed.append((kind, read_only))
        assert path.read_bytes() == before

    assert believed == []


async def test_statistics_of_sqlite_are_accepted(tmp_path: Path) -> None:
    """What ANALYZE leaves behind changes nothing."""
    path = await begun(tmp_path / "b.db")
    with edited(path) as db:
        db.execute("ANALYZE")

    assert await looked_at(path, read_only=False) == []


async def test_a_statement_of_no_end_is_interrupted(tmp_path: Path) -> None:
    """Whatever stands in a file: it keeps nobody for longer than its size explains."""
    from apikley_async._sqlite import connect

    path = await begun(tmp_path / "b.db")

    with (
        contextlib.closing(connect(path)) as db,
        pytest.raises(sqlite3.OperationalError, match="interrupted"),
    ):
        db.execute(f"SELECT max(x) FROM ({ENDLESS})").fetchone()  # noqa: S608


# --- rows -----------------------------------------------------------------------------------------

FILE = {"path": "films/k0.mp4", "size": 1, "sha256": "ab" * 32}
STORED = {"name": "k0.mp4", "size": 1, "sha256": "ab" * 32, "location": "s3://films/k0.mp4"}
DEEP = "[" * 100_000
ROWS: dict[str, dict[str, object]] = {
    "a key outside": {"key": "../elsewhere/pwned"},
    "an absolute key": {"key": "/etc/passwd"},
    "a hidden key": {"key": ".profile"},
    "a key of a device": {"key": "nul"},
    "a key with control characters": {"key": "a\x1b[2J"},
    "files that are none": {"files": "5"},
    "files of another shape": {"files": '["a.mp4"]'},
    "a file without a path": {"files": '[{"size": 1, "sha256": "ab"}]'},
    "files without an end": {"files": DEEP},
    "a file outside of every folder": {"files": json.dumps([{**FILE, "path": "/etc/pwned.mp4"}])},
    "a file above the folder": {"files": json.dumps([{**FILE, "path": "films/../../k0.mp4"}])},
    "a size that is none": {"files": json.dumps([{**FILE, "size": "big"}])},
    "a sum that is none": {"files": json.dumps([{**FILE, "sha256": "z" * 64}])},
    "what is stored is none": {"stored": "5"},
    "what is stored has no end": {"stored": DEEP},
    "a stored name is a path": {"stored": json.dumps([{**STORED, "name": "../k0.mp4"}])},
    "a stored name that clears screens": {"stored": json.dumps([{**STORED, "name": "\x1b[2J"}])},
    "a stored size is none": {"stored": json.dumps([{**STORED, "size": -1}])},
    "a location is none": {"stored": json.dumps([{**STORED, "location": 5}])},
    "a location with a query": {"stored": json.dumps([{**STORED, "location": "s3://b/k?sig=1"}])},
    "a time that is none": {"success_at": 1e300},
    "a payload that is none": {"payload": "5"},
    "a payload without an end": {"payload": DEEP},
    "a payload without shots": {"payload": "{}"},
    "an image outside": {
        "payload": json.dumps(
            {**board("x").to_dict(), "image": "../a.png", "image_sha256": {"../a.png": "ab" * 32}}
        )
    },
}
META = {
    "no id": "DELETE FROM meta WHERE name = 'journal_id'",
    "an id that is a path": "UPDATE meta SET value = '../../pwned' WHERE name = 'journal_id'",
    "no epoch": "DELETE FROM meta WHERE name = 'epoch'",
    "an epoch that is none": "UPDATE meta SET value = 'new' WHERE name = 'epoch'",
    "an epoch of bytes": "UPDATE meta SET value = x'00ff' WHERE name = 'epoch'",
}
PRICES = {
    "a price of a list": "INSERT INTO price VALUES ('[1]', 5)",
    "a price of no JSON": "INSERT INTO price VALUES ('ten', 5)",
    "a price without an end": f"INSERT INTO price VALUES ('{DEEP}', 5)",  # noqa: S608
}


def edits() -> dict[str, Callable[[sqlite3.Connection], object]]:
    rows = {name: (lambda db, f=fields: rewritten(db, **f)) for name, fields in ROWS.items()}
    others = META | PRICES
    return rows | {name: (lambda db, s=said: db.execute(s)) for name, said in others.items()}


async def test_rows_that_nobody_here_wrote_are_refused(tmp_path: Path) -> None:
    """Each is a JournalError that names what it is about, never another error. (M9, J8)"""
    believed = []
    whole = (await begun(tmp_path / "whole.db")).read_bytes()
    for number, (kind, edit) in enumerate(edits().items()):
        path = tmp_path / f"{number}.db"
        path.write_bytes(whole)
        with edited(path) as db:
            edit(db)
        try:
            await looked_at(path, read_only=kind not in META)
        except JournalError as error:
            reported = error.message
            if "was not written by this program" in reported and reported.isprintable():
                continue
        believed.append(kind)

    assert believed == []


async def test_an_id_that_is_a_path_writes_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The id of a journal names files of ours in other folders."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    path = await begun(tmp_path / "b.db")
    with edited(path) as db:
        db.execute("UPDATE meta SET value = '../../../pwned' WHERE name = 'journal_id'")

    with pytest.raises(JournalError):
        await looked_at(path, read_only=False)

    assert not (tmp_path / "pwned").exists()


# --- pictures -------------------------------------------------------------------------------------


async def test_no_picture_is_uploaded_that_was_not_planned(tmp_path: Path) -> None:
    """A journal that names another folder and another picture uploads nothing, and pays nothing."""
    secret = tmp_path / "home" / "secret.png"
    secret.parent.mkdir()
    secret.write_bytes(png())
    path = await begun(tmp_path / "b.db")
    changes = [
        {"base": str(secret.parent), "payload": spelled("secret.png", "")},
        {"base": str(secret.parent), "payload": spelled("secret.png", "00" * 32)},
        {"base": "/", "payload": spelled(str(secret), "00" * 32)},
    ]

    for change in changes:
        with edited(path) as db:
            rewritten(db, **change)
        async with (
            simulated_service() as simulator,
            make_client(simulator) as client,
            open_batch(path) as batch,
        ):
            with contextlib.suppress(JournalError):
                await run_batch(batch, client, folder=tmp_path / "films")
            assert simulator.ledger.paid == []
            assert not simulator.ledger.arrivals("upload")


def spelled(image: str, digest: str) -> str:
    fields = {**board("x").to_dict(), "image": image}
    return json.dumps({**fields, "image_sha256": {image: digest}} if digest else fields)


async def test_an_image_outside_by_permission_is_found_again(tmp_path: Path) -> None:
    """It is written down with its whole path."""
    (tmp_path / "a.png").write_bytes(png())
    manifest = tmp_path / "in" / "films.json"
    manifest.parent.mkdir()
    manifest.write_text(json.dumps({**board("x").to_dict(), "image": "../a.png"}))

    async with (
        simulated_service() as simulator,
        make_client(simulator) as client,
        open_batch(tmp_path / "b") as batch,
    ):
        with pytest.raises(ManifestError):
            await batch.add(manifest)
        await batch.add(manifest, allow_outside=True)
        [item] = await run_batch(batch, client, folder=tmp_path / "films")

    assert item.files


# --- moved ----------------------------------------------------------------------------------------


async def test_a_moved_project_goes_on(tmp_path: Path) -> None:
    """Images and films are found beside the journal, wherever that is now."""
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    (old / "a.png").write_bytes(png())
    manifest = old / "films.jsonl"
    lines = [{"key": key, **board(key).to_dict(), "image": "a.png"} for key in ("k0", "k1")]
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))

    async with simulated_service() as simulator:
        async with make_client(simulator) as client, open_batch(old / "films.db") as batch:
            await batch.add(manifest)
            await run_batch(batch, client, folder=old / "films", max_tasks=1)
        old.rename(new)
        async with make_client(simulator) as client, open_batch(new / "films.db") as batch:
            assert (await batch.add(new / "films.jsonl")).known == 2
            await run_batch(batch, client, folder=new / "films")
            assert await batch.verify() == []
            items = [item async for item in batch.items()]
        assert len(simulator.ledger.paid) == 2

    assert [item.files[0].path for item in items] == [
        new / "films" / "k0.mp4",
        new / "films" / "k1.mp4",
    ]


# --- the inbox ------------------------------------------------------------------------------------


async def test_an_inbox_of_somebody_elses_making_is_refused(tmp_path: Path) -> None:
    """A trigger that empties it, a view in a table's place, facts that are none."""
    changes = {
        "a trigger": "CREATE TRIGGER t AFTER INSERT ON callback BEGIN DELETE FROM callback; END",
        "a view": "CREATE VIEW more AS SELECT 1",
        "no name": "DELETE FROM fact WHERE name = 'name'",
        "a count that is none": "UPDATE fact SET value = 'many' WHERE name = 'count'",
    }
    believed = []
    for number, (kind, statement) in enumerate(changes.items()):
        path = tmp_path / f"{number}.inbox"
        async with Inbox(path) as inbox:
            await inbox.add("t" * 32, "task")
        with edited(path) as db:
            db.execute(statement)
        try:
            async with Inbox(path) as inbox:
                await inbox.add("u" * 32, "task")
        except JournalError as error:
            if re.search("does not have the tables of an inbox|is damaged", error.message):
                continue
        believed.append(kind)

    assert believed == []


@pytest.mark.parametrize("missing", [("account",), ("base_url",), ("account", "base_url")])
async def test_a_journal_of_attempts_without_an_account_is_refused(
    tmp_path: Path, missing: tuple[str, ...]
) -> None:
    """Whoever has removed it would have the next one's client fetch and write for a stranger."""
    path = await begun(tmp_path / "b.db")
    async with simulated_service() as simulator, make_client(simulator) as client:
        async with open_batch(path) as batch:
            await run_batch(batch, client, folder=tmp_path)
        with edited(path) as db:
            db.executemany("DELETE FROM meta WHERE name = ?", [(name,) for name in missing])

        async with open_batch(path) as batch:
            with pytest.raises(JournalError, match="base_url or account is missing"):
                await run_batch(batch, client, folder=tmp_path / "films")
        assert not (tmp_path / "films").exists()


async def test_a_journal_does_not_decide_where_films_are_saved(tmp_path: Path) -> None:
    """A stored folder is a default inside the journal's own only, and a link leads out of it."""
    (tmp_path / "home").mkdir()
    (tmp_path / "victim").mkdir()
    path = await begun(tmp_path / "home" / "b.db")
    (path.parent / "films of others").symlink_to(tmp_path / "victim")
    for place in ("../victim", str(tmp_path / "victim"), "films of others"):
        with edited(path) as db:
            db.execute("DELETE FROM folder")
            db.execute("INSERT INTO folder VALUES (?)", (place,))
        async with open_batch(path) as batch:
            with pytest.raises(ManifestError, match="name a folder with -o"):
                await batch.output_folder()

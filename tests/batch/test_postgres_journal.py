"""The journal in PostgreSQL: what every store promises, and what a connection can suffer."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from batch.conformance import StoreContract
from batch.conformance_base import film
from postgres_proxy import Cut, PostgresProxy
from postgres_server import PostgresServer

from apikley_async import Attempt, SavedFile, SystemClock, Verdict
from apikley_async._postgres import RIGHTS, Dsn, connect, upgrade
from apikley_async.batch import ItemEvent, Journal, Store, Transition
from apikley_async.batch.store.postgres_opening import COPIED
from apikley_async.batch.store.postgres_schema import PART, VERSIONS
from apikley_async.batch.store.protocol import LEASE
from apikley_async.errors import JournalError

pytest.importorskip("psycopg", reason="the extra postgres is not installed")


class ClockOff(SystemClock):
    """The clock of a machine that is wrong."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def wall(self) -> float:
        return super().wall() + self.seconds


def set_up(dsn: str) -> str:
    place = Dsn.parse(dsn)
    with contextlib.closing(connect(place)) as connection:
        upgrade(connection, {PART: VERSIONS}, place)
    return dsn


@asynccontextmanager
async def journal(dsn: str, **options: object) -> AsyncIterator[Journal]:
    opened = await Journal.open(dsn, **options)  # type: ignore[arg-type]
    try:
        yield opened
    finally:
        await opened.aclose()


class TestPostgresJournal(StoreContract):
    """The journal in a database is a store."""

    @pytest.fixture(autouse=True)
    def _place(self, shared_dsn: str) -> None:
        self.dsn = shared_dsn

    def opened(self) -> AbstractAsyncContextManager[Journal]:
        return journal(self.dsn)

    @asynccontextmanager
    async def opened_by(
        self, machines: int, *, clocks_off: float = 0.0
    ) -> AsyncIterator[Sequence[Store]]:
        async with contextlib.AsyncExitStack() as stack:
            yield [
                await stack.enter_async_context(journal(self.dsn, clock=ClockOff(n * clocks_off)))
                for n in range(machines)
            ]

    async def pass_time(self, store: Store, seconds: float) -> None:
        with contextlib.closing(connect(Dsn.parse(self.dsn))) as connection:
            connection.execute("UPDATE owner SET seen_at = seen_at - ?", (seconds,))


@pytest.fixture
def dsn(shared_dsn: str) -> str:
    return shared_dsn


def columns(rows: Iterable[Sequence[str]]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for table, column in rows:
        found.setdefault(table, set()).add(column)
    return found


async def test_both_databases_have_the_same_tables(postgres_dsn: str, tmp_path: Path) -> None:
    """One set of functions works on both; only a database has numbers of transactions."""
    with contextlib.closing(connect(Dsn.parse(set_up(postgres_dsn)))) as connection:
        there = columns(
            connection.execute(
                "SELECT table_name, column_name FROM information_schema.columns"
                " WHERE table_schema = 'apikley'"
            )
        )
    async with journal(str(tmp_path / "batch.db")):
        with contextlib.closing(sqlite3.connect(tmp_path / "batch.db")) as file:
            here = columns(
                file.execute(
                    "SELECT m.name, c.name FROM sqlite_schema AS m, pragma_table_info(m.name) AS c"
                    " WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite%'"
                )
            )

    for own in ("session", "version"):
        del there[own]
    there["folder"].remove("rowid")  # a file has it in every table
    assert there == here
    assert {*COPIED, "meta", "owner"} == here.keys()


COPIES = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'COPY item %'"
SLOW_INSERTS = """
    CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql
        AS 'BEGIN PERFORM pg_sleep(1.6); RETURN NULL; END';
    CREATE TRIGGER slow AFTER INSERT ON item EXECUTE FUNCTION slow()
"""


async def test_a_plan_that_takes_long_costs_nobody_its_lease(dsn: str) -> None:
    """Whoever lives may wait for its lock meanwhile, and not come to beat."""
    async with journal(dsn) as store:
        await store.plan([film("a"), film("b")])
        await store.claim("living", 1)
        with contextlib.closing(connect(Dsn.parse(dsn))) as connection:
            connection.run(SLOW_INSERTS)
            connection.execute("INSERT INTO owner VALUES ('dead', 'x', 0)")
            connection.execute("UPDATE item SET owner = 'dead' WHERE key = 'b'")
            connection.execute("UPDATE owner SET seen_at = seen_at - ?", (LEASE - 1,))
        await store.plan([film("c")])

        assert [item.key for item in await store.claim("another", 5)] == ["b", "c"]
        assert await store.beat("living") is None


async def test_a_plan_whose_caller_has_gone_is_given_up(dsn: str) -> None:
    """Nothing of it is stored, and what comes after it need not wait for its end."""
    with contextlib.closing(connect(Dsn.parse(dsn))) as connection:
        connection.run(SLOW_INSERTS)
        async with journal(dsn) as store:
            entries = (film(f"k{number}") for number in range(8000))
            planning = asyncio.create_task(store.plan(entries))
            while connection.execute(COPIES).fetchone()[0] == 0:  # noqa: ASYNC110 - a real server
                await asyncio.sleep(0.01)
            planning.cancel()
            async with asyncio.timeout(6):
                assert await store.items() == []


async def test_a_long_plan_is_a_few_statements(dsn: str, postgres_server: PostgresServer) -> None:
    """One for each film would hold the lock for as long as the network is far."""
    with tempfile.TemporaryDirectory(prefix="apg-") as folder:
        proxy = PostgresProxy(postgres_server.folder, Path(folder))
        with proxy.listening():
            async with journal(proxy.dsn_of(dsn)) as store:
                await store.plan([film("a")])
                before = len(proxy.queries)
                plan = await store.plan(film(f"k{number}") for number in range(2000))

                known = len(proxy.queries)
                again = await store.plan(film(f"k{number}") for number in range(2000))

    assert (plan.new, again.known) == (2000, 2000)
    assert known - before < 20
    # The server ends a transaction in which nothing is said for five seconds.
    assert sum(query == "SELECT 1" for query in proxy.queries[known:]) == 2


async def test_a_private_copy_is_a_file_that_nobody_else_sees(dsn: str) -> None:
    """It has all that is known, and what is done to it leaves the journal alone."""
    async with journal(dsn) as store:
        await store.plan([film(key) for key in "abc"])
        await store.bind("https://a.test", "mark")
        await store.claim("run", 2)
        await store.intend("a", "t1", "print", 150.0, owner="run", kind=10)
        await store.add_folder(tmp := Path("/films"))
        saved = SavedFile(tmp / "a.mp4", 5, "00ff" * 16)
        ended = Attempt("t1", Verdict.ACCEPTED, "task_1")
        await store.settle("a", ended, Transition(ItemEvent.ACCEPT, task_id="task_1"))
        await store.apply("a", Transition(ItemEvent.SUCCEED, credits=150.0, result="{}"))
        done = await store.apply("a", Transition(ItemEvent.SAVE, files=(saved,)))
        async with journal(dsn, private=True) as copy:
            assert await copy.item("a") == done
            assert await copy.attempts() == await store.attempts()
            assert await copy.events() == await store.events()
            assert await copy.spending() == await store.spending()
            with pytest.raises(JournalError, match="another key"):
                await copy.bind("https://a.test", "other")
            assert await copy.verify() == []
            await copy.plan([film("d")])
            assert len(await copy.claim("other", 9)) == 3
        assert len(await store.items()) == 3
        assert await store.beat("run") is None
        assert await store.verify() == []


async def test_a_folder_of_another_process_is_known(dsn: str) -> None:
    """A film may be saved by any of them, wherever that one saves films."""
    async with journal(dsn) as one, journal(dsn) as two:
        await one.plan([film("a")])
        await one.claim("run", 1)
        await one.intend("a", "t1", "print", None, owner="run")
        ended = Attempt("t1", Verdict.ACCEPTED, "task_1")
        await one.settle("a", ended, Transition(ItemEvent.ACCEPT, task_id="task_1"))
        await one.apply("a", Transition(ItemEvent.SUCCEED, result="{}"))
        saved = SavedFile(Path("/elsewhere/a.mp4"), 5, "00ff" * 16)
        await one.apply("a", Transition(ItemEvent.SAVE, files=(saved,)))

        assert (await two.item("a")).files == (saved,)
        assert [item.files for item in await two.items()] == [(saved,)]


async def test_folders_are_as_many_as_there_are_machines(dsn: str) -> None:
    """As where each saves films in a temporary folder of its own."""
    saved = SavedFile(Path("/elsewhere/a.mp4"), 5, "00ff" * 16)
    with contextlib.closing(connect(Dsn.parse(dsn))) as connection:
        many = "SELECT '/pods/' || n || '/films' FROM generate_series(1, 1500) AS n"
        connection.run(f"INSERT INTO folder (path) {many}")
    async with journal(dsn) as one, journal(dsn) as two:
        await one.plan([film("a")])
        await one.claim("run", 1)
        await one.intend("a", "t1", "print", None, owner="run")
        ended = Attempt("t1", Verdict.ACCEPTED, "task_1")
        await one.settle("a", ended, Transition(ItemEvent.ACCEPT, task_id="task_1"))
        await one.apply("a", Transition(ItemEvent.SUCCEED, result="{}"))
        await one.apply("a", Transition(ItemEvent.SAVE, files=(saved,)))

        assert (await two.item("a")).files == (saved,)
    async with journal(dsn) as again:
        assert (await again.item("a")).files == (saved,)


async def test_the_server_is_told_no_values_with_a_statement(
    dsn: str, postgres_server: PostgresServer
) -> None:
    """It logs statements that fail, and shows them to others: with a prompt or a link in them."""
    links = '{"urls": ["https://cdn.example/a.mp4?X-Signature=CANARY"]}'
    with tempfile.TemporaryDirectory(prefix="apg-") as folder:
        proxy = PostgresProxy(postgres_server.folder, Path(folder))
        with proxy.listening():
            async with journal(proxy.dsn_of(dsn)) as store:
                await store.plan([film("a", "CANARY")])
                await store.claim("run", 1)
                await store.intend("a", "t1", "print", None, owner="run")
                raw = Attempt("t1", Verdict.ACCEPTED, "task_1", raw=links)
                await store.settle("a", raw, Transition(ItemEvent.ACCEPT, task_id="task_1"))
                await store.apply("a", Transition(ItemEvent.SUCCEED, result=links))
                assert (await store.item("a")).result == links
                await store.purge({"a": (await store.item("a")).payload})
    assert any("UPDATE item" in query for query in proxy.queries)
    assert not any("CANARY" in query for query in proxy.queries)


@pytest.mark.parametrize("may_rewrite", [True, False])
async def test_a_purge_that_leaves_old_text_on_the_disk_says_so(
    dsn: str, postgres_server: PostgresServer, may_rewrite: bool
) -> None:
    """The server only warns whoever may not write a table anew, and does nothing."""
    database = Dsn.parse(dsn).parameters["dbname"]
    user = f"{database}_purger"
    with contextlib.closing(connect(Dsn.parse(dsn))) as connection:
        connection.run(
            f"CREATE ROLE {user} LOGIN",
            *(f"GRANT {rights} apikley TO {user}" for rights in RIGHTS),
        )
        for table in ("item", "attempt", "event") if may_rewrite else ():
            connection.run(f"ALTER TABLE {table} OWNER TO {user}")
    async with journal(dsn.replace("apikley@", f"{user}@")) as store:
        await store.plan([film("a")])
        purging = store.purge({"a": (await store.item("a")).payload})
        if may_rewrite:
            await purging
        else:
            with pytest.raises(JournalError, match="has the old text in its files still"):
                await purging
        assert [event["event"] for event in await store.events()] == ["purge"]


async def test_a_private_copy_is_of_one_moment(dsn: str, postgres_server: PostgresServer) -> None:
    """When its connection breaks, nothing of a later moment is added: all is copied again."""
    cuts: list[str] = []

    def cut(query: str) -> Cut | None:
        if cuts or not query.startswith("SELECT * FROM attempt"):
            return None
        cuts.append(query)
        with contextlib.closing(connect(Dsn.parse(dsn))) as connection:
            connection.run("DELETE FROM attempt", "DELETE FROM event", "DELETE FROM spent")
            connection.run("DELETE FROM item")
        return Cut.BEFORE

    async with journal(dsn) as store:
        await store.plan([film("a")])
        await store.claim("run", 1)
        await store.intend("a", "t1", "print", None, owner="run")
    with tempfile.TemporaryDirectory(prefix="apg-") as folder:
        proxy = PostgresProxy(postgres_server.folder, Path(folder))
        proxy.cut = cut
        with proxy.listening():
            async with journal(proxy.dsn_of(dsn), private=True, wait=10.0) as copy:
                found = [item.key for item in await copy.items()], await copy.verify()

    assert cuts
    assert found == ([], [])


async def test_what_nobody_here_wrote_is_refused(dsn: str) -> None:
    """Whoever may write into the database could write anything: it is read as a file is."""
    damages = {
        "UPDATE item SET key = '../a'": "not a key",
        "UPDATE item SET payload = '{}'": "not as it was planned",
        """UPDATE item SET files = '[{"path": "/etc/passwd", "size": 1, "sha256": "00"}]'""": (
            "no folder that films were saved in"
        ),
        "UPDATE item SET stored = 'x'": "not readable",
    }
    for damage, said in damages.items():
        async with journal(dsn) as store:
            await store.plan([film("a")])
            with contextlib.closing(connect(Dsn.parse(dsn))) as connection:
                connection.run(damage)
                with pytest.raises(JournalError, match=said):
                    await store.items()
                connection.run("DELETE FROM item")


async def test_another_id_than_its_own_is_no_journal(dsn: str) -> None:
    """It becomes a part of file names."""
    with contextlib.closing(connect(Dsn.parse(dsn))) as connection:
        connection.run("UPDATE meta SET value = '../../etc' WHERE name = 'journal_id'")

    with pytest.raises(JournalError, match="journal_id"):
        await Journal.open(dsn)


@pytest.mark.parametrize("number", [0, 2])
async def test_another_version_is_refused(dsn: str, number: int) -> None:
    """A newer one needs a newer package, an older one `db init`; nothing is touched."""
    with contextlib.closing(connect(Dsn.parse(dsn))) as connection:
        connection.execute("UPDATE version SET number = ? WHERE part = 'journal'", (number,))

    with pytest.raises(JournalError, match="db init" if number == 0 else "upgrade this package"):
        await Journal.open(dsn)


async def test_a_standby_takes_no_writes(dsn: str) -> None:
    """It is refused at once; it may be the primary when it is tried again."""
    async with journal(dsn) as store:
        await store.plan([film("a")])
    with contextlib.closing(connect(Dsn.parse(dsn))) as connection:
        name = connection.execute("SELECT current_database()").fetchone()[0]
        connection.run(f"ALTER DATABASE {name} SET default_transaction_read_only TO on")

    with pytest.raises(JournalError, match="Name the primary") as caught:
        await Journal.open(dsn)
    assert caught.value.resumable
    async with journal(dsn, read_only=True) as reader:
        assert [item.key for item in await reader.items()] == ["a"]


async def test_it_is_read_while_others_write(dsn: str) -> None:
    async with journal(dsn) as store, journal(dsn, read_only=True) as reader:
        await store.plan([film("a")])
        assert [item.key for item in await reader.items()] == ["a"]
        with pytest.raises(JournalError, match="reading only"):
            await reader.plan([film("b")])


async def test_what_is_about_files_is_said_so(dsn: str, tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="only the copy of a file is adopted"):
        await Journal.open(dsn, adopt=True)
    async with journal(dsn) as store:
        with pytest.raises(JournalError, match="pg_dump"):
            await store.backup(tmp_path / "copy.db")


async def test_a_nul_in_an_answer_is_stored(dsn: str) -> None:
    """PostgreSQL has no such character; the answer is evidence, and is not lost for it."""
    async with journal(dsn) as store:
        await store.plan([film("a")])
        await store.claim("run", 1)
        await store.intend("a", "t1", "print", None, owner="run")
        ended = Attempt("t1", Verdict.UNCERTAIN, None, raw="a\0b\ud800", cause="\0")
        await store.settle("a", ended, Transition(ItemEvent.UNCERTAIN, cause="\0"))

        assert (await store.attempts("a"))[0]["raw"] == "a\ufffdb?"

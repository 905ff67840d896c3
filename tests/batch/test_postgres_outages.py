"""The journal in PostgreSQL when its connection breaks, and when the database is away."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import re
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from batch.conformance_base import attempt, film
from batch.helpers import films, key_of_request, run_batch, states
from batch.test_postgres_journal import journal, set_up
from postgres_proxy import Cut, PostgresProxy
from postgres_server import PostgresServer
from volume import volume

from apikley_async import Backoff, Client, RateLimiter, SavedFile, SystemClock, Verdict
from apikley_async._postgres import Dsn, connect
from apikley_async.batch import Batch, ItemEvent, ItemState, Journal, Transition
from apikley_async.batch.store.postgres_journal import LOCK, PostgresJournal
from apikley_async.errors import JournalError
from apikley_async.simulator import Constant, Simulator, Terms

pytest.importorskip("psycopg", reason="the extra postgres is not installed")

ACCEPTED = Transition(ItemEvent.ACCEPT, task_id="task_1")


@pytest.fixture
def dsn(shared_dsn: str) -> str:
    return shared_dsn


@pytest.fixture
def proxy(postgres_server: PostgresServer) -> Iterator[PostgresProxy]:
    with tempfile.TemporaryDirectory(prefix="apg-") as folder:
        proxy = PostgresProxy(postgres_server.folder, Path(folder))
        with proxy.listening():
            yield proxy


async def story(store: Journal) -> list[object]:
    """Everything that a store can be asked to change, once; what it has answered."""
    told: list[object] = [await store.plan([film("a"), film("b"), film("c")], source="one")]
    await store.bind("https://a.test", "mark")
    told.append([item.key for item in await store.claim("run", 5)])
    told.append(await store.beat("run"))
    for key in "ab":
        await store.intend(key, f"t-{key}", "print", 150.0, owner="run", kind=10)
    told.append(await store.settle("a", attempt("t-a", Verdict.ACCEPTED, "task_1"), ACCEPTED))
    uncertain = Transition(ItemEvent.UNCERTAIN, cause="no answer")
    told.append(await store.settle("b", attempt("t-b", Verdict.UNCERTAIN), uncertain))
    await store.keep_callback("t-b", "task_2")
    told.append(
        await store.apply("a", Transition(ItemEvent.SUCCEED, credits=150.0, result='{"urls": []}'))
    )
    saved = SavedFile(Path("/films/a.mp4"), 5, "00ff" * 16)
    told.append(await store.apply("a", Transition(ItemEvent.SAVE, files=(saved,))))
    await store.release("run")
    told.append(await store.apply("b", Transition(ItemEvent.RESUBMIT, by="me")))
    told.append(await store.rename("c", "d", by="me"))
    await store.record_balance(1000.0)
    await store.write_learned("pace", "18")
    await store.add_folder(Path("/other"))
    told.append(await store.plan([film("a"), film("e")], source="one"))
    await store.purge({"a": (await store.item("a")).payload}, by="me")
    told.append([item.key for item in await store.items()])
    told.append(await store.verify())
    return told


def tables(dsn: str) -> dict[str, list[dict[str, object]]]:
    """All that a journal holds, but times, and numbers, which may have gaps."""
    with contextlib.closing(connect(Dsn.parse(dsn))) as connection:
        return {
            name: [
                {column: value for column, value in dict(row).items() if column not in VARY}
                for row in connection.execute(f"{EVERYTHING} {name} ORDER BY 1")
            ]
            for name in ("item", "attempt", "event", "inbox", "folder", "learned", "price", "spent")
        }


COMMIT = "; COMMIT"
WAITING = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
EVERYTHING = "SELECT * FROM"
VARY = {"at", "mono", "began_at", "ended_at", "ord", "seq", "rowid", "success_at", "seen_at"}


@pytest.fixture(scope="module")
def undisturbed(postgres_server: PostgresServer, prepared_database: str) -> tuple[object, object]:
    """What the story tells, and what it leaves behind, when nothing breaks."""
    dsn = postgres_server.create_database(prepared_database)

    async def tell() -> object:
        async with journal(dsn) as store:
            return await story(store)

    with ThreadPoolExecutor(1) as thread:  # the loop here belongs to a test
        told = thread.submit(asyncio.run, tell()).result()
    return told, tables(dsn)


def essence(told: object) -> str:
    """Answers without times, and without numbers, which may have gaps."""
    return re.sub(r"order=\d+|success_at=[^)]*\)", "", str(told))


async def same_story(
    store_dsn: str,
    proxy: PostgresProxy,
    undisturbed: tuple[object, object],
    cut: Callable[[str], Cut | None],
) -> None:
    """Play the story while connections are cut; it ends as it does when nothing breaks."""
    async with journal(proxy.dsn_of(store_dsn)) as store:
        proxy.cut = cut
        told = await story(store)
        proxy.cut = lambda query: None
    assert essence(told) == essence(undisturbed[0])
    assert tables(store_dsn) == undisturbed[1]


@pytest.mark.parametrize("where", Cut)
@pytest.mark.parametrize("first", [0, 1])
async def test_every_change_happens_once(
    dsn: str, proxy: PostgresProxy, undisturbed: tuple[object, object], where: Cut, first: int
) -> None:
    """Although every second COMMIT loses its connection: before, in or after it, or too late."""
    turns = itertools.count(first)

    def cut(query: str) -> Cut | None:
        return where if COMMIT in query and next(turns) % 2 == 0 else None

    await same_story(dsn, proxy, undisturbed, cut)
    assert proxy.cuts > 5


async def test_what_is_asked_after_a_change_does_not_repeat_it(
    dsn: str, proxy: PostgresProxy, undisturbed: tuple[object, object]
) -> None:
    """The connection breaks with the first question that follows each COMMIT."""
    changed = False

    def cut(query: str) -> Cut | None:
        nonlocal changed
        asks, changed = changed and "BEGIN" not in query, COMMIT in query
        return Cut.DURING if asks else None

    await same_story(dsn, proxy, undisturbed, cut)
    assert proxy.cuts > 3


def cuts_by_chance(rng: random.Random) -> Callable[[str], Cut | None]:
    return lambda query: rng.choice([*Cut]) if rng.random() < 0.1 else None


async def test_a_connection_may_break_anywhere(
    postgres_server: PostgresServer,
    prepared_database: str,
    proxy: PostgresProxy,
    undisturbed: tuple[object, object],
) -> None:
    """At any statement, and again while what has happened is being found out."""
    cuts = 0
    for seed in volume(range(3, 4), range(100)):
        dsn = postgres_server.create_database(prepared_database)
        await same_story(dsn, proxy, undisturbed, cuts_by_chance(random.Random(seed)))
        cuts, proxy.cuts = cuts + proxy.cuts, 0
    assert cuts > 1


# --- the database is away -------------------------------------------------------------------------


@contextlib.contextmanager
def away(server: PostgresServer) -> Iterator[None]:
    """The server is stopped, and comes back."""
    server.stop()
    try:
        yield
    finally:
        server.start()


async def turned(condition: Callable[[], bool]) -> None:
    """Let the loop turn until something has happened in another thread."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - no thread tells the loop
            await asyncio.sleep(0)


async def test_a_process_that_stands_still_within_a_transaction_does_it_again(dsn: str) -> None:
    """The database has ended it, so that others could go on: that is no fault."""
    opened = PostgresJournal(Dsn.parse(dsn))
    opened.connect()
    begun = 0

    def work() -> None:
        nonlocal begun
        with opened.transaction():
            begun += 1
            opened.db.execute("INSERT INTO learned VALUES ('a', 'b', 1)")
            if begun < 3:
                opened.db.execute("SET idle_in_transaction_session_timeout TO '20ms'")
                with contextlib.closing(connect(Dsn.parse(dsn))) as other:
                    while other.run("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'"):
                        time.sleep(0.01)
            if begun == 1:
                opened.db.execute("SELECT 1")

    await asyncio.to_thread(opened.perform, work)
    [number] = opened.db.execute("SELECT count(*) FROM learned").fetchone()
    opened.close()
    assert (begun, number) == (3, 1)


async def test_nothing_is_sent_while_the_database_is_away(
    dsn: str, postgres_server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    """An intent waits, and happens once when it is back. It is said once, and once more."""
    async with journal(dsn) as store:
        await store.plan([film("a")])
        await store.claim("run", 1)
        with away(postgres_server):
            intending = asyncio.ensure_future(store.intend("a", "t1", "print", 150.0, owner="run"))
            looking = asyncio.ensure_future(store.item("a"))
            await turned(lambda: bool(caplog.records))
            assert not intending.done()
        await intending
        assert (await looking).state is ItemState.SENDING
        assert len(await store.attempts("a")) == 1
    [gone, back] = [record.message for record in caplog.records]
    assert "is away, so nothing is sent" in gone
    assert "is back" in back


async def test_the_id_of_a_paid_film_is_noted_while_the_database_is_away(
    dsn: str, postgres_server: PostgresServer
) -> None:
    """Whatever happens to the process then; the note goes when the journal has the id."""
    async with journal(dsn) as store:
        await store.plan([film("a")])
        await store.claim("run", 1)
        await store.intend("a", "t1", "print", 150.0, owner="run")
        places = store.rescue_places
        with away(postgres_server):
            settling = asyncio.ensure_future(
                store.settle("a", attempt("t1", Verdict.ACCEPTED, "task_1"), ACCEPTED)
            )
            await turned(lambda: bool(places.found()))
            [note] = places.found()
            assert "task_1" in note.read_text()
        assert (await settling).task_id == "task_1"
        assert places.found() == []


async def test_a_paid_film_is_rescued_when_all_is_closed_meanwhile(
    dsn: str, postgres_server: PostgresServer
) -> None:
    """The next one who opens the journal on this machine tells it of the task."""
    store = await Journal.open(dsn)
    await store.plan([film("a"), film("b")])
    await store.claim("run", 2)
    for key in "ab":
        await store.intend(key, f"t-{key}", "print", 150.0, owner="run")
    with away(postgres_server):
        settling = [
            asyncio.ensure_future(
                store.settle(
                    key,
                    attempt(f"t-{key}", Verdict.ACCEPTED, f"task_{key}"),
                    Transition(ItemEvent.ACCEPT, task_id=f"task_{key}"),
                )
            )
            for key in "ab"
        ]
        await asyncio.sleep(0)
        await store.aclose()
        for result in await asyncio.gather(*settling, return_exceptions=True):
            assert isinstance(result, JournalError)
            assert "is paid, its id is written down in" in str(result)
            assert result.resumable
    async with journal(dsn) as again:
        items = await again.items()
        assert [item.task_id for item in items] == ["task_a", "task_b"]
        assert again.rescue_places.found() == []
        assert await again.verify() == []


async def test_a_database_that_has_lost_commits_is_refused(dsn: str, proxy: PostgresProxy) -> None:
    """As after a standby took over that was behind: paid films would look as if they were not."""
    async with journal(proxy.dsn_of(dsn)) as store:
        await store.plan([film("a")])
        with contextlib.closing(connect(Dsn.parse(dsn))) as connection:
            connection.run("UPDATE session SET number = number - 1")
        cuts = iter([Cut.BEFORE])
        proxy.cut = lambda query: next(cuts, None)

        for _ in range(2):
            with pytest.raises(JournalError, match="has lost what was written last"):
                await store.item("a")


async def test_another_journal_in_its_place_is_refused(dsn: str, proxy: PostgresProxy) -> None:
    async with journal(proxy.dsn_of(dsn)) as store:
        await store.plan([film("a")])
        with contextlib.closing(connect(Dsn.parse(dsn))) as connection:
            connection.run("DROP SCHEMA apikley CASCADE")
        set_up(dsn)
        cuts = iter([Cut.BEFORE])
        proxy.cut = lambda query: next(cuts, None)

        with pytest.raises(JournalError, match="another journal than before"):
            await store.claim("run", 1)


async def test_an_opening_that_breaks_off_is_done_again(dsn: str, proxy: PostgresProxy) -> None:
    """When the database has not answered to its COMMIT; no connection is left behind."""
    for where in Cut:
        cuts = iter([where])
        proxy.cut = lambda query, cuts=cuts: next(cuts, None) if COMMIT in query else None  # type: ignore[misc]
        async with journal(proxy.dsn_of(dsn)) as store:
            assert await store.items() == []
    assert proxy.cuts == len(Cut)


@contextlib.contextmanager
def read_only(dsn: str) -> Iterator[None]:
    """The name leads to a standby, as while another server takes over."""
    ends = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid !="
    with contextlib.closing(connect(Dsn.parse(dsn))) as connection:
        [name] = connection.execute("SELECT current_database()").fetchone()
        changes = iter(("SET default_transaction_read_only TO on", "RESET ALL"))

        def change() -> None:
            connection.run(f"ALTER DATABASE {name} {next(changes)}")
            connection.run(f"{ends} pg_backend_pid() AND datname = current_database()")

        change()
        yield
        change()


async def test_a_standby_that_takes_over_is_waited_for(
    dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It takes no writes for some seconds: that is as if the database were away."""
    async with journal(dsn) as store:
        await store.plan([film("a")])
        with read_only(dsn):
            planning = asyncio.ensure_future(store.plan([film("b")]))
            await turned(lambda: planning.done() or bool(caplog.records))
            assert not planning.done()
        await planning
        assert [item.key for item in await store.items()] == ["a", "b"]
    [gone, back] = [record.message for record in caplog.records]
    assert "takes no writes" in gone
    assert "is back" in back


# What happens to each statement that changes the table `learned`.
ALWAYS = "CREATE TRIGGER always BEFORE INSERT ON learned FOR EACH ROW EXECUTE FUNCTION always()"
BODIES = {
    "the server ends the statement": "RAISE EXCEPTION USING ERRCODE = 'query_canceled';",
    "the server ends the connection": "PERFORM pg_terminate_backend(pg_backend_pid());",
    "it has become a standby": "RAISE EXCEPTION USING ERRCODE = 'read_only_sql_transaction';",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
async def test_what_never_works_is_not_tried_for_ever(
    dsn: str, body: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal is of use for everything else."""
    monkeypatch.setattr("apikley_async.batch.store.postgres_journal.FIRST_DELAY", 1e-4)
    async with journal(dsn) as store:
        with contextlib.closing(connect(Dsn.parse(dsn))) as connection:
            head = "CREATE FUNCTION always() RETURNS trigger LANGUAGE plpgsql AS"
            connection.run(f"{head} $$ BEGIN {body} RETURN NEW; END $$", ALWAYS)
        for _ in range(2):
            with pytest.raises(JournalError, match="ends this each time") as caught:
                await store.write_learned("pace", "18")
            assert caught.value.resumable
            await store.plan([film("a")])
            assert await store.verify() == []


async def test_a_path_that_is_too_long_for_an_index_is_refused(dsn: str) -> None:
    """The server will never take it."""
    rng = random.Random(1)
    folder = Path("/", *(rng.randbytes(100).hex() for _ in range(15)))
    async with journal(dsn) as store:
        with pytest.raises(JournalError, match="index row") as caught:
            await store.add_folder(folder)
        assert not caught.value.resumable
        await store.plan([film("a")])


async def test_closing_waits_for_no_lock(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever holds it: what waits for it is broken off, and is not tried again."""
    monkeypatch.setattr("apikley_async.batch.store.journal.CLOSING", 0.2)
    store = await Journal.open(dsn)
    with contextlib.closing(connect(Dsn.parse(dsn))) as connection:
        connection.run("BEGIN", LOCK)
        planning = asyncio.ensure_future(store.plan([film("a")]))
        await turned(lambda: bool(connection.run(WAITING)))
        async with asyncio.timeout(20):
            await store.aclose()
            with pytest.raises(JournalError, match="nothing was written"):
                await planning


async def test_what_may_have_been_written_is_said_so(
    dsn: str, proxy: PostgresProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the journal is closed before it is known whether a COMMIT has happened."""
    monkeypatch.setattr("apikley_async.batch.store.postgres_journal.FIRST_DELAY", 60.0)
    store = await Journal.open(proxy.dsn_of(dsn))
    after = iter([Cut.AFTER])
    away = False

    def cut(query: str) -> Cut | None:
        nonlocal away
        if COMMIT in query and (where := next(after, None)):
            away = True
            return where
        return Cut.BEFORE if away else None

    proxy.cut = cut
    planning = asyncio.ensure_future(store.plan([film("a")]))
    await turned(lambda: proxy.cuts > 1)
    await store.aclose()
    with pytest.raises(JournalError, match="may be there, or not"):
        await planning
    async with journal(dsn) as again:
        assert [item.key for item in await again.items()] == ["a"]


@pytest.mark.parametrize("days", [0, 30])
async def test_a_quiet_month_is_no_loss(
    dsn: str, proxy: PostgresProxy, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    """Numbers of transactions are removed for their age; one that is missing earlier is a loss."""
    for module in ("postgres_journal", "postgres_opening"):
        monkeypatch.setattr(f"apikley_async.batch.store.{module}.KEPT", days * 86400)
    async with journal(proxy.dsn_of(dsn)) as store:
        await store.plan([film("a")])
        async with journal(dsn):
            pass
        with contextlib.closing(connect(Dsn.parse(dsn))) as connection:
            if days:
                connection.run("DELETE FROM session")
            [left] = connection.execute("SELECT count(*) FROM session WHERE number > 1").fetchone()
        assert left == 0
        cuts = iter([Cut.BEFORE])
        proxy.cut = lambda query: next(cuts, None)
        if days:
            with pytest.raises(JournalError, match="has lost what was written last"):
                await store.plan([film("b")])
        else:
            await store.plan([film("b")])
            assert await store.verify() == []


async def test_where_no_database_is_nothing_is_waited_for(
    dsn: str, postgres_server: PostgresServer
) -> None:
    """Whoever opens it learns that at once, and may try again."""
    with away(postgres_server), pytest.raises(JournalError, match="cannot be reached") as caught:
        await Journal.open(dsn)
    assert caught.value.resumable


class NoticedClock(SystemClock):
    """A clock that says when it is waited on, and does not keep anybody waiting."""

    def __init__(self) -> None:
        self.waited_on = asyncio.Event()

    async def sleep(self, delay: float, until: asyncio.Event | None = None) -> bool:
        self.waited_on.set()
        return await super().sleep(0.01, until)


async def test_a_database_may_be_waited_for(dsn: str, postgres_server: PostgresServer) -> None:
    """As when machines start together; what will not pass is not waited for."""
    clock = NoticedClock()
    with away(postgres_server):
        opening = asyncio.ensure_future(Journal.open(dsn, clock=clock, wait=60))
        await clock.waited_on.wait()
    await (await opening).aclose()

    with pytest.raises(JournalError, match="no such database"):
        await Journal.open(postgres_server.dsn("nowhere"), wait=60)


async def test_a_database_that_never_answers_holds_nobody_up(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a server whose process is stopped: what is paid is noted, and the journal closes."""
    monkeypatch.setattr("apikley_async.batch.store.journal.CLOSING", 0.5)
    store = await Journal.open(dsn)
    await store.plan([film("a")])
    await store.claim("run", 1)
    await store.intend("a", "t1", "print", 150.0, owner="run")
    with contextlib.closing(connect(Dsn.parse(dsn))) as connection:
        query = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid !="
        [[backend]] = connection.execute(f"{query} pg_backend_pid()").fetchall()
        os.kill(backend, signal.SIGSTOP)
        try:
            settling = asyncio.ensure_future(
                store.settle("a", attempt("t1", Verdict.ACCEPTED, "task_1"), ACCEPTED)
            )
            await asyncio.sleep(0)
            async with asyncio.timeout(20):
                await store.aclose()
            # The connection was cut, and nothing is tried again: the id is noted on this machine.
            result = (await asyncio.gather(settling, return_exceptions=True))[0]
        finally:
            os.kill(backend, signal.SIGCONT)
    async with journal(dsn) as again:
        assert (await again.item("a")).task_id == "task_1", result
        assert await again.verify() == []


async def test_a_plan_that_waits_for_another_one_is_given_up_for_good(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its database is there, and it is not done again."""
    monkeypatch.setattr("apikley_async.batch.store.journal.CLOSING", 0.5)
    store = await Journal.open(dsn)
    with contextlib.closing(connect(Dsn.parse(dsn))) as other:
        other.run("SET idle_in_transaction_session_timeout TO 0", "BEGIN", LOCK)
        planning = asyncio.create_task(store.plan([film("a")]))
        await asyncio.sleep(0.5)
        planning.cancel()
        await asyncio.wait({planning})
        async with asyncio.timeout(5):
            await store.aclose()
        other.run("ROLLBACK")

    async with journal(dsn) as again:
        assert await again.items() == []


async def test_a_run_that_is_closed_while_the_database_is_away(
    dsn: str, postgres_server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answers of its last submissions come then: the next run has every film, paid once."""
    monkeypatch.setattr("apikley_async.batch.run.STORING_END", 0.5)
    terms = Terms(duration=Constant(0.2), limit=None, latency=Constant(0.3))
    async with Simulator(terms) as simulator:
        for life in range(2):
            limiter = RateLimiter(1000, 0.1)
            polling = Backoff(initial=0.05, maximum=0.2)
            client = Client(
                simulator.api_key, base_url=simulator.base_url, limiter=limiter, polling=polling
            )
            async with client, Batch.open(dsn) as batch:
                await batch.add(films(8))
                running = asyncio.ensure_future(run_batch(batch, client, folder=tmp_path / "films"))
                if life == 0:
                    batch.grace = 3.0
                    await turned(lambda: len(simulator.ledger.creations) >= 4)
                    await asyncio.to_thread(postgres_server.stop)
                    await turned(lambda: len(simulator.ledger.paid) >= 4)
                    batch.stop()
                    with contextlib.suppress(JournalError):
                        await batch.aclose()
                with contextlib.suppress(JournalError, asyncio.CancelledError):
                    await running
            if life == 0:
                postgres_server.start()
                with contextlib.closing(connect(Dsn.parse(dsn))) as connection:
                    connection.run("UPDATE owner SET seen_at = seen_at - 100")
        paid = [key_of_request(charge.body) for charge in simulator.ledger.paid]
    async with Batch.open(dsn) as batch:
        assert set((await states(batch)).values()) == {ItemState.DONE}
        assert sorted(paid) == [f"k{number}" for number in range(8)]
        assert await batch.verify() == []

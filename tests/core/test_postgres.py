"""Where a database is, how it is reached, and what is said when it is not."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from postgres_server import PostgresServer

from apikley_async._postgres import (
    Connection,
    Dsn,
    check_version,
    connect,
    connection_error,
    database_error,
    is_dsn,
    is_lost,
    reason_of,
    translate,
    upgrade,
)
from apikley_async.errors import JournalError

psycopg = pytest.importorskip("psycopg", reason="the extra postgres is not installed")

ONE = (("CREATE TABLE thing (number INTEGER)",),)
TWO = (*ONE, ("ALTER TABLE thing ADD COLUMN word TEXT", "INSERT INTO thing VALUES (1, 'a')"))

# A DSN, and what is shown of it.
NAMES = {
    "postgresql://u:p%40ss@h:5433/db?sslmode=require": "postgresql://u@h:5433/db?sslmode=require",
    "postgres:///db?password=secret": "postgresql:///db",
    "postgresql://?service=films": "postgresql://?service=films",
    "postgresql://u:secret@/t1?host=/tmp/a%20b&port=5432": (
        "postgresql://u@/t1?host=/tmp/a%20b&port=5432"
    ),
    "postgresql://[::1]:5432/x": "postgresql:///x?host=::1&port=5432",
    "postgresql://a:1,b:2/x?sslpassword=secret": "postgresql:///x?host=a,b&port=1,2",
    "postgresql://h": "postgresql://h",
}


@pytest.fixture
def dsn(postgres_dsn: str) -> Dsn:
    return Dsn.parse(postgres_dsn)


@pytest.fixture
def connection(dsn: Dsn) -> Iterator[Connection]:
    opened = connect(dsn)
    yield opened
    opened.close()


def test_a_password_is_never_shown() -> None:
    """What is shown is a DSN again, with everything else in it."""
    for text, name in NAMES.items():
        dsn = Dsn.parse(text)

        assert (dsn.name, str(dsn)) == (name, name)
        assert Dsn.parse(name).name == name
        assert dsn.has_password is ("secret" in text or "p%40ss" in text)
        assert "secret" not in repr(dsn)
        assert "p%40ss" not in repr(dsn)
        assert "p@ss" not in repr(dsn)


@pytest.mark.parametrize("text", ["postgresql://u:pa%zz@h/d", "postgresql://u:pazz@h/d?pazz=1"])
def test_what_is_no_dsn_is_not_repeated(text: str) -> None:
    """It may hold a password, wherever that has slipped to."""
    with pytest.raises(JournalError, match="not a DSN") as caught:
        Dsn.parse(text)

    assert "zz" not in str(caught.value)


@pytest.mark.parametrize("password", ["pa/zz", "pa@zz", "/zz", "1/zz", "pa@zz/zz", "pa?zz@zz"])
def test_a_password_that_is_not_escaped_is_not_shown(password: str) -> None:
    """The end of it is taken by libpq for the name of a host, a port or a database."""
    with pytest.raises(JournalError, match="@ is written as %40") as caught:
        Dsn.parse(f"postgresql://u:{password}@host/db")

    assert "zz" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "postgresql+psycopg://u:zz@h/d",
        "PostgreSQL://u:zz@h/d",
        "postgresql+x://h/d?password=zz",
        "jdbc:postgresql://u:zz@h/d",
        "'postgresql://u:zz@h/d'",
        "postgresql:/u:zz@h/d",
        "postgres:u:zz@h",
        "options=x word=zz",
        "date=zz/films.db",
    ],
)
def test_what_resembles_a_dsn_is_no_path(text: str) -> None:
    """As those of other libraries. A path is shown, and made."""
    assert is_dsn(text)
    with pytest.raises(JournalError, match="not a DSN") as caught:
        Dsn.parse(text)

    assert "zz" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "host=h dbname=d password=secret",
        "connect_timeout=5 password=secret host=h dbname=d",
        " password = secret host=h dbname=d",
        " postgresql://u:secret@h/d\n",
        "postgresql://h/d?scram_client_key=secret&scram_server_key=secret",
    ],
)
def test_words_of_libpq_are_a_dsn(text: str) -> None:
    """Whichever comes first, and whatever is around them: otherwise a file of that name is made."""
    if "scram" in text and psycopg.pq.version() < 180000:
        pytest.skip("this libpq knows no keys of SCRAM")

    assert is_dsn(text)
    assert Dsn.parse(text).name.endswith("h/d" if "5" not in text else "h/d?connect_timeout=5")
    assert Dsn.parse(text).has_password
    assert "secret" not in repr(Dsn.parse(text))


def test_files_are_no_databases() -> None:
    assert is_dsn("postgresql://h/d")
    assert is_dsn("postgres://h/d")
    for other in ("films.db", "postgresql/h/d", "/postgresql://h", None, "./a=b.db", "C://a.db"):
        assert not is_dsn(other)


def test_marks_are_translated_outside_of_quotes() -> None:
    statement = """SELECT 'a?%', "b:c", x::text FROM t WHERE a = ? AND b = :foo AND c LIKE '%'"""

    assert translate(statement) == (
        """SELECT 'a?%%', "b:c", x::text FROM t WHERE a = %s AND b = %(foo)s AND c LIKE '%%'"""
    )


def test_rows_are_read_by_name_and_by_position(connection: Connection) -> None:
    """As those of SQLite; a mark that is compared with nothing needs a type."""
    [row] = connection.execute(
        "SELECT :a AS a, 2 AS b WHERE :b::text IS NULL", {"a": "x?", "b": None}
    )

    assert (row["a"], row[1], [*row], dict(row)) == ("x?", 2, ["x?", 2], {"a": "x?", "b": 2})


# --- what is said ---------------------------------------------------------------------------------


def refusal(text: str) -> JournalError:
    dsn = Dsn.parse(text)
    with pytest.raises(psycopg.Error) as caught:
        connect(dsn)
    error = connection_error(caught.value, dsn)
    assert "secret" not in str(error)
    assert str(error).startswith(dsn.name)
    return error


def test_where_no_server_answers() -> None:
    """It may answer later."""
    for place in ("postgresql://u:secret@127.0.0.1:1/x", "postgresql:///x?host=/nonexistent"):
        error = refusal(place)

        assert error.resumable
        assert "cannot be reached" in str(error)


def test_what_the_server_refuses(postgres_server: PostgresServer) -> None:
    """It will refuse it again, until somebody does something about it."""
    wrong_user = postgres_server.dsn("postgres").replace("apikley@", "nobody:secret@")
    for place, advice in (
        (wrong_user, "pgpass"),
        (postgres_server.dsn("nowhere"), "createdb"),
        ("postgresql://?service=nothing", "pg_service.conf"),
    ):
        error = refusal(place)

        assert not error.resumable
        assert advice in str(error)


def test_a_server_without_tls() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            there, _ = server.accept()
            with there:
                there.recv(8)
                there.sendall(b"N")
                there.recv(8)

        answering = threading.Thread(target=answer)
        answering.start()
        error = refusal(f"postgresql://127.0.0.1:{server.getsockname()[1]}/x?sslmode=require")
        answering.join()

    assert "sslmode" in str(error)
    assert not error.resumable


@pytest.mark.parametrize(
    "reason",
    [
        "failed to resolve host 'certificate.test': Name or service not known",
        'connection to server at "certificate.test" (192.0.2.1), port 1 failed: refused',
    ],
)
def test_the_name_of_a_host_is_no_reason(reason: str) -> None:
    error = connection_error(psycopg.OperationalError(reason), Dsn.parse("postgresql://h/d"))

    assert "cannot be reached" in str(error)
    assert error.resumable


@pytest.mark.parametrize("last", [b"S", b"E"])
def test_a_connection_that_breaks_in_tls_is_made_again(last: bytes) -> None:
    """It is no wrong setting, nor is a host that is named as one."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            there, _ = server.accept()
            with there:
                there.recv(8)
                there.sendall(last)

        answering = threading.Thread(target=answer)
        answering.start()
        place = f"ssl-certificate.test:{server.getsockname()[1]}/x?hostaddr=127.0.0.1"
        error = refusal(f"postgresql://{place}&sslmode=require")
        answering.join()

    assert "cannot be reached" in str(error)
    assert error.resumable


def test_what_the_database_answers(connection: Connection, dsn: Dsn) -> None:
    """A connection that is gone is told from a statement that is wrong."""
    long = "".join(f"{number:x}" for number in range(20_000))
    connection.run("CREATE TABLE public.long (word TEXT PRIMARY KEY)")
    answers = {
        f"INSERT INTO public.long VALUES ('{long}')": "index row",  # noqa: S608
        "SELECT * FROM nothing": "db check",
        "SELECT 1/0": "division by zero",
    }
    for statement, said in answers.items():
        with pytest.raises(psycopg.Error) as caught:
            connection.run(statement)
        assert not is_lost(caught.value)
        assert said in str(database_error(caught.value, dsn))


def test_a_standby_may_be_the_primary_soon(connection: Connection, dsn: Dsn) -> None:
    """Or another server is, where the same name leads to it."""
    connection.run("CREATE TABLE public.kept (number INTEGER)")
    connection.run("SET default_transaction_read_only TO on")
    with pytest.raises(psycopg.Error) as caught:
        connection.run("INSERT INTO public.kept VALUES (1)")

    assert is_lost(caught.value)
    for error in (connection_error(caught.value, dsn), database_error(caught.value, dsn)):
        assert "Name the primary" in str(error)
        assert error.resumable


@pytest.mark.parametrize("setting", ["statement_timeout", "lock_timeout", "idle_session_timeout"])
def test_no_timeout_of_a_database_holds(
    postgres_server: PostgresServer, dsn: Dsn, setting: str
) -> None:
    """A statement that is cut off each time would be sent again and again."""
    if postgres_server.execute(f"SELECT current_setting('{setting}', true)") == "None":
        pytest.skip("this server has no such setting")
    name = dsn.parameters["dbname"]
    postgres_server.execute(f"ALTER DATABASE {name} SET {setting} TO '99ms'")
    with contextlib.closing(connect(dsn)) as opened:
        [found] = opened.execute(f"SELECT current_setting('{setting}')").fetchone()

    assert found == "0"


def test_a_lost_connection_is_known(postgres_server: PostgresServer, connection: Any) -> None:
    postgres_server.restart()

    for _ in range(2):
        with pytest.raises(psycopg.Error) as caught:
            connection.execute("SELECT 1")
        assert is_lost(caught.value)


# --- versions -------------------------------------------------------------------------------------


def test_each_part_is_upgraded(connection: Connection, dsn: Dsn) -> None:
    """What a version holds is made once; another part does not touch it."""
    with pytest.raises(JournalError, match="apikley db init"):
        check_version(connection, "one", ONE, dsn)

    assert upgrade(connection, {"one": ONE}, dsn) == {"one": 0}
    check_version(connection, "one", ONE, dsn)
    with pytest.raises(JournalError, match="older version"):
        check_version(connection, "one", TWO, dsn)
    assert upgrade(connection, {"one": TWO, "other": ()}, dsn) == {"one": 1, "other": 0}
    assert upgrade(connection, {"one": TWO}, dsn) == {"one": 2}
    check_version(connection, "one", TWO, dsn)

    assert [[*row] for row in connection.execute("SELECT * FROM thing")] == [[1, "a"]]


def test_a_newer_version_is_left_as_it_is(connection: Connection, dsn: Dsn) -> None:
    """Whoever has upgraded the database has upgraded it for all."""
    upgrade(connection, {"one": TWO}, dsn)

    for refused in (
        lambda: check_version(connection, "one", ONE, dsn),
        lambda: upgrade(connection, {"other": ONE, "one": ONE}, dsn),
    ):
        with pytest.raises(JournalError, match="newer version"):
            refused()
    with pytest.raises(JournalError, match="not set up"):
        check_version(connection, "other", ONE, dsn)


def test_an_upgrade_that_fails_changes_nothing(connection: Connection, dsn: Dsn) -> None:
    upgrade(connection, {"one": ONE}, dsn)

    with pytest.raises(psycopg.Error):
        upgrade(connection, {"one": (*TWO, ("SELECT nonsense",))}, dsn)

    check_version(connection, "one", ONE, dsn)
    assert dict(connection.execute("SELECT count(*) AS n FROM thing").fetchone()) == {"n": 0}


def test_many_upgrade_at_once(dsn: Dsn) -> None:
    """As many workers that are started together may: one does it, the others find it done."""
    before: list[dict[str, int]] = []

    def once() -> None:
        connection = connect(dsn)
        before.append(upgrade(connection, {"one": TWO}, dsn))
        connection.close()

    threads = [threading.Thread(target=once) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(each["one"] for each in before) == [0, 2, 2, 2]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            psycopg.errors.IdleInTransactionSessionTimeout(
                "terminating connection due to idle-in-transaction timeout"
            ),
            "this process stood still for more than 5 s within a transaction",
        ),
        (
            psycopg.OperationalError(
                "consuming input failed: terminating connection due to idle-in-transaction timeout"
                "\nserver closed the connection unexpectedly"
            ),
            "this process stood still for more than 5 s within a transaction",
        ),
        (
            psycopg.OperationalError(
                "consuming input failed: server closed the connection unexpectedly\n"
                "\tThis probably means the server terminated abnormally\n"
                "\tbefore or while processing the request."
            ),
            "the server has closed the connection",
        ),
        (
            psycopg.errors.AdminShutdown("terminating connection due to administrator command"),
            "the server is being stopped, or has ended the connection",
        ),
        (
            psycopg.OperationalError(
                "connection failed: FATAL:  the database system is starting up"
            ),
            "the server is being stopped or started",
        ),
        (TimeoutError(), "it has not answered in time"),
        (OSError(), "OSError"),
        (
            psycopg.OperationalError(
                'connection failed: connection to server at "10.0.0.9", port 5432 failed: '
                "Connection refused\n\tIs the server running on that host?"
            ),
            'connection to server at "10.0.0.9", port 5432 failed: Connection refused',
        ),
    ],
    ids=repr,
)
def test_why_a_database_does_not_answer_is_said_in_words(error: Exception, said: str) -> None:
    """What has happened, and not what a library calls it; never nothing."""
    assert reason_of(error).startswith(said)
    assert "\n" not in reason_of(error)

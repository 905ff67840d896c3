"""The server that the tests of shared journals run on is a real one, and survives what they do."""

import signal

import pytest
from postgres_server import PostgresServer

psycopg = pytest.importorskip("psycopg", reason="the extra postgres is not installed")


def rows(dsn: str) -> list[tuple[int]]:
    with psycopg.connect(dsn) as db:
        return [*db.execute("SELECT number FROM kept ORDER BY number")]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
def test_what_was_committed_is_there_after_a_restart(
    postgres_server: PostgresServer, postgres_dsn: str, how: signal.Signals
) -> None:
    with psycopg.connect(postgres_dsn) as db:
        db.execute("CREATE TABLE kept (number int)")
        db.execute("INSERT INTO kept VALUES (1)")
    lost = psycopg.connect(postgres_dsn)
    lost.execute("INSERT INTO kept VALUES (2)")

    postgres_server.restart(how)

    with pytest.raises(psycopg.OperationalError):
        lost.commit()
    assert rows(postgres_dsn) == [(1,)]


def test_each_database_is_empty(postgres_server: PostgresServer, postgres_dsn: str) -> None:
    assert postgres_dsn != postgres_server.create_database()
    query = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
    with psycopg.connect(postgres_dsn) as db:
        assert db.execute(query).fetchone() == (0,)

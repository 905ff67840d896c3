"""Commands on a journal in PostgreSQL: each does what it does on a file."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from cli.conftest import Run, fail_bad_films, write_manifest
from forked_process import ForkedProcess
from postgres_server import PostgresServer

from apikley_async.cli import batch_status, main
from apikley_async.cli.output.shell_words import quoted
from apikley_async.simulator import Constant, Fault, Simulator, Terms

pytest.importorskip("psycopg", reason="the extra postgres is not installed")


@pytest.fixture
def terms() -> Terms:
    return Terms(duration=Constant(0.01), decide=fail_bad_films)


@pytest.fixture
def dsn(shared_dsn: str) -> str:
    return shared_dsn


def test_a_database_is_set_up_once(postgres_dsn: str, run: Run) -> None:
    """Until then it is refused; again is no change."""
    before = run("db", "check", postgres_dsn)
    assert (before.code, "apikley db init" in before.err) == (2, True)

    for was in (0, 1):
        done = run("db", "init", postgres_dsn, "--json")
        assert done.code == 0
        event = done.event("set_up")
        assert (event["before"]["journal"], event["now"]["journal"]) == (was, 1)
        assert set(event["now"]) == {"journal", "limiter", "callbacks", "procrastinate"}

    after = run("db", "check", postgres_dsn, "--json")
    assert (after.code, after.event("database")["films"]) == (0, {})


def test_a_password_is_not_taken_where_all_can_read_it(postgres_dsn: str, run: Run) -> None:
    """Nor is it repeated."""
    dsn = postgres_dsn.replace("apikley@", "apikley:secret@")
    for command in (
        ("db", "init", dsn),
        ("db", "check", f"{postgres_dsn}&password=secret"),
        ("batch", "status", dsn),
        ("batch", "run", "films.jsonl", "--journal", dsn, "--yes"),
    ):
        refused = run(*command)
        assert refused.code == 2
        assert ".pgpass" in refused.err
        assert "secret" not in refused.out + refused.err


def test_a_database_that_is_away(
    dsn: str, postgres_server: PostgresServer, service: Simulator, run: Run
) -> None:
    """The same command works later: exit code 4, and nothing was sent."""
    manifest = write_manifest("kitten")
    postgres_server.stop()
    try:
        for command in (
            ("db", "check", dsn),
            ("db", "init", dsn),
            ("batch", "status", dsn),
            ("batch", "run", manifest, "--journal", dsn, "--yes"),
            ("worker", "--journal", dsn),  # systemd starts it again, as it does not after a 2
        ):
            refused = run(*command)
            assert (refused.code, "cannot be reached" in refused.err) == (4, True), command
    finally:
        postgres_server.start()
    assert service.ledger.paid == []


def test_the_life_of_a_batch(dsn: str, service: Simulator, run: Run) -> None:
    """Run, looked at, decided about; each command finds what the one before has left."""
    manifest = write_manifest("kitten", "lighthouse")
    dry = run("batch", "run", manifest, "--journal", dsn, "--dry-run", "--price", "100")
    assert (dry.code, "2 films to be paid, 200 credits" in dry.out + dry.err) == (0, True)
    assert "0 films to be paid" in run("batch", "estimate", dsn).out

    made = run("batch", "run", manifest, "--journal", dsn, "-o", "films", "--yes", "--here")
    again = run("batch", "run", dsn, "-o", "films", "--yes", "--json", "--here")

    assert made.code == again.code == 0
    assert [*map(str, sorted(Path("films").glob("*.mp4")))] == [
        "films/kitten.mp4",
        "films/lighthouse.mp4",
    ]
    assert len(service.ledger.paid) == 2
    assert run("batch", "status", dsn).code == 0
    shown = run("batch", "status", dsn, "kitten", "--json")
    assert "task_id" in shown.out
    assert run("batch", "verify", dsn).code == 0
    assert run("batch", "rename", dsn, "kitten", "cat").code == 0
    Path("films/kitten.mp4").unlink()
    assert run("batch", "verify", dsn).code == 1
    assert run("batch", "save", dsn, "cat", "-o", "films").code == 0
    assert run("batch", "purge", dsn, "cat").code == 0
    assert run("batch", "report", dsn, "-o", "page.html").code == 0
    assert "test" in Path("page.html").read_text()
    assert "at dawn" not in run("batch", "status", dsn, "cat", "--json").out
    assert run("batch", "verify", dsn).code == 0
    assert len(service.ledger.paid) == 2


def test_without_a_terminal_only_what_is_taken_there_is_named(
    dsn: str, service: Simulator, run: Run
) -> None:
    """The workers pay, so a bound of this command is refused, and not recommended before."""
    words = ("batch", "run", write_manifest("kitten"), "--journal", dsn)
    followed, here = run(*words), run(*words, "--here")

    assert (followed.code, "to agree, add --yes:" in followed.err) == (2, True)
    assert "add --yes or --max-credits:" in here.err
    assert run(*words, "--max-credits", "10").code == 2
    assert service.ledger.paid == []


def test_failed_films_take_new_content(dsn: str, service: Simulator, run: Run) -> None:
    """The manifest is in a file, and the journal is not beside it."""
    manifest = write_manifest("bad", "kitten")
    words = ("--journal", dsn, "-o", "films", "--here", "--yes")
    assert run("batch", "run", manifest, *words).code == 1
    manifest.write_text(manifest.read_text().replace("bad at dawn", "good at dawn"))

    retried = run("batch", "retry", manifest, "--changed", "--journal", dsn)
    assert (retried.code, "To go on: apikley worker --journal" in retried.err) == (0, True)
    assert run("batch", "run", manifest, *words).code == 0
    assert run("batch", "retry", dsn, "--journal", dsn).code == 2


def test_commands_to_type_lead_to_the_database(dsn: str, service: Simulator, run: Run) -> None:
    """Quoted for a shell: a DSN has characters that a shell would take."""
    manifest = write_manifest("kitten", "lighthouse")
    words = ("--journal", dsn, "-o", "films", "--max-tasks", "1", "--yes", "--here")
    ended = run("batch", "run", manifest, *words)

    assert ended.code == 4
    assert f"--journal '{dsn}'" in ended.err


def test_what_is_about_files_is_said_so(dsn: str, run: Run) -> None:
    """Copies are made by the database's own tools."""
    backup, adopted = run("batch", "backup", dsn, "copy.db"), run("batch", "adopt", dsn)

    assert (backup.code, "pg_dump" in backup.err) == (2, True)
    assert (adopted.code, "is a database" in adopted.err) == (2, True)


def test_a_journal_of_another_account(
    dsn: str, service: Simulator, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tasks would not be found; nothing is sent."""
    manifest = write_manifest("kitten")
    assert run("batch", "run", manifest, "--journal", dsn, "--yes", "--here").code == 0
    monkeypatch.setenv("APIKLEY_API_KEY", "another-key-that-opens-nothing")

    refused = run("batch", "run", write_manifest("other"), "--journal", dsn, "--yes")

    assert (refused.code, "another key" in refused.err) == (2, True)
    assert len(service.ledger.paid) == 1
    assert '"key": "other"' not in run("batch", "status", dsn, "--json").out


def test_without_here_films_are_added_and_workers_make_them(
    dsn: str, service: Simulator, run: Run, tmp_path: Path
) -> None:
    """The command shows how far they are, and ends when nothing is left to make."""
    manifest = write_manifest("kitten", "lighthouse")
    refused = run("batch", "run", manifest, "--journal", dsn, "--yes", "--max-tasks", "1")
    assert (refused.code, "apikley worker" in refused.err) == (2, True)
    env = {**os.environ, "APIKLEY_API_KEY": service.api_key, "APIKLEY_BASE_URL": service.base_url}
    words = (sys.executable, "-m", "apikley_async", "worker", "--journal", dsn, "-o", "made")
    with subprocess.Popen(words, env=env, stderr=subprocess.DEVNULL) as worker:
        try:
            done = run("batch", "run", manifest, "--journal", dsn, "--yes", "--json")
        finally:
            worker.terminate()

    assert (done.code, worker.returncode) == (0, 0)
    events = [json.loads(line)["event"] for line in done.out.splitlines()]
    assert events.count("saved") == 2
    assert sorted(path.name for path in Path("made").glob("*.mp4")) == [
        "kitten.mp4",
        "lighthouse.mp4",
    ]
    assert len(service.ledger.paid) == 2


def test_whoever_follows_is_told_of_missing_workers(
    dsn: str, service: Simulator, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Again and again as long as there is none, and once when there is one."""
    for name in ("SILENCE", "REMINDER", "INTERVAL"):
        monkeypatch.setattr(batch_status, name, 0.2)
    manifest = write_manifest("kitten")
    env = {**os.environ, "APIKLEY_API_KEY": service.api_key, "APIKLEY_BASE_URL": service.base_url}
    words = (sys.executable, "-m", "apikley_async", "worker", "--journal", dsn, "-o", "made")
    workers: list[subprocess.Popen[bytes]] = []

    def start_worker() -> None:
        workers.append(subprocess.Popen(words, env=env, stderr=subprocess.DEVNULL))

    timer = threading.Timer(1.0, start_worker)
    timer.start()
    try:
        done = run("batch", "run", manifest, "--journal", dsn, "--yes")
    finally:
        timer.join()
        for worker in workers:
            worker.terminate()
            worker.wait()

    assert done.code == 0
    assert done.err.count(f"To start one: apikley worker --journal {quoted(dsn)}") >= 2
    assert done.err.count("A worker makes these films now.") <= 1
    assert done.err.rindex("No worker makes") < done.err.index("kitten: saved")


def test_a_receiver_on_any_machine_resolves_a_film(
    dsn: str, service: Simulator, run: Run, tmp_path: Path
) -> None:
    """The answer to the submission is lost; the callback comes to a process of its own."""
    service.script("create", [Fault.RESET_AFTER])
    words = ("webhook", "serve", "--json", "--inbox", dsn, "--port", "0")
    with contextlib.closing(ForkedProcess(main, *words, cwd=tmp_path, env=os.environ)) as process:
        assert process.stdout is not None
        port = json.loads(process.stdout.readline())["port"]
        hooks = ("--callback-url", f"http://127.0.0.1:{port}/hooks", "--inbox", dsn)
        manifest = write_manifest("tea")
        made = run("batch", "run", "--yes", manifest, "--journal", dsn, "--here", *hooks)

    assert made.code == 0
    assert len(service.ledger.creations) == 1


def test_a_run_that_follows_ends_although_the_database_is_away(
    dsn: str, service: Simulator, tmp_path: Path, postgres_server: PostgresServer
) -> None:
    """SIGTERM while nobody answers: it looks for some seconds, and goes."""
    manifest = write_manifest("kitten").resolve()
    words = ("batch", "run", str(manifest), "--journal", dsn, "--yes", "--json")
    env = {**os.environ, "APIKLEY_API_KEY": service.api_key}
    with contextlib.closing(ForkedProcess(main, *words, cwd=tmp_path, env=env)) as process:
        assert process.stderr is not None
        assert "1 new" in process.stderr.readline()
        postgres_server.stop()
        try:
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=20) == 143
        finally:
            postgres_server.start()


SLOW_INSERTS = """
    CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql
        AS 'BEGIN PERFORM pg_sleep(1); RETURN NULL; END';
    CREATE TRIGGER slow AFTER INSERT ON apikley.item EXECUTE FUNCTION slow()
"""


def test_a_long_plan_ends_soon_after_sigterm(
    dsn: str, service: Simulator, tmp_path: Path, postgres_server: PostgresServer
) -> None:
    """And nothing of it is stored."""
    database = dsn.partition("@/")[2].partition("?")[0]
    postgres_server.execute(SLOW_INSERTS, database)
    manifest = write_manifest(*(f"film{number}" for number in range(6000))).resolve()
    words = ("batch", "run", str(manifest), "--journal", dsn, "--yes", "--json")
    env = {**os.environ, "APIKLEY_API_KEY": service.api_key}
    writing = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'COPY item %'"
    with contextlib.closing(ForkedProcess(main, *words, cwd=tmp_path, env=env)) as process:
        while postgres_server.execute(writing, database).strip() == "0":
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert process.wait(timeout=20) == 143
        assert time.monotonic() - began < 4

    assert postgres_server.execute("SELECT count(*) FROM apikley.item", database).strip() == "0"


def test_a_user_without_rights_is_told_which_are_missing(
    postgres_dsn: str, service: Simulator, run: Run, postgres_server: PostgresServer
) -> None:
    """To make the schema, to see it, and to use its tables."""
    database = postgres_dsn.partition("@/")[2].partition("?")[0]
    postgres_server.execute(f"CREATE ROLE {database}_poor LOGIN", database)
    poor = postgres_dsn.replace("apikley@", f"{database}_poor@")

    refused = run("db", "init", poor)
    assert refused.code == 2
    assert "permission denied for database" in refused.err
    assert "GRANT CREATE ON DATABASE" in refused.err
    assert run("db", "init", postgres_dsn).code == 0
    for grant in ("", f"GRANT USAGE ON SCHEMA apikley TO {database}_poor"):
        postgres_server.execute(grant or "SELECT 1", database)
        for command in (("db", "check", poor), ("worker", "--journal", poor)):
            refused = run(*command)
            assert refused.code == 2
            assert "GRANT" in refused.err, (grant, command)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("import nothing_of_that_name", "ModuleNotFoundError"),
        ("raise KeyError('BUCKET')", "KeyError: 'BUCKET'"),
        ("def store(): raise OSError('no such bucket')", "OSError: no such bucket"),
        ("store = 5", "TypeError: 'int' object is not callable"),
        ("", "no attribute 'store'"),
    ],
)
def test_a_destination_that_cannot_be_made(
    dsn: str,
    service: Simulator,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    said: str,
) -> None:
    """It is the user's own module: what it says is shown, and no traceback."""
    (tmp_path / "own_store.py").write_text(line)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_store", raising=False)

    refused = run("worker", "--journal", dsn, "--destination", "own_store:store")

    assert refused.code == 2
    assert "--destination own_store:store: " in refused.err
    assert said in refused.err
    assert "Traceback" not in refused.err


def test_a_destination_that_refuses_ends_a_worker_at_once(
    dsn: str, service: Simulator, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is paid, and with its own words."""
    (tmp_path / "own_store.py").write_text(
        "class Store:\n"
        "    async def exists(self, name): raise PermissionError('the bucket is not ours')\n"
        "    async def put(self, name, chunks, *, size, content_type): return None\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_store", raising=False)

    refused = run("worker", "--journal", dsn, "--destination", "own_store:Store")

    assert refused.code == 4  # it may be mended from outside, and a service tries it again
    assert "the bucket is not ours; nothing was sent. Make that place writable" in refused.err
    assert "still at the service" not in refused.err
    assert service.ledger.creations == []

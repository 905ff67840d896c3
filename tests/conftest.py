"""What all tests share: an obviously fake key, a loop that is watched, virtual time.

`@pytest.mark.virtual` runs an async test on a loop whose time jumps (`apikley_async.virtual`);
`--uvloop` runs the other async tests on uvloop.
The package's own plugin is at hand too: `@pytest.mark.apikley`, `apikley_simulator`.
Every async test fails when it leaves a task running or an exception that nobody looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import getpass
import importlib
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import hypothesis
import hypothesis.configuration
import pytest
from postgres_server import PostgresServer, missing
from volume import volume

from apikley_async import pytest_plugin
from apikley_async.virtual import VirtualLoop

pytest_plugins = ("pytester",)  # for projects of users, run by `tests/plugin`

# Unmistakable in a log, a repr or a traceback, and worth nothing anywhere.
CANARY_KEY = "canary-0000-this-key-opens-nothing"

HERE = Path(__file__).parent
# What has the marker `proof`: the promises by volume, and with real processes that are killed.
PROOF = {
    HERE / "proof",
    HERE / "batch" / "test_kill.py",
    HERE / "batch" / "test_write_order.py",
    HERE / "cli" / "test_generate_kill.py",
    HERE / "docs" / "test_rehearse.py",
}

MEMORY = Path("/dev/shm")
ENOUGH_MEMORY = 2 * 2**30  # bytes; a run needs about a twentieth

# What a loop in debug mode says when a client breaks off the handshake with a server.
HARMLESS = {"Error on transport creation for incoming connection"}

# Without a database nothing is remembered between runs; caches of the library stay out of the tree.
hypothesis.configuration.set_hypothesis_home_dir(
    Path(tempfile.gettempdir()) / f"apikley-async-hypothesis-{getpass.getuser()}"
)
EXAMPLES = volume(40, 100)  # of a property that names no number of its own
hypothesis.settings.register_profile("dev", deadline=None, database=None, max_examples=EXAMPLES)
hypothesis.settings.register_profile(
    "ci",
    deadline=None,
    database=None,
    max_examples=EXAMPLES,
    derandomize=True,
    print_blob=True,
    # A busy machine is no defect of the test.
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--uvloop", action="store_true", help="run async tests on uvloop's loop")


def pytest_configure(config: pytest.Config) -> None:
    """Load the package's plugin, unless its entry point has done so already."""
    if not config.pluginmanager.is_registered(pytest_plugin):
        config.pluginmanager.register(pytest_plugin, "apikley")
    gc.disable()  # until all is collected: what collecting makes stays, and none of it is a cycle
    if config.getoption("dist", "no") == "no":  # else its workers run the tests
        stop_ignoring_signals()
    use_memory_for_files(config)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what the default session of `noxfile.py` leaves out."""
    for item in items:
        if "postgres_server" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.postgres)
        if not PROOF.isdisjoint([item.path, *item.path.parents]):
            item.add_marker(pytest.mark.proof)


def pytest_collection_finish() -> None:
    """Spare the garbage collector all that is there by now: modules and thousands of tests.

    It would look through them again and again, which takes a tenth of the time of a run. What a
    test makes is collected as ever. Hypothesis goes first: older ones ask the collector who holds
    their random numbers, and of what it is spared it says nothing.
    """
    hypothesis.find(hypothesis.strategies.just(None), lambda _: True)
    gc.collect()
    gc.freeze()
    gc.enable()


def use_memory_for_files(config: pytest.Config) -> None:
    """Keep the files of tests in memory, where there is plenty: thousands of times they are synced.

    What reaches a disk, and in which order, is tested by kills, power cuts and `strace`.
    `--basetemp` and PYTEST_DEBUG_TEMPROOT name another place.
    """
    if config.option.basetemp is None and "PYTEST_DEBUG_TEMPROOT" not in os.environ:
        with contextlib.suppress(OSError):
            if shutil.disk_usage(MEMORY).free > ENOUGH_MEMORY and os.access(MEMORY, os.W_OK):
                os.environ["PYTEST_DEBUG_TEMPROOT"] = str(MEMORY)


def stop_ignoring_signals() -> None:
    """Let children start with signals as they usually are, also under nohup and its like.

    What a process ignores, its children ignore. What it handles is reset in them, so the signal
    still does nothing here. It is for the process that runs the tests: the workers of xdist would
    end when everybody in their group gets the signal, and the process that has started them not.
    """
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Give each async test the loop its marker asks for."""
    if item.get_closest_marker("virtual"):
        return {"virtual": VirtualLoop}
    if config.getoption("--uvloop"):
        return {"uvloop": importlib.import_module("uvloop").new_event_loop}
    return {"real": asyncio.new_event_loop}


@pytest.fixture
def canary_key() -> str:
    """A key to hand to clients, and to search for wherever it must not turn up."""
    return CANARY_KEY


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL server of this process's own; a test that stops it starts it again."""
    pytest.importorskip("psycopg", reason="the extra postgres is not installed")
    if (reason := missing()) is not None:
        pytest.skip(reason)
    with PostgresServer.temporary() as server:
        yield server


@pytest.fixture
def postgres_dsn(postgres_server: PostgresServer) -> str:
    """The DSN of an empty database."""
    return postgres_server.create_database()


@pytest.fixture(scope="session")
def prepared_database(postgres_server: PostgresServer) -> str:
    """The name of a database that is set up: to copy it takes a fifth of the time."""
    from apikley_async.distributed import set_up

    dsn = postgres_server.create_database()
    with ThreadPoolExecutor(1) as thread:  # the loop here belongs to a test
        thread.submit(asyncio.run, set_up(dsn)).result()
    return str(urlsplit(dsn).path.removeprefix("/"))


@pytest.fixture
def shared_dsn(postgres_server: PostgresServer, prepared_database: str) -> str:
    """The DSN of a database that is set up, with a journal of its own."""
    dsn = postgres_server.create_database(prepared_database)
    own = "UPDATE apikley.meta SET value = md5(random()::text) WHERE name = 'journal_id'"
    postgres_server.execute(own, urlsplit(dsn).path.removeprefix("/"))
    return dsn


@pytest.fixture(autouse=True)
def _no_settings_from_outside(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whoever runs the tests may have a real key or database: no test may ever see them."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.getbasetemp() / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "config"))
    for name in [name for name in os.environ if name.startswith(("APIKLEY_", "PG"))]:
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _watch_async_tests(request: pytest.FixtureRequest) -> None:
    """Set up the watch below for async tests, before any other fixture of theirs."""
    marker = request.node.get_closest_marker("asyncio")
    if marker is None or marker.kwargs.get("loop_scope", "function") != "function":
        return
    if request.node.get_closest_marker("leaves_tasks") is None:
        request.getfixturevalue("_nothing_is_left_behind")


@pytest.fixture
async def _nothing_is_left_behind() -> AsyncIterator[None]:
    """Fail an async test that ends with a task running or an error nobody saw."""
    loop = asyncio.get_running_loop()
    errors: list[dict[str, Any]] = []
    loop.set_exception_handler(
        lambda _, context: None if context["message"] in HARMLESS else errors.append(context)
    )

    yield

    for _ in range(20):  # what was cancelled a moment ago needs a few turns to end
        if not asyncio.all_tasks() - {asyncio.current_task()}:
            break
        await asyncio.sleep(0)
    if left := asyncio.all_tasks() - {asyncio.current_task()}:
        names = "\n  ".join(f"{task.get_name()}: {task.get_coro()}" for task in left)
        pytest.fail(f"tasks still running at the end of the test:\n  {names}", pytrace=False)
    if errors:
        reported = "\n  ".join(
            f"{error['message']}: {error.get('exception')!r}" for error in errors
        )
        pytest.fail(f"the loop got errors that nobody handled:\n  {reported}", pytrace=False)

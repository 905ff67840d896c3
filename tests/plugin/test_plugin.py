"""The pytest plugin: what a test gets from it, and what it leaves alone."""

from __future__ import annotations

import asyncio
import os
import re
import textwrap
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from apikley_async import Client, JobFailedError, Shot, Storyboard
from apikley_async.simulator import Constant, Fault, FixedRenderer, RandomFaults, Simulator, Terms
from apikley_async.virtual import VirtualLoop

Project: TypeAlias = Callable[..., pytest.RunResult]

BOARD = Storyboard([Shot("Snow on a roof.", 10)], duration=10)
PREAMBLE = """
import asyncio, os, time
import pytest
from apikley_async import Client, Shot, Storyboard
from apikley_async.simulator import Constant, Fault, RandomFaults, Terms
from apikley_async.virtual import VirtualLoop

BOARD = Storyboard([Shot("Snow on a roof.", 10)], duration=10)

def in_virtual_time():
    return isinstance(asyncio.get_running_loop(), VirtualLoop)
"""


@pytest.fixture
def write(pytester: pytest.Pytester) -> Callable[..., None]:
    """Write the test files of a user's project, each with the same imports above it."""

    def write(**files: str) -> None:
        pytester.makepyfile(**{name: PREAMBLE + source for name, source in files.items()})

    return write


# --- what a test gets ----------------------------------------------------------------------------


async def test_client_and_service_share_a_loop_with_virtual_time(
    apikley_client: Client, apikley_simulator: Simulator
) -> None:
    """Minutes take milliseconds, and the ledger has what was paid."""
    loop = asyncio.get_running_loop()

    result = await apikley_client.generate(BOARD)

    assert isinstance(loop, VirtualLoop)
    assert loop.time() > 60
    assert [charge.task_id for charge in apikley_simulator.ledger.paid] == [result.task_id]
    assert apikley_simulator.ledger.charge(result.task_id).credits == 150  # type: ignore[union-attr]


async def test_a_client_of_the_program_itself_uses_the_simulator(
    apikley_simulator: Simulator,
) -> None:
    """During the test the environment has the simulator's URL and key."""
    assert os.environ["APIKLEY_API_KEY"] == apikley_simulator.api_key

    async with Client() as client:
        job = await client.submit(BOARD)

    assert [charge.task_id for charge in apikley_simulator.ledger.paid] == [job.task_id]
    assert apikley_simulator.ledger.unauthorized == 0


@pytest.mark.apikley(terms=Terms(fail_rate=1.0, duration=Constant(7)))
class TestMarkers:
    """For each option the closest marker decides."""

    async def test_terms_of_the_class(self, apikley_client: Client) -> None:
        with pytest.raises(JobFailedError):
            await apikley_client.generate(BOARD)

    @pytest.mark.apikley(terms=Terms(duration=Constant(9)))
    async def test_terms_of_the_test(self, apikley_client: Client) -> None:
        assert (await apikley_client.generate(BOARD)).urls

    @pytest.mark.apikley(faults=RandomFaults(create={Fault.HTTP_503: 1}), seed=3)
    async def test_faults_beside_the_terms(self, apikley_simulator: Simulator) -> None:
        assert apikley_simulator.service.terms.fail_rate == 1
        assert apikley_simulator.faults is not None


COUNTS: list[tuple[int, int]] = []


@pytest.mark.parametrize("turn", [1, 2])
@pytest.mark.apikley(faults=RandomFaults(seed=5, record={Fault.HTTP_502: 0.5}))
async def test_random_faults_restart_in_each_test(
    turn: int, apikley_client: Client, apikley_simulator: Simulator
) -> None:
    """The same marker gives the same faults, however many tests have used it."""
    await apikley_client.generate(BOARD)

    ledger = apikley_simulator.ledger
    COUNTS.append((ledger.polls.total(), len(ledger.faults)))
    assert COUNTS[0] == COUNTS[-1]
    assert COUNTS[0][1] > 0


@pytest.mark.apikley(virtual=False)
async def test_time_can_be_real(apikley_client: Client) -> None:
    """The service is fast then, and so are the client's polls."""
    loop = asyncio.get_running_loop()
    assert not isinstance(loop, VirtualLoop)

    started = loop.time()
    await apikley_client.generate(BOARD)

    assert loop.time() - started < 10


@pytest.mark.apikley(speed=60, webhook_key="k", renderer=FixedRenderer(b"a film"))
async def test_the_marker_reaches_the_service(
    apikley_client: Client, apikley_simulator: Simulator
) -> None:
    """Its speed, its webhook key, its renderer; the client polls faster too."""
    result = await apikley_client.generate(BOARD)

    assert asyncio.get_running_loop().time() < 60
    assert apikley_simulator.service.clock.now() > 60
    assert apikley_simulator.webhook_key == "k"
    assert (await apikley_simulator.film(result.task_id)).startswith(b"a film")


@pytest.mark.apikley
async def test_a_marked_test_without_fixtures_has_virtual_time_too() -> None:
    await asyncio.sleep(3600)


async def test_other_async_tests_keep_their_loop() -> None:
    assert not isinstance(asyncio.get_running_loop(), VirtualLoop)


# --- without a loop of pytest-asyncio ------------------------------------------------------------


def films_of_a_sync_program(client: Client) -> str:
    """What a program does that has no loop of its own; it closes its client."""

    async def main() -> str:
        async with client:
            return (await client.generate(BOARD)).task_id

    return asyncio.run(main())


@pytest.mark.apikley(terms=Terms(credits=1000, duration=Constant(60)), seed=3)
@pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning")
def test_a_sync_test_has_the_service_in_a_thread(
    apikley_client: Client, apikley_simulator: Simulator
) -> None:
    """In real time, which is short: the options of the marker hold, the environment leads to it."""
    began = time.monotonic()

    task_id = films_of_a_sync_program(apikley_client)

    assert time.monotonic() - began < 20
    assert [charge.task_id for charge in apikley_simulator.ledger.paid] == [task_id]
    assert apikley_simulator.service.credits == 850
    assert os.environ["APIKLEY_BASE_URL"] == apikley_simulator.base_url


def test_tests_of_anyio_are_served_on_asyncio_and_refused_on_trio(
    project: Project, write: Callable[..., None]
) -> None:
    """The sentence names the fixture that says so; pytest-asyncio's own tests are as before."""
    write(
        test_it="""
@pytest.mark.anyio
async def test_anyio(apikley_client, apikley_simulator, anyio_backend):
    async with apikley_client as client:
        result = await client.generate(BOARD)
    assert apikley_simulator.ledger.charge(result.task_id)
    assert not in_virtual_time()

@pytest.mark.asyncio
async def test_asyncio(apikley_client):
    await apikley_client.generate(BOARD)
    assert in_virtual_time()

@pytest.mark.parametrize("anyio_backend", ["trio"])
@pytest.mark.anyio
async def test_trio(apikley_simulator): ...
""",
        conftest="""
@pytest.fixture
def anyio_backend():
    return "asyncio"
""",
    )

    result = project("-p", "anyio.pytest_plugin", mode="strict")

    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(['*runs on trio*needs asyncio*`anyio_backend`*return "asyncio"*'])


# --- in a user's project -------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["auto", "strict"])
def test_it_works_in_both_modes_of_pytest_asyncio(
    mode: str, project: Project, write: Callable[..., None]
) -> None:
    """With async fixtures of the user, which run in the same loop."""
    fixture = "pytest_asyncio.fixture" if mode == "strict" else "pytest.fixture"
    write(
        test_it=f"""
import pytest_asyncio
{"pytestmark = pytest.mark.asyncio" if mode == "strict" else ""}

@{fixture}
async def job(apikley_client):
    job = await apikley_client.submit(BOARD)
    yield job
    assert job.done
    assert in_virtual_time()

async def test_it(job, apikley_simulator):
    result = await job
    assert apikley_simulator.ledger.charge(result.task_id)
    assert in_virtual_time()

async def test_plain():
    assert not in_virtual_time()
"""
    )

    project(mode=mode).assert_outcomes(passed=2)


def test_other_tests_and_their_loops_are_left_alone(
    project: Project, write: Callable[..., None], pytester: pytest.Pytester
) -> None:
    """Their ids, their order and their loops are the same with and without the plugin."""
    pytester.makeconftest(
        """
import asyncio

class ProjectLoop(asyncio.SelectorEventLoop):
    pass

def pytest_asyncio_loop_factories(config, item):
    return {"one": ProjectLoop, "two": ProjectLoop}
"""
    )
    write(
        test_project="""
async def test_first():
    assert type(asyncio.get_running_loop()).__name__ == "ProjectLoop"

def test_second(): ...

@pytest.mark.asyncio(loop_scope="module")
async def test_third(): ...

async def test_fourth(apikley_client):
    assert in_virtual_time()

@pytest.mark.asyncio(loop_factories=["two"])
@pytest.mark.apikley
async def test_fifth():
    assert type(asyncio.get_running_loop()).__name__ == "ProjectLoop"
"""
    )

    project().assert_outcomes(passed=7)
    listed = project("--collect-only", "-q").stdout.str()
    assert re.findall(r"::(\S+)", listed) == [
        "test_first[one]",
        "test_first[two]",
        "test_second",
        "test_third[one]",
        "test_third[two]",
        "test_fourth",
        "test_fifth",
    ]


@pytest.mark.parametrize("scope", ["module", "session"])
def test_shared_loops_keep_real_time(
    scope: str, project: Project, write: Callable[..., None]
) -> None:
    """A client works there in real time; virtual time is refused, with a remedy."""
    write(
        test_shared=f"""
pytestmark = pytest.mark.asyncio(loop_scope="{scope}")
loops = []

@pytest.mark.apikley(virtual=False)
async def test_real(apikley_client):
    loops.append(asyncio.get_running_loop())
    await apikley_client.submit(BOARD)

async def test_refused(apikley_client): ...

async def test_plain():
    assert loops == [asyncio.get_running_loop()]

@pytest.mark.asyncio(loop_scope="function")
async def test_own(apikley_client):
    assert in_virtual_time()
"""
    )

    result = project()

    result.assert_outcomes(passed=3, errors=1)
    result.stdout.fnmatch_lines([f"*shares its event loop*'{scope}'*loop_scope=\"function\"*"])


def test_a_project_may_override_terms_and_faults(
    project: Project, write: Callable[..., None], pytester: pytest.Pytester
) -> None:
    """With fixtures in its conftest.py; a marker comes first."""
    pytester.makeconftest(
        PREAMBLE
        + """
@pytest.fixture
def apikley_terms():
    return Terms(credits=100)

@pytest.fixture
def apikley_faults():
    return RandomFaults(record={Fault.HTTP_502: 1})
"""
    )
    write(
        test_terms="""
async def test_project(apikley_client, apikley_simulator):
    assert await apikley_client.credits() == 100
    assert apikley_simulator.faults.mixes["record"]

@pytest.mark.apikley(terms=Terms(credits=5), faults=RandomFaults())
async def test_marker(apikley_client, apikley_simulator):
    assert await apikley_client.credits() == 5
    assert not apikley_simulator.faults.mixes["record"]
"""
    )

    project().assert_outcomes(passed=2)


# --- failures ------------------------------------------------------------------------------------


def test_the_report_of_a_failed_test_has_the_ledger(
    project: Project, write: Callable[..., None]
) -> None:
    """Time, money, creations and faults, and not the key."""
    write(
        test_it="""
async def test_it(apikley_client, apikley_simulator):
    apikley_simulator.script("create", [Fault.HTTP_503_AFTER])
    with pytest.raises(Exception):
        await apikley_client.submit(BOARD)
    await apikley_client.generate(BOARD)
    assert len(apikley_simulator.ledger.paid) == 1
"""
    )

    result = project()

    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines(
        [
            r"E +AssertionError: assert 2 == 1",
            r"-+ apikley simulator -+",
            r"[\d.]+ s of virtual time, seed 0",
            r"2 paid, 300 credits; tasks: 2 success",
            r"creations: 2 created",
            r" +0.0 s  created  task_\S+  http 503, after",
            r" +0.0 s  created  task_\S+  ok",
            r"polls: \d+; file requests: 0",
            r"faults: 1 create http 503, after",
        ]
    )
    assert "simulated-" not in result.stdout.str()


def test_a_test_that_can_never_end_fails_at_once(
    project: Project, write: Callable[..., None]
) -> None:
    """The error names the waiting task, and later tests run."""
    write(
        test_it="""
async def test_stuck(apikley_client):
    job = await apikley_client.submit(BOARD)
    await asyncio.Event().wait()

async def test_next(apikley_client):
    await apikley_client.generate(BOARD)
"""
    )

    result = project()

    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["E *Deadlock: At * s of virtual time*", "E *test_stuck*"])


def test_an_impossible_request_is_refused_with_a_remedy(
    project: Project, write: Callable[..., None]
) -> None:
    """No plugin that runs it, unknown options: each has a message of its own."""
    write(
        test_unmarked="async def test_it(apikley_client): ...",
        test_word="@pytest.mark.apikley(fail_rate=1)\ndef test_it(apikley_client): ...",
        test_number="@pytest.mark.apikley(7)\ndef test_it(apikley_client): ...",
    )

    result = project("--continue-on-collection-errors", mode="strict")

    result.assert_outcomes(errors=3)
    result.stdout.fnmatch_lines_random(
        [
            "*mark it with @pytest.mark.asyncio*",
            "*not fail_rate, but any of terms*",
            "*not 7, but any of terms*",
        ]
    )
    assert "Traceback" not in result.stdout.str()


@pytest.mark.slow
def test_without_pytest_asyncio_only_the_fixtures_are_missing(
    project: Project, write: Callable[..., None], pytester: pytest.Pytester
) -> None:
    """Other tests run; the error of a coroutine with a fixture says what to install."""
    hidden = "raise ModuleNotFoundError(name='pytest_asyncio')"
    pytester.makepyfile(pytest_asyncio=hidden)
    write(
        test_it="""
async def test_it(apikley_client): ...

def test_other(): ...

def test_sync(apikley_simulator):
    assert apikley_simulator.base_url == os.environ["APIKLEY_BASE_URL"]
"""
    )

    result = project(asyncio=False, own_process=True)

    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*need pytest-asyncio for a coroutine: pip install*"])


OLD_ASYNCIO = """
    import asyncio, inspect, pytest
    __version__ = "{version}"

    def fixture(function=None, *, scope="function", **options):  # no loop_scope
        return pytest.fixture(function, scope=scope, **options)
"""
OLD_PLUGIN = """
    import asyncio, inspect, pytest

    def pytest_addoption(parser):
        parser.addoption("--asyncio-mode", dest="asyncio_mode", default="strict")

    def pytest_configure(config):
        config.addinivalue_line("markers", "asyncio: run by a loop")

    @pytest.hookimpl(tryfirst=True)
    def pytest_pyfunc_call(pyfuncitem):
        if inspect.iscoroutinefunction(pyfuncitem.obj):
            names = pyfuncitem._fixtureinfo.argnames
            asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
            return True
"""


@pytest.mark.slow
def test_with_an_older_pytest_asyncio_only_the_fixtures_are_missing(
    project: Project, write: Callable[..., None], pytester: pytest.Pytester
) -> None:
    """Other tests run; the error of a test with a fixture says what to install."""
    package = pytester.mkpydir("pytest_asyncio")
    (package / "__init__.py").write_text(textwrap.dedent(OLD_ASYNCIO.format(version="0.21.2")))
    (package / "plugin.py").write_text(textwrap.dedent(OLD_PLUGIN))
    marked = "@pytest.mark.asyncio\n"
    real = f"@pytest.mark.apikley(virtual=False)\n{marked}"
    write(
        test_it=f"{marked}async def test_it(apikley_client): ...",
        test_real=f"{real}async def test_it(apikley_client): ...",
        test_other=f"{marked}async def test_other(): ...\n\ndef test_sync(): ...",
    )

    result = project("-p", "pytest_asyncio.plugin", asyncio=False, own_process=True)

    result.assert_outcomes(passed=2, errors=2)
    result.stdout.fnmatch_lines(["*need pytest-asyncio 0.24 or newer, and here is 0.21.2*"])
    assert "INTERNALERROR" not in result.stdout.str()


# --- the entry point -----------------------------------------------------------------------------


@pytest.mark.slow
def test_an_installed_package_has_the_plugin(
    pytester: pytest.Pytester, write: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pytest finds it by the entry point in pyproject.toml."""
    root = Path(__file__).resolve().parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    entries = project["entry-points"]["pytest11"]
    info = pytester.mkdir("site") / "apikley_async-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: apikley-async\nVersion: 0\n")
    lines = "".join(f"{name} = {value}\n" for name, value in entries.items())
    (info / "entry_points.txt").write_text(f"[pytest11]\n{lines}")
    monkeypatch.setenv("PYTHONPATH", f"{info.parent}:{root}")
    scope = "asyncio_default_fixture_loop_scope = function"
    pytester.makeini(f"[pytest]\nasyncio_mode = auto\n{scope}\n")
    write(test_it="async def test_it(apikley_client):\n    await apikley_client.generate(BOARD)")

    others = ("looptime_plugin", "schemathesis", "hypothesispytest")  # seconds of imports
    result = pytester.runpytest_subprocess(*(f"-pno:{name}" for name in others), timeout=100)

    result.assert_outcomes(passed=1)

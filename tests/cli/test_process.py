"""The command as a process: signals, pipes, terminals, and what other users can see."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from cli.conftest import Run, quick_client, write_manifest
from forked_process import ForkedProcess

import apikley_async
from apikley_async import Backoff, Client
from apikley_async.cli import client_factory, main
from apikley_async.simulator import Constant, Fault, Simulator, Terms

KEY = "canary-0000-this-key-opens-nothing"
ROOT = str(Path(apikley_async.__file__).parent.parent)
TIMEOUT = 20.0

pytestmark = pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning")


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Simulator]:
    """A service in a thread of its own, and a storyboard in the command's folder."""
    board = {"shots": [{"scene": "Tea.", "duration": 10}], "duration": 10}
    (tmp_path / "tea.json").write_text(json.dumps(board), encoding="utf-8")
    simulator = Simulator(Terms(duration=Constant(0.01)), api_key=KEY)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(simulator.start(), loop).result()
    yield simulator
    asyncio.run_coroutine_threadsafe(simulator.aclose(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


Start = Callable[..., ForkedProcess]
Python = Callable[..., "subprocess.Popen[str]"]

QUICK_CLIENT = functools.partial(Client, polling=Backoff(initial=0.02, factor=1))


@pytest.fixture
def environment(request: pytest.FixtureRequest) -> dict[str, str]:
    """The environment of a command: that of a terminal, and the service if the test has one."""
    path = os.pathsep.join(filter(None, [ROOT, os.environ.get("PYTHONPATH")]))
    ours = {name: text for name, text in os.environ.items() if name != "CI"}
    usual = {**ours, "PYTHONPATH": path, "TERM": "xterm", "COLUMNS": "100", "LINES": "24"}
    if "service" in request.fixturenames:
        base_url = request.getfixturevalue("service").base_url
        usual |= {"APIKLEY_API_KEY": KEY, "APIKLEY_BASE_URL": base_url}
    return usual


@pytest.fixture
def start(environment: dict[str, str], tmp_path: Path) -> Iterator[Start]:
    """Start the command in a folder of its own; one that is left at the end is killed.

    It polls without the usual delays, and the service of a demo is quicker.
    """
    started: list[ForkedProcess] = []
    patches = {
        "apikley_async.cli.client_factory.Client": QUICK_CLIENT,
        "apikley_async.cli.simulated_service.DEMO_SPEED": 150,
    }

    def start_it(
        *words: str, env: Mapping[str, str] | None = None, terminal: int | None = None
    ) -> ForkedProcess:
        env = {**environment, **(env or {})}
        command = ForkedProcess(
            main, *words, cwd=tmp_path, env=env, terminal=terminal, patches=patches
        )
        started.append(command)
        return command

    yield start_it
    for command in started:
        command.close()


@pytest.fixture
def python(environment: dict[str, str], tmp_path: Path) -> Iterator[Python]:
    """Start Python with some words, where the start itself is what a test is about."""
    started: list[subprocess.Popen[str]] = []

    def start_it(*words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            env=environment,
            text=True,
        )
        started.append(process)
        return process

    yield start_it
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def again(service: Simulator, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command in this process, after one that was a process of its own."""
    monkeypatch.setenv("APIKLEY_BASE_URL", service.base_url)
    monkeypatch.setenv("APIKLEY_API_KEY", KEY)
    monkeypatch.setattr(client_factory, "Client", quick_client)
    monkeypatch.chdir(tmp_path)
    return run


def wait_until(happened: Callable[[], object]) -> None:
    """Wait for what another thread or process does."""
    ends = time.monotonic() + TIMEOUT
    while not happened():
        assert time.monotonic() < ends, "it did not happen"
        time.sleep(0.01)


# --- signals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_command_in_good_order(
    service: Simulator, start: Start, number: signal.Signals
) -> None:
    """The submission under way gets its answer, and the paid film is named. (C11)"""
    service.script("create", [Fault.late(0.6)])
    process = start("generate", "--yes", "tea.json")
    wait_until(lambda: service.ledger.paid)

    process.send_signal(number)
    out, err = process.communicate(timeout=TIMEOUT)

    assert len(service.ledger.paid) == 1
    assert process.returncode == 128 + number
    grace = "120" if number is signal.SIGINT else "7.5"
    waiting = f"Waiting for the answer to 1 submission under way, {grace} s at most. "
    assert f"Stopping: nothing more is submitted. {waiting}" in err
    assert ("Ctrl-C again leaves at once" in err) == (number is signal.SIGINT)
    assert "Press" not in err
    assert "1 submitted" in err
    assert "To go on: apikley generate --yes tea.json" in err
    assert "Traceback" not in err
    assert out == ""


def test_a_batch_that_is_interrupted_ends_with_its_report(
    service: Simulator, start: Start, tmp_path: Path
) -> None:
    """It says what is not finished, and how to go on."""
    board = json.loads((tmp_path / "tea.json").read_text())
    (tmp_path / "teas.json").write_text(json.dumps({"films": [{"key": "tea", **board}]}))
    service.script("create", [Fault.late(0.6)])
    process = start("batch", "run", "teas.json", "--yes")
    wait_until(lambda: service.ledger.paid)

    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=TIMEOUT)

    page = tmp_path / "films" / "report.html"
    assert process.returncode == 143
    assert f"Report: {page.as_uri()}" in err
    assert "apikley batch run teas.json --yes" in page.read_text(encoding="utf-8")


def test_nothing_is_submitted_after_a_signal(
    service: Simulator, start: Start, again: Run, tmp_path: Path
) -> None:
    """Films that waited are named, and the command that resumes them."""
    for name in ("a", "b"):
        board = (tmp_path / "tea.json").read_text().replace("Tea", name)
        (tmp_path / f"{name}.json").write_text(board)
    service.script("create", [Fault.late(0.6)])
    boards = ("tea.json", "a.json", "b.json")
    process = start("generate", "--yes", "--json", "--max-running", "1", *boards)
    wait_until(lambda: service.ledger.paid)

    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=TIMEOUT)

    *_, stands, end = [json.loads(line) for line in out.splitlines()]
    assert process.returncode == 130
    assert len(service.ledger.creations) == 1
    assert (stands["event"], stands["submitted"], stands["planned"]) == ("batch", 1, 2)
    assert (end["event"], end["exit_code"], end["reason"]) == ("end", 130, "interrupted")
    assert again("generate", "--yes", *boards).code == 0
    assert len(service.ledger.paid) == 3


def test_a_signal_before_the_first_submission(service: Simulator, start: Start) -> None:
    """While the balance is asked for: the summary comes all the same, and the closing event."""
    service.script("credits", [Fault.late(5)])
    process = start("generate", "--yes", "--json", "tea.json")
    wait_until(lambda: service.ledger.arrivals("credits"))

    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=TIMEOUT)

    *_, stands, end = [json.loads(line) for line in out.splitlines()]
    assert process.returncode == 143
    assert (stands["event"], stands["planned"]) == ("batch", 1)
    assert (end["event"], end["exit_code"]) == ("end", 143)
    assert err.count("To go on: apikley generate --yes --json tea.json") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_answered_at_once(
    service: Simulator, start: Start, number: signal.Signals
) -> None:
    """Also by a command that submits nothing, whatever it waits for then."""
    service.script("credits", [Fault.late(5)])
    process = start("credits")
    wait_until(lambda: service.ledger.arrivals("credits"))
    assert process.stderr is not None

    process.send_signal(number)
    line = process.stderr.readline()
    process.communicate(timeout=TIMEOUT)

    assert line.startswith("Stopping: what is open is being closed. ")
    assert process.returncode == 128 + number


def test_a_signal_after_the_last_film(service: Simulator, start: Start) -> None:
    """While the balance is asked for once more: the summary comes all the same."""
    service.script("credits", [Fault.OK, Fault.late(5)])
    process = start("generate", "--yes", "--json", "tea.json")
    wait_until(lambda: len(service.ledger.arrivals("credits")) == 2)

    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=TIMEOUT)

    *_, stands, end = [json.loads(line) for line in out.splitlines()]
    assert process.returncode == 143
    assert (stands["event"], stands["done"]) == ("batch", 1)
    assert (end["event"], end["exit_code"]) == ("end", 143)


def test_an_uncertain_film_is_one_line_when_it_happens(service: Simulator, start: Start) -> None:
    """The library's warning has no name of a film in it, and would be the same once more."""
    service.script("create", [Fault.RESET_AFTER])
    process = start("generate", "--yes", "tea.json")
    _, err = process.communicate(timeout=TIMEOUT)

    before, end, _ = err.partition("What to do is said at the end")
    assert process.returncode == 3
    assert end
    assert before.count("may ") == 1
    assert "attempt" not in err


def test_a_second_signal_ends_the_command_at_once(
    service: Simulator, start: Start, again: Run
) -> None:
    """A submission without an answer is uncertain, never "not submitted"."""
    service.script("create", [Fault.HANG_AFTER])
    process = start("generate", "--yes", "tea.json")
    wait_until(lambda: service.ledger.paid)
    assert process.stderr is not None

    assert "1 new" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    assert "Stopping" in process.stderr.readline()
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=TIMEOUT)

    assert process.returncode == 130
    assert time.monotonic() - began < 5
    assert "1 submission may be out" in err
    resumed = again("generate", "--yes", "tea.json")
    assert resumed.code == 3
    assert "tea: UNCERTAIN" in resumed.err
    assert len(service.ledger.paid) == 1


def test_simulate_serves_until_a_signal(
    start: Start, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first two lines configure a client; a signal is its normal end."""
    process = start("simulate", "--port", "0", "--speed", "100", "--films", "placeholder")
    assert process.stdout is not None
    lines = [process.stdout.readline().removeprefix("export ").strip() for _ in range(2)]
    env = dict(line.split("=", 1) for line in lines)

    for name, value in env.items():
        monkeypatch.setenv(name, value)
    asked = run("credits")
    second = run("simulate", "--port", env["APIKLEY_BASE_URL"].rpartition(":")[2])
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=TIMEOUT)

    assert (asked.code, asked.out) == (0, "10000000\n")
    assert (second.code, process.returncode) == (2, 0)
    assert second.err.count("\n") == 1
    assert "Traceback" not in err


def test_a_killed_demo_resumes(start: Start, tmp_path: Path) -> None:
    """As in the tutorial: nothing is submitted twice. (A1)"""
    words = ("demo", "-o", "films", "--films", "placeholder", "--json")
    killed = start(*words)
    assert killed.stdout is not None
    events = [json.loads(killed.stdout.readline()) for _ in range(6)]

    killed.send_signal(signal.SIGKILL)
    killed.wait(TIMEOUT)
    again = start(*words)
    out, err = again.communicate(timeout=TIMEOUT)

    assert [event["event"] for event in events] == ["submitted"] * 6
    assert again.returncode == 0, err
    assert "6 films submitted" in err
    result = [json.loads(line) for line in out.splitlines()]
    assert not [event for event in result if event["event"] == "submitted"]
    bought = {event["task_id"] for event in events}
    assert {event["task_id"] for event in result if event["event"] == "saved"} == bought
    assert len(list((tmp_path / "films").glob("*.mp4"))) == 6


def test_two_commands_in_one_folder(service: Simulator, start: Start, tmp_path: Path) -> None:
    """The second waits for the first, and has nothing left to pay. (J5)"""
    service.script("create", [Fault.late(0.6)])
    first = start("generate", "--yes", "tea.json")
    wait_until(lambda: service.ledger.creations)

    second = start("generate", "--yes", "tea.json")
    result, _ = second.communicate(timeout=TIMEOUT), first.communicate(timeout=TIMEOUT)

    assert (first.returncode, second.returncode) == (0, 0), result
    assert result[0] == "films/tea.mp4\n"
    assert len(service.ledger.paid) == 1


def test_killed_while_a_submission_is_under_way(
    service: Simulator, start: Start, again: Run
) -> None:
    """The same command does not submit again: it reports what is uncertain. (A7, A8)"""
    service.script("create", [Fault.late(5)])
    killed = start("generate", "--yes", "tea.json")
    wait_until(lambda: service.ledger.creations)
    killed.kill()
    killed.wait(TIMEOUT)

    for _ in range(2):
        resumed = again("generate", "--yes", "tea.json")
        assert resumed.code == 3
        assert "tea: UNCERTAIN" in resumed.err

    assert len(service.ledger.creations) == 1


# --- pipes and secrets ---------------------------------------------------------------------------


def test_a_closed_pipe_does_not_end_the_run(
    service: Simulator, start: Start, tmp_path: Path
) -> None:
    """The films are paid: they matter more than the output."""
    process = start("generate", "--yes", "--json", "tea.json")
    assert process.stdout is not None
    process.stdout.close()

    wait_until(lambda: process.poll() is not None)

    assert process.returncode == 0
    assert (tmp_path / "films" / "tea.mp4").exists()


def test_streams_that_are_closed_from_the_start_are_nothing(
    service: Simulator, python: Python, tmp_path: Path
) -> None:
    """As with `>&-`, or under some init systems. No file of ours may get their numbers."""
    words = ["-m", "apikley_async", "generate", "--yes", "tea.json"]
    closed = "import os, sys; [os.close(number) for number in range(3)]"
    process = python("-c", f"{closed}; os.execv(sys.executable, [sys.executable, *{words!r}])")

    wait_until(lambda: process.poll() is not None)

    assert process.returncode == 0
    assert (tmp_path / "films" / "tea.mp4").exists()


@pytest.mark.slow
def test_the_key_is_in_no_argument(service: Simulator, python: Python) -> None:
    """Every user of the machine can read those. (S6)"""
    service.script("create", [Fault.late(0.3)])
    process = python("-m", "apikley_async", "generate", "--yes", "tea.json")
    wait_until(lambda: service.ledger.paid)
    listed = Path(f"/proc/{process.pid}/cmdline")
    words = listed.read_bytes() if listed.exists() else b""
    out, err = process.communicate(timeout=TIMEOUT)

    assert b"canary" not in words
    assert "canary" not in out + err


# --- without extras, and quickly -----------------------------------------------------------------


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_the_extra_the_message_says_what_to_install(python: Python, missing: str) -> None:
    """One line, and the exit code of a wrong use."""
    script = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from apikley_async.cli import main; sys.exit(main())"
    )
    process = python("-c", script, "--help")

    _, err = process.communicate(timeout=TIMEOUT)

    assert process.returncode == 2
    assert err.count("\n") == 1
    assert 'pip install ".[cli]"' in err


def test_help_loads_little(python: Python) -> None:
    """Nothing that renders, simulates or encodes."""
    script = (
        "import sys; from apikley_async.cli import main; main(['--help'])\n"
        "heavy = {'rich', 'av', 'PIL', 'aiohttp.web', 'apikley_async.simulator'}\n"
        "sys.exit(' '.join(heavy & sys.modules.keys()))"
    )
    process = python("-c", script)

    _, err = process.communicate(timeout=TIMEOUT)

    assert err.strip() == ""


def test_the_module_is_the_command(python: Python) -> None:
    """`python -m apikley_async` is `apikley`."""
    process = python("-m", "apikley_async", "--version")

    out, _ = process.communicate(timeout=TIMEOUT)

    assert out == f"apikley {apikley_async.__version__}\n"


# --- a terminal ----------------------------------------------------------------------------------


class Terminal:
    """A terminal that runs a command, and everything it has ever shown."""

    def __init__(self, start: Start, *words: str, **env: str) -> None:
        self._ours, theirs = pty.openpty()
        self.process = start(*words, terminal=theirs, env=env)
        os.close(theirs)
        self.shown = ""

    def read(self, text: str | None = None) -> str:
        """Read on wait_until something is shown, or to the end."""
        ends = time.monotonic() + TIMEOUT
        while text is None or text not in self.shown:
            assert time.monotonic() < ends, self.shown
            if not select.select([self._ours], [], [], 0.1)[0]:
                continue
            try:
                chunk = os.read(self._ours, 65536)
            except OSError:  # nobody has it open any more
                break
            if not chunk:
                break
            self.shown += chunk.decode(errors="replace")
        return self.shown

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def close(self) -> int:
        """Read to the end, and give the exit code."""
        self.read()
        os.close(self._ours)
        return self.process.wait(TIMEOUT)


def test_a_terminal_is_asked_for_consent(service: Simulator, start: Start) -> None:
    """With films, cost and balance; the default answer is no."""
    terminal = Terminal(start, "generate", "tea.json", "--price", "150")
    terminal.read("[y/N]")

    asked = "Submit 1 film, about 150 credits? The balance is 10,000,000. [y/N]: "
    assert asked in terminal.shown

    terminal.type("\n")

    assert terminal.close() == 2
    assert "nothing was paid" in terminal.shown
    assert service.ledger.creations == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_question(
    service: Simulator, start: Start, tmp_path: Path, number: signal.Signals
) -> None:
    """It is a no, once and at once: nothing is sent, and nothing is written down."""
    before = {*tmp_path.iterdir()}
    terminal = Terminal(start, "generate", "tea.json", "--json")
    terminal.read("[y/N]")

    terminal.process.send_signal(number)

    assert terminal.close() == 128 + number
    assert "Interrupted: nothing was sent, nothing was paid" in terminal.shown
    assert f'"exit_code": {128 + number}' in terminal.shown.splitlines()[-1]
    assert service.ledger.creations == []
    assert {*tmp_path.iterdir()} == before


@pytest.mark.parametrize(("typed", "code"), [("what\n\n", 2), ("\x04", 2), ("Yes\n", 0)])
def test_only_a_yes_is_a_yes(service: Simulator, start: Start, typed: str, code: int) -> None:
    """Other words are asked about again; the end of the input is a no. The balance may fail."""
    service.script("credits", [Fault.code(422)])
    terminal = Terminal(start, "generate", "tea.json")
    assert "Submit 1 film? [y/N]: " in terminal.read("[y/N]")

    terminal.type(typed)

    assert terminal.close() == code, terminal.shown
    assert len(service.ledger.creations) == (code == 0)
    assert ("Please type y or n." in terminal.shown) is ("what" in typed)


def test_what_was_not_agreed_to_is_not_planned_where_others_pay(
    service: Simulator, start: Start, again: Run, tmp_path: Path, postgres_dsn: str
) -> None:
    """The workers of a shared journal pay what is in it, whatever the command says afterwards."""
    assert again("db", "init", postgres_dsn).code == 0
    write_manifest("kitten")
    terminal = Terminal(start, "batch", "run", "campaign.jsonl", "--journal", postgres_dsn)
    terminal.read("[y/N]")
    write_manifest("kitten", "lighthouse")

    terminal.type("y\n")

    assert terminal.close() == 4
    assert "the films have changed since you agreed; nothing was sent" in terminal.shown
    assert again("batch", "status", postgres_dsn, "--ids").out == ""
    assert '"planned"' not in again("batch", "status", postgres_dsn, "--json").out
    assert service.ledger.creations == []


def test_a_terminal_shows_progress_bars(service: Simulator, start: Start, tmp_path: Path) -> None:
    """At the end the cursor is back and each film is named once."""
    terminal = Terminal(start, "generate", "tea.json")
    terminal.read("[y/N]")

    terminal.type("y\n")
    code = terminal.close()

    assert code == 0
    assert "\n1 done" in terminal.shown
    assert terminal.shown.rindex("\x1b[?25h") > terminal.shown.rindex("\x1b[?25l")
    assert terminal.shown.count("films/tea.mp4") == 1
    assert (tmp_path / "films" / "tea.mp4").exists()


def test_no_color_is_honoured(service: Simulator, start: Start) -> None:
    """By the variable NO_COLOR."""
    plain = Terminal(start, "generate", "--yes", "tea.json", NO_COLOR="1")

    assert plain.close() == 0
    assert re.findall(r"\x1b\[[0-9;]*(?:3[0-8]|4[0-8]|9[0-7])[0-9;]*m", plain.shown) == []


@pytest.mark.parametrize(
    ("words", "env"), [([], {"TERM": "dumb"}), ([], {"CI": "true"}), (["--plain"], {})]
)
def test_where_bars_are_no_help_lines_are_printed(
    service: Simulator, start: Start, words: list[str], env: dict[str, str]
) -> None:
    """For a dumb terminal, a log, a screen reader: without any escape code."""
    terminal = Terminal(start, "generate", "--yes", "tea.json", *words, **env)

    assert terminal.close() == 0
    assert "\x1b" not in terminal.shown
    assert "submitted as" in terminal.shown


def test_the_cursor_comes_back_after_two_signals(service: Simulator, start: Start) -> None:
    """Leaving at once restores the terminal too."""
    service.script("create", [Fault.OK, Fault.HANG_AFTER])
    terminal = Terminal(start, "demo", "--films", "placeholder")
    terminal.read("0 done, 6 running")

    terminal.process.send_signal(signal.SIGINT)
    terminal.read("Stopping")
    with contextlib.suppress(ProcessLookupError):
        terminal.process.send_signal(signal.SIGINT)

    assert terminal.close() == 130
    assert terminal.shown.rindex("\x1b[?25h") > terminal.shown.rindex("\x1b[?25l")

"""A command or a program in a process that is forked from one which has imported it all already.

To start Python and to import what a command needs takes most of a second of a processor; a fork
takes some milliseconds. Signals, pipes, terminals and exit codes are those of any process. Where
the start itself is what a test is about, it starts Python.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import pkgutil
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import IO, Any

__all__ = ["ForkedProcess", "python", "ran", "started"]

# Most of what commands, and the programs of the documentation, import.
PRELOADED = (
    "apikley_async.cli.app",
    "apikley_async.cli.launch",
    "apikley_async.cli.runner",
    "apikley_async.batch.run",
    "apikley_async.simulator.server",
    "apikley_async.webhook.server",
    "apikley_async.distributed.shared_limiter",
    "fastapi",
    "psycopg",
    "rich.progress",
    "uvicorn.main",
    "yaml",
)


class ForkedProcess:
    """One process; the methods do what those of `subprocess.Popen` do.

    Args:
        program: what it runs: `apikley_async.cli.main`, `python`, or any function of a module.
        words: the words after the program's name.
        cwd: the folder that it runs in.
        env: all of its environment.
        terminal: what it reads from and writes to, in a session of its own; pipes by default.
        patches: values to put into modules first, by dotted names.
    """

    def __init__(
        self,
        program: Callable[[], object],
        *words: str,
        cwd: Path,
        env: Mapping[str, str],
        terminal: int | None = None,
        patches: Mapping[str, Any] | None = None,
    ) -> None:
        self.stdout: IO[str] | None = None
        self.stderr: IO[str] | None = None
        theirs = [terminal] * 3 if terminal is not None else self._open_pipes()
        self._process: ForkServerProcess = forkserver().Process(
            target=run,
            args=(program, words, cwd, dict(env), [DupFd(each) for each in theirs]),
            kwargs={"patches": dict(patches or {}), "new_session": terminal is not None},
        )
        self._process.start()
        if terminal is None:
            for number in theirs:
                os.close(number)
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def _open_pipes(self) -> list[int]:
        (out, their_out), (err, their_err) = os.pipe(), os.pipe()
        self.stdout, self.stderr = os.fdopen(out), os.fdopen(err)
        return [os.open(os.devnull, os.O_RDONLY), their_out, their_err]

    @property
    def returncode(self) -> int | None:
        """How it ended, or the number of the signal that ended it, negative; None before."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if (code := self._process.exitcode) is None:
            raise TimeoutError(f"it still runs after {timeout} s")
        return code

    def communicate(self, timeout: float = 60) -> tuple[str, str]:
        """Read all that it writes, until it ends, and close what it wrote into."""
        assert self.stdout is not None
        assert self.stderr is not None
        with ThreadPoolExecutor(2) as readers:
            reading = [readers.submit(each.read) for each in (self.stdout, self.stderr)]
            try:
                self.wait(timeout)
            except TimeoutError:
                self.kill()
                raise
        out, err = (each.result() for each in reading)
        self.close()
        return out, err

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """End it, if it has not ended."""
        with contextlib.suppress(ProcessLookupError):
            if self.poll() is None:
                self.kill()
        self.wait()
        for stream in (self.stdout, self.stderr):
            if stream is not None:
                stream.close()


def forkserver() -> ForkServerContext:
    """The process that all others are forked from; it ends with this one."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    return context


def run(
    program: Callable[[], object],
    words: Sequence[str],
    cwd: Path,
    env: Mapping[str, str],
    streams: Sequence[Any],
    *,
    patches: Mapping[str, Any],
    new_session: bool,
) -> None:
    """Be the program, in the process that was forked for it."""
    gc.freeze()  # the collector would look through all that was imported, and so copy it
    if new_session:
        os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream.detach(), number)
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    for name, value in patches.items():
        module, _, attribute = name.rpartition(".")
        setattr(pkgutil.resolve_name(module), attribute, value)
    sys.argv = ["apikley", *words]
    sys.exit(program())  # type: ignore[arg-type]


def started(code: str, *words: object, cwd: Path | None = None) -> ForkedProcess:
    """A process that runs a test's *code*, as `python -c CODE WORDS` does."""
    place = Path.cwd() if cwd is None else cwd
    return ForkedProcess(python, "-c", code, *map(str, words), cwd=place, env=os.environ)


def ran(code: str, *words: object) -> subprocess.CompletedProcess[str]:
    """Run a test's *code*, as `started` does, to its end."""
    process = started(code, *words)
    out, err = process.communicate()
    return subprocess.CompletedProcess(words, process.wait(), out, err)


def python() -> None:
    """Run what `python WORDS` runs: a file, a module that stands after -m, or code after -c."""
    first, *rest = sys.argv[1:]
    if first == "-c":
        code, *sys.argv[1:] = rest
        sys.argv[0] = first
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102 - a test's
    elif first == "-m":
        sys.path.insert(0, str(Path.cwd()))
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, str(Path(first).parent))
        sys.argv = [first, *rest]
        runpy.run_path(first, run_name="__main__")

"""The processes of a run: the fake, and a worker for each contender."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["Service", "Worker", "child_environment", "run_module", "service", "use_core", "workers"]

TESTS = Path(__file__).resolve().parents[1]


def child_environment() -> dict[str, str]:
    """Where a child finds these modules and the package, whatever started us."""
    path = [
        str(TESTS),
        str(TESTS / "support"),
        str(TESTS.parent),
        *os.environ.get("PYTHONPATH", "").split(os.pathsep),
    ]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("APIKLEY_")}
    kept.pop("PYTHONDONTWRITEBYTECODE", None)  # each start would compile everything anew
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, path))}


def use_core(last: bool) -> None:
    """Keep this process on the last core of the machine, or off it, where that can be said."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) > 1:
        os.sched_setaffinity(0, cores[-1:] if last else cores[:-1])


class Child:
    """A module of this folder in a process of its own, spoken to line by line."""

    def __init__(self, *words: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=child_environment(),
        )

    def send(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended with {self._process.wait()}")
        return line.strip()

    def close(self) -> None:
        """Close its input, which ends it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def run_module(*words: str) -> dict[str, float]:
    """Run a module of this folder once; the figures it prints."""
    with contextlib.closing(Child(*words)) as child:
        figures: dict[str, float] = json.loads(child.read())
    return figures


class Worker(Child):
    """A contender; `measure` gives what an order cost."""

    def __init__(self, contender: str) -> None:
        super().__init__("bench.worker", contender)

    def measure(self, **order: Any) -> dict[str, float]:
        self.send(json.dumps(order))
        answer: dict[str, float] = json.loads(self.read())
        return answer


class Service(Child):
    """The fake; `url` is where it listens."""

    def __init__(self, film_size: int = 0) -> None:
        super().__init__("bench.service", str(film_size))
        self.url = f"http://127.0.0.1:{self.read()}"


@contextlib.contextmanager
def service(film_size: int = 0) -> Iterator[str]:
    """The URL of a fake that runs for as long, and serves films of that size if any."""
    with contextlib.closing(Service(film_size)) as running:
        yield running.url


@contextlib.contextmanager
def workers(contenders: dict[str, str]) -> Iterator[dict[str, Worker]]:
    """A worker for each contender, by its name."""
    with contextlib.ExitStack() as stack:
        yield {
            name: stack.enter_context(contextlib.closing(Worker(contender)))
            for name, contender in contenders.items()
        }

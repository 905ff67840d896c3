"""Plant one mistake at a time, and look whether the tests that are named for it notice.

  run.py                    all of them, and at first no mistake at all
  run.py "halve the grace"  those of that name, or with it in their name
  run.py --count 20         so many, spread over the table

Exits with 1 when a mistake survives, when its child fails outside of a test, or when the tests
fail without any mistake.
"""

from __future__ import annotations

import argparse
import enum
import importlib
import os
import subprocess
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve()
ROOT = HERE.parents[3]
sys.path[:1] = [str(HERE.parents[1]), str(ROOT / "tests"), str(ROOT / "tests/support"), str(ROOT)]

from mutants.planting import modules_of, plant  # noqa: E402 - behind the paths
from mutants.table import MUTANTS, Mutant  # noqa: E402

PASSED, FAILED, NOT_IMPORTED = 0, 1, 70  # two of pytest's exit codes, and one of ours
LONGEST = 300.0  # seconds for one child
PLUGINS = ("pytest_asyncio.plugin", "pytest_timeout")  # all others take seconds to be loaded


class Verdict(enum.Enum):
    """What became of one planted mistake; only the first is well."""

    NOTICED = "noticed"
    SURVIVED = "SURVIVED"
    BROKEN = "BROKEN"  # it failed at import or collection, or did not end: no test has noticed it


def verdict_of(code: int | None) -> Verdict:
    """What the exit code of a child means; None: it did not end."""
    return {PASSED: Verdict.SURVIVED, FAILED: Verdict.NOTICED}.get(code or 0, Verdict.BROKEN)


def noticed(mutant: Mutant) -> tuple[Verdict, str]:
    """Run the mutant's tests in a process of its own; the second says what failed."""
    code, output = child_of((mutant.test,), repr((mutant.change,)))
    return verdict_of(code) if code is not None else Verdict.BROKEN, failure_in(output)


def child_of(tests: tuple[str, ...], changes: str) -> tuple[int | None, str]:
    """The exit code and the output of a child with these changes; None: it did not end."""
    command = [sys.executable, str(HERE), "--plant", changes, *tests]
    env = os.environ | {"CI": "1", "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=LONGEST
        )
    except subprocess.TimeoutExpired:
        return None, f"not over after {LONGEST:.0f} s"
    return done.returncode, done.stdout + done.stderr


def failure_in(output: str) -> str:
    """The first failed test, or else the last line."""
    lines = [line for line in output.splitlines() if line.strip()] or ["nothing was said"]
    failed = (line for line in lines if line.startswith(("FAILED tests/", "ERROR tests/")))
    return next(failed, lines[-1])[:200]


class Imported:
    """A plugin of pytest: imports the changed modules before any test does."""

    def __init__(self, modules: list[str]) -> None:
        self._modules = modules

    def pytest_sessionstart(self) -> None:
        import pytest

        for module in self._modules:
            try:
                importlib.import_module(module)
            except Exception as error:  # noqa: BLE001 - whatever the mistake does at import
                traceback.print_exc()
                pytest.exit(f"{module} is not imported: {error!r}", NOT_IMPORTED)


def tested(changes: str, tests: list[str]) -> int:
    """Be the child: plant the changes and run the tests."""
    import ast

    planted = ast.literal_eval(changes)
    try:
        plant(planted)
        import pytest

        plugins = [word for plugin in PLUGINS for word in ("-p", plugin)]
        words = ["-x", "-q", "--tb=line", "-p", "no:cacheprovider", *plugins, *tests]
        return int(pytest.main(words, plugins=[Imported([*modules_of(planted)])]))
    except BaseException:  # noqa: BLE001 - conftest.py fails at import, for example
        traceback.print_exc()
        return NOT_IMPORTED


def passes_without(names: list[str]) -> bool:
    """Whether the tests of these mutants pass when nothing is planted."""
    tests = tuple(sorted({MUTANTS[name].test for name in names}))
    code, output = child_of(tests, "()")
    if code != PASSED:
        print(f"the tests fail without a mistake: {failure_in(output)}")
    return code == PASSED


def wanted_of(words: list[str], count: int | None) -> list[str]:
    names = [name for name in MUTANTS if not words or any(word in name for word in words)]
    if count is None or count >= len(names):
        return names
    return [names[number * len(names) // count] for number in range(count)]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--count", type=int)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--plant", help=argparse.SUPPRESS)
    asked = parser.parse_intermixed_args()
    if asked.plant is not None:
        return tested(asked.plant, asked.names)

    names = wanted_of(asked.names, asked.count)
    began, missed = time.monotonic(), 0
    if not names or not passes_without(names):
        return 1
    with ThreadPoolExecutor(asked.jobs) as pool:
        verdicts = pool.map(lambda name: noticed(MUTANTS[name]), names)
        for name, (verdict, reported) in zip(names, verdicts, strict=True):
            missed += verdict is not Verdict.NOTICED
            print(f"  {name}: {verdict.value}: {reported}", flush=True)
    seconds = time.monotonic() - began
    print(f"mutants: {len(names) - missed} of {len(names)} noticed; {seconds:.0f} s")
    return 1 if missed else 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # a mutant may have left threads that never end

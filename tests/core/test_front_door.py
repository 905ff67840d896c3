"""`import apikley_async`: every public name is there, and none is imported before it is used."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest

import apikley_async


def run(program: str) -> str:
    ended = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout.strip()


def test_every_name_is_what_its_module_calls_it() -> None:
    wrong = [name for name in apikley_async.__all__ if not hasattr(apikley_async, name)]

    assert wrong == []
    assert set(apikley_async.__all__) < set(dir(apikley_async))
    assert apikley_async.RateLimitError is apikley_async.errors.RateLimitError
    assert pickle.loads(pickle.dumps(apikley_async.Shot)) is apikley_async.Shot  # noqa: S301


def test_a_star_brings_all_of_them() -> None:
    program = """
from apikley_async import *
import apikley_async
print([name for name in apikley_async.__all__ if name not in globals()])
"""
    assert run(program) == "[]"


def test_dir_lists_them_before_they_are_used() -> None:
    program = """
import apikley_async
print("Client" in dir(apikley_async), "Client" in vars(apikley_async))
"""
    assert run(program) == "True False"


def test_nothing_heavy_is_imported_before_it_is_used() -> None:
    program = """
import sys, apikley_async
before = {"aiohttp", "attr", "cattrs", "asyncio"} & {*sys.modules}
print(sorted(before), apikley_async.Client.__name__, "aiohttp" in sys.modules)
"""
    assert run(program) == "[] Client True"


def test_a_misspelled_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'apikley_async' has no attribute 'Clinet'"):
        _ = apikley_async.Clinet  # type: ignore[attr-defined]
    with pytest.raises(ImportError, match="Clinet"):
        exec("from apikley_async import Clinet", {})  # noqa: S102 - as a user writes it

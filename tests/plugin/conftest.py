"""The fixture `project`: a user's project in a temporary folder, tested by a pytest of its own.

That pytest runs in this process, where everything is imported already. `own_process=True` starts
another, for projects that hide or replace what is imported.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

PACKAGE = Path(__file__).resolve().parents[2]

Project: TypeAlias = Callable[..., pytest.RunResult]


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Run pytest in a user's project, with pytest-asyncio and our plugin and no others."""
    monkeypatch.setenv("PYTHONPATH", str(PACKAGE), prepend=":")
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def run(
        *options: str, mode: str = "auto", asyncio: bool = True, own_process: bool = False
    ) -> pytest.RunResult:
        if not (pytester.path / "pytest.ini").exists():
            pytester.makeini("[pytest]")  # or it would find the settings of a folder above
        plugins = ["-p", "apikley_async.pytest_plugin"]
        if asyncio:
            plugins += ["-p", "pytest_asyncio.plugin", "--asyncio-mode", mode]
            plugins += ["-o", "asyncio_default_fixture_loop_scope=function"]
        strict = ["-p", "no:cacheprovider", "-W", "error", "--strict-markers"]
        words = (*plugins, *strict, *options)
        if own_process:
            return pytester.runpytest_subprocess(*words, timeout=100)
        imported = ("-W", "ignore::pytest.PytestAssertRewriteWarning")  # the plugins, by our pytest
        return pytester.runpytest_inprocess(*words, *imported)

    return run

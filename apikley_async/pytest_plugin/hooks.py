"""What pytest is told, and when: the marker, the loop of a test, the books of a failed one.

Every run of pytest loads this, with whatever pytest and pytest-asyncio are installed. What not all
of them have is asked for only when a test needs it, and what fails then is that test's trouble.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Callable, Generator, Mapping
from typing import Any

import pytest

from apikley_async.pytest_plugin.marker_options import (
    TROUBLE,
    asyncio_in,
    loop_scope_of,
    loops_trouble,
    wishes_of,
)

__all__ = ["pytest_configure", "pytest_generate_tests", "pytest_runtest_makereport"]

MARKER = (
    "apikley(terms=None, faults=None, films=None, webhook_key=None, seed=0, speed=None, "
    "virtual=True): what the simulated Apikley service of this async test is like, and that the "
    "test's time is virtual"
)
ASKING = {"apikley_simulator", "apikley_client"}
STAGE = "apikley_async.pytest_plugin.test_service"


class _VirtualTime:
    """Tells pytest-asyncio, for as long as it is registered, to use this loop and no other."""

    @pytest.hookimpl(tryfirst=True, optionalhook=True)
    def pytest_asyncio_loop_factories(
        self,
    ) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
        from apikley_async.virtual import VirtualLoop

        return {"virtual": VirtualLoop}


VIRTUAL_TIME = _VirtualTime()


def pytest_configure(config: pytest.Config) -> None:
    """Announce the marker, and the fixtures that only pytest-asyncio can run."""
    config.addinivalue_line("markers", MARKER)
    if not asyncio_in(config):
        return
    try:
        loops = importlib.import_module("apikley_async.pytest_plugin.loop_scopes")
        config.pluginmanager.register(loops, "apikley loops")
    except Exception as error:  # noqa: BLE001 - of a version that nobody here knows
        setattr(config, TROUBLE, loops_trouble(error))


@pytest.hookimpl(hookwrapper=True)  # the form that every pluggy knows
def pytest_generate_tests(metafunc: pytest.Metafunc) -> Generator[None, Any, None]:
    """Give a test that is marked, or asks for the simulator, a loop with virtual time.

    Whoever answers pytest-asyncio's question about loops answers it for every test of a project,
    so the answer is registered for this one test and taken back.
    """
    test, plugins = metafunc.definition, metafunc.config.pluginmanager
    wanted = test.get_closest_marker("apikley") or ASKING & set(metafunc.fixturenames)
    marker = test.get_closest_marker("asyncio")
    chosen = marker is not None and "loop_factories" in marker.kwargs
    if not wanted or chosen or not wishes_of(test).virtual or loop_scope_of(test) != "function":
        yield
        return
    plugins.register(VIRTUAL_TIME, "apikley virtual time")
    try:
        yield
    finally:
        plugins.unregister(VIRTUAL_TIME)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """Tell beside a failed test what the service saw of it."""
    outcome = yield
    if (module := sys.modules.get(STAGE)) is None:  # no test has asked for the service
        return
    stage = item.stash.get(module.STAGE, None)
    if stage is not None and (report := outcome.get_result()).failed:
        report.sections.append(("apikley simulator", stage.tell()))

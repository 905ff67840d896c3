"""What pytest is told, and when: the marker, the loop of a test, the books of a failed one."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable, Generator, Mapping

import pytest

from apikley_async.pytest_plugin._stage import STAGE
from apikley_async.pytest_plugin._wishes import asyncio_in, loop_scope_of, wishes_of
from apikley_async.virtual import VirtualLoop

__all__ = ["pytest_configure", "pytest_generate_tests", "pytest_runtest_makereport"]

MARKER = (
    "apikley(terms=None, faults=None, films=None, webhook_key=None, seed=0, speed=None, "
    "virtual=True): what the simulated Apikley service of this async test is like, and that the "
    "test's time is virtual"
)
ASKING = {"apikley_simulator", "apikley_client"}


class _VirtualTime:
    """Tells pytest-asyncio, for as long as it is registered, to use this loop and no other."""

    @pytest.hookimpl(tryfirst=True, optionalhook=True)
    def pytest_asyncio_loop_factories(
        self,
    ) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
        return {"virtual": VirtualLoop}


VIRTUAL_TIME = _VirtualTime()


def pytest_configure(config: pytest.Config) -> None:
    """Announce the marker, and the fixtures that only pytest-asyncio can run."""
    config.addinivalue_line("markers", MARKER)
    if asyncio_in(config):
        loops = importlib.import_module("apikley_async.pytest_plugin._loops")
        config.pluginmanager.register(loops, "apikley loops")


@pytest.hookimpl(wrapper=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> Generator[None, None, None]:
    """Give a test that is marked, or asks for the simulator, a loop with virtual time.

    Whoever answers pytest-asyncio's question about loops answers it for every test of a project,
    so the answer is registered for this one test and taken back.
    """
    test, plugins = metafunc.definition, metafunc.config.pluginmanager
    wanted = test.get_closest_marker("apikley") or ASKING & set(metafunc.fixturenames)
    marker = test.get_closest_marker("asyncio")
    chosen = marker is not None and "loop_factories" in marker.kwargs
    if not wanted or chosen or not wishes_of(test).virtual or loop_scope_of(test) != "function":
        return (yield)
    plugins.register(VIRTUAL_TIME, "apikley virtual time")
    try:
        return (yield)
    finally:
        plugins.unregister(VIRTUAL_TIME)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Tell beside a failed test what the service saw of it."""
    report = yield
    stage = item.stash.get(STAGE, None)
    if report.failed and stage is not None:
        report.sections.append(("apikley simulator", stage.tell()))
    return report

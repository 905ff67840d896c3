"""The hooks: the marker, virtual time for the tests that use it, the report of a failed test.

Every run of pytest loads this, with any version of pytest and pytest-asyncio. What only some of
them have is used only when a test needs it, so that only that test can fail.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Callable, Generator, Mapping
from typing import Any

import pytest

from apikley_async.pytest_plugin.marker_options import (
    FIXTURES_ERROR,
    has_asyncio,
    loop_scope,
    marker_options,
    too_old,
)

__all__ = ["pytest_configure", "pytest_generate_tests", "pytest_runtest_makereport"]

MARKER = (
    "apikley(terms=None, faults=None, renderer=None, webhook_key=None, seed=0, speed=None, "
    "virtual=True): how the simulated Apikley service of this async test behaves, and that the "
    "test's time is virtual"
)
FIXTURES = {"apikley_simulator", "apikley_client"}
SERVICE_MODULE = "apikley_async.pytest_plugin.running_service"


class _VirtualTime:
    """A plugin that, while registered, makes pytest-asyncio use the virtual loop."""

    @pytest.hookimpl(tryfirst=True, optionalhook=True)
    def pytest_asyncio_loop_factories(
        self,
    ) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
        from apikley_async.virtual import VirtualLoop

        return {"virtual": VirtualLoop}


VIRTUAL_TIME = _VirtualTime()


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and the fixtures that only pytest-asyncio can run."""
    config.addinivalue_line("markers", MARKER)
    if not has_asyncio(config):
        return
    try:
        fixtures = importlib.import_module("apikley_async.pytest_plugin.loop_scopes")
        config.pluginmanager.register(fixtures, "apikley loops")
    except Exception as error:  # noqa: BLE001 - an unknown version may raise anything
        setattr(config, FIXTURES_ERROR, too_old(error))


@pytest.hookimpl(hookwrapper=True)  # the form that every version of pluggy supports
def pytest_generate_tests(metafunc: pytest.Metafunc) -> Generator[None, Any, None]:
    """Give a test that has the marker, or uses a fixture, a loop with virtual time.

    A plugin that answers pytest-asyncio's hook answers it for every test of a project. So it is
    registered for this one test and unregistered again.
    """
    test, plugins = metafunc.definition, metafunc.config.pluginmanager
    wanted = test.get_closest_marker("apikley") or FIXTURES & set(metafunc.fixturenames)
    marker = test.get_closest_marker("asyncio")
    chosen = marker is not None and "loop_factories" in marker.kwargs
    if not wanted or chosen or not marker_options(test).virtual or loop_scope(test) != "function":
        yield
        return
    plugins.register(VIRTUAL_TIME, "apikley virtual time")
    try:
        yield
    finally:
        plugins.unregister(VIRTUAL_TIME)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """Add what the service recorded to the report of a failed test."""
    outcome = yield
    if (module := sys.modules.get(SERVICE_MODULE)) is None:  # no test has used the service
        return
    service = item.stash.get(module.RUNNING_SERVICE, None)
    if service is not None and (report := outcome.get_result()).failed:
        report.sections.append(("apikley simulator", service.report()))

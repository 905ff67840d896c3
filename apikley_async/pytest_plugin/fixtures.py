"""The public fixtures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from apikley_async import Client
from apikley_async.pytest_plugin.marker_options import (
    in_a_thread,
    loop_scope,
    marker_options,
    why_unsupported,
)

if TYPE_CHECKING:  # as in `marker_options`
    from apikley_async.pytest_plugin.running_service import RunningService
    from apikley_async.simulator import RandomFaults, Simulator, Terms

__all__ = [
    "apikley_client",
    "apikley_faults",
    "apikley_simulator",
    "apikley_terms",
    "service_in_thread",  # pytest finds fixtures by the names of the plugin
]


@pytest.fixture
def apikley_terms() -> Terms:
    """Limits, prices and durations of the service, unless a marker has them: override it."""
    from apikley_async.simulator import Terms

    return Terms()


@pytest.fixture
def apikley_faults() -> RandomFaults | None:
    """The random faults, unless a marker has them: override it."""
    return None


@pytest.fixture
def apikley_simulator(request: pytest.FixtureRequest) -> Simulator:
    """The simulator: in the loop of an async test, in a thread for another test.

    APIKLEY_API_KEY and APIKLEY_BASE_URL lead to it.
    """
    return _running_service(request).simulator


@pytest.fixture
def apikley_client(request: pytest.FixtureRequest) -> Client:
    """A client of `apikley_simulator`, closed when the test ends.

    In a test without a loop of pytest-asyncio, the program that uses it closes it: `async with`.
    """
    return _running_service(request).client()


@pytest.fixture(name="_apikley_service_in_thread")
def service_in_thread(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    apikley_terms: Terms,
    apikley_faults: RandomFaults | None,
) -> Iterator[RunningService]:
    """The service of a test that has no loop of pytest-asyncio."""
    from apikley_async.pytest_plugin.running_service import run_service_in_thread

    options = marker_options(request.node)
    with run_service_in_thread(options, apikley_terms, apikley_faults) as service:
        yield service.enter(request, monkeypatch)


def _running_service(request: pytest.FixtureRequest) -> RunningService:
    test = request.node
    if reason := why_unsupported(test, marker_options(test)):
        pytest.fail(reason, pytrace=False)
    place = "thread" if in_a_thread(test) else f"{loop_scope(test)}_loop"
    service: RunningService = request.getfixturevalue(f"_apikley_service_in_{place}")
    return service

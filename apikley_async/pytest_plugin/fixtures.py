"""The public fixtures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from apikley_async import Client
from apikley_async.pytest_plugin.marker_options import loop_scope, marker_options, why_unsupported

if TYPE_CHECKING:  # as in `marker_options`
    from apikley_async.pytest_plugin.running_service import RunningService
    from apikley_async.simulator import RandomFaults, Simulator, Terms

__all__ = ["apikley_client", "apikley_faults", "apikley_simulator", "apikley_terms"]


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
    """The simulator in the loop of this test. APIKLEY_API_KEY and APIKLEY_BASE_URL lead to it."""
    return _running_service(request).simulator


@pytest.fixture
def apikley_client(request: pytest.FixtureRequest) -> Client:
    """A client of `apikley_simulator`, closed when the test ends."""
    return _running_service(request).client()


def _running_service(request: pytest.FixtureRequest) -> RunningService:
    test = request.node
    if reason := why_unsupported(test, marker_options(test)):
        pytest.fail(reason, pytrace=False)
    fixture = f"_apikley_service_in_{loop_scope(test)}_loop"
    service: RunningService = request.getfixturevalue(fixture)
    return service

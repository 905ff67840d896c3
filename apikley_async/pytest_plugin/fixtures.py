"""The fixtures that users see."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from apikley_async import Client
from apikley_async.pytest_plugin.marker_options import loop_scope_of, trouble_with, wishes_of

if TYPE_CHECKING:  # as in `_wishes`
    from apikley_async.pytest_plugin.test_service import Stage
    from apikley_async.simulator import Faults, Simulator, Terms

__all__ = ["apikley_client", "apikley_faults", "apikley_simulator", "apikley_terms"]


@pytest.fixture
def apikley_terms() -> Terms:
    """What the service promises, limits and charges, unless a marker says so: override it."""
    from apikley_async.simulator import Terms

    return Terms()


@pytest.fixture
def apikley_faults() -> Faults | None:
    """What goes wrong by chance, unless a marker says so: override it."""
    return None


@pytest.fixture
def apikley_simulator(request: pytest.FixtureRequest) -> Simulator:
    """The service, running in the loop of this test; APIKLEY_API_KEY and _BASE_URL lead to it."""
    return _stage(request).simulator


@pytest.fixture
def apikley_client(request: pytest.FixtureRequest) -> Client:
    """A client of `apikley_simulator`, closed when the test ends."""
    return _stage(request).client()


def _stage(request: pytest.FixtureRequest) -> Stage:
    test = request.node
    if trouble := trouble_with(test, wishes_of(test)):
        pytest.fail(trouble, pytrace=False)
    stage: Stage = request.getfixturevalue(f"_apikley_stage_in_{loop_scope_of(test)}_loop")
    return stage

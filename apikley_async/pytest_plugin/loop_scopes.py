"""The stage as a fixture, once for each scope that the loop of a test can have.

pytest-asyncio wants to know the loop of an async fixture where it is written down. The fixtures
that users see choose among these. Imported only where pytest-asyncio is installed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Literal

import pytest
import pytest_asyncio

from apikley_async.pytest_plugin.marker_options import wishes_of
from apikley_async.pytest_plugin.test_service import STAGE, Stage, set_up

__all__ = ["in_class", "in_function", "in_module", "in_package", "in_session"]


def _stage_in(scope: Literal["session", "package", "module", "class", "function"]) -> Any:
    @pytest_asyncio.fixture(name=f"_apikley_stage_in_{scope}_loop", loop_scope=scope)
    async def stage(
        request: pytest.FixtureRequest,
        monkeypatch: pytest.MonkeyPatch,
        apikley_terms: Any,
        apikley_faults: Any,
    ) -> AsyncIterator[Stage]:
        async with set_up(wishes_of(request.node), apikley_terms, apikley_faults) as stage:
            # Whatever makes a client of its own meets the simulator too, and no real key.
            monkeypatch.setenv("APIKLEY_API_KEY", stage.simulator.api_key)
            monkeypatch.setenv("APIKLEY_BASE_URL", stage.simulator.base_url)
            request.node.stash[STAGE] = stage
            yield stage

    return stage


in_function = _stage_in("function")
in_class = _stage_in("class")
in_module = _stage_in("module")
in_package = _stage_in("package")
in_session = _stage_in("session")

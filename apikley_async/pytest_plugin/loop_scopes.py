"""The test service as a fixture, once for each scope that the loop of a test can have.

pytest-asyncio needs the loop scope of an async fixture where the fixture is defined. The public
fixtures choose among these. Imported only where pytest-asyncio is installed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Literal

import pytest
import pytest_asyncio

from apikley_async.pytest_plugin.marker_options import marker_options
from apikley_async.pytest_plugin.running_service import RunningService, run_service

__all__ = ["in_class", "in_function", "in_module", "in_package", "in_session"]


def _service_in(scope: Literal["session", "package", "module", "class", "function"]) -> Any:
    @pytest_asyncio.fixture(name=f"_apikley_service_in_{scope}_loop", loop_scope=scope)
    async def running_service(
        request: pytest.FixtureRequest,
        monkeypatch: pytest.MonkeyPatch,
        apikley_terms: Any,
        apikley_faults: Any,
    ) -> AsyncIterator[RunningService]:
        options = marker_options(request.node)
        async with run_service(options, apikley_terms, apikley_faults) as service:
            yield service.enter(request, monkeypatch)

    return running_service


in_function: Any = _service_in("function")
in_class: Any = _service_in("class")
in_module: Any = _service_in("module")
in_package: Any = _service_in("package")
in_session: Any = _service_in("session")

"""A pytest plugin: the simulated service in the test's event loop, and a client, in virtual time.

The fixtures are `apikley_simulator` and `apikley_client`; `@pytest.mark.apikley(...)` says how the
service behaves. Both run in the loop of the test, whose clock jumps: a film of three minutes takes
milliseconds. That needs pytest-asyncio. For a test without such a loop (a plain function, or one
that anyio runs) the service runs in a thread, 600 times as fast as the real one. Tests that use
neither are left alone.
"""

from apikley_async.pytest_plugin.fixtures import (
    apikley_client,
    apikley_faults,
    apikley_simulator,
    apikley_terms,
    service_in_thread,
)
from apikley_async.pytest_plugin.hooks import (
    pytest_configure,
    pytest_generate_tests,
    pytest_runtest_makereport,
)

__all__ = [
    "apikley_client",
    "apikley_faults",
    "apikley_simulator",
    "apikley_terms",
    "pytest_configure",
    "pytest_generate_tests",
    "pytest_runtest_makereport",
    "service_in_thread",
]

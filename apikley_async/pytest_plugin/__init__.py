"""For pytest: the service in the test's own event loop, and a client of it, in virtual time.

`apikley_simulator` and `apikley_client` are the fixtures, `@pytest.mark.apikley(...)` says what
the service is like. Both live in the loop of the test, whose clock jumps: a film of three minutes
takes milliseconds. Tests that ask for none of this are left as they are. Needs pytest-asyncio.
"""

from apikley_async.pytest_plugin.fixtures import (
    apikley_client,
    apikley_faults,
    apikley_simulator,
    apikley_terms,
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
]

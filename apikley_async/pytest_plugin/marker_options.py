"""The options of `@pytest.mark.apikley`, and whether a test can use the fixtures."""

from __future__ import annotations

import contextlib
import inspect
import sys
from typing import TYPE_CHECKING, Any

import attrs
import pytest

if TYPE_CHECKING:  # the simulator is imported by the first test that needs it, not by every pytest
    from apikley_async.simulator import RandomFaults, Renderer, Terms

__all__ = [
    "MarkerOptions",
    "has_asyncio",
    "in_a_thread",
    "loop_scope",
    "marker_options",
    "why_unsupported",
]

FIXTURES_ERROR = "_apikley_fixtures_error"  # set on pytest's configuration if they cannot be made
REAL_TIME_SPEED = 600.0  # in real time, ten minutes of the service pass in a second


@attrs.frozen(kw_only=True)
class MarkerOptions:
    """The arguments of `@pytest.mark.apikley`; for each, the closest marker decides.

    Args:
        terms: limits, prices and durations of the service.
        faults: random faults.
        renderer: makes the films.
        webhook_key: signs the callbacks; without one they are not signed.
        seed: of the service's and the client's randomness.
        speed: service seconds in one of the test's; 1 in virtual time, else 600.
        virtual: the test's clock jumps instead of waiting.
    """

    terms: Terms | None = None
    faults: RandomFaults | None = None
    renderer: Renderer | None = None
    webhook_key: str | None = attrs.field(default=None, repr=False)
    seed: int = 0
    speed: float | None = None
    virtual: bool = True

    @property
    def service_speed(self) -> float:
        """Service seconds in one of the test's."""
        if self.speed is not None:
            return self.speed
        return 1.0 if self.virtual else REAL_TIME_SPEED


def has_asyncio(config: pytest.Config) -> bool:
    """Whether pytest-asyncio is installed and switched on."""
    return hasattr(config.option, "asyncio_mode")


def marker_options(test: pytest.Item) -> MarkerOptions:
    """The options in the markers of a test, its class and its module."""
    given: dict[str, Any] = {}
    known = [field.name for field in attrs.fields(MarkerOptions)]
    for marker in test.iter_markers("apikley"):
        unknown = [*map(repr, marker.args), *sorted(set(marker.kwargs) - set(known))]
        if unknown:
            pytest.fail(
                f"@pytest.mark.apikley: not {', '.join(unknown)}, but any of {', '.join(known)}, "
                "each with its name",
                pytrace=False,
            )
        given = {**marker.kwargs, **given}
    return MarkerOptions(**given)


def loop_scope(test: pytest.Item) -> str:
    """Which tests share the event loop of this one: "function" when it has a loop of its own."""
    marker = test.get_closest_marker("asyncio")
    options = marker.kwargs if marker else {}
    default = None
    if has_asyncio(test.config):
        with contextlib.suppress(KeyError, ValueError):  # older versions have no such setting
            default = test.config.getini("asyncio_default_test_loop_scope")
    return str(options.get("loop_scope") or options.get("scope") or default or "function")


def too_old(error: Exception) -> str:
    """The message for a pytest-asyncio that cannot run the fixtures."""
    version = getattr(sys.modules.get("pytest_asyncio"), "__version__", "of unknown version")
    return (
        "the fixtures of apikley_async need pytest-asyncio 0.24 or newer, and here is "
        f"{version}: pip install -U pytest-asyncio ({type(error).__name__}: {error})"
    )


def in_a_thread(test: pytest.Item) -> bool:
    """Whether the service of a test runs in a thread: pytest-asyncio gives it no loop."""
    if test.get_closest_marker("asyncio") is not None:
        return False
    return not _is_coroutine(getattr(test, "function", None)) or _anyio_backend(test) is not None


def why_unsupported(test: pytest.Item, options: MarkerOptions) -> str | None:
    """Why a test cannot use the fixtures with *options*, and what to do; None when it can."""
    if in_a_thread(test):
        return (
            None
            if _anyio_backend(test) != "trio"
            else (
                "this test runs on trio, and apikley_async needs asyncio: let the fixture "
                '`anyio_backend` of this project return "asyncio"'
            )
        )
    if not has_asyncio(test.config):
        return (
            "the fixtures of apikley_async need pytest-asyncio for a coroutine: pip install "
            "pytest-asyncio (and do not switch it off with -p no:asyncio)"
        )
    if error := getattr(test.config, FIXTURES_ERROR, None):
        return str(error)
    if test.get_closest_marker("asyncio") is None:
        return (
            "no plugin runs this coroutine: mark it with @pytest.mark.asyncio (or anyio), or set "
            'asyncio_mode = "auto" in the configuration of pytest'
        )
    if not options.virtual:
        return None
    if not hasattr(test.config.pluginmanager.hook, "pytest_asyncio_loop_factories"):
        return (
            "virtual time needs a newer pytest-asyncio: pip install -U pytest-asyncio; or use "
            "real time with @pytest.mark.apikley(virtual=False)"
        )
    if (scope := loop_scope(test)) != "function":
        return (
            f"this test shares its event loop with others (loop_scope={scope!r}), and their time "
            "must not jump: give it a loop of its own with "
            '@pytest.mark.asyncio(loop_scope="function"), or use real time with '
            "@pytest.mark.apikley(virtual=False)"
        )
    return None


def _anyio_backend(test: pytest.Item) -> str | None:
    """The loop in which anyio runs a test; None when it does not."""
    if not isinstance(test, pytest.Function) or "anyio_backend" not in test.fixturenames:
        return None
    backend: Any = test.funcargs.get("anyio_backend", "asyncio")
    return backend if isinstance(backend, str) else str(backend[0])


def _is_coroutine(function: object) -> bool:
    inner = getattr(getattr(function, "hypothesis", None), "inner_test", function)
    return inspect.iscoroutinefunction(inner)

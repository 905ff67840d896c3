"""What a test wishes for: the arguments of its markers, and whether it can have that."""

from __future__ import annotations

import contextlib
import inspect
import sys
from typing import TYPE_CHECKING, Any

import attrs
import pytest

if TYPE_CHECKING:  # the simulator is imported when the first test needs it, not with every pytest
    from apikley_async.simulator import Faults, Films, Terms

__all__ = ["Wishes", "asyncio_in", "loop_scope_of", "trouble_with", "wishes_of"]

TROUBLE = "_apikley_trouble"  # set on pytest's configuration when its fixtures cannot be made
FAST = 600.0  # where time is real, ten minutes of the service pass in a second


@attrs.frozen(kw_only=True)
class Wishes:
    """What `@pytest.mark.apikley` may say; word by word the closest marker wins.

    Args:
        terms: what the service promises, limits and charges.
        faults: what goes wrong by chance.
        films: who makes the films.
        webhook_key: signs the callbacks; without one they are not signed.
        seed: of the service's chance and of the client's.
        speed: seconds of the service in one of the test's; 1 in virtual time, else 600.
        virtual: whether the test's clock jumps instead of waiting.
    """

    terms: Terms | None = None
    faults: Faults | None = None
    films: Films | None = None
    webhook_key: str | None = attrs.field(default=None, repr=False)
    seed: int = 0
    speed: float | None = None
    virtual: bool = True

    @property
    def pace(self) -> float:
        """Seconds of the service in one of the test's."""
        if self.speed is not None:
            return self.speed
        return 1.0 if self.virtual else FAST


def asyncio_in(config: pytest.Config) -> bool:
    """Whether pytest-asyncio is there, and switched on."""
    return hasattr(config.option, "asyncio_mode")


def wishes_of(test: pytest.Item) -> Wishes:
    """Put the markers of a test, its class and its module together."""
    said: dict[str, Any] = {}
    known = [field.name for field in attrs.fields(Wishes)]
    for marker in test.iter_markers("apikley"):
        strange = [*map(repr, marker.args), *sorted(set(marker.kwargs) - set(known))]
        if strange:
            pytest.fail(
                f"@pytest.mark.apikley: not {', '.join(strange)}, but any of {', '.join(known)}, "
                "each with its name",
                pytrace=False,
            )
        said = {**marker.kwargs, **said}
    return Wishes(**said)


def loop_scope_of(test: pytest.Item) -> str:
    """Say how many tests share the event loop of this one: "function" for a loop of its own."""
    marker = test.get_closest_marker("asyncio")
    said = marker.kwargs if marker else {}
    default = None
    if asyncio_in(test.config):
        with contextlib.suppress(KeyError, ValueError):  # older ones have no such setting
            default = test.config.getini("asyncio_default_test_loop_scope")
    return str(said.get("loop_scope") or said.get("scope") or default or "function")


def loops_trouble(error: Exception) -> str:
    """Say that the installed pytest-asyncio cannot run the fixtures, and what to do."""
    version = getattr(sys.modules.get("pytest_asyncio"), "__version__", "of some version")
    return (
        "the fixtures of apikley_async need pytest-asyncio 0.24 or newer, and here is "
        f"{version}: pip install -U pytest-asyncio ({type(error).__name__}: {error})"
    )


def trouble_with(test: pytest.Item, wishes: Wishes) -> str | None:
    """Say why a test cannot have what it wishes for, and what to do; None when it can."""
    if not asyncio_in(test.config):
        return (
            "the fixtures of apikley_async need pytest-asyncio: pip install pytest-asyncio "
            "(and do not switch it off with -p no:asyncio)"
        )
    if trouble := getattr(test.config, TROUBLE, None):
        return str(trouble)
    if not _is_coroutine(getattr(test, "function", None)):
        return (
            "the simulator lives in the event loop of the test, and this test has none: make it "
            "`async def`, and await the coroutine of your program instead of asyncio.run()"
        )
    if test.get_closest_marker("asyncio") is None:
        return (
            "nobody runs this coroutine: mark it with @pytest.mark.asyncio, or set "
            'asyncio_mode = "auto" in the configuration of pytest'
        )
    if not wishes.virtual:
        return None
    if not hasattr(test.config.pluginmanager.hook, "pytest_asyncio_loop_factories"):
        return (
            "virtual time needs a newer pytest-asyncio: pip install -U pytest-asyncio; or take "
            "real time with @pytest.mark.apikley(virtual=False)"
        )
    if (scope := loop_scope_of(test)) != "function":
        return (
            f"this test shares its event loop with others (loop_scope={scope!r}), and their time "
            "must not jump: give it a loop of its own with "
            '@pytest.mark.asyncio(loop_scope="function"), or take real time with '
            "@pytest.mark.apikley(virtual=False)"
        )
    return None


def _is_coroutine(function: object) -> bool:
    inner = getattr(getattr(function, "hypothesis", None), "inner_test", function)
    return inspect.iscoroutinefunction(inner)

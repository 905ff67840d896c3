"""Ctrl-C and its like: how long is waited for what is on its way."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest

from apikley_async.cli.signals import SIGNALS, GracefulStop


@pytest.fixture(autouse=True)
def _handlers_are_put_back() -> Iterator[None]:
    before = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("number", "least", "most"),
    [(signal.SIGINT, 60, 120), (signal.SIGTERM, 5, 9), (signal.SIGHUP, 5, 9)],
)
async def test_whoever_stops_us_is_not_kept_waiting(
    number: signal.Signals, least: float, most: float
) -> None:
    """A container is killed ten seconds after SIGTERM; who presses Ctrl-C can press again."""
    told: list[str] = []
    stopper = GracefulStop(told.append, lambda: None)

    async def works() -> None:
        with stopper:
            os.kill(os.getpid(), number)
            await asyncio.sleep(10)

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(works())

    assert least <= stopper.grace <= most
    assert (told, stopper.code) == ([number.name], 128 + number)


async def test_a_signal_that_was_turned_off_stays_off() -> None:
    """Under nohup a terminal that closes ends nothing."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    told: list[str] = []

    with GracefulStop(told.append, lambda: None) as stopper:
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.sleep(0.01)

    assert (told, stopper.signal) == ([], None)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN

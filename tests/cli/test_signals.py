"""Ctrl-C, SIGTERM and SIGHUP: how long submissions under way are waited for."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest

from apikley_async.cli.signals import SIGNALS, GracefulStop


@pytest.fixture(autouse=True)
def _restore_handlers() -> Iterator[None]:
    before = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


async def test_the_grace_depends_on_the_signal() -> None:
    """A container is killed ten seconds after SIGTERM; a user can press Ctrl-C again."""
    failures = []
    for number, least, most in (
        (signal.SIGINT, 60, 120),
        (signal.SIGTERM, 5, 9),
        (signal.SIGHUP, 5, 9),
    ):
        names: list[str] = []
        stop = GracefulStop(names.append, lambda: None)

        with pytest.raises(asyncio.CancelledError):
            await asyncio.create_task(_stopped_by(stop, number))

        found = (names, stop.code)
        if not least <= stop.grace <= most or found != ([number.name], 128 + number):
            failures.append((number, stop.grace, found))

    assert failures == []


async def test_the_grace_is_spent_once() -> None:
    """By whoever waits for answers, one after the other: a container is not asked again."""
    now = [100.0]
    stop = GracefulStop(lambda name: None, lambda: None, clock=lambda: now[0])
    before = stop.grace

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(_stopped_by(stop, signal.SIGTERM))
    found = []
    for now[0] in (100.0, 103.0, 107.5, 110.0):
        found.append(stop.grace)

    assert (before, found) == (120.0, [7.5, 4.5, 0.0, 0.0])


async def _stopped_by(stop: GracefulStop, number: signal.Signals) -> None:
    with stop:
        os.kill(os.getpid(), number)
        await asyncio.sleep(10)


async def test_an_ignored_signal_stays_ignored() -> None:
    """Under nohup a closed terminal ends nothing."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    names: list[str] = []

    with GracefulStop(names.append, lambda: None) as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.sleep(0.01)

    assert (names, stop.signal) == ([], None)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN

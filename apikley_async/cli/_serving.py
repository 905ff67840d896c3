"""`apikley simulate`: the simulator as a server for other processes."""

from __future__ import annotations

import asyncio
import random

from apikley_async.cli._exit import Refused
from apikley_async.cli._stage import films_named
from apikley_async.cli._telling import Telling, count
from apikley_async.simulator import Simulator, Terms

__all__ = ["announced", "simulator"]


def simulator(
    host: str,
    port: int,
    *,
    speed: float,
    films: str | None,
    limit: int,
    per: float,
    max_running: int,
    balance: float,
    fail_rate: float,
    seed: int,
) -> Simulator:
    """The simulator as the options describe it."""
    terms = Terms(
        limit=limit, per=per, max_running=max_running, credits=balance, fail_rate=fail_rate
    )
    return Simulator(
        terms,
        films=films_named(films),
        speed=speed,
        rng=random.Random(seed),
        host=host,
        port=port,
    )


async def announced(simulator: Simulator, tell: Telling) -> None:
    """Serve until cancelled; say how to get there, and at the end what happened."""
    try:
        await simulator.start()
    except OSError as error:
        raise Refused(f"the simulator cannot listen there: {error.strerror or error}") from None
    try:
        tell("serving", base_url=simulator.base_url, api_key=simulator.api_key)
        tell.answer(f"export APIKLEY_BASE_URL={simulator.base_url}")
        tell.answer(f"export APIKLEY_API_KEY={simulator.api_key}")
        tell.give()
        tell.say("The simulator is ready; the two lines above, typed elsewhere, lead there.")
        tell.say("Ctrl-C ends it.")
        await asyncio.Event().wait()
    finally:
        ledger = simulator.ledger
        await simulator.aclose()
        spent = f"{ledger.credits_spent:g} credits, none of them real"
        tell.say(f"Ended after {count(len(ledger.paid))} ({spent}).")

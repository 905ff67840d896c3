"""`apikley simulate`: the simulator as a server for other processes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

from apikley_async.cli.embedded import films_named
from apikley_async.cli.exit_codes import Refused
from apikley_async.cli.output.reporter import Telling, count, plain
from apikley_async.simulator import Faults, Simulator, Terms, Uniform

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
    faults: Sequence[str],
    latency: tuple[float, float] | None,
    webhook_key: str | None,
    hosts: Sequence[str] = (),
    models: Sequence[str] = (),
) -> Simulator:
    """The simulator as the options describe it."""
    terms = Terms(
        limit=limit,
        per=per,
        max_running=max_running,
        credits=balance,
        fail_rate=fail_rate,
        latency=Uniform(*latency) if latency else {},
        generic_models={*Terms().generic_models, *models},
    )
    return Simulator(
        terms,
        faults=faults_named(faults, seed),
        webhook_key=webhook_key,
        hosts=hosts,
        films=films_named(films),
        speed=speed,
        rng=random.Random(seed),
        host=host,
        port=port,
    )


def faults_named(words: Sequence[str], seed: int) -> Faults | None:
    """What goes wrong by chance: `create:reset after=0.1` and the like."""
    mixes: dict[str, dict[str, float]] = {}
    try:
        for word in words:
            place, _, share = word.rpartition("=")
            endpoint, _, fault = place.partition(":")
            mixes.setdefault(endpoint, {})[fault] = float(share)
        return Faults.named(mixes, seed=seed) if mixes else None
    except ValueError as error:
        raise Refused(f"--fault ENDPOINT:FAULT=SHARE: {plain(error)}") from None


async def announced(simulator: Simulator, tell: Telling) -> None:
    """Serve until cancelled; say how to get there, and at the end what happened."""
    try:
        await simulator.start()
    except (OSError, UnicodeError) as error:
        told = getattr(error, "strerror", None) or "that is no address"
        raise Refused(f"the simulator cannot listen there: {told}") from None
    try:
        tell("serving", base_url=simulator.base_url, api_key=simulator.api_key)
        tell.answer(f"export APIKLEY_BASE_URL={simulator.base_url}")
        tell.answer(f"export APIKLEY_API_KEY={simulator.api_key}")
        tell.give()
        if simulator.exposed:
            tell.say("Warning: it is not bound to loopback, so other machines may come too.")
        tell.say("The simulator is ready; the two lines above, typed elsewhere, lead there.")
        tell.say("Ctrl-C ends it.")
        await asyncio.Event().wait()
    finally:
        ledger = simulator.ledger
        await simulator.aclose()
        spent = f"{ledger.credits_spent:g} credits, none of them real"
        tell.say(f"Ended after {count(len(ledger.paid))} ({spent}).")

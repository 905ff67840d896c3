"""`apikley simulate`: the simulator as a server for other processes."""

from __future__ import annotations

import asyncio
import errno
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs
import click

from apikley_async._disk import open_nonblocking
from apikley_async.cli.exit_codes import RefusedError
from apikley_async.cli.output.reporter import Reporter
from apikley_async.cli.output.terminal_text import count, in_credits, plain
from apikley_async.cli.simulated_service import placeholder_note, renderer_named
from apikley_async.simulator import (
    AnimaticRenderer,
    Lognormal,
    RandomFaults,
    RecordForm,
    Renderer,
    RenderRequest,
    Simulator,
    Terms,
    Uniform,
)

MAX_RECORDING = 1024 * 1024  # characters
TYPICAL = Lognormal().median  # simulated seconds that a film takes

__all__ = ["WatchedRenderer", "new_simulator", "serve_simulator"]


def new_simulator(
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
    clock_offset: float = 0.0,
    webhook_key: str | None,
    hosts: Sequence[str] = (),
    models: Sequence[str] = (),
    recordings: Sequence[Path] = (),
    say: Callable[[str], None] = click.echo,
) -> Simulator:
    """The simulator as the options describe it; *say* tells that films are late, or not drawn."""
    if note := placeholder_note(films):
        say(note)
    terms = Terms(
        limit=limit,
        per=per,
        max_running=max_running,
        credits=balance,
        fail_rate=fail_rate,
        latency=Uniform(*latency) if latency else {},
        clock_offset=clock_offset,
        generic_models={*Terms().generic_models, *models},
        record_forms=tuple(map(read_recording, recordings)),
    )
    return Simulator(
        terms,
        faults=parse_faults(faults, seed),
        webhook_key=webhook_key,
        hosts=hosts,
        renderer=watched(renderer_named(films), speed, say),
        speed=speed,
        rng=random.Random(seed),
        host=host,
        port=port,
    )


def watched(renderer: Renderer, speed: float, say: Callable[[str], None]) -> Renderer:
    """A renderer that tells when it cannot keep up; one that renders nothing as it is."""
    return (
        WatchedRenderer(renderer, speed, say)
        if isinstance(renderer, AnimaticRenderer)
        else renderer
    )


@attrs.define
class WatchedRenderer:
    """Renders films, and says once that they come later than the service's clock wants them.

    Attributes:
        renderer: makes them.
        speed: simulated seconds in one real second.
        say: tells the user.
    """

    renderer: Renderer
    speed: float
    say: Callable[[str], None]
    _said: bool = False

    async def render(self, request: RenderRequest) -> bytes:
        began = time.monotonic()
        film = await self.renderer.render(request)
        took = time.monotonic() - began  # the films before it included
        if took * self.speed > TYPICAL and not self._said:
            self._said = True
            self.say(
                f"Rendering holds the films up: this one took {took:.1f} s, and at --speed "
                f"{self.speed:g} it was due after {TYPICAL / self.speed:.1f} s. With --films "
                "placeholder they come in time."
            )
        return film


def read_recording(path: Path) -> RecordForm:
    """The form of a record that `apikley doctor --record` has kept."""
    try:
        with open(path, encoding="utf-8", opener=open_nonblocking) as file:
            return RecordForm.from_json(file.read(MAX_RECORDING))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RefusedError(f"--replay {plain(path)}: {plain(reason)}") from None


def parse_faults(words: Sequence[str], seed: int) -> RandomFaults | None:
    """The random faults of `--fault`, such as `create:reset after=0.1`."""
    mixes: dict[str, dict[str, float]] = {}
    try:
        for word in words:
            target, _, share = word.rpartition("=")
            endpoint, _, fault = target.partition(":")
            mixes.setdefault(endpoint, {})[fault] = float(share)
        return RandomFaults.named(mixes, seed=seed) if mixes else None
    except ValueError as error:
        raise RefusedError(f"--fault ENDPOINT:FAULT=SHARE: {plain(error)}") from None


async def serve_simulator(simulator: Simulator, reporter: Reporter) -> None:
    """Serve until cancelled; report how to connect, and at the end what it was asked for."""
    try:
        await simulator.start()
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "that is no address"
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            reason = "the port is in use; name another one with --port"
        raise RefusedError(f"the simulator cannot listen there: {reason}") from None
    try:
        reporter.event("serving", base_url=simulator.base_url, api_key=simulator.api_key)
        reporter.result(f"export APIKLEY_BASE_URL={simulator.base_url}")
        reporter.result(f"export APIKLEY_API_KEY={simulator.api_key}")
        reporter.print_results()
        if simulator.exposed:
            reporter.message(
                "Warning: it is not bound to loopback, so other machines can connect too."
            )
        reporter.message("The simulator is ready. Paste the two lines above into another terminal.")
        reporter.message("Ctrl-C ends it.")
        await asyncio.Event().wait()
    finally:
        ledger = simulator.ledger
        await simulator.aclose()
        spent = f"{in_credits(ledger.credits_spent)} credits, none of them real"
        reporter.message(f"Ended after {count(len(ledger.paid))} ({spent}).")

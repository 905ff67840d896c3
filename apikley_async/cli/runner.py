"""One command's life: the loop, the signals, the client, and the last words."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

from apikley_async import ApikleyError
from apikley_async.cli.client_factory import Open, Session
from apikley_async.cli.exit_codes import advice, exit_code
from apikley_async.cli.output.reporter import Lines, Screen, Telling
from apikley_async.cli.signals import Stopper

__all__ = ["Leaving", "alone", "play", "serve", "telling"]


class Leaving(Protocol):
    """What is asked when a command is stopped: what is out, and what is to be said."""

    @property
    def out(self) -> int: ...

    def hurry(self, grace: float) -> None: ...

    def tell_left(self) -> None: ...


def telling(*, as_json: bool, films: int | None = None, ends: str = "saved") -> Telling:
    """Bars for *films* where there is a terminal to draw them on, plain lines elsewhere.

    None for what has no films; 0 if their number is not known yet.
    """
    screen: Screen = Lines(ends=ends)
    drawable = sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
    if films is not None and drawable and not (as_json and sys.stdout.isatty()):
        from apikley_async.cli.output.progress import Bars

        screen = Bars(films, ends=ends)
    return Telling(screen, as_json=as_json)


def play(
    opening: Open,
    flow: Callable[[Session], Awaitable[int]],
    tell: Telling,
    films: Leaving | None = None,
) -> int:
    """Run *flow* with a client, and give the exit code; the first signal ends it in good order."""

    async def act(stopper: Stopper) -> int:
        async with opening() as session:
            try:
                return await flow(session)
            finally:
                await session.client.aclose(grace=stopper.grace)

    return asyncio.run(_supervised(act, tell, films))


def alone(flow: Callable[[], Awaitable[int]], tell: Telling) -> int:
    """Run *flow*, which needs no client, and give its exit code."""

    async def act(stopper: Stopper) -> int:
        return await flow()

    return asyncio.run(_supervised(act, tell))


def serve(run: Callable[[], Coroutine[Any, Any, None]], tell: Telling) -> int:
    """Run a server until a signal ends it, which is its natural end."""

    async def act(stopper: Stopper) -> int:
        await run()
        return 0

    code = asyncio.run(_supervised(act, tell))
    return 0 if code > 128 else code


async def _supervised(
    act: Callable[[Stopper], Awaitable[int]], tell: Telling, films: Leaving | None = None
) -> int:
    def first(name: str) -> None:
        if films is not None:
            films.hurry(stopper.grace)
            tell("stopping", signal=name, out=films.out)

    def second() -> None:
        tell.hurry()
        if films is not None:
            films.tell_left()
            tell.give()

    with Stopper(first, second) as stopper:
        try:
            return await act(stopper)
        except asyncio.CancelledError:
            if stopper.signal is None:
                raise
        except ApikleyError as error:
            told = advice(error) or None
            kind = type(error).__name__
            tell("error", error=kind, code=error.code, message=error.message, advice=told)
            return exit_code(error)
        finally:
            tell.close()
        if films is not None:
            films.tell_left()
            tell.give()
        return stopper.code

"""The life of one command: event loop, signals, client, reporter and exit code."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

from apikley_async import ApikleyError, Client
from apikley_async.cli.client_factory import OpenClient
from apikley_async.cli.exit_codes import advice_for, exit_code
from apikley_async.cli.output.reporter import LineView, Reporter, View
from apikley_async.cli.signals import GracefulStop

__all__ = ["Stoppable", "new_reporter", "run_server", "run_with_client", "run_without_client"]

TICK = 1.0  # seconds


class Stoppable(Protocol):
    """What a command is working at, asked when it is stopped."""

    @property
    def submissions_under_way(self) -> int:
        """Submissions whose answer is awaited."""
        ...

    def limit_grace(self, grace: float) -> None:
        """Wait *grace* seconds at most for those answers."""
        ...

    def report_unfinished(self) -> None:
        """Report what is not finished, and how to resume."""
        ...


def new_reporter(
    *, as_json: bool, films: int | None = None, final_event: str = "saved", plain: bool = False
) -> Reporter:
    """A reporter with progress bars on a terminal that can draw them, else with plain lines.

    Args:
        as_json: whether events are printed on stdout.
        films: how many films there are; 0 if that is not known yet, None for a command without.
        final_event: the event that ends a film.
        plain: whether the user wants lines and no bars.
    """
    view: View = LineView(final_event=final_event)
    drawable = sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
    plain = plain or os.environ.get("CI", "") not in ("", "0", "false")
    if films is not None and drawable and not plain and not (as_json and sys.stdout.isatty()):
        # Imported only here: rich takes long to load, and pipes do not need it.
        from apikley_async.cli.output.progress_view import ProgressView

        view = ProgressView(films, final_event=final_event)
    return Reporter(view, as_json=as_json)


def run_with_client(
    open_client: OpenClient,
    act: Callable[[Client], Awaitable[int]],
    reporter: Reporter,
    stoppable: Stoppable | None = None,
) -> int:
    """Run *act* with a client, and return its exit code.

    The first signal cancels it and closes the client in good order, the second ends the process.
    """

    async def run(stop: GracefulStop) -> int:
        async with open_client() as client:
            try:
                return await act(client)
            finally:
                # Before `async with` closes it with the usual grace: after SIGTERM there are
                # only seconds left to wait for the answers to submissions under way.
                await client.aclose(grace=stop.grace)

    return asyncio.run(_supervised(run, reporter, stoppable))


def run_without_client(act: Callable[[], Awaitable[int]], reporter: Reporter) -> int:
    """Run *act*, and return its exit code."""

    async def run(stop: GracefulStop) -> int:
        return await act()

    return asyncio.run(_supervised(run, reporter))


def run_server(serve: Callable[[], Coroutine[Any, Any, None]], reporter: Reporter) -> int:
    """Run a server until a signal ends it; that is a success."""

    async def run(stop: GracefulStop) -> int:
        await serve()
        return 0

    code = asyncio.run(_supervised(run, reporter))
    return 0 if code > 128 else code


async def _supervised(
    run: Callable[[GracefulStop], Awaitable[int]],
    reporter: Reporter,
    stoppable: Stoppable | None = None,
) -> int:
    def on_first(signal_name: str) -> None:
        out = None
        if stoppable is not None:
            stoppable.limit_grace(stop.grace)
            out = stoppable.submissions_under_way
        grace = round(stop.grace, 1) if out else None
        reporter.event("stopping", signal=signal_name, out=out, grace=grace)

    def on_second() -> None:
        # Called from a signal handler, in the middle of anything: no buffer or lock may be used.
        reporter.unbuffer()
        if stoppable is not None:
            stoppable.report_unfinished()
            reporter.print_results()
        reporter.end(stop.code)

    with GracefulStop(on_first, on_second) as stop:
        ticking = asyncio.create_task(_tick(reporter))
        try:
            return await run(stop)
        except asyncio.CancelledError:
            if stop.signal is None:  # not ours
                raise
        except ApikleyError as error:
            reporter.event(
                "error",
                error=type(error).__name__,
                code=error.code,
                message=error.message,
                advice=advice_for(error) or None,
            )
            return exit_code(error)
        finally:
            ticking.cancel()
            reporter.close()
        if stoppable is not None:
            stoppable.report_unfinished()
            reporter.print_results()
        return stop.code


async def _tick(reporter: Reporter) -> None:
    """Let the reporter know that time passes."""
    while True:
        await asyncio.sleep(TICK)
        reporter.tick()

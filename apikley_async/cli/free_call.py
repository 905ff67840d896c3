"""One call of the service that costs nothing, as a command."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from apikley_async import ApikleyError, Client
from apikley_async.cli.client_factory import client_for
from apikley_async.cli.exit_codes import advice_for, exit_code
from apikley_async.cli.options import ServiceOptions
from apikley_async.cli.output.reporter import Reporter
from apikley_async.cli.runner import new_reporter, run_with_client

__all__ = ["call_service", "report_failure"]

SLOW = 5.0  # seconds without an answer until the user is told


def call_service(
    service: ServiceOptions,
    call: Callable[[Client, Reporter], Awaitable[int]],
    tasks: Sequence[str] = (),
) -> int:
    """Run *call* with a client, and return its exit code.

    Args:
        service: which service.
        call: calls it and reports the answer.
        tasks: ids that a simulated service is to know.
    """
    reporter = new_reporter(as_json=service.as_json)
    open_client = client_for(service, tasks, saves=False)

    async def act(client: Client) -> int:
        loop = asyncio.get_running_loop()
        notice = loop.call_later(SLOW, reporter.message, "No answer yet, still trying")
        try:
            return await call(client, reporter)
        finally:
            notice.cancel()

    return run_with_client(open_client, act, reporter)


def report_failure(reporter: Reporter, error: ApikleyError, **facts: str) -> int:
    """Report that one of several calls failed, and return its exit code."""
    reporter.event(
        "failed",
        **facts,
        error=type(error).__name__,
        code=error.code,
        message=error.message,
        advice=advice_for(error) or None,
    )
    return exit_code(error)

"""The client of a command: for the real service, or for a simulated one with `--simulate`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TypeAlias

import click

from apikley_async import Callbacks, Client, Limiter, RateLimiter
from apikley_async.cli.exit_codes import RefusedError
from apikley_async.cli.key_files import read_api_key
from apikley_async.cli.options import ServiceOptions
from apikley_async.cli.output.terminal_text import plain

__all__ = ["OpenClient", "client_for"]

OpenClient: TypeAlias = Callable[[], AbstractAsyncContextManager[Client]]
"""Opens a client in the running event loop, and closes it at the end of the `async with`."""


def client_for(
    options: ServiceOptions,
    tasks: Sequence[str] = (),
    *,
    finished: bool = False,
    saves: bool = True,
    max_running: int = 100,
    timeout: float | None = None,
    not_created: Sequence[int] = (),
    callback: Callbacks | None = None,
    limiter: Limiter | None = None,
) -> OpenClient:
    """Check key and address now; return what opens the client later, in the event loop.

    Args:
        options: which service, and how to reach it.
        tasks: ids that a simulated service is to know.
        finished: whether those tasks are finished.
        saves: whether films are saved, so that it matters what simulated ones show.
        max_running: films in the making at once.
        timeout: seconds for which a job is polled; by default 1800.
        not_created: codes that mean that nothing was created, see `Client`.
        callback: gives the submissions their callback URLs. A simulated service calls none.
        limiter: paces submissions; by default one of this process.

    Raises:
        RefusedError: there is no key, or an option has no meaning.
    """
    if options.simulate:
        _say_what_is_simulated(films=saves)
        return _simulated(tasks, finished=finished, max_running=max_running, timeout=timeout)
    key = read_api_key(options.key_file)
    try:
        client = Client(
            key,
            base_url=options.base_url,
            limiter=limiter or RateLimiter(max_running=max_running),
            job_timeout=timeout or 1800.0,
            callback=callback,
            not_created=not_created,
            proxy=options.proxy,
            allow_private=options.allow_private,
        )
    except ValueError as error:
        raise RefusedError(plain(error)) from None
    return lambda: client


def _say_what_is_simulated(*, films: bool) -> None:
    """Say what is not real; of *films* also what they cannot show."""
    from apikley_async.cli import simulated_service as simulated  # as below

    click.echo("Simulated: nothing leaves this machine, nothing is paid.", err=True)
    if films and (note := simulated.placeholder_note()):
        click.echo(note, err=True)


def _simulated(
    tasks: Sequence[str], *, finished: bool, max_running: int, timeout: float | None
) -> OpenClient:
    """What opens a client of a simulated service, which knows *tasks*."""
    # Imported only here: the simulator takes longer to load than all the rest.
    from apikley_async.cli import simulated_service as simulated

    service = simulated.SimulatedService(simulated.SPEED, max_running=max_running, timeout=timeout)
    known = [simulated.KnownTask(task, finished=finished) for task in tasks]
    return lambda: service.open_client(known)

"""Hints: procrastinate wakes workers where there may be work. What is true is in the journal.

A hint says that some films want a worker, and names none: which films a worker makes, its claims
decide. So a hint that comes twice, late or never does no harm. Without hints everything works too,
more slowly: workers look for work every few seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from apikley_async import Clock, SystemClock
from apikley_async._postgres import SESSION, Dsn, Versions, load_psycopg, options, reason_of
from apikley_async.errors import MissingExtraError

__all__ = ["FILMS_PER_HINT", "PART", "Hints", "hint_versions", "wake_workers"]

logger: logging.Logger = logging.getLogger("apikley_async.distributed")

PART = "procrastinate"  # of what is kept in the database: its own tables, made by `db init`
QUEUE = "apikley"
TASK, SWEEP = "apikley.work", "apikley.sweep"
EVERY_MINUTE = "* * * * *"
FILMS_PER_HINT = 8  # so many are claimed ahead by one worker
MOST_HINTS = 64  # deferred at a time: any worker that is awake goes on until nothing is left
POLLING = 5.0  # seconds between two looks for hints, where no notification comes
CONNECTING = 5.0  # seconds for the first connection
ANSWER = 2.0  # seconds for a connection when the worker ends: whoever stops it may not wait long
ENDING = 0.5  # seconds for what heeds a hint when the worker ends
NO_HINTS = "there are no hints now, and workers look for work by themselves: %s"
RESTARTS = (1.0, 2.0, 5.0, 10.0, 30.0)  # seconds before it is started again, then always the last


def load_procrastinate() -> Any:
    """The module `procrastinate`.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return importlib.import_module("procrastinate")
    except ImportError:
        raise MissingExtraError.of("Workers need procrastinate", "postgres") from None


def hint_versions(known: int) -> Versions:
    """The tables of the installed procrastinate; one version for each of its migrations.

    Args:
        known: the version that a database has; 0 for none, and then all is made at once.
    """
    manager = load_procrastinate().schema.SchemaManager
    scripts = sorted(Path(manager.get_migrations_path()).glob("*.sql"))
    if known:
        new = tuple((script.read_text(encoding="utf-8"),) for script in scripts[known:])
        return ((),) * min(known, len(scripts)) + new
    return ((),) * (len(scripts) - 1) + ((manager.get_schema(),),)


async def wake_workers(dsn: str | Dsn, films: int) -> None:
    """Hint to the workers of a journal that so many films were added. Raises nothing.

    Without a hint they find them too, some seconds later.
    """
    place = Dsn.parse(dsn)
    await Hints(place, SystemClock()).wake(films)


class Hints:
    """The hints of one database, for one worker or for whoever has added films.

    Args:
        dsn: of the database.
        clock: time.
        heed: called for each hint; the next one comes when it returns.
        waiting: gives the number of films that want a worker; asked once a minute by one of all
            workers.
    """

    def __init__(
        self,
        dsn: Dsn,
        clock: Clock,
        *,
        heed: Callable[[], Awaitable[None]] | None = None,
        waiting: Callable[[], Awaitable[int]] | None = None,
    ) -> None:
        _ = load_procrastinate()  # refused now, and not when the first film is there
        self._dsn = dsn
        self._clock = clock
        self._heed = heed
        self._waiting = waiting

    async def wake(self, films: int) -> None:
        """Hand out hints that so many films want a worker. Raises nothing."""
        try:
            async with self._opened() as app:
                await defer(app, films)
        except Exception as error:  # noqa: BLE001 - whatever it is, workers look by themselves
            logger.info("no hint was given: %s", type(error).__name__)

    async def reachable(self) -> bool:
        """Whether the database takes a connection now. It is tried once, unlike an app's pool."""
        try:
            connecting = load_psycopg().AsyncConnection.connect(**options(self._dsn))
            async with asyncio.timeout(ANSWER):
                await (await connecting).close()
        except Exception:  # noqa: BLE001 - whatever it is, hints are not worth a wait
            return False
        return True

    async def follow(self) -> None:
        """Take hints until cancelled. It begins again whenever procrastinate has ended."""
        failures, said = 0, ""
        while True:
            began = self._clock.now()
            try:
                async with self._opened() as app:
                    await app.run_worker_async(
                        queues=[QUEUE],
                        name="apikley",
                        fetch_job_polling_interval=POLLING,
                        delete_jobs="always",
                        install_signal_handlers=False,
                        shutdown_graceful_timeout=ENDING,
                    )
                reason = "procrastinate has ended"
            except Exception as error:  # noqa: BLE001 - whatever it is, workers look by themselves
                cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
                reason = reason_of(cause)
            if is_cancelled():  # and an error of what procrastinate does at its end came instead
                raise asyncio.CancelledError
            if self._clock.now() - began > RESTARTS[-1]:
                failures, said = 0, ""
            logger.log(logging.DEBUG if reason == said else logging.WARNING, NO_HINTS, reason)
            failures, said = failures + 1, reason
            await self._clock.sleep(RESTARTS[min(failures, len(RESTARTS)) - 1])

    @contextlib.asynccontextmanager
    async def _opened(self) -> AsyncIterator[Any]:
        """An app with a pool of connections; without a database it is given up soon."""
        app = self._app()
        try:
            async with asyncio.timeout(CONNECTING):
                await app.open_async()
            yield app
        finally:
            await app.close_async()

    def _app(self) -> Any:
        """The app of procrastinate, with our two tasks."""
        procrastinate = load_procrastinate()
        app = procrastinate.App(
            connector=procrastinate.PsycopgConnector(
                kwargs={**self._dsn.parameters}, configure=_configure, min_size=1, max_size=3
            )
        )

        async def work() -> None:
            if self._heed is not None:
                await self._heed()

        async def sweep(timestamp: int) -> None:
            """Hint at what wants a worker still: what one that died has left, for example."""
            if self._waiting is not None:
                await defer(app, await self._waiting())

        _ = app.task(name=TASK, queue=QUEUE)(work)
        _ = app.periodic(cron=EVERY_MINUTE)(
            app.task(name=SWEEP, queue=QUEUE, queueing_lock=SWEEP)(sweep)
        )
        return app


def is_cancelled() -> bool:
    """Whether the task that runs here was cancelled, whatever it has raised since."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def defer(app: Any, films: int) -> None:
    """Defer hints for so many films."""
    count = min(MOST_HINTS, -(-films // FILMS_PER_HINT))
    if count > 0:
        await app.configure_task(TASK).batch_defer_async(*({} for _ in range(count)))


async def _configure(connection: Any) -> None:
    await connection.execute("; ".join(SESSION))
    if not connection.autocommit:
        await connection.commit()  # settings of a transaction that is undone are undone too

"""One thread and one connection for all uses of a shared limiter in a process.

The thread takes permits and running slots for those who wait, in order, gives back what has ended,
says that the process is alive, and waits for news and for the moment at which the next permit is
free. A blocked event loop does not stop it, and it serves any number of loops. While the database
is away nobody is let through, and what has ended is kept until it can be given back.

A thread and not a connection for asyncio: a statement takes half the time there, and the process
is known to be alive while its loop is busy.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import copy
import itertools
import logging
import math
import random
import socket
import threading
import time
from collections.abc import Callable

import attrs

from apikley_async._clock import Stopwatch
from apikley_async._rate import OTHER, UNSENT, Ending
from apikley_async.distributed.shared_state import (
    RENEWALS,
    Ended,
    Granted,
    Holder,
    Outcome,
    Work,
)
from apikley_async.distributed.shared_store import AwayError, SharedStore
from apikley_async.errors import ApikleyError, ClientClosedError

__all__ = ["ExchangeThread"]

MAX_WAIT = 2.0  # seconds after which one who waits asks again, whatever is known
FIRST_RETRY, LAST_RETRY = 0.1, 2.0  # seconds between two tries to reach the database
PATIENCE = 5.0  # seconds for the first connection of all
CLOSING = 5.0  # seconds for the last exchange, until a silent database is waited for no more
AT_EXIT = 2.0  # seconds that the end of the process waits for what is still to be given back

logger: logging.Logger = logging.getLogger("apikley_async")


@attrs.frozen(eq=False)
class Waiter:
    """One who waits for a permit or a running slot, or for the database to be there."""

    loop: asyncio.AbstractEventLoop
    granted: asyncio.Future[Granted | None]

    @classmethod
    def here(cls) -> Waiter:
        """One in the running loop."""
        loop = asyncio.get_running_loop()
        return cls(loop, loop.create_future())


@attrs.frozen(eq=False)
class Use:
    """What is in use, in which loop, and since when, at most."""

    loop: asyncio.AbstractEventLoop
    granted: Granted
    asked: Stopwatch


@attrs.frozen(eq=False)
class End:
    """What is to be given back, and since when (`time.monotonic`)."""

    use: str
    ending: Ending
    at: float
    granted: Granted


@attrs.frozen(eq=False)
class Batch:
    """What is asked for at once, and again until there is an answer."""

    ends: tuple[End, ...]
    permits: tuple[str, ...]
    films: tuple[str, ...]


class ExchangeThread:
    """Starts at the first use; it ends with `stop`, at the latest with the process.

    Args:
        store: where the shared state is.
        settings: what the limiter was made with.
        lease: seconds without a sign of life until what this process uses is taken back.

    Attributes:
        outcome: the latest answer.
        answered_at: when it came (`time.monotonic`).
    """

    def __init__(self, store: SharedStore, settings: Holder, lease: float) -> None:
        self._store = store
        self._settings = settings
        self._lease = lease
        # Not of a generator that is handed in: a process that was forked has the same one.
        self._name = f"{random.SystemRandom().getrandbits(64):016x}"
        self._lock = threading.Lock()  # of all that the loops and the thread change
        self._permits: dict[str, Waiter] = {}
        self._films: dict[str, Waiter] = {}
        self._arriving: list[Waiter] = []
        self._uses: dict[str, Use] = {}
        self._ended: list[End] = []
        self._batch: Batch | None = None
        self._ask_at = 0.0
        self._count = itertools.count(1)
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._wake: socket.socket | None = None
        self._waker: socket.socket | None = None
        # Of the thread alone:
        self._number = 1
        self._renew_at = 0.0
        self._retry_at, self._retry_in = 0.0, FIRST_RETRY
        self._away_since: float | None = None
        self._was_there = False
        self.outcome: Outcome | None = None
        self.answered_at: float = 0.0

    # --- in the loops -----------------------------------------------------------------------------

    async def take(self, *, film: bool = False) -> str:
        """Wait for a permit, or for a running slot; `give_back` what this returns.

        Raises:
            JournalError: the database cannot be used, or was never reached.
            ClientClosedError: the limiter was closed meanwhile.
        """
        while True:
            use = await self._take(self._films if film else self._permits)
            with self._lock:
                age = self._uses[use].asked.seconds
            if age < self._lease / 2:
                return use
            # This process was stopped meanwhile: it may count as dead before the attempt is sent.
            self.give_back(use, UNSENT)

    async def _take(self, waiting: dict[str, Waiter]) -> str:
        waiter, use = Waiter.here(), f"{self._name}-{next(self._count)}"
        with self._lock:
            waiting[use] = waiter
            self._ask_at = 0.0
            self._start()
        try:
            await waiter.granted
        except asyncio.CancelledError:
            with self._lock:
                waiting.pop(use, None)
            if not waiter.granted.cancelled() and waiter.granted.exception() is None:
                self.give_back(use, UNSENT)  # it was granted just now
            raise
        return use

    def give_back(self, use: str, ending: Ending) -> None:
        """End a use; from any thread, and at once."""
        with self._lock:
            used = self._uses.pop(use, None)
            if used is not None:  # else its loop was closed, and it was given back then
                self._ended.append(End(use, ending, time.monotonic(), used.granted))
                self._start()

    async def arrive(self) -> None:
        """Wait until the database has answered; raises as `take` does."""
        waiter = Waiter.here()
        with self._lock:
            self._arriving.append(waiter)
            self._ask_at = 0.0
            self._start()
        await waiter.granted

    def stop(self) -> threading.Thread | None:
        """Let the thread end as soon as everything is given back, or nothing can be.

        Those who wait get a `ClientClosedError`. Takes no lock: garbage collection calls it, too.

        Returns:
            The thread that ends; a later use begins another one.
        """
        thread = self._thread
        self._stopping = True
        self._wake_up()
        return thread

    async def aclose(self) -> None:
        """Stop the thread and wait for its end; a database that is silent is cut off."""
        if (thread := self.stop()) is None:
            return
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, thread.join, CLOSING)
        if thread.is_alive():
            self._store.cut()
            await loop.run_in_executor(None, thread.join, CLOSING)

    @property
    def in_use(self) -> int:
        """How many permits and running slots this process uses."""
        return len(self._uses)

    def _start(self) -> None:
        """Start the thread unless it runs, and wake it; the lock is held."""
        if self._thread is None or not self._thread.is_alive():
            self._stopping = False
            self._wake, self._waker = socket.socketpair()
            for end in (self._wake, self._waker):
                end.setblocking(False)
            thread = threading.Thread(
                target=self._run, args=(self._wake,), name="apikley shared limiter", daemon=True
            )
            thread.start()
            self._thread = thread  # only now: one that was not started cannot be waited for
        self._wake_up()

    def _wake_up(self) -> None:
        if (waker := self._waker) is not None:
            with contextlib.suppress(OSError):  # it is full, and wakes the thread anyway
                waker.send(b"\0")

    # --- in the thread ----------------------------------------------------------------------------

    def _run(self, wake: socket.socket) -> None:
        atexit.register(self._finish_at_exit)
        while not (self._stopping and self._has_finished()):
            try:
                timeout = self._due_in()
                if timeout is None or timeout > 0:
                    if self._store.wait(timeout, wake):
                        self._ask_at = 0.0
                else:
                    self._exchange()
            except Exception as error:  # noqa: BLE001 - nobody may wait for a thread that has died
                self._postpone(error)
        atexit.unregister(self._finish_at_exit)

    def _finish_at_exit(self) -> None:
        if (thread := self.stop()) is not None:
            thread.join(AT_EXIT)

    def _has_finished(self) -> bool:
        """Whether there is nothing more to give back, or no way to; a later use starts anew."""
        away = self._away_since is not None
        if (self._ended or self._batch) and not away:
            return False
        if self._was_there and not away and not self._uses:
            # What this limiter was made with binds nobody any more; else that takes a lease.
            with contextlib.suppress(ApikleyError):
                self._store.exchange(self._work(Batch((), (), ()), leaves=True))
        self._store.close()
        self._fail(ClientClosedError("The limiter is closed"))
        with self._lock:
            waiting = bool(self._permits or self._films or self._arriving)  # since just now
            finished = not waiting and (away or not self._ended)
            if finished:
                self._thread = None
                for end in (self._wake, self._waker):
                    if end is not None:
                        end.close()
        return finished

    def _due_in(self) -> float | None:
        """Seconds until there is something to ask; None: nobody waits, and nothing is used."""
        with self._lock:
            due = [self._ask_at] if self._permits or self._films or self._arriving else []
            due += [0.0] if self._ended or self._batch else []
            due += [self._renew_at] if self._uses else []
            if not due:
                return None
            at = min(due) if self._away_since is None else self._retry_at
        return at - time.monotonic()

    def _exchange(self) -> None:
        batch = self._batch or self._next_batch()
        self._batch = batch
        asked, asked_at = Stopwatch(), time.monotonic()
        outcome = self._store.exchange(self._work(batch))
        self._note_return()
        self.outcome, self.answered_at = outcome, time.monotonic()
        self._number += 1
        self._renew_at = asked_at + self._lease / RENEWALS
        with self._lock:
            self._batch = None
            if self._ask_at >= asked_at:  # else somebody has come to wait, or there is news
                self._ask_at = self.answered_at + min(outcome.delay, MAX_WAIT)
            arrived, self._arriving = self._arriving, []
        for use, granted in outcome.granted.items():
            self._grant(use, granted, asked)
        for waiter in arrived:
            deliver(waiter, None)

    def _next_batch(self) -> Batch:
        with self._lock:
            for use, used in [*self._uses.items()]:
                if used.loop.is_closed():  # nothing else gives it back any more
                    del self._uses[use]
                    self._ended.append(End(use, OTHER, time.monotonic(), used.granted))
            ends, self._ended = tuple(self._ended), []
            self._ask_at = math.inf
            return Batch(
                ends,
                tuple(itertools.islice(self._permits, self._settings.limit)),
                tuple(itertools.islice(self._films, self._settings.max_running)),
            )

    def _work(self, batch: Batch, *, leaves: bool = False) -> Work:
        now = time.monotonic()
        return Work(
            holder=self._name,
            settings=self._settings,
            lease=self._lease,
            batch=self._number,
            ends=tuple(Ended(end.use, end.ending, now - end.at, end.granted) for end in batch.ends),
            permits=batch.permits,
            films=batch.films,
            active=bool(self._uses),
            leaves=leaves,
        )

    def _grant(self, use: str, granted: Granted, asked: Stopwatch) -> None:
        with self._lock:
            waiter = self._permits.pop(use, None) or self._films.pop(use, None)
            if waiter is None:  # it was cancelled meanwhile
                self._ended.append(End(use, UNSENT, time.monotonic(), granted))
                return
            self._uses[use] = Use(waiter.loop, granted, asked)
        deliver(waiter, granted, otherwise=lambda: self.give_back(use, UNSENT))

    def _postpone(self, error: Exception) -> None:
        """Try again later; those who wait go on waiting if that may help."""
        now = time.monotonic()
        if self._away_since is None:
            self._away_since = now
            said = str(error).rstrip(".").removesuffix(". Nothing was sent")
            logger.warning("shared limiter: %s: nothing is sent until it is back", said)
        patient = self._was_there or now - self._away_since < PATIENCE
        if not (isinstance(error, AwayError) and patient):
            self._fail(error)
        self._retry_at = now + self._retry_in
        self._retry_in = min(self._retry_in * 2, LAST_RETRY)

    def _note_return(self) -> None:
        if self._away_since is not None:
            away = time.monotonic() - self._away_since
            logger.warning("shared limiter: the database is back after %.1f s", away)
        self._away_since, self._retry_in, self._was_there = None, FIRST_RETRY, True

    def _fail(self, error: Exception) -> None:
        with self._lock:
            failed = [*self._permits.values(), *self._films.values(), *self._arriving]
            for waiting in (self._permits, self._films, self._arriving):
                waiting.clear()
        for waiter in failed:
            deliver(waiter, copy.copy(error))


def deliver(
    waiter: Waiter,
    value: Granted | Exception | None,
    otherwise: Callable[[], None] = lambda: None,
) -> None:
    """Let a waiter go on, or call *otherwise* where it is gone."""

    def in_loop() -> None:
        if waiter.granted.done():  # it was cancelled
            otherwise()
        elif isinstance(value, Exception):
            waiter.granted.set_exception(value)
        else:
            waiter.granted.set_result(value)

    try:
        waiter.loop.call_soon_threadsafe(in_loop)
    except RuntimeError:  # its loop is closed
        otherwise()

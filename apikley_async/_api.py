"""Everything that is asked and costs nothing: looks, credits, links, uploads.

Asking twice is harmless, so most of it is asked again until there is an answer. It has a pace
of its own: a refused submission does not slow the looking, nor the other way round.
"""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import AsyncIterator
from typing import Protocol, TypeVar

from apikley_async._clock import Clock
from apikley_async._http import Transport, send_logged
from apikley_async._limiter import Limiter
from apikley_async._result import Snapshot
from apikley_async._retry import RETRIES, Timeouts, asked_pause, retry_delay
from apikley_async._tasks import House
from apikley_async._text import loggable
from apikley_async._wire import requests
from apikley_async._wire.envelope import Reply, decode_credits
from apikley_async._wire.files import decode_link, decode_upload
from apikley_async._wire.requests import File, Request
from apikley_async._wire.tasks import decode_snapshot
from apikley_async.errors import (
    ApikleyError,
    InvalidRequestError,
    NotFoundError,
    RateLimitError,
)

__all__ = ["Questions"]

logger = logging.getLogger("apikley_async")

UNSUPPORTED = 415

Answer = TypeVar("Answer")
Answer_co = TypeVar("Answer_co", covariant=True)


class Opener(Protocol[Answer_co]):
    """Reads a reply: gives what is inside, or raises the error it carries."""

    def __call__(self, reply: Reply, *, wall: float) -> Answer_co: ...


class Questions:
    """The questions of one open client."""

    def __init__(
        self,
        house: House,
        transport: Transport,
        limiter: Limiter,
        *,
        timeouts: Timeouts,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self._house = house
        self._transport = transport
        self._limiter = limiter
        self._timeouts = timeouts
        self._clock = clock
        self._rng = rng

    async def poll(self, task_id: str) -> Snapshot:
        """Ask once; a job has a patience of its own."""

        def open_reply(reply: Reply, *, wall: float) -> Snapshot:
            return decode_snapshot(reply, task_id, wall=wall)

        return await self._once(requests.record_info(task_id), open_reply)

    async def credits(self) -> float:
        return await self._until_answered(requests.get_credits(), decode_credits)

    async def link(self, url: str) -> str:
        return await self._until_answered(requests.get_download_url(url), decode_link)

    async def store(self, file: File, folder: str) -> str:
        """Upload as a stream; where a gateway refuses forms (415), as text inside JSON."""
        try:
            return await self._until_answered(requests.stream_upload(file, folder), decode_upload)
        except InvalidRequestError as error:
            if error.code != UNSUPPORTED:
                raise
        return await self._until_answered(requests.base64_upload(file, folder), decode_upload)

    async def store_from(self, url: str, folder: str) -> str:
        """Let the service fetch a file; it gives up after 30 seconds."""
        return await self._until_answered(requests.url_upload(url, folder), decode_upload)

    async def new_links(self, task_id: str, number: int, url: str) -> AsyncIterator[str]:
        """Links for a dead one, in the order in which they are worth trying.

        A definite no moves on to the next way; trouble on the way is raised.

        Raises:
            NotFoundError: the service knows neither the link nor the task.
        """
        lost = False
        try:
            relinked = await self.link(url)
        except (InvalidRequestError, NotFoundError):
            lost = True
        else:
            yield relinked
        try:
            urls = (await self.poll(task_id)).urls
        except InvalidRequestError:
            return
        except NotFoundError:
            if lost:
                raise
            return
        if number < len(urls):
            yield urls[number]

    async def _once(self, request: Request, open_reply: Opener[Answer], attempt: int = 1) -> Answer:
        async with self._house.inside(), self._limiter.slot():
            reply = await send_logged(self._transport, request, attempt=attempt, clock=self._clock)
            try:
                return open_reply(reply, wall=self._clock.wall())
            except RateLimitError as error:
                logger.info("throttled: the service asks for %s", asked_pause(error))
                raise

    async def _until_answered(self, request: Request, open_reply: Opener[Answer]) -> Answer:
        """Ask until there is an answer or a refusal, for `Timeouts.read` seconds."""
        delays = RETRIES.delays(self._rng)
        ends = self._clock.now() + self._timeouts.read
        for attempt in itertools.count(1):
            began = self._clock.now()
            try:
                return await self._once(request, open_reply, attempt)
            except ApikleyError as error:
                took = self._clock.now() - began  # longer than a question: an upload that moved
                ends += max(0.0, took - self._timeouts.repeatable)
                delay = retry_delay(error, repeatable=True, delay=next(delays))
                if delay is None or self._clock.now() + delay > ends:
                    raise
                told = "%s %s: %s; again in %.1f s"
                logger.info(told, request.method, request.path, loggable(error.message), delay)
            async with self._house.inside():
                await self._clock.sleep(delay)
        raise AssertionError("unreachable")

"""The calls that cost nothing: task details, credits, download links, uploads.

Repeating them is harmless, so most are retried until there is an answer. They have a limiter of
their own: a throttled submission does not slow polling, nor the other way round.
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
from apikley_async._tasks import TaskScope
from apikley_async._text import loggable
from apikley_async._urls import is_url
from apikley_async._validation import check_kind
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
    StoryboardError,
)
from apikley_async.events import Emit, Retrying

__all__ = ["Api"]

logger = logging.getLogger("apikley_async")

UNSUPPORTED = 415

Answer = TypeVar("Answer")
Answer_co = TypeVar("Answer_co", covariant=True)


class Opener(Protocol[Answer_co]):
    """Reads a reply: gives what is inside, or raises the error it carries."""

    def __call__(self, reply: Reply, *, wall: float) -> Answer_co: ...


class Api:
    """The free calls of one session."""

    def __init__(
        self,
        tasks: TaskScope,
        transport: Transport,
        limiter: Limiter,
        *,
        timeouts: Timeouts,
        clock: Clock,
        rng: random.Random,
        emit: Emit | None = None,
    ) -> None:
        self._tasks = tasks
        self._transport = transport
        self._limiter = limiter
        self._timeouts = timeouts
        self._clock = clock
        self._rng = rng
        self._emit = emit

    async def poll(self, task_id: str) -> Snapshot:
        """Poll once; a job decides itself how long it polls."""

        def open_reply(reply: Reply, *, wall: float) -> Snapshot:
            return decode_snapshot(reply, task_id, wall=wall)

        return await self._once(requests.record_info(task_id), open_reply)

    async def credits(self) -> float:
        return await self._retried(requests.get_credits(), decode_credits)

    async def download_url(self, url: str) -> str:
        check_kind("url", url, str, "a URL as text")
        if not is_url(url):  # not repeated: part of a signed link is a secret, too
            raise StoryboardError("url: one of the URLs of a result, and this is none")
        return await self._retried(requests.get_download_url(url), decode_link)

    async def upload(self, file: File, folder: str) -> str:
        """Upload as a stream; where a gateway refuses forms (415), as text inside JSON."""
        try:
            return await self._retried(requests.stream_upload(file, folder), decode_upload)
        except InvalidRequestError as error:
            if error.code != UNSUPPORTED:
                raise
        return await self._retried(requests.base64_upload(file, folder), decode_upload)

    async def upload_from(self, url: str, folder: str) -> str:
        """Let the service fetch a file; it gives up after 30 seconds."""
        return await self._retried(requests.url_upload(url, folder), decode_upload)

    async def new_links(self, task_id: str, number: int, url: str) -> AsyncIterator[str]:
        """Yield new links for a dead one, in the order in which they are worth trying.

        A refusal leads to the next way; an outage is raised.

        Raises:
            NotFoundError: the service knows neither the link nor the task.
        """
        lost = False
        try:
            relinked = await self.download_url(url)
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
        async with self._tasks.inside(), self._limiter.slot():
            reply = await send_logged(self._transport, request, attempt=attempt, clock=self._clock)
            try:
                return open_reply(reply, wall=self._clock.wall())
            except RateLimitError as error:
                logger.info("throttled: the service asks for %s", asked_pause(error))
                raise

    async def _retried(self, request: Request, open_reply: Opener[Answer]) -> Answer:
        """Retry until there is an answer or a refusal, for `Timeouts.read` seconds."""
        delays = RETRIES.delays(self._rng)
        ends = self._clock.now() + self._timeouts.read
        for attempt in itertools.count(1):
            began = self._clock.now()
            try:
                return await self._once(request, open_reply, attempt)
            except ApikleyError as error:
                took = self._clock.now() - began  # an upload may take longer
                ends += max(0.0, took - self._timeouts.repeatable)
                delay = retry_delay(error, repeatable=True, delay=next(delays))
                if delay is None or self._clock.now() + delay > ends:
                    raise
                message = "%s %s: %s; retrying in %.1f s"
                reason = loggable(error.message)
                logger.info(message, request.method, request.path, reason, delay)
            if self._emit is not None:
                self._emit(Retrying(request.path, delay, reason))
            async with self._tasks.inside():
                await self._clock.sleep(delay)
        raise AssertionError("unreachable")

"""`Client`: configuration, lifetime, and one method per capability."""

from __future__ import annotations

import contextlib
import functools
import os
import ssl as tls
from collections.abc import AsyncGenerator, Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from apikley_async._attempts import Attempts
from apikley_async._budget import Price
from apikley_async._download.partfile import SavedFile
from apikley_async._download.stream import FilmStream
from apikley_async._durations import Expected
from apikley_async._environment import Environment
from apikley_async._generate import ClientFilms, ManyFilms, Works, check_folder, check_works
from apikley_async._images import ImageSource
from apikley_async._job import Job
from apikley_async._limiter import Limiter, RateLimiter
from apikley_async._network import USER_AGENT, Network, network_fault, proxy_variables
from apikley_async._outcomes import Outcome
from apikley_async._polling import Backoff
from apikley_async._recorder import Callbacks, NoRecorder, Recorder
from apikley_async._result import Result, Snapshot
from apikley_async._retry import Timeouts
from apikley_async._secret import Secret, key_fault
from apikley_async._session import Session, Settings, argument_fault
from apikley_async._spending import Spending
from apikley_async._storyboard import Work
from apikley_async._uploads import FOLDER, check_image_url
from apikley_async._urls import AddressPolicy, is_loopback, is_url
from apikley_async._validation import check_kind, check_seconds
from apikley_async._wire.task_ids import validate_not_created
from apikley_async.errors import AuthenticationError, SubmissionUncertainError
from apikley_async.events import Emitter, Event, event_fault

__all__ = ["Client"]

BASE_URL = "https://api.apikley.ru"
CALLS_AT_ONCE = 40
CALLBACK_POLLING = Backoff(initial=180.0, factor=1.5, maximum=300.0)  # a callback nudges the job


class Client:
    """The service, for one API key. Use it as `async with Client() as client:`.

    It may be made outside of a loop and used in several `asyncio.run` one after another; in each
    it is opened by `async with` (or by its first use) and closed by `aclose()`.

    Args:
        api_key: from https://app.apikley.ru/keys; by default from APIKLEY_API_KEY.
        base_url: https; by default from APIKLEY_BASE_URL, else the service's own address.
        limiter: paces the submissions; share one between clients of the same key. By default
            `RateLimiter()`: 20 per 10 seconds.
        max_running: films that `generate` and `generate_many` have running at once.
        max_credits: bound on the credits of all films that this client submits, uncertain ones
            included. It holds on what is known to be charged: a film's actual cost takes the
            place of its price when the film has ended; a failed one costs 0 when its record says
            so. Needs *prices*. What is paid beyond is at most what was in flight when a film
            turned out dearer than its price.
        max_tasks: bound on the number of those films.
        prices: credits for a film: one number, a mapping by duration or model, or a function of
            the work. Nothing is assumed.
        polling: delays between the polls of every job. By default `Backoff()`, except that
            `generate_many` and batches learn from earlier films when a poll may find something,
            and that delays are longer where a callback is expected.
        job_timeout: seconds for which a job is polled before `JobTimeoutError`; the film goes on.
        retry_for: seconds for which a submission that was never sent or was throttled is tried
            again (attempts and pauses count, waiting for a slot does not), and a download that
            makes no progress.
        callback: gives each submission its callback URL; see `apikley_async.webhook`.
        recorder: is called before and after every attempt; that of a submission replaces it.
        on_event: a plain callable that is given each of `apikley_async.events` when it happens,
            on the event loop. What it raises is logged; hand slow work to a queue of your own.
        timeouts: how long to wait for the service.
        proxy: http(s) URL of a proxy for the service and the hosts of films. None leads to this
            machine, and through one, names that mean private addresses here are refused.
        trust_env: whether the proxies are those of the environment (`HTTPS_PROXY`, `NO_PROXY` and
            the like) where *proxy* names none. A netrc file is never read.
        ssl: a context of your own, for a private authority; verification stays on by default.
        allow_private: whether films and images may come from private addresses (always allowed
            for loopback when the base URL is loopback). Names that a proxy or VPN on this machine
            answers with 198.18.0.0/15 are allowed as long as the service's own name lies there.
        user_agent: of every request, `apikley-async/<version>`; some hosts refuse HTTP libraries.
        not_created: codes of createTask that your provider guarantees to mean "nothing was
            created", such as 500: tried again three times at most, then `ServerError`. Each such
            attempt counts in bounds on what is spent. 408, 499, 502, 503, 504 and 520 to 529
            never mean that. Without it they are uncertain.
        environment: clock, randomness, transport and connector, for tests.

    Attributes:
        attempts: which attempt became which task. Provisional until 1.0: what only batches need.

    Raises:
        AuthenticationError: no key, or one that cannot be a key.
        ValueError: another argument breaks a rule.
    """

    def __init__(
        self,
        api_key: str | None = None,
        *,
        base_url: str | None = None,
        limiter: Limiter | None = None,
        max_running: int = 100,
        max_credits: float | None = None,
        max_tasks: int | None = None,
        prices: Price = None,
        polling: Backoff | None = None,
        job_timeout: float = 1800.0,
        retry_for: float = 600.0,
        callback: Callbacks | None = None,
        recorder: Recorder | None = None,
        on_event: Callable[[Event], object] | None = None,
        timeouts: Timeouts | None = None,
        proxy: str | None = None,
        ssl: tls.SSLContext | None = None,
        trust_env: bool = False,
        allow_private: bool = False,
        user_agent: str = USER_AGENT,
        not_created: Iterable[int] = (),
        environment: Environment | None = None,
    ) -> None:
        self._host: str | None = None  # first what `repr` shows, should the rest be refused
        wrong = event_fault(on_event) or argument_fault(
            base_url=base_url,
            limiter=limiter,
            max_running=max_running,
            polling=polling,
            callback=callback,
            recorder=recorder,
            timeouts=timeouts,
            proxy=proxy,
            trust_env=trust_env,
            allow_private=allow_private,
            environment=environment,
        )
        if wrong:
            del api_key, base_url, proxy  # a traceback that shows locals must not show them
            raise TypeError(wrong)
        environment = environment or Environment()
        given = api_key if api_key is not None else os.environ.get("APIKLEY_API_KEY")
        fault = key_fault(given)
        key = Secret("unused" if fault else str(given).strip())
        del api_key, given  # nor the key
        if fault and environment.transport is None:
            raise AuthenticationError(fault)
        base_url = (base_url or os.environ.get("APIKLEY_BASE_URL") or BASE_URL).strip()
        env = proxy_variables() if trust_env else {}
        fault = network_fault(base_url, proxy, ssl, user_agent, env)
        network = Network(
            timeouts or Timeouts(), proxy, ssl, environment.connector, user_agent, env
        )
        del proxy, env  # nor a password of theirs
        if fault:
            del base_url
            raise ValueError(fault)
        host = urlsplit(base_url).hostname
        clock, rng = environment.clock, environment.rng
        self._settings = Settings(
            key=key,
            base_url=base_url,
            network=network,
            limiter=RateLimiter(clock=clock, rng=rng) if limiter is None else limiter,
            spending=Spending(prices, max_credits=max_credits, max_tasks=max_tasks),
            call_limiter=RateLimiter(CALLS_AT_ONCE, 0, clock=clock, rng=rng),
            polling=polling or Backoff(),
            callback_polling=polling or CALLBACK_POLLING,
            learns=polling is None,
            job_timeout=job_timeout,
            retry_for=retry_for,
            max_running=max_running,
            not_created=validate_not_created(not_created),
            address_policy=AddressPolicy(allow_private, is_loopback(host)),
            environment=environment,
            recorder=NoRecorder() if recorder is None else recorder,
            emit=None if on_event is None else Emitter(on_event, clock),
        )
        self.attempts: Attempts = Attempts(self._settings, callback)
        self._host = host

    # --- making films -------------------------------------------------------------------------

    async def submit(
        self,
        work: Work,
        *,
        callback_url: str | None = None,
        recorder: Recorder | None = None,
        metadata: Any = None,
    ) -> Job:
        """Submit one film and give its job: exactly one paid request, when a slot is free.

        A storyboard's image file is uploaded first. What was never sent and what was throttled
        is tried again for `retry_for` seconds. Cancelling before the request is out
        sends nothing; cancelling later does not stop the charge, and the job is then in
        `unclaimed` and in a logged warning.

        Args:
            work: a `Storyboard`, a `ModelTask` of any model, or a `Work` of your own.
            callback_url: where the service shall report the end; otherwise the client's
                `callback` says.
            recorder: is called before and after every attempt, in the place of the client's.
            metadata: what you know it by. It is with the job, and never leaves this process: it
                is not sent and not logged.

        Raises:
            StoryboardError, UploadError: nothing was sent, nothing was paid.
            SubmissionUncertainError: it may have been processed, and paid; never repeated silently.
            ApiError: refused; nothing was created.
            UnreachableError, RateLimitError: `retry_for` has passed; nothing was created.
            BudgetExceededError: it does not fit into a bound of the client; nothing was sent.
        """
        if recorder is not None:
            check_kind("recorder", recorder, Recorder, "a Recorder")
        return await self.attempts.submit(
            work, callback_url=callback_url, recorder=recorder, metadata=metadata
        )

    async def generate(
        self,
        work: Work,
        *,
        timeout: float | None = None,
        callback_url: str | None = None,
        metadata: Any = None,
    ) -> Result:
        """Submit one film and wait for it, as one of `max_running`.

        Where callbacks are received, an uncertain submission waits for its callback.

        Args:
            work: a `Storyboard`, a `ModelTask` of any model, or a `Work` of your own.
            timeout: seconds from the submission; then `JobTimeoutError`, which carries the job.
            callback_url, metadata: as for `submit`.

        Raises:
            What `submit` and awaiting a `Job` raise.
        """
        return await self.attempts.generate(
            work, timeout=timeout, callback_url=callback_url, metadata=metadata
        )

    async def generate_many(
        self,
        works: Works,
        *,
        ordered: bool = False,
        timeout: float | None = None,
        save_to: str | os.PathLike[str] | None = None,
        expected: Expected = None,
    ) -> AsyncGenerator[Outcome, None]:
        """Make many films; yield an `Outcome` for each, as they finish.

        Pulls a work when the one before runs, so *works* may be endless. A failure is a value and
        stops nothing else. An error that every other film would meet as well (`affects_all`: the
        key, the credits, a bound, maintenance that lasts for more than a quarter of an hour, a
        service that is not reached) ends the pulling: what was pulled and not sent is yielded
        with it, what runs is followed and yielded, then it is raised. So is an exception of
        *works* itself. Break off early and what was bought is in `unclaimed`.

        Args:
            works: any iterable or async iterable of what `submit` takes, or of pairs of that and
                its metadata.
            ordered: yield in the order of the input; a slow film then holds up those behind it.
            timeout: seconds for each film from its submission, `job_timeout` at most.
            save_to: a folder, made if need be and tried before anything is sent. Films are saved
                there as by `save`, while others are made, and yielded with their `paths`. One that
                is paid and could not be saved is `Failed`, with its job; a disk that is full or
                cannot be written is an error that every other film would meet as well.
            expected: seconds that a film is expected to take: one number, or a mapping by
                duration (10, 15, 25) or model. Polls begin at a third of it; it counts until five
                films of the kind have shown better.
        """
        self.attempts.durations.expect(expected)
        check_works(works)
        check_kind("ordered", ordered, bool, "True or False")
        check_seconds("timeout", timeout, least=0.0)
        save = None
        if save_to is not None:
            save = functools.partial(self.save, target=await check_folder(save_to))
        clock, window = self._settings.environment.clock, self._settings.max_running
        maker = ClientFilms(self.attempts, clock=clock, timeout=timeout)
        outcomes = ManyFilms(maker, works, window=window, save=save).outcomes(ordered=ordered)
        async with contextlib.aclosing(outcomes):
            async for outcome in outcomes:
                yield outcome

    def job(self, task_id: str, *, token: str | None = None, known: bool = False) -> Job:
        """Take up a task again, today or after a restart. Sends nothing and costs nothing.

        Args:
            task_id: what `submit` gave.
            token: what `job.token` was: callbacks about the task count again, and are answered.
                Without it, it is polled as often as where there are no callbacks.
            known: it was certainly created a moment ago: then the service may not know it yet,
                for ten minutes instead of ten seconds.
        """
        return self.attempts.job(task_id, token=token, known=known)

    async def poll(self, task_id: str) -> Snapshot:
        """Poll a task once (https://docs.apikley.ru/get-task-detail).

        Raises:
            StoryboardError: it cannot be the id of a task; nothing was sent.
            NotFoundError: the service does not know the task, or not yet.
            ApiError, UnreachableError, UnansweredError: no state this time.
        """
        check_kind("task_id", task_id, str, "what `job.task_id` is")
        return await self.attempts.poll(task_id)

    # --- the other endpoints ------------------------------------------------------------------

    async def credits(self) -> float:
        """The credits left, which may have a fraction. Costs nothing.

        https://docs.apikley.ru/common-api/common-api_get-account-credits
        """
        return await self._session.api.credits()

    async def download_url(self, url: str) -> str:
        """A temporary link (20 minutes) for a result's URL. Costs nothing.

        https://docs.apikley.ru/common-api/common-api_download-url

        Raises:
            StoryboardError: it is no URL; nothing was sent.
            InvalidRequestError: the URL is not one of the service's results.
        """
        return await self._session.api.download_url(url)

    async def upload(self, image: ImageSource) -> str:
        """Store an image at the service and give its URL, good for `Storyboard(image=...)`.

        The same content is uploaded once in 12 hours. Metadata such as a photo's place is sent
        as it is. Costs nothing.
        https://docs.apikley.ru/file-upload-api/file-upload-api_upload-file-stream

        Args:
            image: a path, bytes, or a file opened in binary mode; JPEG, PNG or WebP, 10.0 MB.
                An http(s) URL is fetched by the service within 30 seconds, and kept there.

        Raises:
            UploadError: it cannot be used, or was not stored.
        """
        session = self._session
        if isinstance(image, str) and is_url(image):
            check_image_url(image, self._settings.address_policy)
            # A folder of its own, since a name that is in use would replace the older file.
            folder = f"{FOLDER}/{self._settings.environment.rng.getrandbits(128):032x}"
            return await session.api.upload_from(image, folder)
        async with session.tasks.inside():
            return await session.uploads.upload(image)

    async def save(
        self,
        result: Result,
        target: str | os.PathLike[str],
        *,
        overwrite: bool | Callable[[Path], bool] = False,
    ) -> list[Path]:
        """Save every file of a result; each is whole under its name, or is not there at all.

        What an interrupted save has fetched stays in a hidden file beside it for the next one.
        A download that breaks off is tried again until nothing more has come for
        `retry_for` seconds; links that are all refused for two minutes, as those of a
        new film may be. Both end in a `DownloadError` after which saving again may help.

        Args:
            result: what awaiting a job gave.
            target: a folder, made if need be, where files are named `<task_id>[-n].mp4`; or a
                path that ends in `.mp4` or the like.
            overwrite: whether to replace another file of that name; or a function that is given
                its path, in a thread, at the last moment, and says so.

        Raises:
            DownloadError: it could not be saved. `ResultExpiredError` when it is gone: the service
                knows neither the task nor the link, and still does not ten minutes later; or
                every way is refused and the day that links live is over.
        """
        saved = await self.save_files(result, target, overwrite=overwrite)
        return [file.path for file in saved]

    async def save_files(
        self,
        result: Result,
        target: str | os.PathLike[str],
        *,
        overwrite: bool | Callable[[Path], bool] = False,
    ) -> list[SavedFile]:
        """Save every file of a result, as `save` does, and give its size and SHA-256 as well.

        They are those of the bytes that came, which were hashed on their way to the disk; an equal
        file that was there already is read.

        Args:
            result, target, overwrite: as for `save`.

        Raises:
            DownloadError: as `save`.
        """
        session = self._session
        async with session.tasks.inside():
            return await session.saver.save(result, target, overwrite=overwrite)

    @contextlib.asynccontextmanager
    async def stream(self, result: Result, index: int = 0) -> AsyncGenerator[FilmStream, None]:
        """Read a film without a disk: `async with client.stream(result) as chunks:`.

        Entering waits for the first bytes, so `chunks.size` and `chunks.content_type` are known. A
        break, a stall or a link that expires is made good, as for `save`: bytes that were handed
        on are never handed on twice. Where the host cannot prove that it continues them, the film
        is fetched again and compared by its digest. Costs nothing.

        Args:
            result: what awaiting a job gave.
            index: of the file, from 0.

        Raises:
            DownloadError: as `save`, before or between chunks; and after the last one where
                what was handed on is no whole film. What you made of the chunks is void then.
            ValueError: there is no such file.
        """
        async with self._session.streams.stream(result, index) as chunks:
            yield chunks

    # --- opening and closing ------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self.attempts.sessions.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self, *, grace: float = 30.0) -> None:
        """Close: submit nothing more, and leave nothing behind.

        Submissions whose request is out get *grace* seconds for their answer; every task that
        awaits a job gets `ClientClosedError`, and the film goes on. Closing twice is closing once.
        """
        check_seconds("grace", grace)
        await self.attempts.sessions.aclose(grace)

    @property
    def _session(self) -> Session:
        """The session of the running loop; opened now if need be."""
        return self.attempts.sessions.current()

    # --- what it holds --------------------------------------------------------------------------

    @property
    def unclaimed(self) -> list[Job]:
        """Paid jobs nobody waits for, with their work and metadata; a new list each time.

        Awaiting a job, or taking it up with `job`, takes it out. They are of a cancelled `submit`
        or `generate`, of a `generate_many` that was broken off, or sent twice on the way.
        """
        return self.attempts.unclaimed

    @property
    def uncertain(self) -> list[SubmissionUncertainError]:
        """What a cancelled `submit` may have bought, with its work and metadata; a new list.

        `client.attempts.recover`, when it finds the task, takes it out.
        """
        return self.attempts.uncertain

    @property
    def base_url(self) -> str:
        """The service's address."""
        return self._settings.base_url

    @property
    def limiter(self) -> Limiter:
        """What paces the submissions."""
        return self._settings.limiter

    def __repr__(self) -> str:
        state = self.attempts.sessions.state if self._host else "not yet open"
        return f"<Client {self._host} {state}>"

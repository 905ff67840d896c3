"""Films on their way: submitted, followed to their end, saved; and what is left when we stop.

Each film's story is kept in a `Film` from before its POST on, so that whatever happens, what was
bought can be named.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import struct
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

import attrs

from apikley_async import (
    ApikleyError,
    Attempt,
    Client,
    DownloadError,
    Job,
    JobFailedError,
    Limiter,
    ModelTask,
    NotFoundError,
    Result,
    ResultExpiredError,
    State,
    Storyboard,
    SubmissionUncertainError,
    UploadError,
    Verdict,
)
from apikley_async.cli._exit import DECIDE, OK, RESUME, USAGE, advice, exit_code, worst
from apikley_async.cli._options import Settings
from apikley_async.cli._telling import Telling, count

__all__ = ["Film", "Films", "call"]

UPLOADS_AT_ONCE = 4
MARK = struct.pack(">I4s", 26, b"free") + b"apikley: simulated"
"""The last box of a simulated film; MP4 has the type `free` for what players skip."""
NO_ANSWER = "this command ended before the answer came"


@attrs.define(eq=False)
class Film:
    """One film, as far as we know.

    Attributes:
        path: the file that describes it, or None when only its task is known.
        sending: its POST may be out.
        verdict: what became of its latest attempt.
        doubt: the attempt that may have been heard, or may be heard yet.
        code: how it ended, as an exit code; None while it has not.
    """

    path: Path | None = None
    work: Storyboard | ModelTask | None = None
    task_id: str | None = None
    sending: bool = False
    verdict: Verdict | None = None
    doubt: Attempt | None = None
    code: int | None = None
    saved: bool = False
    answers: list[str | Path] = attrs.Factory(list)
    hopeless: bool = False
    pursuit: asyncio.Task[None] | None = None

    @property
    def facts(self) -> dict[str, str | None]:
        """Its names, for events."""
        return {"file": str(self.path) if self.path else None, "task_id": self.task_id}

    @property
    def unfinished(self) -> bool:
        """It is bought, and can be taken up again."""
        return self.task_id is not None and self.code != OK and not self.hopeless

    @property
    def unsubmitted(self) -> bool:
        """Nothing was bought, and the same submission may succeed later."""
        return self.task_id is None and self.doubt is None and self.code in (None, RESUME)


@attrs.frozen
class Receipts:
    """Writes down what becomes of each attempt to submit *film*, and tells it at once."""

    film: Film
    tell: Telling

    async def intend(self, token: str, request: object) -> None:
        now = datetime.now(UTC).timestamp()
        self.film.sending = True
        self.film.doubt = Attempt(token, Verdict.UNCERTAIN, cause=NO_ANSWER, began_at=now)

    async def settle(self, outcome: Attempt) -> None:
        film = self.film
        told_before, film.verdict = film.verdict is outcome.verdict, outcome.verdict
        film.sending = False
        film.doubt = outcome if outcome.verdict is Verdict.UNCERTAIN else None
        if outcome.task_id is not None:
            film.task_id = outcome.task_id
            self.tell("submitted", **film.facts)
        elif outcome.verdict in (Verdict.THROTTLED, Verdict.UNSENT) and not told_before:
            self.tell("delayed", **film.facts, reason=outcome.cause)


class Films:
    """The films of one command."""

    def __init__(
        self,
        films: Iterable[Film],
        tell: Telling,
        *,
        folder: Path | None,
        settings: Settings,
        overwrite: bool = False,
    ) -> None:
        self.films = list(films)
        tell.names |= short_names(film.path for film in self.films if film.path)
        self._tell = tell
        self._folder = folder
        self._settings = settings
        self._overwrite = overwrite
        self._halted = False

    # --- the three ways to have films -------------------------------------------------------------

    async def generate(self, client: Client, limiter: Limiter) -> int:
        """Buy every film and follow it to its end; images go first, since they cost nothing."""
        if (code := await self._upload_images(client)) != OK:
            return code

        async def make(film: Film) -> None:
            if film.work is None:
                raise ValueError("a film that is to be made needs a work")
            async with limiter.running_slot():
                job = await client.submit(film.work, recorder=Receipts(film, self._tell))
                result = await self._follow(film, job)
            await self._deliver(client, film, result)

        return await self._each(make)

    async def wait(self, client: Client) -> int:
        """Follow films that were bought before."""
        jobs = {film: client.job(film.task_id or "") for film in self.films}

        async def follow(film: Film) -> None:
            await self._deliver(client, film, await self._follow(film, jobs[film]))

        return await self._each(follow)

    async def download(self, client: Client) -> int:
        """Save films that are finished, without waiting for the others."""
        for film in self.films:
            _ = client.job(film.task_id or "")  # refuses what cannot be an id, before any question

        async def fetch(film: Film) -> None:
            snapshot = await client.look(film.task_id or "")
            if not snapshot.done:
                film.code = RESUME
                told = f"not finished yet, {snapshot.state.value}"
                self._tell("stopped", **film.facts, error="Unfinished", message=told)
                return
            await self._deliver(client, film, snapshot.result())

        return await self._each(fetch)

    # --- one film ---------------------------------------------------------------------------------

    async def _follow(self, film: Film, job: Job) -> Result:
        """Tell how the film comes along, and give its result."""
        snapshot = job.snapshot
        async for snapshot in job.updates(self._settings.timeout):
            if not snapshot.done and snapshot.state is not State.UNKNOWN:
                state, progress = snapshot.state.value, snapshot.progress
                self._tell("state", **film.facts, state=state, progress=progress)
        return snapshot.result()

    async def _deliver(self, client: Client, film: Film, result: Result) -> None:
        urls = list(result.urls)
        expires = result.expires_at and result.expires_at.isoformat(timespec="seconds")
        self._tell("ready", **film.facts, urls=urls, credits=result.credits, expires_at=expires)
        if self._folder is None:
            film.answers += urls
        else:
            paths, taken = await self._save(client, film, result, self._folder)
            film.saved = True
            self._tell("saved", **film.facts, paths=[str(path) for path in paths], taken=taken)
            film.answers += paths
        film.code = OK

    async def _save(
        self, client: Client, film: Film, result: Result, folder: Path
    ) -> tuple[list[Path], str | None]:
        """Save under the name of the film's file; under that of its task if the name is taken."""
        if film.path is None:
            return await client.save(result, folder, overwrite=self._overwrite), None
        target = folder / f"{film.path.stem}.mp4"
        if self._settings.simulate:
            return await self._save_rehearsal(client, result, target), None
        try:
            return await client.save(result, target), None
        except ResultExpiredError:
            raise
        except DownloadError:
            taken = await asyncio.to_thread(namesake, target)
            if taken is None:
                raise
        return await client.save(result, folder), str(taken)

    async def _save_rehearsal(self, client: Client, result: Result, target: Path) -> list[Path]:
        """Replace simulated films as often as they are made, and keep out of the way of others."""
        if await asyncio.to_thread(is_other, target):
            target = target.with_stem(f"{target.stem}-simulated")
        replace = not await asyncio.to_thread(is_other, target)
        return await client.save(result, target, overwrite=replace)

    async def _each(self, act: Callable[[Film], Awaitable[None]]) -> int:
        """Let *act* happen to all films at once; no film's trouble is another's."""
        began = asyncio.get_running_loop().time()
        ends = await asyncio.gather(
            *(self._pursue(film, act) for film in self.films), return_exceptions=True
        )
        for film in self.films:
            if film.code is None and film.unsubmitted:
                film.code = RESUME
        self.tell_left()
        self._sum_up(asyncio.get_running_loop().time() - began)
        for end in ends:
            if isinstance(end, Exception):
                raise end  # not an error of the family: ours
        return worst(film.code or OK for film in self.films)

    async def _pursue(self, film: Film, act: Callable[[Film], Awaitable[None]]) -> None:
        film.pursuit = asyncio.current_task()
        if self._halted:
            return
        try:
            await act(film)
        except SubmissionUncertainError:
            self._tell_uncertain(film)
        except ApikleyError as error:
            self._tell_failed(film, error)
            if error.affects_all:
                self._halt()

    def _halt(self) -> None:
        """Submit nothing more; what is bought or on its way goes on."""
        self._halted = True
        for film in self.films:
            if film.task_id is None and film.code is None and not film.sending and film.pursuit:
                film.pursuit.cancel()

    async def _upload_images(self, client: Client) -> int:
        """Upload every image before the first POST: a bad one must not be found between two."""
        places = asyncio.Semaphore(UPLOADS_AT_ONCE)
        if images := sum(
            isinstance(getattr(film.work, "image", None), Path) for film in self.films
        ):
            self._tell.say(f"Uploading {count(images, 'image')}")

        async def upload(film: Film) -> None:
            image = getattr(film.work, "image", None)
            if not isinstance(image, Path):
                return
            async with places:
                if self._halted:
                    return
                try:
                    await client.upload(image)
                except UploadError as error:
                    self._tell_failed(film, error)
                    film.code = USAGE
                except ApikleyError as error:
                    self._tell_failed(film, error)
                    self._halted = error.affects_all

        await asyncio.gather(*(upload(film) for film in self.films))
        code = worst(film.code or OK for film in self.films)
        if code != OK:
            self._tell.say("Nothing was submitted.")
        return code

    # --- what people and programs get to know -----------------------------------------------------

    @property
    def out(self) -> int:
        """How many POSTs may be out."""
        return sum(film.sending for film in self.films)

    def tell_left(self) -> None:
        """Name what is undecided, what is bought and not finished, and what was never sent."""
        for film in self.films:
            for answer in film.answers:  # in the order of the input, whenever it came
                self._tell.answer(answer, told=film.saved)
            if film.code is None and film.doubt is not None:  # nobody waited for its answer
                self._tell_uncertain(film)
        if self._settings.simulate:
            return  # that service ends with this command
        ids = [film.task_id for film in self.films if film.unfinished and film.task_id]
        if ids:
            self._tell("unfinished", task_ids=ids, resume=call("wait", *ids, *self._into))
        files = [str(film.path) for film in self.films if film.unsubmitted]
        if files:
            resume = call("generate", *files, *self._into)
            self._tell("unsubmitted", files=files, resume=resume)

    @property
    def _into(self) -> tuple[str, ...]:
        """The options that another command needs to go on with our films."""
        folder = ("-o", str(self._folder)) if self._folder else ()
        return *folder, *self._settings.words

    def _tell_uncertain(self, film: Film) -> None:
        film.code = DECIDE
        if (attempt := film.doubt) is not None:
            self._tell(
                "uncertain",
                **film.facts,
                token=attempt.token,
                cause=attempt.cause,
                began_at=moment(attempt.began_at),
                ended_at=moment(attempt.ended_at) if attempt.ended_at else None,
                if_found=call("wait", "TASK_ID", *self._into),
                if_not_found=call("generate", str(film.path), *self._into),
            )

    def _tell_failed(self, film: Film, error: ApikleyError) -> None:
        film.code = exit_code(error)
        film.hopeless = isinstance(error, JobFailedError | NotFoundError | ResultExpiredError)
        self._tell(
            "stopped" if film.code == RESUME else "failed",
            **film.facts,
            error=type(error).__name__,
            code=error.code,
            message=error.message,
            advice=advice(error) or None,
        )

    def _sum_up(self, seconds: float) -> None:
        codes = Counter(film.code for film in self.films)
        facts = {
            "films": len(self.films),
            "ready": codes[OK],
            "saved": sum(film.saved for film in self.films),
            "uncertain": codes[DECIDE],
            "resumable": codes[RESUME],
            "failed": len(self.films) - codes[OK] - codes[DECIDE] - codes[RESUME],
        }
        self._tell("summary", **facts, seconds=round(seconds, 1))
        others = [f"{facts[word]} {word}" for word in ("failed", "uncertain", "resumable")]
        told = [
            f"{count(codes[OK])} {'saved in ' + str(self._folder) if self._folder else 'ready'}"
        ]
        told += [word for word in others if not word.startswith("0")]
        self._tell.say(f"{', '.join(told)}; {seconds:.0f} s")


def short_names(paths: Iterable[Path]) -> dict[str, str]:
    """What to call each file: its last part, where no other file has the same."""
    given = list(paths)
    times = Counter(path.name for path in given)
    return {str(path): path.name for path in given if times[path.name] == 1}


def is_other(film: Path) -> bool:
    """Whether a file is there that is no simulated film, so that none may replace it."""
    try:
        if film.is_symlink() or not film.is_file():
            return os.path.lexists(film)
        with film.open("rb") as file:
            file.seek(max(0, film.stat().st_size - len(MARK)))
            return file.read() != MARK
    except OSError:  # not ours to read, so not ours to replace
        return True


def namesake(target: Path) -> Path | None:
    """A file that stands where *target*, or the first of several such, would go."""
    names = (target.stem, f"{target.stem}-1")
    with contextlib.suppress(OSError):  # a folder that could not be made, for one
        return next((file for file in target.parent.iterdir() if file.stem in names), None)
    return None


def call(command: str, *words: str) -> str:
    """A command to type."""
    return shlex.join(["apikley", command, *words])


def moment(at: float) -> str:
    """A time as the user's clock shows it, with its zone."""
    return datetime.fromtimestamp(at, UTC).astimezone().isoformat(timespec="seconds")

"""Questions that cost nothing: how far films are, where an image is stored, what is left."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from apikley_async import ApikleyError, Snapshot, State
from apikley_async.cli.client_factory import Session, prepare
from apikley_async.cli.exit_codes import FAILED, OK, advice, exit_code, worst
from apikley_async.cli.options import Settings
from apikley_async.cli.output.reporter import Telling
from apikley_async.cli.runner import play, telling

__all__ = ["ask", "credits_left", "status", "upload"]

UPLOADS_AT_ONCE = 4
LATE = 5.0


def ask(
    settings: Settings,
    question: Callable[[Session, Telling], Awaitable[int]],
    tasks: Sequence[str] = (),
) -> int:
    """Put a question to the service, and give the exit code."""
    tell = telling(as_json=settings.as_json)
    opening = prepare(settings, tasks)

    async def flow(own: Session) -> int:
        late = asyncio.get_running_loop().call_later(LATE, tell.say, "No answer yet, still trying")
        try:
            return await question(own, tell)
        finally:
            late.cancel()

    return play(opening, flow, tell)


async def status(own: Session, tell: Telling, tasks: Sequence[str]) -> int:
    """One look at each of *tasks*; the lines come in their order."""
    for task in tasks:
        _ = own.client.job(task)  # an id that cannot be one is refused before the first question

    async def look(task: str) -> Snapshot | ApikleyError:
        try:
            return await own.client.poll(task)
        except ApikleyError as error:
            return error

    codes = []
    looks = [asyncio.ensure_future(look(task)) for task in tasks]
    for task, looking in zip(tasks, looks, strict=True):
        seen = await looking
        if isinstance(seen, ApikleyError):
            codes.append(tell_failed(tell, seen, task_id=task))
            continue
        codes.append(FAILED if seen.state is State.FAIL else OK)
        tell(
            "status",
            task_id=task,
            state=seen.state.value,
            progress=seen.progress,
            urls=list(seen.urls) or None,
            fail_code=seen.fail_code or None,
            fail_message=seen.fail_message or None,
            credits=seen.credits,
        )
        tell.answer(f"{task}  {in_words(seen)}")
    return worst(codes)


async def upload(own: Session, tell: Telling, files: Sequence[Path]) -> int:
    """Upload *files*; the URLs come in their order."""
    places = asyncio.Semaphore(UPLOADS_AT_ONCE)

    async def store(file: Path) -> str | ApikleyError:
        async with places:
            try:
                return await own.client.upload(file)
            except ApikleyError as error:
                return error

    codes = []
    stores = [asyncio.ensure_future(store(file)) for file in files]
    for file, storing in zip(files, stores, strict=True):
        url = await storing
        if isinstance(url, ApikleyError):
            codes.append(tell_failed(tell, url, file=str(file)))
        else:
            tell("uploaded", file=str(file), url=url)
            tell.answer(url)
    return worst(codes)


async def credits_left(own: Session, tell: Telling) -> int:
    """The balance."""
    left = await own.client.credits()
    tell("credits", credits=left)
    tell.answer(f"{left:.12g}")
    return OK


def in_words(seen: Snapshot) -> str:
    """How far a film is, in a line."""
    if seen.state is State.FAIL:
        return " ".join(filter(None, ["fail", seen.fail_code, seen.fail_message]))
    if seen.progress is None or seen.done:
        return f"{seen.state.value}"
    return f"{seen.state.value} {seen.progress:.0f}%"


def tell_failed(tell: Telling, error: ApikleyError, **facts: str) -> int:
    """Tell that one of several questions failed, and give its exit code."""
    told = advice(error) or None
    kind = type(error).__name__
    tell("failed", **facts, error=kind, code=error.code, message=error.message, advice=told)
    return exit_code(error)

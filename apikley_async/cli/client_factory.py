"""The client a command works with: on the real service, or on one embedded for `--simulate`."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import attrs
import click

from apikley_async import Backoff, Client, RateLimiter
from apikley_async.cli.exit_codes import Refused
from apikley_async.cli.options import Settings
from apikley_async.cli.output.reporter import clean, plain

if TYPE_CHECKING:
    from apikley_async.cli.callback_options import Hooks

__all__ = ["Open", "Session", "has_key", "prepare", "warn_of_readers"]


@attrs.frozen
class Session:
    """A client, and the limiter that it paces its submissions with."""

    client: Client
    limiter: RateLimiter


Open: TypeAlias = Callable[[], AbstractAsyncContextManager[Session]]


def prepare(
    settings: Settings,
    tasks: Sequence[str] = (),
    *,
    finished: bool = False,
    hooks: Hooks | None = None,
) -> Open:
    """Check key and address now, and give what opens the session later, in the loop.

    With *hooks* the service calls back. With `--simulate` it is an embedded one, which knows the
    *tasks*, *finished* ones or not, and calls nobody.
    """
    if settings.simulate:
        from apikley_async.cli.embedded import SPEED, Known, Stage

        click.echo("Simulated: nothing leaves this machine, nothing is paid.", err=True)
        stage = Stage(SPEED, max_running=settings.max_running, timeout=settings.timeout)
        known = [Known(task, finished=finished) for task in tasks]
        return lambda: stage.session(known)
    limiter = RateLimiter(max_running=settings.max_running)
    key = read_key(settings.key_file)
    try:
        client = Client(
            key,
            base_url=settings.base_url,
            limiter=limiter,
            polling=None if hooks else Backoff(),  # with callbacks the client polls less often
            job_timeout=settings.timeout or 1800.0,
            callback=hooks.callback if hooks else None,
            not_created=settings.not_created,
            proxy=settings.proxy,
            allow_private=settings.allow_private,
        )
    except ValueError as error:
        raise Refused(plain(error)) from None
    return lambda: _opened(Session(client, limiter), hooks)


@contextlib.asynccontextmanager
async def _opened(session: Session, hooks: Hooks | None) -> AsyncIterator[Session]:
    async with session.client, hooks.serving() if hooks else contextlib.nullcontext():
        yield session


def has_key(path: Path | None) -> bool:
    """Whether a key is named at all, in a file or in the environment."""
    return path is not None or bool(os.environ.get("APIKLEY_API_KEY", "").strip())


def read_key(path: Path | None) -> str | None:
    """The key in the first line of a file; None where the environment has one."""
    if path is None:
        if has_key(path):
            return None
        raise Refused(
            "no API key: set APIKLEY_API_KEY or give --key-file PATH "
            "(keys: https://app.apikley.ru/keys); --simulate needs none"
        )
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            line = file.readline(4096)
    except OSError as error:
        raise Refused(f"--key-file {plain(path)}: cannot be read: {error.strerror}") from None
    warn_of_readers(path, mode)
    key = line.decode("utf-8-sig", errors="replace").strip()
    if not key:
        raise Refused(f"--key-file {plain(path)}: its first line is empty")
    return key


def warn_of_readers(path: Path, mode: int) -> None:
    """Say that a file with a key may be read by others, where its *mode* lets them."""
    if stat.S_ISREG(mode) and mode & 0o077:
        told = f"Warning: {plain(path)} holds a key and is open to others: chmod 600 {plain(path)}"
        click.echo(clean(told), err=True)

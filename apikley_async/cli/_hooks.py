"""Callbacks on the command line: where they come in, and with which keys they are verified."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import attrs

from apikley_async.cli._exit import Refused
from apikley_async.cli._options import HookOptions
from apikley_async.cli._session import warn_of_readers
from apikley_async.cli._telling import Telling, plain
from apikley_async.webhook import Callback, Inbox, Receiver

__all__ = ["Hooks", "hooks_of", "received"]

KEYS = "APIKLEY_WEBHOOK_HMAC_KEY"


@attrs.frozen
class Hooks:
    """The callbacks of one command: made here, and served here unless an inbox has them."""

    callback: Callback
    host: str
    port: int
    served: bool

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Hear callbacks while this lasts."""
        async with contextlib.AsyncExitStack() as server:
            if self.served:
                try:
                    await server.enter_async_context(self.callback.serve(self.host, self.port))
                except OSError as error:
                    raise Refused(told_of(self.host, self.port, error)) from None
            yield


def hooks_of(options: HookOptions) -> Hooks | None:
    """The callbacks as the options describe them; None where nobody shall call."""
    if options.url is None:
        if options.inbox is not None or options.listen is not None:
            raise Refused("--listen and --inbox need --callback-url, which the service will call")
        return None
    if options.inbox is not None and options.listen is not None:
        raise Refused("--listen or --inbox: callbacks come in here, or by `apikley webhook serve`")
    host, port = options.listen or ("127.0.0.1", 8787)
    try:
        callback = Callback(options.url, hmac_keys=keys_in(options.key_file), inbox=options.inbox)
    except ValueError as error:
        raise Refused(f"--callback-url: {plain(error)}") from None
    return Hooks(callback, host, port, served=options.inbox is None)


async def received(host: str, port: int, inbox: Path, key_file: Path | None, tell: Telling) -> None:
    """Keep callbacks in *inbox* until the command is told to end."""
    keys = keys_in(key_file)
    try:
        async with (
            Inbox(inbox) as kept,
            Receiver(kept, hmac_keys=keys).serve(host, port) as server,
        ):
            tell("receiving", host=host, port=server.port, inbox=str(inbox))
            await asyncio.get_running_loop().create_future()
    except ValueError as error:
        raise Refused(f"--hmac-key-file: {plain(error)}") from None
    except OSError as error:
        raise Refused(told_of(host, port, error)) from None


def keys_in(path: Path | None) -> list[str]:
    """The HMAC keys: lines of a file, or words of the environment."""
    if path is None:
        return os.environ.get(KEYS, "").split()
    text, mode, told = "", 0, ""
    try:
        text = path.read_text(encoding="utf-8-sig")
        mode = path.stat().st_mode
    except OSError as error:
        told = error.strerror or type(error).__name__
    except ValueError:  # it holds what was read: nothing may hang on it
        told = "it is no text"
    if told:
        raise Refused(f"--hmac-key-file {plain(path)}: cannot be read: {told}")
    warn_of_readers(path, mode)
    if not (keys := text.split()):
        raise Refused(f"--hmac-key-file {plain(path)}: there is no key in it")
    return keys


def told_of(host: str, port: int, error: OSError) -> str:
    return f"cannot listen on {plain(host)}:{port}: {error.strerror or type(error).__name__}"

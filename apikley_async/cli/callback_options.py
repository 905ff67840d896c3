"""Callbacks on the command line: where they come in, and with which keys they are verified."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import attrs
import click

from apikley_async.cli.client_factory import read_key, warn_of_readers
from apikley_async.cli.exit_codes import OK, Refused
from apikley_async.cli.options import HookOptions
from apikley_async.cli.output.reporter import Telling, plain
from apikley_async.webhook import Callback, Inbox, Receiver, token_secret

__all__ = ["Hooks", "hooks_of", "received"]

KEYS = "APIKLEY_WEBHOOK_HMAC_KEY"
SECRETS = "APIKLEY_WEBHOOK_TOKEN_SECRET"
LONGEST = 64 * 1024  # bytes of a file with keys; a device has no end


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
        keys = words_in(options.key_file, KEYS, "--hmac-key-file")
        callback = Callback(options.url, hmac_keys=keys, inbox=options.inbox)
    except ValueError as error:
        raise Refused(f"--callback-url: {plain(error)}") from None
    return Hooks(callback, host, port, served=options.inbox is None)


async def received(
    host: str,
    port: int,
    inbox: Path,
    key_file: Path | None,
    secret_file: Path | None,
    tell: Telling,
) -> None:
    """Keep callbacks in *inbox* until the command is told to end."""
    keys = words_in(key_file, KEYS, "--hmac-key-file")
    secrets = words_in(secret_file, SECRETS, "--token-secret-file")
    try:
        async with Inbox(inbox) as kept:
            receiver = Receiver(kept, hmac_keys=keys, token_secrets=secrets)
            async with receiver.serve(host, port) as server:
                facts = {"host": host, "port": server.port, "inbox": str(inbox)}
                tell("receiving", **facts, gate=receiver.gate)
                if not (keys or secrets):
                    tell.say("  To close it: apikley webhook secret, and --token-secret-file")
                await asyncio.get_running_loop().create_future()
    except ValueError as error:
        raise Refused(plain(error)) from None
    except OSError as error:
        raise Refused(told_of(host, port, error)) from None


def print_secret(key_file: Path | None) -> int:
    """Print what a receiver of its own needs to know the tokens of the API key."""
    click.echo(token_secret(read_key(key_file) or os.environ["APIKLEY_API_KEY"]))
    return OK


def words_in(path: Path | None, name: str, option: str) -> list[str]:
    """Keys or secrets: lines of the file of an *option*, or words of the environment's *name*."""
    if path is None:
        return os.environ.get(name, "").split()
    text, mode, told = "", 0, ""
    try:
        with path.open("rb") as file:
            text = file.read(LONGEST).decode("utf-8-sig")
            mode = os.fstat(file.fileno()).st_mode
    except OSError as error:
        told = error.strerror or type(error).__name__
    except ValueError:  # it holds what was read: nothing may hang on it
        told = "it is no text"
    if told:
        raise Refused(f"{option} {plain(path)}: cannot be read: {told}")
    warn_of_readers(path, mode)
    if not (keys := text.split()):
        raise Refused(f"{option} {plain(path)}: there is nothing in it")
    return keys


def told_of(host: str, port: int, error: OSError) -> str:
    return f"cannot listen on {plain(host)}:{port}: {error.strerror or type(error).__name__}"

"""Callbacks on the command line: `--callback-url` of a run, and `apikley webhook serve`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from apikley_async import Client
from apikley_async.cli.client_factory import OpenClient
from apikley_async.cli.exit_codes import RefusedError
from apikley_async.cli.key_files import read_secrets
from apikley_async.cli.option_types import Place
from apikley_async.cli.options import CallbackOptions
from apikley_async.cli.output.reporter import Reporter
from apikley_async.cli.output.terminal_text import plain
from apikley_async.webhook import Callback, Inbox, Receiver

if TYPE_CHECKING:
    from apikley_async.distributed import SharedInbox

__all__ = ["CallbackServer", "callback_server", "receive_into_inbox"]

HMAC_KEYS = "APIKLEY_WEBHOOK_HMAC_KEY"
TOKEN_SECRETS = "APIKLEY_WEBHOOK_TOKEN_SECRET"  # noqa: S105 - the name of a variable
DEFAULT_ADDRESS = ("127.0.0.1", 8787)


@attrs.frozen
class CallbackServer:
    """The callbacks of one run.

    Attributes:
        callback: what the client is given.
        host, port: where it listens.
        listens: whether this process takes the callbacks; False if an inbox has them.
    """

    callback: Callback
    host: str
    port: int
    listens: bool

    @contextlib.asynccontextmanager
    async def serve_with(self, open_client: OpenClient) -> AsyncIterator[Client]:
        """Open a client, and take callbacks for as long as the `async with` lasts."""
        async with contextlib.AsyncExitStack() as stack:
            client = await stack.enter_async_context(open_client())
            if self.listens:
                try:
                    await stack.enter_async_context(self.callback.serve(self.host, self.port))
                except OSError as error:
                    raise RefusedError(_listen_error(self.host, self.port, error)) from None
            yield client


def callback_server(options: CallbackOptions) -> CallbackServer | None:
    """The callbacks that the options describe; None if there are none."""
    if options.url is None:
        if options.inbox is not None or options.listen is not None:
            raise RefusedError(
                "--listen and --inbox need --callback-url, which the service will call"
            )
        return None
    if options.inbox is not None and options.listen is not None:
        raise RefusedError(
            "--listen or --inbox: callbacks come in here, or by `apikley webhook serve`"
        )
    host, port = options.listen or DEFAULT_ADDRESS
    try:
        keys = read_hmac_keys(options.key_file)
        inbox = None if options.inbox is None else inbox_at(options.inbox)
        callback = Callback(options.url, hmac_keys=keys, inbox=inbox)
    except ValueError as error:
        raise RefusedError(f"--callback-url: {plain(error)}") from None
    return CallbackServer(callback, host, port, listens=options.inbox is None)


async def receive_into_inbox(
    host: str,
    port: int,
    place: Place,
    *,
    hmac_key_file: Path | None,
    token_secret_file: Path | None,
    reporter: Reporter,
) -> None:
    """Take callbacks and add them to an inbox, until cancelled."""
    keys = read_hmac_keys(hmac_key_file)
    secrets = read_secrets(token_secret_file, variable=TOKEN_SECRETS, option="--token-secret-file")
    try:
        async with inbox_at(place) as inbox:
            receiver = Receiver(inbox, hmac_keys=keys, token_secrets=secrets)
            async with gate_is_in_event(), receiver.serve(host, port) as server:
                facts = {"host": host, "port": server.port, "inbox": str(place)}
                reporter.event("receiving", **facts, gate=receiver.gate)
                if not (keys or secrets):
                    reporter.message(
                        "  To accept only callbacks of your films: apikley webhook secret, and "
                        "--token-secret-file"
                    )
                await asyncio.get_running_loop().create_future()
    except ValueError as error:
        raise RefusedError(plain(error)) from None
    except OSError as error:
        raise RefusedError(_listen_error(host, port, error)) from None


@contextlib.asynccontextmanager
async def gate_is_in_event() -> AsyncIterator[None]:
    """Leave out the library's warning of unsigned callbacks: an event says what counts instead."""
    logger = logging.getLogger("apikley_async")

    def is_news(record: logging.LogRecord) -> bool:
        return getattr(record, "event", "") != "unsigned"

    logger.addFilter(is_news)
    try:
        yield
    finally:
        logger.removeFilter(is_news)


def inbox_at(place: Place) -> Inbox | SharedInbox:
    """The inbox in a file, or in a database."""
    if isinstance(place, Path):
        return Inbox(place)
    # Imported only here: it needs an extra, and a file does not.
    from apikley_async.distributed import SharedInbox

    return SharedInbox(place)


def read_hmac_keys(path: Path | None) -> list[str]:
    """The keys that callbacks may be signed with."""
    return read_secrets(path, variable=HMAC_KEYS, option="--hmac-key-file")


def _listen_error(host: str, port: int, error: OSError) -> str:
    return f"cannot listen on {plain(host)}:{port}: {error.strerror or type(error).__name__}"

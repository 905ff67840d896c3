"""A batch that is open: its journal, its run, and its items. The other parts build on this."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from apikley_async import Client, Clock, SystemClock
from apikley_async._postgres import Dsn
from apikley_async._urls import is_loopback, parse_url
from apikley_async.batch.run import BatchRun
from apikley_async.batch.states import ItemState
from apikley_async.batch.store.journal import Journal
from apikley_async.batch.store.journal_errors import OtherKeyError
from apikley_async.batch.store.protocol import Store, all_items
from apikley_async.batch.store.values import Item
from apikley_async.errors import (
    AuthenticationError,
    Blame,
    InvalidRequestError,
    JournalError,
    NotFoundError,
)

__all__ = ["OpenBatch"]

logger: logging.Logger = logging.getLogger("apikley_async.batch")

HTTPS = 443  # the usual port
ASKED = 3  # tasks that a new key has to know one of


class OpenBatch:
    """The lifetime of a batch and of its journal, and its items."""

    def __init__(
        self, store: Store | Callable[[], Awaitable[Store]], *, clock: Clock | None = None
    ) -> None:
        self._clock = clock or SystemClock()
        self._opener = store if callable(store) else None
        self._opened = None if callable(store) else store
        self._run: BatchRun | None = None

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str] | Dsn,
        *,
        clock: Clock | None = None,
        read_only: bool = False,
        wait: float = 0.0,
        adopt: bool = False,
        private: bool = False,
    ) -> Self:
        """Name the journal; `async with` opens it, or makes it.

        Args:
            path: the journal's file; its folder must exist. Or the DSN of a PostgreSQL database,
                `postgresql://user@host/database`, which any number of processes and machines may
                use at once; `apikley db init` has set it up, and its password is in `~/.pgpass`.
            clock: time, handed in by tests.
            read_only: only read; another process may run the batch meanwhile.
            wait: seconds to wait for another process to close it, before `JournalError`.
            adopt: take a copy for the newest journal although it is older than another one was,
                or has lost its log. Every film without a task id that is not rejected or dropped
                is `uncertain` then, since it may have been paid. Nothing else is overridden.
            private: open a copy of the journal, or an empty one where there is none yet, that is
                removed when it is closed: a run can be tried, and nothing is left behind.
        """
        return cls(
            lambda: Journal.open(
                path, clock=clock, read_only=read_only, wait=wait, adopt=adopt, private=private
            ),
            clock=clock,
        )

    async def __aenter__(self) -> Self:
        if self._opener is not None:
            self._opened = await self._opener()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End a run, wait for its requests that are out, and close the journal.

        A store that was open before is not closed.
        """
        store, self._opened = self._opened, None
        try:
            if self._run is not None:
                self._run.interrupt("The batch was closed")
                await self._run.aclose()
        finally:
            if store is not None and self._opener is not None:
                await store.aclose()

    @property
    def store(self) -> Store:
        """The open store.

        Raises:
            JournalError: the batch is not open.
        """
        if self._opened is None:
            raise JournalError("This batch is not open; use `async with Batch.open(...)`")
        return self._opened

    async def check_account(self, client: Client) -> None:
        """Make sure that the journal's tasks are those of this client; `run` does so by itself.

        A new key is taken over when the service knows, with it, one of the journal's tasks.

        Raises:
            JournalError: it was written with the key of another account, or another address.
            ApikleyError: the service does not answer whether this is a new key.
        """
        account = client.attempts.account(await self.store.salt())
        service = service_of(client.base_url)
        try:
            await self.store.bind(service, account)
        except OtherKeyError:
            if not await self._is_known_to(client):
                raise
            await self.store.bind(service, account, taken_over=True)

    async def _is_known_to(self, client: Client) -> bool:
        """Whether the service knows one of the newest tasks of the journal, asked by a client."""
        paid = [row for row in await self.store.attempts() if row["task_id"]]
        paid.sort(key=lambda row: float(row["began_at"]), reverse=True)
        for row in paid[:ASKED]:
            try:
                await client.attempts.poll(row["task_id"])
            except AuthenticationError as error:
                if error.blames is Blame.NETWORK:  # a gateway's
                    raise
                return False
            except (InvalidRequestError, NotFoundError):
                continue
            else:
                logger.info("the key is a new one of the same account: it knows the tasks")
                return True
        return False

    async def item(self, key: str) -> Item:
        """One item; `KeyError` when there is none of that key."""
        return await self.store.item(key)

    def items(self, *states: ItemState) -> AsyncIterator[Item]:
        """The items in their order; only those in *states*, if any are given."""
        return all_items(self.store, *states)

    async def _chosen(self, keys: tuple[str, ...], *states: ItemState) -> list[Item]:
        """The items of *keys*, or all in *states* when no key is given."""
        if keys:
            return [await self.item(key) for key in keys]
        return [item async for item in self.items(*states)]


def service_of(base_url: str) -> str:
    """The service that a journal's tasks live at, however its address is spelled.

    On this machine the port does not count.
    """
    url = parse_url(base_url)
    if is_loopback(url.host):
        return "this machine"
    port = "" if url.port in (None, HTTPS) else f":{url.port}"
    return f"{url.scheme}://{url.host}{port}{urlsplit(base_url).path.rstrip('/')}"

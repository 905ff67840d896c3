"""What `apikley doctor` finds out: whether key, network, clock and service are as they should be.

Every call is free: nothing is submitted. What is recorded are names, types, lengths and hosts of a
task's record, never what it says.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import yarl

from apikley_async import (
    ApikleyError,
    AuthenticationError,
    Blame,
    Client,
    DownloadError,
    NotFoundError,
    Snapshot,
    State,
)
from apikley_async._disk import write_whole
from apikley_async._urls import is_loopback
from apikley_async.cli.exit_codes import FAILED, OK, RefusedError, advice_for
from apikley_async.cli.options import ServiceOptions
from apikley_async.cli.output.reporter import Reporter
from apikley_async.cli.output.terminal_text import in_credits, in_words, plain

__all__ = ["Doctor"]

UNKNOWN_TASK = "task_apikley-doctor_0000000000000"
PICTURE = Path(__file__).parent / "storyboards" / "kitten.webp"
TIMEOUT = 10.0  # seconds for one connection, or one answer that is no call of the API
PATIENCE = 60.0  # seconds for one check: the client would try again for much longer
FIRST_BYTES = 20.0  # seconds for the first bytes of a film
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}")  # of a field; another one may say something
LINK = re.compile(r"https?://\S+")
RESULTS = ("result",)  # fields that are the service's own words, inside as well
DEPTH = 5
NOT_WRONG = "-"  # a check that was not made, or says nothing new
MAX_SKEW = 60.0  # seconds by which clocks may differ


class WrongError(Exception):
    """Something is not as it should be."""


class Doctor:
    """One examination.

    Args:
        client: of the service that is examined.
        service: the options that lead to it.
        reporter: gets a `finding` event for each check.
        folder: where records of tasks are kept; None keeps none.
        wall: tells what time this machine has.
    """

    def __init__(
        self,
        client: Client,
        service: ServiceOptions,
        reporter: Reporter,
        folder: Path | None = None,
        *,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        # As in the client: none leads to this machine.
        local = is_loopback(urlsplit(client.base_url).hostname)
        self._proxy = None if local else service.proxy
        self._reporter = reporter
        self._folder = folder
        self._wall = wall
        self._wrong = 0
        self._key_is_wrong = False
        self._causes: dict[tuple[str, int | None], str] = {}  # what first showed each

    async def examine(self, task_ids: Sequence[str]) -> int:
        """Make every check, whatever the others have shown; return the exit code.

        Without a way to the service nothing else is checked, and without a key nothing for which
        it is needed.
        """
        if not await self._check("network", self._network):
            return FAILED
        await self._check("clock", self._clock)
        await self._check("key", self._key)
        checks: dict[str, Callable[[], Awaitable[str]]] = {
            "polling": self._polling,
            "upload": self._upload,
            **{f"task {task_id}": partial(self._task, task_id) for task_id in task_ids},
        }
        for name, act in checks.items():
            if self._key_is_wrong:
                self._report(NOT_WRONG, name, "not tried: the key is wrong", None)
            else:
                await self._check(name, act)
        return FAILED if self._wrong else OK

    async def _check(self, name: str, act: Callable[[], Awaitable[str]]) -> bool:
        """Make one check and report it; return whether all is as it should be."""
        mark, is_right = "WRONG", False
        try:
            async with asyncio.timeout(PATIENCE):
                message, mark, is_right = await act(), "ok", True
        except TimeoutError:
            message = f"no answer within {PATIENCE:.0f} s"
        except WrongError as error:
            message = str(error)
        except ApikleyError as error:
            about_key = isinstance(error, AuthenticationError) and error.blames != Blame.NETWORK
            self._key_is_wrong = self._key_is_wrong or about_key
            message = ". ".join(filter(None, [error.message, advice_for(error)]))
            first = self._causes.setdefault((type(error).__name__, error.code), name)
            if first != name:  # one cause is wrong once
                mark, message = NOT_WRONG, f"for the same reason as {first}"
        self._wrong += not is_right
        self._report(mark, name, message, is_right)
        return is_right

    def _report(self, mark: str, name: str, message: str, is_right: bool | None) -> None:
        """Report a check; of one that was not made nobody knows whether all is right."""
        self._reporter.event("finding", check=name, right=is_right, message=message)
        self._reporter.result(f"{mark:<5}  {name}: {message}")

    # --- the way to the service ---------------------------------------------------------------

    async def _network(self) -> str:
        """Connect to each kind of address of the service's name."""
        address = urlsplit(self._client.base_url)
        host = address.hostname or ""
        port = address.port or (443 if address.scheme == "https" else 80)
        if self._proxy is not None:
            return f"{host} is reached through the proxy"
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise WrongError(f"{host} has no address: {error.strerror}") from None
        addresses = {family: str(where[0]) for family, _, _, _, where in reversed(found)}
        ways = [
            (f"{'IPv6' if family is socket.AF_INET6 else 'IPv4'}", await connected(where, port))
            for family, where in addresses.items()
        ]
        text = f"{host}: " + ", ".join(f"{family} {answer}" for family, answer in ways)
        if not any(answer.startswith("in ") for _, answer in ways):
            raise WrongError(text)
        return text

    async def _clock(self) -> str:
        """Compare this machine's clock with the service's."""
        began = self._wall()
        timeout = aiohttp.ClientTimeout(total=TIMEOUT)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                # Without the key: the time is in the answer of every server.
                session.get(
                    self._client.base_url, proxy=self._proxy, allow_redirects=False
                ) as answer,
            ):
                stated = parsedate_to_datetime(answer.headers["Date"]).timestamp()
        except (aiohttp.ClientError, TimeoutError, OSError):
            raise WrongError("the service was not reached, so it is not known") from None
        except (KeyError, ValueError):
            return "the service does not say what time it has"
        skew = (began + self._wall()) / 2 - stated
        if abs(skew) <= MAX_SKEW:
            return "as the service's"
        side = "ahead of" if skew > 0 else "behind"
        raise WrongError(
            f"this machine is {in_words(abs(skew))} {side} the service. When links expire and "
            "whether callbacks are recent is judged by it: set the clock"
        )

    # --- the service --------------------------------------------------------------------------

    async def _key(self) -> str:
        return f"accepted; {in_credits(await self._client.credits())} credits"

    async def _polling(self) -> str:
        """Poll a task that does not exist: the answer is known without one of the user's own."""
        try:
            snapshot = await self._client.poll(UNKNOWN_TASK)
        except NotFoundError as error:
            return f"works; a task that does not exist is not found, with code {error.code}"
        raise WrongError(f"the service knows a task that does not exist: {snapshot.state.value}")

    async def _upload(self) -> str:
        """Upload a picture of ours: it costs nothing, and the service removes it in a day."""
        url = await self._client.upload(PICTURE)
        return f"works; images are at {urlsplit(url).hostname}"

    async def _task(self, task_id: str) -> str:
        """Read a task's record, and the first bytes of its film."""
        snapshot = await self._client.poll(task_id)
        if self._folder is not None:
            await asyncio.to_thread(keep_record, self._folder, snapshot)
        parts = [snapshot.state.value]
        if snapshot.state is State.UNKNOWN:
            raise WrongError("its state is no word that is known: --record keeps its form")
        if snapshot.state is State.SUCCESS:
            parts.append(await self._link(snapshot))
        return "; ".join(parts)

    async def _link(self, snapshot: Snapshot) -> str:
        """Read the first bytes of a film that is finished."""
        result = snapshot.result()
        hosts = ", ".join(sorted({str(urlsplit(url).hostname) for url in result.urls}))
        try:
            async with asyncio.timeout(FIRST_BYTES), self._client.stream(result) as chunks:
                size = f", {chunks.size} bytes" if chunks.size else ""
                return f"the film comes from {hosts}{size}"
        except DownloadError as error:
            raise WrongError(f"the film does not come from {hosts}: {error.message}") from None
        except TimeoutError:
            reason = await self._refusal_of(result.urls[0])
            raise WrongError(f"the film does not come from {hosts}: {reason}") from None

    async def _refusal_of(self, link: str) -> str:
        """Why a link is tried again and again: what its host answers to one request."""
        timeout = aiohttp.ClientTimeout(total=TIMEOUT)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                # As it is: its signature must not be written in another way.
                session.get(
                    yarl.URL(link, encoded=True), proxy=self._proxy, allow_redirects=False
                ) as answer,
            ):
                return (
                    f"its host answers HTTP {answer.status}: it refuses this machine, its proxy or "
                    "the link, or is overloaded"
                )
        except TimeoutError:
            return f"no byte within {FIRST_BYTES:.0f} s, so its host does not answer"
        except (aiohttp.ClientError, OSError) as error:
            return f"its host breaks the connection off ({type(error).__name__})"


async def connected(host: str, port: int) -> str:
    """How a connection went: the time that it took, or why there is none."""
    began = time.monotonic()
    try:
        async with asyncio.timeout(TIMEOUT):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        return "does not answer"
    except OSError as error:
        return f"fails: {error.strerror or type(error).__name__}"
    writer.close()
    return f"in {(time.monotonic() - began) * 1000:.0f} ms"


# --- records --------------------------------------------------------------------------------------


def keep_record(folder: Path, snapshot: Snapshot) -> None:
    """Write the form of a task's record into *folder*, for this user only. Blocks.

    Raises:
        RefusedError: it cannot be written, or another file has its name.
    """
    form = {
        "fields": {
            name: form_of(value, DEPTH if name.startswith(RESULTS) else 0)
            for name, value in snapshot.raw.items()
            if NAME.fullmatch(name)
        },
        "state": snapshot.state.value,
        "model": snapshot.model,
        "hosts": sorted({str(urlsplit(url).hostname) for url in snapshot.urls}),
    }
    number = 1
    try:
        folder.mkdir(parents=True, exist_ok=True)
        while (path := folder / f"record-{number}.json").exists():
            number += 1
        content = json.dumps(form, indent=1).encode()
        written = write_whole(path, content, mode=0o600, is_ours=lambda: False)
    except OSError as error:
        raise RefusedError(f"--record {plain(folder)}: {error.strerror}") from None
    if not written:
        raise RefusedError(f"--record {plain(folder)}: another process writes there, too")


def form_of(value: Any, depth: int = 0) -> dict[str, Any]:
    """The type of a value, and its length if it has one.

    With a *depth*, of what is inside as well: names, types and lengths, and which texts are links.
    """
    sized = isinstance(value, str | list | dict)
    form = {"type": type(value).__name__, **({"length": len(value)} if sized else {})}
    if not depth:
        return form
    if isinstance(value, dict):
        known = {name: each for name, each in value.items() if NAME.fullmatch(name)}
        form["fields"] = {name: form_of(each, depth - 1) for name, each in known.items()}
    elif isinstance(value, list) and value:
        form["items"] = form_of(value[0], depth - 1)
    elif isinstance(value, str):
        if isinstance(inside := json_in(value), dict | list):
            form["json"] = form_of(inside, depth - 1)
        elif LINK.fullmatch(value):
            form["link"] = True
    return form


def json_in(text: str) -> Any:
    """What a text is as JSON; None if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None

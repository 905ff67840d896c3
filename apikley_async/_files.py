"""Films on their way to the disk: whole files under their names, or none.

The hosts that serve results never see the key: this room does not know it. Redirects are
followed here, five at most, with headers built anew; every address is checked when the
connection is made, since a name can point anywhere. Bytes go to a `.part` beside the target;
the final name appears only when the size is right, the content is what it should be, and both
file and folder are on the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import errno
import hashlib
import ipaddress
import os
import random
import re
import socket
import ssl as tls
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urljoin, urlsplit

import aiohttp
import attrs
from yarl import URL

from apikley_async._clock import Clock
from apikley_async._policy import Backoff
from apikley_async._result import Result
from apikley_async._storyboard import url_faults
from apikley_async._transport import Network, is_loopback
from apikley_async.errors import ApikleyError, DownloadError, ResultExpiredError

__all__ = ["Films"]

AT_ONCE = 6
REDIRECTS = 5
LARGEST = 4 * 1024**3
CHUNK = 256 * 1024
SLOWEST, SLOW_SPAN = 1024, 60.0  # bytes a second, seen over so many seconds
TRIES = Backoff(first=1.0, factor=2.0, cap=30.0, deadline=600.0)
HEAD = 16

_refused: contextvars.ContextVar[list[str]] = contextvars.ContextVar("refused addresses")


class BrokenOffError(Exception):
    """The stream ended early: go on where it stopped."""


class GoneError(Exception):
    """The link is dead: ask for a new one."""


class ChangedError(Exception):
    """It is another file now: start again."""


@attrs.define
class _Copy:
    """A file being fetched: what is on the disk, and of which version."""

    file: BinaryIO
    have: int = 0
    total: int | None = None
    version: str | None = None
    head: bytes = b""
    digest: Any = attrs.Factory(hashlib.sha256)

    def write(self, chunk: bytes) -> None:
        self.file.write(chunk)
        self.digest.update(chunk)
        if len(self.head) < HEAD:
            self.head += chunk[: HEAD - len(self.head)]
        self.have += len(chunk)

    def restart(self) -> None:
        self.file.seek(0)
        self.file.truncate()
        self.have, self.total, self.version, self.head = 0, None, None, b""
        self.digest = hashlib.sha256()


class Films:
    """Saves results; at most six files at a time.

    *reissue* is asked for the links of a task whose old one is dead.
    """

    def __init__(
        self,
        *,
        reissue: Callable[[str, int, str], AsyncIterator[str]],
        clock: Clock,
        rng: random.Random,
        network: Network,
        allow_private: bool = False,
        allow_loopback: bool = False,
    ) -> None:
        self._reissue = reissue
        self._clock = clock
        self._rng = rng
        self._network = network
        self._timeouts = network.timeouts
        self._allow_private = allow_private
        self._allow_loopback = allow_loopback or allow_private
        self._web: aiohttp.ClientSession | None = None
        self._places = asyncio.Semaphore(AT_ONCE)
        self._targets: dict[Path, asyncio.Lock] = {}

    async def save(
        self, result: Result, target: str | os.PathLike[str], *, overwrite: bool = False
    ) -> list[Path]:
        """Save every file of *result*; see `Client.save`."""
        if not result.urls:
            raise DownloadError("The result has no file to save", task_id=result.task_id)
        names = target_names(result, target)
        saving = [
            asyncio.ensure_future(self._save_one(result, number, name, overwrite))
            for number, name in enumerate(names)
        ]
        try:
            return list(await asyncio.gather(*saving))
        finally:
            for task in saving:
                task.cancel()
            await asyncio.gather(*saving, return_exceptions=True)

    async def aclose(self) -> None:
        web, self._web = self._web, None
        if web is not None:
            await web.close()

    # --- one file --------------------------------------------------------------------------------

    async def _save_one(self, result: Result, number: int, name: Path, overwrite: bool) -> Path:
        trouble: ApikleyError | None = None
        lock = self._targets.setdefault(name, asyncio.Lock())
        try:
            async with lock, self._places:
                return await self._fetch(result, number, name, overwrite)
        except OSError as exc:
            why = exc.strerror or type(exc).__name__
            hint = "; free some space" if exc.errno in (errno.ENOSPC, errno.EDQUOT) else ""
            trouble = DownloadError(
                f"{name} cannot be written: {why}{hint}", task_id=result.task_id
            )
        except DownloadError as exc:
            exc.task_id = result.task_id
            raise
        finally:
            if not lock.locked():
                self._targets.pop(name, None)
        raise trouble

    async def _fetch(self, result: Result, number: int, name: Path, overwrite: bool) -> Path:
        name.parent.mkdir(parents=True, exist_ok=True)
        part = name.with_name(f".{name.name}.{self._rng.getrandbits(64):016x}.part")
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with os.fdopen(os.open(part, flags, 0o666), "w+b") as file:
                copy = _Copy(file)
                await self._fill(copy, result, number)
                suffix = film_suffix(copy)
                final = name if suffix is None else name.with_suffix(suffix)
                await asyncio.to_thread(publish, copy, part, final, overwrite)
                return final
        finally:
            with contextlib.suppress(FileNotFoundError):
                part.unlink()

    async def _fill(self, copy: _Copy, result: Result, number: int) -> None:
        """Fetch the whole file, going on after breaks and through dead links."""
        url = result.urls[number]
        fresh: AsyncIterator[str] | None = None
        delays = TRIES.delays(self._rng)
        last_progress = self._clock.now()
        while True:
            before, reason = copy.have, "the file changed"
            try:
                await self._pull(copy, url)
                check_film(copy)
                return
            except GoneError as gone:
                fresh = fresh or self._reissue(result.task_id, number, url)
                following = await anext(fresh, None)
                if following is None:
                    told = f"The link is dead ({gone}) and there is no new one"
                    raise ResultExpiredError(told) from None
                url = following
                continue
            except ChangedError:
                copy.restart()
                before = -1
            except BrokenOffError as broken:
                reason = str(broken)
                if copy.version is None:
                    copy.restart()  # without a version to hold on to, the rest may be another's
            now = self._clock.now()
            if copy.have > before >= 0:
                last_progress, delays = now, TRIES.delays(self._rng)
            if now - last_progress > self._timeouts.patience:
                raise DownloadError(f"{_host(url)} broke off again and again: {reason}")
            await self._clock.sleep(next(delays))

    async def _pull(self, copy: _Copy, url: str) -> None:
        """One request, redirects included, appended to what is there already."""
        for _ in range(REDIRECTS + 1):
            self._check_url(url)
            onward = await self._ask(copy, url)
            if onward is None:
                return
            if url.startswith("https:") and not onward.startswith("https:"):
                raise DownloadError(f"{_host(url)} redirects from https to something less")
            url = onward
        raise DownloadError(f"{_host(url)} redirects more than {REDIRECTS} times")

    async def _ask(self, copy: _Copy, url: str) -> str | None:
        """Send one request and take what comes; gives the next URL when it is a redirect.

        Whatever goes wrong in it is raised in our own words, outside of aiohttp's handlers.
        """
        headers = {"Accept-Encoding": "identity"}
        if copy.have and copy.version:
            headers |= {"Range": f"bytes={copy.have}-", "If-Range": copy.version}
        refused: list[str] = []
        _refused.set(refused)
        trouble: Exception
        try:
            async with self._session().get(
                URL(url, encoded=True),
                headers=headers,
                allow_redirects=False,
                proxy=self._network.proxy,
                ssl=self._network.ssl or True,
            ) as response:
                if response.status in (301, 302, 303, 307, 308):
                    return urljoin(url, response.headers.get("Location", ""))
                await self._receive(copy, response)
                return None
        except (aiohttp.ClientConnectorCertificateError, tls.SSLCertVerificationError):
            trouble = DownloadError(f"The certificate of {_host(url)} is not valid")
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError):
            trouble = DownloadError("The link of the film is not a valid URL")
        except TimeoutError:
            trouble = BrokenOffError("nothing came any more")
        except aiohttp.ClientError as exc:
            trouble = BrokenOffError(type(exc).__name__)
            if refused:
                trouble = DownloadError(
                    f"{_host(url)} points into a private network ({refused[0]})"
                )
        raise trouble

    async def _receive(self, copy: _Copy, response: aiohttp.ClientResponse) -> None:
        status = response.status
        if status in (401, 403, 404, 410):
            raise GoneError(f"HTTP {status}")
        if status == 416 and copy.have:
            copy.restart()
            raise BrokenOffError("the range was refused")
        if status not in (200, 206):
            if 400 <= status < 500 and status not in (408, 425, 429):
                raise DownloadError(f"{response.url.host} answered with HTTP {status}")
            raise BrokenOffError(f"HTTP {status}")
        if response.content_type in ("text/html", "application/json"):
            raise GoneError(f"a page of {response.content_type} instead of the film")
        if status == 206:
            check_range(copy, response)
        else:
            copy.restart()
            copy.total = response.content_length
            copy.version = strong_version(response)
        if (copy.total or 0) > LARGEST:
            raise DownloadError(
                f"{response.url.host} offers {copy.total} bytes, more than {LARGEST}"
            )
        await self._stream(copy, response)
        if copy.total is not None and copy.have != copy.total:
            raise BrokenOffError(f"{copy.have} of {copy.total} bytes came")

    async def _stream(self, copy: _Copy, response: aiohttp.ClientResponse) -> None:
        since, at = self._clock.now(), copy.have
        async for chunk in response.content.iter_chunked(CHUNK):
            copy.write(chunk)
            if copy.have > LARGEST:
                raise DownloadError(f"{response.url.host} sends more than {LARGEST} bytes")
            if (span := self._clock.now() - since) >= SLOW_SPAN:
                if copy.have - at < SLOWEST * span:
                    raise BrokenOffError("slower than 1 KiB a second")
                since, at = self._clock.now(), copy.have

    def _check_url(self, url: str) -> None:
        if fault := next(url_faults(url), None):
            raise DownloadError(f"The link of the film: {fault}")
        host = urlsplit(url).hostname or ""
        private = is_loopback(host) and not self._allow_loopback
        with contextlib.suppress(ValueError):
            private = private or not self._allowed(ipaddress.ip_address(host))
        if private:
            raise DownloadError(f"{host} is in a private network, which is not asked for films")
        if url.startswith("http:") and not (self._allow_private or is_loopback(host)):
            raise DownloadError(f"{host}: https only")

    def _allowed(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
        inner = _innermost(address)
        if inner.is_loopback:
            return self._allow_loopback
        return self._allow_private or (inner.is_global and not inner.is_multicast)

    def _open_socket(self, info: Any) -> socket.socket:
        """Make the socket for one address, unless it lies where films do not come from."""
        family, kind, protocol, _name, address = info
        if self._network.proxy is None and not self._allowed(
            ipaddress.ip_address(address[0].split("%")[0])
        ):
            _refused.get().append(address[0])
            raise OSError(errno.EACCES, "a private address")
        return socket.socket(family, kind, protocol)

    def _session(self) -> aiohttp.ClientSession:
        if self._web is None:
            self._web = aiohttp.ClientSession(
                connector=self._network.connect(
                    limit=2 * AT_ONCE, socket_factory=self._open_socket
                ),
                timeout=aiohttp.ClientTimeout(
                    total=None, connect=self._timeouts.connect, sock_read=SLOW_SPAN
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
            )
        return self._web


# --- names -----------------------------------------------------------------------------------


def target_names(result: Result, target: str | os.PathLike[str]) -> list[Path]:
    """Say where the files go: *target* is a folder, unless it has the suffix of a film."""
    text = os.fspath(target)
    place = Path(text)
    if place.suffix.lower() in SUFFIXES and not text.endswith("/") and not place.is_dir():
        folder, stem, suffix = place.parent, place.stem, place.suffix
    else:
        folder, stem, suffix = place, safe_name(result.task_id), ".mp4"
    if len(result.urls) == 1:
        return [folder / f"{stem}{suffix}"]
    return [folder / f"{stem}-{number}{suffix}" for number in range(1, len(result.urls) + 1)]


def safe_name(task_id: str) -> str:
    """A file name from an id: letters, digits, `._-`; anything else leaves a mark of the whole."""
    name = re.sub(r"[^A-Za-z0-9._-]", "_", task_id).strip("._")[:100]
    if name == task_id:
        return name
    return f"{name or 'film'}-{hashlib.sha256(task_id.encode(errors='replace')).hexdigest()[:8]}"


# --- what came -------------------------------------------------------------------------------

SUFFIXES = (".mp4", ".mov", ".webm", ".png", ".jpg", ".jpeg", ".webp", ".gif", ".mp3", ".wav")


def kind_of(head: bytes) -> str | None:
    """The suffix that fits a file's first bytes; None for what is neither film, image nor sound."""
    if head[4:8] == b"ftyp":
        return ".mov" if head[8:12] == b"qt  " else ".mp4"
    for start, suffix in (
        (b"\x1aE\xdf\xa3", ".webm"),
        (b"\x89PNG\r\n\x1a\n", ".png"),
        (b"\xff\xd8\xff", ".jpg"),
        (b"GIF8", ".gif"),
        (b"ID3", ".mp3"),
        (b"\xff\xfb", ".mp3"),
    ):
        if head.startswith(start):
            return suffix
    if head[:4] == b"RIFF":
        return {b"WEBP": ".webp", b"WAVE": ".wav"}.get(head[8:12])
    return None


def film_suffix(copy: _Copy) -> str | None:
    """The suffix the file should have, None when a film's usual `.mp4` is right."""
    suffix = kind_of(copy.head)
    return None if suffix == ".mp4" else suffix


def check_film(copy: _Copy) -> None:
    """Refuse what is not a whole film: a page, or an MP4 whose boxes do not add up to its size."""
    if copy.have == 0:
        raise BrokenOffError("nothing came")
    suffix = kind_of(copy.head)
    if suffix is None:
        raise GoneError("something that is no film")
    if suffix in (".mp4", ".mov") and not mp4_is_whole(copy.file, copy.have):
        copy.restart()
        raise BrokenOffError("the film was not whole")


def mp4_is_whole(file: BinaryIO, size: int) -> bool:
    """Walk the top-level boxes: they must fill the file exactly and hold a `moov`."""
    file.flush()
    at, kinds = 0, set()
    while at < size:
        file.seek(at)
        header = file.read(16)
        length, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        elif length == 0:
            length = size - at
        if len(header) < 8 or length < 8:
            return False
        kinds.add(kind)
        at += length
    file.seek(size)
    return at == size and b"moov" in kinds


def strong_version(response: aiohttp.ClientResponse) -> str | None:
    """What If-Range may hold on to: a strong ETag, or nothing."""
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') and len(tag) > 2 else None


def check_range(copy: _Copy, response: aiohttp.ClientResponse) -> None:
    """A 206 must go on exactly where we stopped, in the file we began."""
    given = re.fullmatch(
        r"bytes ([0-9]{1,15})-([0-9]{1,15})/([0-9]{1,15})",
        response.headers.get("Content-Range", ""),
    )
    if given is None:
        raise ChangedError
    start, end, total = (int(number) for number in given.groups())
    same = copy.total in (None, total) and strong_version(response) in (None, copy.version)
    if start != copy.have or end != total - 1 or not same:
        raise ChangedError
    copy.total = total


def publish(copy: _Copy, part: Path, final: Path, overwrite: bool) -> None:
    """Give a whole file its name: file to the disk, name, folder to the disk. Blocks.

    Another file of that name is never replaced unasked; the same content is left as it is.
    """
    copy.file.flush()
    os.fsync(copy.file.fileno())
    if overwrite:
        if final.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        part.replace(final)
    else:
        try:
            os.link(part, final, follow_symlinks=False)
        except FileExistsError:
            if not _same_content(copy, final):
                told = f"{final} exists and is another file; move it, or say overwrite=True"
                raise DownloadError(told) from None
        except OSError as exc:
            if exc.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK):
                raise
            if os.path.lexists(final):  # a file system without links
                raise DownloadError(f"{final} exists") from None
            part.replace(final)
    folder = os.open(final.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _same_content(copy: _Copy, final: Path) -> bool:
    if final.is_symlink() or not final.is_file() or final.stat().st_size != copy.have:
        return False
    with final.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest() == copy.digest.digest()  # type: ignore[no-any-return]


def _innermost(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The IPv4 address that an IPv6 one carries, where it does (mapped, 6to4, Teredo, NAT64)."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in ipaddress.ip_network("64:ff9b::/96"):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo[1] if address.teredo else None
    return address.ipv4_mapped or address.sixtofour or teredo or address


def _host(url: str) -> str:
    """What of a link may be shown: it is as good as the film itself."""
    with contextlib.suppress(ValueError):
        return urlsplit(url).hostname or "the host"
    return "the host"

"""Random downloads, each from a host with random faults: never a wrong byte under a film's name.

A seed says it all: the file's versions, what the host does to each request, and when we are
interrupted. Each has a few kinds of faults of its own, since all of them together hide each other.
`FAULTY_DOWNLOADS=10000` tries more of them; `FAULTY_SEED=17` one alone.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import pytest
from filehost import (
    PAGE,
    FileHost,
    FileRequest,
    FileResponse,
    FileVersion,
    Responder,
    film,
    respond_with,
    serve_file,
)
from saved_paths import save
from volume import volume

from apikley_async import Result
from apikley_async._clock import SystemClock
from apikley_async._download.saver import Saver
from apikley_async._download.stream import Streams
from apikley_async._network import Network
from apikley_async._tasks import TaskScope
from apikley_async._urls import AddressPolicy
from apikley_async.errors import DownloadError, ResultExpiredError, ServerError

COUNT = int(os.environ.get("FAULTY_DOWNLOADS", volume(50, 500)))
ONE = os.environ.get("FAULTY_SEED")
BATCH = 50
MAX_FAULTS = 8
VERSIONS = 3


@attrs.define
class FaultyFile:
    """A file whose versions change, on a host that makes mistakes at first."""

    seed: int
    rng: random.Random
    versions: list[FileVersion]
    kinds: list[Callable[[FaultyFile, FileRequest], FileResponse]]
    now: int = 0
    faults: int = 0
    ends: bool = False
    faults_met: list[str] = attrs.Factory(list)

    def respond(self, request: FileRequest) -> FileResponse:
        """The response to one request: with a fault, until none is left."""
        if self.faults == 0:
            return GONE(request) if self.ends else serve_file(self.version)(request)
        self.faults -= 1
        fault = self.rng.choice(self.kinds)
        self.faults_met.append(fault.__name__)
        return fault(self, request)

    @property
    def version(self) -> FileVersion:
        return self.versions[self.now]

    def correct_response(self, request: FileRequest) -> FileResponse:
        return serve_file(self.version)(request)


def make_file(seed: int) -> FaultyFile:
    rng = random.Random(seed)
    size = rng.choice([500, 3000, 20_000, 90_000])
    etag: Callable[[int], str] = rng.choice(
        [lambda n: f'"v{n}"'] * 4 + [lambda n: f'W/"v{n}"', lambda n: ""]
    )
    same_size = rng.random() < 0.7
    versions = [
        FileVersion(film(seed * VERSIONS + n, size if same_size else size + 977 * n), etag(n))
        for n in range(VERSIONS)
    ]
    kinds = [cut_off] * rng.randint(0, 3) + rng.sample(FAULTS, rng.randint(1, 4))
    file = FaultyFile(seed, rng, versions, kinds, faults=rng.randint(0, MAX_FAULTS))
    file.ends = rng.random() < 0.1
    return file


# --- faults: each alters the correct response to one request -----------------------------------

GONE = respond_with(403)
MORE = b"more" * 20


def cut_off(file: FaultyFile, request: FileRequest) -> FileResponse:
    response = file.correct_response(request)
    sent = file.rng.randint(0, len(response.body))
    ending = file.rng.choice(["close", "close", "reset", "stall"])
    framing = file.rng.choice(["length", "length", "chunked", "close"])
    return response.replace(sent=sent, ending=ending, framing=framing)


def changed(file: FaultyFile, request: FileRequest) -> FileResponse:
    """Another version from now on; this request may still fall between the two."""
    before = file.correct_response(request)
    file.now = (file.now + 1) % VERSIONS
    return file.rng.choice([before, file.correct_response(request), cut_off(file, request)])


def wrong_range(file: FaultyFile, request: FileRequest) -> FileResponse:
    response, size = file.correct_response(request), len(file.version.data)
    if response.status != 206:
        return response.replace(status=206, headers={"Content-Range": f"bytes 0-{size - 1}/{size}"})
    start = max(0, request.range_start + file.rng.choice([-request.range_start, -1, 1, 100]))
    content_range = file.rng.choice(
        [f"bytes {start}-{size - 1}/{size}", f"bytes {request.range_start}-{size}/{size + 1}", ""]
    )
    if content_range.startswith(f"bytes {request.range_start}-{size - 1}/"):
        content_range = ""  # that would be the truth about other bytes: nobody could tell
    return response.replace(
        headers={"Content-Range": content_range}, body=file.version.data[start:]
    )


def range_of_another_version(file: FaultyFile, request: FileRequest) -> FileResponse:
    """The right place in the wrong version, which says so or says nothing."""
    other = file.versions[(file.now + 1) % VERSIONS]
    if not request.range_start or request.range_start >= len(other.data):
        return cut_off(file, request)
    content_range = f"bytes {request.range_start}-{len(other.data) - 1}/{len(other.data)}"
    etag = file.rng.choice([other.etag, ""])
    return FileResponse(
        206, {"Content-Range": content_range, "ETag": etag}, other.data[request.range_start :]
    )


def lie_about_length(file: FaultyFile, request: FileRequest) -> FileResponse:
    response = file.correct_response(request)
    length = max(0, len(response.body) + file.rng.choice([-400, -7, -1, 1, 99, 10_000]))
    return response.replace(length=length, ending="close")


def trailing_bytes(file: FaultyFile, request: FileRequest) -> FileResponse:
    response = file.correct_response(request)
    framing = file.rng.choice(["chunked", "close"])
    return response.replace(body=response.body + MORE, framing=framing)


def without_framing(file: FaultyFile, request: FileRequest) -> FileResponse:
    return file.correct_response(request).replace(framing=file.rng.choice(["chunked", "close"]))


def without_ranges(file: FaultyFile, request: FileRequest) -> FileResponse:
    return file.correct_response(FileRequest(request.method, request.path, {}))


def refused_range(file: FaultyFile, request: FileRequest) -> FileResponse:
    if not request.range_start:
        return respond_with(503)(request)
    content_range = file.rng.choice(
        ["", f"bytes */{len(file.version.data)}", f"bytes */{request.range_start}"]
    )
    return FileResponse(416, {"Content-Range": content_range} if content_range else {}, b"")


def page(file: FaultyFile, request: FileRequest) -> FileResponse:
    kind = file.rng.choice(["text/html", "video/mp4", "application/octet-stream"])
    return FileResponse(200, {"Content-Type": kind, "ETag": file.version.etag or '"p"'}, PAGE)


def expired(file: FaultyFile, request: FileRequest) -> FileResponse:
    return respond_with(file.rng.choice([401, 403, 404, 410]))(request)


def unavailable(file: FaultyFile, request: FileRequest) -> FileResponse:
    return respond_with(file.rng.choice([408, 429, 500, 502, 503, 504]))(request)


def redirected(file: FaultyFile, request: FileRequest) -> FileResponse:
    return respond_with(file.rng.choice([301, 302, 303, 307, 308]), Location=request.path + "&on")(
        request
    )


def compressed(file: FaultyFile, request: FileRequest) -> FileResponse:
    return FileResponse(
        200, {"Content-Encoding": "gzip", "ETag": file.version.etag or '"z"'}, b"\x1f\x8b" * 99
    )


def nothing(file: FaultyFile, request: FileRequest) -> FileResponse:
    return file.correct_response(request).replace(
        sent=0, ending=file.rng.choice(["close", "reset"])
    )


FAULTS: list[Callable[[FaultyFile, FileRequest], FileResponse]] = [
    *(
        changed,
        wrong_range,
        range_of_another_version,
        lie_about_length,
        trailing_bytes,
        without_framing,
        without_ranges,
        refused_range,
        page,
    ),
    *(expired, unavailable, redirected, compressed, nothing),
]


# --- one download ------------------------------------------------------------------------------


def links(file: FaultyFile, url: str, rng: random.Random) -> Callable[..., AsyncIterator[str]]:
    """New links of the service, some of them late, until there are none."""

    async def reissue(*_: Any) -> AsyncIterator[str]:
        if file.ends and file.faults == 0:
            return
        if rng.random() < 0.2:
            raise ServerError("down", code=500)
        yield f"{url}&again"
        yield url

    return reissue


async def download(file: FaultyFile, host: FileHost, folder: Path) -> str:
    """Save a file, with interruptions and retries; says how it ended."""
    rng = random.Random(~file.seed)
    base = f"/{file.seed}?x"
    served: Responder = file.respond
    for tail in ("", "&on", "&again", "&again&on", "&on&on", "&again&on&on"):
        host.serve(base + tail, served)
    url = host.base + base
    target = folder / f"{file.seed}.mp4"
    expires_at = datetime(2020, 1, 1, tzinfo=UTC) if file.ends else None
    result = Result(f"task_{file.seed}", (url,), expires_at=expires_at)
    for _ in range(10):
        saver = Saver(
            reissue=links(file, url, rng),
            clock=SystemClock(),
            rng=rng,
            network=Network(),
            policy=AddressPolicy(loopback=True),
        )
        timeout = rng.choice([None, None, 0.01, 0.03, 2.0])
        try:
            async with asyncio.timeout(timeout):
                assert await save(saver, result, target) == [target]
            return "saved"
        except TimeoutError:
            file.faults_met.append("interrupted")
        except ResultExpiredError:
            return "expired"
        except DownloadError as error:
            return f"failed: {error}"
        finally:
            await saver.aclose()
            check(file, target)
    return "interrupted"


async def stream(file: FaultyFile, host: FileHost) -> str:
    """Stream a file; says how it ended. What was handed on is of one version."""
    rng = random.Random(~file.seed)
    base = f"/{file.seed}?x"
    for tail in ("", "&on", "&again", "&again&on", "&on&on", "&again&on&on"):
        host.serve(base + tail, file.respond)
    reissue, tasks, clock = links(file, host.base + base, rng), TaskScope(), SystemClock()
    network, policy = Network(), AddressPolicy(loopback=True)
    saver = Saver(reissue=reissue, clock=clock, rng=rng, network=network, policy=policy)
    expires_at = datetime(2020, 1, 1, tzinfo=UTC) if file.ends else None
    result = Result(f"task_{file.seed}", (host.base + base,), expires_at=expires_at)
    data, outcome = b"", "streamed"
    try:
        streams = Streams(saver.transfers, reissue, tasks, clock)
        async with streams.stream(result, 0) as chunks:
            async for chunk in chunks:
                data += chunk
    except ResultExpiredError:
        outcome = "expired"
    except DownloadError as error:
        outcome = "changed" if "another film" in str(error) else f"failed: {error}"
    finally:
        tasks.interrupt()
        await tasks.shut(saver.aclose)
    served = [version.data for version in file.versions]
    odd = [one + MORE for one in served] if "trailing_bytes" in file.faults_met else []
    if outcome == "streamed":
        assert data in served + odd, f"seed {file.seed}: wrong bytes after {file.faults_met}"
    if "wrong_range" not in file.faults_met:  # nobody can tell until the end, which is an error
        ours = any(one.startswith(data) for one in served + odd)
        assert ours, f"seed {file.seed}: spliced after {file.faults_met}"
    return outcome


def check(file: FaultyFile, target: Path) -> None:
    """Refuse a film under its final name that nobody ever served."""
    if target.exists():
        data = target.read_bytes()
        if (
            "trailing_bytes" in file.faults_met
        ):  # odd bytes behind a whole film that came twice the same
            data = data.removesuffix(MORE)
        assert data in [version.data for version in file.versions], (
            f"seed {file.seed}: {len(data)} wrong bytes after {file.faults_met}"
        )


def seeds() -> list[range]:
    if ONE is not None:
        return [range(int(ONE), int(ONE) + 1)]
    return [range(start, min(start + BATCH, COUNT)) for start in range(0, COUNT, BATCH)]


@pytest.mark.virtual
@pytest.mark.parametrize("batch", seeds(), ids=str)
async def test_no_fault_ever_makes_a_wrong_film(tmp_path: Path, batch: range) -> None:
    """Whole and true to one version, or not there; and there, unless all links are dead (I11).

    Cuts, changes, wrong ranges, lies, pages, redirects, dead links and interruptions: D1 to D8,
    D12, D14, D19.
    """
    ended: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    async with FileHost() as host:
        for seed in batch:
            file = make_file(seed)
            outcome = await download(file, host, tmp_path)
            ended[outcome] += 1
            faults.update(file.faults_met)
            target = tmp_path / f"{seed}.mp4"
            assert target.exists() == (outcome == "saved"), f"seed {seed}: {outcome}"
            possible = {"saved", "expired"} if file.ends else {"saved"}
            assert outcome in possible, f"seed {seed}: {outcome} after {file.faults_met}"
            host.requests.clear()
    parts = {path.name for path in tmp_path.iterdir() if path.suffix != ".mp4"}
    assert parts == set()
    if ONE is None:
        assert ended["saved"] > len(batch) * 0.5
        assert len(faults) >= 10


@pytest.mark.virtual
@pytest.mark.parametrize("batch", seeds(), ids=str)
async def test_no_fault_ever_splices_a_stream(batch: range) -> None:
    """Every byte belongs to one version, and its end is certain, or there is an error."""
    ended: Counter[str] = Counter()
    async with FileHost() as host:
        for seed in batch:
            file = make_file(seed)
            outcome = await stream(file, host)
            ended[outcome] += 1
            possible = {"streamed", "changed"} | ({"expired"} if file.ends else set())
            assert outcome in possible, f"seed {seed}: {outcome} after {file.faults_met}"
            host.requests.clear()
    if ONE is None:
        assert ended["streamed"] > len(batch) * 0.5, ended

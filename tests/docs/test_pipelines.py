"""The recipes of docs/howto/pipelines.md: an S3-like store on real sockets, and films joined."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import random
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

import aiohttp
import pytest
from aiohttp import web
from pages import ROOT, module_of

from apikley_async import Client, Environment, Shot, Storyboard
from apikley_async.batch import Batch, Destination, ItemState
from apikley_async.simulator import AnimaticRenderer, Constant, Fault, Simulator, Terms
from apikley_async.testing import LoopClock

PAGE = ROOT / "docs" / "howto" / "pipelines.md"
ACCESS, SECRET, REGION = "an-access-key", "a-secret-of-nobody", "eu-test-1"
PART = 8 * 1024 * 1024


class Bucket:
    """A store that speaks as much of S3 as multipart uploads need, and checks every signature."""

    def __init__(self) -> None:
        self.objects: dict[str, tuple[str, bytes]] = {}
        self.uploads: dict[str, tuple[str, dict[int, bytes]]] = {}
        self.busy = 0  # so many requests are answered with 503
        self.refuse_completion = False
        self.read_only = False
        self.open = asyncio.Event()
        self.open.set()
        self.endpoint = ""

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=2 * PART)
        app.router.add_route("*", "/films/{name:.+}", self.answer)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        [(host, port)] = self._runner.addresses
        self.endpoint = f"http://{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.read()
        assert request.headers["Authorization"] == signature_of(request, body)
        await self.open.wait()
        if self.busy:
            self.busy -= 1
            return web.Response(status=503)
        name, query = request.match_info["name"], request.query
        if self.read_only and request.method != "HEAD":
            return web.Response(status=403)
        if request.method == "HEAD":
            return web.Response(status=200 if name in self.objects else 404)
        if "uploads" in query:
            upload = f"upload {len(self.uploads)}+/&"
            self.uploads[upload] = (request.content_type, {})
            return answer_of(f"<UploadId>{upload.replace('&', '&amp;')}</UploadId>")
        kind, parts = self.uploads[query["uploadId"]]
        if request.method == "POST" and self.refuse_completion:
            return web.Response(body=b"<Error><Code>InternalError</Code></Error>")
        if request.method == "PUT":
            parts[int(query["partNumber"])] = body
            return web.Response(headers={"ETag": f'"{hashlib.sha256(body).hexdigest()}"'})
        del self.uploads[query["uploadId"]]
        if request.method == "DELETE":
            return web.Response(status=204)
        listed = re.findall(rb"<PartNumber>(\d+)</PartNumber><ETag>\"(\w+)\"</ETag>", body)
        digests = [(n, hashlib.sha256(part).hexdigest()) for n, part in sorted(parts.items())]
        assert [(int(n), etag.decode()) for n, etag in listed] == digests
        assert all(len(part) >= 5 * 1024 * 1024 for _, part in sorted(parts.items())[:-1])
        self.objects[name] = (kind, b"".join(part for _, part in sorted(parts.items())))
        return answer_of("<Location>here</Location>")


def answer_of(inside: str) -> web.Response:
    text = f'<Result xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{inside}</Result>'
    return web.Response(text=text, content_type="application/xml")


def signature_of(request: web.Request, body: bytes) -> str:
    """What the Authorization must be, computed of what came on the wire."""
    digest, stamp = hashlib.sha256(body).hexdigest(), request.headers["x-amz-date"]
    assert request.headers["x-amz-content-sha256"] == digest
    path, _, query = request.raw_path.partition("?")
    signed = "host;x-amz-content-sha256;x-amz-date"
    canonical = [
        *(request.method, path, query),
        *(f"host:{request.headers['Host']}", f"x-amz-content-sha256:{digest}"),
        *(f"x-amz-date:{stamp}", "", signed, digest),
    ]
    hashed = hashlib.sha256("\n".join(canonical).encode()).hexdigest()
    scope = [stamp[:8], REGION, "s3", "aws4_request"]
    key = b"AWS4" + SECRET.encode()
    for word in scope:
        key = hmac.new(key, word.encode(), "sha256").digest()
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{'/'.join(scope)}\n{hashed}"
    signature = hmac.new(key, text.encode(), "sha256").hexdigest()
    credential = f"Credential={ACCESS}/{'/'.join(scope)}"
    return f"AWS4-HMAC-SHA256 {credential}, SignedHeaders={signed}, Signature={signature}"


def destination_of(bucket: Bucket, session: aiohttp.ClientSession, folder: Path) -> Any:
    made = module_of(PAGE, "s3_destination.py", folder).S3Destination
    keys = {"access_key": ACCESS, "secret_key": SECRET, "region": REGION}
    return made(session, bucket.endpoint, "films", **keys)


class Chunks:
    """So many bytes in chunks of 256 KiB, as a film's host gives them; counted when asked for."""

    def __init__(self, size: int, *, breaks_at: int | None = None) -> None:
        self.data = random.Random(1).randbytes(size)
        self.asked = 0
        self._breaks_at = breaks_at

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for at in range(0, len(self.data), 256 * 1024):
            if self._breaks_at is not None and at >= self._breaks_at:
                raise ConnectionError("broken off")
            self.asked += 1
            yield self.data[at : at + 256 * 1024]


@pytest.mark.parametrize("size", [0, 1, PART - 1, PART, 2 * PART + 5])
async def test_a_file_of_any_size_is_stored_whole(tmp_path: Path, size: int) -> None:
    async with Bucket() as bucket, aiohttp.ClientSession() as session:
        store, chunks = destination_of(bucket, session, tmp_path), Chunks(size)
        assert isinstance(store, Destination)
        assert not await store.exists("a b (film)+é.mp4")
        name = "a b (film)+é.mp4"
        location = await store.put(name, aiter(chunks), size=None, content_type="video/mp4")
        assert location == f"s3://films/{name}"
        assert bucket.objects == {name: ("video/mp4", chunks.data)}
        assert await store.exists(name)
        assert bucket.uploads == {}


async def test_a_key_that_may_not_write_is_found_before_anything_is_paid(tmp_path: Path) -> None:
    async with Bucket() as bucket, aiohttp.ClientSession() as session:
        store = destination_of(bucket, session, tmp_path)
        await store.check()
        assert (bucket.objects, bucket.uploads) == ({}, {})
        bucket.read_only = True
        assert not await store.exists("a.mp4")
        with pytest.raises(RuntimeError, match="HTTP 403"):
            await store.check()


async def test_a_slow_store_slows_the_source(tmp_path: Path) -> None:
    """While a part is on its way nothing more is asked for."""
    async with Bucket() as bucket, aiohttp.ClientSession() as session:
        store, chunks = destination_of(bucket, session, tmp_path), Chunks(3 * PART)
        bucket.open.clear()
        putting = asyncio.ensure_future(
            store.put("a.mp4", aiter(chunks), size=len(chunks.data), content_type="video/mp4")
        )
        for _ in range(200):
            await asyncio.sleep(0)
        assert chunks.asked == 0  # the upload is not begun yet
        bucket.open.set()
        most = 0
        while not putting.done():
            done = sum(len(part) for _, parts in bucket.uploads.values() for part in parts.values())
            most = max(most, chunks.asked * 256 * 1024 - done) if bucket.uploads else most
            await asyncio.sleep(0)
        assert most <= PART + 256 * 1024


async def test_a_film_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    async with Bucket() as bucket, aiohttp.ClientSession() as session:
        store = destination_of(bucket, session, tmp_path)
        chunks = Chunks(3 * PART, breaks_at=2 * PART)
        with pytest.raises(ConnectionError):
            await store.put("a.mp4", aiter(chunks), size=None, content_type="video/mp4")
        bucket.refuse_completion = True
        with pytest.raises(RuntimeError, match="InternalError"):
            await store.put("a.mp4", aiter(Chunks(5)), size=None, content_type="video/mp4")
    assert (bucket.objects, bucket.uploads) == ({}, {})


@pytest.mark.virtual
async def test_films_of_a_batch_go_there_without_a_disk(tmp_path: Path) -> None:
    """With faults on both sides: the film host breaks off, the store is busy."""
    rng = random.Random(3)
    simulator = Simulator(Terms(duration=Constant(60)), clock=LoopClock(), rng=rng)
    async with Bucket() as bucket, simulator, aiohttp.ClientSession() as session:
        environment = Environment(clock=LoopClock(), rng=random.Random(4))
        address = {"base_url": simulator.base_url, "environment": environment}
        store = destination_of(bucket, session, tmp_path)
        simulator.script("file", [Fault.CUT, Fault.RESET, Fault.EXPIRED_403])
        films = [(f"k{n}", Storyboard([Shot(f"Scene {n}.")], duration=10)) for n in range(8)]
        async with (
            Client(simulator.api_key, **address) as client,  # type: ignore[arg-type]
            Batch.open(tmp_path / "b.db", clock=LoopClock()) as batch,
        ):
            await batch.add(films)
            bucket.busy = 3
            items = [item async for item in batch.run(client, destination=store)]
        for item in items:
            assert item.state is ItemState.DONE, item.cause
            assert item.stored[0].location == f"s3://films/{item.key}.mp4"
            data = await simulator.film(item.task_id or "")
            assert bucket.objects[f"{item.key}.mp4"] == ("video/mp4", data)
    assert bucket.uploads == {}
    assert SECRET not in (tmp_path / "b.db").read_bytes().decode("latin-1")


async def test_joined_films_play_one_after_the_other(tmp_path: Path) -> None:
    """Nothing is encoded again: every packet is there, in order, and the last second decodes."""
    av = pytest.importorskip("av")
    renderer = AnimaticRenderer(short_side=120)
    simulator = Simulator(Terms(duration=Constant(0.1)), rng=random.Random(3), renderer=renderer)
    async with simulator, Client(simulator.api_key, base_url=simulator.base_url) as client:
        result = await client.generate(Storyboard([Shot("A kitten wakes up.")], duration=10))
        films = [*await client.save(result, tmp_path), *await client.save(result, tmp_path)]
    target = tmp_path / "story.mp4"
    module_of(PAGE, "join_films.py", tmp_path).join_films(films, target)

    with av.open(str(target)) as joined:
        assert joined.duration / av.time_base == pytest.approx(20, abs=0.2)
        times = [frame.time for frame in joined.decode(video=0)]
    assert times == sorted(times)
    assert times[-1] > 19.5
    counts = []
    for film in films:
        with av.open(str(film)) as source:
            counts.append(sum(1 for _ in source.decode(video=0)))
    assert len(times) == sum(counts)

"""Uploads of images: each content once, under names and types made here."""

from __future__ import annotations

import asyncio
import io
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from images import EXIF, jpeg, lossy, png

from apikley_async import Storyboard
from apikley_async._uploads import FOLDER, REUSED_FOR, Uploads
from apikley_async._urls import AddressPolicy
from apikley_async._wire.requests import File
from apikley_async.errors import ServerError, StoryboardError
from apikley_async.testing import FakeClock

GOOD = {"png": png(), "jpeg": jpeg(), "webp": lossy()}


class Store:
    """The service's shelf: keeps what it is given, and fails on demand."""

    def __init__(self, *troubles: Exception | None) -> None:
        self.files: list[File] = []
        self.folders: set[str] = set()
        self.troubles = list(troubles)
        self.gate: asyncio.Event | None = None

    async def __call__(self, file: File, folder: str) -> str:
        self.files.append(file)
        self.folders.add(folder)
        number = len(self.files)
        if self.gate is not None:
            await self.gate.wait()
        await asyncio.sleep(0)
        if self.troubles and (trouble := self.troubles.pop(0)) is not None:
            raise trouble
        return f"https://files.test/{number}"


def make(store: Callable[[File, str], Awaitable[str]], clock: FakeClock | None = None) -> Uploads:
    policy = AddressPolicy()
    return Uploads(store, policy=policy, clock=clock or FakeClock(), rng=random.Random(3))


@pytest.mark.virtual
async def test_a_file_that_vanishes_after_it_was_read(tmp_path: Path) -> None:
    """What was checked is what is sent, even if the file is gone by then (U3)."""
    path = tmp_path / "a.png"
    path.write_bytes(png())
    store = Store()
    store.gate = asyncio.Event()
    uploading = asyncio.ensure_future(make(store).upload(path))
    await asyncio.sleep(1)
    assert len(store.files) == 1

    path.write_bytes(b"<html>")
    path.unlink()
    store.gate.set()

    assert await uploading == "https://files.test/1"
    assert store.files[0].content == png()


# --- once ------------------------------------------------------------------------------------


async def test_the_same_content_is_uploaded_once(tmp_path: Path) -> None:
    """Under any name and in any wrapping, for twelve hours."""
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "b.png").write_bytes(png())
    store, clock = Store(), FakeClock()
    uploads = make(store, clock)

    urls = [
        await uploads.upload(image)
        for image in (tmp_path / "a.png", tmp_path / "b.png", png(), io.BytesIO(png()))
    ]

    assert urls == ["https://files.test/1"] * 4
    assert await uploads.upload(jpeg()) == "https://files.test/2"


@pytest.mark.parametrize(
    ("passed", "expected"), [(0, 1), (REUSED_FOR - 1, 1), (REUSED_FOR, 2), (-10, 2), (1e9, 2)]
)
async def test_an_old_upload_is_not_reused(passed: float, expected: int) -> None:
    """Older than is safe, or younger than now: uploaded again (U7)."""
    store, clock = Store(), FakeClock()
    uploads = make(store, clock)
    await uploads.upload(png())

    clock.advance(passed)
    await uploads.upload(png())

    assert len(store.files) == expected


async def test_old_uploads_are_forgotten() -> None:
    """A client that runs for weeks does not remember every image it ever saw (X6)."""
    store, clock = Store(), FakeClock()
    uploads = make(store, clock)
    for number in range(20):
        await uploads.upload(png(more=bytes([number])))
        clock.advance(3600)

    assert len(uploads) <= 12


@pytest.mark.virtual
async def test_many_storyboards_share_one_upload() -> None:
    """However many want one image at the same moment, it travels once."""
    store = Store()
    uploads = make(store)

    urls = await asyncio.gather(*(uploads.upload(png()) for _ in range(50)))

    assert urls == ["https://files.test/1"] * 50
    assert len(store.files) == 1


@pytest.mark.virtual
async def test_a_failure_is_shared_and_then_forgotten() -> None:
    """Fifty who wait for one failing upload fail with it, once; the next one tries anew (U6)."""
    store = Store(ServerError("down", code=500))
    store.gate = asyncio.Event()
    uploads = make(store)
    waiting = [asyncio.ensure_future(uploads.upload(png())) for _ in range(50)]
    await asyncio.sleep(1)
    store.gate.set()

    ended = await asyncio.gather(*waiting, return_exceptions=True)

    assert {type(end) for end in ended} == {ServerError}
    assert len(store.files) == 1
    assert await uploads.upload(png()) == "https://files.test/2"
    assert len(uploads) == 1


@pytest.mark.virtual
async def test_a_cancelled_upload_is_continued_by_another_waiter() -> None:
    """Whoever is cancelled while uploading leaves the others nothing but the work."""
    store = Store()
    store.gate = asyncio.Event()
    uploads = make(store)
    waiting = [asyncio.ensure_future(uploads.upload(png())) for _ in range(12)]
    await asyncio.sleep(1)
    assert len(store.files) == 1

    waiting[0].cancel()
    waiting[1].cancel()
    await asyncio.sleep(1)
    waiting.append(asyncio.ensure_future(uploads.upload(png())))  # joins whoever took over
    await asyncio.sleep(1)
    store.gate.set()
    ended = await asyncio.gather(*waiting, return_exceptions=True)

    assert [type(end) for end in ended[:2]] == [asyncio.CancelledError] * 2
    assert ended[2:] == ["https://files.test/2"] * 11
    assert len(store.files) == 2
    assert len(uploads) == 1


@pytest.mark.virtual
async def test_few_images_are_in_memory_at_once() -> None:
    """A hundred storyboards with ten megabytes each do not need a gigabyte (X6)."""
    store = Store()
    store.gate = asyncio.Event()
    uploads = make(store)
    waiting = [
        asyncio.ensure_future(uploads.upload(png(more=bytes([number])))) for number in range(40)
    ]
    await asyncio.sleep(1)

    assert len(store.files) == 8
    store.gate.set()
    assert len(set(await asyncio.gather(*waiting))) == 40


# --- what is sent ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ['a"\r\nX-Evil: 1.png', "котёнок.png", "../up.png", "a;b.png"])
async def test_file_names_are_random(tmp_path: Path, name: str) -> None:
    """No name from outside gets into a header or a path of the service (U9)."""
    path = tmp_path / name.replace("/", "_")
    path.write_bytes(png())
    store = Store()
    uploads = make(store)

    await uploads.upload(path)
    await uploads.upload(jpeg())

    first, second = (file.name for file in store.files)
    assert first != second
    for sent in (first, second):
        stem, _, suffix = sent.partition(".")
        assert len(stem) == 32
        assert set(stem) <= set("0123456789abcdef")
        assert suffix in {"png", "jpg"}
    assert store.folders == {FOLDER}


@pytest.mark.parametrize("kind", GOOD)
async def test_the_content_type_comes_from_the_content(tmp_path: Path, kind: str) -> None:
    """The declared type comes from the content (U1)."""
    path = tmp_path / "a.html"
    path.write_bytes(GOOD[kind])
    store = Store()

    await make(store).upload(path)

    assert store.files[0].content_type == f"image/{kind}"
    assert store.files[0].content == GOOD[kind]


async def test_metadata_of_an_image_is_kept() -> None:
    """A photo is sent byte for byte, its place included: `Client.upload` says so (U5)."""
    photo = jpeg(before=EXIF)
    store = Store()

    await make(store).upload(photo)

    assert store.files[0].content == photo


@pytest.mark.parametrize(
    "image", ["ftp://cdn.test/a.png", "file:///etc/passwd", "https://user:pw@cdn.test/a.png"]
)
def test_a_url_the_service_cannot_fetch_is_refused_early(image: str) -> None:
    """Before anything is paid (U8)."""
    with pytest.raises(StoryboardError, match="image"):
        Storyboard([{"scene": "A cat.", "duration": 5}], image=image)

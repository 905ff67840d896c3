"""Films on their way to the disk: whole files under their names, or none, whatever the hosts do."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import gzip
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from filehost import (
    PAGE,
    FileHost,
    FileRequest,
    FileResponse,
    FileVersion,
    Responder,
    altered,
    box,
    film,
    respond_with,
    serve_file,
    truncated,
)
from forked_process import ForkedProcess, started
from saved_paths import save
from volume import volume

from apikley_async import Result
from apikley_async._clock import SystemClock
from apikley_async._download.saver import MAX_CONCURRENT_FILES, DownloadSlots, Saver
from apikley_async._network import Network
from apikley_async._urls import AddressPolicy
from apikley_async.errors import (
    ApikleyError,
    AuthenticationError,
    DownloadError,
    NotFoundError,
    ResultExpiredError,
    ServerError,
    UnansweredError,
)

ROOT = Path(__file__).resolve().parents[2]
FILM, OTHER = film(1), film(2, 22_000)
V1, V2 = FileVersion(FILM), FileVersion(OTHER, '"v2"')
SERVE_V1, SERVE_V2 = serve_file(V1), serve_file(V2)
GONE = respond_with(403)


class Reissue:
    """Gives new links in *rounds*: one per call, the last one for all that follow."""

    def __init__(self, *rounds: list[str | ApikleyError]) -> None:
        self.rounds = list(rounds) or [[]]
        self.calls: list[tuple[str, int, str]] = []

    async def __call__(self, task_id: str, number: int, url: str) -> AsyncIterator[str]:
        self.calls.append((task_id, number, url))
        for link in self.rounds.pop(0) if len(self.rounds) > 1 else self.rounds[0]:
            if isinstance(link, ApikleyError):
                raise link
            yield link


@contextlib.asynccontextmanager
async def saving(
    reissue: Callable[[str, int, str], AsyncIterator[str]] | None = None,
    *,
    retry_for: float = 600.0,
) -> AsyncIterator[Saver]:
    saver = Saver(
        reissue=reissue or Reissue(),
        clock=SystemClock(),
        rng=random.Random(7),
        network=Network(),
        retry_for=retry_for,
        policy=AddressPolicy(loopback=True),
    )
    try:
        yield saver
    finally:
        await saver.aclose()


def result(*urls: str, task_id: str = "task_1", **more: Any) -> Result:
    return Result(task_id, urls, **more)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def seconds() -> float:
    return asyncio.get_running_loop().time()


def open_files() -> set[str]:
    """What this process has open, as far as it is a file on a disk."""
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc")
    found = set()
    for entry in os.listdir("/proc/self/fd"):  # noqa: PTH208 - the entries vanish as we look
        with contextlib.suppress(OSError):
            found.add(os.readlink(f"/proc/self/fd/{entry}"))  # noqa: PTH115
    return {path for path in found if ".part" in path or path.endswith(".mp4")}


# --- the usual -------------------------------------------------------------------------------


@pytest.mark.virtual
async def test_every_file_of_a_result_is_saved(tmp_path: Path) -> None:
    """Several URLs make several files, numbered in their order (P8)."""
    async with FileHost() as host, saving() as saver:
        urls = [host.serve("/1", SERVE_V1), host.serve("/2", SERVE_V2)]

        paths = await save(saver, result(*urls), tmp_path / "new" / "films")

    assert [path.name for path in paths] == ["task_1-1.mp4", "task_1-2.mp4"]
    assert [path.read_bytes() for path in paths] == [FILM, OTHER]
    assert names(tmp_path / "new" / "films") == ["task_1-1.mp4", "task_1-2.mp4"]
    assert len(host.requests) == 2


@pytest.mark.virtual
async def test_what_is_no_mp4_gets_its_own_suffix(tmp_path: Path) -> None:
    """Other models make other things; a name never lies about them."""
    picture = b"\x89PNG\r\n\x1a\n" + b"." * 100
    async with FileHost() as host, saving() as saver:
        url = host.serve("/1", serve_file(FileVersion(picture, kind="application/octet-stream")))

        (path,) = await save(saver, result(url), tmp_path)

    assert path == tmp_path / "task_1.png"
    assert path.read_bytes() == picture


@pytest.mark.virtual
async def test_one_bad_file_does_not_cost_the_others(tmp_path: Path) -> None:
    """The error comes after everything that could be saved is saved."""
    async with FileHost() as host, saving() as saver:
        urls = [
            host.serve("/1", respond_with(418)),
            host.serve("/2", SERVE_V1),
            host.serve("/3", GONE),
        ]

        with pytest.raises(DownloadError, match="418") as raised:
            await save(saver, result(*urls), tmp_path)

    assert names(tmp_path) == ["task_1-2.mp4"]
    assert raised.value.task_id == "task_1"


async def test_a_result_without_files_is_an_error() -> None:
    async with saving() as saver:
        with pytest.raises(DownloadError, match="no file"):
            await save(saver, result(), "nowhere")


@pytest.mark.virtual
async def test_saving_twice_changes_nothing(tmp_path: Path) -> None:
    """An existing identical file is a success (D15)."""
    async with FileHost() as host, saving() as saver:
        url = host.serve("/1", SERVE_V1)
        (path,) = await save(saver, result(url), tmp_path)
        before = path.stat()

        assert await save(saver, result(url), tmp_path) == [path]

    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert path.stat().st_ino == before.st_ino


@pytest.mark.virtual
async def test_another_file_of_that_name_stays(tmp_path: Path) -> None:
    """Refused unasked, replaced when asked (D15)."""
    target = tmp_path / "kitten.mp4"
    target.write_text("not a film")
    async with FileHost() as host, saving() as saver:
        url = host.serve("/1", SERVE_V1)

        with pytest.raises(DownloadError, match="allow it to be overwritten"):
            await save(saver, result(url), target)
        assert target.read_text() == "not a film"

        assert await save(saver, result(url), target, overwrite=True) == [target]
    assert target.read_bytes() == FILM
    assert names(tmp_path) == ["kitten.mp4"]


@pytest.mark.virtual
async def test_a_symlinked_target_is_refused_before_any_request(tmp_path: Path) -> None:
    """Nothing is written through a link, and nothing is fetched in vain (D16)."""
    (tmp_path / "kitten.mp4").symlink_to(tmp_path / "elsewhere")
    async with FileHost() as host, saving() as saver:
        url = host.serve("/1", SERVE_V1)

        with pytest.raises(DownloadError, match="symbolic link"):
            await save(saver, result(url), tmp_path / "kitten.mp4")

    assert host.requests == []


@pytest.mark.virtual
@pytest.mark.parametrize(
    "task_id", ["../../up", "/etc/passwd", "nul\0", "CON", "x" * 300, "\u202ex"]
)
async def test_hostile_ids_stay_in_the_folder(tmp_path: Path, task_id: str) -> None:
    """An id is never a path (D16)."""
    folder = tmp_path / "in" / "here"
    async with FileHost() as host, saving() as saver:
        url = host.serve("/1", SERVE_V1)

        (path,) = await save(saver, result(url, task_id=task_id), folder)

    assert path.parent == folder
    assert names(folder) == [path.name]
    assert names(tmp_path) == ["in"]


# --- breaks and resuming ---------------------------------------------------------------------


async def outcome(
    tmp_path: Path, responders: list[Responder], reissue: Reissue | None = None
) -> tuple[bytes, list[FileRequest]]:
    """Save a film that is served by *responders*: what is on the disk, and the requests."""
    async with FileHost() as host, saving(reissue) as saver:
        (path,) = await save(saver, result(host.serve("/1", responders)), tmp_path)
    assert names(tmp_path) == ["task_1.mp4"]
    return path.read_bytes(), host.requests


def ranges(asked: list[FileRequest]) -> list[str]:
    return [request.headers.get("range", "") for request in asked]


@pytest.mark.virtual
@pytest.mark.parametrize("ending", ["close", "reset", "stall"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_an_interrupted_download_is_resumed(
    tmp_path: Path, ending: str, framing: str
) -> None:
    """It is resumed where it ended, with the same ETag (D1, D2)."""
    broken = altered(truncated(SERVE_V1, 7000, ending), framing=framing)

    data, asked = await outcome(tmp_path, [broken, truncated(SERVE_V1, 5000, ending), SERVE_V1])

    assert data == FILM
    assert ranges(asked) == ["", "bytes=7000-", "bytes=12000-"]
    assert [request.headers.get("if-range") for request in asked[1:]] == ['"v1"'] * 2


@pytest.mark.virtual
@pytest.mark.parametrize("etag", ["", 'W/"v1"', '"v 1"'])
async def test_without_a_strong_etag_the_whole_file_is_fetched_again(
    tmp_path: Path, etag: str
) -> None:
    """A weak or missing ETag does not identify a version (D4)."""
    responder = serve_file(FileVersion(FILM, etag))

    data, asked = await outcome(tmp_path, [truncated(responder, 7000), responder])

    assert data == FILM
    assert ranges(asked) == ["", ""]


@pytest.mark.virtual
@pytest.mark.parametrize("sent", [0, 1, 12, 19_999])
async def test_a_file_that_changes_is_never_spliced(tmp_path: Path, sent: int) -> None:
    """The new version is fetched from its start (D4)."""
    data, _ = await outcome(tmp_path, [truncated(SERVE_V1, sent), SERVE_V2])

    assert data == OTHER


@pytest.mark.virtual
async def test_a_file_that_changes_to_one_of_the_same_size(tmp_path: Path) -> None:
    """The size does not identify a version (D4)."""
    twin = FileVersion(film(3), '"v3"')

    data, _ = await outcome(tmp_path, [truncated(SERVE_V1, 7000), serve_file(twin)])

    assert data == twin.data


WRONG_RANGES: list[dict[str, Any]] = [
    {"headers": {"Content-Range": "bytes 0-19999/20000"}},
    {"headers": {"Content-Range": "bytes 7001-19999/20000"}},
    {"headers": {"Content-Range": "bytes 7000-19999/20001"}},
    {"headers": {"Content-Range": ""}},
    {"headers": {"ETag": '"v2"'}},
    {"headers": {"ETag": ""}},
    {"body": FILM[7000:] + b"more", "framing": "chunked"},
    {"status": 416},
    {"status": 416, "headers": {"Content-Range": "bytes */7000"}},
    {"status": 416, "headers": {"Content-Range": "bytes */20000"}},
]


@pytest.mark.virtual
async def test_a_wrong_range_starts_the_file_again(tmp_path: Path) -> None:
    """What does not provably continue the file is not appended (D3, D6)."""
    wrong = []
    for number, changes in enumerate(WRONG_RANGES):
        responders = [truncated(SERVE_V1, 7000), altered(SERVE_V1, **changes), SERVE_V1]
        data, asked = await outcome(tmp_path / str(number), responders)
        if data != FILM or ranges(asked) != ["", "bytes=7000-", ""]:
            wrong.append((changes, len(data), ranges(asked)))

    assert wrong == []


@pytest.mark.virtual
async def test_the_whole_file_instead_of_the_rest(tmp_path: Path) -> None:
    """A host without ranges is served from the start, not appended to (D5)."""
    everything = altered(lambda asked: SERVE_V1(FileRequest("GET", asked.path, {})))

    data, asked = await outcome(tmp_path, [truncated(SERVE_V1, 7000), everything])

    assert data == FILM
    assert ranges(asked) == ["", "bytes=7000-"]


@pytest.mark.virtual
async def test_a_shorter_range_is_resumed_from(tmp_path: Path) -> None:
    """A host may hand out a range in portions."""

    def portion(asked: FileRequest) -> FileResponse:
        at = asked.range_start
        reported = {"Content-Range": f"bytes {at}-{at + 3999}/20000"}
        return SERVE_V1(asked).replace(headers=reported, body=FILM[at : at + 4000])

    data, asked = await outcome(tmp_path, [truncated(SERVE_V1, 8000), portion, portion, portion])

    assert data == FILM
    assert ranges(asked) == ["", "bytes=8000-", "bytes=12000-", "bytes=16000-"]


@pytest.mark.virtual
async def test_nothing_is_left_to_request(tmp_path: Path) -> None:
    """The break came behind the last byte, and 416 says so: that is the whole film (D6)."""
    unended = altered(truncated(SERVE_V1, len(FILM)), framing="chunked")

    data, asked = await outcome(tmp_path, [unended, SERVE_V1])

    assert data == FILM
    assert ranges(asked) == ["", "bytes=20000-"]


@pytest.mark.virtual
@pytest.mark.parametrize("length", [1, 500, 19_999])
async def test_a_content_length_that_is_too_short_is_noticed(tmp_path: Path, length: int) -> None:
    """The host says where the film ends; the film knows better (D3)."""
    data, _ = await outcome(tmp_path, [altered(SERVE_V1, length=length), SERVE_V1])

    assert data == FILM


@pytest.mark.virtual
async def test_a_content_length_that_is_too_long_is_noticed(tmp_path: Path) -> None:
    """What never comes is not waited for in vain (D3)."""
    long = altered(SERVE_V1, length=30_000, ending="close")

    data, _ = await outcome(tmp_path, [long, SERVE_V1])

    assert data == FILM


@pytest.mark.virtual
@pytest.mark.parametrize("etag", ["", '"v1"'])
async def test_a_film_without_a_length_may_mark_its_own_end(tmp_path: Path, etag: str) -> None:
    """Without any framing, the boxes of the film must add up (D2)."""
    open_end = altered(serve_file(FileVersion(FILM, etag)), framing="close")

    data, _ = await outcome(tmp_path, [altered(open_end, sent=15_000), open_end])

    assert data == FILM


@pytest.mark.virtual
async def test_a_file_whose_end_is_not_marked_must_come_twice(tmp_path: Path) -> None:
    """A sound without any framing is believed when a second fetch agrees (D2)."""
    sound = FileVersion(b"ID3" + random.Random(5).randbytes(5000), "", "audio/mpeg")
    open_end = altered(serve_file(sound), framing="close")
    async with FileHost() as host, saving() as saver:
        url = host.serve("/1", [altered(open_end, sent=4000), open_end])

        (path,) = await save(saver, result(url), tmp_path)

    assert path.name == "task_1.mp3"
    assert path.read_bytes() == sound.data
    assert len(host.requests) == 3


@pytest.mark.virtual
@pytest.mark.parametrize("tail", [b"\r\n", b"\0\0\0", b"ID3\x04" + b"\0" * 124])
async def test_a_complete_film_with_trailing_bytes_is_saved(
    tmp_path: Path, tail: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Its own length is satisfied: it is kept as it came, once, and that is said."""
    data, asked = await outcome(tmp_path, [serve_file(FileVersion(FILM + tail))])

    assert data == FILM + tail
    assert len(asked) == 1
    assert "odd bytes behind the film" in caplog.text


@pytest.mark.virtual
@pytest.mark.parametrize("framing", ["chunked", "close"])
async def test_trailing_bytes_without_a_length_must_come_twice(
    tmp_path: Path, framing: str
) -> None:
    """Nothing proves their end but that they come again."""
    responder = altered(serve_file(FileVersion(FILM + b"\r\n", "")), framing=framing)

    data, asked = await outcome(tmp_path, [responder])

    assert data == FILM + b"\r\n"
    assert len(asked) == 2


@pytest.mark.virtual
async def test_a_truncated_box_is_never_a_film(tmp_path: Path) -> None:
    """However often it arrives, and whatever length its host tells."""
    async with FileHost() as host, saving() as saver:
        url = host.serve("/1", serve_file(FileVersion(FILM + box(b"moof", b"m" * 90)[:-1])))

        with pytest.raises(DownloadError, match="not whole"):
            await save(saver, result(url), tmp_path)

    assert [name for name in names(tmp_path) if name.endswith(".mp4")] == []


@pytest.mark.virtual
@pytest.mark.parametrize("kind", ["application/json", "text/html; charset=utf-8", ""])
async def test_the_bytes_decide_before_the_label(tmp_path: Path, kind: str) -> None:
    """A film that is called something else is a film."""
    data, asked = await outcome(tmp_path, [serve_file(FileVersion(FILM, kind=kind))])

    assert data == FILM
    assert len(asked) == 1


@pytest.mark.virtual
async def test_a_page_does_not_overwrite_what_is_there(tmp_path: Path) -> None:
    """A portal's page in the middle of a download is not written over its beginning."""
    page = respond_with(200, PAGE, Content_Type="text/html")
    async with FileHost() as host:
        url = host.serve("/1", [truncated(SERVE_V1, 7000), page, SERVE_V1])
        async with saving(Reissue([url])) as saver:
            (path,) = await save(saver, result(url), tmp_path)

    assert path.read_bytes() == FILM
    assert ranges(host.requests) == ["", "bytes=7000-", "bytes=7000-"]


@pytest.mark.virtual
async def test_a_gzipped_film_is_saved(tmp_path: Path) -> None:
    """Unpacked, and begun anew after a break: nothing proves the same packing."""
    responder = altered(
        serve_file(FileVersion(gzip.compress(FILM))), headers={"Content-Encoding": "gzip"}
    )

    data, asked = await outcome(tmp_path, [truncated(responder, 9000), responder])

    assert data == FILM
    assert ranges(asked) == ["", ""]


@pytest.mark.virtual
async def test_every_retry_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What went wrong, how much is there, and when it goes on; never the link."""
    caplog.set_level("INFO", "apikley_async")

    await outcome(tmp_path, [truncated(SERVE_V1, 7000), respond_with(503), SERVE_V1])

    logged = [record.getMessage() for record in caplog.records if "again in" in record.msg]
    assert len(logged) == 2
    assert "HTTP 503; 7000 bytes are there" in logged[1]
    assert "127.0.0.1" not in caplog.text


@pytest.mark.virtual
@pytest.mark.parametrize("status", [500, 502, 503, 504, 429, 408])
async def test_an_outage_is_retried(tmp_path: Path, status: int) -> None:
    """Five minutes without an answer cost five minutes, not the film."""
    begun = seconds()

    data, asked = await outcome(
        tmp_path, [truncated(SERVE_V1, 7000), *[respond_with(status)] * 12, SERVE_V1]
    )

    assert data == FILM
    assert 200 < seconds() - begun < 400
    assert ranges(asked)[-1] == "bytes=7000-"


@pytest.mark.virtual
async def test_retries_end_and_what_came_is_kept_for_the_next_save(tmp_path: Path) -> None:
    """Ten minutes without progress end it; a later save goes on from there (D1)."""
    async with FileHost() as host, saving() as saver:
        url = host.serve("/1?Signature=canary", [truncated(SERVE_V1, 7000), respond_with(500)])
        begun = seconds()

        with pytest.raises(DownloadError, match="broke off again and again: HTTP 500") as raised:
            await save(saver, result(url), tmp_path)

        assert 600 < seconds() - begun < 700
        assert "canary" not in str(raised.value)
        assert names(tmp_path) == [".task_1-1.apikley.part", ".task_1-1.apikley.part.json"]
        assert open_files() == set()
        host.serve("/1?Signature=canary", SERVE_V1)
        (path,) = await save(saver, result(url), tmp_path)
    assert path.read_bytes() == FILM
    assert names(tmp_path) == ["task_1.mp4"]
    assert host.requests[-1].headers["range"] == "bytes=7000-"


@pytest.mark.virtual
@pytest.mark.parametrize(
    "responder",
    [
        respond_with(500),
        truncated(SERVE_V1, 0),
        truncated(serve_file(FileVersion(FILM, "")), 15_000),  # the same start for ever
        altered(SERVE_V1, length=500),  # never whole
        altered(SERVE_V1, length=0),
        altered(SERVE_V1, headers={"Content-Range": "x"}, status=206),
    ],
)
async def test_retries_always_end(tmp_path: Path, responder: Responder) -> None:
    """A host that never gets anywhere is given up (D6, D12)."""
    async with FileHost() as host, saving() as saver:
        begun = seconds()

        with pytest.raises(DownloadError, match="again and again"):
            await save(saver, result(host.serve("/1", responder)), tmp_path)

        assert 600 < seconds() - begun < 700
        assert len(host.requests) < 50


@pytest.mark.virtual
async def test_a_file_that_changes_every_time_is_given_up(tmp_path: Path) -> None:
    """Changing between any two attempts is no progress (D4)."""
    numbers = iter(range(10_000))

    def another(asked: FileRequest) -> FileResponse:
        number = next(numbers)
        return truncated(serve_file(FileVersion(film(number), f'"{number}"')), 15_000)(asked)

    async with FileHost() as host, saving() as saver:
        with pytest.raises(DownloadError, match="again and again"):
            await save(saver, result(host.serve("/1", another)), tmp_path)

        assert seconds() < 1300
    assert [name for name in names(tmp_path) if name.endswith(".mp4")] == []


@pytest.mark.virtual
async def test_a_trickle_is_not_progress(tmp_path: Path) -> None:
    """Less than 1 KiB a second, over a minute and over ten, is given up (D12)."""
    trickle = altered(SERVE_V1, pace=(10, 1.0))
    async with FileHost() as host, saving() as saver:
        begun = seconds()

        with pytest.raises(DownloadError, match="slower than 1 KiB a second"):
            await save(saver, result(host.serve("/1", trickle)), tmp_path)

        assert 600 < seconds() - begun < 800


@pytest.mark.virtual
async def test_a_slow_download_is_not_interrupted(tmp_path: Path) -> None:
    """Two kilobytes a second are slow, and fast enough (D12)."""
    long = FileVersion(film(4, 600_000))
    async with FileHost() as host, saving() as saver:
        url = host.serve("/1", altered(serve_file(long), pace=(2000, 1.0)))

        (path,) = await save(saver, result(url), tmp_path)

    assert path.read_bytes() == long.data
    assert len(host.requests) == 1
    assert seconds() > 290


@pytest.mark.virtual
async def test_an_endless_body_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than the largest film is refused while it comes (D12)."""
    monkeypatch.setattr("apikley_async._download.transfer.MAX_FILE_BYTES", 100_000)
    endless = FileVersion(film(5, 300_000), "")
    async with FileHost() as host, saving() as saver:
        url = host.serve("/1", altered(serve_file(endless), framing="chunked"))

        with pytest.raises(DownloadError, match="more than 100000 bytes"):
            await save(saver, result(url), tmp_path)

    assert len(host.requests) == 1
    assert names(tmp_path) == []


# --- dead links ------------------------------------------------------------------------------


PAGES = [
    respond_with(400),  # what S3 says when a role's token has expired, and Google of any old link
    respond_with(403),
    respond_with(404),
    respond_with(410),
    respond_with(200, PAGE, Content_Type="text/html"),
    respond_with(200, PAGE, Content_Type="video/mp4"),  # a captive portal that lies
    respond_with(200, b'{"code": 403}', Content_Type="application/json"),
]


@pytest.mark.virtual
@pytest.mark.parametrize("dead", PAGES)
async def test_a_dead_link_is_replaced(tmp_path: Path, dead: Responder) -> None:
    """Expired, refused, or a page in its place: a new link is asked for (D7, D19, P15)."""
    async with FileHost() as host:
        fresh = Reissue([host.serve("/fresh", SERVE_V1)])
        async with saving(fresh) as saver:
            url = host.serve("/old?Signature=x", dead)

            (path,) = await save(saver, result(url), tmp_path)

    assert path.read_bytes() == FILM
    assert fresh.calls == [("task_1", 0, url)]
    assert seconds() == 0  # at once


@pytest.mark.virtual
async def test_an_unreachable_host_is_left_for_another_link(tmp_path: Path) -> None:
    """After three refused connections a new link is asked for; it may lead elsewhere (D7)."""
    nobody = "http://127.0.0.1:1/1.mp4"
    async with FileHost() as host:
        fresh = Reissue([host.serve("/fresh", SERVE_V1)])
        async with saving(fresh) as saver:
            (path,) = await save(saver, result(nobody), tmp_path)

    assert path.read_bytes() == FILM
    assert fresh.calls == [("task_1", 0, nobody)]
    assert seconds() < 10


@pytest.mark.virtual
@pytest.mark.parametrize("fresh", [[], [None], ["the same"]])
async def test_an_unreachable_host_is_no_dead_link(tmp_path: Path, fresh: list[str | None]) -> None:
    """However often: it ends with patience, and the film can still be had (D7, D20)."""
    nobody = "http://127.0.0.1:1/1.mp4"
    links = Reissue([nobody if link else UnansweredError("no answer") for link in fresh])
    async with saving(links) as saver:
        with pytest.raises(DownloadError, match="again and again") as raised:
            await save(saver, result(nobody), tmp_path)

    assert type(raised.value) is DownloadError
    assert 600 < seconds() < 700
    assert len(links.calls) < 20


@pytest.mark.virtual
async def test_a_link_that_dies_during_the_download_is_replaced_and_resumed(tmp_path: Path) -> None:
    """Nothing is fetched twice where the version is the same (D8)."""
    async with FileHost() as host:
        fresh = Reissue([host.serve("/fresh", SERVE_V1)])
        async with saving(fresh) as saver:
            url = host.serve("/old", [truncated(SERVE_V1, 18_000), GONE])

            (path,) = await save(saver, result(url), tmp_path)

    assert path.read_bytes() == FILM
    assert ranges(host.requests_for("/fresh")) == ["bytes=18000-"]


@pytest.mark.virtual
async def test_another_file_behind_a_new_link_is_fetched_from_its_start(tmp_path: Path) -> None:
    """A new link must lead to the same file, or nothing of the old one is used (D4)."""
    async with FileHost() as host:
        fresh = Reissue([host.serve("/fresh", SERVE_V2)])
        async with saving(fresh) as saver:
            url = host.serve("/old", [truncated(SERVE_V1, 18_000), GONE])

            (path,) = await save(saver, result(url), tmp_path)

    assert path.read_bytes() == OTHER


@pytest.mark.virtual
async def test_links_that_keep_dying_do_not_end_a_download_with_progress(
    tmp_path: Path,
) -> None:
    """A slow film may outlive any number of links (D8)."""
    portions = [[truncated(SERVE_V1, 2000), GONE] for _ in range(9)]
    async with FileHost() as host:
        links = [host.serve(f"/{number}", responders) for number, responders in enumerate(portions)]
        last = host.serve("/last", SERVE_V1)
        rounds: list[list[str | ApikleyError]] = [[link] for link in [*links[1:], last]]
        fresh = Reissue(*rounds)
        async with saving(fresh) as saver:
            (path,) = await save(saver, result(links[0]), tmp_path)

    assert path.read_bytes() == FILM
    assert {url for _, _, url in fresh.calls} == {links[0]}  # the result's own, every time


def after(delay: float, early: Responder, late: Responder) -> Responder:
    """*early* for so many seconds from the first request, then *late*."""
    begun: list[float] = []

    def responder(asked: FileRequest) -> FileResponse:
        begun.append(seconds())
        return (early if seconds() - begun[0] < delay else late)(asked)

    return responder


@pytest.mark.virtual
@pytest.mark.parametrize("status", [401, 403, 404, 410])
@pytest.mark.parametrize("delay", [15, 100])
async def test_a_new_film_may_be_refused_for_a_minute(
    tmp_path: Path, status: int, delay: float
) -> None:
    """A host that does not know it yet, or refuses us for a while, has it in the end (D7)."""
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    async with FileHost() as host:
        url = host.serve("/1", after(delay, respond_with(status), SERVE_V1))
        async with saving(Reissue([url])) as saver:
            (path,) = await save(saver, result(url, expires_at=tomorrow), tmp_path)

    assert path.read_bytes() == FILM


@pytest.mark.virtual
@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize(("status", "why"), [(403, "the host refuses us"), (404, "HTTP 404")])
async def test_a_film_within_its_day_is_never_expired_by_its_host(
    tmp_path: Path, status: int, why: str, named: bool
) -> None:
    """Two minutes of refusals end in an error after which saving again may help (D7)."""
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    async with FileHost() as host:
        url = host.serve("/1", [truncated(SERVE_V1, 7000), respond_with(status)])
        async with saving(Reissue([url] if named else [])) as saver:
            with pytest.raises(DownloadError, match=f"not yet: .*{why}") as raised:
                await save(saver, result(url, expires_at=tomorrow), tmp_path)
            assert 120 <= seconds() < 200
            host.serve("/1", SERVE_V1)
            (path,) = await save(saver, result(url, expires_at=tomorrow), tmp_path)

    assert type(raised.value) is DownloadError
    assert raised.value.resumable
    assert path.read_bytes() == FILM
    assert ranges(host.requests)[-1] == "bytes=7000-"


@pytest.mark.virtual
@pytest.mark.parametrize("days", [-1, 1, None])
async def test_a_film_that_the_service_has_lost_is_expired_ten_minutes_later(
    tmp_path: Path, days: int | None
) -> None:
    """It knows neither the link nor the task, and still does not (D7, P15)."""
    lost = Reissue([NotFoundError("no such task", code=404)])
    due = None if days is None else datetime.now(UTC) + timedelta(days=days)
    async with FileHost() as host, saving(lost) as saver:
        url = host.serve("/1?Signature=canary", [truncated(SERVE_V1, 7000), GONE])

        with pytest.raises(ResultExpiredError, match="HTTP 403") as raised:
            await save(saver, result(url, expires_at=due), tmp_path)

    assert raised.value.task_id == "task_1"
    assert "canary" not in str(raised.value)
    assert names(tmp_path) == []
    assert (120 if days == -1 else 600) <= seconds() < 700


@pytest.mark.virtual
async def test_what_the_service_finds_again_is_not_expired(tmp_path: Path) -> None:
    """One answer that it knows the film begins the ten minutes anew (P15)."""
    lost = NotFoundError("no such task", code=404)
    async with FileHost() as host:
        url = host.serve("/1", after(800, GONE, SERVE_V1))
        async with saving(Reissue(*[[lost]] * 15, [url], [lost])) as saver:
            (path,) = await save(saver, result(url), tmp_path)

    assert path.read_bytes() == FILM


@pytest.mark.virtual
async def test_a_film_is_expired_when_its_day_is_over_and_every_link_is_refused(
    tmp_path: Path,
) -> None:
    """For two minutes; within its day the same is no end (D7)."""
    yesterday = datetime.now(UTC) - timedelta(days=1)
    async with FileHost() as host:
        url = host.serve("/1", GONE)
        fresh = Reissue([host.serve("/a", respond_with(410)), host.serve("/b", PAGES[3])])
        async with saving(fresh) as saver:
            with pytest.raises(ResultExpiredError):
                await save(saver, result(url, expires_at=yesterday), tmp_path)

    assert 120 <= seconds() < 200


@pytest.mark.virtual
async def test_films_that_are_paused_hold_no_slot(tmp_path: Path) -> None:
    """Six links that are refused hold no place while they are (D18)."""
    async with FileHost() as host, saving() as saver:
        dead = [host.serve(f"/{n}", respond_with(404)) for n in range(MAX_CONCURRENT_FILES)]
        waiting = [
            asyncio.ensure_future(save(saver, result(url, task_id=f"t{n}"), tmp_path))
            for n, url in enumerate(dead)
        ]
        await asyncio.sleep(3)

        begun = seconds()
        (path,) = await save(saver, result(host.serve("/good", SERVE_V1)), tmp_path)

        assert seconds() - begun < 1
        ended = await asyncio.gather(*waiting, return_exceptions=True)
    assert path.read_bytes() == FILM
    assert {type(end) for end in ended} == {DownloadError}


@pytest.mark.virtual
@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_of_a_host_is_honoured(tmp_path: Path, status: int) -> None:
    """For as long as it says, by every film that is there (Retry-After, as the API's)."""
    busy = respond_with(status, Retry_After="90")
    async with FileHost() as host, saving() as saver:
        one = host.serve("/1", after(80, busy, SERVE_V1))
        asked_at: list[float] = []

        def noted(asked: FileRequest) -> FileResponse:
            asked_at.append(seconds())
            return SERVE_V2(asked)

        two = host.serve("/2", noted)
        first = asyncio.ensure_future(save(saver, result(one, task_id="a"), tmp_path))
        await asyncio.sleep(5)

        await asyncio.gather(save(saver, result(two, task_id="b"), tmp_path), first)

    assert host.requests[0].path == "/1"
    assert len(host.requests) == 3
    assert 90 <= min(asked_at) <= seconds() < 95


@pytest.mark.virtual
async def test_a_retry_after_beyond_retry_for_is_not_waited_for(tmp_path: Path) -> None:
    """It is raised at once, and can be resumed."""
    async with FileHost() as host, saving(retry_for=60) as saver:
        url = host.serve("/1", respond_with(503, Retry_After="90"))

        with pytest.raises(DownloadError, match="HTTP 503"):
            await save(saver, result(url), tmp_path)

    assert seconds() < 5


@pytest.mark.virtual
async def test_too_many_open_files_pass(tmp_path: Path) -> None:
    """Others close theirs; nothing final is concluded from it."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with FileHost() as host, saving() as saver:
        url = host.serve("/1", SERVE_V1)
        await save(saver, result(url, task_id="warm"), tmp_path)  # threads and sockets are there
        hoard = []
        with contextlib.suppress(OSError):
            while True:
                hoard.append(os.dup(0))
                if len(hoard) == 300:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (hoard[-1] + 1, limit[1]))
        try:
            task = asyncio.ensure_future(save(saver, result(url), tmp_path))
            await asyncio.sleep(5)
            assert not task.done()
        finally:
            for handle in hoard:
                os.close(handle)
            resource.setrlimit(resource.RLIMIT_NOFILE, limit)
        (path,) = await task

    assert path.read_bytes() == FILM


@pytest.mark.virtual
@pytest.mark.parametrize("there", [False, True], ids=["a free name", "the same film is there"])
async def test_too_many_open_files_pass_whatever_is_to_be_opened(
    tmp_path: Path, there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The part, its note, the folder at the end: each once, and the film is saved all the same."""
    opening, opened, failing = os.open, 0, 0

    def once(path: Any, *rest: Any, **more: Any) -> int:
        nonlocal opened
        if str(tmp_path) in str(path):
            opened += 1
            if opened == failing:
                raise OSError(errno.EMFILE, "Too many open files")
        return opening(path, *rest, **more)

    monkeypatch.setattr(os, "open", once)
    async with FileHost() as host, saving() as saver:
        url = host.serve("/1", SERVE_V1)
        for failing in range(1, 30):
            opened = 0
            folder = tmp_path / str(failing)
            if there:
                await save(saver, result(url), folder)
                opened = 0
            (path,) = await save(saver, result(url), folder)
            assert path.read_bytes() == FILM
            assert names(folder) == ["task_1.mp4"]
            if opened < failing:
                break
        assert 4 <= failing < 30


@pytest.mark.virtual
@pytest.mark.parametrize("trouble", [ServerError("down", code=500), UnansweredError("silent")])
async def test_an_outage_of_the_service_is_retried(tmp_path: Path, trouble: ApikleyError) -> None:
    """Only a definite no of the service means expired (P15)."""
    async with FileHost() as host:
        good = host.serve("/good", SERVE_V1)
        dead = host.serve("/dead", GONE)
        fresh = Reissue([trouble], [dead, trouble], [trouble], [dead, good])
        async with saving(fresh) as saver:
            (path,) = await save(saver, result(dead), tmp_path)

    assert path.read_bytes() == FILM


@pytest.mark.virtual
async def test_a_refused_key_is_an_authentication_error(tmp_path: Path) -> None:
    """Nobody waits ten minutes for a key that is wrong."""
    refused = AuthenticationError("no", code=401)
    async with FileHost() as host, saving(Reissue([refused])) as saver:
        with pytest.raises(AuthenticationError):
            await save(saver, result(host.serve("/1", GONE)), tmp_path)

    assert names(tmp_path) == []


@pytest.mark.virtual
@pytest.mark.parametrize("years", [-10, 10])
async def test_the_wall_clock_never_decides(tmp_path: Path, years: int) -> None:
    """A link that should be dead is tried; one that should live may be dead (D20)."""
    expires_at = datetime.now(UTC) + timedelta(days=365 * years)
    async with FileHost() as host, saving() as saver:
        url = host.serve("/1", SERVE_V1)

        (path,) = await save(saver, result(url, expires_at=expires_at), tmp_path)

    assert path.read_bytes() == FILM


# --- in the same moment ----------------------------------------------------------------------


@pytest.mark.virtual
@pytest.mark.parametrize("overwrite", [False, True])
async def test_the_same_target_many_times_at_once(tmp_path: Path, overwrite: bool) -> None:
    """All of them succeed, with one whole file (D17)."""
    slow = altered(SERVE_V1, pace=(1000, 0.01))
    async with FileHost() as host, saving() as saver:
        url = host.serve("/1", slow)

        paths = await asyncio.gather(
            *(save(saver, result(url), tmp_path, overwrite=overwrite) for _ in range(9))
        )

    assert paths == [[tmp_path / "task_1.mp4"]] * 9
    assert (tmp_path / "task_1.mp4").read_bytes() == FILM
    assert names(tmp_path) == ["task_1.mp4"]


@pytest.mark.virtual
async def test_two_films_for_one_name(tmp_path: Path) -> None:
    """One gets the name, the other an error; neither gets a mixture (D17)."""
    async with FileHost() as host, saving() as saver:
        one, two = host.serve("/1", SERVE_V1), host.serve("/2", SERVE_V2)

        ended = await asyncio.gather(
            save(saver, result(one, task_id="a"), tmp_path / "x.mp4"),
            save(saver, result(two, task_id="b"), tmp_path / "x.mp4"),
            return_exceptions=True,
        )

    assert sorted(type(end).__name__ for end in ended) == ["DownloadError", "list"]
    assert (tmp_path / "x.mp4").read_bytes() in (FILM, OTHER)
    assert names(tmp_path) == ["x.mp4"]


@pytest.mark.virtual
async def test_few_files_at_once_and_the_earliest_expiry_first(tmp_path: Path) -> None:
    """Ten thousand finished films need six connections, and none expires in the line (D18)."""
    life = random.Random(3).sample(range(40), 40)
    out: list[int] = []
    most = 0

    def serve(number: int) -> Responder:
        def responder(asked: FileRequest) -> FileResponse:
            out.append(life[number])
            return SERVE_V1(asked).replace(pace=(10_000, 1.0))

        return responder

    async with FileHost() as host, saving() as saver:
        now = datetime.now(UTC)
        tasks = []
        for number, hours in enumerate(life):
            url = host.serve(f"/{number}", serve(number))
            due = result(url, task_id=f"t{number}", expires_at=now + timedelta(hours=hours))
            tasks.append(asyncio.ensure_future(save(saver, due, tmp_path)))
        while not all(task.done() for task in tasks):
            most = max(most, len([n for n in names(tmp_path) if n.endswith(".part")]))
            await asyncio.sleep(0.5)
        await asyncio.gather(*tasks)

    assert most == MAX_CONCURRENT_FILES
    assert host.connections <= 2 * MAX_CONCURRENT_FILES
    rest = out[MAX_CONCURRENT_FILES:]  # the first six found free slots
    late = [abs(rest.index(due) - place) for place, due in enumerate(sorted(rest))]
    assert max(late) < MAX_CONCURRENT_FILES  # those who start together arrive in any order


async def check_slots(seed: int) -> None:
    """Cancel users of two slots at random; both must be free in the end."""
    rng = random.Random(seed)
    slots = DownloadSlots(2)
    inside = 0

    async def use() -> None:
        nonlocal inside
        async with slots.slot(rng.random()):
            inside += 1
            assert inside <= 2
            try:
                await asyncio.sleep(rng.choice([0, 0, 1]))
            finally:
                inside -= 1

    tasks = [asyncio.ensure_future(use()) for _ in range(30)]
    for _ in range(25):
        await asyncio.sleep(0)
        rng.choice(tasks).cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

    async with asyncio.timeout(1), slots.slot(0), slots.slot(0):
        assert inside == 0


@pytest.mark.virtual
async def test_no_slot_is_ever_lost() -> None:
    """Whoever is cancelled, while waiting, while using a slot or in between (C4)."""
    for seed in range(20):
        await check_slots(seed)


# --- cancelling ------------------------------------------------------------------------------


@pytest.mark.virtual
@pytest.mark.parametrize("etag", ["", '"v1"'])
async def test_a_cancel_at_any_step_leaves_nothing_in_the_way(tmp_path: Path, etag: str) -> None:
    """No open file, no lock, no film that is not whole; at most a part that is gone on with."""
    responders = [
        truncated(serve_file(FileVersion(FILM, etag)), 9000),
        GONE,
        serve_file(FileVersion(FILM, etag)),
    ]
    cancelled = finished = 0
    async with FileHost() as host:
        again = f"{host.base}/1"
        async with saving(Reissue([again])) as saver:
            for step in (*range(0, 40, volume(2, 1)), *range(40, 400, volume(7, 3))):
                folder = tmp_path / str(step)
                url = host.serve("/1", list(responders))
                task = asyncio.ensure_future(save(saver, result(url), folder))
                for _ in range(step):
                    await asyncio.sleep(0)
                    if task.done():
                        break
                else:
                    task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
                cancelled, finished = (
                    cancelled + task.cancelled(),
                    finished + (not task.cancelled()),
                )
                assert open_files() == set()
                left = names(folder) if folder.exists() else []
                kept = [".task_1-1.apikley.part", ".task_1-1.apikley.part.json"]
                assert left in ([], ["task_1.mp4"], *([kept] if etag else []))
                host.serve("/1", serve_file(FileVersion(FILM, etag)))
                (path,) = await save(saver, result(url), folder)
                assert path.read_bytes() == FILM
                assert names(folder) == ["task_1.mp4"]
                if finished > 2:
                    break
    assert cancelled > volume(15, 30)


# --- the machine -----------------------------------------------------------------------------


async def test_memory_stays_small(tmp_path: Path) -> None:
    """A film is never in memory as a whole."""
    large = FileVersion(film(6, 24 * 1024**2))
    async with FileHost() as host, saving() as saver:
        url = host.serve("/1", serve_file(large))
        gc.collect()
        tracemalloc.start()
        try:
            (path,) = await save(saver, result(url), tmp_path)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

    assert path.stat().st_size == 24 * 1024**2
    assert peak < 6 * 1024**2


PROGRAM = """
import asyncio, random, sys
from apikley_async import Result
from apikley_async._clock import SystemClock
from apikley_async._download.saver import Saver
from apikley_async._network import Network
from apikley_async._urls import AddressPolicy

async def reissue(*_):
    for link in ():
        yield link

async def main(url, target):
    saver = Saver(reissue=reissue, clock=SystemClock(), rng=random.SystemRandom(),
                  network=Network(), policy=AddressPolicy(loopback=True))
    try:
        for file in await saver.save(Result("task_1", (url,)), target):
            print(file.path)
    finally:
        await saver.aclose()

{before}
try:
    asyncio.run(main(*sys.argv[1:]))
except Exception as error:
    sys.exit(f"{{type(error).__name__}}: {{error}}")
"""


@contextlib.contextmanager
def saving_elsewhere(url: str, folder: Path, before: str = "") -> Iterator[ForkedProcess]:
    """Another process that saves a film."""
    with contextlib.closing(started(PROGRAM.format(before=before), url, folder)) as process:
        yield process


async def test_two_processes_save_the_same_film(tmp_path: Path) -> None:
    """Both succeed, with one whole file between them (D17)."""
    slow = altered(serve_file(FileVersion(film(7, 200_000))), pace=(20_000, 0.05))
    async with FileHost() as host:
        url = host.serve("/1", slow)
        with saving_elsewhere(url, tmp_path) as one, saving_elsewhere(url, tmp_path) as other:
            ends = (asyncio.to_thread(each.communicate) for each in (one, other))
            reported = await asyncio.gather(*ends)

    assert [one.returncode, other.returncode] == [0, 0], reported
    assert names(tmp_path) == ["task_1.mp4"]
    assert (tmp_path / "task_1.mp4").read_bytes() == film(7, 200_000)


async def test_what_a_killed_process_leaves_is_resumed(tmp_path: Path) -> None:
    """After a SIGKILL there is no film under its name, and few bytes are fetched again (D14)."""
    large = FileVersion(film(8, 10 * 1024**2))
    async with FileHost() as host:
        url = host.serve(
            "/1", [truncated(serve_file(large), 9 * 1024**2, "stall"), serve_file(large)]
        )
        part = tmp_path / ".task_1-1.apikley.part"
        with saving_elsewhere(url, tmp_path) as process:
            async with asyncio.timeout(20):
                while not part.exists() or part.stat().st_size < 9 * 1024**2:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert names(tmp_path) == [part.name, f"{part.name}.json"]

        async with saving() as saver:
            (path,) = await save(saver, result(url), tmp_path)

    assert path.read_bytes() == large.data
    assert names(tmp_path) == ["task_1.mp4"]
    begins = host.requests[-1].range_start
    assert 8 * 1024**2 <= begins <= 9 * 1024**2


async def test_a_file_size_limit_is_a_full_disk(tmp_path: Path) -> None:
    """A file that may not grow is an error, and leaves nothing half done (D13)."""
    limit = resource.RLIMIT_FSIZE
    before = f"import resource; resource.setrlimit({limit}, (50_000, 50_000))"
    async with FileHost() as host:
        url = host.serve("/1", serve_file(FileVersion(film(9, 200_000))))
        with saving_elsewhere(url, tmp_path, before) as process:
            _, reported = await asyncio.to_thread(process.communicate)

    assert "DownloadError" in reported
    assert "cannot be written" in reported
    assert "make room" in reported
    assert names(tmp_path) == []


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of one megabyte."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if os.geteuid() != 0 or mount is None or umount is None or sys.platform != "linux":
        pytest.skip("needs root to mount a small file system")
    with tempfile.TemporaryDirectory() as place:
        made = subprocess.run(
            [mount, "-t", "tmpfs", "-o", "size=1m", "none", place], check=False, capture_output=True
        )
        if made.returncode:
            pytest.skip("may not mount a small file system")
        try:
            yield Path(place)
        finally:
            subprocess.run([umount, "-l", place], check=True)


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_full_disk(small_disk: Path, framing: str) -> None:
    """A film of known length is refused at once, another when there is no more room (D13)."""
    stranger = small_disk / "stranger"
    stranger.write_bytes(b"." * 300_000)
    large = altered(serve_file(FileVersion(film(9, 1_000_000))), framing=framing)
    async with FileHost() as host, saving() as saver:
        url = host.serve("/1", large)

        with pytest.raises(DownloadError, match=r"cannot be written: .*make room"):
            await save(saver, result(url), small_disk)
        assert names(small_disk) == ["stranger"]

        stranger.unlink()
        (path,) = await save(saver, result(url), small_disk)
        assert path.stat().st_size == 1_000_000


async def test_a_read_only_folder(tmp_path: Path) -> None:
    """It is raised before a byte is fetched (D13)."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    was = os.geteuid()
    try:
        async with FileHost() as host, saving() as saver:
            url = host.serve("/1", SERVE_V1)
            if was == 0:
                os.seteuid(65534)  # root may write anywhere
            try:
                with pytest.raises(DownloadError, match="cannot be written: "):
                    await save(saver, result(url), folder)
            finally:
                os.seteuid(was)
        assert host.requests == []
        assert names(folder) == []
    finally:
        folder.rmdir()


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.slow
async def test_the_file_is_synced_before_its_name_and_the_folder_after_it(
    tmp_path: Path, overwrite: bool
) -> None:
    """File, name, folder: in this order, as the kernel sees it (D14)."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("needs strace")
    trace = tmp_path / "trace"
    calls = "fsync,link,linkat,rename,renameat,renameat2,write"
    command = [strace, "-f", "-y", "-qq", "-s", "300", "-o", str(trace), "-e", f"trace={calls}"]
    text = PROGRAM.format(before="")
    if overwrite:
        text = text.replace(
            "target):\n            print", "target, overwrite=True):\n            print"
        )
    async with FileHost() as host:
        url = host.serve("/1", SERVE_V1)
        process = await asyncio.create_subprocess_exec(
            *(*command, sys.executable, "-c", text, url, str(tmp_path / "films")),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        out, reported = await process.communicate()
    if process.returncode and b"ptrace" in reported:
        pytest.skip("may not trace")
    assert process.returncode == 0, reported

    seen = trace.read_text()
    order = [
        r"fsync\(\d+<[^>]*\.apikley\.part>\) += 0",
        (r"rename\w*" if overwrite else r"link\w*") + r"\([^)]*\.apikley\.part\"[^)]*task_1\.mp4",
        r"fsync\(\d+<[^>]*/films>\) += 0",
        r"write\(1<[^>]*>, \"[^\"]*task_1\.mp4",
    ]
    found = [re.search(call, seen) for call in order]
    assert all(found), seen
    places = [match.start() for match in found if match]
    assert places == sorted(places)
    assert out.decode().strip() == str(tmp_path / "films" / "task_1.mp4")

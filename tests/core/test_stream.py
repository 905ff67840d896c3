"""Streaming films: every byte once and in order, whatever the host does, or an error."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
from collections.abc import AsyncIterator

import pytest
from filehost import (
    PAGE,
    FileHost,
    FileRequest,
    FileVersion,
    Responder,
    altered,
    box,
    film,
    respond_with,
    serve_file,
    truncated,
)
from manual_clock import ManualClock

from apikley_async import Client, Environment, FilmStream, Result, Shot, Storyboard
from apikley_async._clock import SystemClock
from apikley_async._download.saver import Saver
from apikley_async._download.stream import StreamedFile, Streams
from apikley_async._network import Network
from apikley_async._tasks import TaskScope
from apikley_async._urls import AddressPolicy
from apikley_async.errors import (
    ApikleyError,
    ClientClosedError,
    DownloadError,
    NotFoundError,
    ResultExpiredError,
)
from apikley_async.simulator import Constant, Simulator, Terms
from apikley_async.testing import LoopClock

FILM, OTHER = film(1), film(2, 22_000)
SERVE_V1 = serve_file(FileVersion(FILM))
SERVE_V2 = serve_file(FileVersion(OTHER, '"v2"'))
WEAK = serve_file(FileVersion(FILM, 'W/"v1"'))


@contextlib.asynccontextmanager
async def streams(
    *links: str | ApikleyError, retry_for: float = 600.0
) -> AsyncIterator[tuple[Streams, TaskScope]]:
    """Streams, whose dead links are replaced by *links*."""

    async def reissue(*_: object) -> AsyncIterator[str]:
        for link in links:
            if isinstance(link, ApikleyError):
                raise link
            yield link

    clock, tasks = SystemClock(), TaskScope()
    saver = Saver(
        reissue=reissue,
        clock=clock,
        rng=random.Random(7),
        network=Network(),
        retry_for=retry_for,
        policy=AddressPolicy(loopback=True),
    )
    try:
        yield Streams(saver.transfers, reissue, tasks, clock), tasks
    finally:
        tasks.interrupt()
        await tasks.shut(saver.aclose)


async def outcome(
    *responders: Responder, retry_for: float = 600.0
) -> tuple[bytes, DownloadError | None, list[FileRequest]]:
    """What was handed on, the error behind it, and the requests."""
    data, error = b"", None
    async with FileHost() as host, streams(retry_for=retry_for) as (made, _):
        result = Result("task_1", (host.serve("/1", responders),))
        try:
            async with made.stream(result, 0) as chunks:
                async for chunk in chunks:
                    data += chunk
        except DownloadError as raised:
            error = raised
    assert error is None or error.task_id == "task_1"
    return data, error, host.requests


def ranges(requests: list[FileRequest]) -> list[str]:
    return [request.headers.get("range", "") for request in requests]


# --- the usual ---------------------------------------------------------------------------------


@pytest.mark.virtual
async def test_size_and_type_are_known_before_the_first_chunk() -> None:
    async with FileHost() as host, streams() as (made, _):
        result = Result("task_1", (host.serve("/1", SERVE_V1), host.serve("/2", SERVE_V2)))
        async with made.stream(result, 1) as chunks:
            assert (chunks.size, chunks.content_type, chunks.suffix) == (
                22_000,
                "video/mp4",
                ".mp4",
            )
            assert repr(chunks) == "<FilmStream video/mp4, 22000 bytes>"
            assert b"".join([chunk async for chunk in chunks]) == OTHER
            assert [chunk async for chunk in chunks] == []  # the end stays the end


@pytest.mark.virtual
async def test_the_bytes_decide_what_it_is() -> None:
    """No label is believed, and a length is told only where the host has told it."""
    png = b"\x89PNG\r\n\x1a\n" + b"p" * 100
    served = altered(serve_file(FileVersion(png, kind="video/mp4")), framing="chunked")
    async with (
        FileHost() as host,
        streams() as (made, _),
        made.stream(Result("t", (host.serve("/1", served),)), 0) as chunks,
    ):
        assert (chunks.size, chunks.content_type) == (None, "image/png")
        assert repr(chunks) == "<FilmStream image/png, unknown size>"
        assert b"".join([chunk async for chunk in chunks]) == png


@pytest.mark.virtual
async def test_there_is_no_such_file() -> None:
    async with streams() as (made, _):
        with pytest.raises(DownloadError, match="no file to stream"):
            async with made.stream(Result("t", ()), 0):
                pass
        for index in (1, -1):
            with pytest.raises(ValueError, match=f"index: 0 to 0, not {index}"):
                async with made.stream(Result("t", ("https://x.example/1",)), index):
                    pass


@pytest.mark.virtual
@pytest.mark.parametrize("url", ["https://10.0.0.1/film", "http://film.example/1", "ftp://x/1"])
async def test_addresses_are_checked_as_for_save(url: str) -> None:
    async with streams() as (made, _):
        with pytest.raises(DownloadError):
            async with made.stream(Result("t", (url,)), 0):
                pass


# --- breaks ------------------------------------------------------------------------------------


@pytest.mark.virtual
@pytest.mark.parametrize("ending", ["close", "reset", "stall"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_break_is_resumed(ending: str, framing: str) -> None:
    broken = altered(truncated(SERVE_V1, 7000, ending), framing=framing)

    data, error, requests = await outcome(broken, truncated(SERVE_V1, 5000, ending), SERVE_V1)

    assert (data, error) == (FILM, None)
    assert ranges(requests) == ["", "bytes=7000-", "bytes=12000-"]
    assert [request.headers.get("if-range") for request in requests[1:]] == ['"v1"'] * 2


@pytest.mark.virtual
@pytest.mark.parametrize("cuts", [(7000,), (7000, 3000), (7000, 7000, 9000), (1, 16, 19_999)])
async def test_without_a_strong_etag_what_was_handed_on_is_compared(cuts: tuple[int, ...]) -> None:
    """It comes once more, and is handed on once (D4)."""
    data, error, requests = await outcome(*(truncated(WEAK, cut) for cut in cuts), WEAK)

    assert (data, error) == (FILM, None)
    assert ranges(requests) == [""] * (1 + len(cuts))


@pytest.mark.virtual
async def test_another_film_never_continues_this_one() -> None:
    """What was handed on stays the beginning of one film; then it is an error."""
    for twin in (SERVE_V2, serve_file(FileVersion(film(3), '"v3"'))):
        data, error, requests = await outcome(truncated(SERVE_V1, 7000), twin)

        assert data == FILM[:7000]
        assert "another film now" in str(error)
        assert len(requests) == 3, "one answer is no evidence"


@pytest.mark.virtual
async def test_the_film_may_come_back_after_another_one() -> None:
    data, error, requests = await outcome(truncated(SERVE_V1, 7000), SERVE_V2, SERVE_V1)

    assert (data, error) == (FILM, None)
    assert ranges(requests) == ["", "bytes=7000-", ""]


@pytest.mark.virtual
async def test_the_same_bytes_under_a_new_etag_go_on() -> None:
    """Equal content is enough; from then on the new version is resumed."""
    renamed = serve_file(FileVersion(FILM, '"v9"'))

    data, error, requests = await outcome(
        truncated(SERVE_V1, 7000), truncated(renamed, 9000), renamed
    )

    assert (data, error) == (FILM, None)
    assert ranges(requests) == ["", "bytes=7000-", "bytes=9000-"]


@pytest.mark.virtual
async def test_a_version_in_doubt_is_not_resumed() -> None:
    """A break while it is compared: nothing shows yet that a range would continue ours."""
    renamed = serve_file(FileVersion(FILM, '"v9"'))

    data, error, requests = await outcome(
        truncated(SERVE_V1, 7000), truncated(renamed, 3000), renamed
    )

    assert (data, error) == (FILM, None)
    assert ranges(requests) == ["", "bytes=7000-", ""]


@pytest.mark.virtual
async def test_a_film_that_never_comes_is_given_up() -> None:
    """What was handed on is void then: the error comes behind it (D1)."""
    data, error, _ = await outcome(truncated(SERVE_V1, 7000), respond_with(503), retry_for=100)

    assert data == FILM[:7000]
    assert "127.0.0.1 broke off again and again: HTTP 503" in str(error)


# --- the end -----------------------------------------------------------------------------------


@pytest.mark.virtual
async def test_a_film_that_is_not_whole_is_an_error_after_its_last_byte() -> None:
    """The host swears to its length, and a box is cut: never a film, however often it comes."""
    cut = serve_file(FileVersion(FILM[:-1]))

    data, error, requests = await outcome(cut, retry_for=60)

    assert data == FILM[:-1]
    assert "the film was not whole" in str(error)
    assert len(requests) > 2


@pytest.mark.virtual
async def test_an_end_that_nothing_marks_must_come_twice() -> None:
    """A webm says nothing about its end, and the connection closes: it is compared once more."""
    webm = altered(serve_file(FileVersion(b"\x1aE\xdf\xa3" + b"w" * 9000)), framing="close")

    data, error, requests = await outcome(webm)

    assert (len(data), error, len(requests)) == (9004, None, 2)


@pytest.mark.virtual
async def test_a_cut_that_looks_like_an_end_is_continued() -> None:
    """Without a length, a break looks like the end; the second answer brings the rest."""
    open_end = altered(WEAK, framing="close")

    data, error, _ = await outcome(altered(open_end, body=FILM[:7000]), open_end)

    assert (data, error) == (FILM, None)


@pytest.mark.virtual
async def test_an_answer_that_ends_before_what_came_is_no_end() -> None:
    webm = b"\x1aE\xdf\xa3" + b"w" * 9000
    served = altered(serve_file(FileVersion(webm)), framing="close")

    data, error, requests = await outcome(served, altered(served, body=webm[:500]), served)

    assert (data, error, len(requests)) == (webm, None, 3)


# --- links -------------------------------------------------------------------------------------


@pytest.mark.virtual
@pytest.mark.parametrize("dead", [respond_with(403), respond_with(404), respond_with(200, PAGE)])
async def test_a_link_that_dies_is_replaced(dead: Responder) -> None:
    """At the beginning, and in the middle."""
    async with FileHost() as host:
        fresh = host.serve("/fresh", SERVE_V1)
        url = host.serve("/1", [truncated(SERVE_V1, 7000), dead])
        expired = host.serve("/2", dead)
        for link in (url, expired):
            async with (
                streams(fresh) as (made, _),
                made.stream(Result("t", (link,)), 0) as chunks,
            ):
                assert b"".join([chunk async for chunk in chunks]) == FILM


@pytest.mark.virtual
async def test_a_film_that_is_gone_is_an_error_before_the_first_chunk() -> None:
    async with FileHost() as host, streams(NotFoundError("unknown", code=404)) as (made, _):
        with pytest.raises(ResultExpiredError):
            async with made.stream(Result("t", (host.serve("/1", respond_with(404)),)), 0):
                raise AssertionError("nothing came")


# --- the reader --------------------------------------------------------------------------------


@pytest.mark.virtual
async def test_a_slow_reader_slows_the_host_and_is_no_outage() -> None:
    """What is not asked for is not fetched, apart from the buffers; hours may pass."""
    big = film(5, 6_000_000)
    async with FileHost() as host, streams(retry_for=60) as (made, _):
        url = host.serve("/1", serve_file(FileVersion(big)))
        async with made.stream(Result("t", (url,)), 0) as chunks:
            digest, largest = hashlib.sha256(), 0
            async for chunk in chunks:
                digest.update(chunk)
                largest = max(largest, len(chunk))
                await asyncio.sleep(600)
    assert digest.digest() == hashlib.sha256(big).digest()
    assert largest <= 1024 * 1024


@pytest.mark.virtual
async def test_a_reader_that_lets_it_wait_is_not_a_slow_host() -> None:
    """The seconds in which nobody reads are not counted against the host."""
    trickle = altered(SERVE_V1, pace=(2_000, 1.0))
    async with FileHost() as host, streams(retry_for=30) as (made, _):
        url = host.serve("/1", [truncated(trickle, 4000), trickle])
        async with made.stream(Result("t", (url,)), 0) as chunks:
            data = b""
            async for chunk in chunks:
                data += chunk
                await asyncio.sleep(100)
    assert data == FILM


async def test_no_more_than_one_piece_is_held() -> None:
    """A piece is taken before the next one is accepted."""
    file = StreamedFile("t[0]", ManualClock())
    begun = asyncio.ensure_future(file.begin(len(FILM), None, FILM[:100], anew=True))
    await asyncio.sleep(0)
    assert not begun.done()
    assert await file.next_piece() == FILM[:100]
    await begun
    written = asyncio.ensure_future(file.write(FILM[100:]))
    waiting = asyncio.ensure_future(file.next_piece())
    assert await waiting == FILM[100:]
    await written


@pytest.mark.virtual
async def test_a_wait_that_is_cancelled_loses_nothing() -> None:
    """A reader with a time-out for each chunk never takes a break for the end."""
    slow = altered(SERVE_V1, pace=(4_000, 10.0))
    async with (
        FileHost() as host,
        streams() as (made, _),
        made.stream(Result("t", (host.serve("/1", slow),)), 0) as chunks,
    ):
        data, timeouts = b"", 0
        while len(data) < len(FILM):
            try:
                async with asyncio.timeout(3):
                    data += await anext(chunks)
            except TimeoutError:
                timeouts += 1
    assert data == FILM
    assert timeouts > 3


@pytest.mark.virtual
async def test_leaving_early_ends_the_transfer() -> None:
    async with FileHost() as host, streams() as (made, _):
        url = host.serve("/1", altered(SERVE_V1, pace=(4_000, 10.0)))
        async with made.stream(Result("t", (url,)), 0) as chunks:
            assert await anext(chunks)
        with pytest.raises(ClientClosedError, match="The stream is closed"):
            await anext(chunks)
        tasks = {task.get_coro().__name__ for task in asyncio.all_tasks()}  # type: ignore[union-attr]
    assert "_transfer" not in tasks


@pytest.mark.virtual
async def test_closing_the_client_ends_a_stream() -> None:
    async with FileHost() as host, streams() as (made, tasks):
        url = host.serve("/1", altered(SERVE_V1, pace=(4_000, 10.0)))
        async with made.stream(Result("t", (url,)), 0) as chunks:
            assert await anext(chunks)
            tasks.interrupt()
            with pytest.raises(ClientClosedError, match="closed meanwhile"):
                async for _ in chunks:
                    pass


@pytest.mark.virtual
async def test_many_streams_at_once_do_not_wait_for_each_other() -> None:
    """Whoever joins films opens all of them: none may wait for a slot that another holds."""
    async with FileHost() as host, streams() as (made, _), contextlib.AsyncExitStack() as stack:
        opened: list[FilmStream] = []
        for number in range(30):
            url = host.serve(f"/{number}", serve_file(FileVersion(film(number))))
            context = made.stream(Result("t", (url,)), 0)
            opened.append(await stack.enter_async_context(context))
        for number, chunks in enumerate(opened):
            assert b"".join([chunk async for chunk in chunks]) == film(number)


@pytest.mark.virtual
async def test_odd_bytes_behind_a_film_are_handed_on_once_they_are_certain() -> None:
    odd = FILM + b"\r\n"

    data, error, requests = await outcome(serve_file(FileVersion(odd)))

    assert (data, error, len(requests)) == (odd, None, 1)


@pytest.mark.virtual
async def test_boxes_are_judged_wherever_the_bytes_were_cut() -> None:
    """Breaks and comparisons in between change nothing about the judgement at the end."""
    many = box(b"ftyp", b"isom\0\0\0\0isom") + box(b"moov", b"m" * 50)
    many += b"".join(box(b"mdat", bytes([n]) * n) for n in range(1, 80))
    served = serve_file(FileVersion(many, ""))

    data, error, _ = await outcome(*(truncated(served, cut) for cut in (17, 40, 90, 300)), served)

    assert (data, error) == (many, None)


# --- with a client -----------------------------------------------------------------------------


@pytest.mark.virtual
async def test_a_client_streams_what_it_made() -> None:
    rng = random.Random(1)
    simulator = Simulator(Terms(duration=Constant(30)), clock=LoopClock(), rng=rng)
    async with (
        simulator,
        Client(
            simulator.api_key,
            base_url=simulator.base_url,
            environment=Environment(clock=LoopClock(), rng=random.Random(2)),
        ) as client,
    ):
        board = Storyboard([Shot("Fog.", 10)], duration=10)
        result = await client.generate(board)
        async with client.stream(result) as chunks:
            data = b"".join([chunk async for chunk in chunks])
        assert data == await simulator.film(result.task_id)
        assert chunks.size == len(data)
        assert not simulator.ledger.leaks

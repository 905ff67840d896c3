"""The file host, over a socket: what is served, and what can go wrong."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest

from apikley_async.simulator import (
    Constant,
    Fault,
    FixedRenderer,
    ResponseDelivery,
    Simulator,
    Terms,
)

BODY = {
    "model": "sora-2-pro-storyboard",
    "input": {"shots": [{"Scene": "Rain.", "duration": 5}]},
}


class Downloader:
    """Has the URL of a film, and no key."""

    def __init__(self, simulator, session):
        self.simulator = simulator
        self.session = session

    async def fetch(self, url, **headers):
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.get(url, headers=names, allow_redirects=False) as answer:
            return answer.status, answer.headers, await answer.read()


@pytest.fixture
async def film():
    """A downloader, the URL of a film and its bytes."""
    terms = Terms(duration=Constant(0))
    async with (
        Simulator(terms, renderer=FixedRenderer()) as simulator,
        aiohttp.ClientSession() as session,
    ):
        task = simulator.service.create(json.dumps(BODY).encode())
        (url,) = simulator.result_urls(task.task_id)
        yield Downloader(simulator, session), url, await simulator.film(task.task_id)


async def test_a_download_can_be_resumed(film):
    """With the right validator a part, with a wrong one the whole, after the end a 416."""
    downloader, url, data = film
    _, whole, _ = await downloader.fetch(url)

    status, headers, rest = await downloader.fetch(url, Range="bytes=20-", If_Range=whole["ETag"])
    assert (status, rest) == (206, data[20:])
    assert headers["Content-Range"] == f"bytes 20-{len(data) - 1}/{len(data)}"
    assert (await downloader.fetch(url, Range="bytes=20-", If_Range='"other"'))[0] == 200
    assert (await downloader.fetch(url, Range=f"bytes={len(data)}-"))[0] == 416


async def test_a_head_has_the_length_and_no_body(film):
    downloader, url, data = film

    async with downloader.session.head(url) as answer:
        assert (answer.status, answer.content_length) == (200, len(data))
        assert await answer.read() == b""


async def test_a_changed_file_has_another_validator(film):
    """From then on; its size stays the same."""
    downloader, url, data = film
    _, before, _ = await downloader.fetch(url)
    downloader.simulator.script("file", [Fault.CHANGED])

    status, after, changed = await downloader.fetch(url, Range="bytes=20-", If_Range=before["ETag"])

    assert status == 200
    assert after["ETag"] != before["ETag"]
    assert (len(changed), changed == data) == (len(data), False)
    assert (await downloader.fetch(url))[1]["ETag"] == after["ETag"]


@pytest.mark.parametrize("fault", [Fault.CUT, Fault.CUT_CHUNKED, Fault.RESET, Fault.CLOSE], ids=str)
async def test_a_download_can_break(film, fault):
    """In a way that a client notices, with or without an announced length."""
    downloader, url, data = film
    lost = fault.delivery in {ResponseDelivery.RESET, ResponseDelivery.CLOSE}
    # Twice, because aiohttp repeats a GET once when its connection was lost.
    downloader.simulator.script("file", [fault] * (1 + lost))

    with pytest.raises(aiohttp.ClientError):
        await downloader.fetch(url)
    assert (await downloader.fetch(url))[2] == data


@pytest.mark.parametrize("fault", [Fault.CUT_UNFRAMED, Fault.SHORT], ids=str)
async def test_a_download_can_be_short_without_an_error(film, fault):
    """HTTP does not show that half of the film is missing."""
    downloader, url, data = film
    downloader.simulator.script("file", [fault])

    assert (await downloader.fetch(url))[2] == data[: len(data) // 2]


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (Fault.EXPIRED_403, 403),
        (Fault.EXPIRED_404, 404),
        (Fault.EXPIRED_410, 410),
        (Fault.HTML_200, 200),
        (Fault.redirect(302, "http://127.0.0.1:9/"), 302),
        (Fault.HTTP_503, 503),
    ],
    ids=str,
)
async def test_a_page_can_be_served_instead_of_a_film(film, fault, status):
    """Expired, redirected, unavailable, or a page with status 200."""
    downloader, url, _ = film
    downloader.simulator.script("file", [fault])

    got, headers, page = await downloader.fetch(url)

    assert (got, headers["Content-Type"].split(";")[0]) == (status, "text/html")
    assert page.startswith(b"<html>")


async def test_ranges_can_be_ignored_or_wrong(film):
    """A 200 to a range request, and a 206 that begins at another offset."""
    downloader, url, _ = film
    downloader.simulator.script("file", [Fault.NO_RANGES, Fault.WRONG_RANGE])

    assert (await downloader.fetch(url, Range="bytes=20-"))[0] == 200
    status, headers, _ = await downloader.fetch(url, Range="bytes=20-")
    assert (status, headers["Content-Range"][:8]) == (206, "bytes 19")


async def test_a_file_can_be_endless(film):
    """It goes on until the client disconnects."""
    downloader, url, _ = film
    downloader.simulator.script("file", [Fault.DRIBBLE])
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await downloader.fetch(url)
    downloader.simulator.script("file", [Fault.ENDLESS])

    read = 0
    async with downloader.session.get(url) as answer:
        async for chunk in answer.content.iter_chunked(65_536):
            read += len(chunk)
            if read > 1_000_000:
                break
    assert read > 1_000_000


async def test_the_ledger_notes_requests_that_leak_the_key(film):
    """In a header or in the URL: the file host must never see it."""
    downloader, url, _ = film
    ledger = downloader.simulator.ledger
    assert downloader.simulator.files_url != downloader.simulator.base_url

    await downloader.fetch(url)
    assert not ledger.leaks
    await downloader.fetch(url, Authorization="Bearer something")
    await downloader.fetch(f"{url}&key={downloader.simulator.api_key}")

    assert [(f.authorized, f.leaked) for f in ledger.leaks] == [(True, False), (False, True)]
    assert len(ledger.files) == 3


async def test_a_task_can_yield_several_files():
    """Each has a URL and bytes of its own."""
    terms = Terms(duration=Constant(0), results=2)
    async with (
        Simulator(terms, renderer=FixedRenderer()) as simulator,
        aiohttp.ClientSession() as session,
    ):
        task_id = simulator.service.create(json.dumps(BODY).encode()).task_id
        downloader = Downloader(simulator, session)

        films = [(await downloader.fetch(url))[2] for url in simulator.result_urls(task_id)]

        assert films == [await simulator.film(task_id, n) for n in (1, 2)]
        assert films[0] != films[1]


async def test_a_whole_film_can_be_served_in_odd_ways(film):
    """With bytes after its end, with another content type, or as gzip; a part never is."""
    downloader, url, data = film

    downloader.simulator.script("file", [Fault.ODD_TAIL, Fault.MISLABELLED, Fault.PACKED])
    _, headers, odd = await downloader.fetch(url)
    assert odd == data + b"\r\n"
    assert int(headers["Content-Length"]) == len(odd)
    _, headers, whole = await downloader.fetch(url)
    assert (headers["Content-Type"], whole) == ("application/json", data)
    _, headers, unpacked = await downloader.fetch(url)
    assert headers["Content-Encoding"] == "gzip"
    assert "ETag" not in headers
    assert unpacked == data
    for fault in (Fault.ODD_TAIL, Fault.PACKED):
        downloader.simulator.script("file", [fault])
        assert (await downloader.fetch(url, Range="bytes=20-"))[2] == data[20:]


async def test_new_urls_can_fail_and_user_agents_be_refused():
    """A film's URLs work after a delay, and some User-Agents are never served."""
    terms = Terms(duration=Constant(0), files_after=60, refused_agents=("Python/",))
    named = aiohttp.ClientSession(headers={"User-Agent": "downloader/1"})
    async with (
        Simulator(terms, renderer=FixedRenderer()) as simulator,
        aiohttp.ClientSession() as unnamed,
        named,
    ):
        task = simulator.service.create(json.dumps(BODY).encode())
        (url,) = simulator.result_urls(task.task_id)
        downloader = Downloader(simulator, named)

        assert (await downloader.fetch(url))[0] == 404
        simulator.service.clock.skip(61)
        assert (await downloader.fetch(url))[0] == 200
        assert (await Downloader(simulator, unnamed).fetch(url))[0] == 403

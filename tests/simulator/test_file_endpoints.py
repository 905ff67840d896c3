"""The simulated hosts of files, over a socket: what is served, and how it goes wrong."""

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


class Visitor:
    """Somebody who has the address of a film, and no key."""

    def __init__(self, simulator, session):
        self.simulator = simulator
        self.session = session

    async def fetch(self, url, **headers):
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.get(url, headers=names, allow_redirects=False) as answer:
            return answer.status, answer.headers, await answer.read()


@pytest.fixture
async def film():
    """A visitor, the address of a film and its bytes."""
    terms = Terms(duration=Constant(0))
    async with (
        Simulator(terms, renderer=FixedRenderer()) as simulator,
        aiohttp.ClientSession() as session,
    ):
        task = simulator.service.create(json.dumps(BODY).encode())
        (url,) = simulator.result_urls(task.task_id)
        yield Visitor(simulator, session), url, await simulator.film(task.task_id)


async def test_a_download_can_be_continued(film):
    """With the right validator a part, with a wrong one the whole, behind the end nothing."""
    visitor, url, data = film
    _, whole, _ = await visitor.fetch(url)

    status, headers, rest = await visitor.fetch(url, Range="bytes=20-", If_Range=whole["ETag"])
    assert (status, rest) == (206, data[20:])
    assert headers["Content-Range"] == f"bytes 20-{len(data) - 1}/{len(data)}"
    assert (await visitor.fetch(url, Range="bytes=20-", If_Range='"other"'))[0] == 200
    assert (await visitor.fetch(url, Range=f"bytes={len(data)}-"))[0] == 416


async def test_a_head_tells_the_length_without_the_bytes(film):
    """As HTTP wants it."""
    visitor, url, data = film

    async with visitor.session.head(url) as answer:
        assert (answer.status, answer.content_length) == (200, len(data))
        assert await answer.read() == b""


async def test_a_changed_file_has_another_validator(film):
    """From then on, and as many bytes as before."""
    visitor, url, data = film
    _, before, _ = await visitor.fetch(url)
    visitor.simulator.script("file", [Fault.CHANGED])

    status, after, changed = await visitor.fetch(url, Range="bytes=20-", If_Range=before["ETag"])

    assert status == 200
    assert after["ETag"] != before["ETag"]
    assert (len(changed), changed == data) == (len(data), False)
    assert (await visitor.fetch(url))[1]["ETag"] == after["ETag"]


@pytest.mark.parametrize("fault", [Fault.CUT, Fault.CUT_CHUNKED, Fault.RESET, Fault.CLOSE], ids=str)
async def test_a_download_can_break_off(film, fault):
    """In a way that a client notices, with or without an announced length."""
    visitor, url, data = film
    lost = fault.delivery in {ResponseDelivery.RESET, ResponseDelivery.CLOSE}
    # Twice, since aiohttp by itself repeats a GET whose connection was lost, once.
    visitor.simulator.script("file", [fault] * (1 + lost))

    with pytest.raises(aiohttp.ClientError):
        await visitor.fetch(url)
    assert (await visitor.fetch(url))[2] == data


@pytest.mark.parametrize("fault", [Fault.CUT_UNFRAMED, Fault.SHORT], ids=str)
async def test_a_download_can_be_short_without_a_sign(film, fault):
    """Nothing in HTTP tells that half of the film is missing."""
    visitor, url, data = film
    visitor.simulator.script("file", [fault])

    assert (await visitor.fetch(url))[2] == data[: len(data) // 2]


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
async def test_a_page_can_come_instead_of_a_film(film, fault, status):
    """Expired, moved, out of order, or simply a page that says 200."""
    visitor, url, _ = film
    visitor.simulator.script("file", [fault])

    got, headers, page = await visitor.fetch(url)

    assert (got, headers["Content-Type"].split(";")[0]) == (status, "text/html")
    assert page.startswith(b"<html>")


async def test_ranges_can_be_refused_or_mislabelled(film):
    """A 200 to a range, and a 206 that begins elsewhere."""
    visitor, url, _ = film
    visitor.simulator.script("file", [Fault.NO_RANGES, Fault.WRONG_RANGE])

    assert (await visitor.fetch(url, Range="bytes=20-"))[0] == 200
    status, headers, _ = await visitor.fetch(url, Range="bytes=20-")
    assert (status, headers["Content-Range"][:8]) == (206, "bytes 19")


async def test_a_file_can_be_endless(film):
    """It goes on until somebody has had enough."""
    visitor, url, _ = film
    visitor.simulator.script("file", [Fault.DRIBBLE])
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await visitor.fetch(url)
    visitor.simulator.script("file", [Fault.ENDLESS])

    read = 0
    async with visitor.session.get(url) as answer:
        async for chunk in answer.content.iter_chunked(65_536):
            read += len(chunk)
            if read > 1_000_000:
                break
    assert read > 1_000_000


async def test_the_ledger_tells_who_shows_the_key_to_strangers(film):
    """In a header or in the address, on the origin of the files it has no business."""
    visitor, url, _ = film
    ledger = visitor.simulator.ledger
    assert visitor.simulator.files_url != visitor.simulator.base_url

    await visitor.fetch(url)
    assert not ledger.leaks
    await visitor.fetch(url, Authorization="Bearer something")
    await visitor.fetch(f"{url}&key={visitor.simulator.api_key}")

    assert [(f.authorized, f.leaked) for f in ledger.leaks] == [(True, False), (False, True)]
    assert len(ledger.files) == 3


async def test_more_than_one_file_can_come_of_a_task():
    """Each has an address and bytes of its own."""
    terms = Terms(duration=Constant(0), results=2)
    async with (
        Simulator(terms, renderer=FixedRenderer()) as simulator,
        aiohttp.ClientSession() as session,
    ):
        task_id = simulator.service.create(json.dumps(BODY).encode()).task_id
        visitor = Visitor(simulator, session)

        films = [(await visitor.fetch(url))[2] for url in simulator.result_urls(task_id)]

        assert films == [await simulator.film(task_id, n) for n in (1, 2)]
        assert films[0] != films[1]


async def test_a_whole_film_may_come_in_an_odd_way(film):
    """With bytes behind its end, under another name, or packed; a part of it never does."""
    visitor, url, data = film

    visitor.simulator.script("file", [Fault.ODD_TAIL, Fault.MISLABELLED, Fault.PACKED])
    _, headers, odd = await visitor.fetch(url)
    assert odd == data + b"\r\n"
    assert int(headers["Content-Length"]) == len(odd)
    _, headers, whole = await visitor.fetch(url)
    assert (headers["Content-Type"], whole) == ("application/json", data)
    _, headers, unpacked = await visitor.fetch(url)
    assert headers["Content-Encoding"] == "gzip"
    assert "ETag" not in headers
    assert unpacked == data
    for fault in (Fault.ODD_TAIL, Fault.PACKED):
        visitor.simulator.script("file", [fault])
        assert (await visitor.fetch(url, Range="bytes=20-"))[2] == data[20:]


async def test_a_new_film_may_be_late_and_a_visitor_refused():
    """Its addresses work after a while; some names of visitors are never served."""
    terms = Terms(duration=Constant(0), files_after=60, refused_agents=("Python/",))
    named = aiohttp.ClientSession(headers={"User-Agent": "visitor/1"})
    async with (
        Simulator(terms, renderer=FixedRenderer()) as simulator,
        aiohttp.ClientSession() as unnamed,
        named,
    ):
        task = simulator.service.create(json.dumps(BODY).encode())
        (url,) = simulator.result_urls(task.task_id)
        visitor = Visitor(simulator, named)

        assert (await visitor.fetch(url))[0] == 404
        simulator.service.clock.skip(61)
        assert (await visitor.fetch(url))[0] == 200
        assert (await Visitor(simulator, unnamed).fetch(url))[0] == 403

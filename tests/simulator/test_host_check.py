"""Who is let in to a simulator, where it asks, and what a browser may make of what it serves."""

from __future__ import annotations

import asyncio
import json
import logging

import aiohttp
import pytest

from apikley_async.simulator import Constant, Fault, FixedRenderer, Simulator, Terms

pytestmark = pytest.mark.virtual

BODY = {
    "model": "sora-2-pro-storyboard",
    "input": {"n_frames": "10", "shots": [{"Scene": "Rain.", "duration": 5}]},
}
STRANGE = [
    "evil.example",
    "evil.example:80",
    "10.0.0.1",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "0.0.0.0",
    "[::1",
    "localhost:x",
    "",
]
OURS = ["localhost", "LOCALHOST:1", "127.0.0.1", "127.9.9.9:80", "[::1]", "[::1]:8765"]


@pytest.fixture
async def world():
    """A simulator, a session with its key, and the address of a film."""
    simulator = Simulator(Terms(duration=Constant(0)), renderer=FixedRenderer())
    async with (
        simulator,
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {simulator.api_key}"}) as session,
    ):
        task = simulator.service.create(json.dumps(BODY).encode())
        yield simulator, session, simulator.result_urls(task.task_id)[0]


async def test_what_comes_over_loopback_names_this_machine(world):
    """A page whose name leads here gets neither the API nor the films, key or not (D11)."""
    simulator, session, film = world
    doors = [f"{simulator.base_url}/api/v1/chat/credit", f"{simulator.base_url}/x", film]
    wrong = {}
    for door in doors:
        for names, fine in ((STRANGE, False), (OURS, True)):
            for name in names:
                async with session.get(door, headers={"Host": name}) as answer:
                    if (answer.status == 403) is fine:
                        wrong[door, name] = answer.status

    assert wrong == {}


async def test_a_host_that_is_named_twice_or_not_at_all_is_refused(world):
    """Whoever reads the first of two would let in what another has let out."""
    simulator, _, _ = world
    port = int(simulator.base_url.rpartition(":")[2])
    for lines in ("", "Host: localhost\r\nHost: evil.example\r\n"):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET /x HTTP/1.1\r\n{lines}Connection: close\r\n\r\n".encode())
        told = await reader.read()
        writer.close()
        assert told.split()[1] in (b"403", b"400")


def test_every_simulator_has_a_key_of_its_own():
    """The key of the last one, or of the documentation, opens nothing."""
    keys = {Simulator().api_key for _ in range(5)}

    assert len(keys) == 5
    assert all(len(key) >= 40 for key in keys)
    assert Simulator(api_key="mine").api_key == "mine"


async def test_nothing_that_a_browser_would_run_is_served(world):
    """Whatever an upload is called, and whatever a fault calls a film (D12)."""
    simulator, session, film = world
    wrong = {}
    for name in ("a.html", "a.svg", "a.js", "a.xml", "a.xhtml", "a.pdf", "a.png.html", "a"):
        upload = simulator.service.files.upload("in", name, b"<script>alert(1)</script>")
        async with session.get(simulator.service.files.upload_url(upload)) as answer:
            if answer.content_type != "application/octet-stream":
                wrong[name] = answer.content_type
    simulator.script("file", [Fault.MISLABELLED, Fault.OK, Fault.HTML_200])
    for _ in range(3):
        async with session.get(film) as answer:
            if answer.headers.get("X-Content-Type-Options") != "nosniff" or (
                "sandbox" not in answer.headers.get("Content-Security-Policy", "")
            ):
                wrong[film] = answer.headers

    assert wrong == {}


async def test_nothing_is_called_or_fetched_that_nobody_named(world, caplog):
    """By default not even on this machine; what was not sent is in the books, and said once."""
    simulator, session, film = world
    target = f"{simulator.base_url}/api/v1/jobs/createTask"
    for port in (9, 10):
        body = BODY | {"callBackUrl": f"http://127.0.0.1:{port}/hooks"}
        async with session.post(target, json=body) as answer:
            assert (await answer.json())["code"] == 200
    simulator.service.update()

    assert [entry.outcome for entry in simulator.ledger.callbacks] == ["forbidden"] * 2
    assert caplog.text.count("a callback was not sent") == 1
    upload = f"{simulator.base_url}/file-upload/api/file-url-upload"
    async with session.post(upload, json={"fileUrl": film, "uploadPath": "in"}) as answer:
        assert "hosts=" in (await answer.json())["msg"]


async def test_a_callback_does_not_direct_a_simulator():
    """Where this machine may be called, what directs a simulator does not hear its callbacks."""
    simulator = Simulator(
        Terms(duration=Constant(1)), renderer=FixedRenderer(), hosts=["localhost"]
    )
    async with simulator, aiohttp.ClientSession() as session:
        headers = {"Authorization": f"Bearer {simulator.api_key}"}
        body = BODY | {"callBackUrl": f"{simulator.base_url}/_simulator/reset"}
        target = f"{simulator.base_url}/api/v1/jobs/createTask"
        async with session.post(target, json=body, headers=headers) as answer:
            assert (await answer.json())["code"] == 200
        await asyncio.sleep(100)

        assert len(simulator.ledger.paid) == 1
        assert {entry.status for entry in simulator.ledger.callbacks} == {403}


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
async def test_it_warns_where_others_may_come(host, caplog):
    """Bound to loopback it is silent."""
    with caplog.at_level(logging.WARNING):
        async with Simulator(host=host) as simulator:
            assert simulator.exposed is (host == "0.0.0.0")

    assert ("other machines can connect" in caplog.text) is (host == "0.0.0.0")

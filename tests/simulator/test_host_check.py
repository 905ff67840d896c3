"""The Host check, the key, and what a browser may do with what the simulator serves."""

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
FOREIGN_HOSTS = [
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
OWN_HOSTS = ["localhost", "LOCALHOST:1", "127.0.0.1", "127.9.9.9:80", "[::1]", "[::1]:8765"]


@pytest.fixture
async def served():
    """A simulator, a session with its key, and the URL of a film."""
    simulator = Simulator(Terms(duration=Constant(0)), renderer=FixedRenderer())
    async with (
        simulator,
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {simulator.api_key}"}) as session,
    ):
        task = simulator.service.create(json.dumps(BODY).encode())
        yield simulator, session, simulator.result_urls(task.task_id)[0]


async def test_requests_over_loopback_must_name_this_machine(served):
    """A page whose name points here gets neither the API nor the films, even with a key (D11)."""
    simulator, session, film = served
    urls = [f"{simulator.base_url}/api/v1/chat/credit", f"{simulator.base_url}/x", film]
    wrong = {}
    for url in urls:
        for names, fine in ((FOREIGN_HOSTS, False), (OWN_HOSTS, True)):
            for name in names:
                async with session.get(url, headers={"Host": name}) as answer:
                    if (answer.status == 403) is fine:
                        wrong[url, name] = answer.status

    assert wrong == {}


async def test_a_missing_or_repeated_host_header_is_refused(served):
    """Of two headers, one check might read the first and another the second."""
    simulator, _, _ = served
    port = int(simulator.base_url.rpartition(":")[2])
    for lines in ("", "Host: localhost\r\nHost: evil.example\r\n"):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET /x HTTP/1.1\r\n{lines}Connection: close\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        assert answer.split()[1] in (b"403", b"400")


def test_every_simulator_has_a_key_of_its_own():
    """The key of another one, or of the documentation, is refused."""
    keys = {Simulator().api_key for _ in range(5)}

    assert len(keys) == 5
    assert all(len(key) >= 40 for key in keys)
    assert Simulator(api_key="mine").api_key == "mine"


async def test_nothing_that_a_browser_would_run_is_served(served):
    """Whatever the name of an upload, and whatever content type a fault gives a film (D12)."""
    simulator, session, film = served
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


async def test_only_allowed_hosts_are_called_or_fetched_from(served, caplog):
    """By default not even this machine; what was not sent is in the ledger, and logged once."""
    simulator, session, film = served
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


async def test_a_callback_cannot_control_a_simulator():
    """Where this machine is allowed, the control endpoints still refuse callbacks."""
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
async def test_it_warns_when_other_machines_can_connect(host, caplog):
    """Bound to loopback it logs nothing."""
    with caplog.at_level(logging.WARNING):
        async with Simulator(host=host) as simulator:
            assert simulator.exposed is (host == "0.0.0.0")

    assert ("other machines can connect" in caplog.text) is (host == "0.0.0.0")

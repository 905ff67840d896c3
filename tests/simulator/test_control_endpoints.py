"""Directing a simulator from another process: orders over HTTP, and who may give them."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from apikley_async.simulator import Constant, Fault, FixedRenderer, Simulator, Terms
from apikley_async.simulator.http.control_endpoints import _local_programs_only

CREATE, RECORD = "/api/v1/jobs/createTask", "/api/v1/jobs/recordInfo"


class FaultSchedule:
    """Another program on this machine: a customer, and one who pulls the strings."""

    def __init__(self, simulator, session):
        self.simulator = simulator
        self.session = session

    async def order(self, method, path, body=None, **headers):
        """Status and JSON of what is answered to an order."""
        raw = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        url = f"{self.simulator.base_url}/_simulator{path}"
        async with self.session.request(method, url, data=raw, headers=headers) as answer:
            return answer.status, await answer.json()

    async def create(self):
        """The whole answer to a creation."""
        given = {"shots": [{"Scene": "Rain.", "duration": 5}]}
        body = {"model": "sora-2-pro-storyboard", "input": given}
        headers = {"Authorization": f"Bearer {self.simulator.api_key}"}
        async with self.session.post(
            self.simulator.base_url + CREATE, json=body, headers=headers
        ) as answer:
            return await answer.json(content_type=None)

    async def made(self):
        return (await self.create())["data"]["taskId"]

    async def state(self, task_id):
        headers = {"Authorization": f"Bearer {self.simulator.api_key}"}
        url = f"{self.simulator.base_url}{RECORD}?taskId={task_id}"
        async with self.session.get(url, headers=headers) as answer:
            return (await answer.json())["data"]["state"]


@pytest.fixture
async def director():
    async with (
        Simulator(Terms(duration=Constant(1000)), renderer=FixedRenderer()) as simulator,
        aiohttp.ClientSession() as session,
    ):
        yield FaultSchedule(simulator, session)


# -- orders ------------------------------------------------------------------------------------


async def test_it_says_how_the_world_stands_and_what_can_be_ordered(director):
    """Names of endpoints, states and faults included; no key is asked for."""
    await director.made()

    status, told = await director.order("GET", "/")

    assert status == 200
    assert (told["tasks"], told["running"], told["faults"]) == (1, 1, None)
    assert {"create", "record", "callback"} <= set(told["endpoints"])
    assert told["names"] == list(Fault.presets())
    assert director.simulator.api_key not in json.dumps(told)


async def test_a_script_can_be_ordered(director):
    """States, faults and faults with arguments, for an endpoint or a task, and repeated."""
    task_id = await director.made()

    order = {"endpoint": "create", "steps": ["code 402 no money", "HTML_200"], "repeat": 2}
    assert (await director.order("POST", "/script", order))[0] == 200
    order = {"endpoint": "record", "steps": ["generating", "state moderating", "success"]}
    assert (await director.order("POST", "/script", order | {"task_id": task_id}))[0] == 200

    for _ in range(2):
        assert (await director.create())["msg"] == "no money"
        with pytest.raises(json.JSONDecodeError):
            await director.create()
    states = [await director.state(task_id) for _ in range(3)]
    assert states == ["generating", "moderating", "success"]


async def test_a_script_without_end_can_be_taken_back(director):
    """An outage lasts until it is said to be over."""
    order = {"endpoint": "create", "steps": ["code 455"], "repeat": "forever"}
    await director.order("POST", "/script", order)
    assert {(await director.create())["code"] for _ in range(5)} == {455}

    await director.order("DELETE", "/script")
    assert (await director.create())["code"] == 200


async def test_chance_can_be_ordered(director):
    """With a seed, for a time; and ended by an empty order."""
    order = {"seed": 3, "until": 900, "create": {"code 500": 1.0}}

    status, told = await director.order("PUT", "/faults", order)

    assert status == 200
    assert told["faults"] == order
    assert (await director.create())["code"] == 500
    await director.order("PUT", "/faults")
    assert (await director.create())["code"] == 200


async def test_time_can_be_skipped_and_films_finished(director):
    """One film ends well, one does not, the others when their time has come."""
    well, ill, late = [await director.made() for _ in range(3)]

    reason = {"code": "422", "message": "no cats"}
    await director.order("POST", "/finish", {"task_id": well})
    await director.order("POST", "/finish", {"task_id": ill, "failure": reason})
    assert [await director.state(t) for t in (well, ill, late)] == ["success", "fail", "waiting"]
    assert director.simulator.service.task(ill).failure.message == "no cats"

    _, told = await director.order("POST", "/advance", {"seconds": 1000})
    assert told["running"] == 0
    assert await director.state(late) == "success"
    await director.made()
    assert (await director.order("POST", "/finish"))[1]["running"] == 0


async def test_the_books_can_be_read(director):
    """All of them, as plain JSON."""
    task_id = await director.made()
    await director.state(task_id)
    await director.order("POST", "/finish", {"task_id": task_id, "failure": {}})

    _, books = await director.order("GET", "/ledger")
    _, tasks = await director.order("GET", "/tasks")

    assert [entry["task_id"] for entry in books["paid"]] == [task_id]
    assert books["creations"][0]["outcome"] == "created"
    assert books["creations"][0]["body"]["model"] == "sora-2-pro-storyboard"
    assert books["refunds"][0]["credits"] == 270
    assert (books["polls"], books["credits_spent"]) == ({task_id: 1}, 0)
    assert len(books["arrivals"]["create"]) == 1
    assert [(task["task_id"], task["state"]) for task in tasks] == [(task_id, "fail")]
    assert tasks[0]["result_urls"] == list(director.simulator.result_urls(task_id))


async def test_everything_can_begin_again(director):
    """No tasks, empty books, the old balance, no scripts; the addresses stay."""
    simulator = director.simulator
    before = (simulator.base_url, simulator.files_url)
    await director.made()
    old = simulator.ledger
    await director.order("POST", "/script", {"endpoint": "create", "steps": ["reset"]})

    status, told = await director.order("POST", "/reset")

    assert (status, told["tasks"], told["credits"]) == (200, 0, 10_000_000)
    assert told["now"] < 60
    assert simulator.ledger is not old
    assert not simulator.ledger.paid
    assert (await director.create())["code"] == 200
    assert (simulator.base_url, simulator.files_url) == before


# -- complaints --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "about"),
    [
        ("POST", "/script", {"endpoint": "nowhere", "steps": []}, 400, "endpoint"),
        ("POST", "/script", {"endpoint": ["create"], "steps": []}, 400, "endpoint"),
        ("POST", "/script", {"endpoint": "create", "steps": "reset"}, 400, "steps"),
        ("POST", "/script", {"endpoint": "create", "steps": [7]}, 400, "steps"),
        ("POST", "/script", {"endpoint": "create", "steps": ["waiting"]}, 400, "waiting"),
        ("POST", "/script", {"endpoint": "record", "steps": ["moderating"]}, 400, "moderating"),
        ("POST", "/script", {"endpoint": "record", "steps": [], "repeat": -1}, 400, "repeat"),
        ("POST", "/script", {"endpoint": "record", "steps": [], "task_id": 7}, 400, "task_id"),
        ("POST", "/script", {"endpoint": "record", "step": []}, 400, "step"),
        ("POST", "/script", b"[", 400, "JSON"),
        ("POST", "/script", b"[]", 400, "JSON"),
        ("PUT", "/faults", {"create": {"reset": 1.5}}, 400, "shares"),
        ("PUT", "/faults", {"create": {"reset": "often"}}, 400, "create"),
        ("PUT", "/faults", {"create": {"nonsense": 0.5}}, 400, "nonsense"),
        ("PUT", "/faults", {"create": ["reset"]}, 400, "create"),
        ("PUT", "/faults", {"anywhere": {"reset": 0.5}}, 400, "anywhere"),
        ("PUT", "/faults", {"seed": "x"}, 400, "seed"),
        ("POST", "/finish", {"task_id": "nobody's"}, 404, "nobody's"),
        ("POST", "/finish", {"failure": "x"}, 400, "failure"),
        ("POST", "/finish", {"failure": {"reason": "x"}}, 400, "failure"),
        ("POST", "/advance", {}, 400, "seconds"),
        ("POST", "/advance", {"seconds": -1}, 400, "seconds"),
        ("POST", "/advance", b'{"seconds": 1e999}', 400, "seconds"),
        ("GET", "/nothing", None, 404, "Not Found"),
        ("PUT", "/script", None, 405, "Method"),
    ],
)
async def test_an_order_that_makes_no_sense_is_refused_in_words(
    director, method, path, body, status, about
):
    """And nothing of it is carried out."""
    got, told = await director.order(method, path, body)

    assert (got, list(told)) == (status, ["error"])
    assert about in told["error"]
    assert (await director.create())["code"] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Host": "evil.example"},
        {"Host": "evil.example:80"},
        {"Host": "10.0.0.1"},
    ],
)
async def test_web_pages_may_not_give_orders(director, headers):
    """Neither from another site, nor under a name that was pointed at this machine (D11)."""
    for method, path in [("GET", "/ledger"), ("POST", "/reset")]:
        status, told = await director.order(method, path, None, **headers)
        assert (status, list(told)) == (403, ["error"])


@pytest.mark.parametrize(
    ("peer", "status"),
    [
        ("127.0.0.1", 200),
        ("::1", 200),
        ("::ffff:127.0.0.1", 200),
        ("10.0.0.5", 403),
        ("fe80::1", 403),
    ],
)
async def test_other_machines_may_not_give_orders(peer, status):
    """Even where the simulator listens to them."""

    class Transport(asyncio.Transport):
        def get_extra_info(self, name, default=None):
            return (peer, 50_000) if name == "peername" else default

    async def handler(request):
        return web.Response()

    request = make_mocked_request("POST", "/reset", {"Host": "127.0.0.1"}, transport=Transport())

    assert (await _local_programs_only(request, handler)).status == status


async def test_orders_leave_no_trace_in_the_books(director):
    """They are no requests of a customer's."""
    for _ in range(3):
        await director.order("GET", "/")

    _, books = await director.order("GET", "/ledger")
    assert (books["arrivals"], books["unauthorized"]) == ({}, 0)

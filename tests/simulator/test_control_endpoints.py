"""The control endpoints: commands over HTTP, and who may send them."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from apikley_async.simulator import Constant, Fault, FixedRenderer, Simulator, Terms
from apikley_async.simulator.http.control_endpoints import local_programs_only

TERMS = Terms(duration=Constant(1000), limit=None)
CREATE, RECORD = "/api/v1/jobs/createTask", "/api/v1/jobs/recordInfo"


class Controller:
    """Another program on this machine: it controls the simulator and calls its API."""

    def __init__(self, simulator, session):
        self.simulator = simulator
        self.session = session

    async def command(self, method, path, body=None, **headers):
        """Status and JSON of the response to a command."""
        raw = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        url = f"{self.simulator.base_url}/_simulator{path}"
        async with self.session.request(method, url, data=raw, headers=headers) as answer:
            return answer.status, await answer.json()

    async def create(self, scene="Rain."):
        """The whole response to a createTask."""
        given = {"shots": [{"Scene": scene, "duration": 5}]}
        body = {"model": "sora-2-pro-storyboard", "input": given}
        headers = {"Authorization": f"Bearer {self.simulator.api_key}"}
        async with self.session.post(
            self.simulator.base_url + CREATE, json=body, headers=headers
        ) as answer:
            return await answer.json(content_type=None)

    async def create_task(self):
        return (await self.create())["data"]["taskId"]

    async def state(self, task_id):
        headers = {"Authorization": f"Bearer {self.simulator.api_key}"}
        url = f"{self.simulator.base_url}{RECORD}?taskId={task_id}"
        async with self.session.get(url, headers=headers) as answer:
            return (await answer.json())["data"]["state"]


@pytest.fixture
async def controller():
    async with (
        Simulator(
            Terms(duration=Constant(1000), limit=None), renderer=FixedRenderer()
        ) as simulator,
        aiohttp.ClientSession() as session,
    ):
        yield Controller(simulator, session)


# -- commands ----------------------------------------------------------------------------------


async def test_the_status_names_the_state_and_the_words_it_understands(controller):
    """Names of endpoints, states and faults; no key is needed, and none is shown."""
    await controller.create_task()

    status, answer = await controller.command("GET", "/")

    assert status == 200
    assert (answer["tasks"], answer["running"], answer["faults"]) == (1, 1, None)
    assert {"create", "record", "callback"} <= set(answer["endpoints"])
    assert answer["names"] == list(Fault.presets())
    assert controller.simulator.api_key not in json.dumps(answer)


async def test_a_script_can_be_set(controller):
    """States, faults and faults with arguments, for an endpoint or a task, and repeated."""
    task_id = await controller.create_task()

    command = {"endpoint": "create", "steps": ["code 402 no money", "HTML_200"], "repeat": 2}
    assert (await controller.command("POST", "/script", command))[0] == 200
    command = {"endpoint": "record", "steps": ["generating", "state moderating", "success"]}
    assert (await controller.command("POST", "/script", command | {"task_id": task_id}))[0] == 200

    for _ in range(2):
        assert (await controller.create())["msg"] == "no money"
        with pytest.raises(json.JSONDecodeError):
            await controller.create()
    states = [await controller.state(task_id) for _ in range(3)]
    assert states == ["generating", "moderating", "success"]


async def test_an_endless_script_can_be_cleared(controller):
    """An outage lasts until the scripts are cleared."""
    command = {"endpoint": "create", "steps": ["code 455"], "repeat": "forever"}
    await controller.command("POST", "/script", command)
    assert {(await controller.create())["code"] for _ in range(5)} == {455}

    await controller.command("DELETE", "/script")
    assert (await controller.create())["code"] == 200


async def test_random_faults_can_be_set(controller):
    """With a seed and an end; an empty command ends them."""
    command = {"seed": 3, "until": 900, "create": {"code 500": 1.0}}

    status, answer = await controller.command("PUT", "/faults", command)

    assert status == 200
    assert answer["faults"] == command
    assert (await controller.create())["code"] == 500
    await controller.command("PUT", "/faults")
    assert (await controller.create())["code"] == 200


async def test_time_can_be_skipped_and_films_finished(controller):
    """One film succeeds, one fails, the others end when they are due."""
    good, bad, due = [await controller.create_task() for _ in range(3)]

    reason = {"code": "422", "message": "no cats"}
    await controller.command("POST", "/finish", {"task_id": good})
    await controller.command("POST", "/finish", {"task_id": bad, "failure": reason})
    assert [await controller.state(t) for t in (good, bad, due)] == ["success", "fail", "waiting"]
    assert controller.simulator.service.task(bad).failure.message == "no cats"

    _, answer = await controller.command("POST", "/advance", {"seconds": 1000})
    assert answer["running"] == 0
    assert await controller.state(due) == "success"
    await controller.create_task()
    assert (await controller.command("POST", "/finish"))[1]["running"] == 0


async def test_the_ledger_can_be_read(controller):
    """All of it, as plain JSON."""
    task_id = await controller.create_task()
    await controller.state(task_id)
    await controller.command("POST", "/finish", {"task_id": task_id, "failure": {}})

    _, ledger = await controller.command("GET", "/ledger")
    _, tasks = await controller.command("GET", "/tasks")

    assert [entry["task_id"] for entry in ledger["paid"]] == [task_id]
    assert ledger["creations"][0]["outcome"] == "created"
    assert ledger["creations"][0]["body"]["model"] == "sora-2-pro-storyboard"
    assert ledger["refunds"][0]["credits"] == 270
    assert (ledger["polls"], ledger["credits_spent"]) == ({task_id: 1}, 0)
    assert len(ledger["arrivals"]["create"]) == 1
    assert [(task["task_id"], task["state"]) for task in tasks] == [(task_id, "fail")]
    assert tasks[0]["result_urls"] == list(controller.simulator.result_urls(task_id))


async def test_tasks_show_what_they_were_asked_for(controller):
    """Time, model and first words: a list of tasks is there to find one's own."""
    await controller.create(f"A wave\nbreaks. {'Very long. ' * 30}")

    _, [task] = await controller.command("GET", "/tasks")

    assert task["model"] == "sora-2-pro-storyboard"
    assert task["words"].startswith("A wave breaks. Very long. ")
    assert (len(task["words"]), task["words"][-3:]) == (60, "...")
    created = datetime.strptime(task["created"], "%Y-%m-%d %H:%M:%S UTC").replace(tzinfo=UTC)
    assert abs(datetime.now(UTC) - created) < timedelta(minutes=5)


async def test_everything_can_be_reset(controller):
    """No tasks, an empty ledger, the first balance, no scripts; the URLs stay."""
    simulator = controller.simulator
    before = (simulator.base_url, simulator.files_url)
    await controller.create_task()
    old = simulator.ledger
    await controller.command("POST", "/script", {"endpoint": "create", "steps": ["reset"]})

    status, answer = await controller.command("POST", "/reset")

    assert (status, answer["tasks"], answer["credits"]) == (200, 0, 10_000_000)
    assert answer["now"] < 60
    assert simulator.ledger is not old
    assert not simulator.ledger.paid
    assert (await controller.create())["code"] == 200
    assert (simulator.base_url, simulator.files_url) == before


# -- errors ------------------------------------------------------------------------------------


INVALID = [
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
]


async def test_an_invalid_command_is_refused_with_a_reason(controller):
    """And nothing of it is done."""
    failures = []
    for method, path, body, status, about in INVALID:
        got, answer = await controller.command(method, path, body)
        if (got, list(answer)) != (status, ["error"]) or about not in answer["error"]:
            failures.append((method, path, body, got, answer))
        if (await controller.create())["code"] != 200:
            failures.append((method, path, body, "was done"))

    assert failures == []


async def test_web_pages_may_not_send_commands(controller):
    """Neither from another site, nor under a name that points to this machine (D11)."""
    for headers in (
        {"Origin": "https://evil.example"},
        {"Host": "evil.example"},
        {"Host": "evil.example:80"},
        {"Host": "10.0.0.1"},
    ):
        for method, path in [("GET", "/ledger"), ("POST", "/reset")]:
            status, answer = await controller.command(method, path, None, **headers)
            assert (status, list(answer)) == (403, ["error"]), (headers, path)


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
async def test_other_machines_may_not_send_commands(peer, status):
    """Even where the simulator serves them."""

    class Transport(asyncio.Transport):
        def get_extra_info(self, name, default=None):
            return (peer, 50_000) if name == "peername" else default

    async def handler(request):
        return web.Response()

    request = make_mocked_request("POST", "/reset", {"Host": "127.0.0.1"}, transport=Transport())

    assert (await local_programs_only(request, handler)).status == status


async def test_commands_are_not_in_the_ledger(controller):
    """They are not requests of a client."""
    for _ in range(3):
        await controller.command("GET", "/")

    _, ledger = await controller.command("GET", "/ledger")
    assert (ledger["arrivals"], ledger["unauthorized"]) == ({}, 0)

"""The endpoints of the API, called over a socket on this machine."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import aiohttp
import pytest
from manual_clock import ManualClock

from apikley_async.simulator import (
    Constant,
    Failure,
    Fault,
    FixedRenderer,
    Simulator,
    Terms,
    Throttle,
)

MODEL = "sora-2-pro-storyboard"
CALLBACK = "https://hooks.example.com/a?token=1"


class Caller:
    """A client of the simulator that knows nothing but HTTP."""

    def __init__(self, simulator, session):
        self.simulator = simulator
        self.session = session
        self.key = simulator.api_key

    async def call(self, method, path, **options):
        """Status, headers and JSON of a response."""
        headers = {"Authorization": f"Bearer {self.key}"} | options.pop("headers", {})
        url = self.simulator.base_url + path
        async with self.session.request(
            method, url, headers=headers, allow_redirects=False, **options
        ) as answer:
            return answer.status, answer.headers, json.loads(await answer.text())

    async def create(self, **changes):
        given = {"n_frames": "10", "shots": [{"Scene": "Rain.", "duration": 5}]}
        body = {"model": MODEL, "callBackUrl": CALLBACK, "input": given} | changes
        _, _, answer = await self.call("POST", "/api/v1/jobs/createTask", json=body)
        return answer

    async def create_task(self, **changes):
        return (await self.create(**changes))["data"]["taskId"]

    async def record(self, task_id):
        query = {"taskId": task_id}
        return (await self.call("GET", "/api/v1/jobs/recordInfo", params=query))[2]

    async def fetch(self, url, **headers):
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.get(url, headers=names, allow_redirects=False) as answer:
            return answer.status, answer.headers, await answer.read()


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
async def start(clock):
    """Start simulators, each with a caller; all end with the test."""
    running = []

    async def start(terms=None, **options):
        options.setdefault("renderer", FixedRenderer())
        options.setdefault("clock", clock)
        simulator = Simulator(terms or Terms(duration=Constant(100)), **options)
        await simulator.start()
        running.append(simulator)
        session = aiohttp.ClientSession()
        running.append(session)
        return Caller(simulator, session)

    yield start
    for thing in reversed(running):
        await (thing.aclose() if isinstance(thing, Simulator) else thing.close())


# -- without faults ----------------------------------------------------------------------------


async def test_a_film_from_the_creation_to_the_bytes(start, clock):
    """Create, poll twice, download: the bytes are those of this task, and it is paid once."""
    caller = await start()
    task_id = await caller.create_task()

    record = await caller.record(task_id)
    assert record["code"] == 200
    assert record["data"]["state"] == "waiting"
    assert record["data"]["resultJson"] == ""
    clock.time += 100
    data = (await caller.record(task_id))["data"]
    assert data["state"] == "success"
    (url,) = json.loads(data["resultJson"])["resultUrls"]
    status, headers, film = await caller.fetch(url)

    assert (status, headers["Content-Type"]) == (200, "video/mp4")
    assert film == await caller.simulator.film(task_id)
    assert task_id.encode() in film
    ledger = caller.simulator.ledger
    assert [(c.task_id, c.callback_url) for c in ledger.paid] == [(task_id, CALLBACK)]
    assert ledger.polls[task_id] == 2
    assert not ledger.leaks


async def test_a_record_has_every_documented_field(start, clock):
    """Times are Unix milliseconds, the request is echoed as text, progress grows."""
    caller = await start()
    task_id = await caller.create_task()
    clock.time += 50

    data = (await caller.record(task_id))["data"]
    assert json.loads(data["param"])["callBackUrl"] == CALLBACK
    assert data["createTime"] == 1_790_001_000_000
    assert data["updateTime"] == 1_790_001_050_000
    assert data["completeTime"] is None
    assert 0 < data["progress"] < 100
    assert "costTime" not in data
    clock.time += 60
    data = (await caller.record(task_id))["data"]
    assert data["completeTime"] == data["updateTime"] == 1_790_001_100_000
    assert (data["costTime"], data["creditsConsumed"], data["progress"]) == (100, 150, 100)


async def test_a_failure_has_a_reason_and_costs_nothing(start, clock):
    """Code and message are those of the terms."""
    reason = Failure("422", "photorealistic people")
    caller = await start(Terms(duration=Constant(1), fail_rate=1.0, failure=reason))
    task_id = await caller.create_task()
    clock.time += 1

    data = (await caller.record(task_id))["data"]

    assert (data["state"], data["failCode"], data["failMsg"]) == ("fail", "422", reason.message)
    assert (data["creditsConsumed"], data["resultJson"]) == (0, "")


async def test_the_balance_is_sent_with_its_fraction(start):
    """A whole number is sent as an integer."""
    caller = await start(Terms(credits=640.25))
    assert (await caller.call("GET", "/api/v1/chat/credit"))[2]["data"] == 640.25
    caller.simulator.service.credits = 490.0
    answer = (await caller.call("GET", "/api/v1/chat/credit"))[2]
    assert json.dumps(answer) == '{"code": 200, "msg": "success", "data": 490}'


async def test_another_model_uses_the_same_endpoint(start):
    """Its input is not checked."""
    caller = await start()
    given = {"prompt": "A lighthouse.", "duration": 5}

    assert (await caller.create(model="kling-2.6/text-to-video", input=given))["code"] == 200
    assert (await caller.create(model="sora-3", input=given))["code"] == 422


# -- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("http_refusals", "status"), [(False, 200), (True, 401)])
async def test_requests_without_the_key_are_refused(start, http_refusals, status):
    """By every endpoint with code 401, and with that HTTP status when the terms say so."""
    caller = await start(Terms(http_refusals=http_refusals))
    caller.key = "another-key"

    for method, path in [
        ("POST", "/api/v1/jobs/createTask"),
        ("GET", "/api/v1/jobs/recordInfo?taskId=x"),
        ("GET", "/api/v1/chat/credit"),
        ("POST", "/api/v1/common/download-url"),
        ("POST", "/file-upload/api/file-stream-upload"),
    ]:
        got, _, answer = await caller.call(method, path)
        assert (got, answer["code"]) == (status, 401), path
    assert not caller.simulator.ledger.paid
    assert caller.simulator.ledger.unauthorized == 5
    assert [c.code for c in caller.simulator.ledger.refused] == [401]


async def test_what_does_not_exist_is_refused(start):
    """Unknown paths, unknown tasks, polls without an id and bad inputs have codes of their own."""
    caller = await start()

    assert (await caller.call("GET", "/api/v2/anything"))[0] == 404
    assert (await caller.record("task_of_nobody"))["code"] == 422
    assert (await caller.record(""))["code"] == 400
    assert (await caller.create(input={}))["code"] == 500


async def test_a_429_can_be_a_page(start):
    """A gateway's, and no JSON; nothing is created."""
    caller = await start(Terms(limit=1, throttle=Throttle.HTML))
    await caller.create_task()

    with pytest.raises(json.JSONDecodeError):
        await caller.create()
    assert len(caller.simulator.ledger.paid) == 1
    assert len(caller.simulator.ledger.throttled) == 1


async def test_a_429_can_be_scripted(start):
    """In any form, on any endpoint, with the service's date in its header."""
    caller = await start()
    caller.simulator.script("credits", [Fault.throttled(Throttle.DATE, wait=30)])

    status, headers, answer = await caller.call("GET", "/api/v1/chat/credit")

    assert (status, answer["code"]) == (429, 429)
    until, now = (parsedate_to_datetime(headers[name]) for name in ("Retry-After", "Date"))
    assert (until - now).total_seconds() == 30
    assert now == datetime.fromtimestamp(1_790_001_000, UTC)


# -- faults on creations -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault.RESET, aiohttp.ClientOSError),
        (Fault.CLOSE, aiohttp.ServerDisconnectedError),
        (Fault.GARBAGE, aiohttp.ClientResponseError),
        (Fault.TRUNCATED, aiohttp.ClientPayloadError),
        (Fault.CUT_CHUNKED, aiohttp.ClientPayloadError),
        (Fault.BAD_GZIP, aiohttp.ClientPayloadError),
        (Fault.HTTP_502, json.JSONDecodeError),
        (Fault.HTML_200, json.JSONDecodeError),
        (Fault.EMPTY, json.JSONDecodeError),
        (Fault.MALFORMED, json.JSONDecodeError),
        (Fault.SHORT, json.JSONDecodeError),
        (Fault.CUT_UNFRAMED, json.JSONDecodeError),
    ],
    ids=str,
)
async def test_a_lost_response_hides_whether_a_task_was_paid(start, fault, error):
    """`.before` charges nothing and `.after` one task; the caller sees the same error."""
    caller = await start()
    caller.simulator.script("create", [fault.before, fault.after])
    ledger = caller.simulator.ledger

    with pytest.raises(error):
        await caller.create()
    assert len(ledger.paid) == 0
    with pytest.raises(error):
        await caller.create()
    assert len(ledger.paid) == 1
    assert [c.outcome for c in ledger.creations] == ["lost", "created"]
    assert {c.callback_url for c in ledger.creations} == {CALLBACK}
    assert (await caller.create())["code"] == 200


async def test_a_proxy_can_repeat_a_creation(start):
    """One request, two paid tasks, one of them unknown to the caller."""
    caller = await start()
    caller.simulator.script("create", [Fault.TWICE])

    task_id = await caller.create_task()

    assert [c.task_id for c in caller.simulator.ledger.paid][1] == task_id
    assert len(caller.simulator.ledger.paid_for(CALLBACK)) == 2


async def test_a_refusal_can_carry_a_paid_task(start, clock):
    """The id in it can be polled."""
    caller = await start()
    caller.simulator.script("create", [Fault.ACCEPTED_429])

    answer = await caller.create()

    assert answer["code"] == 429
    assert (await caller.record(answer["data"]["taskId"]))["code"] == 200


async def test_ids_can_have_odd_characters(start):
    """A caller that encodes them correctly finds the task."""
    caller = await start()
    caller.simulator.script("create", [Fault.ODD_TASK_ID, Fault.created_as("../{}")])

    odd, dotted = await caller.create_task(), await caller.create_task()

    assert not odd.isascii()
    assert dotted == "../1"
    assert (await caller.record(odd))["data"]["taskId"] == odd
    assert (await caller.record(dotted))["data"]["taskId"] == dotted


async def test_a_creation_can_be_redirected(start):
    """To any URL, and nothing is created."""
    caller = await start()
    target = caller.simulator.base_url + "/api/v1/jobs/createTask"
    caller.simulator.script("create", [Fault.redirect(307, target)])

    async with caller.session.post(target, json={}, allow_redirects=False) as answer:
        assert (answer.status, answer.headers["Location"]) == (307, target)
    assert not caller.simulator.ledger.paid


# -- faults on polls ---------------------------------------------------------------------------


async def test_states_and_faults_follow_a_script(start):
    """In its order, whatever the time."""
    caller = await start()
    task_id = await caller.create_task()
    # Twice, because aiohttp repeats a GET once when its connection was lost.
    lost = [Fault.RESET, Fault.RESET]
    caller.simulator.script("record", ["waiting", "generating", *lost, "moderating", "success"])

    states = []
    for _ in range(6):
        try:
            states.append((await caller.record(task_id))["data"]["state"])
        except aiohttp.ClientOSError:
            states.append("reset")

    assert states == ["waiting", "generating", "reset", "moderating", "success", "success"]
    (url,) = caller.simulator.result_urls(task_id)
    assert (await caller.fetch(url))[0] == 200


async def test_a_failure_can_turn_out_to_be_a_success(start):
    """The first poll reports fail, the next one does not."""
    caller = await start()
    task_id = await caller.create_task()
    caller.simulator.script("record", [Fault.FAIL_FOR_NOW, "success"])

    assert (await caller.record(task_id))["data"]["state"] == "fail"
    assert (await caller.record(task_id))["data"]["state"] == "success"


async def test_a_scripted_failure_lasts(start):
    """Every later poll reports it, and the credits are refunded."""
    caller = await start(Terms(credits=1000))
    task_id = await caller.create_task()
    caller.simulator.script("record", ["fail"])

    states = [(await caller.record(task_id))["data"]["state"] for _ in range(2)]

    assert states == ["fail", "fail"]
    assert caller.simulator.service.credits == 1000


async def test_a_poll_can_return_another_task(start):
    """With an id that exists, where there is one."""
    caller = await start()
    first, second = await caller.create_task(), await caller.create_task()
    caller.simulator.script("record", [Fault.OTHER_TASK])

    assert (await caller.record(first))["data"]["taskId"] == second


# -- uploads and links -------------------------------------------------------------------------


def form(*, data=b"png bytes", folder="boards/inputs", name=None, filename="kitten.png"):
    fields = aiohttp.FormData()
    if data is not None:
        fields.add_field("file", data, filename=filename, content_type="image/png")
    if folder is not None:
        fields.add_field("uploadPath", folder)
    if name is not None:
        fields.add_field("fileName", name)
    return fields


STREAM = "/file-upload/api/file-stream-upload"


async def test_the_content_type_must_fit_the_body(start):
    """A form must be labelled as one, and JSON must be an object."""
    caller = await start()
    answers = [
        await caller.call("POST", STREAM, json={}),
        await caller.call("POST", STREAM, data="x", headers={"Content-Type": "multipart/mixed"}),
        await caller.call("POST", "/file-upload/api/file-base64-upload", data="["),
        await caller.call("POST", "/file-upload/api/file-base64-upload", json={}),
        await caller.call("POST", "/file-upload/api/file-url-upload", json=[]),
        await caller.call("POST", "/api/v1/common/download-url", data="{"),
    ]

    assert [answer["code"] for _, _, answer in answers] == [400] * 6


@pytest.mark.parametrize("shape", ["filePath", "fileId"])
async def test_an_upload_can_be_fetched_and_used(start, shape):
    """Both documented responses lead to the bytes, and a task gets them as its image."""
    caller = await start(Terms(upload_shape=shape))

    _, _, answer = await caller.call("POST", STREAM, data=form(name="7c9e.png"))

    data = answer["data"]
    assert (answer["success"], answer["code"]) == (True, 200)
    assert (data["fileName"], data["fileSize"], data["mimeType"]) == ("7c9e.png", 9, "image/png")
    assert shape in data
    url = data.get("fileUrl") or data["downloadUrl"]
    assert (await caller.fetch(url))[2] == b"png bytes"
    given = {"shots": [{"Scene": "Rain.", "duration": 5}], "image_urls": [url]}
    task_id = await caller.create_task(input=given)
    assert caller.simulator.service.task(task_id).image == b"png bytes"


async def test_a_bad_upload_is_refused(start):
    """With code 400, and with success false."""
    caller = await start()
    failures = []
    for fields in (
        {"data": None},
        {"folder": None},
        {"folder": "/in"},
        {"folder": "in/"},
        {"folder": "in/../../etc"},
        {"name": "../a.png"},
    ):
        _, _, answer = await caller.call("POST", STREAM, data=form(**fields))
        if (answer["success"], answer["code"], answer["data"]) != (False, 400, None):
            failures.append((fields, answer))

    assert failures == []


async def test_uploads_as_base64_and_by_url(start):
    """Base64, plain or as a data URL, and the URL of a file that was uploaded before."""
    caller = await start()
    path = "/file-upload/api/file-{}-upload"
    common = {"uploadPath": "in", "fileName": "a.png"}

    async def upload(kind, **fields):
        answer = (await caller.call("POST", path.format(kind), json=common | fields))[2]
        return answer["code"], answer["data"] and answer["data"]["downloadUrl"]

    code, url = await upload("base64", base64Data="iVBORw0KGgo=")
    assert (code, (await caller.fetch(url))[2]) == (200, b"\x89PNG\r\n\x1a\n")
    code, _ = await upload("base64", base64Data="data:image/png;base64,iVBORw0KGgo=")
    assert code == 200
    code, copy = await upload("url", fileUrl=url, fileName="b.png")
    assert (code, (await caller.fetch(copy))[2]) == (200, b"\x89PNG\r\n\x1a\n")
    assert await upload("base64", base64Data="?") == (400, None)
    assert await upload("url", fileUrl="https://elsewhere.example/a.png") == (400, None)


async def test_faults_strike_uploads_too(start):
    """Errors, a refusal, a response without a URL, a lost connection."""
    caller = await start()
    script = [Fault.HTTP_503, Fault.UPLOAD_REFUSED, Fault.NO_UPLOAD_URL, Fault.RESET]
    caller.simulator.script("upload", script)

    with pytest.raises(json.JSONDecodeError):
        await caller.call("POST", STREAM, data=form())
    assert (await caller.call("POST", STREAM, data=form()))[2]["success"] is False
    assert "downloadUrl" not in (await caller.call("POST", STREAM, data=form()))[2]["data"]
    with pytest.raises(aiohttp.ClientOSError):
        await caller.call("POST", STREAM, data=form())


async def test_a_temporary_link_leads_to_the_same_film(start, clock):
    """Even when the first URL has expired; other URLs are refused."""
    caller = await start()
    task_id = await caller.create_task()
    clock.time += 100 + 86_400
    (url,) = caller.simulator.result_urls(task_id)
    path = "/api/v1/common/download-url"

    assert (await caller.fetch(url))[0] == 404
    link = (await caller.call("POST", path, json={"url": url}))[2]["data"]
    assert (await caller.fetch(link))[2] == await caller.simulator.film(task_id)
    refused = (await caller.call("POST", path, json={"url": "https://x.example/1.mp4"}))[2]
    assert (refused["code"], refused["data"]) == (422, None)
    clock.time += 1200
    assert (await caller.fetch(link))[0] == 404

"""The simulator against the description of the service: `openapi.yaml`, beside this file.

The outcome of a call is the code in its body, not its HTTP status. So refusals with HTTP 200 are
compared with the description too, and each response with what its code promises.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import attrs
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from volume import volume

from apikley_async.simulator import (
    Constant,
    Fault,
    FixedRenderer,
    Service,
    Simulator,
    Terms,
    Throttle,
)
from apikley_async.simulator.callbacks.signed_request import sign_callback
from apikley_async.simulator.service.responses import ResponseBuilder

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the first is ten times as fast
DOCUMENT: dict[str, Any] = yaml.load(
    Path(__file__).with_name("openapi.yaml").read_text(encoding="utf-8"),
    Loader=LOADER,  # noqa: S506 - a safe one
)
OPERATIONS: dict[str, dict[str, Any]] = {
    operation["operationId"]: operation
    for item in DOCUMENT["paths"].values()
    for method, operation in item.items()
    if method in {"get", "post"}
}
EXAMPLES = volume(5, 20)
BOARD = {"n_frames": "10", "shots": [{"Scene": "Rain.", "duration": 5}]}
CALLBACK = "https://hooks.example.com/a?token=1"


# Every worker of the tests reads this module, one runs it: what takes seconds to import waits.


@cache
def described() -> dict[str, Any]:
    """The operations as Schemathesis reads them."""
    schemathesis = importlib.import_module("schemathesis")
    found = (
        result.ok() for result in schemathesis.openapi.from_dict(DOCUMENT).get_all_operations()
    )
    return {operation.definition.raw["operationId"]: operation for operation in found}


@cache
def conformance() -> list[Any]:
    """What a response must be: of its status, its content type and its schema."""
    checks = importlib.import_module("schemathesis.specs.openapi.checks")
    return [
        checks.response_schema_conformance,
        checks.status_code_conformance,
        checks.content_type_conformance,
    ]


@cache
def every_check() -> list[Any]:
    """That, and no error of the server."""
    return [importlib.import_module("schemathesis.checks").not_a_server_error, *conformance()]


@attrs.frozen
class ThreadedService:
    """A simulator in a thread of its own, called without asyncio."""

    simulator: Simulator

    def call(self, operation_id: str, *, key: str | None = None, **parts: Any) -> Any:
        """Send one request, compare the response with the description, and return its JSON."""
        return self.send(described()[operation_id].Case(**parts), key=key)

    def send(self, case: Any, *, key: str | None = None) -> Any:
        upload = "/file-upload" if case.path.startswith("/api/file-") else ""
        headers = {"Authorization": f"Bearer {key or self.simulator.api_key}"}
        response = case.call(base_url=self.simulator.base_url + upload, headers=headers)
        case.validate_response(response, checks=every_check())
        body = response.json()
        check_envelope(body, upload=bool(upload))
        return body

    def create(self, **changes: Any) -> Any:
        body = {"model": "sora-2-pro-storyboard", "input": BOARD} | changes
        return self.call("createStoryboardTask", body=body, media_type="application/json")

    def record(self, task_id: str) -> Any:
        return self.call("getTask", query={"taskId": task_id})


def check_envelope(body: Any, *, upload: bool) -> None:
    """What every response promises, whatever its HTTP status."""
    assert isinstance(body["code"], int)
    assert isinstance(body.get("msg", body.get("message")), str)
    if body["code"] == 200:
        assert body["data"] is not None
    else:
        assert body["data"] is None
    if upload:
        assert body["success"] is (body["code"] == 200)


@pytest.fixture(scope="module")
def service() -> Iterator[ThreadedService]:
    """It refuses with HTTP 200, as the real service is thought to do."""
    terms = Terms(limit=None, max_running=None, duration=Constant(1000))
    with Simulator(terms, renderer=FixedRenderer()) as simulator:
        yield ThreadedService(simulator)


@pytest.fixture(scope="module")
def status_service() -> Iterator[ThreadedService]:
    """Its refusals have their code as HTTP status, and its uploads the other shape."""
    terms = Terms(limit=None, http_refusals=True, upload_shape="fileId")
    with Simulator(terms, renderer=FixedRenderer()) as simulator:
        yield ThreadedService(simulator)


# -- whatever a caller sends -------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["positive", "negative"])
@pytest.mark.parametrize("operation_id", OPERATIONS)
@pytest.mark.slow
def test_every_request_is_answered_as_described(
    service: ThreadedService, operation_id: str, mode: str
) -> None:
    """Valid or not; and a creation is charged exactly when its code is 200."""
    generation = importlib.import_module("schemathesis").GenerationMode(mode)

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=described()[operation_id].as_strategy(generation_mode=generation))
    def send(case: Any) -> None:
        paid = len(service.simulator.ledger.paid)
        body = service.send(case)
        created = operation_id == "createStoryboardTask" and body["code"] == 200
        assert len(service.simulator.ledger.paid) == paid + created

    send()


def test_the_description_is_complete() -> None:
    """Every operation of the service is tested, and the callback."""
    assert OPERATIONS.keys() == described().keys()
    assert set(OPERATIONS) == {
        "createStoryboardTask",
        "getTask",
        "getCredits",
        "createDownloadUrl",
        "uploadFileStream",
        "uploadFileBase64",
        "uploadFileUrl",
    }
    paths = {(operation.method, operation.path) for operation in described().values()}
    assert len(paths) == 7


def test_the_description_was_not_changed() -> None:
    """A change must change the digest too: no test may be made to pass by editing the file."""
    text = Path(__file__).with_name("openapi.yaml").read_bytes()

    assert hashlib.sha256(text).hexdigest() == DIGEST


# -- the documented responses ------------------------------------------------------------------


def documented(operation_id: str, example: str) -> dict[str, Any]:
    """A documented example of a 200 response."""
    response = OPERATIONS[operation_id]["responses"]["200"]
    if "$ref" in response:
        response = DOCUMENT["components"]["responses"][response["$ref"].rpartition("/")[2]]
    media = response["content"]["application/json"]
    return media["example"] if example == "" else media["examples"][example]["value"]


def assert_alike(body: Any, example: Any) -> None:
    """Every field of *example*, with a value of the same kind, is in *body*."""
    for name in example.keys() - {"msg", "message"}:
        assert name in body, name
        kinds = {type(body[name]), type(example[name])}
        assert len(kinds) == 1 or kinds <= {int, float} or type(None) in kinds, name
    if isinstance(example.get("data"), dict):
        assert_alike(body["data"], example["data"])


@pytest.mark.parametrize("refused", [False, True], ids=["accepted", "refused"])
def test_a_creation_is_answered_as_documented(service: ThreadedService, refused: bool) -> None:
    """With the id of a task, or with a code and no data."""
    state = service.simulator.service
    balance, state.credits = state.credits, 0 if refused else state.credits
    body = service.create()
    state.credits = balance if refused else state.credits

    assert_alike(body, documented("createStoryboardTask", "refused" if refused else "accepted"))
    assert body["code"] == (500 if refused else 200)


@pytest.mark.parametrize("state", ["waiting", "generating", "success", "fail"])
def test_a_poll_is_answered_as_documented(service: ThreadedService, state: str) -> None:
    """In every state, with every documented field."""
    task_id = service.create(callBackUrl=CALLBACK)["data"]["taskId"]
    service.simulator.script("record", [state], task_id=task_id)

    body = service.record(task_id)

    assert body["data"]["state"] == state
    assert_alike(body, documented("getTask", "generating" if state == "waiting" else state))


def test_a_poll_of_an_unknown_task_is_answered_as_documented(service: ThreadedService) -> None:
    """With the message that a client has to recognise."""
    assert service.record("task_of_nobody") == documented("getTask", "notFound")


def test_credits_and_links_are_answered_as_documented(service: ThreadedService) -> None:
    """A number; a link for a result of the service, and no data for any other URL."""
    task_id = service.create()["data"]["taskId"]
    service.simulator.script("record", ["success"], task_id=task_id)
    service.record(task_id)
    (url,) = service.simulator.result_urls(task_id)
    link = {"operation_id": "createDownloadUrl", "media_type": "application/json"}

    assert_alike(service.call("getCredits"), documented("getCredits", ""))
    assert_alike(service.call(**link, body={"url": url}), documented("createDownloadUrl", "ok"))
    foreign = service.call(**link, body={"url": "https://elsewhere.example/1.mp4"})
    assert foreign == documented("createDownloadUrl", "externalUrl")


@pytest.mark.parametrize("shape", ["stored", "storedAlternative"])
@pytest.mark.parametrize("form", ["Stream", "Base64", "Url"])
def test_uploads_are_answered_as_documented(
    service: ThreadedService, status_service: ThreadedService, form: str, shape: str
) -> None:
    """All three, in both documented shapes."""
    chosen = service if shape == "stored" else status_service
    common = {"uploadPath": "storyboards/inputs", "fileName": "7c9e6679.png"}
    base64 = common | {"base64Data": "data:image/png;base64,iVBORw0KGgo="}
    stored = chosen.call("uploadFileBase64", body=base64, media_type="application/json")
    sent = {
        "Stream": ("multipart/form-data", common | {"file": b"\x89PNG"}),
        "Base64": ("application/json", base64),
        "Url": ("application/json", common | {"fileUrl": stored["data"]["downloadUrl"]}),
    }
    media_type, fields = sent[form]

    body = chosen.call(f"uploadFile{form}", body=fields, media_type=media_type)

    assert_alike(body, documented(f"uploadFile{form}", shape))


# -- the documented statuses -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation_id", "parts", "key", "code"),
    [
        ("getTask", {"query": {"taskId": ""}}, None, 400),
        ("getTask", {"query": {"taskId": "x"}}, "another-key", 401),
        ("getTask", {"query": {"taskId": "x"}}, None, 422),
        *[
            (f"uploadFile{form}", {"body": {}, "media_type": "application/json"}, key, code)
            for form in ("Stream", "Base64", "Url")
            for key, code in [(None, 400), ("another-key", 401)]
        ],
    ],
)
def test_a_refusal_can_have_its_code_as_status(
    status_service: ThreadedService,
    operation_id: str,
    parts: dict[str, Any],
    key: str | None,
    code: int,
) -> None:
    """The statuses of the description, each with its documented envelope."""
    assert status_service.call(operation_id, key=key, **parts)["code"] == code


@pytest.mark.parametrize(
    ("operation_id", "fault", "code"),
    [
        ("getTask", Fault.code(404, status=404), 404),
        ("getTask", Fault.throttled(Throttle.SECONDS), 429),
        *[(operation_id, Fault.code(500, status=500), 500) for operation_id in OPERATIONS],
    ],
    ids=str,
)
def test_the_other_statuses_can_be_scripted(
    service: ThreadedService, operation_id: str, fault: Fault, code: int
) -> None:
    """A server error occurs only by script, and is answered as described."""
    endpoints = {"createStoryboardTask": "create", "getTask": "record", "getCredits": "credits"}
    endpoint = endpoints.get(operation_id, "upload")
    operation = described()[operation_id]
    if operation_id == "createDownloadUrl":
        endpoint = "download_url"
    service.simulator.script(endpoint, [fault])  # type: ignore[arg-type]
    upload = "/file-upload" if endpoint == "upload" else ""
    parts = {"query": {"taskId": "x"}} if endpoint == "record" else {}
    if operation.method == "post":
        parts = {"body": {}, "media_type": "application/json"}
    case = operation.Case(**parts)

    headers = {"Authorization": f"Bearer {service.simulator.api_key}"}
    response = case.call(base_url=service.simulator.base_url + upload, headers=headers)

    case.validate_response(response, checks=conformance())
    assert (response.status_code, response.json()["code"]) == (code, code)


# -- callbacks ---------------------------------------------------------------------------------


def plain(schema: Any) -> Any:
    """A schema with OpenAPI's `nullable` written as JSON Schema."""
    if isinstance(schema, list):
        return [plain(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    read = {name: plain(value) for name, value in schema.items() if name != "nullable"}
    return {"anyOf": [read, {"type": "null"}]} if schema.get("nullable") is True else read


def callback_of(fault: Fault = Fault.OK, **terms: Any) -> tuple[Any, dict[str, str]]:
    """The body and the headers that a receiver gets when a film has ended."""
    service = Service(Terms(duration=Constant(0), **terms))
    body = {"model": "sora-2-pro-storyboard", "callBackUrl": CALLBACK, "input": BOARD}
    task = service.create(json.dumps(body).encode())
    report = ResponseBuilder(service.terms, service.clock).callback(
        task, ("https://r.test/1.mp4",), 640.25
    )
    sent = sign_callback(report, fault, task_id=task.task_id, key="k", now=1_790_000_612.5)
    return json.loads(sent.body), dict(sent.headers)


CALLBACKS = OPERATIONS["createStoryboardTask"]["callbacks"]["taskFinished"]
POST = CALLBACKS["{$request.body#/callBackUrl}"]["post"]


@pytest.mark.parametrize(
    ("example", "terms"),
    [("success", {}), ("failure", {"fail_rate": 1.0}), ("notice", {"callbacks": "notice"})],
)
def test_callbacks_are_sent_as_documented(example: str, terms: dict[str, Any]) -> None:
    """All three payloads, and the headers that sign them."""
    validator = importlib.import_module("jsonschema_rs").validator_for(
        plain({"components": DOCUMENT["components"], "$ref": "#/components/schemas/TaskCallback"})
    )
    example_value = POST["requestBody"]["content"]["application/json"]["examples"][example]["value"]

    body, headers = callback_of(**terms)

    validator.validate(body)
    assert_alike(body, example_value)
    assert body.keys() == example_value.keys()
    assert body["data"].keys() == example_value["data"].keys()
    for parameter in POST["parameters"]:
        pattern = parameter["schema"].get("pattern", ".+")
        assert re.fullmatch(pattern, headers[parameter["name"]])


DIGEST = "b22d9c359f3991dc470643a4346de134a2065507821c2208df264d5fa57d1ff0"
"""SHA-256 of the description."""

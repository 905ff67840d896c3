"""Callbacks before they are sent: their bodies and their signatures."""

from __future__ import annotations

import json

import pytest

from apikley_async.simulator import Fault, Terms
from apikley_async.simulator.callbacks.signed_request import sign_callback, signature
from apikley_async.simulator.service.responses import ServiceResponse, notice

DATA = {
    "taskId": "task_1",
    "state": "success",
    "resultJson": '{"resultUrls": ["https://a.test/1"]}',
}
REPORT = ServiceResponse(
    payload={"code": 200, "msg": "Playground task completed successfully.", "data": DATA}
)
NOTICE = ServiceResponse(payload=notice(REPORT.payload))
STAMP, SIGNATURE = "X-Webhook-Timestamp", "X-Webhook-Signature"


def sent(fault=Fault.OK, *, report=REPORT, key="k", copy=0):
    return sign_callback(report, fault, task_id="task_1", key=key, now=1_700_000_000.9, copy=copy)


def body(fault=Fault.OK, **options):
    return json.loads(sent(fault, **options).body)


def test_the_signature_is_the_documented_one():
    """The published example: key `k`, task `task_1`, timestamp 1700000000 (W1)."""
    expected = "Nw5I95q8kb5C7+X6vNbQDOZ0Ag3wu9DVExZIxzoW4sM="

    assert signature("k", "task_1", "1700000000") == expected
    assert dict(sent().headers) == {
        "Content-Type": "application/json",
        STAMP: "1700000000",
        SIGNATURE: expected,
    }


@pytest.mark.parametrize(
    ("key", "fault"), [(None, Fault.OK), (None, Fault.WRONG_SIGNATURE), ("k", Fault.NO_SIGNATURE)]
)
def test_without_a_key_nothing_is_signed(key, fault):
    """There is neither a signature nor a timestamp."""
    assert dict(sent(fault, key=key).headers) == {"Content-Type": "application/json"}


def test_a_signature_can_be_wrong():
    """As long as a valid one, and made with another key (W1)."""
    wrong = dict(sent(Fault.WRONG_SIGNATURE).headers)

    assert wrong[STAMP] == "1700000000"
    assert len(wrong[SIGNATURE]) == len(signature("k", "task_1", "1700000000"))
    assert wrong[SIGNATURE] != dict(sent().headers)[SIGNATURE]


@pytest.mark.parametrize(
    ("fault", "stamp"),
    [
        (Fault.OLD_STAMP, "1699996400"),
        (Fault.stamped(-301), "1699999699"),
        (Fault.stamped(600), "1700000600"),
    ],
)
def test_a_timestamp_can_be_wrong_under_a_valid_signature(fault, stamp):
    """Too old, or in the future (W3, X5)."""
    headers = dict(sent(fault).headers)

    assert (headers[STAMP], headers[SIGNATURE]) == (stamp, signature("k", "task_1", stamp))


def test_a_body_can_be_forged_under_a_valid_signature():
    """The signature covers the id and the time, so anything else can be changed (W4)."""
    evil = sent(Fault.EVIL_BODY)
    data = json.loads(evil.body)["data"]

    assert dict(evil.headers) == dict(sent().headers)
    assert (data["taskId"], data["state"]) == ("task_1", "success")
    assert "169.254.169.254" in data["resultJson"]


@pytest.mark.parametrize("report", [REPORT, NOTICE], ids=["task", "notice"])
@pytest.mark.parametrize("fault", [Fault.OTHER_TASK, Fault.FOREIGN_ID], ids=str)
def test_a_callback_can_name_another_task(report, fault):
    """In every place with an id, and signed for that id (W5, W16)."""
    changed = sent(fault, report=report)
    payload = json.loads(changed.body)
    ids = {payload.get("taskId"), payload["data"].get("taskId"), payload["data"].get("task_id")}

    assert ids - {None} == {changed.task_id}
    assert changed.task_id != "task_1"
    assert dict(changed.headers)[SIGNATURE] == signature("k", changed.task_id, "1700000000")


def test_a_notice_reports_only_the_end():
    """The id is in other places, and there is neither a state nor a result (W16)."""
    assert body(Fault.BARE_NOTICE) == {
        "code": 200,
        "msg": "Success",
        "data": {"task_id": "task_1", "callbackType": "task_completed"},
        "taskId": "task_1",
    }
    assert Terms().callbacks == "task"


def test_a_second_copy_can_contradict_the_first():
    """The first reports the success, the second that the film is still being made (W6)."""
    assert Fault.RELAPSE.times == 2
    assert body(Fault.RELAPSE)["data"]["state"] == "success"
    assert body(Fault.RELAPSE, copy=1)["data"]["state"] == "generating"


def test_every_fault_can_strike_a_callback():
    """There is always a body, and a task that it is signed for (W11)."""
    failures = []
    for fault in Fault.presets().values():
        for report in (REPORT, NOTICE):
            request = sent(fault, report=report)
            labelled = "Content-Type" in dict(request.headers)
            if not (isinstance(request.body, bytes) and request.task_id):
                failures.append((str(fault), request))
            if labelled is (fault is Fault.UNLABELLED):
                failures.append((str(fault), request.headers))

    assert failures == []

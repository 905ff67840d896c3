"""Callbacks before they are sent: what they say, and how they are signed."""

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
SAID = ServiceResponse(
    payload={"code": 200, "msg": "Playground task completed successfully.", "data": DATA}
)
NOTICE = ServiceResponse(payload=notice(SAID.payload))
STAMP, SIGNATURE = "X-Webhook-Timestamp", "X-Webhook-Signature"


def sent(fault=Fault.OK, *, said=SAID, key="k", copy=0):
    return sign_callback(said, fault, task_id="task_1", key=key, now=1_700_000_000.9, copy=copy)


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
    """Neither a signature nor a timestamp is sent."""
    assert dict(sent(fault, key=key).headers) == {"Content-Type": "application/json"}


def test_a_signature_can_be_wrong():
    """As long as a true one, and made with another key (W1)."""
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
def test_a_timestamp_can_be_far_off_under_a_true_signature(fault, stamp):
    """Too old, or in the future (W3, X5)."""
    headers = dict(sent(fault).headers)

    assert (headers[STAMP], headers[SIGNATURE]) == (stamp, signature("k", "task_1", stamp))


def test_a_body_can_be_evil_under_a_true_signature():
    """The signature covers the id and the time, so the rest can be anything (W4)."""
    evil = sent(Fault.EVIL_BODY)
    data = json.loads(evil.body)["data"]

    assert dict(evil.headers) == dict(sent().headers)
    assert (data["taskId"], data["state"]) == ("task_1", "success")
    assert "169.254.169.254" in data["resultJson"]


@pytest.mark.parametrize("said", [SAID, NOTICE], ids=["task", "notice"])
@pytest.mark.parametrize("fault", [Fault.OTHER_TASK, Fault.FOREIGN_ID], ids=str)
def test_a_callback_can_speak_of_another_task(said, fault):
    """In every place where it has an id, and signed for that id (W5, W16)."""
    strange = sent(fault, said=said)
    payload = json.loads(strange.body)
    told = {payload.get("taskId"), payload["data"].get("taskId"), payload["data"].get("task_id")}

    assert told - {None} == {strange.task_id}
    assert strange.task_id != "task_1"
    assert dict(strange.headers)[SIGNATURE] == signature("k", strange.task_id, "1700000000")


def test_a_bare_notice_tells_no_more_than_the_end():
    """The id stands in other places, and there is neither a state nor a result (W16)."""
    assert body(Fault.BARE_NOTICE) == {
        "code": 200,
        "msg": "Success",
        "data": {"task_id": "task_1", "callbackType": "task_completed"},
        "taskId": "task_1",
    }
    assert Terms().callbacks == "task"


def test_what_comes_after_the_end_can_deny_it():
    """The first copy tells the truth, the second that the film is still being made (W6)."""
    assert Fault.RELAPSE.times == 2
    assert body(Fault.RELAPSE)["data"]["state"] == "success"
    assert body(Fault.RELAPSE, copy=1)["data"]["state"] == "generating"


@pytest.mark.parametrize("fault", Fault.presets().values(), ids=str)
@pytest.mark.parametrize("said", [SAID, NOTICE], ids=["task", "notice"])
def test_every_fault_can_befall_a_callback(said, fault):
    """Whatever becomes of the body, there is one, and a task it is signed for (W11)."""
    bent = sent(fault, said=said)

    assert isinstance(bent.body, bytes)
    assert bent.task_id
    assert ("Content-Type" in dict(bent.headers)) is (fault is not Fault.UNLABELLED)

"""Faults as values: what each does to a response, and which one strikes next."""

from __future__ import annotations

import copy
import itertools
import json

import pytest

from apikley_async.simulator import Fault, FaultSchedule, RandomFaults, ResponseDelivery, Throttle
from apikley_async.simulator.service.responses import ServiceResponse

CREATED = ServiceResponse(payload={"code": 200, "msg": "success", "data": {"taskId": "task_1"}})
RECORD = ServiceResponse(
    payload={
        "code": 200,
        "message": "success",
        "data": {
            "taskId": "task_1",
            "state": "generating",
            "resultJson": '{"resultUrls": ["https://a.example/1.mp4"]}',
        },
    }
)
PART = ServiceResponse(
    206,
    raw=b"456",
    content_type="video/mp4",
    headers=(("ETag", '"a"'), ("Last-Modified", "yesterday"), ("Content-Range", "bytes 4-6/10")),
)


def data(fault, response=RECORD):
    return json.loads(fault.apply(response).body)["data"]


def headers(fault):
    return dict(fault.apply(PART).headers)


# -- values ------------------------------------------------------------------------------------


def test_presets_have_different_names_and_values():
    """The ledger and scripts tell them apart, and they can be keys of a mix."""
    faults = Fault.presets()

    assert len({fault.name for fault in faults.values()}) == len(faults)
    assert len(set(faults.values())) == len(faults)
    assert faults["RESET_AFTER"] == Fault.RESET.after


def test_every_fault_can_be_applied_to_every_response():
    """Faults for another endpoint may do nothing; none raises, none edits its argument."""
    failures = []
    for fault in Fault.presets().values():
        for response in (None, CREATED, RECORD, PART):
            before = copy.deepcopy(response)
            try:
                body = fault.apply(response).body
            except Exception as error:  # noqa: BLE001 - listed like the others
                failures.append((str(fault), response, error))
                continue
            if not isinstance(body, bytes) or response != before:
                failures.append((str(fault), response))

    assert failures == []


def test_a_fault_strikes_before_or_after_processing():
    """A reset, a gateway's page and an empty response exist in both kinds."""
    assert not Fault.RESET.processed
    assert Fault.RESET_AFTER.processed
    assert Fault.EMPTY.processed
    assert not Fault.EMPTY.before.processed
    assert Fault.http(502).after == Fault.HTTP_502_AFTER
    assert Fault.RESET.after.name != Fault.RESET.name
    assert Fault.RESET_AFTER.after == Fault.RESET_AFTER


def test_any_code_can_be_in_the_body():
    """By default with HTTP 200, as the service does it, and nothing is processed."""
    for code in (*range(400, 456), 499, 500, 501, 505, 777):
        fault = Fault.code(code)
        response = fault.apply(None)

        assert not fault.processed
        assert response.status == 200
        assert json.loads(response.body)["code"] == code
        assert json.loads(response.body)["data"] is None
        assert Fault.code(code, "a message", status=400).apply(None).status == 400


def test_a_429_can_carry_the_id_of_a_paid_task():
    """The request was processed, the id is there, and the code refuses it."""
    answer = json.loads(Fault.ACCEPTED_429.apply(CREATED).body)

    assert Fault.ACCEPTED_429.processed
    assert answer == {"code": 429, "msg": "Rate limit exceeded", "data": {"taskId": "task_1"}}


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault.DATA_NULL, None),
        (Fault.DATA_EMPTY, {}),
        (Fault.DATA_LIST, []),
        (Fault.DATA_NUMBER, 42),
        (Fault.NO_TASK_ID, {}),
    ],
    ids=str,
)
def test_data_can_have_any_type(fault, expected):
    """Inside a correct envelope."""
    assert data(fault, CREATED) == expected


def test_the_envelope_can_be_odd():
    """Without a code, without data, not an object, not JSON."""
    assert "code" not in json.loads(Fault.NO_CODE.apply(CREATED).body)
    assert "data" not in json.loads(Fault.DATA_MISSING.apply(CREATED).body)
    assert isinstance(json.loads(Fault.BODY_LIST.apply(CREATED).body), list)
    assert len(Fault.HUGE.apply(CREATED).body) > 2_000_000
    assert Fault.EMPTY.apply(CREATED).body == b""
    with pytest.raises(json.JSONDecodeError):
        json.loads(Fault.MALFORMED.apply(CREATED).body)


@pytest.mark.parametrize(
    ("fault", "result"),
    [
        (Fault.RESULT_EMPTY, ""),
        (Fault.RESULT_NULL, None),
        (Fault.RESULT_OBJECT, {"resultUrls": ["https://a.example/1.mp4"]}),
        (Fault.NO_URLS, '{"resultUrls": []}'),
        (Fault.RESULT_MALFORMED, '{"resultUrls": ["https://a.example/1.mp4"'),
        (Fault.result_urls("file:///etc/hosts", 7), '{"resultUrls": ["file:///etc/hosts", 7]}'),
    ],
    ids=str,
)
def test_a_success_can_have_an_odd_result(fault, result):
    """The state is success whatever the task's own, and the result is unusable."""
    assert data(fault)["state"] == "success"
    assert data(fault)["resultJson"] == result


def test_a_result_can_be_encoded_twice_or_be_missing():
    """Both were seen in responses of services of this kind."""
    twice = json.loads(json.loads(data(Fault.RESULT_DOUBLE)["resultJson"]))

    assert twice == {"resultUrls": ["https://a.example/1.mp4"]}
    assert "resultJson" not in data(Fault.RESULT_MISSING)


def test_a_poll_can_report_wrong_facts():
    """About the state, the failure or the task it belongs to."""
    assert data(Fault.UNKNOWN_STATE)["state"] == "moderating"
    assert data(Fault.in_state("Generating "))["state"] == "Generating "
    assert data(Fault.FAIL_FOR_NOW)["state"] == "fail"
    assert data(Fault.OTHER_TASK)["taskId"] != "task_1"
    assert "\x1b" in data(Fault.ANSI_MESSAGE)["failMsg"]
    assert json.loads(Fault.NOT_FOUND.apply(None).body)["msg"] == "recordInfo is null"


def test_a_redirect_leads_to_the_given_url():
    """With the given status; the request is not processed."""
    fault = Fault.redirect(307, "http://127.0.0.1:9/elsewhere")

    response = fault.apply(None)

    assert (fault.processed, response.status) == (False, 307)
    assert dict(response.headers)["Location"] == "http://127.0.0.1:9/elsewhere"


def test_a_part_of_a_file_can_be_mislabelled():
    """Another offset, another total, no validator or a weak one, half of the bytes."""
    assert headers(Fault.WRONG_RANGE)["Content-Range"] == "bytes 3-6/10"
    assert Fault.WRONG_RANGE.apply(PART).body == b"?456"
    assert headers(Fault.WRONG_TOTAL)["Content-Range"] == "bytes 4-6/11"
    assert "ETag" not in headers(Fault.NO_VALIDATORS)
    assert headers(Fault.WEAK_VALIDATOR)["ETag"] == 'W/"a"'
    assert Fault.SHORT.apply(PART).body == b"4"


# -- scripts -----------------------------------------------------------------------------------


def test_a_script_is_taken_step_by_step():
    """Words among the steps of "record" are states; after the last step there is no fault."""
    schedule = FaultSchedule()
    schedule.script("record", ["waiting", Fault.RESET, "success"])

    steps = [schedule.next("record") for _ in range(4)]

    assert steps == [Fault.in_state("waiting"), Fault.RESET, Fault.in_state("success"), Fault.OK]


def test_scripts_are_queued_for_each_endpoint():
    """A second script begins where the first ends."""
    schedule = FaultSchedule()
    schedule.script("create", [Fault.HANG])
    schedule.script("create", (Fault.CLOSE, Fault.RESET))

    assert schedule.next("record") is Fault.OK
    taken = [schedule.next("create") for _ in range(4)]
    assert taken == [Fault.HANG, Fault.CLOSE, Fault.RESET, Fault.OK]


def test_a_script_for_one_task_comes_before_the_script_for_all():
    """Requests about other tasks do not take its steps."""
    schedule = FaultSchedule()
    schedule.script("record", [Fault.RESET], task_id="task_1")
    schedule.script("record", [Fault.HANG])

    assert schedule.next("record", "task_2") == Fault.HANG
    assert schedule.next("record", "task_1") == Fault.RESET
    assert schedule.next("record", "task_1") == Fault.OK


def test_an_endless_script_ends_when_it_is_cleared():
    """An outage lasts until the scripts are cleared."""
    schedule = FaultSchedule()
    schedule.script("record", itertools.repeat(Fault.HTTP_503))

    assert [schedule.next("record") for _ in range(50)] == [Fault.HTTP_503] * 50
    schedule.clear()
    assert schedule.next("record") is Fault.OK


@pytest.mark.parametrize(
    ("endpoint", "steps"),
    [("create", ["waiting"]), ("nowhere", [Fault.OK]), ("record", "waiting")],
)
def test_an_invalid_script_is_refused(endpoint, steps):
    """At once, and not during a request."""
    with pytest.raises(ValueError, match=r"create|endpoint|steps"):
        FaultSchedule().script(endpoint, steps)


# -- random faults -----------------------------------------------------------------------------


def draws(faults, endpoint="create", n=1000):
    return [faults.draw(endpoint) for _ in range(n)]


def test_faults_strike_as_often_as_their_share():
    """The other requests meet none."""
    drawn = draws(RandomFaults(seed=1, create={Fault.RESET: 0.1, Fault.HANG: 0.3}), n=4000)

    assert 320 < drawn.count(Fault.RESET) < 480
    assert 1080 < drawn.count(Fault.HANG) < 1320
    assert drawn.count(Fault.OK) == 4000 - drawn.count(Fault.RESET) - drawn.count(Fault.HANG)


def test_each_endpoint_has_a_generator_of_its_own():
    """The number of polls does not change what happens to creations."""
    mix = {Fault.RESET: 0.5}
    quiet, busy = (
        RandomFaults(seed=7, create=mix, record=mix),
        RandomFaults(seed=7, create=mix, record=mix),
    )
    draws(busy, "record", 13)

    assert draws(quiet) == draws(busy)
    assert draws(RandomFaults(seed=8, create=mix)) != draws(RandomFaults(seed=7, create=mix))


def test_random_faults_can_end():
    """A proof that everything ends well needs a last fault."""
    faults = RandomFaults(until=60, record={Fault.RESET: 1.0})

    assert faults.draw("record", 59.9) == Fault.RESET
    assert faults.draw("record", 60.0) == Fault.OK


@pytest.mark.parametrize("mix", [{Fault.RESET: 1.1}, {Fault.RESET: -0.1}])
def test_invalid_shares_are_refused(mix):
    """Negative ones, and those that add up to more than 1."""
    with pytest.raises(ValueError, match="shares"):
        RandomFaults(create=mix)


def test_scripts_come_before_random_faults():
    """Random faults strike when a script has ended."""
    schedule = FaultSchedule(RandomFaults(record={Fault.RESET: 1.0}))
    schedule.script("record", [Fault.OK])

    assert [schedule.next("record") for _ in range(2)] == [Fault.OK, Fault.RESET]


def test_deliveries_and_throttles_have_descriptions():
    """Their values are phrases, for lists."""
    assert all(" " in kind.value for kind in (*ResponseDelivery, *Throttle))


# -- names -------------------------------------------------------------------------------------


def test_every_preset_can_be_named():
    """By its name in Python or in the ledger, in any case."""
    spellings = {
        text: fault
        for name, fault in Fault.presets().items()
        for text in (name, name.lower(), name.replace("_", "-"), name.replace("_", " "), str(fault))
    }

    assert {text: Fault.named(text) for text in spellings} == spellings


NAMED = [
    ("code 402", Fault.code(402)),
    ("code 422 no such record", Fault.code(422, "no such record")),
    ("http 502", Fault.http(502)),
    ("http 502, after", Fault.HTTP_502_AFTER),
    ("empty, before", Fault.EMPTY.before),
    ("late 2.5", Fault.late(2.5)),
    ("late 2.5 s", Fault.late(2.5)),
    ("queued 300", Fault.queued(300)),
    ("slow 5", Fault.slow(5)),
    ("stamped -600", Fault.stamped(-600)),
    ("throttled date 30", Fault.throttled(Throttle.DATE, 30)),
    ("throttled html", Fault.throttled(Throttle.HTML)),
    ("redirect 307 http://127.0.0.1:9/", Fault.redirect(307, "http://127.0.0.1:9/")),
    ("state moderating", Fault.in_state("moderating")),
    ("urls file:///etc/hosts", Fault.result_urls("file:///etc/hosts")),
    ("id ../{}", Fault.created_as("../{}")),
]


def test_a_constructor_can_be_named_with_its_arguments():
    """For files and command lines."""
    assert [(text, Fault.named(text)) for text, _ in NAMED] == NAMED


@pytest.mark.parametrize(
    "text",
    ["", " ", "nonsense", "code", "code x", "queued", "state a b", "reset, later", "no such"],
)
def test_an_unknown_name_is_refused(text):
    """The message repeats it."""
    with pytest.raises(ValueError, match="no such fault"):
        Fault.named(text)


def test_random_faults_can_be_described_by_names():
    """They equal those of values, and can be restarted."""
    named = RandomFaults.named({"create": {"reset": 0.2, "code 500": 0.2}}, seed=5, until=60)
    valued = RandomFaults(seed=5, until=60, create={Fault.RESET: 0.2, Fault.code(500): 0.2})

    first = draws(named)
    assert first == draws(valued)
    assert first == draws(named.restarted())
    with pytest.raises(ValueError, match="endpoint"):
        RandomFaults.named({"nowhere": {}})


def test_any_number_of_scripts_can_be_queued():
    """Thousands of single steps are taken like one long script."""
    schedule = FaultSchedule()
    for n in range(20_000):
        schedule.script("record", [Fault.late(n)])

    assert [schedule.next("record").delay for _ in range(20_001)] == [*range(20_000), 0]

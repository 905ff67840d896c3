"""What can go wrong, as values: what each fault does to an answer, and who is next."""

from __future__ import annotations

import itertools
import json

import attrs
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


def data(fault, answer=RECORD):
    return json.loads(fault.apply(answer).body)["data"]


def headers(fault):
    return dict(fault.apply(PART).headers)


# -- values ------------------------------------------------------------------------------------


def test_every_ready_made_fault_has_a_name_of_its_own():
    """Books and scripts can tell them apart, and a mix can hold them as keys."""
    faults = Fault.presets()

    assert len({fault.name for fault in faults.values()}) == len(faults)
    assert len(set(faults.values())) == len(faults)
    assert faults["RESET_AFTER"] == Fault.RESET.after


@pytest.mark.parametrize("fault", Fault.presets().values(), ids=str)
@pytest.mark.parametrize("answer", [None, CREATED, RECORD, PART], ids=["none", "c", "r", "part"])
def test_every_fault_can_bend_every_answer(fault, answer):
    """Faults meant for another endpoint do nothing worse than nothing; none raises."""
    before = attrs.evolve(answer) if answer else None
    bent = fault.apply(answer)

    assert isinstance(bent.body, bytes)
    assert answer == before


def test_a_fault_can_strike_before_or_after_the_deed():
    """A reset, a gateway page and an empty answer exist in both kinds."""
    assert not Fault.RESET.processed
    assert Fault.RESET_AFTER.processed
    assert Fault.EMPTY.processed
    assert not Fault.EMPTY.before.processed
    assert Fault.http(502).after == Fault.HTTP_502_AFTER
    assert Fault.RESET.after.name != Fault.RESET.name
    assert Fault.RESET_AFTER.after == Fault.RESET_AFTER


@pytest.mark.parametrize(
    "code",
    [
        *(400, 401, 402, 403, 404, 405, 408, 409, 413, 422, 425, 429, 430, 431, 433),
        *(451, 455, 499, 500, 501, 505, 777),
    ],
)
def test_any_code_can_stand_in_the_body(code):
    """By default with HTTP 200, as the service does it, and with nothing done."""
    fault = Fault.code(code)
    answer = fault.apply(None)

    assert not fault.processed
    assert answer.status == 200
    assert json.loads(answer.body)["code"] == code
    assert json.loads(answer.body)["data"] is None
    assert Fault.code(code, "so there", status=400).apply(None).status == 400


def test_a_throttling_can_carry_the_id_of_a_paid_task():
    """The deed is done, the id is there, and the code says no."""
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
    """The envelope is well, what is inside is not."""
    assert data(fault, CREATED) == expected


def test_the_envelope_itself_can_be_odd():
    """No code, no data, not even an object; not even JSON."""
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
    """The state says success whatever the task is at, and the result is of no use."""
    assert data(fault)["state"] == "success"
    assert data(fault)["resultJson"] == result


def test_a_result_can_be_encoded_twice_or_be_missing():
    """Both were seen in answers of this family of services."""
    twice = json.loads(json.loads(data(Fault.RESULT_DOUBLE)["resultJson"]))

    assert twice == {"resultUrls": ["https://a.example/1.mp4"]}
    assert "resultJson" not in data(Fault.RESULT_MISSING)


def test_a_record_can_lie():
    """About the state, the failure or the task it belongs to."""
    assert data(Fault.UNKNOWN_STATE)["state"] == "moderating"
    assert data(Fault.in_state("Generating "))["state"] == "Generating "
    assert data(Fault.FAIL_FOR_NOW)["state"] == "fail"
    assert data(Fault.OTHER_TASK)["taskId"] != "task_1"
    assert "\x1b" in data(Fault.ANSI_MESSAGE)["failMsg"]
    assert json.loads(Fault.NOT_FOUND.apply(None).body)["msg"] == "recordInfo is null"


def test_a_redirect_leads_where_it_is_told():
    """With the status and the place of one's choice, nothing being done here."""
    fault = Fault.redirect(307, "http://127.0.0.1:9/elsewhere")

    answer = fault.apply(None)

    assert (fault.processed, answer.status) == (False, 307)
    assert dict(answer.headers)["Location"] == "http://127.0.0.1:9/elsewhere"


def test_part_of_a_file_can_be_mislabelled():
    """Another offset, another total, no validator or a weak one, half of the bytes."""
    assert headers(Fault.WRONG_RANGE)["Content-Range"] == "bytes 3-6/10"
    assert Fault.WRONG_RANGE.apply(PART).body == b"?456"
    assert headers(Fault.WRONG_TOTAL)["Content-Range"] == "bytes 4-6/11"
    assert "ETag" not in headers(Fault.NO_VALIDATORS)
    assert headers(Fault.WEAK_VALIDATOR)["ETag"] == 'W/"a"'
    assert Fault.SHORT.apply(PART).body == b"4"


# -- scripts -----------------------------------------------------------------------------------


def test_a_script_is_played_step_by_step_then_all_is_well():
    """Words among the steps of "record" are states."""
    director = FaultSchedule()
    director.script("record", ["waiting", Fault.RESET, "success"])

    steps = [director.next("record") for _ in range(4)]

    assert steps == [Fault.in_state("waiting"), Fault.RESET, Fault.in_state("success"), Fault.OK]


def test_scripts_add_up_and_leave_other_endpoints_alone():
    """A second script begins where the first ends."""
    director = FaultSchedule()
    director.script("create", [Fault.HANG])
    director.script("create", (Fault.CLOSE, Fault.RESET))

    assert director.next("record") is Fault.OK
    played = [director.next("create") for _ in range(4)]
    assert played == [Fault.HANG, Fault.CLOSE, Fault.RESET, Fault.OK]


def test_a_script_for_one_task_comes_before_the_script_for_all():
    """Requests about other tasks do not use it up."""
    director = FaultSchedule()
    director.script("record", [Fault.RESET], task_id="task_1")
    director.script("record", [Fault.HANG])

    assert director.next("record", "task_2") == Fault.HANG
    assert director.next("record", "task_1") == Fault.RESET
    assert director.next("record", "task_1") == Fault.OK


def test_an_endless_script_ends_when_it_is_cleared():
    """An outage lasts until somebody says that it is over."""
    director = FaultSchedule()
    director.script("record", itertools.repeat(Fault.HTTP_503))

    assert [director.next("record") for _ in range(50)] == [Fault.HTTP_503] * 50
    director.clear()
    assert director.next("record") is Fault.OK


@pytest.mark.parametrize(
    ("endpoint", "steps"),
    [("create", ["waiting"]), ("nowhere", [Fault.OK]), ("record", "waiting")],
)
def test_a_script_that_makes_no_sense_is_refused(endpoint, steps):
    """At once, not in the middle of a request."""
    with pytest.raises(ValueError, match=r"create|endpoint|steps"):
        FaultSchedule().script(endpoint, steps)


# -- chance ------------------------------------------------------------------------------------


def draws(faults, endpoint="create", n=1000):
    return [faults.draw(endpoint) for _ in range(n)]


def test_faults_come_as_often_as_their_share_says():
    """And requests are well in between."""
    drawn = draws(RandomFaults(seed=1, create={Fault.RESET: 0.1, Fault.HANG: 0.3}), n=4000)

    assert 320 < drawn.count(Fault.RESET) < 480
    assert 1080 < drawn.count(Fault.HANG) < 1320
    assert drawn.count(Fault.OK) == 4000 - drawn.count(Fault.RESET) - drawn.count(Fault.HANG)


def test_each_endpoint_has_dice_of_its_own():
    """How often somebody looks does not change what happens to creations."""
    mix = {Fault.RESET: 0.5}
    quiet, busy = (
        RandomFaults(seed=7, create=mix, record=mix),
        RandomFaults(seed=7, create=mix, record=mix),
    )
    draws(busy, "record", 13)

    assert draws(quiet) == draws(busy)
    assert draws(RandomFaults(seed=8, create=mix)) != draws(RandomFaults(seed=7, create=mix))


def test_after_a_while_nothing_goes_wrong_any_more():
    """Whoever proves that all ends well needs a last fault."""
    faults = RandomFaults(until=60, record={Fault.RESET: 1.0})

    assert faults.draw("record", 59.9) == Fault.RESET
    assert faults.draw("record", 60.0) == Fault.OK


@pytest.mark.parametrize("mix", [{Fault.RESET: 1.1}, {Fault.RESET: -0.1}])
def test_shares_are_shares(mix):
    """They are not negative and do not exceed the whole."""
    with pytest.raises(ValueError, match="shares"):
        RandomFaults(create=mix)


def test_scripts_go_before_chance():
    """Chance takes over when a script has been played."""
    director = FaultSchedule(RandomFaults(record={Fault.RESET: 1.0}))
    director.script("record", [Fault.OK])

    assert [director.next("record") for _ in range(2)] == [Fault.OK, Fault.RESET]


def test_deliveries_and_throttlings_describe_themselves():
    """Their values are sentences for whoever lists them."""
    assert all(" " in kind.value for kind in (*ResponseDelivery, *Throttle))


# -- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "fault"), Fault.presets().items())
def test_every_ready_made_fault_can_be_named(name, fault):
    """As it is called in Python or in the books, in any case."""
    for text in (name, name.lower(), name.replace("_", "-"), name.replace("_", " "), str(fault)):
        assert Fault.named(text) == fault


@pytest.mark.parametrize(
    ("text", "fault"),
    [
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
    ],
)
def test_a_maker_can_be_named_with_its_arguments(text, fault):
    """For files and command lines."""
    assert Fault.named(text) == fault


@pytest.mark.parametrize(
    "text",
    ["", " ", "nonsense", "code", "code x", "queued", "state a b", "reset, later", "no such"],
)
def test_a_name_of_nothing_is_refused(text):
    """And the message repeats it."""
    with pytest.raises(ValueError, match="no such fault"):
        Fault.named(text)


def test_chance_can_be_described_in_names():
    """It is the same as in values, and can begin again."""
    named = RandomFaults.named({"create": {"reset": 0.2, "code 500": 0.2}}, seed=5, until=60)
    valued = RandomFaults(seed=5, until=60, create={Fault.RESET: 0.2, Fault.code(500): 0.2})

    first = draws(named)
    assert first == draws(valued)
    assert first == draws(named.restarted())
    with pytest.raises(ValueError, match="endpoint"):
        RandomFaults.named({"nowhere": {}})


def test_scripts_add_up_in_any_number():
    """Thousands of single steps are played as one long script."""
    director = FaultSchedule()
    for n in range(20_000):
        director.script("record", [Fault.late(n)])

    assert [director.next("record").delay for _ in range(20_001)] == [*range(20_000), 0]

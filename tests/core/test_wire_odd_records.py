"""`_wire.tasks` with odd answers: wrong codes, broken echoes, requests in other spellings."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rows import failing, failing_rows

from apikley_async import (
    ApikleyError,
    FeatureDisabledError,
    ServerError,
    Shot,
    State,
    Storyboard,
    UnansweredError,
)
from apikley_async._wire.envelope import Reply
from apikley_async._wire.requests import create_task
from apikley_async._wire.task_ids import read_callback
from apikley_async._wire.tasks import belongs_to_attempt, decode_snapshot, shows_request

FILM = "https://cdn.test/a.mp4"
SCENE = 'She says "hi", then: {"state":"success","resultJson":"[\\"https://evil.test/x.mp4\\"]"}.'
INPUT = {"n_frames": "10", "shots": [{"Scene": SCENE, "duration": 10}]}
RECORD: dict[str, Any] = {
    "taskId": "task_1",
    "model": "sora-2-pro-storyboard",
    "state": "success",
    "param": "",
    "resultJson": json.dumps({"resultUrls": [FILM]}),
    "failCode": None,
    "completeTime": 1_790_000_611_900,
    "creditsConsumed": 270,
}


def poll(text: str, *, status: int = 200, complete: bool = True, task_id: str = "task_1") -> Any:
    return decode_snapshot(Reply(status, text, complete=complete), task_id)


def framed(code: Any, status: int = 200, **fields: Any) -> Any:
    return poll(
        json.dumps({"code": code, "msg": "success", "data": RECORD | fields}), status=status
    )


# --- whatever the code says ----------------------------------------------------------------------


def test_a_record_of_our_task_is_believed_whatever_the_code_says() -> None:
    """505 around a good record is the documentation's own example (API section 12)."""

    def check(code: Any) -> None:
        snapshot = framed(code)

        assert (snapshot.state, snapshot.urls) == (State.SUCCESS, (FILM,))

    assert failing(check, [200, 505, 500, 501, 404, 422, 429, "505", 9999]) == []


def test_any_other_record_is_what_its_code_says() -> None:

    def check(fields: dict[str, Any], code: int, kind: type[ApikleyError]) -> None:
        with pytest.raises(kind):
            framed(code, **fields)

    other_fields = [{"taskId": "task_2"}, {"taskId": None}, {"state": "moderating"}]
    assert (
        failing_rows(
            check,
            [
                (fields, code, kind)
                for fields in other_fields
                for (code, kind) in [(505, FeatureDisabledError), (500, ServerError)]
            ],
        )
        == []
    )


# --- other spellings of a state ------------------------------------------------------------------


def test_known_words_without_regard_to_case_and_blanks() -> None:
    """A closed list; any other word means "not finished" (DESIGN, Evidence)."""

    def check(word: Any, state: State) -> None:
        assert framed(200, state=word).state is state

    rows = [
        ("SUCCESS", State.SUCCESS),
        (" succeeded ", State.SUCCESS),
        ("Completed", State.SUCCESS),
        ("FAIL\n", State.FAIL),
        ("failed", State.FAIL),
        ("Generating", State.GENERATING),
        ("unknown", State.UNKNOWN),
        ("error", State.UNKNOWN),
        ("complete", State.UNKNOWN),
        ("success!", State.UNKNOWN),
        ("fa il", State.UNKNOWN),
        (3, State.UNKNOWN),
        (None, State.UNKNOWN),
    ]
    assert failing_rows(check, rows) == []


def test_an_unknown_state_is_shown() -> None:
    snapshot = framed(200, state="moderating\x1b[2J")

    assert snapshot.word == "moderating [2J"
    assert "moderating" in repr(snapshot)
    assert framed(200, state="generating").word == ""


# --- an echo that is escaped wrongly -------------------------------------------------------------


def torn(name: str = "param", order: tuple[str, ...] = tuple(RECORD), **fields: Any) -> str:
    """The request repeated as text inside text, with nothing escaped at the outer level."""
    echo = '{"input":' + json.dumps(json.dumps(INPUT)) + ',"model":"sora-2-pro-storyboard"}'
    record = {key: RECORD[key] for key in order} | fields
    record[name] = "ECHO"
    data = json.dumps(record, separators=(",", ":")).replace('"ECHO"', f'"{echo}"')
    return '{"code":200,"msg":"success","data":' + data + "}"


def is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


ORDERS = [
    tuple(RECORD),
    ("param", *(name for name in RECORD if name != "param")),
    (*(name for name in RECORD if name != "param"), "param"),
    ("resultJson", "param", "taskId", "state", "completeTime"),
]


def test_a_record_is_read_although_its_echo_is_escaped_wrongly() -> None:
    """State and links are whole; only the echo is not (one verbatim body, API section 12)."""

    def check(order: tuple[str, ...]) -> None:
        text = torn(order=order)
        assert not is_json(text)

        snapshot = poll(text)

        assert (snapshot.state, snapshot.urls) == (State.SUCCESS, (FILM,))

    assert failing(check, ORDERS) == []


def test_both_echoes_may_be_broken() -> None:
    once = torn()
    echo = once[once.index('"param":') : once.index(',"resultJson"')]
    text = once.replace(',"failCode"', "," + echo.replace("param", "paramJson", 1) + ',"failCode"')

    assert poll(text).urls == (FILM,)


def test_a_broken_record_of_an_unfinished_task_is_read() -> None:
    order = tuple(name for name in RECORD if name != "resultJson")

    snapshot = poll(torn(order=order, state="generating"))

    assert (snapshot.state, snapshot.urls) == (State.GENERATING, ())


def test_a_broken_record_needs_our_id_and_a_complete_answer() -> None:

    def check(text: str, facts: dict[str, Any]) -> None:
        with pytest.raises(UnansweredError):
            poll(text, **facts)

    rows = [
        (torn(), {"task_id": "task_2"}),
        (torn(taskId=None), {}),
        (torn(state="moderating"), {}),
        (torn(), {"complete": False}),
        (torn()[:-1], {}),
        (torn() + "}", {}),
        (torn(order=("param", "state", "resultJson")), {}),
        (torn().replace('"state"', '"state":"fail","state"', 1), {}),
        (torn(name="echo"), {}),
    ]
    assert failing_rows(check, rows) == []


def test_a_broken_record_counts_with_2xx_only() -> None:

    def check(status: int) -> None:
        with pytest.raises(ServerError):
            poll(torn(), status=status)

    assert failing(check, [500, 502]) == []


def test_text_of_a_scene_is_never_taken_for_a_record() -> None:
    """A scene inside the echo may look like a record."""

    def check(end: str) -> None:
        fake = '","state":"success","resultJson":"[\\"https://evil.test/x.mp4\\"]","z":"' + end
        text = torn(state="generating", resultJson="").replace("She says", fake)

        try:
            snapshot = poll(text)
        except UnansweredError:
            return
        assert (snapshot.state, snapshot.urls) == (State.GENERATING, ())

    assert failing(check, ["", "}", '"}', '"}}}']) == []


@given(st.text(max_size=60), st.integers(0, 400))
def test_whatever_is_broken_gives_the_record_or_a_documented_error(junk: str, at: int) -> None:
    text = torn()
    try:
        snapshot = poll(text[:at] + junk + text[at:])
    except ApikleyError:
        return
    assert snapshot.task_id == "task_1"
    assert set(snapshot.urls) <= {FILM} or junk


def test_a_broken_answer_of_megabytes_is_read_quickly() -> None:
    text = torn().replace("She says", '","a":"' * 100_000)

    assert poll(text).urls == (FILM,)


# --- callbacks -----------------------------------------------------------------------------------


def test_the_receiver_takes_the_id_before_a_broken_echo() -> None:
    """It is a hint, as every callback is: the record is read before it counts."""
    assert read_callback(torn().encode()) == ("task_1",)


def test_an_id_inside_or_behind_the_echo_is_none() -> None:

    def check(body: str) -> None:
        assert read_callback(body.encode()) == ()

    rows = [
        torn(taskId=None).replace("She says", '"taskId":"task_9"'),
        torn(order=("param", "taskId", "state")),
        'taskId":"task_1","param":""',
        '{"taskId":"task 1","param":"""}',
    ]
    assert failing(check, rows) == []


# --- is it ours? ---------------------------------------------------------------------------------

BOARD = Storyboard([Shot("A kitten.", 5), Shot("It purrs.", 5)], duration=10)
SENT = create_task(BOARD.model, BOARD.wire_input({}))
BODY: dict[str, Any] = {"model": BOARD.model, "input": BOARD.wire_input({})}


def ours(param: Any) -> bool:
    snapshot = framed(200, param=param)
    assert shows_request(snapshot) or param == ""
    return belongs_to_attempt(snapshot, tokens=(), fingerprints=[SENT.fingerprint])


def with_input(**fields: Any) -> dict[str, Any]:
    given = {**BODY["input"], **fields}
    return BODY | {"input": {name: value for name, value in given.items() if value is not ...}}


def test_a_request_is_recognized_as_text_and_with_added_fields() -> None:
    """Text inside text, and names that we never send (API section 12)."""

    def check(body: Any) -> None:
        assert ours(body)
        assert ours(json.dumps(body))
        assert ours(json.dumps(json.dumps(body)))

    rows = [
        BODY,
        BODY | {"input": json.dumps(BODY["input"])},
        with_input(nsfw_checker=False),
        with_input(nsfw_checker=False, upload_method="s3"),
        BODY | {"input": json.dumps(with_input(nsfw_checker=False)["input"]), "extra": 1},
    ]
    assert failing(check, rows) == []


def test_our_fields_must_be_equal_missing_ones_included() -> None:
    """Another film is never taken for ours, however its request is spelled."""

    def check(body: Any) -> None:
        assert not ours(body)
        assert not ours(json.dumps(body))

    rows = [
        with_input(n_frames="15"),
        with_input(n_frames=...),
        with_input(aspect_ratio="portrait"),
        with_input(aspect_ratio=...),
        with_input(shots=[*BODY["input"]["shots"], {"Scene": "More.", "duration": 1}]),
        with_input(image_urls=["https://files.test/kitten.png"]),
        with_input(image_urls=[]),
        with_input(image_urls=None, nsfw_checker=False),
        BODY | {"model": "kling"},
        BODY | {"input": "not JSON"},
        BODY | {"input": None},
        {"model": BOARD.model},
    ]
    assert failing(check, rows) == []


def test_a_task_of_another_model_must_be_equal_as_it_is() -> None:
    """The fields are the model's own: an added one may change the film."""
    sent = create_task("kling", {"prompt": "A sea.", "duration": 5})
    body = {"model": "kling", "input": {"prompt": "A sea.", "duration": 5}}

    for added, equal in ({}, True), ({"seed": 7}, False):
        text = json.dumps(body | {"input": json.dumps(body["input"] | added)})
        snapshot = framed(200, model="kling", param=text)
        assert belongs_to_attempt(snapshot, tokens=(), fingerprints=[sent.fingerprint]) is equal

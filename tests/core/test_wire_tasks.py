"""`_wire.tasks`: a record becomes a snapshot, and is compared with what was submitted."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from replies import (
    FILM,
    HTML,
    HUGE,
    TREES,
    WALL,
    answer,
    enveloped,
    request_for,
)
from rows import failing, failing_rows
from volume import volume

from apikley_async import (
    ApikleyError,
    AuthenticationError,
    InvalidRequestError,
    JobFailedError,
    MaintenanceError,
    ModelTask,
    NotFoundError,
    RateLimitError,
    ServerError,
    Snapshot,
    State,
    UnansweredError,
)
from apikley_async._wire.envelope import (
    Reply,
)
from apikley_async._wire.tasks import belongs_to_attempt, decode_snapshot

RECORD = {
    "taskId": "task_1",
    "model": "sora-2-pro-storyboard",
    "state": "success",
    "param": '{"callBackUrl": "https://h.test/?token=canary"}',
    "resultJson": json.dumps({"resultUrls": [FILM]}),
    "failCode": "",
    "failMsg": "",
    "createTime": 1_790_000_000_001,
    "updateTime": 1_790_000_611_950,
    "completeTime": 1_790_000_611_900,
    "costTime": 611_899,
    "progress": 100,
    "creditsConsumed": 270,
}


def poll(reply: Reply) -> Snapshot:
    return decode_snapshot(reply, "task_1", wall=WALL)


def record(**fields: Any) -> Snapshot:
    return poll(enveloped(data=RECORD | fields))


# --- recordInfo -----------------------------------------------------------------------------------


def test_the_documented_answer_is_read() -> None:
    """Every field of API section 5 has its place; everything stays in `raw`."""
    assert record() == Snapshot(
        task_id="task_1",
        state=State.SUCCESS,
        model="sora-2-pro-storyboard",
        progress=100.0,
        urls=(FILM,),
        content={"resultUrls": [FILM]},
        credits=270.0,
        created_at=datetime(2026, 9, 21, 14, 13, 20, 1000, tzinfo=UTC),
        updated_at=datetime(2026, 9, 21, 14, 23, 31, 950_000, tzinfo=UTC),
        completed_at=datetime(2026, 9, 21, 14, 23, 31, 900_000, tzinfo=UTC),
        raw=RECORD,
    )


def test_the_least_answer_is_read() -> None:
    """Before success most fields are null or absent."""
    assert poll(enveloped(data={"state": "waiting"})) == Snapshot(
        "task_1", State.WAITING, raw={"state": "waiting"}
    )


def test_an_unknown_state_is_not_final() -> None:
    """The word stays in `raw` (P4)."""

    def check(word: Any, state: State) -> None:
        snapshot = record(state=word)

        assert snapshot.state is state
        assert snapshot.raw["state"] == word

    rows = [
        ("waiting", State.WAITING),
        ("queuing", State.QUEUING),
        ("generating", State.GENERATING),
        ("success", State.SUCCESS),
        ("fail", State.FAIL),
        ("moderating", State.UNKNOWN),
        ("", State.UNKNOWN),
        (None, State.UNKNOWN),
        (3, State.UNKNOWN),
        (True, State.UNKNOWN),
        (["success"], State.UNKNOWN),
        ({"name": "fail"}, State.UNKNOWN),
    ]
    assert failing_rows(check, rows) == []


def test_a_result_is_decoded_in_every_form() -> None:
    """JSON in a string once or twice, an object, with a mark or NaN in it (P6)."""

    def check(value: Any) -> None:
        snapshot = record(resultJson=value)

        assert snapshot.urls == (FILM,)
        assert snapshot.result().urls == (FILM,)

    rows = [
        {"resultUrls": [FILM]},
        json.dumps({"resultUrls": [FILM]}),
        json.dumps(json.dumps({"resultUrls": [FILM]})),
        "\ufeff" + json.dumps({"resultUrls": [FILM]}),
        '{"n": NaN, "n": Infinity, "resultUrls": ["' + FILM + '"]}',
        {"resultUrls": FILM},
        {"resultUrls": [None, 5, "", FILM, "relative.mp4"]},
        {"resultUrls": [FILM], "resultWaterMarkUrls": ["https://cdn.test/mark.mp4"]},
    ]
    assert failing(check, rows) == []


def test_a_success_without_a_link_is_empty() -> None:
    """It is read, and nothing raises (P5, P6)."""

    def check(value: Any) -> None:
        snapshot = record(resultJson=value)

        assert snapshot.state is State.SUCCESS
        assert snapshot.empty

    rows = [
        "",
        None,
        "null",
        "{}",
        {},
        [],
        "[]",
        5,
        True,
        "broken {",
        '{"resultUrls": [',
        {"resultUrls": []},
        {"resultUrls": None},
        {"resultUrls": {}},
        {"resultUrls": [["https://cdn.test/a.mp4"]]},
        {"resultUrls": [], "character_id": "c_1"},
        json.dumps(json.dumps(json.dumps({"resultUrls": [FILM]}))),
        "[" * 5000,
    ]
    assert failing(check, rows) == []


def test_a_result_of_another_kind_is_no_empty_film() -> None:
    """Other models answer with other things: what came is the result."""

    def check(value: Any) -> None:
        snapshot = record(model="kling-2.6/text-to-video", resultJson=value)

        assert not snapshot.empty
        assert snapshot.result().raw == snapshot.content != {}

    assert failing(check, [{"resultObject": {"a": 1}}, '{"character_id": "c_1"}']) == []


def test_a_link_that_should_not_be_followed_is_left_out() -> None:
    """It stays in `raw` and in `content`, for a person to see (P7)."""

    def check(url: Any) -> None:
        snapshot = record(resultJson={"resultUrls": [url, FILM]})

        assert snapshot.urls == (FILM,)
        assert snapshot.content["resultUrls"] == [url, FILM]

    rows = [
        "relative/film.mp4",
        "//cdn.test/film.mp4",
        "file:///etc/passwd",
        "ftp://cdn.test/film.mp4",
        "javascript:alert(1)",
        "data:video/mp4;base64,AAAA",
        "https://user:word@cdn.test/film.mp4",
        "https://cdn .test/ab.mp4",
        "https://cdn.test/\x1b[31m.mp4",
        "https://cdn.test/" + "x" * 100_000,
        "https://",
        "https://[::1/film.mp4",
        5,
        None,
        {"url": FILM},
    ]
    assert failing(check, rows) == []


def test_every_link_is_kept_in_its_order() -> None:
    """More than one is a result of several files (P8)."""
    links = [f"https://cdn.test/{name}.mp4" for name in "cab"]

    assert record(resultJson={"resultUrls": links}).urls == tuple(links)


def test_a_link_in_another_script_is_a_link() -> None:
    assert record(resultJson={"resultUrls": ["https://тест.test/ф.mp4"]}).urls


def test_a_failure_is_read_in_the_services_words() -> None:
    """One clean line each, whatever their type; the originals stay in `raw` (P16)."""

    def check(fields: dict[str, Any], code: str, message: str) -> None:
        snapshot = record(state="fail", **fields)

        assert (snapshot.fail_code, snapshot.fail_message) == (code, message)
        assert snapshot.raw["failMsg"] == fields["failMsg"]
        with pytest.raises(JobFailedError):
            snapshot.result()

    rows = [
        ({"failCode": "500", "failMsg": "Internal Error"}, "500", "Internal Error"),
        ({"failCode": 422, "failMsg": None}, "422", ""),
        ({"failCode": None, "failMsg": "why"}, "", "why"),
        ({"failCode": "POLICY", "failMsg": "no \x1b[2J\nfaces"}, "POLICY", "no [2J faces"),
        ({"failCode": [1], "failMsg": {"a": 1}}, "[1]", "{'a': 1}"),
    ]
    assert failing_rows(check, rows) == []


def test_nonsense_in_numbers_and_times_is_nothing() -> None:
    """Not a reason to lose the film beside it (P14)."""

    def check(nonsense: Any) -> None:
        snapshot = record(
            createTime=nonsense,
            updateTime=nonsense,
            completeTime=nonsense,
            progress=nonsense,
            creditsConsumed=nonsense,
            costTime=nonsense,
        )

        assert (snapshot.progress, snapshot.credits) == (None, None)
        assert (snapshot.created_at, snapshot.updated_at, snapshot.completed_at) == (None,) * 3
        assert snapshot.result().urls == (FILM,)
        assert snapshot.result().expires_at is None

    rows = [None, "", "soon", -1, -5000, HUGE, -HUGE, True, [], {}, "1e5", "٣"]
    assert failing(check, rows) == []


def test_a_time_at_the_end_of_the_calendar_breaks_nothing() -> None:
    """A day cannot be added to it (P14)."""
    assert record(completeTime=253_402_300_799_000).result().expires_at is not None
    assert record(completeTime=253_402_300_799_000, updateTime=None).result().expires_at is None


def test_credits_may_have_a_fraction() -> None:
    assert record(creditsConsumed=12.5).credits == 12.5
    assert record(creditsConsumed="12.5").credits == 12.5
    assert record(creditsConsumed=0).credits == 0


def test_a_task_may_be_unknown_in_many_ways() -> None:
    """404, "recordInfo is null", no data: how long that is borne is the job's business (P1)."""

    def check(reply: Reply) -> None:
        with pytest.raises(NotFoundError) as caught:
            poll(reply)

        assert caught.value.task_id == "task_1"

    rows = [
        enveloped(404, msg="not found"),
        enveloped(404, msg="not found", status=404),
        answer(HTML, 404),
        enveloped(422, None, "recordInfo is null"),
        enveloped(422, None, "RecordInfo is NULL", status=422),
        answer({"code": 422, "message": "recordInfo is null"}),
        enveloped(200, None),
        enveloped(200, {}),
        answer({"code": 200, "msg": "success"}),
    ]
    assert failing(check, rows) == []


def test_another_422_means_that_the_request_was_wrong() -> None:
    with pytest.raises(InvalidRequestError, match="aspect_ratio"):
        poll(enveloped(422, None, "aspect_ratio is not valid"))


def test_the_state_of_another_task_is_no_answer() -> None:
    """Two films are never mixed up (P10)."""

    def check(reported: Any) -> None:
        for code in (200, 501):
            with pytest.raises(UnansweredError, match="another task") as caught:
                poll(enveloped(code, RECORD | {"taskId": reported}))
            assert caught.value.task_id == "task_1"

    assert failing(check, ["task_2", 7, "TASK_1"]) == []


def test_an_answer_that_names_no_task_is_taken_for_ours() -> None:
    """We asked for one task, and an id that is none contradicts nothing."""

    def check(reported: Any) -> None:
        snapshot = record(taskId=reported)

        assert snapshot.task_id == "task_1"
        assert snapshot.state is State.SUCCESS

    assert failing(check, [None, "", [], "a b"]) == []


def test_an_id_may_come_back_as_a_number() -> None:
    assert decode_snapshot(enveloped(data=RECORD | {"taskId": 77}), "77").task_id == "77"


def test_data_of_another_kind_is_no_answer() -> None:
    """The job goes on polling (P3)."""

    def check(data: Any) -> None:
        with pytest.raises(UnansweredError) as caught:
            poll(enveloped(200, data))

        assert caught.value.task_id == "task_1"

    assert failing(check, [[], [RECORD], "text", "", 5, True, False, 0]) == []


def test_501_says_that_the_film_failed() -> None:
    """In the task's own words where it has some."""

    def check(data: Any, code: str, message: str) -> None:
        snapshot = poll(enveloped(501, data, "Generation failed"))

        assert snapshot.state is State.FAIL
        assert (snapshot.fail_code, snapshot.fail_message) == (code, message)

    rows = [
        (None, "501", "Generation failed"),
        ("text", "501", "Generation failed"),
        ({}, "501", "Generation failed"),
        ({"failCode": "", "failMsg": None}, "501", "Generation failed"),
        ({"taskId": "task_1", "state": "fail"}, "501", "Generation failed"),
        ({"state": "fail", "failCode": "422", "failMsg": "faces"}, "422", "faces"),
    ]
    assert failing_rows(check, rows) == []


def test_501_does_not_overrule_what_the_task_itself_says() -> None:
    """A film that is there is never called a failure."""

    def check(state: str) -> None:
        snapshot = poll(enveloped(501, RECORD | {"state": state}, "Generation failed"))

        assert snapshot.state is not State.FAIL
        assert snapshot.urls == (FILM,)

    assert failing(check, ["success", "generating", "moderating"]) == []


def test_501_of_a_gateway_is_an_outage() -> None:
    """Only the service itself can say that a film failed."""
    with pytest.raises(ServerError):
        poll(answer(HTML, 501))


def test_errors_of_a_poll_name_the_task() -> None:
    """In a batch of a hundred one wants to know which (P3)."""

    def check(reply: Reply, kind: type[ApikleyError]) -> None:
        with pytest.raises(kind) as caught:
            poll(reply)

        assert caught.value.task_id == "task_1"

    rows = [
        (enveloped(401), AuthenticationError),
        (enveloped(429), RateLimitError),
        (enveloped(455), MaintenanceError),
        (enveloped(500), ServerError),
        (answer(HTML, 502), ServerError),
        (answer(HTML), UnansweredError),
        (answer('{"code": 200, "data": {"st', complete=False), UnansweredError),
        (answer("[" * 1_000_000), UnansweredError),
    ]
    assert failing_rows(check, rows) == []


def test_whatever_was_read_can_be_printed_copied_and_pickled() -> None:
    """Printed, copied and pickled, however deep the service nests it (P6)."""

    def check(depth: int) -> None:
        tower = "[" * depth + "]" * depth
        text = '{"code": 200, "data": {"state": "success", "new": %s, "resultJson": %s}}'
        try:
            snapshot = poll(answer(text % (tower, tower)))
        except UnansweredError:
            return

        assert copy.deepcopy(snapshot) == snapshot
        assert pickle.loads(pickle.dumps(snapshot)) == snapshot  # noqa: S301
        assert repr(snapshot.raw)

    assert failing(check, [50, 500, 950, 980, 990]) == []


# --- whose task is it -----------------------------------------------------------------------------

TOKEN = "4f1c" * 8


def made(param: Any, tokens: list[str], *fingerprints: str) -> bool:
    return belongs_to_attempt(record(param=param), tokens=tokens, fingerprints=fingerprints)


def test_a_task_is_recognized_by_token_or_fingerprint() -> None:
    """By what `param` repeats of the request (A16, A17)."""

    def check(spell: Callable[[Any], Any]) -> None:
        request = request_for(ModelTask("m", {"a": 7}), callback_url=f"https://h.test/{TOKEN}")
        stranger = request_for(ModelTask("m", {"a": 8})).fingerprint

        assert made(spell(request.body), [TOKEN])
        assert made(spell(request.body), ["other"], stranger, request.fingerprint)
        assert not made(spell(request.body), ["other", ""], stranger)

    assert failing(check, [json.dumps, lambda body: body]) == []


def test_without_a_request_nothing_is_proved() -> None:
    """Least of all by an empty token (A16)."""

    def check(param: Any) -> None:
        assert not made(param, ["", TOKEN], request_for(ModelTask("m")).fingerprint)

    assert failing(check, [None, "", "broken {", "[]", 5, [], {}, "null"]) == []


@settings(max_examples=volume(50, 300))
@given(TREES)
def test_comparing_a_task_never_raises(param: Any) -> None:
    """The request comes back from the service, so it may hold anything (P3)."""
    assert made(param, [TOKEN], "print") in (True, False)

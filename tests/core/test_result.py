"""`_result`: what the service says of a task, as values that decide nothing by themselves."""

from __future__ import annotations

import copy
import json
import math
import pickle
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest
from rows import failing, failing_rows

from apikley_async import (
    Attempt,
    EmptyResultError,
    JobFailedError,
    Result,
    Snapshot,
    State,
    Verdict,
)

LINK = "https://cdn.test/film.mp4?signature=canary"
AT = datetime(2026, 9, 21, 13, 33, 20, tzinfo=UTC)


def success(**facts: Any) -> Snapshot:
    return Snapshot("task_1", State.SUCCESS, **facts)


# --- states ---------------------------------------------------------------------------------------


def test_only_two_states_are_final() -> None:
    """A word we do not know least of all (P4)."""
    assert {state for state in State if state.final} == {State.SUCCESS, State.FAIL}


def test_a_snapshot_is_done_when_the_service_says_so() -> None:

    def check(state: State) -> None:
        assert Snapshot("task_1", state).done is state.final

    assert failing(check, State) == []


# --- success, and what is none --------------------------------------------------------------------


def test_a_success_without_anything_in_it_is_empty() -> None:
    """Another model's result may be no file at all; a film without a link is none (P5)."""

    def check(snapshot: Snapshot, empty: bool) -> None:
        assert snapshot.empty is empty

    rows = [
        (success(), True),
        (success(urls=(LINK,)), False),
        (success(content={"other": "field"}), True),
        (success(content={"resultObject": {"id": 7}}, linked=False), False),
        (success(content={"resultObject": {"id": 7}}, urls=(LINK,)), False),
        (Snapshot("task_1", State.GENERATING), False),
        (Snapshot("task_1", State.FAIL), False),
        (Snapshot("task_1"), False),
    ]
    assert failing_rows(check, rows) == []


def test_a_result_is_everything_the_caller_needs() -> None:
    """Every link in the service's order (P8); they are expected to live a day."""
    links = (LINK, "https://cdn.test/second.mp4")
    snapshot = success(
        urls=links, content={"resultUrls": [*links], "extra": 1}, credits=270, completed_at=AT
    )

    result = snapshot.result()

    assert result == Result(
        task_id="task_1",
        urls=links,
        credits=270,
        expires_at=AT + timedelta(hours=24),
        raw={"resultUrls": [*links], "extra": 1},
    )


def test_links_are_expected_to_live_a_day_from_the_end() -> None:
    """When nobody says when the film was ready, nothing is guessed."""

    def check(times: dict[str, Any], expires_at: datetime | None) -> None:
        assert success(urls=(LINK,), **times).result().expires_at == expires_at

    rows = [
        ({"completed_at": AT, "updated_at": AT + timedelta(hours=1)}, AT + timedelta(hours=24)),
        ({"updated_at": AT}, AT + timedelta(hours=24)),
        ({"created_at": AT}, None),
        ({}, None),
    ]
    assert failing_rows(check, rows) == []


def test_a_result_of_another_kind_is_a_result() -> None:
    """A model that makes no files succeeds with what it made."""
    result = success(content={"characterId": "c_1"}, linked=False).result()

    assert (result.urls, result.raw) == ((), {"characterId": "c_1"})


def test_a_failure_repeats_the_services_words() -> None:
    """As an error with the words apart, so that a caller can decide."""

    def check(code: str, message: str, reported: str) -> None:
        snapshot = Snapshot("task_1", State.FAIL, fail_code=code, fail_message=message)

        with pytest.raises(JobFailedError) as caught:
            snapshot.result()

        assert caught.value.message == reported
        assert (caught.value.fail_code, caught.value.fail_message) == (code, message)
        assert caught.value.task_id == "task_1"

    rows = [
        ("500", "Internal Error.", "The film failed: 500 Internal Error."),
        ("", "too similar", "The film failed: too similar"),
        ("E_POLICY", "", "The film failed: E_POLICY"),
        ("", "", "The film failed: no reason given"),
    ]
    assert failing_rows(check, rows) == []


def test_a_task_without_a_result_raises() -> None:
    """The error shows what the service said (P5)."""

    def check(snapshot: Snapshot) -> None:
        with pytest.raises(EmptyResultError) as caught:
            snapshot.result()

        assert caught.value.task_id == "task_1"
        assert caught.value.raw == {"a": 1}
        assert snapshot.state.value in str(caught.value)

    rows = [success(raw={"a": 1}), Snapshot("task_1", State.GENERATING, raw={"a": 1})]
    assert failing(check, rows) == []


# --- values ---------------------------------------------------------------------------------------

RESULT = Result("task_1", (LINK,), 270.5, AT, {"param": {"secret": "canary"}})
SNAPSHOT = Snapshot(
    "task_1",
    State.GENERATING,
    "sora",
    42.5,
    (LINK,),
    {"a": {"b": [1]}},
    created_at=AT,
    raw={"param": "https://hooks.test/?token=canary"},
)


def test_snapshots_and_results_are_values() -> None:
    """Frozen, equal when they say the same, hashable although they hold a mapping, and mobile."""

    def check(value: Any) -> None:
        twins = [copy.copy(value), copy.deepcopy(value), pickle.loads(pickle.dumps(value))]  # noqa: S301

        assert all(twin == value and hash(twin) == hash(value) for twin in twins)
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            value.task_id = "task_2"

    assert failing(check, [RESULT, SNAPSHOT]) == []


def test_a_repr_shows_what_a_person_wants_and_no_link() -> None:
    """State, the hosts of the links, credits, expiry; a signed link opens the film (I8)."""
    other = "https://films.test:8443/b.mp4?signature=canary"
    rows: list[tuple[object, str]] = [
        (
            RESULT,
            "<Result task_1: 1 file at cdn.test, 270.5 credits, expires 2026-09-21 13:33 UTC>",
        ),
        (Result("task_1", (LINK, LINK)), "<Result task_1: 2 files at cdn.test>"),
        (Result("task_1", (LINK, other)), "<Result task_1: 2 files at cdn.test, films.test>"),
        (Result("task_1", (), unusable=("odd",)), "<Result task_1: 0 files, 1 unusable link>"),
        (Result("task_1", ("https://[::1/canary",)), "<Result task_1: 1 file>"),
        (SNAPSHOT, "<Snapshot task_1 generating: 42.5%, 1 file at cdn.test>"),
        (Snapshot("task_1"), "<Snapshot task_1 unknown>"),
        (Snapshot("task_1", word="moderating"), "<Snapshot task_1 unknown ('moderating')>"),
        (
            success(urls=(LINK,), progress=100.0, credits=270.0, completed_at=AT),
            (
                "<Snapshot task_1 success: 100%, 1 file at cdn.test, 270 credits, "
                "expires 2026-09-22 13:33 UTC>"
            ),
        ),
        (
            Snapshot("task_1", State.FAIL, fail_code="500", fail_message=f"No {LINK} today."),
            "<Snapshot task_1 fail: 500 No <url> today.>",
        ),
    ]

    failures = [(repr(value), line) for value, line in rows if repr(value) != line]

    assert failures == []


def test_a_snapshot_as_a_dict_is_plain_json() -> None:
    """Every field of a name and a type of JSON; what a person may not share stands in `raw`."""
    spelled = SNAPSHOT.to_dict()

    assert spelled == {
        "task_id": "task_1",
        "state": "generating",
        "model": "sora",
        "progress": 42.5,
        "urls": [LINK],
        "content": {"a": {"b": [1]}},
        "linked": True,
        "fail_code": "",
        "fail_message": "",
        "credits": None,
        "created_at": "2026-09-21T13:33:20+00:00",
        "updated_at": None,
        "completed_at": None,
        "word": "",
        "unusable": [],
    }
    assert type(spelled["state"]) is str
    assert json.loads(json.dumps(spelled)) == spelled
    assert SNAPSHOT.to_dict(raw=True) == {**spelled, "raw": dict(SNAPSHOT.raw)}


def test_a_result_as_a_dict_is_plain_json() -> None:
    spelled = RESULT.to_dict()

    assert spelled == {
        "task_id": "task_1",
        "urls": [LINK],
        "credits": 270.5,
        "expires_at": "2026-09-21T13:33:20+00:00",
        "unusable": [],
    }
    assert RESULT.to_dict(raw=True) == {**spelled, "raw": {"param": {"secret": "canary"}}}


def test_a_dict_is_a_copy_that_strict_json_takes() -> None:
    """Numbers that JSON has no word for become null, and changing it changes nothing."""
    snapshot = success(content={"a": [math.nan, -math.inf, {"b": 1}], "t": (1, AT)})

    spelled = snapshot.to_dict()

    assert spelled["content"] == {"a": [None, None, {"b": 1}], "t": [1, AT.isoformat()]}
    json.dumps(spelled, allow_nan=False)
    spelled["content"]["a"].clear()
    assert len(snapshot.content["a"]) == 3


def test_a_state_is_a_word() -> None:
    """It prints, compares and travels as the service's own word."""
    assert (f"{State.SUCCESS}", json.dumps([State.FAIL])) == ("success", '["fail"]')
    assert State.WAITING == "waiting"
    assert State("queuing") is State.QUEUING


def test_an_attempt_can_be_sent_on_as_json() -> None:
    """The answer as it was read is left out, unless it is asked for."""
    attempt = Attempt("a" * 32, Verdict.REFUSED, http=422, code=422, raw="{}", cause="no")

    spelled = attempt.to_dict()

    assert json.loads(json.dumps(spelled)) == spelled
    assert (spelled["verdict"], spelled["code"], spelled["task_id"]) == ("refused", 422, None)
    assert attempt.to_dict(raw=True) == {**spelled, "raw": "{}"}

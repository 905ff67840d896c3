"""`_wire.task_ids`: what an answer to createTask means, and which task a callback names."""

from __future__ import annotations

import copy
import json
import logging
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replies import (
    CODES,
    HTML,
    REPLIES,
    TREES,
    WALL,
    answer,
    enveloped,
)
from rows import failing, failing_rows
from volume import volume

from apikley_async import (
    ApiError,
    AuthenticationError,
    FeatureDisabledError,
    InsufficientCreditsError,
    InvalidRequestError,
    KeyLimitError,
    MaintenanceError,
    NotFoundError,
    RateLimitError,
    SubmissionUncertainError,
)
from apikley_async._wire.envelope import (
    MAX_RAW_BYTES,
    Reply,
    read_envelope,
)
from apikley_async._wire.task_ids import (
    decode_submission,
    is_task_id,
    read_callback,
    validate_not_created,
)


def decoded(reply: Reply, *not_created: int) -> str:
    return decode_submission(reply, wall=WALL, not_created=frozenset(not_created))


# --- createTask: what was paid --------------------------------------------------------------------


def test_row_1_a_task_id_is_always_accepted() -> None:
    """Whatever else the answer says: what was paid for is never dropped (A6)."""

    def check(reply: Reply) -> None:
        assert decoded(reply) == "task_1"

    rows = [
        enveloped(data={"taskId": "task_1"}),
        enveloped(data={"task_id": "task_1"}),
        answer({"code": 200, "taskId": "task_1"}),
        answer({"taskId": "task_1"}),
        answer({"task_id": "task_1"}),
        enveloped(429, {"taskId": "task_1"}, "too many requests"),
        enveloped(429, {"taskId": "task_1"}, status=429),
        enveloped(500, {"taskId": "task_1"}, "error", status=500),
        enveloped(401, {"taskId": "task_1"}, "who are you", status=401),
        enveloped(402, {"taskId": "task_1"}, "no money"),
        enveloped(200, {"taskId": "task_1"}, status=502),
        enveloped(200, {"taskId": "task_1"}, status=307),
        enveloped("weird", {"taskId": "task_1"}),
        answer({"data": {"taskId": "", "task_id": None}, "taskId": "task_1"}),
        answer({"data": "text", "taskId": "task_1"}),
        answer({"code": 200, "data": {"taskId": "task_1"}}, complete=False),
        answer("\ufeff" + json.dumps({"data": {"taskId": "task_1", "new": [None]}})),
    ]
    assert failing(check, rows) == []


@pytest.mark.parametrize(
    "reply",
    [
        enveloped(429, {"taskId": "task_1"}, "too many requests"),
        enveloped(200, {"taskId": "task_1"}, status=502),
    ],
)
def test_row_1_a_contradiction_is_logged(reply: Reply, caplog: pytest.LogCaptureFixture) -> None:
    """For a person to check; the line has the status and the service's message only (A6)."""
    with caplog.at_level(logging.WARNING, "apikley_async"):
        decoded(reply)

    (record,) = caplog.records
    assert "task_1" in record.getMessage()
    assert "429" in record.getMessage() or "502" in record.getMessage()


def test_row_1_agreement_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "apikley_async"):
        decoded(enveloped(data={"taskId": "task_1"}))

    assert caplog.records == []


def test_row_1_an_id_is_opaque() -> None:
    """Any printable word without spaces; a number is taken for its digits (P13)."""

    def check(task_id: Any) -> None:
        assert decoded(enveloped(data={"taskId": task_id})) == str(task_id)
        assert is_task_id(str(task_id))

    rows = [
        "task_sora-2-pro-storyboard_1765188271139",
        "a",
        "a/b?c=d&e#f",
        "%00",
        "Ж",
        "x" * 256,
        12345,
    ]
    assert failing(check, rows) == []


NO_IDS = ["", " ", "a b", "a\n", "\x00", "\ud800", "\u202ex", "x" * 257, None, True, False]


NO_IDS += [1.5, [], ["task_1"], {"id": 1}]


def test_row_1_a_success_without_an_id_is_uncertain() -> None:
    """Success without a usable id: it may be paid, so the raw answer is kept (A5, P13)."""

    def check(task_id: Any) -> None:
        with pytest.raises(SubmissionUncertainError) as caught:
            decoded(enveloped(data={"taskId": task_id}))

        assert '"taskId"' in caught.value.raw
        assert not isinstance(task_id, str) or not is_task_id(task_id)

    assert failing(check, NO_IDS) == []


def test_row_3_throttled() -> None:
    """HTTP 429, or a body's 429 or 430 below HTTP 500: nothing was created (R8, R9)."""

    def check(reply: Reply) -> None:
        with pytest.raises(RateLimitError):
            decoded(reply)

    rows = [
        enveloped(429, msg="slow down", status=429),
        enveloped(429, msg="slow down"),
        enveloped("429", msg="slow down"),
        enveloped(430, msg="too frequent"),
        enveloped(430, msg="too frequent", status=403),
        enveloped(429, msg="slow down", status=400),
        answer(HTML, 429),
        answer("", 429),
        answer('{"code": 429, "ms', 429, complete=False),
        enveloped(200, status=429),
        enveloped(500, msg="oops", status=429),
        enveloped(501, msg="oops", status=429),
        enveloped(1015, msg="rate limited", status=429),
        enveloped(401, msg="odd", status=429),
        enveloped(422, msg="odd", status=429),
        enveloped(422, msg="The call frequency is too high"),
    ]
    assert failing(check, rows) == []


def test_row_3_the_error_has_retry_after() -> None:
    """Also when body and status disagree."""
    reply = answer({"code": 500, "data": {"retryAfter": 4}}, 429)

    with pytest.raises(RateLimitError) as caught:
        decoded(reply)

    assert caught.value.retry_after == 4


def test_row_3_a_429_about_credits_is_no_rate_limit() -> None:
    """A 429 about credits is a 402: no pause brings money (API section 2)."""

    def check(reply: Reply) -> None:
        with pytest.raises(InsufficientCreditsError):
            decoded(reply)

    rows = [
        enveloped(429, msg="insufficient credits"),
        enveloped(402, msg="no credits", status=429),
    ]
    assert failing(check, rows) == []


def test_row_4_any_5xx_is_uncertain() -> None:
    """Whatever its body says: it may have been processed (A3)."""

    def check(status: int, code: int | None) -> None:
        reply = (
            answer(HTML, status) if code is None else enveloped(code, msg="refused", status=status)
        )

        with pytest.raises(SubmissionUncertainError) as caught:
            decoded(reply)

        assert caught.value.http == status
        assert caught.value.raw == reply.text

    codes = [None, 200, 400, 401, 402, 404, 422, 429, 430, 455, 500, 505]
    assert (
        failing_rows(
            check,
            [
                (status, code)
                for status in [500, 501, 502, 503, 504, 505, 511, 520, 524, 599]
                for code in codes
            ],
        )
        == []
    )


def test_row_5_a_redirect_is_refused() -> None:
    """The address is wrong; following the redirect would send the POST twice (A13)."""

    def check(status: int, body: str) -> None:
        with pytest.raises(ApiError, match="redirected") as caught:
            decoded(answer(body, status))

        assert type(caught.value) is ApiError

    assert (
        failing_rows(
            check,
            [
                (status, body)
                for status in [300, 301, 302, 303, 304, 307, 308]
                for body in ["", HTML, '{"code": 200}', '{"code": 500}']
            ],
        )
        == []
    )


ROW_6 = [
    (400, InvalidRequestError),
    (401, AuthenticationError),
    (402, InsufficientCreditsError),
    (403, AuthenticationError),
    (404, NotFoundError),
    (405, InvalidRequestError),
    (413, InvalidRequestError),
    (414, InvalidRequestError),
    (415, InvalidRequestError),
    (422, InvalidRequestError),
    (431, InvalidRequestError),
    (433, KeyLimitError),
    (451, InvalidRequestError),
    (455, MaintenanceError),
    (505, FeatureDisabledError),
]


def test_row_6_the_bodys_code_refuses() -> None:
    """It rules over any status below 500; nothing was created (A24-A26)."""

    def check(code: int, kind: type[ApiError], status: int) -> None:
        for spelled in (code, str(code), float(code)):
            with pytest.raises(kind) as caught:
                decoded(enveloped(spelled, msg="because", status=status))

            assert type(caught.value) is kind
            assert "because" in caught.value.message

    assert (
        failing_rows(
            check,
            [
                (code, kind, status)
                for (code, kind) in ROW_6
                for status in [200, 201, 400, 401, 404, 422]
            ],
        )
        == []
    )


def test_row_6_without_an_envelope_the_status_refuses() -> None:
    """A challenge page of a gateway counts by its status (R9)."""

    def check(status: int, kind: type[ApiError], body: str) -> None:
        with pytest.raises(kind) as caught:
            decoded(answer(body, status))

        assert type(caught.value) is kind

    assert (
        failing_rows(
            check,
            [
                (status, kind, body)
                for (status, kind) in [(status, kind) for status, kind in ROW_6 if status < 500]
                for body in ["", HTML, "[]", '{"error": "no"}', '{"code": null}']
            ],
        )
        == []
    )


def test_row_7_everything_else_is_uncertain() -> None:
    """Unknown codes, success without an id, what cannot be read: it may be paid (A4, A5)."""

    def check(reply: Reply) -> None:
        with pytest.raises(SubmissionUncertainError) as caught:
            decoded(reply)

        assert caught.value.http == reply.status
        assert caught.value.raw == reply.text[:MAX_RAW_BYTES]
        assert str(reply.status) in caught.value.cause

    rows = [
        answer("", 408),
        answer("", 409),
        answer("", 425),
        answer("", 499),
        answer("", 418),
        enveloped(408, status=408),
        enveloped(500, msg="Internal Error"),
        enveloped(500, msg="The call frequency is too high"),
        enveloped(501, msg="failed"),
        enveloped("500"),
        enveloped(502),
        enveloped(1015),
        enveloped(0),
        enveloped(-1),
        enveloped(500, status=400),
        enveloped(500, status=401),
        enveloped(1002, status=404),
        enveloped(200, status=404),
        enveloped(200, status=401),
        enveloped(200, None),
        enveloped(200, {}),
        enveloped(200, []),
        enveloped(200, "task_1"),
        enveloped(200, {"id": "task_1"}),
        enveloped(201, status=201),
        answer("", 200),
        answer("", 204),
        answer(HTML),
        answer("null"),
        answer("[]"),
        answer('["task_1"]'),
        answer('{"code": 200, "msg": "success", "data": {"taskId": "task_1'),
        answer('{"code": 200, "msg": "success", "data": {"taskId": "task_1"', complete=False),
        answer('{"code": 401, "msg": "no", "data": null}', complete=False),
        answer("\ufffd\x1f\ufffd\x08"),
        answer("[" * 100_000),
        answer("", 101),
    ]
    assert failing(check, rows) == []


def test_an_uncertain_submission_says_its_cause() -> None:
    """In a few words, for the message and for the journal."""

    def check(reply: Reply, cause: str) -> None:
        with pytest.raises(SubmissionUncertainError) as caught:
            decoded(reply)

        assert caught.value.cause == cause
        assert cause in caught.value.message

    rows = [
        (answer(HTML, 502), "HTTP 502"),
        (enveloped(500, msg=""), "HTTP 200, code 500"),
        (enveloped(500, msg="Busy.\n\x1b[2J"), "HTTP 200, code 500: Busy. [2J"),
        (enveloped(500, msg="Busy.", status=500), "HTTP 500: Busy."),
        (answer("upstream timed out", 504), "HTTP 504: upstream timed out"),
        (enveloped(200), "HTTP 200, no task id"),
        (answer('{"code": 20', complete=False), "HTTP 200, the answer broke off"),
        (answer(HTML), "HTTP 200, the answer cannot be read"),
    ]
    assert failing_rows(check, rows) == []


TOP_UP = (
    "Credits insufficient : Your current balance isn't enough to run this request. "
    "Please top up to continue."
)


WITHDRAWN = "The model name you specified is not supported, please check the documentation."


def test_listed_messages_come_before_codes_on_http_200() -> None:
    """The closed list of API section 12: certain, nothing was created."""

    def check(code: Any, words: str, kind: type[ApiError]) -> None:
        with pytest.raises(kind) as caught:
            decoded(enveloped(code, msg=words))

        assert type(caught.value) is kind
        assert words in caught.value.message
        assert caught.value.code == int(code)

    rows_1 = [
        (TOP_UP, InsufficientCreditsError),
        ("Credits insufficient", InsufficientCreditsError),
        ("credits insufficient.", InsufficientCreditsError),
        ("aspect_ratio is required", InvalidRequestError),
        ("input.shots[0].Scene is required", InvalidRequestError),
        ("This field is required", InvalidRequestError),
        ("This aspect_ratio is not within the range of allowed options", InvalidRequestError),
        ("The text length cannot exceed the maximum limit", InvalidRequestError),
        ("Value must be within the specified range", InvalidRequestError),
        (WITHDRAWN, InvalidRequestError),
    ]
    assert (
        failing_rows(
            check,
            [
                (code, words, kind)
                for code in [500, "500", 501, 400, 422, 9999]
                for (words, kind) in rows_1
            ],
        )
        == []
    )


def test_no_message_turns_a_refusal_of_the_account_into_one_films_fault() -> None:
    """A refused key, an empty account, a limit, a pause: a batch stops or waits, nothing fails."""
    reported = ["Authorization is required", "aspect_ratio is required.", "This field is required"]
    kinds: dict[int, type[ApiError]] = {
        **dict.fromkeys((401, 403), AuthenticationError),
        402: InsufficientCreditsError,
        **dict.fromkeys((429, 430), RateLimitError),
        433: KeyLimitError,
        455: MaintenanceError,
        505: FeatureDisabledError,
    }
    wrong = []
    for code, kind in kinds.items():
        for words in [*reported, WITHDRAWN]:
            with pytest.raises(ApiError) as caught:
                decoded(enveloped(code, msg=words))
            if type(caught.value) is not kind:
                wrong.append((code, words, type(caught.value).__name__))

    assert wrong == []
    for code in (401, 429, 433):
        with pytest.raises(ApiError) as caught:
            decoded(enveloped(code, msg=TOP_UP))
        assert caught.value.affects_all


def test_messages_that_are_not_listed_stay_uncertain() -> None:
    """Anchored at both ends: what resembles a refusal may have been processed (A3)."""

    def check(words: str) -> None:
        with pytest.raises(SubmissionUncertainError) as caught:
            decoded(enveloped(500, msg=words))

        assert caught.value.cause.endswith(words)

    rows = [
        "Internal server error while checking: aspect_ratio is required",
        "Internal Error, Please try again later.",
        "Your credits insufficient",
        "Credits insufficiently checked",
        "A manual review is required",
        "aspect_ratio is required by the dispatcher, retrying",
        "The text length cannot exceed the maximum limit of the queue",
        "This is not within the range of allowed options",
        "model name you specified is not supported",
        "",
    ]
    assert failing(check, rows) == []


def test_messages_count_on_http_200_only() -> None:
    """On any other status the code decides, and the message is kept in the cause."""

    def check(status: int, words: str) -> None:
        with pytest.raises(SubmissionUncertainError) as caught:
            decoded(enveloped(500, msg=words, status=status))

        assert words in caught.value.cause

    assert (
        failing_rows(
            check,
            [
                (status, words)
                for status in [201, 202, 500, 502]
                for words in [TOP_UP, "aspect_ratio is required", WITHDRAWN]
            ],
        )
        == []
    )


def test_a_message_never_drops_an_id() -> None:
    assert decoded(enveloped(500, {"taskId": "task_1"}, TOP_UP)) == "task_1"


def test_messages_outside_of_the_envelope_do_not_count() -> None:

    def check(broken: dict[str, Any]) -> None:
        body = broken.pop("body", {"code": 500, "msg": TOP_UP, "data": None})

        with pytest.raises(SubmissionUncertainError):
            decoded(answer(body, **broken))

    assert failing(check, [{"complete": False}, {"body": [TOP_UP]}, {"body": TOP_UP}]) == []


def test_a_withdrawn_model_is_named_and_no_image_is_mentioned() -> None:
    """The input is fine: it is the model that is not served, or no longer (API section 12)."""

    def check(code: int, status: int) -> None:
        reply = enveloped(code, msg=WITHDRAWN, status=status)

        with pytest.raises(InvalidRequestError) as caught:
            decode_submission(reply, subject="The submission to sora-2-pro-storyboard")

        reported = str(copy.copy(caught.value))
        assert "sora-2-pro-storyboard" in reported
        assert "may have been withdrawn" in reported
        assert "image" not in reported

    rows = [(422, 200), (500, 200), (404, 200), (422, 422), (404, 404)]
    assert failing_rows(check, rows) == []


def test_an_uncertain_submission_keeps_64_kib_of_the_answer() -> None:
    """Counted in bytes, cut between two letters (A5)."""

    def check(letter: str) -> None:
        with pytest.raises(SubmissionUncertainError) as caught:
            decoded(answer(letter * 100_000))

        assert MAX_RAW_BYTES - 4 < len(caught.value.raw.encode()) <= MAX_RAW_BYTES

    assert failing(check, ["x", "Ж", "🍰", "\ud800"]) == []


def test_not_created_moves_its_codes_and_no_other() -> None:
    """Every code in the answer must be one of them."""

    def check(reply: Reply, refused: bool) -> None:
        with pytest.raises(ApiError if refused else SubmissionUncertainError):
            decoded(reply, 500, 409)
        if refused:
            with pytest.raises(SubmissionUncertainError):
                decoded(reply)

    rows = [
        (enveloped(500), True),
        (enveloped("500"), True),
        (answer(HTML, 500), True),
        (enveloped(500, status=500), True),
        (enveloped(200, status=500), True),
        (answer('{"code": 500, "ms', 500, complete=False), True),
        (answer("", 409), True),
        (enveloped(409, status=500), True),
        (enveloped(501), False),
        (answer(HTML, 502), False),
        (enveloped(500, status=502), False),
        (enveloped(502, status=500), False),
        (enveloped(200), False),
        (answer(HTML), False),
        (answer(""), False),
    ]
    assert failing_rows(check, rows) == []


def test_not_created_never_covers_a_success() -> None:
    """A success without an id stays uncertain, even when someone lists its code."""

    def check(code: int) -> None:
        with pytest.raises(SubmissionUncertainError):
            decoded(enveloped(code), 200, 0, 101, 204)

    assert failing(check, [200, 0, 101, 204]) == []


def test_not_created_never_covers_a_gateway() -> None:
    """The service may be at work behind it, whatever the body says; such codes are refused. (A4)"""
    for code in (408, 499, 502, 503, 504, 520, 524, 529):
        for reply in (answer("", code), enveloped(code), enveloped(500, status=code)):
            with pytest.raises(SubmissionUncertainError):
                decoded(reply, code, 500)
        with pytest.raises(ValueError, match=f"{code} never means"):
            validate_not_created({code})
    for odd in (200, 0, True, "500"):
        with pytest.raises((ValueError, TypeError), match="not_created"):
            validate_not_created([odd])  # type: ignore[list-item]
    assert validate_not_created([500, 409]) == {500, 409}


def test_not_created_never_drops_an_id() -> None:
    assert decoded(enveloped(500, {"taskId": "task_1"}, status=500), 500) == "task_1"


@settings(max_examples=volume(75, 300))
@given(reply=REPLIES, not_created=st.frozensets(CODES, max_size=3))
def test_whatever_comes_only_listed_codes_are_refusals(
    reply: Reply, not_created: frozenset[int]
) -> None:
    """Everything else is uncertain: the promise never to pay twice depends on this."""
    refusing = {400, 401, 402, 403, 404, 405, 413, 414, 415, 422, 431, 433, 451, 455, 505}
    refusing |= {429, 430} | not_created
    outcome: object = None
    try:
        decode_submission(reply, wall=WALL, not_created=not_created)
    except (ApiError, SubmissionUncertainError) as error:
        outcome = error

    if isinstance(outcome, ApiError):
        reported = {reply.status, read_envelope(reply).code}
        assert 300 <= reply.status < 400 or reported & refusing
        assert reply.status < 500 or reply.status in not_created
    if isinstance(outcome, SubmissionUncertainError):
        assert len(outcome.raw.encode()) <= MAX_RAW_BYTES


# --- callbacks ------------------------------------------------------------------------------------


def body_of(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def test_a_callback_names_its_task_in_four_places() -> None:
    """The documents disagree, so each place counts, in one order and without repetition (W16)."""

    def check(body: bytes, found: tuple[str, ...]) -> None:
        assert read_callback(body) == found

    rows = [
        (body_of(data={"taskId": "a"}), ("a",)),
        (body_of(data={"task_id": "b"}), ("b",)),
        (body_of(taskId="c"), ("c",)),
        (body_of(task_id="d"), ("d",)),
        (body_of(task_id="d", taskId="c", data={"task_id": "b", "taskId": "a"}), tuple("abcd")),
        (body_of(taskId="a", data={"task_id": "a", "taskId": "b"}), ("b", "a")),
        (body_of(taskId="c", data={"taskId": None, "task_id": "two words"}), ("c",)),
        (body_of(taskId="c", data="not an object"), ("c",)),
        (body_of(taskId=77), ("77",)),
        (b"\xef\xbb\xbf" + body_of(taskId="c"), ("c",)),
        (body_of(taskId="задача"), ("задача",)),
    ]
    assert failing_rows(check, rows) == []


def test_what_is_no_callback_names_nothing() -> None:
    """Not an object, not text, nested without end, or without an id: no exception (W2, W16)."""

    def check(body: bytes) -> None:
        assert read_callback(body) == ()

    rows = [
        b"",
        b"null",
        b'"task_1"',
        b'["task_1"]',
        b"{}",
        b'{"taskId": ""}',
        b'{"taskId": true}',
        b'{"taskId": ["task_1"]}',
        b'{"taskId": "task_1"',
        b"taskId=task_1",
        b'{"taskId": "\\ud800"}',
        b'{"taskId": "\xff\xfe"}',
        '{"taskId": "task_1"}'.encode("utf-16"),
        body_of(taskId="x" * 257),
        body_of(taskId="line\nbreak"),
        b'{"taskId": "task_1", "data": ' + b"[" * 200 + b"]" * 200 + b"}",
        b"[" * 65536,
        b'{"a":' * 13107,
        b'{"taskId": ' + b"9" * 5000 + b"}",
    ]
    assert failing(check, rows) == []


@settings(max_examples=volume(75, 300))
@given(st.binary(max_size=300) | TREES.map(lambda tree: json.dumps(tree).encode()))
def test_whatever_is_posted_gives_ids_or_nothing(body: bytes) -> None:
    """Any bytes at all: at most four ids, each of which could be one (W2)."""
    found = read_callback(body)

    assert len(found) == len(set(found)) <= 4
    assert all(map(is_task_id, found))

"""`_wire.envelope`: codes become errors, Retry-After becomes seconds, whatever comes."""

from __future__ import annotations

import copy
import json
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from replies import (
    FILM,
    HEADERS,
    HTML,
    HUGE,
    REPLIES,
    WALL,
    answer,
    enveloped,
)
from rows import failing, failing_rows
from volume import volume

from apikley_async import (
    ApiError,
    ApikleyError,
    AuthenticationError,
    Blame,
    FeatureDisabledError,
    InsufficientCreditsError,
    InvalidRequestError,
    KeyLimitError,
    MaintenanceError,
    NotFoundError,
    RateLimitError,
    ServerError,
    Snapshot,
    SubmissionUncertainError,
    UnansweredError,
    UploadError,
)
from apikley_async._wire.envelope import (
    MAX_RETRY_AFTER,
    Reply,
    decode_credits,
    decode_data,
    read_envelope,
    retry_after,
)
from apikley_async._wire.files import decode_link, decode_upload
from apikley_async._wire.task_ids import (
    decode_submission,
)
from apikley_async._wire.tasks import decode_snapshot


def decoded(reply: Reply, *not_created: int) -> str:
    return decode_submission(reply, wall=WALL, not_created=frozenset(not_created))


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


# --- the envelope ---------------------------------------------------------------------------------


def test_the_envelope_is_read_tolerantly() -> None:
    """The body's code, or the HTTP status when there is none (P3, P6, P16, R8)."""

    def check(reply: Reply, code: int, message: str, ok: bool) -> None:
        envelope = read_envelope(reply)

        assert (envelope.code, envelope.message, envelope.ok) == (code, message, ok)

    rows = [
        (enveloped(), 200, "success", True),
        (answer({"code": 200, "message": "success"}), 200, "success", True),
        (answer({"code": 422, "msg": "no", "message": "other"}), 422, "no", False),
        (answer({"code": 422, "msg": "", "message": "other"}), 422, "other", False),
        (answer({"code": 422, "msg": None}), 422, "", False),
        (enveloped("200"), 200, "success", True),
        (enveloped(200.0), 200, "success", True),
        (enveloped("401", msg="no"), 401, "no", False),
        (enveloped(200, status=201), 200, "success", True),
        (enveloped(200, status=500), 200, "success", False),
        (enveloped(200, status=404), 200, "success", False),
        (answer({"code": 200, "success": True, "data": 1}), 200, "", True),
        (answer({"code": 200, "success": False}), 200, "", False),
        (answer("\ufeff" + json.dumps({"code": 200})), 200, "", True),
        (answer({"code": 200, "code2": 1, "new": {"field": []}}), 200, "", True),
        (answer({"code": True}), 200, "", False),
        (answer({"code": None}), 200, "", False),
        (answer({"code": [200]}), 200, "", False),
        (answer({"code": "abc"}, 404), 404, '{"code": "abc"}', False),
        (answer('{"code": NaN}'), 200, "", False),
        (answer('{"code": 1e999}', 503), 503, '{"code": 1e999}', False),
        (answer("[]"), 200, "", False),
        (answer("null"), 200, "", False),
        (answer('"text"'), 200, "", False),
        (answer(""), 200, "", False),
        (answer(HTML, 502), 502, HTML, False),
        (answer({"code": 200}, complete=False), 200, "", False),
        (enveloped(msg={"why": "odd"}), 200, "{'why': 'odd'}", True),
        (enveloped(msg="red \x1b[31m\u202e"), 200, "red [31m", True),
    ]
    assert failing_rows(check, rows) == []


REFUSALS = [
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
    (429, RateLimitError),
    (430, RateLimitError),
    (431, InvalidRequestError),
    (433, KeyLimitError),
    (451, InvalidRequestError),
    (455, MaintenanceError),
    (500, ServerError),
    (501, ServerError),
    (502, ServerError),
    (503, ServerError),
    (504, ServerError),
    (505, FeatureDisabledError),
    (520, ServerError),
    (599, ServerError),
    (418, ApiError),
    (409, ApiError),
    (600, ApiError),
    (1015, ApiError),
]


def test_each_code_has_its_error_in_every_form() -> None:
    """Whether the code is in the body, in HTTP, or text (API section 2)."""

    def check(code: int, kind: type[ApikleyError], form: str) -> None:
        replies = {
            "body on HTTP 200": enveloped(code, msg="the reason"),
            "body and HTTP": enveloped(code, msg="the reason", status=code),
            "HTTP alone": answer("the reason", code),
            "as text": enveloped(str(code), msg="the reason"),
        }

        with pytest.raises(kind) as caught:
            decode_data(replies[form], subject="The question")

        assert type(caught.value) is kind
        assert caught.value.code == code
        assert caught.value.message == "The question was refused: the reason"

    forms = ["body on HTTP 200", "body and HTTP", "HTTP alone", "as text"]
    assert (
        failing_rows(check, [(code, kind, form) for (code, kind) in REFUSALS for form in forms])
        == []
    )


def test_a_gateway_s_page_is_shown_in_plain_words() -> None:
    """The words are judged as they came; a person reads no markup."""
    page = "<html>\n<head><title>503 Service Temporarily Unavailable</title></head></html>"
    empty = "<html><body></body></html>"
    found = {}
    for text in (page, empty):
        with pytest.raises(ServerError) as caught:
            decode_data(answer(text, 503), subject="The poll")
        found[text] = caught.value.message

    assert found == {
        page: "The poll was refused: 503 Service Temporarily Unavailable",
        empty: "The poll was refused: HTTP 503",
    }
    assert read_envelope(answer(page, 503)).message.startswith("<html>")


@pytest.mark.parametrize(
    ("reply", "blames"),
    [
        (answer("<html><title>Attention Required!</title></html>", 403), Blame.NETWORK),
        (answer("", 403), Blame.NETWORK),
        (answer("<html></html>", 401), Blame.ACCOUNT),
        (answer('{"code": 403, "msg": "no"}', 403), Blame.ACCOUNT),
        (answer('{"code": 403, "msg": "no"}', 200), Blame.ACCOUNT),
    ],
)
def test_a_gateway_that_refuses_says_nothing_of_the_key(reply: Reply, blames: Blame) -> None:
    """Nothing was created in any case, and no other film would fare better. (R9)"""
    with pytest.raises(AuthenticationError) as caught:
        decode_data(reply)

    error = copy.copy(caught.value)
    assert (error.blames, error.affects_all, error.resumable) == (blames, True, True)
    assert ("APIKLEY_API_KEY" in str(error)) is (blames is Blame.ACCOUNT)


def test_a_code_that_is_no_refusal_and_no_success_is_refused_as_it_is() -> None:
    """An unknown code is a generic error that shows code and message."""

    def check(code: int) -> None:
        with pytest.raises(ApiError) as caught:
            decode_data(enveloped(code, msg="odd"))

        assert type(caught.value) is ApiError
        assert "odd" in str(caught.value)

    assert failing(check, [0, 1, -1, 201, 299]) == []


def test_a_redirect_is_a_wrong_address() -> None:
    """Never followed, whatever its body says (A13)."""

    def check(status: int) -> None:
        with pytest.raises(ApiError, match=r"redirected.*base URL") as caught:
            decode_data(enveloped(status=status))

        assert caught.value.code == status

    assert failing(check, [300, 301, 302, 304, 307, 308]) == []


def test_what_cannot_be_read_is_no_answer() -> None:
    """HTML, a list, half a JSON: asking again costs nothing (P3)."""

    def check(reply: Reply, reported: str) -> None:
        with pytest.raises(UnansweredError, match=reported):
            decode_data(reply)

    rows = [
        (answer(""), "cannot be read"),
        (answer(HTML), "cannot be read"),
        (answer("[]"), "cannot be read"),
        (answer('{"code": 200, "da'), "cannot be read"),
        (answer('{"code": 200, "da', complete=False), "broke off"),
        (enveloped(data={"a": 1}).__class__(200, enveloped().text, {}, False), "broke off"),
    ]
    assert failing_rows(check, rows) == []


def test_a_429_about_credits_is_a_402() -> None:
    """Whole words only: a load balancer has nothing to do with money (API section 2)."""

    def check(message: str, kind: type[ApikleyError], code: int) -> None:
        with pytest.raises(kind) as caught:
            decode_data(enveloped(code, msg=message))

        assert type(caught.value) is kind

    rows_0 = [
        ("Too many requests", RateLimitError),
        ("Your credits are used up", InsufficientCreditsError),
        ("Insufficient balance", InsufficientCreditsError),
        ("Not enough CREDIT", InsufficientCreditsError),
        ("refused by the load balancer", RateLimitError),
        ("accreditation pending", RateLimitError),
    ]
    assert (
        failing_rows(
            check, [(message, kind, code) for (message, kind) in rows_0 for code in [429, 430]]
        )
        == []
    )


def test_a_message_about_frequency_is_a_429_below_500() -> None:
    """But a 5xx stays one, since it may have been processed (API section 2)."""

    def check(code: int, message: str, kind: type[ApikleyError]) -> None:
        with pytest.raises(kind) as caught:
            decode_data(enveloped(code, msg=message))

        assert type(caught.value) is kind

    rows = [
        (422, "The call frequency is too high, please try later", RateLimitError),
        (400, "Requests are too frequent", RateLimitError),
        (1002, "Frequency too fast", RateLimitError),
        (422, "frequency must be one of 24, 30", InvalidRequestError),
        (422, "the scene is too high", InvalidRequestError),
        (500, "The call frequency is too high", ServerError),
    ]
    assert failing_rows(check, rows) == []


def test_a_refusal_without_a_message_says_so() -> None:
    with pytest.raises(ApiError, match="The request was refused: no reason given"):
        decode_data(enveloped(422, msg=None))


# --- how long to pause ----------------------------------------------------------------------------


def test_retry_after_is_read_in_every_form() -> None:
    """Seconds, milliseconds, a date by the server's own clock; nonsense is none (R6, R7)."""

    def check(headers: dict[str, str], pause: float | None) -> None:
        assert retry_after(Reply(429, "", headers), wall=WALL) == pause

    rows = [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "2.5"}, 2.5),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "300"}, 300.0),
        ({"retry-after": "301"}, 300.0),
        ({"retry-after": "1000000000"}, 300.0),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after-ms": "999999999"}, 300.0),
        ({"retry-after": "Mon, 21 Sep 2026 14:13:50 GMT"}, 30.0),
        ({"retry-after": "Mon, 21 Sep 2026 14:13:10 GMT"}, 0.0),
        ({"retry-after": "Mon, 21 Sep 2099 14:13:10 GMT"}, 300.0),
        (
            {
                "retry-after": "Tue, 01 Jan 2030 00:00:20 GMT",
                "date": "Tue, 01 Jan 2030 00:00:00 GMT",
            },
            20.0,
        ),
        ({"retry-after": "Mon, 21 Sep 2026 14:13:50 GMT", "date": "yesterday"}, 30.0),
        ({}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "1e9"}, None),
        ({"retry-after": "9" * 401}, None),
        ({"retry-after": "٣"}, None),
        ({"retry-after": "[5]"}, None),
        ({"retry-after": "x" * 5000}, None),
        ({"retry-after": "in a minute"}, None),
    ]
    assert failing_rows(check, rows) == []


def test_retry_after_may_stand_in_the_body() -> None:
    """When no header says anything sensible (R6)."""

    def check(asked: Any, pause: float | None) -> None:
        reply = answer({"code": 429, "data": {"retryAfter": asked}}, retry_after="soon")

        assert retry_after(reply, wall=WALL) == pause

    rows = [
        (7, 7.0),
        ("2.5", 2.5),
        (10**9, 300.0),
        (-5, None),
        (True, None),
        (None, None),
        ([5], None),
    ]
    assert failing_rows(check, rows) == []


def test_retry_after_reaches_the_error() -> None:
    """Whatever form the 429 has (R8, R9)."""
    html = answer(HTML, 429, retry_after="12")
    other_code = answer({"code": 422, "msg": "call frequency too high"}, retry_after="12")

    for reply in (html, other_code):
        with pytest.raises(RateLimitError) as caught:
            decode_data(reply, wall=WALL)
        assert caught.value.retry_after == 12


@given(HEADERS, st.floats(0, 1e11))
def test_retry_after_is_always_bounded(headers: dict[str, str], wall: float) -> None:
    """Nothing a server writes makes us sleep for years, or not at all and for ever (R7)."""
    pause = retry_after(Reply(429, "", headers), wall=wall)

    assert pause is None or 0 <= pause <= MAX_RETRY_AFTER


# --- the other answers ----------------------------------------------------------------------------


def test_credits_are_a_number() -> None:
    """Documented as whole; fractions occur (API section 7)."""

    def check(data: Any, left: float) -> None:
        assert decode_credits(enveloped(data=data)) == left

    rows = [(100, 100.0), (640.25, 640.25), ("5.5", 5.5), (0, 0.0), (-3, -3.0)]
    assert failing_rows(check, rows) == []


def test_credits_in_another_shape_are_an_error_at_once() -> None:
    """The line is not broken: asking again for two minutes would get the same answer."""

    def check(data: Any) -> None:
        with pytest.raises(ApiError, match=r"answered with .*, not with a number") as caught:
            decode_credits(enveloped(data=data))
        assert caught.value.retry not in ("soon", "always")

    assert failing(check, [None, "many", [], {}, {"credits": 12}, True, HUGE, "inf"]) == []


# --- whatever comes -------------------------------------------------------------------------------

OPENERS: dict[str, tuple[Callable[[Reply], object], tuple[type[ApikleyError], ...], type]] = {
    "submission": (decoded, (ApiError, SubmissionUncertainError), str),
    "snapshot": (poll, (ApiError, UnansweredError), Snapshot),
    "credits": (decode_credits, (ApiError, UnansweredError), float),
    "link": (decode_link, (ApiError, UnansweredError), str),
    "upload": (decode_upload, (ApiError, UnansweredError, UploadError), str),
    "pause": (lambda reply: retry_after(reply, wall=WALL) or 0.0, (), float),
}


@pytest.mark.parametrize("opener", OPENERS)
@settings(max_examples=volume(50, 300))
@given(reply=REPLIES)
@example(reply=answer("[" * 1_000_000))
@example(reply=answer('{"code": 200, "data": {"state": "\\ud800", "failMsg": "\\udfff"}}'))
@example(reply=answer(f'{{"code": {"9" * 4000}, "msg": {"9" * 4300}}}'))
@example(reply=answer('{"code": 1e308, "data": {"completeTime": 1e308}}'))
@example(reply=answer('{"code": -0.0, "data": NaN}'))
def test_whatever_comes_is_a_value_or_a_documented_error(opener: str, reply: Reply) -> None:
    """Any text or JSON at all: no other exception, and nothing that could not be shown (P3)."""
    open_reply, errors, kind = OPENERS[opener]

    try:
        value = open_reply(reply)
    except errors as refused:
        value = refused

    if isinstance(value, ApikleyError):
        assert str(value).isprintable()
        assert len(value.message) < 700
        assert str(pickle.loads(pickle.dumps(value))) == str(value)  # noqa: S301
    else:
        assert isinstance(value, kind)
        assert not isinstance(value, float) or math.isfinite(value)

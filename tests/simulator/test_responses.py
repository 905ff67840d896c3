"""How the service refuses requests, in all its forms."""

from __future__ import annotations

import json
from email.utils import parsedate_to_datetime

import pytest
from manual_clock import ManualClock

from apikley_async.simulator import Refusal, ServiceClock, Terms, Throttle
from apikley_async.simulator.service.responses import ResponseBuilder, html_page

NOW = 1_790_000_000.0


def builder(*, speed=1.0, **terms):
    return ResponseBuilder(Terms(**terms), ServiceClock(ManualClock(0.0), speed))


def headers(answer):
    return dict(answer.headers)


@pytest.mark.parametrize(
    ("form", "status", "code", "sent"),
    [
        (Throttle.SECONDS, 429, 429, {"Retry-After": "10"}),
        (Throttle.FRACTION, 429, 429, {"Retry-After": "9.250"}),
        (Throttle.MILLISECONDS, 429, 429, {"retry-after-ms": "9250"}),
        (Throttle.BARE, 429, 429, {}),
        (Throttle.IN_BODY, 429, 429, {}),
        (Throttle.BODY, 200, 429, {}),
        (Throttle.BODY_430, 200, 430, {}),
        (Throttle.WORDS, 200, 402, {}),
    ],
)
def test_a_429_has_many_forms(form, status, code, sent):
    """Status, code and header are those of the form; delays are rounded up, never down."""
    answer = builder(throttle=form).refusal(Refusal(429, "too often", wait=9.25))

    assert (answer.status, json.loads(answer.body)["code"], headers(answer)) == (status, code, sent)


def test_the_delay_can_be_in_the_body_or_missing():
    """Without a header; one form even has the code for too few credits."""
    in_body = json.loads(builder().throttled(Throttle.IN_BODY, 9.25).body)
    in_message = json.loads(builder().throttled(Throttle.WORDS, 9.25).body)

    assert in_body["data"] == {"retryAfter": 10}
    assert "call frequency is too high" in in_message["msg"]


def test_the_delay_can_be_a_date():
    """Which is not before the end of the delay."""
    answer = builder().throttled(Throttle.DATE, 9.25)

    until = parsedate_to_datetime(headers(answer)["Retry-After"]).timestamp()
    assert NOW + 9.25 <= until <= NOW + 10.25


def test_invalid_delays_differ_each_time():
    """Negative, infinite, no number, a huge number, letters, digits of another script."""
    responses = builder()
    sent = [headers(responses.throttled(Throttle.ABSURD, 1))["Retry-After"] for _ in range(20)]

    assert len(set(sent)) == 10
    assert {"-5", "inf", "nan", "1e9"} < set(sent)
    assert sent[:10] == sent[10:]


def test_delays_are_sent_in_the_callers_seconds():
    """At a speed of five, ten service seconds are two of the caller's."""
    answer = builder(speed=5).throttled(Throttle.SECONDS, 10)

    assert headers(answer)["Retry-After"] == "2"


@pytest.mark.parametrize(("http_refusals", "status"), [(False, 200), (True, 402)])
def test_a_refusal_has_its_code_in_the_body(http_refusals, status):
    """And in the HTTP status only when the terms say so."""
    answer = builder(http_refusals=http_refusals).refusal(Refusal(402, "Credits insufficient"))

    assert answer.status == status
    assert json.loads(answer.body) == {"code": 402, "msg": "Credits insufficient", "data": None}


@pytest.mark.parametrize("status", [502, 599])
def test_a_gateway_answers_with_a_page(status):
    """For unknown statuses too."""
    answer = html_page(status)

    assert answer.content_type.startswith("text/html")
    assert str(status).encode() in answer.body

"""How the simulated service says no, and in how many ways."""

from __future__ import annotations

import json
from email.utils import parsedate_to_datetime

import pytest

from apikley_async.simulator import Refusal, ServiceClock, Terms, Throttle
from apikley_async.simulator.service.responses import ResponseBuilder, html_page

NOW = 1_790_000_000.0


class HandClock:
    """Time that passes only when it is told to."""

    def now(self):
        return 1000.0

    def wall(self):
        return NOW

    async def sleep(self, delay, wake=None):
        raise AssertionError("nothing waits here")


def speller(*, speed=1.0, **terms):
    return ResponseBuilder(Terms(**terms), ServiceClock(HandClock(), speed))


def headers(answer):
    return dict(answer.headers)


@pytest.mark.parametrize(
    ("form", "status", "code", "told"),
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
def test_a_throttling_has_many_forms(form, status, code, told):
    """Status, code and header are those of the form; waits are rounded up, never down."""
    answer = speller(throttle=form).refusal(Refusal(429, "too often", wait=9.25))

    assert (answer.status, json.loads(answer.body)["code"], headers(answer)) == (status, code, told)


def test_a_wait_can_hide_in_the_body_or_the_words():
    """No header tells it; one form even has the code of an empty purse."""
    in_body = json.loads(speller().throttled(Throttle.IN_BODY, 9.25).body)
    in_words = json.loads(speller().throttled(Throttle.WORDS, 9.25).body)

    assert in_body["data"] == {"retryAfter": 10}
    assert "call frequency is too high" in in_words["msg"]


def test_a_wait_can_be_a_date():
    """The date is not before the wait is over."""
    answer = speller().throttled(Throttle.DATE, 9.25)

    until = parsedate_to_datetime(headers(answer)["Retry-After"]).timestamp()
    assert NOW + 9.25 <= until <= NOW + 10.25


def test_absurd_waits_differ_each_time():
    """Negative, infinite, no number, a number for ever, letters, digits of another script."""
    spell = speller()
    told = [headers(spell.throttled(Throttle.ABSURD, 1))["Retry-After"] for _ in range(20)]

    assert len(set(told)) == 10
    assert {"-5", "inf", "nan", "1e9"} < set(told)
    assert told[:10] == told[10:]


def test_a_fast_world_names_waits_in_the_callers_seconds():
    """At a speed of five, ten world seconds are two of the caller's."""
    answer = speller(speed=5).throttled(Throttle.SECONDS, 10)

    assert headers(answer)["Retry-After"] == "2"


@pytest.mark.parametrize(("http_refusals", "status"), [(False, 200), (True, 402)])
def test_a_refusal_has_its_code_in_the_body(http_refusals, status):
    """And in the HTTP status only when the terms say so."""
    answer = speller(http_refusals=http_refusals).refusal(Refusal(402, "Credits insufficient"))

    assert answer.status == status
    assert json.loads(answer.body) == {"code": 402, "msg": "Credits insufficient", "data": None}


@pytest.mark.parametrize("status", [502, 599])
def test_a_gateway_answers_with_a_page(status):
    """For statuses that nobody has named, too."""
    answer = html_page(status)

    assert answer.content_type.startswith("text/html")
    assert str(status).encode() in answer.body

"""`_wire.lenient`: a value that makes sense or None, whatever comes."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from rows import failing, failing_rows
from volume import volume

from apikley_async._wire.lenient import (
    read_amount,
    read_date,
    read_json,
    read_moment,
    read_number,
    read_whole,
)

HUGE = 10**400  # no float can hold it
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=80)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([HUGE, -HUGE, 2**63, 1e308, -0.0])
    | st.floats()
    | ANY_TEXT
)
ANYTHING = st.recursive(
    LEAVES, lambda inner: st.lists(inner) | st.dictionaries(ANY_TEXT, inner), max_leaves=8
)


# --- JSON -----------------------------------------------------------------------------------------


def test_json_is_read_or_is_nothing() -> None:
    """A byte order mark, a number of 5,000 digits, a tower of brackets: no exception (P6)."""

    def check(text: str, value: Any) -> None:
        assert read_json(text) == value

    rows = [
        ('{"a": 1}', {"a": 1}),
        ('\ufeff{"a": 1}', {"a": 1}),
        (' \r\n{"a": 1}\n ', {"a": 1}),
        ('{"a": 1, "a": 2}', {"a": 2}),
        ('"text"', "text"),
        ("null", None),
        ("", None),
        ("<html>", None),
        ('{"a": 1', None),
        ('{"a": 1} trailing', None),
        ("9" * 5000, None),
        ("[" * 100_000, None),
        ("[" * 100_000 + "]" * 100_000, None),
        ('{"a":' * 5000 + "1" + "}" * 5000, None),
    ]
    assert failing_rows(check, rows) == []


def test_what_people_nest_is_read() -> None:

    def check(depth: int) -> None:
        assert read_json("[" * depth + "]" * depth) is not None
        assert read_json('{"a":' * depth + "1" + "}" * depth) is not None

    assert failing(check, [1, 20, 90]) == []


def test_what_is_nested_too_deep_to_be_handled_is_not_read() -> None:
    """What comes out can be printed, copied and pickled, however deep the caller stands (P6)."""

    def check(depth: int) -> None:
        assert read_json("[" * depth + "]" * depth) is None
        assert read_json('[{"a":' * (depth // 2) + "1" + "}]" * (depth // 2)) is None

    assert failing(check, [200, 900, 980, 995]) == []


def test_many_small_things_are_not_one_deep_thing() -> None:
    """Brackets beside each other are no tower."""
    assert read_json("[" + ",".join(["[[]]"] * 500) + "]") == [[[]]] * 500


@settings(max_examples=volume(50, 300))
@given(ANY_TEXT | ANYTHING.map(json.dumps))
def test_reading_json_never_raises(text: str) -> None:
    value = read_json(text)

    assert value is None or json.dumps(value)


# --- numbers --------------------------------------------------------------------------------------


def test_a_number_is_finite_or_nothing() -> None:
    """ASCII digits with a point at most; no word, no sign in front, no other script (R7, P14)."""

    def check(value: Any, number: float | None) -> None:
        assert read_number(value) == number

    rows = [
        (7, 7.0),
        (-7.5, -7.5),
        ("12", 12.0),
        ("12.25", 12.25),
        ("-3", -3.0),
        ("007", 7.0),
        (True, None),
        (False, None),
        (None, None),
        ("", None),
        (" 5", None),
        ("5\n", None),
        ("+5", None),
        ("1e3", None),
        ("1_000", None),
        ("0x10", None),
        ("٣", None),
        ("１７", None),
        ("inf", None),
        ("nan", None),
        (".5", None),
        ("9" * 16, None),
        ("9" * 400, None),
        (math.nan, None),
        (math.inf, None),
        (-math.inf, None),
        (HUGE, None),
        (-HUGE, None),
        ([5], None),
        ({"a": 5}, None),
        (b"5", None),
    ]
    assert failing_rows(check, rows) == []


def test_a_whole_number_may_be_a_float_or_text() -> None:

    def check(value: Any, whole: int | None) -> None:
        read = read_whole(value)

        assert read == whole
        assert type(read) is type(whole)

    rows = [
        (200, 200),
        (200.0, 200),
        ("200", 200),
        ("200.0", 200),
        (200.5, None),
        (2**53, 2**53),
        (2.0**54, None),
        (1e300, None),
        (-1e300, None),
        (10**30, None),
        ("x", None),
        (True, None),
    ]
    assert failing_rows(check, rows) == []


def test_an_amount_is_never_below_nothing() -> None:
    """A negative pause, price or progress makes no sense (R7, P14)."""

    def check(value: Any, amount: float | None) -> None:
        assert read_amount(value) == amount

    rows = [(0, 0.0), ("1.5", 1.5), (-0.5, None), ("-1", None), (math.nan, None)]
    assert failing_rows(check, rows) == []


@settings(max_examples=volume(50, 300))
@given(ANYTHING)
@example("9" * 15 + "." + "9" * 15)
@example(HUGE)
def test_reading_numbers_never_raises(value: Any) -> None:
    for read in (read_number, read_whole, read_amount):
        number = read(value)
        assert number is None or math.isfinite(number)


# --- times ----------------------------------------------------------------------------------------

AT = datetime(2026, 9, 21, 13, 33, 20, tzinfo=UTC)
SECONDS = int(AT.timestamp())


def test_a_moment_is_read_in_milliseconds_or_seconds() -> None:
    """The pages say milliseconds; a value that could only be seconds is taken as such (P14)."""

    def check(value: Any) -> None:
        assert read_moment(value) == AT

    rows = [SECONDS * 1000, SECONDS, float(SECONDS), str(SECONDS * 1000), str(SECONDS)]
    assert failing(check, rows) == []


def test_a_moment_is_exact() -> None:
    assert read_moment(SECONDS * 1000 + 987) == AT.replace(microsecond=987_000)


def test_nonsense_is_no_moment() -> None:
    """No year 1970, none of five digits, no overflow (P14)."""

    def check(value: Any) -> None:
        assert read_moment(value) is None

    rows = [
        *(0, -1, -SECONDS, 1, 12_345, SECONDS * 10**6, HUGE, 1e308, math.nan),
        *("soon", None, True, [], {}),
        253_402_300_799_000,  # the last second that datetime knows: nothing can be added to it
    ]
    assert failing(check, rows) == []


@settings(max_examples=volume(50, 300))
@given(ANYTHING | st.integers(-(10**18), 10**18) | st.floats())
def test_reading_moments_never_raises(value: Any) -> None:
    """Whatever is read is in UTC and far from the ends of the calendar."""
    moment = read_moment(value)

    assert moment is None or (1973 <= moment.year < 6000 and moment.tzinfo is UTC)


def test_a_date_of_a_header_is_read() -> None:

    def check(text: str) -> None:
        assert read_date(text) == SECONDS

    rows = [
        format_datetime(AT, usegmt=True),
        "Mon, 21 Sep 2026 13:33:20 +0000",
        "Mon, 21 Sep 2026 16:33:20 +0300",
        "21 Sep 2026 13:33:20 GMT",
        "Mon, 21 Sep 2026 13:33:20 -0000",
    ]
    assert failing(check, rows) == []


def test_what_is_no_date_is_nothing() -> None:
    """The library that parses dates raises what it likes; here nothing comes through (R6)."""

    def check(text: str | None) -> None:
        assert read_date(text) is None

    rows = [
        *(None, "", "soon", "-5", "1e9", "Mon", "٣", "x" * 65, "Mon, 21 Sep"),
        "Mon, 32 Sep 2026 13:33:20 GMT",
        "Mon, 21 Sep 2026 13:33:20 +9999",
        "Mon, 21 Sep 99999 13:33:20 GMT",
    ]
    assert failing(check, rows) == []


@settings(max_examples=volume(50, 300))
@given(
    ANY_TEXT
    | st.from_regex(
        r"(Mon, )?[0-9]{1,2} (Jan|Feb|Foo) [0-9]{1,5} [0-9:]{0,9} ([+-][0-9]{4}|GMT|Z)?",
        fullmatch=True,
    )
)
def test_reading_dates_never_raises(text: str) -> None:
    seconds = read_date(text)

    assert seconds is None or math.isfinite(seconds)

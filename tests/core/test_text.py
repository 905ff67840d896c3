"""`_text`: whatever was said elsewhere becomes one line that harms no log and no terminal."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from volume import volume

from apikley_async._text import (
    describe_value,
    encodes,
    escaped_line,
    fold_name,
    in_credits,
    local_and_utc,
    loggable,
    one_line,
    short_repr,
    shorten,
    words_of_page,
)

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=80)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(ANY_TEXT, inner),
    max_leaves=8,
)

LINES: list[tuple[Any, str]] = [
    ("Internal Error, Please try again later.", "Internal Error, Please try again later."),
    ("Внутренняя ошибка", "Внутренняя ошибка"),
    ("two\nlines\tand a tab", "two lines and a tab"),
    ("\x1b[31mred\x1b[0m", "[31mred [0m"),
    ("bell\x07 null\x00 c1\x9b", "bell null c1"),
    ("right\u202eleft", "right left"),
    ("zero\u200bwidth, mark\ufeff, letter mark\u061c", "zero width, mark , letter mark"),
    ("half\ud800pair", "half pair"),
    ("  spaces   galore  ", "spaces galore"),
    (404, "404"),
    (None, "None"),
    ({"a": 1}, "{'a': 1}"),
    ("", ""),
]


def test_any_value_becomes_one_printable_line() -> None:
    """Nothing that moves a cursor, reverses a line or hides (P16)."""
    failures = [(value, one_line(value)) for value, line in LINES if one_line(value) != line]

    assert failures == []


def test_a_line_is_cut_to_its_bound() -> None:
    assert one_line("x" * 10_000) == "x" * 497 + "..."
    assert one_line("x" * 500) == "x" * 500
    assert one_line("abcdef", 5) == "ab..."
    assert shorten("abcdef", 6) == "abcdef"
    assert shorten("abcdefg", 6) == "abc..."


@settings(max_examples=volume(50, 300))
@given(ANYTHING, st.integers(3, 600))
def test_a_line_is_printable_and_within_its_bound_whatever_comes(value: Any, bound: int) -> None:
    line = one_line(value, bound)

    assert line.isprintable()
    assert len(line) <= bound


def test_a_log_line_holds_no_url() -> None:
    """A callback URL holds a token, a result's link a signature (I8)."""
    line = loggable("no answer from https://hooks.test/canary?x=1\nand custom+x://canary, sorry")

    assert line == "no answer from <url> and custom+<url> sorry"
    assert line.isprintable()


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


def test_any_value_is_shown_shortly() -> None:
    """In an error message, whatever its `repr` does."""
    shown: list[tuple[Any, str, str]] = [
        (7.5, "7.5", "7.5"),
        ("a\nb", r"'a\nb'", r"'a\nb'"),
        ("x" * 100, "'" + "x" * 56 + "...", "'" + "x" * 60 + "'..."),
        ({"a": 1}, "{'a': 1}", "a mapping"),
        ([1, 2], "[1, 2]", "a list"),
        (10**5000, "int", "a number of thousands of digits"),
    ]

    assert [(value, short_repr(value), describe_value(value)) for value, _, _ in shown] == shown
    assert short_repr(Unprintable()) == "Unprintable"


def test_an_escaped_line_shows_what_was_in_it() -> None:
    assert escaped_line("plain, Ж") == "plain, Ж"
    assert escaped_line("right\u202eleft\x1b[2J") == r"right\u202eleft\x1b[2J"
    assert escaped_line("x" * 2000) == "x" * 997 + "..."


def test_names_fold_as_on_the_least_discerning_disk() -> None:
    """Case, width and composition do not tell two files apart there."""
    names = ["Straße.mp4", "STRASSE.MP4", "Ｓtrasse.mp4", "strasse.mp4"]

    assert len({fold_name(name) for name in names}) == 1
    assert fold_name("e\u0301") == fold_name("\u00e9") != fold_name("e")


def test_lone_surrogates_cannot_be_sent() -> None:
    assert encodes("Кот 🍰")
    assert not encodes("half \ud800")


@pytest.mark.parametrize(
    ("zone", "said"),
    [
        ("UTC0", "2026-11-26 22:30:05 UTC"),
        ("MSK-3", "2026-11-27 01:30:05 +0300 (22:30:05 UTC)"),
    ],
)
def test_a_time_is_said_once_where_people_live_by_utc(
    zone: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert local_and_utc(datetime(2026, 11, 26, 22, 30, 5, tzinfo=UTC)) == said
    finally:
        monkeypatch.undo()
        time.tzset()


PAGES = {
    "<html><head><title>503 Service Unavailable</title></head><body>x</body></html>": (
        "503 Service Unavailable"
    ),
    "<!DOCTYPE html>\n<html>\n<body>\n<h1>502 Bad\nGateway</h1>\n<hr>nginx</body>": (
        "502 Bad Gateway nginx"
    ),
    "<html><style>p {color: red}</style><script>alert('no')</script><p>Down</p>": "Down",
    "<html><title> </title><!-- hidden --><p>Back at 5&nbsp;&amp; a half</p><p": (
        "Back at 5 & a half"
    ),
    "<html>" + "<p> \n" * 300 + "At last": "At last",
    "<html><script>never closed": "",
    "the reason": "the reason",
    '{"code": "abc"}': '{"code": "abc"}',
    "": "",
}


def test_credits_in_words() -> None:
    """As people write them; and what is little is not shown as nothing."""
    shown = {
        0: "0",
        270: "270",
        5940.0: "5,940",
        0.5: "0.5",
        1234567.891: "1,234,567.89",
        0.004: "0.004",
        -150.0: "-150",
        Decimal(10_000_000): "10,000,000",
    }
    assert {number: in_credits(number) for number in shown} == shown


def test_the_words_of_a_page() -> None:
    """A gateway's page is a sentence: no markup, no script, one line."""
    assert {page: words_of_page(page) for page in PAGES} == PAGES
    assert len(words_of_page("<p>" + "word " * 400)) == 120


@settings(max_examples=volume(100, 500))
@given(ANY_TEXT)
def test_the_words_of_any_page_are_one_line(text: str) -> None:
    for page in (text, f"<html><title>{text}</title>", f"<html>{text}"):
        assert words_of_page(page).isprintable()

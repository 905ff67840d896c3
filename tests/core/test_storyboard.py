"""`_storyboard`: what exists is valid, and what is not valid says everything that is wrong."""

from __future__ import annotations

import copy
import decimal
import enum
import json
import math
import pickle
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from rows import failing, failing_rows
from volume import volume

from apikley_async import ModelTask, Shot, Storyboard, StoryboardError
from apikley_async._storyboard import FEW_WORDS, has_few_words
from apikley_async._urls import MAX_URL
from apikley_async._validation import image_faults
from apikley_async._wire.requests import create_task, echo_faults

HUGE = 10**400  # no float can hold it
UNPRINTABLE = 10**5000  # and this one cannot even be printed
CAKE = Shot("A kitten eats cake.", 7.5)

NOT_NUMBERS = [
    math.nan,
    math.inf,
    -math.inf,
    True,
    False,
    "7.5",
    "",
    b"7",
    [7.5],
    {},
    Decimal("7.5"),
    Fraction(15, 2),
    7.5j,
    HUGE,
    -HUGE,
    UNPRINTABLE,
]


def faults_of(make: Any, *args: Any, **kwargs: Any) -> tuple[str, ...]:
    with pytest.raises(StoryboardError) as caught:
        make(*args, **kwargs)
    assert str(caught.value).isprintable()
    return caught.value.faults


def film(*durations: Any, duration: Any = 15) -> Storyboard:
    return Storyboard([Shot("A scene.", each) for each in durations], duration=duration)


def shown(value: object) -> str:
    return type(value).__name__


# --- a shot ---------------------------------------------------------------------------------------


def test_a_shot_lasts_from_a_tenth_to_fifteen_seconds() -> None:

    def check(duration: float) -> None:
        assert Shot("A lighthouse at dawn.", duration).duration == duration

    assert failing(check, [0.1, 1, 7.5, 14.999, 15, 15.0]) == []


def test_a_shot_outside_of_them_is_refused() -> None:
    """The message says the rule and the fact, and stays short whatever the fact is."""

    def check(duration: float) -> None:
        (fault,) = faults_of(Shot, "A lighthouse.", duration)

        assert fault.startswith("duration: 0.1 to 15 seconds, not ")
        assert len(fault) < 120

    assert failing(check, [0, -0.0, 0.0999, -7.5, 15.001, 16, 1e300, 10**200]) == []


def test_a_duration_is_a_number() -> None:
    """NaN, infinity, bool, text and what no float can hold are refused, in a short sentence."""

    def check(duration: Any) -> None:
        (fault,) = faults_of(Shot, "A lighthouse.", duration)

        assert fault.startswith("duration: a number of seconds, not ")
        assert len(fault) < 120

    assert failing(check, NOT_NUMBERS) == []


def test_a_scene_is_not_blank() -> None:

    def check(scene: Any) -> None:
        assert faults_of(Shot, scene, 5) == ("scene: a description, not blank",)

    assert failing(check, ["", " ", "\n\t ", "\u3000", None]) == []


def test_a_scene_is_text() -> None:

    def check(scene: Any) -> None:
        assert faults_of(Shot, scene, 5) == (f"scene: a description, not {scene!r}",)

    assert failing(check, [5, b"bytes", ["a"], True]) == []


def test_a_scene_can_be_sent() -> None:
    """Half a surrogate pair has no spelling in UTF-8."""
    (fault,) = faults_of(Shot, "half \ud83d", 5)

    assert fault == "scene: valid Unicode, without lone surrogates"


def test_any_other_scene_is_the_users_business() -> None:
    """No length is published, so none is guessed."""

    def check(scene: str) -> None:
        assert Shot(scene, 5).scene == scene

    assert failing(check, ["x" * 100_000, "Кот и торт 🍰", "a\nb", "\u200fשלום"]) == []


def test_a_shot_says_both_its_faults() -> None:
    assert len(faults_of(Shot, " ", math.nan)) == 2


# --- a storyboard: one error names everything -----------------------------------------------------


def test_a_storyboard_has_the_promised_defaults() -> None:
    board = Storyboard([CAKE])

    assert (board.duration, board.aspect_ratio, board.image) == (15, "landscape", None)


def test_every_fault_is_named_with_its_path() -> None:
    """A user mends a file once, not once per fault."""
    shots: list[Any] = [
        CAKE,
        {"scene": "", "duration": 7.5},
        {"scene": "x", "duration": math.nan, "length": 3},
        {"duration": 99},
        "a scene",
        {"scene": "y", "duration": True, 5: 6, "a\nb": 7},
    ]

    faults = faults_of(
        Storyboard, shots, duration=12, aspect_ratio="square", image="ftp://a.test/x.png"
    )

    assert faults == (
        "shots[1].scene: a description, not blank",
        "shots[2].length: unknown; a shot has scene and duration",
        "shots[2].duration: a number of seconds, not nan",
        "shots[3].scene: a description, not blank",
        "shots[3].duration: 0.1 to 15 seconds, not 99",
        "shots[4]: a Shot, not 'a scene'",
        "shots[5][5]: unknown; a shot has scene and duration",
        "shots[5]['a\\nb']: unknown; a shot has scene and duration",
        "shots[5].duration: a number of seconds, not True",
        "duration: 10, 15 or 25 seconds, not 12",
        "aspect_ratio: 'landscape' or 'portrait', not 'square'",
        "image: an http(s) URL, not ftp://",
    )


def test_the_sum_is_named_beside_other_faults() -> None:
    faults = faults_of(Storyboard, [{"scene": "", "duration": 15}, CAKE], image=b"\x89PNG")

    assert faults == (
        "shots[0].scene: a description, not blank",
        "shots: 15 seconds together at most, not 22.5",
        "image: a path or an http(s) URL, not bytes; client.upload() turns content into a URL",
    )


def test_a_storyboard_has_one_to_ten_shots() -> None:

    def check(count: int) -> None:
        assert faults_of(Storyboard, [Shot("x", 0.1)] * count) == (f"shots: 1 to 10, not {count}",)

    assert failing(check, [0, 11, 50]) == []


def test_one_and_ten_are_within() -> None:

    def check(count: int) -> None:
        assert len(Storyboard([Shot("x", 0.1)] * count).shots) == count

    assert failing(check, [1, 10]) == []


def test_shots_are_a_sequence_and_the_rest_is_checked_all_the_same() -> None:
    """Shots of the wrong kind hide no other fault."""

    def check(shots: Any) -> None:
        faults = faults_of(Storyboard, shots, duration=11, aspect_ratio=None, image="")

        assert [fault.partition(":")[0] for fault in faults] == [
            "shots",
            "duration",
            "aspect_ratio",
            "image",
        ]

    assert failing(check, ["text", b"bytes", {"scene": "x"}, None, 5, CAKE]) == []


def test_shots_may_come_from_anywhere() -> None:
    """A generator is read once, and mappings become shots."""
    board = Storyboard({"scene": f"Scene {n}.", "duration": n} for n in (1, 2))

    assert board.shots == (Shot("Scene 1.", 1), Shot("Scene 2.", 2))


def test_a_film_has_one_of_three_lengths() -> None:

    def check(duration: Any) -> None:
        board = Storyboard([Shot("x", 5)], duration=duration)

        assert board.duration == duration
        assert type(board.duration) is int

    assert failing(check, [10, 15, 25, 10.0, 25.0]) == []


def test_a_film_has_no_other_length() -> None:

    def check(duration: Any) -> None:
        (fault,) = faults_of(Storyboard, [CAKE], duration=duration)

        assert fault.startswith("duration: 10, 15 or 25 seconds, not ")
        assert len(fault) < 120

    assert failing(check, [0, 5, 15.5, 20, 30, -15, "15", "", [15], *NOT_NUMBERS]) == []


def test_a_film_is_wide_or_tall() -> None:

    def check(aspect: Any) -> None:
        (fault,) = faults_of(Storyboard, [CAKE], aspect_ratio=aspect)

        assert fault.startswith("aspect_ratio: 'landscape' or 'portrait', not ")

    assert failing(check, ["square", "", "Landscape", "16:9", None, 1, ["portrait"]]) == []


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


class Poem:
    def __repr__(self) -> str:
        return "first line\nsecond line " + "x" * 1000


def test_any_object_leaves_the_message_short() -> None:
    """Whatever stands where it does not belong, the error is a short line that names it."""

    def check(stranger: Any) -> None:
        faults = faults_of(
            Storyboard, [stranger], duration=stranger, aspect_ratio=stranger, image=5
        ) + faults_of(Shot, ["x", stranger], stranger)

        assert len(faults) == 6
        assert all(len(fault) < 150 and fault.encode() for fault in faults)

    assert failing(check, [Unprintable(), Poem(), UNPRINTABLE, "\ud800"]) == []


# --- sums -----------------------------------------------------------------------------------------


def test_shots_that_fill_the_film_fit() -> None:
    """No float's last digit refuses a film that adds up for a human."""

    def check(durations: list[float], duration: int) -> None:
        assert film(*durations, duration=duration).duration == duration

    rows = [
        ([1.5] * 10, 15),
        ([15 / 7] * 7, 15),
        ([25 / 7] * 7, 25),
        ([0.1 + 0.2] * 10, 10),
        ([3.3, 3.3, 3.4], 10),
        ([150 * 0.1 / 10] * 10, 15),
        ([0.1 * 3 * 5] * 10, 15),
        ([1.1, 2.2, 3.3, 3.4], 10),
        ([4.35, 4.35, 1.3], 10),
        ([10 / 3] * 3, 10),
        ([25 / 9] * 9, 25),
        ([12.5, 12.5], 25),
        ([15], 15),
    ]
    assert failing_rows(check, rows) == []


def test_shots_that_do_not_fit_are_refused() -> None:
    """The message says what they add up to, as a human would."""

    def check(durations: list[float], duration: int, reported: str) -> None:
        assert faults_of(film, *durations, duration=duration) == (
            f"shots: {duration} seconds together at most, not {reported}",
        )

    rows = [
        ([1.6] * 10, 15, "16"),
        ([15, 0.1], 15, "15.1"),
        ([5.1] * 3, 15, "15.3"),
        ([2] * 10, 15, "20"),
        ([15, 10.00001], 25, "25.00001"),
        ([7.5, 7.500002], 15, "15.000002"),
    ]
    assert failing_rows(check, rows) == []


@settings(max_examples=volume(50, 300))
@given(
    st.lists(st.integers(100_000, 15_000_000), min_size=1, max_size=10),
    st.sampled_from([10, 15, 25]),
)
@example([1_500_000] * 10, 15)
@example([5_010_000, 5_000_000, 5_000_000], 15)
def test_decimals_of_up_to_six_places_add_up_exactly(micros: list[int], duration: int) -> None:
    """Seconds as people write them: accepted up to the last millionth, and never beyond two."""
    durations = [micro / 1_000_000 for micro in micros]
    over = sum(micros) - duration * 1_000_000

    if over <= 0:
        film(*durations, duration=duration)
    elif over > 1:
        faults_of(film, *durations, duration=duration)


@settings(max_examples=volume(50, 300))
@given(
    st.lists(st.floats(0.2, 1.0), min_size=2, max_size=10),
    st.sampled_from([10, 15, 25]),
    st.booleans(),
)
def test_shares_of_a_film_are_never_refused(
    weights: list[float], duration: int, rounded: bool
) -> None:
    """Shots computed to fill a film fill it, whatever the floats make of it."""
    whole = math.fsum(weights)
    durations = [duration * weight / whole for weight in weights]
    if rounded:  # downwards, to a whole number of tenths: what a careful caller would do
        durations = [math.floor(each * 10) / 10 for each in durations]
    assume(all(0.1 <= each <= 15 for each in durations))

    assert film(*durations, duration=duration).duration == duration


@settings(max_examples=volume(50, 300))
@given(st.lists(st.floats(0.1, 15), min_size=1, max_size=10), st.sampled_from([10, 15, 25]))
def test_a_sum_is_judged_to_a_millionth(durations: list[float], duration: int) -> None:
    """Against exact arithmetic: no false refusal, and no acceptance by more than 1e-6."""
    exact = sum(map(Fraction, durations))
    slack = Fraction(1, 10**9)

    if exact <= duration:
        film(*durations, duration=duration)
    elif exact > duration + Fraction(1, 10**6) + slack:
        faults_of(film, *durations, duration=duration)


def test_sums_do_not_depend_on_the_callers_decimal_context() -> None:
    """A caller who rounds decimals for reasons of his own gets the same answer."""

    def check(precision: int) -> None:
        with decimal.localcontext() as context:
            context.prec = precision
            context.traps[decimal.Inexact] = True

            assert film(*[1.5] * 10).duration == 15
            faults_of(film, 5.01, 5, 5)

    assert failing(check, [1, 2, 3]) == []


class Odd(float):
    def __str__(self) -> str:
        return "five and a bit"

    __repr__ = __str__


class Beat(enum.IntEnum):
    HALF = 5


def test_numbers_of_a_kind_count_as_numbers() -> None:
    """A float of another library, with a spelling of its own, is summed and sent as a number."""
    board = film(Odd(5.5), Beat.HALF, 4.5)

    assert (
        json.loads(create_task(board.model, board.wire_input({})).content() or b"")["input"][
            "shots"
        ][0]["duration"]
        == 5.5
    )
    faults_of(film, Odd(5.5), Beat.HALF, 4.6)


# --- shots without a duration ---------------------------------------------------------------------


def lengths(*durations: float | None, duration: Any = 15) -> tuple[float, ...]:
    """The durations that are sent for shots with and without one of their own."""
    board = film(*durations, duration=duration)
    sent = create_task(board.model, board.wire_input({})).body
    assert sent is not None
    spelled = tuple(shot["duration"] for shot in sent["input"]["shots"])
    assert spelled == board.durations
    return spelled


def test_shots_without_a_duration_share_what_is_left_equally() -> None:
    """In whole milliseconds; the first ones get one more where they do not divide."""
    rows: list[tuple[tuple[float | None, ...], int, tuple[float, ...]]] = [
        ((None,), 10, (10,)),
        ((None,), 15, (15,)),
        ((None, None), 15, (7.5, 7.5)),
        ((5, None, None), 15, (5, 5, 5)),
        ((None, 4.5, None), 10, (2.75, 4.5, 2.75)),
        ((None,) * 3, 10, (3.334, 3.333, 3.333)),
        ((None,) * 7, 15, (2.143,) * 6 + (2.142,)),
        ((None,) * 10, 25, (2.5,) * 10),
        ((None, None), 25, (12.5, 12.5)),
        ((10 / 3, None, None), 10, (10 / 3, 3.333, 3.333)),
        ((0.1, None), 15, (0.1, 14.9)),
        ((14.9, None), 15, (14.9, 0.1)),
        ((14.8, None, None), 15, (14.8, 0.1, 0.1)),
        ((1.5,) * 10, 15, (1.5,) * 10),
    ]

    found = [lengths(*given, duration=duration) for given, duration, _ in rows]

    assert found == [expected for _, _, expected in rows]


@settings(max_examples=volume(50, 300))
@given(
    st.lists(st.none() | st.floats(0.1, 15), min_size=1, max_size=10),
    st.sampled_from([10, 15, 25]),
)
def test_shares_fill_the_film_and_never_exceed_it(
    durations: list[float | None], duration: int
) -> None:
    """Exactly, but for what is finer than a millisecond; what was given is sent as it is."""
    try:
        found = lengths(*durations, duration=duration)
    except StoryboardError:
        return
    pairs = list(zip(durations, found, strict=True))
    shares = [length for given, length in pairs if given is None]
    total = sum(Decimal(repr(float(length))) for length in found)

    assert all(given in (None, length) for given, length in pairs)
    assert all(0.1 <= length <= 15 for length in found)
    assert total <= duration + Decimal("0.000001")
    if shares:
        assert duration - total < Decimal("0.001")
        assert max(shares) - min(shares) < 0.0011


def test_a_share_that_no_shot_may_last_is_refused() -> None:
    """Together with every other fault, and never instead of the sum's."""
    rows: list[tuple[tuple[float | None, ...], int, tuple[str, ...]]] = [
        ((None,), 25, ("25 seconds are left for each shot without a duration",)),
        ((15, None), 15, ("0 seconds are left for each shot without a duration",)),
        ((9.9, None, None), 10, ("0.05 seconds are left for each shot without a duration",)),
        ((14.7, None, None, None, None), 15, ("0.075 seconds are left for each shot",)),
        ((9, 9, None), 15, ("15 seconds together at most, not 18",)),
        ((15, 0.0000005 + 10, None), 25, ("0 seconds are left for each shot",)),
    ]
    failures = []
    for durations, duration, expected in rows:
        faults = faults_of(film, *durations, duration=duration)
        if len(faults) != 1 or not all(map(faults[0].removeprefix("shots: ").startswith, expected)):
            failures.append((durations, faults))

    assert failures == []
    assert faults_of(Storyboard, [{"scene": ""}, Shot("x", 15)], image="") == (
        "shots[0].scene: a description, not blank",
        "shots: 0 seconds are left for each shot without a duration; 0.1 to 15 are possible",
        "image: a path or an http(s) URL, not blank; None for no image",
    )
    # What is wrong with another shot or with the film says more than a share would.
    assert faults_of(Storyboard, [{"scene": "x", "duration": 99}, {"scene": "x"}]) == (
        "shots[0].duration: 0.1 to 15 seconds, not 99",
        "shots: 15 seconds together at most, not 99",
    )
    assert len(faults_of(Storyboard, [Shot("x")], duration=12)) == 1


def test_a_storyboard_says_what_its_user_wrote() -> None:
    """A share is worked out when it is sent: it is no part of the value."""
    board = Storyboard([{"scene": "A."}, {"scene": "B.", "duration": None}, Shot("C.", 7)])

    assert board.shots == (Shot("A."), Shot("B.", None), Shot("C.", 7))
    assert board.durations == (4, 4, 7)
    assert board.to_dict()["shots"] == [
        {"scene": "A."},
        {"scene": "B."},
        {"scene": "C.", "duration": 7},
    ]
    assert attrs.evolve(board, duration=25).durations == (9, 9, 7)
    assert Storyboard(**board.to_dict()) == board
    assert board != Storyboard([Shot("A.", 4), Shot("B.", 4), Shot("C.", 7)])


# --- images ---------------------------------------------------------------------------------------


def test_an_image_is_a_path_or_a_url() -> None:
    """A value reaches for nothing: whether the file exists shows when it is submitted."""

    def check(image: Any) -> None:
        assert Storyboard([CAKE], image=image).image == image

    rows = [
        None,
        "kitten.png",
        "pictures/kitten with spaces.png",
        "C:\\kitten.png",
        "no-such-file.gif",
        Path("kitten.png"),
        "https://files.test/kitten.png",
        "HTTP://files.test:8080/a.png?x=1#y",
        "https://xn--e1aybc.test/%D0%BA.png",
        "https://тест.test/котёнок.png",
        "http://127.0.0.1:8000/a.png",
        "http://[::1]:8000/a.png",
    ]
    assert failing(check, rows) == []


def test_any_other_image_is_refused() -> None:
    """Also each URL that the service should not be asked to fetch (P7)."""

    def check(image: Any, fault: str) -> None:
        (reported,) = faults_of(Storyboard, [CAKE], image=image)

        assert reported.startswith("image: ")
        assert fault in reported
        assert "canary" not in reported  # a password is not repeated

    rows = [
        ("", "not blank"),
        ("  ", "not blank"),
        (b"\x89PNG", "not bytes"),
        (5, "not int"),
        (["a.png"], "not list"),
        ("a\0b.png", "NUL"),
        ("data:image/png;base64,AAAA", "not a data URL"),
        ("DATA:image/png;base64,AAAA", "not a data URL"),
        ("ftp://files.test/a.png", "not ftp://"),
        ("file:///etc/passwd", "not file://"),
        ("javascript://x", "not javascript://"),
        ("://files.test/a.png", "not ://"),
        ("https:///a.png", "with a host"),
        ("https://", "with a host"),
        ("https://user:canary@files.test/a.png", "without user name"),
        ("https://user@files.test/a.png", "without user name"),
        ("https://@files.test/a.png", "without user name"),
        ("https://files.test/a b.png", "without spaces"),
        ("https://files.test/a\n.png", "without spaces"),
        ("https://files.test/\u202eb.png", "without spaces"),
        ("https://files.test/\ud800.png", "without spaces"),
        ("https://files.test:99999/a.png", "a valid URL"),
        ("https://files.test:x/a.png", "a valid URL"),
        ("https://[::1/a.png", "a valid URL"),
        ("https://files.test/" + "x" * 8200, "at most 8192"),
    ]
    assert failing_rows(check, rows) == []


@given(st.text(st.characters(exclude_categories=()), max_size=60))
@example("https://\u2100.test/")
@example("https://[v1.x]/")
def test_validating_an_image_never_raises(text: str) -> None:
    """Whatever stands in a field meant for an image, there is a verdict and no exception (P7)."""
    for url in (text, f"https://{text}", f"{text}://files.test", f"https://files.test/{text}"):
        faults = [*image_faults(url)]
        assert all(isinstance(fault, str) for fault in faults)


# --- values ---------------------------------------------------------------------------------------

WORKS = [
    CAKE,
    Storyboard([CAKE, CAKE], duration=25, aspect_ratio="portrait", image="https://a.test/x.png"),
    Storyboard([CAKE], image=Path("kitten.png")),
    ModelTask("kling-2.6/text-to-video", {"prompt": "A lighthouse.", "list": [1, {"a": None}]}),
]


def test_works_are_values() -> None:
    """Equal when they say the same, usable as keys, and they travel."""

    def check(work: Any) -> None:
        twins = [copy.copy(work), copy.deepcopy(work), pickle.loads(pickle.dumps(work))]  # noqa: S301

        assert all(twin == work and hash(twin) == hash(work) for twin in twins)
        assert work != "something else"

    assert failing(check, WORKS) == []


def test_works_are_frozen() -> None:

    def check(work: Any) -> None:
        name = next(iter(attrs.fields_dict(type(work))))

        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(work, name, None)

    assert failing(check, WORKS) == []


def test_evolved_storyboards_are_validated_too() -> None:
    """`attrs.evolve` makes a new storyboard, by the same rules."""
    board = film(7.5, 7.5)

    assert attrs.evolve(board, aspect_ratio="portrait").aspect_ratio == "portrait"
    assert attrs.evolve(board, duration=25).shots == board.shots
    faults_of(attrs.evolve, board, duration=10)


def test_equal_durations_are_equal_however_they_are_written() -> None:
    assert Shot("x", 7) == Shot("x", 7.0)
    assert Storyboard([CAKE], duration=15) == Storyboard([CAKE], duration=15.0)  # type: ignore[arg-type]


# --- tasks of other models ------------------------------------------------------------------------


def test_a_task_takes_what_json_carries() -> None:
    """Its spelling and its rules are the model's own."""
    fields = {"prompt": "Кот 🍰", "n": 5, "x": 0.5, "yes": True, "none": None, "deep": [{"a": []}]}

    assert ModelTask("kling-2.6/text-to-video", fields).input == fields
    assert ModelTask("model").input == {}


def test_a_task_is_its_own() -> None:
    """Changing the mapping that was given changes nothing."""
    fields: dict[str, Any] = {"a": [1, {"b": 2}]}
    task = ModelTask("model", fields)

    fields["a"][1]["b"] = 3

    assert task.input == {"a": [1, {"b": 2}]}


def test_a_task_takes_any_mapping() -> None:
    """A read-only view, also inside, and tuples for lists."""
    fields: Mapping[str, Any] = MappingProxyType({"a": MappingProxyType({"b": (1, 2)})})

    assert ModelTask("model", fields).input == {"a": {"b": [1, 2]}}


def test_a_model_has_a_name() -> None:

    def check(model: Any) -> None:
        (fault,) = faults_of(ModelTask, model, {})

        assert fault.startswith("model: ")

    assert failing(check, ["", "  ", None, 5, b"model", "half\ud800"]) == []


def test_every_fault_of_a_task_is_named_with_its_path() -> None:
    fields = {
        "nan": math.nan,
        "deep": [1, {"inf": -math.inf}],
        "set": {1},
        "bytes": b"x",
        "half": "\ud800",
        "half \ud800 key": 1,
        "exact": Decimal(1),
        "huge": UNPRINTABLE,
        5: "five",
    }

    assert faults_of(ModelTask, "", fields) == (
        "model: a name, not blank",
        "input.nan: a finite number, not nan",
        "input.deep[1].inf: a finite number, not -inf",
        "input.set: JSON, not set",
        "input.bytes: JSON, not bytes",
        "input.half: valid Unicode, without lone surrogates",
        "input['half \\ud800 key']: valid Unicode, without lone surrogates",
        "input.exact: JSON, not Decimal",
        "input.huge: a number of at most 300 digits",
        "input: keys are strings, not 5",
    )


def test_an_input_is_a_mapping() -> None:

    def check(fields: Any) -> None:
        (fault,) = faults_of(ModelTask, "model", fields)

        assert fault == f"input: a mapping, not {fields!r}"

    assert failing(check, [None, "text", [("a", 1)], 5]) == []


def test_an_input_is_not_endless() -> None:
    """What holds itself, twice over, is refused at once, and so is what is too deep."""
    circle: dict[str, Any] = {}
    circle["one"] = circle["other"] = [circle, circle]
    tower: Any = "top"
    for _ in range(40):
        tower = [tower]

    assert len(faults_of(ModelTask, "model", circle)) == 4
    assert faults_of(ModelTask, "model", {"tower": tower}) == (
        "input.tower" + "[0]" * 32 + ": at most 32 levels deep",
    )


ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=10)
ANY_VALUE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | ANY_TEXT
    | st.binary(max_size=3)
    | st.just(HUGE)
    | st.builds(lambda: UNPRINTABLE),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(ANY_TEXT | st.integers(), inner)
    ),
    max_leaves=6,
)


@settings(max_examples=volume(50, 300))
@given(model=ANY_TEXT, fields=st.dictionaries(ANY_TEXT, ANY_VALUE) | ANY_VALUE)
def test_a_task_that_exists_can_be_sent(model: Any, fields: Any) -> None:
    """It is refused with a `StoryboardError`, or it has a spelling that reads back the same."""
    try:
        task = ModelTask(model, fields)
    except StoryboardError:
        return

    sent = json.loads(create_task(task.model, task.wire_input({})).content() or b"")

    assert sent == {"model": model, "input": task.input}


@settings(max_examples=volume(50, 300))
@given(
    shots=st.lists(
        st.fixed_dictionaries({"scene": ANY_VALUE, "duration": ANY_VALUE | st.floats(0.1, 5)})
        | ANY_VALUE,
        max_size=4,
    )
    | ANY_VALUE,
    duration=st.sampled_from([10, 15, 25]) | ANY_VALUE,
    aspect=st.sampled_from(["landscape", "portrait"]) | ANY_VALUE,
    image=st.none() | ANY_VALUE,
)
def test_a_storyboard_that_exists_can_be_sent(
    shots: Any, duration: Any, aspect: Any, image: Any
) -> None:
    """Whatever is passed, the only exception is a `StoryboardError` with paths."""
    try:
        board = Storyboard(shots, duration=duration, aspect_ratio=aspect, image=image)
    except StoryboardError as refused:
        faults, content = refused.faults, None
    else:
        faults, content = (), create_task(board.model, board.wire_input({})).content()

    assert faults or content
    assert all(": " in fault and fault.encode() for fault in faults)


@pytest.mark.parametrize("char", ["a", '"', "\x01", "я", "😀"])
def test_few_words_are_never_too_many_for_a_record(char: str) -> None:
    """However they are escaped where the service repeats them: only longer films are measured."""
    image = "https://a.test/" + char * (MAX_URL - 15)
    words, rest = char * (FEW_WORDS // 10), char * (FEW_WORDS % 10 + 1)
    board = Storyboard([Shot(words)] * 10, image=None)
    longer = Storyboard([*board.shots[:9], Shot(words + rest)])

    assert has_few_words(board)
    assert [*echo_faults(board.wire_input({"image": image}))] == []
    assert not has_few_words(longer)

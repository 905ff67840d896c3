"""The totals of a run: where its films are, and how long it will take."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from apikley_async.cli.output.tally import Tally

EVENTS = ("submitted", "polled", "finished", "saved", "failed", "stopped", "uncertain", "delayed")


def add(tally: Tally, event: str, name: str, at: float = 0.0, **facts: Any) -> None:
    tally.add(event, {"name": name, **facts}, at)


def test_each_film_is_in_one_place() -> None:
    tally = Tally()
    tally.expect(9, slots=100)
    for name in ("a", "b", "c", "d", "e", "f"):
        add(tally, "submitted", name)
    add(tally, "finished", "a")
    add(tally, "saved", "a", credits=150)
    add(tally, "failed", "b")
    add(tally, "uncertain", "c")
    add(tally, "delayed", "d", item_state="success")
    add(tally, "delayed", "g", item_state="planned")

    assert tally.states() == (
        "1 done, 2 running, 3 waiting for the rate limit, 1 not saved, 1 failed, 1 undecided"
    )
    assert tally.ended == 3


def test_what_is_waited_for_is_named() -> None:
    """All slots are in use, or a bound holds films back: then it is not the rate limit."""
    tally = Tally()
    tally.expect(3, slots=1)
    add(tally, "submitted", "a")

    assert tally.states() == "0 done, 1 running, 2 waiting for a running slot"

    hindrance = "waiting for a bound"
    tally.expect(3, slots=5, hindrance=lambda: hindrance)
    assert tally.states() == "0 done, 1 running, 2 waiting for a bound"
    hindrance = ""
    assert tally.states() == "0 done, 1 running, 2 waiting for the rate limit"
    hindrance = "not submitted"
    assert tally.states() == "0 done, 1 running, 2 not submitted"


def test_a_failed_film_that_is_made_again_is_running() -> None:
    tally = Tally()
    tally.expect(1, slots=2)
    add(tally, "submitted", "a")
    add(tally, "failed", "a")
    add(tally, "submitted", "a")

    assert tally.states() == "0 done, 1 running"


def test_the_time_left_comes_from_films_in_flight() -> None:
    """Two films of 100 s at once, six in all: three rounds."""
    tally = Tally()
    tally.expect(6, slots=2)
    assert tally.seconds_left(0) is None
    add(tally, "submitted", "a", 0)
    add(tally, "submitted", "b", 0)
    assert tally.seconds_left(50) is None, "nobody knows how long films take here"
    for name in ("a", "b"):
        add(tally, "saved", name, 100, credits=5)
    for name in ("c", "d"):
        add(tally, "submitted", name, 100)

    assert tally.seconds_left(100) == 200
    assert tally.seconds_left(150) == 150
    assert tally.cost_and_time(150) == "10 credits, about 2 min left"


def test_there_is_no_time_left_out_of_nothing() -> None:
    """Nobody knows it while nobody works, of films of unknown age, and when all are overdue."""
    hindrance = ""
    tally = Tally()
    tally.expect(4, running=("old",), hindrance=lambda: hindrance)
    assert tally.states() == "0 done, 1 running, 3 waiting"
    add(tally, "saved", "old", 30)
    assert tally.seconds_left(30) is None, "it was submitted long before"

    for name in ("a", "b"):
        add(tally, "submitted", name, 100)
    add(tally, "saved", "a", 200)
    assert tally.seconds_left(210) == 100
    hindrance = "waiting for a worker"
    assert tally.states() == "2 done, 1 running, 1 waiting for a worker"
    assert tally.seconds_left(210) is None
    hindrance = ""
    assert tally.seconds_left(301) is None, "nothing has happened for longer than a film takes"
    add(tally, "submitted", "c", 310)
    add(tally, "saved", "c", 320)
    assert tally.seconds_left(325) is None, "the last one takes longer than any other"


def test_simulated_credits_are_none() -> None:
    tally = Tally()
    tally.expect(1)
    add(tally, "saved", "a", credits=150, simulated=True)

    assert tally.cost_and_time(1) == ""


@given(st.lists(st.tuples(st.sampled_from(EVENTS), st.sampled_from("abcde"))))
def test_no_order_of_events_loses_a_film(happened: list[tuple[str, str]]) -> None:
    """Whatever came before, each film is counted once, and the numbers add up."""
    tally = Tally()
    tally.expect(5, slots=2)
    for at, (event, name) in enumerate(happened):
        add(tally, event, name, at, item_state="planned")
        numbers = [int(part.split()[0]) for part in tally.states().split(", ")]
        assert sum(numbers) == 5
        left = tally.seconds_left(at)
        assert left is None or left >= 0

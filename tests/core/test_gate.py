"""`_gate`: how long to wait after a 429, and how much the service takes. Values only."""

from __future__ import annotations

import itertools
import math

import attrs
from hypothesis import given
from hypothesis import strategies as st

from apikley_async._gate import AFTER_REFUSAL, PROBE_SPACING, Gate

OPEN = Gate(limit=20)
PAUSED = Gate(limit=20, takes=20, opens_at=5, refusals=1, at_once=1)


def refused(gate: Gate, sent_at: float, *, passed: int, in_span: int, full: bool = True) -> Gate:
    """A 429 that closes the gate until a second later."""
    gate = gate.refused(sent_at, passed=passed, in_span=in_span, full=full)
    return gate.closed_for(1, now=sent_at)


def test_a_gate_says_how_long_to_wait() -> None:
    """First the time, then the number; inf: until an attempt in flight ends."""
    rows = [
        (OPEN, 0.0, 19, 0.0),
        (Gate(limit=20, opens_at=5), 2.0, 0, 3.0),
        (Gate(limit=20, opens_at=5), 5.0, 0, 0.0),
        (PAUSED, 5.0, 0, 0.0),
        (PAUSED, 9.0, 1, math.inf),
        (attrs.evolve(PAUSED, at_once=3), 9.0, 2, 0.0),
        (attrs.evolve(PAUSED, at_once=3), 9.0, 3, math.inf),
    ]

    failures = [row for row in rows if row[0].delay(row[1], row[2]) != row[3]]

    assert failures == []


def test_refusals_of_one_burst_count_once() -> None:
    """An attempt that was sent before the pause says nothing about the pause."""
    rows = [
        (OPEN, 0.0, 1),
        (PAUSED, 0.0, 1),  # another of the burst that closed it
        (PAUSED, 5.0, 2),  # the one that went first is refused as well
        (attrs.evolve(PAUSED, refusals=4), 9.0, 5),
    ]

    failures = []
    for gate, sent_at, refusals in rows:
        after = gate.refused(sent_at, passed=0, in_span=0, full=False)
        if (after.refusals, after.at_once) != (refusals, 1):
            failures.append((gate, sent_at))

    assert failures == []


def test_a_gate_never_opens_earlier_than_promised() -> None:
    """The longest pause wins."""
    gate = OPEN.closed_for(30, now=100)

    assert gate.closed_for(5, now=110).opens_at == 130
    assert gate.closed_for(25, now=110).opens_at == 135


def test_a_gate_lets_one_more_go_with_each_answer() -> None:
    """1, 2, 3 and in the end all, with a clean record from the first on (R4)."""
    gate = Gate(limit=4, opens_at=5, refusals=3, at_once=1)
    found = []
    for passed in (1, 2, 3, 4):
        gate = gate.answered(sent_at=6, passed=passed, full=False)
        found.append((gate.at_once, gate.refusals))

    assert found == [(2, 0), (3, 0), (math.inf, 0), (math.inf, 0)]


def test_an_answer_from_before_the_pause_lets_nothing_more_go() -> None:
    """It shows how things were, not how they are."""
    gate = PAUSED.answered(sent_at=4.9, passed=3, full=True)

    assert (gate.at_once, gate.refusals, gate.width) == (1, 1, 20)


def test_a_burst_leaves_as_many_slots_as_passed() -> None:
    """Whether their answers came before the first 429 or after it."""
    gate = refused(OPEN, 0, passed=3, in_span=3)
    for passed in range(4, 19):
        gate = gate.answered(sent_at=0, passed=passed, full=True)
    gate = refused(gate, 0, passed=18, in_span=18)

    assert gate.width == 18
    assert gate.answered(sent_at=2, passed=19, full=True).width == 18


def test_what_is_no_evidence_takes_no_slot() -> None:
    """A 429 alone costs a pause: of 40 submissions that passed, with slots to spare, in a row."""
    learned = Gate(limit=20, takes=18, former=18, changed_at=100)
    rows = {
        "the first after 40": (learned, {"passed": 140, "in_span": 3, "full": True}),
        "slots to spare, nothing known": (OPEN, {"passed": 3, "in_span": 3, "full": False}),
        "a second in a row": (
            attrs.evolve(learned, refusals=1),
            {"passed": 101, "in_span": 3, "full": True},
        ),
        "nothing passed at all": (OPEN, {"passed": 0, "in_span": 0, "full": True}),
        "no span to learn about": (
            Gate(limit=20, per=0),
            {"passed": 3, "in_span": 0, "full": True},
        ),
    }

    failures = [
        reason
        for reason, (gate, facts) in rows.items()
        if gate.refused(50.0, **facts).width != gate.width  # type: ignore[arg-type]
    ]

    assert failures == []


def test_a_second_refusal_soon_after_is_evidence() -> None:
    """The first was forgiven, submissions passed, and it is refused again: it takes less."""
    gate = refused(Gate(limit=20, changed_at=0), 50, passed=60, in_span=19)
    assert gate.width == 20
    gate = gate.answered(sent_at=52, passed=61, full=False)

    assert refused(gate, 53, passed=65, in_span=5).width == 5


def test_probes_are_spaced_and_grow_while_they_hold() -> None:
    """Forty submissions or more apart: two slots more, then half as many; never above `limit`."""
    gate = refused(Gate(limit=19), 0, passed=5, in_span=5)
    widths = [(5, gate.width)]
    for passed in range(6, 400):
        gate = gate.answered(sent_at=2, passed=passed, full=True)
        if gate.width != widths[-1][1]:
            widths.append((passed, gate.width))

    assert [width for _, width in widths] == [5, 7, 10, 15, 19]
    apart = [later[0] - earlier[0] for earlier, later in itertools.pairwise(widths)]
    assert min(apart) == PROBE_SPACING
    assert apart[0] == AFTER_REFUSAL


def probed(width: int, *, limit: int = 20) -> Gate:
    """A gate that has just had more slots than *width*."""
    gate = Gate(limit=limit, takes=width, former=width, changed_at=0)
    for passed in range(1, PROBE_SPACING + 1):
        gate = gate.answered(sent_at=1, passed=passed, full=True)
    return gate


def test_a_probe_that_is_refused_costs_no_slot_and_the_next_waits_longer() -> None:
    """The width is as before; four spans at least, and longer the longer the pause was."""
    gate = probed(17)
    assert gate.width == 19

    after = gate.refused(5, passed=42, in_span=17, full=True)
    assert (after.width, after.step) == (17, 0)
    spacings = [after.closed_for(pause, now=5).spacing for pause in (1, 10, 300)]
    assert spacings == [68, 340, 10_200]


def test_a_refused_probe_leaves_what_passed_but_not_all_of_its_slots() -> None:
    """The span before may lie across a boundary of the service's windows, and hold too many."""
    gate = probed(10)
    assert gate.width == 12
    rows = {3: 10, 10: 10, 11: 11, 12: 11}
    widths = {
        in_span: gate.refused(5, passed=42, in_span=in_span, full=True).width for in_span in rows
    }
    assert widths == rows

    late = gate.refused(5, passed=42, in_span=10, full=True).closed_for(1, now=5)
    assert late.answered(sent_at=4, passed=43, full=True).width == 10


def test_small_widths_grow_by_one_slot() -> None:
    """Two slots where there are two would be a service twice as fast."""
    assert [probed(width).width for width in (1, 2, 3, 4, 19)] == [2, 3, 4, 6, 20]


def test_after_a_refusal_a_slot_of_ones_own_is_waited_for() -> None:
    """Where less than the limit passes: until then all places are others'. A span at most."""
    learned = Gate(limit=20, takes=10, former=10, changed_at=0)
    rows = [
        (learned, 0.0, 101.0),
        (learned, 7.0, 107.0),
        (learned, 60.0, 110.0),
        (Gate(limit=20), 7.0, 101.0),
    ]

    failures = [
        (gate, own_in)
        for gate, own_in, opens_at in rows
        if gate.closed_for(1, now=100, own_in=own_in).opens_at != opens_at
    ]

    assert failures == []


def test_who_leaves_slots_unused_probes_nothing() -> None:
    """Submissions one by one show nothing about the width."""
    gate = Gate(limit=20, takes=2, former=2, changed_at=0)
    for passed in range(1, 400):
        gate = gate.answered(sent_at=1, passed=passed, full=False)

    assert gate.width == 2


def test_a_hint_is_bounded() -> None:
    """It may come from a file that somebody else has written."""
    assert [OPEN.assuming(takes).width for takes in (-3, 0, 1, 18, 20, 900)] == [
        1,
        1,
        1,
        18,
        20,
        20,
    ]


@given(
    limit=st.integers(1, 30),
    events=st.lists(
        st.tuples(st.booleans(), st.floats(0, 5), st.integers(0, 40), st.booleans()), max_size=200
    ),
)
def test_the_width_is_never_above_the_limit_nor_below_one(
    limit: int, events: list[tuple[bool, float, int, bool]]
) -> None:
    """Whatever is answered, in whatever order."""
    gate, passed, now = Gate(limit=limit), 0, 0.0
    for is_pass, ago, in_span, full in events:
        now += 1
        if is_pass:
            passed += 1
            gate = gate.answered(now - ago, passed=passed, full=full)
        else:
            gate = gate.refused(now - ago, passed=passed, in_span=in_span, full=full)
            gate = gate.closed_for(1, now)
        assert 1 <= gate.width <= limit
        assert gate.spacing >= PROBE_SPACING

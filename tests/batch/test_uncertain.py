"""What a person is shown of uncertain films: which belong together, and what the balance says."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apikley_async.batch.task_matching import assign_tasks
from apikley_async.batch.uncertain import (
    BalanceEvidence,
    UncertainItem,
    uncertain_groups,
    ways_out,
)

BEGAN = datetime(2026, 9, 22, 6, 59, 50, tzinfo=UTC)
BALANCE = BalanceEvidence(BEGAN, BEGAN + timedelta(hours=1), 1000, 700, 2, 300, 0, 1)


def item(key: str, second: float, cause: str) -> UncertainItem:
    return UncertainItem(key, BEGAN + timedelta(seconds=second), "a-model", "words", cause)


def test_films_of_one_cause_and_one_minute_belong_together() -> None:
    """Whatever the clock's minute is; keys, ids and numbers do not tell causes apart."""
    groups = uncertain_groups(
        [
            item("sea", 59, "HTTP 502 after 3.1 s: sea, request 7f3a"),
            item("tea", 0, "HTTP 502 after 4 s: tea, request 9c1b"),
            item("owl", 5, "the process ended before the answer came"),
            item("bee", 60, "HTTP 502 after 4 s: bee, request 9c1b"),
        ]
    )

    assert [group.keys for group in groups] == [("tea", "sea"), ("owl",), ("bee",)]
    assert groups[0].cause == "HTTP 502 after 4 s: tea, request 9c1b"
    assert groups[0].sent.count(" to ") == 1
    assert " to " not in groups[1].sent


@given(
    st.lists(
        st.builds(
            item,
            st.text("abc", min_size=1, max_size=2),
            st.integers(0, 300),
            st.sampled_from(["a reset", "no answer", ""]),
        )
    )
)
def test_every_uncertain_film_is_in_one_group(items: list[UncertainItem]) -> None:
    """None is lost or shown twice; a group spans less than a minute; the oldest comes first."""
    groups = uncertain_groups(items)

    shown = [each for group in groups for each in group.items]
    assert sorted(shown, key=repr) == sorted(items, key=repr)
    for group in groups:
        assert group.items[-1].at - group.items[0].at < timedelta(minutes=1)
    assert [group.items[0].at for group in groups] == sorted(group.items[0].at for group in groups)


def test_the_ways_out_name_every_film() -> None:
    """But for the tasks' ids: those find their films by themselves."""
    one, many = ways_out(["tea"]), ways_out(["tea", "sea"])

    assert [(way.words, way.keys) for way in one] == [
        (("resolve", "--task-id", "TASK_ID"), ("tea",)),
        (("resubmit",), ("tea",)),
        (("drop",), ("tea",)),
    ]
    assert [(way.words, way.keys) for way in many] == [
        (("resolve", "--task-id", "ID ID ..."), ()),
        (("resubmit",), ("tea", "sea")),
        (("drop",), ("tea", "sea")),
    ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "fell by 300 from .*cost 300: nothing else was taken so far, as far as this"),
        ({"after": 550}, "fell by 450 from .*cost 300: 150 more was taken than that. Unless"),
        ({"after": 550}, "or a price is wrong, the uncertain film WAS PAID$"),
        ({"after": 550, "uncertain": 3}, "one or more of the 3 uncertain films WERE PAID$"),
        ({"after": 900}, "fell by 100 from .*cost 300: 200 less was taken than that, as after"),
        ({"after": 6000}, "rose by 5,000 from .*cost 300: 5,300 less was taken than that"),
        (
            {"unpriced": 1},
            "cost 300, 1 film without a known price not counted",
        ),
    ],
)
def test_what_the_balance_says(changes: dict[str, float], said: str) -> None:
    assert re.search(said, attrs.evolve(BALANCE, **changes).sentence)


@pytest.mark.parametrize(
    ("changes", "verdict", "suggests"),
    [
        ({}, "nothing more taken so far", False),
        ({"after": 550}, "150 more taken", True),
        ({"after": 550, "uncertain": 3}, "150 more taken for 3 films together", True),
        ({"before": 1.0, "after": 0.7, "cost": 0.3}, "nothing more taken so far", False),
        ({"after": 900}, "does not tell", False),
        ({"after": 550, "unpriced": 1}, "does not tell", False),
    ],
)
def test_only_what_nothing_else_explains_speaks_for_a_payment(
    changes: dict[str, float], verdict: str, suggests: bool
) -> None:
    """Money that came in, or films of unknown cost, say nothing either way."""
    balance = attrs.evolve(BALANCE, **changes)

    assert (balance.verdict, balance.suggests_payment) == (verdict, suggests)
    assert balance.covers(item("sea", 3600, ""))
    assert not balance.covers(item("sea", 3601, ""))
    assert not balance.covers(attrs.evolve(item("sea", 3600, ""), lost=True))


@pytest.mark.parametrize(
    ("candidates", "found"),
    [
        ({}, {}),
        ({"t1": []}, {}),
        # one film for each task
        ({"t1": ["tea"], "t2": ["sea"]}, {"t1": "tea", "t2": "sea"}),
        # takes of one content: any will do, the first of each task's own order
        ({"t1": ["tea", "tea.2"], "t2": ["tea", "tea.2"]}, {"t1": "tea", "t2": "tea.2"}),
        ({"t1": ["tea.2", "tea"], "t2": ["tea", "tea.2"]}, {"t1": "tea.2", "t2": "tea"}),
        ({"t1": ["tea", "tea.2"]}, {"t1": "tea"}),
        # more tasks than films: one of them is not of this batch, and nobody knows which
        ({"t1": ["tea"], "t2": ["tea"], "t3": ["sea"]}, {"t3": "sea"}),
        ({f"t{n}": ["tea", "tea.2"] for n in range(3)}, {}),
        # a film that is one task's own is no other's
        ({"t1": ["tea", "tea.2"], "t2": ["tea"]}, {"t1": "tea.2", "t2": "tea"}),
        # alike in part only
        ({"t1": ["a", "b"], "t2": ["b", "c"]}, {}),
        ({"t1": ["a"], "t2": ["a"], "t3": ["a", "b"]}, {}),
    ],
)
def test_tasks_find_their_films(candidates: dict[str, list[str]], found: dict[str, str]) -> None:
    """A film that is the only one for a task, or one of several that were requested alike."""
    assert assign_tasks(candidates) == found


@given(st.dictionaries(st.text("tuv", min_size=1, max_size=2), st.sets(st.sampled_from("abcde"))))
def test_no_film_gets_two_tasks(candidates: dict[str, set[str]]) -> None:
    """And none gets a task that was not requested like it."""
    found = assign_tasks({task: sorted(films) for task, films in candidates.items()})

    assert len({*found.values()}) == len(found)
    assert all(film in candidates[task] for task, film in found.items())

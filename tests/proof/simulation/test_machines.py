"""The machines of the simulation: suspended, stalled, cut off; and a separate receiver."""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Coroutine, Iterable
from typing import Any

import pytest
from simulation.loop import HOST, SimLoop
from simulation.plans import Plan, at_every_step, draw_plan, scenario, to_line
from simulation.runs import run, silenced
from volume import volume

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # coroutines of dead machines
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # and their files
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def on(loop: SimLoop, host: str, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    context = contextvars.copy_context()
    context.run(HOST.set, host)
    return loop.create_task(work, context=context)


def broken(plans: Iterable[Plan]) -> list[str]:
    reports = map(run, plans)
    return [f"{'; '.join(r.broken)}\n{to_line(r.plan)}" for r in reports if r.broken]


async def ticks(seen: list[tuple[float, float]], loop: SimLoop) -> None:
    """Note every second, in the machine's time and in the true time."""
    for _ in range(4):
        await asyncio.sleep(1)
        seen.append((loop.time(), loop.true_time()))


@pytest.mark.parametrize(
    ("stands", "expected"),
    [
        # Asleep from 1.5 to 101.5: a clock that stands has half a second left to the next tick.
        (True, [(1, 1), (2, 102), (3, 103), (4, 104)]),
        (False, [(1, 1), (101.5, 101.5), (102.5, 102.5), (103.5, 103.5)]),
    ],
    ids=["suspended", "stalled"],
)
def test_a_machine_can_sleep(stands: bool, expected: list[tuple[float, float]]) -> None:
    """Nothing of it runs meanwhile; then its clock has stood still, or its timers are late (X4)."""
    loop, seen = SimLoop(random.Random(1)), list[tuple[float, float]]()
    with silenced():
        _ = on(loop, "life 1", ticks(seen, loop))
        loop.call_later(1.5, lambda: loop.sleep("life 1", 100.0, stands=stands))
        loop.run_until_complete(asyncio.sleep(200))
    loop.close()

    assert seen == [pytest.approx(pair) for pair in expected]


def test_data_is_handled_before_timers_after_a_stall() -> None:
    """As by a loop that was blocked: bytes in the socket first, then timers (X7)."""
    loop, seen = SimLoop(random.Random(1)), list[str]()
    context = contextvars.copy_context()
    context.run(HOST.set, "life 1")
    with silenced():
        loop.call_later(2, seen.append, "a timer", context=context)
        loop.arrive(3.0, seen.append, "a response", context=context)
        loop.sleep("life 1", 10.0, stands=False)
        loop.run_until_complete(asyncio.sleep(20))
    loop.close()

    assert seen == ["a response", "a timer"]


@pytest.mark.parametrize("seed", volume([5], [3, 5]))
@pytest.mark.parametrize(("kind", "every"), [("upsets", 37), ("callers", 29)])
def test_the_promises_hold_for_sleepers_and_callers(kind: str, every: int, seed: int) -> None:
    """Stalled, suspended, cut off, clock set, a caller cancelled, at any step (I1 to I14)."""
    base = scenario(kind, seed)
    every *= volume(5, 1)
    plans = at_every_step(kind, base, range(1 + seed % every, run(base).first_life, every))

    assert len(plans) > volume(1, 10)
    assert broken(plans) == []


def test_a_separate_receiver_may_die() -> None:
    """A callback that it has answered with 200 is found, whenever it or the batch died."""
    plans = [plan for plan in map(draw_plan, range(volume(40, 120))) if plan.apart]

    assert len(plans) > volume(1, 5)
    assert broken(plans) == []


def test_a_budget_holds_through_crashes() -> None:
    """What is paid or uncertain stays within it, in all lives together (I10, A23)."""
    plans = [plan for plan in map(draw_plan, range(volume(80, 120))) if plan.budget and plan.kills]

    assert len(plans) > volume(3, 5)
    assert broken(plans) == []


def test_random_plans_have_every_kind_of_event() -> None:
    """None is left out by chance."""
    plans = [draw_plan(seed) for seed in range(400)]

    assert {what for plan in plans for _, what, _ in plan.upsets} == {
        *("stall", "suspend", "cut off", "jump")
    }
    assert any(plan.walls for plan in plans)
    assert any(plan.apart == () for plan in plans)
    assert any(plan.budget for plan in plans)

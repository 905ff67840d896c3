"""`_limiter`: never too many at the service, one gate for all, nothing lost by a cancel."""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import gc
import itertools
import math
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import failing, failing_rows
from threads import another_loop
from turns import StrikingLoop, at_every_turn

from apikley_async import Limiter, RateLimiter, SystemClock
from apikley_async._limiter import running_slots
from apikley_async.errors import (
    InvalidRequestError,
    RateLimitError,
    ServerError,
    SubmissionUncertainError,
    UnansweredError,
    UnreachableError,
)
from apikley_async.testing import FakeClock
from apikley_async.virtual import VirtualLoop

Latency = Callable[[random.Random], float]

LATENCIES: dict[str, Latency] = {
    "none": lambda rng: 0.0,
    "even": lambda rng: 0.15,
    "jittered": lambda rng: rng.uniform(0.0, 0.2),
    "long-tailed": lambda rng: rng.lognormvariate(math.log(0.05), 0.8),
    "now and then very slow": lambda rng: 8.0 if rng.random() < 0.01 else 0.02,
}


def now() -> float:
    return asyncio.get_running_loop().time()


def virtually(main: Callable[[], Awaitable[None]]) -> None:
    """Run on a fresh loop with virtual time, so that hypothesis may do it again and again."""

    async def run() -> None:
        await main()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(run())


class Service:
    """Counts arrivals in a sliding or a fixed window, and refuses what is too much."""

    def __init__(self, limit: int, per: float, *, phase: float | None = None) -> None:
        self.limit, self.per, self.phase = limit, per, phase
        self.arrivals: list[float] = []
        self.refused = 0

    def accepts(self) -> bool:
        at = now()
        if self.phase is None:
            begins = bisect.bisect_right(self.arrivals, at - self.per)
        else:
            window = math.floor((at - self.phase) / self.per) * self.per + self.phase
            begins = bisect.bisect_left(self.arrivals, window)
        if len(self.arrivals) - begins >= self.limit:
            self.refused += 1
            return False
        self.arrivals.append(at)
        return True

    def most_in_a_window(self) -> int:
        return max(
            bisect.bisect_left(self.arrivals, at + self.per) - n
            for n, at in enumerate(self.arrivals)
        )


async def submit(limiter: RateLimiter, service: Service, there: float, back: float) -> None:
    async with limiter.slot():
        await asyncio.sleep(there)
        accepted = service.accepts()
        await asyncio.sleep(back)
        if not accepted:
            raise RateLimitError("too many")


async def refuse(limiter: RateLimiter, retry_after: float | None = None) -> None:
    """An attempt that the service refuses for its pace, at once."""
    with contextlib.suppress(RateLimitError):
        async with limiter.slot():
            raise RateLimitError("too many", retry_after=retry_after)


async def submit_all(
    limiter: RateLimiter, service: Service, count: int, latency: Latency, rng: random.Random
) -> None:
    await asyncio.gather(
        *(submit(limiter, service, latency(rng), latency(rng)) for _ in range(count))
    )


# --- the rate -----------------------------------------------------------------------------------


def test_no_window_ever_holds_too_many() -> None:
    """Sliding or fixed, with any latency: 300 attempts, not one refusal (R1)."""

    def check(latency: str, phase: float | None) -> None:
        service = Service(20, 10.0, phase=phase)
        rng = random.Random(f"{latency} {phase}")

        virtually(lambda: submit_all(RateLimiter(), service, 300, LATENCIES[latency], rng))

        assert service.refused == 0
        assert len(service.arrivals) == 300
        assert service.most_in_a_window() <= 20

    assert (
        failing_rows(
            check, [(latency, phase) for latency in LATENCIES for phase in [None, 0.0, 7.3]]
        )
        == []
    )


@given(
    limit=st.integers(1, 8),
    per=st.sampled_from([0.5, 1.0, 10.0]),
    phase=st.none() | st.floats(0, 10),
    seed=st.integers(0, 2**32),
    latency=st.sampled_from(sorted(LATENCIES)),
    gaps=st.lists(st.floats(0, 12), min_size=1, max_size=40),
)
@settings(max_examples=60)
def test_no_arrivals_break_the_rate(
    limit: int, per: float, phase: float | None, seed: int, latency: str, gaps: list[float]
) -> None:
    """Whenever attempts are wanted, one by one or in bursts: never too many in a window (R1)."""
    service, rng = Service(limit, per, phase=phase), random.Random(seed)
    limiter = RateLimiter(limit, per)

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for gap in gaps:
                await asyncio.sleep(gap if rng.random() < 0.3 else 0)
                there, back = LATENCIES[latency](rng), LATENCIES[latency](rng)
                group.create_task(submit(limiter, service, there, back))

    virtually(main)

    assert service.refused == 0
    assert service.most_in_a_window() <= limit


def test_it_is_as_fast_as_the_service_allows() -> None:
    """At least 95 % of the ideal rate, the service's own latency included."""

    def check(latency: str) -> None:
        rng = random.Random(latency)
        took = list[float]()

        async def main() -> None:
            service = Service(20, 10.0)
            await submit_all(RateLimiter(), service, 400, LATENCIES[latency], rng)
            took.append(service.arrivals[-1] - service.arrivals[0])

        virtually(main)

        assert (400 / 20 - 1) * 10 / took[0] >= 0.95

    assert failing(check, ["none", "even", "jittered", "long-tailed"]) == []


@pytest.mark.virtual
async def test_two_hundred_submits_take_at_most_95_seconds() -> None:
    """Goal 4: 20 per 10 s, latency 0.1 to 0.4 s, no refusal, all in 95 s."""
    service, rng = Service(20, 10.0), random.Random(7)

    def latency(rng: random.Random) -> float:
        return rng.uniform(0.05, 0.2)

    await submit_all(RateLimiter(), service, 200, latency, rng)

    assert service.refused == 0
    assert now() <= 95


@pytest.mark.virtual
async def test_a_slot_is_delayed_from_the_end_of_its_attempt() -> None:
    """What counts is the end of the attempt, not its beginning (R1)."""
    limiter = RateLimiter(1, 10.0)

    async with limiter.slot():
        await asyncio.sleep(5)
    async with limiter.slot():
        assert now() == pytest.approx(15.01)


@pytest.mark.virtual
async def test_a_slot_whose_attempt_was_never_sent_is_free_at_once() -> None:
    """The service counts nothing (R1)."""
    limiter = RateLimiter(1, 10.0)

    for _ in range(50):
        with pytest.raises(UnreachableError):
            async with limiter.slot():
                raise UnreachableError("nobody there")

    async with limiter.slot():
        assert now() == 0


@given(seed=st.integers(0, 2**32), phase=st.none() | st.floats(0, 10))
@settings(max_examples=20)
def test_attempts_that_were_never_sent_break_no_window(seed: int, phase: float | None) -> None:
    """Half of them are not sent: what is sent is never too much, and loses little time (R1)."""
    service, rng, limiter = Service(5, 10.0, phase=phase), random.Random(seed), RateLimiter(5)

    async def attempt(sent: bool) -> None:
        with contextlib.suppress(UnreachableError):
            async with limiter.slot():
                await asyncio.sleep(rng.uniform(0, 0.2))
                if not sent:
                    raise UnreachableError("nobody there")
                assert service.accepts()
                await asyncio.sleep(rng.uniform(0, 0.2))

    async def main() -> None:
        await asyncio.gather(*(attempt(n % 2 == 0) for n in range(100)))
        assert now() <= (50 / 5 - 1) * 15  # those that are not sent hold a slot 0.2 s at most

    virtually(main)

    assert service.most_in_a_window() <= 5


@pytest.mark.virtual
async def test_slots_are_given_in_order() -> None:
    """Slots are given in the order in which they were asked for."""
    limiter, rng = RateLimiter(5, 10.0), random.Random(3)
    entered = list[int]()

    async def attempt(number: int) -> None:
        async with limiter.slot():
            entered.append(number)
            await asyncio.sleep(rng.uniform(0.1, 3))

    await asyncio.gather(*(attempt(number) for number in range(100)))

    assert entered == list(range(100))


@pytest.mark.virtual
async def test_who_comes_in_the_moment_a_slot_is_free_waits_behind_others() -> None:
    """A slot that is given back belongs to the first in the queue, who wakes a step later."""
    limiter = RateLimiter(1, 0)
    entered = list[str]()

    async def attempt(name: str) -> None:
        async with limiter.slot():
            entered.append(name)
            await asyncio.sleep(1)
        if name == "holder":  # in the same step in which its slot is free
            await attempt("late")

    await asyncio.gather(*map(attempt, ("holder", "first", "second")))

    assert entered == ["holder", "first", "second", "late"]


@pytest.mark.virtual
async def test_without_a_span_only_the_number_at_once_is_bounded() -> None:
    """Polling is bounded like that: forty at once, without a delay."""
    limiter = RateLimiter(4, 0)
    out = most = 0

    async def attempt() -> None:
        nonlocal out, most
        async with limiter.slot():
            out += 1
            most = max(most, out)
            await asyncio.sleep(1)
            out -= 1

    await asyncio.gather(*(attempt() for _ in range(20)))

    assert (most, now()) == (4, 5)


def test_waiting_for_a_slot_is_not_a_busy_loop() -> None:
    """Fifty wait for two slots: a handful of turns of the loop each, no busy loop (R14)."""
    loop = StrikingLoop()

    async def attempt(limiter: RateLimiter) -> None:
        async with limiter.slot():
            await asyncio.sleep(0.3)

    async def main() -> None:
        loop.strike = print  # from here on turns are counted
        limiter = RateLimiter(2, 10.0)
        await asyncio.gather(*(attempt(limiter) for _ in range(50)))

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(main())

    assert loop.turns < 50 * 12


# --- uncertain attempts ---------------------------------------------------------------------------


async def uncertain(limiter: RateLimiter, waited: float = 0.0) -> None:
    error = SubmissionUncertainError("no answer")
    error.waited = waited
    with pytest.raises(SubmissionUncertainError):
        async with limiter.slot():
            raise error


@pytest.mark.virtual
async def test_the_slot_of_an_uncertain_attempt_is_delayed_a_minute() -> None:
    """Its request may still arrive, so its slot is used again after 60 s (R1)."""
    limiter = RateLimiter(1, 10.0)
    await uncertain(limiter)

    async with limiter.slot():
        assert now() == 60


@pytest.mark.virtual
async def test_time_waited_for_a_callback_counts_for_an_uncertain_attempt() -> None:
    """After 45 seconds of waiting for a callback only 15 are left."""
    limiter = RateLimiter(1, 10.0)
    await uncertain(limiter, waited=45.0)

    async with limiter.slot():
        assert now() == 15


@pytest.mark.virtual
async def test_an_uncertain_attempt_delays_one_slot_only() -> None:
    """Other attempts do not wait."""
    limiter = RateLimiter(2, 10.0)
    await uncertain(limiter)
    async with limiter.slot():
        pass

    for n in (1, 2, 3):
        async with limiter.slot():
            assert now() == pytest.approx(n * 10.01)
    assert now() < 60


@pytest.mark.virtual
async def test_a_late_arrival_of_an_uncertain_attempt_breaks_no_window() -> None:
    """Given up after a second, arrived half a minute later: still never more than two (I7)."""
    service, limiter = Service(2, 10.0), RateLimiter(2, 10.0)

    async def lost() -> None:
        async with limiter.slot():
            await asyncio.sleep(1)
            asyncio.get_running_loop().call_later(30, service.accepts)
            raise SubmissionUncertainError("no answer")

    await asyncio.gather(lost(), return_exceptions=True)
    await asyncio.gather(*(submit(limiter, service, 0.1, 0.1) for _ in range(20)))

    assert service.refused == 0
    assert service.most_in_a_window() <= 2


@pytest.mark.virtual
@pytest.mark.parametrize("owner", ["of the limiter", "of a client"])
async def test_an_uncertain_film_holds_its_slot_for_half_an_hour(owner: str) -> None:
    """It may be running, and the service counts what runs (R13)."""
    limiter, films = RateLimiter(max_running=1), running_slots(1, SystemClock())
    take = limiter.running_slot if owner == "of the limiter" else films.slot

    async def film(error: Exception | None = None) -> None:
        async with take():
            assert now() == 0
            if error:
                raise error

    await film()  # gives its slot back at once
    with pytest.raises(SubmissionUncertainError):
        await film(SubmissionUncertainError("no answer"))
    async with take():
        assert now() == 1800


@pytest.mark.virtual
async def test_films_are_bounded_only_if_asked() -> None:
    """Without `max_running` a limiter lets any number run."""
    limiter = RateLimiter(1)

    async with limiter.running_slot(), limiter.running_slot(), limiter.running_slot():
        assert now() == 0


# --- the pauses -----------------------------------------------------------------------------------


@pytest.mark.virtual
async def test_one_refusal_closes_the_gate_for_all() -> None:
    """A 429 to one is a pause for everyone (R4)."""
    limiter = RateLimiter(20, 10.0)
    await refuse(limiter, 30)

    async def attempt() -> float:
        async with limiter.slot():
            return now()

    entered = await asyncio.gather(*(attempt() for _ in range(20)))

    assert 30 <= min(entered) <= 33


@pytest.mark.virtual
async def test_a_refusal_stops_waiters_too() -> None:
    """The gate may close while somebody sleeps; a longer pause is obeyed by all (R4)."""
    limiter = RateLimiter(2, 10.0)
    async with limiter.slot():
        pass

    async def refused_late() -> None:
        async with limiter.slot():
            await asyncio.sleep(5)
            raise RateLimitError("too many", retry_after=100)

    late = asyncio.create_task(refused_late())
    await asyncio.sleep(0)

    async with limiter.slot():
        assert 105 <= now() <= 115
    assert isinstance((await asyncio.gather(late, return_exceptions=True))[0], RateLimitError)


@pytest.mark.virtual
async def test_retry_after_is_a_minimum() -> None:
    """Jitter lengthens a pause and never shortens it; none is shorter than a second (R7, R12)."""
    failures = []
    for seed, retry_after in itertools.product(range(20), [None, 0.0, 7.0, 300.0]):
        limiter = RateLimiter(rng=random.Random(seed))
        shortest = max(retry_after or 0.0, 1.0)
        began = now()
        await refuse(limiter, retry_after)
        async with limiter.slot():
            if not shortest <= now() - began <= shortest * 1.1 + 0.001:
                failures.append((seed, retry_after, now() - began))

    assert failures == []


@pytest.mark.virtual
async def test_jitter_differs() -> None:
    """Two processes that are refused together do not come back together."""
    opens = set[float]()
    for seed in range(5):
        limiter = RateLimiter(rng=random.Random(seed))
        await refuse(limiter, 10)
        opens.add(limiter.gate.opens_at)

    assert len(opens) == 5


async def hammer(limiter: RateLimiter, answer: Callable[[], Awaitable[bool]]) -> None:
    """Submit once, and again after each refusal."""
    while True:
        try:
            async with limiter.slot():
                if not await answer():
                    raise RateLimitError("too many")
        except RateLimitError:
            continue
        return


@pytest.mark.virtual
@pytest.mark.parametrize("latency", [0.0, 0.3, 5.0])
async def test_one_goes_first_after_each_pause(latency: float) -> None:
    """Fifty want to submit, the service refuses all for ten minutes: one probe a pause (R4)."""
    limiter = RateLimiter(20, 10.0)
    sent = list[float]()

    async def answer() -> bool:
        sent.append(now())
        await asyncio.sleep(latency)
        return sent[0] + 600 < now()

    await asyncio.gather(*(hammer(limiter, answer) for _ in range(50)))

    probes = [at for at in sent[20:] if at <= 600 - latency]
    pauses = [b - a - latency for a, b in itertools.pairwise([sent[0], *probes])]
    for n, pause in enumerate(pauses):
        shortest = min(2**n, 60)
        longest = max(shortest * 1.1, 10.01 if n == 0 else 0)  # the burst delays all slots
        assert shortest <= pause <= longest + 0.01
    assert 13 <= len(probes) <= 17


@pytest.mark.virtual
@pytest.mark.parametrize("spread", [0.2, 3.0, 30.0])
async def test_the_refusals_of_a_burst_count_once(spread: float) -> None:
    """Twenty 429 that trickle in are one refusal: the next pause is the second, not the 20th."""
    limiter, rng = RateLimiter(20, 10.0), random.Random(5)
    sent = list[float]()

    async def answer() -> bool:
        sent.append(now())
        first = len(sent) <= 20
        await asyncio.sleep(rng.uniform(0.1, spread) if first else 0.1)
        return not first

    await asyncio.gather(*(hammer(limiter, answer) for _ in range(20)))

    assert sent[20] <= 10 + spread + 1.2
    assert limiter.gate.refusals <= 1


@pytest.mark.virtual
async def test_late_answers_of_a_burst_do_not_widen_the_gate() -> None:
    """Ten were refused at once; that ten others are accepted seconds later is no news (R4)."""
    limiter = RateLimiter(20, 10.0)
    sent = list[float]()
    out = most = 0

    async def answer() -> bool:
        nonlocal out, most
        sent.append(now())
        number = len(sent)
        if number <= 20:
            await asyncio.sleep(0.1 if number <= 10 else 5.0)
            return number > 10
        out += 1
        most = max(most, out)
        await asyncio.sleep(1.0)
        out -= 1
        return number > 24  # the first four probes are refused too

    await asyncio.gather(*(hammer(limiter, answer) for _ in range(40)))

    probes = sent[20:25]
    assert probes == sorted(set(probes))
    assert all(b - a >= 2 for a, b in itertools.pairwise(probes))


@pytest.mark.virtual
async def test_it_recovers_one_by_one() -> None:
    """After the probe two at once, then three: the service is not flooded again (R4)."""
    limiter = RateLimiter(8, 0.5)
    sizes = list[int]()
    out = 0
    await refuse(limiter)

    async def answer() -> bool:
        nonlocal out
        out += 1
        sizes.append(out)
        await asyncio.sleep(1)
        out -= 1
        return True

    await asyncio.gather(*(hammer(limiter, answer) for _ in range(60)))

    assert sizes[0] == 1
    for n in range(len(sizes)):
        assert sizes[n] <= n // 1 + 1
    assert sizes.index(3) > sizes.index(2) > 0
    assert max(sizes) == 8


@pytest.mark.virtual
async def test_only_an_answer_widens_the_gate_again() -> None:
    """Refused for another reason is an answer; silence is not."""
    rows: list[tuple[BaseException | None, int]] = [
        (None, 2),
        (InvalidRequestError("no"), 2),
        (ServerError("no"), 2),
        (RateLimitError("no"), 1),
        (UnreachableError("no"), 1),
        (UnansweredError("no"), 1),
        (SubmissionUncertainError("no"), 1),
        (asyncio.CancelledError(), 1),
    ]
    failures = []
    for error, width in rows:
        limiter = RateLimiter(3, 0)
        await refuse(limiter)
        with contextlib.suppress(BaseException):
            async with limiter.slot():
                if error is not None:
                    raise error
        if limiter.gate.at_once != width:
            failures.append((error, limiter.gate.at_once))

    assert failures == []


@given(
    allowed=st.integers(1, 20),
    seed=st.integers(0, 2**32),
    phase=st.none() | st.floats(0, 10),
    latency=st.sampled_from(["even", "jittered", "long-tailed"]),
)
@settings(max_examples=15)
def test_a_service_that_allows_less_is_obeyed(
    allowed: int, seed: int, phase: float | None, latency: str
) -> None:
    """Twice or twenty times too fast for the service: all get through, few are refused (R4)."""
    rng = random.Random(seed)
    service, limiter = Service(allowed, 10.0, phase=phase), RateLimiter(rng=rng)

    async def answer() -> bool:
        await asyncio.sleep(LATENCIES[latency](rng))
        return service.accepts()

    async def main() -> None:
        await asyncio.gather(*(hammer(limiter, answer) for _ in range(60)))

    virtually(main)

    assert len(service.arrivals) == 60
    assert service.refused <= 60 + 6 * 60 / allowed


# --- cancels --------------------------------------------------------------------------------------


async def is_full(limiter: RateLimiter) -> None:
    """Check that every slot is there: after a while as many as ever enter at once."""
    await asyncio.sleep(200)  # pauses and the delays of uncertain attempts are over
    limiter.assume(limiter.limit)  # what was learned from refusals is another matter
    for _ in range(limiter.limit):  # the gate has its full width again
        async with limiter.slot():
            pass
    await asyncio.sleep(200)
    began, everybody = now(), asyncio.Event()
    inside = 0

    async def attempt() -> None:
        nonlocal inside
        async with limiter.slot():
            inside += 1
            if inside == limiter.limit:
                everybody.set()
            await everybody.wait()

    await asyncio.gather(*(attempt() for _ in range(limiter.limit)))
    assert now() == began


def test_a_cancel_at_any_moment_loses_no_slot() -> None:
    """Five want two slots; whoever is cancelled whenever, all others get through (R5, C2, C4)."""

    def check(victims: list[int], refused: bool) -> None:
        async def scenario(loop: StrikingLoop) -> None:
            limiter = RateLimiter(2, 3.0, rng=random.Random(1))
            sent = 0

            async def answer() -> bool:
                nonlocal sent
                sent += 1
                refuse = refused and sent in (2, 3)
                await asyncio.sleep(0.3)
                return not refuse

            tasks = [asyncio.create_task(hammer(limiter, answer)) for _ in range(5)]
            loop.strike = lambda: [tasks[victim].cancel() for victim in victims]
            await asyncio.wait(tasks)

            for number, task in enumerate(tasks):
                assert not task.cancelled() or number in victims
            assert asyncio.all_tasks() == {asyncio.current_task()}
            loop.strike = None
            await is_full(limiter)

        at_every_turn(scenario)

    assert (
        failing_rows(
            check,
            [
                (victims, refused)
                for victims in [[0], [1], [2], [3], [4], [0, 2], [2, 3], [3, 4]]
                for refused in [False, True]
            ],
        )
        == []
    )


def test_cancelling_all_at_any_moment_loses_no_slot() -> None:
    """The same when everybody goes at once, those who wait and those who hold (C4)."""

    async def scenario(loop: StrikingLoop) -> None:
        limiter = RateLimiter(2, 3.0, max_running=3)

        async def attempt() -> None:
            async with limiter.running_slot(), limiter.slot():
                await asyncio.sleep(0.3)

        tasks = [asyncio.create_task(attempt()) for _ in range(5)]
        loop.strike = lambda: [task.cancel() for task in tasks]
        await asyncio.wait(tasks)

        loop.strike = None
        async with limiter.running_slot(), limiter.running_slot(), limiter.running_slot():
            await is_full(limiter)

    at_every_turn(scenario)


@pytest.mark.virtual
async def test_cancelling_the_first_in_the_queue_hangs_nobody() -> None:
    """The one that sleeps through the pause for all may go; the others still wait (R5)."""
    limiter = RateLimiter(2, 10.0)
    await refuse(limiter, 30)

    async def attempt() -> float:
        async with limiter.slot():
            return now()

    first, *others = (asyncio.create_task(attempt()) for _ in range(4))
    await asyncio.sleep(5)
    first.cancel()

    entered = await asyncio.gather(*others)
    assert min(entered) >= 30
    assert max(entered) < 60


# --- the next process -----------------------------------------------------------------------------


@pytest.mark.virtual
async def test_a_restart_does_not_reset_the_rate() -> None:
    """Slots are delayed as if the latest uses had been their own, uncertain ones a minute (R2)."""
    rows = [
        ([(9.0, False), (8.0, False), (1.0, False), (0.0, False)], [9.01, 10.01]),
        ([(0.0, False), (9.0, False)], [1.01, 10.01]),
        ([(4.0, False)], [0.0, 6.01]),
        ([(30.0, True)], [0.0, 30.0]),
        ([(30.0, True), (2.0, False)], [8.01, 30.0]),
        ([(70.0, True), (11.0, False)], [0.0, 0.0]),
    ]
    failures = []
    for uses, free_after in rows:
        limiter, began = RateLimiter(2, 10.0), now()
        limiter.remember(uses)
        idle_in = limiter.idle_in
        entered = list[float]()

        async def attempt(limiter: RateLimiter, entered: list[float], began: float) -> None:
            async with limiter.slot():
                entered.append(now() - began)
                await asyncio.sleep(100)

        await asyncio.gather(*(attempt(limiter, entered, began) for _ in range(2)))
        if entered != pytest.approx(free_after) or idle_in != pytest.approx(max(free_after)):
            failures.append((uses, entered, idle_in))

    assert failures == []


# --- event loops, and the rest ---------------------------------------------------------------


def test_delays_go_on_in_the_next_event_loop() -> None:
    """Two runs one after another keep one rate (R2, in one process)."""
    clock = FakeClock()
    limiter = RateLimiter(2, 10.0, clock=clock)

    async def two() -> None:
        async with limiter.slot(), limiter.slot():
            pass

    asyncio.run(two())
    asyncio.run(two())

    assert clock.now() == pytest.approx(10.01)


def test_slots_may_be_given_back_in_the_next_loop() -> None:
    """A loop that ended with every slot in use stops nobody in the next one for ever."""
    limiter = RateLimiter(2, 0.0)
    slots = [limiter.slot(), limiter.slot()]

    async def attempt() -> None:
        async with limiter.slot():
            pass

    async def first() -> None:
        for slot in slots:
            await slot.__aenter__()

    async def second() -> None:
        waiting = asyncio.create_task(attempt())
        await asyncio.sleep(0)
        assert not waiting.done()
        for slot in slots:
            await slot.__aexit__(None, None, None)
        await waiting

    with asyncio.Runner() as loops:
        loops.run(first())
        with asyncio.Runner() as others:
            others.run(second())


def test_two_loops_at_once_are_refused_and_do_not_hang() -> None:
    """A waiter in one loop is never woken from another; asyncio's own locks say so too."""

    def check(method: str) -> None:
        limiter = RateLimiter(1, 0.0, max_running=1)

        async def hold() -> None:
            async with getattr(limiter, method)():
                await asyncio.sleep(60)

        async def attempt() -> None:
            async with getattr(limiter, method)():
                pass

        with another_loop(hold), pytest.raises(RuntimeError, match="in another event loop"):
            asyncio.run(attempt())
        asyncio.run(attempt())  # one after another is fine

    assert failing(check, ["slot", "running_slot"]) == []


def test_a_limiter_whose_loop_is_paused_with_a_waiter_is_refused_elsewhere() -> None:
    limiter = RateLimiter(1, 0.0)
    loop = asyncio.new_event_loop()

    async def hold() -> None:
        async with limiter.slot():
            await asyncio.sleep(0.001)

    async def two() -> list[asyncio.Task[None]]:
        tasks = [loop.create_task(hold()), loop.create_task(hold())]
        await asyncio.sleep(0)
        return tasks

    tasks = loop.run_until_complete(two())
    with pytest.raises(RuntimeError, match="in another event loop"):
        asyncio.run(hold())
    loop.run_until_complete(asyncio.gather(*tasks))
    asyncio.run(hold())
    loop.close()


def test_a_slot_in_use_in_a_closed_loop_is_free_again_once() -> None:
    """A loop that is closed around attempts takes no slot with it, and gives none back twice."""
    clock = FakeClock()
    limiter = RateLimiter(1, 10.0, clock=clock)
    left = [limiter.slot()]
    entered = list[float]()

    async def enter() -> None:
        await left[0].__aenter__()

    async def twice() -> None:
        for _ in range(2):
            async with limiter.slot():
                entered.append(clock.now())

    loop = asyncio.new_event_loop()
    loop.run_until_complete(enter())
    loop.close()
    asyncio.run(twice())
    assert entered == pytest.approx([10.01, 20.02])

    left.clear()
    gc.collect()
    asyncio.run(twice())
    assert entered == pytest.approx([10.01, 20.02, 30.03, 40.04])


def test_it_is_a_limiter() -> None:
    assert isinstance(RateLimiter(), Limiter)


@pytest.mark.virtual
async def test_its_repr_is_a_status_line() -> None:
    """Attempts in flight, and how long the gate stays closed."""
    limiter = RateLimiter(8, 10.0)
    async with limiter.slot(), limiter.slot(), limiter.slot():
        assert repr(limiter) == "<RateLimiter 3/8 in flight>"
        await refuse(limiter, 40)
        assert repr(limiter).startswith("<RateLimiter 3/8 in flight, opens in 4")

    async with limiter.slot():
        assert repr(limiter) == "<RateLimiter 1/8 in flight>"


def test_nonsense_is_refused_at_once() -> None:
    """A limiter that could never let anybody through, or everybody, is not made."""
    rows: list[dict[str, Any]] = [
        {"limit": 0},
        {"limit": -1},
        {"limit": 2.5},
        {"per": -1},
        {"per": math.nan},
        {"per": math.inf},
        {"limit": math.nan},
        {"limit": math.inf},
        {"max_running": 0},
        {"max_running": math.inf},
    ]
    for arguments in rows:
        [name] = arguments
        with pytest.raises(ValueError, match=f"^{name}: .*, not "):
            RateLimiter(**arguments)

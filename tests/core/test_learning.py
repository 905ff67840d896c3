"""The limiter learns how much the service takes (goal 4b). In virtual time; all of it is slow.

`APIKLEY_LONG=1` plays every scene; a share of them is played each time.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import Callable

import pytest
from pace import KINDS, LATENCIES, RETRY_AFTER, Pace, Scene, ideal, paced, probing_ideal
from volume import volume

from apikley_async import RateLimiter
from apikley_async.errors import (
    RateLimitError,
    SubmissionUncertainError,
    UnreachableError,
)

pytestmark = pytest.mark.timeout(volume(60, 1800))

SHARE = 17  # by default, one scene in so many
RATIO = 1.10
REFUSALS = 1 / 20  # of the submissions, after the first burst
PAUSES = 1.02  # of the time of the best that probes allow: what pauses and round trips add


def share(scenes: list[Scene], part: int = SHARE) -> list[Scene]:
    """One scene of *part*, or all."""
    return scenes[:: volume(part, 1)]


def is_paced(pace: Pace) -> str | None:
    """What is wrong with a pace; None when the goal is met."""
    if pace.ratio > RATIO:
        return f"time / ideal {pace.ratio:.2f}"
    if pace.late_refusals > REFUSALS * pace.scene.count:
        return f"{pace.late_refusals} refusals after the first burst"
    return None


def failing(scenes: list[Scene], check: Callable[[Pace], str | None] = is_paced) -> list[str]:
    """Each scene that fails, and why."""
    failures = ((scene, check(paced(scene))) for scene in scenes)
    return [f"{reason}: {scene}" for scene, reason in failures if reason]


@pytest.mark.slow
def test_a_service_that_takes_less_is_used_to_its_limit() -> None:
    """2 to 20 against our 20, every kind of window, any latency: 1.10, 1 refusal in 20."""
    scenes = [
        Scene(limit=limit, kind=kind, latency=latency, count=10 * limit + 200)
        for kind, latency, limit in itertools.product(KINDS, LATENCIES, range(2, 21))
    ]

    assert failing(share(scenes)) == []


def test_nothing_is_refused_where_the_limit_is_right() -> None:
    """No refusal, no pace lost, nothing learned; the same where the service takes more."""

    def check(pace: Pace) -> str | None:
        learned = pace.limiters[0].takes
        return f"{pace.refused} {learned}" if pace.refused or learned else is_paced(pace)

    scenes = [
        Scene(limit=20, kind=kind, latency=latency) for kind in KINDS for latency in LATENCIES
    ]

    assert failing(share(scenes, 3), check) == []


def test_whatever_retry_after_says() -> None:
    """Given, absent, absurd: what is asked for is obeyed, and probes do not cost it again."""
    scenes = [
        Scene(limit=limit, kind=kind, retry_after=retry_after, count=20 * limit + 100)
        for retry_after in RETRY_AFTER
        for kind in KINDS
        for limit in (3, 10, 18)
        if retry_after != "five minutes"
    ]

    assert failing(share(scenes, 6)) == []


def test_a_long_pause_is_not_asked_for_again_and_again() -> None:
    """Five minutes at each 429: after the first burst at most once more in 300 submissions."""

    def check(pace: Pace) -> str | None:
        return f"{pace.refused}" if pace.late_refusals > 1 else None

    scenes = [
        Scene(limit=limit, kind=kind, retry_after="five minutes", count=300)
        for kind in KINDS
        for limit in (5, 18)
    ]

    assert failing(share(scenes, 4), check) == []


def test_limits_that_change_in_mid_run() -> None:
    """Down and up again, somewhat; each change is found, and the pace is kept."""
    changes = [(20, 15, 20), (18, 12, 16), (15, 20, 15), (6, 8, 6), (3, 5, 8)]
    scenes = [
        Scene(
            limit=first,
            kind=kind,
            changes=((4000 / first, second), (4000 / first + 4000 / second, third)),
            count=1200,
        )
        for first, second, third in changes
        for kind in KINDS
    ]

    assert failing(share(scenes, 8)) == []


@pytest.mark.slow
def test_a_limit_that_changes_far_is_followed_as_fast_as_probes_may() -> None:
    """Probes are 40 submissions apart, so that a rise is known late; what they allow is reached.

    From 5 to 20 for 200 s, and back: one who may only probe takes 1.27 of the ideal time; from 20
    to 5 and back 1.10; from 2 to 20 and back 1.43, since 40 submissions at 2 take all of the 200 s.
    """

    def check(pace: Pace) -> str | None:
        best = probing_ideal(pace.scene) / ideal(pace.scene, pace.scene.count)
        if pace.ratio > max(RATIO, PAUSES * best):
            return f"time / ideal {pace.ratio:.2f}, of at best {best:.2f}"
        return None if pace.late_refusals <= REFUSALS * pace.scene.count else is_paced(pace)

    scenes = [
        Scene(
            limit=first,
            kind=kind,
            changes=((4000 / first, second), (4000 / first + 4000 / second, first)),
            count=1200,
        )
        for first, second in itertools.permutations((2, 5, 10, 20), 2)
        for kind in KINDS
    ]

    assert failing(share(scenes, 12), check) == []


def test_a_limit_that_rises_far_is_found() -> None:
    """From 5 to 20: each probe that holds is followed by a wider one, so that it is found."""

    def check(pace: Pace) -> str | None:
        return None if pace.limiters[0].takes is None else f"takes {pace.limiters[0].takes}"

    scenes = [Scene(limit=5, kind=kind, changes=((100.0, 20),), count=300) for kind in KINDS]

    assert failing(share(scenes, 2), check) == []


def test_clients_on_one_key_share_its_limit() -> None:
    """Two and five that know nothing of each other: the pace is kept, and nobody starves."""

    def check(pace: Pace) -> str | None:
        if pace.smallest_share < 0.25:
            return f"a client got {pace.smallest_share:.2f} of its share"
        if pace.longest_wait > 300:
            return f"a client waited {pace.longest_wait:.0f} s"
        return is_paced(pace)

    scenes = [
        Scene(limit=limit, kind=kind, latency=latency, clients=clients, count=500)
        for clients in (2, 5)
        for kind in KINDS
        for latency in ("jittered", "long-tailed", "even")
        for limit in sorted({2 * clients, 2 * clients + 1, 12, 16, 20})
    ]

    assert failing(share(scenes, 30), check) == []


def test_a_probe_starves_nobody() -> None:
    """Two clients at 5: one of them got a fifth of its share, and nothing for twelve minutes."""
    for seed in volume(range(1, 3), range(1, 12)):
        scene = Scene(limit=5, latency="long-tailed", clients=2, count=500, seed=seed)
        pace = paced(scene)

        assert pace.smallest_share >= 0.25
        assert pace.longest_wait < 100


def test_refused_requests_may_be_counted_too() -> None:
    """Such a service is slower, and is not flooded: 1.5 of the ideal, with a token bucket 4.

    A bucket owes what was refused: a burst at its usual pace is refused again, and the width that
    is learned then is far too small.
    """

    def check(pace: Pace) -> str | None:
        most = 4.0 if pace.scene.kind == "bucket" else 1.5
        if pace.ratio > most or pace.late_refusals > REFUSALS * pace.scene.count:
            return f"{pace.ratio:.2f}, {pace.late_refusals}"
        return None

    scenes = [
        Scene(limit=limit, kind=kind, count_refused=True, count=300)
        for kind in KINDS
        for limit in (4, 10, 18)
    ]

    assert failing(share(scenes, 4), check) == []


def test_what_an_earlier_run_has_learned_saves_the_burst() -> None:
    """It begins with 18: nothing is refused in the first spans. Above `limit` it is `limit`."""
    pace = paced(Scene(limit=18, takes=18, count=36))
    assert pace.refused == ()

    limiter = RateLimiter(20)
    limiter.assume(500)
    assert limiter.takes is None


# --- what teaches, and what does not --------------------------------------------------------------


async def submit(limiter: RateLimiter, error: Exception | None = None) -> None:
    with contextlib.suppress(RateLimitError, SubmissionUncertainError, UnreachableError):
        async with limiter.slot():
            await asyncio.sleep(0.1)
            if error is not None:
                raise error


def throttled() -> RateLimitError:
    return RateLimitError("too many")


@pytest.mark.virtual
async def test_a_transient_refusal_costs_one_pause_and_is_forgotten() -> None:
    """At full pace, and with slots to spare: the width stays, and the next pause is short again."""
    for before in (0, 3, 60):
        limiter = RateLimiter(rng=random.Random(1))
        for _ in range(before):
            await submit(limiter)
        for _ in range(3):
            began = asyncio.get_running_loop().time()
            await submit(limiter, throttled())
            await asyncio.gather(*(submit(limiter) for _ in range(60)))

            assert asyncio.get_running_loop().time() - began < 10.2 * 4 + 2
            assert limiter.takes is None
            assert limiter.gate.refusals == 0


@pytest.mark.virtual
async def test_a_minute_of_refusals_teaches_nothing() -> None:
    """A deploy: everything is refused, then all is well; the pace is the old one at once."""
    limiter = RateLimiter(rng=random.Random(1))
    loop = asyncio.get_running_loop()
    await asyncio.gather(*(submit(limiter) for _ in range(45)))
    until = loop.time() + 60
    while loop.time() < until:
        await submit(limiter, throttled())

    began = loop.time()
    await asyncio.gather(*(submit(limiter) for _ in range(60)))

    assert limiter.takes is None
    assert loop.time() - began < 65 + 3 * 10.2  # the last pause, and three spans


@pytest.mark.virtual
async def test_attempts_without_an_answer_teach_nothing() -> None:
    """Uncertain or never sent: they neither widen nor narrow, and are no proof that all is well."""
    for error in (SubmissionUncertainError("no answer"), UnreachableError("nobody there")):
        limiter = RateLimiter(4, 10.0, rng=random.Random(1))
        limiter.assume(2)
        for _ in range(100):
            await submit(limiter, error)

        assert limiter.takes == 2
        assert limiter.gate.changed_at is None


@pytest.mark.virtual
async def test_an_uncertain_attempt_costs_no_slot_when_the_next_is_refused() -> None:
    """It may have passed, so it counts as one that did in the span before a refusal."""
    limiter = RateLimiter(4, 10.0, rng=random.Random(1))
    lost = SubmissionUncertainError("no answer")

    await asyncio.gather(*(submit(limiter, error) for error in (None, None, lost, throttled())))

    assert limiter.takes == 3


@pytest.mark.virtual
async def test_what_a_restart_remembers_counts_as_passed() -> None:
    """Eighteen went out a second ago: two more are refused, and eighteen is what it takes."""
    limiter = RateLimiter(rng=random.Random(1))
    limiter.remember([(1.0, False)] * 18)

    await asyncio.gather(*(submit(limiter, throttled()) for _ in range(2)))

    assert limiter.takes == 18


@pytest.mark.virtual
async def test_no_span_holds_more_than_was_learned() -> None:
    """A slot comes back a span after its attempt has ended, at every width."""
    limiter = RateLimiter(20, 10.0)
    limiter.assume(7)
    loop, sent = asyncio.get_running_loop(), list[float]()

    async def attempt() -> None:
        async with limiter.slot():
            sent.append(loop.time())
            await asyncio.sleep(0.3)

    await asyncio.gather(*(attempt() for _ in range(39)))

    assert all(b - a >= 10.3 for a, b in zip(sent, sent[7:], strict=False))


@pytest.mark.virtual
async def test_the_slots_of_a_probe_are_used_at_random_moments() -> None:
    """Somebody else's place is free just when it widens: it is not taken then."""
    loop, delays = asyncio.get_running_loop(), list[float]()
    for seed in range(8):
        limiter = RateLimiter(3, 10.0, rng=random.Random(seed))
        limiter.assume(2)
        while limiter.takes is not None:
            await asyncio.gather(submit(limiter), submit(limiter))
        began = loop.time()

        await submit(limiter)

        delays.append(loop.time() - began - 0.1)

    assert all(0 < delay < 10 for delay in delays)
    assert len({round(delay, 3) for delay in delays}) == len(delays)


@pytest.mark.virtual
async def test_a_refused_attempt_leaves_its_place_to_the_next() -> None:
    """The service did not count it: who has one slot tries again after the pause, not a span."""
    limiter = RateLimiter(20, 10.0, rng=random.Random(1))
    limiter.assume(1)
    await submit(limiter, throttled())

    await submit(limiter)

    assert asyncio.get_running_loop().time() < 1.5


@pytest.mark.virtual
async def test_its_repr_says_what_the_service_takes() -> None:
    limiter = RateLimiter(20, 10.0)
    limiter.assume(18)

    assert repr(limiter) == "<RateLimiter 0/20 in flight, the service takes 18 per 10 s>"

"""`_spending`: what a client may spend holds without a journal, however many films run at once."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manual_callbacks import ManualCallbacks
from turns import StrikingLoop, at_every_turn

from apikley_async import (
    Client,
    Environment,
    ModelTask,
    Outcome,
    RateLimiter,
    Shot,
    Storyboard,
    SubmissionUncertainError,
)
from apikley_async.errors import BudgetExceededError, InvalidRequestError, JobFailedError
from apikley_async.simulator import Constant, Failure, Fault, Simulator, Terms
from apikley_async.testing import LoopClock, Reply, Request, ScriptedTransport, reply
from apikley_async.virtual import VirtualLoop

virtual = pytest.mark.virtual

TEN = Storyboard([Shot("Ten.", 5)], duration=10)
FIFTEEN = Storyboard([Shot("Fifteen.", 5)], duration=15)
WORK = ModelTask("model", {"prompt": "x"})


def world(**terms: Any) -> Simulator:
    given = {"duration": Constant(60), "limit": None} | terms
    return Simulator(Terms(**given), clock=LoopClock(), rng=random.Random(7))


def customer(simulator: Simulator, **options: Any) -> Client:
    return Client(
        simulator.api_key,
        base_url=simulator.base_url,
        environment=Environment(clock=LoopClock(), rng=random.Random(1)),
        **options,
    )


def spent(simulator: Simulator) -> float:
    return simulator.ledger.credits_spent


async def until_its_end(many: AsyncIterator[Outcome]) -> tuple[list[Outcome], Exception | None]:
    outcomes = list[Outcome]()
    try:
        async for outcome in many:
            outcomes.append(outcome)
    except BudgetExceededError as error:
        return outcomes, error
    return outcomes, None


# --- construction ---------------------------------------------------------------------------------


def test_a_bound_that_could_not_be_kept_is_refused_at_construction() -> None:
    """By name, before anything is spent: no price, or no bound at all."""
    wrong: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"max_credits": 100}, ValueError, "max_credits: needs prices="),
        ({"max_credits": -1, "prices": 1}, ValueError, "max_credits: 0 or more"),
        ({"max_credits": float("nan"), "prices": 1}, ValueError, "max_credits: 0 or more"),
        ({"max_credits": "100", "prices": 1}, TypeError, "max_credits: a number"),
        ({"max_credits": True, "prices": 1}, TypeError, "max_credits: a number"),
        ({"max_tasks": 1.5}, TypeError, "max_tasks: a whole number"),
        ({"max_tasks": -1}, ValueError, "max_tasks: 0 or more"),
        ({"prices": -1}, ValueError, "price"),
        ({"prices": {10: "150"}}, TypeError, "price"),
    ]
    for options, kind, reported in wrong:
        with pytest.raises(kind, match=reported):
            Client("key", base_url="https://api.test", **options)


# --- whole runs -----------------------------------------------------------------------------------


@virtual
@pytest.mark.parametrize(
    ("bound", "films"),
    [
        ({"max_credits": 700, "prices": 150}, 4),
        ({"max_credits": 450.0, "prices": {10: 150}}, 3),
        ({"max_credits": 0, "prices": 150}, 0),
        ({"max_tasks": 4}, 4),
        ({"max_tasks": 0}, 0),
    ],
    ids=str,
)
async def test_many_films_stop_at_the_bound(bound: dict[str, Any], films: int) -> None:
    """However many run at once; what was not bought is yielded with the error that is raised."""
    async with world() as simulator, customer(simulator, **bound) as client:
        outcomes, error = await until_its_end(client.generate_many([TEN] * 30))

        assert isinstance(error, BudgetExceededError)
        assert len(simulator.ledger.paid) == films
        assert sum(outcome.error is None for outcome in outcomes) == films
        assert {type(o.error) for o in outcomes if o.error} == {BudgetExceededError}


@virtual
async def test_every_way_to_buy_counts() -> None:
    """`submit`, `generate` and `generate_many` share one bound, in one run after another too."""
    async with world() as simulator, customer(simulator, max_credits=450, prices=150) as client:
        await client.submit(TEN)
        await client.generate(TEN)
        outcomes, error = await until_its_end(client.generate_many([TEN] * 3))

        assert isinstance(error, BudgetExceededError)
        assert [outcome.error is None for outcome in outcomes].count(True) == 1
        for buy in (client.submit, client.generate):
            with pytest.raises(BudgetExceededError, match="max_credits"):
                await buy(TEN)
        assert spent(simulator) == 450


@virtual
async def test_a_dearer_film_makes_its_kind_dearer() -> None:
    """What is known to be charged counts at once; the excess is at most what was in flight."""
    bounds = {"max_credits": 500, "prices": 10, "max_running": 1}
    async with world() as simulator, customer(simulator, **bounds) as client:
        outcomes, error = await until_its_end(client.generate_many([TEN] * 10))

        assert isinstance(error, BudgetExceededError)
        assert spent(simulator) == 450
        assert sum(outcome.error is None for outcome in outcomes) == 3


@virtual
@pytest.mark.parametrize(("bound", "films"), [(100, 1), (400, 2)])
async def test_what_waits_for_the_limiter_is_priced_anew_before_it_is_sent(
    bound: int, films: int
) -> None:
    """Films cost 150, not 10: what had its share and was not sent is no part of the excess."""
    limiter = RateLimiter(1, 300, clock=LoopClock(), rng=random.Random(1))
    bounds = {"max_credits": bound, "prices": 10, "limiter": limiter}
    async with world() as simulator, customer(simulator, **bounds) as client:
        outcomes, error = await until_its_end(client.generate_many([TEN] * 5))

        assert isinstance(error, BudgetExceededError)
        assert spent(simulator) == 150 * films
        assert sum(outcome.error is None for outcome in outcomes) == films


@virtual
async def test_a_refunded_failure_makes_room() -> None:
    """A failed film costs 0 when its record says so: the next one waits for that, and is made."""
    async with (
        world(fail_rate=1.0, failure=Failure("500", "Internal Error")) as simulator,
        customer(simulator, max_credits=300, prices=150) as client,
    ):
        outcomes, error = await until_its_end(client.generate_many([TEN] * 7))

        assert error is None
        assert [type(outcome.error) for outcome in outcomes] == [JobFailedError] * 7
        assert len(simulator.ledger.paid) == 7


@virtual
async def test_a_failure_without_a_refund_stays_what_was_set_aside() -> None:
    async with (
        world(fail_rate=1.0, refund=False) as simulator,
        customer(simulator, max_credits=300, prices=150) as client,
    ):
        _, error = await until_its_end(client.generate_many([TEN] * 7))

        assert isinstance(error, BudgetExceededError)
        assert len(simulator.ledger.paid) == 2


@virtual
async def test_a_refusal_gives_its_share_back() -> None:
    """Nothing was created, so nothing is spent."""
    async with world() as simulator, customer(simulator, max_credits=150, prices=150) as client:
        simulator.script("create", [Fault.code(422), Fault.code(422)])
        for _ in range(2):
            with pytest.raises(InvalidRequestError):
                await client.submit(TEN)
        await client.submit(TEN)

        assert spent(simulator) == 150


@virtual
async def test_what_is_uncertain_counts() -> None:
    """It may be paid: its price stays set aside."""
    async with world() as simulator, customer(simulator, max_tasks=2) as client:
        simulator.script("create", [Fault.RESET])
        with pytest.raises(SubmissionUncertainError):
            await client.submit(TEN)
        await client.submit(TEN)
        with pytest.raises(BudgetExceededError, match="max_tasks"):
            await client.submit(TEN)


@virtual
async def test_what_was_sent_twice_on_the_way_counts_twice() -> None:
    """A callback names a second task that shows our token: it is paid as well."""
    callbacks = ManualCallbacks()
    bounds = {"max_credits": 450, "prices": 150, "callback": callbacks}
    async with world(callbacks="none") as simulator, customer(simulator, **bounds) as client:
        job = await client.submit(TEN)
        url = (simulator.ledger.creations[0].body or {})["callBackUrl"]
        async with customer(simulator) as proxy:
            twin = await proxy.submit(TEN, callback_url=url)
        await job  # its cost is known before the other one turns up
        await callbacks.deliver(callbacks.tokens[0], twin.task_id)
        while not client.unclaimed:  # noqa: ASYNC110 - it raises no event
            await asyncio.sleep(1)

        await client.submit(TEN)
        with pytest.raises(BudgetExceededError):
            await client.submit(TEN)
        assert spent(simulator) == 450


@virtual
async def test_submitting_waits_for_requests_that_are_out_and_for_no_film() -> None:
    """A film that nobody follows may never tell what it has cost: who submits gets it at once."""
    async with world() as simulator, customer(simulator, max_tasks=1) as client:
        simulator.script("create", [Fault.code(422)])
        first, second = await asyncio.gather(
            client.submit(TEN), client.submit(TEN), return_exceptions=True
        )
        assert isinstance(first, InvalidRequestError)
        assert not isinstance(second, BaseException)
        with pytest.raises(BudgetExceededError):
            await client.submit(TEN)
        assert asyncio.get_running_loop().time() < 10

    async with world() as simulator, customer(simulator, max_credits=150, prices=150) as client:
        film = asyncio.create_task(client.generate(TEN))
        await asyncio.sleep(5)
        with pytest.raises(BudgetExceededError):
            await client.submit(TEN)
        assert not film.done()
        await film


@virtual
async def test_a_kind_without_a_price_is_not_bought() -> None:
    async with (
        world() as simulator,
        customer(simulator, max_credits=1000, prices={10: 150}) as client,
    ):
        with pytest.raises(BudgetExceededError, match=r"films of 15 s.*prices={15: 100}"):
            await client.submit(FIFTEEN)
        with pytest.raises(BudgetExceededError, match=r"for 'a/model'. .* prices={'a/model': 100}"):
            await client.submit(ModelTask("a/model"))
        await client.submit(TEN)
        assert spent(simulator) == 150


@virtual
async def test_closing_ends_the_wait_for_room() -> None:
    """Nobody hangs who waits for a film that will not be followed any more."""
    async with world() as simulator:
        client = customer(simulator, max_credits=150, prices=150)
        films = [asyncio.create_task(client.generate(TEN)) for _ in range(3)]
        await asyncio.sleep(10)
        await client.aclose()
        ends = await asyncio.gather(*films, return_exceptions=True)

        assert len(simulator.ledger.paid) == 1
        assert [type(end).__name__ for end in ends] == ["ClientClosedError"] * 3


def test_a_loop_that_was_closed_around_films_leaves_its_bound_usable() -> None:
    """What may be out stays set aside, what was not sent comes back: nobody waits for ever."""
    for turns in range(1, 20):
        transport = ScriptedTransport([reply({"taskId": f"task_{number}"}) for number in range(4)])
        client = Client(
            "key", environment=Environment(transport=transport, clock=LoopClock()), max_tasks=2
        )
        loop = asyncio.new_event_loop()
        submitting = loop.create_task(client.submit(WORK))
        for _ in range(turns):
            loop.run_until_complete(asyncio.sleep(0))
        left = asyncio.all_tasks(loop)
        loop.close()

        async def use(client: Client) -> int:
            count = 0
            async with client:
                with contextlib.suppress(BudgetExceededError):
                    while True:
                        await client.submit(WORK)
                        count += 1
            return count

        assert 1 <= asyncio.run(use(client)) <= 2
        assert len(transport.requests) <= 2
        for task in {submitting, *left}:
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001 - asyncio's own


# --- at any moment --------------------------------------------------------------------------------


def test_a_cancel_at_any_turn_keeps_the_bound() -> None:
    """What is bought is counted, what is not comes back: afterwards exactly the rest can be had."""
    created = itertools.count()

    def answer(request: Request) -> Reply:
        if request.method == "POST":
            return reply({"taskId": f"task_{next(created)}"})
        links = '{"resultUrls": ["https://films.test/1.mp4"]}'
        return reply({**request.query, "state": "success", "resultJson": links})

    async def scenario(loop: StrikingLoop) -> None:
        transport = ScriptedTransport(itertools.repeat(answer))
        async with Client(
            "key", environment=Environment(transport=transport, clock=LoopClock()), max_tasks=3
        ) as client:
            film = asyncio.create_task(client.generate(WORK))
            loop.strike = film.cancel
            await asyncio.wait({film})
            _, error = await until_its_end(client.generate_many([WORK] * 5))

        assert isinstance(error, BudgetExceededError)
        assert [request.method for request in transport.requests].count("POST") == 3

    at_every_turn(scenario)


@given(
    bound=st.integers(0, 1200),
    price=st.integers(1, 200),
    fail=st.sampled_from([0.0, 0.3]),
    running=st.integers(1, 4),
    boards=st.lists(st.sampled_from([TEN, FIFTEEN]), min_size=1, max_size=8),
    seed=st.integers(0, 9),
)
@settings(max_examples=15)
def test_the_excess_is_at_most_what_was_in_flight(
    bound: int, price: int, fail: float, running: int, boards: list[Storyboard], seed: int
) -> None:
    """Any price, right or wrong: more than the bound is only what ran when it became known."""

    async def main() -> None:
        terms = Terms(duration=Constant(60), limit=None, fail_rate=fail)
        async with Simulator(terms, clock=LoopClock(), rng=random.Random(seed)) as simulator:
            bounds = {"max_credits": bound, "prices": price, "max_running": running}
            async with customer(simulator, **bounds) as client:
                outcomes, error = await until_its_end(client.generate_many(boards))
        cheap = price >= 270
        assert spent(simulator) <= bound + (0 if cheap else 270 * running)
        if error is None:
            assert len(outcomes) == len(boards)

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())

"""Bounds on what may be spent: pure sums first, then whole runs with many films at once."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
from batch.conformance_base import OpenStores
from batch.conformance_base import film as entry
from batch.helpers import (
    board,
    check_consistency,
    fast_limiter,
    films,
    make_client,
    open_batch,
    run_batch,
    simulated_service,
    states,
)
from hypothesis import given
from hypothesis import strategies as st
from volume import volume

from apikley_async import ModelTask, RateLimiter, Shot, Storyboard
from apikley_async._budget import Budget, FilmBudget, Prices, Reservation
from apikley_async.batch import Batch, Item, ItemEvent, ItemState, Journal, Transition
from apikley_async.batch.budget import RunBudget, known_prices
from apikley_async.batch.run_options import BatchRunOptions
from apikley_async.errors import BudgetExceededError
from apikley_async.simulator import Constant, Failure, Fault, Terms, Throttle, Uniform
from apikley_async.testing import LoopClock

TEN = Storyboard([Shot("Ten.", 5)], duration=10)
FIFTEEN = Storyboard([Shot("Fifteen.", 5)], duration=15)
OTHER = ModelTask("kling-2.6/text-to-video", {"prompt": "A lighthouse."})


# --- pure -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("price", "costs"),
    [
        (None, [None, None, None]),
        (0, [0, 0, 0]),
        (150, [150, 150, 150]),
        ({10: 150, "kling-2.6/text-to-video": 99.5}, [150, None, 99.5]),
        (lambda work: 7 if isinstance(work, ModelTask) else None, [None, None, 7]),
    ],
    ids=["none", "zero", "one", "mapping", "function"],
)
def test_a_price_is_what_the_user_says(price: object, costs: list[float | None]) -> None:
    """A number for all, a mapping by duration or model, or a function; nothing is assumed."""
    prices = Prices(price)  # type: ignore[arg-type]
    assert [prices.of(work) for work in (TEN, FIFTEEN, OTHER)] == costs


def test_prices_are_learnt_from_finished_films() -> None:
    """What films of a kind have consumed is their price; the dearest counts."""
    prices = Prices({15: 1.0})
    for consumed in (140.0, 150.0, 145.0):
        prices.learn(10, consumed)
    prices.learn(15, 9.0)

    assert (prices.of(TEN), prices.of(FIFTEEN), prices.of(OTHER)) == (150.0, 9.0, None)


def test_a_film_that_was_cheaper_lowers_no_price() -> None:
    """What the user says is a price; what films cost may only raise it."""
    prices = Prices(300)
    prices.learn(10, 150.0)

    assert prices.of(TEN) == 300.0


def test_the_price_of_another_model_is_learnt_apart() -> None:
    """Two ids of one duration may cost different amounts."""
    prices = Prices()
    twin = attrs.evolve(TEN, model="sora/s-2pro")
    prices.learn(twin.price_key, 900.0)

    assert (prices.of(twin), prices.of(TEN)) == (900.0, None)


@pytest.mark.parametrize("price", [-1, float("nan"), float("inf"), {10: -0.5}])
def test_a_price_that_would_undo_a_bound_is_refused(price: object) -> None:
    """A negative price would let everything through."""
    with pytest.raises(ValueError, match="price"):
        Prices(price)  # type: ignore[arg-type]


def test_a_function_s_price_is_checked_too() -> None:
    """What a function answers is held to the same rule."""
    with pytest.raises(ValueError, match="0 or more"):
        Prices(lambda _: -5.0).of(TEN)
    with pytest.raises(TypeError, match="credits"):
        Prices(lambda _: "5").of(TEN)  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize("bound", [{"max_credits": 5}, {"spendable": 5}])
def test_a_bound_in_credits_lets_nothing_through_without_a_price(bound: Mapping[str, int]) -> None:
    """What nobody can price cannot be bounded; a bound on the number of films needs no price."""
    budget = Budget(**bound)  # type: ignore[arg-type]

    with pytest.raises(BudgetExceededError, match="need a price"):
        budget.reserve(None)

    assert (budget.spent, budget.tasks, budget.undecided) == (0, 0, 0)
    Budget(max_tasks=1).reserve(None)


def test_decimal_prices_add_up() -> None:
    """Ten times 0.1 fit into 1: no film is left out by a binary rounding."""
    budget = Budget(max_credits=1.0)
    for _ in range(10):
        budget.reserve(0.1)
    with pytest.raises(BudgetExceededError, match="max_credits"):
        budget.reserve(0.1)
    assert budget.spent == 1.0


@pytest.mark.parametrize("bound", [{"max_credits": 1}, {"spendable": 1}, {"max_tasks": 1}])
def test_what_was_released_can_be_reserved_again(bound: Mapping[str, int]) -> None:
    """A refused film takes nothing from any bound, however often it is refused."""
    budget = Budget(**bound)  # type: ignore[arg-type]

    for _ in range(3):
        reserved = budget.reserve(1)
        with pytest.raises(BudgetExceededError):
            budget.reserve(1)
        budget.release(reserved)

    assert (budget.spent, budget.tasks, budget.undecided) == (0, 0, 0)


@pytest.mark.parametrize("bound", [{"max_credits": 7}, {"max_tasks": 1}])
def test_films_of_earlier_runs_count(bound: Mapping[str, int]) -> None:
    """Bounds on the journal hold over all runs: a restart is no new budget."""
    budget = Budget(**bound)  # type: ignore[arg-type]
    budget.count(7)

    with pytest.raises(BudgetExceededError):
        budget.reserve(1)
    assert (budget.spent, budget.undecided) == (7, 0)


@given(
    st.lists(st.tuples(st.integers(0, 500), st.booleans()), max_size=60),
    st.integers(0, 3000),
    st.integers(0, 40),
)
def test_a_budget_is_never_exceeded(wishes: list[tuple[int, bool]], most: int, tasks: int) -> None:
    """Whatever is reserved and given back, what is kept stays within every bound. (I10)"""
    budget = Budget(max_credits=most, max_tasks=tasks, spendable=most / 2)
    kept: list[int] = []
    for price, keep in wishes:
        try:
            reserved = budget.reserve(price)
        except BudgetExceededError:
            continue
        assert sum(kept) + price <= most / 2
        assert len(kept) + 1 <= tasks
        if keep:
            budget.keep()
            kept.append(price)
        else:
            budget.release(reserved)
    assert budget.spent == sum(kept)
    assert budget.undecided == 0


@given(
    st.lists(st.tuples(st.integers(0, 300), st.booleans()), max_size=40),
    st.integers(0, 3000),
    st.integers(1, 5),
)
def test_the_excess_is_at_most_what_was_in_flight(
    costs: list[tuple[int, bool]], most: int, at_once: int
) -> None:
    """Films cost what they cost: known costs replace prices, and nothing is reserved beyond. (I10)

    Against a plain sum: each film is priced at the dearest so far, and ends in order.
    """
    budget, price = Budget(max_credits=most), 10
    flying: list[tuple[Reservation, int]] = []
    charged, before_the_last = 0, 0
    for cost, refunded in costs:
        if len(flying) == at_once:
            reserved, actual = flying.pop(0)
            budget.settle(reserved, actual)
            charged += actual
            price = max(price, actual)
            budget.reprice(10, price)
        try:
            reserved = budget.reserve(price, 10)
        except BudgetExceededError:
            continue
        before_the_last = charged
        budget.keep()
        budget.follow(reserved)
        flying.append((reserved, 0 if refunded else cost))
        assert charged + price * len(flying) <= most
    for reserved, actual in flying:
        budget.settle(reserved, actual)
        charged += actual

    assert budget.spent == charged
    assert charged <= max(most, before_the_last + at_once * 300)


def test_an_unknown_cost_stays_what_was_reserved() -> None:
    """Of a failed film whose record says nothing: perhaps refunded, so still set aside."""
    budget = Budget(max_credits=20, spendable=20)
    lost, free, paid = (budget.reserve(5, 10) for _ in range(3))
    for film in (lost, free, paid):
        budget.keep()
        budget.follow(film)
    assert budget.may_shrink

    budget.settle(lost, None)
    budget.settle(free, 0)
    budget.settle(paid, 7)

    assert budget.spent == 12
    assert not budget.may_shrink
    budget.reprice(10, 100)  # what is settled is not priced again
    assert budget.spent == 12
    with pytest.raises(BudgetExceededError):
        budget.reserve(9)
    budget.reserve(8)


def test_a_dearer_price_is_set_aside_for_what_is_in_flight() -> None:
    """Of its own kind only, films of earlier runs included; cheaper ones change nothing."""
    budget = Budget(max_credits=1000)
    earlier = budget.count(10, 10)
    budget.follow(earlier)
    budget.count(10, 10)  # its cost will never be known
    for kind in (10, 15):
        budget.follow(budget.reserve(10, kind))
        budget.keep()

    budget.reprice(10, 150)
    budget.reprice(15, 5)

    assert budget.spent == 150 + 10 + 150 + 10


# --- whole runs -----------------------------------------------------------------------------------


@pytest.mark.virtual
@pytest.mark.parametrize(
    ("bound", "paid"),
    [({"max_credits": 1500}, 10), ({"max_credits": 1649.9}, 10), ({"max_tasks": 7}, 7)],
    ids=["credits", "not quite eleven", "tasks"],
)
async def test_bounds_are_exact_however_many_run_at_once(
    bound: Mapping[str, float], paid: int, tmp_path: Path
) -> None:
    """With 40 films and 100 places exactly what fits is paid, and the run says why. (I10, A23)"""
    async with (
        simulated_service() as simulator,
        make_client(simulator, limiter=fast_limiter()) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        await batch.add(films(40))

        await run_batch(batch, client, folder=tmp_path / "films", prices={10: 150}, **bound)

        assert len(simulator.ledger.paid) == paid
        assert Counter((await states(batch)).values()) == {
            ItemState.DONE: paid,
            ItemState.PLANNED: 40 - paid,
        }
        assert next(iter(bound)) in (batch.stopped or "")


@pytest.mark.virtual
@pytest.mark.parametrize("refused", [3, 5])
async def test_a_refused_film_releases_its_reservation(refused: int, tmp_path: Path) -> None:
    """What a refused film had reserved pays for another: the bound is used up, not undercut.

    With five, all that is reserved at first is given back, and nothing else wakes who waits.
    """
    async with (
        simulated_service() as simulator,
        make_client(simulator, limiter=fast_limiter()) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        simulator.script("create", [Fault.code(422)] * refused)
        await batch.add(films(12))

        await run_batch(batch, client, folder=tmp_path / "films", prices=150, max_credits=750)

        assert Counter((await states(batch)).values()) == {
            ItemState.DONE: 5,
            ItemState.REJECTED: refused,
            ItemState.PLANNED: 7 - refused,
        }


@pytest.mark.virtual
@pytest.mark.parametrize(
    ("bound", "running", "paid"),
    [
        ({"max_credits": 100}, 1, 1),
        ({"max_credits": 100}, 4, 4),
        ({"max_credits": 500}, 1, 3),
        ({"max_credits": 500}, 3, 3),
        ({"min_balance": 900}, 1, 1),
        ({"min_balance": 700}, 2, 2),
    ],
)
async def test_a_price_that_was_too_low_does_not_undo_a_bound(
    bound: Mapping[str, float], running: int, paid: int, tmp_path: Path
) -> None:
    """Films cost 150, not 10: the first known cost counts, and the price for all is 150 then.

    What is paid beyond the bound is what was in flight, in the next run too. (I10, A23)
    """
    terms = Terms(credits=1000, duration=Uniform(30, 300))
    spent = 150 * paid
    for _ in range(2):
        async with (
            simulated_service(terms) as simulator,
            make_client(simulator, limiter=fast_limiter()) as client,
            open_batch(tmp_path / f"{running}.db") as batch,
        ):
            await batch.add(films(8))

            await run_batch(
                batch, client, folder=tmp_path / "films", prices=10, max_running=running, **bound
            )

            assert len(simulator.ledger.paid) == paid
            assert next(iter(bound)) in (batch.stopped or "")
            assert (await batch.status()).spent == spent
        if "min_balance" in bound:  # another world has another balance
            return
        paid = 0


@pytest.mark.virtual
@pytest.mark.parametrize("wait", ["limiter", "throttled"])
@pytest.mark.parametrize(("bound", "paid"), [(100, 1), (400, 2)])
async def test_what_waits_to_be_sent_is_priced_anew_before_it_is(
    wait: str, bound: int, paid: int, tmp_path: Path
) -> None:
    """Films cost 150, not 10: what had its share and was not sent is no part of the excess. (I10)

    There is room for as many as fit at the price of now, and the bound ends the run.
    """
    slow = RateLimiter(1, 300, clock=LoopClock(), rng=random.Random(1))
    async with (
        simulated_service() as simulator,
        make_client(simulator, limiter=slow if wait == "limiter" else fast_limiter()) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        if wait == "throttled":
            busy = Fault.throttled(Throttle.SECONDS, 90)
            simulator.script("create", [Fault.OK, busy, busy, busy, busy])
        await batch.add(films(5))

        await run_batch(batch, client, folder=tmp_path / "films", prices=10, max_credits=bound)

        assert len(simulator.ledger.paid) == paid
        assert "max_credits" in (batch.stopped or "")
        assert (await batch.status()).spent == 150 * paid
        assert [*(await states(batch)).values()].count(ItemState.PLANNED) == 5 - paid
        await check_consistency(simulator, batch, tmp_path / "films")


@pytest.mark.virtual
async def test_a_request_that_is_out_is_priced_anew_too(tmp_path: Path) -> None:
    """Its kind became dearer while the answer was on its way: so much is set aside for it."""
    async with (
        simulated_service(Terms(duration=Constant(1))) as simulator,
        make_client(simulator, limiter=fast_limiter()) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        simulator.script("create", [Fault.OK, Fault.late(30)])
        await batch.add(films(3))

        await run_batch(
            batch, client, folder=tmp_path / "films", prices=10, max_credits=400, max_running=2
        )

        assert len(simulator.ledger.paid) == 2  # 300 are charged, and 150 more do not fit


@pytest.mark.virtual
async def test_a_refund_is_not_spent(tmp_path: Path) -> None:
    """A failed film costs 0 when its record says 0, after `retry` too: the bound is not used up."""
    fates = iter([Failure("500", "try again")] * 3)
    terms = Terms(duration=Constant(30), decide=lambda _order: next(fates, None))
    async with (
        simulated_service(terms) as simulator,
        make_client(simulator, limiter=fast_limiter()) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        await batch.add(films(3))
        bound = {"prices": 150, "max_credits": 450}

        await run_batch(batch, client, folder=tmp_path / "films", **bound)
        assert (await batch.status()).spent == 0
        await batch.retry()
        assert (await batch.status()).spent == 0
        await run_batch(batch, client, folder=tmp_path / "films", **bound)

        status = await batch.status()
    assert status.counts == {ItemState.DONE: 3}
    assert status.spent == 450
    assert len(simulator.ledger.paid) == 6


@pytest.mark.virtual
async def test_what_turns_out_cheaper_makes_room(tmp_path: Path) -> None:
    """A run goes on while it fits: it waits for the costs of what is in flight."""
    async with (
        simulated_service(Terms(duration=Constant(30))) as simulator,
        make_client(simulator, limiter=fast_limiter()) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        await batch.add(films(6))

        await run_batch(batch, client, folder=tmp_path / "films", prices=300, max_credits=750)

        assert len(simulator.ledger.paid) == 4  # 600 are spent, and 300 more do not fit
        assert (await batch.status()).spent == 600
        assert "max_credits" in (batch.stopped or "")


@pytest.mark.virtual
async def test_who_waits_for_a_bound_is_counted(tmp_path: Path) -> None:
    """While others are made that may turn out to cost less; nobody without a bound."""
    counted = {}
    for bound in (750, None):
        folder = tmp_path / str(bound)
        folder.mkdir()
        async with (
            simulated_service(Terms(duration=Constant(30))) as simulator,
            make_client(simulator, limiter=fast_limiter()) as client,
            open_batch(folder / "b.db") as batch,
        ):
            await batch.add(films(6))
            run = run_batch(batch, client, folder=folder, prices=300, max_credits=bound)
            running = asyncio.create_task(run)
            await asyncio.sleep(10)
            counted[bound] = batch.held_back
            await running
            assert batch.held_back == 0

    assert counted == {750: 4, None: 0}


def test_an_attempt_is_reserved_at_the_price_of_now() -> None:
    """What was set aside before it waited is given back. (I10)"""
    budget, prices = Budget(max_credits=200), Prices(10)
    film = FilmBudget(budget, budget.reserve(10, 10, sent=False), lambda: prices.of(TEN))
    prices.learn(10, 150)

    assert film.reserve() == 150
    assert budget.spent == 150
    prices.learn(10, 201)
    with pytest.raises(BudgetExceededError):
        film.reserve()


async def test_a_dearer_film_makes_its_kind_dearer_in_the_sums_of_the_run(tmp_path: Path) -> None:
    """For films in flight and for those to come: what does not fit is not begun. (I10)"""
    options = BatchRunOptions(tmp_path)
    async with contextlib.aclosing(await Journal.open(tmp_path / "b.db")) as journal:
        await journal.plan([entry("k0")])
        budget = await RunBudget.load(journal, options, price=100, max_credits=500, max_tasks=None)
        for key in ("k0", "k1"):
            film = await budget.reserve(TEN)
            assert film is not None
            film.reserve()
            budget.keep(key, film)
        made = attrs.evolve(await journal.item("k0"), state=ItemState.SUCCESS, credits=200.0)
        budget.settle(made, ended=False)

        assert not budget.fits(TEN)  # 200 are spent, 200 set aside, and 200 more are too many


class CountingLimiter(RateLimiter):
    """A limiter that knows how many slots were asked for."""

    asked = 0

    def slot(self) -> contextlib.AbstractAsyncContextManager[None]:
        self.asked += 1
        return super().slot()


@pytest.mark.virtual
async def test_a_film_that_does_not_fit_waits_for_no_slot(tmp_path: Path) -> None:
    """The run knows without its journal that the first film may be paid. (I10)"""
    limiter = CountingLimiter(1000, 0.1, clock=LoopClock(), rng=random.Random(2))
    async with (
        simulated_service() as simulator,
        make_client(simulator, limiter=limiter) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        simulator.script("create", [Fault.RESET_AFTER])
        await batch.add(films(3))
        await run_batch(batch, client, folder=tmp_path, prices=150, max_credits=150)

    assert limiter.asked == len(simulator.ledger.paid) == 1


@pytest.mark.virtual
async def test_uncertain_films_count_and_so_do_earlier_runs(tmp_path: Path) -> None:
    """What may be paid is spent as far as the bound is concerned, in the next run too. (I10)"""
    async with simulated_service() as simulator:
        simulator.script("create", [Fault.RESET_AFTER, Fault.RESET] * 2)
        for _ in range(2):
            async with (
                make_client(simulator, limiter=fast_limiter()) as client,
                open_batch(tmp_path / "b.db") as batch,
            ):
                await batch.add(films(20))
                await run_batch(
                    batch, client, folder=tmp_path / "films", prices=150, max_credits=900
                )
                status = await batch.status()

        assert status.counts == {ItemState.DONE: 2, ItemState.UNCERTAIN: 4, ItemState.PLANNED: 14}
        assert (status.spent, status.at_risk) == (300.0, 600.0)
        assert len(simulator.ledger.paid) == 4

        async with (
            make_client(simulator, limiter=fast_limiter()) as client,
            open_batch(tmp_path / "b.db") as b,
        ):
            await run_batch(b, client, folder=tmp_path / "films", prices=150, max_credits=1050)
            assert (await b.status()).counts[ItemState.DONE] == 3


@pytest.mark.virtual
async def test_a_minimum_balance_is_left_in_the_account(tmp_path: Path) -> None:
    """`min_balance` leaves at least so many credits in the account."""
    async with (
        simulated_service(Terms(credits=1000, duration=Constant(30))) as simulator,
        make_client(simulator, limiter=fast_limiter()) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        await batch.add(films(10))

        await run_batch(batch, client, folder=tmp_path / "films", prices=150, min_balance=300)

        assert len(simulator.ledger.paid) == 4
        assert await client.credits() == 400
        assert "min_balance" in (batch.stopped or "")


@pytest.mark.virtual
@pytest.mark.parametrize(
    ("limiter", "films_before", "shared"),
    [
        ((1, 20.0), 15, True),
        ((1000, 0.1), 50, False),
        *volume([], [((1, 20.0), 15, False), ((1000, 0.1), 50, True)]),
    ],
)
async def test_what_others_take_from_the_account_is_seen(
    tmp_path: Path, limiter: tuple[int, float], films_before: int, shared: bool
) -> None:
    """The balance is looked at again, after minutes or dozens of films; what is out goes on."""
    left, elsewhere = 3_500, 30
    # Until others take of it, the account has enough for all the films of the batch.
    account = 1_000 + left + 150 * (films_before + elsewhere)
    terms = Terms(credits=account, duration=Constant(30), limit=None)
    async with (
        simulated_service(terms) as simulator,
        make_client(simulator, limiter=RateLimiter(*limiter, clock=LoopClock())) as client,
        make_client(simulator, seed=9, limiter=fast_limiter()) as stranger,
    ):
        journal = await Journal.open(tmp_path / "b.db", clock=LoopClock(), shared=shared)
        batch = Batch(journal, clock=LoopClock())
        await batch.add(films(films_before + 50))
        options = {"folder": tmp_path / "films", "prices": 150, "min_balance": 1000}
        running = asyncio.create_task(run_batch(batch, client, max_running=10, **options))
        await asyncio.sleep(100)
        others = [board(f"other{number}") for number in range(elsewhere)]
        await asyncio.gather(*(stranger.submit(film) for film in others))
        made = await running

        assert 1_000 <= await client.credits() < 1_000 + 4 * 150
        assert "min_balance" in (batch.stopped or "")
        done = [item for item in made if item.state is ItemState.DONE]
        assert len(done) == len(simulator.ledger.paid) - elsewhere
        await journal.aclose()


@pytest.mark.virtual
async def test_a_balance_that_is_not_known_stops_nothing(tmp_path: Path) -> None:
    """Later it is."""
    terms = Terms(credits=30_000, duration=Constant(30))
    async with (
        simulated_service(terms) as simulator,
        make_client(simulator, limiter=RateLimiter(1, 20.0, clock=LoopClock())) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        await batch.add(films(30))
        run = batch.run(client, folder=tmp_path / "films", prices=150, min_balance=1000)
        seen = [await anext(run)]
        simulator.script("credits", [Fault.HTTP_502] * 50)
        seen += [item async for item in run]

        assert {item.state for item in seen} == {ItemState.DONE}
        assert len(seen) == 30


def test_a_later_look_only_lowers_what_may_be_spent() -> None:
    """The balance does not show yet what some films in flight will cost. (I10)"""
    budget = Budget()
    assert budget.share(100.0, 50.0) == 150.0
    assert budget.share(120.0, 50.0) == 150.0
    assert budget.share(130.0, 10.0) == 140.0
    assert budget.share(130.0, 20.0) == 140.0

    assert budget.spendable == 40.0


@pytest.mark.virtual
@pytest.mark.parametrize("bound", [{"max_credits": 9e9}, {"min_balance": 0}])
async def test_without_a_price_a_bound_in_credits_refuses(
    bound: Mapping[str, float], tmp_path: Path
) -> None:
    """Before anything is spent, and the message names the films without a price. (A23)"""
    async with (
        simulated_service() as simulator,
        make_client(simulator) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        await batch.add([*films(2), ("other", OTHER)])

        with pytest.raises(BudgetExceededError, match=r"10, kling.*nothing was spent"):
            await run_batch(batch, client, folder=tmp_path / "films", **bound)
        with pytest.raises(BudgetExceededError, match=r"for: kling"):
            await run_batch(batch, client, folder=tmp_path / "films", prices={10: 150}, **bound)

        assert not simulator.ledger.arrivals("create")


@pytest.mark.virtual
async def test_what_earlier_films_consumed_is_a_price(tmp_path: Path) -> None:
    """A bound needs no price once the journal has learnt it."""
    async with (
        simulated_service() as simulator,
        make_client(simulator) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        await batch.add(films(1))
        await run_batch(batch, client, folder=tmp_path / "films")
        await batch.add(films(9))
        estimate = await batch.estimate()

        await run_batch(batch, client, folder=tmp_path / "films", max_credits=750)

        assert (estimate.films, estimate.credits, estimate.unpriced) == (8, 1200.0, 0)
        assert len(simulator.ledger.paid) == 5
        await check_consistency(simulator, batch, tmp_path / "films")


@pytest.mark.virtual
async def test_an_earlier_film_without_a_price_is_not_counted_as_free(tmp_path: Path) -> None:
    """A bound on all films cannot be kept while nobody knows what one of them has cost."""
    async with (
        simulated_service() as simulator,
        make_client(simulator) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        simulator.script("create", [Fault.RESET_AFTER])
        await batch.add([("other", OTHER)])
        await run_batch(batch, client, folder=tmp_path / "films")
        await batch.add(films(1))

        with pytest.raises(BudgetExceededError, match="kling"):
            await run_batch(
                batch, client, folder=tmp_path / "films", prices={10: 1}, max_credits=100
            )

        assert len(simulator.ledger.arrivals("create")) == 1


@pytest.mark.virtual
async def test_a_not_created_attempt_keeps_its_reservation(tmp_path: Path) -> None:
    """Each attempt counts as what it may have cost, in this run and in the next. (A4, A23)"""
    async with simulated_service() as simulator:
        simulator.script("create", [Fault.HTTP_500] * 2)
        async with (
            make_client(simulator, limiter=fast_limiter(), not_created={500}) as client,
            open_batch(tmp_path / "b.db") as batch,
        ):
            await batch.add(films(1))
            received = await run_batch(batch, client, folder=tmp_path, prices=150, max_credits=300)
            assert "max_credits" in (batch.stopped or "")
            assert (received[-1].state, received[-1].attempts) == (ItemState.PLANNED, 2)
            assert (await batch.status()).at_risk == 300
        async with (
            make_client(simulator, seed=8, limiter=fast_limiter(), not_created={500}) as client,
            open_batch(tmp_path / "b.db") as batch,
        ):
            await run_batch(batch, client, folder=tmp_path, prices=150, max_credits=449)
            assert "max_credits" in (batch.stopped or "")
            await run_batch(batch, client, folder=tmp_path, prices=150, max_credits=450)
            assert (await batch.status()).spent == 150
            await check_consistency(simulator, batch, tmp_path)


@pytest.mark.virtual
async def test_a_busy_service_leaves_films_planned(tmp_path: Path) -> None:
    """After three tries more the film waits for the next run; nobody has to decide. (A4)"""
    async with simulated_service() as simulator:
        simulator.script("create", [Fault.HTTP_500] * 5)
        async with (
            make_client(simulator, limiter=fast_limiter(), not_created={500}) as client,
            open_batch(tmp_path / "b.db") as batch,
        ):
            await batch.add(films(1))
            [item] = await run_batch(batch, client, folder=tmp_path)
            assert (item.state, item.attempts) == (ItemState.PLANNED, 4)
            assert "nothing is created" in item.cause
            [done] = await run_batch(batch, client, folder=tmp_path)
            assert (done.state, done.attempts) == (ItemState.DONE, 6)
            await check_consistency(simulator, batch, tmp_path)
    journal = await Journal.open(tmp_path / "b.db", read_only=True)
    said = [event["by"] for event in await journal.events() if event["event"] == "not_created"]
    await journal.aclose()
    assert said == ["not_created"] * 5


@pytest.mark.virtual
async def test_a_client_s_bound_counts_not_created_attempts(tmp_path: Path) -> None:
    """Without a journal, too."""
    async with simulated_service() as simulator:
        simulator.script("create", [Fault.HTTP_500] * 3)
        async with make_client(
            simulator, limiter=fast_limiter(), not_created={500}, prices=150, max_credits=300
        ) as client:
            with pytest.raises(BudgetExceededError):
                await client.submit(TEN)
            with pytest.raises(BudgetExceededError):
                await client.submit(TEN)
        assert simulator.ledger.paid == []
        assert len(simulator.ledger.arrivals("create")) == 2


class Watched(Journal):
    """A journal that notes which items are read."""

    read: list[str]

    async def item(self, key: str) -> Item:
        self.read.append(key)
        return await super().item(key)

    async def items(self, *states: Any, **page: Any) -> Sequence[Item]:
        found = await super().items(*states, **page)
        self.read += [item.key for item in found]
        return found


async def test_what_films_have_cost_is_known_without_reading_them(tmp_path: Path) -> None:
    """Except for an attempt whose kind is not stored, as an adopted journal has them."""
    journal = await Watched.open(tmp_path / "b.db")
    assert isinstance(journal, Watched)
    store = OpenStores()
    await journal.plan([entry(key) for key in "abc"])
    for key, kind, cost in (("a", 10, 150.0), ("b", 10, 180.0), ("c", None, 200.0)):
        await store.accept(journal, key, f"task_{key}", 100.0, kind=kind)
        await journal.apply(key, Transition(ItemEvent.SUCCEED, credits=cost))
    journal.read = []

    prices = await known_prices(journal)

    assert (prices.of(TEN), prices.of(FIFTEEN)) == (200.0, None)
    assert journal.read == ["c"]
    assert [cost.kind for cost in await journal.attempt_costs()] == [10, 10, None]
    await journal.aclose()

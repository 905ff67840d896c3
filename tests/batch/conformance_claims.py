"""What every store must do for several runs at once: claims, leases and bounds."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from batch.conformance_base import RUN, OpenStores, attempt, film

from apikley_async import Client, Environment, Verdict
from apikley_async.batch import Batch, Bounds, ItemEvent, ItemState, PlanResult, Store, Transition
from apikley_async.batch.store.protocol import LEASE
from apikley_async.errors import BudgetExceededError, ManifestConflictError
from apikley_async.testing import FakeClock, Reply, Request, reply

KEY = "a-key-that-opens-nothing"
ONE, TWO = "the-first-run", "the-second-run"
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


async def claimed(store: Store, owner: str, count: int = 100, **options: object) -> list[str]:
    """The keys that an owner gets."""
    return [item.key for item in await store.claim(owner, count, **options)]  # type: ignore[arg-type]


async def ready(store: Store, key: str, at: datetime | None = None) -> None:
    await store.apply(key, Transition(ItemEvent.SUCCEED, result='{"urls": []}', success_at=at))


class LateNetwork:
    """A network that is connected to late, once; it takes submissions only.

    Args:
        pause: what happens meanwhile.
        on_left: called when a request has left.
    """

    def __init__(
        self, pause: Callable[[], Awaitable[None]], *, on_left: Callable[[], None] | None = None
    ) -> None:
        self.begun = self.left = 0
        self._pause, self._on_left = pause, on_left

    async def send(self, request: Request, *, on_sent: Callable[[], None] | None = None) -> Reply:
        self.begun += 1
        if self.begun == 1:
            await self._pause()
        if on_sent is not None:
            on_sent()
        self.left += 1
        if self._on_left is not None:
            self._on_left()
        return reply({"taskId": f"late_{self.left}"})

    async def aclose(self) -> None:
        return


class ClaimContract(OpenStores):
    """The promises of a store to runs that make its films at the same time."""

    # --- who gets what ------------------------------------------------------------------------

    async def test_what_is_claimed_is_given_to_nobody_else(self, store: Store) -> None:
        """As long as its owner beats, however long that is."""
        await store.plan([film(key) for key in "abc"])
        assert await claimed(store, ONE, 2) == ["a", "b"]

        for _ in range(5):
            assert await claimed(store, TWO) in (["c"], [])
            assert await claimed(store, ONE) == []
            await self.pass_time(store, LEASE - 5)
            assert [await store.beat(owner) for owner in (ONE, TWO)] == [None, None]
        assert not await store.verify()

    async def test_what_wants_a_run_is_counted(self, store: Store) -> None:
        """What living runs own does not, nor what needs a person or nothing more."""
        await store.plan([film(key) for key in "abcdef"])
        await self.accept(store, "a", "task_a")
        await self.accept(store, "b", "task_b")
        await ready(store, "b")
        await store.apply("c", Transition(ItemEvent.DROP))
        await store.release(RUN)
        assert await store.claimable() == 5

        assert await claimed(store, ONE, 4) == ["b", "a", "d", "e"]
        assert await store.claimable() == 1
        await self.pass_time(store, LEASE + 1)
        assert await store.claimable() == 5

    async def test_who_has_what_is_known(self, store: Store) -> None:
        """Of runs that live; what has ended, is being sent or is gone is nothing to be made."""
        await store.plan([film("gone"), film("a")], source="one")
        await store.plan([film(key) for key in "bcde"])
        await claimed(store, ONE, 4)
        await store.plan([film("a")], source="one")
        await store.intend("b", "t-b", "print", None, owner=ONE)
        await self.pass_time(store, LEASE - 5)
        assert await claimed(store, TWO) == ["d", "e"]

        found = {run.id: run for run in await store.owners()}
        assert {name: run.items for name, run in found.items()} == {ONE: 2, TWO: 2}
        assert found[ONE].name.startswith("process ")
        assert 0 < found[ONE].lapses_in < 6 < LEASE - 1 < found[TWO].lapses_in <= LEASE
        assert found[TWO].seen_at - found[ONE].seen_at == pytest.approx(LEASE - 5, abs=2)
        assert [(run.id, run.items) for run in await store.owners(["c", "b", "x"])] == [(ONE, 1)]

        await self.pass_time(store, 6)
        assert [run.id for run in await store.owners()] == [TWO]
        await store.beat(ONE)
        assert len(await store.owners()) == 2
        await store.release(TWO)
        assert [run.id for run in await store.owners()] == [ONE]

    async def test_what_is_paid_is_claimed_first(self, store: Store) -> None:
        """What is ready, the nearest expiry first; what is paid; then what is planned."""
        await store.plan([film(key) for key in ("later", "gone")], source="one")
        await store.plan([film(key) for key in ("p1", "s1", "r1", "p2", "r2", "s2", "r3")])
        await store.plan([film("later")], source="one")
        for key in ("s1", "s2", "r1", "r2", "r3"):
            await self.accept(store, key, f"task_{key}")
        await store.apply("s1", Transition(ItemEvent.STALL))
        await ready(store, "r1")
        await ready(store, "r2", datetime(2020, 1, 2, tzinfo=UTC))
        await ready(store, "r3", LONG_AGO)
        await store.release(RUN)

        order = ["r3", "r2", "r1", "s1", "s2", "later", "p1", "p2"]
        assert await claimed(store, ONE, planned=False) == order[:5]
        await store.release(ONE)
        assert await claimed(store, ONE, 2) == order[:2]
        assert await claimed(store, TWO, 4) == order[2:6]
        assert await claimed(store, ONE) == order[6:]

    async def test_only_the_items_that_are_named_are_claimed(self, store: Store) -> None:
        """Of any number of keys; those that are not there are nobody's."""
        await store.plan([film(f"k{number}") for number in range(1200)])

        keys = [f"k{number}" for number in range(1199, -1, -2)]
        assert await claimed(store, ONE, 3, keys=[*keys, "unknown"]) == ["k1", "k3", "k5"]
        assert await claimed(store, TWO, 1000, keys=keys) == [f"k{n}" for n in range(7, 1200, 2)]
        assert await claimed(store, TWO, keys=[]) == []

    async def test_what_is_released_is_free(self, store: Store) -> None:
        """What is named, or all; what somebody else owns is left alone."""
        await store.plan([film(key) for key in "abc"])
        await claimed(store, ONE)

        await store.release(TWO, ["a"])
        assert await claimed(store, TWO) == []
        await store.release(ONE, ["b"])
        assert await claimed(store, TWO) == ["b"]
        await store.release(ONE)
        assert await claimed(store, TWO) == ["a", "c"]
        assert not await store.verify()

    async def test_what_has_ended_is_nobody_s(self, store: Store) -> None:
        """A film that a person wants made again may be made by anybody."""
        await store.plan([film(key) for key in "ab"])
        await claimed(store, ONE)
        await store.apply("a", Transition(ItemEvent.REFUSE, cause="no picture"))
        await store.apply("a", Transition(ItemEvent.RETRY, by="me"))

        assert await claimed(store, TWO) == ["a"]

    async def test_a_film_with_new_content_is_claimed_anew(self, store: Store) -> None:
        """The run that had it would send what was planned before. (A21)"""
        await store.plan([film("a")])
        await claimed(store, ONE)
        await store.plan([film("a", "Something else.")])

        with pytest.raises(LookupError, match="'a' is not this run's"):
            await store.intend("a", "t1", "print", None, owner=ONE)
        [item] = await store.claim(ONE, 1)
        assert "Something else." in item.payload

    async def test_what_was_read_before_is_not_sent(self, store: Store) -> None:
        """Also where the same run has claimed the film again, and its earlier task goes on."""
        await store.plan([film("a")])
        [before] = await store.claim(ONE, 1)
        await store.plan([film("a", "Something else.")])
        [after] = await store.claim(ONE, 1)

        with pytest.raises(LookupError, match="'a' has other content by now"):
            await store.intend("a", "t1", "print", None, owner=ONE, digest=before.digest)
        assert await store.attempts() == []
        await store.intend("a", "t1", "print", None, owner=ONE, digest=after.digest)

    async def test_a_film_that_is_gone_is_not_made(self, store: Store) -> None:
        """Its manifest no longer names it; a run that has claimed it may not send it."""
        await store.plan([film("a"), film("b")], source="one")
        await claimed(store, ONE)
        await store.plan([film("b")], source="one")

        with pytest.raises(LookupError, match="'a' is not this run's"):
            await store.intend("a", "t1", "print", None, owner=ONE)
        await store.intend("b", "t2", "print", None, owner=ONE)
        assert await claimed(store, TWO) == []

    async def test_a_film_that_is_made_keeps_its_key(self, store: Store) -> None:
        """Its run knows it by that."""
        await store.plan([film("a")])
        await claimed(store, ONE)

        with pytest.raises(LookupError, match="being made"):
            await store.rename("a", "b")
        await store.release(ONE)
        assert (await store.rename("a", "b")).key == "b"

    # --- leases -------------------------------------------------------------------------------

    async def test_after_the_lease_one_of_many_gets_it(self) -> None:
        """However many ask at once."""
        async with self.opened_by(4) as stores:
            await stores[0].plan([film(f"k{number}") for number in range(6)])
            assert len(await claimed(stores[0], ONE)) == 6
            await self.pass_time(stores[0], LEASE + 1)

            asked = (claimed(store, f"run-{n}", 4) for n, store in enumerate(stores))
            given = [key for keys in await asyncio.gather(*asked) for key in keys]

            assert sorted(given) == [f"k{number}" for number in range(6)]
            assert not await stores[0].verify()

    async def test_a_former_owner_sends_nothing(self, store: Store) -> None:
        """What it had is another's; it learns so when it beats. (J5)"""
        await store.plan([film(key) for key in "abc"])
        assert await claimed(store, ONE) == ["a", "b", "c"]
        await self.pass_time(store, LEASE + 1)
        assert await claimed(store, TWO, 2) == ["a", "b"]

        with pytest.raises(LookupError, match=r"'a' is not this run's.*claimed by"):
            await store.intend("a", "t1", "print", None, owner=ONE)
        with pytest.raises(LookupError, match="nobody has claimed it"):
            await store.intend("c", "t1", "print", None, owner=ONE)
        assert await store.attempts() == []
        assert await store.beat(ONE) == []
        assert await store.beat(ONE) is None
        assert await claimed(store, ONE) == ["c"]
        await store.intend("a", "t2", "print", None, owner=TWO)

    async def test_a_lease_may_be_over_while_nobody_asks(self, store: Store) -> None:
        """What nobody else has claimed is still the owner's, and it is alive from then on."""
        await store.plan([film(key) for key in "abc"])
        await claimed(store, ONE, 2)
        await self.pass_time(store, LEASE + 1)

        assert sorted(await store.beat(ONE) or ()) == ["a", "b"]
        await self.pass_time(store, LEASE + 1)
        await store.intend("a", "t1", "print", None, owner=ONE)
        assert await claimed(store, TWO) == ["c"]
        assert (await store.item("a")).state is ItemState.SENDING

    async def test_who_has_claimed_nothing_intends_nothing(self, store: Store) -> None:
        await store.plan([film("a")])
        for owner in (ONE, TWO):
            with pytest.raises(LookupError):
                await store.intend("a", "t1", "print", None, owner=owner)
            await claimed(store, TWO)
            await store.release(TWO)

        assert await store.attempts() == []

    async def test_what_a_dead_owner_was_sending_is_uncertain(self, store: Store) -> None:
        """It may be paid: nobody sends it again, and its late answer binds. (A7, A28)"""
        await store.plan([film("a"), film("b")])
        await claimed(store, ONE)
        await store.intend("a", "t-a", "print", 150.0, owner=ONE)
        await self.pass_time(store, LEASE - 1)
        assert (await claimed(store, TWO), (await store.item("a")).state) == ([], "sending")

        await self.pass_time(store, 2)
        assert await claimed(store, TWO) == ["b"]

        item = await store.item("a")
        assert item.state is ItemState.UNCERTAIN
        which = rf"process {os.getpid()} on .* was not heard of any more after "
        assert re.fullmatch(which + r"\d{4}(-\d\d){2} \d\d(:\d\d){2} UTC, while .*", item.cause)
        assert [cost.uncertain for cost in await store.attempt_costs()] == [True]
        with pytest.raises(LookupError):
            await store.intend("a", "t2", "print", 150.0, owner=ONE)
        for _ in range(2):  # the owner was stopped, and goes on
            item = await self.answer(store, "t-a", "a", "task_1")
            assert (item.state, item.task_id) == (ItemState.SUBMITTED, "task_1")
        assert await claimed(store, TWO) == ["a"]
        await self.answer(store, "t-a", "a", "task_2")
        [expected] = await store.expected_callbacks()
        assert (expected.task_id, expected.named) == ("task_1", ("task_2",))
        assert not await store.verify()

    async def test_a_process_that_stood_still_sends_nothing(
        self, store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Between its intent and its first byte others may have paid the film. (J5)"""
        await store.plan([film("a")])
        clock = FakeClock()

        async def stand_still() -> None:
            await self.pass_time(store, LEASE + 1)
            clock.advance(LEASE + 1)
            assert await claimed(store, TWO) == []
            await store.apply("a", Transition(ItemEvent.RESUBMIT, by="me"))
            await self.accept(store, "a", "task_1", owner=TWO)
            await store.apply("a", Transition(ItemEvent.FAIL))

        network = LateNetwork(stand_still)
        async with Client(KEY, environment=Environment(clock, transport=network)) as client:
            _ = [item async for item in Batch(store).run(client, folder=tmp_path)]

        assert (network.begun, network.left) == (1, 0)
        assert (await store.item("a")).task_id == "task_1"
        assert [row["state"] for row in await store.attempts()] == ["abandoned", "accepted"]
        assert "was never sent, as is known now" in caplog.text
        assert not await store.verify()

    async def test_what_did_not_leave_in_time_is_sent_with_a_new_intent(
        self, store: Store, tmp_path: Path
    ) -> None:
        """Where nobody has taken it over."""
        await store.plan([film("a")])
        clock, batch = FakeClock(), Batch(store)

        async def stand_still() -> None:
            clock.advance(LEASE - 1)

        network = LateNetwork(stand_still, on_left=batch.stop)
        async with Client(KEY, environment=Environment(clock, transport=network)) as client:
            _ = [item async for item in batch.run(client, folder=tmp_path)]

        assert (network.begun, network.left) == (2, 1)
        assert [row["state"] for row in await store.attempts()] == ["unsent", "accepted"]
        assert (await store.item("a")).state is ItemState.SUBMITTED
        assert not await store.verify()

    async def test_what_is_being_sent_is_not_released(self, store: Store) -> None:
        """A run may end while an answer is awaited; after the lease it is uncertain."""
        await store.plan([film("a"), film("b")])
        await claimed(store, ONE)
        await store.intend("a", "t-a", "print", None, owner=ONE)
        await store.release(ONE)

        assert await claimed(store, TWO) == ["b"]
        assert (await store.item("a")).state is ItemState.SENDING
        assert not await store.verify()
        await self.pass_time(store, LEASE + 1)
        await claimed(store, TWO)
        assert (await store.item("a")).state is ItemState.UNCERTAIN
        assert not await store.verify()

    async def test_clocks_that_differ_by_minutes_change_nothing(self) -> None:
        """A lease is measured by the store's clock, whatever its users' clocks say."""
        async with self.opened_by(3, clocks_off=300.0) as stores:
            one, two, three = stores
            await one.plan([film(f"k{number}") for number in range(6)])
            for number, store in enumerate(stores):
                keys = [f"k{2 * number}", f"k{2 * number + 1}"]
                assert await claimed(store, f"run-{number}", 2) == keys
            await one.intend("k0", "t0", "print", None, owner="run-0")
            for _ in range(3):
                for number, store in enumerate(stores):
                    await self.pass_time(store, LEASE / 4)
                    assert await store.beat(f"run-{number}") is None
                    assert await claimed(store, f"run-{number}") == []
            assert (await two.item("k0")).state is ItemState.SENDING
            ages = [age for age, _ in await three.recent_attempts(600.0)]
            assert len(ages) == 1
            assert not await one.verify()

    # --- the bounds of all runs together ------------------------------------------------------

    async def test_all_runs_together_keep_a_bound(self) -> None:
        """Each judges by what all have set aside, in the transaction of its intent. (I10)"""
        bounds = Bounds(max_credits=1000.0)
        async with self.opened_by(4) as stores:
            await stores[0].plan([film(f"k{number}") for number in range(24)])

            async def spend(store: Store, owner: str) -> list[str]:
                refused = []
                for item in await store.claim(owner, 6):
                    options = {"owner": owner, "kind": 10, "bounds": bounds}
                    try:
                        await store.intend(item.key, f"t{item.key}", "print", 150.0, **options)
                    except BudgetExceededError as error:
                        refused.append(error.message)
                return refused

            ended = await asyncio.gather(*(spend(s, f"run-{n}") for n, s in enumerate(stores)))

            refused = [message for messages in ended for message in messages]
            assert len(refused) == 18
            assert all("900 of 1,000" in message for message in refused)
            spent = await stores[0].spending()
            assert (spent.credits, spent.tasks) == (900.0, 6)
            counts = await stores[0].counts()
            assert counts == {ItemState.SENDING: 6, ItemState.PLANNED: 18}

    async def test_what_a_film_has_cost_counts_for_those_in_flight(self, store: Store) -> None:
        """A price that one run has learned holds for all, from that transaction on. (I10)"""
        bounds = Bounds(max_credits=600.0)
        await store.plan([film(key) for key in "abcde"])
        for key in "ab":
            await self.accept(store, key, f"task_{key}", 100.0, owner=ONE, kind=10)
        await store.apply("a", Transition(ItemEvent.SUCCEED, credits=180.0))

        spent = await store.spending()
        assert (spent.credits, spent.prices) == (360.0, {10: 180.0})
        await self.intend(store, "c", "t-c", 100.0, owner=TWO, kind=10, bounds=bounds)
        with pytest.raises(BudgetExceededError, match=r"540 of 600"):
            await self.intend(store, "d", "t-d", 60.0, owner=TWO, kind=10, bounds=bounds)
        # Another kind costs what is said; a model may have a number for its id.
        await self.intend(store, "e", "t-e", 60.0, owner=TWO, kind="10", bounds=bounds)

        reserved = {cost.key: cost.reserved for cost in await store.attempt_costs()}
        assert reserved == {"a": 100.0, "b": 100.0, "c": 180.0, "e": 60.0}
        await store.apply("b", Transition(ItemEvent.SUCCEED, credits=90.0))
        spent = await store.spending()
        assert (spent.credits, spent.prices) == (180.0 + 90.0 + 180.0 + 60.0, {10: 180.0})

    async def test_a_refused_intent_leaves_nothing(self, store: Store) -> None:
        """No attempt, no history; the item is planned, and still its owner's."""
        await store.plan([film("a"), film("b")])
        with pytest.raises(BudgetExceededError):
            await self.intend(store, "a", "t1", 150.0, bounds=Bounds(max_credits=149.0))
        with pytest.raises(BudgetExceededError, match="price"):
            await self.intend(store, "a", "t1", None, bounds=Bounds(max_credits=149.0))

        assert (await store.attempts(), await store.events()) == ([], [])
        assert (await store.item("a")).state is ItemState.PLANNED
        assert await claimed(store, TWO) == ["b"]
        await self.intend(store, "a", "t1", 150.0, bounds=Bounds(max_credits=150.0))

    async def test_what_created_nothing_costs_nothing(self, store: Store) -> None:
        """What was never sent, or was refused, is given back; what is uncertain is not. (I10)"""
        bounds = Bounds(max_tasks=2)
        await store.plan([film(key) for key in "abc"])
        for verdict, event in (
            (Verdict.UNSENT, ItemEvent.UNSENT),
            (Verdict.THROTTLED, ItemEvent.THROTTLE),
            (Verdict.UNCERTAIN, ItemEvent.UNCERTAIN),
        ):
            await self.intend(store, "a", f"t-{event}", 1.0, bounds=bounds)
            await store.settle("a", attempt(f"t-{event}", verdict), Transition(event))
        await self.accept(store, "b", "task_b", 1.0, bounds=bounds)

        assert (await store.spending()).tasks == 2
        with pytest.raises(BudgetExceededError, match="2 of max_tasks 2"):
            await self.intend(store, "c", "t-c", 1.0, bounds=bounds)

    async def test_bounds_are_judged_by_the_numbers_that_were_written(self, store: Store) -> None:
        """Ten times 0.1 is 1."""
        await store.plan([film(f"k{number}") for number in range(11)])
        for number in range(10):
            await self.intend(store, f"k{number}", f"t{number}", 0.1, bounds=Bounds(1.0))
        with pytest.raises(BudgetExceededError):
            await self.intend(store, "k10", "t10", 0.1, bounds=Bounds(1.0))

    # --- planning at the same time ------------------------------------------------------------

    async def test_plans_at_the_same_time_are_whole(self) -> None:
        """Two manifests with the same keys: one after the other, whatever the order."""
        async with self.opened_by(2) as stores:
            keys = [f"k{number}" for number in range(40)]
            plans = ([film(key, f"{scene} of {key}.") for key in keys] for scene in ("One", "Two"))
            made = [store.plan(entries) for store, entries in zip(stores, plans, strict=True)]
            first, second = sorted(await asyncio.gather(*made), key=lambda plan: plan.changed)

            assert (first.new, second.changed, second.new) == (40, 40, 0)
            scenes = {item.payload.count("One of") for item in await stores[0].items()}
            assert len(scenes) == 1
            assert not await stores[0].verify()

    async def test_of_plans_that_contradict_each_other_one_is_stored(self) -> None:
        """The same content under other keys would be paid twice. (A22)"""
        async with self.opened_by(2) as stores:
            scenes = [f"Scene {number}." for number in range(40)]
            plans = (
                [film(f"{name}{number}", scene) for number, scene in enumerate(scenes)]
                for name in ("one", "two")
            )
            made = [store.plan(entries) for store, entries in zip(stores, plans, strict=True)]
            ended = await asyncio.gather(*made, return_exceptions=True)

            assert {type(result) for result in ended} == {PlanResult, ManifestConflictError}
            assert len(await stores[0].items()) == 40

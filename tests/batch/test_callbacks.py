"""Batches that hear callbacks: lost submissions are found again, today or in the next run."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from batch.conformance import film
from batch.helpers import (
    films,
    make_client,
    open_batch,
    run_batch,
    simulated_service,
    states,
)
from manual_callbacks import ManualCallbacks

from apikley_async import Client, _sqlite
from apikley_async.batch import Batch, Item, ItemEvent, ItemState, Journal, MoreWork
from apikley_async.batch.recorder import CALLBACK_TIMEOUT
from apikley_async.batch.store.values import Transition
from apikley_async.errors import JournalError
from apikley_async.simulator import Constant, Fault, Simulator, Terms
from apikley_async.testing import LoopClock
from apikley_async.webhook import Callback, Inbox

pytestmark = pytest.mark.virtual


def service(duration: float = 60.0) -> Simulator:
    return simulated_service(Terms(duration=Constant(duration), callbacks="none"))


def hearing(simulator: Simulator, callbacks: ManualCallbacks, **options: Any) -> Client:
    return make_client(simulator, callback=callbacks, polling=None, **options)


def now() -> float:
    return asyncio.get_running_loop().time()


def token_of(simulator: Simulator, number: int) -> str:
    return str(simulator.ledger.creations[number].body["callBackUrl"]).rpartition("/")[2][:32]


async def until_paid(simulator: Simulator, count: int) -> None:
    while len(simulator.ledger.paid) < count:  # noqa: ASYNC110 - the ledger raises no events
        await asyncio.sleep(0.1)


async def left(batch: Batch, client: Client, folder: Path, simulator: Simulator) -> None:
    """Run until everything is paid, and leave."""
    running = asyncio.create_task(run_batch(batch, client, folder=folder))
    await until_paid(simulator, 1)
    await asyncio.sleep(5)
    running.cancel()
    await asyncio.wait({running})


async def test_a_lost_answer_is_found_while_the_batch_runs(tmp_path: Path) -> None:
    """Its item waits for the callback and is made like the others, paid once. (A1)"""
    callbacks = ManualCallbacks()
    async with (
        service() as simulator,
        hearing(simulator, callbacks) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        await batch.add(films(3))
        simulator.script("create", [Fault.OK, Fault.RESET_AFTER])
        running = asyncio.create_task(run_batch(batch, client, folder=tmp_path / "films"))
        await until_paid(simulator, 3)
        await asyncio.sleep(400)
        assert sorted((await batch.status()).counts.items()) == [("done", 2), ("uncertain", 1)]

        await callbacks.deliver(token_of(simulator, 1), simulator.ledger.creations[1].task_id or "")
        items = await running

        assert set((await states(batch)).values()) == {ItemState.DONE}
        assert {item.state for item in items} == {ItemState.DONE}
        assert len(simulator.ledger.creations) == 3
        assert await batch.verify() == []
        assert now() < 500


async def test_what_a_callback_finds_on_a_broken_disk_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal has failed meanwhile: its film is noted, shown, and made by the next run. (J3)"""
    is_broken = False

    class Disk(_sqlite.Database):
        def execute(self, sql: str, /, *values: Any) -> sqlite3.Cursor:
            if is_broken and sql.startswith("BEGIN"):
                raise sqlite3.OperationalError("disk I/O error")
            return super().execute(sql, *values)

    monkeypatch.setattr(_sqlite, "Database", Disk)
    callbacks = ManualCallbacks()
    async with service() as simulator:
        async with hearing(simulator, callbacks) as client, open_batch(tmp_path / "b.db") as batch:
            await batch.add(films(1))
            simulator.script("create", [Fault.RESET_AFTER])
            running = asyncio.create_task(run_batch(batch, client, folder=tmp_path / "films"))
            await until_paid(simulator, 1)
            await asyncio.sleep(5)
            is_broken = True
            [charge] = simulator.ledger.paid
            with pytest.raises(JournalError, match="I/O error"):  # so the service calls again
                await callbacks.deliver(token_of(simulator, 0), charge.task_id)
            with pytest.raises(JournalError, match="is paid, its id is written down in"):
                await running
            assert [job.task_id for job in client.unclaimed] == [charge.task_id]

        is_broken = False
        async with hearing(simulator, callbacks) as client, open_batch(tmp_path / "b.db") as batch:
            assert await states(batch) == {"k0": ItemState.SUBMITTED}
            await run_batch(batch, client, folder=tmp_path / "films")
            assert await states(batch) == {"k0": ItemState.DONE}
        assert len(simulator.ledger.paid) == 1


async def test_callbacks_before_a_crash_count_after_it(tmp_path: Path) -> None:
    """The inbox is on the disk before the callback is answered. (W8)"""
    callbacks = ManualCallbacks()
    async with service() as simulator:
        async with hearing(simulator, callbacks) as client, open_batch(tmp_path / "b.db") as batch:
            await batch.add(films(1))
            simulator.script("create", [Fault.RESET_AFTER])
            simulator.script("record", [Fault.HTTP_500] * 30)
            running = asyncio.create_task(run_batch(batch, client, folder=tmp_path / "films"))
            await until_paid(simulator, 1)
            await asyncio.sleep(5)
            await callbacks.deliver(token_of(simulator, 0), simulator.ledger.paid[0].task_id)
            await asyncio.sleep(5)
            running.cancel()
            await asyncio.wait({running})
        simulator.clear_scripts()

        async with (
            hearing(simulator, ManualCallbacks()) as client,
            open_batch(tmp_path / "b.db") as batch,
        ):
            assert await states(batch) == {"k0": ItemState.UNCERTAIN}
            await run_batch(batch, client, folder=tmp_path / "films")

            assert await states(batch) == {"k0": ItemState.DONE}
        assert len(simulator.ledger.paid) == 1


async def test_a_later_run_receives_callbacks(tmp_path: Path) -> None:
    """An item that an earlier run left uncertain is listened for. (W8)"""
    callbacks = ManualCallbacks()
    async with service() as simulator:
        async with hearing(simulator, callbacks) as client, open_batch(tmp_path / "b.db") as batch:
            await batch.add(films(1))
            simulator.script("create", [Fault.RESET_AFTER])
            await left(batch, client, tmp_path / "films", simulator)

        async with hearing(simulator, callbacks) as client, open_batch(tmp_path / "b.db") as batch:
            await batch.add([*films(1), *films(2)[1:]])
            running = asyncio.create_task(run_batch(batch, client, folder=tmp_path / "films"))
            await until_paid(simulator, 2)
            await asyncio.sleep(300)
            assert await states(batch) == {"k0": ItemState.UNCERTAIN, "k1": ItemState.DONE}
            await callbacks.deliver(token_of(simulator, 0), simulator.ledger.paid[0].task_id)
            await running

            assert await states(batch) == {"k0": ItemState.DONE, "k1": ItemState.DONE}
            history = await batch.store.events("k0")  # type: ignore[attr-defined]
            assert [event["by"] for event in history if event["event"] == "resolve"] == ["callback"]


async def test_a_film_that_is_renamed_while_its_callback_is_waited_for(tmp_path: Path) -> None:
    """A person may do so in another process; the callback finds it by its attempt."""
    callbacks = ManualCallbacks()
    async with (
        service() as simulator,
        hearing(simulator, callbacks) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        await batch.add(films(2))
        simulator.script("create", [Fault.RESET_AFTER])
        running = asyncio.create_task(run_batch(batch, client, folder=tmp_path / "films"))
        await until_paid(simulator, 2)
        await asyncio.sleep(100)
        await batch.store.rename("k0", "renamed")
        await callbacks.deliver(token_of(simulator, 0), simulator.ledger.creations[0].task_id or "")
        await running

        assert await states(batch) == {"renamed": ItemState.DONE, "k1": ItemState.DONE}
        assert (tmp_path / "films" / "renamed.mp4").exists()
        assert len(simulator.ledger.creations) == 2


async def test_a_film_that_was_renamed_is_the_run_s_under_its_new_key(tmp_path: Path) -> None:
    """It is given back when it stalls, and a run without an end makes it after a while."""
    callbacks = ManualCallbacks()
    async with (
        service(duration=400) as simulator,
        hearing(simulator, callbacks, job_timeout=200) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        await batch.add(films(1))
        simulator.script("create", [Fault.RESET_AFTER])
        running = asyncio.create_task(
            run_batch(batch, client, folder=tmp_path / "films", more=MoreWork())
        )
        await until_paid(simulator, 1)
        await asyncio.sleep(100)
        await batch.store.rename("k0", "renamed")
        await callbacks.deliver(token_of(simulator, 0), simulator.ledger.paid[0].task_id)
        await asyncio.sleep(600)
        batch.stop()
        await running

        assert await states(batch) == {"renamed": ItemState.DONE}


async def test_a_film_that_is_waited_for_no_more_is_reported_once(tmp_path: Path) -> None:
    """A run without an end looks for uncertain films each minute, and this one is a person's."""
    callbacks, more = ManualCallbacks(), MoreWork()
    async with service() as simulator, open_batch(tmp_path / "b.db") as batch:
        async with hearing(simulator, callbacks) as client:
            await batch.add(films(1))
            simulator.script("create", [Fault.RESET_AFTER])
            await left(batch, client, tmp_path / "films", simulator)
        await asyncio.sleep(CALLBACK_TIMEOUT)

        async with hearing(simulator, callbacks) as client:
            running = asyncio.create_task(
                run_batch(batch, client, folder=tmp_path / "films", more=more)
            )
            await asyncio.sleep(600)
            batch.stop()
            reported = await running

        assert [(item.key, item.state) for item in reported] == [("k0", ItemState.UNCERTAIN)]


class SlowToAnswer(Journal):
    """A journal that is asked for other things before whoever has resolved an item learns of it."""

    async def apply(self, key: str, transition: Transition) -> Item:
        item = await super().apply(key, transition)
        if transition.event is ItemEvent.RESOLVE:
            await asyncio.sleep(120)
        return item


async def test_films_that_are_resolved_while_the_run_claims_others_are_made(tmp_path: Path) -> None:
    """They are claimed with the others then, wait for a slot, and are made when they get it. (W8)

    One film is in the making at a time, and 17 have a slot: one more waits until one is saved.
    """
    callbacks = ManualCallbacks()
    async with service() as simulator:
        async with hearing(simulator, callbacks) as client, open_batch(tmp_path / "b.db") as batch:
            await batch.add(films(3))
            simulator.script("create", [Fault.RESET_AFTER] * 3)
            await left(batch, client, tmp_path / "films", simulator)

        journal = await SlowToAnswer.open(tmp_path / "b.db", clock=LoopClock())
        try:
            async with make_client(simulator, callback=callbacks) as client:
                batch = Batch(journal, clock=LoopClock())
                await batch.add(films(3 + 18))
                running = asyncio.create_task(
                    run_batch(batch, client, folder=tmp_path / "films", max_running=1)
                )
                await until_paid(simulator, 4)
                for number in range(3):
                    paid = simulator.ledger.paid[number].task_id
                    await callbacks.deliver(token_of(simulator, number), paid)
                made = {item.key for item in await running if item.state is ItemState.DONE}

                assert set((await states(batch)).values()) == {ItemState.DONE}
        finally:
            await journal.aclose()
        assert len(made) == len(simulator.ledger.paid) == 3 + 18


async def test_waiting_for_an_old_callback_is_reported(tmp_path: Path) -> None:
    """When the run begins: for how long, and how to cut it short. (W13)"""
    async with service() as simulator:
        async with (
            hearing(simulator, ManualCallbacks()) as client,
            open_batch(tmp_path / "b.db") as batch,
        ):
            await batch.add(films(1))
            simulator.script("create", [Fault.RESET_AFTER])
            await left(batch, client, tmp_path / "films", simulator)

        began = now()
        async with (
            hearing(simulator, ManualCallbacks()) as client,
            open_batch(tmp_path / "b.db") as batch,
        ):
            item = await anext(batch.run(client, folder=tmp_path / "films", every_change=True))

    assert now() - began < 5
    assert (item.key, item.state) == ("k0", ItemState.UNCERTAIN)
    assert "its callback is waited for, 1" in item.cause
    assert "To cut it short, stop, decide about it" in item.cause


@pytest.mark.parametrize("hears", [True, False])
async def test_a_run_ends_without_any_callback(tmp_path: Path, hears: bool) -> None:
    """What stays uncertain is for a person to decide, half an hour later or at once. (W13)"""
    async with service() as simulator, open_batch(tmp_path / "b.db") as batch:
        client = hearing(simulator, ManualCallbacks()) if hears else make_client(simulator)
        async with client:
            await batch.add(films(2))
            simulator.script("create", [Fault.RESET_AFTER])

            items = await run_batch(batch, client, folder=tmp_path / "films")

        assert {item.state for item in items} == {ItemState.DONE, ItemState.UNCERTAIN}
        assert (now() >= 1800) is hears
        assert now() < 2400


async def test_an_old_uncertain_attempt_is_not_waited_for(tmp_path: Path) -> None:
    """A callback of yesterday's submission does not come any more."""
    async with service() as simulator:
        async with (
            hearing(simulator, ManualCallbacks()) as client,
            open_batch(tmp_path / "b.db") as batch,
        ):
            await batch.add(films(1))
            simulator.script("create", [Fault.RESET_AFTER])
            await left(batch, client, tmp_path / "films", simulator)
        await asyncio.sleep(86_400)
        began = now()

        async with (
            hearing(simulator, ManualCallbacks()) as client,
            open_batch(tmp_path / "b.db") as batch,
        ):
            items = await run_batch(batch, client, folder=tmp_path / "films")

        assert [item.state for item in items] == [ItemState.UNCERTAIN]
        assert now() - began < 5


async def test_a_film_that_was_given_up_and_made_after_all_is_named(tmp_path: Path) -> None:
    """Submitted again, and then the first one's callback comes: both are paid, and shown. (A14)"""
    callbacks = ManualCallbacks()
    async with service() as simulator:
        async with hearing(simulator, callbacks) as client, open_batch(tmp_path / "b.db") as batch:
            await batch.add(films(1))
            simulator.script("create", [Fault.RESET_AFTER])
            await left(batch, client, tmp_path / "films", simulator)
            await batch.resubmit("k0")

        async with hearing(simulator, callbacks) as client, open_batch(tmp_path / "b.db") as batch:
            running = asyncio.create_task(run_batch(batch, client, folder=tmp_path / "films"))
            await until_paid(simulator, 2)
            await callbacks.deliver(token_of(simulator, 0), simulator.ledger.paid[0].task_id)
            await running

            assert [job.task_id for job in client.unclaimed] == [simulator.ledger.paid[0].task_id]
            assert (await batch.item("k0")).task_id == simulator.ledger.paid[1].task_id


async def test_a_callback_of_another_batch_changes_nothing(tmp_path: Path) -> None:
    """It is no attempt of ours: not kept, and answered as unknown. (W8)"""
    callbacks = ManualCallbacks()
    async with (
        service() as simulator,
        hearing(simulator, callbacks) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        await batch.add(films(1))
        await run_batch(batch, client, folder=tmp_path / "films")

        assert not await callbacks.deliver("f" * 32, "task_1")
        assert await batch.verify() == []


async def test_the_inbox_is_bounded_and_knows_its_own(tmp_path: Path) -> None:
    """A few tasks for each attempt, and none for attempts that are not in the journal. (W8, W12)"""
    journal = await Journal.open(tmp_path / "b.db", clock=LoopClock())
    try:
        await journal.plan([film("a")])
        await journal.intend("a", "t1", "print", None)
        for number in range(20):
            await journal.keep_callback("t1", f"task_{number}")
            await journal.keep_callback("other", f"task_{number}")
    finally:
        await journal.aclose()

    again = await Journal.open(tmp_path / "b.db", clock=LoopClock())
    try:
        (attempt,) = await again.expected_callbacks()
        assert attempt.task_id is None
        assert attempt.named == tuple(f"task_{number}" for number in range(8))
    finally:
        await again.aclose()


async def test_a_callback_that_cannot_be_stored_is_not_acknowledged(tmp_path: Path) -> None:
    """The run is over and its client is not: the service has to call again. (W8)"""
    callbacks = ManualCallbacks()
    async with (
        service() as simulator,
        hearing(simulator, callbacks) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        await batch.add(films(1))
        simulator.script("create", [Fault.RESET_AFTER])
        await left(batch, client, tmp_path / "films", simulator)
        token, task_id = token_of(simulator, 0), simulator.ledger.paid[0].task_id

        assert not await callbacks.deliver(token, task_id)

        running = asyncio.create_task(run_batch(batch, client, folder=tmp_path / "films"))
        await asyncio.sleep(1)
        assert await callbacks.deliver(token, task_id)
        await running
        assert await states(batch) == {"k0": ItemState.DONE}


async def test_stored_callbacks_are_read_however_old_the_attempt(tmp_path: Path) -> None:
    """A receiver got it while no run was on; the next run takes the time to confirm it. (W8)"""
    terms = Terms(duration=Constant(60), callbacks="none", latency={"record": Constant(0.3)})
    async with simulated_service(terms) as simulator:
        async with (
            hearing(simulator, ManualCallbacks()) as client,
            open_batch(tmp_path / "b.db") as batch,
        ):
            await batch.add(films(1))
            simulator.script("create", [Fault.RESET_AFTER])
            await left(batch, client, tmp_path / "films", simulator)
        async with Inbox(tmp_path / "calls.db") as inbox:
            await inbox.add(token_of(simulator, 0), simulator.ledger.paid[0].task_id)
        await asyncio.sleep(3 * 3600)

        callback = Callback("https://hooks.test/apikley", inbox=inbox.path, clock=LoopClock())
        client = make_client(simulator, callback=callback, polling=None)
        async with client, open_batch(tmp_path / "b.db") as batch:
            await run_batch(batch, client, folder=tmp_path / "films")

            assert await states(batch) == {"k0": ItemState.DONE}
        assert len(simulator.ledger.paid) == 1


async def test_a_receiver_that_has_kept_something_is_waited_for(tmp_path: Path) -> None:
    """It takes five seconds to pass on what it got; old attempts are decided after that. (W8)"""

    class Late(ManualCallbacks):
        async def catch_up(self) -> None:
            await asyncio.sleep(5)
            await self.deliver(token, task_id)

    async with simulated_service(Terms(duration=Constant(60), callbacks="none")) as simulator:
        async with (
            hearing(simulator, ManualCallbacks()) as client,
            open_batch(tmp_path / "b.db") as batch,
        ):
            await batch.add(films(1))
            simulator.script("create", [Fault.RESET_AFTER])
            await left(batch, client, tmp_path / "films", simulator)
        token, task_id = token_of(simulator, 0), simulator.ledger.paid[0].task_id
        await asyncio.sleep(3 * 3600)

        async with hearing(simulator, Late()) as client, open_batch(tmp_path / "b.db") as batch:
            await run_batch(batch, client, folder=tmp_path / "films")

            assert await states(batch) == {"k0": ItemState.DONE}


async def test_a_run_of_other_films_stores_callbacks_and_polls_nothing(
    tmp_path: Path,
) -> None:
    """A callback about a film that the run was not given is kept for the run that is."""
    callbacks = ManualCallbacks()
    async with service() as simulator:
        async with hearing(simulator, callbacks) as client, open_batch(tmp_path / "b.db") as batch:
            await batch.add(films(2))
            simulator.script("create", [Fault.RESET_AFTER])
            running = asyncio.create_task(
                run_batch(batch, client, folder=tmp_path / "films", keys=["k0"])
            )
            await until_paid(simulator, 1)
            await asyncio.sleep(5)
            running.cancel()
            await asyncio.wait({running})
        later = ManualCallbacks()
        async with hearing(simulator, later) as client, open_batch(tmp_path / "b.db") as batch:
            running = asyncio.create_task(
                run_batch(batch, client, folder=tmp_path / "films", keys=["k1"])
            )
            await until_paid(simulator, 2)
            await later.deliver(token_of(simulator, 0), simulator.ledger.paid[0].task_id)
            assert [item.key for item in await running] == ["k1"]

            assert await states(batch) == {"k0": ItemState.UNCERTAIN, "k1": ItemState.DONE}
            assert now() < 300  # and nobody waited for the other
        async with (
            hearing(simulator, ManualCallbacks()) as client,
            open_batch(tmp_path / "b.db") as batch,
        ):
            await run_batch(batch, client, folder=tmp_path / "films")

            assert set((await states(batch)).values()) == {ItemState.DONE}
        assert len(simulator.ledger.paid) == 2


async def test_a_renamed_film_that_a_stop_leaves_is_no_other_run_s(tmp_path: Path) -> None:
    """It is paid, and the next run goes on: nothing else is said of it."""
    callbacks = ManualCallbacks()
    async with (
        service(duration=4000) as simulator,
        hearing(simulator, callbacks) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        await batch.add(films(1))
        simulator.script("create", [Fault.RESET_AFTER])
        running = asyncio.create_task(
            run_batch(batch, client, folder=tmp_path / "films", every_change=True)
        )
        await until_paid(simulator, 1)
        await asyncio.sleep(100)
        await batch.rename("k0", "new")
        await callbacks.deliver(token_of(simulator, 0), simulator.ledger.paid[0].task_id)
        await asyncio.sleep(60)
        batch.stop()

        changes = [(item.key, item.state) for item in await running]
        assert changes == [("k0", ItemState.UNCERTAIN), ("new", ItemState.SUBMITTED)]


@pytest.mark.parametrize("decision", ["rename", "resolve", "resubmit", "drop"])
async def test_what_is_decided_while_a_callback_is_waited_for_in_vain_holds(
    decision: str, tmp_path: Path
) -> None:
    """The run ends as it would have ended otherwise; a film whose task is known is made."""
    callbacks, folder = ManualCallbacks(), tmp_path / "films"
    async with (
        service() as simulator,
        hearing(simulator, callbacks) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        await batch.add(films(2))
        simulator.script("create", [Fault.RESET_AFTER])
        running = asyncio.create_task(run_batch(batch, client, folder=folder))
        await until_paid(simulator, 2)
        await asyncio.sleep(100)
        if decision == "rename":
            await batch.rename("k0", "new")
        elif decision == "resolve":
            task_id = simulator.ledger.creations[0].task_id or ""
            await batch.resolve("k0", task_id=task_id, client=client)
        else:
            await (batch.resubmit if decision == "resubmit" else batch.drop)("k0")
        ended = {item.key: item.state for item in await running}

        wanted = {
            "rename": {"new": ItemState.UNCERTAIN},
            "resolve": {"k0": ItemState.DONE},
            "resubmit": {"k0": ItemState.PLANNED},
            "drop": {"k0": ItemState.DROPPED},
        }[decision]
        assert ended == await states(batch) == {**wanted, "k1": ItemState.DONE}
        assert len(simulator.ledger.paid) == 2

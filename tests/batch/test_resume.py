"""Taking up in virtual time what earlier runs have left: windows, paid films, dead links."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest
from batch.helpers import (
    board,
    check_consistency,
    fast_limiter,
    films,
    key_of_request,
    make_client,
    open_batch,
    run_batch,
    simulated_service,
    states,
)
from sample_report import report_of
from volume import volume

from apikley_async import RateLimiter
from apikley_async.batch import Batch, ItemEvent, ItemState, Transition
from apikley_async.batch.report.rows import read_rows
from apikley_async.batch.stored_runs import read_runs, store_run
from apikley_async.errors import BudgetExceededError, ManifestError
from apikley_async.simulator import Constant, Fault, Terms
from apikley_async.testing import LoopClock

pytestmark = pytest.mark.virtual


async def test_a_restart_is_no_new_window(tmp_path: Path) -> None:
    """Twenty submissions, a restart, and no 429: the window is in the journal. (R2)"""
    count = volume(28, 60)
    terms = Terms(limit=20, per=10.0, duration=Constant(60))
    async with simulated_service(terms) as simulator:
        async with make_client(simulator) as client, open_batch(tmp_path / "b.db") as batch:
            await batch.add(films(count))
            submitted = 0
            async for item in batch.run(client, folder=tmp_path / "films", every_change=True):
                submitted += item.state is ItemState.SUBMITTED
                if submitted == 20:
                    break
        async with make_client(simulator) as client, open_batch(tmp_path / "b.db") as batch:
            await run_batch(batch, client, folder=tmp_path / "films")
            await check_consistency(simulator, batch, tmp_path / "films")

        assert not simulator.ledger.refused
        assert simulator.ledger.busiest_window(10.0) <= 20
        assert len(simulator.ledger.paid) == count


async def test_the_report_knows_when_no_run_went_on(tmp_path: Path) -> None:
    """Films that were ready meanwhile have not waited an hour to be saved."""
    folder = tmp_path / "films"
    async with simulated_service() as simulator:
        async with make_client(simulator) as client, open_batch(tmp_path / "b.db") as batch:
            await batch.add(films(3))
            async for item in batch.run(client, folder=folder, every_change=True):
                if item.state is ItemState.SUBMITTED:
                    break
        await asyncio.sleep(3_600)
        async with make_client(simulator) as client, open_batch(tmp_path / "b.db") as batch:
            await run_batch(batch, client, folder=folder)
            run = report_of(await read_rows(batch, tmp_path), folder).run

    [(stopped, began)] = run.pauses
    assert 3_590 < began - stopped < 3_610
    assert len(run.spans) == 3
    assert all(span.ready and span.ready < began for span in run.spans)
    assert run.fetched is not None
    assert run.fetched.high < 30


@pytest.mark.parametrize(
    ("value", "runs"),
    [("[1.5, 3]", [1.5, 3]), ('["x", 2, null, -1e99]', [2]), ("7", []), ("[" * 2000, []), ("", [])],
)
async def test_what_a_journal_says_of_runs_is_not_believed_unseen(
    tmp_path: Path, value: str, runs: list[float]
) -> None:
    """It may come from elsewhere; and a run goes on with what is left of it."""
    async with open_batch(tmp_path / "b.db") as batch:
        await batch.store.write_learned("runs", value)

        assert await read_runs(batch.store) == runs
        clock = LoopClock()
        await store_run(batch.store, clock)
        assert await read_runs(batch.store) == [*runs, round(clock.wall(), 3)]


async def test_an_uncertain_attempt_rests_its_minute_over_a_restart(tmp_path: Path) -> None:
    """It may still arrive at the service: its slot is used again a minute after it. (R2)"""
    async with simulated_service() as simulator:
        simulator.script("create", [Fault.RESET_AFTER])
        for key, pause in (("first", 20), ("second", 0)):
            limiter = RateLimiter(1, 10.0, clock=LoopClock())
            async with (
                make_client(simulator, limiter=limiter) as client,
                open_batch(tmp_path / "b.db") as batch,
            ):
                await batch.add([(key, board(key))])
                await run_batch(batch, client, folder=tmp_path / "films")
            await asyncio.sleep(pause)

        first, second = simulator.ledger.arrivals("create")
        assert 59 < second - first < 62


async def leave_at(batch: Batch, key: str, state: ItemState, url: str) -> None:
    """Bring an item to *state* by hand, as an earlier run would have left it."""
    store = batch.store
    steps = {
        ItemState.STALLED: [Transition(ItemEvent.STALL, cause="too long")],
        ItemState.SUCCESS: [
            Transition(
                ItemEvent.SUCCEED,
                result=json.dumps({"urls": [url]}),
                success_at=datetime(2026, 9, 21, tzinfo=UTC),
            )
        ],
    }
    for step in steps.get(state, []):
        await store.apply(key, step)


@pytest.mark.parametrize("state", [ItemState.SUBMITTED, ItemState.STALLED, ItemState.SUCCESS])
@pytest.mark.parametrize("pause", [100.0, 7200.0, 90_000.0], ids=["soon", "2h", "25h"])
async def test_a_paid_film_is_resumed_in_every_state(
    state: ItemState, pause: float, tmp_path: Path
) -> None:
    """Submitted, stalled or ready: the next run saves it, hours later too, for nothing. (I3)"""
    async with simulated_service() as simulator:
        async with make_client(simulator) as client, open_batch(tmp_path / "b.db") as batch:
            await batch.add(films(2))
            async for item in batch.run(client, folder=tmp_path / "films", every_change=True):
                if item.key == "k0" and item.state is ItemState.SUBMITTED:
                    break
        async with open_batch(tmp_path / "b.db") as batch:
            [url] = simulator.result_urls((await batch.item("k0")).task_id or "")
            await leave_at(batch, "k0", state, url)
        await asyncio.sleep(pause)

        async with make_client(simulator) as client, open_batch(tmp_path / "b.db") as batch:
            await run_batch(batch, client, folder=tmp_path / "films")

            assert set((await states(batch)).values()) == {ItemState.DONE}
            await check_consistency(simulator, batch, tmp_path / "films")
        assert len(simulator.ledger.paid) == 2


async def test_a_result_that_is_dead_everywhere_expires_and_can_be_revived(tmp_path: Path) -> None:
    """When no link leads to a film any more it is expired; `revive` tries once more. (D7)"""
    terms = Terms(duration=Constant(30), result_life=600, reissue_life=600)
    async with simulated_service(terms) as simulator:
        async with make_client(simulator) as client, open_batch(tmp_path / "b.db") as batch:
            await batch.add(films(1))
            async for item in batch.run(client, folder=tmp_path / "films", every_change=True):
                if item.state is ItemState.SUCCESS:
                    break
        await asyncio.sleep(3600)
        async with make_client(simulator) as client, open_batch(tmp_path / "b.db") as batch:
            [item] = await run_batch(batch, client, folder=tmp_path / "films")
            assert item.state is ItemState.SUCCESS  # its day is not over: not yet is not never
        await asyncio.sleep(24 * 3600)
        async with make_client(simulator) as client, open_batch(tmp_path / "b.db") as batch:
            [item] = await run_batch(batch, client, folder=tmp_path / "films")
            assert item.state is ItemState.EXPIRED
            assert await run_batch(batch, client, folder=tmp_path / "films") == []
            await batch.revive()
            assert (await batch.item("k0")).state is ItemState.SUCCESS
        assert len(simulator.ledger.paid) == 1


async def test_the_nearest_expiry_is_saved_first(tmp_path: Path) -> None:
    """Of many films that are ready, those whose links die first are fetched first. (D18)"""
    count = volume(18, 30)
    async with simulated_service(Terms(duration=Constant(5))) as simulator:
        async with (
            make_client(simulator, limiter=fast_limiter()) as client,
            open_batch(tmp_path / "b.db") as b,
        ):
            await b.add(films(count))
            simulator.script("file", [Fault.HANG] * 40)
            async for _ in b.run(client, folder=tmp_path / "films", every_change=True):
                if (await b.status()).counts.get(ItemState.SUCCESS, 0) == count:
                    break
        simulator.clear_scripts()
        born = {}
        async with open_batch(tmp_path / "b.db") as batch:
            rng = random.Random(1)
            for number in range(count):
                item = await batch.item(f"k{number}")
                born[item.task_id] = rng.randrange(80_000)
                shift(tmp_path / "b.db", item.key, 1_790_000_000 + born[item.task_id])
        seen = len(simulator.ledger.files)

        async with make_client(simulator) as client, open_batch(tmp_path / "b.db") as batch:
            await run_batch(batch, client, folder=tmp_path / "films")
            tasks = {
                simulator.result_urls(item.task_id or "")[0].partition("?")[0]: item.task_id
                async for item in batch.items()
            }

        order = [
            born[tasks[f"{simulator.files_url}{request.path}"]]
            for request in simulator.ledger.files[seen:]
        ]
        assert len(order) == count
        # Six are fetched at once: whichever begins, at most five that die sooner are still to come.
        for place, dies in enumerate(order):
            assert sum(other < dies for other in order[place:]) <= 5


def shift(path: Path, key: str, born: float) -> None:
    """Let a film have been ready at another time."""
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute(
            "UPDATE item SET success_at = ?, result = json_set(result, '$.expires_at', ? + 86400)"
            " WHERE key = ?",
            (born, born, key),
        )


async def test_a_run_makes_only_the_films_it_was_given(tmp_path: Path) -> None:
    """The others are neither made nor followed nor saved, whatever earlier runs have left."""
    folder = tmp_path / "films"
    async with simulated_service() as simulator:
        async with make_client(simulator) as client, open_batch(tmp_path / "b.db") as batch:
            await batch.add(films(4))
            submitted = 0
            async for item in batch.run(
                client, folder=folder, keys=["k1", "k2"], every_change=True
            ):
                submitted += item.state is ItemState.SUBMITTED
                if submitted == 2:
                    break
            [url] = simulator.result_urls((await batch.item("k2")).task_id or "")
        async with open_batch(tmp_path / "b.db") as batch:
            await leave_at(batch, "k2", ItemState.SUCCESS, url)

        async with make_client(simulator) as client, open_batch(tmp_path / "b.db") as batch:
            assert await run_batch(batch, client, folder=folder, keys=[]) == []
            [item] = await run_batch(batch, client, folder=folder, keys={"k3"})

            assert (item.key, item.state) == ("k3", ItemState.DONE)
            assert await states(batch) == {
                "k0": ItemState.PLANNED,
                "k1": ItemState.SUBMITTED,
                "k2": ItemState.SUCCESS,
                "k3": ItemState.DONE,
            }
            await run_batch(batch, client, folder=folder)
            await check_consistency(simulator, batch, folder)
        assert len(simulator.ledger.paid) == 4


async def test_a_key_that_is_not_in_the_journal_is_refused_before_anything_is_paid(
    tmp_path: Path,
) -> None:
    """`KeyError` with its name; the films that are there are not begun."""
    async with (
        simulated_service() as simulator,
        make_client(simulator) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        await batch.add(films(2))

        with pytest.raises(KeyError, match="k7"):
            await run_batch(batch, client, folder=tmp_path / "films", keys=["k0", "k7"])

        assert not simulator.ledger.creations
        assert set((await states(batch)).values()) == {ItemState.PLANNED}


async def test_only_the_films_of_a_run_need_a_price(tmp_path: Path) -> None:
    """A bound in credits asks for the prices of what may be made, not of the others."""
    async with (
        simulated_service() as simulator,
        make_client(simulator) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        await batch.add([("short", board("short")), ("long", board("long", 25))])
        bound = {"folder": tmp_path / "films", "max_credits": 1000, "prices": {10: 150}}

        with pytest.raises(BudgetExceededError, match="25"):
            await run_batch(batch, client, **bound)
        [item] = await run_batch(batch, client, **bound, keys=["short"])

        assert (item.key, item.state) == ("short", ItemState.DONE)
        assert len(simulator.ledger.paid) == 1


async def test_an_adopted_film_is_resolved_by_its_content(tmp_path: Path) -> None:
    """Its attempt is unknown: the task is compared with the film itself. (A17)"""
    async with simulated_service() as simulator:
        async with make_client(simulator) as client, open_batch(tmp_path / "b.db") as batch:
            await batch.add(films(2))
            await batch.backup(tmp_path / "older.db")
            await run_batch(batch, client, folder=tmp_path / "films")
        tasks = {key_of_request(charge.body): charge.task_id for charge in simulator.ledger.paid}
        adopted = Batch.open(tmp_path / "older.db", clock=LoopClock(), adopt=True)
        async with make_client(simulator, seed=9) as client, adopted as batch:
            with pytest.raises(ManifestError, match=r"shots: .*scene of k0.*scene of k1"):
                await batch.resolve("k0", task_id=tasks["k1"], client=client)
            for key, task_id in tasks.items():
                await batch.resolve(key, task_id=task_id, client=client)
            await run_batch(batch, client, folder=tmp_path / "films", overwrite=True)
            await check_consistency(simulator, batch, tmp_path / "films")


async def test_a_film_can_be_saved_without_its_unusable_links(tmp_path: Path) -> None:
    """One unusable link among several: the film rests until a person says that it will do. (D11)"""
    async with (
        simulated_service() as simulator,
        make_client(simulator) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        await batch.add(films(1))
        async for item in batch.run(client, folder=tmp_path, every_change=True):
            if item.state is ItemState.SUBMITTED:
                break
        [link] = simulator.result_urls(item.task_id or "")
        simulator.script("record", [Fault.result_urls(link, "https://a\u202eb/x.mp4")] * 9)

        [rests] = await run_batch(batch, client, folder=tmp_path)
        [again] = [item async for item in batch.save(client)]
        [done] = [item async for item in batch.save(client, "k0", partial=True)]

        assert (rests.state, again.state, done.state) == (
            ItemState.SUCCESS,
            ItemState.SUCCESS,
            ItemState.DONE,
        )
        assert "cannot be used" in rests.cause
        assert len(done.files) == 1
        assert len(simulator.ledger.paid) == 1
        assert await batch.verify() == []


async def test_a_wait_for_an_uncertain_film_is_reported(tmp_path: Path) -> None:
    """Half an hour of silence says how long it is, and how to cut it short. (R9)"""
    async with (
        simulated_service() as simulator,
        make_client(simulator, max_running=1) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        await batch.add(films(3))
        simulator.script("create", [Fault.RESET_AFTER])

        received = [item async for item in batch.run(client, folder=tmp_path, every_change=True)]

        reported = [item for item in received if "all running slots are taken" in item.cause]
        assert [item.key for item in reported] == ["k1"]
        assert re.search(r"up to (1799|1800) s.* decide about them", reported[0].cause)
        assert received.index(reported[0]) < 5
        first, second, *_ = simulator.ledger.arrivals("create")
        assert second - first >= 1790


async def test_running_films_are_counted_after_a_restart(tmp_path: Path) -> None:
    """An uncertain film may be running still, until a person says what became of it. (R9)"""
    async with simulated_service() as simulator:
        simulator.script("create", [Fault.OK, Fault.RESET_AFTER])
        async with (
            make_client(simulator, max_running=2) as client,
            open_batch(tmp_path / "b.db") as batch,
        ):
            await batch.add(films(2))
            async for item in batch.run(client, folder=tmp_path):
                if item.state is ItemState.UNCERTAIN:
                    break
        async with (
            make_client(simulator, max_running=1) as client,
            open_batch(tmp_path / "b.db") as batch,
        ):
            await batch.add([*films(3)][2:])
            began = asyncio.get_running_loop().time()
            ends = {}
            async for item in batch.run(client, folder=tmp_path):
                ends[item.key] = asyncio.get_running_loop().time() - began
        first, second, third = simulator.ledger.arrivals("create")

    assert ends["k0"] < 120  # what is paid waits for no slot that rests
    assert third - second >= 1790
    assert first <= second


async def test_words_that_a_cause_repeats_are_purged_too(tmp_path: Path) -> None:
    """What was compared when a person insisted stands in the history, until it is purged. (A21)"""
    path = tmp_path / "b.db"
    async with simulated_service(Terms(duration=Constant(5))) as simulator:
        simulator.script("create", [Fault.RESET_AFTER])
        async with make_client(simulator) as client, open_batch(path) as batch:
            await batch.add([("k", board("a secret scene"))])
            await run_batch(batch, client, folder=tmp_path / "films")
            other = await client.submit(board("another"))
            insisted = await batch.resolve("k", task_id=other.task_id, client=client, force=True)
            await run_batch(batch, client, folder=tmp_path / "films")

            assert "a secret scene" in insisted.cause
            assert [item.state for item in await batch.purge()] == [ItemState.DONE]

    assert b"a secret scene" not in path.read_bytes()

"""Batches poll as earlier films have taught; the journal keeps it for the next run."""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
from pathlib import Path

import pytest
from batch.helpers import (
    board,
    films,
    make_client,
    open_batch,
    run_batch,
    simulated_service,
    states,
)

from apikley_async import Backoff, Client
from apikley_async.batch import Batch, ItemState
from apikley_async.simulator import Constant, Lognormal, Simulator, Terms
from apikley_async.testing import LoopClock

pytestmark = pytest.mark.virtual


async def polls_per_film(
    simulator: Simulator, batch: Batch, client: Client, count: int, **options: object
) -> float:
    """Make *count* more films; how often each was polled."""
    begin = len(await states(batch))
    before = simulator.ledger.polls.total()
    await batch.add(films(begin + count)[begin:])
    await run_batch(batch, client, **options)
    assert set((await states(batch)).values()) == {ItemState.DONE}
    return (simulator.ledger.polls.total() - before) / count


async def test_the_second_batch_of_a_journal_starts_wise(tmp_path: Path) -> None:
    """With another client too: an early poll, and one or two when the film is ready."""
    options = {"folder": tmp_path / "films"}
    async with simulated_service(Terms(duration=Constant(180), max_running=None)) as simulator:
        polls = []
        for _ in range(2):
            async with (
                open_batch(tmp_path / "a.db") as batch,
                make_client(simulator, polling=None) as client,
            ):
                polls.append(await polls_per_film(simulator, batch, client, 6, **options))

    assert polls[0] > 10
    assert polls[1] <= 4


@pytest.mark.slow
async def test_a_batch_finds_films_sooner(tmp_path: Path) -> None:
    """Polls x lag of a batch that learns is well below that of one that does not."""
    products = []
    for polling in (Backoff(), None):
        terms = Terms(duration=Lognormal(90, 0.4), max_running=None)
        async with (
            simulated_service(terms) as simulator,
            open_batch(tmp_path / f"{polling is None}.db") as batch,
            make_client(simulator, polling=polling) as client,
        ):
            lags = list[float]()
            await batch.add(films(20))
            folder = tmp_path / f"{polling is None}"
            async for item in batch.run(client, folder=folder, max_running=10, every_change=True):
                if item.state is ItemState.SUCCESS and item.success_at is not None:
                    lags.append(LoopClock().wall() - item.success_at.timestamp())
            products.append(simulator.ledger.polls.total() / 20 * statistics.fmean(lags))

    assert products[1] < 0.75 * products[0]


async def test_what_a_long_batch_has_learned_survives_a_stop(tmp_path: Path) -> None:
    """It is stored every 16 films, and not only at the end."""
    async with (
        simulated_service(Terms(duration=Constant(60), max_running=None)) as simulator,
        open_batch(tmp_path / "a.db") as batch,
        make_client(simulator, polling=None) as client,
    ):
        await batch.add(films(30))
        made = 0
        async for _ in batch.run(client, folder=tmp_path, max_running=5):
            made += 1
            if made == 20:
                batch.stop()
        learned = await batch.store.read_learned("durations")

    assert learned is not None
    [known] = json.loads(learned.value).values()
    assert len(known) >= 15
    assert statistics.fmean(known) == pytest.approx(60, abs=0.1)


async def test_a_journal_from_elsewhere_teaches_nothing_absurd(tmp_path: Path) -> None:
    """Whatever stands there, films are made; a day of quiet ends at the deadline of a job."""
    values = ["", "[]", "{}", "null", '{"sora 10": "x"}', '{"sora 10": [1e308, -1, null]}']
    async with simulated_service(Terms(duration=Constant(60), max_running=None)) as simulator:
        for number, value in enumerate(values):
            async with (
                open_batch(tmp_path / f"{number}.db") as batch,
                make_client(simulator, polling=None) as client,
            ):
                await batch.store.write_learned("durations", value)
                options = {"folder": tmp_path / f"{number}"}
                assert await polls_per_film(simulator, batch, client, 1, **options) > 4


async def test_an_expected_duration_counts_in_a_batch(tmp_path: Path) -> None:
    async with (
        simulated_service(Terms(duration=Constant(180), max_running=None)) as simulator,
        open_batch(tmp_path / "a.db") as batch,
        make_client(simulator, polling=None) as client,
    ):
        options = {"folder": tmp_path / "films", "expected": {10: 540.0}}
        assert await polls_per_film(simulator, batch, client, 4, **options) <= 8
        with pytest.raises(ValueError, match="expected"):
            await run_batch(batch, client, expected=-1)


@pytest.mark.parametrize("age", [3, 60, 400])
async def test_a_resumed_film_is_polled_by_its_age(tmp_path: Path, age: int) -> None:
    """Early if it is fresh, at once if it may be ready, and else not in its quiet time."""
    terms = Terms(duration=Constant(200), max_running=None)
    async with simulated_service(terms) as simulator, open_batch(tmp_path / "a.db") as batch:
        loop = asyncio.get_running_loop()
        async with make_client(simulator, polling=None) as client:
            await polls_per_film(simulator, batch, client, 6, folder=tmp_path)
            await batch.add([("late", board("late"))])
            run = batch.run(client, folder=tmp_path, every_change=True)
            async with contextlib.aclosing(run):
                async for item in run:
                    if item.state is ItemState.SUBMITTED:
                        submitted_at = loop.time()
                        break
        await asyncio.sleep(age)
        before = simulator.ledger.polls.total()

        async with make_client(simulator, polling=None) as client:
            await run_batch(batch, client, folder=tmp_path)

        took = loop.time() - submitted_at
        polls = simulator.ledger.polls.total() - before
        assert (await states(batch))["late"] is ItemState.DONE
        assert polls <= {3: 4, 60: 3, 400: 1}[age]
        assert took < {3: 215, 60: 215, 400: 402}[age]


async def test_a_paid_film_is_resumed_whatever_its_payload_is(tmp_path: Path) -> None:
    """Of an earlier version, say: it is no film any more, and polled as one of unknown age."""
    terms = Terms(duration=Constant(60), max_running=None)
    async with simulated_service(terms) as simulator, open_batch(tmp_path / "a.db") as batch:
        await batch.add(films(1))
        async with make_client(simulator, polling=None) as client:
            run = batch.run(client, folder=tmp_path, every_change=True)
            async with contextlib.aclosing(run):
                async for item in run:
                    if item.state is ItemState.SUBMITTED:
                        break
        await batch.store.purge({"k0": "{}"})

        async with make_client(simulator, polling=None) as client:
            await run_batch(batch, client, folder=tmp_path)

        assert (await states(batch))["k0"] is ItemState.DONE

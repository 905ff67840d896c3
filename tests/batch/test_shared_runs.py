"""Runs that share a store: each film is made by one of them, and what one leaves another takes.

They share one open journal here, with leases, as runs on several machines share a database.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Collection, Sequence
from pathlib import Path
from typing import Any

import attrs
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

from apikley_async import Client, RateLimiter
from apikley_async.batch import (
    AttemptCost,
    Batch,
    Item,
    ItemEvent,
    ItemState,
    Journal,
    MoreWork,
    StoredFile,
    Transition,
)
from apikley_async.batch.run_claims import AHEAD_OF_OTHERS, BEAT, INTERVAL, RunClaims
from apikley_async.batch.run_options import BatchRunOptions
from apikley_async.batch.store.protocol import LEASE
from apikley_async.errors import DownloadError, ManifestError
from apikley_async.simulator import Constant, Fault, Simulator, Terms
from apikley_async.testing import LoopClock

pytestmark = pytest.mark.virtual

TERMS = Terms(duration=Constant(240))


class StoppedClock(LoopClock):
    """The clock of a machine that may stand still: nobody who sleeps by it wakes up meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self._runs = asyncio.Event()
        self._runs.set()

    def stop(self) -> None:
        self._runs.clear()

    def go_on(self) -> None:
        self._runs.set()

    async def sleep(self, delay: float, wake: asyncio.Event | None = None) -> None:
        await super().sleep(delay, wake)
        await self._runs.wait()


@contextlib.asynccontextmanager
async def shared_journal(path: Path, count: int) -> AsyncIterator[Journal]:
    journal = await Journal.open(path / "batch.db", clock=LoopClock(), shared=True)
    try:
        await Batch(journal, clock=LoopClock()).add(films(count))
        yield journal
    finally:
        await journal.aclose()


def two_clients(simulator: Simulator, limit: int = 1000) -> tuple[Client, Client]:
    """Two clients of one key, who share its limit."""
    limiter = fast_limiter(limit)
    return (
        make_client(simulator, seed=1, limiter=limiter),
        make_client(simulator, seed=2, limiter=limiter),
    )


async def one_each(simulator: Simulator, journal: Journal, folder: Path) -> None:
    """Every film was paid once and saved, and the books agree."""
    batch = Batch(journal, clock=LoopClock())
    assert set((await states(batch)).values()) == {ItemState.DONE}
    assert len(simulator.ledger.paid) == len(await journal.items())
    await check_consistency(simulator, batch, folder)


async def test_two_runs_make_every_film_once(tmp_path: Path) -> None:
    """Each takes some at a time, and nothing is done twice."""
    terms = Terms(duration=Constant(30))
    async with simulated_service(terms) as simulator, shared_journal(tmp_path, 60) as journal:
        one, two = two_clients(simulator)
        async with one, two:
            batches = [Batch(journal, clock=LoopClock()) for _ in range(2)]
            made = await asyncio.gather(
                *(
                    run_batch(batch, client, folder=tmp_path, max_running=20)
                    for batch, client in zip(batches, (one, two), strict=True)
                )
            )

        assert all(len(items) > 15 for items in made)
        assert Counter(item.key for items in made for item in items).most_common(1)[0][1] == 1
        assert simulator.ledger.polls.keys() == {task.task_id for task in simulator.ledger.paid}
        await one_each(simulator, journal, tmp_path)


async def test_a_run_claims_few_ahead_of_what_it_sends(tmp_path: Path) -> None:
    """What waits for its limiter waits for nobody else's."""
    async with simulated_service(TERMS) as simulator, shared_journal(tmp_path, 40) as journal:
        async with make_client(simulator, limiter=RateLimiter(2, 60, clock=LoopClock())) as client:
            batch = Batch(journal, clock=LoopClock())
            running = asyncio.create_task(run_batch(batch, client, folder=tmp_path))
            await asyncio.sleep(30)

            left = [item.key for item in await journal.claim("another", 100)]
            sent = len(simulator.ledger.paid)
            assert sent == 2
            assert len(left) >= 40 - sent - AHEAD_OF_OTHERS
            batch.stop()
            await running

        assert len(await journal.claim("another", 100)) == 40 - len(left)


async def test_a_run_that_only_waits_keeps_its_films(tmp_path: Path) -> None:
    """It beats, however long its films take: whoever comes later gets none of them."""
    async with simulated_service(TERMS) as simulator, shared_journal(tmp_path, 6) as journal:
        one, two = two_clients(simulator)
        async with one, two:
            first = asyncio.create_task(
                run_batch(Batch(journal, clock=LoopClock()), one, folder=tmp_path)
            )
            await asyncio.sleep(LEASE * 2.5)
            second = run_batch(Batch(journal, clock=LoopClock()), two, folder=tmp_path)
            assert await second == []
            assert len(await first) == 6

        await one_each(simulator, journal, tmp_path)


async def test_what_a_run_leaves_is_resumed_at_once(tmp_path: Path) -> None:
    """A run that ends gives back what it has; nothing is paid again, no lease is waited for."""
    terms = Terms(duration=Constant(BEAT * 2))
    async with simulated_service(terms) as simulator, shared_journal(tmp_path, 10) as journal:
        one, two = two_clients(simulator)
        async with one, two:
            batch = Batch(journal, clock=LoopClock())
            running = asyncio.create_task(run_batch(batch, one, folder=tmp_path))
            await asyncio.sleep(BEAT * 1.5)
            batch.stop()
            await running
            stopped_at = asyncio.get_running_loop().time()
            await run_batch(Batch(journal, clock=LoopClock()), two, folder=tmp_path)
            took = asyncio.get_running_loop().time() - stopped_at

        assert took < LEASE / 2
        await one_each(simulator, journal, tmp_path)


async def test_a_run_that_stood_still_stops_with_what_others_have(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """After its lease its films are another run's, and it says so; nothing is paid twice. (J5)"""
    caplog.set_level(logging.WARNING, "apikley_async.batch")
    async with simulated_service(TERMS) as simulator, shared_journal(tmp_path, 12) as journal:
        one, two = two_clients(simulator)
        clock = StoppedClock()
        async with one, two:
            first = asyncio.create_task(
                run_batch(Batch(journal, clock=clock), one, folder=tmp_path, max_running=6)
            )
            await asyncio.sleep(LEASE / 2)
            clock.stop()
            await asyncio.sleep(LEASE * 1.5)
            second = asyncio.create_task(
                run_batch(Batch(journal, clock=LoopClock()), two, folder=tmp_path, max_running=6)
            )
            await asyncio.sleep(LEASE / 2)
            clock.go_on()
            stopped, made = await first, await second

        causes = {item.cause for item in stopped if item.state is not ItemState.DONE}
        assert causes == {"another run makes it now"}
        assert sum("taken it over" in record.message for record in caplog.records) == 12
        assert sum(item.state is ItemState.DONE for item in made) == 12
        await one_each(simulator, journal, tmp_path)


async def dead_run(journal: Journal, client: Client, count: int) -> None:
    """A run claims films, announces one of them, and is killed."""
    await Batch(journal).check_account(client)
    first, *_ = await journal.claim("dead", count)
    await journal.intend(first.key, "a-token", "print", None, owner="dead")


class SlowBeats(Journal):
    """A journal that is away for longer than a lease, and whose answers to beats come late."""

    async def beat(self, owner: str) -> Collection[str] | None:
        await asyncio.sleep(LEASE)
        owned = await super().beat(owner)
        await asyncio.sleep(1)
        return owned


async def test_what_a_run_claims_while_it_beats_is_not_lost(tmp_path: Path) -> None:
    """The answer is of before; whoever is not in it was claimed since."""
    journal = await SlowBeats.open(tmp_path / "batch.db", clock=LoopClock(), shared=True)
    lost: list[str] = []
    async with contextlib.aclosing(journal):
        await Batch(journal, clock=LoopClock()).add(films(2 * AHEAD_OF_OTHERS))
        claims = RunClaims(
            journal,
            BatchRunOptions(tmp_path),
            lambda: None,
            LoopClock(),
            on_lost=lost.append,
            on_error=lambda error: lost.append(error.message),
        )
        claims.begin()
        items = claims.items()
        first = [await anext(items) for _ in range(AHEAD_OF_OTHERS)]
        await asyncio.sleep(BEAT + LEASE + 0.5)  # the answer to the first beat is on its way
        for item in first:
            claims.ended(item)
        later = await anext(items)
        await asyncio.sleep(2)

        assert lost == []
        assert claims.holds(later.key)
        await claims.end()


async def test_a_run_that_would_end_takes_what_the_dead_have_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It waits for their leases, and says so once; what they were sending is uncertain."""
    async with simulated_service(TERMS) as simulator, shared_journal(tmp_path, 12) as journal:
        async with make_client(simulator) as client:
            await dead_run(journal, client, 12)
            await asyncio.sleep(LEASE / 2)
            made = await run_batch(Batch(journal, clock=LoopClock()), client, folder=tmp_path)

        assert Counter(item.state for item in made) == {ItemState.DONE: 11}
        assert (await journal.item("k0")).state is ItemState.UNCERTAIN
        [said] = [each.getMessage() for each in caplog.records if "not heard of" in each.message]
        assert re.fullmatch(
            r"11 films are those of process \d+ on .*, not heard of for 30 s: waiting for 30 s, "
            "then this run makes them",
            said,
        )


async def test_a_run_waits_for_the_dead_for_its_own_films_only(tmp_path: Path) -> None:
    async with simulated_service(TERMS) as simulator, shared_journal(tmp_path, 3) as journal:
        await journal.claim("dead", 3, keys=["k0"])
        async with make_client(simulator) as client:
            batch, began = Batch(journal, clock=LoopClock()), LoopClock().now()
            run = batch.run(client, folder=tmp_path, keys=["k1", "k2"])
            assert len([item async for item in run]) == 2
            assert LoopClock().now() - began < 240 + LEASE / 2
            run = batch.run(client, folder=tmp_path, keys=["k0"])
            assert len([item async for item in run]) == 1


async def test_a_run_does_not_wait_for_those_that_live(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Longer than for their next beat, which shows that they do."""
    async with simulated_service(TERMS) as simulator, shared_journal(tmp_path, 6) as journal:
        one, two = two_clients(simulator)
        async with one, two:
            batch, clock = Batch(journal, clock=LoopClock()), LoopClock()
            first = asyncio.create_task(run_batch(batch, one, folder=tmp_path))
            await asyncio.sleep(BEAT + 1)
            began = clock.now()
            second = Batch(journal, clock=clock)
            assert await run_batch(second, two, folder=tmp_path) == []
            assert clock.now() - began <= BEAT + INTERVAL
            batch.stop()
            await first

        assert not [each for each in caplog.records if "not heard of" in each.getMessage()]


async def test_a_run_that_waits_for_the_dead_is_stopped_at_once(tmp_path: Path) -> None:
    async with (
        simulated_service(TERMS) as simulator,
        shared_journal(tmp_path, 3) as journal,
        make_client(simulator) as client,
    ):
        await dead_run(journal, client, 3)
        batch, began = Batch(journal, clock=LoopClock()), LoopClock().now()
        running = asyncio.create_task(run_batch(batch, client, folder=tmp_path))
        await asyncio.sleep(LEASE / 2)
        batch.stop()
        assert await running == []
        assert LoopClock().now() - began < LEASE / 2 + 1


class FullPlace:
    """A destination that takes some films only."""

    def __init__(self, *refused: str) -> None:
        self.refused = refused
        self.has_refused = asyncio.Event()
        self.films: dict[str, bytes] = {}

    async def exists(self, name: str) -> bool:
        return False

    async def put(
        self, name: str, chunks: AsyncIterator[bytes], *, size: int | None, content_type: str
    ) -> str | None:
        content = b"".join([chunk async for chunk in chunks])
        if Path(name).stem in self.refused:
            self.has_refused.set()
            raise ConnectionError("refused")
        self.films[Path(name).stem] = content
        return None


async def test_a_film_whose_task_has_ended_is_released(tmp_path: Path) -> None:
    """The run lives on, and has done what it could for the film: another one may save it."""
    terms = Terms(duration=Constant(60))
    async with simulated_service(terms) as simulator, shared_journal(tmp_path, 30) as journal:
        one, two = (
            make_client(simulator, seed=seed, limiter=RateLimiter(1, 60, clock=LoopClock()))
            for seed in (1, 2)
        )
        places = FullPlace("k0"), FullPlace()
        async with one, two:
            batch, other = (Batch(journal, clock=LoopClock()) for _ in range(2))
            running = asyncio.create_task(run_batch(batch, one, destination=places[0]))
            await places[0].has_refused.wait()
            await asyncio.sleep(BEAT * 2)
            assert (await journal.item("k0")).state is ItemState.SUCCESS

            saved = other.run(two, destination=places[1], keys=["k0"])
            assert [item.state async for item in saved] == [ItemState.DONE]
            assert not running.done()
            batch.stop()
            await running

        assert [*places[1].films] == ["k0"]
        assert len({charge.task_id for charge in simulator.ledger.paid}) == len(
            simulator.ledger.paid
        )


async def test_a_film_that_waits_and_gets_other_content_is_made_of_that(tmp_path: Path) -> None:
    """A run without an end claims it again, while its earlier task still waits for a slot."""
    async with simulated_service(TERMS) as simulator, shared_journal(tmp_path, 3) as journal:
        batch = Batch(journal, clock=LoopClock())
        async with make_client(simulator, limiter=fast_limiter()) as client:
            running = asyncio.create_task(
                run_batch(batch, client, folder=tmp_path, max_running=1, more=MoreWork())
            )
            await asyncio.sleep(30)
            await batch.add([("k2", board("changed"))])
            await asyncio.sleep(240 * 4)
            batch.stop()
            await running

        assert set((await states(batch)).values()) == {ItemState.DONE}
        made = [key_of_request(charge.body) for charge in simulator.ledger.paid]
        assert made == ["k0", "k1", "changed"]


@pytest.mark.parametrize("shared", [True, False])
async def test_a_run_without_an_end_tries_again(tmp_path: Path, shared: bool) -> None:
    """What it could not end, it ends later, in a file too."""
    async with simulated_service(TERMS) as simulator:
        journal = await Journal.open(tmp_path / "b.db", clock=LoopClock(), shared=shared)
        batch, place = Batch(journal, clock=LoopClock()), FullPlace("k0")
        await batch.add(films(2))
        async with make_client(simulator) as client:
            running = asyncio.create_task(
                run_batch(batch, client, destination=place, more=MoreWork())
            )
            await place.has_refused.wait()
            place.refused = ()
            await asyncio.sleep(LEASE * 3)
            batch.stop()
            await running

        assert set((await states(batch)).values()) == {ItemState.DONE}
        await journal.aclose()


class StoppingPlace(FullPlace):
    """A destination during whose first look the run is stopped."""

    def __init__(self, batch: Batch) -> None:
        super().__init__()
        self.batch: Batch | None = batch

    async def exists(self, name: str) -> bool:
        batch, self.batch = self.batch, None
        if batch is not None:
            batch.stop()
        return False


async def test_a_run_that_is_stopped_before_it_begins_sends_nothing(tmp_path: Path) -> None:
    """It is preparing then. The next one makes its films."""
    async with simulated_service(TERMS) as simulator, shared_journal(tmp_path, 2) as journal:
        batch = Batch(journal, clock=LoopClock())
        async with make_client(simulator) as client:
            place = StoppingPlace(batch)
            assert await run_batch(batch, client, destination=place, more=MoreWork()) == []
            assert (batch.stopped, simulator.ledger.paid) == ("Asked to stop", [])
            assert len(await run_batch(batch, client, folder=tmp_path)) == 2

        await one_each(simulator, journal, tmp_path)


async def test_runs_keep_one_bound_together(tmp_path: Path) -> None:
    """Each knows what it has spent; the journal knows what all have, to the last credit. (I10)"""
    terms = Terms(duration=Constant(60))
    async with simulated_service(terms) as simulator, shared_journal(tmp_path, 40) as journal:
        one, two = two_clients(simulator)
        async with one, two:
            batches = [Batch(journal, clock=LoopClock()) for _ in range(2)]
            options: dict[str, Any] = {"folder": tmp_path, "prices": 150, "max_credits": 2000}
            await asyncio.gather(
                *(
                    run_batch(batch, client, **options)
                    for batch, client in zip(batches, (one, two), strict=True)
                )
            )

        assert len(simulator.ledger.paid) == 13
        assert all("max_credits" in (batch.stopped or "") for batch in batches)
        assert set((await states(batches[0])).values()) == {ItemState.DONE, ItemState.PLANNED}


async def test_runs_leave_the_same_balance_together(tmp_path: Path) -> None:
    """What others have taken from the account is not there for this run."""
    terms = Terms(duration=Constant(60), credits=3000)
    async with simulated_service(terms) as simulator, shared_journal(tmp_path, 40) as journal:
        one, two = two_clients(simulator)
        async with one, two:
            batches = [Batch(journal, clock=LoopClock()) for _ in range(2)]
            options: dict[str, Any] = {"folder": tmp_path, "prices": 150, "min_balance": 1000}
            await asyncio.gather(
                *(
                    run_batch(batch, client, **options)
                    for batch, client in zip(batches, (one, two), strict=True)
                )
            )
            assert await one.credits() == 1050

        assert len(simulator.ledger.paid) == 13
        assert all("min_balance" in (batch.stopped or "") for batch in batches)


class AwayJournal(Journal):
    """A journal in a database that is away from some moment on."""

    away = False

    async def release(self, owner: str, keys: Collection[str] | None = None) -> None:
        if self.away:
            await asyncio.Event().wait()
        await super().release(owner, keys)


async def test_a_run_ends_although_its_store_is_away(tmp_path: Path) -> None:
    """It waits for a moment; its lease ends by itself."""
    async with simulated_service(TERMS) as simulator, make_client(simulator) as client:
        path = tmp_path / "batch.db"
        journal = await AwayJournal.open(path, clock=LoopClock(), shared=True)
        assert isinstance(journal, AwayJournal)
        batch = Batch(journal, clock=LoopClock())
        await batch.add(films(3))
        running = asyncio.create_task(run_batch(batch, client, folder=tmp_path))
        await asyncio.sleep(BEAT * 1.5)
        journal.away = True
        batch.stop()
        async with asyncio.timeout(60):
            await running

        journal.away = False
        await asyncio.sleep(LEASE)
        await run_batch(Batch(journal, clock=LoopClock()), client, folder=tmp_path)
        await one_each(simulator, journal, tmp_path)
        await journal.aclose()


class SilentJournal(Journal):
    """A journal in a database that does not answer what a run asks before it begins."""

    async def attempt_costs(self) -> Sequence[AttemptCost]:
        await asyncio.Event().wait()
        raise AssertionError


async def test_a_run_that_is_stopped_while_it_prepares_ends_at_once(tmp_path: Path) -> None:
    """Although its database is away, and nothing was begun that could be stopped."""
    async with simulated_service() as simulator, make_client(simulator) as client:
        journal = await SilentJournal.open(tmp_path / "batch.db", clock=LoopClock(), shared=True)
        batch = Batch(journal, clock=LoopClock())
        await batch.add(films(1))
        running = asyncio.create_task(run_batch(batch, client, folder=tmp_path, more=MoreWork()))
        await asyncio.sleep(60)
        batch.stop()
        async with asyncio.timeout(1):
            assert await running == []

        assert (batch.stopped, simulator.ledger.paid) == ("Asked to stop", [])
        await journal.aclose()


class CountingJournal(Journal):
    """Counts the beats of its runs."""

    beats = 0

    async def beat(self, owner: str) -> Collection[str] | None:
        self.beats += 1
        return await super().beat(owner)


async def test_in_a_file_nobody_beats(tmp_path: Path) -> None:
    """Its runs live as long as it is open: a timer more would only hide that a test hangs."""
    async with simulated_service(TERMS) as simulator, make_client(simulator) as client:
        journal = await CountingJournal.open(tmp_path / "batch.db", clock=LoopClock())
        assert isinstance(journal, CountingJournal)
        batch = Batch(journal, clock=LoopClock())
        await batch.add([("a", board("a"))])
        await run_batch(batch, client, folder=tmp_path)
        await journal.aclose()

        assert journal.beats == 0
        async with open_batch(tmp_path / "batch.db") as again:
            assert await again.verify() == []


async def test_a_balance_that_is_read_while_films_are_made_is_no_evidence(tmp_path: Path) -> None:
    """A film that is out, and not charged yet, would seem to account for an uncertain one."""
    slow = attrs.evolve(TERMS, latency={"create": Constant(3)})
    async with simulated_service(slow) as simulator, shared_journal(tmp_path, 1) as journal:
        one, two = two_clients(simulator)
        batch = Batch(journal, clock=LoopClock())
        async with one, two:
            await batch.record_balance(two)
            simulator.script("create", [Fault.RESET_AFTER])
            await run_batch(batch, one, folder=tmp_path)
            await batch.add([*films(1), *films(2)[1:]])
            running = asyncio.create_task(run_batch(batch, one, folder=tmp_path))
            await asyncio.sleep(1)  # the second film is on its way, and nothing is taken for it
            await batch.record_balance(two)
            await asyncio.sleep(60)  # it is in the making
            await batch.record_balance(two)
            assert (await batch.uncertain_items())[1] == []
            await running
            await batch.record_balance(two)

        [evidence] = (await batch.uncertain_items())[1]
        assert len(simulator.ledger.paid) == 2
        assert (evidence.films, evidence.suggests_payment) == (1, True)


class SlowDecisions(Journal):
    """A journal in which time passes between two decisions."""

    async def apply(self, key: str, transition: Transition) -> Item:
        item = await super().apply(key, transition)
        if transition.event is ItemEvent.REFETCH:
            await asyncio.sleep(1)
        return item


@pytest.mark.slow
async def test_films_are_saved_elsewhere_beside_a_run_that_is_idle(tmp_path: Path) -> None:
    """That one saves into its own folder, and would be the first to claim them."""
    there, more = tmp_path / "there", MoreWork(interval=0.2)
    journal = await SlowDecisions.open(tmp_path / "batch.db", clock=LoopClock(), shared=True)
    async with simulated_service(TERMS) as simulator, contextlib.aclosing(journal):
        await Batch(journal, clock=LoopClock()).add(films(12))
        one, two = two_clients(simulator)
        async with one, two:
            worker, batch = (Batch(journal, clock=LoopClock()) for _ in range(2))
            running = asyncio.create_task(
                run_batch(worker, one, folder=tmp_path / "here", more=more)
            )
            await asyncio.sleep(300)
            keys = [item.key async for item in batch.items(ItemState.DONE)]
            shutil.rmtree(tmp_path / "here")
            saved = [item.key async for item in batch.save(two, *keys, folder=there)]
            worker.stop()
            await running

        assert sorted(saved) == sorted(keys)
        assert len(keys) == len([*there.glob("*.mp4")]) == 12
        assert all([item.files[0].path.parent == there async for item in batch.items()])


async def test_a_save_that_is_refused_midway_keeps_no_film(tmp_path: Path) -> None:
    """Nothing was decided until then."""
    async with simulated_service(TERMS) as simulator, shared_journal(tmp_path, 2) as journal:
        one, two = two_clients(simulator)
        async with one, two:
            batch = Batch(journal, clock=LoopClock())
            await run_batch(batch, one, folder=tmp_path)
            (tmp_path / "k0.mp4").unlink()
            item = await batch.item("k1")
            stored = StoredFile("k1.mp4", item.files[0].size, item.files[0].sha256, "s3://films")
            await journal.apply("k1", Transition(ItemEvent.REFETCH))
            await journal.apply("k1", Transition(ItemEvent.SAVE, stored=(stored,)))
            with pytest.raises(ManifestError, match="put into a destination"):
                _ = [item async for item in batch.save(one, "k0", "k1")]

            saved = [item.key async for item in batch.save(two, "k0")]

        assert saved == ["k0"]
        assert (tmp_path / "k0.mp4").exists()


async def test_a_save_that_is_refused_at_its_beginning_changes_nothing(tmp_path: Path) -> None:
    """No film is said to be saved again; the next call saves them."""
    async with (
        simulated_service(TERMS) as simulator,
        make_client(simulator) as client,
        open_batch(tmp_path / "batch.db") as batch,
    ):
        await batch.add(films(1))
        await run_batch(batch, client, folder=tmp_path / "films")
        (tmp_path / "films" / "k0.mp4").unlink()
        (tmp_path / "plain").touch()
        with pytest.raises(DownloadError):
            _ = [item async for item in batch.save(client, "k0", folder=tmp_path / "plain")]
        assert (await batch.item("k0")).state is ItemState.DONE

        saved = [item.key async for item in batch.save(client, folder=tmp_path / "there")]

        assert saved == ["k0"]
        assert (tmp_path / "there" / "k0.mp4").exists()

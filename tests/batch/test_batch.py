"""`Batch`: how runs are left, what is closed in which order, and what several do together."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

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
from batch.pictures import png
from volume import volume

from apikley_async import RateLimiter, Shot, Storyboard
from apikley_async.batch import Batch, ItemState, Journal, Store, work_of
from apikley_async.batch.open_batch import service_of
from apikley_async.errors import ApiError, ApikleyError, JournalError, ManifestError, NotFoundError
from apikley_async.simulator import Constant, Fault, Simulator, Terms
from apikley_async.testing import LoopClock

pytestmark = pytest.mark.virtual


async def finish(simulator: Simulator, path: Path, folder: Path) -> dict[str, ItemState]:
    """Run to the end, and check everything there is to check."""
    async with make_client(simulator, seed=9) as client, open_batch(path) as batch:
        await run_batch(batch, client, folder=folder)
        await check_consistency(simulator, batch, folder)
        return await states(batch)


class AnyStore:
    """A store of somebody else: it has what the protocol names, and nothing more."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def __getattr__(self, name: str) -> Any:
        if name not in vars(Store) or name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._journal, name)


async def test_an_item_is_plain_json(tmp_path: Path) -> None:
    """For a log or another process: its films' words and links stay here."""
    async with simulated_service() as simulator, open_batch(tmp_path / "b.db") as batch:
        await batch.add(films(1))
        async with make_client(simulator) as client:
            [item] = await run_batch(batch, client, folder=tmp_path / "films")
        [planned] = [item async for item in batch.items()]

    value = json.loads(json.dumps(item.to_dict()))
    path = tmp_path / "films" / "k0.mp4"
    assert {**value, "files": None} == {
        "key": "k0",
        "state": "done",
        "order": 1,
        "task_id": item.task_id,
        "cause": "",
        "fail_code": "",
        "fail_message": "",
        "credits": 150,
        "files": None,
        "stored": [],
        "attempts": 1,
        "success_at": item.success_at and item.success_at.isoformat(),
        "gone": False,
    }
    [file] = value["files"]
    assert (file["path"], file["size"]) == (str(path), path.stat().st_size)
    assert "scene" not in json.dumps(planned.to_dict())


async def test_any_store_will_do(tmp_path: Path) -> None:
    """A batch needs the protocol and nothing else; a store that was open stays open."""
    journal = await Journal.open(tmp_path / "b.db", clock=LoopClock())
    store = AnyStore(journal)
    folder = tmp_path / "films"
    async with simulated_service() as simulator:
        simulator.script("create", [Fault.OK, Fault.RESET_AFTER, Fault.code(422)])
        async with make_client(simulator) as client, Batch(store, clock=LoopClock()) as batch:
            await batch.add(films(6))
            await run_batch(
                batch, client, folder=folder, prices=150, max_credits=9e9, min_balance=1
            )
            assert (await batch.status()).counts == {
                ItemState.DONE: 4,
                ItemState.UNCERTAIN: 1,
                ItemState.REJECTED: 1,
            }
            [lost] = [i.key async for i in batch.items(ItemState.UNCERTAIN)]
            task_id = next(
                c.task_id for c in simulator.ledger.paid if key_of_request(c.body) == lost
            )
            await batch.resolve(lost, task_id=task_id, client=client)
            await batch.retry()
            assert (await batch.estimate()).films == 1
            await run_batch(batch, client, folder=folder)
            await check_consistency(simulator, batch, folder)
            assert set((await states(batch)).values()) == {ItemState.DONE}
        with pytest.raises(JournalError, match="not open"):
            await batch.status()

    assert await journal.counts() == {ItemState.DONE: 6}
    await journal.aclose()


async def test_a_store_that_the_batch_opens_is_closed_with_it(tmp_path: Path) -> None:
    """It is opened each time the batch is entered."""
    opened_: list[Journal] = []

    async def opener() -> Journal:
        opened_.append(await Journal.open(tmp_path / "b.db"))
        return opened_[-1]

    batch = Batch(opener)
    for _ in range(2):
        async with batch:
            await batch.add(films(2))
            assert len(await states(batch)) == 2
        with pytest.raises(JournalError, match="closed"):
            await opened_[-1].counts()
    assert len(opened_) == 2


WAYS = ["break", "stop", "cancel", "close"]
MOMENTS = [0.0, 1.5, 12.0, 75.0, *volume([], [0.5, 9.0, 70.0])]
# By default every other pair: each way at two moments, each moment in two ways.
LEAVINGS = [
    (way, moment)
    for row, moment in enumerate(MOMENTS)
    for way in WAYS[volume(row % 2, 0) :: volume(2, 1)]
]


async def slow_answers(simulator: Simulator, seconds: float) -> None:
    simulator.script("create", [Fault.late(seconds)] * 100)


@pytest.mark.parametrize(("way", "moment"), LEAVINGS)
async def test_a_run_can_be_left_at_any_moment(way: str, moment: float, tmp_path: Path) -> None:
    """What is out is waited for and written down, and the next run goes on. (C5, A10)

    Nothing keeps running (the fixture looks), and nothing is uncertain: every answer came.
    """
    path, folder = tmp_path / "b.db", tmp_path / "films"
    count = volume(6, 10)
    async with simulated_service() as simulator:
        await slow_answers(simulator, 2.0)
        async with (
            make_client(simulator, limiter=fast_limiter(4)) as client,
            open_batch(path) as batch,
        ):
            await batch.add(films(count))

            async def consume() -> None:
                async for _ in batch.run(client, folder=folder, every_change=True):
                    if way == "break" and asyncio.get_running_loop().time() >= moment:
                        break

            consumer = asyncio.create_task(consume())
            await asyncio.sleep(moment)
            if way == "cancel":
                consumer.cancel()
            elif way == "stop":
                batch.stop()
            elif way == "close":
                await batch.aclose()
            await asyncio.wait({consumer})
            if not consumer.cancelled() and (error := consumer.exception()) is not None:
                assert way == "close", error
                assert moment == 0.0  # it had not begun
                assert "is closed" in str(error)
            assert client.unclaimed == []
            assert client.uncertain == []

        async with open_batch(path) as batch:
            assert ItemState.UNCERTAIN not in (await states(batch)).values()
            assert await batch.verify() == []
        stand = await finish(simulator, path, folder)
    assert set(stand.values()) == {ItemState.DONE}
    assert len(simulator.ledger.paid) == count


async def test_stopping_ends_the_loop_without_an_error(tmp_path: Path) -> None:
    """After `stop` the loop ends by itself, says why, and can be begun again at once."""
    async with (
        simulated_service() as simulator,
        make_client(simulator) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        await batch.add(films(3))
        async for _ in batch.run(client, folder=tmp_path, every_change=True):
            batch.stop()
        assert batch.stopped == "Asked to stop"

        async for _ in batch.run(client, folder=tmp_path, every_change=True):
            break
        await run_batch(batch, client, folder=tmp_path)

        assert set((await states(batch)).values()) == {ItemState.DONE}
        assert batch.stopped is None
        assert len(simulator.ledger.paid) == 3


async def test_submissions_that_were_out_at_the_end_are_yielded(tmp_path: Path) -> None:
    """An attempt that ends uncertain after `stop` is yielded before the loop ends."""
    async with (
        simulated_service() as simulator,
        make_client(simulator) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        simulator.script("create", [Fault("late and lost", delivery=Fault.RESET.delivery, hold=5)])
        await batch.add(films(1))

        async def stop() -> None:
            await asyncio.sleep(1)
            batch.stop()

        stopping = asyncio.create_task(stop())
        received = await run_batch(batch, client, folder=tmp_path)
        await stopping

        assert [(item.key, item.state) for item in received] == [("k0", ItemState.UNCERTAIN)]


@pytest.mark.parametrize("first", ["client", "batch"])
@pytest.mark.parametrize("moment", [0.5, 3.0, 65.0])
async def test_client_and_batch_may_be_closed_in_either_order(
    first: str, moment: float, tmp_path: Path
) -> None:
    """Whichever is closed first: what is out is bound, and the loop ends without an error. (C5)"""
    path, folder = tmp_path / "b.db", tmp_path / "films"
    async with simulated_service() as simulator:
        await slow_answers(simulator, 2.0)
        client, batch = make_client(simulator, limiter=fast_limiter(4)), open_batch(path)
        await client.__aenter__()
        await batch.__aenter__()
        await batch.add(films(6))
        running = asyncio.create_task(run_batch(batch, client, folder=folder))
        await asyncio.sleep(moment)
        order = [client, batch] if first == "client" else [batch, client]
        for closing in order:
            await closing.aclose()

        await asyncio.wait_for(running, 60)
        assert batch.stopped in ("The client was closed", "The batch was closed")
        assert client.unclaimed == []
        assert set((await finish(simulator, path, folder)).values()) == {ItemState.DONE}


async def test_a_post_without_an_answer_in_the_grace_period_is_uncertain(tmp_path: Path) -> None:
    """Thirty seconds after leaving nobody waits any more: the attempt is uncertain. (C6)"""
    path, folder = tmp_path / "b.db", tmp_path / "films"
    async with simulated_service() as simulator:
        simulator.script("create", [Fault.HANG_AFTER])
        async with make_client(simulator) as client, open_batch(path) as batch:
            await batch.add(films(1))
            running = asyncio.create_task(run_batch(batch, client, folder=folder))
            await asyncio.sleep(5)
            began = asyncio.get_running_loop().time()
            batch.stop()
            await running
            assert 29 <= asyncio.get_running_loop().time() - began <= 31
        stand = await finish(simulator, path, folder)
    assert stand == {"k0": ItemState.UNCERTAIN}


@pytest.mark.parametrize("seed", range(volume(2, 6)))
async def test_cancelling_at_random_steps(seed: int, tmp_path: Path) -> None:
    """Cancelled again and again, at steps drawn by chance, the batch still ends well. (I14, C14)"""
    path, folder = tmp_path / "b.db", tmp_path / "films"
    rng = random.Random(seed)
    async with simulated_service(Terms(duration=Constant(3)), seed=seed) as simulator:
        simulator.script("create", [Fault.late(rng.uniform(0, 1)) for _ in range(40)])
        for _ in range(12):
            async with (
                make_client(simulator, limiter=fast_limiter(2)) as client,
                open_batch(path) as batch,
            ):
                await batch.add(films(8))
                running = asyncio.create_task(run_batch(batch, client, folder=folder))
                if rng.random() < 0.5:
                    await asyncio.sleep(rng.uniform(0, 4))
                for _ in range(rng.randrange(200)):
                    await asyncio.sleep(0)
                running.cancel()
                await asyncio.wait({running})
                assert await batch.verify() == []
            assert client.unclaimed == []
        stand = await finish(simulator, path, folder)
    assert set(stand.values()) == {ItemState.DONE}
    assert len(simulator.ledger.paid) == 8


async def test_two_batches_share_one_client_and_its_limiter(tmp_path: Path) -> None:
    """Two batches in one process keep one pace, and do not mix their films."""
    count = volume(14, 30)
    limiter = RateLimiter(20, 10, clock=LoopClock())
    async with (
        simulated_service() as simulator,
        make_client(simulator, limiter=limiter) as client,
        open_batch(tmp_path / "one.db") as one,
        open_batch(tmp_path / "two.db") as two,
    ):
        await one.add(films(count))
        await two.add([(f"z{number}", board(f"z{number}")) for number in range(count)])

        await asyncio.gather(
            run_batch(one, client, folder=tmp_path / "films1"),
            run_batch(two, client, folder=tmp_path / "films2"),
        )

        assert set((await states(one)).values()) == set((await states(two)).values())
        assert not simulator.ledger.refused
        assert simulator.ledger.busiest_window(10.0) <= 20
        assert len(list((tmp_path / "films1").glob("k*.mp4"))) == count
        assert len(list((tmp_path / "films2").glob("z*.mp4"))) == count


async def test_one_run_at_a_time(tmp_path: Path) -> None:
    """A second loop over the same batch is refused, and the first goes on."""
    async with (
        simulated_service() as simulator,
        make_client(simulator) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        await batch.add(films(3))
        running = asyncio.create_task(run_batch(batch, client, folder=tmp_path))
        await asyncio.sleep(1)

        with pytest.raises(JournalError, match="running already"):
            await run_batch(batch, client, folder=tmp_path)

        assert len(await running) == 3


async def test_a_closed_batch_says_so(tmp_path: Path) -> None:
    """Whatever is asked of a closed batch, the answer is how to open it."""
    batch = open_batch(tmp_path / "b.db")
    for ask in (batch.status, batch.verify, batch.estimate):
        with pytest.raises(JournalError, match="async with"):
            await ask()
    async with batch:
        await batch.aclose()
        await batch.aclose()


async def test_a_running_batch_can_be_read(tmp_path: Path) -> None:
    """Status, estimate and verify are read from a second handle, which can change nothing."""
    async with (
        simulated_service() as simulator,
        make_client(simulator) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        await batch.add(films(3))
        async for _ in batch.run(client, folder=tmp_path, every_change=True):
            async with open_batch(tmp_path / "b.db", read_only=True) as look:
                assert (await look.status()).total == 3
                assert await look.verify() == []
                with pytest.raises(JournalError, match="reading only"):
                    await look.add(films(4))
        assert set((await states(batch)).values()) == {ItemState.DONE}


async def test_another_account_is_refused(tmp_path: Path) -> None:
    """A journal belongs to one key: with another its tasks would not be found. (J13)"""
    async with simulated_service() as simulator, make_client(simulator) as client:
        async with open_batch(tmp_path / "b.db") as batch:
            await batch.add(films(1))
            await run_batch(batch, client, folder=tmp_path)
        simulator.api_key = "canary-0000-another-key"
        async with make_client(simulator) as other, open_batch(tmp_path / "b.db") as batch:
            with pytest.raises(JournalError, match="another key") as raised:
                await run_batch(batch, other, folder=tmp_path)
        assert "a new key of its account" in str(raised.value)


async def test_a_new_key_of_the_account_goes_on(tmp_path: Path) -> None:
    """What is paid would expire otherwise. The service knows the journal's tasks with it. (J13)"""
    folder = tmp_path / "films"
    simulator = simulated_service()
    async with (
        simulator,
        make_client(simulator) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        await batch.add(films(2))
        async for item in batch.run(client, folder=folder, every_change=True):
            if item.state is ItemState.SUBMITTED:
                break
    simulator.api_key = "canary-0000-a-new-key"
    async with (
        simulator,
        make_client(simulator) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        for fault in (Fault.HTTP_500, Fault.http(403, page=True)):  # of a service, of a gateway
            simulator.script("record", [fault])
            with pytest.raises(ApiError) as refused:  # which says nothing of the key
                await run_batch(batch, client, folder=folder)
            assert refused.value.resumable
        await run_batch(batch, client, folder=folder)
        await check_consistency(simulator, batch, folder)
        assert set((await states(batch)).values()) == {ItemState.DONE}


async def test_another_account_does_not_say_that_a_film_was_not_made(tmp_path: Path) -> None:
    """To it every task of the journal is unknown; who believes that pays again. (A17, J13)"""
    path = tmp_path / "b.db"
    async with simulated_service() as simulator:
        [key] = await in_doubt(simulator, path, [True])
        [task_id] = (charge.task_id for charge in simulator.ledger.paid)
        async with (
            Simulator(api_key="canary-0000-another-account", clock=LoopClock()) as elsewhere,
            make_client(elsewhere) as other,
            open_batch(path) as batch,
        ):
            with pytest.raises(JournalError, match="another key"):
                await batch.resolve_tasks(task_id, client=other)
            with pytest.raises(JournalError, match="another key"):
                await batch.resolve(key, task_id=task_id, client=other)


def test_one_address_may_be_spelled_in_several_ways() -> None:
    """A slash at its end is no other service, whose tasks would not be found. (J13)"""
    ways = ("https://a.test", "https://a.test/", "HTTPS://A.test:443//")

    assert {service_of(way) for way in ways} == {"https://a.test"}
    assert service_of("https://a.test:8443/v2/") == "https://a.test:8443/v2"
    assert service_of("http://127.0.0.1:8765") == service_of("http://localhost:1") == "this machine"


async def test_a_wrong_key_leaves_the_journal_to_the_right_one(tmp_path: Path) -> None:
    """Nothing was bought with it, so no task would be missed. (J13)"""
    folder = tmp_path / "films"
    async with simulated_service() as simulator:
        right, simulator.api_key = simulator.api_key, "canary-0000-a-wrong-key"
        async with make_client(simulator, seed=99) as wrong, open_batch(tmp_path / "b.db") as batch:
            simulator.api_key = right
            await batch.add(films(2))
            await run_batch(batch, wrong, folder=folder)
            assert "401" in (batch.stopped or "")
        async with make_client(simulator) as client, open_batch(tmp_path / "b.db") as batch:
            await run_batch(batch, client, folder=folder)
            await check_consistency(simulator, batch, folder)
            assert set((await states(batch)).values()) == {ItemState.DONE}
            async with wrong:
                with pytest.raises(JournalError, match="another key"):
                    await run_batch(batch, wrong, folder=folder)


async def test_a_wrong_key_does_not_get_a_journal_that_has_lost_what_was_bought(
    tmp_path: Path,
) -> None:
    """Its films may be tasks that only the first key finds. (J13, J3)"""
    path, copy = tmp_path / "b.db", tmp_path / "copy.db"
    async with simulated_service() as simulator:
        async with make_client(simulator) as client, open_batch(path) as batch:
            await batch.check_account(client)
            await batch.backup(copy)
            await batch.add(films(1))
            await run_batch(batch, client, folder=tmp_path)
        path.unlink()
        right, simulator.api_key = simulator.api_key, "canary-0000-a-wrong-key"
        wrong, simulator.api_key = make_client(simulator, seed=99), right
        async with wrong, open_batch(copy, adopt=True) as batch:
            with pytest.raises(JournalError, match="another key"):
                await batch.check_account(wrong)
        async with make_client(simulator) as client, open_batch(copy) as batch:
            await batch.check_account(client)


# --- what a person decides ------------------------------------------------------------------------


async def in_doubt(simulator: Simulator, path: Path, received: list[bool]) -> list[str]:
    """Make films uncertain; *received* says which were processed. Gives the keys in order."""
    for arrived in received:
        simulator.script("create", [Fault.RESET_AFTER if arrived else Fault.RESET])
    async with (
        make_client(simulator, limiter=RateLimiter(1, 1, clock=LoopClock())) as client,
        open_batch(path) as batch,
    ):
        await batch.add(films(len(received)))
        await run_batch(batch, client, folder=path.parent / "films", max_running=1)
        assert set((await states(batch)).values()) == {ItemState.UNCERTAIN}
    return [f"k{number}" for number in range(len(received))]


class UrlOnly:
    """Callbacks that go elsewhere."""

    def url_for(self, token: str) -> str:
        return f"https://hooks.test/{token}"


async def test_an_uncertain_film_is_resolved_by_its_own_task_only(tmp_path: Path) -> None:
    """`resolve` reads the task first: only a task of the same content is taken. (A17)"""
    path, folder = tmp_path / "b.db", tmp_path / "films"
    async with simulated_service() as simulator:
        await in_doubt(simulator, path, [True, True])
        first, second = (charge.task_id for charge in simulator.ledger.paid)
        async with make_client(simulator) as client, open_batch(path) as batch:
            with pytest.raises(ManifestError, match="something else"):
                await batch.resolve("k0", task_id=second, client=client)
            with pytest.raises(NotFoundError):
                await batch.resolve("k0", task_id="task_of_nobody", client=client)
            item = await batch.resolve("k0", task_id=first, client=client)
            assert (item.state, item.task_id) == (ItemState.SUBMITTED, first)
            await batch.resolve("k1", task_id=second, client=client)
            await run_batch(batch, client, folder=folder)
            await check_consistency(simulator, batch, folder)
            assert set((await states(batch)).values()) == {ItemState.DONE}
    assert len(simulator.ledger.paid) == 2


async def test_tasks_are_matched_with_uncertain_films_by_what_was_asked_for(tmp_path: Path) -> None:
    """Takes of one content are told apart by nothing, and need not be. (A17)"""
    path, folder = tmp_path / "b.db", tmp_path / "films"
    async with simulated_service() as simulator:
        simulator.script("create", [Fault.RESET_AFTER] * 4)
        async with make_client(simulator) as client, open_batch(path) as batch:
            works = [("k0", board("k0")), *((f"take{n}", board("k1")) for n in range(3))]
            await batch.add(works, allow_duplicates=True)
            await run_batch(batch, client, folder=folder)
            other = (await client.submit(board("another"))).task_id
            tasks = [charge.task_id for charge in simulator.ledger.paid[:4]]
            ids = [*tasks, tasks[0], other, "task_of_nobody"]

            matches = await batch.resolve_tasks(*ids, client=client)

            bound = {match.task_id: match.key for match in matches if match.key}
            assert (set(bound), set(bound.values())) == ({*tasks}, {key for key, _ in works})
            reasons = {match.task_id: match.reason for match in matches if not match.key}
            assert set(reasons) == {other, "task_of_nobody"}
            assert "none of the 4 uncertain films was submitted like it" in reasons[other]
            assert "knows no such task" in reasons["task_of_nobody"]
            again = await batch.resolve_tasks(*tasks, client=client)
            assert {match.task_id: match.key for match in again} == bound
            assert {match.reason for match in again} == {"it is known already"}
            await run_batch(batch, client, folder=folder)
            assert set((await states(batch)).values()) == {ItemState.DONE}
    assert len(simulator.ledger.paid) == 5


async def test_more_tasks_than_films_are_left_to_a_person(tmp_path: Path) -> None:
    """One of them was made for somebody else: nothing says which. (A17)"""
    path = tmp_path / "b.db"
    async with simulated_service() as simulator:
        [key] = await in_doubt(simulator, path, [True])
        async with make_client(simulator) as client, open_batch(path) as batch:
            twin = (await client.submit(work_of(await batch.item(key)))).task_id
            [own, *_] = (charge.task_id for charge in simulator.ledger.paid)

            matches = await batch.resolve_tasks(own, twin, client=client)

            assert [(match.key, match.candidates) for match in matches] == [("", (key,))] * 2
            assert "2 tasks were submitted like 1 uncertain film" in matches[0].reason
            assert (await batch.item(key)).state is ItemState.UNCERTAIN
            [match] = await batch.resolve_tasks(own, client=client)
            assert match.key == key


async def test_a_task_that_cannot_be_looked_up_keeps_no_other_from_its_film(
    tmp_path: Path,
) -> None:
    """It is asked for again another time; the same ids do no harm. (A17)"""
    path = tmp_path / "b.db"
    async with simulated_service() as simulator:
        keys = await in_doubt(simulator, path, [True] * 3)
        async with make_client(simulator, retry_for=5) as client, open_batch(path) as batch:
            tasks = [charge.task_id for charge in simulator.ledger.paid]
            simulator.script("record", [Fault.code(500)] * 20, task_id=tasks[0])

            matches = await batch.resolve_tasks(*tasks, client=client)

            assert [match.key for match in matches] == ["", *keys[1:]]
            assert [match.unanswered for match in matches] == [True, False, False]
            assert matches[0].reason.startswith("it could not be looked up: ")
            simulator.clear_scripts()
            again = await batch.resolve_tasks(*tasks, client=client)
            assert [match.key for match in again] == keys


@pytest.mark.parametrize("code", [401, 500])
async def test_without_any_answer_no_task_is_matched(tmp_path: Path, code: int) -> None:
    """The error is raised, once for all of them. (A17)"""
    path = tmp_path / "b.db"
    async with simulated_service() as simulator:
        await in_doubt(simulator, path, [True] * 2)
        async with make_client(simulator, retry_for=5) as client, open_batch(path) as batch:
            tasks = [charge.task_id for charge in simulator.ledger.paid]
            simulator.script("record", [Fault.code(code)] * 50)
            with pytest.raises(ApikleyError) as raised:
                await batch.resolve_tasks(*tasks, client=client)
            assert raised.value.code == code
            assert set((await states(batch)).values()) == {ItemState.UNCERTAIN}


async def test_a_key_that_is_refused_meanwhile_ends_the_looking_up(tmp_path: Path) -> None:
    """Every other task would be refused as well; what was seen before is bound. (A17)"""
    path = tmp_path / "b.db"
    async with simulated_service() as simulator:
        keys = await in_doubt(simulator, path, [True] * 3)
        async with make_client(simulator) as client, open_batch(path) as batch:
            tasks = [charge.task_id for charge in simulator.ledger.paid]
            simulator.script("record", [Fault.code(401)], task_id=tasks[1])

            matches = await batch.resolve_tasks(*tasks, client=client)

            assert [match.key for match in matches] == [keys[0], "", ""]
            assert [match.unanswered for match in matches] == [False, True, True]


async def test_a_task_that_cannot_be_looked_up_may_be_a_rival(tmp_path: Path) -> None:
    """More tasks than films: one is somebody else's, and nobody has seen which. (A17)"""
    path = tmp_path / "b.db"
    async with simulated_service() as simulator:
        [key] = await in_doubt(simulator, path, [True])
        async with make_client(simulator, retry_for=5) as client, open_batch(path) as batch:
            twin = (await client.submit(work_of(await batch.item(key)))).task_id
            [own, *_] = (charge.task_id for charge in simulator.ledger.paid)
            simulator.script("record", [Fault.code(500)] * 20, task_id=own)

            matches = await batch.resolve_tasks(own, twin, client=client)

            assert [(match.key, match.candidates) for match in matches] == [("", ()), ("", (key,))]
            assert "1 task that could not be looked up may be the same film" in matches[1].reason
            assert (await batch.item(key)).state is ItemState.UNCERTAIN


async def test_a_task_of_another_submission_is_not_bound_unasked(tmp_path: Path) -> None:
    """Of the same content, but older than the film, or with a callback of somebody else. (A17)"""
    path = tmp_path / "b.db"
    async with simulated_service() as simulator:
        async with make_client(simulator) as client:
            older = (await client.submit(board("k0"))).task_id
            await asyncio.sleep(3600)
            other = await client.submit(board("k0"), callback_url="https://other.test/token")
        simulator.script("create", [Fault.RESET])
        async with make_client(simulator) as client, open_batch(path) as batch:
            await batch.add([("k0", board("k0"))])
            await run_batch(batch, client, folder=tmp_path)

            matches = await batch.resolve_tasks(older, other.task_id, client=client)

            assert [(match.key, match.candidates) for match in matches] == [("", ("k0",))] * 2
            assert "but before" in matches[0].reason
            assert "callback of another submission" in matches[1].reason
            assert (await batch.item("k0")).state is ItemState.UNCERTAIN


async def test_a_film_that_is_sent_while_tasks_are_matched_is_not_taken_for_an_old_one(
    tmp_path: Path,
) -> None:
    """Another process sends it after the films were read: it is matched the next time. (A17)"""

    class BusyJournal(Journal):
        """One in which something happens whenever its attempts are read."""

        meanwhile: Callable[[], Awaitable[object]] | None = None

        async def attempts(self, key: str | None = None) -> Sequence[Mapping[str, Any]]:
            rows = await super().attempts(key)
            if (act := self.meanwhile) is not None:
                self.meanwhile = None
                await act()
            return rows

    clock = LoopClock()
    async with simulated_service() as simulator, make_client(simulator) as client:
        older = (await client.submit(board("k0"))).task_id
        await asyncio.sleep(3600)
        journal = await BusyJournal.open(tmp_path / "b.db", clock=clock, shared=True)
        assert isinstance(journal, BusyJournal)
        batch = Batch(journal, clock=clock)
        await batch.add([("k0", board("k0"))])
        await batch.check_account(client)
        simulator.script("create", [Fault.RESET_AFTER])
        other = Batch(journal, clock=clock)
        journal.meanwhile = lambda: run_batch(other, client, folder=tmp_path)

        [match] = await batch.resolve_tasks(older, client=client)

        assert not match.key
        assert await states(batch) == {"k0": ItemState.UNCERTAIN}
        await journal.aclose()


@pytest.mark.parametrize("called", [False, True])
async def test_tasks_of_attempts_that_a_journal_has_lost_find_their_films(
    called: bool, tmp_path: Path
) -> None:
    """Nobody knows when those were sent: only that it was before the copy was adopted. (A17)"""
    path, copy = tmp_path / "b.db", tmp_path / "copy.db"
    async with simulated_service() as simulator:
        options = {"callback": UrlOnly()} if called else {}
        async with make_client(simulator, **options) as client:
            async with open_batch(path) as batch:
                await batch.add(films(2))
                await batch.backup(copy)
                await run_batch(batch, client, folder=tmp_path)
            tasks = [charge.task_id for charge in simulator.ledger.paid]
            path.unlink()
            await asyncio.sleep(3600)
            async with open_batch(copy, adopt=True) as batch:
                matches = await batch.resolve_tasks(*tasks, client=client)

    if called:  # its token is lost as well, so it may be that of another batch
        assert [(match.key, match.candidates) for match in matches] == [
            ("", ("k0",)),
            ("", ("k1",)),
        ]
        assert "or of one that this journal has lost" in matches[0].reason
    else:
        assert [(match.key, match.reason) for match in matches] == [("k0", ""), ("k1", "")]


@pytest.mark.parametrize("ids", ["ab", "ba", "a b", "b a"])
async def test_films_of_one_content_get_their_tasks_whoever_calls_back(
    ids: str, tmp_path: Path
) -> None:
    """Either film may get either task; none of the two is left over. (A17)"""
    path = tmp_path / "b.db"
    async with simulated_service() as simulator, open_batch(path) as batch:
        await batch.add([("a", board("x")), ("b", board("x"))], allow_duplicates=True)
        simulator.script("create", [Fault.RESET_AFTER] * 2)
        async with make_client(simulator, callback=UrlOnly()) as client:
            await run_batch(batch, client, folder=tmp_path, keys=["a"])
        async with make_client(simulator) as client:
            await run_batch(batch, client, folder=tmp_path, keys=["b"])
            tasks = dict(
                zip("ab", (charge.task_id for charge in simulator.ledger.paid), strict=True)
            )

            for some in ids.split():
                await batch.resolve_tasks(*(tasks[key] for key in some), client=client)

            bound = {item.task_id async for item in batch.items(ItemState.SUBMITTED)}
            assert bound == {*tasks.values()}


async def test_an_image_of_a_lost_attempt_is_for_a_person_to_compare(tmp_path: Path) -> None:
    """Where it was uploaded to is lost as well; all else is compared. (A17)"""
    path, copy, image = tmp_path / "b.db", tmp_path / "copy.db", tmp_path / "a.png"
    image.write_bytes(png())
    async with simulated_service() as simulator, make_client(simulator) as client:
        async with open_batch(path) as batch:
            shots = {key: [Shot(f"The scene of {key}.", 5)] for key in ("k0", "k1")}
            works = ((key, Storyboard(shots[key], duration=10, image=image)) for key in shots)
            await batch.add(works)
            await batch.backup(copy)
            await run_batch(batch, client, folder=tmp_path)
        other = (await client.submit(board("k0"))).task_id
        *paid, _ = simulator.ledger.paid
        own = {key_of_request(charge.body): charge.task_id for charge in paid}
        tasks = (own["k0"], own["k1"], other)
        path.unlink()
        async with open_batch(copy, adopt=True) as batch:
            first, second, third = await batch.resolve_tasks(*tasks, client=client)
            item = await batch.resolve("k0", task_id=own["k0"], client=client, force=True)

    assert [(match.key, match.candidates) for match in (first, second)] == [
        ("", ("k0",)),
        ("", ("k1",)),
    ]
    assert "the journal has lost with which image" in first.reason
    assert (first.compared, third.task_id, third.candidates) == (False, other, ())
    assert item.state is ItemState.SUBMITTED


async def test_a_task_that_does_not_repeat_its_request_is_matched_with_nothing(
    tmp_path: Path,
) -> None:
    """Nothing is guessed: a person may insist. (A17)"""
    path = tmp_path / "b.db"
    async with simulated_service() as simulator:
        await in_doubt(simulator, path, [True, True])
        task_id = simulator.ledger.paid[0].task_id
        simulator.script("record", [Fault.TORN_PARAM])
        async with make_client(simulator) as client, open_batch(path) as batch:
            [match] = await batch.resolve_tasks(task_id, client=client)

    assert (match.key, match.candidates, match.compared) == ("", ("k0", "k1"), False)
    assert "does not repeat its request" in match.reason


async def test_an_uncertain_film_is_submitted_again_or_dropped_by_a_person(tmp_path: Path) -> None:
    """`resubmit` may pay twice and says who did it; `drop` gives up. (A18)"""
    path, folder = tmp_path / "b.db", tmp_path / "films"
    async with simulated_service() as simulator:
        await in_doubt(simulator, path, [False, True, True])
        async with make_client(simulator) as client, open_batch(path) as batch:
            await batch.resubmit("k0")
            await batch.resubmit("k1")
            await batch.drop("k2")
            await run_batch(batch, client, folder=folder)

            stand = Counter((await states(batch)).values())
            assert stand == {ItemState.DONE: 2, ItemState.DROPPED: 1}
            assert await batch.verify() == []
            status = await batch.status()
            assert status.at_risk + status.unpriced > 0
        async with open_batch(path) as batch:
            events = await batch.store.events()  # type: ignore[attr-defined]
            assert [e["key"] for e in events if e["event"] == "resubmit" and e["by"]] == [
                "k0",
                "k1",
            ]
    assert len(simulator.ledger.paid) == 4


async def test_a_decision_that_does_not_apply_is_refused(tmp_path: Path) -> None:
    """What is done stays done, and the message says where the item stands."""
    async with (
        simulated_service() as simulator,
        make_client(simulator) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        await batch.add(films(1))
        await run_batch(batch, client, folder=tmp_path)

        for decide in (batch.drop, batch.resubmit, batch.retry, batch.revive):
            with pytest.raises(ManifestError, match=r"k0: .*done"):
                await decide("k0")
        with pytest.raises(KeyError):
            await batch.drop("nobody")


async def test_a_decision_in_the_middle_of_a_run(tmp_path: Path) -> None:
    """A planned film that is dropped while others run is not made, and disturbs nobody."""
    async with (
        simulated_service() as simulator,
        make_client(simulator, limiter=RateLimiter(1, 10, clock=LoopClock())) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        await batch.add(films(4))
        running = asyncio.create_task(run_batch(batch, client, folder=tmp_path))
        await asyncio.sleep(5)

        await batch.drop("k3")
        await running

        assert Counter((await states(batch)).values()) == {ItemState.DONE: 3, ItemState.DROPPED: 1}
        assert len(simulator.ledger.paid) == 3


async def test_a_batch_that_is_left_open_by_a_break_is_closed_well(tmp_path: Path) -> None:
    """Breaking off the loop and closing at once loses nothing: both wait for what is out. (A10)"""
    async with simulated_service() as simulator:
        await slow_answers(simulator, 5.0)
        async with make_client(simulator) as client, open_batch(tmp_path / "b.db") as batch:
            await batch.add(films(5))

            async def consume() -> None:
                async for _ in batch.run(client, folder=tmp_path, every_change=True):
                    pass

            consumer = asyncio.create_task(consume())
            await asyncio.sleep(1)
            consumer.cancel()
        await asyncio.wait({consumer})
        async with open_batch(tmp_path / "b.db") as batch:
            assert set((await states(batch)).values()) == {ItemState.SUBMITTED}


def test_a_batch_is_only_named_until_it_is_entered(tmp_path: Path) -> None:
    """`Batch.open` touches nothing: the journal is made by `async with`."""
    Batch.open(tmp_path / "b.db")
    assert list(tmp_path.iterdir()) == []

"""Films announced by signed callbacks, and lost submissions found by them: all with real sockets.

The real client, the real receiver and the real simulator talk over sockets, in virtual time.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from rawserver import reserved_port
from volume import volume

from apikley_async import Client, Environment, Shot, Storyboard, SubmissionUncertainError
from apikley_async.batch import Batch, ItemState
from apikley_async.simulator import Constant, Fault, Lognormal, RandomFaults, Simulator, Terms
from apikley_async.testing import LoopClock
from apikley_async.webhook import Callback, Inbox, Receiver

pytestmark = pytest.mark.virtual

KEY = "a word that signs"
KITTEN = Storyboard([Shot("A kitten.", 5)], duration=10)
LOST_ANSWERS = {
    Fault.RESET_AFTER: 0.04,
    Fault.HANG_AFTER: 0.02,
    Fault.HTTP_502_AFTER: 0.03,
    Fault.TRUNCATED: 0.03,
    Fault.HTML_200: 0.03,
    Fault.NO_TASK_ID: 0.02,
    Fault.RESET: 0.03,
    Fault.HTTP_503: 0.02,
}
COUNT = volume(40, 100)
FILMS = int(os.environ.get("APIKLEY_CALLED_FILMS", volume(64, 150)))


def world(
    terms: Terms | None = None, *, faults: RandomFaults | None = None, key: str | None = KEY
) -> Simulator:
    return Simulator(
        terms or Terms(limit=None, max_running=None, duration=Constant(60)),
        faults=faults,
        webhook_key=key,
        hosts=("localhost",),
        clock=LoopClock(),
        rng=random.Random(7),
    )


@contextlib.asynccontextmanager
async def called(
    simulator: Simulator, port: int | None = None, **options: Any
) -> AsyncIterator[Client]:
    """A client whose callbacks come in."""
    with contextlib.nullcontext(port) if port else reserved_port() as port:
        callback = Callback(f"http://127.0.0.1:{port}/hooks", hmac_keys=[KEY], clock=LoopClock())
        client = Client(
            simulator.api_key,
            base_url=simulator.base_url,
            callback=callback,
            environment=Environment(clock=LoopClock(), rng=random.Random(1)),
            **options,
        )
        async with client, callback.serve(port=port):
            yield client


def now() -> float:
    return asyncio.get_running_loop().time()


@pytest.fixture
def port() -> Iterator[int]:
    with reserved_port() as port:
        yield port


async def test_after_a_restart_callbacks_reach_the_job_again(port: int) -> None:
    """With its id and its token: they are answered, and the film is noticed at once."""
    async with world() as simulator:
        async with called(simulator, port=port) as client:
            job = await client.submit(KITTEN)
            task_id, token = job.task_id, job.token
            url = (simulator.ledger.creations[0].body or {})["callBackUrl"]
            assert token == url.rpartition("/")[2]

        async with called(simulator, port=port) as later:
            again = later.job(task_id, token=token)
            await again

            assert again.token == token
            assert now() < 62
            assert simulator.ledger.polls[task_id] == 2
            await asyncio.sleep(200)
            assert not [each for each in simulator.ledger.faults if each.endpoint == "callback"]
            assert [each.status for each in simulator.ledger.callbacks] == [200]


async def test_a_hundred_films_are_announced() -> None:
    """Each is noticed at once and with fewer than two looks. (W4)"""
    terms = Terms(limit=None, max_running=None, duration=Lognormal(120, 0.5))
    async with world(terms) as simulator, called(simulator) as client:
        results = [o.unwrap() async for o in client.generate_many([KITTEN] * COUNT)]

        assert len({result.task_id for result in results}) == COUNT
        assert sum(simulator.ledger.polls.values()) < 2 * COUNT
        assert {call.status for call in simulator.ledger.callbacks} == {200}


@pytest.mark.parametrize("signed", [True, False])
async def test_without_any_callback_all_films_are_found(signed: bool) -> None:
    """All are lost, or signed with another key: looking finds every film. (W1, W13)"""
    faults = RandomFaults(seed=1, callback={Fault.LOST: 1.0}) if signed else None
    async with (
        world(faults=faults, key=KEY if signed else "another key") as simulator,
        called(simulator) as client,
    ):
        results = [o.unwrap() async for o in client.generate_many([KITTEN] * COUNT)]

        assert len({result.task_id for result in results}) == COUNT
        assert now() < 60 + 300
        answers = {call.status for call in simulator.ledger.callbacks}
        assert answers == ({None} if signed else {401})


@pytest.mark.parametrize(
    ("lost", "least"),
    [({}, 0.99), ({Fault.MISSED: 0.15}, 0.95), ({Fault.LOST: 0.15}, 0.75)],
    ids=["none lost", "15 % of deliveries lost", "15 % lost for good"],
)
async def test_lost_submissions_are_found_without_a_person(
    lost: dict[Fault, float], least: float
) -> None:
    """All whose callback comes, however late; no film is bound that is not ours. (A1, W13)"""
    faults = RandomFaults(seed=5, create=LOST_ANSWERS, callback=lost)
    async with world(faults=faults) as simulator, called(simulator, max_running=400) as client:
        outcomes = [outcome async for outcome in client.generate_many([KITTEN] * FILMS)]

        ledger = simulator.ledger
        paid = {charge.task_id for charge in ledger.paid}
        bound = {o.result.task_id for o in outcomes if o.result is not None}
        doubtful = len(paid) - sum(creation.fault == "ok" for creation in ledger.creations)
        assert doubtful > FILMS * 0.08, "hardly an answer was lost: the test proves nothing"
        assert bound <= paid
        assert 1 - len(paid - bound) / doubtful >= least
        assert len(ledger.creations) == FILMS
        announced = {call.task_id for call in ledger.callbacks if call.status == 200}
        assert not (paid - bound) & announced
        errors = {type(o.error) for o in outcomes if o.error is not None}
        assert errors <= {SubmissionUncertainError}


async def test_a_receiver_in_another_place_is_as_good(port: int, tmp_path: Path) -> None:
    """It keeps callbacks in an inbox, while no batch runs too; the batch takes them from there."""
    url, inbox = f"http://127.0.0.1:{port}/hooks", tmp_path / "calls.db"
    boards = [(f"k{n}", Storyboard([Shot(f"Number {n}.", 5)], duration=10)) for n in range(4)]

    def customer(simulator: Simulator) -> Client:
        callback = Callback(url, hmac_keys=[KEY], inbox=inbox, clock=LoopClock())
        return Client(
            simulator.api_key,
            base_url=simulator.base_url,
            callback=callback,
            environment=Environment(
                clock=LoopClock(), rng=random.Random(len(simulator.ledger.creations))
            ),
        )

    async with (
        world() as simulator,
        Inbox(inbox) as kept,
        Receiver(kept, hmac_keys=[KEY], clock=LoopClock()).serve(port=port),
    ):
        simulator.script("create", [Fault.OK, Fault.RESET_AFTER, Fault.HANG_AFTER, Fault.OK])
        async with (
            customer(simulator) as client,
            Batch.open(tmp_path / "b.db", clock=LoopClock()) as batch,
        ):
            await batch.add(boards)
            running = asyncio.create_task(anext(batch.run(client, folder=tmp_path / "films")))
            while len(simulator.ledger.paid) < 4:  # noqa: ASYNC110 - the ledger raises no events
                await asyncio.sleep(0.1)
            running.cancel()
            await asyncio.wait({running})
        await asyncio.sleep(600)  # nobody runs the batch meanwhile

        async with (
            customer(simulator) as client,
            Batch.open(tmp_path / "b.db", clock=LoopClock()) as batch,
        ):
            async for _ in batch.run(client, folder=tmp_path / "films"):
                pass
            assert (await batch.status()).counts == {ItemState.DONE: 4}
            assert await batch.verify() == []
        assert len(simulator.ledger.creations) == 4

"""Callbacks and uncertain submissions in rare orders: late, early, twice, after a restart.

What they have in common: whatever was paid is bound, or reported by name.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import queue
import random
import sqlite3
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any

import attrs
import pytest
from batch.helpers import films, key_of_request, open_batch, run_batch, states
from manual_callbacks import ManualCallbacks
from threads import another_loop

from apikley_async import (
    Backoff,
    Client,
    Environment,
    Shot,
    Storyboard,
    SubmissionUncertainError,
    SystemClock,
)
from apikley_async.batch import Batch, ItemState
from apikley_async.errors import JobTimeoutError, JournalError
from apikley_async.simulator import Constant, Fault, Simulator, Terms
from apikley_async.testing import LoopClock, Reply, Request, ScriptedTransport, reply
from apikley_async.webhook import Callback, Inbox

virtual = pytest.mark.virtual
KITTEN = Storyboard([Shot("A kitten.", 5)], duration=10)
TOKEN = "a" * 32


def world(duration: float = 60.0, *, limited: bool = True) -> Simulator:
    terms = Terms(duration=Constant(duration), callbacks="none")
    if not limited:
        terms = attrs.evolve(terms, limit=None, max_running=None)
    return Simulator(terms, clock=LoopClock(), rng=random.Random(7))


def customer(
    simulator: Simulator,
    callbacks: ManualCallbacks | None,
    pace: Backoff | None = None,
    max_running: int = 100,
) -> Client:
    return Client(
        simulator.api_key,
        base_url=simulator.base_url,
        callback=callbacks,
        polling=pace,
        max_running=max_running,
        environment=Environment(
            clock=LoopClock(), rng=random.Random(len(simulator.ledger.creations) + 100)
        ),
    )


def now() -> float:
    return asyncio.get_running_loop().time()


def url_of(simulator: Simulator, number: int) -> str:
    body = simulator.ledger.creations[number].body or {}
    return str(body["callBackUrl"])


def token_of(simulator: Simulator, number: int = 0) -> str:
    return url_of(simulator, number).rpartition("/")[2][:32]


async def until(happened: Callable[[], object]) -> None:
    while not happened():  # noqa: ASYNC110 - the ledger raises no events
        await asyncio.sleep(0.1)


async def end(running: asyncio.Task[Any]) -> None:
    running.cancel()
    await asyncio.wait({running})


async def lost_one(
    simulator: Simulator,
    callbacks: ManualCallbacks,
    path: Path,
    *,
    named: bool = False,
    dropped: bool = False,
) -> None:
    """A run that was left with its one film uncertain; *named*, but not yet read."""
    async with customer(simulator, callbacks) as client, open_batch(path / "b.db") as batch:
        await batch.add(films(1))
        simulator.script("create", [Fault.RESET_AFTER])
        simulator.script("record", [Fault.HTTP_500] * 30)
        running = asyncio.create_task(run_batch(batch, client, folder=path / "films"))
        await until(lambda: simulator.ledger.paid)
        await asyncio.sleep(3)
        if named:
            await callbacks.deliver(token_of(simulator), simulator.ledger.paid[0].task_id)
        await asyncio.sleep(1)
        await end(running)
        if dropped:
            await batch.resubmit("k0")
    simulator.clear_scripts()


# --- a film that is paid and neither bound nor reported ------------------------------------------


class Later(SystemClock):
    """An hour later, by the calendar."""

    def wall(self) -> float:
        return super().wall() + 3600


async def test_what_lies_in_the_inbox_is_read_before_an_old_doubt_is_given_up(
    tmp_path: Path,
) -> None:
    """The run after a night finds what the receiver has kept, among some thousands. (W8)"""
    inbox, url = tmp_path / "i.db", "http://127.0.0.1:1/h"
    async with Simulator(Terms(duration=Constant(60), callbacks="none"), speed=100) as simulator:

        def called() -> Client:
            callback = Callback(url, inbox=inbox)
            return Client(simulator.api_key, base_url=simulator.base_url, callback=callback)

        simulator.script("create", [Fault.RESET_AFTER])
        async with called() as client, Batch.open(tmp_path / "b.db") as batch:
            await batch.add([("k0", KITTEN)])
            running = asyncio.create_task(run_batch(batch, client, folder=tmp_path / "films"))
            async with asyncio.timeout(10):
                await until(lambda: simulator.ledger.paid)
            await asyncio.sleep(0.2)
            await end(running)
        async with Inbox(inbox) as kept:
            with contextlib.closing(sqlite3.connect(inbox)) as db, db:
                rows = [(f"{n:032x}", "task_x") for n in range(5_000)]
                db.executemany("INSERT INTO callback (token, task_id) VALUES (?, ?)", rows)
                db.execute("UPDATE fact SET value = ? WHERE name = 'count'", (len(rows),))
            await kept.add(token_of(simulator), simulator.ledger.paid[0].task_id)
        simulator.finish(simulator.ledger.paid[0].task_id)

        async with called() as client, Batch.open(tmp_path / "b.db", clock=Later()) as batch:
            await run_batch(batch, client, folder=tmp_path / "films")
            assert await states(batch) == {"k0": ItemState.DONE}


@virtual
async def test_a_lost_submission_that_was_sent_twice_is_noticed() -> None:
    """Both tasks are named before either is read: the second is reported too. (A14)"""
    callbacks = ManualCallbacks()
    async with world() as simulator, customer(simulator, callbacks) as client:
        simulator.script("create", [attrs.evolve(Fault.RESET_AFTER, times=2)])
        making = asyncio.create_task(client.generate(KITTEN))
        await until(lambda: len(simulator.ledger.paid) == 2)
        await asyncio.sleep(61)
        for charge in simulator.ledger.paid:
            await callbacks.deliver(callbacks.tokens[0], charge.task_id)

        reported = {(await making).task_id}
        await asyncio.sleep(60)
        assert reported | {job.task_id for job in client.unclaimed} == {
            charge.task_id for charge in simulator.ledger.paid
        }


@virtual
async def test_an_older_attempt_does_not_settle_a_newer_one(tmp_path: Path) -> None:
    """Submitted again and uncertain again: the first one's callback settles the first. (I2)"""
    callbacks = ManualCallbacks()
    async with world(300, limited=False) as simulator:
        folder = tmp_path / "films"
        async with (
            customer(simulator, callbacks, Backoff()) as client,
            open_batch(tmp_path / "b.db") as batch,
        ):
            await batch.add(films(30))
            simulator.script("create", [*[Fault.OK] * 25, Fault.RESET_AFTER])
            running = asyncio.create_task(run_batch(batch, client, folder=folder))
            await until(lambda: len(simulator.ledger.paid) == 30)
            await asyncio.sleep(5)
            await end(running)
            [key] = [k for k, s in (await states(batch)).items() if s is ItemState.UNCERTAIN]
        scenes = [key_of_request(creation.body) for creation in simulator.ledger.creations]
        first = scenes.index(key)
        async with (
            customer(simulator, callbacks, Backoff()) as client,
            open_batch(tmp_path / "b.db") as batch,
        ):
            running = asyncio.create_task(run_batch(batch, client, folder=folder, max_running=1))
            await asyncio.sleep(2)
            await batch.resubmit(key)
            simulator.script("create", [Fault.RESET_AFTER])
            await until(lambda: len(simulator.ledger.paid) == 31)
            await asyncio.sleep(5)
            task_id = simulator.ledger.creations[first].task_id or ""
            await callbacks.deliver(token_of(simulator, first), task_id)
            await running

            attempts = await batch.store.attempts(key)
            second = simulator.ledger.paid[-1].task_id
            reported = {job.task_id for job in client.unclaimed} | {(await batch.item(key)).task_id}
            assert second in reported or any(each["state"] == "unknown" for each in attempts)


@virtual
async def test_the_callback_of_what_is_submitted_again_meanwhile_is_told(tmp_path: Path) -> None:
    """A person decides while the run still listens, and then the callback comes. (A18)"""
    callbacks = ManualCallbacks()
    async with (
        world() as simulator,
        customer(simulator, callbacks) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        await batch.add(films(1))
        simulator.script("create", [Fault.RESET_AFTER])
        running = asyncio.create_task(run_batch(batch, client, folder=tmp_path / "films"))
        await until(lambda: simulator.ledger.paid)
        await asyncio.sleep(5)
        await batch.resubmit("k0")
        await callbacks.deliver(token_of(simulator), simulator.ledger.paid[0].task_id)
        await running
        await run_batch(batch, client, folder=tmp_path / "films")

        assert [j.task_id for j in client.unclaimed] == [simulator.ledger.paid[0].task_id]


@virtual
async def test_what_was_named_before_it_was_given_up_is_told(tmp_path: Path) -> None:
    """The journal's inbox knows the first task; it is submitted again all the same. (A18)"""
    callbacks = ManualCallbacks()
    async with world() as simulator:
        await lost_one(simulator, callbacks, tmp_path, named=True, dropped=True)
        async with customer(simulator, callbacks) as client, open_batch(tmp_path / "b.db") as batch:
            running = asyncio.create_task(run_batch(batch, client, folder=tmp_path / "films"))
            await until(lambda: len(simulator.ledger.paid) == 2)
            await callbacks.deliver(token_of(simulator), simulator.ledger.paid[0].task_id)
            await running

            assert [j.task_id for j in client.unclaimed] == [simulator.ledger.paid[0].task_id]


@virtual
async def test_a_twin_that_cannot_be_read_at_once_is_read_later() -> None:
    """One outage does not hide a film that was paid twice. (A14)"""
    callbacks = ManualCallbacks()
    async with world(100) as simulator, customer(simulator, callbacks) as client:
        job = await client.submit(KITTEN)
        async with customer(simulator, None) as proxy:
            twin = await proxy.submit(KITTEN, callback_url=url_of(simulator, 0))
        simulator.script("record", [Fault.HTTP_500], task_id=twin.task_id)
        for _ in range(3):
            await callbacks.deliver(callbacks.tokens[0], twin.task_id)
            await asyncio.sleep(30)
        await job

        assert [each.task_id for each in client.unclaimed] == [twin.task_id]


@virtual
async def test_a_refusal_of_what_has_called_already_is_not_believed() -> None:
    """A 429 that comes after the callback: the first film is reported, not forgotten. (A14)"""
    callbacks = ManualCallbacks()
    async with world(1) as simulator, customer(simulator, callbacks) as client:
        simulator.script("create", [attrs.evolve(Fault.code(429), processed=True, delay=10.0)])
        making = asyncio.create_task(client.generate(KITTEN))
        await until(lambda: simulator.ledger.paid)
        await asyncio.sleep(2)
        first = simulator.ledger.paid[0].task_id
        assert await callbacks.deliver(token_of(simulator), first)

        reported = {(await making).task_id, *(job.task_id for job in client.unclaimed)}
        assert first in reported


# --- a callback that came and was not dispatched -------------------------------------------------


@virtual
async def test_what_arrives_after_the_batch_was_closed_is_not_lost(tmp_path: Path) -> None:
    """The client lives on, as in a server; the batch is opened again. (W8)"""
    callbacks = ManualCallbacks()
    async with world() as simulator, customer(simulator, callbacks) as client:
        async with open_batch(tmp_path / "b.db") as batch:
            await batch.add(films(1))
            simulator.script("create", [Fault.RESET_AFTER])
            running = asyncio.create_task(run_batch(batch, client, folder=tmp_path / "films"))
            await until(lambda: simulator.ledger.paid)
            await asyncio.sleep(5)
            await end(running)
        with contextlib.suppress(JournalError):
            await callbacks.deliver(token_of(simulator), simulator.ledger.paid[0].task_id)
        await asyncio.sleep(3600)
        async with open_batch(tmp_path / "b.db") as batch:
            await run_batch(batch, client, folder=tmp_path / "films")
            assert await states(batch) == {"k0": ItemState.DONE}


@virtual
async def test_an_answer_that_proves_nothing_is_asked_for_again() -> None:
    """Without its `param` a task is neither ours nor not ours. (A16)"""
    callbacks = ManualCallbacks()
    async with world() as simulator, customer(simulator, callbacks) as client:
        simulator.script("create", [Fault.RESET_AFTER])
        simulator.script("record", [Fault.code(501)])
        making = asyncio.create_task(client.generate(KITTEN))
        await until(lambda: simulator.ledger.paid)
        for _ in range(2):
            await asyncio.sleep(60)
            await callbacks.deliver(callbacks.tokens[0], simulator.ledger.paid[0].task_id)

        assert (await making).task_id == simulator.ledger.paid[0].task_id


@virtual
async def test_one_outage_at_the_start_does_not_hide_a_named_task(tmp_path: Path) -> None:
    """An old doubt whose task the journal knows is asked about until it is answered. (P1)"""
    callbacks = ManualCallbacks()
    async with world() as simulator:
        await lost_one(simulator, callbacks, tmp_path, named=True)
        simulator.script("record", [Fault.HTTP_500])
        await asyncio.sleep(3600)
        async with customer(simulator, callbacks) as client, open_batch(tmp_path / "b.db") as batch:
            await run_batch(batch, client, folder=tmp_path / "films")
            assert await states(batch) == {"k0": ItemState.DONE}


@virtual
@pytest.mark.parametrize("slow", [0.0, 3.0])
async def test_what_could_not_be_kept_is_to_be_sent_again(slow: float) -> None:
    """A journal that is full or busy answers 503; 404 and 200 end the sender's tries. (W12)"""
    callback = Callback("https://hooks.test/x", clock=LoopClock())

    async def hear(token: str, task_id: str) -> bool:
        await asyncio.sleep(slow)
        raise JournalError("the disk is full")

    deaf = callback.listen(hear)
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b'{"data": {"taskId": "task_1"}}'}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": f"/{TOKEN}", "headers": []}
    await callback.asgi_app()(scope, receive, send)
    await asyncio.sleep(5)
    deaf()

    assert sent[0]["status"] == 503


# --- waiting too long, and what is held meanwhile ------------------------------------------------


@virtual
async def test_a_calendar_that_is_set_back_does_not_prolong_the_wait(tmp_path: Path) -> None:
    """The wait for a callback is half an hour at most, whatever the wall clock says. (I9)"""

    class Yesterday(LoopClock):
        def wall(self) -> float:
            return super().wall() - 86_400

    callbacks = ManualCallbacks()
    async with world() as simulator:
        await lost_one(simulator, callbacks, tmp_path)
        began, path = now(), tmp_path / "b.db"
        async with (
            customer(simulator, callbacks) as client,
            Batch.open(path, clock=Yesterday()) as b,
        ):
            await run_batch(b, client, folder=tmp_path / "films")

        assert now() - began < 1900


@virtual
async def test_a_place_rests_half_an_hour_after_the_attempt_and_not_after_the_wait() -> None:
    """Thirty minutes of waiting for a callback count. (W13)"""
    callbacks = ManualCallbacks()
    async with world() as simulator, customer(simulator, callbacks, max_running=1) as client:
        simulator.script("create", [Fault.RESET])
        ends = [now() async for _ in client.generate_many([KITTEN] * 2)]

        assert ends[1] < 1800 + 400


@virtual
async def test_a_time_out_counts_from_the_submission() -> None:
    """Waiting for the callback is a part of `generate(timeout=)`."""
    callbacks = ManualCallbacks()
    async with world(10_000) as simulator, customer(simulator, callbacks) as client:
        simulator.script("create", [Fault.RESET_AFTER])
        making = asyncio.create_task(client.generate(KITTEN, timeout=100))
        await until(lambda: simulator.ledger.paid)
        await asyncio.sleep(90)
        await callbacks.deliver(callbacks.tokens[0], simulator.ledger.paid[0].task_id)
        with pytest.raises(JobTimeoutError):
            await making

        assert now() < 110


@virtual
async def test_recovering_ends_in_time_while_it_asks() -> None:
    """A service that hangs does not prolong `recover(timeout=)`. (C1)"""
    callbacks = ManualCallbacks()
    async with world() as simulator, customer(simulator, callbacks) as client:
        simulator.script("create", [Fault.RESET_AFTER])
        with pytest.raises(SubmissionUncertainError):
            _ = await client.submit(KITTEN)
        simulator.script("record", [Fault.HANG] * 10)
        await callbacks.deliver(callbacks.tokens[0], "task_a")
        await callbacks.deliver(callbacks.tokens[0], "task_b")
        began = now()
        with pytest.raises(SubmissionUncertainError):
            _ = await client.attempts.recover(callbacks.tokens[0], timeout=1)

        assert now() - began < 5


@virtual
async def test_what_is_uncertain_is_yielded_when_the_run_is_stopped(tmp_path: Path) -> None:
    """Whoever hears of items that come to rest hears of it, as without callbacks. (A1)"""
    callbacks = ManualCallbacks()
    async with (
        world() as simulator,
        customer(simulator, callbacks, Backoff()) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        await batch.add(films(2))
        simulator.script("create", [Fault.RESET_AFTER])
        running = asyncio.create_task(run_batch(batch, client, folder=tmp_path / "films"))
        await until(lambda: len(simulator.ledger.paid) == 2)
        await asyncio.sleep(200)
        batch.stop()

        assert ItemState.UNCERTAIN in {item.state for item in await running}


# --- the rest ------------------------------------------------------------------------------------


def test_each_loop_listens_once() -> None:
    """A client whose loop has ended without `aclose` is no listener any more. (C12)"""
    callbacks = ManualCallbacks()
    client = Client("k" * 20, base_url="http://127.0.0.1:9", callback=callbacks)

    async def use() -> None:
        with contextlib.suppress(SubmissionUncertainError):
            _ = await client.attempts.recover(TOKEN, timeout=0)

    for _ in range(3):
        asyncio.run(use())

    assert len(callbacks.listeners) == 1


class DeafTransport(ScriptedTransport):
    """Sends what it is given, and gets no answer."""

    def __init__(self) -> None:
        super().__init__([])
        self.sent = asyncio.Event()

    async def send(self, request: Request, *, on_sent: Callable[[], None] | None = None) -> Reply:
        if on_sent is not None:
            on_sent()
        self.sent.set()
        await asyncio.Event().wait()
        raise AssertionError("nothing comes")


@pytest.mark.parametrize("waits", [True, False])
def test_a_program_that_ends_at_once_is_told_of_what_was_sent_and_of_nothing_else(
    waits: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """After a second Ctrl-C asyncio.run cancels every task, and prints what they raise."""
    transport = DeafTransport()
    client = Client("k" * 20, environment=Environment(transport=transport))
    complaints: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, said: complaints.append(said))
        submitting = asyncio.create_task(client.submit(KITTEN))
        await transport.sent.wait()
        if not waits:
            await end(submitting)

    asyncio.run(main())

    assert complaints == []
    [uncertain] = client.uncertain
    assert uncertain.work == KITTEN
    assert [each.message for each in caplog.records if uncertain.token in each.message]


def test_callbacks_may_be_received_by_a_server_in_another_thread() -> None:
    """Who waits is woken in the loop where he waits."""
    callbacks, found = ManualCallbacks(), queue.Queue[str]()
    url = f"https://hooks.test/apikley/{TOKEN}"
    task = {"taskId": "task_1", "state": "waiting", "param": json.dumps({"callBackUrl": url})}
    transport = ScriptedTransport([reply(task)])
    client = Client("k" * 20, environment=Environment(transport=transport), callback=callbacks)

    async def elsewhere() -> None:
        async with client:
            found.put((await client.attempts.recover(TOKEN)).task_id)

    with another_loop(elsewhere):
        assert asyncio.run(callbacks.deliver(TOKEN, "task_1"))
        assert found.get(timeout=20) == "task_1"

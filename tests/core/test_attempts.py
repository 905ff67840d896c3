"""What callbacks are good for: news of a film, and finding submissions whose answer was lost.

The callbacks here are a test's own: what a receiver would have let through. The service is the
simulator, so that a task shows the callback URL it was made with.
"""

from __future__ import annotations

import asyncio
import copy
import errno
import logging
import random
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from manual_callbacks import ManualCallbacks

from apikley_async import (
    Attempt,
    Backoff,
    Client,
    Environment,
    Job,
    Request,
    Shot,
    Storyboard,
    StoryboardError,
    SubmissionUncertainError,
)
from apikley_async._early_callbacks import MOST_EARLY
from apikley_async._recorder import NoRecorder
from apikley_async._tokens import MOST_NAMED_TASKS
from apikley_async.errors import ClientClosedError, InsufficientCreditsError, JobTimeoutError
from apikley_async.simulator import Constant, Fault, Simulator, Terms
from apikley_async.testing import LoopClock

pytestmark = pytest.mark.virtual

KITTEN = Storyboard([Shot("A kitten.", 5)], duration=10)


def world(duration: float = 100.0) -> Simulator:
    terms = Terms(duration=Constant(duration), callbacks="none")
    return Simulator(terms, clock=LoopClock(), rng=random.Random(7))


def customer(simulator: Simulator, callbacks: ManualCallbacks | None, **options: Any) -> Client:
    return Client(
        simulator.api_key,
        base_url=simulator.base_url,
        callback=callbacks,
        environment=Environment(clock=LoopClock(), rng=random.Random(1)),
        **options,
    )


def now() -> float:
    return asyncio.get_running_loop().time()


async def until(happened: Callable[[], object]) -> None:
    while not happened():  # noqa: ASYNC110 - the ledger raises no events
        await asyncio.sleep(0.1)


# --- news ---------------------------------------------------------------------------------------


async def test_a_callback_is_followed_by_one_look() -> None:
    """A film that is announced is noticed at once, and was not asked after before. (W4)"""
    callbacks = ManualCallbacks()
    async with world(50) as simulator, customer(simulator, callbacks) as client:
        job = await client.submit(KITTEN)
        waiting = asyncio.ensure_future(job)
        await asyncio.sleep(50.5)

        assert await callbacks.deliver(callbacks.tokens[0], job.task_id)
        await waiting

        assert now() < 51.6
        assert simulator.ledger.polls[job.task_id] == 1


async def test_a_job_tells_the_token_of_its_callback_url() -> None:
    """The last part of the URL, with whatever a receiver has put behind it; None where none is."""

    class Marking(ManualCallbacks):
        def url_for(self, token: str) -> str:
            return super().url_for(token) + "-and-a-mark"

    class Query(ManualCallbacks):
        def url_for(self, token: str) -> str:
            return f"https://hooks.test/apikley?token={super().url_for(token)[-32:]}"

    async with world(50) as simulator:
        async with customer(simulator, marking := Marking()) as client:
            job = await client.submit(KITTEN)
            assert job.token == f"{marking.tokens[0]}-and-a-mark"
        async with customer(simulator, query := Query()) as client:
            assert (await client.submit(KITTEN)).token == query.tokens[0]
            elsewhere = await client.submit(KITTEN, callback_url="https://mine.test/hook")
            assert elsewhere.token is None
        async with customer(simulator, None) as client:
            assert (await client.submit(KITTEN)).token is None


async def test_a_job_that_is_taken_up_with_its_token_is_called_again() -> None:
    """Whatever of the token the receiver passes on; callbacks that came before count as well."""
    for early in (False, True):
        callbacks, later = ManualCallbacks(), ManualCallbacks()
        async with world(50) as simulator:
            begun = now()
            async with customer(simulator, callbacks) as client:
                job = await client.submit(KITTEN)
            async with customer(simulator, later) as client:
                await client.credits()
                if early:
                    await asyncio.sleep(51)
                    assert not await later.deliver(callbacks.tokens[0], job.task_id)
                again = client.job(job.task_id, token=f"{job.token}-and-a-mark")
                waiting = asyncio.ensure_future(again)
                if not early:
                    await asyncio.sleep(50.5)
                    assert await later.deliver(callbacks.tokens[0], job.task_id)
                await waiting

                assert now() - begun < 53
                assert client.job(job.task_id) is again


async def test_polling_is_as_quick_as_usual_while_somebody_follows_updates() -> None:
    """With callbacks on it is slow, but who watches a film wants to see it move."""
    async with world(100) as simulator, customer(simulator, ManualCallbacks()) as client:
        job = await client.submit(KITTEN)
        waiting = asyncio.ensure_future(job)
        await asyncio.sleep(20)
        assert simulator.ledger.polls[job.task_id] == 0
        async for snapshot in job.updates():
            if snapshot.progress:
                break
        seen = simulator.ledger.polls[job.task_id]
        assert 1 <= seen <= 20
        assert now() < 80
        await asyncio.sleep(1)
        async for _ in job.updates():
            pass
        assert now() < 125
        await waiting


async def test_what_is_no_token_is_refused_and_not_repeated() -> None:
    async with world() as simulator, customer(simulator, ManualCallbacks()) as client:
        for wrong in ("", "two words", "x" * 300):
            with pytest.raises(StoryboardError, match=r"^token: what job\.token was") as caught:
                client.job("task_1", token=wrong)
            assert not wrong or wrong not in str(caught.value)


async def test_a_job_without_its_token_is_polled_as_where_nobody_calls() -> None:
    """No callback can reach it, so it does not sleep for minutes."""
    async with world(100) as simulator:
        async with customer(simulator, ManualCallbacks()) as client:
            job = await client.submit(KITTEN)
        async with customer(simulator, ManualCallbacks()) as client:
            await client.job(job.task_id)
            assert now() < 125


async def test_without_a_callback_the_film_is_found_all_the_same() -> None:
    """Looking goes on, slowly: a lost callback costs minutes, not the film. (W13)"""
    callbacks = ManualCallbacks()
    async with world(200) as simulator, customer(simulator, callbacks) as client:
        job = await client.submit(KITTEN)
        await job

        assert now() < 200 + 300
        assert simulator.ledger.polls[job.task_id] <= 3


@pytest.mark.parametrize("said", ["its own", "another"])
async def test_news_come_by_the_token_whatever_id_is_told(said: str) -> None:
    """Whoever calls may know the task by another id; what counts is the token. (W5, W16)"""
    callbacks = ManualCallbacks()
    async with world(50) as simulator, customer(simulator, callbacks) as client:
        job = await client.submit(KITTEN)
        waiting = asyncio.ensure_future(job)
        await asyncio.sleep(50.5)

        await callbacks.deliver(
            callbacks.tokens[0], job.task_id if said == "its own" else "upstream_1"
        )

        await waiting
        assert now() < 53


async def test_a_flood_of_callbacks_is_no_flood_of_looks() -> None:
    """Twice, out of order, too early: each is a hint, and hints are spaced. (W6, W14)"""
    callbacks = ManualCallbacks()
    async with world(30) as simulator, customer(simulator, callbacks) as client:
        job = await client.submit(KITTEN)
        waiting = asyncio.ensure_future(job)
        for _ in range(2_000):
            await callbacks.deliver(callbacks.tokens[0], job.task_id)
            await asyncio.sleep(0.01)
        early = simulator.ledger.polls[job.task_id]
        await waiting

        assert early <= 21
        for _ in range(100):
            assert await callbacks.deliver(callbacks.tokens[0], job.task_id)
        await asyncio.sleep(60)
        assert simulator.ledger.polls[job.task_id] <= early + 3


async def test_a_callback_that_came_too_early_is_followed_up() -> None:
    """The service's own books may lag behind its callbacks."""
    callbacks = ManualCallbacks()
    async with world(50) as simulator, customer(simulator, callbacks) as client:
        job = await client.submit(KITTEN)
        waiting = asyncio.ensure_future(job)
        await asyncio.sleep(45)

        await callbacks.deliver(callbacks.tokens[0], job.task_id)
        await waiting

        assert now() < 45 + 1 + 25


async def test_strangers_are_not_ours() -> None:
    """A token that was never given out is about nobody's film. (W1)"""
    callbacks = ManualCallbacks()
    async with world() as simulator, customer(simulator, callbacks) as client:
        await client.submit(KITTEN)

        assert not await callbacks.deliver("f" * 32, "task_1")


async def test_a_submission_that_was_refused_is_nobody_s_film() -> None:
    """Nothing was created, so a callback about it is a stranger's. (W1)"""
    callbacks = ManualCallbacks()
    async with world() as simulator, customer(simulator, callbacks) as client:
        simulator.script("create", [Fault.code(402)])
        with pytest.raises(InsufficientCreditsError):
            await client.submit(KITTEN)

        assert not await callbacks.deliver(callbacks.tokens[0], "task_1")


async def test_a_callback_that_could_not_be_kept_is_kept_when_it_comes_again() -> None:
    """It was not answered with 200, so the service sends it again. (W8)"""
    callbacks, kept = ManualCallbacks(), list[str]()
    full = True

    async def keep(task_id: str) -> None:
        if full:
            raise OSError("No space left on device")
        kept.append(task_id)

    async with world() as simulator, customer(simulator, callbacks) as client:
        client.attempts.expect("a" * 32, keep=keep)
        with pytest.raises(OSError, match="No space left"):
            await callbacks.deliver("a" * 32, "task_1")
        full = False

        for _ in range(2):
            assert await callbacks.deliver("a" * 32, "task_1")
        assert kept == ["task_1"]


async def test_a_callback_that_came_too_early_is_kept_when_it_comes_again() -> None:
    """It was answered with 404, and is written down before it is answered with 200. (W8)"""
    callbacks, kept = ManualCallbacks(), list[str]()

    async def keep(task_id: str) -> None:
        kept.append(task_id)

    async with world() as simulator, customer(simulator, callbacks) as client:
        assert not await callbacks.deliver("a" * 32, "task_1")
        assert client.attempts.expect("a" * 32, keep=keep)

        assert await callbacks.deliver("a" * 32, "task_1")
        assert kept == ["task_1"]


async def test_a_callback_is_acknowledged_when_it_is_kept() -> None:
    """Until then the service must call again: it takes no answer for a lost call. (W8)"""
    callbacks, kept = ManualCallbacks(), []

    async def keep(task_id: str) -> None:
        await asyncio.sleep(5)
        kept.append(task_id)

    async with world() as simulator, customer(simulator, callbacks) as client:
        client.attempts.expect("a" * 32, keep=keep)

        assert await callbacks.deliver("a" * 32, "task_1")
        assert kept == ["task_1"]


async def test_a_callback_that_comes_too_early_is_not_lost() -> None:
    """A callback may come before the batch that knows its token. (W8)"""
    callbacks = ManualCallbacks()
    async with world() as simulator:
        async with customer(simulator, callbacks) as client:
            simulator.script("create", [Fault.RESET_AFTER])
            with pytest.raises(SubmissionUncertainError) as lost:
                await client.submit(KITTEN)
        (charge,) = simulator.ledger.paid

        async with customer(simulator, callbacks) as later:
            assert not await callbacks.deliver(lost.value.token, charge.task_id)
            for number in range(1_000):
                await callbacks.deliver(f"{number:032x}", "task_1")
            job = await later.attempts.recover(lost.value.token)
            for number in range(MOST_EARLY + 10):
                await callbacks.deliver(f"{number:032x}", "task_1")

            assert job.task_id == charge.task_id
            assert not later.attempts.expect(f"{9:032x}")
            assert later.attempts.expect(f"{10:032x}")


async def test_a_closed_client_receives_no_callbacks() -> None:
    """What it listened to is let go."""
    callbacks = ManualCallbacks()
    async with world() as simulator, customer(simulator, callbacks) as client:
        await client.submit(KITTEN)
        assert len(callbacks.listeners) == 1

    assert callbacks.listeners == []


async def test_missing_callbacks_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Films that end unannounced mean that callbacks do not arrive: the log says why. (W13)"""
    caplog.set_level(logging.WARNING, "apikley_async")
    callbacks = ManualCallbacks()
    async with world(200) as simulator, customer(simulator, callbacks) as client:
        async for outcome in client.generate_many([KITTEN] * 5):
            outcome.unwrap()

    reported = [record.getMessage() for record in caplog.records if "no callback" in record.message]
    assert len(reported) == 1
    assert "reachable" in reported[0]


# --- lost answers --------------------------------------------------------------------------------


async def test_a_lost_answer_is_found_by_its_callback() -> None:
    """`generate` waits for it, and the film is paid once. (A1)"""
    callbacks = ManualCallbacks()
    async with world() as simulator, customer(simulator, callbacks) as client:
        simulator.script("create", [Fault.RESET_AFTER])
        making = asyncio.create_task(client.generate(KITTEN))
        await until(lambda: simulator.ledger.paid)
        (charge,) = simulator.ledger.paid
        await asyncio.sleep(100)

        await callbacks.deliver(callbacks.tokens[0], charge.task_id)
        result = await making

        assert result.task_id == charge.task_id
        assert len(simulator.ledger.creations) == 1
        assert client.uncertain == client.unclaimed == []


async def test_among_many_only_the_lost_one_waits() -> None:
    """The others are yielded meanwhile; each is bound to its own storyboard. (A1)"""
    callbacks = ManualCallbacks()
    boards = [Storyboard([Shot(f"Number {n}.", 5)], duration=10) for n in range(4)]
    async with world() as simulator, customer(simulator, callbacks, polling=Backoff()) as client:
        simulator.script("create", [Fault.OK, Fault.RESET_AFTER, Fault.OK])
        done = []
        async for outcome in client.generate_many(boards):
            done.append(outcome)
            if len(done) == 3:
                found = {each.unwrap().task_id for each in done}
                (lost,) = {charge.task_id for charge in simulator.ledger.paid} - found
                token = next(
                    token
                    for token in callbacks.tokens
                    if token in str(simulator.ledger.creations[1].body["callBackUrl"])
                )
                await callbacks.deliver(token, lost)

        assert len(done) == len(simulator.ledger.paid) == 4
        scenes = {c.task_id: c.body["input"]["shots"][0]["Scene"] for c in simulator.ledger.created}
        assert {o.unwrap().task_id: o.work.shots[0].scene for o in done} == scenes


async def test_a_callback_may_be_quicker_than_the_answer() -> None:
    """It is kept until the answer is there, or is known not to come. (W7)"""
    callbacks = ManualCallbacks()
    async with world(1) as simulator, customer(simulator, callbacks) as client:
        simulator.script("create", [Fault.late(10), Fault.HANG_AFTER])
        first = asyncio.create_task(client.generate(KITTEN))
        second = asyncio.create_task(client.generate(KITTEN))
        await until(lambda: len(simulator.ledger.paid) == 2)
        await asyncio.sleep(2)
        for creation in simulator.ledger.creations:
            token = str(creation.body["callBackUrl"])[-32:]
            assert await callbacks.deliver(token, creation.task_id or "")

        answered = await first
        assert now() < 15
        found = await second
        assert now() < 140  # the answer is given two minutes
        assert {answered.task_id, found.task_id} == {c.task_id for c in simulator.ledger.paid}


async def test_submit_raises_and_recover_finds() -> None:
    """The token in the error is enough, in another client too."""
    callbacks = ManualCallbacks()
    async with world() as simulator, customer(simulator, callbacks) as client:
        simulator.script("create", [Fault.RESET_AFTER])
        with pytest.raises(SubmissionUncertainError) as lost:
            await client.submit(KITTEN)
        (charge,) = simulator.ledger.paid

        async with customer(simulator, callbacks) as later:
            asking = [
                asyncio.create_task(each.attempts.recover(lost.value.token))
                for each in (client, later)
            ]
            await asyncio.sleep(1)
            await callbacks.deliver(lost.value.token, charge.task_id)
            jobs = await asyncio.gather(*asking)

            assert [job.task_id for job in jobs] == [charge.task_id] * 2
            await jobs[0]


async def test_many_who_recover_one_submission_ask_once() -> None:
    """And when the one who asks is cut off, the next takes over."""
    callbacks = ManualCallbacks()
    async with world() as simulator, customer(simulator, callbacks) as client:
        simulator.script("create", [Fault.RESET_AFTER])
        with pytest.raises(SubmissionUncertainError) as lost:
            await client.submit(KITTEN)
        (charge,) = simulator.ledger.paid
        asking = [asyncio.create_task(client.attempts.recover(lost.value.token)) for _ in range(10)]
        simulator.script("record", [Fault.late(5)], task_id=charge.task_id)
        await asyncio.sleep(1)
        await callbacks.deliver(lost.value.token, charge.task_id)
        await asyncio.sleep(1)
        asking[0].cancel()

        jobs = await asyncio.gather(*asking[1:])

        assert {job.task_id for job in jobs} == {charge.task_id}
        assert simulator.ledger.polls[charge.task_id] <= 2


async def test_a_task_of_others_is_not_bound() -> None:
    """A callback may lie: what counts is the token in the task itself. (W4, W5)"""
    callbacks = ManualCallbacks()
    async with world() as simulator, customer(simulator, callbacks) as client:
        simulator.script("create", [Fault.OK, Fault.RESET_AFTER])
        other = await client.submit(KITTEN)
        making = asyncio.create_task(client.generate(KITTEN))
        await until(lambda: len(simulator.ledger.paid) == 2)
        await callbacks.deliver(callbacks.tokens[1], other.task_id)
        await asyncio.sleep(100)
        assert not making.done()

        await callbacks.deliver(callbacks.tokens[1], simulator.ledger.paid[1].task_id)

        assert (await making).task_id == simulator.ledger.paid[1].task_id


async def test_so_many_lies_are_enough() -> None:
    """For one attempt only a few tasks are read, whatever callbacks say. (W14)"""
    callbacks = ManualCallbacks()
    async with world() as simulator, customer(simulator, callbacks) as client:
        simulator.script("create", [*[Fault.OK] * 20, Fault.RESET_AFTER])
        others = [await client.submit(KITTEN) for _ in range(20)]
        making = asyncio.create_task(client.generate(KITTEN, timeout=300))
        await until(lambda: len(callbacks.tokens) == 21)
        await asyncio.sleep(5)
        for other in others:
            await callbacks.deliver(callbacks.tokens[20], other.task_id)

        with pytest.raises(SubmissionUncertainError):
            await making

        assert sum(simulator.ledger.polls.values()) <= MOST_NAMED_TASKS


@pytest.mark.parametrize(
    "fault", [Fault.HTTP_500, Fault.RESET, Fault.HTML_200, Fault.NOT_FOUND, Fault.code(400)]
)
async def test_an_outage_while_confirming_is_outlasted(fault: Fault) -> None:
    """What cannot be read now is read later. (P1, P2)"""
    callbacks = ManualCallbacks()
    async with world() as simulator, customer(simulator, callbacks) as client:
        simulator.script("create", [Fault.RESET_AFTER])
        simulator.script("record", [fault] * 5)
        making = asyncio.create_task(client.generate(KITTEN))
        await until(lambda: simulator.ledger.paid)
        await callbacks.deliver(callbacks.tokens[0], simulator.ledger.paid[0].task_id)

        result = await making

        assert result.task_id == simulator.ledger.paid[0].task_id


async def test_no_callback_leaves_it_uncertain() -> None:
    """After as long as a job is waited for, the error is raised that there was. (A1)"""
    callbacks = ManualCallbacks()
    async with world() as simulator, customer(simulator, callbacks) as client:
        simulator.script("create", [Fault.RESET_AFTER])

        with pytest.raises(SubmissionUncertainError) as lost:
            await client.generate(KITTEN)

        assert lost.value.token == callbacks.tokens[0]
        assert 1800 <= now() < 1900
        assert len(simulator.ledger.creations) == 1


async def test_whoever_leaves_is_reported_by_name() -> None:
    """A cancelled wait for a callback leaves the doubt in `uncertain`; so does a closing. (A1)"""
    callbacks = ManualCallbacks()
    async with world() as simulator:
        async with customer(simulator, callbacks) as client:
            simulator.script("create", [Fault.RESET_AFTER] * 2)
            leaving, staying = (asyncio.create_task(client.generate(KITTEN)) for _ in range(2))
            await until(lambda: len(simulator.ledger.paid) == 2)
            await asyncio.sleep(10)
            leaving.cancel()
            await asyncio.wait({leaving})
            assert leaving.cancelled()
            assert [error.token for error in client.uncertain] == [callbacks.tokens[0]]

        with pytest.raises(ClientClosedError):
            await staying
        assert [error.token for error in client.uncertain] == callbacks.tokens


async def test_a_submission_that_was_sent_twice_on_the_way_is_noticed() -> None:
    """Two tasks show one token: the second is paid too, and is left behind by name. (A14)"""
    callbacks = ManualCallbacks()
    async with world() as simulator, customer(simulator, callbacks) as client:
        job = await client.submit(KITTEN)
        body = simulator.ledger.created[0].body
        async with customer(simulator, None) as proxy:
            url = str(body["callBackUrl"])
            twin = await proxy.submit(KITTEN, callback_url=url)

        await callbacks.deliver(callbacks.tokens[0], twin.task_id)
        await until(lambda: client.unclaimed)

        assert [each.task_id for each in client.unclaimed] == [twin.task_id]
        assert isinstance(client.unclaimed[0], Job)
        await job


async def test_what_an_earlier_run_knew_counts() -> None:
    """A token and the tasks that were named for it are taken up after a restart. (W8)"""
    callbacks = ManualCallbacks()
    kept: list[str] = []

    async def keep(task_id: str) -> None:
        kept.append(task_id)

    async with world() as simulator:
        async with customer(simulator, callbacks) as client:
            simulator.script("create", [Fault.RESET_AFTER] * 2)
            for _ in range(2):
                with pytest.raises(SubmissionUncertainError):
                    await client.submit(KITTEN)
        first, second = (charge.task_id for charge in simulator.ledger.paid)

        async with customer(simulator, callbacks) as later:
            later.attempts.expect(callbacks.tokens[0], named=[first], keep=keep)
            later.attempts.expect(callbacks.tokens[1], keep=keep)
            assert (await later.attempts.recover(callbacks.tokens[0])).task_id == first
            await callbacks.deliver(callbacks.tokens[1], second)
            assert (await later.attempts.recover(callbacks.tokens[1])).task_id == second
            assert kept == [second]


async def test_without_ears_nothing_is_waited_for() -> None:
    """Who cannot hear says so at once."""
    async with world() as simulator, customer(simulator, None) as client:
        simulator.script("create", [Fault.RESET_AFTER])
        with pytest.raises(SubmissionUncertainError) as lost:
            await client.generate(KITTEN)
        assert now() < 5
        assert not client.attempts.receives_callbacks

        with pytest.raises(ValueError, match="callback"):
            await client.attempts.recover(lost.value.token)


async def test_an_error_that_is_not_recovered_is_raised_again() -> None:
    """The same error, with the time that was waited; at once where nothing can come."""
    callbacks = ManualCallbacks()
    async with world() as simulator:
        simulator.script("create", [Fault.RESET_AFTER] * 3)
        async with customer(simulator, callbacks) as client, customer(simulator, None) as deaf:
            for each, own_url, waited in (
                (client, None, 5.0),
                (client, "https://hooks.test/mine", 0.0),
                (deaf, None, 0.0),
            ):
                with pytest.raises(SubmissionUncertainError) as lost:
                    await each.submit(KITTEN, callback_url=own_url)
                began = now()
                with pytest.raises(SubmissionUncertainError) as again:
                    await each.attempts.recover(lost.value, timeout=5)

                assert again.value is lost.value
                assert lost.value.waited == pytest.approx(waited)
                assert now() - began == pytest.approx(waited)


async def test_the_error_itself_is_enough_to_recover() -> None:
    """Its attempt is this client's own, so a callback names its task."""
    callbacks = ManualCallbacks()
    async with world() as simulator, customer(simulator, callbacks) as client:
        simulator.script("create", [Fault.RESET_AFTER])
        with pytest.raises(SubmissionUncertainError) as lost:
            await client.submit(KITTEN)
        recovering = asyncio.create_task(client.attempts.recover(lost.value, timeout=60))
        await asyncio.sleep(3)
        [charge] = simulator.ledger.paid
        await callbacks.deliver(callbacks.tokens[0], charge.task_id)

        assert (await recovering).task_id == charge.task_id
        assert 3 <= lost.value.waited < 5


async def test_recovering_ends_when_it_is_told_to() -> None:
    """`timeout` is in seconds, and a time-out is not the end of the film."""
    callbacks = ManualCallbacks()
    async with world() as simulator, customer(simulator, callbacks) as client:
        simulator.script("create", [Fault.RESET_AFTER])
        with pytest.raises(SubmissionUncertainError):
            await client.generate(KITTEN, timeout=30)
        assert 30 <= now() < 32
        with pytest.raises(SubmissionUncertainError, match="within 5 s"):
            await client.attempts.recover(callbacks.tokens[0], timeout=5)
        with pytest.raises(JobTimeoutError):
            await client.generate(KITTEN, timeout=30)


# --- what nobody waits for ------------------------------------------------------------------------


async def test_what_nobody_waits_for_names_its_work_and_its_metadata() -> None:
    """Cancelled before and after the answer, broken off, uncertain: whose it is stays known."""
    mine = object()
    callbacks = ManualCallbacks()
    async with world(50) as simulator, customer(simulator, callbacks) as client:
        simulator.script("create", [Fault.late(5.0)])
        submitting = asyncio.create_task(client.submit(KITTEN, metadata=mine))
        await asyncio.sleep(1)
        submitting.cancel()
        await until(lambda: client.unclaimed)

        making = asyncio.create_task(client.generate(KITTEN, metadata=mine))
        await asyncio.sleep(3)
        making.cancel()
        await asyncio.wait({submitting, making})

        many = client.generate_many([(KITTEN, mine)] * 2)
        waiting = asyncio.ensure_future(anext(many))
        await asyncio.sleep(3)
        waiting.cancel()
        await asyncio.wait({waiting})

        assert [(job.work, job.metadata) for job in client.unclaimed] == [(KITTEN, mine)] * 4

        simulator.script("create", [attrs.evolve(Fault.RESET_AFTER, delay=5.0)])
        submitting = asyncio.create_task(client.submit(KITTEN, metadata=mine))
        await asyncio.sleep(1)
        submitting.cancel()
        await until(lambda: client.uncertain)
        (error,) = client.uncertain
        assert (error.work, error.metadata) == (KITTEN, mine)
        assert copy.copy(error).metadata is None  # it travels nowhere

        await callbacks.deliver(error.token, simulator.ledger.paid[-1].task_id)
        job = await client.attempts.recover(error)
        assert (job.work, job.metadata) == (KITTEN, mine)
        assert client.uncertain == []


async def test_a_job_that_is_awaited_or_taken_up_is_not_unclaimed() -> None:
    """And the list may be walked meanwhile: nobody is skipped."""
    async with world(50) as simulator, customer(simulator, None) as client:
        for _ in range(4):
            making = asyncio.create_task(client.generate(KITTEN))
            await asyncio.sleep(3)
            making.cancel()
            await asyncio.wait({making})
        bought = [charge.task_id for charge in simulator.ledger.paid]

        first = client.job(bought[0])
        assert first.work == KITTEN
        assert [job.task_id for job in client.unclaimed] == bought[1:]
        async for _ in client.unclaimed[0].updates():
            break
        assert [job.task_id for job in client.unclaimed] == bought[2:]
        assert [(await job).task_id for job in client.unclaimed] == bought[2:]
        assert client.unclaimed == []


async def test_what_could_not_be_recorded_is_still_called_by_its_callback() -> None:
    """A recorder that fails loses no film: its job has the token, and a callback ends its pause."""

    class Full(NoRecorder):
        async def settle(self, attempt: Attempt) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    callbacks = ManualCallbacks()
    async with world(50) as simulator, customer(simulator, callbacks) as client:
        with pytest.raises(OSError, match="No space left"):
            await client.submit(KITTEN, recorder=Full())
        (job,) = client.unclaimed
        assert job.token == callbacks.tokens[0]

        waiting = asyncio.ensure_future(job)
        await asyncio.sleep(50.5)
        assert simulator.ledger.polls[job.task_id] == 0
        assert await callbacks.deliver(job.token, job.task_id)
        await waiting

        assert now() < 52
        assert simulator.ledger.polls[job.task_id] == 1


async def test_a_clients_recorder_gets_every_attempt_without_one_of_its_own() -> None:
    """Of `submit`, `generate` and `generate_many`; a submission's own replaces it."""

    class Book(NoRecorder):
        def __init__(self) -> None:
            self.intended: list[str] = []
            self.settled: list[str | None] = []

        async def intend(self, token: str, request: Request) -> None:
            self.intended.append(token)

        async def settle(self, attempt: Attempt) -> None:
            assert attempt.token in self.intended
            self.settled.append(attempt.task_id)

    clients, own = Book(), Book()
    async with world(50) as simulator, customer(simulator, None, recorder=clients) as client:
        await client.submit(KITTEN)
        await client.submit(KITTEN, recorder=own)
        await client.generate(KITTEN)
        assert [outcome.ok async for outcome in client.generate_many([KITTEN] * 2)] == [True] * 2

        paid = [charge.task_id for charge in simulator.ledger.paid]
    assert own.settled == [paid[1]]
    assert clients.settled == [paid[0], *paid[2:]]


async def test_an_outcome_has_the_metadata_of_its_work() -> None:
    """Pairs and plain works may be mixed; a pair is no work."""
    async with world(50) as simulator, customer(simulator, None) as client:
        wanted: list[Any] = [(KITTEN, "a"), KITTEN, (KITTEN, {"b": 1}), (KITTEN, "c", "d")]
        outcomes = [outcome async for outcome in client.generate_many(wanted, ordered=True)]

        assert [outcome.metadata for outcome in outcomes] == ["a", None, {"b": 1}, None]
        assert [outcome.error is None for outcome in outcomes] == [True, True, True, False]
        reported = repr(outcomes) + "".join(repr(charge) for charge in simulator.ledger.creations)
        assert "{'b': 1}" not in reported

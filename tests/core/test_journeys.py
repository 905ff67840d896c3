"""Whole journeys: the real client, the real simulator, real sockets, virtual time.

Client and simulator live in one loop whose clock jumps (see `virtual.py`), so minutes of the
service pass in moments.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from volume import volume

from apikley_async import (
    ApikleyError,
    AuthenticationError,
    Blame,
    Client,
    DownloadError,
    Environment,
    InsufficientCreditsError,
    Job,
    JobFailedError,
    KeyLimitError,
    ModelTask,
    Outcome,
    RateLimiter,
    Shot,
    Storyboard,
    StoryboardError,
    SubmissionUncertainError,
    UnreachableError,
)
from apikley_async.simulator import (
    Constant,
    Failure,
    Fault,
    Lognormal,
    RandomFaults,
    Simulator,
    Terms,
    Throttle,
)
from apikley_async.testing import LoopClock

pytestmark = pytest.mark.virtual

KITTEN = Storyboard([Shot("A kitten.", 5), Shot("It purrs.", 5)], duration=10)


def world(terms: Terms | None = None, *, faults: RandomFaults | None = None) -> Simulator:
    return Simulator(terms, faults=faults, clock=LoopClock(), rng=random.Random(7))


def customer(simulator: Simulator, **options: object) -> Client:
    return Client(
        simulator.api_key,
        base_url=simulator.base_url,
        environment=Environment(clock=LoopClock(), rng=random.Random(1)),
        **options,  # type: ignore[arg-type]
    )


async def latency(simulator: Simulator, low: float, high: float) -> None:
    """Let every creation take between *low* and *high* seconds."""
    rng = random.Random(3)
    simulator.script("create", (Fault.late(rng.uniform(low, high)) for _ in itertools.count()))


async def all_outcomes(client: Client, works: list[Storyboard]) -> list[Outcome]:
    return [outcome async for outcome in client.generate_many(works)]


@pytest.mark.parametrize("window", ["sliding", "fixed"])
async def test_two_hundred_films_at_the_real_limit(window: str) -> None:
    """200 films at 20 per 10 s are all submitted within 95 s and never refused."""
    films = volume(60, 200)
    terms = Terms(window=window, duration=Constant(9), max_running=None)  # type: ignore[arg-type]
    async with world(terms) as simulator, customer(simulator, max_running=200) as client:
        await latency(simulator, 0.1, 0.4)

        outcomes = await all_outcomes(client, [KITTEN] * films)

        ledger = simulator.ledger
        assert len(ledger.paid) == films
        assert not ledger.refused
        assert max(ledger.arrivals("create")) - min(ledger.arrivals("create")) <= films / 2 - 5
        assert all(outcome.unwrap().urls for outcome in outcomes)
        assert sorted(outcome.index for outcome in outcomes) == list(range(films))


@pytest.mark.parametrize("form", list(Throttle), ids=lambda form: form.name.lower())
async def test_at_twice_the_service_s_limit_nothing_is_lost(form: Throttle) -> None:
    """A limiter set twice too fast earns 429s in every form; all films are made, once each."""
    clock = LoopClock()
    limiter = RateLimiter(40, 10, clock=clock, rng=random.Random(5))
    terms = Terms(throttle=form, duration=Constant(9), max_running=None)
    async with (
        world(terms) as simulator,
        customer(simulator, limiter=limiter, max_running=200) as client,
    ):
        await latency(simulator, 0.1, 0.4)

        films = volume(24, 90 if form is Throttle.SECONDS else 50)
        outcomes = await all_outcomes(client, [KITTEN] * films)

        assert simulator.ledger.refused, "the limit was never met: the test proves nothing"
        assert len(simulator.ledger.paid) == films
        assert {outcome.unwrap().task_id for outcome in outcomes} == {
            charge.task_id for charge in simulator.ledger.paid
        }


async def test_two_clients_that_share_a_key_lose_nothing() -> None:
    """Each believes to have the whole limit; the 429s slow both down, and all is paid once (R3)."""
    films = volume(24, 60)
    terms = Terms(duration=Constant(9), max_running=None)
    async with (
        world(terms) as simulator,
        customer(simulator, max_running=100) as one,
        customer(simulator, max_running=100) as other,
    ):
        await latency(simulator, 0.1, 0.4)

        outcomes = await asyncio.gather(
            all_outcomes(one, [KITTEN] * films), all_outcomes(other, [KITTEN] * films)
        )

        assert simulator.ledger.refused, "the limit was never met: the test proves nothing"
        assert len(simulator.ledger.paid) == 2 * films
        assert len({outcome.unwrap().task_id for each in outcomes for outcome in each}) == 2 * films


async def test_twenty_thousand_creations_are_paced_exactly() -> None:
    """A long run keeps 96 % of the limit and is never refused. (R1)"""
    terms = Terms(duration=Constant(1), max_running=None)
    async with world(terms) as simulator, customer(simulator, max_running=40) as client:
        await latency(simulator, 0.05, 0.3)
        count = volume(180, 1000)
        began = asyncio.get_running_loop().time()
        jobs = await asyncio.gather(*(client.submit(KITTEN) for _ in range(count)))
        took = asyncio.get_running_loop().time() - began

        assert len({job.task_id for job in jobs}) == count
        assert not simulator.ledger.refused
        assert simulator.ledger.busiest_window(10.0) <= 20
        assert (count - 20) / took >= 0.96 * 20 / 10


@pytest.mark.parametrize(
    "fault",
    [
        Fault.RESET_AFTER,
        Fault.HANG_AFTER,
        Fault.CLOSE_AFTER,
        Fault.HTTP_500_AFTER,
        Fault.HTTP_502_AFTER,
        Fault.HTTP_503_AFTER,
        Fault.HTTP_504_AFTER,
        Fault.TRUNCATED,
        Fault.NO_TASK_ID,
        Fault.EMPTY,
        Fault.HTML_200,
        Fault.BAD_GZIP,
        Fault.GARBAGE,
    ],
    ids=lambda fault: fault.name,
)
async def test_what_may_have_arrived_is_never_repeated(fault: Fault) -> None:
    """An answer that is lost or unreadable leads to one POST and an uncertain submission."""
    async with world() as simulator, customer(simulator) as client:
        simulator.script("create", [fault])

        with pytest.raises(SubmissionUncertainError) as caught:
            await client.submit(KITTEN)
        await asyncio.sleep(3600)

        assert len(simulator.ledger.arrivals("create")) == 1
        assert caught.value.token
        assert "job(task_id)" in str(caught.value)


async def test_a_service_that_comes_up_late_is_waited_for() -> None:
    """A refused connection sent nothing: it is tried again, and one film is paid. (A15)"""
    simulator = world()
    await simulator.start()
    address = simulator.base_url
    port = int(address.rsplit(":", 1)[1])
    await simulator.aclose()
    client = Client(
        "simulator-key",
        base_url=address,
        environment=Environment(clock=LoopClock(), rng=random.Random(1)),
    )
    async with client:
        submitting = asyncio.ensure_future(client.submit(KITTEN))
        await asyncio.sleep(100)
        assert not submitting.done()

        async with Simulator(api_key="simulator-key", clock=LoopClock(), port=port) as late:
            job = await submitting

            assert [charge.task_id for charge in late.ledger.paid] == [job.task_id]


async def test_patience_ends() -> None:
    """A service that never comes up is an error in the end, after patience has ended."""
    client = Client(
        "simulator-key", base_url="http://127.0.0.1:9", environment=Environment(clock=LoopClock())
    )
    async with client:
        began = asyncio.get_running_loop().time()
        with pytest.raises(UnreachableError, match="not reached"):
            await client.submit(KITTEN)
        assert 500 < asyncio.get_running_loop().time() - began < 700


async def test_five_minutes_of_outage_end_no_job() -> None:
    """Resets, 5xx, 429 and garbage while looking only cost time. (P2, P3, R10)"""
    kinds = [Fault.RESET, Fault.HTTP_500, Fault.HTTP_502, Fault.THROTTLED, Fault.HTML_200,
             Fault.TRUNCATED, Fault.MALFORMED, Fault.DATA_LIST, Fault.GARBAGE]  # fmt: skip
    async with world(Terms(duration=Constant(30))) as simulator, customer(simulator) as client:
        loop = asyncio.get_running_loop()
        job = await client.submit(KITTEN)
        ends = loop.time() + 300

        def trouble():  # type: ignore[no-untyped-def]
            for kind in itertools.cycle(kinds):
                if loop.time() > ends:
                    return
                yield kind

        simulator.script("record", trouble())

        result = await job

        assert result.urls
        assert loop.time() >= ends


async def test_three_awaiters_cost_one_stream_of_looks() -> None:
    """Three await one job, one is cancelled: two results, one stream of looks. (P11, C1)"""
    async with world(Terms(duration=Constant(120))) as simulator, customer(simulator) as client:
        alone = await customer_looks(Terms(duration=Constant(120)))
        job = await client.submit(KITTEN)

        awaiters = [asyncio.ensure_future(job.wait()) for _ in range(3)]
        await asyncio.sleep(20)
        awaiters[0].cancel()
        results = await asyncio.gather(*awaiters, return_exceptions=True)

        assert isinstance(results[0], asyncio.CancelledError)
        assert results[1] == results[2]
        assert abs(simulator.ledger.polls[job.task_id] - alone) <= 1


async def customer_looks(terms: Terms) -> int:
    """How many looks one awaiter costs."""
    async with world(terms) as simulator, customer(simulator) as client:
        job = await client.submit(KITTEN)
        await job
        return simulator.ledger.polls[job.task_id]


async def test_a_whole_journey_with_an_image(tmp_path: Path) -> None:
    """Upload, submit, await, save: the film on the disk is the one the service made."""
    image = tmp_path / "kitten.png"
    image.write_bytes(PNG)
    board = Storyboard([Shot("A kitten.", 10)], duration=10, image=image)
    async with world() as simulator, customer(simulator) as client:
        before = await client.credits()

        first, second = await asyncio.gather(client.submit(board), client.submit(board))
        result = await first
        [path] = await client.save(result, tmp_path / "films")

        assert path.read_bytes() == await simulator.film(first.task_id)
        assert await client.credits() == before - 300
        assert len(simulator.ledger.arrivals("upload")) == 1, "the same picture is uploaded once"
        bodies = [creation.body for creation in simulator.ledger.created]
        assert bodies[0] == bodies[1]
        assert not simulator.ledger.leaks
        await second


async def test_an_image_may_come_from_a_url_or_through_a_gateway(tmp_path: Path) -> None:
    """The service fetches a URL itself; where forms are refused, content goes as base64."""
    async with world() as simulator, customer(simulator) as client:
        first = await client.upload(PNG)
        fetched = await client.upload(first)
        simulator.script("upload", [Fault.code(415)])
        other = await client.upload(PNG + b"\x00")

        assert len({first, fetched, other}) == 3
        assert len(simulator.ledger.arrivals("upload")) == 4
        board = Storyboard([Shot("A.", 10)], duration=10, image=other)
        assert (await client.generate(board)).urls


async def test_another_model_can_be_submitted(tmp_path: Path) -> None:
    """A task of another model is submitted, awaited and saved like a storyboard."""
    lighthouse = ModelTask("kling-2.6/text-to-video", {"prompt": "A lighthouse.", "duration": 5})
    async with world() as simulator, customer(simulator) as client:
        result = await client.generate(lighthouse)
        [path] = await client.save(result, tmp_path)

        assert path.name == f"{result.task_id}.mp4"
        assert simulator.ledger.created[0].body == {
            "model": "kling-2.6/text-to-video",
            "input": {"prompt": "A lighthouse.", "duration": 5},
        }


async def test_an_expired_link_is_exchanged(tmp_path: Path) -> None:
    """A film found after its link died is saved through a new link. (D7, P15)"""
    async with world() as simulator, customer(simulator) as client:
        result = await client.generate(KITTEN)
        await asyncio.sleep(30 * 3600)

        [path] = await client.save(result, tmp_path)

        assert path.read_bytes() == await simulator.film(result.task_id)


@pytest.mark.parametrize("status", [403, 404])
async def test_a_new_film_is_waited_for(tmp_path: Path, status: int) -> None:
    """Its links do not work for a minute, at its own address and at any other."""
    terms = Terms(files_after=60.0, expired_status=status)
    async with world(terms) as simulator, customer(simulator) as client:
        result = await client.generate(KITTEN)

        [path] = await client.save(result, tmp_path)

        assert path.read_bytes() == await simulator.film(result.task_id)


async def test_hosts_that_refuse_http_libraries_are_asked_by_name(tmp_path: Path) -> None:
    """Our own name is not among them; another one may be given, and is sent everywhere."""
    terms = Terms(refused_agents=("Python/", "studio/"))
    async with world(terms) as simulator, customer(simulator) as client:
        result = await client.generate(KITTEN)
        assert await client.save(result, tmp_path)

        async with customer(simulator, user_agent="studio/1.0") as other:
            with pytest.raises(DownloadError, match="the host refuses us: HTTP 403"):
                await other.save(result, tmp_path / "other")


async def test_a_film_that_is_exchanged_between_two_attempts_is_not_spliced(tmp_path: Path) -> None:
    """Cut off, then another file of the same size and form: the new one is saved, whole (D4)."""
    async with world() as simulator, customer(simulator) as client:
        result = await client.generate(KITTEN)
        simulator.script("file", [Fault.CUT, Fault.CHANGED])

        [path] = await client.save(result, tmp_path / "first")
        [again] = await client.save(result, tmp_path / "second")

        saved, original = path.read_bytes(), await simulator.film(result.task_id)
        assert len(saved) == len(original)
        assert saved != original
        assert saved == again.read_bytes()


async def test_at_most_max_running_films_at_once() -> None:
    """`generate` and `generate_many` share the places for running films."""
    async with world() as simulator, customer(simulator, max_running=7) as client:
        await all_outcomes(client, [KITTEN] * 18)

        assert simulator.ledger.most_running == 7


async def test_breaking_off_leaves_the_bought_films_by_name() -> None:
    """What a broken-off generate_many has bought can be had from `unclaimed`."""
    async with world(Terms(duration=Lognormal())) as simulator, customer(simulator) as client:
        many = client.generate_many([KITTEN] * 10)
        async for outcome in many:
            handed_on = outcome
            break
        await many.aclose()

        bought = {charge.task_id for charge in simulator.ledger.paid}
        left = {job.task_id for job in client.unclaimed}
        assert handed_on.job is not None
        assert bought == left | {handed_on.job.task_id}
        results = await asyncio.gather(*client.unclaimed)
        assert {result.task_id for result in results} == left


async def test_an_account_without_credits_ends_many_films() -> None:
    """200 works, credits for 5: the rest of them is neither pulled nor asked for."""
    pulled = list[int]()

    def works() -> Iterator[Storyboard]:
        for number in range(200):
            pulled.append(number)
            yield KITTEN

    terms = Terms(credits=150 * 5, duration=Constant(60))
    async with world(terms) as simulator, customer(simulator, max_running=30) as client:
        await latency(simulator, 0.1, 0.4)
        outcomes, error = await until_its_end(client.generate_many(works()))

        assert isinstance(error, InsufficientCreditsError)
        made = [outcome for outcome in outcomes if outcome.error is None]
        assert len(made) == len(simulator.ledger.paid) == 5
        assert sorted(outcome.index for outcome in outcomes) == pulled
        assert len(pulled) <= 31
        assert len(simulator.ledger.creations) <= 20
        refused = {type(outcome.error) for outcome in outcomes if outcome.error is not None}
        assert refused == {InsufficientCreditsError}
        assert not client.unclaimed


async def test_a_task_that_fails_for_want_of_credits_ends_many_films() -> None:
    """It was created, and then: that is the account's trouble, as a 402 is (failCode 402)."""
    terms = Terms(
        duration=Constant(60), fail_rate=1.0, failure=Failure("402", "Credits insufficient")
    )
    async with world(terms) as simulator, customer(simulator, max_running=3) as client:
        outcomes, error = await until_its_end(client.generate_many([KITTEN] * 30))

        assert isinstance(error, JobFailedError)
        assert (error.blames, error.resumable) == (Blame.ACCOUNT, True)
        assert "Top up" in str(error)
        assert len(outcomes) == len(simulator.ledger.paid) == 3


async def test_what_ends_many_films_and_what_does_not() -> None:
    """The key, its cap and the credits do; one film's refusal, or maintenance that passes, not."""
    ends: dict[int, tuple[type[Exception] | None, int]] = {
        401: (AuthenticationError, 1),
        402: (InsufficientCreditsError, 1),
        433: (KeyLimitError, 1),
        422: (None, 4),
        455: (None, 5),
    }
    failing = list[str]()
    for code, (expected, asked) in ends.items():
        terms = Terms(duration=Constant(60))
        async with world(terms) as simulator, customer(simulator, max_running=1) as client:
            simulator.script("create", [Fault.code(code)])
            outcomes, error = await until_its_end(client.generate_many([KITTEN] * 4))
            found = (None if error is None else type(error), len(simulator.ledger.creations))
            if found != (expected, asked):
                failing.append(f"{code}: {found}")
            assert len(outcomes) == (4 if expected is None else 1)
    assert failing == []


async def until_its_end(
    many: AsyncIterator[Outcome],
) -> tuple[list[Outcome], ApikleyError | None]:
    """What is yielded, and what is raised in the end."""
    outcomes = list[Outcome]()
    try:
        async for outcome in many:
            outcomes.append(outcome)
    except ApikleyError as error:
        return outcomes, error
    return outcomes, None


async def test_a_wrong_image_url_is_refused_here() -> None:
    """An image at a private address is refused before anything is sent. (U8)"""
    board = Storyboard([Shot("A.", 5)], duration=10, image="http://127.0.0.1/x.png")
    client = Client(
        "simulator-key", base_url="https://api.test", environment=Environment(clock=LoopClock())
    )
    async with client:
        with pytest.raises(StoryboardError, match="image"):
            await client.submit(board)


async def test_random_trouble_everywhere_pays_once_for_each() -> None:
    """With faults everywhere each film is paid once or reported uncertain. (A1-A6)"""
    faults = RandomFaults(
        seed=11,
        create={Fault.RESET_AFTER: 0.1, Fault.HTTP_500_AFTER: 0.05, Fault.THROTTLED: 0.1,
                Fault.RESET: 0.05, Fault.TRUNCATED: 0.05},
        record={Fault.RESET: 0.1, Fault.HTTP_502: 0.1,
                Fault.OTHER_TASK: 0.02, Fault.UNKNOWN_STATE: 0.02, Fault.NOT_FOUND: 0.05},
    )  # fmt: skip
    async with world(faults=faults) as simulator, customer(simulator) as client:
        films = volume(40, 100)
        outcomes = await all_outcomes(client, [KITTEN] * films)

        jobs = {outcome.job.task_id for outcome in outcomes if isinstance(outcome.job, Job)}
        doubts = [o for o in outcomes if isinstance(o.error, SubmissionUncertainError)]
        paid = {charge.task_id for charge in simulator.ledger.paid}
        assert jobs <= paid
        assert len(paid) <= len(jobs) + len(doubts)
        assert len(jobs) + len(doubts) == films
        assert all(outcome.unwrap().urls for outcome in outcomes if outcome.job is not None)


PNG = (
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x06\x00\x00\x00"
    b"\x1f\x15\xc4\x89\x00\x00\x00\rIDATx\x9cc\xf8\xcf\xc0\xf0\x1f\x00\x05\x00\x01\xff\x89\x99="
    b"\x1d\x00\x00\x00\x00IEND\xaeB`\x82"
)


async def test_films_are_saved_while_others_are_made(tmp_path: Path) -> None:
    terms = Terms(duration=Constant(60))
    async with world(terms) as simulator, customer(simulator, max_running=2) as client:
        folder = tmp_path / "new" / "films.mp4"  # whatever its name: a folder
        outcomes = [o async for o in client.generate_many([KITTEN] * 5, save_to=folder)]

        for outcome in outcomes:
            assert outcome.ok
            [path] = outcome.paths
            assert path == folder / f"{outcome.job.task_id}.mp4"
            assert path.read_bytes() == await simulator.film(outcome.job.task_id)
            assert outcome.to_dict()["paths"] == [str(path)]
        assert client.unclaimed == []


async def test_a_folder_that_cannot_be_written_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    async with world() as simulator, customer(simulator) as client:
        with pytest.raises(
            DownloadError, match=r"file/films cannot be written: .*nothing was sent"
        ):
            async for _ in client.generate_many([KITTEN], save_to=tmp_path / "file" / "films"):
                pass
        assert simulator.ledger.creations == []

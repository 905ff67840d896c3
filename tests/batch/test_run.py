"""Runs in virtual time: the real client, the real simulator, real sockets, a real journal."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import attrs
import pytest
from batch.helpers import (
    END_STATES,
    board,
    check_consistency,
    evenly,
    fast_limiter,
    films,
    make_client,
    open_batch,
    run_batch,
    simulated_service,
    states,
)
from volume import volume

from apikley_async import ModelTask, RateLimiter, Shot, Storyboard, UploadError
from apikley_async.batch import REHEARSAL_MARK, ItemState, is_rehearsal
from apikley_async.batch.manifest.payload import work_of
from apikley_async.errors import DownloadError, JournalError
from apikley_async.simulator import (
    Constant,
    Failure,
    Fault,
    Lognormal,
    RandomFaults,
    RenderRequest,
    Simulator,
    Terms,
)
from apikley_async.testing import LoopClock

pytestmark = pytest.mark.virtual

# What createTask can suffer so that nobody knows whether it arrived, and so that it did not.
LOST = [
    *(Fault.RESET_AFTER, Fault.CLOSE_AFTER, Fault.HANG_AFTER, Fault.RESET, Fault.CLOSE, Fault.HANG),
    *(Fault.HTTP_500_AFTER, Fault.HTTP_502_AFTER, Fault.HTTP_503, Fault.TRUNCATED, Fault.EMPTY),
    *(Fault.HTML_200, Fault.BAD_GZIP, Fault.NO_TASK_ID, Fault.MALFORMED, Fault.DATA_NULL),
]
TOLD = [Fault.THROTTLED, Fault.code(422), Fault.code(455), Fault.LATE, Fault.ACCEPTED_429]
LOOKS = [
    *(Fault.RESET, Fault.HANG, Fault.HTTP_500, Fault.HTTP_502, Fault.HTML_200, Fault.EMPTY),
    *(Fault.THROTTLED, Fault.NOT_FOUND, Fault.UNKNOWN_STATE, Fault.FAIL_FOR_NOW, Fault.OTHER_TASK),
    *(Fault.RESULT_EMPTY, Fault.RESULT_NULL, Fault.RESULT_DOUBLE, Fault.NO_URLS, Fault.ODD_TIMES),
]
FILES = [
    *(Fault.RESET, Fault.CUT, Fault.CUT_CHUNKED, Fault.CUT_UNFRAMED, Fault.SHORT, Fault.HANG),
    *(Fault.HTTP_503, Fault.HTML_200, Fault.EXPIRED_404, Fault.WRONG_RANGE, Fault.NO_RANGES),
]
LINKS = [Fault.HTTP_500, Fault.EMPTY, Fault.RESET, Fault.code(422)]
SEEDS = volume(3, 12)


def bad_day(seed: int) -> RandomFaults:
    """Faults on every endpoint; which ones and how often is drawn too, so that none hides one."""
    rng = random.Random(seed)

    def mix(faults: list[Fault], most: float) -> dict[Fault, float]:
        return evenly(rng.uniform(0, most), rng.sample(faults, rng.randint(1, len(faults))))

    return RandomFaults(
        seed=seed,
        create=mix(LOST + TOLD, 0.5),
        record=mix(LOOKS, 0.4),
        file=mix(FILES, 0.6),
        download_url=mix(LINKS, 0.5),
        credits={Fault.HTTP_500: 0.3},
    )


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_a_run_with_random_faults_ends_consistently(seed: int, tmp_path: Path) -> None:
    """Whatever goes wrong, every film ends somewhere, whole, and nothing is paid twice.

    Running again sends nothing and changes nothing. (I1, I2, I3, I13)
    """
    rng = random.Random(seed)
    terms = Terms(duration=Lognormal(), fail_rate=rng.choice([0.0, 0.2]))
    folder = tmp_path / "films"
    async with simulated_service(terms, faults=bad_day(seed), seed=seed) as simulator:
        for life in range(8):
            if life == 6:
                simulator.faults = None
            async with (
                make_client(simulator, seed=seed) as client,
                open_batch(tmp_path / "b.db") as batch,
            ):
                await batch.add(films(rng.randint(5, 20)))
                await run_batch(batch, client, folder=folder, max_running=rng.choice([3, 100]))
                await check_consistency(simulator, batch, folder)
                stand = await states(batch)
            if set(stand.values()) <= END_STATES:
                break
        assert set(stand.values()) <= END_STATES, stand
        posts, paid = len(simulator.ledger.arrivals("create")), len(simulator.ledger.paid)
        simulator.faults = None

        async with make_client(simulator) as client, open_batch(tmp_path / "b.db") as batch:
            assert await run_batch(batch, client, folder=folder, every_change=True) == []
            assert await states(batch) == stand
            await check_consistency(simulator, batch, folder)

        assert (len(simulator.ledger.arrivals("create")), len(simulator.ledger.paid)) == (
            posts,
            paid,
        )


async def test_a_limiter_of_ones_own_remembers_the_attempts_of_the_last_run(tmp_path: Path) -> None:
    """Once for each journal that is opened, however often it is run. (R2)"""

    class Own:
        def __init__(self) -> None:
            self.remembered: list[list[tuple[float, bool]]] = []

        @contextlib.asynccontextmanager
        async def slot(self) -> AsyncIterator[None]:
            yield

        running_slot = slot

        def remember(self, attempts: Iterable[tuple[float, bool]]) -> None:
            self.remembered.append(list(attempts))

    async with simulated_service() as simulator:
        simulator.script("create", [Fault.OK, Fault.RESET_AFTER])
        async with make_client(simulator) as client, open_batch(tmp_path / "b.db") as batch:
            await batch.add(films(2))
            batch_run = batch.run(client, folder=tmp_path / "films", every_change=True)
            async with contextlib.aclosing(batch_run) as changes:
                async for _ in changes:
                    if Counter((await states(batch)).values())[ItemState.UNCERTAIN]:
                        break
        await asyncio.sleep(10)
        own = Own()
        async with (
            make_client(simulator, limiter=own) as client,
            open_batch(tmp_path / "b.db") as batch,
        ):
            await run_batch(batch, client, folder=tmp_path / "films")
            await run_batch(batch, client, folder=tmp_path / "films")

    [attempts] = own.remembered
    assert sorted(uncertain for _, uncertain in attempts) == [False, True]
    assert all(10 <= ago <= 60 for ago, _ in attempts)


async def test_each_film_is_yielded_once_at_its_end(tmp_path: Path) -> None:
    """The loop hears of each film as it comes to rest, and of throttling and the like not."""
    async with (
        simulated_service() as simulator,
        make_client(simulator) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        simulator.script("create", [Fault.THROTTLED, Fault.OK, Fault.RESET_AFTER])
        await batch.add(films(5))
        received = await run_batch(batch, client, folder=tmp_path / "films")

        assert Counter(item.key for item in received) == dict.fromkeys(await states(batch), 1)
        assert Counter(item.state for item in received) == {
            ItemState.DONE: 4,
            ItemState.UNCERTAIN: 1,
        }
        assert batch.stopped is None


@pytest.mark.parametrize(
    ("fault", "reported"),
    [(Fault.code(402), "credits"), (Fault.code(401), "key"), (Fault.code(433), "")],
    ids=lambda value: str(value),
)
async def test_errors_of_the_account_stop_submitting(
    fault: Fault, reported: str, tmp_path: Path
) -> None:
    """402, 401 and 433 stop the submitting; films in the making are followed. (A24, A25)"""
    async with (
        simulated_service() as simulator,
        make_client(simulator, limiter=RateLimiter(3, 10, clock=LoopClock())) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        simulator.script("create", [Fault.OK] * 3 + [fault] * 50)
        await batch.add(films(volume(12, 30)))

        await run_batch(batch, client, folder=tmp_path / "films")

        assert Counter((await states(batch)).values()) == {
            ItemState.DONE: 3,
            ItemState.PLANNED: volume(9, 27),
        }
        assert batch.stopped
        assert reported in batch.stopped.casefold()
        assert len(simulator.ledger.arrivals("create")) <= 3 + 3
        simulator.clear_scripts()
        await run_batch(batch, client, folder=tmp_path / "films")
        assert set((await states(batch)).values()) == {ItemState.DONE}
        assert batch.stopped is None
        await check_consistency(simulator, batch, tmp_path / "films")


async def test_a_film_that_fails_for_lack_of_credits_stops_the_run(tmp_path: Path) -> None:
    """The account's trouble, not the film's: nothing more is submitted, and nothing retried."""
    failure = Failure("402", "Credits insufficient")
    terms = Terms(duration=Constant(60), fail_rate=1.0, failure=failure)
    async with (
        simulated_service(terms) as simulator,
        make_client(simulator, max_running=2) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        await batch.add(films(20))
        await run_batch(batch, client, folder=tmp_path / "films", retry=3)

        assert len(simulator.ledger.paid) == 2
        assert batch.stopped is not None
        assert "Top up" in batch.stopped


async def test_maintenance_pauses_everybody_and_the_item_is_planned_again(tmp_path: Path) -> None:
    """A 455 costs minutes, not the batch: nobody submits meanwhile, then all go on. (A26)"""
    async with (
        simulated_service() as simulator,
        make_client(simulator, limiter=fast_limiter(4)) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        simulator.script("create", [Fault.OK, Fault.code(455), Fault.code(455)])
        await batch.add(films(8))

        await run_batch(batch, client, folder=tmp_path / "films", max_running=4)

        assert set((await states(batch)).values()) == {ItemState.DONE}
        times = simulator.ledger.arrivals("create")
        assert max(late - early for early, late in itertools.pairwise(times)) >= 119


async def test_films_that_meet_one_maintenance_are_one_pause(tmp_path: Path) -> None:
    """Six at once are refused for it: that is one maintenance, not six in a row. (A26)"""
    async with (
        simulated_service() as simulator,
        make_client(simulator, limiter=fast_limiter()) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        simulator.script("create", [Fault.code(455)] * 6)
        await batch.add(films(6))

        await run_batch(batch, client, folder=tmp_path / "films")

        assert set((await states(batch)).values()) == {ItemState.DONE}
        assert batch.stopped is None


async def test_a_film_between_two_maintenances_is_a_new_beginning(tmp_path: Path) -> None:
    """Four short ones in a day end no run: only those without a film between them add up. (A26)"""
    async with (
        simulated_service() as simulator,
        make_client(simulator, limiter=fast_limiter()) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        simulator.script("create", [Fault.code(455), Fault.OK] * 5)
        await batch.add(films(5))

        await run_batch(batch, client, folder=tmp_path / "films", max_running=1)

        assert set((await states(batch)).values()) == {ItemState.DONE}
        assert batch.stopped is None


async def test_endless_maintenance_stops_the_run(tmp_path: Path) -> None:
    """After the last pause the run ends, and can be run again: it never hangs. (A26)"""
    async with (
        simulated_service() as simulator,
        make_client(simulator, limiter=fast_limiter()) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        simulator.script("create", [Fault.code(455)] * 100)
        await batch.add(films(3))

        await run_batch(batch, client, folder=tmp_path / "films")

        assert batch.stopped
        assert set((await states(batch)).values()) == {ItemState.PLANNED}
        assert asyncio.get_running_loop().time() < 3600


async def test_a_service_that_cannot_be_reached_stops_the_run(tmp_path: Path) -> None:
    """When patience ends nothing was paid and everything is planned still. (A15)"""
    simulator = simulated_service()
    async with simulator:  # and its address leads nowhere from here on
        client = make_client(simulator, retry_for=60)
    async with (
        client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        await batch.add(films(3))

        await run_batch(batch, client, folder=tmp_path / "films")

        assert batch.stopped
        assert "not reached" in batch.stopped
        assert set((await states(batch)).values()) == {ItemState.PLANNED}
        assert await batch.verify() == []


async def test_a_redirected_submission_leaves_its_film_planned(tmp_path: Path) -> None:
    """A wrong address refuses every film: none of them is rejected for that. (A13)"""
    async with (
        simulated_service() as simulator,
        make_client(simulator, limiter=fast_limiter(1)) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        simulator.script("create", [Fault.redirect(308, "https://other.test/")] * 9)
        await batch.add(films(9))

        await run_batch(batch, client, folder=tmp_path / "films")

        assert set((await states(batch)).values()) == {ItemState.PLANNED}
        assert len(simulator.ledger.arrivals("create")) == 1


async def test_a_run_pays_nothing_more_once_its_journal_is_removed(tmp_path: Path) -> None:
    """Somebody cleans up, and it comes back: the next run goes on. (J8)"""
    path, folder = tmp_path / "films" / "b.db", tmp_path / "films"
    folder.mkdir()
    async with (
        simulated_service() as simulator,
        make_client(simulator, limiter=RateLimiter(1, 10, clock=LoopClock())) as client,
    ):
        async with open_batch(path) as batch:
            await batch.add(films(3))

            async def run_and_clean_up() -> None:
                async for item in batch.run(client, folder=folder, every_change=True):
                    if item.state is ItemState.SUBMITTED:
                        shutil.rmtree(folder)

            with pytest.raises(JournalError, match="was removed while it was in use"):
                await run_and_clean_up()
        assert len(simulator.ledger.paid) == 1

        async with open_batch(path) as batch:
            await run_batch(batch, client, folder=folder)
            await check_consistency(simulator, batch, folder)
        assert len(simulator.ledger.paid) == 3


async def test_a_rejected_film_does_not_stop_the_others(tmp_path: Path) -> None:
    """A 422 rejects its film; the others are made, and `retry` plans it again."""
    async with (
        simulated_service() as simulator,
        make_client(simulator, limiter=fast_limiter()) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        simulator.script("create", [Fault.code(422, "no such thing")])
        await batch.add(films(4))
        received = await run_batch(batch, client, folder=tmp_path / "films")
        [rejected] = [item for item in received if item.state is ItemState.REJECTED]

        assert "no such thing" in rejected.cause
        assert Counter((await states(batch)).values()) == {ItemState.DONE: 3, ItemState.REJECTED: 1}
        await batch.retry(rejected.key)
        await run_batch(batch, client, folder=tmp_path / "films")
        assert set((await states(batch)).values()) == {ItemState.DONE}


async def test_an_image_that_the_service_does_not_store_keeps_its_film_planned(
    tmp_path: Path,
) -> None:
    """Nobody's input is to blame: the others are made, and the next run makes this one too."""
    shipped = Path(__file__).parents[2] / "apikley_async/cli/storyboards/kitten.webp"
    board = Storyboard([Shot("A picture.", 5)], duration=10, image=shipped)
    async with (
        simulated_service() as simulator,
        make_client(simulator, limiter=fast_limiter()) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        simulator.script("upload", [Fault.NO_UPLOAD_URL])
        await batch.add([("picture", board), *films(3)])

        received = await run_batch(batch, client, folder=tmp_path / "films")

        stand = await states(batch)
        assert stand.pop("picture") is ItemState.PLANNED
        assert set(stand.values()) == {ItemState.DONE}
        assert any(item.key == "picture" and "without a URL" in item.cause for item in received)
        await run_batch(batch, client, folder=tmp_path / "films")
        assert set((await states(batch)).values()) == {ItemState.DONE}


async def test_an_address_that_redirects_stops_the_run(tmp_path: Path) -> None:
    """The base URL is not the service's: no other film is sent there, and none is rejected."""
    async with (
        simulated_service() as simulator,
        make_client(simulator, limiter=fast_limiter(), max_running=1) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        simulator.script("create", [Fault.redirect(307, "https://elsewhere.test/")] * 9)
        await batch.add(films(3))

        await run_batch(batch, client, folder=tmp_path / "films")

        assert set((await states(batch)).values()) == {ItemState.PLANNED}
        assert len(simulator.ledger.arrivals("create")) == 1
        assert "redirected" in (batch.stopped or "")


async def test_no_file_of_a_batch_holds_the_key(tmp_path: Path) -> None:
    """Nor a signed link that is not needed: journal, log, lock, films and parts. (S5, I8)"""
    key = "canary-0000-this-key-opens-nothing"
    faults = RandomFaults(seed=3, create={Fault.HTTP_500_AFTER: 0.3}, file={Fault.CUT: 0.3})
    async with (
        Simulator(faults=faults, api_key=key, clock=LoopClock()) as simulator,
        make_client(simulator) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        await batch.add(films(8))
        await run_batch(batch, client, folder=tmp_path / "films")

        held = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert len(held) > 5
        for path in held:
            assert key.encode() not in await asyncio.to_thread(path.read_bytes), path


async def test_an_image_that_was_replaced_is_not_sent(tmp_path: Path) -> None:
    """What is paid is what was planned; with the picture back in its place it is made. (M11)"""
    shipped = Path(__file__).parents[2] / "apikley_async/cli/storyboards"
    picture = tmp_path / "picture.png"
    board = Storyboard([Shot("A picture.", 5)], duration=10, image=str(picture))
    async with (
        simulated_service() as simulator,
        make_client(simulator) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        await asyncio.to_thread(shutil.copy, shipped / "kitten.webp", picture)
        await batch.add([("a", board)])
        await asyncio.to_thread(shutil.copy, shipped / "lighthouse.webp", picture)

        await run_batch(batch, client, folder=tmp_path / "films")

        assert (await states(batch)) == {"a": ItemState.REJECTED}
        assert "not the picture" in (await batch.item("a")).cause
        assert not simulator.ledger.creations
        await asyncio.to_thread(shutil.copy, shipped / "kitten.webp", picture)
        await batch.retry("a")
        await run_batch(batch, client, folder=tmp_path / "films")
        assert (await states(batch)) == {"a": ItemState.DONE}


async def test_an_image_is_compared_with_the_plan_where_it_is_read_to_be_sent(
    tmp_path: Path,
) -> None:
    """There is no moment between looking and uploading: it is read once, by the client itself."""
    shipped = Path(__file__).parents[2] / "apikley_async/cli/storyboards"
    picture = tmp_path / "picture.png"
    picture.write_bytes((shipped / "kitten.webp").read_bytes())
    board = Storyboard([Shot("A picture.", 5)], duration=10, image=str(picture))
    async with (
        simulated_service() as simulator,
        make_client(simulator) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        await batch.add([("a", board)])
        planned = work_of(await batch.item("a"))
        picture.write_bytes((shipped / "lighthouse.webp").read_bytes())

        with pytest.raises(UploadError, match="not the picture"):
            await client.submit(planned)

        assert not simulator.ledger.arrivals("upload")
        assert not simulator.ledger.creations


async def test_an_image_that_is_none_rejects_its_film_alone(tmp_path: Path) -> None:
    """An image that has become unreadable costs nothing and stops nobody."""
    async with (
        simulated_service() as simulator,
        make_client(simulator) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        gone = Storyboard(
            [Shot("A picture.", 5)], duration=10, image="https://127.0.0.1.test/a.png"
        )
        await batch.add([("bad", gone), *films(2)])
        simulator.script("create", [Fault.OK] * 9)
        lost = Storyboard([Shot("Lost.", 5)], duration=10, image=str(tmp_path / "lost.png"))
        picture = Path(__file__).parents[2] / "apikley_async/cli/storyboards/kitten.webp"
        content = await asyncio.to_thread(picture.read_bytes)
        await asyncio.to_thread((tmp_path / "lost.png").write_bytes, content)
        await batch.add([("lost", lost)])
        await asyncio.to_thread((tmp_path / "lost.png").write_bytes, b"no picture")

        await run_batch(batch, client, folder=tmp_path / "films")

        stand = await states(batch)
        assert stand.pop("lost") is ItemState.REJECTED
        assert set(stand.values()) == {ItemState.DONE}
        assert "lost.png" in (await batch.item("lost")).cause


async def test_a_film_whose_file_exists_is_not_paid(tmp_path: Path) -> None:
    """A name that is taken may be the film, from a journal that was lost. (A21, D15)"""
    (tmp_path / "k1.mp4").write_bytes(b"somebody's")
    async with (
        simulated_service() as simulator,
        make_client(simulator) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        await batch.add(films(3))
        received = {item.key: item for item in await run_batch(batch, client, folder=tmp_path)}

        assert received["k1"].state is ItemState.PLANNED
        assert "exists already" in received["k1"].cause
        assert len(simulator.ledger.paid) == 2
        assert (tmp_path / "k1.mp4").read_bytes() == b"somebody's"
        await run_batch(batch, client, folder=tmp_path, overwrite=True)
        await check_consistency(simulator, batch, tmp_path)


class Photos:
    """A renderer for a model whose answers are photographs."""

    async def render(self, request: RenderRequest) -> bytes:
        return b"\xff\xd8\xff\xe0" + request.task_id.encode() * 99


async def test_a_rehearsal_is_replaced_and_any_other_file_is_not(
    tmp_path: Path,
) -> None:
    """`k0.mp4` was rehearsed, `k0.jpg` is somebody's: the bytes say which is meant."""
    (tmp_path / "k0.mp4").write_bytes(b"film" + REHEARSAL_MARK)
    photo, rehearsed = tmp_path / "k0.jpg", tmp_path / "k1.jpg"
    photo.write_bytes(b"\xff\xd8\xff\xe0 somebody's")
    rehearsed.write_bytes(b"\xff\xd8\xff\xe0" + REHEARSAL_MARK)
    task = ModelTask("kling-2.6/text-to-video", {"prompt": "A lighthouse."})
    simulator = Simulator(clock=LoopClock(), rng=random.Random(7), renderer=Photos())
    async with (
        simulator,
        make_client(simulator) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        await batch.add([("k0", task), ("k1", attrs.evolve(task, input={"prompt": "Dusk."}))])
        received = {item.key: item for item in await run_batch(batch, client, folder=tmp_path)}

        assert received["k0"].state is ItemState.SUCCESS  # paid, and at the service still
        assert "k0.jpg exists and is another file" in received["k0"].cause
        assert photo.read_bytes() == b"\xff\xd8\xff\xe0 somebody's"
        assert received["k1"].state is ItemState.DONE
        assert not is_rehearsal(rehearsed)
        photo.rename(tmp_path / "mine.jpg")
        await run_batch(batch, client, folder=tmp_path)
        assert (await batch.item("k0")).files[0].path == photo


async def test_a_film_whose_first_of_several_files_exists_is_not_paid(tmp_path: Path) -> None:
    """A film of several files is `k0-1.mp4`, `k0-2.mp4`, and there is no `k0.mp4`. (A21, D15)"""
    (tmp_path / "k0-1.mp4").write_bytes(b"somebody's")
    async with (
        simulated_service() as simulator,
        make_client(simulator) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        await batch.add(films(1))

        [item] = await run_batch(batch, client, folder=tmp_path)

        assert item.state is ItemState.PLANNED
        assert "k0-1.mp4 exists already" in item.cause
        assert not simulator.ledger.paid


async def test_a_film_that_cannot_be_saved_is_saved_by_the_next_run(tmp_path: Path) -> None:
    """A file that gets in the way after paying keeps the film waiting, not lost. (D15)"""
    async with (
        simulated_service() as simulator,
        make_client(simulator) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        await batch.add(films(1))
        async for item in batch.run(client, folder=tmp_path, every_change=True):
            if item.state is ItemState.SUBMITTED:
                (tmp_path / "k0.mp4").write_bytes(b"somebody's")
        assert item.state is ItemState.SUCCESS
        assert "another file" in item.cause
        (tmp_path / "k0.mp4").unlink()

        await run_batch(batch, client, folder=tmp_path)

        assert len(simulator.ledger.paid) == 1
        await check_consistency(simulator, batch, tmp_path)


@pytest.mark.parametrize(("retry", "paid"), [(0, 4), (1, 8), (2, 12)])
async def test_a_failed_film_is_made_again_only_on_request(
    retry: int, paid: int, tmp_path: Path
) -> None:
    """A new film is a new charge: `retry` says how often, and 0 is the default. (A27)"""
    terms = Terms(duration=Constant(30), decide=lambda _: Failure("500", "no luck"))
    async with (
        simulated_service(terms) as simulator,
        make_client(simulator) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        await batch.add(films(4))

        received = await run_batch(batch, client, folder=tmp_path / "films", retry=retry)
        again = await run_batch(batch, client, folder=tmp_path / "films", retry=retry)

        assert len(simulator.ledger.paid) == paid
        assert {item.fail_message for item in received} == {"no luck"}
        assert again == []
        assert set((await states(batch)).values()) == {ItemState.FAILED}
        assert await batch.verify() == []


async def test_a_film_that_was_taken_from_the_manifest_is_not_made(tmp_path: Path) -> None:
    """What is gone from the manifest before it was paid is not paid."""
    manifest = tmp_path / "m.jsonl"
    line = (
        '{"key": "%s", "shots": [{"scene": "The scene of %s.", "duration": 5}], "duration": 10}\n'
    )
    async with (
        simulated_service() as simulator,
        make_client(simulator) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        manifest.write_text(line % ("a", "a") + line % ("b", "b"))
        await batch.add(manifest)
        manifest.write_text(line % ("b", "b") + line % ("c", "c"))
        plan = await batch.add(manifest)

        await run_batch(batch, client, folder=tmp_path / "films")

        assert str(plan) == "1 new, 1 known, 1 gone"
        assert await states(batch) == {
            "a": ItemState.PLANNED,
            "b": ItemState.DONE,
            "c": ItemState.DONE,
        }
        assert (await batch.estimate(prices=1)).films == 0


async def test_films_without_a_manifest_can_be_added_one_by_one(tmp_path: Path) -> None:
    """Pairs of a key and a film add up; none makes the others gone."""
    async with (
        simulated_service() as simulator,
        make_client(simulator) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        for key in "abc":
            await batch.add([(key, board(key))])

        await run_batch(batch, client, folder=tmp_path / "films")

        assert set((await states(batch)).values()) == {ItemState.DONE}


async def test_a_success_without_a_link_waits_for_the_next_run(tmp_path: Path) -> None:
    """A film that is said to be ready and has no link is paid: it stalls, and is not lost."""
    async with (
        simulated_service(Terms(duration=Constant(5), results=0)) as simulator,
        make_client(simulator) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        await batch.add([("talk", ModelTask("kling-2.6/text-to-video", {"prompt": "Hello."}))])
        for _ in range(2):
            [item] = await run_batch(batch, client, folder=tmp_path / "films")
            assert (item.state, item.attempts) == (ItemState.STALLED, 1)
            assert "link" in item.cause
        assert len(simulator.ledger.paid) == 1


async def test_several_files_of_one_task(tmp_path: Path) -> None:
    """A task with three files has three names, and all of them are in the journal."""
    terms = Terms(duration=Constant(5), results=3)
    async with (
        simulated_service(terms) as simulator,
        make_client(simulator) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        await batch.add(films(1))
        await run_batch(batch, client, folder=tmp_path)

        item = await batch.item("k0")
        assert [file.path.name for file in item.files] == ["k0-1.mp4", "k0-2.mp4", "k0-3.mp4"]
        for number, file in enumerate(item.files, start=1):
            true = await simulator.film(item.task_id or "", number)
            assert file.path.read_bytes() == true
        assert await run_batch(batch, client, folder=tmp_path) == []


async def test_no_more_films_run_than_allowed(tmp_path: Path) -> None:
    """`max_running` bounds the films in the making, whatever the client allows."""
    async with (
        simulated_service() as simulator,
        make_client(simulator, limiter=fast_limiter()) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        await batch.add(films(20))

        await run_batch(batch, client, folder=tmp_path / "films", max_running=3)

        assert simulator.ledger.most_running == 3
        assert set((await states(batch)).values()) == {ItemState.DONE}


async def test_an_uncertain_film_keeps_its_running_slot_for_a_while(tmp_path: Path) -> None:
    """What may be running counts as running: the service never has more than allowed. (R13)"""
    terms = Terms(duration=Constant(1000))
    async with (
        simulated_service(terms) as simulator,
        make_client(simulator, limiter=fast_limiter(), max_running=2) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        simulator.script("create", [Fault.RESET_AFTER])
        await batch.add(films(4))

        await run_batch(batch, client, folder=tmp_path / "films")

        assert simulator.ledger.most_running == 2
        assert Counter((await states(batch)).values()) == {
            ItemState.DONE: 3,
            ItemState.UNCERTAIN: 1,
        }


@pytest.mark.parametrize("wrong", [{"max_running": 0}, {"retry": -1}, {"prices": -1.0}])
async def test_options_that_make_no_sense_are_refused(
    wrong: dict[str, float], tmp_path: Path
) -> None:
    """An option that would hang the run, or undo a bound, is an error."""
    async with (
        simulated_service() as simulator,
        make_client(simulator) as client,
        open_batch(tmp_path / "b.db") as batch,
    ):
        await batch.add(films(1))

        with pytest.raises(ValueError, match=next(iter(wrong)).removesuffix("s")):
            await run_batch(batch, client, folder=tmp_path, **wrong)

        assert not simulator.ledger.arrivals("create")


@pytest.mark.virtual
async def test_a_folder_that_takes_no_film_is_found_before_paying(tmp_path: Path) -> None:
    """It is tried: made, and written to. Nothing of the trial is left. (D13)"""
    (tmp_path / "file").touch()
    async with (
        simulated_service() as simulator,
        make_client(simulator) as client,
        open_batch(tmp_path / "b.db") as b,
    ):
        await b.add(films(1))

        for folder in (tmp_path / "file", tmp_path / "file" / "films", Path("/proc/films")):
            with pytest.raises(DownloadError, match="nothing was sent"):
                await run_batch(b, client, folder=folder)

        assert simulator.ledger.creations == []
        await run_batch(b, client, folder=tmp_path / "films")
        assert [path.name for path in (tmp_path / "films").iterdir()] == ["k0.mp4"]


@pytest.mark.virtual
@pytest.mark.parametrize("restarted", [False, True], ids=["one run", "the next run"])
async def test_an_answer_with_another_film_s_task_stops_only_that_film(
    restarted: bool, tmp_path: Path
) -> None:
    """That film is uncertain, with the answer; the others go on, and nothing has to be rescued."""
    async with simulated_service() as simulator, open_batch(tmp_path / "b.db") as batch:
        if restarted:
            await batch.add(films(1))
            async with make_client(simulator, limiter=fast_limiter()) as client:
                await run_batch(batch, client, folder=tmp_path / "films")
        simulator.script(
            "create", [Fault.OTHER_TASK] if restarted else [Fault.OK, Fault.OTHER_TASK]
        )
        await batch.add(films(4))
        async with make_client(simulator, limiter=fast_limiter()) as client:
            await run_batch(batch, client, folder=tmp_path / "films", max_running=1)
            unclaimed = client.unclaimed

        assert batch.stopped is None
        assert unclaimed == []
        assert len(simulator.ledger.paid) == 4
        assert await states(batch) == {
            **dict.fromkeys(("k0", "k2", "k3"), ItemState.DONE),
            "k1": ItemState.UNCERTAIN,
        }
        [doubtful] = [item async for item in batch.items() if item.key == "k1"]
        assert "the answer names" in doubtful.cause
        await check_consistency(simulator, batch, tmp_path / "films")
    assert not [*tmp_path.glob("*.rescue.jsonl")]

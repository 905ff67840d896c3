"""Films that go somewhere else than into a folder: done when they are there, and not before."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

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
from sample_report import page_of, report_of

from apikley_async.batch import Batch, Destination, ItemState, StoredFile
from apikley_async.batch.report.exports import report_csv, report_json
from apikley_async.batch.report.rows import read_rows
from apikley_async.batch.report.texts import sentence
from apikley_async.batch.stored_polls import read_polls
from apikley_async.errors import ClientClosedError, DownloadError, ManifestError
from apikley_async.events import Event, Saved
from apikley_async.simulator import Constant, Fault, Simulator, Terms

pytestmark = pytest.mark.virtual

SIGNED = "https://me:secret@store.example/films/{}?X-Signature=secret#secret"


class Store:
    """A destination in memory: what is there, and how it was asked."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.puts: list[tuple[str, int | None, str]] = []
        self.asked: list[str] = []
        self.at_once = self.most_at_once = 0

    async def put(
        self, name: str, chunks: AsyncIterator[bytes], *, size: int | None, content_type: str
    ) -> str | None:
        self.puts.append((name, size, content_type))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            data = b""
            async for chunk in chunks:
                data += chunk
                await asyncio.sleep(30)
        finally:
            self.at_once -= 1
        self.objects[name] = data
        return SIGNED.format(name)

    async def exists(self, name: str) -> bool:
        self.asked.append(name)
        return name in self.objects


async def run(batch: Batch, simulator: Simulator, store: Destination, **options: Any) -> list[Any]:
    async with make_client(simulator) as client:
        return await run_batch(batch, client, destination=store, **options)


def here(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def test_films_are_done_when_they_are_there(tmp_path: Path) -> None:
    store = Store()
    assert isinstance(store, Destination)
    async with simulated_service() as simulator, open_batch(tmp_path / "b.db") as batch:
        await batch.add(films(9))
        items = await run(batch, simulator, store)

        assert {item.state for item in items} == {ItemState.DONE}
        for item in [item async for item in batch.items()]:
            data = await simulator.film(item.task_id or "")
            name = f"{item.key}.mp4"
            assert store.objects[name] == data
            sha256 = hashlib.sha256(data).hexdigest()
            location = f"https://store.example/films/{name}"
            assert item.stored == (StoredFile(name, len(data), sha256, location),)
            assert item.files == ()
        assert min(store.puts) == ("k0.mp4", len(store.objects["k0.mp4"]), "video/mp4")
        assert store.most_at_once == 6
        assert await batch.verify() == []
        assert await run(batch, simulator, store) == []
    assert len(simulator.ledger.paid) == 9
    assert b"secret" not in (tmp_path / "b.db").read_bytes()
    assert [name for name in here(tmp_path) if not name.startswith("b.db")] == []


async def test_a_run_that_ends_within_a_put_puts_it_again(tmp_path: Path) -> None:
    """Between the put and DONE: it is put once more, under the same name, and paid once."""
    store = Store()

    class Torn(Store):
        async def put(self, name: str, chunks: AsyncIterator[bytes], **facts: Any) -> str | None:
            await store.put(name, chunks, **facts)
            raise asyncio.CancelledError

    async with simulated_service() as simulator:
        async with open_batch(tmp_path / "b.db") as batch:
            await batch.add(films(1))
            await run(batch, simulator, Torn())
            assert await states(batch) == {"k0": ItemState.SUCCESS}
        async with open_batch(tmp_path / "b.db") as batch:
            await run(batch, simulator, store)
            assert await states(batch) == {"k0": ItemState.DONE}
    assert [name for name, *_ in store.puts] == ["k0.mp4", "k0.mp4"]
    assert len(simulator.ledger.paid) == 1


async def test_something_of_that_name_is_found_before_paying(tmp_path: Path) -> None:
    """It is asked once, before the film is bought; never before a film that is paid is put."""
    store = Store()
    store.objects["k0.mp4"] = store.objects["k1-1.mp4"] = b"mine"
    async with simulated_service() as simulator, open_batch(tmp_path / "b.db") as batch:
        await batch.add(films(3))
        items = {item.key: item for item in await run(batch, simulator, store)}

        assert items["k0"].cause == (
            "k0.mp4 is in the destination already; nothing was paid. Allow to overwrite it"
        )
        assert items["k1"].cause.startswith("k1-1.mp4 is in the destination already")
        assert items["k2"].state is ItemState.DONE
        assert len(simulator.ledger.paid) == 1
        store.asked.clear()

        await run(batch, simulator, store, overwrite=True)
        assert store.asked == ["apikley-check"], "whether it answers, and no film's name"
        assert set((await states(batch)).values()) == {ItemState.DONE}
    assert b"mine" not in (store.objects["k0.mp4"], store.objects["k1.mp4"])


FAULTS = {
    "a break": [Fault.CUT, Fault.CUT],
    "a break without a strong validator": [Fault.WEAK_VALIDATOR, Fault.CUT, Fault.NO_VALIDATORS],
    "a break without a length": [Fault.CUT_UNFRAMED, Fault.CUT_CHUNKED],
    "a wrong range after a break": [Fault.CUT, Fault.WRONG_RANGE, Fault.NO_RANGES],
    "an expired link": [Fault.EXPIRED_403, Fault.CUT, Fault.EXPIRED_410],
    "a stall": [Fault.HANG, Fault.CUT, Fault.HANG],
    "a reset": [Fault.RESET, Fault.RESET],
    "a page": [Fault.HTML_200],
}


async def test_faults_of_the_film_host_never_reach_the_store(tmp_path: Path) -> None:
    """What is there is the film, whatever came in between; all within one run."""
    store, wrong = Store(), []
    async with simulated_service() as simulator, open_batch(tmp_path / "b.db") as batch:
        for number, (name, faults) in enumerate(FAULTS.items()):
            await batch.add([(f"k{number}", board(name))])
            simulator.script("file", faults)
            [item] = await run(batch, simulator, store)
            data = store.objects.get(f"k{number}.mp4")
            if data != await simulator.film(item.task_id or ""):
                wrong.append((name, item))

    assert wrong == []
    assert len(simulator.ledger.paid) == len(FAULTS)
    assert not simulator.ledger.leaks


async def test_another_film_after_a_break_is_put_by_the_next_run(tmp_path: Path) -> None:
    """The bytes that were handed on are no beginning of it: nothing is stored, or spliced."""
    store = Store()
    async with simulated_service() as simulator, open_batch(tmp_path / "b.db") as batch:
        await batch.add(films(1))
        simulator.script("file", [Fault.CUT, Fault.CHANGED])
        [item] = await run(batch, simulator, store)
        assert item.state is ItemState.SUCCESS
        assert "another film now" in item.cause
        assert store.objects == {}

        [item] = await run(batch, simulator, store)
        assert item.state is ItemState.DONE
        sha256 = hashlib.sha256(store.objects["k0.mp4"]).hexdigest()
        assert item.stored[0].sha256 == sha256
    assert len(simulator.ledger.paid) == 1


async def test_what_a_store_raises_is_its_film_s_trouble(tmp_path: Path) -> None:
    """The film is paid and ready; the reason is shown without links, and the next run puts it."""

    class Broken(Store):
        async def put(self, name: str, chunks: AsyncIterator[bytes], **facts: Any) -> str | None:
            if name == "k1.mp4":
                raise ConnectionError("PUT https://store.example/k1?X-Signature=secret refused")
            return await super().put(name, chunks, **facts)

        async def exists(self, name: str) -> bool:
            if name == "k2.mp4":
                raise TimeoutError
            return await super().exists(name)

    store = Broken()
    async with simulated_service() as simulator, open_batch(tmp_path / "b.db") as batch:
        await batch.add(films(3))
        items = {item.key: item for item in await run(batch, simulator, store)}

        assert items["k0"].state is ItemState.DONE
        assert items["k1"].state is ItemState.SUCCESS
        assert "k1.mp4: the destination has raised ConnectionError: PUT <url> refused" in (
            items["k1"].cause
        )
        assert items["k2"].state is ItemState.PLANNED
        assert items["k2"].cause == (
            "k2.mp4: the destination has raised TimeoutError; nothing was paid"
        )
        await run(batch, simulator, Store())
        assert set((await states(batch)).values()) == {ItemState.DONE}
    assert len(simulator.ledger.paid) == 3


async def test_a_store_that_is_full_stops_the_buying(tmp_path: Path) -> None:
    class Full(Store):
        async def put(self, name: str, chunks: AsyncIterator[bytes], **facts: Any) -> str | None:
            raise DownloadError("the quota is used up", affects_all=True)

    async with simulated_service() as simulator, open_batch(tmp_path / "b.db") as batch:
        await batch.add(films(9))
        await run(batch, simulator, Full(), max_running=2)
        assert batch.stopped is not None
        assert "the quota is used up" in batch.stopped
        paid = len(simulator.ledger.paid)
        assert paid < 9
        await run(batch, simulator, Store(), max_running=2)
        assert set((await states(batch)).values()) == {ItemState.DONE}
    assert len(simulator.ledger.paid) == 9


@pytest.mark.parametrize("read", [0, "size"], ids=["nothing", "by size"])
async def test_a_store_that_returns_too_early_has_stored_nothing(
    tmp_path: Path, read: int | str
) -> None:
    """One that counts bytes has all of them, and the end is looked at for it."""

    class Hasty(Store):
        async def put(
            self, name: str, chunks: AsyncIterator[bytes], *, size: int | None, content_type: str
        ) -> str | None:
            left = size if read == "size" else read
            while left:
                chunk = await anext(chunks)
                left -= len(chunk) if read == "size" else 1  # type: ignore[operator]
            return None

    async with simulated_service() as simulator, open_batch(tmp_path / "b.db") as batch:
        await batch.add(films(1))
        [item] = await run(batch, simulator, Hasty())

    if read == "size":
        assert item.state is ItemState.DONE
        assert item.stored[0].location is None
    else:
        assert item.state is ItemState.SUCCESS
        assert "the destination returned before it had read all of it" in item.cause


async def test_an_end_that_is_none_is_an_error_whatever_the_store_makes_of_it(
    tmp_path: Path,
) -> None:
    """The film is cut for good: swallowed or wrapped, the reason is the film's."""

    class Careless(Store):
        async def put(self, name: str, chunks: AsyncIterator[bytes], **facts: Any) -> str | None:
            try:
                return await super().put(name, chunks, **facts)
            except DownloadError as error:
                if name == "k0.mp4":
                    return "stored"
                raise OSError("the upload was aborted") from error

    async with simulated_service() as simulator, open_batch(tmp_path / "b.db") as batch:
        await batch.add(films(2))
        simulator.script("file", [Fault.SHORT] * 500)
        items = await run(batch, simulator, Careless())

    for item in items:
        assert item.state is ItemState.SUCCESS
        assert "the film was not whole" in item.cause


async def test_films_of_several_files_and_of_none(tmp_path: Path) -> None:
    store = Store()
    terms = Terms(duration=Constant(60), results=2)
    async with simulated_service(terms) as simulator, open_batch(tmp_path / "b.db") as batch:
        await batch.add([("k0", board("k0")), ("k0-1", board("k0-1"))])
        await run(batch, simulator, store)
        items = {item.key: item async for item in batch.items()}

    assert [file.name for file in items["k0"].stored] == ["k0 (film)-1.mp4", "k0 (film)-2.mp4"]
    assert [file.name for file in items["k0-1"].stored] == ["k0-1-1.mp4", "k0-1-2.mp4"]
    assert len(store.objects) == 4


def test_locations_lose_what_is_secret() -> None:
    kept = {
        None: None,
        "s3://films/a.mp4": "s3://films/a.mp4",
        SIGNED.format("a"): "https://store.example/films/a",
        "films/a.mp4?version=7": "films/a.mp4",
        "two\nlines": "two lines",
    }
    found = {
        location: StoredFile.at("a.mp4", location, size=1, sha256="00" * 32).location
        for location in kept
    }

    assert found == kept
    long = StoredFile.at("a.mp4", "x" * 5000, size=1, sha256="00" * 32).location
    assert len(long or "") == 1000
    again = StoredFile.at("a.mp4", long, size=1, sha256="00" * 32).location
    assert again == long, "what the journal holds is what it has read"


@pytest.mark.parametrize(
    ("location", "kept"),
    [
        ("sftp://me@example.com@store.example/a.mp4", "sftp://store.example/a.mp4"),
        ("https://me:se@cret@store.example/a.mp4", "https://store.example/a.mp4"),
        ("//me@/y@z", "///z"),
        ("s3://films/a.mp4 ?signature=1", "s3://films/a.mp4"),
        ("x" * 999 + " x", "x" * 999),
    ],
)
async def test_whatever_a_destination_answers_the_journal_can_be_read(
    tmp_path: Path, location: str, kept: str
) -> None:
    """The film is paid and stored: an odd location must not make its journal a damaged one."""

    class Odd(Store):
        async def put(self, name: str, chunks: AsyncIterator[bytes], **facts: Any) -> str | None:
            await super().put(name, chunks, **facts)
            return location

    async with simulated_service() as simulator:
        async with open_batch(tmp_path / "b.db") as batch:
            await batch.add(films(1))
            await run(batch, simulator, Odd())
        async with open_batch(tmp_path / "b.db") as batch:
            [item] = [item async for item in batch.items()]
    assert item.state is ItemState.DONE
    assert [file.location for file in item.stored] == [kept]


# --- before and while anything is paid ------------------------------------------------------------


@pytest.mark.parametrize("how", ["exists", "check", "silent check", "silent exists"])
async def test_a_destination_is_tried_before_anything_is_sent(tmp_path: Path, how: str) -> None:
    """As a folder is: wrong credentials cost nothing. It is a minute at most."""

    class Locked(Store):
        async def exists(self, name: str) -> bool:
            if how == "exists":
                raise PermissionError("403 from https://store.example/?X-Signature=secret")
            if how == "silent exists":
                await asyncio.Event().wait()
            return await super().exists(name)

    class Checked(Locked):
        async def check(self) -> None:
            if how == "silent check":
                await asyncio.Event().wait()
            raise PermissionError("not allowed to put")

    async with simulated_service() as simulator, open_batch(tmp_path / "b.db") as batch:
        await batch.add(films(3))
        began = asyncio.get_running_loop().time()
        with pytest.raises(DownloadError, match="; nothing was sent") as caught:
            await run(batch, simulator, Checked() if "check" in how else Locked(), overwrite=True)
        took = asyncio.get_running_loop().time() - began

        assert ("for 60 s" in caught.value.message) is ("silent" in how)
        assert "secret" not in str(caught.value)
        assert took < 61
        assert simulator.ledger.creations == []
        assert set((await states(batch)).values()) == {ItemState.PLANNED}


async def test_a_destination_with_a_check_of_its_own_is_not_probed(tmp_path: Path) -> None:
    class Checked(Store):
        checks = 0

        async def check(self) -> None:
            self.checks += 1

    store = Checked()
    async with simulated_service() as simulator, open_batch(tmp_path / "b.db") as batch:
        await batch.add(films(1))
        await run(batch, simulator, store)

    assert (store.checks, store.asked) == (1, ["k0.mp4", "k0-1.mp4"])


async def test_puts_that_fail_one_after_the_other_stop_the_buying(tmp_path: Path) -> None:
    """Three in a row are no accident of one film; one that works between them is."""

    class Expired(Store):
        works: frozenset[int] = frozenset()

        async def put(self, name: str, chunks: AsyncIterator[bytes], **facts: Any) -> str | None:
            if len(self.puts) in self.works:
                return await super().put(name, chunks, **facts)
            self.puts.append((name, None, ""))
            raise PermissionError("the token has expired")

    class Flaky(Expired):
        works = frozenset(range(0, 99, 2))

    async with simulated_service() as simulator:
        for store in (Expired(), Flaky()):
            async with open_batch(tmp_path / f"{type(store).__name__}.db") as batch:
                await batch.add(films(12))
                await run(batch, simulator, store, max_running=1)
                if isinstance(store, Flaky):
                    assert batch.stopped is None
                    assert len(store.puts) == 12
                else:
                    assert "the token has expired; 3 in a row were not stored" in (
                        batch.stopped or ""
                    )
                    assert len(store.puts) < 12
                    assert len(simulator.ledger.paid) < 12


async def test_a_put_that_asks_for_nothing_is_logged_and_ended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Half an hour of silence ends it; one that asks now and then takes as long as it likes."""

    class Silent(Store):
        async def put(self, name: str, chunks: AsyncIterator[bytes], **facts: Any) -> str | None:
            if name == "k1.mp4":
                async for _ in chunks:
                    await asyncio.sleep(1700)
                await asyncio.sleep(1700)
                return None
            _ = await anext(chunks)
            await asyncio.Event().wait()
            return None

    async with simulated_service() as simulator, open_batch(tmp_path / "b.db") as batch:
        await batch.add(films(2))
        with caplog.at_level("WARNING"):
            items = {item.key: item for item in await run(batch, simulator, Silent())}

        assert items["k0"].state is ItemState.SUCCESS
        assert items["k0"].cause.startswith(
            "k0.mp4: the destination has asked for nothing for 30 minutes, and has not returned"
        )
        assert items["k1"].state is ItemState.DONE
        said = [line for line in caplog.messages if line.startswith("k0.mp4: the destination")]
        assert said == [
            f"k0.mp4: the destination has asked for nothing for {waited} s, and has not returned"
            for waited in (60, 660, 1260)
        ]
        await run(batch, simulator, Store())
        assert set((await states(batch)).values()) == {ItemState.DONE}
    assert len(simulator.ledger.paid) == 2


async def test_a_put_that_goes_on_after_its_end_harms_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It has left a task behind that reads: that one gets no film, and nothing is logged of it."""
    left: list[asyncio.Task[Any]] = []

    class Careless(Store):
        async def put(self, name: str, chunks: AsyncIterator[bytes], **facts: Any) -> str | None:
            async def read_late() -> None:
                await asyncio.sleep(5)
                async for _ in chunks:
                    pass

            left.append(asyncio.create_task(read_late()))
            raise OSError("no")

    async with simulated_service() as simulator, open_batch(tmp_path / "b.db") as batch:
        await batch.add(films(1))
        [item] = await run(batch, simulator, Careless())
        caplog.clear()
        await asyncio.sleep(600)

    assert item.state is ItemState.SUCCESS
    assert isinstance(left[0].exception(), ClientClosedError)
    assert [line for line in caplog.messages if "asked for nothing" in line] == []


# --- afterwards -----------------------------------------------------------------------------------


async def test_a_film_in_a_destination_is_an_event(tmp_path: Path) -> None:
    events: list[Event] = []
    async with simulated_service() as simulator, open_batch(tmp_path / "b.db") as batch:
        await batch.add(films(1))
        async with make_client(simulator, on_event=events.append) as client:
            [item] = await run_batch(batch, client, destination=Store())

    (saved,) = [event for event in events if isinstance(event, Saved)]
    (stored,) = item.stored
    assert (saved.task_id, saved.path, saved.stored_as) == (item.task_id, None, "k0.mp4")
    assert (saved.size, saved.sha256, saved.location) == (
        stored.size,
        stored.sha256,
        "https://store.example/films/k0.mp4",
    )
    assert saved.seconds >= 30, "the store has slept so long over its chunk"
    assert saved.to_dict()["path"] is None


async def test_what_a_destination_has_lost_is_found_and_fetched_again(tmp_path: Path) -> None:
    """Only with the destination at hand; without it nothing is said about its films."""
    store = Store()
    async with simulated_service() as simulator, open_batch(tmp_path / "b.db") as batch:
        await batch.add(films(3))
        async with make_client(simulator) as client:
            await run_batch(batch, client, destination=store)
            del store.objects["k1.mp4"]

            assert await batch.verify() == []
            faults = await batch.verify(destination=store)
            assert faults == ["k1: k1.mp4 is not in the destination"]
            assert [item async for item in batch.save(client)] == []
            store.puts.clear()
            again = [item.key async for item in batch.save(client, destination=store)]

            assert again == ["k1"]
            assert [name for name, *_ in store.puts] == ["k1.mp4"]
            assert await batch.verify(destination=store) == []
    assert len(simulator.ledger.paid) == 3


async def test_a_film_of_a_destination_is_fetched_into_a_folder_that_is_named(
    tmp_path: Path,
) -> None:
    """Named by a person, with a folder; else it is said what is missing, and nothing changes."""
    store = Store()
    async with simulated_service() as simulator, open_batch(tmp_path / "b.db") as batch:
        await batch.add(films(2))
        async with make_client(simulator) as client:
            await run_batch(batch, client, destination=store)
            with pytest.raises(ManifestError, match="k0 was put into a destination"):
                _ = [item async for item in batch.save(client, "k0")]
            assert set((await states(batch)).values()) == {ItemState.DONE}
            [item] = [item async for item in batch.save(client, "k0", folder=tmp_path / "films")]

            assert item.state is ItemState.DONE
            assert [file.path.name for file in item.files] == ["k0.mp4"]
            assert item.files[0].path.read_bytes() == store.objects["k0.mp4"]
            assert item.stored == ()
            assert [item async for item in batch.save(client, folder=tmp_path / "films")] == []
    assert len(simulator.ledger.paid) == 2


async def test_the_report_of_films_in_a_destination(tmp_path: Path) -> None:
    """They are not lost, and it says where they are; nothing is a link."""
    async with simulated_service() as simulator, open_batch(tmp_path / "b.db") as batch:
        await batch.add(films(3))
        await run(batch, simulator, Store(), max_tasks=2)
        rows = await read_rows(batch, tmp_path)

    report = report_of(rows, tmp_path)
    said = "".join(text for text, _ in sentence(report.totals, report.made_at))
    assert said.startswith("2 of 3 films are here, 2 of them in a destination; 1 not finished.")
    assert report.lost is None
    data = json.loads(report_json(report))
    assert data["films"][0]["stored"] == ["https://store.example/films/k0.mp4"]
    assert data["totals"]["stored"] == 2
    page = page_of(report)
    assert page.count(">https://store.example/films/k") == 2
    assert 'store.example/films/k0.mp4"' not in page
    assert "https://store.example/films/k1.mp4" in report_csv(report)


async def test_polls_are_counted_for_the_report(tmp_path: Path) -> None:
    """Those of all runs, also of one that a person ends."""
    async with simulated_service() as simulator, open_batch(tmp_path / "b.db") as batch:
        await batch.add(films(4))
        assert (await read_rows(batch, tmp_path)).polls is None
        async with make_client(simulator) as client:
            async for _ in batch.run(client, max_running=1, destination=Store()):
                break
        first = sum(simulator.ledger.polls.values())
        assert first > 0
        assert (await read_rows(batch, tmp_path)).polls == first

        await run(batch, simulator, Store(), overwrite=True)
        rows = await read_rows(batch, tmp_path)

    assert rows.polls == sum(simulator.ledger.polls.values()) > first
    page = page_of(report_of(rows, tmp_path))
    assert f"<dt>Polls</dt><dd><b>{rows.polls}</b>{rows.polls / 4:.1f} a film; of runs that" in page


async def test_a_number_of_polls_from_elsewhere_is_a_number(tmp_path: Path) -> None:
    async with open_batch(tmp_path / "b.db") as batch:
        found = {}
        for value in ("7", "", "-1", "1e9", "x" * 5000, "9" * 4000, "\u0663", "null"):
            await batch.store.write_learned("polls", value)
            found[value[:5]] = await read_polls(batch.store)

    assert found.pop("7") == 7
    assert set(found.values()) == {None}

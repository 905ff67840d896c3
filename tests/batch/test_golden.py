"""What must not change: digests, and journals that an earlier version has written."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from batch.helpers import fast_limiter, open_batch, run_batch, states

from apikley_async import Client, Environment, ModelTask, Shot, Storyboard
from apikley_async.batch import Batch, ItemState, Journal
from apikley_async.batch.manifest.payload import DIGEST_VERSION, make_takes, without_defaults
from apikley_async.errors import ManifestConflictError
from apikley_async.testing import LoopClock, Reply, Request, reply

pytestmark = pytest.mark.virtual

GOLDEN = Path(__file__).parent / "golden"
KITTEN = Storyboard(
    [
        Shot("A kitten in orange headphones eats cake.", 7.5),
        Shot("The cake is gone.", 7),
    ]
)
FISHERS = Storyboard([Shot("Рыбаки выходят в море.", 10)], duration=10, aspect_ratio="portrait")
FAR = Storyboard([Shot("The cat far away wakes up.", 5)], image="https://pictures.example/cat.png")
WORDS = ModelTask("words/1", {"prompt": "Planned.", "n": 1})

DIGESTS = [  # work, take, version 1, version 2
    (
        KITTEN,
        1,
        "6020e2c18ef05c7455d1d447d0eb23c95688205d7563d87e011bffb91c2997dd",
        "2:678e1a735a2afaedfef8d3ce4ad4df5a715477ed8d69ab5222423c933063b6f0",
    ),
    (
        KITTEN,
        2,
        "46de6a66275ab4f22136c59bfcf76a4fb99145896bfb6572c64f3ea12a79cf8c",
        "2:926cc749899deacde9af450f0c0355c5f5f994b894150a60ed0ed46485b8b3ab",
    ),
    (
        FISHERS,
        1,
        "1fecedde05134aa8afe50530ba329563c6b502d3bf6449f1e4ae301087776e8b",
        "2:5cf1d901c74a7dc06cfce0fb1bf6b66e6d6947d8c7e917a376d4b15ddf44e5cf",
    ),
    (
        FAR,
        1,
        "f8303ed6d4c7f936bf290d2146a14bb147fb0a0870444849739aece2d8ff1d43",
        "2:7f6251f10352e1a58dc68a1f1297aace60d71b5f745ea8367775614a9ffeeecf",
    ),
    (
        WORDS,
        1,
        "dd33b8bb52fd3c471e58ed9fcc52d2b32e5ecc3f3ec0d98adcb879968aa129c1",
        "2:dd33b8bb52fd3c471e58ed9fcc52d2b32e5ecc3f3ec0d98adcb879968aa129c1",
    ),
    (
        ModelTask("words/1"),
        1,
        "843302409b811e0d10ac3f2d62fbb998381033078345dbaef9ec1cbc1f8c79ab",
        "2:f7aa3b42701401593a4e7f835687865a7d39e82c0fc04bebf66cd30a24703845",
    ),
]


@pytest.mark.parametrize(("work", "take", "first", "second"), DIGESTS)
def test_a_digest_never_changes(
    work: Storyboard | ModelTask, take: int, first: str, second: str
) -> None:
    """In each version; whoever plans the same again would pay for all of it again. (A21)"""
    [entry] = make_takes(work, "a", [take])

    assert (entry.digest, entry.former) == (second, (first,))
    assert entry.matches(first)
    assert entry.matches(second)
    [other] = make_takes(work, "a", [take + 1])
    assert not any(entry.matches(digest) for digest in (other.digest, *other.former))


async def test_what_was_agreed_to_is_known_by_each_of_its_digests(tmp_path: Path) -> None:
    """A shared journal may have been written by an earlier version; other content is refused."""
    [entry] = make_takes(Storyboard([Shot("A cat.", 10)], duration=10), "a", [1])
    async with Batch.open(tmp_path / "b.db") as batch:
        batch.add_only({"a": entry.former[0]})
        with pytest.raises(ManifestConflictError, match="'a' is not what was agreed to"):
            await batch.add([("a", Storyboard([Shot("A dog.", 10)], duration=10))])
        with pytest.raises(ManifestConflictError, match="'b' is not what was agreed to"):
            await batch.add([("b", Storyboard([Shot("A cat.", 10)], duration=10))])

        assert (await batch.add([("a", Storyboard([Shot("A cat.", 10)], duration=10))])).new == 1


@pytest.mark.parametrize("version", range(1, DIGEST_VERSION + 1))
def test_a_field_that_is_added_changes_no_digest(version: int) -> None:
    """As long as nobody gives it; where somebody does, the film is another one."""
    usual = {"duration": 15, "image": None}
    later = {**usual, "sound": "on"}
    film = {"shots": [], "duration": 15, "image": None}

    assert without_defaults({**film, "sound": "on"}, later, version) == without_defaults(
        film, usual, version
    )
    assert without_defaults({**film, "sound": "off"}, later, version) != without_defaults(
        film, usual, version
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    shutil.copy(GOLDEN / "v2.db", tmp_path / "b.db")
    return tmp_path / "b.db"


async def test_an_earlier_journal_is_brought_up_to_date(path: Path) -> None:
    """It opens without a fault, what was being sent is uncertain, and a copy is kept. (J10)"""
    journal = await Journal.open(path)
    try:
        assert await journal.verify() == []
        assert await journal.counts() == {
            ItemState.PLANNED: 8,
            ItemState.UNCERTAIN: 2,
            ItemState.SUBMITTED: 1,
            ItemState.STALLED: 1,
            ItemState.SUCCESS: 1,
            ItemState.DONE: 3,
            ItemState.FAILED: 1,
            ItemState.REJECTED: 1,
            ItemState.EXPIRED: 1,
            ItemState.DROPPED: 1,
        }
        assert [row["state"] for row in await journal.attempts("again")] == [
            "accepted",
            "refused",
            "accepted",
        ]
        [named] = [
            found.named for found in await journal.expected_callbacks() if found.key == "uncertain"
        ]
        assert named == ("task_words_1790000009999",)
        charged = {
            (c.key, c.token): (c.uncertain, c.consumed) for c in await journal.attempt_costs()
        }
        assert charged["failed", "token-failed"] == (False, 0.0)
        assert charged["again", "token-again-3"] == (False, 5.0)
        assert charged["sending", "token-sending"] == (True, None)
        assert await journal.read_learned("pace") is None
        await journal.write_learned("pace", "18")
    finally:
        await journal.aclose()
    assert path.with_name("b.db.v2").read_bytes().startswith(b"SQLite format 3")


async def test_films_of_earlier_versions_are_known_and_duplicates_are_refused(path: Path) -> None:
    """Digests of version 1 are compared in version 1. (A21, A22)"""
    async with open_batch(path) as batch:
        again = await batch.add(GOLDEN / "films.yaml")
        pair = await batch.add([("pair", Storyboard([Shot("Out of Python.", 2)], duration=25))])

        assert (again.new, again.known) == (0, 18)
        assert (pair.new, pair.known) == (0, 1)
        with pytest.raises(ManifestConflictError, match=r"'kitten'.*other content"):
            await batch.add([("kitten", FISHERS)])
        with pytest.raises(ManifestConflictError, match="same content as 'harbour'"):
            await batch.add([("boats", FISHERS)])
        await batch.add([("new", Storyboard([Shot("New.", 2)]))])
        with pytest.raises(ManifestConflictError, match="same content as 'new'"):
            await batch.add([("newer", Storyboard([Shot("New.", 2)], duration=15))])


class Service:
    """Knows every task of the golden journal, and makes new ones: all are words."""

    def __init__(self) -> None:
        self.created: list[str] = []

    async def send(self, request: Request, *, on_sent: Callable[[], None] | None = None) -> Reply:
        if not request.repeatable:
            assert on_sent is not None
            on_sent()
            self.created.append(f"task_words_1799000000{len(self.created):03}")
            return reply({"taskId": self.created[-1]})
        reported = '{"resultObject": {"words": "x"}}'
        return reply({"taskId": request.query["taskId"], "state": "success", "model": "words/1",
                      "resultJson": reported, "creditsConsumed": 5})  # fmt: skip

    async def aclose(self) -> None:
        return


def customer(service: Service) -> Client:
    return Client(
        "key-of-the-golden-journal",
        base_url="http://127.0.0.1:1",
        environment=Environment(transport=service, clock=LoopClock(), rng=random.Random(1)),
        limiter=fast_limiter(),
    )


async def test_it_is_resumed(path: Path, tmp_path: Path) -> None:
    """What is paid is followed and saved, what is planned is paid once, and nothing else is."""
    service = Service()
    words = ["planned", "uncertain", "sending", "submitted", "stalled", "success", "done", "again"]
    async with customer(service) as client, open_batch(path) as batch:
        await batch.add(GOLDEN / "films.yaml")
        before = await tasks(batch)
        for _ in range(2):
            await run_batch(batch, client, folder=tmp_path / "films", keys=words)

        found = await states(batch)
        assert Counter(found[key] for key in words) == {ItemState.DONE: 6, ItemState.UNCERTAIN: 2}
        after = await tasks(batch)
        assert {key: after[key] for key in after if after[key] != before[key]} == {
            "planned": "task_words_1799000000000"
        }
        assert service.created == ["task_words_1799000000000"]
        store = await Journal.open(path, read_only=True)
        assert await store.verify() == []
        await store.aclose()


async def tasks(batch: Batch) -> dict[str, str | None]:
    return {item.key: item.task_id async for item in batch.items()}

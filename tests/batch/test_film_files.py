"""Films that are named by files: one film a file, and its versions in a journal."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from batch.helpers import open_batch

from apikley_async import Attempt, Verdict
from apikley_async.batch import (
    REHEARSAL_MARK,
    Batch,
    ItemEvent,
    Journal,
    Store,
    Transition,
    check_manifest,
    is_rehearsal,
)
from apikley_async.errors import JournalError, ManifestConflictError, ManifestError
from apikley_async.testing import LoopClock


@contextlib.asynccontextmanager
async def journal(folder: Path) -> AsyncIterator[Store]:
    store = await Journal.open(folder / "a.db", clock=LoopClock())
    try:
        yield store
    finally:
        await store.aclose()


BOARD: dict[str, Any] = {"shots": [{"scene": "Tea.", "duration": 10}], "duration": 10}


def written(path: Path, scene: str = "Tea.", **fields: object) -> Path:
    shots = [{"scene": scene, "duration": 10}]
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**BOARD, "shots": shots, **fields}), encoding="utf-8")
    return path


@pytest.mark.virtual
async def test_a_film_is_named_after_its_file_in_every_form(tmp_path: Path) -> None:
    """Alone in its file, or in a list of one; a key of its own comes first."""
    listed = tmp_path / "listed.json"
    listed.write_text(json.dumps({"films": [{**BOARD, "duration": 15}]}), encoding="utf-8")
    table = tmp_path / "table.csv"
    table.write_text("scene,duration\nSea.,10\n", encoding="utf-8")
    files = [
        written(tmp_path / "tea.json"),
        listed,
        table,
        written(tmp_path / "named.json", "Cup.", key="mine"),
    ]

    async with open_batch(tmp_path / "a.db") as batch:
        plan = await batch.add_films(files)
        again = await batch.add_films(files)

    assert plan.keys == again.keys == ("tea", "listed", "table", "mine")
    assert (plan.new, again.new, again.known) == (4, 0, 4)


@pytest.mark.virtual
async def test_a_manifest_of_one_film_alone_is_that_film(tmp_path: Path) -> None:
    """`batch run tea.json` and `generate tea.json` make the same film, under the same key."""
    file = written(tmp_path / "tea.json")

    async with open_batch(tmp_path / "a.db") as batch:
        await batch.add(file)
        plan = await batch.add_films([file])

    assert (plan.new, plan.known, plan.keys) == (0, 1, ("tea",))


@pytest.mark.virtual
async def test_takes_may_be_given_from_outside(tmp_path: Path) -> None:
    file = written(tmp_path / "tea.json", takes=2)

    async with open_batch(tmp_path / "a.db") as batch:
        said = await batch.add_films([file])
        more = await batch.add_films([file], takes=3)
        fewer = await batch.add_films([file], takes=1)

    assert said.keys == ("tea", "tea.2")
    assert more.keys == ("tea", "tea.2", "tea.3")
    assert (fewer.keys, fewer.new) == (("tea",), 0)


async def paid(store: Store, key: str) -> None:
    """As if the film had been submitted."""
    token = f"{len(await store.attempts(key)):032x}{key}"
    await store.intend(key, token, "0" * 64, None)
    attempt = Attempt(token, Verdict.ACCEPTED, task_id=f"task_{key}")
    await store.settle(key, attempt, Transition(ItemEvent.ACCEPT, task_id=f"task_{key}"))


@pytest.mark.virtual
async def test_changed_content_is_a_version_only_when_it_is_said(tmp_path: Path) -> None:
    """Each content is one version, and stays it; nothing is planned by a refusal. (A21)"""
    file = tmp_path / "tea.json"
    async with journal(tmp_path) as store:
        batch, keys = Batch(store), []
        for scene in ("Tea.", "Sea.", "Bee.", "Sea.", "Tea."):
            plan = await batch.add_films([written(file, scene)], again=scene != "Tea.")
            keys.append(plan.keys)
            if plan.new:
                await paid(store, *plan.keys)
        written(file, "Me.")
        with pytest.raises(ManifestConflictError, match=r"tea\.v4"):
            await batch.add_films([written(tmp_path / "new.json", "New."), file])
        total = (await batch.status()).total

    assert keys == [("tea",), ("tea.v2",), ("tea.v3",), ("tea.v2",), ("tea",)]
    assert total == 3


@pytest.mark.virtual
async def test_a_version_that_was_never_sent_takes_new_content(tmp_path: Path) -> None:
    """The newest such; a version that has the content comes first."""
    file = tmp_path / "tea.json"
    async with journal(tmp_path) as store:
        batch = Batch(store)
        await paid(store, *(await batch.add_films([written(file, "Tea.")])).keys)
        planned = await batch.add_films([written(file, "Sea.")], again=True)
        with pytest.raises(ManifestConflictError, match="--again"):
            await batch.add_films([written(file, "Bee.")])
        edited = await batch.add_films([written(file, "Bee.")], again=True)
        first = await batch.add_films([written(file, "Tea.")])

    assert (planned.keys, planned.new) == (("tea.v2",), 1)
    assert (edited.keys, edited.new, edited.changed) == (("tea.v2",), 0, 1)
    assert (first.keys, first.known) == (("tea",), 1)


@pytest.mark.virtual
async def test_a_version_of_which_a_take_was_sent_is_left_alone(tmp_path: Path) -> None:
    """Its other takes could change; all takes of the new content are another version. (A21)"""
    file = tmp_path / "tea.json"
    async with journal(tmp_path) as store:
        batch = Batch(store)
        await batch.add_films([written(file, "Tea.", takes=2)])
        await paid(store, "tea.2")

        with pytest.raises(ManifestConflictError, match="--again"):
            await batch.add_films([written(file, "Sea.", takes=2)])
        plan = await batch.add_films([file], again=True)

    assert (plan.keys, plan.new) == (("tea.v2", "tea.v2.2"), 2)


@pytest.mark.virtual
@pytest.mark.parametrize("second", ["tea.yaml", "TEA.json", "sub/tea.json", "tea.json"])
async def test_two_files_of_one_name_are_a_fault(tmp_path: Path, second: str) -> None:
    """They want the same file on some disk; all faults of all files come at once."""
    files = [written(tmp_path / "tea.json"), written(tmp_path / second)]
    bad = written(tmp_path / "bad.json", "", duration=3)

    with pytest.raises(ManifestError) as caught:
        async with open_batch(tmp_path / "a.db") as batch:
            await batch.add_films([*files, bad, tmp_path / "none.json"])

    reported = "\n".join(caught.value.faults)
    assert f"{second}: key: 'tea'" in reported.replace("'TEA'", "'tea'")
    assert "bad.json: shots[0].scene" in reported
    assert "bad.json: duration" in reported
    assert "none.json: cannot be read" in reported


@pytest.mark.virtual
async def test_a_file_is_one_film(tmp_path: Path) -> None:
    """Of several, it is said how many are made."""
    many = tmp_path / "many.json"
    many.write_text(json.dumps([BOARD, {**BOARD, "duration": 15}]), encoding="utf-8")
    none = tmp_path / "none.json"
    none.write_text("[]", encoding="utf-8")

    for file, reported in (
        (many, "many.json: one film, not 2"),
        (none, "none.json: no film in it"),
    ):
        with pytest.raises(ManifestError, match=reported):
            async with open_batch(tmp_path / "a.db") as batch:
                await batch.add_films([file])
    assert check_manifest(many) == []


def test_a_name_that_is_no_key_says_that_it_is_the_file_s(tmp_path: Path) -> None:
    (fault,) = check_manifest(written(tmp_path / "tea (1).json"))

    assert fault.startswith("tea (1).json: key, here the file's name: ")
    assert check_manifest(written(tmp_path / "tea (1).json", key="tea")) == []


@pytest.mark.virtual
async def test_another_process_may_be_waited_for(tmp_path: Path) -> None:
    """As long as `wait` says; then the error is that the journal is in use. (J5)"""
    async with open_batch(tmp_path / "a.db"):
        with pytest.raises(JournalError, match="in use") as caught:
            async with Batch.open(tmp_path / "a.db", wait=0.5):
                pass
    assert caught.value.resumable

    async with Batch.open(tmp_path / "a.db", wait=0.5) as batch:
        assert (await batch.status()).total == 0


@pytest.mark.skipif(not Path("/proc/kmsg").exists(), reason="needs Linux")
def test_what_never_ends_is_no_rehearsal() -> None:
    """A journal from elsewhere may name it as a film; whoever reads it to its end waits."""
    assert not is_rehearsal(Path("/proc/kmsg"))


def test_a_rehearsal_is_known_by_its_last_box(tmp_path: Path) -> None:
    """Only a regular file that ends in the mark may be replaced, whatever its kind."""
    film, other, link = (tmp_path / name for name in ("a.mp4", "a-1.mp4", "b.mp4"))
    film.write_bytes(b"film" + REHEARSAL_MARK)
    link.symlink_to(film)

    assert is_rehearsal(film)
    other.write_bytes(b"mine")

    assert [is_rehearsal(path) for path in (other, link, tmp_path, tmp_path / "no")] == [False] * 4
    still = tmp_path / "still.png"
    still.write_bytes(b"\x89PNG" + REHEARSAL_MARK)
    assert is_rehearsal(still)
    still.write_bytes(b"\x89PNG, paid")
    assert not is_rehearsal(still)

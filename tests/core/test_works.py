"""`Work`: what a storyboard, a task and a typed model of a user's own have in common."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
from rows import failing, failing_rows

from apikley_async import (
    Client,
    Images,
    ModelTask,
    Shot,
    Storyboard,
    StoryboardError,
    UploadError,
    Urls,
    Work,
    images_of,
    with_images,
)
from apikley_async.batch import Batch, ItemState
from apikley_async.simulator import Constant, Simulator, Terms
from apikley_async.testing import LoopClock

SHIPPED = Path(__file__).parents[2] / "apikley_async/cli/storyboards"
KITTEN, LIGHTHOUSE = SHIPPED / "kitten.webp", SHIPPED / "lighthouse.webp"
FRAMES = "next-year/frames-to-video"
HALL = Terms(generic_models={FRAMES, "sora/s-2pro"}, duration=Constant(30))
BOARD = Storyboard([Shot("A lighthouse.", 5)])


@attrs.frozen
class Frames:
    """A typed model of a user's own, from the first picture to the last."""

    prompt: str
    first: Path
    last: Path

    @property
    def model(self) -> str:
        return FRAMES

    @property
    def images(self) -> Images:
        return {"frames": [self.first, self.last]}

    @property
    def price_key(self) -> str:
        return f"{FRAMES}:5"

    def wire_input(self, urls: Urls, /) -> Mapping[str, Any]:
        return {"prompt": self.prompt, "frames": urls["frames"], "seconds": 5}

    def to_dict(self, images: Images | None = None, /) -> Mapping[str, Any]:
        fields = {"prompt": self.prompt, "seconds": 5}
        names = with_images(self.images if images is None else images, str)
        return {"task": {"model": FRAMES, "input": fields, "images": names}}


def inputs(simulator: Simulator) -> list[Any]:
    return [charge.body["input"] for charge in simulator.ledger.paid]


# --- the protocol -----------------------------------------------------------------------------


def test_these_are_works() -> None:

    def check(work: Work) -> None:
        assert isinstance(work, Work)
        assert json.loads(json.dumps(work.to_dict())) == work.to_dict()

    assert failing(check, [BOARD, ModelTask("m"), Frames("a", KITTEN, LIGHTHOUSE)]) == []


def test_a_storyboard_names_its_model() -> None:
    """The upstream sells it under several ids; what it costs is learned by id."""
    other = attrs.evolve(BOARD, model="sora/s-2pro")

    assert (BOARD.model, BOARD.price_key) == ("sora-2-pro-storyboard", 15)
    assert (other.model, other.price_key) == ("sora/s-2pro", "sora/s-2pro:15")
    assert other.wire_input({}) == BOARD.wire_input({})
    assert "model" not in BOARD.to_dict()
    assert other.to_dict() == {**BOARD.to_dict(), "model": "sora/s-2pro"}


def test_a_model_has_a_name_that_can_be_printed() -> None:

    def check(model: Any) -> None:
        for build in (lambda: Storyboard([Shot("A.", 5)], model=model), lambda: ModelTask(model)):
            with pytest.raises(StoryboardError) as caught:
                build()
            [fault] = caught.value.faults
            assert fault.startswith("model: ")

    rows = ["", " ", None, 5, "a\nb", "a\x1b[31m", "a\u202eb", "\ud800"]
    assert failing(check, rows) == []


def test_the_urls_of_images_stand_where_they_are_named() -> None:
    images: Images = {"frames": ["a.png", Path("b.png")], "face": "https://x.test/c.png"}
    task = ModelTask("m", {"prompt": "A."}, images=images)

    assert [*images_of(task.images)] == [
        ("frames[0]", "a.png"),
        ("frames[1]", Path("b.png")),
        ("face", "https://x.test/c.png"),
    ]
    assert task.wire_input({"frames": ["1", "2"], "face": "3"}) == {
        "prompt": "A.",
        "frames": ["1", "2"],
        "face": "3",
    }
    assert task == ModelTask("m", {"prompt": "A."}, images={**images, "frames": ("a.png", "b.png")})
    assert task != ModelTask("m", {"prompt": "A."})
    assert hash(task) == hash(ModelTask("m", {"prompt": "A."}, images=images))


def test_every_fault_of_images_is_named() -> None:

    def check(images: Any, reported: list[str]) -> None:
        with pytest.raises(StoryboardError) as caught:
            ModelTask("m", {"prompt": "A."}, images=images)

        faults = caught.value.faults
        assert len(faults) == len(reported)
        assert all(fault.startswith(start) for fault, start in zip(faults, reported, strict=True))

    rows = [
        (["a.png"], ["images: a mapping of fields and images, not ['a.png']"]),
        ({"prompt": "a.png"}, ["images.prompt: given in input too"]),
        ({"face": None}, ["images.face: a path or an http(s) URL, not NoneType"]),
        ({"face": []}, ["images.face: at least one image; leave it out for none"]),
        ({"face": ["a.png", ""]}, ["images.face[1]: a path or an http(s) URL, not blank"]),
        ({"face": "ftp://x.test/a"}, ["images.face: an http(s) URL, not ftp://"]),
        ({"face": b"\x89PNG"}, ["images.face: a path or an http(s) URL, not bytes"]),
        ({5: "a.png", " ": "a.png"}, ["images[5]: the name of a field", "images[' ']: the name"]),
    ]
    assert failing_rows(check, rows) == []


# --- submitting ---------------------------------------------------------------------------------


@pytest.mark.apikley(terms=HALL)
async def test_a_tasks_pictures_are_uploaded_first(
    apikley_client: Client, apikley_simulator: Simulator
) -> None:
    """Each once, and their URLs stand where the model expects them."""
    images: Images = {"frames": [KITTEN, LIGHTHOUSE, KITTEN], "face": str(KITTEN)}
    task = ModelTask(FRAMES, {"prompt": "A."}, images=images)

    await apikley_client.submit(task)

    [fields] = inputs(apikley_simulator)
    first, second, third = fields["frames"]
    assert first == third == fields["face"] != second
    assert len(apikley_simulator.ledger.arrivals("upload")) == 2


@pytest.mark.apikley(terms=HALL)
async def test_a_picture_that_cannot_be_used_is_found_before_the_post(
    apikley_client: Client, apikley_simulator: Simulator, tmp_path: Path
) -> None:
    """No upload before every URL was looked at, and nothing is paid for."""
    (tmp_path / "text.png").write_text("no picture", encoding="utf-8")
    at_home = ModelTask(FRAMES, images={"frames": [KITTEN, "http://10.0.0.1/a.png"]})
    no_picture = ModelTask(FRAMES, images={"frames": [tmp_path / "text.png"]})

    with pytest.raises(StoryboardError, match=r"frames\[1\]: "):
        await apikley_client.submit(at_home)
    assert not apikley_simulator.ledger.arrivals("upload")
    with pytest.raises(UploadError, match="JPEG, PNG or WebP"):
        await apikley_client.submit(no_picture)
    assert not apikley_simulator.ledger.creations


@pytest.mark.apikley(terms=HALL)
async def test_a_typed_model_can_be_submitted_in_every_way(
    apikley_client: Client, apikley_simulator: Simulator
) -> None:
    """`submit`, `generate`, `generate_many`."""
    works = [Frames(f"film {number}", KITTEN, LIGHTHOUSE) for number in range(3)]

    job = await apikley_client.submit(works[0])
    result = await apikley_client.generate(works[1])
    [outcome] = [outcome async for outcome in apikley_client.generate_many(works[2:])]

    assert (await job).urls
    assert result.urls
    assert outcome.unwrap().urls
    assert outcome.work is works[2]
    assert [fields["prompt"] for fields in inputs(apikley_simulator)] == [
        work.prompt for work in works
    ]
    assert all(len(fields["frames"]) == 2 for fields in inputs(apikley_simulator))


@attrs.frozen
class Odd(Frames):
    """A model whose author has made a mistake."""

    def wire_input(self, urls: Urls, /) -> Mapping[str, Any]:
        return {"prompt": self.prompt, "first": self.first}


@attrs.frozen
class Forgetful(Frames):
    """Another one, who has forgotten to return what he made."""

    def wire_input(self, urls: Urls, /) -> Mapping[str, Any]:
        _ = super().wire_input(urls)
        return None  # type: ignore[return-value]


@pytest.mark.apikley(terms=HALL)
async def test_what_is_no_json_is_never_sent(
    apikley_client: Client, apikley_simulator: Simulator
) -> None:
    with pytest.raises(StoryboardError, match=r"input\.first: JSON, not PosixPath"):
        await apikley_client.submit(Odd("a", KITTEN, LIGHTHOUSE))
    with pytest.raises(StoryboardError, match="input: a mapping, not None"):
        await apikley_client.submit(Forgetful("a", KITTEN, LIGHTHOUSE))

    assert not apikley_simulator.ledger.creations


@pytest.mark.apikley(terms=HALL)
async def test_a_batch_writes_a_typed_model_down(
    apikley_client: Client, apikley_simulator: Simulator, tmp_path: Path
) -> None:
    """And sends what the class itself would: a later run knows only the journal."""
    work = Frames("A cat wakes up.", KITTEN, LIGHTHOUSE)
    async with Batch.open(tmp_path / "b.db", clock=LoopClock()) as batch:
        await batch.add([("cat", work)])
        found = [item async for item in batch.run(apikley_client, folder=tmp_path / "films")]

    assert found[-1].state is ItemState.DONE
    [fields] = inputs(apikley_simulator)
    assert fields == work.wire_input({"frames": fields["frames"]})


async def test_a_batch_sends_the_shares_of_shots_without_a_duration(
    apikley_client: Client, apikley_simulator: Simulator, tmp_path: Path
) -> None:
    """Its journal keeps what was written; the service gets a number for every shot."""
    board = Storyboard([Shot("A."), Shot("B.", 4.5), Shot("C.")], duration=10)
    async with Batch.open(tmp_path / "b.db", clock=LoopClock()) as batch:
        await batch.add([("film", board)])
        found = [item async for item in batch.run(apikley_client, folder=tmp_path / "films")]

    assert found[-1].state.name == "DONE"
    [fields] = inputs(apikley_simulator)
    assert [shot["duration"] for shot in fields["shots"]] == [2.75, 4.5, 2.75]

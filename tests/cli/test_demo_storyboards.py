"""The storyboards of the demo: they keep the rules, and can be rendered."""

from __future__ import annotations

import itertools
import json
from importlib.resources import files
from typing import Any

import pytest
from film_frames import (
    frames_of,
    needs_codec,
    rendered,
    wanted,
)

STORYBOARDS = files("apikley_async.cli") / "storyboards"


def boards() -> dict[str, dict[str, Any]]:
    entries = sorted(STORYBOARDS.iterdir(), key=lambda entry: entry.name)
    return {
        entry.name.removesuffix(".json"): json.loads(entry.read_text("utf-8"))
        for entry in entries
        if entry.name.endswith(".json")
    }


@pytest.mark.parametrize("name", boards())
def test_a_storyboard_of_the_demo_keeps_the_rules(name):
    """The service would accept each as it is."""
    board = boards()[name]

    assert board.keys() == {"shots", "duration", "aspect_ratio", "image"}
    lengths = [shot["duration"] for shot in board["shots"]]
    assert 1 <= len(lengths) <= 10
    assert all(0.1 <= length <= 15 for length in lengths)
    assert sum(lengths) <= board["duration"]
    assert all(shot.keys() == {"scene", "duration"} for shot in board["shots"])


def test_the_demo_has_every_aspect_ratio_and_duration():
    """Six films: all durations in both aspects, with and without image, in three scripts."""
    all_boards = boards()

    kinds = {(board["aspect_ratio"], board["duration"]) for board in all_boards.values()}
    texts = "".join(shot["scene"] for board in all_boards.values() for shot in board["shots"])
    assert kinds == set(itertools.product(("landscape", "portrait"), (10, 15, 25)))
    assert {board["image"] is None for board in all_boards.values()} == {True, False}
    assert {1, 10} <= {len(board["shots"]) for board in all_boards.values()}
    assert min(all_boards) == "kitten"
    assert all(any(first <= c <= last for c in texts) for first, last in ("az", "ая", "αω"))


@pytest.mark.parametrize("name", [board["image"] for board in boards().values() if board["image"]])
def test_an_image_of_the_demo_is_small(name):
    """The images are in every wheel."""
    data = (STORYBOARDS / name).read_bytes()

    size = [int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (26, 28)]
    assert (data[:4], data[8:16]) == (b"RIFF", b"WEBPVP8 ")
    assert max(size) >= 640
    assert len(data) < 12 * 1024


@needs_codec
@pytest.mark.parametrize("name", boards())
async def test_a_storyboard_of_the_demo_can_be_rendered(name, caplog):
    """Each becomes a film of its length, every character written and every image shown."""
    board = boards()[name]
    image = (STORYBOARDS / board["image"]).read_bytes() if board["image"] else None
    shots = tuple((shot["scene"], shot["duration"]) for shot in board["shots"])

    film = await rendered(wanted(shots, board["duration"], board["aspect_ratio"], image), fps=2)

    assert len(frames_of(film)) == board["duration"] * 2
    assert not caplog.records

"""Storyboards and tasks as JSON files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from apikley_async import ModelTask, Storyboard, StoryboardError
from apikley_async.cli import _storyboard_files as files

SHIPPED = Path(files.__file__).with_name("storyboards")
GOOD: dict[str, Any] = {"shots": [{"scene": "Tea.", "duration": 10}], "duration": 10}


def written(folder: Path, data: object, name: str = "film.json") -> Path:
    path = folder / name
    if isinstance(data, bytes):
        path.write_bytes(data)
    else:
        path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return path


def test_the_shipped_storyboards_are_sound() -> None:
    """All of them, their images included, and no two are one film."""
    works, faults = files.read_works(sorted(SHIPPED.glob("*.json")))

    assert faults == []
    assert len({work for _, work in works}) == 6


def test_the_image_lies_beside_its_file(tmp_path: Path) -> None:
    """A name is looked for in the folder of the file, not in that of the caller."""
    (tmp_path / "tea.png").write_bytes(b"\x89PNG\r\n\x1a\n")

    work = files.read_work(written(tmp_path, {**GOOD, "image": "tea.png"}))

    assert isinstance(work, Storyboard)
    assert work.image == tmp_path / "tea.png"


def test_the_url_of_an_image_is_left_alone(tmp_path: Path) -> None:
    work = files.read_work(written(tmp_path, {**GOOD, "image": "https://host.test/tea.png"}))

    assert isinstance(work, Storyboard)
    assert work.image == "https://host.test/tea.png"


def test_a_task_of_another_model(tmp_path: Path) -> None:
    """Its input is the model's own business, whatever it is called."""
    task = {"model": "kling-2.6/text-to-video", "input": {"prompt": "A lighthouse.", "n": [1]}}

    assert files.read_work(written(tmp_path, {"task": task})) == ModelTask(**task)


@pytest.mark.parametrize(
    "data, told",
    [
        ({**GOOD, "durations": 3}, ["durations: unknown"]),
        ({**GOOD, "image": "nowhere.png", "duration": 11}, ["image: there is no", "duration: 10"]),
        ({**GOOD, "image": "."}, ["is no file"]),
        ({**GOOD, "image": "a\0b"}, ["image: "]),
        ({**GOOD, "image": ""}, ["image: "]),
        ({"duration": 10}, ["shots: missing"]),
        ({"shots": [{"scene": "", "duration": 99}]}, ["shots[0].scene", "shots[0].duration"]),
        ({"task": {"model": "m", "inputs": {}}}, ["task.inputs: unknown"]),
        ({"task": {"input": {}}, "shots": []}, ["shots: unknown", "task.model"]),
        ({"task": "kling"}, ["task: an object"]),
        ([], ["an object with shots"]),
        ("{", ["not JSON"]),
        ("", ["not JSON"]),
        (b"\xff\xfe", ["UTF-8"]),
        ('{"shots": [{"scene": "Tea.", "duration": NaN}]}', ["NaN"]),
        ('{"duration": 10, "duration": 15, "shots": []}', ["duration: given more than once"]),
        ("[" * 100_000, ["nested too deeply"]),
        ('{"duration": ' + "1" * 5_000 + "}", ["endless number"]),
        (" " * 5_000_000, ["4 MiB"]),
    ],
)
def test_every_fault_is_named(tmp_path: Path, data: object, told: list[str]) -> None:
    """What is wrong is said with its path, all of it at once."""
    with pytest.raises(StoryboardError) as caught:
        files.read_work(written(tmp_path, data))

    text = "\n".join(caught.value.faults)
    assert [part for part in told if part not in text] == []


def test_the_faults_of_all_files_come_together(tmp_path: Path) -> None:
    """Each with its file; one that is missing and one that is given twice are faults too."""
    good = written(tmp_path, GOOD, "good.json")
    bad = written(tmp_path, {}, "bad.json")

    _, faults = files.read_works([good, bad, tmp_path / "none.json", tmp_path / "." / "good.json"])

    assert [fault.split(":")[0].rpartition("/")[2] for fault in faults] == [
        "bad.json",
        "none.json",
        "good.json",
    ]


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    assert files.read_work(written(tmp_path, b"\xef\xbb\xbf" + json.dumps(GOOD).encode()))

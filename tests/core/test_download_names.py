"""What the files of a result are called, whatever its task is called."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from apikley_async import Result
from apikley_async._download.names import safe_name, target_paths, with_matching_suffix


def result(task_id: str = "task_1", files: int = 1) -> Result:
    return Result(task_id, tuple(f"https://cdn.test/{n}.mp4" for n in range(files)))


TARGETS = [
    ("films", 1, ["films/task_1.mp4"]),
    ("films/", 2, ["films/task_1-1.mp4", "films/task_1-2.mp4"]),
    ("films/kitten.mp4", 1, ["films/kitten.mp4"]),
    ("films/kitten.MOV", 2, ["films/kitten-1.MOV", "films/kitten-2.MOV"]),
    ("films/kitten.mp4/", 1, ["films/kitten.mp4/task_1.mp4"]),
    ("films/kitten.v2", 1, ["films/kitten.v2/task_1.mp4"]),
    ("", 1, ["task_1.mp4"]),
]


def test_a_target_is_a_folder_or_the_name_of_a_film() -> None:
    """Every URL gets a file of its own, numbered when there are several (P8)."""
    wrong = [
        (target, found)
        for target, files, expected in TARGETS
        if (found := [str(path) for path in target_paths(result(files=files), target)]) != expected
    ]

    assert wrong == []


def test_a_folder_may_look_like_a_film(tmp_path: Path) -> None:
    """What is a folder already is taken for one."""
    folder = tmp_path / "odd.mp4"
    folder.mkdir()

    assert target_paths(result(), folder) == [folder / "task_1.mp4"]


@pytest.mark.parametrize("usual", ["task_sora-2-pro-storyboard_1790000000001", "a.b-c_D9", "0"])
def test_a_usual_id_is_the_name(usual: str) -> None:
    """Users find their films under the ids they were given."""
    assert safe_name(usual) == usual


@given(st.text(min_size=1, max_size=400))
@example("../../etc/passwd")
@example("/etc/passwd")
@example("nul\0byte")
@example("trailing.")
@example("..")
@example("-rf")
@example("CON")
@example("nul.txt")
@example("con-6b2f")
@example("\u202egpj.exe")
@example("я" * 300)
@example("\ud800")
@example("a\nb\x1b[31m")
@example("C:\\windows")
def test_no_id_is_a_dangerous_name(task_id: str) -> None:
    """Whatever the service calls a task, its file stays in the folder, under a plain name (D16)."""
    name = safe_name(task_id)

    assert name.isascii()
    assert name.isprintable()
    assert not set(name) & set('/\\:*?"<>| ')
    assert name[0] not in ".-"
    assert name[-1] != "."
    assert name.partition(".")[0].upper() not in {"CON", "PRN", "AUX", "NUL", "COM1", "LPT9"}
    assert len(name) <= 113
    (path,) = target_paths(result(task_id), "films")
    assert path.parent == Path("films")
    assert PurePosixPath(path).name == f"{name}.mp4"


@given(st.sets(st.text(min_size=1, max_size=120), min_size=2, max_size=20))
@example({"a/b", "a\\b", "a_b", "a b"})
@example({"x" * 101, "x" * 102, "x" * 100})
@example({chr(0xD800), chr(0xDFFF), "?"})
def test_two_ids_never_share_a_name(task_ids: set[str]) -> None:
    """Cleaning a name never makes two tasks share a file (D16)."""
    assert len({safe_name(task_id) for task_id in task_ids}) == len(task_ids)


SUFFIXES = [
    ("a.mp4", b"\0\0\0\x18ftypisom", "a.mp4"),
    ("a.mp4", b"\0\0\0\x18ftypqt  ", "a.mp4"),
    ("a.mov", b"\0\0\0\x18ftypisom", "a.mov"),
    ("a.mp4", b"\x1aE\xdf\xa3", "a.webm"),
    ("a.b-1.mp4", b"\x89PNG\r\n\x1a\n", "a.b-1.png"),
    ("a.jpeg", b"\xff\xd8\xff\xe0", "a.jpeg"),
    ("a.JPG", b"\xff\xd8\xff\xe0", "a.JPG"),
    ("a.png", b"\0\0\0\x18ftypisom", "a.mp4"),
    ("a.mp3", b"ID3\4", "a.mp3"),
]


def test_a_suffix_never_lies() -> None:
    """A name keeps its suffix where it fits, and gets the right one where it does not."""
    wrong = [
        (name, found)
        for name, head, expected in SUFFIXES
        if (found := with_matching_suffix(Path(name), head)) != Path(expected)
    ]

    assert wrong == []

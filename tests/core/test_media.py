"""What a file is called, what an answer about it means, and whether what came is whole."""

from __future__ import annotations

import itertools
from pathlib import Path, PurePosixPath

import pytest
from filehost import box, film
from hypothesis import example, given
from hypothesis import strategies as st

from apikley_async import Result
from apikley_async._download.media import (
    LARGEST,
    Body,
    BrokenOffError,
    ChangedError,
    GoneError,
    Held,
    Shape,
    fitting,
    is_mp4,
    kind_of,
    mp4_shape,
    read_answer,
    safe_name,
    strong_version,
    target_names,
)
from apikley_async.errors import DownloadError

TAG = '"abc"'
HALF, OPEN = Held(400, 1000, TAG), Held(400, None, TAG)
REST, PORTION = Body(400, 1000, 1000, TAG), Body(400, 600, 1000, TAG)


def result(task_id: str = "task_1", files: int = 1) -> Result:
    return Result(task_id, tuple(f"https://cdn.test/{n}.mp4" for n in range(files)))


# --- names -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "files", "expected"),
    [
        ("films", 1, ["films/task_1.mp4"]),
        ("films/", 2, ["films/task_1-1.mp4", "films/task_1-2.mp4"]),
        ("films/kitten.mp4", 1, ["films/kitten.mp4"]),
        ("films/kitten.MOV", 2, ["films/kitten-1.MOV", "films/kitten-2.MOV"]),
        ("films/kitten.mp4/", 1, ["films/kitten.mp4/task_1.mp4"]),
        ("films/kitten.v2", 1, ["films/kitten.v2/task_1.mp4"]),
        ("", 1, ["task_1.mp4"]),
    ],
)
def test_a_target_is_a_folder_or_a_films_name(target: str, files: int, expected: list[str]) -> None:
    """Every URL gets a file of its own, numbered when there are several (P8)."""
    assert [str(name) for name in target_names(result(files=files), target)] == expected


def test_a_folder_may_look_like_a_film(tmp_path: Path) -> None:
    """What is a folder already is taken for one."""
    folder = tmp_path / "odd.mp4"
    folder.mkdir()

    assert target_names(result(), folder) == [folder / "task_1.mp4"]


@pytest.mark.parametrize("usual", ["task_sora-2-pro-storyboard_1790000000001", "a.b-c_D9", "0"])
def test_a_usual_id_is_a_name_as_it_is(usual: str) -> None:
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
    (path,) = target_names(result(task_id), "films")
    assert path.parent == Path("films")
    assert PurePosixPath(path).name == f"{name}.mp4"


@given(st.sets(st.text(min_size=1, max_size=120), min_size=2, max_size=20))
@example({"a/b", "a\\b", "a_b", "a b"})
@example({"x" * 101, "x" * 102, "x" * 100})
@example({chr(0xD800), chr(0xDFFF), "?"})
def test_two_ids_are_two_names(task_ids: set[str]) -> None:
    """Cleaning a name never makes two tasks share a file (D16)."""
    assert len({safe_name(task_id) for task_id in task_ids}) == len(task_ids)


@pytest.mark.parametrize(
    ("name", "head", "expected"),
    [
        ("a.mp4", b"\0\0\0\x18ftypisom", "a.mp4"),
        ("a.mp4", b"\0\0\0\x18ftypqt  ", "a.mp4"),
        ("a.mov", b"\0\0\0\x18ftypisom", "a.mov"),
        ("a.mp4", b"\x1aE\xdf\xa3", "a.webm"),
        ("a.b-1.mp4", b"\x89PNG\r\n\x1a\n", "a.b-1.png"),
        ("a.jpeg", b"\xff\xd8\xff\xe0", "a.jpeg"),
        ("a.JPG", b"\xff\xd8\xff\xe0", "a.JPG"),
        ("a.png", b"\0\0\0\x18ftypisom", "a.mp4"),
        ("a.mp3", b"ID3\4", "a.mp3"),
    ],
)
def test_a_suffix_never_lies(name: str, head: bytes, expected: str) -> None:
    """A name keeps its suffix where it fits, and gets the right one where it does not."""
    assert fitting(Path(name), head) == Path(expected)


# --- what an answer means --------------------------------------------------------------------


def test_the_rest_is_asked_for_only_of_a_version() -> None:
    """Range never goes without If-Range and a strong validator (D4)."""
    assert HALF.asking() == {"Range": "bytes=400-", "If-Range": TAG}
    assert Held(400, 1000, None).asking() == {}
    assert Held(0, 1000, TAG).asking() == {}


@pytest.mark.parametrize(
    ("held", "status", "headers", "expected"),
    [
        # all of it
        (Held(), 200, {"Content-Length": "9", "ETag": TAG}, Body(0, 9, 9, TAG)),
        (Held(), 200, {"Content-Length": "9", "ETag": 'W/"abc"'}, Body(0, 9, 9, None)),
        (Held(), 200, {"Transfer-Encoding": "chunked"}, Body(0, None, None, None)),
        (Held(), 200, {}, Body(0, None, None, None, framed=False)),
        # (D5) asked for the rest, and all of it comes
        (HALF, 200, {"Content-Length": "1000", "ETag": TAG}, Body(0, 1000, 1000, TAG)),
        (HALF, 200, {"Content-Length": "70", "ETag": '"new"'}, Body(0, 70, 70, '"new"')),
        # (D3, D4) the rest
        (HALF, 206, {"Content-Range": "bytes 400-999/1000", "ETag": TAG}, REST),
        (HALF, 206, {"Content-Range": "bytes 400-599/1000", "ETag": TAG}, PORTION),
        (OPEN, 206, {"Content-Range": "bytes 400-999/1000", "ETag": TAG}, REST),
        (HALF, 206, {"Content-Range": "bytes 400-999/1000"}, ChangedError),
        (HALF, 206, {"Content-Range": "bytes 400-999/1000", "ETag": '"new"'}, ChangedError),
        (HALF, 206, {"Content-Range": "bytes 400-999/1000", "ETag": 'W/"abc"'}, ChangedError),
        (HALF, 206, {"Content-Range": "bytes 399-999/1000", "ETag": TAG}, ChangedError),
        (HALF, 206, {"Content-Range": "bytes 401-999/1000", "ETag": TAG}, ChangedError),
        (HALF, 206, {"Content-Range": "bytes 0-999/1000", "ETag": TAG}, ChangedError),
        (HALF, 206, {"Content-Range": "bytes 400-1000/1001", "ETag": TAG}, ChangedError),
        (HALF, 206, {"Content-Range": "bytes 400-1000/1000", "ETag": TAG}, ChangedError),
        (HALF, 206, {"Content-Range": "bytes 400-399/1000", "ETag": TAG}, ChangedError),
        (HALF, 206, {"Content-Range": "bytes 400-999/*", "ETag": TAG}, ChangedError),
        (HALF, 206, {"Content-Range": "bytes=400-999/1000", "ETag": TAG}, ChangedError),
        (HALF, 206, {"Content-Range": "bytes 4٠0-999/1000", "ETag": TAG}, ChangedError),
        (HALF, 206, {"ETag": TAG}, ChangedError),
        (Held(), 206, {"Content-Range": "bytes 0-999/1000", "ETag": TAG}, ChangedError),
        (Held(400, 1000, None), 206, {"Content-Range": "bytes 400-999/1000"}, ChangedError),
        # (D6) nothing is left, or the range is refused
        (OPEN, 416, {"Content-Range": "bytes */400"}, Body(400, 400, 400, TAG)),
        (OPEN, 416, {"Content-Range": "bytes */900"}, ChangedError),
        (OPEN, 416, {}, ChangedError),
        (OPEN, 416, {"Content-Range": "bytes */400", "ETag": '"new"'}, ChangedError),
        (HALF, 416, {"Content-Range": "bytes */1000"}, ChangedError),
        (HALF, 416, {"Content-Range": "bytes */400"}, ChangedError),
        (Held(), 416, {}, DownloadError),
        # (D7) the link is dead
        *((Held(), status, {}, GoneError) for status in (401, 403, 404, 410)),
        *((HALF, status, {}, GoneError) for status in (401, 403, 404, 410)),
        # a label says nothing: the first bytes do
        (Held(), 200, {"Content-Type": "text/html; charset=utf-8", "Content-Length": "9"},
         Body(0, 9, 9, None)),
        (Held(), 200, {"Content-Type": "application/json"}, Body(0, None, None, None, False)),
        # packed bytes: neither their length nor their version is the film's
        (Held(), 200, {"Content-Encoding": "gzip", "Content-Length": "9", "ETag": TAG},
         Body(0, None, None, None, packed=True)),
        (HALF, 200, {"Content-Encoding": "X-GZip"}, Body(0, None, None, None, packed=True)),
        (Held(), 200, {"Content-Encoding": "gzip", "Content-Length": str(LARGEST + 1)},
         DownloadError),
        (HALF, 206, {"Content-Range": "bytes 400-999/1000", "ETag": TAG,
                     "Content-Encoding": "gzip"}, ChangedError),
        # not now
        *((HALF, status, {}, BrokenOffError) for status in (408, 425, 429, 500, 502, 503, 504)),
        *((Held(), status, {}, BrokenOffError) for status in (201, 204, 300, 304, 599)),
        # never
        *((Held(), status, {}, DownloadError) for status in (400, 402, 405, 418, 451)),
        # (D12) too large
        (Held(), 200, {"Content-Length": str(LARGEST + 1)}, DownloadError),
        (Held(), 200, {"Content-Length": str(LARGEST)}, Body(0, LARGEST, LARGEST, None)),
        (Held(), 200, {"Content-Length": "9" * 20}, Body(0, None, None, None, framed=False)),
    ],
)  # fmt: skip
def test_what_an_answer_means(
    held: Held, status: int, headers: dict[str, str], expected: Body | type[Exception]
) -> None:
    """Bytes are appended only where they provably go on in the file begun (D3, D4, D5, D6, D7)."""
    if isinstance(expected, Body):
        assert read_answer(held, status, headers) == expected
        return
    with pytest.raises(expected) as raised:
        read_answer(held, status, headers)
    assert raised.type is expected


@given(
    st.integers(1, 60),
    st.text("0123456789-/* bytes٣", max_size=30),
    st.sampled_from([TAG, '"new"', ""]),
)
def test_no_content_range_makes_a_splice(have: int, told: str, tag: str) -> None:
    """Whatever a 206 says of itself, what is accepted begins where we stopped (D3)."""
    held = Held(have, 64, TAG)
    headers = {"Content-Range": f"bytes {told}", "ETag": tag}
    try:
        body = read_answer(held, 206, headers)
    except ChangedError:
        return

    assert (body.start, body.total, body.version, tag) == (have, 64, TAG, TAG)
    assert body.end is not None
    assert have < body.end <= 64


@pytest.mark.parametrize(
    ("tag", "strong"),
    [
        ('"a"', True),
        ('"5f-1b:x!#~"', True),
        ('W/"a"', False),
        ('w/"a"', False),
        ('""', False),
        ("a", False),
        ('"a"b"', False),
        ('"a b"', False),
        ('"a\nb"', False),
        ('"é"', False),
        ('"' + "a" * 257 + '"', False),
        ("", False),
    ],
)
def test_only_a_strong_validator_counts(tag: str, strong: bool) -> None:
    """A weak or malformed ETag vouches for no byte (D4)."""
    assert strong_version({"ETag": tag}) == (tag if strong else None)


# --- what came -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"\0\0\0\x20ftypisom\0\0\0\0", ".mp4"),
        (b"\0\0\0\x20ftypqt  \0\0\0\0", ".mov"),
        (b"\0\0\0\x20ftypavif\0\0\0\0", ".avif"),
        (b"\x1aE\xdf\xa3\x01\0", ".webm"),
        (b"\x89PNG\r\n\x1a\n\0\0", ".png"),
        (b"\xff\xd8\xff\xe1", ".jpg"),
        (b"RIFF\0\0\0\0WEBPVP8 ", ".webp"),
        (b"RIFF\0\0\0\0WAVEfmt ", ".wav"),
        (b"RIFF\0\0\0\0AVI LIST", None),
        (b"GIF89a", ".gif"),
        (b"ID3\x04", ".mp3"),
        (b"\xff\xfb\x90", ".mp3"),
        (b"OggS\0", ".ogg"),
        (b"fLaC\0", ".flac"),
        (b"<!doctype html>", None),
        (b'{"code": 403}', None),
        (b"<?xml version", None),
        (b"\x1f\x8b\x08", None),
        (b"MZ\x90", None),
        (b"", None),
        (b"\xff", None),
    ],
)
def test_a_file_is_what_its_first_bytes_say(head: bytes, expected: str | None) -> None:
    """Neither suffix nor content type decides whether something is a film (D7, D19)."""
    assert kind_of(head) == expected


def whole(data: bytes) -> bool:
    return shape(data) is Shape.WHOLE


def shape(data: bytes) -> Shape:
    return mp4_shape(lambda at, count: data[at : at + count], len(data))


FTYP, MOOV, MDAT = box(b"ftyp", b"isom"), box(b"moov", b"m" * 40), box(b"mdat", b"d" * 90)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (FTYP + MOOV + MDAT, Shape.WHOLE),
        (FTYP + MDAT + MOOV, Shape.WHOLE),
        (FTYP + MOOV + MDAT + box(b"free", b""), Shape.WHOLE),
        (FTYP + MOOV + b"\0\0\0\x01mdat" + (16 + 50).to_bytes(8, "big") + b"d" * 50, Shape.WHOLE),
        # to the end of the file, wherever that is
        (FTYP + MOOV + b"\0\0\0\0mdat" + b"d" * 50, Shape.OPEN),
        (FTYP + b"\0\0\0\0mdat" + MOOV, Shape.CUT),
        # bytes behind it that are no box
        (FTYP + MOOV + MDAT + b"x", Shape.ODD),
        (FTYP + MOOV + MDAT + b"\r\n", Shape.ODD),
        (FTYP + MOOV + MDAT + b"\0\0\0", Shape.ODD),
        (FTYP + MOOV + MDAT + b"\0" * 9, Shape.ODD),
        (FTYP + MOOV + MDAT + b"ID3\x04" + b"\0" * 60, Shape.ODD),
        (FTYP + MOOV + MDAT + b"TAGA song" + b"\0" * 119, Shape.ODD),
        # a cut box, wherever it stands
        (FTYP + MOOV + b"\0\0\0\x01mdat" + (15).to_bytes(8, "big") + b"d" * 50, Shape.CUT),
        (FTYP + MOOV + b"\0\0\0\x01mdat\0\0\0\1\0\0\0\x42" + b"d" * 50, Shape.CUT),
        (FTYP + MOOV, Shape.CUT),  # cut between two boxes
        (FTYP + MDAT, Shape.CUT),
        (FTYP + MOOV + MDAT[:-1], Shape.CUT),
        (FTYP + MOOV + MDAT + box(b"moof", b"m" * 40)[:-1], Shape.CUT),
        (FTYP + MOOV + MDAT + MDAT[:9], Shape.CUT),
        (FTYP + MOOV + MDAT + b"\0\0\0\x07free", Shape.CUT),
        (FTYP + MOOV + MDAT + b"\0\0\0\x01free", Shape.CUT),
        (FTYP + MOOV + b"ID3\x04" + b"\0" * 60, Shape.CUT),  # odd bytes replace no box
        (b"", Shape.CUT),
    ],
)
def test_a_film_is_whole_when_its_boxes_add_up(data: bytes, expected: Shape) -> None:
    """The film itself says whether it is all there, and what stands behind it (D2)."""
    assert shape(data) is expected


def test_no_cut_film_is_whole() -> None:
    """Wherever a film is cut, it shows (D1, D2)."""
    data = film(size=1200)

    assert whole(data)
    assert [at for at in range(len(data)) if whole(data[:at])] == []


def test_a_file_of_nothing_but_boxes_ends_the_walk() -> None:
    """Four gigabytes of empty boxes cost a moment, not an hour (D12)."""
    counted = itertools.count()

    def read(_at: int, _count: int) -> bytes:
        next(counted)
        return box(b"free", b"")

    assert mp4_shape(read, LARGEST) is Shape.CUT
    assert next(counted) <= 100_000


@given(st.binary(max_size=200))
def test_no_bytes_upset_the_walk(data: bytes) -> None:
    """Noise is never a whole film, and never an error."""
    assert shape(FTYP + data) is not Shape.WHOLE or data.count(b"moov")
    assert is_mp4((FTYP + data)[:16])

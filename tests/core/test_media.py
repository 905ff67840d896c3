"""What a film is: its first bytes and its boxes decide, no label does."""

from __future__ import annotations

import itertools

import pytest
from filehost import box, film
from hypothesis import given
from hypothesis import strategies as st

from apikley_async._download.media import Shape, is_mp4, kind_of, mp4_shape
from apikley_async._download.ranges import LARGEST


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

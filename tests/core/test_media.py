"""What a film is: its first bytes and its boxes decide, no label does."""

from __future__ import annotations

import itertools
from typing import Any

from filehost import box, film
from hypothesis import given
from hypothesis import strategies as st

from apikley_async._download.media import (
    CONTENT_TYPES,
    BoxHeaders,
    Completeness,
    is_mp4,
    mp4_completeness,
    suffix_of,
)
from apikley_async._download.ranges import MAX_FILE_BYTES

HEADS = [
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
]


def test_a_file_is_what_its_first_bytes_say() -> None:
    """Neither suffix nor content type decides whether something is a film (D7, D19)."""
    assert {head: suffix_of(head) for head, _ in HEADS} == dict(HEADS)


def is_complete(data: bytes) -> bool:
    return completeness(data) is Completeness.COMPLETE


def completeness(data: bytes) -> Completeness:
    return mp4_completeness(lambda at, count: data[at : at + count], len(data))


FTYP, MOOV, MDAT = box(b"ftyp", b"isom"), box(b"moov", b"m" * 40), box(b"mdat", b"d" * 90)


COMPLETE, TRUNCATED = Completeness.COMPLETE, Completeness.TRUNCATED
UNKNOWN, TRAILING_BYTES = Completeness.UNKNOWN, Completeness.TRAILING_BYTES
FILES = [
    (FTYP + MOOV + MDAT, COMPLETE),
    (FTYP + MDAT + MOOV, COMPLETE),
    (FTYP + MOOV + MDAT + box(b"free", b""), COMPLETE),
    (
        FTYP + MOOV + b"\0\0\0\x01mdat" + (16 + 50).to_bytes(8, "big") + b"d" * 50,
        COMPLETE,
    ),
    # to the end of the file, wherever that is
    (FTYP + MOOV + b"\0\0\0\0mdat" + b"d" * 50, UNKNOWN),
    (FTYP + b"\0\0\0\0mdat" + MOOV, TRUNCATED),
    # bytes behind it that are no box
    (FTYP + MOOV + MDAT + b"x", TRAILING_BYTES),
    (FTYP + MOOV + MDAT + b"\r\n", TRAILING_BYTES),
    (FTYP + MOOV + MDAT + b"\0\0\0", TRAILING_BYTES),
    (FTYP + MOOV + MDAT + b"\0" * 9, TRAILING_BYTES),
    (FTYP + MOOV + MDAT + b"ID3\x04" + b"\0" * 60, TRAILING_BYTES),
    (FTYP + MOOV + MDAT + b"TAGA song" + b"\0" * 119, TRAILING_BYTES),
    # a box that is cut off, wherever it is
    (
        FTYP + MOOV + b"\0\0\0\x01mdat" + (15).to_bytes(8, "big") + b"d" * 50,
        TRUNCATED,
    ),
    (FTYP + MOOV + b"\0\0\0\x01mdat\0\0\0\1\0\0\0\x42" + b"d" * 50, TRUNCATED),
    (FTYP + MOOV, TRUNCATED),  # cut between two boxes
    (FTYP + MDAT, TRUNCATED),
    (FTYP + MOOV + MDAT[:-1], TRUNCATED),
    (FTYP + MOOV + MDAT + box(b"moof", b"m" * 40)[:-1], TRUNCATED),
    (FTYP + MOOV + MDAT + MDAT[:9], TRUNCATED),
    (FTYP + MOOV + MDAT + b"\0\0\0\x07free", TRUNCATED),
    (FTYP + MOOV + MDAT + b"\0\0\0\x01free", TRUNCATED),
    (FTYP + MOOV + b"ID3\x04" + b"\0" * 60, TRUNCATED),  # odd bytes replace no box
    (b"", TRUNCATED),
]


def test_a_film_is_complete_when_its_boxes_add_up() -> None:
    """The film itself says whether it is all there, and what is behind it (D2)."""
    wrong = [
        (data, found) for data, expected in FILES if (found := completeness(data)) is not expected
    ]

    assert wrong == []


def passing_by(data: bytes, step: int) -> Completeness:
    """What is known of a film whose bytes were seen once, so many at a time."""
    headers = BoxHeaders()
    for at in range(0, len(data), step):
        headers.feed(data[at : at + step])
    return mp4_completeness(headers.read, len(data))


def test_a_film_that_passes_by_is_judged_as_one_on_the_disk() -> None:
    """However it is cut into pieces: the headers of its boxes are all that is needed."""
    wrong = [
        (data, step, found)
        for data, expected in FILES
        for step in (1, 3, 7, 16, 1000)
        if (found := passing_by(data, step)) is not expected
    ]

    assert wrong == []


@given(st.lists(st.sampled_from([FTYP, MOOV, MDAT, box(b"free", b""), b"\0", b"moov"])), st.data())
def test_any_boxes_that_pass_by_are_judged_as_on_the_disk(parts: list[bytes], data: Any) -> None:
    film, headers = b"".join(parts), BoxHeaders()
    cuts = sorted(data.draw(st.sets(st.integers(0, len(film)))) | {0, len(film)})
    for begin, end in itertools.pairwise(cuts):
        headers.feed(film[begin:end])

    assert mp4_completeness(headers.read, len(film)) is completeness(film)


def test_every_format_has_a_content_type() -> None:
    assert {suffix for _, suffix in HEADS if suffix} <= CONTENT_TYPES.keys()


def test_no_truncated_film_is_complete() -> None:
    """Wherever a film is cut, it shows (D1, D2)."""
    data = film(size=1200)

    assert is_complete(data)
    assert [at for at in range(len(data)) if is_complete(data[:at])] == []


def test_a_file_of_nothing_but_boxes_is_read_quickly() -> None:
    """Four gigabytes of empty boxes cost a moment, not an hour (D12)."""
    counted = itertools.count()

    def read(_at: int, _count: int) -> bytes:
        next(counted)
        return box(b"free", b"")

    assert mp4_completeness(read, MAX_FILE_BYTES) is Completeness.TRUNCATED
    assert next(counted) <= 100_000


@given(st.binary(max_size=200))
def test_reading_boxes_never_raises(data: bytes) -> None:
    """Noise is never a whole film, and never an error."""
    assert completeness(FTYP + data) is not Completeness.COMPLETE or data.count(b"moov")
    assert is_mp4((FTYP + data)[:16])

"""URLs of files, and the parts of them that a range request gets."""

from __future__ import annotations

import struct
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from manual_clock import ManualClock

from apikley_async.simulator import ServiceClock, Terms
from apikley_async.simulator.service.file_store import (
    FileStore,
    ServedFile,
    changed_bytes,
    select_range,
    with_label_box,
)

FILE = ServedFile(b"0123456789", '"abc"', 1_800_000_000, "video/mp4")
MODIFIED = "Fri, 15 Jan 2027 08:00:00 GMT"


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def store(clock):
    return FileStore(Terms(), ServiceClock(clock), Random(1), "http://files.test")


RANGES = [
    (None, 200, b"0123456789", None),
    ("bytes=0-", 206, b"0123456789", "bytes 0-9/10"),
    ("bytes=4-", 206, b"456789", "bytes 4-9/10"),
    ("bytes=4-6", 206, b"456", "bytes 4-6/10"),
    ("bytes=8-99", 206, b"89", "bytes 8-9/10"),
    ("bytes=-3", 206, b"789", "bytes 7-9/10"),
    ("bytes=-99", 206, b"0123456789", "bytes 0-9/10"),
    ("bytes=10-", 416, b"", "bytes */10"),
    ("bytes=-0", 416, b"", "bytes */10"),
    ("bytes=6-4", 200, b"0123456789", None),
    ("bytes=-", 200, b"0123456789", None),
    ("bytes=0-1,4-5", 200, b"0123456789", None),
    ("items=0-1", 200, b"0123456789", None),
    ("bytes=a-b", 200, b"0123456789", None),
    ("bytes=" + "9" * 5000 + "-", 200, b"0123456789", None),
]


def test_ranges_are_served_as_http_demands():
    """A valid range gets its part, one beyond the end a 416, any other is ignored."""
    failures = []
    for range_, *expected in RANGES:
        part = select_range(FILE, range_)
        got = [part.status, part.data, dict(part.headers).get("Content-Range")]
        if got != expected:
            failures.append((range_, got))

    assert failures == []


@pytest.mark.parametrize(
    ("if_range", "status"),
    [('"abc"', 206), (MODIFIED, 206), ('"other"', 200), ('W/"abc"', 200), ("nonsense", 200)],
)
def test_a_range_of_another_version_is_the_whole_file(if_range, status):
    """Only the current strong validator, or the exact date, resumes a download."""
    assert select_range(FILE, "bytes=4-", if_range).status == status


@given(data=st.binary(max_size=50), first=st.integers(0, 60), last=st.integers(0, 60))
def test_a_part_is_never_mislabelled(data, first, last):
    """For any range, the bytes are those that `Content-Range` names."""
    part = select_range(ServedFile(data, '"x"', 0, "text/plain"), f"bytes={first}-{last}")
    content_range = dict(part.headers).get("Content-Range", "")

    if part.status == 206:
        begin, end = (int(n) for n in content_range.removeprefix("bytes ").split("/")[0].split("-"))
        assert part.data == data[begin : end + 1]
    elif part.status == 200:
        assert part.data == data


def test_a_replaced_film_differs_in_its_media_data_and_not_in_size(store):
    """A splice of two versions has the right size: only a validator or the bytes show it."""
    boxes = with_label_box(b"", "head"), bytes(range(256)), with_label_box(b"", "tail")
    film = boxes[0] + struct.pack(">I4s", 8 + 256, b"mdat") + boxes[1] + boxes[2]
    before = store.current("0-1", film, 0.0, "video/mp4")

    store.versions["0-1"] += 1
    after = store.current("0-1", film, 0.0, "video/mp4")

    start = len(boxes[0]) + 8
    assert after.data[:start] == film[:start]
    assert all(a != b for a, b in zip(after.data[start:], boxes[1], strict=False))
    assert after.data[start + 256 :] == boxes[2]
    assert after.etag != before.etag
    assert after.modified > before.modified
    assert changed_bytes(film, 2) != after.data


@pytest.mark.parametrize(
    "data", [b"", b"a", b"no film at all" * 9, struct.pack(">I4s", 4, b"mdat") * 8]
)
def test_a_replaced_file_that_is_no_film_keeps_its_size(data):
    """Short files and random bytes included."""
    after = changed_bytes(data, 1)

    assert len(after) == len(data)
    assert after[:32] == data[:32]
    assert all(a != b for a, b in zip(after[32:], data[32:], strict=True))


def test_a_label_is_a_box_that_players_skip():
    """A labelled film is the film, then one box of type `free` with the id of its task."""
    film = with_label_box(b"film", "task_1 1")

    assert film.startswith(b"film")
    size, kind, text = film[4:8], film[8:12], film[12:]
    assert (int.from_bytes(size, "big"), kind, text) == (16, b"free", b"task_1 1")


def test_uploads_are_kept_for_three_days(store, clock):
    """The URL of an upload works at once, until the upload expires."""
    upload = store.upload("boards/inputs", "a b.png", b"png")
    url = store.upload_url(upload)

    assert url == "http://files.test/uploads/boards/inputs/a%20b.png"
    assert store.upload_of(url) is upload
    assert upload.content_type == "image/png"
    clock.time += 3 * 86_400 - 1
    assert store.upload_of(url) is upload
    clock.time += 1
    assert store.upload_of(url) is None


def test_an_upload_replaces_one_of_the_same_name(store):
    """The URL stays, bytes and validator change."""
    first = store.upload("in", "a.png", b"one")
    before = store.current(first.path, first.data, first.at, "image/png")
    second = store.upload("in", "a.png", b"two")
    after = store.current(second.path, second.data, second.at, "image/png")

    assert store.upload_url(first) == store.upload_url(second)
    assert before.etag != after.etag


@pytest.mark.parametrize(
    "url",
    [
        "https://elsewhere.example/results/0-1.mp4?sign=x",
        "http://files.test/results/0-1.mp4",
        "http://files.test/results/0-1.mp4?sign=wrong",
        "http://files.test.evil.example/uploads/in/a.png",
        "http://[files.test/results/0-1.mp4",
        "http://files.test/results/" + "9" * 5000 + "-1.mp4?sign=x",
        "",
    ],
)
def test_other_and_unsigned_urls_have_no_file(store, url):
    """Only a URL that the store has signed, on its own origin, has one."""
    assert store.result_of(url) is None
    assert store.upload_of(url) is None

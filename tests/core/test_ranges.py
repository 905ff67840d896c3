"""What an answer of a film's host means: bytes are appended only where they provably go on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apikley_async._download.ranges import (
    LARGEST,
    Body,
    BrokenOffError,
    ChangedError,
    GoneError,
    Held,
    read_answer,
    strong_version,
)
from apikley_async.errors import DownloadError

TAG = '"abc"'
HALF, OPEN = Held(400, 1000, TAG), Held(400, None, TAG)
REST, PORTION = Body(400, 1000, 1000, TAG), Body(400, 600, 1000, TAG)


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

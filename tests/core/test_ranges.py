"""What an answer of a film's host means: bytes are appended only where they provably go on."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from apikley_async._download.ranges import (
    MAX_FILE_BYTES,
    BodyRange,
    FileChangedError,
    HeldBytes,
    LinkRefusedError,
    TransferInterruptedError,
    read_response,
    strong_etag,
)
from apikley_async.errors import DownloadError

TAG = '"abc"'
CHANGED, INTERRUPTED = FileChangedError, TransferInterruptedError
REFUSED, NEVER, MOST = LinkRefusedError, DownloadError, MAX_FILE_BYTES
NOTHING = HeldBytes()
HALF, OPEN = HeldBytes(400, 1000, TAG), HeldBytes(400, None, TAG)
REST, PORTION = BodyRange(400, 1000, 1000, TAG), BodyRange(400, 600, 1000, TAG)


def test_a_range_is_requested_only_with_an_etag() -> None:
    """Range never goes without If-Range and a strong validator (D4)."""
    assert HALF.range_headers() == {"Range": "bytes=400-", "If-Range": TAG}
    assert HeldBytes(400, 1000, None).range_headers() == {}
    assert HeldBytes(0, 1000, TAG).range_headers() == {}


# What is held, status and headers of the response, and the range that it brings or the error.
RESPONSES: list[tuple[HeldBytes, int, dict[str, str], BodyRange | type[Exception]]] = [
    # all of it
    (NOTHING, 200, {"Content-Length": "9", "ETag": TAG}, BodyRange(0, 9, 9, TAG)),
    (NOTHING, 200, {"Content-Length": "9", "ETag": 'W/"abc"'}, BodyRange(0, 9, 9, None)),
    (NOTHING, 200, {"Transfer-Encoding": "chunked"}, BodyRange(0, None, None, None)),
    (NOTHING, 200, {}, BodyRange(0, None, None, None, framed=False)),
    # (D5) asked for the rest, and all of it comes
    (HALF, 200, {"Content-Length": "1000", "ETag": TAG}, BodyRange(0, 1000, 1000, TAG)),
    (HALF, 200, {"Content-Length": "70", "ETag": '"new"'}, BodyRange(0, 70, 70, '"new"')),
    # (D3, D4) the rest
    (HALF, 206, {"Content-Range": "bytes 400-999/1000", "ETag": TAG}, REST),
    (HALF, 206, {"Content-Range": "bytes 400-599/1000", "ETag": TAG}, PORTION),
    (OPEN, 206, {"Content-Range": "bytes 400-999/1000", "ETag": TAG}, REST),
    (HALF, 206, {"Content-Range": "bytes 400-999/1000"}, CHANGED),
    (HALF, 206, {"Content-Range": "bytes 400-999/1000", "ETag": '"new"'}, CHANGED),
    (HALF, 206, {"Content-Range": "bytes 400-999/1000", "ETag": 'W/"abc"'}, CHANGED),
    (HALF, 206, {"Content-Range": "bytes 399-999/1000", "ETag": TAG}, CHANGED),
    (HALF, 206, {"Content-Range": "bytes 401-999/1000", "ETag": TAG}, CHANGED),
    (HALF, 206, {"Content-Range": "bytes 0-999/1000", "ETag": TAG}, CHANGED),
    (HALF, 206, {"Content-Range": "bytes 400-1000/1001", "ETag": TAG}, CHANGED),
    (HALF, 206, {"Content-Range": "bytes 400-1000/1000", "ETag": TAG}, CHANGED),
    (HALF, 206, {"Content-Range": "bytes 400-399/1000", "ETag": TAG}, CHANGED),
    (HALF, 206, {"Content-Range": "bytes 400-999/*", "ETag": TAG}, CHANGED),
    (HALF, 206, {"Content-Range": "bytes=400-999/1000", "ETag": TAG}, CHANGED),
    (HALF, 206, {"Content-Range": "bytes 4٠0-999/1000", "ETag": TAG}, CHANGED),
    (HALF, 206, {"ETag": TAG}, CHANGED),
    (NOTHING, 206, {"Content-Range": "bytes 0-999/1000", "ETag": TAG}, CHANGED),
    (HeldBytes(400, 1000, None), 206, {"Content-Range": "bytes 400-999/1000"}, CHANGED),
    # (D6) nothing is left, or the range is refused
    (OPEN, 416, {"Content-Range": "bytes */400"}, BodyRange(400, 400, 400, TAG)),
    (OPEN, 416, {"Content-Range": "bytes */900"}, CHANGED),
    (OPEN, 416, {}, CHANGED),
    (OPEN, 416, {"Content-Range": "bytes */400", "ETag": '"new"'}, CHANGED),
    (HALF, 416, {"Content-Range": "bytes */1000"}, CHANGED),
    (HALF, 416, {"Content-Range": "bytes */400"}, CHANGED),
    # (D7) the link is dead
    *((NOTHING, status, {}, REFUSED) for status in (401, 403, 404, 410)),
    *((HALF, status, {}, REFUSED) for status in (401, 403, 404, 410)),
    *((NOTHING, status, {}, REFUSED) for status in (400, 402, 405, 416, 418, 451)),
    # a label says nothing: the first bytes do
    (NOTHING, 200, {"Content-Type": "text/html; charset=utf-8", "Content-Length": "9"},
     BodyRange(0, 9, 9, None)),
    (NOTHING, 200, {"Content-Type": "application/json"}, BodyRange(0, None, None, None, False)),
    # packed bytes: neither their length nor their version is the film's
    (NOTHING, 200, {"Content-Encoding": "gzip", "Content-Length": "9", "ETag": TAG},
     BodyRange(0, None, None, None, gzipped=True)),
    (HALF, 200, {"Content-Encoding": "X-GZip"}, BodyRange(0, None, None, None, gzipped=True)),
    (NOTHING, 200, {"Content-Encoding": "gzip", "Content-Length": str(MOST + 1)},
     NEVER),
    (HALF, 206, {"Content-Range": "bytes 400-999/1000", "ETag": TAG,
                 "Content-Encoding": "gzip"}, CHANGED),
    # not now
    *((HALF, status, {}, INTERRUPTED) for status in (408, 425, 429, 500, 502, 503, 504)),
    *((NOTHING, status, {}, INTERRUPTED) for status in (201, 204, 300, 304, 599)),
    # (D12) too large
    (NOTHING, 200, {"Content-Length": str(MOST + 1)}, NEVER),
    (NOTHING, 200, {"Content-Length": str(MOST)}, BodyRange(0, MOST, MOST, None)),
    (NOTHING, 200, {"Content-Length": "9" * 20}, BodyRange(0, None, None, None, framed=False)),
]  # fmt: skip


def test_what_a_response_brings() -> None:
    """Bytes are appended only where they provably continue the file (D3, D4, D5, D6, D7)."""
    failures = []
    for held, status, headers, expected in RESPONSES:
        found: object
        try:
            found = read_response(held, status, headers)
        except Exception as error:  # noqa: BLE001 - compared with what is expected
            found = type(error)
        if found != expected:
            failures.append((held, status, headers, found))

    assert failures == []


@given(
    st.integers(1, 60),
    st.text("0123456789-/* bytes٣", max_size=30),
    st.sampled_from([TAG, '"new"', ""]),
)
def test_no_content_range_splices_two_files(size: int, content_range: str, tag: str) -> None:
    """Whatever a 206 says of itself, what is accepted starts where the held bytes end (D3)."""
    held = HeldBytes(size, 64, TAG)
    headers = {"Content-Range": f"bytes {content_range}", "ETag": tag}
    try:
        body = read_response(held, 206, headers)
    except FileChangedError:
        return

    assert (body.start, body.total, body.etag, tag) == (size, 64, TAG, TAG)
    assert body.end is not None
    assert size < body.end <= 64


TAGS = [
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
]


def test_only_a_strong_etag_counts() -> None:
    """A weak or malformed ETag proves no byte (D4)."""
    wrong = [
        (tag, found)
        for tag, strong in TAGS
        if (found := strong_etag({"ETag": tag})) != (tag if strong else None)
    ]

    assert wrong == []

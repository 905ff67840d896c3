"""`_wire.files`: links under known names first, by shape last, and never what is not a film."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replies import answer, enveloped
from rows import failing, failing_rows
from volume import volume

from apikley_async import (
    ApikleyError,
    AuthenticationError,
    EmptyResultError,
    InvalidRequestError,
    ServerError,
    Snapshot,
    State,
    UnansweredError,
    UploadError,
)
from apikley_async._urls import url_faults
from apikley_async._wire.envelope import Reply
from apikley_async._wire.files import decode_link, decode_upload, encode_link, find_links
from apikley_async._wire.tasks import decode_snapshot

FILM = "https://cdn.test/a.mp4"
OTHER = "https://cdn.test/b.mp4"
CARD = "https://files.test/kitten.png"
CALL = "https://hooks.test/apikley/4f1c"
PARAM = {
    "model": "sora-2-pro-storyboard",
    "callBackUrl": CALL,
    "input": json.dumps(
        {"image_urls": [CARD], "shots": [{"Scene": f"See {OTHER}", "duration": 5}]}
    ),
}


def poll(model: str | None = "sora-2-pro-storyboard", **data: Any) -> Snapshot:
    record = {"taskId": "task_1", "model": model, "state": "success", "param": json.dumps(PARAM)}
    body = {"code": 200, "msg": "success", "data": record | data}
    return decode_snapshot(Reply(200, json.dumps(body)), "task_1")


def test_a_link_is_found_wherever_the_service_is_known_to_put_it() -> None:
    """Known names before shape, `resultJson` before `result*` (API section 12)."""

    def check(data: dict[str, Any]) -> None:
        snapshot = poll(**data)

        assert snapshot.urls == (FILM,)
        assert snapshot.unusable == ()
        assert not snapshot.empty

    rows = [
        {"resultJson": {name: value}}
        for name in ("resultUrls", "result_urls", "videoUrl", "video_url")
        for value in (FILM, [FILM])
    ]
    rows += [
        {"resultJson": json.dumps(json.dumps({"videoUrl": FILM}))},
        {"resultJson": {"resultUrls": json.dumps([FILM])}},
        {"resultJson": {"data": {"video_url": FILM}}},
        {"resultJson": [FILM]},
        {"resultJson": FILM},
        {"resultJson": json.dumps(FILM)},
        {"resultJson": json.dumps([FILM])},
        {"result": FILM},
        {"result": [FILM]},
        {"result": {"videoUrl": FILM}},
        {"result": json.dumps({"result_urls": [FILM]})},
        {"resultUrls": [FILM]},
        {"result_urls": [FILM], "resultJson": ""},
        {"resultJson": {"resultUrls": [], "videoUrl": FILM}},
        {"resultJson": {"resultUrls": [FILM], "videoUrl": OTHER}},
        {"resultJson": {"resultUrls": [FILM]}, "result": [OTHER]},
        {"resultJson": {"resultWaterMarkUrls": [OTHER], "resultUrls": [FILM]}},
        {"resultJson": {"resultUrls": [CARD, FILM, CALL]}},
        {"resultJson": {"resultUrls": f" {FILM}\n"}},
    ]
    assert failing(check, rows) == []


def test_a_storyboard_without_a_usable_link_is_empty_and_never_done() -> None:
    """Copies with a watermark, covers, originals, URLs that we sent, and unknown names."""

    def check(data: dict[str, Any]) -> None:
        snapshot = poll(**data)

        assert snapshot.urls == ()
        assert snapshot.empty
        with pytest.raises(EmptyResultError):
            snapshot.result()

    rows = [
        {},
        {"resultJson": {"resultWaterMarkUrls": [FILM]}},
        {"resultJson": {"coverUrl": FILM, "originUrls": [FILM]}},
        {"resultJson": {"watermark": {"videoUrl": FILM}}},
        {"resultWaterMarkUrls": [FILM]},
        {"resultJson": {"url": FILM}},
        {"resultJson": {"resultUrls": []}, "result": FILM},
        {"resultJson": [CARD]},
        {"resultJson": CALL},
        {"resultJson": {"videoUrl": CARD}},
        {"resultNote": FILM},
        {"note": {"videoUrl": FILM}, "failMsg": FILM},
        {"param": json.dumps(PARAM | {"resultUrls": [FILM], "result": FILM})},
        {"resultJson": "the film is ready"},
        {"resultJson": {"resultObject": {"a": 1}}},
    ]
    assert failing(check, rows) == []


def test_a_storyboard_is_recognized_by_its_request_too() -> None:
    """Another id of the same model, and no link: no film either."""
    assert poll("someone/s-2pro", resultJson={"character_id": "c_1"}).empty
    assert not poll("kling", param="", resultJson={"character_id": "c_1"}).empty


def test_an_unusable_link_is_reported() -> None:
    """The usable links are there, and the snapshot does not pretend to be complete."""

    def check(odd: Any) -> None:
        snapshot = poll(resultJson={"resultUrls": [FILM, odd, OTHER + "?x"]})

        assert snapshot.urls == (FILM, OTHER + "?x")
        assert len(snapshot.unusable) == len(snapshot.result().unusable) == 1

    rows = ["relative.mp4", "ftp://cdn.test/b.mp4", "https://", {"u": 1}, 5]
    assert failing(check, rows) == []


def test_a_link_is_requested_as_it_was_signed() -> None:
    """Only what no request could carry is encoded (DESIGN, Evidence)."""

    def check(given_: str, asked: str) -> None:
        assert encode_link(given_) == asked
        assert poll(resultJson={"resultUrls": [given_]}).urls == (asked,)

    rows = [
        (FILM, FILM),
        (f"\u00a0 {FILM}\t", FILM),
        ("https://cdn.test/a b.mp4?n=a b", "https://cdn.test/a%20b.mp4?n=a%20b"),
        ("https://cdn.test/кот.mp4", "https://cdn.test/%D0%BA%D0%BE%D1%82.mp4"),
        ("https://кот.test/a.mp4", "https://кот.test/a.mp4"),
        ("https://cdn.test/a%2fb%41.mp4?s=%7E~+x", "https://cdn.test/a%2fb%41.mp4?s=%7E~+x"),
        ("https://cdn.test/a%zz.mp4", "https://cdn.test/a%zz.mp4"),
        ("https://cdn.test/a b%20c", "https://cdn.test/a%20b%20c"),
    ]
    assert failing_rows(check, rows) == []


def test_what_no_request_could_carry_stays_unusable() -> None:

    def check(url: str) -> None:
        assert poll(resultJson={"resultUrls": [url]}).urls == ()

    rows = ["https://cdn .test/a", "https://cdn.test/a\nb", "https://c/\ud800"]
    assert failing(check, rows) == []


NASTY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=20)
    | st.sampled_from([FILM, CARD]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["resultJson", "result", "resultUrls", "videoUrl", "cover", "x"]), inner
        )
    ),
    max_leaves=12,
)


@settings(max_examples=volume(50, 300))
@given(st.dictionaries(st.sampled_from(["resultJson", "result", "resultUrls", "param"]), NASTY))
def test_whatever_is_found_could_be_requested_and_is_not_ours(data: dict[str, Any]) -> None:
    """Any JSON at all: what comes out passes the check that the request makes."""
    links = find_links(data, exclude=[CARD])

    assert CARD not in links.usable
    assert not any([*url_faults(url)] for url in links.usable)


def test_links_in_another_state_are_no_success() -> None:
    """Links do not end a task; its word does."""
    assert poll(state="generating", resultJson={"resultUrls": [FILM]}).state is State.GENERATING


# --- answers to a request for a link, and to an upload -------------------------------------------


def test_a_link_is_a_url() -> None:

    def check(data: Any) -> None:
        assert decode_link(enveloped(data=data)) == FILM

    assert failing(check, [FILM, {"url": FILM}, {"downloadUrl": FILM}]) == []


def test_an_answer_without_a_usable_link_is_unanswered() -> None:
    """Nothing but http(s) reaches the downloader (P7)."""

    def check(data: Any) -> None:
        with pytest.raises(UnansweredError):
            decode_link(enveloped(data=data))

    rows = [None, "", "film.mp4", "file:///x", 5, {}, {"url": 5}, [], [5]]
    assert failing(check, rows) == []


def test_a_foreign_link_is_refused() -> None:
    with pytest.raises(InvalidRequestError):
        decode_link(enveloped(422, msg="not one of ours"))


STORED = {"fileName": "9f.png", "fileSize": 5, "mimeType": "image/png"}


def test_an_upload_is_read_in_both_shapes() -> None:
    """`fileUrl`, or else `downloadUrl` (API section 8)."""

    def check(data: Any) -> None:
        assert (
            decode_upload(answer({"success": True, "code": 200, "msg": "ok", "data": data})) == CARD
        )

    rows = [
        STORED | {"downloadUrl": CARD, "filePath": "images/9f.png", "uploadedAt": "2026-09-21"},
        STORED | {"fileUrl": CARD, "downloadUrl": "https://files.test/other", "fileId": "1"},
        {"fileUrl": "", "downloadUrl": CARD},
        {"fileUrl": "relative.png", "downloadUrl": CARD},
        {"fileUrl": None, "downloadUrl": CARD, "new": {}},
    ]
    assert failing(check, rows) == []


def test_an_upload_without_a_url_is_none() -> None:

    def check(data: Any) -> None:
        with pytest.raises(UploadError, match="without a URL"):
            decode_upload(enveloped(data=data))

    assert failing(check, [None, {}, STORED, [], CARD, {"fileUrl": "file:///x"}]) == []


def test_an_upload_that_did_not_succeed_says_why() -> None:
    """`success: false` counts even on HTTP 200 (API section 8)."""

    def check(reply: Reply, kind: type[ApikleyError]) -> None:
        with pytest.raises(kind, match="too large") as caught:
            decode_upload(reply)

        assert type(caught.value) is kind

    rows = [
        (answer({"success": False, "code": 200, "msg": "too large", "data": None}), UploadError),
        (answer({"success": False, "code": 400, "msg": "too large"}, 400), InvalidRequestError),
        (answer({"success": False, "code": 401, "msg": "too large"}), AuthenticationError),
        (answer({"success": False, "code": 500, "msg": "too large"}, 500), ServerError),
    ]
    assert failing_rows(check, rows) == []

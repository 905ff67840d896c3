"""Links where strangers put them: known names first, shape last, and never what is not a film."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apikley_async import EmptyResultError, Snapshot, State
from apikley_async._urls import url_faults
from apikley_async._wire.envelope import Reply
from apikley_async._wire.files import encode_link, find_links
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


@pytest.mark.parametrize(
    "data",
    [
        {"resultJson": {name: value}}
        for name in ("resultUrls", "result_urls", "videoUrl", "video_url")
        for value in (FILM, [FILM])
    ]
    + [
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
    ],
    ids=str,
)
def test_a_link_is_found_wherever_the_service_is_known_to_put_it(data: dict[str, Any]) -> None:
    """Known names before shape, `resultJson` before `result*` (API section 12)."""
    snapshot = poll(**data)

    assert snapshot.urls == (FILM,)
    assert snapshot.unusable == ()
    assert not snapshot.empty


@pytest.mark.parametrize(
    "data",
    [
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
    ],
    ids=str,
)
def test_a_storyboard_without_a_usable_link_is_empty_and_never_done(data: dict[str, Any]) -> None:
    """Twins, covers, originals, what we sent ourselves, and names nobody knows are no films."""
    snapshot = poll(**data)

    assert snapshot.urls == ()
    assert snapshot.empty
    with pytest.raises(EmptyResultError):
        snapshot.result()


def test_a_board_is_known_by_what_it_was_asked_for_too() -> None:
    """Another id of the same model, and no link: no film either."""
    assert poll("someone/s-2pro", resultJson={"character_id": "c_1"}).empty
    assert not poll("kling", param="", resultJson={"character_id": "c_1"}).empty


@pytest.mark.parametrize("odd", ["relative.mp4", "ftp://cdn.test/b.mp4", "https://", {"u": 1}, 5])
def test_a_link_that_cannot_be_used_is_told(odd: Any) -> None:
    """The others are there, and nobody says that this is all (DESIGN, Evidence)."""
    snapshot = poll(resultJson={"resultUrls": [FILM, odd, OTHER + "?x"]})

    assert snapshot.urls == (FILM, OTHER + "?x")
    assert len(snapshot.unusable) == len(snapshot.result().unusable) == 1


@pytest.mark.parametrize(
    ("given_", "asked"),
    [
        (FILM, FILM),
        (f"\u00a0 {FILM}\t", FILM),
        ("https://cdn.test/a b.mp4?n=a b", "https://cdn.test/a%20b.mp4?n=a%20b"),
        ("https://cdn.test/кот.mp4", "https://cdn.test/%D0%BA%D0%BE%D1%82.mp4"),
        ("https://кот.test/a.mp4", "https://кот.test/a.mp4"),
        ("https://cdn.test/a%2fb%41.mp4?s=%7E~+x", "https://cdn.test/a%2fb%41.mp4?s=%7E~+x"),
        ("https://cdn.test/a%zz.mp4", "https://cdn.test/a%zz.mp4"),
        ("https://cdn.test/a b%20c", "https://cdn.test/a%20b%20c"),
    ],
)
def test_a_link_is_asked_for_as_it_was_signed(given_: str, asked: str) -> None:
    """Only what no request could carry is encoded (DESIGN, Evidence)."""
    assert encode_link(given_) == asked
    assert poll(resultJson={"resultUrls": [given_]}).urls == (asked,)


@pytest.mark.parametrize(
    "url", ["https://cdn .test/a", "https://cdn.test/a\nb", "https://c/\ud800"]
)
def test_what_no_request_could_carry_stays_unusable(url: str) -> None:
    assert poll(resultJson={"resultUrls": [url]}).urls == ()


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


@given(st.dictionaries(st.sampled_from(["resultJson", "result", "resultUrls", "param"]), NASTY))
def test_whatever_is_found_could_be_requested_and_is_not_ours(data: dict[str, Any]) -> None:
    """Any JSON at all: what comes out passes the check that the request makes."""
    links = find_links(data, exclude=[CARD])

    assert CARD not in links.usable
    assert not any([*url_faults(url)] for url in links.usable)


def test_a_link_of_a_later_state_is_no_success() -> None:
    """Links do not end a task; its word does."""
    assert poll(state="generating", resultJson={"resultUrls": [FILM]}).state is State.GENERATING

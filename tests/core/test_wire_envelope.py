"""`_wire`: strict when it writes, tolerant when it reads, certain about what was paid."""

from __future__ import annotations

import copy
import json
import logging
import math
import pickle
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from volume import volume

from apikley_async import (
    ApiError,
    ApikleyError,
    AuthenticationError,
    FeatureDisabledError,
    InsufficientCreditsError,
    InvalidRequestError,
    JobFailedError,
    KeyLimitError,
    MaintenanceError,
    ModelTask,
    NotFoundError,
    RateLimitError,
    ServerError,
    Shot,
    Snapshot,
    State,
    Storyboard,
    SubmissionUncertainError,
    UnansweredError,
    UploadError,
    Work,
)
from apikley_async._wire.envelope import (
    MAX_RAW_BYTES,
    MAX_RETRY_AFTER,
    Reply,
    decode_credits,
    decode_data,
    read_envelope,
    retry_after,
)
from apikley_async._wire.files import decode_link, decode_upload
from apikley_async._wire.requests import (
    File,
    Request,
    create_task,
    get_credits,
    get_download_url,
    record_info,
    stream_upload,
)
from apikley_async._wire.task_ids import (
    decode_submission,
    is_task_id,
    read_callback,
    validate_not_created,
)
from apikley_async._wire.tasks import belongs_to_attempt, decode_snapshot

WALL = 1_790_000_000.0  # Mon, 21 Sep 2026 14:13:20 GMT
CARD = "https://files.test/kitten.png"
FILM = "https://cdn.test/film.mp4"
HTML = "<html><head><title>Bad Gateway</title></head><body>nginx</body></html>"
HUGE = int("9" * 400)


def said(body: Any, status: int = 200, *, complete: bool = True, **headers: str) -> Reply:
    """An answer with *body* as JSON, or as it is when it is text."""
    text = body if isinstance(body, str) else json.dumps(body)
    spelled = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, text, spelled, complete)


def framed(code: Any = 200, data: Any = None, msg: Any = "success", status: int = 200) -> Reply:
    return said({"code": code, "msg": msg, "data": data}, status)


def request_for(
    work: Work, *, image_url: str | None = None, callback_url: str | None = None
) -> Request:
    """What is sent for a work whose image, if any, has that URL."""
    fields = work.wire_input({"image": image_url} if image_url else {})
    return create_task(work.model, fields, callback_url=callback_url)


def sent(request: Request) -> Any:
    return json.loads(request.content() or b"null")


# --- writing: the page's example ------------------------------------------------------------------

FIRST = (
    "A cute fluffy orange-and-white kitten wearing orange headphones, sitting at a cozy indoor "
    "table with a small slice of cake on a plate, a toy fish and a silver microphone nearby, warm "
    "soft lighting, cinematic close-up, shallow depth of field, gentle ASMR atmosphere."
)
SECOND = (
    "The same cute fluffy orange-and-white kitten wearing orange headphones, in the same cozy "
    "indoor ASMR setup with the toy fish and microphone, the cake now finished, the kitten gently "
    "licks its lips with a satisfied smile, warm ambient lighting, cinematic close-up, shallow "
    "depth of field, calm and content mood."
)
PAGE = """
{
  "model": "sora-2-pro-storyboard",
  "callBackUrl": "https://your-domain.com/api/callback",
  "input": {
    "n_frames": "15",
    "image_urls": [
      "https://file.aiquickdraw.com/custom-page/akr/section-images/1760776438785hyue5ogz.png"
    ],
    "aspect_ratio": "landscape",
    "shots": [
      {
        "Scene": "A cute fluffy orange-and-white kitten wearing orange headphones, sitting at \
a cozy indoor table with a small slice of cake on a plate, a toy fish and a silver microphone \
nearby, warm soft lighting, cinematic close-up, shallow depth of field, gentle ASMR atmosphere.",
        "duration": 7.5
      },
      {
        "Scene": "The same cute fluffy orange-and-white kitten wearing orange headphones, in \
the same cozy indoor ASMR setup with the toy fish and microphone, the cake now finished, the \
kitten gently licks its lips with a satisfied smile, warm ambient lighting, cinematic close-up, \
shallow depth of field, calm and content mood.",
        "duration": 7.5
      }
    ]
  }
}
"""
PAGE_IMAGE = "https://file.aiquickdraw.com/custom-page/akr/section-images/1760776438785hyue5ogz.png"


def test_the_pages_example_is_what_we_send() -> None:
    """Written as a `Storyboard`, the example of the model's page is the page's JSON."""
    board = Storyboard([Shot(FIRST, 7.5), Shot(SECOND, 7.5)], image=PAGE_IMAGE)

    request = request_for(
        board, image_url=PAGE_IMAGE, callback_url="https://your-domain.com/api/callback"
    )

    assert sent(request) == json.loads(PAGE)
    assert (request.method, request.path) == ("POST", "/api/v1/jobs/createTask")


def test_what_is_not_given_is_not_sent() -> None:
    """No empty list of images, no blank callback; length and shape are sent explicitly."""
    request = request_for(Storyboard([Shot("A lighthouse.", 5)]), callback_url="")

    assert sent(request) == {
        "model": "sora-2-pro-storyboard",
        "input": {
            "n_frames": "15",
            "aspect_ratio": "landscape",
            "shots": [{"Scene": "A lighthouse.", "duration": 5}],
        },
    }


def test_a_task_of_another_model_is_sent_as_it_is() -> None:
    """Its keys are the model's own: nothing is renamed, nothing is added."""
    fields = {"prompt": "A lighthouse at dawn.", "duration": 5, "scene": {"n": None}}

    request = request_for(
        ModelTask("kling-2.6/text-to-video", fields), callback_url="https://h.test/"
    )

    assert sent(request) == {
        "model": "kling-2.6/text-to-video",
        "callBackUrl": "https://h.test/",
        "input": fields,
    }


def test_writing_does_not_touch_what_is_written() -> None:
    task = ModelTask("model", {"a": {"b": [1]}})

    request_for(task, callback_url="https://h.test/")

    assert task == ModelTask("model", {"a": {"b": [1]}})


SCENES = st.text(min_size=1, max_size=30).filter(str.strip)
BOARDS = st.builds(
    Storyboard,
    st.lists(st.builds(Shot, SCENES, st.floats(0.1, 1.0) | st.just(1)), min_size=1, max_size=10),
    duration=st.sampled_from([10, 15, 25]),
    aspect_ratio=st.sampled_from(["landscape", "portrait"]),
    image=st.none() | st.just(CARD),
)


@given(BOARDS, st.none() | st.just(CARD), st.none() | st.just("https://h.test/?t=1"))
def test_every_storyboard_is_spelled_by_the_pages_rules(
    board: Storyboard, image: str | None, callback: str | None
) -> None:
    """Only the fields of the page, each with its type; the words survive in any language."""
    body = sent(request_for(board, image_url=image, callback_url=callback))

    fields = body["input"]
    shots = fields["shots"]
    assert set(body) == {"model", "input"} | ({"callBackUrl"} if callback else set())
    assert set(fields) == {"n_frames", "aspect_ratio", "shots"} | (
        {"image_urls"} if image else set()
    )
    assert fields["n_frames"] in ("10", "15", "25")
    assert fields["aspect_ratio"] in ("portrait", "landscape")
    assert fields.get("image_urls", [CARD]) == [CARD]
    assert [shot["Scene"] for shot in shots] == [shot.scene for shot in board.shots]
    assert [shot["duration"] for shot in shots] == [shot.duration for shot in board.shots]
    assert all(set(shot) == {"Scene", "duration"} for shot in shots)
    assert all(type(shot["duration"]) in (int, float) for shot in shots)


@pytest.mark.parametrize("duration", [7, 7.0])
def test_one_duration_has_one_spelling(duration: float) -> None:
    """Equal storyboards are equal requests: what is hashed over them stays the same."""
    content = request_for(Storyboard([Shot("x", duration)])).content()

    assert content is not None
    assert b'"duration": 7}' in content


def test_only_creating_a_task_must_not_be_repeated() -> None:
    """Every other request of the house costs nothing twice."""
    free = [
        record_info("task_1"),
        get_credits(),
        get_download_url(FILM),
        stream_upload(File("a.png", "image/png", b"x"), "folder"),
    ]

    assert not request_for(ModelTask("model")).repeatable
    assert all(request.repeatable for request in free)


@pytest.mark.parametrize(
    ("request_", "method", "path", "query", "body"),
    [
        (record_info("a/b?c&d"), "GET", "/api/v1/jobs/recordInfo", {"taskId": "a/b?c&d"}, None),
        (get_credits(), "GET", "/api/v1/chat/credit", {}, None),
        (get_download_url(FILM), "POST", "/api/v1/common/download-url", {}, {"url": FILM}),
    ],
    ids=["look", "credits", "link"],
)
def test_the_other_requests_are_spelled_as_documented(
    request_: Request, method: str, path: str, query: dict[str, str], body: Any
) -> None:
    """A task id stays as it is until the transport encodes it (P13)."""
    assert (request_.method, request_.path, request_.query) == (method, path, query)
    assert request_.body == body


def test_an_upload_is_a_form() -> None:
    file = File("9f.png", "image/png", b"\x89PNG")

    request = stream_upload(file, "folder")

    assert request.path == "/file-upload/api/file-stream-upload"
    assert request.form == {"file": file, "uploadPath": "folder", "fileName": "9f.png"}
    assert request.content() is None


def test_what_travels_prints_as_a_line_without_secrets() -> None:
    """A request may hold a callback URL, an answer a signed link (I8)."""
    request = request_for(ModelTask("m"), callback_url="https://h.test/canary")
    file = File("a.png", "image/png", b"canary")

    assert repr(request) == "<Request POST /api/v1/jobs/createTask>"
    assert repr(said("canary", 502)) == "<Reply 502, 6 characters>"
    assert "canary" not in repr(file)


def test_headers_are_found_however_they_are_written() -> None:
    """A scripted answer may spell them as a server would."""
    assert Reply(429, "", {"Retry-After": "7"}).headers == {"retry-after": "7"}


# --- the envelope ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "code", "message", "ok"),
    [
        (framed(), 200, "success", True),
        (said({"code": 200, "message": "success"}), 200, "success", True),
        (said({"code": 422, "msg": "no", "message": "other"}), 422, "no", False),
        (said({"code": 422, "msg": "", "message": "other"}), 422, "other", False),
        (said({"code": 422, "msg": None}), 422, "", False),
        (framed("200"), 200, "success", True),
        (framed(200.0), 200, "success", True),
        (framed("401", msg="no"), 401, "no", False),
        (framed(200, status=201), 200, "success", True),
        (framed(200, status=500), 200, "success", False),
        (framed(200, status=404), 200, "success", False),
        (said({"code": 200, "success": True, "data": 1}), 200, "", True),
        (said({"code": 200, "success": False}), 200, "", False),
        (said("\ufeff" + json.dumps({"code": 200})), 200, "", True),
        (said({"code": 200, "code2": 1, "new": {"field": []}}), 200, "", True),
        (said({"code": True}), 200, "", False),
        (said({"code": None}), 200, "", False),
        (said({"code": [200]}), 200, "", False),
        (said({"code": "abc"}, 404), 404, '{"code": "abc"}', False),
        (said('{"code": NaN}'), 200, "", False),
        (said('{"code": 1e999}', 503), 503, '{"code": 1e999}', False),
        (said("[]"), 200, "", False),
        (said("null"), 200, "", False),
        (said('"text"'), 200, "", False),
        (said(""), 200, "", False),
        (said(HTML, 502), 502, HTML, False),
        (said({"code": 200}, complete=False), 200, "", False),
        (framed(msg={"why": "odd"}), 200, "{'why': 'odd'}", True),
        (framed(msg="red \x1b[31m\u202e"), 200, "red [31m", True),
    ],
    ids=lambda value: value.text[:40] if isinstance(value, Reply) else "",
)
def test_the_frame_is_read_with_tolerance(reply: Reply, code: int, message: str, ok: bool) -> None:
    """The body's code, or the HTTP status when there is none (P3, P6, P16, R8)."""
    envelope = read_envelope(reply)

    assert (envelope.code, envelope.message, envelope.ok) == (code, message, ok)


REFUSALS = [
    (400, InvalidRequestError),
    (401, AuthenticationError),
    (402, InsufficientCreditsError),
    (403, AuthenticationError),
    (404, NotFoundError),
    (405, InvalidRequestError),
    (413, InvalidRequestError),
    (414, InvalidRequestError),
    (415, InvalidRequestError),
    (422, InvalidRequestError),
    (429, RateLimitError),
    (430, RateLimitError),
    (431, InvalidRequestError),
    (433, KeyLimitError),
    (451, InvalidRequestError),
    (455, MaintenanceError),
    (500, ServerError),
    (501, ServerError),
    (502, ServerError),
    (503, ServerError),
    (504, ServerError),
    (505, FeatureDisabledError),
    (520, ServerError),
    (599, ServerError),
    (418, ApiError),
    (409, ApiError),
    (600, ApiError),
    (1015, ApiError),
]


@pytest.mark.parametrize(("code", "kind"), REFUSALS)
@pytest.mark.parametrize("form", ["body on HTTP 200", "body and HTTP", "HTTP alone", "as text"])
def test_each_code_has_its_error(code: int, kind: type[ApikleyError], form: str) -> None:
    """The same in every dress (API section 2)."""
    replies = {
        "body on HTTP 200": framed(code, msg="the reason"),
        "body and HTTP": framed(code, msg="the reason", status=code),
        "HTTP alone": said("the reason", code),
        "as text": framed(str(code), msg="the reason"),
    }

    with pytest.raises(kind) as caught:
        decode_data(replies[form], subject="The question")

    assert type(caught.value) is kind
    assert caught.value.code == code
    assert caught.value.message == "The question was refused: the reason"


@pytest.mark.parametrize("code", [0, 1, -1, 201, 299])
def test_a_code_that_is_no_refusal_and_no_success_is_refused_as_it_is(code: int) -> None:
    """An unknown code is a generic error that shows code and message."""
    with pytest.raises(ApiError) as caught:
        decode_data(framed(code, msg="odd"))

    assert type(caught.value) is ApiError
    assert "odd" in str(caught.value)


@pytest.mark.parametrize("status", [300, 301, 302, 304, 307, 308])
def test_a_redirect_is_a_wrong_address(status: int) -> None:
    """Never followed, whatever its body says (A13)."""
    with pytest.raises(ApiError, match=r"redirected.*base URL") as caught:
        decode_data(framed(status=status))

    assert caught.value.code == status


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (said(""), "cannot be read"),
        (said(HTML), "cannot be read"),
        (said("[]"), "cannot be read"),
        (said('{"code": 200, "da'), "cannot be read"),
        (said('{"code": 200, "da', complete=False), "broke off"),
        (framed(data={"a": 1}).__class__(200, framed().text, {}, False), "broke off"),
    ],
)
def test_what_cannot_be_read_is_no_answer(reply: Reply, told: str) -> None:
    """HTML, a list, half a JSON: asking again costs nothing (P3)."""
    with pytest.raises(UnansweredError, match=told):
        decode_data(reply)


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("Too many requests", RateLimitError),
        ("Your credits are used up", InsufficientCreditsError),
        ("Insufficient balance", InsufficientCreditsError),
        ("Not enough CREDIT", InsufficientCreditsError),
        ("refused by the load balancer", RateLimitError),
        ("accreditation pending", RateLimitError),
    ],
)
@pytest.mark.parametrize("code", [429, 430])
def test_money_may_come_dressed_as_pace(code: int, message: str, kind: type[ApikleyError]) -> None:
    """Whole words only: a load balancer has nothing to do with money (API section 2)."""
    with pytest.raises(kind) as caught:
        decode_data(framed(code, msg=message))

    assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("code", "message", "kind"),
    [
        (422, "The call frequency is too high, please try later", RateLimitError),
        (400, "Requests are too frequent", RateLimitError),
        (1002, "Frequency too fast", RateLimitError),
        (422, "frequency must be one of 24, 30", InvalidRequestError),
        (422, "the scene is too high", InvalidRequestError),
        (500, "The call frequency is too high", ServerError),
    ],
)
def test_pace_may_come_dressed_as_something_else(
    code: int, message: str, kind: type[ApikleyError]
) -> None:
    """But a 5xx stays one, since it may have been processed (API section 2)."""
    with pytest.raises(kind) as caught:
        decode_data(framed(code, msg=message))

    assert type(caught.value) is kind


def test_a_refusal_without_words_says_so() -> None:
    with pytest.raises(ApiError, match="The request was refused: no reason given"):
        decode_data(framed(422, msg=None))


# --- how long to pause ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "pause"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "2.5"}, 2.5),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "300"}, 300.0),
        ({"retry-after": "301"}, 300.0),
        ({"retry-after": "1000000000"}, 300.0),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after-ms": "999999999"}, 300.0),
        ({"retry-after": "Mon, 21 Sep 2026 14:13:50 GMT"}, 30.0),
        ({"retry-after": "Mon, 21 Sep 2026 14:13:10 GMT"}, 0.0),
        ({"retry-after": "Mon, 21 Sep 2099 14:13:10 GMT"}, 300.0),
        (
            {
                "retry-after": "Tue, 01 Jan 2030 00:00:20 GMT",
                "date": "Tue, 01 Jan 2030 00:00:00 GMT",
            },
            20.0,
        ),
        ({"retry-after": "Mon, 21 Sep 2026 14:13:50 GMT", "date": "yesterday"}, 30.0),
        ({}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "1e9"}, None),
        ({"retry-after": "9" * 401}, None),
        ({"retry-after": "٣"}, None),
        ({"retry-after": "[5]"}, None),
        ({"retry-after": "x" * 5000}, None),
        ({"retry-after": "in a minute"}, None),
    ],
    ids=str,
)
def test_a_pause_is_read_in_every_form(headers: dict[str, str], pause: float | None) -> None:
    """Seconds, milliseconds, a date by the server's own clock; nonsense is none (R6, R7)."""
    assert retry_after(Reply(429, "", headers), wall=WALL) == pause


@pytest.mark.parametrize(
    ("asked", "pause"),
    [(7, 7.0), ("2.5", 2.5), (10**9, 300.0), (-5, None), (True, None), (None, None), ([5], None)],
)
def test_a_pause_may_stand_in_the_body(asked: Any, pause: float | None) -> None:
    """When no header says anything sensible (R6)."""
    reply = said({"code": 429, "data": {"retryAfter": asked}}, retry_after="soon")

    assert retry_after(reply, wall=WALL) == pause


def test_a_pause_reaches_the_error() -> None:
    """In whatever dress the 429 came (R8, R9)."""
    html = said(HTML, 429, retry_after="12")
    dressed = said({"code": 422, "msg": "call frequency too high"}, retry_after="12")

    for reply in (html, dressed):
        with pytest.raises(RateLimitError) as caught:
            decode_data(reply, wall=WALL)
        assert caught.value.retry_after == 12


NASTY_TEXT = st.text(st.characters(exclude_categories=()), max_size=70)
HEADERS = st.dictionaries(
    st.sampled_from(["retry-after", "retry-after-ms", "date"]),
    NASTY_TEXT
    | st.integers().map(str)
    | st.floats().map(str)
    | st.datetimes().map(lambda at: at.strftime("%a, %d %b %Y %H:%M:%S GMT")),
)


@given(HEADERS, st.floats(0, 1e11))
def test_a_pause_is_always_one_that_ends(headers: dict[str, str], wall: float) -> None:
    """Nothing a server writes makes us sleep for years, or not at all and for ever (R7)."""
    pause = retry_after(Reply(429, "", headers), wall=wall)

    assert pause is None or 0 <= pause <= MAX_RETRY_AFTER


# --- createTask: what was paid --------------------------------------------------------------------
# One table per row of "Classifier of createTask outcomes"; the rows are tried in their order.
# Row 2 (nothing was sent) is decided before there is an answer: see the tests of `_submit`.


def opened(reply: Reply, *not_created: int) -> str:
    return decode_submission(reply, wall=WALL, not_created=frozenset(not_created))


@pytest.mark.parametrize(
    "reply",
    [
        framed(data={"taskId": "task_1"}),
        framed(data={"task_id": "task_1"}),
        said({"code": 200, "taskId": "task_1"}),
        said({"taskId": "task_1"}),
        said({"task_id": "task_1"}),
        framed(429, {"taskId": "task_1"}, "too many requests"),
        framed(429, {"taskId": "task_1"}, status=429),
        framed(500, {"taskId": "task_1"}, "error", status=500),
        framed(401, {"taskId": "task_1"}, "who are you", status=401),
        framed(402, {"taskId": "task_1"}, "no money"),
        framed(200, {"taskId": "task_1"}, status=502),
        framed(200, {"taskId": "task_1"}, status=307),
        framed("weird", {"taskId": "task_1"}),
        said({"data": {"taskId": "", "task_id": None}, "taskId": "task_1"}),
        said({"data": "text", "taskId": "task_1"}),
        said({"code": 200, "data": {"taskId": "task_1"}}, complete=False),
        said("\ufeff" + json.dumps({"data": {"taskId": "task_1", "new": [None]}})),
    ],
    ids=lambda reply: f"{reply.status} {reply.text[:60]}",
)
def test_row_1_a_task_id_is_always_accepted(reply: Reply) -> None:
    """Whatever else the answer says: what was paid for is never dropped (A6)."""
    assert opened(reply) == "task_1"


@pytest.mark.parametrize(
    "reply",
    [
        framed(429, {"taskId": "task_1"}, "too many requests"),
        framed(200, {"taskId": "task_1"}, status=502),
    ],
)
def test_row_1_a_contradiction_is_logged(reply: Reply, caplog: pytest.LogCaptureFixture) -> None:
    """Somebody should look at it; the line says what was said and nothing more (A6)."""
    with caplog.at_level(logging.WARNING, "apikley_async"):
        opened(reply)

    (record,) = caplog.records
    assert "task_1" in record.getMessage()
    assert "429" in record.getMessage() or "502" in record.getMessage()


def test_row_1_agreement_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "apikley_async"):
        opened(framed(data={"taskId": "task_1"}))

    assert caplog.records == []


@pytest.mark.parametrize(
    "task_id",
    ["task_sora-2-pro-storyboard_1765188271139", "a", "a/b?c=d&e#f", "%00", "Ж", "x" * 256, 12345],
)
def test_row_1_an_id_is_opaque(task_id: Any) -> None:
    """Any printable word without spaces; a number is taken for its digits (P13)."""
    assert opened(framed(data={"taskId": task_id})) == str(task_id)
    assert is_task_id(str(task_id))


NO_IDS = ["", " ", "a b", "a\n", "\x00", "\ud800", "\u202ex", "x" * 257, None, True, False]
NO_IDS += [1.5, [], ["task_1"], {"id": 1}]


@pytest.mark.parametrize("task_id", NO_IDS, ids=lambda value: repr(value)[:20])
def test_row_1_what_is_no_id_leaves_a_doubt(task_id: Any) -> None:
    """Success without a usable id: it may be paid, so the raw answer is kept (A5, P13)."""
    with pytest.raises(SubmissionUncertainError) as caught:
        opened(framed(data={"taskId": task_id}))

    assert '"taskId"' in caught.value.raw
    assert not isinstance(task_id, str) or not is_task_id(task_id)


@pytest.mark.parametrize(
    "reply",
    [
        framed(429, msg="slow down", status=429),
        framed(429, msg="slow down"),
        framed("429", msg="slow down"),
        framed(430, msg="too frequent"),
        framed(430, msg="too frequent", status=403),
        framed(429, msg="slow down", status=400),
        said(HTML, 429),
        said("", 429),
        said('{"code": 429, "ms', 429, complete=False),
        framed(200, status=429),
        framed(500, msg="oops", status=429),
        framed(501, msg="oops", status=429),
        framed(1015, msg="rate limited", status=429),
        framed(401, msg="odd", status=429),
        framed(422, msg="odd", status=429),
        framed(422, msg="The call frequency is too high"),
    ],
    ids=lambda reply: f"{reply.status} {reply.text[:50]}",
)
def test_row_3_throttled(reply: Reply) -> None:
    """HTTP 429, or a body's 429 or 430 below HTTP 500: nothing was created (R8, R9)."""
    with pytest.raises(RateLimitError):
        opened(reply)


def test_row_3_the_pause_travels_along() -> None:
    """Also when body and status disagree."""
    reply = said({"code": 500, "data": {"retryAfter": 4}}, 429)

    with pytest.raises(RateLimitError) as caught:
        opened(reply)

    assert caught.value.retry_after == 4


@pytest.mark.parametrize(
    "reply",
    [framed(429, msg="insufficient credits"), framed(402, msg="no credits", status=429)],
)
def test_row_3_money_is_not_waited_for(reply: Reply) -> None:
    """A 429 that speaks of credits is a 402: no pause brings money (API section 2)."""
    with pytest.raises(InsufficientCreditsError):
        opened(reply)


@pytest.mark.parametrize("status", [500, 501, 502, 503, 504, 505, 511, 520, 524, 599])
@pytest.mark.parametrize("code", [None, 200, 400, 401, 402, 404, 422, 429, 430, 455, 500, 505])
def test_row_4_any_5xx_is_uncertain(status: int, code: int | None) -> None:
    """Whatever its body says: it may have been processed (A3)."""
    reply = said(HTML, status) if code is None else framed(code, msg="refused", status=status)

    with pytest.raises(SubmissionUncertainError) as caught:
        opened(reply)

    assert caught.value.http == status
    assert caught.value.raw == reply.text


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
@pytest.mark.parametrize("body", ["", HTML, '{"code": 200}', '{"code": 500}'])
def test_row_5_a_redirect_is_refused(status: int, body: str) -> None:
    """It is the address that is wrong; following it would send the POST twice (A13)."""
    with pytest.raises(ApiError, match="redirected") as caught:
        opened(said(body, status))

    assert type(caught.value) is ApiError


ROW_6 = [
    (400, InvalidRequestError),
    (401, AuthenticationError),
    (402, InsufficientCreditsError),
    (403, AuthenticationError),
    (404, NotFoundError),
    (405, InvalidRequestError),
    (413, InvalidRequestError),
    (414, InvalidRequestError),
    (415, InvalidRequestError),
    (422, InvalidRequestError),
    (431, InvalidRequestError),
    (433, KeyLimitError),
    (451, InvalidRequestError),
    (455, MaintenanceError),
    (505, FeatureDisabledError),
]


@pytest.mark.parametrize(("code", "kind"), ROW_6)
@pytest.mark.parametrize("status", [200, 201, 400, 401, 404, 422])
def test_row_6_the_bodys_code_refuses(code: int, kind: type[ApiError], status: int) -> None:
    """It rules over any status below 500; nothing was created (A24-A26)."""
    for spelled in (code, str(code), float(code)):
        with pytest.raises(kind) as caught:
            opened(framed(spelled, msg="because", status=status))

        assert type(caught.value) is kind
        assert "because" in caught.value.message


@pytest.mark.parametrize(
    ("status", "kind"), [(status, kind) for status, kind in ROW_6 if status < 500]
)
@pytest.mark.parametrize("body", ["", HTML, "[]", '{"error": "no"}', '{"code": null}'])
def test_row_6_without_an_envelope_the_status_refuses(
    status: int, kind: type[ApiError], body: str
) -> None:
    """A challenge page of a gateway counts by its status (R9)."""
    with pytest.raises(kind) as caught:
        opened(said(body, status))

    assert type(caught.value) is kind


@pytest.mark.parametrize(
    "reply",
    [
        said("", 408),
        said("", 409),
        said("", 425),
        said("", 499),
        said("", 418),
        framed(408, status=408),
        framed(500, msg="Internal Error"),
        framed(500, msg="The call frequency is too high"),
        framed(501, msg="failed"),
        framed("500"),
        framed(502),
        framed(1015),
        framed(0),
        framed(-1),
        framed(500, status=400),
        framed(500, status=401),
        framed(1002, status=404),
        framed(200, status=404),
        framed(200, status=401),
        framed(200, None),
        framed(200, {}),
        framed(200, []),
        framed(200, "task_1"),
        framed(200, {"id": "task_1"}),
        framed(201, status=201),
        said("", 200),
        said("", 204),
        said(HTML),
        said("null"),
        said("[]"),
        said('["task_1"]'),
        said('{"code": 200, "msg": "success", "data": {"taskId": "task_1'),
        said('{"code": 200, "msg": "success", "data": {"taskId": "task_1"', complete=False),
        said('{"code": 401, "msg": "no", "data": null}', complete=False),
        said("\ufffd\x1f\ufffd\x08"),
        said("[" * 100_000),
        said("", 101),
    ],
    ids=lambda reply: f"{reply.status} {reply.text[:50]}",
)
def test_row_7_everything_else_is_uncertain(reply: Reply) -> None:
    """Unknown codes, success without an id, what cannot be read: it may be paid (A4, A5)."""
    with pytest.raises(SubmissionUncertainError) as caught:
        opened(reply)

    assert caught.value.http == reply.status
    assert caught.value.raw == reply.text[:MAX_RAW_BYTES]
    assert str(reply.status) in caught.value.cause


@pytest.mark.parametrize(
    ("reply", "cause"),
    [
        (said(HTML, 502), "HTTP 502"),
        (framed(500, msg=""), "HTTP 200, code 500"),
        (framed(500, msg="Busy.\n\x1b[2J"), "HTTP 200, code 500: Busy. [2J"),
        (framed(500, msg="Busy.", status=500), "HTTP 500: Busy."),
        (said("upstream timed out", 504), "HTTP 504: upstream timed out"),
        (framed(200), "HTTP 200, no task id"),
        (said('{"code": 20', complete=False), "HTTP 200, the answer broke off"),
        (said(HTML), "HTTP 200, the answer cannot be read"),
    ],
)
def test_a_doubt_says_its_cause(reply: Reply, cause: str) -> None:
    """In a few words, for the message and for the journal."""
    with pytest.raises(SubmissionUncertainError) as caught:
        opened(reply)

    assert caught.value.cause == cause
    assert cause in caught.value.message


TOP_UP = (
    "Credits insufficient : Your current balance isn't enough to run this request. "
    "Please top up to continue."
)
WITHDRAWN = "The model name you specified is not supported, please check the documentation."


@pytest.mark.parametrize("code", [500, "500", 501, 400, 422, 9999])
@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (TOP_UP, InsufficientCreditsError),
        ("Credits insufficient", InsufficientCreditsError),
        ("credits insufficient.", InsufficientCreditsError),
        ("aspect_ratio is required", InvalidRequestError),
        ("input.shots[0].Scene is required", InvalidRequestError),
        ("This field is required", InvalidRequestError),
        ("This aspect_ratio is not within the range of allowed options", InvalidRequestError),
        ("The text length cannot exceed the maximum limit", InvalidRequestError),
        ("Value must be within the specified range", InvalidRequestError),
        (WITHDRAWN, InvalidRequestError),
    ],
)
def test_words_come_before_codes_on_http_200(code: Any, words: str, kind: type[ApiError]) -> None:
    """The closed list of API section 12: certain, nothing was created."""
    with pytest.raises(kind) as caught:
        opened(framed(code, msg=words))

    assert type(caught.value) is kind
    assert words in caught.value.message
    assert caught.value.code == int(code)


def test_no_words_make_a_refusal_of_the_account_one_film_s_fault() -> None:
    """A refused key, an empty account, a limit, a pause: a batch stops or waits, nothing fails."""
    told = ["Authorization is required", "aspect_ratio is required.", "This field is required"]
    kinds: dict[int, type[ApiError]] = {
        **dict.fromkeys((401, 403), AuthenticationError),
        402: InsufficientCreditsError,
        **dict.fromkeys((429, 430), RateLimitError),
        433: KeyLimitError,
        455: MaintenanceError,
        505: FeatureDisabledError,
    }
    wrong = []
    for code, kind in kinds.items():
        for words in [*told, WITHDRAWN]:
            with pytest.raises(ApiError) as caught:
                opened(framed(code, msg=words))
            if type(caught.value) is not kind:
                wrong.append((code, words, type(caught.value).__name__))

    assert wrong == []
    for code in (401, 429, 433):
        with pytest.raises(ApiError) as caught:
            opened(framed(code, msg=TOP_UP))
        assert caught.value.affects_all


@pytest.mark.parametrize(
    "words",
    [
        "Internal server error while checking: aspect_ratio is required",
        "Internal Error, Please try again later.",
        "Your credits insufficient",
        "Credits insufficiently checked",
        "A manual review is required",
        "aspect_ratio is required by the dispatcher, retrying",
        "The text length cannot exceed the maximum limit of the queue",
        "This is not within the range of allowed options",
        "model name you specified is not supported",
        "",
    ],
)
def test_words_that_are_not_listed_stay_uncertain(words: str) -> None:
    """Anchored at both ends: what resembles a refusal may have been processed (A3)."""
    with pytest.raises(SubmissionUncertainError) as caught:
        opened(framed(500, msg=words))

    assert caught.value.cause.endswith(words)


@pytest.mark.parametrize("status", [201, 202, 500, 502])
@pytest.mark.parametrize("words", [TOP_UP, "aspect_ratio is required", WITHDRAWN])
def test_words_are_believed_on_http_200_only(status: int, words: str) -> None:
    """On any other status the old rules hold, and the words are kept in the cause."""
    with pytest.raises(SubmissionUncertainError) as caught:
        opened(framed(500, msg=words, status=status))

    assert words in caught.value.cause


def test_words_never_drop_an_id() -> None:
    assert opened(framed(500, {"taskId": "task_1"}, TOP_UP)) == "task_1"


@pytest.mark.parametrize("broken", [{"complete": False}, {"body": [TOP_UP]}, {"body": TOP_UP}])
def test_words_outside_of_the_frame_are_no_refusal(broken: dict[str, Any]) -> None:
    body = broken.pop("body", {"code": 500, "msg": TOP_UP, "data": None})

    with pytest.raises(SubmissionUncertainError):
        opened(said(body, **broken))


@pytest.mark.parametrize(
    ("code", "status"), [(422, 200), (500, 200), (404, 200), (422, 422), (404, 404)]
)
def test_a_withdrawn_model_is_named_and_no_image_is_spoken_of(code: int, status: int) -> None:
    """The input is fine: it is the model that is not served, or no longer (API section 12)."""
    reply = framed(code, msg=WITHDRAWN, status=status)

    with pytest.raises(InvalidRequestError) as caught:
        decode_submission(reply, subject="The submission to sora-2-pro-storyboard")

    told = str(copy.copy(caught.value))
    assert "sora-2-pro-storyboard" in told
    assert "may have been withdrawn" in told
    assert "image" not in told


@pytest.mark.parametrize("letter", ["x", "Ж", "🍰", "\ud800"])
def test_a_doubt_keeps_64_kib_of_the_answer(letter: str) -> None:
    """Counted in bytes, cut between two letters (A5)."""
    with pytest.raises(SubmissionUncertainError) as caught:
        opened(said(letter * 100_000))

    assert MAX_RAW_BYTES - 4 < len(caught.value.raw.encode()) <= MAX_RAW_BYTES


@pytest.mark.parametrize(
    ("reply", "refused"),
    [
        (framed(500), True),
        (framed("500"), True),
        (said(HTML, 500), True),
        (framed(500, status=500), True),
        (framed(200, status=500), True),
        (said('{"code": 500, "ms', 500, complete=False), True),
        (said("", 409), True),
        (framed(409, status=500), True),
        (framed(501), False),
        (said(HTML, 502), False),
        (framed(500, status=502), False),
        (framed(502, status=500), False),
        (framed(200), False),
        (said(HTML), False),
        (said(""), False),
    ],
    ids=lambda value: f"{value.status} {value.text[:40]}" if isinstance(value, Reply) else "",
)
def test_a_user_may_vouch_for_single_codes(reply: Reply, refused: bool) -> None:
    """`not_created` moves these codes and no other; every code that is told must be one."""
    with pytest.raises(ApiError if refused else SubmissionUncertainError):
        opened(reply, 500, 409)
    if refused:
        with pytest.raises(SubmissionUncertainError):
            opened(reply)


@pytest.mark.parametrize("code", [200, 0, 101, 204])
def test_nobody_can_vouch_for_a_success(code: int) -> None:
    """A success without an id stays a doubt, even when someone lists its code."""
    with pytest.raises(SubmissionUncertainError):
        opened(framed(code), 200, 0, 101, 204)


def test_nobody_can_vouch_for_a_gateway() -> None:
    """The service may be at work behind it, whatever the body says; such codes are refused. (A4)"""
    for code in (408, 499, 502, 503, 504, 520, 524, 529):
        for answer in (said("", code), framed(code), framed(500, status=code)):
            with pytest.raises(SubmissionUncertainError):
                opened(answer, code, 500)
        with pytest.raises(ValueError, match=f"{code} never means"):
            validate_not_created({code})
    for odd in (200, 0, True, "500"):
        with pytest.raises((ValueError, TypeError), match="not_created"):
            validate_not_created([odd])  # type: ignore[list-item]
    assert validate_not_created([500, 409]) == {500, 409}


def test_vouching_never_drops_an_id() -> None:
    assert opened(framed(500, {"taskId": "task_1"}, status=500), 500) == "task_1"


# --- recordInfo -----------------------------------------------------------------------------------

RECORD = {
    "taskId": "task_1",
    "model": "sora-2-pro-storyboard",
    "state": "success",
    "param": '{"callBackUrl": "https://h.test/?token=canary"}',
    "resultJson": json.dumps({"resultUrls": [FILM]}),
    "failCode": "",
    "failMsg": "",
    "createTime": 1_790_000_000_001,
    "updateTime": 1_790_000_611_950,
    "completeTime": 1_790_000_611_900,
    "costTime": 611_899,
    "progress": 100,
    "creditsConsumed": 270,
}


def look(reply: Reply) -> Snapshot:
    return decode_snapshot(reply, "task_1", wall=WALL)


def record(**fields: Any) -> Snapshot:
    return look(framed(data=RECORD | fields))


def test_the_documented_answer_is_read() -> None:
    """Every field of API section 5 has its place; everything stays in `raw`."""
    assert record() == Snapshot(
        task_id="task_1",
        state=State.SUCCESS,
        model="sora-2-pro-storyboard",
        progress=100.0,
        urls=(FILM,),
        content={"resultUrls": [FILM]},
        credits=270.0,
        created_at=datetime(2026, 9, 21, 14, 13, 20, 1000, tzinfo=UTC),
        updated_at=datetime(2026, 9, 21, 14, 23, 31, 950_000, tzinfo=UTC),
        completed_at=datetime(2026, 9, 21, 14, 23, 31, 900_000, tzinfo=UTC),
        raw=RECORD,
    )


def test_the_least_answer_is_read() -> None:
    """Before success most fields are null or absent."""
    assert look(framed(data={"state": "waiting"})) == Snapshot(
        "task_1", State.WAITING, raw={"state": "waiting"}
    )


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("waiting", State.WAITING),
        ("queuing", State.QUEUING),
        ("generating", State.GENERATING),
        ("success", State.SUCCESS),
        ("fail", State.FAIL),
        ("moderating", State.UNKNOWN),
        ("", State.UNKNOWN),
        (None, State.UNKNOWN),
        (3, State.UNKNOWN),
        (True, State.UNKNOWN),
        (["success"], State.UNKNOWN),
        ({"name": "fail"}, State.UNKNOWN),
    ],
)
def test_an_unknown_state_is_not_final(word: Any, state: State) -> None:
    """The word stays in `raw` (P4)."""
    snapshot = record(state=word)

    assert snapshot.state is state
    assert snapshot.raw["state"] == word


@pytest.mark.parametrize(
    "value",
    [
        {"resultUrls": [FILM]},
        json.dumps({"resultUrls": [FILM]}),
        json.dumps(json.dumps({"resultUrls": [FILM]})),
        "\ufeff" + json.dumps({"resultUrls": [FILM]}),
        '{"n": NaN, "n": Infinity, "resultUrls": ["' + FILM + '"]}',
        {"resultUrls": FILM},
        {"resultUrls": [None, 5, "", FILM, "relative.mp4"]},
        {"resultUrls": [FILM], "resultWaterMarkUrls": ["https://cdn.test/mark.mp4"]},
    ],
    ids=lambda value: str(value)[:50],
)
def test_a_result_is_decoded_in_every_form(value: Any) -> None:
    """JSON in a string once or twice, an object, with a mark or NaN in it (P6)."""
    snapshot = record(resultJson=value)

    assert snapshot.urls == (FILM,)
    assert snapshot.result().urls == (FILM,)


@pytest.mark.parametrize(
    "value",
    [
        "",
        None,
        "null",
        "{}",
        {},
        [],
        "[]",
        5,
        True,
        "broken {",
        '{"resultUrls": [',
        {"resultUrls": []},
        {"resultUrls": None},
        {"resultUrls": {}},
        {"resultUrls": [["https://cdn.test/a.mp4"]]},
        {"resultUrls": [], "character_id": "c_1"},
        json.dumps(json.dumps(json.dumps({"resultUrls": [FILM]}))),
        "[" * 5000,
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_success_without_a_link_is_empty(value: Any) -> None:
    """Read, not believed, and nothing raises (P5, P6)."""
    snapshot = record(resultJson=value)

    assert snapshot.state is State.SUCCESS
    assert snapshot.empty


@pytest.mark.parametrize("value", [{"resultObject": {"a": 1}}, '{"character_id": "c_1"}'])
def test_a_result_of_another_kind_is_no_empty_film(value: Any) -> None:
    """Other models answer with other things: what came is the result."""
    snapshot = record(model="kling-2.6/text-to-video", resultJson=value)

    assert not snapshot.empty
    assert snapshot.result().raw == snapshot.content != {}


@pytest.mark.parametrize(
    "url",
    [
        "relative/film.mp4",
        "//cdn.test/film.mp4",
        "file:///etc/passwd",
        "ftp://cdn.test/film.mp4",
        "javascript:alert(1)",
        "data:video/mp4;base64,AAAA",
        "https://user:word@cdn.test/film.mp4",
        "https://cdn .test/ab.mp4",
        "https://cdn.test/\x1b[31m.mp4",
        "https://cdn.test/" + "x" * 100_000,
        "https://",
        "https://[::1/film.mp4",
        5,
        None,
        {"url": FILM},
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_link_that_should_not_be_followed_is_left_out(url: Any) -> None:
    """It stays in `raw` and in `content`, for people to look at (P7)."""
    snapshot = record(resultJson={"resultUrls": [url, FILM]})

    assert snapshot.urls == (FILM,)
    assert snapshot.content["resultUrls"] == [url, FILM]


def test_every_link_is_kept_in_its_order() -> None:
    """More than one is a result of several files (P8)."""
    links = [f"https://cdn.test/{name}.mp4" for name in "cab"]

    assert record(resultJson={"resultUrls": links}).urls == tuple(links)


def test_a_link_in_another_script_is_a_link() -> None:
    assert record(resultJson={"resultUrls": ["https://тест.test/ф.mp4"]}).urls


@pytest.mark.parametrize(
    ("fields", "code", "message"),
    [
        ({"failCode": "500", "failMsg": "Internal Error"}, "500", "Internal Error"),
        ({"failCode": 422, "failMsg": None}, "422", ""),
        ({"failCode": None, "failMsg": "why"}, "", "why"),
        ({"failCode": "POLICY", "failMsg": "no \x1b[2J\nfaces"}, "POLICY", "no [2J faces"),
        ({"failCode": [1], "failMsg": {"a": 1}}, "[1]", "{'a': 1}"),
    ],
)
def test_a_failure_is_read_in_the_services_words(
    fields: dict[str, Any], code: str, message: str
) -> None:
    """One clean line each, whatever their type; the originals stay in `raw` (P16)."""
    snapshot = record(state="fail", **fields)

    assert (snapshot.fail_code, snapshot.fail_message) == (code, message)
    assert snapshot.raw["failMsg"] == fields["failMsg"]
    with pytest.raises(JobFailedError):
        snapshot.result()


@pytest.mark.parametrize(
    "nonsense",
    [None, "", "soon", -1, -5000, HUGE, -HUGE, True, [], {}, "1e5", "٣"],
    ids=lambda value: repr(value)[:20],
)
def test_nonsense_in_numbers_and_times_is_nothing(nonsense: Any) -> None:
    """Not a reason to lose the film beside it (P14)."""
    snapshot = record(
        createTime=nonsense,
        updateTime=nonsense,
        completeTime=nonsense,
        progress=nonsense,
        creditsConsumed=nonsense,
        costTime=nonsense,
    )

    assert (snapshot.progress, snapshot.credits) == (None, None)
    assert (snapshot.created_at, snapshot.updated_at, snapshot.completed_at) == (None,) * 3
    assert snapshot.result().urls == (FILM,)
    assert snapshot.result().expires_at is None


def test_a_time_at_the_end_of_the_calendar_breaks_nothing() -> None:
    """A day cannot be added to it (P14)."""
    assert record(completeTime=253_402_300_799_000).result().expires_at is not None
    assert record(completeTime=253_402_300_799_000, updateTime=None).result().expires_at is None


def test_credits_may_have_a_fraction() -> None:
    assert record(creditsConsumed=12.5).credits == 12.5
    assert record(creditsConsumed="12.5").credits == 12.5
    assert record(creditsConsumed=0).credits == 0


@pytest.mark.parametrize(
    "reply",
    [
        framed(404, msg="not found"),
        framed(404, msg="not found", status=404),
        said(HTML, 404),
        framed(422, None, "recordInfo is null"),
        framed(422, None, "RecordInfo is NULL", status=422),
        said({"code": 422, "message": "recordInfo is null"}),
        framed(200, None),
        framed(200, {}),
        said({"code": 200, "msg": "success"}),
    ],
    ids=lambda reply: f"{reply.status} {reply.text[:50]}",
)
def test_a_task_may_be_unknown_in_many_ways(reply: Reply) -> None:
    """404, "recordInfo is null", no data: how long that is borne is the job's business (P1)."""
    with pytest.raises(NotFoundError) as caught:
        look(reply)

    assert caught.value.task_id == "task_1"


def test_another_422_means_that_the_request_was_wrong() -> None:
    with pytest.raises(InvalidRequestError, match="aspect_ratio"):
        look(framed(422, None, "aspect_ratio is not valid"))


@pytest.mark.parametrize("told", ["task_2", 7, "TASK_1"])
def test_the_state_of_another_task_is_no_answer(told: Any) -> None:
    """Two films are never mixed up (P10)."""
    for code in (200, 501):
        with pytest.raises(UnansweredError, match="another task") as caught:
            look(framed(code, RECORD | {"taskId": told}))
        assert caught.value.task_id == "task_1"


@pytest.mark.parametrize("told", [None, "", [], "a b"])
def test_an_answer_that_names_no_task_is_taken_for_ours(told: Any) -> None:
    """We asked for one task, and an id that is none contradicts nothing."""
    snapshot = record(taskId=told)

    assert snapshot.task_id == "task_1"
    assert snapshot.state is State.SUCCESS


def test_an_id_may_come_back_as_a_number() -> None:
    assert decode_snapshot(framed(data=RECORD | {"taskId": 77}), "77").task_id == "77"


@pytest.mark.parametrize("data", [[], [RECORD], "text", "", 5, True, False, 0])
def test_data_of_another_kind_is_no_answer(data: Any) -> None:
    """The job goes on looking (P3)."""
    with pytest.raises(UnansweredError) as caught:
        look(framed(200, data))

    assert caught.value.task_id == "task_1"


@pytest.mark.parametrize(
    ("data", "code", "message"),
    [
        (None, "501", "Generation failed"),
        ("text", "501", "Generation failed"),
        ({}, "501", "Generation failed"),
        ({"failCode": "", "failMsg": None}, "501", "Generation failed"),
        ({"taskId": "task_1", "state": "fail"}, "501", "Generation failed"),
        ({"state": "fail", "failCode": "422", "failMsg": "faces"}, "422", "faces"),
    ],
)
def test_501_says_that_the_film_failed(data: Any, code: str, message: str) -> None:
    """In the task's own words where it has some."""
    snapshot = look(framed(501, data, "Generation failed"))

    assert snapshot.state is State.FAIL
    assert (snapshot.fail_code, snapshot.fail_message) == (code, message)


@pytest.mark.parametrize("state", ["success", "generating", "moderating"])
def test_501_does_not_overrule_what_the_task_itself_says(state: str) -> None:
    """A film that is there is never called a failure."""
    snapshot = look(framed(501, RECORD | {"state": state}, "Generation failed"))

    assert snapshot.state is not State.FAIL
    assert snapshot.urls == (FILM,)


def test_501_of_a_gateway_is_an_outage() -> None:
    """Only the service itself can say that a film failed."""
    with pytest.raises(ServerError):
        look(said(HTML, 501))


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (framed(401), AuthenticationError),
        (framed(429), RateLimitError),
        (framed(455), MaintenanceError),
        (framed(500), ServerError),
        (said(HTML, 502), ServerError),
        (said(HTML), UnansweredError),
        (said('{"code": 200, "data": {"st', complete=False), UnansweredError),
        (said("[" * 1_000_000), UnansweredError),
    ],
    ids=lambda value: f"{value.status} {value.text[:30]}" if isinstance(value, Reply) else "",
)
def test_trouble_while_looking_names_the_task(reply: Reply, kind: type[ApikleyError]) -> None:
    """In a batch of a hundred one wants to know which (P3)."""
    with pytest.raises(kind) as caught:
        look(reply)

    assert caught.value.task_id == "task_1"


@pytest.mark.parametrize("depth", [50, 500, 950, 980, 990])
def test_whatever_was_read_can_be_handed_on(depth: int) -> None:
    """Printed, copied and pickled, however deep the service nests it (P6)."""
    tower = "[" * depth + "]" * depth
    text = '{"code": 200, "data": {"state": "success", "new": %s, "resultJson": %s}}'
    try:
        snapshot = look(said(text % (tower, tower)))
    except UnansweredError:
        return

    assert copy.deepcopy(snapshot) == snapshot
    assert pickle.loads(pickle.dumps(snapshot)) == snapshot  # noqa: S301
    assert repr(snapshot.raw)


# --- whose task is it -----------------------------------------------------------------------------

TOKEN = "4f1c" * 8


def made(param: Any, tokens: list[str], *fingerprints: str) -> bool:
    return belongs_to_attempt(record(param=param), tokens=tokens, fingerprints=fingerprints)


def test_one_work_has_one_print() -> None:
    """Whoever is to be called back, however a number is written, in whatever order (A17, A22)."""
    one = request_for(ModelTask("m", {"a": 7, "b": [0.5]}), callback_url="https://h.test/1")
    other = request_for(ModelTask("m", {"b": [0.5], "a": 7.0}))

    assert one.fingerprint == other.fingerprint
    assert one.fingerprint != request_for(ModelTask("m", {"a": 7, "b": [1.5]})).fingerprint
    assert one.fingerprint != request_for(ModelTask("n", {"a": 7, "b": [0.5]})).fingerprint
    assert one.fingerprint != request_for(ModelTask("m", {"a": 7, "b": ["0.5"]})).fingerprint


@pytest.mark.parametrize("spell", [json.dumps, lambda body: body], ids=["text", "object"])
def test_a_task_is_known_by_its_token_or_by_its_print(spell: Callable[[Any], Any]) -> None:
    """By what `param` repeats of the request (A16, A17)."""
    request = request_for(ModelTask("m", {"a": 7}), callback_url=f"https://h.test/{TOKEN}")
    stranger = request_for(ModelTask("m", {"a": 8})).fingerprint

    assert made(spell(request.body), [TOKEN])
    assert made(spell(request.body), ["other"], stranger, request.fingerprint)
    assert not made(spell(request.body), ["other", ""], stranger)


@pytest.mark.parametrize("param", [None, "", "broken {", "[]", 5, [], {}, "null"])
def test_without_a_request_nothing_is_proved(param: Any) -> None:
    """Least of all by an empty token (A16)."""
    assert not made(param, ["", TOKEN], request_for(ModelTask("m")).fingerprint)


# --- the other answers ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "left"), [(100, 100.0), (640.25, 640.25), ("5.5", 5.5), (0, 0.0), (-3, -3.0)]
)
def test_credits_are_a_number(data: Any, left: float) -> None:
    """Documented as whole; fractions occur (API section 7)."""
    assert decode_credits(framed(data=data)) == left


@pytest.mark.parametrize(
    "data", [None, "many", [], {}, {"credits": 12}, True, HUGE, "inf"], ids=lambda v: repr(v)[:9]
)
def test_credits_in_another_shape_are_an_error_at_once(data: Any) -> None:
    """The line is not broken: asking again for two minutes would get the same answer."""
    with pytest.raises(ApiError, match=r"answered with .*, not with a number") as caught:
        decode_credits(framed(data=data))
    assert caught.value.retry not in ("soon", "always")


@pytest.mark.parametrize("data", [FILM, {"url": FILM}, {"downloadUrl": FILM}])
def test_a_link_is_a_url(data: Any) -> None:
    assert decode_link(framed(data=data)) == FILM


@pytest.mark.parametrize("data", [None, "", "film.mp4", "file:///x", 5, {}, {"url": 5}, [], [5]])
def test_a_link_that_is_none_is_no_answer(data: Any) -> None:
    """Nothing but http(s) reaches the downloader (P7)."""
    with pytest.raises(UnansweredError):
        decode_link(framed(data=data))


def test_a_foreign_link_is_refused() -> None:
    with pytest.raises(InvalidRequestError):
        decode_link(framed(422, msg="not one of ours"))


STORED = {"fileName": "9f.png", "fileSize": 5, "mimeType": "image/png"}


@pytest.mark.parametrize(
    "data",
    [
        STORED | {"downloadUrl": CARD, "filePath": "images/9f.png", "uploadedAt": "2026-09-21"},
        STORED | {"fileUrl": CARD, "downloadUrl": "https://files.test/other", "fileId": "1"},
        {"fileUrl": "", "downloadUrl": CARD},
        {"fileUrl": "relative.png", "downloadUrl": CARD},
        {"fileUrl": None, "downloadUrl": CARD, "new": {}},
    ],
)
def test_an_upload_is_read_in_both_shapes(data: Any) -> None:
    """`fileUrl`, or else `downloadUrl` (API section 8)."""
    assert decode_upload(said({"success": True, "code": 200, "msg": "ok", "data": data})) == CARD


@pytest.mark.parametrize("data", [None, {}, STORED, [], CARD, {"fileUrl": "file:///x"}])
def test_an_upload_without_a_url_is_none(data: Any) -> None:
    with pytest.raises(UploadError, match="without a URL"):
        decode_upload(framed(data=data))


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (said({"success": False, "code": 200, "msg": "too large", "data": None}), UploadError),
        (said({"success": False, "code": 400, "msg": "too large"}, 400), InvalidRequestError),
        (said({"success": False, "code": 401, "msg": "too large"}), AuthenticationError),
        (said({"success": False, "code": 500, "msg": "too large"}, 500), ServerError),
    ],
)
def test_an_upload_that_did_not_succeed_says_why(reply: Reply, kind: type[ApikleyError]) -> None:
    """`success: false` counts even on HTTP 200 (API section 8)."""
    with pytest.raises(kind, match="too large") as caught:
        decode_upload(reply)

    assert type(caught.value) is kind


# --- whatever comes -------------------------------------------------------------------------------

KEYS = st.sampled_from(
    [
        *("code", "msg", "message", "data", "success", "taskId", "task_id", "state", "resultJson"),
        *("resultUrls", "failCode", "failMsg", "createTime", "completeTime", "progress", "url"),
        *("creditsConsumed", "retryAfter", "fileUrl", "downloadUrl", "model", "error"),
    ]
)
CODES = st.sampled_from([200, 201, 301, 400, 401, 404, 409, 422, 429, 430, 455, 500, 501, 502, 505])
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | NASTY_TEXT
    | CODES
    | CODES.map(str)
    | st.sampled_from([HUGE, -HUGE, FILM, "task_1", "success", "fail", "recordInfo is null"])
)
TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(KEYS | NASTY_TEXT, inner, max_size=6)
        | inner.map(json.dumps)  # JSON inside a string
    ),
    max_leaves=12,
)
ENVELOPES = st.fixed_dictionaries(
    {"code": CODES | LEAVES, "data": TREES}, optional={"msg": LEAVES, "success": LEAVES}
)
TOWERS = st.integers(1, 2000).map(lambda depth: "[" * depth + "]" * depth)
TEXTS = (
    NASTY_TEXT
    | st.binary(max_size=60).map(lambda content: content.decode(errors="replace"))
    | (TREES | ENVELOPES).map(json.dumps)
    | st.tuples(ENVELOPES.map(json.dumps), st.integers(1, 40)).map(lambda cut: cut[0][: -cut[1]])
    | TOWERS
    | st.builds('{{"code": 200, "data": {{"{}": {}}}}}'.format, KEYS, TOWERS)
    | st.builds('{{"code": 200, "{}": {}}}'.format, KEYS, TOWERS)
)
REPLIES = st.builds(
    Reply, st.integers(100, 599) | CODES | st.just(200), TEXTS, HEADERS, st.booleans()
)

OPENERS: dict[str, tuple[Callable[[Reply], object], tuple[type[ApikleyError], ...], type]] = {
    "submission": (opened, (ApiError, SubmissionUncertainError), str),
    "snapshot": (look, (ApiError, UnansweredError), Snapshot),
    "credits": (decode_credits, (ApiError, UnansweredError), float),
    "link": (decode_link, (ApiError, UnansweredError), str),
    "upload": (decode_upload, (ApiError, UnansweredError, UploadError), str),
    "pause": (lambda reply: retry_after(reply, wall=WALL) or 0.0, (), float),
}


@pytest.mark.parametrize("opener", OPENERS)
@settings(max_examples=volume(75, 300))
@given(reply=REPLIES)
@example(reply=said("[" * 1_000_000))
@example(reply=said('{"code": 200, "data": {"state": "\\ud800", "failMsg": "\\udfff"}}'))
@example(reply=said(f'{{"code": {"9" * 4000}, "msg": {"9" * 4300}}}'))
@example(reply=said('{"code": 1e308, "data": {"completeTime": 1e308}}'))
@example(reply=said('{"code": -0.0, "data": NaN}'))
def test_whatever_comes_is_a_value_or_a_documented_error(opener: str, reply: Reply) -> None:
    """Any text or JSON at all: no other exception, and nothing that could not be shown (P3)."""
    open_reply, errors, kind = OPENERS[opener]

    try:
        value = open_reply(reply)
    except errors as refused:
        value = refused

    if isinstance(value, ApikleyError):
        assert str(value).isprintable()
        assert len(value.message) < 700
        assert str(pickle.loads(pickle.dumps(value))) == str(value)  # noqa: S301
    else:
        assert isinstance(value, kind)
        assert not isinstance(value, float) or math.isfinite(value)


@settings(max_examples=volume(75, 300))
@given(reply=REPLIES, not_created=st.frozensets(CODES, max_size=3))
def test_a_refusal_is_never_more_than_a_guess_away_from_the_table(
    reply: Reply, not_created: frozenset[int]
) -> None:
    """What the rows do not name is a doubt: the promise never to pay twice hangs on this."""
    refusing = {400, 401, 402, 403, 404, 405, 413, 414, 415, 422, 431, 433, 451, 455, 505}
    refusing |= {429, 430} | not_created
    outcome: object = None
    try:
        decode_submission(reply, wall=WALL, not_created=not_created)
    except (ApiError, SubmissionUncertainError) as error:
        outcome = error

    if isinstance(outcome, ApiError):
        told = {reply.status, read_envelope(reply).code}
        assert 300 <= reply.status < 400 or told & refusing
        assert reply.status < 500 or reply.status in not_created
    if isinstance(outcome, SubmissionUncertainError):
        assert len(outcome.raw.encode()) <= MAX_RAW_BYTES


@given(TREES)
def test_asking_whose_task_it_is_never_raises(param: Any) -> None:
    """The request comes back from the service, so it may hold anything (P3)."""
    assert made(param, [TOKEN], "print") in (True, False)


# --- callbacks ------------------------------------------------------------------------------------


def told(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (told(data={"taskId": "a"}), ("a",)),
        (told(data={"task_id": "b"}), ("b",)),
        (told(taskId="c"), ("c",)),
        (told(task_id="d"), ("d",)),
        (told(task_id="d", taskId="c", data={"task_id": "b", "taskId": "a"}), tuple("abcd")),
        (told(taskId="a", data={"task_id": "a", "taskId": "b"}), ("b", "a")),
        (told(taskId="c", data={"taskId": None, "task_id": "two words"}), ("c",)),
        (told(taskId="c", data="not an object"), ("c",)),
        (told(taskId=77), ("77",)),
        (b"\xef\xbb\xbf" + told(taskId="c"), ("c",)),
        (told(taskId="задача"), ("задача",)),
    ],
)
def test_a_callback_names_its_task_in_four_places(body: bytes, found: tuple[str, ...]) -> None:
    """The documents disagree, so each place counts, in one order and without repetition (W16)."""
    assert read_callback(body) == found


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b'"task_1"',
        b'["task_1"]',
        b"{}",
        b'{"taskId": ""}',
        b'{"taskId": true}',
        b'{"taskId": ["task_1"]}',
        b'{"taskId": "task_1"',
        b"taskId=task_1",
        b'{"taskId": "\\ud800"}',
        b'{"taskId": "\xff\xfe"}',
        '{"taskId": "task_1"}'.encode("utf-16"),
        told(taskId="x" * 257),
        told(taskId="line\nbreak"),
        b'{"taskId": "task_1", "data": ' + b"[" * 200 + b"]" * 200 + b"}",
        b"[" * 65536,
        b'{"a":' * 13107,
        b'{"taskId": ' + b"9" * 5000 + b"}",
    ],
)
def test_what_is_no_callback_names_nothing(body: bytes) -> None:
    """Not an object, not text, nested without end, or without an id: no exception (W2, W16)."""
    assert read_callback(body) == ()


@settings(max_examples=volume(75, 300))
@given(st.binary(max_size=300) | TREES.map(lambda tree: json.dumps(tree).encode()))
def test_whatever_is_posted_gives_ids_or_nothing(body: bytes) -> None:
    """Any bytes at all: at most four ids, each of which could be one (W2)."""
    found = read_callback(body)

    assert len(found) == len(set(found)) <= 4
    assert all(map(is_task_id, found))

"""`_wire.requests`: only documented fields are sent, spelled as the pages spell them."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from replies import (
    CARD,
    FILM,
    answer,
    request_for,
)
from rows import failing, failing_rows
from volume import volume

from apikley_async import (
    ModelTask,
    Shot,
    Storyboard,
)
from apikley_async._wire.envelope import (
    Reply,
)
from apikley_async._wire.requests import (
    File,
    Request,
    get_credits,
    get_download_url,
    record_info,
    stream_upload,
)


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


@settings(max_examples=volume(50, 300))
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


def test_one_duration_has_one_spelling() -> None:
    """Equal storyboards are equal requests: what is hashed over them stays the same."""

    def check(duration: float) -> None:
        content = request_for(Storyboard([Shot("x", duration)])).content()

        assert content is not None
        assert b'"duration": 7}' in content

    assert failing(check, [7, 7.0]) == []


def test_only_createtask_is_not_repeatable() -> None:
    """Every other request costs nothing, however often it is sent."""
    free = [
        record_info("task_1"),
        get_credits(),
        get_download_url(FILM),
        stream_upload(File("a.png", "image/png", b"x"), "folder"),
    ]

    assert not request_for(ModelTask("model")).repeatable
    assert all(request.repeatable for request in free)


def test_the_other_requests_are_spelled_as_documented() -> None:
    """A task id stays as it is until the transport encodes it (P13)."""

    def check(request_: Request, method: str, path: str, query: dict[str, str], body: Any) -> None:
        assert (request_.method, request_.path, request_.query) == (method, path, query)
        assert request_.body == body

    rows = [
        (record_info("a/b?c&d"), "GET", "/api/v1/jobs/recordInfo", {"taskId": "a/b?c&d"}, None),
        (get_credits(), "GET", "/api/v1/chat/credit", {}, None),
        (get_download_url(FILM), "POST", "/api/v1/common/download-url", {}, {"url": FILM}),
    ]
    assert failing_rows(check, rows) == []


def test_an_upload_is_a_form() -> None:
    file = File("9f.png", "image/png", b"\x89PNG")

    request = stream_upload(file, "folder")

    assert request.path == "/file-upload/api/file-stream-upload"
    assert request.form == {"file": file, "uploadPath": "folder", "fileName": "9f.png"}
    assert request.content() is None


def test_requests_and_replies_print_without_secrets() -> None:
    """A request may hold a callback URL, an answer a signed link (I8)."""
    request = request_for(ModelTask("m"), callback_url="https://h.test/canary")
    file = File("a.png", "image/png", b"canary")

    assert repr(request) == "<Request POST /api/v1/jobs/createTask>"
    assert repr(answer("canary", 502)) == "<Reply 502, 6 characters>"
    assert "canary" not in repr(file)


def test_headers_are_found_however_they_are_written() -> None:
    """A scripted answer may spell them as a server would."""
    assert Reply(429, "", {"Retry-After": "7"}).headers == {"retry-after": "7"}


# --- fingerprints ---------------------------------------------------------------------------------


def test_equal_works_have_equal_fingerprints() -> None:
    """Callback URL, spelling of numbers and order of names do not count (A17, A22)."""
    one = request_for(ModelTask("m", {"a": 7, "b": [0.5]}), callback_url="https://h.test/1")
    other = request_for(ModelTask("m", {"b": [0.5], "a": 7.0}))

    assert one.fingerprint == other.fingerprint
    assert one.fingerprint != request_for(ModelTask("m", {"a": 7, "b": [1.5]})).fingerprint
    assert one.fingerprint != request_for(ModelTask("n", {"a": 7, "b": [0.5]})).fingerprint
    assert one.fingerprint != request_for(ModelTask("m", {"a": 7, "b": ["0.5"]})).fingerprint

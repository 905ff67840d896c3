"""What the simulated service accepts, rule by rule."""

from __future__ import annotations

import json

import pytest

from apikley_async.simulator import Refusal, TaskRequest
from apikley_async.simulator.service.request_rules import is_uri, parse_task_request

MODEL = "sora-2-pro-storyboard"


def shot(**changes):
    return {"Scene": "Rain on a window.", "duration": 5} | changes


def request(*, shots=None, **changes):
    given = {"n_frames": "15", "shots": [shot()] if shots is None else shots} | changes
    return {"model": MODEL, "input": given}


def read(body, **options):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return parse_task_request(raw, **options)


def test_a_full_request_is_read_to_the_last_field():
    """Whatever a renderer or a callback needs is in the order."""
    body = request(
        shots=[shot(duration=6.5), shot(Scene="The door opens.", duration=8.5)],
        aspect_ratio="portrait",
        image_urls=["https://files.example.com/a.png"],
    ) | {"callBackUrl": "https://hooks.example.com/a?token=1"}

    order = read(body)

    assert isinstance(order, TaskRequest)
    assert order.shots == (("Rain on a window.", 6.5), ("The door opens.", 8.5))
    assert (order.duration, order.aspect, order.price_key) == (15.0, "portrait", "15")
    assert order.image_url == "https://files.example.com/a.png"
    assert order.callback_url == "https://hooks.example.com/a?token=1"
    assert order.body == body


def test_what_is_left_out_takes_the_documented_default():
    """Fifteen seconds, landscape, no image, no callback."""
    order = read({"model": MODEL, "input": {"shots": [shot()]}})

    assert isinstance(order, TaskRequest)
    assert (order.duration, order.aspect, order.image_url) == (15.0, "landscape", None)
    assert order.callback_url is None


@pytest.mark.parametrize(
    "changes",
    [
        {"n_frames": "10", "shots": [shot(duration=10)]},
        {"n_frames": "25", "shots": [shot(duration=2.5)] * 10},
        {"shots": [shot(duration=0.1)]},
        {"shots": [shot(duration=15)]},
        {"shots": [shot(duration=1.1)] * 9 + [shot(duration=5.1)]},
        {"aspect_ratio": "landscape"},
        {"size": "a field of another model"},
    ],
)
def test_the_limits_themselves_are_inside(changes):
    """The extremes of each rule are accepted, sums of decimal fractions included."""
    assert isinstance(read(request(**changes)), TaskRequest)


@pytest.mark.parametrize(
    ("changes", "about"),
    [
        ({"n_frames": 15}, "n_frames"),
        ({"n_frames": "20"}, "n_frames"),
        ({"n_frames": None}, "n_frames"),
        ({"n_frames": ["15"]}, "n_frames"),
        ({"aspect_ratio": "16:9"}, "aspect_ratio"),
        ({"aspect_ratio": ["landscape"]}, "aspect_ratio"),
        ({"image_urls": ["https://a.example/1.png"] * 2}, "image_urls"),
        ({"image_urls": "https://a.example/1.png"}, "image_urls"),
        ({"image_urls": ["kitten.png"]}, "image_urls"),
        ({"image_urls": None}, "image_urls"),
        ({"shots": []}, "shots"),
        ({"shots": [shot(duration=1)] * 11}, "shots"),
        ({"shots": {}}, "shots"),
        ({"shots": ["a shot"]}, "shots[0]"),
        ({"shots": [{"scene": "small s", "duration": 5}]}, "shots[0].Scene"),
        ({"shots": [shot(), {"Scene": "no duration"}]}, "shots[1].duration"),
        ({"shots": [shot(duration="5")]}, "shots[0].duration"),
        ({"shots": [shot(duration=True)]}, "shots[0].duration"),
        ({"shots": [shot(duration=0.09)]}, "shots[0].duration"),
        ({"shots": [shot(duration=15.1)]}, "shots[0].duration"),
        ({"shots": [shot(duration=8)] * 2}, "exceed n_frames"),
    ],
)
def test_each_broken_rule_is_refused_by_name(changes, about):
    """A violated rule is code 422, and the message says which one."""
    refusal = read(request(**changes))

    assert isinstance(refusal, Refusal)
    assert refusal.code == 422
    assert about in refusal.message


def test_shots_are_required():
    """The page calls them optional, the service behind it does not."""
    refusal = read({"model": MODEL, "input": {"n_frames": "10"}})

    assert isinstance(refusal, Refusal)
    assert (refusal.code, "shots" in refusal.message) == (422, True)


@pytest.mark.parametrize("url", ["not a url", "ftp://example.com/x", "https://", None, 7])
def test_a_callback_url_is_a_url_or_absent(url):
    """An empty string counts as absent, as does an empty list of images: clients send them."""
    empty = request() | {"callBackUrl": ""}
    empty["input"] = empty["input"] | {"image_urls": []}
    accepted = read(empty)
    assert isinstance(accepted, TaskRequest)
    assert (accepted.callback_url, accepted.image_url) == (None, None)

    refusal = read(request() | {"callBackUrl": url})

    assert isinstance(refusal, Refusal)
    assert (refusal.code, "callBackUrl" in refusal.message) == (422, True)


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"", 400),
        (b"{", 400),
        (b"\xff\xfe", 400),
        (b"[]", 400),
        (b'"text"', 400),
        (b'{"model": NaN}', 400),
        (b"[" * 100_000, 400),
        (b"{}", 422),
        (b'{"model": null}', 422),
        (b'{"model": ["sora-2-pro-storyboard"]}', 422),
        (b'{"model": "sora-2-pro-storyboard", "input": []}', 422),
        (b'{"model": "sora-3", "input": {}}', 422),
    ],
)
def test_nonsense_is_refused_and_never_an_exception(raw, code):
    """No bytes whatsoever bring the reader down."""
    refusal = read(raw)

    assert isinstance(refusal, Refusal)
    assert refusal.code == code


@pytest.mark.parametrize("models", [{"kling-2.6/text-to-video"}, {"*"}])
def test_other_models_are_checked_for_their_frame_only(models):
    """A model that is served by name, or by "*", takes any input that is an object."""
    body = {"model": "kling-2.6/text-to-video", "input": {"prompt": "A lighthouse.", "duration": 8}}

    order = read(body, models=models)

    assert isinstance(order, TaskRequest)
    assert (order.prompt, order.duration, order.shots) == ("A lighthouse.", 8.0, ())
    assert isinstance(read(body | {"input": "text"}, models=models), Refusal)


@pytest.mark.parametrize(
    "body",
    [
        request() | {"callbackUrl": "https://hooks.example.com/a"},
        request(prompt="of another model"),
        request(shots=[shot(scene="small s")]),
    ],
)
def test_strict_terms_refuse_what_nobody_described(body):
    """A misspelt field is silence for the real service and an error for a strict one."""
    assert isinstance(read(body), TaskRequest)
    assert isinstance(read(body, strict=True), Refusal)


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        ("https://example.com", True),
        ("http://127.0.0.1:8080/a?b=c", True),
        ("http://[::1]/", True),
        ("http://[::1/", False),
        ("https:///path", False),
        ("https://exa mple.com", False),
        ("file:///etc/hosts", False),
        (b"https://example.com", False),
    ],
)
def test_a_uri_is_absolute_and_http(value, answer):
    """Nothing else can be fetched or called back."""
    assert is_uri(value) is answer

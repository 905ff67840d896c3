"""The rules for a createTask, one by one."""

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


def parse(body, **options):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return parse_task_request(raw, **options)


def test_every_field_of_a_request_is_parsed():
    """Everything that a renderer or a callback needs."""
    body = request(
        shots=[shot(duration=6.5), shot(Scene="The door opens.", duration=8.5)],
        aspect_ratio="portrait",
        image_urls=["https://files.example.com/a.png"],
    ) | {"callBackUrl": "https://hooks.example.com/a?token=1"}

    parsed = parse(body)

    assert isinstance(parsed, TaskRequest)
    assert parsed.shots == (("Rain on a window.", 6.5), ("The door opens.", 8.5))
    assert (parsed.duration, parsed.aspect, parsed.price_key) == (15.0, "portrait", "15")
    assert parsed.image_url == "https://files.example.com/a.png"
    assert parsed.callback_url == "https://hooks.example.com/a?token=1"
    assert parsed.body == body


def test_missing_fields_have_the_documented_defaults():
    """Fifteen seconds, landscape, no image, no callback."""
    parsed = parse({"model": MODEL, "input": {"shots": [shot()]}})

    assert isinstance(parsed, TaskRequest)
    assert (parsed.duration, parsed.aspect, parsed.image_url) == (15.0, "landscape", None)
    assert parsed.callback_url is None


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
def test_the_limits_themselves_are_accepted(changes):
    """The extremes of each rule, sums of decimal fractions included."""
    assert isinstance(parse(request(**changes)), TaskRequest)


VIOLATIONS = [
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
]


def test_each_violated_rule_is_named():
    """With code 422, and the rule in the message."""
    failures = []
    for changes, about in VIOLATIONS:
        refusal = parse(request(**changes))
        named = isinstance(refusal, Refusal) and about in refusal.message
        if not named or refusal.code != 422:
            failures.append((changes, refusal))

    assert failures == []


def test_shots_are_required():
    """The documentation calls them optional, the service does not."""
    refusal = parse({"model": MODEL, "input": {"n_frames": "10"}})

    assert isinstance(refusal, Refusal)
    assert (refusal.code, "shots" in refusal.message) == (422, True)


@pytest.mark.parametrize("url", ["not a url", "ftp://example.com/x", "https://", None, 7])
def test_a_callback_url_is_a_url_or_absent(url):
    """An empty string counts as absent, like an empty list of images: clients send both."""
    empty = request() | {"callBackUrl": ""}
    empty["input"] = empty["input"] | {"image_urls": []}
    accepted = parse(empty)
    assert isinstance(accepted, TaskRequest)
    assert (accepted.callback_url, accepted.image_url) == (None, None)

    refusal = parse(request() | {"callBackUrl": url})

    assert isinstance(refusal, Refusal)
    assert (refusal.code, "callBackUrl" in refusal.message) == (422, True)


UNREADABLE = [
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
]


def test_unreadable_bodies_are_refused():
    """With a code, and never with an exception."""
    assert [(raw, getattr(parse(raw), "code", 200)) for raw, _ in UNREADABLE] == UNREADABLE


@pytest.mark.parametrize("models", [{"kling-2.6/text-to-video"}, {"*"}])
def test_the_input_of_other_models_is_not_checked(models):
    """A model that is served by name, or by "*", accepts any input that is an object."""
    body = {"model": "kling-2.6/text-to-video", "input": {"prompt": "A lighthouse.", "duration": 8}}

    parsed = parse(body, models=models)

    assert isinstance(parsed, TaskRequest)
    assert (parsed.prompt, parsed.duration, parsed.shots) == ("A lighthouse.", 8.0, ())
    assert isinstance(parse(body | {"input": "text"}, models=models), Refusal)


@pytest.mark.parametrize(
    "body",
    [
        request() | {"callbackUrl": "https://hooks.example.com/a"},
        request(prompt="of another model"),
        request(shots=[shot(scene="small s")]),
    ],
)
def test_strict_terms_refuse_unknown_fields(body):
    """The real service ignores a misspelled field, a strict one refuses it."""
    assert isinstance(parse(body), TaskRequest)
    assert isinstance(parse(body, strict=True), Refusal)


URIS = [
    ("https://example.com", True),
    ("http://127.0.0.1:8080/a?b=c", True),
    ("http://[::1]/", True),
    ("http://[::1/", False),
    ("https:///path", False),
    ("https://exa mple.com", False),
    ("file:///etc/hosts", False),
    (b"https://example.com", False),
]


def test_a_uri_is_absolute_and_http():
    """Nothing else can be fetched or called back."""
    assert [(value, is_uri(value)) for value, _ in URIS] == URIS

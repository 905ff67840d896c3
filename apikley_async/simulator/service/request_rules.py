"""What the service accepts: the body of a createTask becomes a `TaskRequest` or a `Refusal`.

Pure. The rules are written here a second time, from the service's own description and without
using the client's, so that a mistake in one of them shows.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Literal, NoReturn
from urllib.parse import urlsplit

import attrs

__all__ = [
    "STORYBOARD",
    "Refusal",
    "TaskRequest",
    "is_image_model",
    "is_uri",
    "parse_object",
    "parse_task_request",
]

STORYBOARD = "sora-2-pro-storyboard"

DURATIONS = ("10", "15", "25")
ASPECT_RATIOS = ("portrait", "landscape")
TOP_FIELDS = frozenset({"model", "callBackUrl", "input"})
INPUT_FIELDS = frozenset({"shots", "n_frames", "image_urls", "aspect_ratio"})
SHOT_FIELDS = frozenset({"Scene", "duration"})

IMAGE_MODELS = re.compile(
    r"to-image|image-edit|[-/]image$|nano-banana|seedream|imagen|gpt-?image|flux|ideogram",
    re.IGNORECASE,
)
TOLERANCE = 1e-6
"""Seconds by which shots may exceed the film, because sums of decimal fractions are not exact."""


@attrs.frozen
class Refusal:
    """The service refuses a request; nothing was created.

    Args:
        code: the code of the response.
        message: its message.
        wait: service seconds until the request would be accepted; set when it exceeds a limit.
        upstream: the message that the upstream service uses for a violated rule.
    """

    code: int
    message: str
    wait: float | None = None
    upstream: str = ""

    @property
    def as_upstream(self) -> Refusal:
        """The same with HTTP 200, code 500 and upstream's message, if it has one for this rule."""
        return Refusal(500, self.upstream) if self.upstream else self


@attrs.frozen(eq=False)
class TaskRequest:
    """A valid createTask. *body* is the request as it was received."""

    model: str
    body: Mapping[str, object]
    callback_url: str | None = None
    shots: tuple[tuple[str, float], ...] = ()
    duration: float = 15.0
    aspect: Literal["landscape", "portrait"] = "landscape"
    image_url: str | None = None
    prompt: str | None = None
    price_key: str = ""


def is_image_model(model: str) -> bool:
    """Whether a model makes images, judged by its name; a model that animates images does not."""
    return IMAGE_MODELS.search(model) is not None and "video" not in model.lower()


def parse_task_request(
    raw: bytes, *, models: Collection[str] = (), strict: bool = False, exact_sum: bool = False
) -> TaskRequest | Refusal:
    """Parse the body of a createTask.

    Args:
        raw: the body as it was received.
        models: other models that are served too; their input is not checked. "*" for all.
        strict: refuse fields that no description names. The real service is thought to ignore
            them, so a misspelling stays unnoticed there.
        exact_sum: refuse shots whose durations add up to less than the film.
    """
    body = parse_object(raw)
    if isinstance(body, Refusal):
        return body
    model = body.get("model")
    if not isinstance(model, str) or not model:
        return _invalid(["model is required"])
    if model != STORYBOARD and model not in models and "*" not in models:
        return Refusal(422, f"The model name you specified is not supported: {model[:80]}")
    violations = list(_envelope_violations(body, strict))
    given = body.get("input", {})
    if not isinstance(given, dict):
        return _invalid([*violations, "input must be an object"])
    if model == STORYBOARD:
        violations += _storyboard_violations(given, strict)
        if (
            exact_sum
            and not violations
            and _total_duration(given) < float(given.get("n_frames", "15")) - TOLERANCE
        ):
            violations.append("the durations of the shots must add up to n_frames")
    if violations:
        return _invalid(violations)
    return (
        _storyboard_request(body, given) if model == STORYBOARD else _generic_request(body, given)
    )


def _invalid(violations: list[str]) -> Refusal:
    """The refusal of a request that violates rules; upstream's message names only the first."""
    first = violations[0]
    if first.endswith(" is required"):
        message = first
    elif "must be one of" in first or " or " in first:
        message = f"This {first.split()[0]} is not within the range of allowed options"
    else:
        message = "Value must be within the specified range"
    return Refusal(422, "; ".join(violations), upstream=message)


def parse_object(raw: bytes) -> dict[str, object] | Refusal:
    """The JSON object in *raw*; NaN and Infinity are not JSON."""
    try:
        body = json.loads(raw, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return Refusal(400, "the request body is not valid JSON")
    if not isinstance(body, dict):
        return Refusal(400, "the request body is not a JSON object")
    return body


def is_uri(value: object) -> bool:
    """Whether *value* is an absolute http or https URL."""
    if not isinstance(value, str) or any(c.isspace() for c in value):
        return False
    try:
        parts = urlsplit(value)
        return parts.scheme in {"http", "https"} and bool(parts.hostname)
    except ValueError:
        return False


def _envelope_violations(body: Mapping[str, object], strict: bool) -> Iterator[str]:
    if body.get("callBackUrl", "") != "" and not is_uri(body["callBackUrl"]):
        yield "callBackUrl must be a URI"
    if strict:
        yield from (f"{name} is not a known field" for name in body if name not in TOP_FIELDS)


def _storyboard_violations(given: dict[str, Any], strict: bool) -> Iterator[str]:
    n_frames = given.get("n_frames", "15")
    if n_frames not in DURATIONS:
        yield f"n_frames must be one of {', '.join(DURATIONS)}, as a string"
    if given.get("aspect_ratio", "landscape") not in ASPECT_RATIOS:
        yield "aspect_ratio must be portrait or landscape"
    images = given.get("image_urls", [])  # clients send empty lists for none
    if not isinstance(images, list) or len(images) > 1 or not all(map(is_uri, images)):
        yield "image_urls must hold exactly one URI"
    shots = given.get("shots")
    if not isinstance(shots, list) or not 1 <= len(shots) <= 10:
        yield "shots must hold 1 to 10 items"
        return
    wrong = [each for n, shot in enumerate(shots) for each in _shot_violations(n, shot, strict)]
    yield from wrong
    if not wrong and n_frames in DURATIONS:
        total = math.fsum(shot["duration"] for shot in shots)
        if total > float(str(n_frames)) + TOLERANCE:
            yield "the durations of the shots exceed n_frames"
    if strict:
        yield from (
            f"input.{name} is not a known field" for name in given if name not in INPUT_FIELDS
        )


def _total_duration(given: dict[str, Any]) -> float:
    return math.fsum(shot["duration"] for shot in given["shots"])


def _shot_violations(n: int, shot: object, strict: bool) -> Iterator[str]:
    if not isinstance(shot, dict):
        yield f"shots[{n}] must be an object"
        return
    if not isinstance(shot.get("Scene"), str):
        yield f"shots[{n}].Scene is required"
    length = shot.get("duration")
    if isinstance(length, bool) or not isinstance(length, (int, float)):
        yield f"shots[{n}].duration must be a number"
    elif not 0.1 <= length <= 15:
        yield f"shots[{n}].duration must be between 0.1 and 15"
    if strict:
        yield from (f"shots[{n}].{x} is not a known field" for x in shot if x not in SHOT_FIELDS)


def _storyboard_request(body: dict[str, object], given: dict[str, Any]) -> TaskRequest:
    length = given.get("n_frames", "15")
    return TaskRequest(
        model=STORYBOARD,
        body=body,
        callback_url=_text(body.get("callBackUrl")),
        shots=tuple((shot["Scene"], float(shot["duration"])) for shot in given["shots"]),
        duration=float(length),
        aspect=given.get("aspect_ratio", "landscape"),
        image_url=given["image_urls"][0] if given.get("image_urls") else None,
        price_key=length,
    )


def _generic_request(body: dict[str, object], given: dict[str, Any]) -> TaskRequest:
    length = given.get("duration")
    usable = isinstance(length, (int, float)) and not isinstance(length, bool) and 0 < length <= 60
    return TaskRequest(
        model=str(body["model"]),
        body=body,
        callback_url=_text(body.get("callBackUrl")),
        duration=float(length) if usable and length else 5.0,
        aspect="portrait" if given.get("aspect_ratio") in ("portrait", "9:16") else "landscape",
        prompt=_text(given.get("prompt")),
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")

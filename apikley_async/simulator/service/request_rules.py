"""What the service accepts: a request read by its rules becomes an `Order` or a `Refusal`.

Pure. The rules are written down here a second time, from the service's own description and
without a look at the client, so that the two can disagree.
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
    "Order",
    "Refusal",
    "is_uri",
    "makes_still",
    "read_object",
    "read_order",
]

STORYBOARD = "sora-2-pro-storyboard"

LENGTHS = ("10", "15", "25")
SHAPES = ("portrait", "landscape")
TOP_FIELDS = frozenset({"model", "callBackUrl", "input"})
INPUT_FIELDS = frozenset({"shots", "n_frames", "image_urls", "aspect_ratio"})
SHOT_FIELDS = frozenset({"Scene", "duration"})

STILLS = re.compile(
    r"to-image|image-edit|[-/]image$|nano-banana|seedream|imagen|gpt-?image|flux|ideogram",
    re.IGNORECASE,
)
SLACK = 1e-6
"""Seconds by which shots may exceed the film: sums of decimal fractions are not exact."""


@attrs.frozen
class Refusal:
    """The service says no: nothing was created. *wait*, in world seconds, marks a throttling.

    *upstream* are the words in which a violated rule is told with HTTP 200 and code 500.
    """

    code: int
    message: str
    wait: float | None = None
    upstream: str = ""

    @property
    def upstreams(self) -> Refusal:
        """The same as upstream tells it, where it has words for it."""
        return Refusal(500, self.upstream) if self.upstream else self


@attrs.frozen(eq=False)
class Order:
    """A valid request for one film. *body* is the request as it was received."""

    model: str
    body: Mapping[str, object]
    callback_url: str | None = None
    shots: tuple[tuple[str, float], ...] = ()
    duration: float = 15.0
    aspect: Literal["landscape", "portrait"] = "landscape"
    image_url: str | None = None
    prompt: str | None = None
    tariff: str = ""


def makes_still(model: str) -> bool:
    """Whether a model is called as those that make images are; what makes films of them is not."""
    return STILLS.search(model) is not None and "video" not in model.lower()


def read_order(
    raw: bytes, *, models: Collection[str] = (), strict: bool = False, exact_sum: bool = False
) -> Order | Refusal:
    """Read the body of a createTask.

    Args:
        models: other models that are served too, unchecked apart from the frame; "*" for all.
        strict: refuse fields that nobody has described. The real service is thought to ignore
            them, which turns every misspelling into silence.
        exact_sum: refuse shots whose durations add up to less than the film.
    """
    body = read_object(raw)
    if isinstance(body, Refusal):
        return body
    model = body.get("model")
    if not isinstance(model, str) or not model:
        return _broken(["model is required"])
    if model != STORYBOARD and model not in models and "*" not in models:
        return Refusal(422, f"The model name you specified is not supported: {model[:80]}")
    faults = list(_frame_faults(body, strict))
    given = body.get("input", {})
    if not isinstance(given, dict):
        return _broken([*faults, "input must be an object"])
    if model == STORYBOARD:
        faults += _storyboard_faults(given, strict)
        if exact_sum and not faults and _total(given) < float(given.get("n_frames", "15")) - SLACK:
            faults.append("the durations of the shots must add up to n_frames")
    if faults:
        return _broken(faults)
    return _storyboard(body, given) if model == STORYBOARD else _generic(body, given)


def _broken(faults: list[str]) -> Refusal:
    """The refusal of what violates rules; upstream tells of the first only, and in few words."""
    first = faults[0]
    if first.endswith(" is required"):
        said = first
    elif "must be one of" in first or " or " in first:
        said = f"This {first.split()[0]} is not within the range of allowed options"
    else:
        said = "Value must be within the specified range"
    return Refusal(422, "; ".join(faults), upstream=said)


def read_object(raw: bytes) -> dict[str, object] | Refusal:
    """The JSON object in *raw*; NaN and Infinity are no JSON."""
    try:
        body = json.loads(raw, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return Refusal(400, "the request body is not valid JSON")
    if not isinstance(body, dict):
        return Refusal(400, "the request body is not a JSON object")
    return body


def is_uri(value: object) -> bool:
    """Whether *value* is an absolute http or https address."""
    if not isinstance(value, str) or any(c.isspace() for c in value):
        return False
    try:
        parts = urlsplit(value)
        return parts.scheme in {"http", "https"} and bool(parts.hostname)
    except ValueError:
        return False


def _frame_faults(body: Mapping[str, object], strict: bool) -> Iterator[str]:
    if body.get("callBackUrl", "") != "" and not is_uri(body["callBackUrl"]):
        yield "callBackUrl must be a URI"
    if strict:
        yield from (f"{name} is not a known field" for name in body if name not in TOP_FIELDS)


def _storyboard_faults(given: dict[str, Any], strict: bool) -> Iterator[str]:
    n_frames = given.get("n_frames", "15")
    if n_frames not in LENGTHS:
        yield f"n_frames must be one of {', '.join(LENGTHS)}, as a string"
    if given.get("aspect_ratio", "landscape") not in SHAPES:
        yield "aspect_ratio must be portrait or landscape"
    images = given.get("image_urls", [])  # clients send empty lists for none
    if not isinstance(images, list) or len(images) > 1 or not all(map(is_uri, images)):
        yield "image_urls must hold exactly one URI"
    shots = given.get("shots")
    if not isinstance(shots, list) or not 1 <= len(shots) <= 10:
        yield "shots must hold 1 to 10 items"
        return
    faults = [fault for n, shot in enumerate(shots) for fault in _shot_faults(n, shot, strict)]
    yield from faults
    if not faults and n_frames in LENGTHS:
        total = math.fsum(shot["duration"] for shot in shots)
        if total > float(str(n_frames)) + SLACK:
            yield "the durations of the shots exceed n_frames"
    if strict:
        yield from (
            f"input.{name} is not a known field" for name in given if name not in INPUT_FIELDS
        )


def _total(given: dict[str, Any]) -> float:
    return math.fsum(shot["duration"] for shot in given["shots"])


def _shot_faults(n: int, shot: object, strict: bool) -> Iterator[str]:
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


def _storyboard(body: dict[str, object], given: dict[str, Any]) -> Order:
    length = given.get("n_frames", "15")
    return Order(
        model=STORYBOARD,
        body=body,
        callback_url=_text(body.get("callBackUrl")),
        shots=tuple((shot["Scene"], float(shot["duration"])) for shot in given["shots"]),
        duration=float(length),
        aspect=given.get("aspect_ratio", "landscape"),
        image_url=given["image_urls"][0] if given.get("image_urls") else None,
        tariff=length,
    )


def _generic(body: dict[str, object], given: dict[str, Any]) -> Order:
    length = given.get("duration")
    usable = isinstance(length, (int, float)) and not isinstance(length, bool) and 0 < length <= 60
    return Order(
        model=str(body["model"]),
        body=body,
        callback_url=_text(body.get("callBackUrl")),
        duration=float(length) if usable and length else 5.0,
        aspect="portrait" if given.get("aspect_ratio") in ("portrait", "9:16") else "landscape",
        prompt=_text(given.get("prompt")),
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")

"""What a caller asks for: shots, storyboards, and tasks of other models.

Values only: each checks itself when it is born and reaches for nothing, no file and no network.
The rules are those of https://docs.apikley.ru/Sora-2/sora-2-pro-storyboard.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any, Literal, TypeAlias, get_args
from urllib.parse import urlsplit

import attrs

from apikley_async.errors import StoryboardError

__all__ = ["Aspect", "Image", "Shot", "Storyboard", "Task", "Work"]

Aspect = Literal["landscape", "portrait"]
Image: TypeAlias = str | os.PathLike[str]

DURATIONS = (10, 15, 25)
SHOTS = range(1, 11)
SHORTEST, LONGEST = 0.1, 15
# Ten shots of 1.5 fill 15, and so do seven of 15 / 7: the sum is decimal, with this to spare.
TOLERANCE = Decimal("0.000001")
LONGEST_URL = 8192
HINT = "client.upload() turns content into a URL"


@attrs.frozen
class Shot:
    """One shot: what it shows, and for how many seconds (0.1 to 15)."""

    scene: str
    duration: float

    def __attrs_post_init__(self) -> None:
        if faults := [*shot_faults(self.scene, self.duration)]:
            raise StoryboardError(faults)


@attrs.frozen
class Storyboard:
    """One film: one to ten shots that together fit into *duration* seconds.

    Shots may also be given as mappings with `scene` and `duration`, as read from a file; then
    the one error lists the faults of every shot with its path.

    Args:
        shots: one to ten; their durations add up to at most *duration*.
        duration: of the whole film: 10, 15 or 25 seconds.
        aspect_ratio: `"landscape"` or `"portrait"`.
        image: the picture the film starts from: a path (its file is looked at and uploaded when
            the storyboard is submitted), an http(s) URL (used as it is), or None.

    Raises:
        StoryboardError: a rule is broken; it names every broken rule.
    """

    shots: tuple[Shot, ...]
    duration: int = attrs.field(default=15, kw_only=True)
    aspect_ratio: Aspect = attrs.field(default="landscape", kw_only=True)
    image: Image | None = attrs.field(default=None, kw_only=True)

    def __init__(
        self,
        shots: Iterable[Shot | Mapping[str, Any]],
        *,
        duration: int = 15,
        aspect_ratio: Aspect = "landscape",
        image: Image | None = None,
    ) -> None:
        given = _as_tuple(shots)
        faults = [*storyboard_faults(given, duration, aspect_ratio, image)]
        if faults:
            raise StoryboardError(faults)
        born = tuple(shot if isinstance(shot, Shot) else Shot(**shot) for shot in given)
        self.__attrs_init__(born, duration=int(duration), aspect_ratio=aspect_ratio, image=image)  # type: ignore[attr-defined]


@attrs.frozen(eq=False)
class Task:
    """A task of any model of the service, through the same door as a storyboard.

    The input is sent as it is, so its spelling and its rules are the model's own; here it only
    has to be JSON. The mapping is copied: changing yours later changes nothing.

    Raises:
        StoryboardError: the model is blank, or the input is not JSON (NaN included).
    """

    model: str
    input: Mapping[str, Any] = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        if faults := [*task_faults(self.model, self.input)]:
            raise StoryboardError(faults)
        object.__setattr__(self, "input", json.loads(json.dumps(self.input)))

    @property
    def _canon(self) -> tuple[str, str]:
        return self.model, json.dumps(self.input, sort_keys=True)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Task) and self._canon == other._canon

    def __hash__(self) -> int:
        return hash(self._canon)


Work: TypeAlias = Storyboard | Task


def shot_faults(scene: object, duration: object, path: str = "") -> Iterator[str]:
    """Say what is wrong with one shot; *path* is put before each name."""
    if not _is_text(scene):
        yield f"{path}scene: a description, not {'blank' if scene in ('', None) else _shown(scene)}"
    elif not _encodes(scene):
        yield f"{path}scene: valid Unicode, without lone surrogates"
    if not _is_number(duration):
        yield f"{path}duration: a number of seconds, not {_shown(duration)}"
    elif not SHORTEST <= duration <= LONGEST:  # type: ignore[operator]
        yield f"{path}duration: {SHORTEST} to {LONGEST} seconds, not {duration}"


def storyboard_faults(
    shots: tuple[object, ...], duration: object, aspect_ratio: object, image: object
) -> Iterator[str]:
    """Say everything that is wrong with a storyboard, shots given as mappings included."""
    if len(shots) not in SHOTS:
        yield f"shots: {SHOTS[0]} to {SHOTS[-1]}, not {len(shots)}"
    for number, shot in enumerate(shots):
        yield from _entry_faults(shot, f"shots[{number}]")
    if not _is_number(duration) or duration not in DURATIONS:
        yield f"duration: 10, 15 or 25 seconds, not {_shown(duration)}"
    else:
        yield from _sum_faults(shots, duration)
    if not isinstance(aspect_ratio, str) or aspect_ratio not in get_args(Aspect):
        yield f"aspect_ratio: 'landscape' or 'portrait', not {_shown(aspect_ratio)}"
    yield from image_faults(image)


def _entry_faults(shot: object, path: str) -> Iterator[str]:
    if isinstance(shot, Shot):
        return
    if not isinstance(shot, Mapping):
        yield f"{path}: a Shot, not {_shown(shot)}"
        return
    yield from (
        f"{path}.{name}: unknown; a shot has scene and duration"
        for name in shot
        if name not in ("scene", "duration")
    )
    yield from shot_faults(shot.get("scene"), shot.get("duration"), f"{path}.")


def _sum_faults(shots: tuple[object, ...], duration: int) -> Iterator[str]:
    lengths = [
        shot.duration if isinstance(shot, Shot) else shot.get("duration")
        for shot in shots
        if isinstance(shot, Shot | Mapping)
    ]
    total = sum((Decimal(str(length)) for length in lengths if _is_number(length)), Decimal(0))
    if total > duration + TOLERANCE:
        yield f"shots: {duration} seconds together at most, not {total.normalize():f}"


def task_faults(model: object, fields: object) -> Iterator[str]:
    """Say what is wrong with a task of any model, whose own rules we do not know."""
    if not _is_text(model):
        yield f"model: a name, not {_shown(model)}"
    if isinstance(fields, Mapping):
        yield from json_faults(fields, "input")
    else:
        yield f"input: a mapping, not {_shown(fields)}"


def image_faults(image: object) -> Iterator[str]:
    """Say what is wrong with an image as a value; its file is looked at when it is submitted."""
    if image is None or isinstance(image, os.PathLike):
        return
    if not isinstance(image, str):
        kind = type(image).__name__
        yield f"image: a path or an http(s) URL, not {kind}; {HINT}"
    elif not image.strip():
        yield "image: a path or an http(s) URL, not blank; None for no image"
    elif "\0" in image:
        yield "image: a path without a NUL character"
    elif image.casefold().startswith("data:"):
        yield f"image: a path or an http(s) URL, not a data URL; {HINT}"
    elif "://" in image:
        yield from (f"image: {fault}" for fault in url_faults(image))


def url_faults(url: str) -> Iterator[str]:
    """Say why *url* is not one that another machine could be asked to fetch."""
    if len(url) > LONGEST_URL:
        yield f"a URL of at most {LONGEST_URL} characters, not {len(url)}"
        return
    if any(letter.isspace() or not letter.isprintable() for letter in url):
        yield "a URL without spaces and control characters"
        return
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except ValueError as fault:
        yield f"a valid URL: {fault}"
        return
    if parts.scheme.lower() not in ("http", "https"):
        yield f"an http(s) URL, not {parts.scheme}://"
    elif not host:
        yield "a URL with a host"
    elif parts.username is not None or parts.password is not None:
        yield "a URL without user name and password"


def is_url(image: object) -> bool:
    """Say whether *image* is a URL to be used as it is, not a file to be uploaded."""
    return isinstance(image, str) and "://" in image


def json_faults(value: object, path: str, depth: int = 0) -> Iterator[str]:
    """Say what in *value* JSON cannot carry."""
    if depth > 32:
        yield f"{path}: at most 32 levels deep"
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{path}: a finite number, not {value}"
    elif isinstance(value, str):
        if not _encodes(value):
            yield f"{path}: valid Unicode, without lone surrogates"
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if isinstance(key, str):
                yield from json_faults(item, f"{path}.{key}", depth + 1)
            else:
                yield f"{path}: keys are strings, not {_shown(key)}"
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from json_faults(item, f"{path}[{number}]", depth + 1)
    elif not isinstance(value, int | float | bool | None):
        yield f"{path}: JSON, not {type(value).__name__}"


def _as_tuple(shots: object) -> tuple[Any, ...]:
    if isinstance(shots, str | bytes | Mapping) or not isinstance(shots, Iterable):
        raise StoryboardError(f"shots: a sequence of Shot, not {_shown(shots)}")
    return tuple(shots)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _encodes(text: object) -> bool:
    try:
        str(text).encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(value: object) -> str:
    """A value in an error message: short, whatever it is."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."

"""What a caller asks for: shots, storyboards, and tasks of other models.

Values only: each checks itself when it is born and reaches for nothing, no file and no network.
The rules are those of https://docs.apikley.ru/Sora-2/sora-2-pro-storyboard. Each class spells the
`input` of its own model; what all models share is spelled in `_wire`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Context, Decimal, localcontext
from typing import (
    Any,
    Literal,
    Protocol,
    TypeAlias,
    TypeGuard,
    TypeVar,
    cast,
    get_args,
    runtime_checkable,
)

import attrs
import cattrs
from cattrs.gen import make_dict_unstructure_fn, override

from apikley_async._urls import url_faults
from apikley_async.errors import StoryboardError

__all__ = [
    "Aspect",
    "Duration",
    "Image",
    "Images",
    "ModelTask",
    "Shot",
    "Storyboard",
    "Urls",
    "Work",
]

T = TypeVar("T")
Aspect = Literal["landscape", "portrait"]
Duration = Literal[10, 15, 25]
Image: TypeAlias = str | os.PathLike[str]
Images: TypeAlias = Mapping[str, Image | Sequence[Image]]
"""By the place where they belong: one image, or several in their order."""
Urls: TypeAlias = Mapping[str, str | list[str]]
"""The URLs of `Images`, at the same places."""

MODEL = "sora-2-pro-storyboard"
INPUT_NAMES = ("shots", "n_frames", "aspect_ratio", "image_urls")  # all that a storyboard sends
DURATIONS: tuple[Duration, ...] = get_args(Duration)
SHOTS = range(1, 11)
SHORTEST, LONGEST = 0.1, 15
# Ten shots of 1.5 fill 15, and so do seven of 15 / 7: the sum is decimal, with this to spare.
TOLERANCE = Decimal("0.000001")
MILLISECOND = Decimal("0.001")
DEEPEST = 32
BITS = 1000  # of an integer: some 300 digits, as many as a float reaches
HINT = "client.upload() turns content into a URL"


@runtime_checkable
class Work(Protocol):
    """What can be submitted: `Storyboard`, `ModelTask`, and typed models of your own.

    It is a value: its members give the same each time, and reach for no file and no network.
    """

    @property
    def model(self) -> str:
        """The model's id, as the service spells it."""
        ...

    @property
    def images(self) -> Images:
        """Its images. Paths are uploaded before the POST, http(s) URLs are used as they are."""
        ...

    @property
    def price_key(self) -> int | str:
        """What `prices` are looked up and learned by: works of one key cost the same."""
        ...

    def wire_input(self, urls: Urls, /) -> Mapping[str, Any]:
        """The `input` that is sent, with *urls* at the places of `images`."""
        ...

    def to_dict(self, images: Images | None = None, /) -> Mapping[str, Any]:
        """Itself as a film of a manifest, from which a journal reads it back.

        A model of your own is a task there: `{"task": {"model": ..., "input": ...}}`. Where
        *images* are given, they stand in the place of its own.
        """
        ...


@attrs.frozen
class Shot:
    """One shot of a storyboard.

    Args:
        scene: what it shows.
        duration: for how many seconds, 0.1 to 15; None for an equal share of what the other
            shots leave of the film.

    Raises:
        StoryboardError: a rule is broken; it names every broken rule.
    """

    scene: str
    duration: float | None = None

    def __attrs_post_init__(self) -> None:
        if faults := [*shot_faults(self.scene, self.duration)]:
            raise StoryboardError(faults)


@attrs.frozen(init=False)
class Storyboard:
    """One film: one to ten shots that together fit into *duration* seconds.

    Shots may also be given as mappings with `scene` and `duration`, as read from a file; then
    the one error lists the faults of every shot with its path.

    Shots without a duration share equally what the others leave of the film: in whole
    milliseconds, the first ones one more where they do not divide, so that the shots add up to
    the film and never to more. Three shots of a film of 10 s last 3.334, 3.333 and 3.333 s.

    Args:
        shots: one to ten; their durations add up to at most *duration*.
        duration: of the whole film: 10, 15 or 25 seconds.
        aspect_ratio: `"landscape"` or `"portrait"`.
        image: the picture the film starts from: a path (its file is looked at and uploaded when
            the storyboard is submitted), an http(s) URL (used as it is), or None.
        model: the id under which the service sells the model.

    Raises:
        StoryboardError: a rule is broken; it names every broken rule.
    """

    shots: tuple[Shot, ...]
    duration: Duration = attrs.field(default=15, kw_only=True)
    aspect_ratio: Aspect = attrs.field(default="landscape", kw_only=True)
    image: Image | None = attrs.field(default=None, kw_only=True)
    model: str = attrs.field(default=MODEL, kw_only=True)

    def __init__(
        self,
        shots: Iterable[Shot | Mapping[str, Any]],
        *,
        duration: Duration = 15,
        aspect_ratio: Aspect = "landscape",
        image: Image | None = None,
        model: str = MODEL,
    ) -> None:
        given = _gathered(shots)
        faults = [*storyboard_faults(given, duration, aspect_ratio, image), *model_faults(model)]
        if faults:
            raise StoryboardError(faults)
        self.__attrs_init__(
            tuple(shot if isinstance(shot, Shot) else Shot(**shot) for shot in given),
            duration=cast(Duration, int(duration)),  # 15.0 is 15
            aspect_ratio=aspect_ratio,
            image=image,
            model=model,
        )

    @property
    def durations(self) -> tuple[float, ...]:
        """The seconds of each shot as they are sent, shares included."""
        shares = iter(shares_of([shot.duration for shot in self.shots], self.duration))
        return tuple(
            next(shares) if shot.duration is None else _whole(shot.duration) for shot in self.shots
        )

    @property
    def images(self) -> Images:
        """Its image, if it has one, at the place `image`."""
        return {} if self.image is None else {"image": self.image}

    @property
    def price_key(self) -> int | str:
        """Its duration; under another model's id also that."""
        return self.duration if self.model == MODEL else f"{self.model}:{self.duration}"

    def wire_input(self, urls: Urls, /) -> dict[str, Any]:
        """The `input` that is sent."""
        spelled: dict[str, Any] = _writer.unstructure(self)
        spelled["shots"] = [
            {**shot, "duration": duration}
            for shot, duration in zip(spelled["shots"], self.durations, strict=True)
        ]
        return spelled | ({"image_urls": [urls["image"]]} if "image" in urls else {})

    def to_dict(self, images: Images | None = None, /) -> dict[str, Any]:
        """Itself as a film of a manifest: what its user wrote, without shares."""
        image = (self.images if images is None else images).get("image")
        fields = {
            "shots": [
                {"scene": shot.scene}
                if shot.duration is None
                else {"scene": shot.scene, "duration": _whole(shot.duration)}
                for shot in self.shots
            ],
            "duration": self.duration,
            "aspect_ratio": self.aspect_ratio,
            "image": None if image is None else os.fsdecode(image),  # type: ignore[arg-type]
        }
        return fields if self.model == MODEL else {**fields, "model": self.model}


def _whole(value: float) -> float:
    """Write 7.0 as 7: equal durations are spelled alike."""
    return int(value) if value == int(value) else value


_writer = cattrs.Converter(forbid_extra_keys=True)
_writer.register_unstructure_hook(
    Shot,
    make_dict_unstructure_fn(
        Shot,
        _writer,
        scene=override(rename="Scene"),
        duration=override(omit=True),
    ),
)
_writer.register_unstructure_hook(
    Storyboard,
    make_dict_unstructure_fn(
        Storyboard,
        _writer,
        duration=override(rename="n_frames", unstruct_hook=str),
        image=override(omit=True),
        model=override(omit=True),
    ),
)


@attrs.frozen(eq=False)
class ModelTask:
    """A task of any model of the service, through the same door as a storyboard.

    The input is sent as it is, so its spelling and its rules are the model's own; here it only
    has to be JSON. The mappings are copied: changing yours later changes nothing.

    Args:
        model: the model's id.
        input: what it is asked for, in its own fields.
        images: pictures by the field of *input* that takes their URLs: a path or an http(s) URL
            for a field with one URL, a list of them for a field with a list. Files are looked at
            and uploaded when the task is submitted.

    Raises:
        StoryboardError: the model is blank, the input is not JSON (NaN included), or an image
            cannot be one.
    """

    model: str
    input: Mapping[str, Any] = attrs.field(factory=dict)
    images: Images = attrs.field(factory=dict, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if faults := [*task_faults(self.model, self.input, self.images)]:
            raise StoryboardError(faults)
        # Any mapping inside becomes a dict of our own.
        object.__setattr__(self, "input", json.loads(json.dumps(self.input, default=dict)))
        object.__setattr__(self, "images", with_images(self.images, lambda image: image))

    @property
    def price_key(self) -> int | str:
        """Its model."""
        return self.model

    def wire_input(self, urls: Urls, /) -> dict[str, Any]:
        """The `input` that is sent: as it was given, with the URLs of the images in it."""
        return {**self.input, **urls}

    def to_dict(self, images: Images | None = None, /) -> dict[str, Any]:
        """Itself as a film of a manifest."""
        names = with_images(self.images if images is None else images, os.fsdecode)
        fields = {"model": self.model, "input": dict(self.input)}
        return {"task": {**fields, "images": names} if names else fields}

    @property
    def _canon(self) -> str:
        return json.dumps(self.to_dict(), sort_keys=True)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModelTask) and self._canon == other._canon

    def __hash__(self) -> int:
        return hash(self._canon)


def images_of(images: Images) -> Iterator[tuple[str, Image]]:
    """Every image with its place, as it is called in a message."""
    for place, given in images.items():
        if isinstance(given, str | os.PathLike):
            yield place, given
        else:
            yield from ((f"{place}[{number}]", image) for number, image in enumerate(given))


def with_images(images: Images, new: Callable[[Image], T]) -> dict[str, T | list[T]]:
    """Something *new* for each image, at the same places."""
    return {
        place: new(given)
        if isinstance(given, str | os.PathLike)
        else [new(image) for image in given]
        for place, given in images.items()
    }


def work_faults(work: object) -> Iterator[str]:
    """Say why *work* cannot be submitted; a model of somebody's own may be anything."""
    if not isinstance(work, Work):
        yield f"work: a Storyboard, a ModelTask or a Work of your own, not {type(work).__name__}"
        return
    yield from model_faults(work.model)
    yield from images_faults(work.images)


def shot_faults(scene: object, duration: object, path: str = "") -> Iterator[str]:
    """Say what is wrong with one shot; *path* is put before each name."""
    yield from _text_faults(scene, f"{path}scene", "a description")
    if duration is None:
        return
    if not _is_number(duration):
        yield f"{path}duration: a number of seconds, not {_shown(duration)}"
    elif not SHORTEST <= duration <= LONGEST:
        yield f"{path}duration: {SHORTEST} to {LONGEST} seconds, not {_shown(duration)}"


def storyboard_faults(
    shots: object, duration: object, aspect_ratio: object, image: object
) -> Iterator[str]:
    """Say everything that is wrong with a storyboard, shots given as mappings included."""
    entries = shots if isinstance(shots, tuple) else ()
    if not isinstance(shots, tuple):
        yield f"shots: a sequence of Shot, not {_shown(shots)}"
    elif len(entries) not in SHOTS:
        yield f"shots: {SHOTS[0]} to {SHOTS[-1]}, not {len(entries)}"
    for number, shot in enumerate(entries):
        yield from _entry_faults(shot, f"shots[{number}]")
    if not _is_number(duration) or duration not in DURATIONS:
        yield f"duration: 10, 15 or 25 seconds, not {_shown(duration)}"
    else:
        yield from _sum_faults(entries, duration)
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
        f"{_member(path, name)}: unknown; a shot has scene and duration"
        for name in shot
        if name not in ("scene", "duration")
    )
    yield from shot_faults(shot.get("scene"), shot.get("duration"), f"{path}.")


def _sum_faults(shots: tuple[object, ...], duration: float) -> list[str]:
    lengths = [
        shot.duration if isinstance(shot, Shot) else shot.get("duration")
        for shot in shots
        if isinstance(shot, Shot | Mapping)
    ]
    with localcontext(Context()):  # the caller's own may round, or raise
        return [*_length_faults(lengths, int(duration))]


def _length_faults(lengths: Sequence[object], duration: int) -> Iterator[str]:
    known = [length for length in lengths if length is None or _is_number(length)]
    total = _sum_of(known)
    if total > duration + TOLERANCE:
        yield f"shots: {duration} seconds together at most, not {float(total):.9g}"
    elif None in known and len(known) == len(lengths):
        shares = shares_of(known, duration)
        if min(shares) < SHORTEST or max(shares) > LONGEST:
            left = max(0.0, float(duration - total)) / len(shares)
            yield (
                f"shots: {left:.9g} seconds are left for each shot without a duration; "
                f"{SHORTEST} to {LONGEST} are possible"
            )


def shares_of(lengths: Sequence[float | None], duration: int) -> list[float]:
    """Divide what the shots with a length leave of *duration* among those without one.

    In whole milliseconds, rounded down; those that are left over go to the first, one each. So
    the sum is the film's duration, less only what the given lengths have beyond a millisecond.
    """
    count = lengths.count(None)
    if not count:
        return []
    with localcontext(Context()):
        left = max(Decimal(0), duration - _sum_of(lengths))
        share, extra = divmod(int(left / MILLISECOND), count)
        units = [share + (number < extra) for number in range(count)]
        return [_whole(float(unit * MILLISECOND)) for unit in units]


def _sum_of(lengths: Iterable[float | None]) -> Decimal:
    """Add what is written, not the binary numbers beside it: ten times 1.5 is 15."""
    spelled = (Decimal(repr(float(length))) for length in lengths if length is not None)
    return sum(spelled, Decimal(0))


def task_faults(model: object, fields: object, images: object = None) -> Iterator[str]:
    """Say what is wrong with a task of any model, whose own rules we do not know."""
    yield from model_faults(model)
    if isinstance(fields, Mapping):
        yield from json_faults(fields, "input")
    else:
        yield f"input: a mapping, not {_shown(fields)}"
    yield from images_faults({} if images is None else images)
    if isinstance(fields, Mapping) and isinstance(images, Mapping):
        twice = [place for place in images if place in fields]
        yield from (f"{_member('images', place)}: given in input too" for place in twice)


def model_faults(model: object) -> Iterator[str]:
    """Say why *model* cannot be the id of a model."""
    yield from _text_faults(model, "model", "a name")
    if isinstance(model, str) and model.strip() and _encodes(model) and not model.isprintable():
        yield "model: without control characters"


def images_faults(images: object) -> Iterator[str]:
    """Say what is wrong with images by their places."""
    if not isinstance(images, Mapping):
        yield f"images: a mapping of fields and images, not {_shown(images)}"
        return
    for place, given in images.items():
        path = _member("images", place)
        if not isinstance(place, str) or not place.strip() or not _encodes(place):
            yield f"{path}: the name of a field"
        elif isinstance(given, list | tuple):
            if not given:
                yield f"{path}: at least one image; leave it out for none"
            for number, image in enumerate(given):
                yield from image_faults(image, f"{path}[{number}]", optional=False)
        else:
            yield from image_faults(given, path, optional=False)


def image_faults(image: object, path: str = "image", *, optional: bool = True) -> Iterator[str]:
    """Say what is wrong with an image as a value; its file is looked at when it is submitted."""
    if isinstance(image, os.PathLike) or (image is None and optional):
        return
    if not isinstance(image, str):
        kind = type(image).__name__
        yield f"{path}: a path or an http(s) URL, not {kind}; {HINT}"
    elif not image.strip():
        yield f"{path}: a path or an http(s) URL, not blank; None for no image"
    elif "\0" in image:
        yield f"{path}: a path without a NUL character"
    elif image.casefold().startswith("data:"):
        yield f"{path}: a path or an http(s) URL, not a data URL; {HINT}"
    elif "://" in image:
        yield from (f"{path}: {fault}" for fault in url_faults(image))


def json_faults(value: object, path: str, above: tuple[int, ...] = ()) -> Iterator[str]:
    """Say what in *value* JSON cannot carry; *above* are the ids of what holds it."""
    within = (*above, id(value))
    if id(value) in above or len(above) > DEEPEST:
        yield f"{path}: at most {DEEPEST} levels deep"
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                yield f"{path}: keys are strings, not {_shown(key)}"
            elif not _encodes(key):
                yield f"{_member(path, key)}: valid Unicode, without lone surrogates"
            else:
                yield from json_faults(item, _member(path, key), within)
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from json_faults(item, f"{path}[{number}]", within)
    else:
        yield from _leaf_faults(value, path)


def _leaf_faults(value: object, path: str) -> Iterator[str]:
    if isinstance(value, str):
        if not _encodes(value):
            yield f"{path}: valid Unicode, without lone surrogates"
    elif isinstance(value, float):
        if not math.isfinite(value):
            yield f"{path}: a finite number, not {float(value)}"
    elif isinstance(value, int):
        if value.bit_length() > BITS:
            yield f"{path}: a number of at most 300 digits"
    elif value is not None:
        yield f"{path}: JSON, not {type(value).__name__}"


def _text_faults(value: object, path: str, rule: str) -> Iterator[str]:
    """Say why *value* is not a text with something in it that can be sent."""
    if value is None or (isinstance(value, str) and not value.strip()):
        yield f"{path}: {rule}, not blank"
    elif not isinstance(value, str):
        yield f"{path}: {rule}, not {_shown(value)}"
    elif not _encodes(value):
        yield f"{path}: valid Unicode, without lone surrogates"


def _gathered(shots: object) -> Any:
    """What holds shots as a tuple; anything else as it is."""
    if isinstance(shots, str | bytes | Mapping) or not isinstance(shots, Iterable):
        return shots
    return tuple(shots)


def _is_number(value: object) -> TypeGuard[float]:
    """Whether *value* is a number, and one that a float can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _member(path: str, name: object) -> str:
    """The path of what stands under *name*."""
    plain = isinstance(name, str) and name.isidentifier()
    return f"{path}.{name}" if plain else f"{path}[{_shown(name)}]"


def _shown(value: object) -> str:
    """A value in an error message: one short line, whatever it is."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # noqa: BLE001 - a stranger's repr, or a number too long to print
        text = type(value).__name__
    return text if len(text) <= 60 else text[:57] + "..."

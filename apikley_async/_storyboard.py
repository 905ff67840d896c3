"""What can be submitted: `Shot`, `Storyboard`, `ModelTask`, and `Work`, the protocol they share.

Values only: each validates itself when it is created, and none touches a file or the network.
The rules are those of https://docs.apikley.ru/Sora-2/sora-2-pro-storyboard. Each class spells the
`input` of its own model; `_wire` spells what all models share.
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
    TypeVar,
    cast,
    get_args,
    runtime_checkable,
)

import attrs
import cattrs
from cattrs.gen import make_dict_unstructure_fn, override

from apikley_async._text import count, one_line, short_repr
from apikley_async._validation import (
    image_faults,
    images_faults,
    is_number,
    json_faults,
    member_path,
    model_faults,
    text_faults,
)
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
"""Images by the field of the input they belong to: one, or several in their order."""
Urls: TypeAlias = Mapping[str, str | list[str]]
"""The URLs of `Images`, by the same fields."""

MODEL = "sora-2-pro-storyboard"
INPUT_NAMES = ("shots", "n_frames", "aspect_ratio", "image_urls")  # all that a storyboard sends
DURATIONS: tuple[Duration, ...] = get_args(Duration)
ASPECTS: tuple[Aspect, ...] = get_args(Aspect)
FEW_WORDS = 10_000  # characters
MAX_SHOTS = 10
MIN_SHOT, MAX_SHOT = 0.1, 15  # seconds
# Ten shots of 1.5 fill 15, and so do seven of 15 / 7: durations are added as decimals, and the
# sum may exceed the film by this.
TOLERANCE = Decimal("0.000001")
MILLISECOND = Decimal("0.001")


@runtime_checkable
class Work(Protocol):
    """What can be submitted: `Storyboard`, `ModelTask`, and typed models of your own.

    A work is a value: its members return the same each time, and touch no file and no network.
    """

    @property
    def model(self) -> str:
        """The model's id, as the service spells it."""
        ...

    @property
    def images(self) -> Images:
        """Images. Paths are uploaded before the POST, http(s) URLs are used as they are."""
        ...

    @property
    def price_key(self) -> int | str:
        """The key of its price in `prices`: works with one key cost the same."""
        ...

    def wire_input(self, urls: Urls, /) -> Mapping[str, Any]:
        """The `input` that is sent.

        Args:
            urls: the URLs of `images`, by the same fields.
        """
        ...

    def to_dict(self, images: Images | None = None, /) -> Mapping[str, Any]:
        """Give plain JSON values: the film as a manifest spells it, and a journal keeps it.

        A model of your own is a task there: `{"task": {"model": ..., "input": ...}}`.

        Args:
            images: images to write down instead of its own, by the same fields.
        """
        ...


@attrs.frozen
class Shot:
    """One shot of a storyboard.

    Args:
        scene: what it shows.
        duration: how long it lasts, 0.1 to 15 seconds; None for an equal share of what the
            other shots leave of the film.

    Raises:
        StoryboardError: a rule is broken; it names every broken rule.
    """

    scene: str
    duration: float | None = None

    def __attrs_post_init__(self) -> None:
        if faults := [*shot_faults(self.scene, self.duration)]:
            raise StoryboardError(faults)

    def to_dict(self) -> dict[str, Any]:
        """Give plain JSON values: scene, and duration if it has one."""
        if self.duration is None:
            return {"scene": self.scene}
        return {"scene": self.scene, "duration": _whole(self.duration)}


@attrs.frozen(init=False, repr=False)
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
        image: the picture the film starts from: a path (the file is checked and uploaded when
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
        entries = _as_tuple(shots)
        faults = [*storyboard_faults(entries, duration, aspect_ratio, image), *model_faults(model)]
        if faults:
            raise StoryboardError(faults)
        self.__attrs_init__(
            tuple(shot if isinstance(shot, Shot) else Shot(**shot) for shot in entries),
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
        """The image, if there is one, under the name `image`."""
        return {} if self.image is None else {"image": self.image}

    @property
    def price_key(self) -> int | str:
        """The film's duration; for another model's id, that id and the duration."""
        return self.duration if self.model == MODEL else f"{self.model}:{self.duration}"

    def wire_input(self, urls: Urls, /) -> dict[str, Any]:
        """The `input` that is sent, durations of all shots included."""
        spelled: dict[str, Any] = _writer.unstructure(self)
        spelled["shots"] = [
            {**shot, "duration": duration}
            for shot, duration in zip(spelled["shots"], self.durations, strict=True)
        ]
        return spelled | ({"image_urls": [urls["image"]]} if "image" in urls else {})

    def to_dict(self, images: Images | None = None, /) -> dict[str, Any]:
        """Give plain JSON values, as a manifest spells a film: what the user wrote, no shares.

        Args:
            images: what to write as its image instead, under the name `image`.
        """
        image = (self.images if images is None else images).get("image")
        fields = {
            "shots": [shot.to_dict() for shot in self.shots],
            "duration": self.duration,
            "aspect_ratio": self.aspect_ratio,
            "image": None if image is None else os.fsdecode(image),  # type: ignore[arg-type]
        }
        return fields if self.model == MODEL else {**fields, "model": self.model}

    def __repr__(self) -> str:
        facts = [count(len(self.shots), "shot"), f"{self.duration} s", self.aspect_ratio]
        facts += ["an image"] if self.image is not None else []
        facts += [self.model] if self.model != MODEL else []
        return f"<Storyboard {_words(self.shots[0].scene)}: {', '.join(facts)}>"


def _words(text: object) -> str:
    """The first words of a film, for a `repr`."""
    return repr(one_line(text, 40))


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


@attrs.frozen(eq=False, repr=False)
class ModelTask:
    """A task of any model of the service, submitted as a storyboard is.

    The input is sent as it is. Its fields and rules are the model's own; here it only has to be
    JSON. The mappings are copied: changing yours later changes nothing.

    Args:
        model: the model's id.
        input: the model's own fields.
        images: pictures by the field of *input* that takes their URLs: a path or an http(s) URL
            for a field with one URL, a list of them for a field with a list. Files are checked
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
        # A copy: any mapping inside becomes a dict, any tuple a list.
        object.__setattr__(self, "input", json.loads(json.dumps(self.input, default=dict)))
        object.__setattr__(self, "images", with_images(self.images, lambda image: image))

    @property
    def price_key(self) -> int | str:
        """The model's id."""
        return self.model

    def wire_input(self, urls: Urls, /) -> dict[str, Any]:
        """The `input` that is sent: as it was given, with the URLs of the images in it."""
        return {**self.input, **urls}

    def to_dict(self, images: Images | None = None, /) -> dict[str, Any]:
        """Give plain JSON values, as a manifest spells a task.

        Args:
            images: images to write down instead of its own, by the same fields.
        """
        names = with_images(self.images if images is None else images, os.fsdecode)
        fields = {"model": self.model, "input": dict(self.input)}
        return {"task": {**fields, "images": names} if names else fields}

    @property
    def _canonical(self) -> str:
        return json.dumps(self.to_dict(), sort_keys=True)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModelTask) and self._canonical == other._canonical

    def __hash__(self) -> int:
        return hash(self._canonical)

    def __repr__(self) -> str:
        prompt = self.input.get("prompt")
        words = f": {_words(prompt)}" if isinstance(prompt, str) else ""
        return f"<ModelTask {self.model}{words}>"


def images_of(images: Images) -> Iterator[tuple[str, Image]]:
    """Give every image with its path, such as `frames[0]`, as messages name it."""
    for place, given in images.items():
        if isinstance(given, str | os.PathLike):
            yield place, given
        else:
            yield from ((f"{place}[{number}]", image) for number, image in enumerate(given))


def with_images(images: Images, new: Callable[[Image], T]) -> dict[str, T | list[T]]:
    """Replace each image by *new* of it, under the same names."""
    return {
        place: new(given)
        if isinstance(given, str | os.PathLike)
        else [new(image) for image in given]
        for place, given in images.items()
    }


def is_valid_from_birth(work: object) -> bool:
    """Whether all of *work* was checked when it was made, and nothing of it can have changed."""
    return type(work) is Storyboard  # a subclass may return anything, and a task holds mappings


def has_few_words(work: object) -> bool:
    """Whether *work* is a storyboard so short that nothing can make what repeats it too large."""
    return type(work) is Storyboard and sum(len(shot.scene) for shot in work.shots) <= FEW_WORDS


def work_faults(work: object) -> Iterator[str]:
    """Say why *work* cannot be submitted; a user's own class may return anything."""
    if is_valid_from_birth(work):
        return
    if not isinstance(work, ModelTask | Work):  # the protocol last: it is slow
        yield f"work: a Storyboard, a ModelTask or a Work of your own, not {type(work).__name__}"
        return
    yield from model_faults(work.model)
    yield from images_faults(work.images)


def shot_faults(scene: object, duration: object, path: str = "") -> Iterator[str]:
    """Say what is wrong with a shot; *path* stands before each name."""
    yield from text_faults(scene, f"{path}scene", "a description")
    if duration is None:
        return
    if not is_number(duration):
        yield f"{path}duration: a number of seconds, not {short_repr(duration)}"
    elif not MIN_SHOT <= duration <= MAX_SHOT:
        yield f"{path}duration: {MIN_SHOT} to {MAX_SHOT} seconds, not {short_repr(duration)}"


def storyboard_faults(
    shots: object, duration: object, aspect_ratio: object, image: object
) -> Iterator[str]:
    """Say all that is wrong with a storyboard whose shots may be mappings."""
    entries = shots if isinstance(shots, tuple) else ()
    if not isinstance(shots, tuple):
        yield f"shots: a sequence of Shot, not {short_repr(shots)}"
    elif not 1 <= len(entries) <= MAX_SHOTS:
        yield f"shots: 1 to {MAX_SHOTS}, not {len(entries)}"
    for number, shot in enumerate(entries):
        yield from _entry_faults(shot, f"shots[{number}]")
    if not is_number(duration) or duration not in DURATIONS:
        yield f"duration: 10, 15 or 25 seconds, not {short_repr(duration)}"
    else:
        yield from _sum_faults(entries, duration)
    if not isinstance(aspect_ratio, str) or aspect_ratio not in ASPECTS:
        yield f"aspect_ratio: 'landscape' or 'portrait', not {short_repr(aspect_ratio)}"
    yield from image_faults(image)


def _entry_faults(shot: object, path: str) -> Iterator[str]:
    if isinstance(shot, Shot):
        return
    if not isinstance(shot, Mapping):
        yield f"{path}: a Shot, not {short_repr(shot)}"
        return
    yield from (
        f"{member_path(path, name)}: unknown; a shot has scene and duration"
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
    if all(map(is_number, lengths)) and math.fsum(cast(list[float], lengths)) <= duration:
        return []
    with localcontext(Context()):  # the caller's own may round, or raise
        return [*_length_faults(lengths, int(duration))]


def _length_faults(lengths: Sequence[object], duration: int) -> Iterator[str]:
    known = [length for length in lengths if length is None or is_number(length)]
    total = _sum_of(known)
    if total > duration + TOLERANCE:
        yield f"shots: {duration} seconds together at most, not {float(total):.9g}"
    elif None in known and len(known) == len(lengths):
        shares = shares_of(known, duration)
        if min(shares) < MIN_SHOT or max(shares) > MAX_SHOT:
            left = max(0.0, float(duration - total)) / len(shares)
            yield (
                f"shots: {left:.9g} seconds are left for each shot without a duration; "
                f"{MIN_SHOT} to {MAX_SHOT} are possible"
            )


def shares_of(lengths: Sequence[float | None], duration: int) -> list[float]:
    """Divide what the shots with a length leave of *duration* among those without one.

    In whole milliseconds, rounded down; the first shots get those left over, one each. So the
    sum is the film's duration, less only what the given lengths have beyond a millisecond.
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
    """Add the numbers as they are written, not their binary values: ten times 0.1 is 1."""
    written = (Decimal(repr(float(length))) for length in lengths if length is not None)
    return sum(written, Decimal(0))


def task_faults(model: object, fields: object, images: object = None) -> Iterator[str]:
    """Say what is wrong with a task of any model; the model's own rules are not known here."""
    yield from model_faults(model)
    yield from input_faults(fields)
    yield from images_faults({} if images is None else images)
    if isinstance(fields, Mapping) and isinstance(images, Mapping):
        twice = [name for name in images if name in fields]
        yield from (f"{member_path('images', name)}: given in input too" for name in twice)


def input_faults(fields: object) -> Iterator[str]:
    """Say what is wrong with the input of a task, which is sent as it is."""
    if isinstance(fields, Mapping):
        yield from json_faults(fields, "input")
    else:
        yield f"input: a mapping, not {short_repr(fields)}"


def _as_tuple(shots: object) -> Any:
    """Turn an iterable of shots into a tuple; return anything else as it is."""
    if isinstance(shots, str | bytes | Mapping) or not isinstance(shots, Iterable):
        return shots
    return tuple(shots)

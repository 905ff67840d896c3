"""Rules for texts, numbers, images, model ids and JSON: what is wrong with a value. Pure.

Each function gives its faults as sentences that begin with the path of the value, so that one
error can name all of them. Nothing here reads a file or looks up a name.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from types import NoneType
from typing import Any, TypeAlias, TypeGuard

import attrs

from apikley_async._text import encodes, short_repr
from apikley_async._urls import url_faults

MAX_DEPTH = 32
REAL = (int, float)  # a union is made anew at each use
MAX_BITS = 1000  # of an integer: some 300 digits, as many as a float reaches
Kinds: TypeAlias = type | tuple[type, ...]
UPLOAD_HINT = "client.upload() turns content into a URL"


def kind_fault(name: str, value: object, kinds: Kinds, what: str) -> str | None:
    """Say that an argument is of a wrong kind, by its name; True and False are no numbers.

    The value itself is not shown: it may be a secret.
    """
    allowed = kinds if isinstance(kinds, tuple) else (kinds,)
    if isinstance(value, allowed) and (not isinstance(value, bool) or bool in allowed):
        return None
    return f"{name}: {what}, not {type(value).__name__}"


def check_kind(name: str, value: object, kinds: Kinds, what: str) -> None:
    """Refuse an argument of a wrong kind with a `TypeError` that names it."""
    if fault := kind_fault(name, value, kinds, what):
        raise TypeError(fault)


def check_seconds(name: str, value: object, *, least: float = -math.inf) -> None:
    """Refuse what is no time in seconds; None is one that has no bound.

    Raises:
        TypeError: it is of another kind.
        ValueError: it is not a number, or below *least*.
    """
    check_kind(name, value, (*REAL, NoneType), "seconds")
    if isinstance(value, REAL) and not value >= least:
        rule = "a number of seconds" if math.isnan(value) else f"{least:g} seconds or more"
        raise ValueError(f"{name}: {rule}, not {value!r}")


def check_count(name: str, value: object) -> None:
    """Refuse what is no whole number from 1 on; 5.0 is one.

    Raises:
        TypeError: it is of another kind.
        ValueError: it is another number.
    """
    what = "a whole number, 1 or more"
    check_kind(name, value, REAL, what)
    if not (isinstance(value, REAL) and 1 <= value < math.inf and value == int(value)):
        raise ValueError(f"{name}: {what}, not {value!r}")


def is_count(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    """A validator for fields of attrs that are whole numbers from 1 on."""
    check_count(attribute.name, value)


def of_kind(kinds: Kinds, what: str) -> Callable[[object, attrs.Attribute[Any], object], None]:
    """A validator for fields of attrs that refuses wrong kinds."""

    def validate(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
        check_kind(attribute.name, value, kinds, what)

    return validate


def model_faults(model: object) -> Iterator[str]:
    """Say why *model* cannot be the id of a model."""
    yield from text_faults(model, "model", "a name")
    if isinstance(model, str) and model.strip() and encodes(model) and not model.isprintable():
        yield "model: without control characters"


def images_faults(images: object) -> Iterator[str]:
    """Say what is wrong with images by the fields they belong to."""
    if not isinstance(images, Mapping):
        yield f"images: a mapping of fields and images, not {short_repr(images)}"
        return
    for name, given in images.items():
        path = member_path("images", name)
        if not isinstance(name, str) or not name.strip() or not encodes(name):
            yield f"{path}: the name of a field"
        elif isinstance(given, list | tuple):
            if not given:
                yield f"{path}: at least one image; leave it out for none"
            for number, image in enumerate(given):
                yield from image_faults(image, f"{path}[{number}]", optional=False)
        else:
            yield from image_faults(given, path, optional=False)


def image_faults(image: object, path: str = "image", *, optional: bool = True) -> Iterator[str]:
    """Say what is wrong with an image as a value; its file is checked when it is submitted."""
    if isinstance(image, os.PathLike) or (image is None and optional):
        return
    if not isinstance(image, str):
        kind = type(image).__name__
        yield f"{path}: a path or an http(s) URL, not {kind}; {UPLOAD_HINT}"
    elif not image.strip():
        yield f"{path}: a path or an http(s) URL, not blank; None for no image"
    elif "\0" in image:
        yield f"{path}: a path without a NUL character"
    elif image.casefold().startswith("data:"):
        yield f"{path}: a path or an http(s) URL, not a data URL; {UPLOAD_HINT}"
    elif "://" in image:
        yield from (f"{path}: {fault}" for fault in url_faults(image))


def json_faults(value: object, path: str, above: tuple[int, ...] = ()) -> Iterator[str]:
    """Say what in *value* JSON cannot hold; *above* are the ids of what contains it."""
    within = (*above, id(value))
    if id(value) in above or len(above) > MAX_DEPTH:
        yield f"{path}: at most {MAX_DEPTH} levels deep"
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                yield f"{path}: keys are strings, not {short_repr(key)}"
            elif not encodes(key):
                yield f"{member_path(path, key)}: valid Unicode, without lone surrogates"
            else:
                yield from json_faults(item, member_path(path, key), within)
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from json_faults(item, f"{path}[{number}]", within)
    else:
        yield from _leaf_faults(value, path)


def _leaf_faults(value: object, path: str) -> Iterator[str]:
    if isinstance(value, str):
        if not encodes(value):
            yield f"{path}: valid Unicode, without lone surrogates"
    elif isinstance(value, float):
        if not math.isfinite(value):
            yield f"{path}: a finite number, not {float(value)}"
    elif isinstance(value, int):
        if value.bit_length() > MAX_BITS:
            yield f"{path}: a number of at most 300 digits"
    elif value is not None:
        yield f"{path}: JSON, not {type(value).__name__}"


def text_faults(value: object, path: str, rule: str) -> Iterator[str]:
    """Say why *value* is not a text that can be sent: blank, no text, or no Unicode."""
    if value is None or (isinstance(value, str) and not value.strip()):
        yield f"{path}: {rule}, not blank"
    elif not isinstance(value, str):
        yield f"{path}: {rule}, not {short_repr(value)}"
    elif not encodes(value):
        yield f"{path}: valid Unicode, without lone surrogates"


def is_number(value: object) -> TypeGuard[float]:
    """Say whether *value* is a finite number that a float can hold; a bool is not."""
    if isinstance(value, bool) or not isinstance(value, REAL):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def member_path(path: str, name: object) -> str:
    """Give the path of the member *name* of *path*."""
    identifier = isinstance(name, str) and name.isidentifier()
    return f"{path}.{name}" if identifier else f"{path}[{short_repr(name)}]"

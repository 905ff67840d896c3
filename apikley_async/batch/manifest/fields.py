"""The fields of one film: checked, and turned into entries for the journal.

A film has the fields key, takes, shots, duration, aspect_ratio and image; or a task instead of the
last four. Nothing is read from disk here but the image files, which must be images before anything
is paid.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from apikley_async import Work
from apikley_async._text import describe_value
from apikley_async._urls import fetch_faults
from apikley_async.batch.keys import key_faults, normalize_key, take_key
from apikley_async.batch.manifest.film_record import FilmRecord
from apikley_async.batch.manifest.image_files import ImageDigest, image_digests
from apikley_async.batch.manifest.payload import make_takes
from apikley_async.batch.manifest.work_fields import (
    MOST_FAULTS,
    MOST_SHOTS,
    PLACEHOLDER_SHOTS,
    STORYBOARD_FIELDS,
    parse_work,
)
from apikley_async.batch.store.values import ManifestEntry
from apikley_async.errors import StoryboardError

__all__ = ["FIELDS", "check_defaults", "keys_of_faulty_film", "make_entries", "unfetchable_images"]

FIELDS = ("key", "takes", *STORYBOARD_FIELDS, "task")
FIELDS_WITH_DEFAULTS = ("takes", *STORYBOARD_FIELDS[1:])
MOST_TAKES = 100
# Control characters other than tab and line breaks, and those that turn the direction of the text.
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
# The same for what must fit on one line.
CONTROL_OR_BREAK = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def make_entries(
    record: FilmRecord, defaults: Mapping[str, Any], *, base: Path, digest_of: ImageDigest
) -> list[ManifestEntry]:
    """The entries of a film: one for each take.

    Args:
        record: the film as it was read.
        defaults: the manifest's defaults, checked.
        base: the manifest's folder.
        digest_of: gives the digest of an image file, or raises `StoryboardError`.

    Raises:
        StoryboardError: with every fault of the film, without its place.
    """
    inherited = defaults
    if "task" in record.fields:
        inherited = {name: defaults[name] for name in ("takes",) if name in defaults}
    fields = {**inherited, **record.fields}
    faults = [*islice(field_faults(fields), MOST_FAULTS)]
    work: Work | None = None
    try:
        work = parse_work(fields)
    except StoryboardError as error:
        faults += error.faults
    digests: dict[str, str] = {}
    if not any(fault.startswith(("image", "task.image")) for fault in faults):
        try:
            digests = image_digests(images_in(fields), digest_of)
        except StoryboardError as error:
            faults += error.faults
    if faults or work is None:
        raise StoryboardError(faults)
    takes = range(1, fields.get("takes", 1) + 1)
    return make_takes(
        work,
        fields.get("key"),
        takes,
        base=base,
        where=record.where,
        digests=digests,
        metadata=record.metadata,
    )


def keys_of_faulty_film(fields: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """The keys of a film with a fault in another field; empty where the key is what is wrong."""
    key, takes = fields.get("key"), {**defaults, **fields}.get("takes", 1)
    if key is None or [*key_faults(key)]:
        return []
    count = takes if type(takes) is int and 1 <= takes <= MOST_TAKES else 1
    return [take_key(normalize_key(key), take) for take in range(1, count + 1)]


def check_defaults(
    fields: Mapping[str, Any], digest_of: ImageDigest
) -> tuple[dict[str, Any], list[str]]:
    """The manifest's defaults without what is wrong with them, and the faults.

    So a fault of the defaults is reported once, not again with every film.
    """
    faults = [
        f"{describe_value(name)}: unknown; there are {', '.join(FIELDS_WITH_DEFAULTS)}"
        for name in islice(fields, MOST_FAULTS)
        if name not in FIELDS_WITH_DEFAULTS
    ]
    defaults = {name: fields[name] for name in FIELDS_WITH_DEFAULTS if name in fields}
    probe = {**defaults, "shots": PLACEHOLDER_SHOTS}
    faults += field_faults(probe)
    try:
        parse_work(probe)
        image_digests(images_in(defaults), digest_of)
    except StoryboardError as error:
        faults += error.faults
    if faults:
        wrong = {fault.partition(":")[0] for fault in faults}
        defaults = {name: value for name, value in defaults.items() if name not in wrong}
        if "duration" in wrong:  # the longest, so that no film seems to overrun it
            defaults["duration"] = 25
    return defaults, faults


def field_faults(fields: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the fields that a storyboard does not check itself."""
    for name in fields:
        if name not in FIELDS:
            yield f"{describe_value(name)}: unknown; a film has {', '.join(FIELDS)}"
    if "task" in fields:
        mixed = [name for name in STORYBOARD_FIELDS if name in fields]
        if mixed:
            yield f"task: instead of {' and '.join(mixed)}, not beside"
    elif "shots" not in fields:
        yield "shots: missing; or a task, with model and input"
    key = fields.get("key")
    if key is not None:
        yield from key_faults(key)
    takes = fields.get("takes", 1)
    if isinstance(takes, bool) or not isinstance(takes, int) or not 1 <= takes <= MOST_TAKES:
        yield f"takes: a whole number from 1 to {MOST_TAKES}, not {describe_value(takes)}"
    for name, image in images_in(fields):
        if isinstance(image, str) and CONTROL_OR_BREAK.search(image):
            yield f"{name}: without control characters"
    shots = fields.get("shots")
    for number, shot in enumerate(shots[:MOST_SHOTS] if isinstance(shots, list) else ()):
        scene = shot.get("scene") if isinstance(shot, Mapping) else None
        if isinstance(scene, str) and CONTROL.search(scene):
            yield f"shots[{number}].scene: without control characters"


def images_in(fields: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield each image of a film with its field's name, whatever its type."""
    task = fields.get("task")
    images = task.get("images") if isinstance(task, Mapping) else None
    if isinstance(images, Mapping):
        for name, image in images.items():
            several = isinstance(image, list)
            for number, one in enumerate(image if several else [image]):
                yield f"task.images.{_plain_name(name)}{f'[{number}]' if several else ''}", one
    if "image" in fields:
        yield "image", fields["image"]


def unfetchable_images(fields: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the field of each image URL that the service cannot fetch, and the reason."""
    for name, image in images_in(fields):
        if isinstance(image, str) and "://" in image and (fault := next(fetch_faults(image), "")):
            yield name, fault


def _plain_name(name: object) -> str:
    """The name of a field in a message: quoted unless it is one plain word."""
    return name if isinstance(name, str) and name.isidentifier() else describe_value(name)

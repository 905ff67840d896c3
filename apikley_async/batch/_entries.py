"""What one film of a manifest says: checked, and turned into an `Entry` of the journal.

Pure but for one look at each image file, which must be what it says before anything is paid.
The fields are those of DESIGN: key, takes, shots, duration, aspect_ratio, image; or task.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import attrs

from apikley_async import Storyboard, Task, read_picture
from apikley_async.batch._store import Entry, Item
from apikley_async.errors import StoryboardError, UploadError

__all__ = ["Record", "entries_of", "entry_of", "work_of"]

FIELDS = ("key", "takes", "shots", "duration", "aspect_ratio", "image", "task")
DEFAULTS = ("takes", "duration", "aspect_ratio", "image")
MOST_TAKES = 100
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
KEY = re.compile(r"[^\W_][\w.\- ]{0,79}")


@attrs.frozen
class Record:
    """One film as it was read: where it stands, and its fields."""

    where: str
    fields: Mapping[str, Any]


def entries_of(
    record: Record, defaults: Mapping[str, Any], *, base: Path, allow_outside: bool = False
) -> list[Entry]:
    """The entries a record stands for: one, or as many as it has takes.

    Raises:
        StoryboardError: with every fault of the record, not yet with its place.
    """
    fields = {**defaults, **record.fields} if "task" not in record.fields else {**record.fields}
    faults = [*field_faults(fields)]
    work: Storyboard | Task | None = None
    try:
        work = _read_work(fields)
    except StoryboardError as error:
        faults += error.faults
    image = fields.get("image")
    digest = ""
    if isinstance(image, str) and "task" not in fields and "://" not in image:
        try:
            digest = image_digest(base, image, allow_outside)
        except (StoryboardError, UploadError) as error:
            faults.append(error.faults[0] if isinstance(error, StoryboardError) else error.message)
    if faults or work is None:
        raise StoryboardError(faults)
    key = fields.get("key")
    named = None if key is None else unicodedata.normalize("NFC", str(key))
    return [
        entry_of(work, named, take=take, base=base, where=record.where, image_digest=digest)
        for take in range(1, fields.get("takes", 1) + 1)
    ]


def entry_of(
    work: Storyboard | Task,
    key: str | None,
    *,
    take: int = 1,
    base: Path | None = None,
    where: str = "",
    image_digest: str = "",
) -> Entry:
    """The entry for a work; without a key its name is made from its content."""
    payload = payload_of(work)
    content = payload | ({"image": image_digest} if image_digest else {})
    marked = json.dumps([content, take] if take > 1 else content, sort_keys=True)
    digest = hashlib.sha256(marked.encode()).hexdigest()
    stem = key if key is not None else f"film-{content_name(content)}"
    return Entry(
        key=stem if take == 1 else f"{stem}.{take}",
        payload=json.dumps(payload, ensure_ascii=False, sort_keys=True),
        digest=digest,
        base=str(base.absolute()) if base else "",
        where=where,
        named=key is not None,
    )


def content_name(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def payload_of(work: Storyboard | Task) -> dict[str, Any]:
    """A work as plain JSON values, in the manifest's own words."""
    if isinstance(work, Task):
        return {"task": {"model": work.model, "input": dict(work.input)}}
    return {
        "shots": [{"scene": s.scene, "duration": _tidy(s.duration)} for s in work.shots],
        "duration": work.duration,
        "aspect_ratio": work.aspect_ratio,
        "image": None if work.image is None else os.fspath(work.image),
    }


def work_of(item: Item) -> Storyboard | Task:
    """The work an item stands for, its image where the manifest's folder has it."""
    work = _read_work(json.loads(item.payload))
    if isinstance(work, Storyboard) and isinstance(work.image, str) and "://" not in work.image:
        return attrs.evolve(work, image=Path(item.base) / work.image)
    return work


def field_faults(fields: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the fields that a storyboard does not know."""
    for name in fields:
        if name not in FIELDS:
            yield f"{str(name)[:40]!r}: unknown; a film has {', '.join(FIELDS)}"
    if "task" in fields:
        mixed = [name for name in ("shots", "image") if name in fields]
        if mixed:
            yield f"task: instead of {' and '.join(mixed)}, not beside"
    key = fields.get("key")
    if key is not None:
        yield from key_faults(key)
    takes = fields.get("takes", 1)
    if isinstance(takes, bool) or not isinstance(takes, int) or not 1 <= takes <= MOST_TAKES:
        yield f"takes: a whole number from 1 to {MOST_TAKES}, not {takes!r:.40}"
    for number, shot in enumerate(_listed(fields.get("shots"))):
        scene = shot.get("scene") if isinstance(shot, Mapping) else None
        if isinstance(scene, str) and CONTROL.search(scene):
            yield f"shots[{number}].scene: without control characters"


def key_faults(key: object) -> Iterator[str]:
    """A key names files: letters, digits, spaces and `._-`, beginning with a letter or digit."""
    if isinstance(key, bool) or not isinstance(key, str | int):
        yield f"key: a word, not {key!r:.40}"
    elif not KEY.fullmatch(str(key)) or str(key)[-1] in ". ":
        yield (
            "key: letters, digits, spaces and ._-, at most 80, beginning with a letter or digit "
            f"and not ending with a dot or space, not {str(key)[:40]!r}"
        )


def image_digest(base: Path, image: str, allow_outside: bool) -> str:
    """The SHA-256 of an image that may be used; it stays inside the manifest's folder."""
    place = (base / image).resolve()
    if not allow_outside and not place.is_relative_to(base.resolve()):
        raise StoryboardError(f"image: inside the manifest's folder, not {image!r:.80}")
    about = place.stat() if place.exists() else None
    return _digest(place, about and (about.st_mtime_ns, about.st_size, about.st_ino))


@lru_cache(maxsize=1024)
def _digest(place: Path, _version: object) -> str:
    return read_picture(place).digest


def _read_work(fields: Mapping[str, Any]) -> Storyboard | Task:
    if "task" in fields:
        task = fields["task"]
        if not isinstance(task, Mapping) or set(task) - {"model", "input"}:
            raise StoryboardError("task: a model and an input, nothing else")
        return Task(task.get("model", ""), task.get("input", {}))
    return Storyboard(
        [_as_shot(shot) for shot in _listed(fields.get("shots"))],
        duration=fields.get("duration", 15),
        aspect_ratio=fields.get("aspect_ratio", "landscape"),
        image=fields.get("image"),
    )


def _as_shot(shot: object) -> Any:
    """A number is a scene's text too: `scene: 1984`."""
    if isinstance(shot, Mapping) and type(shot.get("scene")) in (int, float):
        return {**shot, "scene": str(shot["scene"])}
    return shot


def _listed(shots: object) -> list[Any]:
    if shots is None:
        return []
    if not isinstance(shots, list | tuple):
        raise StoryboardError(f"shots: a list of shots, not {type(shots).__name__}")
    return [*shots]


def _tidy(duration: float) -> float:
    return int(duration) if duration == int(duration) else duration

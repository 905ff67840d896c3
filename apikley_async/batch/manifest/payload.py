"""What the journal keeps of a film: its payload and its digest, written and read back.

The payload is the work as JSON, with the digests of its image files and the user's metadata. The
digest identifies the content, so that nothing is paid twice; its form has a version.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs

from apikley_async import Image, ModelTask, PinnedImage, Shot, Storyboard, Work, with_images
from apikley_async._text import describe_value, encodes
from apikley_async.batch.keys import normalize_key, take_key
from apikley_async.batch.manifest.image_files import is_image_file, leaves_folder
from apikley_async.batch.manifest.work_fields import parse_work
from apikley_async.batch.store.values import Item, ManifestEntry
from apikley_async.errors import JournalError, ManifestError, StoryboardError

__all__ = ["make_entry", "make_takes", "payload_text", "purged_payload", "work_of"]

STORYBOARD_DEFAULTS = {
    field.name: field.default
    for field in attrs.fields(Storyboard)
    if field.default is not attrs.NOTHING
}
TASK_DEFAULTS: Mapping[str, Any] = {"input": {}, "images": {}}
DIGEST_VERSION = 2  # written before the digest; version 1 has no prefix
# Version 1 hashes these fields even where they equal their defaults.
ALWAYS_IN_VERSION_1 = ("shots", "duration", "aspect_ratio", "image", "model", "input")
METADATA = "metadata"  # of the payload: the user's own; never sent, and not in the digest
IMAGE_DIGESTS = "image_sha256"  # of the payload: the image files as they were when planned
REMOVED = "(removed)"  # replaces a scene that was purged


def make_entry(
    work: Work,
    key: object,
    *,
    take: int = 1,
    base: Path | None = None,
    where: str = "",
    digests: Mapping[str, str] | None = None,
) -> ManifestEntry:
    """The entry of one take of a work; without a key it is named after its content.

    Raises:
        ManifestError: the name of the folder *base* cannot be stored.
    """
    [entry] = make_takes(work, key, (take,), base=base, where=where, digests=digests)
    return entry


def make_takes(
    work: Work,
    key: object,
    takes: Iterable[int],
    *,
    base: Path | None = None,
    where: str = "",
    digests: Mapping[str, str] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> list[ManifestEntry]:
    """The entries of some takes of a work; they share one payload.

    Args:
        work: what is made.
        key: of the first take; None names the film after its content.
        takes: the numbers of the takes, from 1.
        base: the folder that image files are relative to.
        where: the place in the manifest, for messages.
        digests: the digests of the image files, by path.
        metadata: the user's own values, which are kept with the film and never sent.

    Raises:
        ManifestError: the name of the folder *base* cannot be stored.
    """
    digests = digests or {}
    content = work.to_dict(
        with_images(work.images, lambda image: digests.get(os.fsdecode(image), image))
    )
    text = payload_text(_payload(work, base or Path(), digests, metadata))
    digest_of, former_digest_of = take_digests(content), take_digests(content, 1)
    # Keys made from the content have always been made from version 1.
    stem = f"film-{former_digest_of(1)[:12]}" if key is None else normalize_key(key)
    folder = str(base.absolute()) if base else ""
    if not encodes(folder):
        raise ManifestError([f"{where}: a folder with a name in Unicode, not {folder!r}"])
    return [
        ManifestEntry(
            key=take_key(stem, take),
            payload=text,
            digest=digest_of(take),
            base=folder,
            where=where,
            named=key is not None,
            former=(former_digest_of(take),),
        )
        for take in takes
    ]


def _payload(
    work: Work, base: Path, digests: Mapping[str, str], metadata: Mapping[str, Any] | None
) -> dict[str, Any]:
    def stored_path(image: Image) -> Image:
        """An image outside of the folder, which was allowed, is stored with its absolute path."""
        outside = os.fsdecode(image) in digests and leaves_folder(image)
        return os.path.normpath(base.absolute() / image) if outside else image

    payload = dict(work.to_dict(with_images(work.images, stored_path)))
    if digests:
        payload[IMAGE_DIGESTS] = {
            os.fsdecode(stored_path(name)): digest for name, digest in digests.items()
        }
    if metadata:
        payload[METADATA] = dict(metadata)
    return payload


def take_digests(content: Mapping[str, Any], version: int = DIGEST_VERSION) -> Callable[[int], str]:
    """A function that gives the digest of each take; the content is hashed only once."""
    text = json.dumps(hashed_content(content, version), sort_keys=True)
    prefix = "" if version == 1 else f"{version}:"
    first, others = hashlib.sha256(text.encode()), hashlib.sha256(f"[{text}, ".encode())

    def digest_of(take: int) -> str:
        if take == 1:
            return f"{prefix}{first.hexdigest()}"
        digest = others.copy()
        digest.update(f"{take}]".encode())
        return f"{prefix}{digest.hexdigest()}"

    return digest_of


def hashed_content(content: Mapping[str, Any], version: int = DIGEST_VERSION) -> dict[str, Any]:
    """The part of a work's content that its digest is made of."""
    if "task" in content:
        return {"task": without_defaults(content["task"], TASK_DEFAULTS, version)}
    return without_defaults(content, STORYBOARD_DEFAULTS, version)


def without_defaults(
    fields: Mapping[str, Any], defaults: Mapping[str, Any], version: int = DIGEST_VERSION
) -> dict[str, Any]:
    """The fields that differ from their defaults.

    So an optional field that is added to the package later changes no digest.
    """
    always = ALWAYS_IN_VERSION_1 if version == 1 else ()
    return {
        name: value
        for name, value in fields.items()
        if name in always or name not in defaults or value != defaults[name]
    }


def payload_text(payload: Mapping[str, Any]) -> str:
    """A payload as JSON that a database can store, also with a file name that is not Unicode."""
    text = json.dumps(payload, ensure_ascii=False, sort_keys=True)
    return text if encodes(text) else json.dumps(payload, sort_keys=True)


def work_of(item: Item) -> Work:
    """The work of an item, read from the journal and validated like a manifest.

    Its image files are those in the manifest's folder, pinned to what they were when planned. A
    file is not uploaded when its content has changed, when it has no digest, or when it lies
    outside of that folder without an absolute path.

    Raises:
        JournalError: the payload is not one that a manifest could have given.
    """
    try:
        return _parse_payload(item)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OSError) as error:
        reason = str(error) if isinstance(error, StoryboardError) else "it is no film"
        raise JournalError(
            "the journal is damaged, or was not written by this program: "
            f"{describe_value(item.key)}: {reason}"
        ) from None


def purged_payload(item: Item) -> str:
    """The payload of an item without its prompts and images, at the same price."""
    work = work_of(item)
    if isinstance(work, Storyboard):
        shots = [Shot(REMOVED, shot.duration) for shot in work.shots]
        return payload_text(attrs.evolve(work, shots=shots, image=None).to_dict())
    return payload_text(ModelTask(work.model).to_dict())


def _parse_payload(item: Item) -> Work:
    payload = json.loads(item.payload)
    digests = payload.pop(IMAGE_DIGESTS, {})
    payload.pop(METADATA, None)
    if isinstance(digests, str):  # from the time when a film had one image at most
        digests = {payload["image"]: digests}
    if not payload.keys() & {"shots", "task"}:
        raise StoryboardError("shots: missing")

    def pinned(image: Image) -> Image:
        if not is_image_file(image):
            return image
        if leaves_folder(image):
            raise StoryboardError(
                f"image: inside the manifest's folder, not {describe_value(image)}"
            )
        return PinnedImage(Path(item.base) / image, digests.get(image, ""))

    work = parse_work(payload)
    if isinstance(work, ModelTask):
        return attrs.evolve(work, images=with_images(work.images, pinned))
    if isinstance(work, Storyboard) and work.image is not None:
        return attrs.evolve(work, image=pinned(work.image))
    return work

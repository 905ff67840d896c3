"""Image files that a manifest names: checked and hashed before anything is paid."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeAlias

from apikley_async import Image
from apikley_async._images import read_image
from apikley_async._text import describe_value, encodes
from apikley_async.errors import StoryboardError, UploadError

__all__ = ["ImageDigest", "image_digest", "image_digests", "is_image_file", "leaves_folder"]

ImageDigest: TypeAlias = Callable[[str], str]
"""Gives the SHA-256 of an image file by its name in the manifest."""


def is_image_file(image: object) -> bool:
    """Whether *image* is the path of a file: not a URL, and not blank."""
    return isinstance(image, str) and "://" not in image and image.strip() != ""


def leaves_folder(image: Image) -> bool:
    """Whether a relative path leads out of the folder that it is relative to."""
    return Path(os.path.normpath(image)).parts[:1] == (os.pardir,)


def image_digests(images: Iterable[tuple[str, Any]], digest_of: ImageDigest) -> dict[str, str]:
    """The digests of those *images* that are files, by their paths.

    Args:
        images: the field of each image, and the image.
        digest_of: gives the digest of one file.

    Raises:
        StoryboardError: with the field and the fault of every image that cannot be used.
    """
    digests: dict[str, str] = {}
    faults: list[str] = []
    for field, image in images:
        name = os.fsdecode(image) if isinstance(image, os.PathLike) else image
        if not is_image_file(name):
            continue
        try:
            digests[name] = digest_of(name)
        except StoryboardError as error:
            faults += [f"{field}{fault.removeprefix('image')}" for fault in error.faults]
    if faults:
        raise StoryboardError(faults)
    return digests


def image_digest(base: Path, image: str, allow_outside: bool) -> str:
    """The SHA-256 of one image file.

    Args:
        base: the manifest's folder, which *image* is relative to.
        image: the path as the manifest names it.
        allow_outside: whether the file may lie outside of *base*.

    Raises:
        StoryboardError: the file is missing, is no image, or lies outside.
    """
    if not encodes(image):
        raise StoryboardError(f"image: a name in Unicode, not {describe_value(image)}")
    try:
        path = (base / image).resolve()
        inside = allow_outside or path.is_relative_to(base.resolve())
    except (OSError, ValueError, RuntimeError):  # a circle of links, a NUL, an endless name
        raise StoryboardError(f"image: a path, not {describe_value(image)}") from None
    if not inside:
        raise StoryboardError(f"image: inside the manifest's folder, not {describe_value(image)}")
    try:
        return read_image(path).sha256
    except UploadError as error:
        reason = error.message.removeprefix("image ")
        raise StoryboardError(f"image: {reason}") from None

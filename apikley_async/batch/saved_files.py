"""Files of films on the disk: hashed when they are saved, and compared later."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import attrs

from apikley_async import SavedFile
from apikley_async.batch.store.values import Item

__all__ = ["file_faults", "hash_file", "is_lost", "locate"]


def hash_file(path: Path) -> SavedFile:
    """The file at *path* with its size and SHA-256. Blocks."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return SavedFile(path.absolute(), file.tell(), digest)


def file_faults(saved: Iterable[tuple[str, SavedFile]]) -> list[str]:
    """List the saved files, given with their item's key, that are not as they were. Blocks."""
    faults = []
    for key, file in saved:
        if not file.path.is_file():
            faults.append(f"{key}: {file.path} is gone")
        elif file.path.stat().st_size != file.size:
            faults.append(f"{key}: {file.path} has changed its size")
        elif hash_file(file.path) != file:
            faults.append(f"{key}: {file.path} has changed: it is not the film that was saved")
    return faults


def locate(item: Item, folders: Sequence[Path]) -> Item:
    """The item with each file where it is now. Blocks.

    A file that is not where it was saved is looked for in *folders*, by its name and size. What is
    in none of them keeps its path.
    """

    def found(file: SavedFile) -> SavedFile:
        if file.path.is_file():
            return file
        for path in (folder / file.path.name for folder in folders):
            if path.is_file() and path.stat().st_size == file.size:
                return attrs.evolve(file, path=path)
        return file

    return attrs.evolve(item, files=tuple(map(found, item.files)))


def is_lost(item: Item, *, or_changed: bool) -> bool:
    """Whether a file of a done item is missing, or has changed where that counts. Blocks."""
    if or_changed:
        return bool(file_faults((item.key, file) for file in item.files))
    return not all(file.path.is_file() for file in item.files)

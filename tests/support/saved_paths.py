"""Saving files, and comparing what is said of them with what is on the disk."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from apikley_async import Result
from apikley_async._download.saver import Saver

__all__ = ["save"]


async def save(
    saver: Saver, result: Result, target: str | os.PathLike[str], **options: Any
) -> list[Path]:
    """Save a result; size and SHA-256 are those of the files. Gives their paths."""
    saved = await saver.save(result, target, **options)
    for file in saved:
        with file.path.open("rb") as content:
            assert file.sha256 == hashlib.file_digest(content, "sha256").hexdigest()
            assert file.size == content.tell()
    return [file.path for file in saved]

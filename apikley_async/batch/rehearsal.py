"""Films of a rehearsal: made by a simulated service, never paid, and known by their last box."""

from __future__ import annotations

import os
import struct
from pathlib import Path

__all__ = ["REHEARSAL_MARK", "is_rehearsal"]

REHEARSAL_MARK = struct.pack(">I4s", 26, b"free") + b"apikley: simulated"
"""The last box of a rehearsed film; MP4 has the type `free` for what players skip."""


def is_rehearsal(path: Path) -> bool:
    """Whether *path* is the film of a rehearsal, which a real one may replace. Blocks."""
    try:
        if path.is_symlink() or not path.is_file():
            return False
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - len(REHEARSAL_MARK)))
            return file.read() == REHEARSAL_MARK
    except OSError:  # not ours to read, so not ours to replace
        return False

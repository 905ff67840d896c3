"""Films of a rehearsal: made by a simulated service, never paid, and marked by their last box."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from apikley_async._disk import open_nonblocking

__all__ = ["REHEARSAL_MARK", "is_rehearsal"]

REHEARSAL_MARK = struct.pack(">I4s", 26, b"free") + b"apikley: simulated"
"""The last box of a rehearsed film; players skip boxes of the MP4 type `free`."""


def is_rehearsal(path: Path) -> bool:
    """Whether *path* is the film of a rehearsal, which a paid one may replace. Blocks."""
    try:
        if path.is_symlink() or not path.is_file():
            return False
        # A journal from elsewhere may name what never ends, such as the kernel's messages.
        with open(path, "rb", opener=open_nonblocking) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - len(REHEARSAL_MARK)))
            return file.read(len(REHEARSAL_MARK) + 1) == REHEARSAL_MARK
    except OSError:  # a file that we cannot read is not ours to replace
        return False

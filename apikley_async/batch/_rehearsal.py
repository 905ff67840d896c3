"""Films of a rehearsal: made by a simulated service, never paid, and known by their last box."""

from __future__ import annotations

import os
import struct
from pathlib import Path

__all__ = ["REHEARSAL_MARK", "is_rehearsal", "only_rehearsals"]

REHEARSAL_MARK = struct.pack(">I4s", 26, b"free") + b"apikley: simulated"
"""The last box of a rehearsed film; MP4 has the type `free` for what players skip."""

STILL = ".png"  # what the simulator makes of tasks that make images


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


def only_rehearsals(target: Path, files: int) -> bool:
    """Whether films of rehearsals, and nothing else, stand where *files* are to go. Blocks."""
    names = [target, *(target.with_stem(f"{target.stem}-{n}") for n in range(1, files + 1))]
    kinds = (target.suffix, STILL)
    there = [
        place
        for name in names
        for place in (name.with_name(f"{name.stem}{kind}") for kind in kinds)
        if os.path.lexists(place)
    ]
    return bool(there) and all(map(is_rehearsal, there))

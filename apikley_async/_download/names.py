"""What the files of a result are called: names that no id and no content type can spoil."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from apikley_async._download.media import KIN, kind_of
from apikley_async._result import Result

SUFFIXES = (
    *(".mp4", ".mov", ".m4v", ".webm", ".gif"),
    *(".png", ".jpg", ".jpeg", ".webp", ".avif"),
    *(".mp3", ".wav", ".m4a", ".ogg", ".flac"),
)
DEVICES = re.compile(r"(CON|PRN|AUX|NUL|COM[0-9]|LPT[0-9])(\..*)?", re.IGNORECASE)


def target_names(result: Result, target: str | os.PathLike[str]) -> list[Path]:
    """Say where the files go: *target* is a folder, unless it has the suffix of a film."""
    text = os.fspath(target)
    place = Path(text)
    if place.suffix.lower() in SUFFIXES and not text.endswith("/") and not is_folder(place):
        folder, stem, suffix = place.parent, place.stem, place.suffix
    else:
        folder, stem, suffix = place, safe_name(result.task_id), ".mp4"
    if len(result.urls) == 1:
        return [folder / f"{stem}{suffix}"]
    return [folder / f"{stem}-{number}{suffix}" for number in range(1, len(result.urls) + 1)]


def is_folder(place: Path) -> bool:
    """Whether a folder is there; what no disk could hold is told when it is to be written."""
    try:
        return place.is_dir()
    except OSError:
        return False


def safe_name(task_id: str) -> str:
    """A file name from an id: letters, digits, `._-`; anything else leaves a mark of the whole."""
    name = re.sub(r"[^A-Za-z0-9._-]", "_", task_id).strip("._-")[:100]
    if name and name == task_id and not DEVICES.fullmatch(name):
        return name
    mark = hashlib.sha256(task_id.encode(errors="surrogatepass")).hexdigest()[:12]
    return f"{mark if DEVICES.fullmatch(name) else name or 'film'}-{mark}"


def fitting(name: Path, head: bytes) -> Path:
    """*name*, with another suffix if its own belongs to another kind than the first bytes."""
    suffix = kind_of(head) or name.suffix
    wanted = name.suffix.lower()
    kin = KIN.get(wanted, wanted) == KIN.get(suffix, suffix)
    return name if kin else name.with_suffix(suffix)

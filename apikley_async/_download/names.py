"""What the files of a result are called: plain names, whatever the id or the content is."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from apikley_async._download.media import SAME_FORMAT, suffix_of
from apikley_async._result import Result

SUFFIXES = (
    *(".mp4", ".mov", ".m4v", ".webm", ".gif"),
    *(".png", ".jpg", ".jpeg", ".webp", ".avif"),
    *(".mp3", ".wav", ".m4a", ".ogg", ".flac"),
)
WINDOWS_DEVICES = re.compile(r"(CON|PRN|AUX|NUL|COM[0-9]|LPT[0-9])(\..*)?", re.IGNORECASE)


def target_paths(result: Result, target: str | os.PathLike[str]) -> list[Path]:
    """The path for each file of *result*.

    Args:
        result: of a task.
        target: a folder, unless it has the suffix of a film and no folder is there.
    """
    text = os.fspath(target)
    path = Path(text)
    if path.suffix.lower() in SUFFIXES and not text.endswith("/") and not is_folder(path):
        folder, stem, suffix = path.parent, path.stem, path.suffix
    else:
        folder, stem, suffix = path, safe_name(result.task_id), ".mp4"
    if len(result.urls) == 1:
        return [folder / f"{stem}{suffix}"]
    return [folder / f"{stem}-{number}{suffix}" for number in range(1, len(result.urls) + 1)]


def is_folder(path: Path) -> bool:
    """Whether a folder is there; a path that no disk can hold is an error when it is written."""
    try:
        return path.is_dir()
    except OSError:
        return False


def safe_name(task_id: str) -> str:
    """A file name for an id: letters, digits and `._-`.

    An id with anything else gets a digest of the whole, so that two ids never share a name.
    """
    name = re.sub(r"[^A-Za-z0-9._-]", "_", task_id).strip("._-")[:100]
    if name and name == task_id and not WINDOWS_DEVICES.fullmatch(name):
        return name
    digest = hashlib.sha256(task_id.encode(errors="surrogatepass")).hexdigest()[:12]
    return f"{digest if WINDOWS_DEVICES.fullmatch(name) else name or 'film'}-{digest}"


def with_matching_suffix(path: Path, head: bytes) -> Path:
    """*path*, with another suffix where its own is of another format than the first bytes."""
    found = suffix_of(head) or path.suffix
    wanted = path.suffix.lower()
    matches = SAME_FORMAT.get(wanted, wanted) == SAME_FORMAT.get(found, found)
    return path if matches else path.with_suffix(found)

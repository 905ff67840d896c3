"""Posters: a small picture beside each film, made of the film when it was saved.

Needs PyAV and Pillow, which the extra `simulator` has; without them there are none. A poster names
the SHA-256 of its film, so that one that is old or somebody else's is neither shown nor replaced.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from apikley_async import SavedFile
from apikley_async._disk import read_own, write_whole

__all__ = ["make_posters", "poster_of", "poster_path", "posters_available"]

WIDEST = 480  # pixels of the longer side
QUALITY = 80
AT = 0.2  # the share of a film at which it is pictured: later than a fade from black
MOST_FRAMES = 120  # that are decoded on the way there
MOST_PIXELS = 64_000_000  # of one frame; more is a decompression bomb
MARK = b"apikley: poster of "
HEAD = 1024  # bytes; the mark stands in the first segments of a JPEG


def posters_available() -> bool:
    """Whether the libraries that make posters are installed; loads none of them."""
    return all(find_spec(name) is not None for name in ("av", "PIL"))


def poster_path(film: Path) -> Path:
    """Where the poster of a film lies, or would: `kitten.poster.jpg` beside `kitten.mp4`."""
    return film.with_suffix(".poster.jpg")


def poster_of(film: SavedFile) -> Path | None:
    """The poster that was made of this very file; None without one. Blocks."""
    path = poster_path(film.path)
    return path if mark_of(film.sha256) in head_of(path) else None


def make_posters(films: Iterable[SavedFile]) -> list[Path]:
    """Make the posters that are missing, and give their paths. Blocks.

    A file of another origin is never replaced; a film that cannot be decoded gets no poster.
    """
    made = []
    for film in films:
        path = poster_path(film.path)
        if poster_of(film) is not None:
            continue
        if os.path.lexists(path) and not is_poster(path):
            continue
        if (picture := frame_of(film.path)) is None:
            continue
        content = encoded(picture, film.sha256)
        with contextlib.suppress(OSError):  # a full disk: the film itself is there
            if write_whole(path, content, mode=0o666, is_ours=partial(is_poster, path)):
                made.append(path)
    return made


def is_poster(path: Path) -> bool:
    """Whether a file is a poster, of whatever film. Blocks."""
    return MARK in head_of(path)


def mark_of(sha256: str) -> bytes:
    return MARK + sha256.encode()


def head_of(path: Path) -> bytes:
    """The first bytes of a file of ours; empty for any other."""
    try:
        return read_own(path, HEAD)
    except OSError:
        return b""


def frame_of(film: Path) -> Any:
    """A frame of a film as a picture of Pillow; None if it cannot be decoded, or not here."""
    try:
        import av
        from PIL import Image
    except ImportError:
        return None
    try:
        with av.open(film, "r") as container:
            stream = container.streams.video[0]
            if stream.codec_context.width * stream.codec_context.height > MOST_PIXELS:
                return None
            target = AT * container.duration / av.time_base if container.duration else 0.0
            container.seek(int(target * av.time_base))
            found = None
            for number, frame in enumerate(container.decode(stream)):
                found = frame
                if (frame.time or 0.0) >= target or number >= MOST_FRAMES:
                    break
            if found is None:
                return None
            picture: Any = found.to_image()  # type: ignore[no-untyped-call]
            picture.thumbnail((WIDEST, WIDEST), Image.Resampling.LANCZOS)
            return picture
    except (av.FFmpegError, OSError, ValueError, IndexError, MemoryError):
        return None


def encoded(picture: Any, sha256: str) -> bytes:
    """A picture as JPEG that names the film it was made of."""
    data = io.BytesIO()
    mark = mark_of(sha256)
    picture.convert("RGB").save(data, "JPEG", quality=QUALITY, optimize=True, comment=mark)
    return data.getvalue()

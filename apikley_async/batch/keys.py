"""Keys: the names of films in a batch, which are the stems of their files too."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from apikley_async._text import describe_value

__all__ = [
    "KEY",
    "file_name_fault",
    "is_stored_key",
    "key_faults",
    "normalize_key",
    "take_key",
]

KEY = re.compile(r"[^\W_][\w.\- ]{0,79}")
LONGEST_KEY = 160  # bytes; with its suffixes it must fit into a file name of at most 255
VERSION_AND_TAKE = re.compile(r"(\.v[0-9]{1,6})?(\.[0-9]{1,3})?$")
# Letters without a shape, which some file systems ignore: Hangul fillers.
INVISIBLE = frozenset("\u115f\u1160\u3164\uffa0")
# Names that mean a device on Windows, with any suffix.
DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]) *(\..*)?", re.IGNORECASE)


def key_faults(key: object) -> Iterator[str]:
    """Yield what is wrong with a key.

    A key is made of letters, digits, spaces and `._-`, and begins with a letter or digit, so that
    it can name a file on every system.
    """
    if isinstance(key, bool) or not isinstance(key, str | int):
        yield f"key: a word, not {describe_value(key)}; in quotes, anything is a word"
        return
    name = normalize_key(key)
    if not KEY.fullmatch(name) or name[-1] in ". " or INVISIBLE & {*name}:
        yield (
            "key: letters, digits, spaces and ._-, at most 80, beginning with a letter or digit "
            f"and not ending with a dot or space, not {describe_value(key)}"
        )
    elif len(name.encode()) > LONGEST_KEY:
        yield f"key: at most {LONGEST_KEY} bytes in UTF-8, not {len(name.encode())}"
    elif DEVICES.fullmatch(name):
        yield f"key: a name that is a file on every system, not {name!r}"


def file_name_fault(stem: str, most: int) -> str | None:
    """Say that the file of *stem* has a name longer than *most* bytes; None when it fits."""
    name = len(f"{stem}-1.mp4".encode())
    if name <= most:
        return None
    limit = f"the disk takes {most}; a shorter key"
    return f"{describe_value(stem)} names a file of {name} bytes, and {limit}"


def is_stored_key(key: str) -> bool:
    """Whether a journal may hold *key*: a manifest's key, maybe with a version and a take."""
    stem = VERSION_AND_TAKE.sub("", key)
    return normalize_key(key) == key and not any(key_faults(stem))


def take_key(stem: str, take: int) -> str:
    """The key of a take: the film's own key for the first, `kitten.2` for the second."""
    return stem if take == 1 else f"{stem}.{take}"


def normalize_key(key: object) -> str:
    """A key in Unicode's composed form (NFC); empty when it cannot be a key at all."""
    try:
        return unicodedata.normalize("NFC", str(key))
    except ValueError:  # Python refuses to print an integer of thousands of digits
        return ""

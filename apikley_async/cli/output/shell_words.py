"""Commands for people to type: how to resume, and what they may decide."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable

import click

__all__ = ["command_line", "quoted", "same_command", "typed_options", "without_password"]


def command_line(*words: str, names: Iterable[object] = ()) -> str:
    """A command to type. *names* of files, films and tasks are its end, and none is an option.

    They stand behind `--` only where one begins with a dash: so further options may be added.
    """
    last = [str(name) for name in names]
    mark = ["--"] if any(name.startswith("-") for name in last) else []
    return joined(["apikley", *words, *mark, *last])


def same_command(*more: str) -> str:
    """This command as it was typed, bounds and service included, with options *more* added."""
    words, names = _typed()
    return joined(["apikley", *words, *more, *names])


def typed_options() -> list[str]:
    """The words of this command as they were typed, without what `--` keeps from being options."""
    return _typed()[0]


def _typed() -> tuple[list[str], list[str]]:
    """The words of this command, and those from `--` on."""
    words = [str(word) for word in click.get_current_context().find_root().obj or ()]
    end = words.index("--") if "--" in words else len(words)
    return words[:end], words[end:]


def without_password(word: str) -> str:
    """A word in which the password of a URL is replaced by stars."""
    return re.sub(r"(://[^/?#@\s:]*):[^/?#\s]*@", r"\1:***@", word)


def joined(words: Iterable[str]) -> str:
    """Words as one line for a shell, which is also safe to print on a terminal."""
    return " ".join(quoted(without_password(word)) for word in words)


def quoted(word: str) -> str:
    """A word in quotes where it needs them; in `$'...'` if a character is not printable."""
    if word.isprintable():
        return shlex.quote(word)
    return f"$'{''.join(map(escaped, word))}'"


def escaped(character: str) -> str:
    """A character inside `$'...'`."""
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file's name that is not valid UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if character in "'\\":
        return f"\\{character}"
    if character.isprintable():
        return character
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"

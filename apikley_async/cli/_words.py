"""Commands to type: how to go on, and what a person may decide."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path

import click

__all__ = ["call", "same_command"]


def call(*words: str, names: Iterable[str | Path] = ()) -> str:
    """A command to type. *names* of files, films and tasks stand behind `--`: none is an option."""
    behind = [str(name) for name in names]
    return shlex.join(["apikley", *words, *(["--", *behind] if behind else [])])


def same_command(*more: str) -> str:
    """This command as it was typed, so with its bounds and its service; options *more* before."""
    context = click.get_current_context().find_root()
    words = [str(word) for word in context.obj or ()]
    end = words.index("--") if "--" in words else len(words)
    return shlex.join(["apikley", *words[:end], *more, *words[end:]])

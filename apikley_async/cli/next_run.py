"""The command that goes on with a batch, within what its last run was allowed to spend.

The journal keeps those bounds for it. They are read like anything of a journal, which may come from
elsewhere: nothing but a known option and what can be a number or a price is shown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence

from apikley_async.batch import Batch
from apikley_async.cli.output.shell_words import command_line

__all__ = ["go_on_line", "store_bounds"]

NAME = "bounds"  # of the value in the store
BOUNDS = ("--price", "--max-credits", "--max-tasks", "--min-balance")
VALUE = re.compile(r"[\w.+][\w.,=:/ +-]*")  # never another option
LONGEST = 1000  # characters of a value that this module has written


async def store_bounds(batch: Batch, typed: Sequence[str]) -> None:
    """Keep the bounds of a run that begins, in the place of those of the run before.

    Args:
        batch: its journal keeps them.
        typed: the words of the command; those of a profile bind the next run by themselves.
    """
    await batch.store.write_learned(NAME, json.dumps(_bounds_in(typed)))


async def go_on_line(batch: Batch, named: object, words: Iterable[str] = ()) -> str:
    """The command that goes on with a batch: a run, or a worker of a shared journal.

    Args:
        batch: open, also read only.
        named: how commands name it.
        words: options that lead it to the same service.
    """
    if batch.store.shared:
        return command_line("worker", "--journal", str(named), *words)
    return command_line("batch", "run", *words, *await _stored_bounds(batch), names=[named])


async def _stored_bounds(batch: Batch) -> list[str]:
    """The bounds of the last run, as words of a command."""
    learned = await batch.store.read_learned(NAME)
    words = None if learned is None else learned.parsed(LONGEST)
    return _bounds_in([str(word) for word in words] if isinstance(words, list) else [])


def _bounds_in(words: Sequence[str]) -> list[str]:
    """Those of the words of a command that bound what is spent: `--price 270`, `--price=270`."""
    found: list[str] = []
    for word, following in zip(words, [*words, ""][1:], strict=True):
        name, equals, value = word.partition("=")
        value = value if equals else following
        if name in BOUNDS and VALUE.fullmatch(value):
            found += (name, value)
    return found

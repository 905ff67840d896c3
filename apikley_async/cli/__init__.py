"""The command line, `apikley`: films from a terminal or a script.

This module only checks that the extra `cli` is installed. The commands are in `commands`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

__all__ = ["main"]


def main(args: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; `apikley --help` lists the commands.

    Args:
        args: the words after `apikley`; by default those of this process.
    """
    open_missing_streams()
    missing = [name for name in ("click", "rich") if find_spec(name) is None]
    if missing:
        from apikley_async.errors import MissingExtraError

        need = f"the command line needs {' and '.join(missing)}"
        sys.stderr.write(f"apikley: {MissingExtraError.of(need, 'cli').message}\n")
        return 2
    from apikley_async.cli.app import run

    return run(args)


def open_missing_streams() -> None:
    """Let a standard stream that was closed from the start, as with `>&-`, be nothing.

    The first file to be opened would get its number, and with it whatever is written to that: it
    may be a film.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115

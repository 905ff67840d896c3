"""The command line, `apikley`: films from a terminal or a script.

This module only checks that the extra `cli` is installed. The commands are in `commands`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec

__all__ = ["main"]


def main(args: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; `apikley --help` lists the commands.

    Args:
        args: the words after `apikley`; by default those of this process.
    """
    missing = [name for name in ("click", "rich") if find_spec(name) is None]
    if missing:
        from apikley_async.errors import MissingExtraError

        need = f"the command line needs {' and '.join(missing)}"
        sys.stderr.write(f"apikley: {MissingExtraError.of(need, 'cli').message}\n")
        return 2
    from apikley_async.cli.app import run

    return run(args)

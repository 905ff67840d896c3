"""The folder of the films: that it can be written, and which one it is."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Collection
from pathlib import Path

from apikley_async._disk import check_writable, nearest_existing_folder
from apikley_async.batch import Batch, is_rehearsal
from apikley_async.cli.exit_codes import PostponedError, RefusedError
from apikley_async.cli.option_types import Place
from apikley_async.cli.output.terminal_text import plain
from apikley_async.errors import JournalError, ManifestError

__all__ = ["check_folder", "last_folder", "make_folder", "rehearsal_folder"]

DEFAULT = Path("films")
PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def make_folder(folder: Path) -> None:
    """Make the folder, and make sure before anything is paid that it can be written. Blocks."""
    try:
        check_writable(folder)
    except OSError as error:
        raise _not_writable(folder, error) from None


def check_folder(folder: Path) -> None:
    """Make sure that the folder could be made and written, without making it. Blocks."""
    try:
        check_writable(nearest_existing_folder(folder))
    except OSError as error:
        raise _not_writable(folder, error) from None


def _not_writable(folder: Path, error: OSError) -> RefusedError:
    """A refusal; one that may be over next time where the disk is full or read only."""
    kind = PostponedError if error.errno in PASSING else RefusedError
    return kind(f"-o {plain(folder)}: cannot be written: {error.strerror}")


def last_folder(journal: Place | None, usual: Path | None = None) -> Path:
    """Where the films of a journal were saved last; the *usual* folder if that is not known.

    Args:
        journal: the journal.
        usual: the folder that the user's profile names; None for `films`.

    Raises:
        RefusedError: it lies outside of the journal's own folder, and the user has named none.
    """
    if journal is None or (isinstance(journal, Path) and not journal.exists()):
        return usual or DEFAULT
    try:
        found = asyncio.run(_recorded_folder(journal)) or usual or DEFAULT
    except RefusedError:
        if usual is None:
            raise
        return usual
    here = Path.cwd()
    return found.relative_to(here) if found.is_relative_to(here) else found


async def _recorded_folder(journal: Place) -> Path | None:
    try:
        async with Batch.open(journal, private=True) as batch:
            return await batch.output_folder()
    except ManifestError as error:
        raise RefusedError(plain(error)) from None
    except JournalError:  # the run will open it again, and report this
        return None


def rehearsal_folder(folder: Path, keys: Collection[str]) -> Path:
    """Where rehearsed films go: not where another film has one of their names. Blocks."""
    names = [folder / f"{key}.mp4" for key in keys]
    taken = any(name.exists() and not is_rehearsal(name) for name in names)
    return folder / "simulated" if taken else folder

"""A person's own settings: `~/.config/apikley/config.toml`, or the file that `--config` names.

A profile limits and saves typing, it never agrees to anything: of two bounds the stricter holds,
and a pipe still needs `--yes` or `--max-credits`. It is believed only if it is this user's and
nobody else can write to it. A file beside a manifest is never read: it may come from elsewhere.
"""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import click

from apikley_async._disk import is_own, open_nonblocking
from apikley_async.cli.exit_codes import RefusedError
from apikley_async.cli.option_types import CREDITS, PerKind, read_price
from apikley_async.cli.output.terminal_text import plain

__all__ = ["Profile", "read_profile"]

MAX_PROFILE = 64 * 1024  # bytes


@attrs.frozen(kw_only=True)
class Profile:
    """What a profile says; None where it says nothing.

    Attributes:
        path: the file; None if there is none.
        key_file: has the API key in its first line.
        folder: where films go.
        price: credits for a film: a number, or by duration or model.
        max_credits: credits of a whole journal.
        max_tasks: films of a whole journal.
        min_balance: credits to be left over.
    """

    path: Path | None = None
    key_file: Path | None = None
    folder: Path | None = None
    price: PerKind = None
    max_credits: float | None = None
    max_tasks: int | None = None
    min_balance: float | None = None


def read_profile(named: Path | None) -> Profile:
    """The profile that the user has named, or the usual one; an empty one without a file.

    Raises:
        RefusedError: it is not this user's, others can write to it, or it says what no profile
            may say. Nothing was sent.
    """
    path = named if named is not None else usual_place()
    if path is None:
        return Profile()
    try:
        text = _own_text(path)
    except FileNotFoundError:
        if named is None:
            return Profile()
        raise RefusedError(f"--config {plain(path)}: there is no such file") from None
    except OSError as error:
        raise RefusedError(f"{plain(path)}: cannot be read: {error.strerror}") from None
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RefusedError(f"{plain(path)}: {plain(error)}") from None
    unknown = sorted(found.keys() - READERS.keys())
    if unknown:
        known = ", ".join(READERS)
        raise RefusedError(f"{plain(path)}: {plain(unknown[0])}: a profile has {known}")
    return Profile(path=path, **{name: _value(path, name, found[name]) for name in found})


def usual_place() -> Path | None:
    """`~/.config/apikley/config.toml`, or below XDG_CONFIG_HOME; None for a user without a home."""
    given = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    try:
        folder = given if given.is_absolute() else Path.home() / ".config"
    except RuntimeError:
        return None
    return folder / "apikley" / "config.toml"


def _own_text(path: Path) -> str:
    """The text of a file that is this user's, and that nobody else can write to."""
    with open(path, "rb", opener=open_nonblocking) as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode) or not is_own(about):
            raise RefusedError(f"{plain(path)}: a profile must be a file of your own")
        if about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            name = plain(path)
            raise RefusedError(f"{name}: others can write to it: chmod go-w {name}")
        content = file.read(MAX_PROFILE + 1)
        if len(content) > MAX_PROFILE:  # a bound might stand in the part that is not read
            raise RefusedError(f"{plain(path)}: a profile has {MAX_PROFILE} bytes at most")
        return content.decode("utf-8-sig", errors="replace")


# --- values ---------------------------------------------------------------------------------------


def _value(path: Path, name: str, value: Any) -> Any:
    try:
        return READERS[name](path, value)
    except (click.BadParameter, TypeError, ValueError) as error:
        reason = error.message if isinstance(error, click.BadParameter) else str(error)
        raise RefusedError(f"{plain(path)}: {name}: {plain(reason)}") from None


def _credits(path: Path, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"credits, 0 or more, not {value!r:.40}")
    return CREDITS.convert(value, None, None)


def _films(path: Path, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise TypeError(f"films, 1 or more, not {value!r:.40}")
    return value


def _place(path: Path, value: Any) -> Path:
    """A path; a relative one belongs to the folder of the profile."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise TypeError(f"a path, not {value!r:.40}")
    try:
        return path.absolute().parent / Path(value).expanduser()
    except RuntimeError:
        raise ValueError(f"{value!r:.40} is below no home that is known") from None


def _price(path: Path, value: Any) -> PerKind:
    """A number, a table by duration or model, or the text of `--price`."""
    if isinstance(value, Mapping):
        value = ",".join(f"{kind}={_credits(path, amount)}" for kind, amount in value.items())
    return read_price(None, None, value) if isinstance(value, str) else _credits(path, value)


READERS: Mapping[str, Callable[[Path, Any], Any]] = {
    "key_file": _place,
    "folder": _place,
    "price": _price,
    "max_credits": _credits,
    "max_tasks": _films,
    "min_balance": _credits,
}

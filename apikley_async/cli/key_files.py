"""Keys and secrets from files or environment variables, never from the command line."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import click

from apikley_async.cli.exit_codes import RefusedError
from apikley_async.cli.output.terminal_text import clean, plain

__all__ = ["API_KEY", "has_api_key", "read_api_key", "read_secrets"]

API_KEY = "APIKLEY_API_KEY"
MAX_LINE = 4096  # bytes
MAX_FILE = 64 * 1024  # bytes; a device has no end


def has_api_key(path: Path | None) -> bool:
    """Whether a key file is named, or the environment has a key."""
    return path is not None or bool(os.environ.get(API_KEY, "").strip())


def read_api_key(path: Path | None) -> str | None:
    """The API key in the first line of a file; None if the environment has it.

    Raises:
        RefusedError: there is no key, or the file cannot be read.
    """
    if path is None:
        if has_api_key(path):
            return None
        raise RefusedError(
            "no API key: set APIKLEY_API_KEY or give --key-file PATH "
            "(keys: https://app.apikley.ru/keys); --simulate needs none"
        )
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            line = file.readline(MAX_LINE)
    except OSError as error:
        raise RefusedError(f"--key-file {plain(path)}: cannot be read: {error.strerror}") from None
    _warn_if_others_can_read(path, mode)
    key = line.decode("utf-8-sig", errors="replace").strip()
    if not key:
        raise RefusedError(f"--key-file {plain(path)}: its first line is empty")
    return key


def read_secrets(path: Path | None, *, variable: str, option: str) -> list[str]:
    """Any number of keys or secrets, separated by blanks or line breaks.

    Args:
        path: the file; None for the environment.
        variable: the environment variable that has them if there is no file.
        option: the option that names the file, for messages.

    Raises:
        RefusedError: the file cannot be read, or is empty.
    """
    if path is None:
        return os.environ.get(variable, "").split()
    text, mode, reason = "", 0, ""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE).decode("utf-8-sig")
            mode = os.fstat(file.fileno()).st_mode
    except OSError as error:
        reason = error.strerror or type(error).__name__
    except ValueError:  # it holds what was read, so no other error may be chained to it
        reason = "it is no text"
    if reason:
        raise RefusedError(f"{option} {plain(path)}: cannot be read: {reason}")
    _warn_if_others_can_read(path, mode)
    if not (secrets := text.split()):
        raise RefusedError(f"{option} {plain(path)}: it is empty")
    return secrets


def _warn_if_others_can_read(path: Path, mode: int) -> None:
    if stat.S_ISREG(mode) and mode & 0o077:
        name = plain(path)
        text = f"Warning: {name} holds a key and others can read it: chmod 600 {name}"
        click.echo(clean(text), err=True)

"""The options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click

__all__ = ["EVENTS", "Settings", "as_json", "folder", "max_running", "patience", "service"]

Command = TypeVar("Command", bound=Callable[..., Any])


class Settings(NamedTuple):
    """What the options of a command say about the service, and about patience."""

    key_file: Path | None = None
    base_url: str | None = None
    simulate: bool = False
    as_json: bool = False
    max_running: int = 100
    timeout: float | None = None

    @property
    def words(self) -> tuple[str, ...]:
        """The options that lead another command to the same service."""
        return (
            *(("--key-file", str(self.key_file)) if self.key_file else ()),
            *(("--base-url", self.base_url) if self.base_url else ()),
        )


EVENTS = """
\b
Events, one JSON object a line; each has "event", "at", and where there is one "file", "task_id":
  submitted    the film is bought, and has a task_id
  delayed      throttled or not sent yet, trying again: reason
  state        state, progress (per cent, if the service says)
  ready        urls (they live about a day), credits, expires_at
  saved        paths
  failed       error, code, message, advice
  stopped      the same; nothing is lost, see unfinished and unsubmitted
  uncertain    token, cause, began_at, ended_at, if_found, if_not_found
  unfinished   task_ids that are bought, resume (a command)
  unsubmitted  files, resume (a command)
  stopping     signal, out (submissions whose answer is awaited)
  summary      films, ready, saved, failed, uncertain, resumable, seconds
  error        error, code, message, advice: the whole command failed
"""


def service(command: Callable[..., int]) -> Callable[..., int]:
    """The options of every command that talks to the service, handed over as `settings`."""

    @functools.wraps(command)
    def settled(
        *, key_file: Path | None, base_url: str | None, simulate: bool, as_json: bool, **others: Any
    ) -> int:
        return command(settings=Settings(key_file, base_url, simulate, as_json), **others)

    for option in (
        click.option(
            "--simulate",
            is_flag=True,
            help="Against a service simulated in this process: no key, no network, nothing paid.",
        ),
        click.option(
            "--base-url",
            metavar="URL",
            help="Address of the service; by default APIKLEY_BASE_URL, else the real one.",
        ),
        click.option(
            "--key-file",
            metavar="PATH",
            type=click.Path(path_type=Path),
            help="File whose first line is the API key; by default APIKLEY_API_KEY has it.",
        ),
        as_json,
    ):
        settled = option(settled)
    return settled


as_json = click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="One event a line on stdout, as JSON; people read on at stderr.",
)

max_running = click.option(
    "--max-running",
    type=click.IntRange(1, 10_000),
    default=100,
    show_default=True,
    metavar="N",
    help="Films in the making at once.",
)

patience = click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="How long to wait for each film; it goes on after that.  [default: 1800]",
)


def folder(default: Path | None, told: str) -> Callable[[Command], Command]:
    """`-o DIR`, saying in *told* what happens there."""
    return click.option(
        "-o",
        "--output",
        "folder",
        type=click.Path(file_okay=False, path_type=Path),
        default=default,
        show_default=default is not None,
        metavar="DIR",
        help=told,
    )

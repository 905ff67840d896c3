"""The options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click

from apikley_async.cli.output.shell_words import without_password

__all__ = [
    "BATCH_EVENTS",
    "EVENTS",
    "Settings",
    "Spending",
    "as_json",
    "folder",
    "hooks",
    "patience",
    "price",
    "service",
    "spending",
]

Command = TypeVar("Command", bound=Callable[..., Any])


class Settings(NamedTuple):
    """What the options of a command say about the service, and about patience."""

    key_file: Path | None = None
    base_url: str | None = None
    simulate: bool = False
    as_json: bool = False
    max_running: int = 100
    timeout: float | None = None
    not_created: tuple[int, ...] = ()
    proxy: str | None = None
    allow_private: bool = False

    @property
    def words(self) -> tuple[str, ...]:
        """The options that lead another command to the same service."""
        return (
            *(("--key-file", str(self.key_file)) if self.key_file else ()),
            *(("--base-url", self.base_url) if self.base_url else ()),
            *(("--proxy", without_password(self.proxy)) if self.proxy else ()),
            *(("--allow-private",) if self.allow_private else ()),
        )


BATCH_EVENTS = """
\b
Events, one JSON object a line; each has "event" and "at", of a film its "key" and "item_state":
  submitted    the film is bought, and has a task_id
  delayed      throttled or not sent yet, trying again: reason
  state        state, progress (per cent, if the service says)
  ready        credits
  saved        paths, credits
  failed       error, message
  stopped      the same; nothing is lost
  remark       message: what should be known before paying
  listening    cause: it is uncertain, and a callback may still say what became of it
  doubted      cause: it is uncertain from now on, and its film may be running
  undecided    cause, sent_at, model, words, if_found, if_not_found (commands)
  doubt        the same without commands, before a decision
  balance      before, after, began_at, ended_at; films and their cost in between, unexplained
  stopping     signal, out (submissions whose answer is awaited)
  estimate     films, credits, unpriced, fitting (into the bounds): what is still to be paid
  batch        how many films stand where, spent, at_risk, unpriced
  decided      item_state after a decision, cause of one that was insisted on
  error        error, code, message, advice: the whole command failed
"""

EVENTS = """
\b
Events, one JSON object a line; each has "event", "at", and where there is one "task_id":
  state        state, progress (per cent, if the service says)
  ready        urls (they live about a day), credits, expires_at
  saved        paths
  failed       error, code, message, advice
  stopped      the same; nothing is lost, see unfinished
  unfinished   task_ids that are bought, resume (a command)
  stopping     signal, out (submissions whose answer is awaited)
  summary      films, ready, saved, failed, resumable, seconds
  error        error, code, message, advice: the whole command failed
"""


def service(command: Callable[..., int]) -> Callable[..., int]:
    """The options of every command that talks to the service, handed over as `settings`."""

    @functools.wraps(command)
    def settled(
        *,
        key_file: Path | None,
        base_url: str | None,
        proxy: str | None,
        allow_private: bool,
        simulate: bool,
        as_json: bool,
        **others: Any,
    ) -> int:
        settings = Settings(key_file, base_url, simulate, as_json)
        settings = settings._replace(proxy=proxy, allow_private=allow_private)
        return command(settings=settings, **others)

    for option in (
        click.option(
            "--simulate",
            is_flag=True,
            help="Against a service simulated in this process: no key, no network, nothing paid.",
        ),
        click.option(
            "--allow-private",
            is_flag=True,
            help="Let films come from private networks, and over http.",
        ),
        click.option(
            "--proxy",
            metavar="URL",
            help="An http(s) proxy that leads to the service and to the hosts of films.",
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


class HookOptions(NamedTuple):
    """What the options of a command say about callbacks."""

    url: str | None = None
    listen: tuple[str, int] | None = None
    inbox: Path | None = None
    key_file: Path | None = None

    @property
    def words(self) -> tuple[str, ...]:
        """The options again, for a command that goes on."""
        return (
            *(("--callback-url", self.url) if self.url else ()),
            *(("--listen", "{}:{}".format(*self.listen)) if self.listen else ()),
            *(("--inbox", str(self.inbox)) if self.inbox else ()),
            *(("--hmac-key-file", str(self.key_file)) if self.key_file else ()),
        )


def read_address(
    _context: click.Context, _option: click.Parameter, text: str | None
) -> tuple[str, int] | None:
    """`127.0.0.1:8787`, or `[::1]:8787`."""
    if text is None:
        return None
    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) < 65536):
        raise click.BadParameter("HOST:PORT, such as 127.0.0.1:8787")
    return host.removeprefix("[").removesuffix("]"), int(port)


hmac_key_file = click.option(
    "--hmac-key-file",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="File with the keys that callbacks are signed with, one a line; by default "
    "APIKLEY_WEBHOOK_HMAC_KEY has them.",
)


def hooks(command: Callable[..., int]) -> Callable[..., int]:
    """The options of commands that hear callbacks, handed over as `hooks`."""

    @functools.wraps(command)
    def settled(
        *,
        callback_url: str | None,
        listen: tuple[str, int] | None,
        inbox: Path | None,
        hmac_key_file: Path | None,
        **others: Any,
    ) -> int:
        return command(hooks=HookOptions(callback_url, listen, inbox, hmac_key_file), **others)

    for option in (
        click.option(
            "--callback-url",
            metavar="URL",
            help="Have the service call back there, through your proxy to --listen.",
        ),
        click.option(
            "--listen",
            metavar="HOST:PORT",
            callback=read_address,
            help="Where callbacks come in.  [default: 127.0.0.1:8787]",
        ),
        click.option(
            "--inbox",
            metavar="PATH",
            type=click.Path(path_type=Path),
            help="Take callbacks from there, where `apikley webhook serve` keeps them.",
        ),
        hmac_key_file,
    ):
        settled = option(settled)
    return settled


def read_price(_context: click.Context, _option: click.Parameter, text: str | None) -> Any:
    """`300`, or `10=150,15=270,25=270`."""
    if text is None:
        return None
    try:
        if "=" not in text:
            return float(text)
        pairs = (part.split("=", 1) for part in text.split(","))
        return {int(n) if n.strip().isdigit() else n.strip(): float(v) for n, v in pairs}
    except ValueError:
        raise click.BadParameter("credits, or 10=150,15=270,25=270") from None


price = click.option(
    "--price",
    metavar="CREDITS",
    callback=read_price,
    help="Of a film: a number, or by duration or model: 10=150,15=270,25=270.",
)


class Spending(NamedTuple):
    """What the options of a command that pays say about money."""

    bounds: dict[str, Any]
    yes: bool
    dry_run: bool
    allow_duplicates: bool
    not_created: tuple[int, ...] = ()
    proxy: str | None = None
    allow_private: bool = False

    @property
    def agreed(self) -> bool:
        """Whether nobody has to be asked."""
        return self.yes or self.bounds["max_credits"] is not None


def spending(command: Callable[..., int]) -> Callable[..., int]:
    """The options of commands that pay, handed over as `spending`."""
    bounds = ("max_credits", "max_tasks", "min_balance", "price", "retry", "overwrite")

    @functools.wraps(command)
    def settled(
        *,
        yes: bool,
        dry_run: bool,
        allow_duplicates: bool,
        not_created: tuple[int, ...],
        **others: Any,
    ) -> int:
        names = (*bounds, "max_running")
        given = {name: others.pop(name) for name in names}
        agreed = Spending(given, yes, dry_run, allow_duplicates, not_created)
        return command(spending=agreed, **others)

    for option in (
        max_running,
        click.option(
            "--not-created",
            type=click.IntRange(400),
            multiple=True,
            metavar="CODE",
            help="Your provider guarantees that this code creates nothing: tried three times more, "
            "each try counted as what it may cost.",
        ),
        click.option("--dry-run", is_flag=True, help="Check and estimate, no more."),
        click.option("--yes", is_flag=True, help="Do not ask before spending; needed in scripts."),
        click.option(
            "--allow-duplicates",
            is_flag=True,
            help="One content under two keys is paid twice.",
        ),
        click.option("--overwrite", is_flag=True, help="Replace other files of the films' names."),
        click.option(
            "--retry",
            type=click.IntRange(0, 10),
            default=0,
            metavar="N",
            help="Make failed films again, so many times: each is paid.",
        ),
        price,
        click.option(
            "--min-balance", type=click.FloatRange(0), metavar="N", help="Credits to be left over."
        ),
        click.option(
            "--max-tasks", type=click.IntRange(1), metavar="N", help="Films of the whole journal."
        ),
        click.option(
            "--max-credits",
            type=click.FloatRange(0),
            metavar="N",
            help="Credits of the whole journal; needs a price.",
        ),
    ):
        settled = option(settled)
    return settled


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

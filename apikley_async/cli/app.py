"""The command `apikley`: assembles the commands, runs one, and turns errors into exit codes."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import traceback
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib import import_module

import click

from apikley_async import __version__
from apikley_async.cli.exit_codes import INTERNAL, INTERRUPTED, OK, USAGE
from apikley_async.cli.help_format import HelpGroup
from apikley_async.cli.help_texts import EXIT_CODES
from apikley_async.cli.output.reporter import LineView, Reporter
from apikley_async.cli.output.terminal_text import clean, short_time
from apikley_async.errors import ApikleyError

__all__ = ["apikley", "library_warnings", "run"]

SAID_BY_EVENTS = {"uncertain"}  # as records of the library have it in `event`
BELOW = ("psycopg", "procrastinate")  # without a handler, Python prints their warnings as they are
COMMANDS_PACKAGE = "apikley_async.cli.commands"
COMMANDS = {  # where each is, and what the list of commands says of it
    "generate": ("generate.generate", "Make one film of each FILE, and save it."),
    "batch": (
        "batch.batch",
        "Make many films from a manifest; each is paid once, whatever happens.",
    ),
    "wait": ("tasks.wait", "Wait for films that were submitted before, by any program."),
    "download": (
        "tasks.download",
        "Save films that are finished; name those that are not, without waiting.",
    ),
    "status": ("tasks.status", "Print how far films are."),
    "upload": ("account.upload", "Store images at the service, and print their URLs."),
    "credits": ("account.balance", "Print how many credits are left."),
    "doctor": (
        "doctor.doctor",
        "Find out what is wrong with key, network, clock or service; costs nothing.",
    ),
    "init": (
        "init.init",
        "Write a manifest to start from: two films, with every field explained.",
    ),
    "check": ("check.check", "Report everything that is wrong with manifests, images included."),
    "preview": (
        "check.preview",
        "Render the films of a manifest on this machine, before they are paid.",
    ),
    "simulate": ("servers.simulate", "Serve a simulated service on this machine until Ctrl-C."),
    "webhook": ("servers.webhook", "Receive the service's callbacks in a process of its own."),
    "db": (
        "database.database",
        "Set up the PostgreSQL database of a journal that many machines share.",
    ),
    "worker": (
        "worker.worker",
        "Make the films of a shared journal, beside other workers, until SIGTERM or Ctrl-C.",
    ),
    "demo": (
        "demo.demo",
        "A tour: six storyboards become films in about a minute, all on this machine.",
    ),
}


SECTIONS: dict[str, tuple[str, ...]] = {
    "Films": ("generate", "batch"),
    "Before paying": ("init", "check", "preview", "demo"),
    "Tasks that were submitted": ("wait", "status", "download"),
    "Account": ("credits", "upload", "doctor"),
    "Servers": ("simulate", "webhook", "worker", "db"),
}


class Named(click.Command):
    """A command by its name and what the list says of it; `load` imports the command itself."""

    def __init__(self, name: str, place: str, summary: str) -> None:
        super().__init__(name, help=summary)
        self._place = place

    def load(self) -> click.Command:
        module, _, name = self._place.partition(".")
        command: click.Command = getattr(import_module(f"{COMMANDS_PACKAGE}.{module}"), name)
        return command


class Commands(HelpGroup):
    """A group that imports only the command that is run: listing them takes no time."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, words = super().resolve_command(ctx, args)
        return name, command.load() if isinstance(command, Named) else command, words


@click.group(
    cls=Commands,
    commands=[Named(name, *entry) for name, entry in COMMANDS.items()],
    sections=SECTIONS,
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, message="%(prog)s %(version)s")
def apikley() -> None:
    """Make videos from storyboards with the Apikley API."""


def run(args: Sequence[str] | None = None) -> int:
    """Run one command, and return its exit code; expected errors are one line on stderr.

    Args:
        args: the words after `apikley`; by default those of this process.
    """
    words = list(sys.argv[1:] if args is None else args)
    reporter = Reporter(LineView(), as_json="--json" in options_of(words))
    try:
        with library_warnings():
            code = apikley.main(words, prog_name="apikley", standalone_mode=False, obj=words) or OK
    except (click.ClickException, click.Abort, ApikleyError) as error:
        code, message = shown(error)
        reporter.program_event("error", error=type(error).__name__, message=message)
    except Exception as error:  # noqa: BLE001 - printed, with an exit code of its own
        code = INTERNAL
        click.echo(clean("".join(traceback.format_exception(error))), nl=False, err=True)
        click.echo("An internal error of apikley. What was paid is in the journal.", err=True)
        reporter.program_event("error", error=type(error).__name__, message=str(error))
    reporter.end(code)
    return code


def options_of(words: Sequence[str]) -> Sequence[str]:
    """The words that may be options: those before `--`."""
    return words[: words.index("--")] if "--" in words else words


def shown(error: click.ClickException | click.Abort | ApikleyError) -> tuple[int, str]:
    """Show on stderr why a command has ended; return its exit code, and the reason in words."""
    if isinstance(error, click.ClickException):
        text = io.StringIO()
        error.show(text)
        click.echo(clean(text.getvalue()), nl=False, err=True)
        return error.exit_code, error.format_message()
    if isinstance(error, click.Abort):
        message = "interrupted: nothing was sent, nothing was paid"
        click.echo(f"Error: {message}", err=True)
        return INTERRUPTED, message
    click.echo(clean(f"Error: {error}"), err=True)
    return USAGE, error.message


@contextlib.contextmanager
def library_warnings() -> Iterator[None]:
    """Print the library's warnings on stderr with the time, unless a log handler takes them.

    What an event says as well, with the film's name, is not said twice; neither is what libraries
    below say of a database that is away.
    """

    class PrintHandler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if getattr(record, "event", "") in SAID_BY_EVENTS:
                return
            at = short_time(datetime.fromtimestamp(record.created, UTC))
            with contextlib.suppress(OSError, ValueError):  # stderr is closed
                click.echo(clean(f"{at}: {record.getMessage()}"), err=True)

    logger = logging.getLogger("apikley_async")
    handler, silence = PrintHandler(logging.WARNING), logging.NullHandler()
    below = [logging.getLogger(name) for name in BELOW]
    if not logger.hasHandlers():
        logger.addHandler(handler)
        for each in below:
            each.addHandler(silence)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        for each in below:
            each.removeHandler(silence)

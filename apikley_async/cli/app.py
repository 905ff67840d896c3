"""The command `apikley`: assembles the commands, runs one, and turns errors into exit codes."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import traceback
from collections.abc import Iterator, Sequence

import click

from apikley_async import __version__
from apikley_async.cli.commands.account import balance, upload
from apikley_async.cli.commands.batch import batch
from apikley_async.cli.commands.check import check, preview
from apikley_async.cli.commands.demo import demo
from apikley_async.cli.commands.generate import generate
from apikley_async.cli.commands.servers import simulate, webhook
from apikley_async.cli.commands.tasks import download, status, wait
from apikley_async.cli.exit_codes import INTERNAL, INTERRUPTED, OK, USAGE
from apikley_async.cli.help_texts import EXIT_CODES
from apikley_async.cli.output.terminal_text import clean
from apikley_async.errors import ApikleyError

__all__ = ["apikley", "library_warnings", "run"]

COMMANDS: tuple[click.Command, ...] = (
    generate,
    batch,
    wait,
    download,
    status,
    upload,
    balance,
    check,
    preview,
    simulate,
    webhook,
    demo,
)


@click.group(
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, message="%(prog)s %(version)s")
def apikley() -> None:
    """Videos from storyboards, by the Apikley API."""


for _command in COMMANDS:
    apikley.add_command(_command)


def run(args: Sequence[str] | None = None) -> int:
    """Run one command, and return its exit code; expected errors are one line on stderr.

    Args:
        args: the words after `apikley`; by default those of this process.
    """
    try:
        words = list(sys.argv[1:] if args is None else args)
        with library_warnings():
            code = apikley.main(words, prog_name="apikley", standalone_mode=False, obj=words)
    except click.ClickException as error:
        text = io.StringIO()
        error.show(text)
        click.echo(clean(text.getvalue()), nl=False, err=True)
        return error.exit_code
    except click.Abort:
        click.echo("Stopped; nothing was paid.", err=True)
        return INTERRUPTED
    except ApikleyError as error:
        click.echo(clean(f"Error: {error}"), err=True)
        return USAGE
    except Exception as error:  # noqa: BLE001 - printed, with an exit code of its own
        click.echo(clean("".join(traceback.format_exception(error))), nl=False, err=True)
        click.echo("An internal error of apikley. What was paid is in the journal.", err=True)
        return INTERNAL
    return code or OK


@contextlib.contextmanager
def library_warnings() -> Iterator[None]:
    """Print the library's warnings on stderr, made safe, unless a log handler takes them."""

    class PrintHandler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            with contextlib.suppress(OSError, ValueError):  # stderr is closed
                click.echo(clean(record.getMessage()), err=True)

    logger = logging.getLogger("apikley_async")
    handler = PrintHandler(logging.WARNING)
    if not logger.hasHandlers():
        logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)

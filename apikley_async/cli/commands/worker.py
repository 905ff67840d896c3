"""`apikley worker`: makes the films of a shared journal until it is stopped."""

from __future__ import annotations

from pathlib import Path

import click

from apikley_async._postgres import Dsn
from apikley_async._rate import LIMIT, PER
from apikley_async.cli import options
from apikley_async.cli.help_format import command
from apikley_async.cli.option_types import DATABASE, SECONDS, Whole
from apikley_async.cli.options import (
    Bounds,
    CallbackOptions,
    RunOptions,
    ServiceOptions,
    SpendingOptions,
)

__all__ = ["worker"]


@command()
@click.option(
    "--journal",
    metavar="DSN",
    type=DATABASE,
    required=True,
    help="The shared journal: postgresql://user@host/database, without a password.",
)
@options.output_folder(Path("films"), "Where the films go.")
@click.option(
    "--destination",
    metavar="MODULE:NAME",
    help="Put the films into a store of yours instead, such as S3: NAME in the Python module "
    "MODULE is an object with `put` and `exists`, or a function that makes one.",
)
@click.option(
    "--limit",
    type=Whole(1),
    default=LIMIT,
    show_default=True,
    metavar="N",
    help="Submissions of all workers together in --per seconds.",
)
@click.option(
    "--per",
    type=SECONDS,
    default=PER,
    show_default=True,
    metavar="SECONDS",
    help="The seconds that --limit counts in.",
)
@options.bounds_options
@options.task_timeout
@options.callback_options
@options.real_service_options
def worker(
    journal: Dsn,
    folder: Path | None,
    destination: str | None,
    limit: int,
    per: float,
    bounds: Bounds,
    not_created: tuple[int, ...],
    timeout: float | None,
    callbacks: CallbackOptions,
    service: ServiceOptions,
) -> int:
    """Make the films of a shared journal, beside other workers, until SIGTERM or Ctrl-C.

    Any number of workers, on any number of machines, share the journal and one rate limit; when
    the service refuses one of them (429), all wait. When one dies the others take over, and pay
    nothing twice. What is in the journal was agreed to by whoever has added it
    (`apikley batch run --journal DSN`), so nobody is asked here.

    It ends with 0 after a signal, with 2 where it has to be set up otherwise, and with 4 where the
    same command works once something is mended: a database that is away when it starts, a folder
    or destination that refuses films. Away later, the database is waited for.
    """
    # Imported only here: no other command needs procrastinate.
    from apikley_async.cli.worker_run import work

    spending = SpendingOptions(bounds, True, False, False, not_created)
    run_options = RunOptions(spending.limited_by(service.profile), timeout, callbacks, service)
    return work(journal, folder or Path("films"), destination, (limit, per), run_options)

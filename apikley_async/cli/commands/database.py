"""`apikley db ...`: the database of a journal that many machines share."""

from __future__ import annotations

import click

from apikley_async._postgres import Dsn
from apikley_async.batch import Batch
from apikley_async.cli import options
from apikley_async.cli.exit_codes import OK
from apikley_async.cli.help_format import HelpGroup
from apikley_async.cli.option_types import DATABASE
from apikley_async.cli.options import Option
from apikley_async.cli.output.reporter import Reporter
from apikley_async.cli.runner import new_reporter, run_without_client

__all__ = ["database"]

dsn_argument: Option = click.argument("dsn", metavar="DSN", type=DATABASE)


@click.group(name="db", cls=HelpGroup)
def database() -> None:
    """Set up the PostgreSQL database of a journal that many machines share."""


@database.command()
@dsn_argument
@options.as_json
def init(dsn: Dsn, as_json: bool) -> int:
    """Make the tables in the schema apikley, or bring them up to date.

    DSN is postgresql://USER@HOST/DATABASE, or postgresql://?service=NAME; write its password into
    ~/.pgpass. The command may be repeated at any time; films that are there stay.
    """
    # Imported only here: only this command needs all that is kept in the database.
    from apikley_async.distributed import set_up

    reporter = new_reporter(as_json=as_json)

    async def act() -> int:
        done = await set_up(dsn)
        reporter.event("set_up", database=done.database, before=done.before, now=done.now)
        changed = done.before != done.now
        reporter.message(f"{dsn} is {'set up' if changed else 'as it should be'}.")
        return OK

    return run_without_client(act, reporter)


@database.command()
@dsn_argument
@options.as_json
def check(dsn: Dsn, as_json: bool) -> int:
    """Check that the database can be used, and say what its journal holds.

    DSN is postgresql://USER@HOST/DATABASE, or postgresql://?service=NAME. The exit code is
    4 if it cannot be reached, 2 if it is not set up, or was set up by another version.
    """
    reporter = new_reporter(as_json=as_json)

    async def act() -> int:
        async with Batch.open(dsn, read_only=True) as batch:
            report(reporter, dsn, {str(key): n for key, n in (await batch.store.counts()).items()})
        return OK

    return run_without_client(act, reporter)


def report(reporter: Reporter, dsn: Dsn, films: dict[str, int]) -> None:
    """Say what a journal holds."""
    reporter.event("database", database=dsn.name, films=films)
    counted = ", ".join(f"{number} {state}" for state, number in films.items())
    reporter.message(f"{dsn} can be used; its films: {counted or 'none yet'}.")

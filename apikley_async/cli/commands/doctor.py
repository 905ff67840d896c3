"""`apikley doctor`: what is wrong with key, network, clock or service."""

from __future__ import annotations

from pathlib import Path

import click

from apikley_async import Client
from apikley_async.cli import options
from apikley_async.cli.free_call import call_service
from apikley_async.cli.help_format import command
from apikley_async.cli.options import ServiceOptions
from apikley_async.cli.output.reporter import Reporter

__all__ = ["doctor"]


@command()
@click.argument("task_ids", nargs=-1, metavar="[TASK_ID...]")
@click.option(
    "--record",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Keep the form of the tasks' records there: names, types, lengths and hosts, nothing "
    "that they say.",
)
@options.service_options
def doctor(task_ids: tuple[str, ...], folder: Path | None, service: ServiceOptions) -> int:
    """Find out what is wrong with key, network, clock or service; costs nothing.

    It connects, compares clocks, asks for the credits and for a task that does not exist, and
    uploads a small picture. With a TASK_ID it also reads the task's record, and tries whether
    its film can be downloaded. The exit code is 1 if anything is wrong.
    """

    async def call(client: Client, reporter: Reporter) -> int:
        # Imported only here: it needs aiohttp, and whoever lists the commands does not.
        from apikley_async.cli.doctor import Doctor

        ids = list(dict.fromkeys(task_ids))
        for task_id in ids:
            _ = client.job(task_id)  # refuses what cannot be an id before the first request
        return await Doctor(client, service, reporter, folder).examine(ids)

    return call_service(service, call, list(dict.fromkeys(task_ids)))

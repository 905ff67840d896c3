"""`apikley upload` and `apikley credits`: an account's files and balance."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import click

from apikley_async import ApikleyError, Client
from apikley_async.cli import options
from apikley_async.cli.exit_codes import OK, worst
from apikley_async.cli.free_call import call_service, report_failure
from apikley_async.cli.help_format import command
from apikley_async.cli.options import ServiceOptions
from apikley_async.cli.output.reporter import Reporter

__all__ = ["balance", "upload"]

PARALLEL_UPLOADS = 4


@command()
@click.argument(
    "files",
    nargs=-1,
    required=True,
    metavar="FILE...",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
)
@options.service_options
def upload(files: tuple[Path, ...], service: ServiceOptions) -> int:
    """Store images at the service, and print their URLs. Costs nothing."""

    async def call(client: Client, reporter: Reporter) -> int:
        return await _upload_all(client, reporter, files)

    return call_service(service, call)


async def _upload_all(client: Client, reporter: Reporter, files: Sequence[Path]) -> int:
    """Upload files, and report their URLs in their order; return the exit code."""
    slots = asyncio.Semaphore(PARALLEL_UPLOADS)

    async def upload_one(file: Path) -> str | ApikleyError:
        async with slots:
            try:
                return await client.upload(file)
            except ApikleyError as error:
                return error

    codes = []
    uploads = [asyncio.ensure_future(upload_one(file)) for file in files]
    for file, uploading in zip(files, uploads, strict=True):
        url = await uploading
        if isinstance(url, ApikleyError):
            codes.append(report_failure(reporter, url, file=str(file)))
        else:
            reporter.event("uploaded", file=str(file), url=url)
            reporter.result(url)
    return worst(codes)


@command(name="credits")
@options.service_options
def balance(service: ServiceOptions) -> int:
    """Print how many credits are left."""
    return call_service(service, _report_balance)


async def _report_balance(client: Client, reporter: Reporter) -> int:
    left = await client.credits()
    reporter.event("credits", credits=left)
    reporter.result(f"{left:.12g}")
    return OK

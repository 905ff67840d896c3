"""`apikley wait`, `download` and `status`: tasks that exist already, named by their ids."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import click

from apikley_async import ApikleyError, Client, Snapshot, State
from apikley_async.cli import options
from apikley_async.cli.client_factory import client_for
from apikley_async.cli.events import TASK_EVENTS
from apikley_async.cli.exit_codes import FAILED, OK, worst
from apikley_async.cli.free_call import call_service, report_failure
from apikley_async.cli.help_format import command
from apikley_async.cli.options import Option, ServiceOptions
from apikley_async.cli.output.reporter import Reporter
from apikley_async.cli.output_folder import make_folder
from apikley_async.cli.runner import new_reporter, run_with_client
from apikley_async.cli.task_follower import TaskFollower

__all__ = ["download", "status", "wait"]

task_ids_argument: Option = click.argument(
    "task_ids", nargs=-1, required=True, metavar="TASK_ID..."
)


@command(events=TASK_EVENTS)
@task_ids_argument
@options.output_folder(None, "Save the films there; without it their links are printed.")
@options.task_timeout
@options.service_options
def wait(
    task_ids: tuple[str, ...], folder: Path | None, timeout: float | None, service: ServiceOptions
) -> int:
    """Wait for films that were submitted before, by any program."""

    async def act(tasks: TaskFollower, client: Client) -> int:
        return await tasks.wait(client, timeout)

    return _follow_tasks(task_ids, folder, service, act, timeout=timeout)


@command(events=TASK_EVENTS)
@task_ids_argument
@options.output_folder(Path("films"), "Where the films go, named after their tasks.")
@click.option("--overwrite", is_flag=True, help="Replace another file of the same name.")
@options.service_options
def download(
    task_ids: tuple[str, ...], folder: Path, overwrite: bool, service: ServiceOptions
) -> int:
    """Save films that are finished; name those that are not, without waiting."""

    async def act(tasks: TaskFollower, client: Client) -> int:
        return await tasks.download(client)

    return _follow_tasks(task_ids, folder, service, act, overwrite=overwrite, finished=True)


def _follow_tasks(
    task_ids: Sequence[str],
    folder: Path | None,
    service: ServiceOptions,
    act: Callable[[TaskFollower, Client], Awaitable[int]],
    *,
    timeout: float | None = None,
    overwrite: bool = False,
    finished: bool = False,
) -> int:
    """Run *act* on tasks, and return the exit code."""
    ids = list(dict.fromkeys(task_ids))
    saves = folder is not None
    open_client = client_for(service, ids, finished=finished, saves=saves, timeout=timeout)
    if folder is not None:
        make_folder(folder)
    reporter = new_reporter(
        as_json=service.as_json,
        films=len(ids),
        final_event="saved" if folder else "finished",
        plain=service.plain,
    )
    tasks = TaskFollower(ids, reporter, folder=folder, service=service, overwrite=overwrite)
    return run_with_client(open_client, lambda client: act(tasks, client), reporter, tasks)


@command()
@task_ids_argument
@options.service_options
def status(task_ids: tuple[str, ...], service: ServiceOptions) -> int:
    """Print how far films are."""
    ids = list(dict.fromkeys(task_ids))

    async def call(client: Client, reporter: Reporter) -> int:
        return await report_status(client, reporter, ids)

    return call_service(service, call, ids)


async def report_status(client: Client, reporter: Reporter, task_ids: Sequence[str]) -> int:
    """Poll each task once, and report them in their order; return the exit code."""
    for task_id in task_ids:
        _ = client.job(task_id)  # refuses what cannot be an id before the first request

    async def poll(task_id: str) -> Snapshot | ApikleyError:
        try:
            return await client.poll(task_id)
        except ApikleyError as error:
            return error

    codes = []
    polls = [asyncio.ensure_future(poll(task_id)) for task_id in task_ids]
    for task_id, polling in zip(task_ids, polls, strict=True):
        snapshot = await polling
        if isinstance(snapshot, ApikleyError):
            codes.append(report_failure(reporter, snapshot, task_id=task_id))
            continue
        codes.append(FAILED if snapshot.state is State.FAIL else OK)
        reporter.event(
            "status",
            task_id=task_id,
            state=snapshot.state.value,
            progress=snapshot.progress,
            urls=list(snapshot.urls) or None,
            fail_code=snapshot.fail_code or None,
            fail_message=snapshot.fail_message or None,
            credits=snapshot.credits,
        )
        reporter.result(f"{task_id}  {_in_words(snapshot)}")
    return worst(codes)


def _in_words(snapshot: Snapshot) -> str:
    """How far a film is, on one line."""
    if snapshot.state is State.FAIL:
        return " ".join(filter(None, ["fail", snapshot.fail_code, snapshot.fail_message]))
    if snapshot.progress is None or snapshot.done:
        return f"{snapshot.state.value}"
    return f"{snapshot.state.value} {snapshot.progress:.0f}%"

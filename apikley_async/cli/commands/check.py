"""`apikley check` and `apikley preview`: a manifest before anything is paid."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import attrs

from apikley_async.batch import Batch, Plan, Survey, is_rehearsal, survey
from apikley_async.cli.embedded import SPEED, Stage
from apikley_async.cli.engine import BatchRun, Order
from apikley_async.cli.exit_codes import OK, USAGE, Refused
from apikley_async.cli.options import Settings
from apikley_async.cli.output.reporter import Telling, count, plain
from apikley_async.cli.placement import Place
from apikley_async.cli.runner import play, telling

__all__ = ["check_files", "preview"]


def check_files(paths: Sequence[Path], tell: Telling) -> int:
    """Tell every fault of every manifest, and give the exit code."""
    faulty = 0
    for path in paths:
        found = survey(path)
        faulty += bool(found.faults)
        tell("checked", file=str(path), **attrs.asdict(found))
        for fault in found.faults:
            tell.answer(fault)
        for remark in found.remarks:
            tell.say(f"Note: {remark}")
        if not found.faults:
            tell.say(f"{path}: nothing is wrong with it: {what_it_is(found)}")
    tell.close()
    return USAGE if faulty else OK


def what_it_is(found: Survey) -> str:
    """How much a manifest asks for."""
    told = count(found.films)
    return f"{told}, {count(found.shots, 'shot')}, {found.seconds} s" if found.shots else told


def preview(path: Path, folder: Path, kind: str | None, *, as_json: bool) -> int:
    """Have the embedded service make the films of *path*, and give the exit code."""
    tell = telling(as_json=as_json, films=0)
    stage = Stage(SPEED, films=kind, short_side=720)

    async def plan(batch: Batch) -> Plan:
        planned = await batch.add(path, allow_duplicates=True)
        await refuse_strangers(batch, folder)
        return planned

    order = Order(place=Place(None), plan=plan, named=f"{path}, drawn here, unpaid", folder=folder)
    running = BatchRun(order, Settings(simulate=True), tell)
    return play(stage.session, running.flow, tell, running)


async def refuse_strangers(films: Batch, folder: Path) -> None:
    """Earlier previews may be replaced; other files of the films' names may not."""
    async for item in films.items():
        name = folder / f"{item.key}.mp4"
        if name.exists() and not is_rehearsal(name):
            raise Refused(f"{plain(name)} is no preview; choose another folder with -o")

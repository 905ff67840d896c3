"""`apikley check` and `apikley preview`: a manifest before anything is paid."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from apikley_async.batch import Batch, Status, check
from apikley_async.cli._batches import BatchRun, Bounds, planned
from apikley_async.cli._exit import OK, USAGE, Refused
from apikley_async.cli._films import call, is_other
from apikley_async.cli._options import Settings
from apikley_async.cli._run import play, telling
from apikley_async.cli._session import Session
from apikley_async.cli._stage import SPEED, Stage
from apikley_async.cli._telling import Telling, count, plain

__all__ = ["check_files", "preview"]


def check_files(paths: Sequence[Path], tell: Telling) -> int:
    """Tell every fault of every manifest, and give the exit code."""
    faulty = 0
    for path in paths:
        faults = check(path)
        faulty += bool(faults)
        tell("checked", file=str(path), faults=faults)
        for fault in faults:
            tell.answer(fault)
        if not faults:
            tell.say(f"{path}: nothing is wrong with it")
    tell.close()
    return USAGE if faulty else OK


def preview(path: Path, folder: Path, kind: str | None, *, as_json: bool) -> int:
    """Have the embedded service make the films of *path*, and give the exit code."""
    tell = telling(as_json=as_json, films=0)
    stage = Stage(SPEED, films=kind, short_side=720)
    words = ("preview", str(path), "-o", str(folder))
    running = BatchRun(path, folder, Settings(simulate=True), resume=call(*words))

    async def flow(own: Session) -> int:
        opened = planned(path, None, allow_duplicates=True, rehearsal=True)
        async with opened as (films, _):
            await refuse_strangers(films, folder)
            status: Status = await films.status()
            tell.say(f"{path}: {count(status.total)}, drawn here; nothing is paid")
            return await running.run(own, films, Bounds(overwrite=True), tell)

    return play(stage.session, flow, tell, running)


async def refuse_strangers(films: Batch, folder: Path) -> None:
    """Earlier previews may be replaced; other files of the films' names may not."""
    async for item in films.items():
        if is_other(folder / f"{item.key}.mp4"):
            taken = plain(folder / f"{item.key}.mp4")
            raise Refused(f"{taken} is no preview; choose another folder with -o")

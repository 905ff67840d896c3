"""Storyboards and tasks as JSON files: one film a file.

Every fault of every file is found before anything is sent; images are looked for beside the
file that names them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from apikley_async import ModelTask, Storyboard, StoryboardError

__all__ = ["read_work", "read_works"]

FIELDS = ("shots", "duration", "aspect_ratio", "image")
TASK_FIELDS = ("model", "input")
LARGEST = 4 * 1024 * 1024


def read_works(
    paths: Iterable[Path],
) -> tuple[list[tuple[Path, Storyboard | ModelTask]], list[str]]:
    """Read every file, and say all that is wrong with any of them."""
    works: list[tuple[Path, Storyboard | ModelTask]] = []
    faults: list[str] = []
    known: dict[Path, Path] = {}
    for path in paths:
        twin = known.setdefault(path.resolve(), path)
        if twin is not path:
            faults.append(f"{path}: given twice; one file is one film")
            continue
        try:
            works.append((path, read_work(path)))
        except StoryboardError as error:
            faults += [f"{path}: {fault}" for fault in error.faults]
    return works, faults


def read_work(path: Path) -> Storyboard | ModelTask:
    """Read one file.

    Raises:
        StoryboardError: it names every broken rule.
    """
    data = _parse(path)
    if "task" in data:
        return _task(data)
    faults = [*_unknown(data, FIELDS, "a storyboard")]
    if "shots" not in data:
        faults.append('shots: missing; or {"task": {"model": ..., "input": ...}}')
    given = {name: data[name] for name in FIELDS if name in data}
    image = given.get("image")
    if isinstance(image, str) and image.strip() and "://" not in image and "data:" not in image:
        given["image"] = path.parent / image
        faults += _image_faults(given["image"])
    try:
        board = Storyboard(given.pop("shots", ()), **given)
    except StoryboardError as error:
        told = error.faults if "shots" in data else error.faults[1:]
        raise StoryboardError([*faults, *told]) from None
    if faults:
        raise StoryboardError(faults)
    return board


def _task(data: Mapping[str, Any]) -> ModelTask:
    faults = [*_unknown(data, ("task",), "a file with a task")]
    task = data["task"]
    if not isinstance(task, dict):
        raise StoryboardError([*faults, "task: an object with model and input"])
    faults += _unknown(task, TASK_FIELDS, "a task", "task.")
    try:
        made = ModelTask(task.get("model", ""), task.get("input", {}))
    except StoryboardError as error:
        raise StoryboardError([*faults, *(f"task.{fault}" for fault in error.faults)]) from None
    if faults:
        raise StoryboardError(faults)
    return made


def _unknown(
    data: Mapping[str, Any], names: Iterable[str], what: str, at: str = ""
) -> Iterator[str]:
    known = " and ".join(", ".join(names).rsplit(", ", 1))
    yield from (f"{at}{name}: unknown; {what} has {known}" for name in data if name not in names)


def _image_faults(image: Path) -> Iterator[str]:
    try:
        if not image.exists():
            yield f"image: there is no {image}"
        elif not image.is_file():
            yield f"image: {image} is no file"
        elif image.stat().st_size == 0:
            yield f"image: {image} is empty"
    except (OSError, ValueError) as error:
        yield f"image: {image}: {getattr(error, 'strerror', None) or 'not a path'}"


def _parse(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST + 1)
        if len(raw) > LARGEST:
            raise StoryboardError("a storyboard of less than 4 MiB")
        data = json.loads(
            raw.decode("utf-8-sig"), object_pairs_hook=_no_twins, parse_constant=_no_constant
        )
    except StoryboardError:
        raise
    except OSError as error:
        raise StoryboardError(f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise StoryboardError("JSON in UTF-8, and it is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise StoryboardError(f"not JSON: {error.msg}, line {error.lineno}") from None
    except (RecursionError, ValueError):
        raise StoryboardError("not a storyboard: nested too deeply, or an endless number") from None
    if not isinstance(data, dict):
        raise StoryboardError("an object with shots, or with a task")
    return data


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        names = [name for name, _ in pairs]
        twins = sorted({name for name in names if names.count(name) > 1})
        raise StoryboardError(f"{', '.join(twins)}: given more than once")
    return data


def _no_constant(word: str) -> NoReturn:
    raise StoryboardError(f"not JSON: {word}")

"""The work that a film's fields describe: a storyboard, or a task of another model."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

from apikley_async import ModelTask, Shot, Storyboard, Work
from apikley_async._text import describe_value
from apikley_async.errors import StoryboardError

__all__ = [
    "MOST_FAULTS",
    "MOST_SHOTS",
    "PLACEHOLDER_SHOTS",
    "STORYBOARD_FIELDS",
    "TASK_FIELDS",
    "parse_work",
]

STORYBOARD_FIELDS = ("shots", "duration", "aspect_ratio", "image", "model")
TASK_FIELDS = ("model", "input", "images")
MOST_SHOTS = 10
MOST_FAULTS = 100
PLACEHOLDER_SHOTS = (Shot("Stands in for shots that are missing, which is another fault.", 0.1),)


def parse_work(fields: Mapping[str, Any]) -> Work:
    """The work that a film's fields, or a payload of the journal, describe.

    Raises:
        StoryboardError: with every rule that the work breaks.
    """
    if "task" in fields:
        return _parse_task(fields["task"])
    shots = fields.get("shots", PLACEHOLDER_SHOTS)
    if isinstance(shots, list):
        if len(shots) > MOST_SHOTS:
            raise StoryboardError(f"shots: 1 to {MOST_SHOTS}, not {len(shots)}")
        shots = [_with_text_scene(shot) for shot in shots]
    rest = {name: fields[name] for name in STORYBOARD_FIELDS[1:] if name in fields}
    return Storyboard(shots, **rest)


def _parse_task(task: object) -> ModelTask:
    if not isinstance(task, Mapping):
        raise StoryboardError(
            f"task: a mapping of model, input and images, not {describe_value(task)}"
        )
    faults = [
        f"task.{describe_value(name)}: unknown; a task has model, input and images"
        for name in islice(task, MOST_FAULTS)
        if name not in TASK_FIELDS
    ]
    try:
        rest = {name: task[name] for name in TASK_FIELDS[1:] if name in task}
        parsed = ModelTask(task.get("model") or "", **rest)
    except StoryboardError as error:
        raise StoryboardError([*faults, *(f"task.{fault}" for fault in error.faults)]) from None
    if faults:
        raise StoryboardError(faults)
    return parsed


def _with_text_scene(shot: Any) -> Any:
    """The shot with its scene as text: YAML reads `scene: 1984` as a number."""
    scene = shot.get("scene") if isinstance(shot, Mapping) else None
    if type(scene) is int and abs(scene) < 10**40:
        return {**shot, "scene": str(scene)}
    return shot

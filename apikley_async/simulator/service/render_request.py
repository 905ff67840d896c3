"""What a renderer is asked for: one film or image, as a value without the service around it."""

from __future__ import annotations

from typing import Literal

import attrs

__all__ = ["RenderRequest"]


@attrs.frozen
class RenderRequest:
    """One film to render. Equal requests with equal seeds should give equal films.

    Args:
        task_id: the id of the task that the film belongs to.
        model: the name of the model that the task asked for.
        shots: caption and seconds of each shot; an end card fills what they leave of the film.
        duration: length of the whole film in seconds.
        aspect: "landscape" or "portrait".
        image: a PNG, JPEG or WebP file that was uploaded to the simulator; None when the task has
            no image, or one from elsewhere.
        seed: chooses colours and movement.
        prompt: shown for the whole film when there are no shots, as in tasks of other models.
        still: the model makes images: render a PNG and no film.
    """

    task_id: str
    model: str
    shots: tuple[tuple[str, float], ...]
    duration: float
    aspect: Literal["landscape", "portrait"]
    image: bytes | None = attrs.field(repr=False)
    seed: int
    prompt: str | None
    still: bool = False

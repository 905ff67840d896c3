"""What every contender sends and receives: storyboards, keys, ids, links of real length.

The sizes follow the service's documentation: two scenes of some 250 characters, an image's link,
a key of 32 characters, ids as in its examples, signed links of a file host.
"""

from __future__ import annotations

import secrets
from typing import Any

import attrs

__all__ = [
    "HOST",
    "ID_LENGTH",
    "IMAGE",
    "Order",
    "input_of",
    "link_of",
    "new_key",
    "scenes",
    "task_id",
]

FIRST = (
    "A small orange lighthouse keeper's cat wearing a knitted scarf, sitting on a cosy kitchen "
    "table beside a slice of cake, a toy fish and a silver bell, warm soft lighting, cinematic "
    "close-up, shallow depth of field, gentle morning atmosphere, take {number}."
)
SECOND = (
    "The same cat with the knitted scarf in the same cosy kitchen with the toy fish and the bell, "
    "the cake now finished; the cat licks its lips and looks out at the sea, warm ambient "
    "lighting, cinematic close-up, shallow depth of field, calm and content mood."
)
HOST = "https://tempfile.results.example"  # of the films, unless the fake serves them itself
IMAGE = "https://file.results.example/custom-page/akr/section-images/1760776438785hyue5ogz.png"
FIRST_NUMBER = 1_790_000_000_000
ID_LENGTH = len(f"task_sora-2-pro-storyboard_{FIRST_NUMBER}")


def new_key() -> str:
    """A key as long as a real one, good for this run only."""
    return secrets.token_hex(16)


def scenes(number: int) -> tuple[str, str]:
    """The two scenes of a film; no two films are the same."""
    return FIRST.format(number=number), SECOND


def input_of(number: int) -> dict[str, Any]:
    """A storyboard as createTask wants it, written by hand."""
    return {
        "n_frames": "15",
        "aspect_ratio": "landscape",
        "image_urls": [IMAGE],
        "shots": [{"Scene": scene, "duration": 7.5} for scene in scenes(number)],
    }


def task_id(number: int) -> str:
    return f"task_sora-2-pro-storyboard_{FIRST_NUMBER + number}"


def link_of(task: str) -> str:
    """A signed link of the length that file hosts give."""
    query = f"Expires=1790086400&Signature={'Q1cD' * 10}&Key-Pair-Id=K2JCJMDEHXQW5F"
    return f"{HOST}/f/{task}/0001.mp4?{query}"


@attrs.frozen
class Order:
    """What a contender is to do.

    Attributes:
        url: of the service.
        key: for it.
        jobs: how many films.
        flight: how many at once.
        interval: seconds before each poll.
        posts: submissions at once.
    """

    url: str
    key: str = attrs.field(repr=False)
    jobs: int
    flight: int
    interval: float = 0.01
    posts: int = 100

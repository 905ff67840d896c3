"""The service's words that are certain where its code is not. Pure; one closed list.

Validation runs before anything is created, and upstream answers its refusals with HTTP 200 and
code 500, the code of everything else that goes wrong. Only sentences that were seen are listed,
from their first word on; what merely resembles them stays uncertain.
"""

from __future__ import annotations

import re

from apikley_async.errors import ApiError, InsufficientCreditsError, InvalidRequestError

_FIELD = r"[A-Za-z_][\w.\[\]-]{0,80}"

_CERTAIN: tuple[tuple[str, type[ApiError]], ...] = (
    (r"credits insufficient\b.*", InsufficientCreditsError),
    (rf"{_FIELD} is required", InvalidRequestError),
    (r"this field is required", InvalidRequestError),
    (rf"this {_FIELD} is not within the range of allowed options", InvalidRequestError),
    (r"the text length cannot exceed the maximum limit", InvalidRequestError),
    (r"value must be within the specified range", InvalidRequestError),
    (r"the model name you specified is not supported\b.*", InvalidRequestError),
)
_LISTED = [(re.compile(rf"{said}\W*", re.IGNORECASE | re.DOTALL), kind) for said, kind in _CERTAIN]
_MODEL = _LISTED[-1][0]


def certain_refusal(said: str) -> type[ApiError] | None:
    """Which refusal the words of an answer to createTask are; None when they are not listed."""
    return next((kind for words, kind in _LISTED if words.fullmatch(said.strip())), None)


def tells_of_model(said: str) -> bool:
    """Whether the words say that the service does not serve the model."""
    return _MODEL.fullmatch(said.strip()) is not None

"""The service's messages that are certain where its code is not: one closed list. Pure.

The service validates before it creates anything, and refuses with HTTP 200 and code 500: the
code of everything else that goes wrong. Only sentences that were seen are listed, from their
first word on; a message that merely resembles one stays uncertain.
"""

from __future__ import annotations

import re

from apikley_async.errors import ApiError, InsufficientCreditsError, InvalidRequestError

_FIELD = r"[A-Za-z_][\w.\[\]-]{0,80}"
_UNSUPPORTED_MODEL = r"the model name you specified is not supported\b.*"

_CERTAIN: tuple[tuple[str, type[ApiError]], ...] = (
    (r"credits insufficient\b.*", InsufficientCreditsError),
    (rf"{_FIELD} is required", InvalidRequestError),
    (r"this field is required", InvalidRequestError),
    (rf"this {_FIELD} is not within the range of allowed options", InvalidRequestError),
    (r"the text length cannot exceed the maximum limit", InvalidRequestError),
    (r"value must be within the specified range", InvalidRequestError),
    (_UNSUPPORTED_MODEL, InvalidRequestError),
)


def _is(sentence: str, message: str) -> bool:
    pattern = rf"{sentence}\W*"
    return re.fullmatch(pattern, message.strip(), re.IGNORECASE | re.DOTALL) is not None


def certain_refusal(message: str) -> type[ApiError] | None:
    """Return the error that createTask's *message* means; None when it is not on the list."""
    return next((kind for sentence, kind in _CERTAIN if _is(sentence, message)), None)


def names_unsupported_model(message: str) -> bool:
    """Say whether *message* means that the service does not serve the model."""
    return _is(_UNSUPPORTED_MODEL, message)

"""Exit codes: what a script may conclude without reading a word."""

from __future__ import annotations

import pytest

from apikley_async.cli.exit_codes import exit_code, worst
from apikley_async.errors import (
    ApikleyError,
    AuthenticationError,
    InsufficientCreditsError,
    InvalidRequestError,
    JobFailedError,
    JobTimeoutError,
    MaintenanceError,
    MissingExtraError,
    StoryboardError,
    SubmissionUncertainError,
    UnreachableError,
)

ENDS: list[tuple[ApikleyError, int]] = [
    (JobFailedError("no kittens"), 1),
    (InvalidRequestError("wrong", code=422), 1),
    (StoryboardError("shots: 1 to 10"), 2),
    (MissingExtraError("install it"), 2),
    (SubmissionUncertainError("no answer"), 3),
    (AuthenticationError("bad key", code=401), 4),
    (InsufficientCreditsError("no credits", code=402), 4),
    (MaintenanceError("later", code=455), 4),
    (UnreachableError("no route"), 4),
    (JobTimeoutError("not ready"), 4),
]


def test_every_error_has_its_exit_code() -> None:
    """1: a film failed; 2: the input; 3: a person has to decide; 4: the same command goes on."""
    wrong = [(error, exit_code(error)) for error, code in ENDS if exit_code(error) != code]

    assert wrong == []


@pytest.mark.parametrize(
    ("codes", "code"),
    [([], 0), ([0, 0], 0), ([0, 1, 0], 1), ([2, 1], 1), ([1, 4, 0], 4), ([4, 1, 3, 2], 3)],
)
def test_what_needs_a_person_is_never_hidden_by_the_rest(codes: list[int], code: int) -> None:
    """A decision goes before what can go on, and that before what has failed."""
    assert worst(codes) == code

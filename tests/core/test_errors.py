"""`errors`: plain values that travel, sort themselves, and say in a sentence what to do."""

from __future__ import annotations

import copy
import inspect
import itertools
import json
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest

import apikley_async
from apikley_async import Shot, Storyboard, errors
from apikley_async.errors import (
    ApiError,
    ApikleyError,
    AuthenticationError,
    Blame,
    BudgetExceededError,
    ClientClosedError,
    DownloadError,
    EmptyResultError,
    FeatureDisabledError,
    InsufficientCreditsError,
    InvalidRequestError,
    JobFailedError,
    JobTimeoutError,
    JournalError,
    KeyLimitError,
    MaintenanceError,
    ManifestConflictError,
    ManifestError,
    MissingExtraError,
    NotFoundError,
    RateLimitError,
    ResultExpiredError,
    ServerError,
    StoryboardError,
    SubmissionUncertainError,
    UnansweredError,
    UnreachableError,
    UploadError,
)

FAMILY = [
    kind
    for kind in vars(errors).values()
    if inspect.isclass(kind) and issubclass(kind, ApikleyError)
]

# One of each, with everything it can carry, in the order of the module.
SPECIMENS = [
    ApikleyError("Something went wrong", code=7, task_id="task_1"),
    StoryboardError(["shots: 1 to 10, not 11", "duration: 10, 15 or 25 seconds, not 12"]),
    ApiError("The poll was refused: odd", code=1015, task_id="task_1"),
    AuthenticationError("The poll was refused: no such key", code=401, task_id="task_1"),
    InsufficientCreditsError("The submission was refused: no money", code=402),
    NotFoundError("The service knows no such task", code=404, task_id="task_1"),
    InvalidRequestError("The submission was refused: bad shots", code=422),
    RateLimitError("The poll was refused: slow down", code=429, task_id="t", retry_after=2.5),
    KeyLimitError("The submission was refused: cap reached", code=433),
    MaintenanceError("The submission was refused: back soon", code=455),
    FeatureDisabledError("The submission was refused: off", code=505),
    ServerError("The poll was refused: oops", code=500, task_id="task_1"),
    UnreachableError("host.test was not reached: refused", code=0, task_id="t", permanent=True),
    UnansweredError("The poll got an answer that cannot be read", code=200, task_id="task_1"),
    SubmissionUncertainError(
        "The submission may have been processed: HTTP 502",
        code=502,
        task_id="task_1",
        token="a1b2",
        cause="HTTP 502",
        http=502,
        raw="<html>",
        at=1_790_000_000.5,
    ),
    JobFailedError(
        "The film failed: 500 oops", code=200, task_id="t", fail_code="500", fail_message="oops"
    ),
    JobTimeoutError("Not ready after 1800 s, waiting", code=200, task_id="task_1"),
    EmptyResultError("No usable link yet", code=200, task_id="task_1", raw={"state": "success"}),
    ClientClosedError("The client was closed", task_id="task_1"),
    UploadError("image 'a.gif': JPEG, PNG or WebP", code=400),
    DownloadError("The film broke off", task_id="task_1"),
    ResultExpiredError("Every link is dead", task_id="task_1"),
    BudgetExceededError("12 films need 3,240 credits, the bound is 3,000"),
    ManifestError(["films[0].key: a word, not ''", "films[2].shots: 1 to 10, not 0"]),
    ManifestConflictError("kitten: its storyboard has changed since it was paid"),
    JournalError("campaign.db is in use by another process"),
    MissingExtraError.of("Films need an extra", "simulator"),
]

# Classes that cover several cases: what an instance says in place of its class.
CASES = [
    AuthenticationError("A key with a space in it"),
    UnreachableError("host.test was not reached: its certificate is not valid", permanent=True),
    JournalError("campaign.db is in use", resumable=True, blames=Blame.NETWORK),
    BudgetExceededError("no price", resumable=False, blames=Blame.INPUT),
    ApiError("redirected", code=302, resumable=True, blames=Blame.INPUT, affects_all=True),
]


def pickled(error: ApikleyError, protocol: int) -> Any:
    return pickle.loads(pickle.dumps(error, protocol))  # noqa: S301 - our own, made a line above


WAYS: dict[str, Callable[[ApikleyError], Any]] = {
    "pickle, oldest protocol": lambda error: pickled(error, 0),
    "pickle, newest protocol": lambda error: pickled(error, pickle.HIGHEST_PROTOCOL),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


def meaning(error: ApikleyError | type[ApikleyError]) -> tuple[bool, str, bool, str]:
    return error.resumable, error.blames.value, error.affects_all, error.retry


def test_there_is_a_specimen_of_every_error() -> None:
    """The tests below are about the whole family."""
    assert {type(error) for error in SPECIMENS} == set(FAMILY)


def test_an_error_can_be_pickled_and_copied() -> None:
    """Every attribute, the arguments, the notes and the sentence arrive at the other side."""
    failures = []
    for given, way in itertools.product([*SPECIMENS, *CASES], WAYS):
        error = copy.copy(given)
        error.add_note("while making the third film")
        arrived = WAYS[way](error)
        same = (
            type(arrived) is type(error)
            and vars(arrived) == vars(error)
            and meaning(arrived) == meaning(error)
            and arrived.args == error.args
            and str(arrived) == str(error)
            and arrived.__notes__ == ["while making the third film"]
        )
        if not same:
            failures.append((way, error, arrived))

    assert failures == []


def test_a_timeout_is_pickled_and_copied_without_its_job() -> None:
    """A job lives in one process: only its id is carried, and the original keeps it."""
    job = lambda: "cannot be pickled"  # noqa: E731 - as little a job as can be
    error = JobTimeoutError("Not ready after 1800 s", task_id="task_1", job=job)

    for way in WAYS.values():
        arrived = way(error)
        assert arrived.job is None
        assert arrived.task_id == "task_1"
        assert str(arrived) == str(error)
    assert error.job is job


def test_a_timeout_is_a_timeout_error_of_python() -> None:
    """Who writes `except TimeoutError` around a wait means this one too, and gets its job."""
    job = object()
    with pytest.raises(TimeoutError) as caught:
        raise JobTimeoutError("Not ready after 1800 s", task_id="task_1", job=job)

    assert caught.value.job is job  # type: ignore[attr-defined]
    assert str(caught.value).startswith("Not ready after 1800 s (task task_1). Await")
    assert caught.value.args == ("Not ready after 1800 s",)
    assert (caught.value.errno, caught.value.strerror) == (None, None)


def test_an_error_prints_sentences() -> None:
    """What happened, then what to do: one line, closed by one full stop, no empty brackets."""
    failures = []
    for error in SPECIMENS:
        line = str(error)
        fine = (
            line.startswith(error.message[:20])
            and re.fullmatch(r"\S.*[^.\s]\.", line)
            and not re.search(r"\.\.(?!\.)|\?\.|!\.| \.|\( ?\)|\s{2}|None", line)
            and error.advice in line
            and (error.code is None or f"code {error.code}" in line)
            and (error.task_id is None or f"task {error.task_id}" in line)
        )
        if not fine:
            failures.append(line)

    assert failures == []


def test_even_an_error_without_a_message_says_something() -> None:
    """Nobody is left with a bare full stop."""
    lines = [str(kind("")) for kind in FAMILY]

    assert [line for line in lines if not re.fullmatch(r"[A-Za-z].*[\w)]\.", line)] == []


def test_code_and_task_stand_inside_the_sentence() -> None:
    """A full stop of the message never stands before the brackets."""
    lines = {
        "It broke": "It broke (code 4).",
        "It broke.": "It broke (code 4).",
        "Did it break?": "Did it break? (code 4).",
        "": "ApikleyError (code 4).",
    }

    assert {message: str(ApikleyError(message, code=4)) for message in lines} == lines


def test_a_message_keeps_its_own_end() -> None:
    for end in (".", "!", "?"):
        assert str(ClientClosedError(f"Closed{end}")).startswith(f"Closed{end} Enter")


def test_an_error_of_the_input_names_every_fault() -> None:
    """Also a `ValueError`, so that code that validates input catches it as such."""
    faults = ["shots[0].scene: a description, not blank", "duration: 10, 15 or 25 seconds, not 3"]

    for kind in (StoryboardError, ManifestError, ManifestConflictError):
        error = kind(iter(faults))
        assert error.faults == tuple(faults)
        assert all(fault in str(error) for fault in faults)
        assert isinstance(error, ValueError)


def test_one_fault_may_be_given_as_it_is() -> None:
    assert StoryboardError("work: a Storyboard").faults == ("work: a Storyboard",)


def test_the_family_is_sorted_by_what_to_do_next() -> None:
    """One base; the refusals under `ApiError`; what may be paid under nothing but the base."""
    refusals = {kind for kind in FAMILY if issubclass(kind, ApiError)}

    assert all(issubclass(kind, ApikleyError) for kind in FAMILY)
    assert refusals == {
        ApiError,
        AuthenticationError,
        FeatureDisabledError,
        InsufficientCreditsError,
        InvalidRequestError,
        KeyLimitError,
        MaintenanceError,
        NotFoundError,
        RateLimitError,
        ServerError,
    }
    assert SubmissionUncertainError.__bases__ == (ApikleyError,)
    assert issubclass(ResultExpiredError, DownloadError)
    assert issubclass(MissingExtraError, ImportError)


def test_every_error_is_exported() -> None:
    """Importable from the package and from its `errors`, under one name."""
    assert {kind.__name__ for kind in FAMILY} | {"Blame"} == set(errors.__all__)
    assert set(errors.__all__) <= set(apikley_async.__all__)
    assert all(getattr(apikley_async, name) is getattr(errors, name) for name in errors.__all__)


def test_every_class_says_what_it_means_for_the_caller() -> None:
    """Resumable, what has to change, whether the next film fares the same, whether to repeat."""
    said = {kind: meaning(kind) for kind in FAMILY}

    assert said == {
        ApikleyError: (False, "service", False, "never"),
        StoryboardError: (False, "input", False, "never"),
        ApiError: (False, "service", False, "slowly"),
        AuthenticationError: (True, "account", True, "never"),
        InsufficientCreditsError: (True, "account", True, "slowly"),
        NotFoundError: (False, "input", False, "never"),
        InvalidRequestError: (False, "input", False, "never"),
        RateLimitError: (True, "service", True, "always"),
        KeyLimitError: (True, "account", True, "slowly"),
        MaintenanceError: (True, "service", True, "slowly"),
        FeatureDisabledError: (False, "service", False, "slowly"),
        ServerError: (True, "service", False, "soon"),
        UnreachableError: (True, "network", True, "always"),
        UnansweredError: (True, "network", False, "soon"),
        SubmissionUncertainError: (False, "service", False, "never"),
        JobFailedError: (False, "service", False, "never"),
        JobTimeoutError: (True, "service", False, "never"),
        EmptyResultError: (True, "service", False, "never"),
        ClientClosedError: (True, "input", True, "never"),
        UploadError: (False, "input", False, "never"),
        DownloadError: (True, "network", False, "never"),
        ResultExpiredError: (False, "service", False, "never"),
        BudgetExceededError: (True, "account", True, "never"),
        ManifestError: (False, "input", False, "never"),
        ManifestConflictError: (False, "input", False, "never"),
        JournalError: (False, "input", True, "never"),
        MissingExtraError: (False, "input", True, "never"),
    }


def test_an_instance_says_it_where_a_class_covers_several_cases() -> None:
    """A key that cannot be one, a wrong certificate, a journal in use, a bound without a price."""
    assert [meaning(error) for error in CASES] == [
        (False, "input", True, "never"),
        (False, "input", True, "slowly"),
        (True, "network", True, "never"),
        (False, "input", True, "never"),
        (True, "input", True, "slowly"),
    ]


def test_every_class_has_a_docstring_of_its_own() -> None:
    docs = {kind: (vars(kind).get("__doc__") or "").splitlines() for kind in FAMILY}

    wrong = [kind for kind, doc in docs.items() if not doc or not doc[0].endswith((".", ":", ","))]
    assert wrong == []


def test_an_uncertain_submission_warns_before_it_advises() -> None:
    """A user who reads only the sentence does not pay twice."""
    line = str(SubmissionUncertainError("The submission may have been processed: HTTP 502"))

    assert "Do not simply submit again" in line
    assert "client.job(task_id)" in line


def test_the_repr_of_an_uncertain_submission_names_its_film() -> None:
    """Of twenty in `client.uncertain`, which is it?"""
    error = SubmissionUncertainError("Processed?", token="ab12", cause="HTTP 502")
    bare = repr(error)
    error.work = Storyboard([Shot("A lighthouse at dawn.")], duration=10)

    assert bare == "<SubmissionUncertainError: attempt ab12, HTTP 502>"
    assert repr(error).startswith(f"{bare[:-1]}, <Storyboard ")
    assert "A lighthouse at dawn." in repr(error)
    assert repr(SubmissionUncertainError("Processed?")) == "<SubmissionUncertainError: Processed?>"


def test_an_error_shows_nothing_of_what_it_carries() -> None:
    """An answer may hold a callback URL or a signed link: no repr and no sentence repeats it."""
    secret = "https://hooks.test/?token=canary"
    carrying = [
        SubmissionUncertainError("Processed?", raw=secret),
        EmptyResultError("No link", raw={"param": secret}),
    ]

    assert all("canary" not in str(error) + repr(error) for error in carrying)


def test_an_error_as_a_dict_is_plain_json() -> None:
    """For a log or another process: no answer, no work, no job."""
    failures = []
    for error in SPECIMENS:
        values = error.to_dict()
        same = json.loads(json.dumps(values)) == values
        if not same or values["error"] != type(error).__name__ or "raw" in values:
            failures.append(values)

    assert failures == []
    assert StoryboardError("shots: none").to_dict()["faults"] == ["shots: none"]
    assert InsufficientCreditsError("no money", code=402, task_id="t").to_dict() == {
        "error": "InsufficientCreditsError",
        "message": "no money",
        "advice": "Top up the account, then submit again",
        "code": 402,
        "task_id": "t",
        "resumable": True,
        "blames": "account",
        "affects_all": True,
        "retry_after": None,
    }

"""An asyncio SDK with job orchestration for the Apikley video API (https://api.apikley.ru)."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for type checkers; at run time a module is imported when it is first needed
    from apikley_async._budget import Price
    from apikley_async._client import Client
    from apikley_async._clock import Clock, SystemClock
    from apikley_async._download.partfile import SavedFile
    from apikley_async._download.stream import FilmStream
    from apikley_async._durations import Expected
    from apikley_async._environment import Environment
    from apikley_async._images import PinnedImage
    from apikley_async._job import Job
    from apikley_async._limiter import Limiter, RateLimiter
    from apikley_async._outcomes import Completed, Failed, Outcome
    from apikley_async._polling import Backoff
    from apikley_async._recorder import Attempt, Callbacks, Recorder, Verdict
    from apikley_async._result import Result, Snapshot, State
    from apikley_async._retry import Timeouts
    from apikley_async._storyboard import (
        Image,
        Images,
        ModelTask,
        Shot,
        Storyboard,
        Urls,
        Work,
        images_of,
        with_images,
        work_faults,
    )
    from apikley_async._wire.requests import Request
    from apikley_async._wire.task_ids import read_callback
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

__all__ = [
    "ApiError",
    "ApikleyError",
    "Attempt",
    "AuthenticationError",
    "Backoff",
    "Blame",
    "BudgetExceededError",
    "Callbacks",
    "Client",
    "ClientClosedError",
    "Clock",
    "Completed",
    "DownloadError",
    "EmptyResultError",
    "Environment",
    "Expected",
    "Failed",
    "FeatureDisabledError",
    "FilmStream",
    "Image",
    "Images",
    "InsufficientCreditsError",
    "InvalidRequestError",
    "Job",
    "JobFailedError",
    "JobTimeoutError",
    "JournalError",
    "KeyLimitError",
    "Limiter",
    "MaintenanceError",
    "ManifestConflictError",
    "ManifestError",
    "MissingExtraError",
    "ModelTask",
    "NotFoundError",
    "Outcome",
    "PinnedImage",
    "Price",
    "RateLimitError",
    "RateLimiter",
    "Recorder",
    "Request",
    "Result",
    "ResultExpiredError",
    "SavedFile",
    "ServerError",
    "Shot",
    "Snapshot",
    "State",
    "Storyboard",
    "StoryboardError",
    "SubmissionUncertainError",
    "SystemClock",
    "Timeouts",
    "UnansweredError",
    "UnreachableError",
    "UploadError",
    "Urls",
    "Verdict",
    "Work",
    "images_of",
    "read_callback",
    "with_images",
    "work_faults",
]

__version__ = "0.1.0"

# The same names by their modules: `apikley --help` needs none of them.
_NAMES = {
    "_budget": "Price",
    "_client": "Client",
    "_clock": "Clock SystemClock",
    "_download.partfile": "SavedFile",
    "_download.stream": "FilmStream",
    "_durations": "Expected",
    "_environment": "Environment",
    "_images": "PinnedImage",
    "_job": "Job",
    "_limiter": "Limiter RateLimiter",
    "_outcomes": "Completed Failed Outcome",
    "_polling": "Backoff",
    "_recorder": "Attempt Callbacks Recorder Verdict",
    "_result": "Result Snapshot State",
    "_retry": "Timeouts",
    "_storyboard": (
        "Image Images ModelTask Shot Storyboard Urls Work images_of with_images work_faults"
    ),
    "_wire.requests": "Request",
    "_wire.task_ids": "read_callback",
    "errors": (
        "ApiError ApikleyError AuthenticationError Blame BudgetExceededError "
        "ClientClosedError DownloadError EmptyResultError FeatureDisabledError "
        "InsufficientCreditsError InvalidRequestError JobFailedError JobTimeoutError "
        "JournalError KeyLimitError MaintenanceError ManifestConflictError ManifestError "
        "MissingExtraError NotFoundError RateLimitError ResultExpiredError ServerError "
        "StoryboardError SubmissionUncertainError UnansweredError UnreachableError "
        "UploadError"
    ),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names.split()}

if not TYPE_CHECKING:  # else a misspelled name would pass for one of these

    def __getattr__(name: str) -> object:
        if name in _NAMES:
            return import_module(f"{__name__}.{name}")
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})

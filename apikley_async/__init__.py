"""An asyncio SDK with job orchestration for the Apikley video API (https://api.apikley.ru)."""

from apikley_async._client import Client
from apikley_async._clock import Clock, SystemClock
from apikley_async._images import Picture, read_picture
from apikley_async._job import Job
from apikley_async._limiter import Limiter, RateLimiter
from apikley_async._many import Outcome
from apikley_async._policy import Backoff, Timeouts
from apikley_async._result import Result, Snapshot, State
from apikley_async._storyboard import ModelTask, Shot, Storyboard
from apikley_async._submit import Attempt, Callbacks, Recorder, Verdict
from apikley_async._wire import Request, read_callback
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
    "DownloadError",
    "EmptyResultError",
    "FeatureDisabledError",
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
    "Picture",
    "RateLimitError",
    "RateLimiter",
    "Recorder",
    "Request",
    "Result",
    "ResultExpiredError",
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
    "Verdict",
    "read_callback",
    "read_picture",
]

__version__ = "0.1.0"

"""An asyncio SDK with job orchestration for the Apikley video API (https://api.apikley.ru)."""

from apikley_async._client import Client
from apikley_async._clock import Clock, SystemClock
from apikley_async._job import Job
from apikley_async._limiter import Limiter, RateLimiter
from apikley_async._many import Outcome
from apikley_async._policy import Backoff, Timeouts
from apikley_async._result import Result, Snapshot, State
from apikley_async._storyboard import Shot, Storyboard, Task
from apikley_async._submit import Attempt, Callbacks, Recorder, Verdict
from apikley_async.errors import (
    ApiError,
    ApikleyError,
    AuthenticationError,
    ClientClosedError,
    DownloadError,
    EmptyResultError,
    FeatureDisabledError,
    InsufficientCreditsError,
    InvalidRequestError,
    JobFailedError,
    JobTimeoutError,
    KeyLimitError,
    MaintenanceError,
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
    "KeyLimitError",
    "Limiter",
    "MaintenanceError",
    "MissingExtraError",
    "NotFoundError",
    "Outcome",
    "RateLimitError",
    "RateLimiter",
    "Recorder",
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
    "Task",
    "Timeouts",
    "UnansweredError",
    "UnreachableError",
    "UploadError",
    "Verdict",
]

__version__ = "0.1.0"

"""An asyncio SDK with job orchestration for the Apikley video API (https://api.apikley.ru)."""

from apikley_async._budget import Price
from apikley_async._client import Client
from apikley_async._clock import Clock, SystemClock
from apikley_async._download.partfile import SavedFile
from apikley_async._environment import Environment
from apikley_async._generate import Completed, Failed, Outcome
from apikley_async._images import PinnedImage
from apikley_async._job import Job
from apikley_async._limiter import Limiter, RateLimiter
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
    "Failed",
    "FeatureDisabledError",
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

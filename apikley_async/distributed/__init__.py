"""Many machines that share one API key: one rate, one journal, one inbox for callbacks.

Needs a PostgreSQL database that all of them reach, and the extra `postgres`.
"""

from apikley_async.distributed.database import Upgrade, set_up
from apikley_async.distributed.hints import wake_workers
from apikley_async.distributed.inbox import SharedInbox
from apikley_async.distributed.shared_limiter import SharedLimiter
from apikley_async.distributed.worker import Worker

__all__ = ["SharedInbox", "SharedLimiter", "Upgrade", "Worker", "set_up", "wake_workers"]

"""Callbacks: know the moment a film is ready, and learn what became of a lost submission.

A callback is a hint, never the truth: what it says is read from the service before it counts.
"""

from apikley_async._seal import token_secret
from apikley_async.webhook._asgi import ASGIApplication
from apikley_async.webhook._callback import Callback, Receiver
from apikley_async.webhook._inbox import Inbox
from apikley_async.webhook._limits import Limits
from apikley_async.webhook._listeners import Hear
from apikley_async.webhook._serving import Server

__all__ = [
    "ASGIApplication",
    "Callback",
    "Hear",
    "Inbox",
    "Limits",
    "Receiver",
    "Server",
    "token_secret",
]

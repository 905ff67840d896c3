"""Callbacks: know the moment a film is ready, and learn what became of a lost submission.

A callback is a hint, never the truth: what it says is read from the service before it counts.
"""

from apikley_async._tokens import token_secret
from apikley_async.webhook.asgi_app import ASGIApplication
from apikley_async.webhook.callback import Callback, Receiver
from apikley_async.webhook.dispatch import Hear
from apikley_async.webhook.inbox import Inbox
from apikley_async.webhook.request_limits import Limits
from apikley_async.webhook.server import Server

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

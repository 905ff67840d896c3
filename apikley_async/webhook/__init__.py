"""Webhooks: know within moments that a film is ready, and what became of a lost submission.

A callback is a hint, never the truth: it makes the job poll the service, which counts.
"""

from apikley_async._tokens import token_secret
from apikley_async.webhook.asgi_app import ASGIApplication
from apikley_async.webhook.callback import Callback
from apikley_async.webhook.dispatch import Listener
from apikley_async.webhook.inbox import CallbackInbox, Inbox, Position
from apikley_async.webhook.limits import Limits
from apikley_async.webhook.receiver import Receiver
from apikley_async.webhook.server import Server
from apikley_async.webhook.verify import Notification

__all__ = [
    "ASGIApplication",
    "Callback",
    "CallbackInbox",
    "Inbox",
    "Limits",
    "Listener",
    "Notification",
    "Position",
    "Receiver",
    "Server",
    "token_secret",
]

"""Verifies one callback: the same rules for aiohttp, ASGI and our own server.

Pure: it is given a request and the time, and returns the status to answer with and what the
listeners are to get. It believes the signature, its timestamp and the token in the path. Of
the body it reads the task id and nothing else, since nobody signs the body. No answer, log line
or `repr` contains anything of a request.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Callable, Iterable

import attrs

from apikley_async import read_callback
from apikley_async._tokens import TokenMac

__all__ = [
    "MAX_BODY",
    "CallbackRequest",
    "HmacKeys",
    "Notification",
    "ReplayCache",
    "Verification",
    "refusal_status",
    "verify",
]

# The service repeats our request in its callback, so the largest request that we send must fit.
MAX_BODY = (2048 + 64) * 1024
TIMESTAMP_TOLERANCE = 300  # seconds that a signature's timestamp may differ from ours, either way
REPLAY_WINDOW = 2.0 * TIMESTAMP_TOLERANCE
MAX_REPLAYS = 10_000

TIMESTAMP_HEADER = b"x-webhook-timestamp"
SIGNATURE_HEADER = b"x-webhook-signature"


def _normalised(headers: Iterable[tuple[bytes, bytes]]) -> tuple[tuple[bytes, bytes], ...]:
    return tuple((name.lower(), value.strip(b" \t")) for name, value in headers)


@attrs.frozen(repr=False)
class CallbackRequest:
    """The head of a request, as it arrived."""

    method: str
    path: str
    headers: tuple[tuple[bytes, bytes], ...] = attrs.field(converter=_normalised)

    def values(self, name: bytes) -> list[bytes]:
        """Every value of a header; *name* in lower case."""
        return [value for known, value in self.headers if known == name]

    @property
    def token(self) -> str | None:
        """The token: the last segment of the path, with or without the MAC behind it.

        The segments before it belong to whatever proxy or application mounts us.
        """
        last = self.path.rpartition("/")[2]
        return last if re.fullmatch("[0-9a-f]{32}([0-9a-f]{32})?", last) else None

    def __repr__(self) -> str:
        return "<CallbackRequest>"


@attrs.frozen(repr=False)
class Notification:
    """What a callback says: the attempt with this token became this task."""

    token: str
    task_id: str

    def __repr__(self) -> str:
        return "<Notification>"


@attrs.frozen(repr=False)
class Verification:
    """What became of a request.

    Attributes:
        status: the HTTP status to answer with.
        notification: what the listeners get; None if they get nothing.
        replay_key: recognises the same callback when it comes again; empty if it is unsigned.
    """

    status: int
    notification: Notification | None = None
    replay_key: bytes = b""

    def __repr__(self) -> str:
        return f"<Verification {self.status}>"


def verify(
    request: CallbackRequest,
    body: bytes,
    *,
    keys: HmacKeys,
    wall: float,
    is_replay: Callable[[bytes], bool] = lambda replay_key: False,
) -> Verification:
    """Verify a whole request.

    Args:
        request: its head.
        body: its body, as it arrived.
        keys: the keys that it may be signed with; without any, signatures are not checked.
        wall: the time now, in Unix seconds.
        is_replay: says whether a replay key was seen before.
    """
    refused = refusal_status(request)
    if refused is not None:
        return Verification(refused)
    if len(body) > MAX_BODY:
        return Verification(413)
    task_ids = read_callback(body)
    if not task_ids:
        return Verification(400)
    token = request.token or ""
    if not keys:
        return Verification(200, Notification(token, task_ids[0]))
    timestamps, signatures = request.values(TIMESTAMP_HEADER), request.values(SIGNATURE_HEADER)
    # With two of one header it would be open which of them another reader goes by.
    if len(timestamps) != 1 or len(signatures) != 1 or not _is_fresh(timestamps[0], wall):
        return Verification(401)
    task_id = keys.signed_task_id(task_ids, timestamps[0], signatures[0])
    if task_id is None:
        return Verification(401)
    # The token is part of the key although it is not signed: the same signature sent to another
    # URL of ours is another notification, and must not be taken for a replay of this one.
    parts = (token.encode(), task_id.encode(), timestamps[0], signatures[0])
    replay_key = hashlib.sha256(b"\n".join(parts)).digest()
    if is_replay(replay_key):
        return Verification(200)
    return Verification(200, Notification(token, task_id), replay_key)


def refusal_status(request: CallbackRequest, token_mac: TokenMac | None = None) -> int | None:
    """The status of a request that is refused whatever its body says; None: read the body.

    The content type is not checked. With *token_mac* the token must carry a MAC of ours.
    """
    if request.method != "POST":
        return 405
    if request.token is None or (token_mac and not token_mac.verifies(request.token)):
        return 404
    codings, lengths = request.values(b"content-encoding"), request.values(b"content-length")
    if max(len(codings), len(lengths)) > 1:
        return 400
    if codings and codings[0].lower() != b"identity":
        return 415
    return 413 if lengths and _is_too_long(lengths[0]) else None


def _is_too_long(length: bytes) -> bool:
    """Whether a body of this announced length need not be read; what is no number may be a lie."""
    digits = length.lstrip(b"0")
    return digits.isdigit() and (len(digits) > 9 or int(digits) > MAX_BODY)


def _is_fresh(timestamp: bytes, wall: float) -> bool:
    return (
        bool(re.fullmatch(b"[0-9]{1,12}", timestamp))
        and abs(wall - int(timestamp)) <= TIMESTAMP_TOLERANCE
    )


class HmacKeys:
    """The keys that callbacks may be signed with. Any of them is enough, so keys can be rotated.

    The keys cannot be read from it, shown or pickled.

    Args:
        keys: the keys; blanks around each are removed.

    Raises:
        ValueError: one of them cannot be a key; the message does not repeat it.
    """

    __slots__ = ("_macs",)

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._macs: tuple[hmac.HMAC, ...] = ()  # set first: `repr` works on a refused one too
        fault = ": a list of keys, not a single text"
        if not isinstance(keys, str | bytes):
            keys = [*keys]
            fault = next(filter(None, map(_key_fault, keys, range(len(keys)))), "")
        if not fault:
            self._macs = tuple(hmac.new(key.strip().encode(), digestmod="sha256") for key in keys)
        del keys  # a traceback that shows local variables must not show them
        if fault:
            raise ValueError(f"hmac_keys{fault}")

    def __len__(self) -> int:
        return len(self._macs)

    def signed_task_id(
        self, task_ids: Iterable[str], timestamp: bytes, signature: bytes
    ) -> str | None:
        """The id that *signature* was made for, or None.

        Every id is tried with every key even after a match: the time tells nothing.
        """
        found = None
        for task_id in task_ids:
            for mac in self._macs:
                copy = mac.copy()
                copy.update(task_id.encode() + b"." + timestamp)
                expected = base64.b64encode(copy.digest())
                if hmac.compare_digest(expected, signature) and found is None:
                    found = task_id
        return found

    def __repr__(self) -> str:
        return f"<HmacKeys {len(self)}>"

    def __reduce__(self) -> str:
        raise TypeError("keys do not pickle")


def _key_fault(key: object, number: int) -> str:
    """What is wrong with a key, without repeating it."""
    if not isinstance(key, str):
        return f"[{number}]: a text, not {type(key).__name__}"
    if not key.strip():
        return f"[{number}]: not empty; anybody could sign with an empty key"
    if not key.strip().isprintable():
        return f"[{number}]: without line breaks and control characters"
    return ""


class ReplayCache:
    """The replay keys of the callbacks that were dispatched lately.

    Args:
        window: seconds for which a key is remembered.
        size: how many keys are remembered; then the least recently used one is dropped.
    """

    def __init__(self, *, window: float = REPLAY_WINDOW, size: int = MAX_REPLAYS) -> None:
        self._window = window
        self._size = size
        self._added_at: dict[bytes, float] = {}  # in the order of use, the latest used last

    def has_seen(self, replay_key: bytes, now: float) -> bool:
        """Whether a key is remembered at *now*; it becomes the most recently used one."""
        added_at = self._added_at.pop(replay_key, None)
        if added_at is None or now - added_at > self._window:
            return False
        self._added_at[replay_key] = added_at
        return True

    def add(self, replay_key: bytes, now: float) -> None:
        """Remember a key, and drop those that are too many or too old."""
        keys = self._added_at
        keys.pop(replay_key, None)
        keys[replay_key] = now
        while len(keys) > self._size or now - next(iter(keys.values())) > self._window:
            del keys[next(iter(keys))]

    def __len__(self) -> int:
        return len(self._added_at)

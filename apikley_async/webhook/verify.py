"""What a request is worth: one judgement, the same behind every door.

Pure: a request and the time in, a status and what was heard out. It believes the signature, the
time and the token in the path. Of the body it reads the task's id and nothing else, for nobody
signs it. No answer, log line or repr holds anything of a request.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Callable, Iterable

import attrs

from apikley_async import read_callback
from apikley_async._tokens import Seal

__all__ = ["LARGEST", "Heard", "Keys", "Letter", "Replays", "Ruling", "judge", "refusal"]

LARGEST = (2048 + 64) * 1024  # the largest request that is sent, as it is repeated, and the rest
TOLERANCE = 300  # seconds that a signature's time may be away from ours, either way
REMEMBERED = 2.0 * TOLERANCE
MOST_REMEMBERED = 10_000

STAMP = b"x-webhook-timestamp"
SIGNATURE = b"x-webhook-signature"


def _lowered(headers: Iterable[tuple[bytes, bytes]]) -> tuple[tuple[bytes, bytes], ...]:
    return tuple((name.lower(), value.strip(b" \t")) for name, value in headers)


@attrs.frozen(repr=False)
class Letter:
    """A request without its body, as it came."""

    method: str
    path: str
    headers: tuple[tuple[bytes, bytes], ...] = attrs.field(converter=_lowered)

    def values(self, name: bytes) -> list[bytes]:
        """Every value of a header; *name* in lower case."""
        return [value for known, value in self.headers if known == name]

    @property
    def token(self) -> str | None:
        """The token: the last segment of the path, with or without the mark behind it.

        What stands before it is a proxy's business.
        """
        last = self.path.rpartition("/")[2]
        return last if re.fullmatch("[0-9a-f]{32}([0-9a-f]{32})?", last) else None

    def __repr__(self) -> str:
        return "<Letter>"


@attrs.frozen(repr=False)
class Heard:
    """What a callback says: the task that an attempt, named by its token, became."""

    token: str
    task_id: str

    def __repr__(self) -> str:
        return "<Heard>"


@attrs.frozen(repr=False)
class Ruling:
    """The status to answer with; *heard* when somebody should know; *mark* knows it again."""

    status: int
    heard: Heard | None = None
    mark: bytes = b""

    def __repr__(self) -> str:
        return f"<Ruling {self.status}>"


def judge(
    letter: Letter,
    body: bytes,
    *,
    keys: Keys,
    wall: float,
    replayed: Callable[[bytes], bool] = lambda mark: False,
) -> Ruling:
    """Judge a request at the Unix time *wall*; *replayed* says which marks were seen before."""
    refused = refusal(letter)
    if refused is not None:
        return Ruling(refused)
    if len(body) > LARGEST:
        return Ruling(413)
    task_ids = read_callback(body)
    if not task_ids:
        return Ruling(400)
    token = letter.token or ""
    if not keys:
        return Ruling(200, Heard(token, task_ids[0]))
    stamps, signatures = letter.values(STAMP), letter.values(SIGNATURE)
    if len(stamps) != 1 or len(signatures) != 1 or not _is_fresh(stamps[0], wall):
        return Ruling(401)
    task_id = keys.signed(task_ids, stamps[0], signatures[0])
    if task_id is None:
        return Ruling(401)
    seen = b"\n".join((token.encode(), task_id.encode(), stamps[0], signatures[0]))
    mark = hashlib.sha256(seen).digest()
    return Ruling(200) if replayed(mark) else Ruling(200, Heard(token, task_id), mark)


def refusal(letter: Letter, seal: Seal | None = None) -> int | None:
    """The status of a request that is refused whatever its body says; None: read the body.

    What it is called (its content type) is no gate. With a *seal* its token must be one of ours.
    """
    if letter.method != "POST":
        return 405
    if letter.token is None or (seal and not seal.fits(letter.token)):
        return 404
    codings, lengths = letter.values(b"content-encoding"), letter.values(b"content-length")
    if max(len(codings), len(lengths)) > 1:
        return 400
    if codings and codings[0].lower() != b"identity":
        return 415
    return 413 if lengths and _is_too_much(lengths[0]) else None


def _is_too_much(length: bytes) -> bool:
    """Whether a body of this length need not be read; a length that is none may be a lie."""
    digits = length.lstrip(b"0")
    return digits.isdigit() and (len(digits) > 9 or int(digits) > LARGEST)


def _is_fresh(stamp: bytes, wall: float) -> bool:
    return bool(re.fullmatch(b"[0-9]{1,12}", stamp)) and abs(wall - int(stamp)) <= TOLERANCE


class Keys:
    """The keys that callbacks may be signed with: any of them will do, so that keys can change.

    They cannot be read from it, shown or pickled.
    """

    __slots__ = ("_macs",)

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._macs: tuple[hmac.HMAC, ...] = ()  # what is counted, should one be refused
        fault = ": a list of keys, not a single text"
        if not isinstance(keys, str | bytes):
            keys = [*keys]
            fault = next(filter(None, map(_fault, keys, range(len(keys)))), "")
        if not fault:
            self._macs = tuple(hmac.new(key.strip().encode(), digestmod="sha256") for key in keys)
        del keys  # a traceback that shows locals must not show them
        if fault:
            raise ValueError(f"hmac_keys{fault}")

    def __len__(self) -> int:
        return len(self._macs)

    def signed(self, task_ids: Iterable[str], stamp: bytes, signature: bytes) -> str | None:
        """The id that *signature* was made for; every id is tried with every key, match or not."""
        found = None
        for task_id in task_ids:
            for mac in self._macs:
                trial = mac.copy()
                trial.update(task_id.encode() + b"." + stamp)
                true = base64.b64encode(trial.digest())
                if hmac.compare_digest(true, signature) and found is None:
                    found = task_id
        return found

    def __repr__(self) -> str:
        return f"<Keys {len(self)}>"

    def __reduce__(self) -> str:
        raise TypeError("keys do not pickle")


def _fault(key: object, number: int) -> str:
    """What is wrong with a key, without it."""
    if not isinstance(key, str):
        return f"[{number}]: a text, not {type(key).__name__}"
    if not key.strip():
        return f"[{number}]: not empty; an empty key would let everybody in"
    if not key.strip().isprintable():
        return f"[{number}]: without line breaks and control characters"
    return ""


class Replays:
    """The marks of what was heard lately: no more than *most*, none longer than *kept* seconds."""

    def __init__(self, *, kept: float = REMEMBERED, most: int = MOST_REMEMBERED) -> None:
        self._kept = kept
        self._most = most
        self._marks: dict[bytes, float] = {}  # when each was heard; the latest used stand last

    def knows(self, mark: bytes, now: float) -> bool:
        """Whether *mark* was seen; being asked for keeps it from being the next to be dropped."""
        heard_at = self._marks.pop(mark, None)
        if heard_at is None or now - heard_at > self._kept:
            return False
        self._marks[mark] = heard_at
        return True

    def keep(self, mark: bytes, now: float) -> None:
        """Remember *mark*, and forget the oldest."""
        self._marks.pop(mark, None)
        self._marks[mark] = now
        while len(self._marks) > self._most or now - next(iter(self._marks.values())) > self._kept:
            del self._marks[next(iter(self._marks))]

    def __len__(self) -> int:
        return len(self._marks)

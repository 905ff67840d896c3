"""What can go wrong between a request and its answer, and in which order it does.

A `Fault` is a value: whether the request is still acted on, what becomes of the answer, and how
that travels. It bends answers and callbacks; it opens no socket and keeps no time.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar

import attrs

from apikley_async.simulator.faults.mutations import FILE_TWISTS, TWISTS, scribbled
from apikley_async.simulator.service.responses import Answer, envelope, html, refusal_text
from apikley_async.simulator.service.terms import Throttle

__all__ = ["Delivery", "Fault"]


class Delivery(enum.Enum):
    """How an answer travels, if it does."""

    WHOLE = "arrives whole"
    RESET = "connection reset, no answer"
    CLOSE = "connection closed, no answer"
    HANG = "nothing ever comes"
    CUT = "half of the announced length, then closed"
    CUT_CHUNKED = "some chunks, then closed without the last one"
    CUT_UNFRAMED = "half of a body that ends when the connection does"
    DRIP = "byte after byte"
    ENDLESS = "never stops coming"
    GARBAGE = "bytes that are not HTTP"
    DRIBBLE = "a header that never ends"


@attrs.frozen
class Fault:
    """One thing that goes wrong. Use the ready ones (`Fault.RESET`) or the makers (`Fault.code`).

    For a callback, which leaves instead of arriving: not *acted* is lost, *times* is how often it
    is sent, *seconds* and *hold* make it late, and after a *delivery* other than WHOLE its
    receiver's answer is not heard, so that it is repeated.

    *acted* says whether the request is acted on: a creation that is acted on is a task, and is
    charged, whatever the caller gets to hear. Turn it with `.after` and `.before`.

    Args:
        name: for books and messages.
        acted: the request is acted on before its answer goes wrong.
        delivery: how the answer travels.
        answer: replaces the answer, body and all.
        twist: changes the answer, or the callback (`_twists`), with *value* as its detail.
        seconds: spent before the answer leaves; with *delivery* DRIP, while it does.
        hold: seconds before the request is acted on.
        times: how often the request is acted on, as by a proxy that repeats it.
        task_id: the id a created task gets, "{}" standing for its number.
        throttle: answered in that form, *value* being the world seconds to wait.
    """

    name: str
    acted: bool = True
    delivery: Delivery = Delivery.WHOLE
    answer: Answer | None = attrs.field(default=None, repr=False)
    twist: str = ""
    value: str = attrs.field(default="", repr=False)
    seconds: float = 0.0
    hold: float = 0.0
    times: int = 1
    task_id: str | None = None
    throttle: Throttle | None = None

    OK: ClassVar[Fault]
    RESET: ClassVar[Fault]
    RESET_AFTER: ClassVar[Fault]
    CLOSE: ClassVar[Fault]
    CLOSE_AFTER: ClassVar[Fault]
    HANG: ClassVar[Fault]
    HANG_AFTER: ClassVar[Fault]
    GARBAGE: ClassVar[Fault]
    HTTP_500: ClassVar[Fault]
    HTTP_500_AFTER: ClassVar[Fault]
    HTTP_502: ClassVar[Fault]
    HTTP_502_AFTER: ClassVar[Fault]
    HTTP_503: ClassVar[Fault]
    HTTP_503_AFTER: ClassVar[Fault]
    HTTP_504: ClassVar[Fault]
    HTTP_504_AFTER: ClassVar[Fault]
    HTML_200: ClassVar[Fault]
    EMPTY: ClassVar[Fault]
    TRUNCATED: ClassVar[Fault]
    MALFORMED: ClassVar[Fault]
    BAD_GZIP: ClassVar[Fault]
    HUGE: ClassVar[Fault]
    BODY_LIST: ClassVar[Fault]
    DATA_NULL: ClassVar[Fault]
    DATA_MISSING: ClassVar[Fault]
    DATA_EMPTY: ClassVar[Fault]
    DATA_LIST: ClassVar[Fault]
    DATA_NUMBER: ClassVar[Fault]
    NO_CODE: ClassVar[Fault]
    THROTTLED: ClassVar[Fault]
    LATE: ClassVar[Fault]
    SLOW: ClassVar[Fault]

    NO_TASK_ID: ClassVar[Fault]
    ODD_TASK_ID: ClassVar[Fault]
    ACCEPTED_429: ClassVar[Fault]
    TWICE: ClassVar[Fault]

    NOT_FOUND: ClassVar[Fault]
    UNKNOWN_STATE: ClassVar[Fault]
    FAIL_FOR_NOW: ClassVar[Fault]
    OTHER_TASK: ClassVar[Fault]
    RESULT_EMPTY: ClassVar[Fault]
    RESULT_NULL: ClassVar[Fault]
    RESULT_MISSING: ClassVar[Fault]
    RESULT_OBJECT: ClassVar[Fault]
    RESULT_DOUBLE: ClassVar[Fault]
    RESULT_MALFORMED: ClassVar[Fault]
    NO_URLS: ClassVar[Fault]
    RESULT_NAMED: ClassVar[Fault]
    RESULT_SNAKE: ClassVar[Fault]
    RESULT_BARE: ClassVar[Fault]
    STATE_SHOUTED: ClassVar[Fault]
    STATE_RESPELLED: ClassVar[Fault]
    NESTED_PARAM: ClassVar[Fault]
    TORN_PARAM: ClassVar[Fault]
    DISABLED_RECORD: ClassVar[Fault]
    ODD_TIMES: ClassVar[Fault]
    ANSI_MESSAGE: ClassVar[Fault]

    UPLOAD_REFUSED: ClassVar[Fault]
    NO_UPLOAD_URL: ClassVar[Fault]

    CUT: ClassVar[Fault]
    CUT_CHUNKED: ClassVar[Fault]
    CUT_UNFRAMED: ClassVar[Fault]
    SHORT: ClassVar[Fault]
    CHANGED: ClassVar[Fault]
    EXPIRED_403: ClassVar[Fault]
    EXPIRED_404: ClassVar[Fault]
    EXPIRED_410: ClassVar[Fault]
    WRONG_RANGE: ClassVar[Fault]
    WRONG_TOTAL: ClassVar[Fault]
    NO_RANGES: ClassVar[Fault]
    NO_VALIDATORS: ClassVar[Fault]
    WEAK_VALIDATOR: ClassVar[Fault]
    ENDLESS: ClassVar[Fault]

    LOST: ClassVar[Fault]
    MISSED: ClassVar[Fault]
    OVERTAKEN: ClassVar[Fault]
    RELAPSE: ClassVar[Fault]
    BARE_NOTICE: ClassVar[Fault]
    PLAIN_TEXT: ClassVar[Fault]
    UNLABELLED: ClassVar[Fault]
    FOREIGN_ID: ClassVar[Fault]
    EVIL_BODY: ClassVar[Fault]
    WRONG_SIGNATURE: ClassVar[Fault]
    NO_SIGNATURE: ClassVar[Fault]
    OLD_STAMP: ClassVar[Fault]
    CALLBACK_FIRST: ClassVar[Fault]

    # -- makers ------------------------------------------------------------------------------

    @classmethod
    def code(
        cls, code: int, message: str | None = None, *, status: int = 200, keep: bool = False
    ) -> Fault:
        """A refusal with *code* in the body, nothing having been done.

        *keep*: the request was acted on all the same and the answer still carries its data.
        """
        told = refusal_text(code) if message is None else message
        if keep:
            value = json.dumps([code, told, status])
            return cls(f"code {code} with data", twist="code", value=value)
        return cls(f"code {code}", acted=False, answer=_saying(status, code, told))

    @classmethod
    def http(cls, status: int, *, page: bool | None = None) -> Fault:
        """An HTTP error before anything was done: a gateway's *page*, or the service's JSON."""
        as_page = status != 500 if page is None else page
        answer = html(status) if as_page else _saying(status, status, "Server Error")
        return cls(f"http {status}", acted=False, answer=answer)

    @classmethod
    def redirect(cls, status: int, location: str) -> Fault:
        """Another place is to be asked, nothing having been done here."""
        answer = attrs.evolve(html(status), headers=(("Location", location),))
        return cls(f"redirect {status}", acted=False, answer=answer)

    @classmethod
    def throttled(cls, form: Throttle, wait: float = 1.0) -> Fault:
        """Too often, in that *form*; come back in *wait* world seconds."""
        name = f"throttled {form.name.lower()}"
        return cls(name, acted=False, throttle=form, value=str(float(wait)))

    @classmethod
    def late(cls, seconds: float) -> Fault:
        """Done at once, answered after so many of the caller's seconds."""
        return cls(f"late {seconds:g} s", seconds=seconds)

    @classmethod
    def queued(cls, seconds: float) -> Fault:
        """Kept in a queue for so many seconds, then done, whether or not anybody still waits."""
        return cls(f"queued {seconds:g} s", hold=seconds)

    @classmethod
    def slow(cls, seconds: float) -> Fault:
        """The answer takes so many seconds from its first byte to its last."""
        return cls(f"slow {seconds:g} s", delivery=Delivery.DRIP, seconds=seconds)

    @classmethod
    def in_state(cls, word: str) -> Fault:
        """The task is said to be in that state.

        "success" and "fail" end a running task; any other word is only said.
        """
        return cls(f"state {word}", twist="state", value=word)

    @classmethod
    def result_urls(cls, *urls: object) -> Fault:
        """A success with these for addresses."""
        return cls("odd result urls", twist="result urls", value=json.dumps(urls))

    @classmethod
    def created_as(cls, task_id: str) -> Fault:
        """The created task gets this id; "{}" in it stands for its number."""
        return cls(f"task id {task_id!r}", task_id=task_id)

    @classmethod
    def stamped(cls, seconds: float) -> Fault:
        """A callback that says it left so many seconds later than it did, truly signed."""
        return cls(f"stamped {seconds:g} s", twist="stamp", value=str(float(seconds)))

    @classmethod
    def ready_made(cls) -> Mapping[str, Fault]:
        """All the faults that have a name of their own, by that name."""
        return {n: v for n, v in vars(cls).items() if n.isupper() and isinstance(v, Fault)}

    @classmethod
    def named(cls, text: str) -> Fault:
        """The fault that *text* describes, for files and command lines.

        A name as in `ready_made`, in any case ("reset after"), or a maker and its arguments
        ("code 402", "late 2.5", "throttled date 30"), with ", after" or ", before" behind it.

        Raises:
            ValueError: there is no such fault.
        """
        known = {**{fault.name: fault for fault in cls.ready_made().values()}, **cls.ready_made()}
        if text.strip() in known:
            return known[text.strip()]
        words, _, turn = text.partition(",")
        ready = known.get(re.sub(r"[\s_-]+", "_", words.strip()).upper())
        try:
            maker, *given = words.split()
            fault = MAKERS[maker.lower()](*given) if ready is None else ready
            return {"": fault, "after": fault.after, "before": fault.before}[turn.strip()]
        except (ValueError, LookupError, TypeError) as error:
            raise ValueError(f"no such fault: {text!r}") from error

    # -- use ---------------------------------------------------------------------------------

    @property
    def after(self) -> Fault:
        """The same, but the request is acted on first."""
        name = self.name if self.acted else f"{self.name}, after"
        return attrs.evolve(self, acted=True, name=name)

    @property
    def before(self) -> Fault:
        """The same, but the request is lost before anybody acts on it."""
        name = f"{self.name}, before" if self.acted else self.name
        return attrs.evolve(self, acted=False, name=name)

    def bend(self, answer: Answer | None) -> Answer:
        """What becomes of *answer*; of None when nobody acted on the request."""
        if self.answer is not None:
            return self.answer
        bent = answer or Answer(payload=envelope(200, "success", None))
        if self.twist in TWISTS:
            payload = json.loads(json.dumps(bent.payload))
            if isinstance(payload, dict):
                bent = TWISTS[self.twist](attrs.evolve(bent, payload=payload), self.value)
        elif self.twist in FILE_TWISTS:
            bent = FILE_TWISTS[self.twist](bent, self.value)
        elif self.twist:
            raise LookupError(f"no such twist: {self.twist}")
        return bent

    def __str__(self) -> str:
        return self.name


TWISTED = (
    *("MALFORMED", "HUGE", "BODY_LIST", "NO_CODE"),
    *("DATA_NULL", "DATA_MISSING", "DATA_EMPTY", "DATA_LIST", "DATA_NUMBER"),
    *("NO_TASK_ID", "FAIL_FOR_NOW", "OTHER_TASK", "ODD_TIMES", "ANSI_MESSAGE"),
    *("RESULT_EMPTY", "RESULT_NULL", "RESULT_MISSING", "RESULT_OBJECT", "RESULT_DOUBLE"),
    *("RESULT_NAMED", "RESULT_SNAKE", "RESULT_BARE", "STATE_SHOUTED", "STATE_RESPELLED"),
    *(
        "NESTED_PARAM",
        "TORN_PARAM",
        "RESULT_MALFORMED",
        "NO_URLS",
        "UPLOAD_REFUSED",
        "NO_UPLOAD_URL",
        "SHORT",
        "CHANGED",
    ),
    *("WRONG_RANGE", "WRONG_TOTAL", "NO_RANGES", "NO_VALIDATORS", "WEAK_VALIDATOR"),
    *("ODD_TAIL", "MISLABELLED", "PACKED"),
    *("PLAIN_TEXT", "UNLABELLED"),
    *("OVERTAKEN", "BARE_NOTICE", "FOREIGN_ID", "EVIL_BODY", "WRONG_SIGNATURE", "NO_SIGNATURE"),
    "CALLBACK_FIRST",
)
"""Faults that are called like the twist that does them."""


def _ready_made() -> Iterator[tuple[str, Fault]]:
    """The faults that have a name of their own, and what they are."""
    lost = {"RESET": Delivery.RESET, "CLOSE": Delivery.CLOSE, "HANG": Delivery.HANG}
    for name, delivery in lost.items():
        fault = Fault(name.lower(), acted=False, delivery=delivery)
        yield from ((name, fault), (f"{name}_AFTER", fault.after))
    for status in (500, 502, 503, 504):
        fault = Fault.http(status)
        yield from ((f"HTTP_{status}", fault), (f"HTTP_{status}_AFTER", fault.after))
    for status in (403, 404, 410):
        yield f"EXPIRED_{status}", attrs.evolve(Fault.http(status), name=f"expired {status}")
    yield "OK", Fault("ok")
    yield "THROTTLED", Fault.throttled(Throttle.SECONDS)
    yield "LATE", Fault.late(2.0)
    yield "SLOW", Fault.slow(2.0)
    yield "ODD_TASK_ID", Fault.created_as("t\u00e4sk /?&=#%41 {}")
    yield "ACCEPTED_429", Fault.code(429, keep=True)
    yield "TWICE", Fault("twice", times=2)
    yield "NOT_FOUND", Fault.code(422)
    disabled = Fault.code(505, "success", keep=True)
    yield "DISABLED_RECORD", attrs.evolve(disabled, name="disabled record")
    yield "UNKNOWN_STATE", Fault.in_state("moderating")
    yield "LOST", Fault("lost", acted=False)
    yield "MISSED", Fault("missed", twist="missed")
    yield "RELAPSE", Fault("relapse", twist="relapse", times=2)
    yield "OLD_STAMP", attrs.evolve(Fault.stamped(-3600), name="old stamp")
    for name, delivery in {
        "GARBAGE": Delivery.GARBAGE,
        "TRUNCATED": Delivery.CUT,
        "CUT": Delivery.CUT,
        "CUT_CHUNKED": Delivery.CUT_CHUNKED,
        "CUT_UNFRAMED": Delivery.CUT_UNFRAMED,
        "ENDLESS": Delivery.ENDLESS,
        "DRIBBLE": Delivery.DRIBBLE,
    }.items():
        yield name, Fault(_words(name), delivery=delivery)
    yield "HTML_200", Fault("html 200", answer=html(200))
    yield "EMPTY", Fault("empty", answer=Answer(raw=b""))
    yield "BAD_GZIP", Fault("bad gzip", answer=scribbled())
    for name in TWISTED:
        yield name, Fault(_words(name), twist=_words(name))


def _saying(status: int, code: int, message: str) -> Answer:
    # Bytes, not a payload: a fault can be the key of a mix.
    return Answer(status, raw=json.dumps(envelope(code, message, None)).encode())


def _words(name: str) -> str:
    return name.lower().replace("_", " ")


MAKERS: Mapping[str, Callable[..., Fault]] = {
    "code": lambda code, *words: Fault.code(int(code), " ".join(words) or None),
    "http": lambda status: Fault.http(int(status)),
    "redirect": lambda status, location: Fault.redirect(int(status), location),
    "throttled": lambda form, wait="1": Fault.throttled(Throttle[form.upper()], float(wait)),
    "late": lambda seconds, *unit: Fault.late(float(seconds)),
    "queued": lambda seconds, *unit: Fault.queued(float(seconds)),
    "slow": lambda seconds, *unit: Fault.slow(float(seconds)),
    "stamped": lambda seconds, *unit: Fault.stamped(float(seconds)),
    "state": lambda word: Fault.in_state(word),
    "urls": lambda *urls: Fault.result_urls(*urls),
    "id": lambda task_id: Fault.created_as(task_id),
}
"""How `Fault.named` calls the makers; what is not a word for them was not a number either."""

for _name, _ready in _ready_made():
    setattr(Fault, _name, _ready)

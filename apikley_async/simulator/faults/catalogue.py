"""The catalogue of faults: what can go wrong between a request and its response.

A `Fault` is a value: whether the request is processed, how the response is changed, and how it is
delivered. It changes responses and callbacks; it opens no socket and keeps no time.
"""

from __future__ import annotations

import enum
import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import ClassVar

import attrs

from apikley_async.simulator.faults.mutations import PAYLOAD_MUTATIONS, RAW_MUTATIONS, false_gzip
from apikley_async.simulator.service.responses import (
    ServiceResponse,
    envelope,
    html_page,
    refusal_message,
)
from apikley_async.simulator.service.terms import Throttle

__all__ = ["Fault", "ResponseDelivery"]


class ResponseDelivery(enum.Enum):
    """How a response is delivered, if it is."""

    WHOLE = "arrives whole"
    RESET = "connection reset, no response"
    CLOSE = "connection closed, no response"
    HANG = "nothing is ever sent"
    CUT = "half of the announced length, then closed"
    CUT_CHUNKED = "some chunks, then closed without the last one"
    CUT_UNFRAMED = "half of a body that ends when the connection does"
    DRIP = "byte after byte"
    ENDLESS = "never stops coming"
    GARBAGE = "bytes that are not HTTP"
    DRIBBLE = "a header that never ends"


@attrs.frozen
class Fault:
    """One thing that goes wrong. Use a preset (`Fault.RESET`) or a constructor (`Fault.code`).

    *processed* matters most: a creation that is processed makes a task and charges for it,
    whatever the caller receives. `.after` and `.before` change it.

    A callback is sent instead of received. For it, not *processed* means lost, *times* is how
    often it is sent, *delay* and *hold* make it late, and after a *delivery* other than WHOLE its
    receiver's answer is ignored, so that it is sent again.

    Args:
        name: for the ledger and for messages.
        processed: the request is processed before its response goes wrong.
        delivery: how the response is delivered.
        response: replaces the response, body and all.
        mutation: the name of a mutation that changes the response or the callback.
        value: a detail for *mutation*.
        delay: seconds before the response is sent; with *delivery* DRIP, while it is sent.
        hold: seconds before the request is processed.
        times: how often the request is processed, as if a proxy repeated it.
        task_id: the id that a created task gets, "{}" standing for its number.
        throttle: refuse the request in that form, *value* being the service seconds to wait.
    """

    name: str
    processed: bool = True
    delivery: ResponseDelivery = ResponseDelivery.WHOLE
    response: ServiceResponse | None = attrs.field(default=None, repr=False)
    mutation: str = ""
    value: str = attrs.field(default="", repr=False)
    delay: float = 0.0
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

    # -- constructors ------------------------------------------------------------------------------

    @classmethod
    def code(
        cls, code: int, message: str | None = None, *, status: int = 200, keep: bool = False
    ) -> Fault:
        """A refusal with *code* in the body; the request is not processed.

        Args:
            code: of the response.
            message: of the response; by default the one that goes with *code*.
            status: HTTP status of the response.
            keep: the request is processed all the same, and the response keeps its data.
        """
        text = refusal_message(code) if message is None else message
        if keep:
            value = json.dumps([code, text, status])
            return cls(f"code {code} with data", mutation="code", value=value)
        return cls(f"code {code}", processed=False, response=_error_response(status, code, text))

    @classmethod
    def http(cls, status: int, *, page: bool | None = None) -> Fault:
        """An HTTP error before processing: a gateway's *page*, or the service's JSON."""
        as_page = status != 500 if page is None else page
        error = _error_response(status, status, "Server Error")
        response = html_page(status) if as_page else error
        return cls(f"http {status}", processed=False, response=response)

    @classmethod
    def redirect(cls, status: int, location: str) -> Fault:
        """A redirect to *location*; the request is not processed."""
        response = attrs.evolve(html_page(status), headers=(("Location", location),))
        return cls(f"redirect {status}", processed=False, response=response)

    @classmethod
    def throttled(cls, form: Throttle, wait: float = 1.0) -> Fault:
        """Refused as beyond a limit, in that *form*; retry in *wait* service seconds."""
        name = f"throttled {form.name.lower()}"
        return cls(name, processed=False, throttle=form, value=str(float(wait)))

    @classmethod
    def late(cls, seconds: float) -> Fault:
        """Processed at once, answered after *seconds* of the caller's time."""
        return cls(f"late {seconds:g} s", delay=seconds)

    @classmethod
    def queued(cls, seconds: float) -> Fault:
        """Queued for *seconds*, then processed, whether or not the caller still waits."""
        return cls(f"queued {seconds:g} s", hold=seconds)

    @classmethod
    def slow(cls, seconds: float) -> Fault:
        """The response takes *seconds* from its first byte to its last."""
        return cls(f"slow {seconds:g} s", delivery=ResponseDelivery.DRIP, delay=seconds)

    @classmethod
    def in_state(cls, word: str) -> Fault:
        """A poll reports that state.

        "success" and "fail" end a running task; any other word is only reported.
        """
        return cls(f"state {word}", mutation="state", value=word)

    @classmethod
    def result_urls(cls, *urls: object) -> Fault:
        """A success with these as its result URLs."""
        return cls("odd result urls", mutation="result urls", value=json.dumps(urls))

    @classmethod
    def created_as(cls, task_id: str) -> Fault:
        """The created task gets this id; "{}" in it stands for its number."""
        return cls(f"task id {task_id!r}", task_id=task_id)

    @classmethod
    def stamped(cls, seconds: float) -> Fault:
        """A callback whose timestamp is off by *seconds*, with a valid signature."""
        return cls(f"stamped {seconds:g} s", mutation="stamp", value=str(float(seconds)))

    @classmethod
    @functools.cache
    def presets(cls) -> Mapping[str, Fault]:
        """The faults that are attributes of this class, by name."""
        found = {n: v for n, v in vars(cls).items() if n.isupper() and isinstance(v, Fault)}
        return MappingProxyType(found)

    @classmethod
    @functools.cache
    def _known(cls) -> Mapping[str, Fault]:
        """The presets by their own names and by those of their attributes."""
        return {**{fault.name: fault for fault in cls.presets().values()}, **cls.presets()}

    @classmethod
    def named(cls, text: str) -> Fault:
        """The fault that *text* describes, for files and command lines.

        *text* is the name of a preset in any case ("reset after"), or a constructor with its
        arguments ("code 402", "late 2.5", "throttled date 30"); ", after" or ", before" may follow.

        Raises:
            ValueError: there is no such fault.
        """
        known = cls._known()
        if text.strip() in known:
            return known[text.strip()]
        words, _, order = text.partition(",")
        preset = known.get(re.sub(r"[\s_-]+", "_", words.strip()).upper())
        try:
            constructor, *given = words.split()
            fault = CONSTRUCTORS[constructor.lower()](*given) if preset is None else preset
            return {"": fault, "after": fault.after, "before": fault.before}[order.strip()]
        except (ValueError, LookupError, TypeError) as error:
            raise ValueError(f"no such fault: {text!r}") from error

    # -- use ---------------------------------------------------------------------------------

    @property
    def after(self) -> Fault:
        """The same, but the request is processed first."""
        name = self.name if self.processed else f"{self.name}, after"
        return attrs.evolve(self, processed=True, name=name)

    @property
    def before(self) -> Fault:
        """The same, but the request is dropped before it is processed."""
        name = f"{self.name}, before" if self.processed else self.name
        return attrs.evolve(self, processed=False, name=name)

    def apply(self, response: ServiceResponse | None) -> ServiceResponse:
        """What is sent instead of *response*, which is None when the request was not processed."""
        if self.response is not None:
            return self.response
        good = response or ServiceResponse(payload=envelope(200, "success", None))
        if self.mutation in PAYLOAD_MUTATIONS:
            payload = json.loads(json.dumps(good.payload))
            if not isinstance(payload, dict):
                return good
            return PAYLOAD_MUTATIONS[self.mutation](attrs.evolve(good, payload=payload), self.value)
        if self.mutation in RAW_MUTATIONS:
            return RAW_MUTATIONS[self.mutation](good, self.value)
        if self.mutation:
            raise LookupError(f"no such mutation: {self.mutation}")
        return good

    def __str__(self) -> str:
        return self.name


NAMED_LIKE_THEIR_MUTATION = (
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
"""Presets with the name of the mutation that they apply."""


def _presets() -> Iterator[tuple[str, Fault]]:
    """The presets by name."""
    unanswered = {
        "RESET": ResponseDelivery.RESET,
        "CLOSE": ResponseDelivery.CLOSE,
        "HANG": ResponseDelivery.HANG,
    }
    for name, delivery in unanswered.items():
        fault = Fault(name.lower(), processed=False, delivery=delivery)
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
    yield "LOST", Fault("lost", processed=False)
    yield "MISSED", Fault("missed", mutation="missed")
    yield "RELAPSE", Fault("relapse", mutation="relapse", times=2)
    yield "OLD_STAMP", attrs.evolve(Fault.stamped(-3600), name="old stamp")
    for name, delivery in {
        "GARBAGE": ResponseDelivery.GARBAGE,
        "TRUNCATED": ResponseDelivery.CUT,
        "CUT": ResponseDelivery.CUT,
        "CUT_CHUNKED": ResponseDelivery.CUT_CHUNKED,
        "CUT_UNFRAMED": ResponseDelivery.CUT_UNFRAMED,
        "ENDLESS": ResponseDelivery.ENDLESS,
        "DRIBBLE": ResponseDelivery.DRIBBLE,
    }.items():
        yield name, Fault(_words(name), delivery=delivery)
    yield "HTML_200", Fault("html 200", response=html_page(200))
    yield "EMPTY", Fault("empty", response=ServiceResponse(raw=b""))
    yield "BAD_GZIP", Fault("bad gzip", response=false_gzip())
    for name in NAMED_LIKE_THEIR_MUTATION:
        yield name, Fault(_words(name), mutation=_words(name))


def _error_response(status: int, code: int, message: str) -> ServiceResponse:
    # Bytes and no payload, so that a fault is hashable: faults are keys of a mix.
    return ServiceResponse(status, raw=json.dumps(envelope(code, message, None)).encode())


def _words(name: str) -> str:
    return name.lower().replace("_", " ")


CONSTRUCTORS: Mapping[str, Callable[..., Fault]] = {
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
"""How `Fault.named` calls the constructors; a word they cannot use raises ValueError."""

for _name, _preset in _presets():
    setattr(Fault, _name, _preset)

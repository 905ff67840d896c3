"""What the simulated service promises, limits and charges: one value, all of it."""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Mapping
from random import Random
from typing import Literal, get_args

import attrs

from apikley_async.simulator.service.lifecycle import Durations, Failure, Lognormal
from apikley_async.simulator.service.rate_windows import WindowKind
from apikley_async.simulator.service.request_rules import Order

__all__ = ["ENDPOINTS", "Endpoint", "Terms", "Throttle"]

DAY = 86_400.0

Endpoint = Literal["create", "record", "credits", "upload", "download_url", "file", "callback"]
"""Where requests arrive; "callback" is the one that leaves."""

ENDPOINTS: tuple[Endpoint, ...] = get_args(Endpoint)


class Throttle(enum.Enum):
    """The ways in which services of this family have been seen to say "not so fast"."""

    SECONDS = "HTTP 429, JSON, Retry-After in seconds"
    DATE = "HTTP 429, JSON, Retry-After as a date"
    FRACTION = "HTTP 429, JSON, Retry-After with a decimal point"
    MILLISECONDS = "HTTP 429, JSON, retry-after-ms"
    IN_BODY = "HTTP 429, JSON, data.retryAfter"
    ABSURD = "HTTP 429, JSON, a Retry-After that makes no sense, another one each time"
    BARE = "HTTP 429, JSON, no Retry-After"
    HTML = "HTTP 429, a gateway's HTML page"
    BODY = "HTTP 200, code 429 in the body"
    BODY_430 = "HTTP 200, code 430 in the body"
    WORDS = "HTTP 200, code 402 in the body, but the message speaks of the call frequency"


@attrs.frozen(kw_only=True)
class Terms:
    """How the simulated service behaves when nothing goes wrong.

    All times are world seconds, but for *latency* and *callback_timeout*: those are spent on the
    network, in the seconds of whoever is at its other end.

    Args:
        limit: creations let in per window; None for no limit. Beyond it, *throttle* is answered.
        per: length of the window.
        window: "sliding", or "fixed" windows laid end to end.
        count_refused: throttled requests use up the window too.
        max_running: tasks that may run at once; None for no cap.
        throttle: how a throttling is spelled.
        duration: draws how long a task takes.
        fail_rate: share of the tasks that fail, for the reason *failure*.
        decide: decides instead of *fail_rate*, order by order, why a task will fail; or None.
        visible_after: for so long after its creation nobody can look at a task.
        credits: the balance to begin with.
        prices: credits by `n_frames`; whatever is not in it costs *generic_price*.
        refund: failed tasks cost nothing in the end.
        invalid_code: the code of a request that breaks a rule: 500 on HTTP 200 with upstream's
            words, or 422 with every fault.
        short_code: the code that says "not enough credits": 500 on HTTP 200 with telling words,
            402, or 429 with such words.
        generic_models: other models that are served, with any `input`; "*" serves all.
        strict: refuse unknown fields instead of ignoring them.
        exact_sum: refuse shots that do not fill their film too, as some clients believe.
        http_refusals: a refusal has its code as its HTTP status too, not only in the body.
        results: how many files a task yields.
        files_after: for so long after its end a film's addresses answer *expired_status*.
        result_life: how long the address of a result works.
        reissue_life: how long a temporary link to a result can be had.
        link_life: how long such a link works.
        upload_life: how long uploads are kept.
        expired_status: HTTP status of an address that does not work, or no longer.
        refused_agents: how the User-Agents begin that the hosts of files answer with 403.
        upload_shape: which of the two documented answers an upload gets, by its telling field.
        callbacks: what a callback holds: the whole task, or a bare notice; "none" sends none.
        callback_timeout: how long a callback's receiver may take to answer.
        callback_retries: the pause before each repetition of a callback that was not answered
            with 2xx; so many repetitions there are.
        latency: how long requests and answers travel, in all: one distribution, or one for each
            endpoint. Half of it is spent before a request arrives, half before its answer
            leaves; a callback leaves so much later than its task has ended.
    """

    limit: int | None = 20
    per: float = 10.0
    window: WindowKind = "sliding"
    count_refused: bool = False
    max_running: int | None = 100
    throttle: Throttle = Throttle.SECONDS

    duration: Durations = attrs.field(factory=Lognormal)
    fail_rate: float = 0.0
    failure: Failure = attrs.field(factory=Failure)
    decide: Callable[[Order], Failure | None] | None = None
    visible_after: float = 0.0

    credits: float = 10_000_000.0
    prices: Mapping[str, float] = attrs.field(factory=lambda: {"10": 150, "15": 270, "25": 270})
    generic_price: float = 100.0
    refund: bool = True
    invalid_code: Literal[500, 422] = 500
    short_code: Literal[500, 402, 429] = 500

    generic_models: Collection[str] = frozenset(
        {"kling-2.6/text-to-video", "kling-2.6/image-to-video"}
    )
    strict: bool = False
    exact_sum: bool = False
    http_refusals: bool = False

    results: int = 1
    files_after: float = 0.0
    result_life: float = DAY
    reissue_life: float = 14 * DAY
    link_life: float = 1_200.0
    upload_life: float = 3 * DAY
    expired_status: int = 404
    refused_agents: tuple[str, ...] = ()
    upload_shape: Literal["filePath", "fileId"] = "filePath"

    callbacks: Literal["task", "notice", "none"] = "task"
    callback_timeout: float = 15.0
    callback_retries: tuple[float, ...] = (10.0, 30.0, 60.0)
    latency: Durations | Mapping[Endpoint, Durations] = attrs.field(factory=dict)

    def price(self, order: Order) -> float:
        """Credits that *order* costs."""
        return float(self.prices.get(order.tariff, self.generic_price))

    def travel(self, endpoint: Endpoint, rng: Random) -> float:
        """Seconds that a request to *endpoint* and its answer are on their way."""
        drawn = self.latency.get(endpoint) if isinstance(self.latency, Mapping) else self.latency
        return max(0.0, drawn(rng)) if drawn is not None else 0.0

"""How the simulated service behaves when nothing goes wrong: limits, prices, durations."""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Mapping
from random import Random
from typing import Literal, get_args

import attrs

from apikley_async.simulator.service.durations import Distribution, Lognormal
from apikley_async.simulator.service.lifecycle import Failure
from apikley_async.simulator.service.rate_windows import WindowKind
from apikley_async.simulator.service.record_form import RecordForm
from apikley_async.simulator.service.request_rules import TaskRequest

__all__ = ["ENDPOINTS", "Endpoint", "Terms", "Throttle"]

DAY = 86_400.0

Endpoint = Literal["create", "record", "credits", "upload", "download_url", "file", "callback"]
"""The service's endpoints, by short names; "callback" is the request that it sends itself."""

ENDPOINTS: tuple[Endpoint, ...] = get_args(Endpoint)


class Throttle(enum.Enum):
    """The forms in which services of this kind are known to refuse a request beyond a limit."""

    SECONDS = "HTTP 429, JSON, Retry-After in seconds"
    DATE = "HTTP 429, JSON, Retry-After as a date"
    FRACTION = "HTTP 429, JSON, Retry-After with a decimal point"
    MILLISECONDS = "HTTP 429, JSON, retry-after-ms"
    IN_BODY = "HTTP 429, JSON, data.retryAfter"
    ABSURD = "HTTP 429, JSON, an invalid Retry-After, another one each time"
    BARE = "HTTP 429, JSON, no Retry-After"
    HTML = "HTTP 429, a gateway's HTML page"
    BODY = "HTTP 200, code 429 in the body"
    BODY_430 = "HTTP 200, code 430 in the body"
    WORDS = "HTTP 200, code 402 in the body, but the message names the call frequency"


@attrs.frozen(kw_only=True)
class Terms:
    """How the simulated service behaves when nothing goes wrong.

    All times are service seconds, except *latency* and *callback_timeout*: those are spent on the
    network, in the caller's seconds.

    Args:
        limit: creations accepted per window; None for no limit. Others get a *throttle* response.
        per: length of the window in seconds.
        window: "sliding", "fixed" windows laid end to end, or a token "bucket" that holds *limit*
            and gets as many in *per*.
        limit_changes: pairs of a time in seconds and the limit from then on.
        count_refused: refused requests count against the limit too.
        max_running: tasks that may run at once; None for no cap.
        throttle: the form of the response to a request beyond a limit.
        duration: draws how long a task takes.
        fail_rate: share of the tasks that fail, from 0 to 1.
        failure: why they fail.
        decide: replaces *fail_rate*: called with each request, it returns why the task will fail,
            or None.
        visible_after: for this long after its creation a task is unknown to polls.
        credits: the balance to begin with.
        prices: credits by `n_frames`.
        generic_price: credits of every task without a price in *prices*.
        refund: the credits of failed tasks are returned.
        invalid_code: the code for a request that breaks a rule: 500 on HTTP 200 with upstream's
            short message, or 422 with every violated rule.
        short_code: the code for too few credits: 500 on HTTP 200 with a message that says so,
            402, or 429 with that message.
        generic_models: other models that are served, with any `input`; "*" serves all.
        strict: refuse unknown fields instead of ignoring them.
        exact_sum: refuse shots that are shorter than their film, too.
        http_refusals: a refusal has its code as HTTP status too, and not only in the body.
        record_forms: records have these forms, each those of tasks in its state, instead of the
            usual one.
        results: how many files a task yields.
        files_after: for this long after its end a film's URLs answer *expired_status*.
        result_life: how long the URL of a result works.
        reissue_life: how long temporary links to a result are issued.
        link_life: how long a temporary link works.
        upload_life: how long uploads are kept.
        expired_status: HTTP status of a URL that does not work yet or has expired.
        refused_agents: prefixes of the User-Agents that the file host answers with 403.
        upload_shape: which of the two documented responses an upload gets, named by a field of it.
        callbacks: the body of a callback: the whole task, or a notice without the result; "none"
            sends none.
        callback_timeout: how long a receiver may take to answer a callback.
        callback_retries: delays before the second, third, ... attempt to deliver a callback that
            was not answered with 2xx.
        latency: network time of a request and its response together: one distribution, or one
            for each endpoint. Half passes before a request arrives and half before its response
            is sent; a callback is sent this long after its task has ended.
        clock_offset: seconds by which the service's calendar is ahead of the callers', as if their
            clock were wrong; negative for behind.
    """

    limit: int | None = 20
    per: float = 10.0
    window: WindowKind = "sliding"
    limit_changes: tuple[tuple[float, int], ...] = ()
    count_refused: bool = False
    max_running: int | None = 100
    throttle: Throttle = Throttle.SECONDS

    duration: Distribution = attrs.field(factory=Lognormal)
    fail_rate: float = 0.0
    failure: Failure = attrs.field(factory=Failure)
    decide: Callable[[TaskRequest], Failure | None] | None = None
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

    record_forms: tuple[RecordForm, ...] = ()
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
    latency: Distribution | Mapping[Endpoint, Distribution] = attrs.field(factory=dict)
    clock_offset: float = 0.0

    def price(self, request: TaskRequest) -> float:
        """Credits that *request* costs."""
        return float(self.prices.get(request.price_key, self.generic_price))

    def draw_latency(self, endpoint: Endpoint, rng: Random) -> float:
        """Seconds that a request to *endpoint* and its response spend on the network."""
        latency = self.latency.get(endpoint) if isinstance(self.latency, Mapping) else self.latency
        return max(0.0, latency(rng)) if latency is not None else 0.0

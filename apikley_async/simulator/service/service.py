"""The state of the simulated service: tasks, credits, limits, files and the ledger.

Pure: no socket, no thread, no asyncio task, no waiting. Clock and randomness are handed in. Every
query first applies what has happened until now, so nothing has to run in between.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Iterable, Mapping
from random import Random

import attrs

from apikley_async import SystemClock
from apikley_async.simulator.service.file_store import FileStore, ResultFile
from apikley_async.simulator.service.ledger import (
    Creation,
    CreationOutcome,
    FileRequest,
    InjectedFault,
    Ledger,
    Refund,
    TaskCharge,
)
from apikley_async.simulator.service.lifecycle import Failure, SimulatedTask
from apikley_async.simulator.service.rate_windows import make_window
from apikley_async.simulator.service.request_rules import (
    Refusal,
    TaskRequest,
    parse_object,
    parse_task_request,
)
from apikley_async.simulator.service.service_clock import ServiceClock
from apikley_async.simulator.service.terms import Endpoint, Terms

__all__ = ["Service"]

TOO_FEW_CREDITS = (
    "Credits insufficient : Your current balance isn't enough to run this request. "
    "Please top up to continue."
)


class Service:
    """Everything the simulated service knows. One per simulator.

    Args:
        terms: limits, prices and durations.
        clock: its time.
        rng: its randomness. Each kind of draw has a generator of its own that is seeded from it,
            so that one more film does not change which films fail.
        renders: films are rendered elsewhere, and a task waits for `film_rendered` before it
            succeeds.
    """

    def __init__(
        self,
        terms: Terms | None = None,
        *,
        clock: ServiceClock | None = None,
        rng: Random | None = None,
        renders: bool = False,
    ) -> None:
        self.terms: Terms = terms or Terms()
        self.clock: ServiceClock = clock or ServiceClock(SystemClock())
        self.on_finished: Callable[[SimulatedTask], None] | None = None
        """Called once for each task that has ended, by the first query that notices it."""
        self.on_end_known: Callable[[], None] | None = None
        """Called when the end of a task becomes known; it may be the next one."""
        self._renders = renders
        self._last_millis = 0
        seeds = rng or Random(0)
        self._seeds = tuple(seeds.random() for _ in range(5))
        self.files: FileStore = FileStore(self.terms, self.clock, Random(self._seeds[3]))
        self._clear()

    def reset(self) -> None:
        """Forget everything and begin again, with the same terms and the same randomness."""
        self.clock.restart()
        self.files = FileStore(self.terms, self.clock, Random(self._seeds[3]), self.files.base_url)
        self._clear()

    def _clear(self) -> None:
        self._duration_rng, self._failure_rng, self._film_rng = map(Random, self._seeds[:3])
        self._latency_rngs: dict[Endpoint, Random] = {}
        self.ledger: Ledger = Ledger()
        self.credits: float = self.terms.credits
        self._window = make_window(self.terms.window, self.terms.limit, self.terms.per)
        self._tasks: dict[str, SimulatedTask] = {}
        self._ids: list[str] = []
        self._ends: list[tuple[float, int, str]] = []
        self._running: set[str] = set()

    # -- creating ----------------------------------------------------------------------------

    def create(
        self, raw: bytes, *, task_id: str | None = None, fault: str = "ok"
    ) -> SimulatedTask | Refusal:
        """Check a createTask and, if it is accepted, start and charge a task.

        Args:
            raw: the body of the request.
            task_id: the id to give the task, "{}" standing for its number; by default a new one.
            fault: what struck the request, for the ledger.
        """
        self.update()
        now = self.clock.now()
        request = self._check(raw, now)
        if isinstance(request, Refusal):
            self._note_creation(_json_object(raw), now, fault, "refused", request.code)
            return request
        task = self._start(request, now, task_id)
        self._note_creation(request.body, now, fault, "created", 200, task.task_id)
        return task

    def note_lost(self, raw: bytes, *, fault: str) -> None:
        """A createTask arrived and was dropped before it was processed."""
        self._note_creation(_json_object(raw), self.clock.now(), fault, "lost", 0)

    def note_refused(self, raw: bytes, refusal: Refusal, *, fault: str = "ok") -> None:
        """A createTask was refused before its body was read."""
        self._note_creation(_json_object(raw), self.clock.now(), fault, "refused", refusal.code)

    def _check(self, raw: bytes, now: float) -> TaskRequest | Refusal:
        for changes_at, limit in self.terms.limit_changes:
            if changes_at <= now:
                self._window.limit = limit
        delay = self._window.delay(now)
        if delay > 0:
            if self.terms.count_refused:
                self._window.count(now)
            return Refusal(429, "too many creations", delay)
        self._window.count(now)
        request = parse_task_request(
            raw,
            models=self.terms.generic_models,
            strict=self.terms.strict,
            exact_sum=self.terms.exact_sum,
        )
        if isinstance(request, Refusal):
            return request.as_upstream if self.terms.invalid_code == 500 else request
        image = request.image_url
        if image is not None and self.files.owns(image) and self.files.upload_of(image) is None:
            return Refusal(451, "the image could not be fetched")
        if self.terms.price(request) > self.credits:
            return Refusal(self.terms.short_code, TOO_FEW_CREDITS)
        if self.terms.max_running is not None and self.running >= self.terms.max_running:
            end = self.next_end()
            return Refusal(429, "too many tasks are running", end - now if end else 10.0)
        return request

    def _start(self, request: TaskRequest, now: float, task_id: str | None) -> SimulatedTask:
        serial = len(self._ids)
        upload = self.files.upload_of(request.image_url) if request.image_url else None
        failure = self._draw_failure(request)
        task = SimulatedTask(
            task_id=self._new_id(request.model, task_id, serial),
            serial=serial,
            request=request,
            created_at=now,
            due_at=now + self.terms.duration(self._duration_rng),
            credits=self.terms.price(request),
            failure=failure,
            film_at=None if self._renders and failure is None else now,
            seed=self._film_rng.getrandbits(32),
            image=upload.data if upload else None,
        )
        self._ids.append(task.task_id)
        self._running.add(task.task_id)
        self._replace(task)
        self.credits -= task.credits
        self.ledger.note_charge(
            TaskCharge(now, task.task_id, task.credits, request.body, request.callback_url)
        )
        self.ledger.note_running(self.running)
        return task

    def _draw_failure(self, request: TaskRequest) -> Failure | None:
        # Drawn for every task, used or not: the sequence must not depend on the failure rate.
        drawn = self._failure_rng.random()
        if self.terms.decide is not None:
            return self.terms.decide(request)
        return self.terms.failure if drawn < self.terms.fail_rate else None

    def _new_id(self, model: str, wanted: str | None, serial: int) -> str:
        """The wanted id, or one in the service's form. No two are the same."""
        if wanted is not None:
            new = wanted.replace("{}", str(serial))
            return f"{new}-{serial}" if new in self._tasks else new
        now = int(1000 * self.clock.timestamp(self.clock.now()))
        self._last_millis = max(now, self._last_millis + 1)
        return f"task_{re.sub(r'[^A-Za-z0-9.-]', '-', model)}_{self._last_millis}"

    # -- reading -----------------------------------------------------------------------------

    def poll(self, task_id: str) -> SimulatedTask | Refusal:
        """The task with that id, once it is visible to callers."""
        self.update()
        self.ledger.polls[task_id] += 1
        task = self._tasks.get(task_id)
        if task is None or self.clock.now() < task.created_at + self.terms.visible_after:
            return Refusal(422, "recordInfo is null")
        return task

    def task(self, task_id: str) -> SimulatedTask:
        """The task with that id as planned now; for tests and tools, not for callers."""
        return self._tasks[task_id]

    @property
    def tasks(self) -> tuple[SimulatedTask, ...]:
        """All tasks, the oldest first, without evicted ones."""
        return tuple(self._tasks[task_id] for task_id in self._ids if task_id in self._tasks)

    def other_task_id(self, task_id: str) -> str:
        """The id of another task, made up when there is none."""
        return next((other for other in self._ids if other != task_id), f"{task_id}0")

    @property
    def running(self) -> int:
        """How many tasks had not ended at the last update."""
        return len(self._running)

    # -- time --------------------------------------------------------------------------------

    def update(self) -> None:
        """Apply what happened until now: report tasks that have ended, refund those that failed."""
        now = self.clock.now()
        while self._ends and self._ends[0][0] <= now:
            at, _, task_id = heapq.heappop(self._ends)
            task = self._tasks[task_id]
            if task_id not in self._running or task.ended_at != at:
                continue  # an end that was planned before `_replace` changed it
            self._running.discard(task_id)
            if task.failure is not None and self.terms.refund:
                self.credits += task.credits
                self.ledger.refunds.append(Refund(at, task_id, task.credits))
            if self.on_finished is not None:
                self.on_finished(task)

    def advance(self, seconds: float) -> None:
        """Let *seconds* of service time pass at once."""
        self.clock.skip(seconds)
        self.update()
        if self.on_end_known is not None:
            self.on_end_known()

    def next_end(self) -> float | None:
        """When the next task ends, as far as is known; may be too early, never too late."""
        return self._ends[0][0] if self._ends else None

    def film_rendered(self, task_id: str) -> None:
        """The film of a task is ready."""
        task = self._tasks[task_id]
        if task.film_at is None:
            self._replace(attrs.evolve(task, film_at=self.clock.now()))

    def rendering_failed(self, task_id: str, reason: str) -> None:
        """The film of a task cannot be rendered: the task fails now."""
        self.finish(task_id, Failure("500", reason))

    def finish(self, task_id: str, failure: Failure | None = None) -> None:
        """End a task now instead of when it was due. A task that has ended is left alone."""
        self.update()
        task, now = self._tasks[task_id], self.clock.now()
        if task_id not in self._running:
            return
        film_at = now if task.film_at is None else task.film_at
        due_at = min(task.due_at, now)
        self._replace(attrs.evolve(task, due_at=due_at, failure=failure, film_at=film_at))
        self.update()

    def _replace(self, task: SimulatedTask) -> None:
        self._tasks[task.task_id] = task
        if task.ended_at is not None:
            heapq.heappush(self._ends, (task.ended_at, task.serial, task.task_id))
            if self.on_end_known is not None:
                self.on_end_known()

    # -- files -------------------------------------------------------------------------------

    def download_url(self, url: str) -> str | Refusal:
        """A temporary URL for the result that *url* points to."""
        self.update()
        result = self.files.result_of(url)
        ended = self._succeeded_at(result) if result else None
        if result is None or ended is None:
            return Refusal(422, "Invalid URL")
        if self.clock.now() >= ended + self.terms.reissue_life:
            return Refusal(422, "Invalid URL")
        return self.files.issue_link(result)

    def result(self, path: str, sign: str) -> ResultFile | None:
        """The result that is served at *path* now, which may be its own or a temporary URL's."""
        self.update()
        temporary = path.startswith("/t/")
        result = self.files.linked_result(path) if temporary else self.files.result_at(path, sign)
        ended = self._succeeded_at(result) if result else None
        if ended is None or self.clock.now() < ended + self.terms.files_after:
            return None
        expired = self.clock.now() >= ended + self.terms.result_life
        return None if expired and not temporary else result

    def owner(self, result: ResultFile) -> SimulatedTask:
        """The task that *result* belongs to."""
        return self._tasks[self._ids[result.serial]]

    def _succeeded_at(self, result: ResultFile) -> float | None:
        """When the task of *result* succeeded; None when it has not, or has no such file."""
        if result.serial >= len(self._ids) or not 1 <= result.number <= self.terms.results:
            return None
        task, now = self.owner(result), self.clock.now()
        return task.ended_at if task.state(now) == "success" else None

    # -- the network -------------------------------------------------------------------------

    def latency(self, endpoint: Endpoint) -> float:
        """Seconds of the caller's that the next request to *endpoint* spends on the network."""
        # Each endpoint has its own generator: one more poll does not delay another creation.
        rng = self._latency_rngs.setdefault(endpoint, Random(f"{self._seeds[4]} {endpoint}"))
        return self.terms.draw_latency(endpoint, rng)

    # -- the ledger --------------------------------------------------------------------------

    def note_arrival(self, endpoint: str, fault: str = "ok") -> None:
        """A request reached *endpoint* and met *fault*."""
        now = self.clock.now()
        self.ledger.note_arrival(endpoint, now)
        if fault != "ok":
            self.ledger.faults.append(InjectedFault(now, endpoint, fault))

    def note_file(self, request: FileRequest) -> None:
        """A request reached the file host."""
        self.ledger.files.append(request)

    def evict(self, task_ids: Iterable[str]) -> dict[str, SimulatedTask]:
        """Remove ended tasks that nobody polls any more, so that a long run's memory is bounded.

        Returns the tasks, for `restore`.
        """
        evicted = {task_id: self._tasks.pop(task_id) for task_id in task_ids}
        for task_id in evicted:
            self.ledger.evict(task_id)
        return evicted

    def restore(self, tasks: Mapping[str, SimulatedTask]) -> None:
        """Put evicted tasks back."""
        self._tasks |= tasks

    def _note_creation(
        self,
        body: Mapping[str, object] | None,
        now: float,
        fault: str,
        outcome: CreationOutcome,
        code: int,
        task_id: str | None = None,
    ) -> None:
        url = body.get("callBackUrl") if body else None
        callback_url = url if isinstance(url, str) else None
        entry = Creation(now, body, callback_url, outcome, code, task_id, fault)
        self.ledger.creations.append(entry)

    def __repr__(self) -> str:
        return f"<Service {len(self._ids)} tasks, {self.running} running, {self.credits:g} credits>"


def _json_object(raw: bytes) -> Mapping[str, object] | None:
    """The body of a request, for the ledger; None when it is no JSON object."""
    body = parse_object(raw)
    return None if isinstance(body, Refusal) else body

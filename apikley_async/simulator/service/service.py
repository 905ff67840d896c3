"""The world behind the simulated service: tasks, credits, limits, files and the books.

Pure: no socket, no thread, no task, no waiting. The time and the chance are handed in, and each
question brings the world up to date before it is answered, so nothing has to run in between.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Mapping
from random import Random

import attrs

from apikley_async import SystemClock
from apikley_async.simulator.service.hosted_files import Hosting, Place
from apikley_async.simulator.service.ledger import (
    Charge,
    Creation,
    FileRequest,
    Ledger,
    Mishap,
    Refund,
    Verdict,
)
from apikley_async.simulator.service.lifecycle import Failure, Task
from apikley_async.simulator.service.rate_windows import window
from apikley_async.simulator.service.request_rules import Order, Refusal, read_object, read_order
from apikley_async.simulator.service.service_clock import WorldTime
from apikley_async.simulator.service.terms import Endpoint, Terms

__all__ = ["World"]

TOP_UP = (
    "Credits insufficient : Your current balance isn't enough to run this request. "
    "Please top up to continue."
)


class World:
    """Everything the service knows. One per simulator.

    Args:
        terms: what it promises, limits and charges.
        time: its seconds.
        rng: its chance. Each kind of draw has a source of its own that is seeded from it, so
            that one more film does not change who fails.
        renders: films are made elsewhere; a task waits for `film_ready` before it succeeds.
    """

    def __init__(
        self,
        terms: Terms | None = None,
        *,
        time: WorldTime | None = None,
        rng: Random | None = None,
        renders: bool = False,
    ) -> None:
        self.terms: Terms = terms or Terms()
        self.time: WorldTime = time or WorldTime(SystemClock())
        self.on_finished: Callable[[Task], None] | None = None
        """Called once for each task that has ended, by whatever question noticed it first."""
        self.on_foreseen: Callable[[], None] | None = None
        """Called when the end of a task has become known, which may be the next one."""
        self._renders = renders
        self._last_millis = 0
        chance = rng or Random(0)
        self._seeds = tuple(chance.random() for _ in range(5))
        self.files: Hosting = Hosting(self.terms, self.time, Random(self._seeds[3]))
        self._begin_anew()

    def reset(self) -> None:
        """Forget everything and begin again, with the same terms and the same chance."""
        self.time.restart()
        self.files = Hosting(self.terms, self.time, Random(self._seeds[3]), self.files.base)
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._lengths, self._fates, self._films = (Random(seed) for seed in self._seeds[:3])
        self._roads: dict[Endpoint, Random] = {}
        self.ledger: Ledger = Ledger()
        self.credits: float = self.terms.credits
        self._window = window(self.terms.window, self.terms.limit, self.terms.per)
        self._tasks: dict[str, Task] = {}
        self._ids: list[str] = []
        self._ends: list[tuple[float, int, str]] = []
        self._running: set[str] = set()

    # -- creating ----------------------------------------------------------------------------

    def create(
        self, raw: bytes, *, task_id: str | None = None, fault: str = "ok"
    ) -> Task | Refusal:
        """Judge a createTask and, if nothing speaks against it, start and charge a task.

        *task_id* is the id to give it, "{}" standing for its number; *fault* is for the books.
        """
        self.settle()
        now = self.time.now()
        verdict = self._judge(raw, now)
        if isinstance(verdict, Refusal):
            self._note_creation(_body(raw), now, fault, "refused", verdict.code)
            return verdict
        task = self._begin(verdict, now, task_id)
        self._note_creation(verdict.body, now, fault, "created", 200, task.task_id)
        return task

    def overhear(self, raw: bytes, *, fault: str) -> None:
        """A createTask arrived and was lost on the doorstep: nobody acted on it."""
        self._note_creation(_body(raw), self.time.now(), fault, "unheard", 0)

    def turn_away(self, raw: bytes, refusal: Refusal, *, fault: str = "ok") -> None:
        """A createTask was refused at the door, before it was read."""
        self._note_creation(_body(raw), self.time.now(), fault, "refused", refusal.code)

    def _judge(self, raw: bytes, now: float) -> Order | Refusal:
        wait = self._window.wait(now)
        if wait > 0:
            if self.terms.count_refused:
                self._window.count(now)
            return Refusal(429, "too many creations", wait)
        self._window.count(now)
        order = read_order(
            raw,
            models=self.terms.generic_models,
            strict=self.terms.strict,
            exact_sum=self.terms.exact_sum,
        )
        if isinstance(order, Refusal):
            return order.upstreams if self.terms.invalid_code == 500 else order
        image = order.image_url
        if image is not None and self.files.is_ours(image) and self.files.image(image) is None:
            return Refusal(451, "the image could not be fetched")
        if self.terms.price(order) > self.credits:
            return Refusal(self.terms.short_code, TOP_UP)
        if self.terms.max_running is not None and self.running >= self.terms.max_running:
            soon = self.next_finish()
            return Refusal(429, "too many tasks are running", soon - now if soon else 10.0)
        return order

    def _begin(self, order: Order, now: float, task_id: str | None) -> Task:
        serial = len(self._ids)
        upload = self.files.image(order.image_url) if order.image_url else None
        failure = self._fate(order)
        task = Task(
            task_id=self._new_id(order.model, task_id, serial),
            serial=serial,
            order=order,
            created_at=now,
            due_at=now + self.terms.duration(self._lengths),
            credits=self.terms.price(order),
            failure=failure,
            film_at=None if self._renders and failure is None else now,
            seed=self._films.getrandbits(32),
            image=upload.data if upload else None,
        )
        self._ids.append(task.task_id)
        self._running.add(task.task_id)
        self._replace(task)
        self.credits -= task.credits
        self.ledger.note_charge(
            Charge(now, task.task_id, task.credits, order.body, order.callback_url)
        )
        self.ledger.note_running(self.running)
        return task

    def _fate(self, order: Order) -> Failure | None:
        # Drawn for every task, used or not: a rate of 0 and a rate of 1 see the same chance.
        drawn = self._fates.random()
        if self.terms.decide is not None:
            return self.terms.decide(order)
        return self.terms.failure if drawn < self.terms.fail_rate else None

    def _new_id(self, model: str, wanted: str | None, serial: int) -> str:
        """The id that is wanted, or one as the service makes them: no two are the same."""
        if wanted is not None:
            new = wanted.replace("{}", str(serial))
            return f"{new}-{serial}" if new in self._tasks else new
        now = int(1000 * self.time.stamp(self.time.now()))
        self._last_millis = max(now, self._last_millis + 1)
        return f"task_{re.sub(r'[^A-Za-z0-9.-]', '-', model)}_{self._last_millis}"

    # -- looking -----------------------------------------------------------------------------

    def look(self, task_id: str) -> Task | Refusal:
        """The task of that id, once it can be seen."""
        self.settle()
        self.ledger.looks[task_id] += 1
        task = self._tasks.get(task_id)
        if task is None or self.time.now() < task.created_at + self.terms.visible_after:
            return Refusal(422, "recordInfo is null")
        return task

    def task(self, task_id: str) -> Task:
        """The task of that id as it is fated now; for tests and shells, not for callers."""
        return self._tasks[task_id]

    @property
    def tasks(self) -> tuple[Task, ...]:
        """All tasks, the oldest first."""
        return tuple(self._tasks[task_id] for task_id in self._ids)

    def neighbour(self, task_id: str) -> str:
        """The id of another task, made up when there is no other."""
        return next((other for other in self._ids if other != task_id), f"{task_id}0")

    @property
    def running(self) -> int:
        """How many tasks had not ended when the world was last brought up to date."""
        return len(self._running)

    # -- the course of things ----------------------------------------------------------------

    def settle(self) -> None:
        """Bring the world up to date: what has ended by now is told, and refunded if it failed."""
        now = self.time.now()
        while self._ends and self._ends[0][0] <= now:
            at, _, task_id = heapq.heappop(self._ends)
            task = self._tasks[task_id]
            if task_id not in self._running or task.ended_at != at:
                continue  # an end that was foreseen once and did not come
            self._running.discard(task_id)
            if task.failure is not None and self.terms.refund:
                self.credits += task.credits
                self.ledger.refunds.append(Refund(at, task_id, task.credits))
            if self.on_finished is not None:
                self.on_finished(task)

    def advance(self, seconds: float) -> None:
        """Let *seconds* pass at once."""
        self.time.skip(seconds)
        self.settle()
        if self.on_foreseen is not None:
            self.on_foreseen()

    def next_finish(self) -> float | None:
        """When the next task will end, as far as is known; may be too early, never too late."""
        return self._ends[0][0] if self._ends else None

    def film_ready(self, task_id: str) -> None:
        """The film of a task has been rendered."""
        task = self._tasks[task_id]
        if task.film_at is None:
            self._replace(attrs.evolve(task, film_at=self.time.now()))

    def film_broken(self, task_id: str, reason: str) -> None:
        """The film of a task cannot be rendered: the task fails, now."""
        self.finish(task_id, Failure("500", reason))

    def finish(self, task_id: str, failure: Failure | None = None) -> None:
        """Let a task end now instead of when it was fated to; one that has ended stays ended."""
        self.settle()
        task, now = self._tasks[task_id], self.time.now()
        if task_id not in self._running:
            return
        film_at = now if task.film_at is None else task.film_at
        due_at = min(task.due_at, now)
        self._replace(attrs.evolve(task, due_at=due_at, failure=failure, film_at=film_at))
        self.settle()

    def _replace(self, task: Task) -> None:
        self._tasks[task.task_id] = task
        if task.ended_at is not None:
            heapq.heappush(self._ends, (task.ended_at, task.serial, task.task_id))
            if self.on_foreseen is not None:
                self.on_foreseen()

    # -- files -------------------------------------------------------------------------------

    def download_url(self, url: str) -> str | Refusal:
        """A temporary address for the result that *url* points to."""
        self.settle()
        place = self.files.place_of(url)
        ended = self._success(place) if place else None
        if place is None or ended is None:
            return Refusal(422, "Invalid URL")
        if self.time.now() >= ended + self.terms.reissue_life:
            return Refusal(422, "Invalid URL")
        return self.files.link(place)

    def result(self, path: str, sign: str) -> Place | None:
        """The result that is served at *path* now: by its own address, or by a temporary one."""
        self.settle()
        temporary = path.startswith("/t/")
        place = self.files.linked(path) if temporary else self.files.result_at(path, sign)
        ended = self._success(place) if place else None
        if ended is None or self.time.now() < ended + self.terms.files_after:
            return None
        over = self.time.now() >= ended + self.terms.result_life
        return None if over and not temporary else place

    def owner(self, place: Place) -> Task:
        """The task whose result lies at *place*."""
        return self._tasks[self._ids[place.serial]]

    def _success(self, place: Place) -> float | None:
        """When the task behind *place* succeeded; None when it has not, or has not so many."""
        if place.serial >= len(self._ids) or not 1 <= place.number <= self.terms.results:
            return None
        task, now = self.owner(place), self.time.now()
        return task.ended_at if task.state(now) == "success" else None

    # -- the network -------------------------------------------------------------------------

    def travel(self, endpoint: Endpoint) -> float:
        """Seconds of the caller's that the next request to *endpoint* takes, there and back."""
        # A road of its own for each endpoint: one more look does not delay another creation.
        dice = self._roads.setdefault(endpoint, Random(f"{self._seeds[4]} {endpoint}"))
        return self.terms.travel(endpoint, dice)

    # -- the books ---------------------------------------------------------------------------

    def note_arrival(self, endpoint: str, fault: str = "ok") -> None:
        """A request came to *endpoint*, and this is what will be done to it."""
        now = self.time.now()
        self.ledger.note_arrival(endpoint, now)
        if fault != "ok":
            self.ledger.mishaps.append(Mishap(now, endpoint, fault))

    def note_file(self, request: FileRequest) -> None:
        """A request came to the hosts of files."""
        self.ledger.files.append(request)

    def _note_creation(
        self,
        body: Mapping[str, object] | None,
        now: float,
        fault: str,
        verdict: Verdict,
        code: int,
        task_id: str | None = None,
    ) -> None:
        url = body.get("callBackUrl") if body else None
        callback_url = url if isinstance(url, str) else None
        entry = Creation(now, body, callback_url, verdict, code, task_id, fault)
        self.ledger.creations.append(entry)

    def __repr__(self) -> str:
        return f"<World {len(self._ids)} tasks, {self.running} running, {self.credits:g} credits>"


def _body(raw: bytes) -> Mapping[str, object] | None:
    """The body of a request for the books; None when it is no JSON object."""
    body = read_object(raw)
    return None if isinstance(body, Refusal) else body

"""One run: a batch of films against a service with faults, on a machine that may die.

Everything is drawn from the seed of its plan; `runs.run` runs it.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import random
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs
from simulation.disk import Disk
from simulation.loop import DRIVER, HOST, SimLoop
from simulation.plans import Plan
from simulation.promises import (
    Evidence,
    NotifyingList,
    all_final,
    broken_promises,
    in_journal,
    small_film,
    unread_responses,
)

from apikley_async import Backoff, Client, Environment, Job, RateLimiter, Shot, Storyboard, Timeouts
from apikley_async.batch import Batch, ItemState
from apikley_async.batch.run import BatchRun
from apikley_async.errors import ClientClosedError
from apikley_async.simulator import Constant, FixedRenderer, Simulator, Terms
from apikley_async.testing import LoopClock
from apikley_async.webhook import Callback, Inbox, Limits, Receiver

__all__ = ["Report", "SimulationRun", "serving", "storyboards"]


KEY = "canary-0000-this-key-opens-nothing"
SIGNING = "a-word-that-signs"
HOOKS = 18_787
WINDOW, PER = 3, 10.0
UNCERTAIN_DELAY = 60.0  # the longest that a slot of the limiter is delayed
MIN_POLLING = 300.0  # seconds: no failed poll ends the polling sooner
MAX_LIFE = 6 * 3600.0  # virtual seconds in which a life must end
LIVES = 9
NEVER = 10**12  # steps
START = 1_790_000_000.0  # of the run, in seconds since 1970


@attrs.define
class Report:
    """The result of a run. *first_life*: how many of its *steps* the first life had."""

    plan: Plan
    broken: list[str] = attrs.Factory(list)
    history: str = ""
    ends: str = ""
    steps: int = 0
    first_life: int = 0
    commits: int = 0
    died: int = 0
    states: dict[str, str] = attrs.Factory(dict)
    paid: int = 0


@attrs.frozen
class Tokens:
    """Gives each attempt a URL with its token, without a receiver."""

    def url_for(self, token: str) -> str:
        return f"https://hooks.test/{token}"


class MachineClock(LoopClock):
    """The clocks of the machine that may be killed; its wall clock may be *ahead*."""

    ahead = 0.0

    def wall(self) -> float:
        """The true time plus the error of this machine, which the loop's pauses do not affect."""
        loop: Any = asyncio.get_running_loop()
        return START + float(loop.true_time()) + self.ahead


class SimulationRun:
    """The run of one plan."""

    def __init__(self, plan: Plan, root: Path) -> None:
        self.plan = plan
        self.report = Report(plan)
        self.loop = SimLoop(random.Random(f"network {plan.seed}"))
        self.disk = Disk(self.loop, root, random.Random(f"disk {plan.seed}"))
        self.loop.on_kill = self._died
        self.rng = random.Random(f"driver {plan.seed}")
        self.clock = MachineClock()
        # Every third run polls as durations have taught, and begins with an expectation, right or
        # wrong. (Not those of the corpus, which would be other runs then.)
        self.learns = plan.seed % 6 in (2, 3)
        self.inbox = root / "calls.db"
        self.receiver_host = ""  # the process that receives callbacks
        self.receiver_died = asyncio.Event()
        self.killed: asyncio.Future[None]
        self.lives = 0
        self.client: Client | None = None
        self.limiter: RateLimiter | None = None
        self.current: asyncio.Task[Any]
        self.simulator = new_simulator(plan)
        self.simulator.ledger.creations = NotifyingList(self.arrived)

    def _died(self, host: str) -> None:
        if host.startswith("receiver"):
            self.receiver_died.set()
            return
        self.disk.die(host)
        self.report.died += 1
        if not self.killed.done():
            self.killed.set_result(None)

    def on(self, host: str, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start *work* on a machine."""
        context = contextvars.copy_context()
        context.run(HOST.set, host)
        return self.loop.create_task(work, context=context)

    # --- lives ----------------------------------------------------------------------------------

    async def play(self) -> None:
        """Lives with faults, then without, until all items are final; then one without a change."""
        plan = self.plan
        await self.on("service", self.simulator.start())
        receiving = self.on(DRIVER, self._run_receiver()) if plan.apart is not None else None
        if plan.cancel_at is not None:
            await self.life(None, {plan.cancel_at: lambda: self.current.cancel()})
        if plan.close_at is not None:
            await self.life(None, {plan.close_at: self._close})
        for kill in plan.kills or (NEVER,):
            first = self.lives == 0
            await self.life(kill, self._upsets() if first else {}, ends=False)
        self._check_budget()
        self.simulator.faults = None
        await self._run_until_final()
        self.check()
        if receiving is not None:
            receiving.cancel()
        await self.on("service", self.simulator.aclose())

    async def _run_until_final(self) -> None:
        """Lives without faults, until one finds all items final and must change nothing.

        A callback that arrived in the last one, or in this one, is new: it may change something.
        """
        quiet = False
        for _ in range(LIVES):
            before, taken = self._snapshot(), self._accepted_callbacks()
            final = quiet and all_final(self.report.states.values())
            await self.life(None)
            quiet = self._accepted_callbacks() == taken
            if final and quiet:
                if self._snapshot() != before:
                    self.report.broken.append("I13: a run of a final batch has changed it")
                return
            await asyncio.sleep(1800)

    def _snapshot(self) -> tuple[list[Any], int]:
        """The journal's rows, and the number of submissions."""
        journal = self.disk.place / "batch.db"
        return self.rows() if journal.exists() else [], len(self.simulator.ledger.creations)

    async def _run_receiver(self) -> None:
        """A process that receives callbacks, dies, and is started again."""
        for number, steps in enumerate((*(self.plan.apart or ()), 0)):
            self.receiver_host = f"receiver {number}"
            self.receiver_died.clear()
            if steps:
                self.loop.steps_left[self.receiver_host] = steps
            _ = self.on(self.receiver_host, self._receive())
            try:
                await self.receiver_died.wait()
            finally:
                if self.receiver_host not in self.loop.dead:
                    self.loop.kill(self.receiver_host)
            await asyncio.sleep(self.rng.choice([0.5, 30.0, 600.0]))

    async def _receive(self) -> None:
        async with Inbox(self.inbox) as inbox:
            receiver = Receiver(inbox, hmac_keys=[SIGNING], clock=self.clock)
            async with receiver.serve(port=HOOKS):
                await asyncio.Event().wait()

    def _close(self) -> None:
        if self.client is not None:
            _ = self.on(f"life {self.lives}", self.client.aclose(grace=5))

    def _upsets(self) -> dict[int, Callable[[], Any]]:
        """What happens to the machine and its clocks, by the step of its first life."""

        def upset(what: str, seconds: float) -> None:
            host = f"life {self.lives}"
            if what == "jump":
                self.clock.ahead += seconds
                return
            self.loop.sleep(host, seconds, stands=what != "stall")
            if self.receiver_host and what != "stall":  # one machine, two processes
                self.loop.sleep(self.receiver_host, seconds, stands=True)
            if what == "cut off":
                self.loop.network.drop(host, seconds)

        return {step: functools.partial(upset, what, much) for step, what, much in self.plan.upsets}

    async def life(
        self,
        kill: int | None,
        acts: Mapping[int, Callable[[], Any]] = MappingProxyType({}),
        *,
        ends: bool = True,
    ) -> None:
        """Run a machine until its work ends or it is killed.

        Args:
            kill: after so many steps; None for never.
            acts: what happens at which step.
            ends: the acts may end its work.
        """
        self.lives += 1
        walls = self.plan.walls
        self.clock.ahead = walls[(self.lives - 1) % len(walls)] if walls else 0.0
        host = f"life {self.lives}"
        self.killed = self.loop.create_future()
        self.loop.mortal = host
        self.loop.kill_at = None if kill is None else self.loop.steps + kill
        self.loop.acts = {self.loop.steps + step: act for step, act in acts.items()}
        self.disk.power_cuts = self.plan.power
        self.limiter = None
        self.current = life = self.on(host, self.live())
        try:
            async with asyncio.timeout(MAX_LIFE + self.plan.asleep):
                await asyncio.wait({life, self.killed}, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            self.report.broken.append(f"I4: life {self.lives} does not end\n{self.loop.waiting()}")
            self.loop.kill(host)
        self.loop.mortal = ""
        self.report.first_life = self.report.first_life or self.loop.steps
        if self.killed.done():
            self.disk.revive()
            await asyncio.sleep(self.rng.choice([0.5, 30.0, 4000.0]))
            return
        self._check_end(life, expected=ends and bool(acts))
        self._check_no_task_is_left(host, "")
        await asyncio.sleep(UNCERTAIN_DELAY)
        self._check_nothing_is_left(host)

    def new_client(self) -> tuple[Client, Any]:
        """A client for a new life, and its `callback`."""
        rng = random.Random(f"life {self.plan.seed} {self.lives}")
        callback: Any = Tokens()
        if self.plan.callbacks:
            callback = Callback(
                f"http://127.0.0.1:{HOOKS}/hooks",
                hmac_keys=[SIGNING],
                inbox=None if self.plan.apart is None else self.inbox,
                clock=self.clock,
                limits=Limits(inbox_interval=10),
            )
        self.limiter = RateLimiter(WINDOW, PER, clock=self.clock, rng=rng)
        self.client = client = Client(
            KEY,
            base_url=self.simulator.base_url,
            limiter=self.limiter,
            polling=None if self.learns else Backoff(initial=15, factor=2, maximum=60),
            timeouts=Timeouts(connect=5, read=20),
            retry_for=120,
            callback=callback,
            environment=Environment(clock=self.clock, rng=rng),
        )
        return client, callback

    async def live(self) -> None:
        """The user's program."""
        client, callback = self.new_client()
        self.watch_submissions(client)
        batch, began = Batch.open(self.disk.place / "batch.db", clock=self.clock), self.loop.time()
        apart = self.plan.apart is not None
        async with (
            client,
            self._leaves_no_tasks(f"{BatchRun.__name__}."),
            batch,
            serving(None if apart else callback),
        ):
            await batch.add(storyboards(self.plan.films))
            async for item in batch.run(
                client,
                folder=self.disk.place / "films",
                max_running=self.plan.running,
                max_tasks=self.plan.budget if self.simulator.faults else None,
                expected=self.plan.seed % 100 + 1.0 if self.learns else None,
            ):
                if item.task_id is not None:
                    self.require_row("task_id", "item", item.task_id, "I6: the program has")
                self._check_polling(item.key, item.state, self.loop.time() - began)
                self.report.states[item.key] = item.state.value
            self.report.states = {item.key: item.state.value async for item in batch.items()}

    # --- the promises ---------------------------------------------------------------------------

    def rows(self) -> list[Any]:
        with contextlib.closing(sqlite3.connect(self.disk.place / "batch.db")) as db:
            return db.execute("SELECT * FROM item ORDER BY ord").fetchall()

    def watch_submissions(self, client: Client) -> None:
        """When a submission returns a task id, the journal must have it."""
        submit = client.attempts.submit

        async def watched_submit(*args: Any, **options: Any) -> Job:
            job = await submit(*args, **options)
            self.require_row("task_id", "item", job.task_id, "I6: the program has")
            return job

        client.attempts.submit = watched_submit  # type: ignore[method-assign]

    def arrived(self, creation: Any) -> None:
        """When a creation arrives, its intent must be in the sender's journal."""
        if self.loop.mortal and self.loop.mortal not in self.loop.dead:
            token = str(creation.callback_url).rpartition("/")[2][:32]
            self.require_row("token", "attempt", token, "I5: the service has")

    def require_row(self, column: str, table: str, value: str, known: str) -> None:
        """Report a value that is known elsewhere and missing in the journal."""
        query = f"SELECT 1 FROM {table} WHERE {column} = ?"  # noqa: S608 - names of ours
        if not in_journal(self.disk.place, query, value):
            self.report.broken.append(f"{known} {value[:40]}, which is not in the journal")

    def _check_polling(self, key: str, state: ItemState, seconds: float) -> None:
        """Polling ends only after minutes: without a link, without the task, or at its deadline."""
        if state is ItemState.STALLED and seconds < MIN_POLLING:
            self.report.broken.append(f"I3: {key} was polled no longer than {seconds:.0f} s")

    def check(self) -> None:
        """Compare journal, ledger and files with the promises."""
        evidence = Evidence.opened(self.disk.place, self.simulator)
        self.report.states = {key: state.value for key, state in evidence.states.items()}
        self.report.paid = len(self.simulator.ledger.paid)
        limit = WINDOW if self.plan.timely else WINDOW * self.lives
        self.report.broken += broken_promises(evidence, limit=limit, per=PER, key=KEY)
        if self.plan.unbroken:
            self.report.broken += unread_responses(evidence)

    def _accepted_callbacks(self) -> int:
        """How many callbacks were accepted; a late one is read by the next life."""
        return sum(call.status == 200 for call in self.simulator.ledger.callbacks)

    def _check_budget(self) -> None:
        """What was paid under a budget is within it."""
        budget, paid = self.plan.budget, len(self.simulator.ledger.paid)
        if budget is not None and paid > budget:
            self.report.broken.append(f"I10: {paid} films are paid, {budget} were allowed")

    def _check_end(self, life: asyncio.Task[Any], *, expected: bool) -> None:
        """A life may end with an error only when it was cancelled, or its client closed."""
        error = None if life.cancelled() else life.exception()
        if error is not None and not (expected and isinstance(error, ClientClosedError)):
            shown = f"{type(error).__name__}: {error}"
            self.report.broken.append(f"I9: life {self.lives} ends with {shown}")
        if life.cancelled() and not expected:
            self.report.broken.append(f"I9: life {self.lives} ends with a cancellation")

    @contextlib.asynccontextmanager
    async def _leaves_no_tasks(self, kind: str) -> AsyncIterator[None]:
        """What is closed inside this block has ended its tasks of a *kind* afterwards."""
        try:
            yield
        finally:
            self._check_no_task_is_left(HOST.get(), kind)

    def _check_no_task_is_left(self, host: str, kind: str) -> None:
        left = [task.get_coro() for there, task in self.loop.living() if there == host]
        names = sorted({getattr(work, "__qualname__", "") for work in left})
        if names := [name for name in names if name.startswith(kind)]:
            self.report.broken.append(f"I9: tasks are left: {', '.join(names)}")

    def _check_nothing_is_left(self, host: str) -> None:
        connections = [e for e in self.loop.network.open.values() if e.host == host]
        if connections:
            self.report.broken.append(f"I9: {len(connections)} connections are left")
        limiter = self.limiter
        if limiter and (limiter.in_flight or limiter.idle_in > UNCERTAIN_DELAY):
            self.report.broken.append(f"I9: a slot never comes back: {limiter!r}")


FILE_DELAYS = (0.0, 0.0, 15.0, 60.0)  # seconds until the links of a new film work


def new_simulator(plan: Plan) -> Simulator:
    """The service that the run's machine talks to."""
    terms = Terms(
        limit=WINDOW,
        per=PER,
        max_running=None,
        duration=Constant(40.0),
        fail_rate=0.1 if plan.mixes else 0.0,
        files_after=random.Random(f"files {plan.seed}").choice(FILE_DELAYS) if plan.mixes else 0.0,
        refused_agents=("Python/",),
    )
    return Simulator(
        terms,
        faults=plan.faults,
        renderer=FixedRenderer(small_film()),
        api_key=KEY,
        webhook_key=SIGNING,
        hosts=("localhost",),
        clock=LoopClock(),
        rng=random.Random(f"world {plan.seed}"),
    )


@contextlib.asynccontextmanager
async def serving(callback: Any) -> AsyncIterator[None]:
    """Serve a receiver inside this block, if there is one."""
    async with contextlib.AsyncExitStack() as server:
        if isinstance(callback, Callback):
            await server.enter_async_context(callback.serve(port=HOOKS))
        yield


def storyboards(count: int) -> list[tuple[str, Storyboard]]:
    """Films with different scenes."""
    shots = [Shot(f"The scene of k{number}.", 5) for number in range(count)]
    return [(f"k{n}", Storyboard([shot], duration=10)) for n, shot in enumerate(shots)]

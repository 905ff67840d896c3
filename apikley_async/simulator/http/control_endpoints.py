"""The control endpoints: other processes control a simulator below `/_simulator/` on its API.

They need no key. Therefore they answer programs on this machine only, and never a web page.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, get_args

from aiohttp import web
from aiohttp.typedefs import Handler

from apikley_async._text import one_line
from apikley_async._urls import is_loopback
from apikley_async.simulator.faults.catalogue import Fault
from apikley_async.simulator.faults.schedule import FaultSchedule, RandomFaults
from apikley_async.simulator.http.host_check import names_this_machine
from apikley_async.simulator.outbound import USER_AGENT
from apikley_async.simulator.service.lifecycle import Failure, SimulatedTask, TaskState
from apikley_async.simulator.service.request_rules import Refusal, TaskRequest, parse_object
from apikley_async.simulator.service.service import Service
from apikley_async.simulator.service.terms import ENDPOINTS

__all__ = ["ControlEndpoints", "local_programs_only"]

STATES: tuple[str, ...] = get_args(TaskState)
LONGEST_WORDS = 60  # characters of a prompt in the list of tasks


class ControlEndpoints:
    """Reads commands in JSON and applies them to a service and its fault schedule."""

    def __init__(
        self, service: Service, schedule: FaultSchedule, reset: Callable[[], Awaitable[None]]
    ) -> None:
        self._service = service
        self._schedule = schedule
        self._reset_simulator = reset

    def app(self) -> web.Application:
        """The application, to be mounted."""
        app = web.Application(middlewares=[local_programs_only])
        app.router.add_get("/", self._show)
        app.router.add_get("/ledger", self._ledger)
        app.router.add_get("/tasks", self._tasks)
        app.router.add_post("/script", self._script)
        app.router.add_delete("/script", self._clear)
        app.router.add_put("/faults", self._faults)
        app.router.add_post("/finish", self._finish)
        app.router.add_post("/advance", self._advance)
        app.router.add_post("/reset", self._reset)
        return app

    # -- reading -----------------------------------------------------------------------------

    async def _show(self, request: web.Request) -> web.Response:
        return self._status()

    async def _ledger(self, request: web.Request) -> web.Response:
        self._service.update()
        return web.json_response(self._service.ledger.as_dict())

    async def _tasks(self, request: web.Request) -> web.Response:
        self._service.update()
        return web.json_response([self._describe(task) for task in self._service.tasks])

    # -- commands ----------------------------------------------------------------------------

    async def _script(self, request: web.Request) -> web.Response:
        command = await _command(request, "endpoint", "steps", "task_id", "repeat")
        endpoint, task_id = command.get("endpoint"), command.get("task_id")
        if endpoint not in ENDPOINTS:
            raise ValueError(f"endpoint: one of {', '.join(ENDPOINTS)}, not {endpoint!r}")
        if not (task_id is None or isinstance(task_id, str)):
            raise ValueError("task_id: a text, or left out")
        words = command.get("steps")
        if not isinstance(words, list):
            raise ValueError("steps: a list of names")
        steps = [_step(endpoint, word) for word in words]
        repeated = _repeated(steps, command.get("repeat", 1))
        self._schedule.script(endpoint, repeated, task_id=task_id)
        return self._status()

    async def _clear(self, request: web.Request) -> web.Response:
        self._schedule.clear()
        return self._status()

    async def _faults(self, request: web.Request) -> web.Response:
        mixes = await _command(request, "seed", "until", *ENDPOINTS)
        seed, until = mixes.pop("seed", 0), mixes.pop("until", None)
        if not isinstance(seed, int) or not (until is None or _is_number(until)):
            raise ValueError("seed, until: an integer, and seconds or nothing")
        for endpoint, mix in mixes.items():
            if not isinstance(mix, dict) or not all(map(_is_number, mix.values())):
                raise ValueError(f"{endpoint}: an object of names and shares")
        faults = RandomFaults.named(mixes, seed=seed, until=until) if mixes else None
        self._schedule.random_faults = faults
        return self._status()

    async def _finish(self, request: web.Request) -> web.Response:
        command = await _command(request, "task_id", "failure")
        task_id, failure = command.get("task_id"), command.get("failure")
        known = [task.task_id for task in self._service.tasks]
        if task_id is not None and task_id not in known:
            raise LookupError(f"task_id: there is no task {task_id!r}")
        reason = None
        if failure is not None:
            if not isinstance(failure, dict) or not failure.keys() <= {"code", "message"}:
                raise ValueError("failure: an object with a code and a message")
            reason = Failure(**{name: str(value) for name, value in failure.items()})
        for ending in known if task_id is None else [task_id]:
            self._service.finish(ending, reason)
        return self._status()

    async def _advance(self, request: web.Request) -> web.Response:
        seconds = (await _command(request, "seconds")).get("seconds")
        if seconds is None or not _is_number(seconds):
            raise ValueError("seconds: a number")
        self._service.advance(seconds)
        return self._status()

    async def _reset(self, request: web.Request) -> web.Response:
        await self._reset_simulator()
        return self._status()

    # -- responses ---------------------------------------------------------------------------

    def _status(self) -> web.Response:
        """The response to every command: the state of the service, and the words it understands."""
        service, faults = self._service, self._schedule.random_faults
        service.update()
        return web.json_response(
            {
                "now": service.clock.now(),
                "speed": service.clock.speed,
                "credits": service.credits,
                "tasks": len(service.tasks),
                "running": service.running,
                "files_url": service.files.base_url,
                "faults": None if faults is None else _mixes(faults),
                "endpoints": ENDPOINTS,
                "states": STATES,
                "names": list(Fault.presets()),
            }
        )

    def _describe(self, task: SimulatedTask) -> dict[str, object]:
        clock = self._service.clock
        now, created = clock.now(), datetime.fromtimestamp(clock.timestamp(task.created_at), UTC)
        return {
            "task_id": task.task_id,
            "state": task.state(now),
            "model": task.request.model,
            "words": first_words(task.request),
            "created": f"{created:%Y-%m-%d %H:%M:%S} UTC",  # as `apikley batch status` has times
            "created_at": task.created_at,
            "ends_at": task.ended_at,
            "callback_url": task.request.callback_url,
            "result_urls": self._service.files.result_urls(task),
        }


def first_words(request: TaskRequest) -> str:
    """The beginning of what a task was asked for, on one line; a list of tasks is read by it."""
    text = request.shots[0][0] if request.shots else request.prompt or ""
    return one_line(text, LONGEST_WORDS)


@web.middleware
async def local_programs_only(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse other machines, web pages and simulators; turn errors into responses.

    Simulators, because a callback whose URL leads here must not control this one.
    """
    # A page of any site may send requests here: with an origin, or under a name of its own.
    local = is_loopback(request.remote or "") and names_this_machine(request)
    foreign = "Origin" in request.headers or request.headers.get("User-Agent") == USER_AGENT
    if foreign or not local:
        return web.json_response({"error": "for programs on this machine only"}, status=403)
    try:
        return await handler(request)
    except web.HTTPException as error:
        return web.json_response({"error": error.reason}, status=error.status)
    except LookupError as error:
        return web.json_response({"error": str(error.args[0])}, status=404)
    except ValueError as error:
        return web.json_response({"error": str(error)}, status=400)


async def _command(request: web.Request, *fields: str) -> dict[str, Any]:
    """The JSON object in *request*, with no other *fields*; an empty body is an empty object."""
    command = parse_object(await request.read() or b"{}")
    if isinstance(command, Refusal):
        raise ValueError(command.message)
    if unknown := command.keys() - set(fields):
        raise ValueError(f"{min(unknown)}: unknown; known are {', '.join(fields)}")
    return command


def _step(endpoint: str, word: object) -> Fault:
    if not isinstance(word, str):
        raise ValueError(f"steps: names, not {word!r}")
    if endpoint == "record" and word in STATES:
        return Fault.in_state(word)
    return Fault.named(word)


def _repeated(steps: list[Fault], repeat: object) -> Iterable[Fault]:
    if repeat == "forever":
        return itertools.cycle(steps)
    if not isinstance(repeat, int) or not 0 <= repeat <= 100_000:
        raise ValueError('repeat: how often, or "forever"')
    return steps * repeat


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _mixes(faults: RandomFaults) -> Mapping[str, object]:
    mixes: dict[str, object] = {
        endpoint: {str(fault): share for fault, share in mix.items()}
        for endpoint, mix in faults.mixes.items()
        if mix
    }
    return {"seed": faults.seed, "until": faults.until, **mixes}

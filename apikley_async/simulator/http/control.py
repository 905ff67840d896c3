"""How another process directs a simulator: the paths below `/_simulator/` on the API's origin.

They want no key, and therefore answer to this machine only, and never to a web page.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, get_args

from aiohttp import web
from aiohttp.typedefs import Handler

from apikley_async.simulator.faults.catalogue import Fault
from apikley_async.simulator.faults.schedule import Director, Faults
from apikley_async.simulator.http.host_check import by_its_name
from apikley_async.simulator.outbound import NAME, is_loopback
from apikley_async.simulator.service.lifecycle import Failure, State, Task
from apikley_async.simulator.service.request_rules import Refusal, read_object
from apikley_async.simulator.service.service import World
from apikley_async.simulator.service.terms import ENDPOINTS

__all__ = ["Control"]

STATES: tuple[str, ...] = get_args(State)


class Control:
    """Reads orders in JSON and carries them out on a world and its director."""

    def __init__(
        self, world: World, director: Director, reset: Callable[[], Awaitable[None]]
    ) -> None:
        self._world = world
        self._director = director
        self._reset_all = reset

    def app(self) -> web.Application:
        """The application, to be mounted."""
        app = web.Application(middlewares=[_guarded])
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

    # -- questions ---------------------------------------------------------------------------

    async def _show(self, request: web.Request) -> web.Response:
        return self._state()

    async def _ledger(self, request: web.Request) -> web.Response:
        self._world.settle()
        return web.json_response(self._world.ledger.as_dict())

    async def _tasks(self, request: web.Request) -> web.Response:
        self._world.settle()
        return web.json_response([self._task(task) for task in self._world.tasks])

    # -- orders ------------------------------------------------------------------------------

    async def _script(self, request: web.Request) -> web.Response:
        order = await _order(request, "endpoint", "steps", "task_id", "repeat")
        endpoint, task_id = order.get("endpoint"), order.get("task_id")
        if endpoint not in ENDPOINTS:
            raise ValueError(f"endpoint: one of {', '.join(ENDPOINTS)}, not {endpoint!r}")
        if not (task_id is None or isinstance(task_id, str)):
            raise ValueError("task_id: a text, or left out")
        words = order.get("steps")
        if not isinstance(words, list):
            raise ValueError("steps: a list of names")
        steps = [_step(endpoint, word) for word in words]
        self._director.script(endpoint, _repeated(steps, order.get("repeat", 1)), task_id=task_id)
        return self._state()

    async def _clear(self, request: web.Request) -> web.Response:
        self._director.clear()
        return self._state()

    async def _faults(self, request: web.Request) -> web.Response:
        order = await _order(request, "seed", "until", *ENDPOINTS)
        seed, until = order.pop("seed", 0), order.pop("until", None)
        if not isinstance(seed, int) or not (until is None or _is_number(until)):
            raise ValueError("seed, until: an integer, and seconds or nothing")
        for endpoint, mix in order.items():
            if not isinstance(mix, dict) or not all(map(_is_number, mix.values())):
                raise ValueError(f"{endpoint}: an object of names and shares")
        self._director.faults = Faults.named(order, seed=seed, until=until) if order else None
        return self._state()

    async def _finish(self, request: web.Request) -> web.Response:
        order = await _order(request, "task_id", "failure")
        task_id, failure = order.get("task_id"), order.get("failure")
        known = [task.task_id for task in self._world.tasks]
        if task_id is not None and task_id not in known:
            raise LookupError(f"task_id: no task is called {task_id!r}")
        reason = None
        if failure is not None:
            if not isinstance(failure, dict) or not failure.keys() <= {"code", "message"}:
                raise ValueError("failure: an object with a code and a message")
            reason = Failure(**{name: str(value) for name, value in failure.items()})
        for ending in known if task_id is None else [task_id]:
            self._world.finish(ending, reason)
        return self._state()

    async def _advance(self, request: web.Request) -> web.Response:
        seconds = (await _order(request, "seconds")).get("seconds")
        if seconds is None or not _is_number(seconds):
            raise ValueError("seconds: a number")
        self._world.advance(seconds)
        return self._state()

    async def _reset(self, request: web.Request) -> web.Response:
        await self._reset_all()
        return self._state()

    # -- answers -----------------------------------------------------------------------------

    def _state(self) -> web.Response:
        """What every order is answered with: how the world stands, and what can be ordered."""
        world, faults = self._world, self._director.faults
        world.settle()
        return web.json_response(
            {
                "now": world.time.now(),
                "speed": world.time.speed,
                "credits": world.credits,
                "tasks": len(world.tasks),
                "running": world.running,
                "files_url": world.files.base,
                "faults": None if faults is None else _told(faults),
                "endpoints": ENDPOINTS,
                "states": STATES,
                "names": list(Fault.ready_made()),
            }
        )

    def _task(self, task: Task) -> dict[str, object]:
        now = self._world.time.now()
        return {
            "task_id": task.task_id,
            "state": task.state(now),
            "created_at": task.created_at,
            "ends_at": task.ended_at,
            "callback_url": task.order.callback_url,
            "result_urls": self._world.files.result_urls(task),
        }


@web.middleware
async def _guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let in who is on this machine and no web page; turn complaints into answers.

    Nor a simulator: a callback that is addressed to here must not direct it.
    """
    # A page of any site may send requests here: with an origin, or under a name of its own.
    near = is_loopback(request.remote or "") and by_its_name(request)
    sent = "Origin" in request.headers or request.headers.get("User-Agent") == NAME
    if sent or not near:
        return web.json_response({"error": "for programs on this machine only"}, status=403)
    try:
        return await handler(request)
    except web.HTTPException as error:
        return web.json_response({"error": error.reason}, status=error.status)
    except LookupError as error:
        return web.json_response({"error": str(error.args[0])}, status=404)
    except ValueError as error:
        return web.json_response({"error": str(error)}, status=400)


async def _order(request: web.Request, *fields: str) -> dict[str, Any]:
    """The JSON object in *request*, which has no other *fields*; nothing at all is an empty one."""
    order = read_object(await request.read() or b"{}")
    if isinstance(order, Refusal):
        raise ValueError(order.message)
    if strangers := order.keys() - set(fields):
        raise ValueError(f"{min(strangers)}: unknown; known are {', '.join(fields)}")
    return order


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


def _told(faults: Faults) -> Mapping[str, object]:
    mixes: dict[str, object] = {
        endpoint: {str(fault): share for fault, share in mix.items()}
        for endpoint, mix in faults.mixes.items()
        if mix
    }
    return {"seed": faults.seed, "until": faults.until, **mixes}

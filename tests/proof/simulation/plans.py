"""Plans of runs: how one is drawn from a seed, and written as one line. Pure."""

from __future__ import annotations

import json
import random
from typing import Any

import attrs

from apikley_async.simulator import Fault, RandomFaults
from apikley_async.simulator.service.responses import ServiceResponse

__all__ = ["Plan", "at_every_step", "draw_plan", "quiet", "read", "scenario", "to_line"]

ANOTHERS_FAILURE = Fault(
    "another's failure",  # a proxy has mixed up two responses
    response=ServiceResponse(
        raw=json.dumps(
            {
                "code": 200,
                "msg": "success",
                "data": {"taskId": "task_of_somebody", "state": "fail", "failMsg": "not yours"},
            }
        ).encode()
    ),
)
NAMED = {ANOTHERS_FAILURE.name: ANOTHERS_FAILURE}

KINDS: dict[str, tuple[Fault, ...]] = {
    "create": (
        *(Fault.RESET, Fault.RESET_AFTER, Fault.CLOSE_AFTER, Fault.HANG_AFTER, Fault.GARBAGE),
        *(Fault.HTTP_500_AFTER, Fault.HTTP_502, Fault.HTTP_503_AFTER, Fault.HTML_200, Fault.EMPTY),
        *(Fault.TRUNCATED, Fault.NO_TASK_ID, Fault.THROTTLED, Fault.ACCEPTED_429, Fault.LATE),
        *(Fault.code(455), Fault.code(402), Fault.code(500), Fault.CALLBACK_FIRST),
    ),
    "record": (
        *(Fault.RESET, Fault.CLOSE, Fault.HTTP_500, Fault.HTML_200, Fault.TRUNCATED, Fault.EMPTY),
        *(Fault.NOT_FOUND, Fault.UNKNOWN_STATE, Fault.FAIL_FOR_NOW, Fault.OTHER_TASK),
        *(Fault.RESULT_NAMED, Fault.RESULT_SNAKE, Fault.RESULT_BARE, Fault.TORN_PARAM),
        *(Fault.STATE_SHOUTED, Fault.STATE_RESPELLED, Fault.DISABLED_RECORD, Fault.NESTED_PARAM),
        *(Fault.DATA_NULL, Fault.RESULT_EMPTY, Fault.NO_URLS, Fault.THROTTLED, Fault.LATE),
        ANOTHERS_FAILURE,
    ),
    "file": (
        *(Fault.RESET, Fault.CUT, Fault.CUT_CHUNKED, Fault.SHORT, Fault.CHANGED, Fault.HTTP_503),
        *(Fault.EXPIRED_403, Fault.HTML_200, Fault.NO_RANGES, Fault.WRONG_RANGE),
        *(Fault.ODD_TAIL, Fault.MISLABELLED, Fault.PACKED, Fault.DRIBBLE),
    ),
    "download_url": (Fault.HTTP_500, Fault.RESET, Fault.EMPTY),
    "callback": (
        *(Fault.LOST, Fault.MISSED, Fault.TWICE, Fault.OVERTAKEN, Fault.EVIL_BODY),
        *(Fault.FOREIGN_ID, Fault.OTHER_TASK, Fault.WRONG_SIGNATURE, Fault.BARE_NOTICE),
        *(Fault.PLAIN_TEXT, Fault.UNLABELLED),
    ),
}

THEMES: tuple[dict[str, tuple[Fault, ...]], ...] = (
    {"file": (Fault.CUT, Fault.CHANGED)},
    {"file": (Fault.CUT_CHUNKED, Fault.CHANGED, Fault.SHORT)},
    {"record": (Fault.RESULT_EMPTY, Fault.NO_URLS)},
    {"record": (ANOTHERS_FAILURE, Fault.OTHER_TASK)},
    {"create": (Fault.RESET_AFTER, Fault.HTTP_500_AFTER), "callback": (Fault.OTHER_TASK,)},
    {"create": (Fault.CLOSE_AFTER, Fault.NO_TASK_ID), "callback": (Fault.OVERTAKEN, Fault.TWICE)},
)
"""Faults that show something only when they strike often, or together."""

HOUR, DAY = 3600.0, 86_400.0
UPSETS: dict[str, tuple[float, ...]] = {
    "stall": (2.0, 30.0, 90.0),
    "suspend": (120.0, 2 * HOUR),
    "cut off": (20.0, 600.0, 8 * HOUR),
    "jump": (-DAY, -HOUR, -5.0, 5.0, HOUR, 2 * DAY),
}
WALLS = (0.0, 0.0, -DAY, -HOUR, -2.0, HOUR, 2 * DAY)


@attrs.frozen
class Plan:
    """What happens in one run.

    Attributes:
        kills: after how many steps of each life the machine dies.
        power: whether it dies of a power cut.
        mixes: for each endpoint a share for each fault.
        callbacks: whether the service calls back.
        cancel_at, close_at: after how many steps the first life is cancelled, or its client
            closed by somebody else.
        upsets: at which step of the first life something happens to the machine: "stall" blocks
            its loop, "suspend" puts it to sleep with its clock, "cut off" breaks its connections
            meanwhile, "jump" sets its wall clock; each with seconds.
        walls: how far its wall clock is ahead in each life, in seconds.
        apart: where callbacks are received by a process of its own, which puts them into an
            inbox: after how many steps each of its lives ends.
        budget: how many films may be made while there are faults.
        callers: single calls instead of a batch; `cancel_at` is when some of them are cancelled.
        even: whether tasks begin as on the oldest Python, so that all have one history.
    """

    seed: int
    films: int = 4
    running: int = 3
    kills: tuple[int, ...] = ()
    power: bool = False
    mixes: tuple[tuple[str, tuple[tuple[str, float], ...]], ...] = ()
    callbacks: bool = False
    cancel_at: int | None = None
    close_at: int | None = None
    upsets: tuple[tuple[int, str, float], ...] = ()
    walls: tuple[float, ...] = ()
    apart: tuple[int, ...] | None = None
    budget: int | None = None
    callers: bool = False
    even: bool = False

    @property
    def unbroken(self) -> bool:
        """Whether nothing comes between an answer that has arrived and the program."""
        cut = any(what == "cut off" for _, what, _ in self.upsets)
        return not (self.kills or cut or self.cancel_at or self.close_at)

    @property
    def timely(self) -> bool:
        """Whether a life can tell from its clock when the one before it has submitted."""
        jumps = any(what == "jump" for _, what, _ in self.upsets)
        return not (self.walls or jumps)

    @property
    def asleep(self) -> float:
        """The seconds in which the machine does nothing."""
        return sum(much for _, what, much in self.upsets if what != "jump")

    @property
    def faults(self) -> RandomFaults:
        mixes: dict[str, Any] = {
            endpoint: {NAMED.get(name) or Fault.named(name): share for name, share in mix}
            for endpoint, mix in self.mixes
        }
        return RandomFaults(seed=self.seed, **mixes)


def draw_plan(seed: int) -> Plan:
    """A random plan; its mix of faults is random too, because one mix hides what another shows."""
    rng = random.Random(f"plan {seed}")
    theme = rng.choice(THEMES) if rng.random() < 0.35 else {}
    mixes = []
    for endpoint, kinds in KINDS.items():
        chosen = [kind for kind in kinds if rng.random() < 0.4]
        share = rng.choice([0.0, 0.1, 0.3, 0.5] if endpoint != "create" else [0, 0.2, 0.5])
        if endpoint in theme:
            chosen, share = [*theme[endpoint]], rng.choice([0.5, 0.7])
        elif theme:
            share /= 5
        if chosen and share:
            mixes.append((endpoint, tuple((kind.name, share / len(chosen)) for kind in chosen)))
    crashes = rng.choice([0, 1, 1, 2, 3])
    upsets, walls = upset(seed, crashes)
    apart, spared = draw_receiver_and_budget(seed)
    films, running = rng.randint(2, 5), rng.randint(1, 4)
    kills = tuple(int(rng.uniform(1, 40) ** 2) for _ in range(crashes))
    power = rng.random() < 0.4
    callbacks = "callback" in theme or rng.random() < 0.4
    return Plan(
        seed=seed,
        films=films,
        running=running,
        kills=kills,
        power=power,
        mixes=tuple(mixes),
        callbacks=callbacks,
        upsets=upsets,
        walls=walls,
        apart=apart if callbacks else None,
        budget=films - spared if spared else None,
    )


def draw_receiver_and_budget(seed: int) -> tuple[tuple[int, ...] | None, int]:
    """The lives of a separate receiver, and how many films the budget does not cover."""
    rng = random.Random(f"division {seed}")
    apart = None
    if rng.random() < 0.4:
        apart = tuple(int(rng.uniform(3, 20) ** 2) for _ in range(rng.choice([0, 1, 1, 3])))
    return apart, rng.choice([1, 1, 2]) if rng.random() < 0.15 else 0


def upset(seed: int, crashes: int) -> tuple[tuple[tuple[int, str, float], ...], tuple[float, ...]]:
    """What happens to a machine and its clocks: something in two runs of five."""
    rng = random.Random(f"clocks {seed}")
    if rng.random() < 0.6:
        return (), ()
    upsets = [
        (int(rng.uniform(1, 40) ** 2), kind, rng.choice(UPSETS[kind]))
        for kind in rng.sample([*UPSETS], rng.randint(0, 3))
    ]
    walls = [rng.choice(WALLS) for _ in range(crashes + 2)] if rng.random() < 0.5 else []
    return tuple(upsets), tuple(walls)


def quiet(seed: int) -> Plan:
    """A scenario with faults, and without crashes."""
    return attrs.evolve(draw_plan(seed), kills=(), power=False, upsets=(), walls=())


def scenario(kind: str, seed: int) -> Plan:
    """The plan in which events of one *kind* are placed, step by step."""
    base = quiet(seed)
    lone = attrs.evolve(base, callers=True, apart=None, budget=None)
    return lone if kind == "callers" else base


def at_every_step(kind: str, base: Plan, steps: range) -> list[Plan]:
    """*base* with an event of one *kind* at each of these steps of its first life."""
    rng = random.Random(base.seed)
    last = max(steps, default=1)
    plans = []
    for step in steps:
        if kind in ("kills", "power"):
            plans.append(attrs.evolve(base, kills=(step,), power=kind == "power"))
        elif kind == "twice":
            plans.append(attrs.evolve(base, kills=(rng.randint(1, last), rng.randint(1, last))))
        elif kind == "callers":
            plans.append(attrs.evolve(base, cancel_at=step))
        elif kind == "upsets":
            what = (*UPSETS,)[step % len(UPSETS)]
            plans.append(attrs.evolve(base, upsets=((step, what, rng.choice(UPSETS[what])),)))
        elif step % 2:
            plans.append(attrs.evolve(base, close_at=step))
        else:
            plans.append(attrs.evolve(base, cancel_at=step))
    return plans


def to_line(plan: Plan) -> str:
    """A plan as one line of JSON."""
    return json.dumps(attrs.asdict(plan))


def read(text: str) -> Plan:
    """A plan from its line. Missing fields have their defaults; "why" is a comment."""
    fields: dict[str, Any] = json.loads(text)
    fields.pop("why", None)
    fields["kills"] = tuple(fields.get("kills", ()))
    if fields.get("apart") is not None:
        fields["apart"] = tuple(fields["apart"])
    fields["upsets"] = tuple(map(tuple, fields.get("upsets", ())))
    fields["walls"] = tuple(fields.get("walls", ()))
    fields["mixes"] = tuple((e, tuple(map(tuple, mix))) for e, mix in fields.get("mixes", ()))
    return Plan(**fields)

"""Part 1: what a job costs beside hand-written aiohttp and beside the peers."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from bench.films import new_key
from bench.processes import service, workers
from bench.tables import Figure, Table, ratios

__all__ = ["OURS", "PEERS", "RAW", "in_flight", "jobs", "memory", "polls"]

RAW = {"raw": "bench.raw:films"}
OURS = {"submit": "bench.ours:submitted", "generate_many": "bench.ours:many"}
PEERS = {
    "replicate": ("replicate", "bench.peers:replicate"),
    "openai": ("openai", "bench.peers:openai"),
    "fal-client": ("fal_client", "bench.peers:fal"),
    "runwayml": ("runwayml", "bench.peers:runway"),
}
# Seconds between the polls of each of 10,000 jobs. What is sent in one second does not fill a
# core, or the jobs would hardly be submitted at all. Polls are counted for one such interval: in a
# part of it there are more or fewer of them, as the jobs were submitted sooner or later.
INTERVAL = 32.0
TRACED = 5.0  # times that interval where allocations are followed, which is slow
MEMORY = 5.0  # KiB
GATES = {  # beside raw, and beside the best peer
    (100, "submit"): (1.7, 0.22),
    (100, "generate_many"): (2.2, 0.22),
    (10, "submit"): (1.5, 0.32),
    (10, "generate_many"): (1.7, 0.32),
}


def installed_peers() -> dict[str, str]:
    return {name: place for name, (module, place) in PEERS.items() if find_spec(module)}


def jobs(rounds: int, scale: float) -> Iterator[Table]:
    """CPU per job at 10 and at 100 in flight."""
    peers = installed_peers()
    with service() as url, workers({**RAW, **OURS, **peers}) as contenders:
        order = {"url": url, "key": new_key()}
        for flight in (100, 10):
            cpu: dict[str, list[float]] = {name: [] for name in contenders}
            for _ in range(rounds):
                for name, contender in contenders.items():
                    count = max(flight, round((200 if name in peers else 600) * scale))
                    cost = contender.measure(**order, jobs=count, flight=flight)
                    cpu[name].append(cost["cpu"])
            yield Table(f"CPU per job, {flight} in flight", figures_of(cpu, flight, [*peers]))


def figures_of(cpu: dict[str, list[float]], flight: int, peers: list[str]) -> list[Figure]:
    """Each contender's cost, beside raw, and ours beside the best peer."""
    figures = [Figure("raw aiohttp", [1000 * value for value in cpu["raw"]], "ms")]
    for name in (*OURS, *peers):
        gate = GATES.get((flight, name), (None, None))[0]
        figures.append(Figure(f"{name} / raw", ratios(cpu[name], cpu["raw"]), gate=gate))
    if peers:
        best = min(peers, key=lambda name: Figure(name, cpu[name]).median)
        for name in OURS:
            gate = GATES[flight, name][1]
            figures.append(Figure(f"{name} / {best}", ratios(cpu[name], cpu[best]), gate=gate))
    return figures


def polls(rounds: int, scale: float) -> Iterator[Table]:
    """CPU per poll and resident memory with 10,000 jobs in flight."""
    count = round(10_000 * scale)
    cost: dict[str, list[float]] = {name: [] for name in (*RAW, *OURS)}
    resident: dict[str, list[float]] = {name: [] for name in (*RAW, *OURS)}
    with service() as url:
        for _ in range(rounds):
            for name, place in {**RAW, **OURS}.items():
                measured = in_flight(url, place, count, window=interval_of(count))
                cost[name].append(measured["poll"])
                resident[name].append(measured["memory"] / 1024)
    figures = [Figure("raw aiohttp", [1e6 * value for value in cost["raw"]], "us")]
    figures += [Figure(f"{name} / raw", ratios(cost[name], cost["raw"]), gate=1.4) for name in OURS]
    yield Table(f"CPU per poll, {count:,} in flight", figures)
    yield memory_table("resident", count, resident)


def memory(rounds: int, scale: float) -> Iterator[Table]:
    """What Python has allocated for a job with 10,000 in flight."""
    count = round(10_000 * scale)
    allocated: dict[str, list[float]] = {}
    with service() as url:
        for name, place in {**RAW, **OURS}.items():  # once: the rounds would hardly differ
            measured = in_flight(url, place, count, window=0.0, traced=True)
            allocated[name] = [measured["memory"] / 1024]
    yield memory_table("allocated", count, allocated)


def in_flight(
    url: str, place: str, count: int, *, window: float, traced: bool = False
) -> dict[str, float]:
    """Hold *count* jobs in flight in a fresh process: what was freed would not be given back."""
    interval = interval_of(count) * (TRACED if traced else 1.0)
    order = {"url": url, "key": new_key(), "jobs": count, "flight": count, "interval": interval}
    with workers({"one": place}) as fresh:
        return fresh["one"].measure(**order, window=window, traced=traced)


def interval_of(count: int) -> float:
    return max(1.0, INTERVAL * count / 10_000)


def memory_table(what: str, count: int, kept: dict[str, list[float]]) -> Table:
    goals = {name: MEMORY for name in OURS if what == "allocated"}
    figures = [Figure(name, values, "KiB", gate=goals.get(name)) for name, values in kept.items()]
    return Table(f"Memory per job {what}, {count:,} in flight", figures)

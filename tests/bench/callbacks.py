"""How fast callbacks are answered, 200 a second for 10 s, signed, on real sockets.

    python -m bench.callbacks [--rate 200] [--seconds 10] [--inbox] [--asgi] [--keep-alive]

The receiver runs in this process, the sender in another. Every callback is a new one, on a
connection of its own unless --keep-alive is given. Prints the answer times that the sender sees,
as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from bench.processes import run_module
from bench.tables import Figure, Table
from webhook.callback_requests import (
    JSON,
    KEY,
    HttpConnection,
    connect,
    raw_request,
    signature_headers,
    uvicorn_of,
)

from apikley_async.webhook import Callback, Inbox, Receiver

__all__ = ["answer_times"]

WAYS = {"": (), ", kept in an inbox": ("--inbox",), ", behind uvicorn": ("--asgi",)}


def answer_times(rounds: int, scale: float) -> Iterator[Table]:
    """The time to the answer that a sender sees, without and with an inbox."""
    seconds = str(max(1.0, 10 * scale))
    figures = []
    for way, options in WAYS.items():
        runs = [
            run_module("bench.callbacks", "--seconds", seconds, *options)
            for _ in range(min(rounds, 3))
        ]
        for name, words in (("p50_ms", "half"), ("p99_ms", "99 of 100")):
            figures.append(Figure(f"{words} within{way}", [run[name] for run in runs], "ms"))
    yield Table("Callbacks answered, 200 a second", figures)


async def send(port: int, rate: int, seconds: float, keep_alive: bool) -> dict[str, object]:
    """Send *rate* callbacks a second, whether or not the earlier ones are answered."""
    times: list[float] = []
    statuses: Counter[int] = Counter()
    connections: list[HttpConnection] = []

    async def one(number: int, lines: contextlib.AsyncExitStack) -> None:
        task_id = f"task_{number}"
        body = json.dumps({"code": 200, "data": {"taskId": task_id, "state": "success"}}).encode()
        signed = signature_headers(task_id=task_id, stamp=str(int(time.time())))
        request = raw_request(body, JSON, *signed, path=f"/hooks/{number:032x}")
        began = time.perf_counter()
        async with contextlib.AsyncExitStack() as mine:
            connection = (
                connections.pop()
                if connections
                else await (lines if keep_alive else mine).enter_async_context(connect(port))
            )
            status, _ = await connection.send_request(request)
            times.append(time.perf_counter() - began)
            if keep_alive:
                connections.append(connection)
        statuses[status] += 1

    begin = time.perf_counter()
    async with contextlib.AsyncExitStack() as lines, asyncio.TaskGroup() as group:
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, begin + number / rate - time.perf_counter()))
            group.create_task(one(number, lines))
    cuts = statistics.quantiles(times, n=100)
    return {
        "callbacks": len(times),
        "statuses": dict(statuses),
        "p50_ms": round(cuts[49] * 1000, 2),
        "p99_ms": round(cuts[98] * 1000, 2),
        "worst_ms": round(max(times) * 1000, 2),
    }


@contextlib.asynccontextmanager
async def receiving(options: argparse.Namespace, dispatched: list[str]) -> AsyncIterator[int]:
    async with contextlib.AsyncExitStack() as stack:
        if options.inbox:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            inbox = await stack.enter_async_context(Inbox(Path(folder) / "inbox.db"))
            endpoint: Callback | Receiver = Receiver(inbox, hmac_keys=[KEY])
        else:
            endpoint = Callback("https://hooks.test", hmac_keys=[KEY])

            async def listener(token: str, task_id: str) -> bool:
                dispatched.append(task_id)
                return True

            stack.callback(endpoint.listen(listener))
        if options.asgi:
            yield await stack.enter_async_context(uvicorn_of(endpoint.asgi_app()))
        else:
            yield (await stack.enter_async_context(endpoint.serve(port=0))).port


async def main(options: argparse.Namespace) -> None:
    dispatched: list[str] = []
    async with receiving(options, dispatched) as port:
        words = [sys.executable, "-m", "bench.callbacks", "--send-to", str(port), *sys.argv[1:]]
        sender = await asyncio.create_subprocess_exec(*words)
        await sender.wait()
    assert options.inbox or len(dispatched) == len(set(dispatched)) > 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rate", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--inbox", action="store_true", help="store them in an inbox")
    parser.add_argument("--asgi", action="store_true", help="behind uvicorn")
    parser.add_argument("--keep-alive", action="store_true", help="reuse connections")
    parser.add_argument("--send-to", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.send_to:
        times = asyncio.run(send(given.send_to, given.rate, given.seconds, given.keep_alive))
        print(json.dumps(times))
    else:
        asyncio.run(main(given))

"""Hand-written aiohttp with our connection policy: what the service costs without a package.

createTask goes over a fresh connection each time, polls over at most 40 kept ones; a semaphore,
a POST, a GET with `asyncio.sleep`. No retries, no limiter, no checks.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
from bench.films import Order, input_of

__all__ = ["films", "spread"]

CONNECTIONS = 40
KEEP_ALIVE = 75.0


async def spread(make: Callable[[int], Awaitable[Any]], jobs: int, flight: int) -> None:
    """Make *jobs* films, *flight* at once: a place is taken first, then the task is made."""
    places = asyncio.Semaphore(flight)

    async def one(number: int) -> None:
        try:
            await make(number)
        finally:
            places.release()

    async with asyncio.TaskGroup() as group:
        for number in range(jobs):
            await places.acquire()
            group.create_task(one(number))


async def films(order: Order) -> None:
    """Submit and poll each film."""
    headers = {"Authorization": f"Bearer {order.key}"}
    posts = asyncio.Semaphore(order.posts)
    posting = aiohttp.ClientSession(
        headers=headers, connector=aiohttp.TCPConnector(limit=0, force_close=True)
    )
    polling = aiohttp.ClientSession(
        headers=headers,
        connector=aiohttp.TCPConnector(limit=CONNECTIONS, keepalive_timeout=KEEP_ALIVE),
    )

    async def submit(number: int) -> str:
        body = {"model": "sora-2-pro-storyboard", "input": input_of(number)}
        async with (
            posts,
            posting.post(f"{order.url}/api/v1/jobs/createTask", json=body) as response,
        ):
            answer = await response.json()
        task: str = answer["data"]["taskId"]
        return task

    async def poll(task: str) -> list[str] | None:
        params = {"taskId": task}
        async with polling.get(f"{order.url}/api/v1/jobs/recordInfo", params=params) as response:
            record = (await response.json())["data"]
        if record["state"] != "success":
            return None
        links: list[str] = json.loads(record["resultJson"])["resultUrls"]
        return links

    async def make(number: int) -> None:
        task = await submit(number)
        while True:
            await asyncio.sleep(order.interval)
            if await poll(task):
                return

    async with posting, polling:
        await spread(make, order.jobs, order.flight)

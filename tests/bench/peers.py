"""Clients of other services, each pointed at a minimal endpoint of its own service.

They are used as their documentation has it, with the shortest polling interval they allow; where
none can be given, the module's constant is set. fal-client needs three requests for a film, all
others two.
"""

from __future__ import annotations

import asyncio
import warnings
from typing import Any

from bench.films import Order, input_of, scenes
from bench.raw import spread

__all__ = ["fal", "openai", "replicate", "runway"]


async def replicate(order: Order) -> None:
    from replicate.client import Client

    client = Client(order.key, base_url=order.url)
    client.poll_interval = order.interval

    async def make(number: int) -> None:
        prediction = await client.predictions.async_create("1f" * 32, input_of(number))
        await prediction.async_wait()
        assert prediction.output

    await spread(make, order.jobs, order.flight)


async def openai(order: Order) -> None:
    from openai import AsyncOpenAI

    warnings.simplefilter("ignore", DeprecationWarning)
    interval = max(1, round(order.interval * 1000))
    async with AsyncOpenAI(api_key=order.key, base_url=f"{order.url}/openai") as client:

        async def make(number: int) -> None:
            video = await client.videos.create_and_poll(
                model="sora-2-pro",
                prompt=" ".join(scenes(number)),
                seconds="12",
                size="1280x720",
                poll_interval_ms=interval,
            )
            assert video.status == "completed"

        await spread(make, order.jobs, order.flight)


async def runway(order: Order) -> None:
    from runwayml import AsyncRunwayML
    from runwayml.lib import polling

    module: Any = polling
    module.POLL_TIME, module.POLL_JITTER = order.interval, 0.0
    async with AsyncRunwayML(api_key=order.key, base_url=f"{order.url}/runway") as client:

        async def make(number: int) -> None:
            task = await client.text_to_video.create(
                model="veo3.1",
                prompt_text=" ".join(scenes(number)),
                ratio="1280:720",
                duration=8,
            )
            details = await task.wait_for_task_output()
            assert details.status == "SUCCEEDED"

        await spread(make, order.jobs, order.flight)


async def fal(order: Order) -> None:
    from fal_client import client as module

    set_url: Any = module
    set_url.QUEUE_URL_FORMAT = f"{order.url}/fal/"
    client = module.AsyncClient(key=order.key)

    async def make(number: int) -> None:
        handle = await client.submit("some/model", arguments=input_of(number))
        await asyncio.sleep(order.interval)  # it polls at once otherwise, as nobody's film is ready
        answer = await handle.get(interval=order.interval)
        assert answer["video"]["url"]

    await spread(make, order.jobs, order.flight)

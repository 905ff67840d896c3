"""A small web service, as users write one: `POST /films` submits a film and answers with its id.

`python web_service.py '{"dsn": ..., "base_url": ..., "api_key": ...}'` prints its port. Several of
them share one key by a `SharedLimiter`, and there is no queue.
"""

from __future__ import annotations

import asyncio
import json
import sys

from aiohttp import web

from apikley_async import Client, Shot, Storyboard
from apikley_async.distributed import SharedLimiter


async def serve(
    dsn: str, base_url: str, api_key: str, limit: int, per: float, lease: float
) -> None:
    """Serve until the process is ended."""
    limiter = SharedLimiter(dsn, limit, per, lease=lease)
    async with limiter, Client(api_key, base_url=base_url, limiter=limiter) as client:

        async def films(request: web.Request) -> web.Response:
            job = await client.submit(Storyboard([Shot(await request.text())]))
            return web.json_response({"id": job.task_id}, status=202)

        app = web.Application()
        app.router.add_post("/films", films)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        print(runner.addresses[0][1], flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(**json.loads(sys.argv[1])))

"""Part 7: `client.save` beside curl, and beside bare aiohttp that hashes, writes and syncs.

python -m bench.downloads ours URL       prints what one film cost, as JSON
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
from bench.films import HOST, link_of, new_key, task_id
from bench.ours import storyboard
from bench.processes import run_module, service, use_core
from bench.tables import Figure, Table, ratios

from apikley_async import Backoff, Client

__all__ = ["downloads"]

FILM_SIZE = 64 * 1024 * 1024


async def ours(url: str, folder: Path) -> dict[str, float]:
    async with Client(new_key(), base_url=url, polling=Backoff(initial=0.01)) as client:
        result = await client.generate(storyboard(1))
        wall, cpu = time.perf_counter(), time.process_time()
        await client.save(result, folder)
        return {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}


async def bare(url: str, folder: Path) -> dict[str, float]:
    link = link_of(task_id(1)).replace(HOST, url)
    async with aiohttp.ClientSession() as session:
        wall, cpu = time.perf_counter(), time.process_time()
        digest, part, target = hashlib.sha256(), folder / "part", folder / "film.mp4"
        async with session.get(link) as response:
            with part.open("wb") as file:
                async for chunk in response.content.iter_chunked(256 * 1024):
                    digest.update(chunk)
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
        part.rename(target)
        return {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}


def curl(url: str) -> dict[str, float]:
    """What curl takes for the same link, its start included: it neither hashes nor syncs."""
    link = link_of(task_id(1)).replace(HOST, url)
    with tempfile.TemporaryDirectory() as name:
        before, wall = os.times(), time.perf_counter()
        subprocess.run(["curl", "-s", "-o", f"{name}/film.mp4", link], check=True)
        after = os.times()
    cpu = after.children_user + after.children_system
    cpu -= before.children_user + before.children_system
    return {"cpu": cpu, "wall": time.perf_counter() - wall}


def downloads(rounds: int, scale: float) -> Iterator[Table]:
    """CPU and wall time of one large film."""
    size = max(1024 * 1024, round(FILM_SIZE * scale))
    ways = ["bare", "ours", *(["curl"] if shutil.which("curl") else [])]
    cpu: dict[str, list[float]] = {way: [] for way in ways}
    wall: dict[str, list[float]] = {way: [] for way in ways}
    with service(size) as url:
        for turn in range(rounds + 1):
            for way in ways:
                took = curl(url) if way == "curl" else run_module("bench.downloads", way, url)
                if turn:  # the first one warms the caches
                    cpu[way].append(took["cpu"])
                    wall[way].append(took["wall"])
    figures = [Figure("bare aiohttp, CPU", [1000 * took for took in cpu["bare"]], "ms")]
    for way in ways[1:]:
        name = "`client.save`" if way == "ours" else way
        gate = 1.05 if way == "ours" else None
        figures.append(Figure(f"{name} / bare, CPU", ratios(cpu[way], cpu["bare"]), gate=gate))
        figures.append(Figure(f"{name} / bare, wall", ratios(wall[way], wall["bare"])))
    yield Table(f"Saving a film of {size / 1024**2:.0f} MiB", figures)


async def main(way: str, url: str) -> None:
    use_core(last=False)
    with tempfile.TemporaryDirectory() as name:
        figures = await (ours if way == "ours" else bare)(url, Path(name))
    print(json.dumps(figures))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

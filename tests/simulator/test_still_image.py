"""Models that make images yield PNG files; their tasks are submitted and saved like any other."""

from __future__ import annotations

import random
import struct
import zlib
from pathlib import Path

import pytest

from apikley_async import Client, Environment, ModelTask
from apikley_async.cli.simulator_server import new_simulator
from apikley_async.simulator import Constant, PlaceholderRenderer, Simulator, Terms
from apikley_async.simulator.service.request_rules import is_image_model
from apikley_async.testing import LoopClock

NAMES = {
    "seedream/4-text-to-image": True,
    "google/nano-banana": True,
    "flux-2/pro-image-to-image": True,
    "qwen/image-edit": True,
    "kling-2.6/image-to-video": False,
    "nano-banana/to-video": False,
    "sora-2-pro-storyboard": False,
    "some/imaging": False,
}


def test_a_model_that_makes_images_is_known_by_its_name() -> None:
    """A model that animates an image is none."""
    assert {name: is_image_model(name) for name in NAMES} == NAMES


@pytest.mark.virtual
async def test_each_image_task_yields_a_png_of_its_own(tmp_path: Path) -> None:
    """Under a URL and a content type of a PNG, and saved as one."""
    terms = Terms(duration=Constant(30), generic_models={"*"})
    async with (
        Simulator(
            terms, renderer=PlaceholderRenderer(), clock=LoopClock(), rng=random.Random(7)
        ) as simulated,
        Client(
            simulated.api_key,
            base_url=simulated.base_url,
            environment=Environment(clock=LoopClock()),
        ) as client,
    ):
        jobs = [
            await client.submit(ModelTask("google/nano-banana", {"prompt": word})) for word in "ab"
        ]
        paths = [(await client.save(await job, tmp_path))[0] for job in jobs]
        film = await client.submit(ModelTask("kling-2.6/text-to-video", {"prompt": "c"}))
        [saved] = await client.save(await film, tmp_path)

    assert [path.suffix for path in (*paths, saved)] == [".png", ".png", ".mp4"]
    for job, path in zip(jobs, paths, strict=True):
        data = path.read_bytes()
        assert job.task_id.encode() in data
        assert list(chunks(data)) == [b"IHDR", b"tEXt", b"IDAT", b"IEND"]
    assert paths[0].read_bytes() != paths[1].read_bytes()


def chunks(data: bytes) -> list[bytes]:
    """The kinds of a PNG's chunks; each is whole."""
    at, kinds = 8, []
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        end = at + 8 + size
        assert zlib.crc32(data[at + 4 : end]) == struct.unpack_from(">I", data, end)[0]
        kinds.append(kind)
        at = end + 4
    return kinds


@pytest.mark.parametrize(("given", "served"), [(("a/b",), "a/b"), (("*",), "any/model")])
def test_the_command_serves_other_models_by_name(given: tuple[str, ...], served: str) -> None:
    """`apikley simulate --model NAME`, or all with a star; without it they are refused."""
    options = {
        **dict.fromkeys(("films", "latency", "webhook_key")),
        "speed": 1,
        "limit": 20,
        "per": 10,
        "max_running": 9,
        "balance": 1e6,
        "fail_rate": 0,
        "seed": 0,
        "faults": (),
    }
    raw = f'{{"model": "{served}", "input": {{}}}}'.encode()
    taken = new_simulator("127.0.0.1", 0, models=given, **options).service.create(raw)
    refused = new_simulator("127.0.0.1", 0, **options).service.create(raw)

    assert hasattr(taken, "task_id")
    assert getattr(refused, "code", None) == 422


def test_shots_that_do_not_fill_their_film_can_be_refused() -> None:
    """Some clients believe so; upstream only says that they may not exceed it."""
    raw = b'{"model": "sora-2-pro-storyboard", "input": {"n_frames": "10", "shots": %s}}'
    shots = b'[{"Scene": "Rain.", "duration": %s}]'
    codes = {
        (exact, seconds): getattr(
            Simulator(Terms(exact_sum=exact)).service.create(raw % (shots % seconds)), "code", 200
        )
        for exact in (False, True)
        for seconds in (b"9.5", b"10")
    }

    assert codes[True, b"9.5"] != 200
    assert {code for key, code in codes.items() if key != (True, b"9.5")} == {200}

"""The renderers: threads, cancellation, and what works without the extra."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
import threading

import pytest
from film_frames import (
    boxes_of,
    caption_pixels,
    frames_of,
    needs_codec,
    wanted,
)

from apikley_async.errors import MissingExtraError
from apikley_async.simulator import (
    AnimaticRenderer,
    PlaceholderRenderer,
    available_renderer,
    rendering_available,
)

# --- the work ---------------------------------------------------------------------------------


@needs_codec
async def test_films_are_rendered_in_threads():
    """Meanwhile the event loop goes on."""
    animatic, loop_thread, turns = (
        AnimaticRenderer(short_side=180, workers=2),
        threading.get_ident(),
        0,
    )
    films = [asyncio.create_task(animatic.render(wanted(seed=seed))) for seed in range(3)]

    while not all(film.done() for film in films):
        await asyncio.sleep(0.001)
        turns += 1

    assert turns > 10
    assert len({film.result() for film in films}) == 3
    assert loop_thread == threading.get_ident()


@needs_codec
def test_rendering_can_be_stopped():
    """The encoder checks before each frame."""
    from apikley_async.simulator.video.encode import StoppedError, encode_film

    checks = itertools.count()

    with pytest.raises(StoppedError):
        encode_film(wanted(duration=25), short_side=90, fps=12, stopped=lambda: next(checks) == 5)

    assert next(checks) == 6


@needs_codec
async def test_a_cancelled_film_frees_its_worker():
    """With one worker, the next film does not wait for the end of a cancelled one."""
    animatic = AnimaticRenderer(short_side=180, fps=60, workers=1)
    endless = wanted((("On and on.", 15.0),), duration=3_600)

    for _ in range(3):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(animatic.render(endless), 0.1)

    async with asyncio.timeout(10):
        assert await animatic.render(wanted(duration=0.1))


# --- without the extra ------------------------------------------------------------------------


def test_the_simulator_imports_no_codec():
    """Neither PyAV nor Pillow, installed or not."""
    script = """
import sys
for name in ("av", "PIL", "fontpkg", "fontpkg_noto_sans"):
    sys.modules[name] = None
import apikley_async.simulator
from apikley_async.simulator.video import renderers
print(renderers.rendering_available(), renderers.available_renderer())
"""

    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "False <PlaceholderRenderer>"


def test_the_renderer_depends_on_the_extra(monkeypatch):
    """Without it there is a placeholder, and the error of the other one says what to install."""
    if rendering_available():
        assert isinstance(available_renderer(), AnimaticRenderer)

    monkeypatch.setitem(sys.modules, "av", None)

    assert not rendering_available()
    assert isinstance(available_renderer(), PlaceholderRenderer)
    with pytest.raises(MissingExtraError, match=r'pip install "\.\[simulator\]"'):
        AnimaticRenderer()


async def test_the_placeholder_is_small_and_whole():
    """Its index comes first, and it has less than 60 KiB."""
    film = await PlaceholderRenderer().render(wanted())

    kinds = boxes_of(film)
    assert kinds.index("moov") < kinds.index("mdat")
    assert len(film) < 60 * 1024


@needs_codec
async def test_the_placeholder_plays():
    """It is a film of 24 frames with a caption."""
    frames = frames_of(await PlaceholderRenderer().render(wanted()))

    assert len(frames) == 24
    assert {frame.size for frame in frames} == {(320, 180)}
    assert len(caption_pixels(frames[-1])) > 100

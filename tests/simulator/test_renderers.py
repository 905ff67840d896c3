"""The films of the simulator: files any player takes, and pictures that show what was asked for."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import logging
import subprocess
import sys
import threading
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from apikley_async.errors import MissingExtraError
from apikley_async.simulator.video.renderers import (
    AnimaticRenderer,
    PlaceholderRenderer,
    available_renderer,
    rendering_available,
)

if TYPE_CHECKING:
    from PIL import Image

needs_codec = pytest.mark.skipif(
    not rendering_available(), reason="PyAV, Pillow and a font come with the extra `simulator`"
)

STORYBOARDS = files("apikley_async.cli") / "storyboards"
RED, BLUE = (200, 40, 30), (30, 60, 200)


@attrs.frozen
class TaskRequest:
    """The least a renderer asks for."""

    shots: tuple[tuple[str, float], ...] = (("A kitten.", 1.0),)
    duration: float = 1.0
    aspect: str = "landscape"
    image: bytes | None = None
    seed: int = 1
    model: str = "sora-2-pro-storyboard"
    prompt: str | None = None
    still: bool = False


async def filmed(order: TaskRequest, *, short_side: int = 180, fps: int = 6) -> bytes:
    return await AnimaticRenderer(short_side=short_side, fps=fps).render(order)


def frames_of(film: bytes) -> list[Image.Image]:
    import av

    with av.open(io.BytesIO(film)) as opened:
        return [frame.to_image() for frame in opened.decode(video=0)]


def boxes_of(film: bytes) -> list[str]:
    """The kinds of the top-level boxes, which must fill the file exactly."""
    kinds, at = [], 0
    while at < len(film):
        size = int.from_bytes(film[at : at + 4], "big")
        kinds.append(film[at + 4 : at + 8].decode())
        at += size
    assert at == len(film)
    return kinds


def letters(frame: Image.Image) -> set[int]:
    """The places of the letters: what is brighter than most of the last line of a caption."""
    width, height = frame.size
    line = frame.crop((0, height * 82 // 100, width, height * 92 // 100)).convert("L").tobytes()
    veil = sorted(line)[len(line) // 2]
    return {place for place, level in enumerate(line) if level > veil + 30}


def alike(one: set[int], other: set[int]) -> float:
    return len(one & other) / max(1, len(one | other))


def changes(frames: list[Image.Image]) -> list[int]:
    """The frames whose letters are others than those of the frame before."""
    pairs = itertools.pairwise([letters(frame) for frame in frames])
    return [number for number, (a, b) in enumerate(pairs, 1) if alike(a, b) < 0.4]


def colour_at(frame: Image.Image, across: float, down: float) -> tuple[int, int, int]:
    where = round(across * (frame.width - 1)), round(down * (frame.height - 1))
    colour = frame.convert("RGB").getpixel(where)
    assert isinstance(colour, tuple)
    return colour[0], colour[1], colour[2]


def close(one: tuple[int, ...], other: tuple[int, ...], by: int = 40) -> bool:
    return all(abs(a - b) <= by for a, b in zip(one, other, strict=True))


def picture(size: tuple[int, int] = (320, 180)) -> Image.Image:
    """Red on the left, blue on the right."""
    from PIL import Image

    image = Image.new("RGB", size, RED)
    image.paste(BLUE, (size[0] // 2, 0, *size))
    return image


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


# --- the file ---------------------------------------------------------------------------------


@needs_codec
@pytest.mark.parametrize("aspect", ["landscape", "portrait"])
@pytest.mark.parametrize("duration", [10, 15, 25])
async def test_a_film_is_as_long_as_asked(aspect, duration):
    """Any player finds H.264 in yuv420p of the right length, down to its last second."""
    import av

    film = await filmed(TaskRequest((("One.", 4.0), ("Two.", 5.5)), duration, aspect))

    with av.open(io.BytesIO(film)) as opened:
        stream = opened.streams.video[0]
        assert opened.duration is not None
        assert opened.duration / 1_000_000 == pytest.approx(duration, abs=0.1)
        assert float(stream.duration * stream.time_base) == pytest.approx(duration, abs=0.1)
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == 6
        times = [frame.time for frame in opened.decode(stream)]
    assert times == pytest.approx([number / 6 for number in range(duration * 6)], abs=0.002)


@needs_codec
@pytest.mark.parametrize(
    "aspect, size", [("landscape", (1280, 720)), ("portrait", (720, 1280)), ("3:4", (1280, 720))]
)
async def test_a_film_has_the_usual_size(aspect, size):
    """Unless told otherwise, a film is 720p, upright only when asked for."""
    film = await AnimaticRenderer().render(TaskRequest(duration=0.25, aspect=aspect))

    assert {frame.size for frame in frames_of(film)} == {size}


@needs_codec
async def test_a_film_plays_while_it_loads():
    """The index comes before the pictures."""
    kinds = boxes_of(await filmed(TaskRequest()))

    assert kinds[0] == "ftyp"
    assert kinds.index("moov") < kinds.index("mdat")


@needs_codec
async def test_equal_orders_give_equal_films():
    """The seed alone decides what the order leaves open."""
    one, same, other = [await filmed(TaskRequest(seed=seed)) for seed in (1, 1, 2)]

    assert one == same
    assert one != other


@needs_codec
@pytest.mark.parametrize("short_side", [90, 121, 202])
async def test_any_size_becomes_an_even_one(short_side):
    """Colour has half the resolution of light: an odd size could not be encoded."""
    frame = frames_of(await filmed(TaskRequest(duration=0.2), short_side=short_side))[0]

    assert frame.width % 2 == frame.height % 2 == 0


# --- the captions -----------------------------------------------------------------------------


@needs_codec
@pytest.mark.parametrize("pictured", [False, True])
async def test_each_caption_is_there_for_exactly_its_seconds(pictured):
    """The letters change where a shot begins, and nowhere else."""
    shots = (("The first of all shots.", 1.5), ("A second one, longer.", 2.0), ("Three.", 1.5))
    image = saved(picture(), "PNG") if pictured else None

    frames = frames_of(await filmed(TaskRequest(shots, 5, image=image), fps=4))

    assert changes(frames) == [6, 14]


@needs_codec
async def test_ten_shots_are_ten_captions():
    """As many shots as the service takes fit into one film."""
    shots = tuple(((letter + " ") * number, 1.0) for number, letter in enumerate("MWTLIVXHZO", 5))

    frames = frames_of(await filmed(TaskRequest(shots, 10, image=saved(picture(), "PNG")), fps=2))

    assert changes(frames) == list(range(2, 20, 2))


@needs_codec
async def test_the_shortest_shot_is_seen():
    """A tenth of a second is one frame of the usual rate, at least."""
    film = await AnimaticRenderer(short_side=180).render(
        TaskRequest((("A.", 0.1), ("Other words.", 0.9)), 1)
    )

    assert min(changes(frames_of(film))) in (1, 2)


@needs_codec
async def test_what_the_shots_leave_is_an_end_card():
    """A film whose shots end early is dimmed and says no more until it is over."""
    frames = frames_of(await filmed(TaskRequest((("A caption with some words.", 2.0),), 10)))

    assert len(frames) == 60
    assert changes(frames) == [12]
    assert 0 < len(letters(frames[-1])) < len(letters(frames[0])) / 4
    assert sum(colour_at(frames[-1], 0.5, 0.02)) < sum(colour_at(frames[0], 0.5, 0.02)) * 0.7


@needs_codec
async def test_a_rounding_error_is_no_end_card():
    """Three thirds are a whole, whatever a float thinks of them."""
    frames = frames_of(await filmed(TaskRequest((("Some words.", 3.3333),) * 3, 10)))

    assert alike(letters(frames[0]), letters(frames[-1])) > 0.6


@needs_codec
async def test_shots_end_with_their_film():
    """Shots that would run on are cut where the film ends."""
    frames = frames_of(
        await filmed(TaskRequest((("In the morning.", 4.0), ("Evening.", 9.0), ("Never.", 2.0)), 5))
    )

    assert len(frames) == 30
    assert changes(frames) == [24]


@needs_codec
async def test_a_task_without_shots_shows_its_prompt():
    """Other models have a prompt; without even that there is a picture and no letters."""
    prompted, bare, shot = (
        frames_of(film)
        for film in [
            await filmed(TaskRequest((), prompt="A lighthouse at dawn.")),
            await filmed(TaskRequest((), prompt=None)),
            await filmed(TaskRequest((("A lighthouse at dawn.", 1.0),))),
        ]
    )

    assert alike(letters(prompted[0]), letters(shot[0])) > 0.95
    assert alike(letters(bare[0]), letters(shot[0])) < 0.3
    assert len(bare) == 6


@needs_codec
@pytest.mark.parametrize(
    "text",
    ["Съешь ещё этих мягких булок", "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία", "Ça coûte 5 €, où?"],
)
async def test_letters_of_europe_are_letters(text, caplog):
    """Cyrillic, Greek and accented Latin are written, not boxed."""
    from apikley_async.simulator.video.frames import MISSING, Typeface

    marks = "".join(c if c == " " else MISSING for c in text)
    films = [await filmed(TaskRequest(((shown, 1.0),))) for shown in (text, marks)]

    written, boxed = (letters(frames_of(film)[0]) for film in films)

    assert Typeface().missing_in(text) == set()
    assert alike(written, boxed) < 0.5
    assert not caplog.records


@needs_codec
@pytest.mark.parametrize("one, other", [("жжж", "ююю"), ("ωωω", "λλλ"), ("ððð", "ßßß")])
async def test_different_letters_look_different(one, other):
    """A font that lacks a script draws the same box for all of it; this one does not."""
    seen = [
        letters(frames_of(await filmed(TaskRequest(((text, 1.0),))))[0]) for text in (one, other)
    ]

    assert 0 < alike(*seen) < 0.8


@needs_codec
async def test_characters_without_a_glyph_leave_a_mark_and_one_warning(caplog):
    """Emoji and Chinese are shown as a replacement, and the log says so once a film."""
    shots = (("灯台の夜明け", 0.5), ("👩‍🚀 🐱 灯", 0.5))

    with caplog.at_level(logging.WARNING):
        frames = frames_of(await filmed(TaskRequest(shots)))

    assert len(letters(frames[0])) > 30
    (record,) = caplog.records
    assert "U+706F" in record.getMessage()


@needs_codec
@pytest.mark.parametrize("text", ["many words " * 300, "w" * 5_000, "a\n\tb\x00\u200d" * 40])
@pytest.mark.parametrize("aspect", ["landscape", "portrait"])
async def test_a_long_caption_stays_in_its_place(text, aspect):
    """Text is shrunk, wrapped and at last cut: it leaves the picture and the edges alone."""
    image = saved(picture(), "PNG")

    frame = frames_of(
        await filmed(TaskRequest(((text, 0.3),), 0.3, aspect, image), short_side=360)
    )[0]

    width = frame.width
    assert close(colour_at(frame, 0.1, 0.4), RED)
    assert close(colour_at(frame, 0.9, 0.4), BLUE)
    columns = {place % width for place in letters(frame)}
    assert columns
    assert width * 0.04 < min(columns)
    assert max(columns) < width * 0.96


@needs_codec
async def test_what_is_cut_ends_in_an_ellipsis():
    """The reader sees that there was more."""
    from apikley_async.simulator.video.frames import Typeface, _fitted

    block = _fitted("Some words, " * 200, Typeface(), 1.0, 600, 200)

    assert len(block.lines) * block.leading <= 200
    assert block.lines[-1].endswith("words…")
    assert all(block.font.getlength(line) <= 600 for line in block.lines)


@needs_codec
@pytest.mark.parametrize("ground", [(255, 255, 255), (128, 128, 128), (0, 0, 0), (250, 240, 60)])
async def test_captions_can_be_read_over_any_picture(ground):
    """Letters are bright and what lies behind them is dark, whatever the picture."""
    from PIL import Image

    image = saved(Image.new("RGB", (64, 36), ground), "PNG")

    frame = frames_of(await filmed(TaskRequest((("Legible words " * 4, 0.3),), 0.3, image=image)))[
        0
    ]

    line = frame.crop((40, frame.height * 80 // 100, 300, frame.height * 90 // 100)).convert("L")
    levels = sorted(line.tobytes())
    assert levels[len(levels) // 4] < 90
    assert levels[-20] > 200


# --- the pictures -----------------------------------------------------------------------------


@needs_codec
@pytest.mark.parametrize("aspect", ["landscape", "portrait"])
@pytest.mark.parametrize("seed", range(8))
async def test_colour_cards_are_never_black(aspect, seed):
    """Without an image there are still colours, at every hour of the day."""
    frames = frames_of(
        await filmed(TaskRequest(duration=0.4, aspect=aspect, seed=seed), short_side=90)
    )

    sky = frames[0].crop((0, 0, frames[0].width, frames[0].height // 2))
    bands = [sky.getchannel(band).tobytes() for band in range(3)]
    assert max(sum(band) / len(band) for band in bands) > 50
    assert len(set(bands[2])) > 20


@needs_codec
async def test_the_picture_moves():
    """A still would not look like a film."""
    frames = frames_of(await filmed(TaskRequest(duration=4, shots=(("Still.", 4.0),))))

    first, last = (
        frame.crop((0, 40, frame.width, 90)).tobytes() for frame in frames[:: len(frames) - 1]
    )
    moved = sum(abs(a - b) > 6 for a, b in zip(first, last, strict=True))
    assert moved > len(first) / 50


@needs_codec
async def test_the_picture_of_an_order_is_shown():
    """The colours of the image are where they were, in every shot."""
    order = TaskRequest((("One.", 1.0), ("Two.", 1.0)), 2, image=saved(picture(), "PNG"))

    # Older releases of PyAV ignore the matrix that the file names: colours shift a little.
    for frame in frames_of(await filmed(order)):
        assert close(colour_at(frame, 0.15, 0.4), RED, by=25)
        assert close(colour_at(frame, 0.85, 0.4), BLUE, by=25)


@needs_codec
@pytest.mark.parametrize(
    "kind, mode, size",
    [
        ("PNG", "RGB", (333, 217)),
        ("PNG", "RGB", (2, 1)),
        ("PNG", "RGB", (1400, 20)),
        ("PNG", "RGB", (40, 1500)),
        ("PNG", "P", (320, 180)),
        ("PNG", "RGBA", (321, 181)),
        ("JPEG", "RGB", (640, 361)),
        ("JPEG", "CMYK", (320, 180)),
        ("WEBP", "RGB", (320, 180)),
        ("WEBP", "RGBA", (99, 77)),
    ],
)
async def test_every_kind_of_picture_is_shown(kind, mode, size):
    """Whatever the format, the mode and the shape, the left is red and the right is blue."""
    image = saved(picture(size).convert(mode), kind)

    frame = frames_of(await filmed(TaskRequest(duration=0.3, image=image)))[0]

    assert close(colour_at(frame, 0.04, 0.4), RED)
    assert close(colour_at(frame, 0.96, 0.4), BLUE)


@needs_codec
@pytest.mark.parametrize("mode, level", [("L", 150), ("LA", 150), ("I;16", 150 * 256), ("1", 1)])
async def test_grey_pictures_keep_their_grey(mode, level):
    """Sixteen bits of grey are not cut to eight by losing the bright ones."""
    from PIL import Image

    grey = Image.new(mode, (32, 18), (level, 255) if mode == "LA" else level)

    frame = frames_of(await filmed(TaskRequest(duration=0.3, image=saved(grey, "PNG"))))[0]

    expected = 255 if mode == "1" else 150
    assert close(colour_at(frame, 0.5, 0.4), (expected,) * 3, by=6)


@needs_codec
@pytest.mark.parametrize("kind", ["RGBA", "P"])
async def test_what_is_transparent_is_not_black(kind):
    """Alpha is laid over a colour of the film; dropped, it would be a black film."""
    from PIL import Image

    glass = Image.new("RGBA", (64, 36), (0, 0, 0, 0))
    if kind == "P":
        image = saved(glass.quantize(4), "PNG", transparency=0)
    else:
        image = saved(glass, "PNG")

    frame = frames_of(await filmed(TaskRequest(duration=0.3, image=image)))[0]

    assert max(colour_at(frame, 0.5, 0.4)) > 120


@needs_codec
async def test_a_photograph_stands_upright():
    """The orientation a camera notes in EXIF is obeyed."""
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    sideways = picture((320, 180)).transpose(Image.Transpose.ROTATE_90)

    image = saved(sideways, "JPEG", exif=exif, quality=95)
    frame = frames_of(await filmed(TaskRequest(duration=0.3, image=image)))[0]

    assert close(colour_at(frame, 0.1, 0.4), RED)
    assert close(colour_at(frame, 0.9, 0.4), BLUE)


@needs_codec
@pytest.mark.parametrize(
    "data", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + b"\0" * 40, b"<svg/>", "half", "gif"]
)
async def test_a_broken_picture_gives_cards_and_a_warning(data, caplog):
    """A film is made all the same, and the log tells why it looks different."""
    if data == "half":
        data = saved(picture((900, 700)).effect_spread(9), "PNG")[:900]
    elif data == "gif":
        data = saved(picture(), "GIF")

    frames = frames_of(await filmed(TaskRequest(duration=0.3, image=data)))

    assert len(set(frames[0].tobytes())) > 50
    assert [record.levelname for record in caplog.records] == ["WARNING"]


# --- the work ---------------------------------------------------------------------------------


@needs_codec
async def test_films_are_made_beside_the_loop():
    """While films are rendered, the event loop goes on with everything else."""
    animatic, loop_thread, turns = (
        AnimaticRenderer(short_side=180, workers=2),
        threading.get_ident(),
        0,
    )
    films = [asyncio.create_task(animatic.render(TaskRequest(seed=seed))) for seed in range(3)]

    while not all(film.done() for film in films):
        await asyncio.sleep(0.001)
        turns += 1

    assert turns > 10
    assert len({film.result() for film in films}) == 3
    assert loop_thread == threading.get_ident()


@needs_codec
def test_a_film_nobody_wants_is_given_up():
    """The renderer asks before each frame whether it shall go on."""
    from apikley_async.simulator.video.encode import StoppedError, encode_film

    asked = itertools.count()

    with pytest.raises(StoppedError):
        encode_film(
            TaskRequest(duration=25), short_side=90, fps=12, stopped=lambda: next(asked) == 5
        )

    assert next(asked) == 6


@needs_codec
async def test_a_cancel_frees_its_place():
    """With one worker, the next film does not wait for the end of a cancelled one."""
    animatic = AnimaticRenderer(short_side=180, fps=60, workers=1)
    endless = TaskRequest((("On and on.", 15.0),), duration=3_600)

    for _ in range(3):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(animatic.render(endless), 0.1)

    async with asyncio.timeout(10):
        assert await animatic.render(TaskRequest(duration=0.1))


# --- without the extra ------------------------------------------------------------------------


def test_the_simulator_needs_no_codec():
    """Importing it loads neither PyAV nor Pillow, installed or not."""
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


def test_the_renderer_is_chosen_by_what_is_installed(monkeypatch):
    """Without the extra there is a placeholder, and asking for more says what to type."""
    if rendering_available():
        assert isinstance(available_renderer(), AnimaticRenderer)

    monkeypatch.setitem(sys.modules, "av", None)

    assert not rendering_available()
    assert isinstance(available_renderer(), PlaceholderRenderer)
    with pytest.raises(MissingExtraError, match=r'pip install "\.\[simulator\]"'):
        AnimaticRenderer()


async def test_the_placeholder_is_small_and_whole():
    """The film that ships with the package starts at once and costs little."""
    film = await PlaceholderRenderer().render(TaskRequest())

    kinds = boxes_of(film)
    assert kinds.index("moov") < kinds.index("mdat")
    assert len(film) < 60 * 1024


@needs_codec
async def test_the_placeholder_plays():
    """It is a film like the others, only shorter."""
    frames = frames_of(await PlaceholderRenderer().render(TaskRequest()))

    assert len(frames) == 24
    assert {frame.size for frame in frames} == {(320, 180)}
    assert len(letters(frames[-1])) > 100


# --- the storyboards of the demo --------------------------------------------------------------


def boards() -> dict[str, dict[str, Any]]:
    entries = sorted(STORYBOARDS.iterdir(), key=lambda entry: entry.name)
    return {
        entry.name.removesuffix(".json"): json.loads(entry.read_text("utf-8"))
        for entry in entries
        if entry.name.endswith(".json")
    }


@pytest.mark.parametrize("name", boards())
def test_a_storyboard_of_the_demo_keeps_the_rules(name):
    """The service would take each of them as it is."""
    board = boards()[name]

    assert board.keys() == {"shots", "duration", "aspect_ratio", "image"}
    lengths = [shot["duration"] for shot in board["shots"]]
    assert 1 <= len(lengths) <= 10
    assert all(0.1 <= length <= 15 for length in lengths)
    assert sum(lengths) <= board["duration"]
    assert all(shot.keys() == {"scene", "duration"} for shot in board["shots"])


def test_the_demo_shows_every_shape_and_length():
    """Six films, all lengths lying and upright, with and without image, in three scripts."""
    shown = boards()

    kinds = {(board["aspect_ratio"], board["duration"]) for board in shown.values()}
    texts = "".join(shot["scene"] for board in shown.values() for shot in board["shots"])
    assert kinds == set(itertools.product(("landscape", "portrait"), (10, 15, 25)))
    assert {board["image"] is None for board in shown.values()} == {True, False}
    assert {1, 10} <= {len(board["shots"]) for board in shown.values()}
    assert min(shown) == "kitten"
    assert all(any(first <= c <= last for c in texts) for first, last in ("az", "ая", "αω"))


@pytest.mark.parametrize("name", [board["image"] for board in boards().values() if board["image"]])
def test_a_picture_of_the_demo_is_small(name):
    """The images ship with every wheel."""
    data = (STORYBOARDS / name).read_bytes()

    size = [int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (26, 28)]
    assert (data[:4], data[8:16]) == (b"RIFF", b"WEBPVP8 ")
    assert max(size) >= 1024
    assert len(data) < 30 * 1024


@needs_codec
@pytest.mark.parametrize("name", boards())
async def test_a_storyboard_of_the_demo_can_be_filmed(name, caplog):
    """Each becomes a film of its length, every character written and every image shown."""
    board = boards()[name]
    image = (STORYBOARDS / board["image"]).read_bytes() if board["image"] else None
    shots = tuple((shot["scene"], shot["duration"]) for shot in board["shots"])

    film = await filmed(TaskRequest(shots, board["duration"], board["aspect_ratio"], image), fps=2)

    assert len(frames_of(film)) == board["duration"] * 2
    assert not caplog.records

"""Rendered films: files that any player accepts, captions and pictures as requested."""

from __future__ import annotations

import io
import itertools
import logging
from importlib.resources import files

import pytest
from film_frames import (
    BLUE,
    RED,
    boxes_of,
    caption_changes,
    caption_pixels,
    close,
    colour_at,
    frames_of,
    needs_codec,
    overlap,
    rendered,
    saved,
    two_colours,
    wanted,
)
from volume import volume

from apikley_async.simulator import AnimaticRenderer

# --- the file ---------------------------------------------------------------------------------


@needs_codec
@pytest.mark.parametrize("aspect", ["landscape", "portrait"])
@pytest.mark.parametrize("duration", volume([10, 25], [10, 15, 25]))
@pytest.mark.slow
async def test_a_film_has_the_requested_duration(aspect, duration):
    """H.264 in yuv420p, with a frame for every instant up to the last second."""
    import av

    film = await rendered(wanted((("One.", 4.0), ("Two.", 5.5)), duration, aspect))

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
async def test_a_film_is_720p_by_default(aspect, size):
    """Upright for "portrait" only."""
    film = await AnimaticRenderer().render(wanted(duration=0.25, aspect=aspect))

    assert {frame.size for frame in frames_of(film)} == {size}


@needs_codec
async def test_a_film_plays_while_it_is_loaded():
    """Its index comes before its media data."""
    kinds = boxes_of(await rendered(wanted()))

    assert kinds[0] == "ftyp"
    assert kinds.index("moov") < kinds.index("mdat")


@needs_codec
async def test_equal_requests_give_equal_films():
    """The seed alone decides what the request leaves open."""
    one, same, other = [await rendered(wanted(seed=seed)) for seed in (1, 1, 2)]

    assert one == same
    assert one != other


@needs_codec
@pytest.mark.parametrize("short_side", [90, 121, 202])
async def test_odd_sizes_become_even(short_side):
    """Chroma has half the resolution of luma: an odd size cannot be encoded."""
    frame = frames_of(await rendered(wanted(duration=0.2), short_side=short_side))[0]

    assert frame.width % 2 == frame.height % 2 == 0


# --- the captions -----------------------------------------------------------------------------


@needs_codec
@pytest.mark.parametrize("with_image", [False, True])
async def test_each_caption_is_shown_for_exactly_its_seconds(with_image):
    """The text changes where a shot begins, and nowhere else."""
    shots = (("The first of all shots.", 1.5), ("A second one, longer.", 2.0), ("Three.", 1.5))
    image = saved(two_colours(), "PNG") if with_image else None

    frames = frames_of(await rendered(wanted(shots, 5, image=image), fps=4))

    assert caption_changes(frames) == [6, 14]


@needs_codec
async def test_ten_shots_have_ten_captions():
    """As many shots as the service accepts fit into one film."""
    shots = tuple(((letter + " ") * number, 1.0) for number, letter in enumerate("MWTLIVXHZO", 5))

    request = wanted(shots, 10, image=saved(two_colours(), "PNG"))
    frames = frames_of(await rendered(request, short_side=360, fps=2))

    assert caption_changes(frames) == list(range(2, 20, 2))


@needs_codec
async def test_the_shortest_shot_is_shown():
    """A tenth of a second is at least one frame at the default rate."""
    film = await AnimaticRenderer(short_side=180).render(
        wanted((("A.", 0.1), ("Other words.", 0.9)), 1)
    )

    assert min(caption_changes(frames_of(film))) in (1, 2)


@needs_codec
async def test_the_rest_of_a_film_is_an_end_card():
    """After the last shot it is dimmed and has no caption."""
    frames = frames_of(await rendered(wanted((("A caption with some words.", 2.0),), 10)))

    assert len(frames) == 60
    assert caption_changes(frames) == [12]
    assert 0 < len(caption_pixels(frames[-1])) < len(caption_pixels(frames[0])) / 4
    assert sum(colour_at(frames[-1], 0.5, 0.02)) < sum(colour_at(frames[0], 0.5, 0.02)) * 0.7


@needs_codec
async def test_a_rounding_error_is_no_end_card():
    """Three times 3.3333 fill ten seconds."""
    frames = frames_of(await rendered(wanted((("Some words.", 3.3333),) * 3, 10)))

    assert overlap(caption_pixels(frames[0]), caption_pixels(frames[-1])) > 0.6


@needs_codec
async def test_shots_end_with_their_film():
    """Longer shots are cut at the end of the film."""
    frames = frames_of(
        await rendered(wanted((("In the morning.", 4.0), ("Evening.", 9.0), ("Never.", 2.0)), 5))
    )

    assert len(frames) == 30
    assert caption_changes(frames) == [24]


@needs_codec
async def test_a_task_without_shots_shows_its_prompt():
    """Other models have a prompt; without one there is a picture and no text."""
    prompted, bare, shot = (
        frames_of(film)
        for film in [
            await rendered(wanted((), prompt="A lighthouse at dawn.")),
            await rendered(wanted((), prompt=None)),
            await rendered(wanted((("A lighthouse at dawn.", 1.0),))),
        ]
    )

    assert overlap(caption_pixels(prompted[0]), caption_pixels(shot[0])) > 0.95
    assert overlap(caption_pixels(bare[0]), caption_pixels(shot[0])) < 0.3
    assert len(bare) == 6


@needs_codec
@pytest.mark.parametrize(
    "text",
    ["Съешь ещё этих мягких булок", "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία", "Ça coûte 5 €, où?"],
)
async def test_letters_of_europe_are_caption_pixels(text, caplog):
    """Cyrillic, Greek and accented Latin are not shown as boxes."""
    from apikley_async.simulator.video.fonts import Typeface

    marks = "".join(c if c == " " else "\ufffd" for c in text)
    films = [await rendered(wanted(((shown, 1.0),))) for shown in (text, marks)]

    written, boxed = (caption_pixels(frames_of(film)[0]) for film in films)

    assert Typeface(folders=()).cure(text) == ""
    assert overlap(written, boxed) < 0.5
    assert not caplog.records


@needs_codec
@pytest.mark.parametrize("one, other", [("жжж", "ююю"), ("ωωω", "λλλ"), ("ððð", "ßßß")])
async def test_different_letters_look_different(one, other):
    """A font that lacks a script draws the same box for all of it; this one does not."""
    seen = [
        caption_pixels(frames_of(await rendered(wanted(((text, 1.0),))))[0])
        for text in (one, other)
    ]

    assert 0 < overlap(*seen) < 0.8


@needs_codec
async def test_characters_that_no_font_has_leave_a_gap_and_one_warning(caplog):
    """Once per film; U+0378 is no character, so no font has it."""
    shots = (("One \u0378\u0378 word.", 0.5), ("Two.", 0.5))

    with caplog.at_level(logging.WARNING):
        frames = frames_of(await rendered(wanted(shots)))

    assert len(caption_pixels(frames[0])) > 30
    (record,) = caplog.records
    assert record.getMessage().endswith("2 characters not shown: install Noto Sans")


@needs_codec
@pytest.mark.parametrize("text", ["many words " * 300, "w" * 5_000, "a\n\tb\x00\u200d" * 40])
@pytest.mark.parametrize("aspect", ["landscape", "portrait"])
async def test_a_long_caption_stays_inside_its_area(text, aspect):
    """Text is shrunk, wrapped and finally cut; it leaves the upper half as it is, and the edges."""
    image = saved(two_colours(), "PNG")

    frame = frames_of(await rendered(wanted(((text, 0.3),), 0.3, aspect, image), short_side=360))[0]

    width = frame.width
    assert close(colour_at(frame, 0.1, 0.52), RED)
    assert close(colour_at(frame, 0.9, 0.52), BLUE)
    columns = {place % width for place in caption_pixels(frame)}
    assert columns
    assert width * 0.04 < min(columns)
    assert max(columns) < width * 0.96


@needs_codec
@pytest.mark.parametrize("aspect", ["landscape", "portrait"])
async def test_a_caption_of_two_lines_leaves_two_thirds_of_the_picture(aspect):
    """What a scene usually says hides the lowest part only."""
    image, text = saved(two_colours(), "PNG"), "A kitten in orange headphones eats cake."

    frame = frames_of(await rendered(wanted(((text, 0.3),), 0.3, aspect, image), short_side=360))[0]

    assert close(colour_at(frame, 0.1, 0.67), RED)
    assert close(colour_at(frame, 0.9, 0.67), BLUE)


@needs_codec
async def test_a_cut_caption_ends_in_an_ellipsis():
    from apikley_async.simulator.video.fonts import Typeface
    from apikley_async.simulator.video.frames import fit_text

    block = fit_text("Some words, " * 200, Typeface(), 1.0, 600, 200)

    assert len(block.lines) * block.leading <= 200
    assert block.lines[-1].endswith("words…")
    assert all(block.font.getlength(line) <= 600 for line in block.lines)


@needs_codec
@pytest.mark.parametrize("ground", [(255, 255, 255), (128, 128, 128), (0, 0, 0), (250, 240, 60)])
async def test_captions_can_be_read_over_any_two_colours(ground):
    """The text is bright and what is behind it dark, whatever the picture."""
    from PIL import Image

    image = saved(Image.new("RGB", (64, 36), ground), "PNG")

    frame = frames_of(await rendered(wanted((("Legible words " * 4, 0.3),), 0.3, image=image)))[0]

    line = frame.crop((40, frame.height * 80 // 100, 300, frame.height * 90 // 100)).convert("L")
    levels = sorted(line.tobytes())
    assert levels[len(levels) // 4] < 90
    assert levels[-20] > 200


# --- the pictures -----------------------------------------------------------------------------


@needs_codec
async def test_shots_of_one_picture_are_framed_differently():
    """At a cut far more changes than by the motion within a shot."""
    picture = files("apikley_async.cli").joinpath("storyboards/kitten.webp").read_bytes()
    shots = tuple((f"Shot {number}.", 2.0) for number in range(5))

    frames = frames_of(await rendered(wanted(shots, 10, image=picture)))

    views = [frame.crop((0, 30, frame.width, 90)).convert("L").tobytes() for frame in frames]
    pairs = list(itertools.pairwise(views))
    changed = [sum(abs(a - b) for a, b in zip(one, two, strict=True)) for one, two in pairs]
    cuts = [changed[number - 1] for number in range(12, 60, 12)]
    assert min(cuts) > 2 * max(set(changed) - set(cuts))


@needs_codec
@pytest.mark.parametrize("aspect", ["landscape", "portrait"])
@pytest.mark.parametrize("seed", range(volume(4, 8)))
async def test_landscapes_are_never_black(aspect, seed):
    """A film without an image has colours, at every hour of the day."""
    frames = frames_of(
        await rendered(wanted(duration=0.4, aspect=aspect, seed=seed), short_side=90)
    )

    sky = frames[0].crop((0, 0, frames[0].width, frames[0].height // 2))
    bands = [sky.getchannel(band).tobytes() for band in range(3)]
    assert max(sum(band) / len(band) for band in bands) > 50
    assert len(set(bands[2])) > 20


@needs_codec
async def test_the_picture_moves():
    frames = frames_of(await rendered(wanted(duration=4, shots=(("Still.", 4.0),))))

    first, last = (
        frame.crop((0, 40, frame.width, 90)).tobytes() for frame in frames[:: len(frames) - 1]
    )
    moved = sum(abs(a - b) > 6 for a, b in zip(first, last, strict=True))
    assert moved > len(first) / 50


@needs_codec
async def test_the_image_of_a_request_is_shown():
    """Its colours are where they were, in every shot."""
    request = wanted((("One.", 1.0), ("Two.", 1.0)), 2, image=saved(two_colours(), "PNG"))

    # Older releases of PyAV ignore the matrix that the file names, which shifts colours a little.
    for frame in frames_of(await rendered(request)):
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
async def test_every_kind_of_image_is_shown(kind, mode, size):
    """Whatever the format, the mode and the shape, the left is red and the right is blue."""
    image = saved(two_colours(size).convert(mode), kind)

    frame = frames_of(await rendered(wanted(duration=0.3, image=image)))[0]

    assert close(colour_at(frame, 0.04, 0.4), RED)
    assert close(colour_at(frame, 0.96, 0.4), BLUE)


@needs_codec
@pytest.mark.parametrize("mode, level", [("L", 150), ("LA", 150), ("I;16", 150 * 256), ("1", 1)])
async def test_grey_images_keep_their_grey(mode, level):
    """Sixteen bits of grey are scaled to eight, not clipped."""
    from PIL import Image

    grey = Image.new(mode, (32, 18), (level, 255) if mode == "LA" else level)

    frame = frames_of(await rendered(wanted(duration=0.3, image=saved(grey, "PNG"))))[0]

    expected = 255 if mode == "1" else 150
    assert close(colour_at(frame, 0.5, 0.4), (expected,) * 3, by=6)


@needs_codec
@pytest.mark.parametrize("kind", ["RGBA", "P"])
async def test_transparent_images_are_not_black(kind):
    """They are laid over a colour of the film; without alpha they would be black."""
    from PIL import Image

    glass = Image.new("RGBA", (64, 36), (0, 0, 0, 0))
    if kind == "P":
        image = saved(glass.quantize(4), "PNG", transparency=0)
    else:
        image = saved(glass, "PNG")

    frame = frames_of(await rendered(wanted(duration=0.3, image=image)))[0]

    assert max(colour_at(frame, 0.5, 0.4)) > 120


@needs_codec
async def test_a_photograph_is_upright():
    """The orientation in EXIF is applied."""
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    sideways = two_colours((320, 180)).transpose(Image.Transpose.ROTATE_90)

    image = saved(sideways, "JPEG", exif=exif, quality=95)
    frame = frames_of(await rendered(wanted(duration=0.3, image=image)))[0]

    assert close(colour_at(frame, 0.1, 0.4), RED)
    assert close(colour_at(frame, 0.9, 0.4), BLUE)


@needs_codec
@pytest.mark.parametrize(
    "data", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + b"\0" * 40, b"<svg/>", "half", "gif"]
)
async def test_a_broken_image_gives_landscapes_and_a_warning(data, caplog):
    """A film is rendered all the same, and the log says why it looks different."""
    if data == "half":
        data = saved(two_colours((900, 700)).effect_spread(9), "PNG")[:900]
    elif data == "gif":
        data = saved(two_colours(), "GIF")

    frames = frames_of(await rendered(wanted(duration=0.3, image=data)))

    assert len(set(frames[0].tobytes())) > 50
    assert [record.levelname for record in caplog.records] == ["WARNING"]

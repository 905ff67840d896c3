"""Captions in other scripts: fonts of this machine, and what is said where there are none."""

from __future__ import annotations

import pytest
from film_frames import needs_codec

pytestmark = needs_codec

SCRIPTS = {
    "CJK": ("灯台の夜明け", "猫が窓辺で眠"),
    "Arabic": ("قطة صغيرة", "كعكة كبيرة"),
    "Hebrew": ("חתלתול קטן", "עוגה גדולה"),
    "Thai": ("ลูกแมวกิน", "เค้กในครัว"),
    "Emoji": ("🐱🍰", "🚀🌙"),
}
INK, PAPER = (9, 11, 18), (252, 250, 245)


@pytest.fixture
def face():
    from apikley_async.simulator.video.fonts import Typeface

    return Typeface()


@pytest.fixture
def bare():
    """On a machine without fonts."""
    from apikley_async.simulator.video.fonts import Typeface

    return Typeface(folders=())


def drawn(face, text, size=34):
    """*text* as it is drawn, cut to its ink."""
    from PIL import Image

    picture = Image.new("RGBA", (900, 80), (*INK, 255))
    face.at(size).draw(picture, (20, 40), text, PAPER)
    return picture.convert("L").point(lambda level: 255 if level > 120 else 0)


def test_the_cure_names_fonts_and_counts_characters(bare):
    """One gap for each run that is not shown; blanks and joiners are no characters."""
    assert bare.displayable("灯台の 夜明け at 5") == "… … at 5"
    assert bare.cure("灯台の 夜明け at 5") == "6 characters not shown: install Noto Sans CJK"
    assert bare.cure("แ") == "1 character not shown: install Noto Sans Thai"
    assert bare.cure("👩‍🚀 ק") == (
        "3 characters not shown: install Noto Color Emoji, Noto Sans Hebrew"
    )
    assert bare.cure("Plain. Просто. Ça.") == ""


@pytest.mark.parametrize("aspect", [(1280, 720), (720, 1280)])
def test_the_cure_is_a_line_in_the_frame(bare, aspect):
    """Below the text, within the frame; a caption that can be shown has no such line."""
    from apikley_async.simulator.video.frames import caption

    shown, lacking = (
        caption(text, aspect, bare, (255, 200, 100)).text for text in ("Cats.", "Cats 猫.")
    )

    assert lacking.height > shown.height
    colours = {colour[:3] for _, colour in lacking.getcolors(1 << 20) if colour[3]}
    assert (255, 200, 100) in colours
    left, _, right, _ = lacking.getchannel("A").getbbox()
    assert 0 < left < right < aspect[0]


@pytest.mark.parametrize("script", SCRIPTS)
def test_other_scripts_are_drawn_with_fonts_of_this_machine(face, script):
    """Each letter has a glyph: different texts look different, and have some width."""
    one, other = SCRIPTS[script]
    if cure := face.cure(one + other):
        pytest.skip(cure)

    pictures = [drawn(face, text) for text in (one, other)]

    assert all(picture.getbbox() for picture in pictures)
    assert pictures[0].tobytes() != pictures[1].tobytes()
    for text, picture in zip((one, other), pictures, strict=True):
        left, _, right, _ = picture.getbbox()
        assert right - left == pytest.approx(face.at(34).getlength(text), abs=16)


def test_a_text_in_one_line_may_mix_fonts(face):
    """The Latin words are those that stand alone, and in their places."""
    if cure := face.cure("قطة"):
        pytest.skip(cure)

    mixed, alone = drawn(face, "Cat قطة"), drawn(face, "Cat")

    width = alone.getbbox()[2]
    assert mixed.crop((0, 0, width, 80)).tobytes() == alone.crop((0, 0, width, 80)).tobytes()
    assert mixed.getbbox()[2] > width + 20


def test_right_to_left_captions_stand_on_the_right(face):
    """With their mark; brackets are mirrored among their letters."""
    from apikley_async.simulator.video.frames import caption

    if cure := face.cure("חתלתול"):
        pytest.skip(cure)

    text = caption("חתלתול (קטן)", (1280, 720), face, (255, 200, 100)).text
    left, _, right, _ = text.getchannel("A").getbbox()

    assert left > 640
    assert right > 1200
    opening, closing = drawn(face, "("), drawn(face, ")")
    last = drawn(face, "ק (ק)").getbbox()[0]
    ends = [picture.getbbox() for picture in (opening, closing)]
    glyph = drawn(face, "ק (ק)").crop((last, 0, last + ends[0][2] - ends[0][0], 80))
    shapes = [
        picture.crop((box[0], 0, box[2], 80))
        for picture, box in zip((opening, closing), ends, strict=True)
    ]
    difference = [
        sum(a != b for a, b in zip(glyph.tobytes(), shape.tobytes(), strict=False))
        for shape in shapes
    ]
    assert difference[0] < difference[1]  # the text ends on the left, with an opening shape


def test_a_damaged_font_is_passed_over(tmp_path):
    from apikley_async.simulator.video.fonts import Typeface

    (tmp_path / "NotoSansOgham.ttf").write_bytes(b"no font")

    assert Typeface([str(tmp_path)]).cure("ᚁ") == "1 character not shown: install Noto Sans Ogham"


def test_a_typeface_is_opened_once_and_has_one_user():
    """Pillow's fonts are no use to two threads at once; to open them again takes long."""
    from apikley_async.simulator.video.fonts import borrowed_typeface

    with borrowed_typeface() as one, borrowed_typeface() as other:
        assert one is not other
    with borrowed_typeface() as again:
        assert again is one
    with pytest.raises(ZeroDivisionError), borrowed_typeface() as broken:
        1 / 0  # noqa: B018 - a film that fails
    with borrowed_typeface() as last:
        assert last is broken

"""The fonts of captions: Noto Sans from the extra, and fonts of this machine for what it lacks.

Pillow draws a text in one font. Here a text is cut into runs, each in a font that has it: other
scripts and emoji need a font of their own. Nothing is searched while Noto Sans suffices.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import fontpkg
from PIL import Image, ImageDraw, ImageFont, features

__all__ = ["Typeface", "TypefaceSize", "borrowed_typeface", "is_right_to_left"]

FOLDERS: tuple[str, ...] = (
    *("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts"),
    *("/System/Library/Fonts", "/Library/Fonts", "~/Library/Fonts"),
    *("C:/Windows/Fonts", "~/AppData/Local/Microsoft/Windows/Fonts"),
)
# Names of files without their endings, the best first.
FILES: dict[str, tuple[str, ...]] = {
    "CJK": (
        *("notosanscjk-regular", "notosanscjkjp-regular", "sourcehansans-regular"),
        *("pingfang", "hiraginosansgb", "applesdgothicneo"),
        *("yugothm", "msyh", "malgun", "wqy-zenhei", "wqy-microhei", "droidsansfallbackfull"),
    ),
    "Emoji": ("notocoloremoji", "applecoloremoji", "seguiemj", "notoemoji-regular", "symbola"),
    "Arabic": ("geezapro", "sfarabic", "segoeui", "tahoma"),
    "Hebrew": ("arialhb", "sfhebrew", "segoeui", "tahoma"),
    "Thai": ("thonburi", "leelawui", "leelawad", "tahoma", "loma", "garuda"),
}
OTHERS = ("dejavusans", "freesans", "arialunicode", "unifont")
FAMILIES = {"CJK": "Noto Sans CJK", "Emoji": "Noto Color Emoji"}
CJK = {"CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "IDEOGRAPHIC", "FULLWIDTH", "HALFWIDTH"}
STRIKES = (109, 160, 136, 128, 96, 64)  # sizes of the bitmaps in fonts that have nothing else
EMOJI_WIDTH = 1.2  # of such a bitmap, in font sizes
NO_CHARACTER = "\U0010ffff"
MIRRORED = str.maketrans("()[]{}<>«»", ")(][}{><»«")
SIZES = 64  # of one font that stay open
GAP = "…"  # in the place of characters that no font has


def is_right_to_left(text: str) -> bool:
    """Whether the first letter of *text* that has a direction is written to the left."""
    strong = (unicodedata.bidirectional(c) for c in text)
    return next((kind != "L" for kind in strong if kind in ("L", "R", "AL")), False)


def _script_of(character: str) -> str:
    """The script of a character, as font families are named after; "" for one without a name."""
    word = unicodedata.name(character, "").split(" ")[0]
    if word in CJK:
        return "CJK"
    return "Emoji" if unicodedata.category(character) == "So" else word.capitalize()


def _leftward(run: str) -> str:
    """A run of signs only, as it stands among letters that are written to the left."""
    if any(c.isalnum() for c in run):
        return run  # the shaper knows
    return run[::-1].translate(MIRRORED)


class _FontFile:
    """One font file, in every size."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.at: Callable[[int, int], ImageFont.FreeTypeFont] = functools.lru_cache(SIZES)(self._at)
        self.has: Callable[[str], bool] = functools.cache(self._has)
        self.strike: int | None
        # Without shaping, a character the font lacks is always the font's own empty box.
        basic = ImageFont.Layout.BASIC
        self._probe, self.strike = _opened(path, 24, layout_engine=basic)
        self._box = bytes(self._probe.getmask(NO_CHARACTER))

    def _at(self, size: int, weight: int) -> ImageFont.FreeTypeFont:
        font, _ = _opened(self._path, size)
        try:
            axes = font.get_variation_axes()
        except OSError:  # it has one weight
            return font
        font.set_variation_by_axes(
            [weight if axis["name"] == b"Weight" else axis["default"] or 0 for axis in axes]
        )
        return font

    def _has(self, character: str) -> bool:
        return bytes(self._probe.getmask(character)) != self._box


def _opened(
    path: str, size: int, layout_engine: ImageFont.Layout | None = None
) -> tuple[ImageFont.FreeTypeFont, int | None]:
    """The font in *size*, or in the size of its bitmaps, which is given then."""
    for strike in (None, *STRIKES):
        try:
            font = ImageFont.truetype(path, strike or size, layout_engine=layout_engine)
        except OSError as error:
            if "pixel size" not in str(error):
                raise
        else:
            return font, strike
    raise OSError(f"no size of {path} can be used")


class Typeface:
    """Noto Sans in every size and weight, with other fonts for the characters that it lacks.

    Args:
        folders: where fonts are looked for; by default where this machine keeps them.
    """

    def __init__(self, folders: Iterable[str] = FOLDERS) -> None:
        self._folders = tuple(folders)
        self._base = _FontFile(str(fontpkg.path("Noto Sans")))
        self._opened: dict[str, _FontFile | None] = {}
        self.file_for: Callable[[str], _FontFile | None] = functools.cache(self._file_for)

    def at(self, size: float, weight: int = 500) -> TypefaceSize:
        return TypefaceSize(self, self._base, max(6, round(size)), weight)

    def lacks(self, character: str) -> bool:
        """Whether no font has it."""
        return self.file_for(character) is None

    def displayable(self, text: str) -> str:
        """*text* on one line, with one ellipsis for each run of characters that no font has."""
        runs = itertools.groupby(_plain(text), key=self.lacks)
        return "".join(GAP if lacking else "".join(run) for lacking, run in runs)

    def cure(self, text: str) -> str:
        """What to install for the characters of *text* that no font has; "" if there are none."""
        missing = [c for c in _plain(text) if self.lacks(c)]
        scripts = Counter(_script_of(c) for c in missing)
        if not scripts:
            return ""
        fonts = [FAMILIES.get(script, f"Noto Sans {script}".rstrip()) for script in scripts]
        if any(is_right_to_left(c) for c in missing) and not features.check_feature("raqm"):
            fonts.append("the library FriBiDi")
        those = f"{len(missing)} characters" if len(missing) > 1 else "1 character"
        return f"{those} not shown: install {', '.join(fonts)}"

    def _file_for(self, character: str) -> _FontFile | None:
        if self._base.has(character):
            return self._base
        if is_right_to_left(character) and not features.check_feature("raqm"):
            return None
        return next((font for font in self._others(character) if font.has(character)), None)

    def _others(self, character: str) -> Iterator[_FontFile]:
        """The fonts of this machine that may have a character, the best first."""
        script = _script_of(character)
        named = f"notosans{script.casefold()}"
        installed = _installed(self._folders)
        paths = [_packaged(f"Noto Sans {script}")] if self._folders else []
        files = (*FILES.get(script, ()), f"{named}-regular", named, *OTHERS)
        paths += [installed.get(file) for file in files]
        for path in filter(None, paths):
            if path not in self._opened:
                try:
                    self._opened[path] = _FontFile(path)
                except OSError:  # damaged, or of a kind that cannot be read
                    self._opened[path] = None
            if (font := self._opened[path]) is not None:
                yield font


_idle: list[Typeface] = []


@contextlib.contextmanager
def borrowed_typeface() -> Iterator[Typeface]:
    """A typeface that no other thread uses meanwhile.

    The first text in each size takes as long as ten frames, so fonts stay open between films.
    """
    try:
        face = _idle.pop()
    except IndexError:
        face = Typeface()
    try:
        yield face
    finally:
        _idle.append(face)


def _packaged(family: str) -> str | None:
    """A font that was installed as a Python package."""
    try:
        return str(fontpkg.path(family))
    except fontpkg.FontpkgError:
        return None


@functools.cache
def _installed(folders: tuple[str, ...]) -> dict[str, str]:
    """The font files of this machine by name."""
    found: dict[str, str] = {}
    for folder in folders:
        for place, _, names in os.walk(Path(folder).expanduser()):
            for name in names:
                path = Path(place, name)
                if path.suffix.casefold() in (".ttf", ".otf", ".ttc"):
                    found.setdefault(path.stem.casefold().replace(" ", ""), str(path))
    return found


def _plain(text: str) -> str:
    composed = unicodedata.normalize("NFC", text)
    return " ".join("".join(c for c in composed if c.isspace() or not _is_invisible(c)).split())


def _is_invisible(character: str) -> bool:
    """Joiners, variation selectors, skin tones and control characters: they have no glyph."""
    return (
        unicodedata.category(character) in ("Cc", "Cf", "Cs")
        or "\ufe00" <= character <= "\ufe0f"
        or "\U0001f3fb" <= character <= "\U0001f3ff"
    )


class TypefaceSize:
    """A typeface in one size and weight: measures texts and draws them."""

    def __init__(self, face: Typeface, base: _FontFile, size: int, weight: int) -> None:
        self._face, self._base, self._size, self._weight = face, base, size, weight
        self.font: ImageFont.FreeTypeFont = base.at(size, weight)

    def getlength(self, text: str) -> float:
        """How wide *text* is, in pixels."""
        return sum(self._length(run, font) for run, font in self._runs(text))

    def draw(self, onto: Image.Image, at: tuple[float, float], text: str, fill: Fill) -> None:
        """Draw *text* on one line; *at* is its left end, and half of its height."""
        ascent, descent = self.font.getmetrics()
        left, baseline = at[0], at[1] + (ascent - descent) / 2
        runs = list(self._runs(text))
        if is_right_to_left(text):
            runs = [(_leftward(run), font) for run, font in reversed(runs)]
        for run, font in runs:
            if font.strike is not None:
                self._draw_bitmaps(onto, (left, baseline), run, font)
            else:
                ImageDraw.Draw(onto).text(
                    (left, baseline),
                    run,
                    fill,
                    font.at(self._size, self._weight),
                    anchor="ls",
                    embedded_color=font is not self._base,
                )
            left += self._length(run, font)

    def _runs(self, text: str) -> Iterator[tuple[str, _FontFile]]:
        """Cut *text* where the font changes.

        What has no direction, such as a bracket, stays between letters that are written to the
        left: it is mirrored there.
        """
        start, font, leftward = 0, self._base, False
        for place, character in enumerate(text):
            wanted = self._face.file_for(character) or self._base
            kind = unicodedata.bidirectional(character)
            neutral = leftward and kind != "L" and wanted is self._base and font.has(character)
            if wanted is font or (neutral and is_right_to_left(text[place:] + text)):
                continue
            if place > start:
                yield text[start:place], font
            start, font, leftward = place, wanted, kind in ("R", "AL")
        yield text[start:], font

    def _length(self, run: str, font: _FontFile) -> float:
        length = font.at(self._size, self._weight).getlength(run)
        return length if font.strike is None else length * self._scale(font)

    def _scale(self, font: _FontFile) -> float:
        """How much smaller the bitmaps of *font* are drawn."""
        return self._size * EMOJI_WIDTH / font.at(self._size, self._weight).getlength("\U0001f600")

    def _draw_bitmaps(
        self, onto: Image.Image, at: tuple[float, float], run: str, font: _FontFile
    ) -> None:
        """Draw coloured bitmaps, which have one size only, in the size of the text."""
        big, scale = font.at(self._size, self._weight), self._scale(font)
        width, height = max(1, round(big.getlength(run))), round(self._size * EMOJI_WIDTH / scale)
        picture = Image.new("RGBA", (width, height))
        ImageDraw.Draw(picture).text((0, 0), run, (0, 0, 0, 255), big, "lt", embedded_color=True)
        picture = picture.resize((max(1, round(width * scale)), round(height * scale)))
        left, top = round(at[0]), round(at[1] - picture.height * 0.82)
        onto.alpha_composite(picture, (max(0, left), max(0, top)))


Fill = tuple[int, int, int]

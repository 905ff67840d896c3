"""Everything that becomes a file's name: keys, ids of tasks, and where a caller wants a film.

Each ends as one name in the folder it belongs to, short enough for its companions, on every kind
of disk; two keys that a disk could take for one are distinguished before anything is paid.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType

import attrs
from fuzz.promises import Findings, demand

from apikley_async import Result, Shot, Storyboard
from apikley_async._download.names import safe_name, target_paths, with_matching_suffix
from apikley_async._download.partfile import PartFile
from apikley_async._text import fold_name
from apikley_async.batch.keys import key_faults
from apikley_async.batch.manifest.payload import make_entry
from apikley_async.cli.output.terminal_text import plain
from apikley_async.errors import DownloadError

__all__ = ["Name", "examine_name", "names"]

SLOWEST = 0.02
BOARD = Storyboard([Shot("A lighthouse at dawn.", 5)])
TAKES = 100
HEADS = (b"\0\0\0\x18ftypqt  ", b"\x1aE\xdf\xa3" + bytes(12), b"\0\0\0\x18ftypisom", b"nothing")
PIECES = (
    *("kitten", "Kitten", "KITTEN", "a", "A", "1", "2", ".", "..", "-", "_", " ", "  ", "/", "\\"),
    *(".mp4", ".MP4", ".part", ".json", ".apikley", "CON", "con", "Nul", "aux.txt", "COM1", "com¹"),
    *("LPT9", "CONIN$", "~", "$HOME", "%2e%2e", "%00", "\0", "\n", "\r", "\t", "\x1b[31m", "\x7f"),
    *(
        "\u202e",
        "\u200b",
        "\u200d",
        "\ufeff",
        "\u00ad",
        "\u2028",
        "\ud800",
        "\udcff",
        "é",
        "e\u0301",
    ),
    *("ﬁ", "ß", "ẞ", "SS", "ſ", "K", "\u212a", "Å", "\u212b", "İ", "ı", "i", "I", "ς", "Σ", "σ"),
    *(
        "ｆｉｌｍ",
        "film",
        "子猫",
        "котёнок",
        "КОТЁНОК",
        "\u3164",
        "\u115f",
        "\uffa0",
        "\u1160",
        "각",
    ),
    *("\u1100\u1161\u11a8", "ꭰ", "Ꭰ", "ᲀ", "в", "\U0001d41a", "\U00010400", "²", "２", "٣", "ª"),
    *(
        "x" * 79,
        "x" * 80,
        "x" * 250,
        "子" * 53,
        "子" * 85,
        "\U00020000" * 40,
        "e\u0301" * 80,
        "ΐ" * 79,
    ),
    *(
        ":",
        "*",
        "?",
        '"',
        "<",
        ">",
        "|",
        "C:",
        "a:b",
        "\\\\server\\x",
        "film-98ac8dbf99f3",
        "\u0345",
    ),
)
CHANGES: tuple[Callable[[str], str], ...] = (
    str.swapcase,
    str.upper,
    str.lower,
    str.casefold,
    str.title,
    lambda text: unicodedata.normalize("NFD", text),
    lambda text: unicodedata.normalize("NFKC", text),
    lambda text: unicodedata.normalize("NFKD", text),
    lambda text: text.translate({n: n + 0xFEE0 for n in range(0x30, 0x7B) if chr(n).isalnum()}),
    lambda text: text.replace("s", "ſ").replace("k", "\u212a"),
    lambda text: text + "\u3164",
    lambda text: text[:1] + "\u115f" + text[1:],
    lambda text: text.replace("fi", "ﬁ").replace("ss", "ß"),
    lambda text: text + " ",
    lambda text: text + ".2",
)
# What disks that fold names make of one: nothing that is not seen counts on some of them.
UNSEEN = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    "\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U000e0000-\U000e0fff]"
)
DISKS: tuple[Callable[[str], str], ...] = (
    str,
    str.lower,
    str.casefold,
    lambda name: unicodedata.normalize("NFD", name),
    lambda name: unicodedata.normalize("NFD", name.lower()),
    lambda name: unicodedata.normalize("NFKC", name.casefold()),
    lambda name: unicodedata.normalize(
        "NFD", unicodedata.normalize("NFD", UNSEEN.sub("", name)).casefold()
    ),
)
RESERVED = re.compile(
    r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$) *(\..*)?", re.IGNORECASE
)


@attrs.frozen
class Name:
    """A stranger's text, to become a name; *other* is what a disk might take for the same."""

    kind: str
    text: str
    other: str = ""
    files: int = 1


def names(seed: str, count: int) -> Iterator[Name]:
    """Make *count* texts; equal seeds make equal ones."""
    rng = random.Random(seed)
    for _ in range(count):
        text = _text(rng)
        other = rng.choice(CHANGES)(text) if rng.random() < 0.8 else _text(rng)
        kind = rng.choice(("key", "key", "id", "target", "target"))
        yield Name(kind, text, other, rng.choice((1, 1, 2, 11)))


def _text(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.35:  # mostly what a key may be
        letters = "abzABZ019 ._-éßкКд子ıſ²"
        return "".join(rng.choices(letters, k=rng.choice((1, 2, 5, 20, 79, 80))))
    if kind < 0.85:
        return "".join(rng.choices(PIECES, k=rng.choice((1, 1, 2, 2, 3, 5))))
    if kind < 0.95:
        return "".join(chr(rng.randrange(0x3000)) for _ in range(rng.randrange(12)))
    return "".join(chr(rng.randrange(0x110000)) for _ in range(rng.randrange(5)))


def examine_name(name: Name, findings: Findings, *, thorough: bool, folder: Path) -> None:
    """Let *name* become the names of files; raise `Defect` when a promise is broken."""
    findings.characters += len(name.text)
    check = {"key": _examine_key, "id": _examine_id, "target": _examine_target}[name.kind]

    def act() -> str:
        if not thorough:
            return check(name, None)
        with tempfile.TemporaryDirectory(dir=folder) as place:
            return check(name, Path(place))

    outcome = findings.read(name.kind, act, most=SLOWEST)
    findings.outcomes[f"{name.kind}: {outcome}"] += 1


# --- keys ----------------------------------------------------------------------------------------


def _examine_key(name: Name, folder: Path | None) -> str:
    faults = [*key_faults(name.text)]
    if faults:
        demand(len(faults) == 1 and faults[0].startswith("key: "), f"{faults!r:.200}")
        demand(faults[0].isprintable() and len(faults[0]) < 400, f"reported as {faults[0]!r:.200}")
        return "refused"
    key = make_entry(BOARD, name.text).key
    last = make_entry(BOARD, name.text, take=TAKES).key
    demand([*key_faults(key)] == [] and make_entry(BOARD, key).key == key, f"{key!r} is not stable")
    demand(fold_name(fold_name(key)) == fold_name(key), f"{key!r} folds again")
    demand(UNSEEN.search(key) is None, f"{key!r} holds what is not seen")
    for stem in (key, last):
        for file in (f"{stem}.mp4", f"{stem}-10.webm"):
            _check_file(file, folder)
        demand(
            with_matching_suffix(Path(f"{stem}.mp4"), HEADS[0]).stem == stem,
            f"{stem!r} loses its end",
        )
    if [*key_faults(name.other)]:
        return "a file"
    other = make_entry(BOARD, name.other).key
    for disk in DISKS:
        shared = disk(key) == disk(other)
        demand(
            not shared or fold_name(key) == fold_name(other), f"{key!r} and {other!r} share a file"
        )
    return "a file, twins reported" if fold_name(key) == fold_name(other) else "two files"


def _check_file(file: str, folder: Path | None) -> None:
    """It is one name, fit for every disk; in a *folder* it can be made."""
    demand("/" not in file and "\\" not in file and "\0" not in file, f"{file!r} is a path")
    demand(file.isprintable() and not set(file) & set(':*?"<>|'), f"{file!r} is no name everywhere")
    demand(file == file.strip(" .") and file[0] not in "-~", f"{file!r} begins or ends oddly")
    demand(not RESERVED.fullmatch(file), f"{file!r} is a device")
    for form in ("NFC", "NFD"):
        size = len(unicodedata.normalize(form, file).encode())
        demand(form == "NFD" or size <= 255, f"{file!r:.100} has {size} bytes")
        units = len(unicodedata.normalize(form, file).encode("utf-16-le")) // 2
        demand(units <= 255, f"{file!r:.100} has {units} letters")
    if folder is not None:
        place = folder / file
        place.write_bytes(b"")
        demand([place] == [*folder.iterdir()], f"{file!r} is kept under another name")
        place.unlink()


# --- ids, and where a film is wanted -------------------------------------------------------------


def _examine_id(name: Name, folder: Path | None) -> str:
    stem = safe_name(name.text)
    demand(re.fullmatch("[A-Za-z0-9_.-]+", stem) is not None, f"{stem!r} for {name.text!r:.80}")
    for file in (f"{stem}.mp4", f"{stem}-11.webm", f"{stem}-11.{'f' * 16}.apikley.part.json"):
        _check_file(file, folder)
    demand(stem == safe_name(name.text), "another name each time")
    plainly = stem == name.text
    mark = hashlib.sha256(name.text.encode(errors="surrogatepass")).hexdigest()[:12]
    demand(plainly or stem.endswith(f"-{mark}"), f"{stem!r} without a mark")
    if name.other != name.text:
        demand(safe_name(name.other) != stem, f"{name.text!r} and {name.other!r:.80} share a file")
    demand(plain(name.text).isprintable() or _joins(name.text), f"{name.text!r} cannot be shown")
    return "as it is" if plainly else "with a mark"


def _joins(text: str) -> bool:
    """Whether *text* holds joiners, or what has no meaning yet, which a terminal may be shown."""
    return any(unicodedata.category(letter) in ("Cf", "Cn", "Co", "Zs") for letter in text)


def _examine_target(name: Name, folder: Path | None) -> str:
    inside = "/".join(part for part in name.text.split("/") if part not in ("..", ""))
    base = Path("films") if folder is None else folder
    inside = inside.replace("\0", "") if folder else inside  # no system's paths have one
    target = f"{base}/{inside}{('', '/', '.mp4')[len(name.other) % 3]}"
    urls = tuple(f"https://cdn.test/{number}.mp4" for number in range(name.files))
    paths = target_paths(Result(name.other, urls, raw=MappingProxyType({})), target)
    demand(len({*paths}) == len(urls), "two files of one name")
    parents = {path.parent for path in paths}
    demand(parents <= {Path(target), Path(target).parent}, f"{parents!r} for {target!r:.100}")
    for path in paths:
        demand(path.is_relative_to(base) and ".." not in path.parts, f"{path!r} is elsewhere")
        for head in HEADS:
            demand(with_matching_suffix(path, head).parent == path.parent, f"{path!r} moves")
    return "names" if folder is None else asyncio.run(_opened(paths[0], base))


async def _opened(path: Path, base: Path) -> str:
    """Begin the film there, as a save does; what cannot be is reported in our own words."""
    part = PartFile(path, safe_name(path.stem), random.Random(7))
    try:
        await part.open()
    except DownloadError as error:
        demand("Errno" not in str(error), f"reported as {error!s:.200}")
        return "refused"
    try:
        await part.write(b"film")
        demand(not path.exists(), "something is there too early")
        kept = [entry for entry in path.parent.iterdir() if not entry.is_dir()]
        demand(len(kept) == 1 and kept[0].parent.is_relative_to(base), f"{kept!r:.200} is left")
    finally:
        await part.close()
    return "opened"

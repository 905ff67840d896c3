"""The forms of a manifest but YAML and CSV: JSON, JSON lines and TOML, read strictly.

A reader yields what it finds, films and faults, each with its place; it raises only where it
cannot go on. JSON lines and CSV are read as they stream, the others whole.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, TypeAlias

import attrs

from apikley_async.batch.manifest.fields import Record, shown
from apikley_async.errors import ManifestError

__all__ = [
    "Defaults",
    "Fault",
    "Found",
    "Marked",
    "Remark",
    "films_in",
    "plain_value",
    "read_whole",
    "text_of",
]

LARGEST = 64 * 1024 * 1024
LONGEST_LINE = 1024 * 1024
MOST_HOLDERS = 4_000_000  # lists and objects of a JSON document
DEEPEST = 32
BOM = b"\xef\xbb\xbf"
NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
NO_JSON = re.compile(r"true|false|null|[-+]?\.inf|\.nan", re.IGNORECASE)


@attrs.frozen
class Fault:
    """What is wrong at a place that can be read on from."""

    told: str


@attrs.frozen
class Remark:
    """What is not wrong, and is to be known before anything is paid."""

    told: str


@attrs.frozen
class Defaults:
    """What holds for every film that does not say otherwise."""

    file: str
    fields: Mapping[str, Any]


Found: TypeAlias = Record | Defaults | Fault | Remark


class Marked(dict[str, Any]):
    """A mapping that knows its line, or what is wrong in it, where the form can tell."""

    line: int = 0
    broken: bool = False
    twins: tuple[str, ...] = ()


# --- bytes into text ----------------------------------------------------------------------------


def read_whole(file: BinaryIO, name: str) -> str:
    """The text of a form that is read whole.

    Raises:
        ManifestError: too large, or not UTF-8; with its place.
    """
    raw = file.read(LARGEST + 1)
    if len(raw) > LARGEST:
        raise ManifestError([f"{name}: at most 64 MB; JSON lines and CSV may be larger"])
    return text_of(raw, name, 1)


def text_of(raw: bytes, name: str, line: int) -> str:
    """UTF-8 as text; *line* is the number of its first one in the file."""
    if line == 1:
        if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise ManifestError([f"{name}: UTF-8, and this is UTF-16; save it as UTF-8"])
        raw = raw.removeprefix(BOM)
    try:
        text = raw.decode()
    except UnicodeDecodeError as exc:
        at, told = exc.start, f"UTF-8, and byte 0x{raw[exc.start]:02x} is not; save it as UTF-8"
    else:
        if (at := raw.find(b"\0")) < 0:
            return text
        told = "text, and here is a NUL, as in UTF-16 or what is no text"
    line += raw.count(b"\n", 0, at)
    raise ManifestError([f"{name}, line {line}: {told}"])


def lines_of(file: BinaryIO, name: str) -> Iterator[tuple[int, str | Fault]]:
    """Number and text of each line, or what is wrong with it; a long one is passed over."""
    number = 0
    while raw := file.readline(LONGEST_LINE + 1):
        number += 1
        if len(raw) > LONGEST_LINE:
            while raw and not raw.endswith(b"\n"):
                raw = file.readline(LONGEST_LINE)
            yield number, Fault(f"{name}, line {number}: at most a million bytes in a line")
            continue
        try:
            yield number, text_of(raw, name, number)
        except ManifestError as error:
            if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise
            yield number, Fault(error.faults[0])


# --- JSON ---------------------------------------------------------------------------------------


def read_json(file: BinaryIO, name: str) -> Iterator[Found]:
    text = read_whole(file, name)
    if text.count("[") + text.count("{") > MOST_HOLDERS:
        raise ManifestError([f"{name}: at most {MOST_HOLDERS:,} lists and objects"])
    try:
        document, twins = loads(text)
        document = with_lines(text, document)
    except (ValueError, RecursionError) as exc:
        raise ManifestError([json_fault(name, exc)]) from None
    told = False
    for found in films_in(document, name):
        told = told or isinstance(found, Fault)
        yield found
    if twins and not told:  # deeper than anyone looks
        raise ManifestError([f"{name}: {shown(twins[0])} stands twice in one object"])


def read_lines(file: BinaryIO, name: str) -> Iterator[Found]:
    """One film a line; blank lines are passed over."""
    for number, line in lines_of(file, name):
        if isinstance(line, Fault):
            yield line
            continue
        text = line.strip()
        if not text:
            continue
        where = f"{name}, line {number}"
        if text in "[{" and number == 1:
            raise ManifestError([f"{where}: one film a line; a document is called .json"])
        try:
            fields, twins = loads(text)
        except (ValueError, RecursionError) as exc:
            yield Fault(json_fault(where, exc))
            continue
        if twins:
            yield Fault(f"{where}: {shown(twins[0])} stands twice in one object")
        if not isinstance(fields, dict):
            yield Fault(f"{where}: a film as a JSON object, not {shown(fields)}")
        else:
            yield Record(name, "line", number, fields)


def loads(text: str) -> tuple[Any, list[str]]:
    """JSON as values, and the names that stand twice in one of its objects.

    NaN, and numbers too large for a float, come through: whatever may be a number must be finite.
    """
    twins: list[str] = []

    def once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) == len(pairs):
            return found
        times = Counter(name for name, _ in pairs)
        marked = Marked(found)
        marked.twins = tuple(name for name in found if times[name] > 1)
        twins.extend(marked.twins)
        return marked

    return json.loads(text, object_pairs_hook=once_each, parse_int=_whole), twins


# What a JSON document may hold between its films, and one film passed over as a whole.
BLANK = re.compile(r"[ \t\n\r]*")
WORD = re.compile(r'"(?:[^"\\]|\\.)*+"', re.DOTALL)


def with_lines(text: str, document: Any) -> Any:
    """The *document*, which was read from *text*, with the line that each film begins in."""
    films = document.get("films") if isinstance(document, dict) else document
    if not isinstance(films, list) or not films:
        return document
    at, heads = _first_film(text), []
    passing = json.JSONDecoder(parse_int=str, parse_float=str)
    for _ in films:
        heads.append(at := _end(BLANK, text, at))
        _, at = passing.raw_decode(text, at)
        at = _end(BLANK, text, at) + 1  # past the comma, or the end of the list
    return _lined(document, films, text, heads)


def _lined(document: Any, films: list[Any], text: str, heads: list[int]) -> Any:
    """The document with the line of each of its *films*, where no two share one."""
    line, before, lines = 1, 0, []
    for head in heads:
        line, before = line + text.count("\n", before, head), head
        lines.append(line)
    if len({*lines}) != len(films):
        return document
    lined = [*map(_marked, films, lines)]
    return {**document, "films": lined} if isinstance(document, dict) else lined


def _first_film(text: str) -> int:
    """Where the list of films begins, in a document that was read before."""
    at = _end(BLANK, text, 0)
    if text[at] == "[":
        return at + 1
    passing, found = json.JSONDecoder(parse_int=str, parse_float=str), 0
    while text[at] != "}":  # the last list of that name counts
        name = WORD.match(text, _end(BLANK, text, at + 1))
        if name is None:
            break
        at = _end(BLANK, text, _end(BLANK, text, name.end()) + 1)
        if json.loads(name.group()) == "films":
            found = at + 1
        _, at = passing.raw_decode(text, at)
        at = _end(BLANK, text, at)
    return found


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return found.end() if found else at


def _marked(film: Any, line: int) -> Any:
    """A film that knows its line; what is none stays as it is."""
    if not isinstance(film, dict):
        return film
    marked = Marked(film)
    marked.twins = getattr(film, "twins", ())
    marked.line = line
    return marked


def _whole(digits: str) -> int:
    return int(digits[:4000])  # more are too many in any case, and Python may refuse them


def json_fault(where: str, exc: Exception) -> str:
    if not isinstance(exc, json.JSONDecodeError):
        return f"{where}: at most {DEEPEST} levels deep"
    line = "" if " line " in where else f"line {exc.lineno}, "
    return f"{where}, {line}column {exc.colno}: JSON: {exc.msg}"


def twin_faults(value: Any, path: str = "", depth: int = 0) -> Iterator[str]:
    """Where in a film a name stands twice."""
    if depth > DEEPEST:
        return
    if isinstance(value, dict):
        if isinstance(value, Marked):
            yield from (f"{path}{shown(name)} stands there twice" for name in value.twins)
        for name, inner in value.items():
            yield from twin_faults(inner, f"{path}{name[:40]}: ", depth + 1)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from twin_faults(inner, f"{path[:-2]}[{number}]: ", depth + 1)


# --- TOML ---------------------------------------------------------------------------------------


# A string or a comment, closed or not; and a name of so many parts, which Python's reader would
# need the square of their number for, in seconds and in bytes: 64 KB became 4 GB.
SAID = re.compile(
    r"""\"{3}(?:[^"\\]|\\.|"(?!""))*+"{0,5}+|'{3}(?:[^']|'(?!''))*+'{0,5}+"""
    r"""|"(?:[^"\\\n]|\\.)*+"?+|'[^'\n]*+'?+|\#[^\n]*+""",
    re.DOTALL,
)
DEEP_NAME = re.compile(rf"(?<![\w-])[\w-]++(?:[ \t]*+\.[ \t]*+[\w-]++){{{DEEPEST}}}")


def read_toml(file: BinaryIO, name: str) -> Iterator[Found]:
    text = read_whole(file, name)
    if DEEP_NAME.search(SAID.sub("x", text)):
        raise ManifestError([f"{name}: at most {DEEPEST} levels deep"])
    try:
        document = tomllib.loads(text)
    except RecursionError:
        raise ManifestError([f"{name}: at most {DEEPEST} levels deep"]) from None
    except tomllib.TOMLDecodeError as exc:
        raise ManifestError([f"{name}: TOML: {exc}"]) from None
    except ValueError as exc:  # a number of thousands of digits, a date that is none
        raise ManifestError([f"{name}: TOML: {str(exc)[:80]}"]) from None
    yield from films_in(_toml_lines(text, document), name)


HEADER = re.compile(
    rf"""(?P<film>^[ \t]*\[\[[ \t]*(?:films|"films"|'films')[ \t]*\]\])|{SAID.pattern}""",
    re.DOTALL | re.MULTILINE,
)


def _toml_lines(text: str, document: dict[str, Any]) -> dict[str, Any]:
    """The document with the line of each film, where the films stand under headers."""
    films = document.get("films")
    if not isinstance(films, list):
        return document
    heads = [found.start() for found in HEADER.finditer(text) if found["film"]]
    lined: dict[str, Any] = _lined(document, films, text, heads)
    return lined


# --- what the forms share -----------------------------------------------------------------------


def films_in(document: Any, name: str) -> Iterator[Found]:
    """The films of `{defaults, films}`, of a list of films, or of one film alone."""
    if isinstance(document, list):
        document = {"films": document}
    if isinstance(document, dict) and "films" not in document and {"shots", "task"} & {*document}:
        yield from _one_film(document, Record(name, "", 0, document))
        return
    if document is None:
        raise ManifestError([f"{name}: no film in it"])
    if not isinstance(document, dict) or not isinstance(document.get("films"), list):
        raise ManifestError([f"{name}: a list of films, under the name films"])
    if isinstance(document, Marked):
        yield from (Fault(f"{name}: {shown(twin)} stands there twice") for twin in document.twins)
    if unknown := [shown(word) for word in document if word not in ("defaults", "films")]:
        yield Fault(f"{name}: {', '.join(unknown[:10])}: unknown; there are defaults and films")
    yield from _defaults(document.get("defaults", {}), name)
    for number, film in enumerate(document["films"], start=1):
        line = getattr(film, "line", 0)
        record = Record(name, "line" if line else "film", line or number, film)
        yield from _one_film(film, record)


def _defaults(defaults: Any, name: str) -> Iterator[Found]:
    faults = [*twin_faults(defaults)]
    if not isinstance(defaults, dict):
        faults.append(f"names and values, not {shown(defaults)}")
    yield from (Fault(f"{name}, defaults: {fault}") for fault in faults)
    broken = bool(faults) or getattr(defaults, "broken", False)
    # Without its defaults a film must not look worse than it is.
    yield Defaults(name, {"duration": 25} if broken else defaults)


def _one_film(film: Any, record: Record) -> Iterator[Found]:
    if not isinstance(film, dict):
        yield Fault(f"{record.where}: a film, not {shown(film)}")
        return
    yield from (Fault(f"{record.where}: {told}") for told in twin_faults(film))
    # The faults of a broken one have been told: only its name still counts.
    yield attrs.evolve(record, broken=getattr(film, "broken", False))


def plain_value(text: str) -> Any:
    """What an unquoted word means: JSON's words and numbers, otherwise itself.

    Raises:
        ValueError: it looks like one of JSON's and is none.
    """
    if text in ("", "null", "~"):
        return None
    if text in ("true", "false"):
        return text == "true"
    if NUMBER.fullmatch(text):
        if len(text) > 300 or not math.isfinite(number := float(text)):
            raise ValueError("a finite number of at most 300 digits; text goes in quotes")
        return int(text) if text.lstrip("-").isdecimal() else number
    if NO_JSON.fullmatch(text):
        raise ValueError(f"true, false, null or a number, not {text}; text goes in quotes")
    return text

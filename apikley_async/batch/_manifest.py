"""Manifests: YAML, JSON, JSON lines, TOML and CSV, read as strictly as money deserves.

A reader yields records with their places. What surprises (tags, aliases, duplicate keys, NaN,
other encodings) is an error with its place, never a guess. JSON lines and CSV are read as they
stream; the others whole, up to 64 MB.
"""

from __future__ import annotations

import csv
import json
import math
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from apikley_async.batch._entries import DEFAULTS, Record, entries_of
from apikley_async.batch._store import Entry
from apikley_async.errors import ManifestError, MissingExtraError, StoryboardError

__all__ = ["entries_in", "films_of"]

LARGEST = 64 * 1024 * 1024
LONGEST_LINE = 1024 * 1024
DEEPEST = 32
MOST_NODES = 1_000_000
MOST_FAULTS = 100
COLUMNS = ("key", "scene", "duration", "film_duration", "aspect_ratio", "image")
NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")


def entries_in(path: str | Path, *, allow_outside: bool = False) -> Iterator[Entry]:
    """Yield every entry of a manifest; raise at its end if anything in it was wrong.

    Use nothing of it before it has ended without an error.

    Raises:
        ManifestError: with up to 100 faults, each with its place, field and rule.
    """
    path = Path(path)
    base = path.parent
    faults: list[str] = []
    count = 0
    defaults: Mapping[str, Any] = {}
    for record in films_of(path):
        if record.where == "defaults":
            defaults = record.fields
            unknown = [name for name in defaults if name not in DEFAULTS]
            faults += [
                f"{path.name}, defaults: {name}: unknown; there are {', '.join(DEFAULTS)}"
                for name in unknown
            ]
            continue
        count += 1
        try:
            yield from entries_of(record, defaults, base=base, allow_outside=allow_outside)
        except StoryboardError as error:
            faults += [f"{record.where}: {fault}" for fault in error.faults]
            if len(faults) > MOST_FAULTS:
                faults = [*faults[:MOST_FAULTS], "and more; these come first"]
                break
    if not faults and count == 0:
        faults.append(f"{path.name}: no film in it")
    if faults:
        raise ManifestError(faults)


def films_of(path: Path) -> Iterator[Record]:
    """Yield the records of a manifest as they stand; the defaults first, if there are any."""
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise ManifestError(
            [f"{path.name}: {', '.join(READERS)}, not {path.suffix or 'no suffix'}"]
        )
    try:
        size = path.stat().st_size
        if size > LARGEST and reader not in (_read_lines, _read_csv):
            told = f"at most 64 MB, not {size / 1e6:.0f}; JSON lines and CSV may be larger"
            raise ManifestError([f"{path.name}: {told}"])
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from reader(file, path.name)
    except OSError as exc:
        raise ManifestError([f"{path}: cannot be read: {exc.strerror}"]) from None
    except UnicodeDecodeError as exc:
        told = f"{path.name}: UTF-8, and byte {exc.start} is not; save it as UTF-8"
        raise ManifestError([told]) from None


# --- the forms --------------------------------------------------------------------------------


def _read_json(file: TextIO, name: str) -> Iterator[Record]:
    try:
        document = _loads(file.read())
    except (ValueError, RecursionError) as exc:
        raise ManifestError([f"{name}: {_json_fault(exc)}"]) from None
    yield from _films(document, name)


def _read_lines(file: TextIO, name: str) -> Iterator[Record]:
    number = 0
    while line := file.readline(LONGEST_LINE + 1):
        number += 1
        where = f"{name}, line {number}"
        if len(line) > LONGEST_LINE:
            raise ManifestError([f"{where}: at most a million characters"])
        if not line.strip():
            continue
        try:
            fields = _loads(line)
        except (ValueError, RecursionError) as exc:
            raise ManifestError([f"{where}: {_json_fault(exc)}"]) from None
        if not isinstance(fields, dict):
            raise ManifestError([f"{where}: a film as a JSON object, not {_kind(fields)}"])
        yield Record(where, fields)


def _read_toml(file: TextIO, name: str) -> Iterator[Record]:
    try:
        document = tomllib.loads(file.read())
    except (tomllib.TOMLDecodeError, RecursionError) as exc:
        raise ManifestError([f"{name}: {exc}"]) from None
    yield from _films(document, name)


def _read_csv(file: TextIO, name: str) -> Iterator[Record]:
    """One row a shot; the rows of a film stand together and share their key."""
    rows = csv.DictReader(_bounded(file, name), strict=True, restkey="more", restval=None)
    film: dict[str, Any] = {}
    first: dict[str, str | None] = {}
    where = ""
    try:
        header = rows.fieldnames or []
        unknown = [column for column in header if column not in COLUMNS]
        missing = [column for column in ("scene", "duration") if column not in header]
        if unknown or missing or len(set(header)) < len(header):
            raise ManifestError([f"{name}, line 1: the columns {','.join(COLUMNS)}, each once"])
        for row in rows:
            here = f"{name}, line {rows.line_num}"
            cells = _cells(row, here)
            if not film or cells.get("key") is None or cells["key"] != film.get("key"):
                if film:
                    yield Record(where, film)
                film, first, where = _film(cells), cells, here
            elif any(cells.get(column) not in (None, first.get(column)) for column in OF_FILM):
                raise ManifestError(
                    [f"{here}: film_duration, aspect_ratio and image as in {where}"]
                )
            film["shots"].append(
                {"scene": cells.get("scene"), "duration": _plain(cells.get("duration") or "")}
            )
    except csv.Error as exc:
        raise ManifestError([f"{name}, line {rows.line_num}: {exc}"]) from None
    if film:
        yield Record(where, film)


OF_FILM = ("film_duration", "aspect_ratio", "image")


def _film(cells: Mapping[str, str | None]) -> dict[str, Any]:
    film: dict[str, Any] = {"shots": []}
    for column in ("key", "aspect_ratio", "image"):
        if cells.get(column) is not None:
            film[column] = cells[column]
    if cells.get("film_duration") is not None:
        film["duration"] = _plain(cells["film_duration"] or "")
    return film


def _cells(row: Mapping[str, Any], where: str) -> dict[str, str | None]:
    """The cells of a row, blank ones as None; none may begin like a spreadsheet's formula."""
    if "more" in row:
        raise ManifestError([f"{where}: more cells than columns"])
    cells = {column: (cell or "").strip() or None for column, cell in row.items()}
    for column, cell in cells.items():
        if cell is not None and cell[0] in "=+@":
            told = f"{where}: {column}: begins with {cell[0]!r}, which a spreadsheet would run"
            raise ManifestError([told])
    return cells


def _bounded(file: TextIO, name: str) -> Iterator[str]:
    while line := file.readline(LONGEST_LINE + 1):
        if len(line) > LONGEST_LINE:
            raise ManifestError([f"{name}: lines of at most a million characters"])
        yield line


def _read_yaml(file: TextIO, name: str) -> Iterator[Record]:
    try:
        import yaml
    except ModuleNotFoundError:
        raise MissingExtraError(
            'YAML manifests need PyYAML: pip install "apikley-async[yaml]"'
        ) from None
    try:
        document = _Composer(yaml, name).read(file.read())
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ManifestError(
            [f"{name}{line}: {getattr(exc, 'problem', None) or 'no YAML'}"]
        ) from None
    except RecursionError:
        raise ManifestError([f"{name}: at most {DEEPEST} levels deep"]) from None
    yield from _films(document, name)


READERS: Mapping[str, Callable[[TextIO, str], Iterator[Record]]] = {
    ".yaml": _read_yaml,
    ".yml": _read_yaml,
    ".jsonl": _read_lines,
    ".ndjson": _read_lines,
    ".json": _read_json,
    ".toml": _read_toml,
    ".csv": _read_csv,
}


class Marked(dict[str, Any]):
    """A mapping that knows its line."""

    line: int = 0


class _Composer:
    """Builds plain values from YAML's events: no tags, no anchors, no duplicate keys.

    A plain scalar is what JSON would make of it (a number, true, false, null) and text
    otherwise: `no` and `010` are text. A quoted one is always text.
    """

    def __init__(self, yaml: Any, name: str) -> None:
        self._yaml = yaml
        self._name = name
        self._nodes = 0

    def read(self, text: str) -> Any:
        loader = getattr(self._yaml, "CSafeLoader", self._yaml.SafeLoader)
        events = iter(self._yaml.parse(text, Loader=loader))
        document: Any = None
        documents = 0
        for event in events:
            if isinstance(event, self._yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self._refuse(event, "one document, not several")
                document = self._value(next(events), events, 0)
        return document

    def _value(self, event: Any, events: Iterator[Any], depth: int) -> Any:
        self._check(event, depth)
        if isinstance(event, self._yaml.ScalarEvent):
            return event.value if event.style else _plain(event.value)
        if isinstance(event, self._yaml.SequenceStartEvent):
            listed = []
            while not isinstance(following := next(events), self._yaml.SequenceEndEvent):
                listed.append(self._value(following, events, depth + 1))
            return listed
        found = Marked()
        found.line = event.start_mark.line + 1
        while not isinstance(following := next(events), self._yaml.MappingEndEvent):
            if not isinstance(following, self._yaml.ScalarEvent):
                self._refuse(following, "names are words")
            self._check(following, depth)
            if following.value in found:
                self._refuse(following, f"{following.value!r:.40} stands here twice")
            found[following.value] = self._value(next(events), events, depth + 1)
        return found

    def _check(self, event: Any, depth: int) -> None:
        self._nodes += 1
        if isinstance(event, self._yaml.AliasEvent) or event.anchor is not None:
            self._refuse(event, "no anchors and aliases; write it out")
        plain = event.implicit in (True, (True, False), (False, True))
        if event.tag is not None and event.tag != "!" and not plain:
            self._refuse(event, f"no tags such as {str(event.tag)[:40]}")
        if depth > DEEPEST:
            self._refuse(event, f"at most {DEEPEST} levels deep")
        if self._nodes > MOST_NODES:
            self._refuse(event, "at most a million values; JSON lines may have more")

    def _refuse(self, event: Any, rule: str) -> None:
        raise ManifestError([f"{self._name}, line {event.start_mark.line + 1}: {rule}"])


# --- what the forms share -----------------------------------------------------------------------


def _films(document: Any, name: str) -> Iterator[Record]:
    """`{defaults, films}`, or the list of films alone."""
    if isinstance(document, list):
        document = {"films": document}
    if not isinstance(document, dict) or not isinstance(document.get("films"), list):
        raise ManifestError([f"{name}: a list of films, under the name films"])
    if unknown := set(document) - {"defaults", "films"}:
        raise ManifestError([f"{name}: {', '.join(sorted(unknown))}: only defaults and films"])
    defaults = document.get("defaults", {})
    if not isinstance(defaults, dict):
        raise ManifestError([f"{name}: defaults: names and values, not {_kind(defaults)}"])
    yield Record("defaults", defaults)
    for number, film in enumerate(document["films"], start=1):
        line = getattr(film, "line", None)
        where = f"{name}, line {line}" if line else f"{name}, film {number}"
        if not isinstance(film, dict):
            raise ManifestError([f"{where}: a film, not {_kind(film)}"])
        yield Record(where, film)


def _loads(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_once_each, parse_constant=_no_constant)


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name!r:.40} stands there twice")
        found[name] = value
    return found


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is no JSON number")


def _json_fault(exc: Exception) -> str:
    if isinstance(exc, RecursionError):
        return f"at most {DEEPEST} levels deep"
    if isinstance(exc, json.JSONDecodeError):
        return f"line {exc.lineno}, column {exc.colno}: {exc.msg}"
    return str(exc)


def _plain(text: str) -> Any:
    """What an unquoted word means: JSON's words and numbers, otherwise itself."""
    if text in ("", "null", "~"):
        return None
    if text in ("true", "false"):
        return text == "true"
    if NUMBER.fullmatch(text) and len(text) <= 40:
        number = float(text)
        if re.fullmatch(r"-?[0-9]+", text):
            return int(text)
        return number if math.isfinite(number) else text
    return text


def _kind(value: Any) -> str:
    return "a mapping" if isinstance(value, dict) else f"{value!r:.40}"

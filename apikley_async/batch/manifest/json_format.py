"""JSON and JSON lines, read strictly: a name given twice in one object is a fault."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, BinaryIO

from apikley_async._text import describe_value
from apikley_async.batch.manifest.document import read_document, with_lines_of
from apikley_async.batch.manifest.film_record import FilmRecord
from apikley_async.batch.manifest.parts import DEEPEST, AnnotatedDict, ManifestFault, ManifestPart
from apikley_async.batch.manifest.text import read_lines, read_whole
from apikley_async.errors import ManifestError

__all__ = ["read_json", "read_json_lines"]

MOST_CONTAINERS = 4_000_000  # lists and objects of one document
BLANK = re.compile(r"[ \t\n\r]*")
STRING = re.compile(r'"(?:[^"\\]|\\.)*+"', re.DOTALL)


def read_json(file: BinaryIO, name: str) -> Iterator[ManifestPart]:
    """Read one JSON document; each film is reported with its line where it has one of its own."""
    text = read_whole(file, name)
    if text.count("[") + text.count("{") > MOST_CONTAINERS:
        raise ManifestError([f"{name}: at most {MOST_CONTAINERS:,} lists and objects"])
    try:
        document, duplicates = load(text)
        document = with_lines(text, document)
    except (ValueError, RecursionError) as exc:
        raise ManifestError([json_fault(name, exc)]) from None
    reported = False
    for part in read_document(document, name):
        reported = reported or isinstance(part, ManifestFault)
        yield part
    if duplicates and not reported:  # deeper than faults are looked for
        raise ManifestError(
            [f"{name}: {describe_value(duplicates[0])} is given twice in one object"]
        )


def read_json_lines(file: BinaryIO, name: str) -> Iterator[ManifestPart]:
    """Read one film a line; blank lines are skipped."""
    for number, line in read_lines(file, name):
        if isinstance(line, ManifestFault):
            yield line
            continue
        text = line.strip()
        if not text:
            continue
        where = f"{name}, line {number}"
        if text in "[{" and number == 1:
            raise ManifestError([f"{where}: one film a line; a document is called .json"])
        try:
            fields, duplicates = load(text)
        except (ValueError, RecursionError) as exc:
            yield ManifestFault(json_fault(where, exc))
            continue
        if duplicates:
            yield ManifestFault(
                f"{where}: {describe_value(duplicates[0])} is given twice in one object"
            )
        if not isinstance(fields, dict):
            yield ManifestFault(f"{where}: a film as a JSON object, not {describe_value(fields)}")
        else:
            yield FilmRecord(name, "line", number, fields)


def load(text: str) -> tuple[Any, list[str]]:
    """JSON as values, and the names that one of its objects gives twice.

    NaN and numbers too large for a float are let through here: every field that takes a number
    checks that it is finite.
    """
    duplicates: list[str] = []

    def object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) == len(pairs):
            return found
        times = Counter(name for name, _ in pairs)
        annotated = AnnotatedDict(found)
        annotated.duplicates = tuple(name for name in found if times[name] > 1)
        duplicates.extend(annotated.duplicates)
        return annotated

    return json.loads(text, object_pairs_hook=object_of, parse_int=_integer), duplicates


def _integer(digits: str) -> int:
    # Python refuses to parse very long integers; what is cut off here is too large in any case.
    return int(digits[:4000])


def json_fault(where: str, exc: Exception) -> str:
    """A decoder's error in the words of a manifest's fault."""
    if not isinstance(exc, json.JSONDecodeError):
        return f"{where}: at most {DEEPEST} levels deep"
    line = "" if " line " in where else f"line {exc.lineno}, "
    return f"{where}, {line}column {exc.colno}: JSON: {exc.msg}"


# --- the line of each film ------------------------------------------------------------------------
# The standard library's decoder does not say where a value begins. So the films of a document that
# was decoded before are skipped over once more, one after the other, and their places are noted.


def with_lines(text: str, document: Any) -> Any:
    """The *document*, which was read from *text*, with the line that each film begins in."""
    films = document.get("films") if isinstance(document, dict) else document
    if not isinstance(films, list) or not films:
        return document
    at, starts = _start_of_films(text), []
    skipper = json.JSONDecoder(parse_int=str, parse_float=str)
    for _ in films:
        starts.append(at := _end_of(BLANK, text, at))
        _, at = skipper.raw_decode(text, at)
        at = _end_of(BLANK, text, at) + 1  # past the comma, or past the end of the list
    return with_lines_of(document, films, text, starts)


def _start_of_films(text: str) -> int:
    """Where the list of films begins."""
    at = _end_of(BLANK, text, 0)
    if text[at] == "[":
        return at + 1
    skipper, found = json.JSONDecoder(parse_int=str, parse_float=str), 0
    while text[at] != "}":  # of several lists under that name the last one counts
        name = STRING.match(text, _end_of(BLANK, text, at + 1))
        if name is None:
            break
        at = _end_of(BLANK, text, _end_of(BLANK, text, name.end()) + 1)
        if json.loads(name.group()) == "films":
            found = at + 1
        _, at = skipper.raw_decode(text, at)
        at = _end_of(BLANK, text, at)
    return found


def _end_of(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return found.end() if found else at

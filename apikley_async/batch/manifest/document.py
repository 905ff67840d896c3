"""A document that was read whole, turned into its films: shared by YAML, JSON and TOML.

A document is `{defaults, films}`, a list of films, or one film alone. A reader raises only where it
cannot go on; every other fault is yielded with its place.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import attrs

from apikley_async._text import describe_value
from apikley_async.batch.manifest.film_record import FilmRecord
from apikley_async.batch.manifest.parts import (
    DEEPEST,
    AnnotatedDict,
    FilmDefaults,
    ManifestFault,
    ManifestPart,
)
from apikley_async.errors import ManifestError

__all__ = ["plain_value", "read_document", "with_line", "with_lines_of"]

NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
# Words that look like one of JSON's, and are not.
NOT_JSON = re.compile(r"true|false|null|[-+]?\.inf|\.nan", re.IGNORECASE)


def read_document(document: Any, name: str) -> Iterator[ManifestPart]:
    """Yield the defaults, the films and the faults of a document.

    Raises:
        ManifestError: it is not of the form of a manifest.
    """
    if isinstance(document, list):
        document = {"films": document}
    if isinstance(document, dict) and "films" not in document and {"shots", "task"} & {*document}:
        yield from _film(document, FilmRecord(name, "", 0, document))
        return
    if document is None:
        raise ManifestError([f"{name}: no film in it"])
    if not isinstance(document, dict) or not isinstance(document.get("films"), list):
        raise ManifestError([f"{name}: a list of films, under the name films"])
    if isinstance(document, AnnotatedDict):
        yield from (
            ManifestFault(f"{name}: {describe_value(duplicate)} is given twice")
            for duplicate in document.duplicates
        )
    if unknown := [describe_value(word) for word in document if word not in ("defaults", "films")]:
        yield ManifestFault(
            f"{name}: {', '.join(unknown[:10])}: unknown; there are defaults and films"
        )
    yield from _defaults(document.get("defaults", {}), name)
    for number, film in enumerate(document["films"], start=1):
        line = getattr(film, "line", 0)
        record = FilmRecord(name, "line" if line else "film", line or number, film)
        yield from _film(film, record)


def _defaults(defaults: Any, name: str) -> Iterator[ManifestPart]:
    faults = [*duplicate_faults(defaults)]
    if not isinstance(defaults, dict):
        faults.append(f"names and values, not {describe_value(defaults)}")
    yield from (ManifestFault(f"{name}, defaults: {fault}") for fault in faults)
    broken = bool(faults) or getattr(defaults, "broken", False)
    # Without its defaults a film must not show faults that it does not have.
    yield FilmDefaults(name, {"duration": 25} if broken else defaults)


def _film(film: Any, record: FilmRecord) -> Iterator[ManifestPart]:
    if not isinstance(film, dict):
        yield ManifestFault(f"{record.where}: a film, not {describe_value(film)}")
        return
    yield from (ManifestFault(f"{record.where}: {fault}") for fault in duplicate_faults(film))
    # What is broken in it was reported when it was read; only its key still counts.
    yield attrs.evolve(record, broken=getattr(film, "broken", False))


def duplicate_faults(value: Any, path: str = "", depth: int = 0) -> Iterator[str]:
    """Yield the places where a name is given twice in one mapping."""
    if depth > DEEPEST:
        return
    if isinstance(value, dict):
        if isinstance(value, AnnotatedDict):
            yield from (f"{path}{describe_value(name)} is given twice" for name in value.duplicates)
        for name, inner in value.items():
            yield from duplicate_faults(inner, f"{path}{name[:40]}: ", depth + 1)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from duplicate_faults(inner, f"{path[:-2]}[{number}]: ", depth + 1)


def with_lines_of(document: Any, films: list[Any], text: str, starts: list[int]) -> Any:
    """The document with the line of each of its *films*, where no two begin in one line.

    Args:
        document: the mapping or list that holds them.
        films: its films.
        text: what the document was read from.
        starts: where each film begins in *text*.
    """
    line, before, lines = 1, 0, []
    for start in starts:
        line, before = line + text.count("\n", before, start), start
        lines.append(line)
    if len({*lines}) != len(films):
        return document
    located = [*map(with_line, films, lines)]
    return {**document, "films": located} if isinstance(document, dict) else located


def with_line(film: Any, line: int) -> Any:
    """A film that knows its line; what is not a mapping stays as it is."""
    if not isinstance(film, dict):
        return film
    located = AnnotatedDict(film)
    located.duplicates = getattr(film, "duplicates", ())
    located.line = line
    return located


def plain_value(text: str) -> Any:
    """What a word without quotes means: one of JSON's words or numbers, otherwise text.

    Raises:
        ValueError: it looks like one of JSON's and is not.
    """
    if text in ("", "null", "~"):
        return None
    if text in ("true", "false"):
        return text == "true"
    if NUMBER.fullmatch(text):
        if len(text) > 300 or not math.isfinite(number := float(text)):
            raise ValueError("a finite number of at most 300 digits; text goes in quotes")
        return int(text) if text.lstrip("-").isdecimal() else number
    if NOT_JSON.fullmatch(text):
        raise ValueError(f"true, false, null or a number, not {text}; text goes in quotes")
    return text

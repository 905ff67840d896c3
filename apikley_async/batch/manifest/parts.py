"""What a reader of any format yields: films, defaults, faults and remarks, each with its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import attrs

from apikley_async.batch.manifest.film_record import FilmRecord

__all__ = [
    "DEEPEST",
    "AnnotatedDict",
    "FilmDefaults",
    "ManifestFault",
    "ManifestPart",
    "ManifestRemark",
]

DEEPEST = 32  # levels of a document


@attrs.frozen
class ManifestFault:
    """What is wrong at a place after which reading can go on."""

    message: str


@attrs.frozen
class ManifestRemark:
    """What is not wrong, but should be known before anything is paid."""

    message: str


@attrs.frozen
class FilmDefaults:
    """Fields of every film that does not give its own."""

    file: str
    fields: Mapping[str, Any]


ManifestPart: TypeAlias = FilmRecord | FilmDefaults | ManifestFault | ManifestRemark


class AnnotatedDict(dict[str, Any]):
    """A mapping with what its format knows about it beside its values.

    Attributes:
        line: the line that it begins in; 0 when unknown.
        broken: whether a value in it could not be read, which was reported.
        duplicates: the names that were given more than once.
    """

    line: int = 0
    broken: bool = False
    duplicates: tuple[str, ...] = ()

"""TOML manifests: films stand under `[[films]]`."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from typing import Any, BinaryIO

from apikley_async.batch.manifest.document import read_document, with_lines_of
from apikley_async.batch.manifest.parts import DEEPEST, ManifestPart
from apikley_async.batch.manifest.text import read_whole
from apikley_async.errors import ManifestError

__all__ = ["read_toml"]

# A string or a comment, whether it is closed or not.
STRING_OR_COMMENT = re.compile(
    r"""\"{3}(?:[^"\\]|\\.|"(?!""))*+"{0,5}+|'{3}(?:[^']|'(?!''))*+'{0,5}+"""
    r"""|"(?:[^"\\\n]|\\.)*+"?+|'[^'\n]*+'?+|\#[^\n]*+""",
    re.DOTALL,
)
# A dotted name of many parts: `tomllib` needs time and memory for the square of their number
# (64 KB of it took 4 GB), so it is refused before the text is parsed.
DEEP_NAME = re.compile(rf"(?<![\w-])[\w-]++(?:[ \t]*+\.[ \t]*+[\w-]++){{{DEEPEST}}}")
FILM_HEADER = re.compile(
    r"""(?P<film>^[ \t]*\[\[[ \t]*(?:films|"films"|'films')[ \t]*\]\])|"""
    f"{STRING_OR_COMMENT.pattern}",
    re.DOTALL | re.MULTILINE,
)


def read_toml(file: BinaryIO, name: str) -> Iterator[ManifestPart]:
    """Read one TOML document; each film is reported with the line of its header."""
    text = read_whole(file, name)
    if DEEP_NAME.search(STRING_OR_COMMENT.sub("x", text)):
        raise ManifestError([f"{name}: at most {DEEPEST} levels deep"])
    try:
        document = tomllib.loads(text)
    except RecursionError:
        raise ManifestError([f"{name}: at most {DEEPEST} levels deep"]) from None
    except tomllib.TOMLDecodeError as exc:
        raise ManifestError([f"{name}: TOML: {exc}"]) from None
    except ValueError as exc:  # a number of thousands of digits, or a date that does not exist
        raise ManifestError([f"{name}: TOML: {str(exc)[:80]}"]) from None
    yield from read_document(_with_lines(text, document), name)


def _with_lines(text: str, document: dict[str, Any]) -> dict[str, Any]:
    films = document.get("films")
    if not isinstance(films, list):
        return document
    starts = [found.start() for found in FILM_HEADER.finditer(text) if found["film"]]
    located: dict[str, Any] = with_lines_of(document, films, text, starts)
    return located

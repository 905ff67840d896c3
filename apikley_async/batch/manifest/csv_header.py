"""The header line of a CSV manifest: which columns it has, and what separates them."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from apikley_async._text import describe_value
from apikley_async.batch.manifest.document import plain_value
from apikley_async.batch.manifest.fields import FIELDS
from apikley_async.errors import ManifestError

__all__ = ["COLUMNS_OF_FILM", "NUMBER_COLUMNS", "CsvHeader", "column_letters", "read_header"]

COLUMNS = ("key", "scene", "duration", "film_duration", "aspect_ratio", "image")
REQUIRED_COLUMNS = ("scene", "duration")
COLUMNS_OF_FILM = ("film_duration", "aspect_ratio", "image")
NUMBER_COLUMNS = ("duration", "film_duration")
FIELDS_ELSEWHERE = (*FIELDS, "films", "defaults", "input", "images")  # in other formats
SEPARATORS = ",;\t"
MISSPELT = 2  # letters by which a misspelt name differs at most
MOST_COLUMNS = 1000
LONGEST_NAME = 200
SEPARATOR_LINE = re.compile(r'"?sep=([,;\t])"?\s*', re.IGNORECASE)  # how Excel names it
IGNORED_IN_NAMES = re.compile(r"[\s_\-]+")


@attrs.frozen
class CsvHeader:
    """The columns of a table.

    Attributes:
        separator: stands between two cells.
        fields: the index of each column that is a field.
        metadata: the name of each other column, by its index.
        width: how many columns there are.
        lines_above: lines of the file up to the header, included.
        rows_above: rows of the spreadsheet up to the header, included.
    """

    separator: str
    fields: Mapping[str, int]
    metadata: Mapping[int, str]
    width: int
    lines_above: int
    rows_above: int

    def letters_of(self, field: str) -> str:
        """The column of a field as spreadsheets name it."""
        return column_letters(self.fields[field])

    def parse_number(self, cell: str) -> Any:
        """A cell as a number where it looks like one; with decimal commas unless they separate.

        Raises:
            ValueError: it looks like a number and is none.
        """
        decimal = cell if self.separator == "," else re.sub(r"(?<=[0-9]),(?=[0-9])", ".", cell)
        return plain_value(decimal.strip())


def read_header(lines: Iterator[tuple[int, str]], name: str) -> CsvHeader | None:
    """Read the header from the first of the numbered *lines* that is not blank; None without one.

    Raises:
        ManifestError: columns are missing, doubled or misspelt; with the line.
    """
    given, rows_above = "", 0
    for number, text in lines:
        if not text.strip(" \t,;\r\n\"'"):
            rows_above += 1
            continue
        if not given and (found := SEPARATOR_LINE.fullmatch(text)):
            given = found[1]  # no row of the spreadsheet
            continue
        separator = given or separator_of(text)
        names = _names_in(text, separator, name, number)
        fields, metadata, faults = _sorted_columns(names)
        missing = [each for each in REQUIRED_COLUMNS if each not in fields]
        if missing and not faults:
            fault = f"missing: {', '.join(missing)}"
            if separator == "," and not fields and "|" in text:
                fault += "; commas, semicolons or tabs between them, not '|'"
            faults.append(fault)
        if faults:
            raise _header_error(name, number, faults[:10])
        return CsvHeader(separator, fields, metadata, len(names), number, rows_above + 1)
    return None


def _names_in(text: str, separator: str, name: str, number: int) -> list[str]:
    try:
        names = next(csv.reader([text], strict=True, delimiter=separator), [])
    except csv.Error:
        fault = "names in one line, in quotes that are closed"
        raise _header_error(name, number, [fault]) from None
    if len(names) > MOST_COLUMNS:
        raise _header_error(name, number, [f"at most {MOST_COLUMNS} columns"])
    return names


def _sorted_columns(names: Sequence[str]) -> tuple[dict[str, int], dict[int, str], list[str]]:
    """The columns that are fields, the others, and what is wrong with the names."""
    fields: dict[str, int] = {}
    metadata: dict[int, str] = {}
    faults: list[str] = []
    times = Counter(map(plain_name, names))
    for index, name in enumerate(names):
        if not name.strip():
            continue
        field = next((each for each in COLUMNS if is_same_name(each, name)), None)
        if times[plain_name(name)] > 1:
            faults.append(f"column {column_letters(index)}: {describe_value(name)} is given twice")
        elif field is not None:
            fields[field] = index
        elif fault := misspelling(name):
            faults.append(f"column {column_letters(index)}: {fault}")
        else:
            metadata[index] = name.strip()
    return fields, metadata, faults


def _header_error(name: str, number: int, faults: Sequence[str]) -> ManifestError:
    rule = f"the columns {','.join(COLUMNS)}, each once; scene and duration always"
    return ManifestError([f"{name}, line {number}: {rule}; {'; '.join(faults)}"])


def separator_of(text: str) -> str:
    """The separator that gives the most known columns; of several, the one that is most often."""

    def known(separator: str) -> tuple[int, int]:
        names = [name.strip('"') for name in text.split(separator)]
        return sum(any(is_same_name(each, name) for each in COLUMNS) for name in names), len(names)

    return max(SEPARATORS, key=known)


def plain_name(name: str) -> str:
    """A column's name without case, blanks, hyphens and underscores."""
    return IGNORED_IN_NAMES.sub("", name[:LONGEST_NAME]).casefold()


def is_same_name(one: str, other: str) -> bool:
    return plain_name(one) == plain_name(other)


def misspelling(name: str) -> str:
    """Why a column of that name cannot be metadata; empty when it can."""
    given = describe_value(name)
    if any(is_same_name(field, name) for field in FIELDS_ELSEWHERE):
        return f"{given}: a CSV has no such column; YAML, JSON and TOML have that field"
    word = plain_name(name)
    for column in COLUMNS:
        if edit_distance(plain_name(column), word) <= MISSPELT:
            return f"{given}: perhaps {column} is meant; a note has a name less like it"
    return ""


def edit_distance(one: str, other: str) -> int:
    """How many letters have to be added, removed or changed (Levenshtein), as far as it matters.

    `difflib` would give a ratio, and the rule promised to users counts letters.
    """
    if abs(len(one) - len(other)) > MISSPELT:
        return MISSPELT + 1
    row: list[int] = [*range(len(other) + 1)]
    for number, letter in enumerate(one, start=1):
        before, row = row, [number]
        for index, there in enumerate(other):
            row.append(min(before[index] + (letter != there), before[index + 1] + 1, row[-1] + 1))
    return row[-1]


def column_letters(index: int) -> str:
    """A column as spreadsheets name it: A, B, ..., Z, AA, ..."""
    letters, index = "", index + 1
    while index:
        index, letter = divmod(index - 1, 26)
        letters = chr(ord("A") + letter) + letters
    return letters

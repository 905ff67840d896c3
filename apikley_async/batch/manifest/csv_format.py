"""CSV manifests, as spreadsheets save them: a header line, then one row for each shot.

Cells are separated by comma, semicolon or tab, as the header line is. Lines may end with LF, CR LF
or CR. Case and blanks in column names do not count. Text is taken as it is. Other columns are
metadata, unless their name is so near to one of ours that it may be a misspelling.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import attrs

from apikley_async._text import describe_value
from apikley_async.batch.manifest.csv_header import (
    COLUMNS_OF_FILM,
    NUMBER_COLUMNS,
    CsvHeader,
    column_letters,
    read_header,
)
from apikley_async.batch.manifest.film_record import FilmRecord
from apikley_async.batch.manifest.parts import ManifestFault, ManifestPart, ManifestRemark
from apikley_async.batch.manifest.text import LONGEST_LINE, decode
from apikley_async.batch.manifest.work_fields import MOST_SHOTS
from apikley_async.errors import ManifestError

__all__ = ["read_csv"]

ALIASES = {"duration": "film_duration"}  # fields whose column has another name
MOST_NAMED = 20  # columns in one remark
CHUNK = 64 * 1024
SHOT_FIELD = re.compile(r"shots\[([0-9]+)\]\.(scene|duration)")


@attrs.define
class CsvFilm:
    """A film of which some rows were read.

    Attributes:
        start: the line of its first row.
        first: the cells of its first row, by column.
        fields: its fields; shots are added row by row.
        metadata: its other columns.
        rows: line and row of each of its shots.
    """

    start: int
    first: Mapping[str, str]
    fields: dict[str, Any]
    metadata: dict[str, Any] = attrs.field(factory=dict)
    rows: list[tuple[int, int]] = attrs.field(factory=list)


def read_csv(file: BinaryIO, name: str) -> Iterator[ManifestPart]:
    """Read one shot a row; the rows of a film stand together and share their key."""
    try:
        yield from _CsvReader(file, name).films()
    except csv.Error as exc:
        raise ManifestError([f"{name}: CSV: {exc}"]) from None


class _CsvReader:
    """One reading of a table: its lines, its header, and the film whose rows are collected."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._name = name
        self._lines = _numbered_lines(file, name)
        self._nameless: set[int] = set()  # columns without a name that hold text
        self._film: CsvFilm | None = None

    def films(self) -> Iterator[ManifestPart]:
        header = read_header(self._lines, self._name)
        if header is None:
            raise ManifestError([f"{self._name}: no film in it"])
        if header.metadata:
            names = ", ".join(map(describe_value, [*header.metadata.values()][:MOST_NAMED]))
            yield ManifestRemark(
                f"{self._name}: columns taken as notes, which are not sent: {names}"
            )
        for line, row, cells in self._rows(header):
            yield from self._row(header, line, row, cells)
        yield from self._finished_film(header)
        if self._nameless:
            letters = ", ".join(map(column_letters, sorted(self._nameless)[:MOST_NAMED]))
            yield ManifestRemark(
                f"{self._name}: columns without a name, whose text is ignored: {letters}"
            )

    def _rows(self, header: CsvHeader) -> Iterator[tuple[int, int, list[str]]]:
        """Line, row and cells of each row that is not blank.

        Rows are counted as a spreadsheet does; a cell may hold several lines.
        """
        texts = (text for _, text in self._lines)
        rows = csv.reader(texts, strict=True, delimiter=header.separator)
        row = header.rows_above
        while True:
            line = header.lines_above + rows.line_num + 1
            try:
                cells = next(rows)
            except StopIteration:
                return
            except csv.Error as exc:
                rule = "a quote is not closed" if "unexpected end" in str(exc) else str(exc)
                raise ManifestError([f"{self._name}, line {line}: CSV: {rule}"]) from None
            row += 1
            if any(map(str.strip, cells)):
                yield line, row, cells

    def _row(
        self, header: CsvHeader, line: int, row: int, cells: list[str]
    ) -> Iterator[ManifestPart]:
        yield from (
            ManifestFault(f"{self._name}, line {line}{fault}")
            for fault in row_faults(header, row, cells)
        )
        found = {
            each: cells[index] if each == "scene" else cells[index].strip()
            for each, index in header.fields.items()
            if index < len(cells) and cells[index].strip()
        }
        film = self._film
        if film and ("key" in found) != ("key" in film.first):
            yield ManifestFault(f"{self._name}, line {line}: key: on every row, or on none")
        if not film or "key" not in found or found["key"] != film.first.get("key"):
            yield from self._finished_film(header)
            film = self._film = CsvFilm(line, found, film_fields(header, found))
        else:
            yield from (
                ManifestFault(
                    f"{self._name}, line {line}, cell {header.letters_of(each)}{row}: {each}: "
                    f"as in line {film.start}, or blank"
                )
                for each in COLUMNS_OF_FILM
                if each in found and found[each] != film.first.get(each)
            )
        if len(film.fields["shots"]) <= MOST_SHOTS:  # one too many is enough to report it
            film.fields["shots"].append(
                {"scene": found.get("scene"), "duration": number_in(header, found.get("duration"))}
            )
            film.rows.append((line, row))
            self._add_metadata(header, film, cells)

    def _add_metadata(self, header: CsvHeader, film: CsvFilm, cells: list[str]) -> None:
        """Keep the other columns of a row: one text, or a list where the film's rows differ."""
        for index, cell in enumerate(cells[: header.width]):
            if not (text := cell.strip()):
                continue
            if (name := header.metadata.get(index)) is None:
                if index not in header.fields.values():
                    self._nameless.add(index)
                continue
            before = film.metadata.get(name)
            known = before if isinstance(before, list) else [] if before is None else [before]
            if text not in known:
                film.metadata[name] = [*known, text] if known else text

    def _finished_film(self, header: CsvHeader) -> Iterator[ManifestPart]:
        film, self._film = self._film, None
        if film is None:
            return

        def cell_of(field: str) -> tuple[str, str] | None:
            shot = SHOT_FIELD.fullmatch(field)
            index = int(shot[1]) if shot else 0
            column = shot[2] if shot else ALIASES.get(field, field)
            if column not in header.fields or index >= len(film.rows):
                return None
            line, row = film.rows[index]
            return f"{self._name}, line {line}, cell {header.letters_of(column)}{row}", column

        yield FilmRecord(
            self._name, "line", film.start, film.fields, ALIASES, cell_of, metadata=film.metadata
        )


# --- bytes into lines ---------------------------------------------------------------------------


def _numbered_lines(file: BinaryIO, name: str) -> Iterator[tuple[int, str]]:
    """Number and text of each line, ended by LF, CR LF or CR."""
    for number, raw in enumerate(_raw_lines(file, name), start=1):
        yield number, decode(raw, name, number)


def _raw_lines(file: BinaryIO, name: str) -> Iterator[bytes]:
    rest, number = b"", 0
    while chunk := file.read(CHUNK):
        lines = (rest + chunk).splitlines(keepends=True)
        # A CR at the end of the chunk may be the first half of a CR LF.
        rest = b"" if lines[-1].endswith(b"\n") else lines.pop()
        for line in lines:
            number += 1
            yield _within_bound(line, name, number)
        _within_bound(rest, name, number + 1)
    if rest:
        yield rest


def _within_bound(line: bytes, name: str, number: int) -> bytes:
    if len(line) > LONGEST_LINE:
        raise ManifestError([f"{name}, line {number}: at most a million bytes in a line"])
    return line


# --- cells --------------------------------------------------------------------------------------


def row_faults(header: CsvHeader, row: int, cells: list[str]) -> Iterator[str]:
    """Yield what is wrong with a row itself; the rules of a film are checked with the film."""
    if len(cells) > header.width:
        yield (
            f": {header.width} cells as in the line of names, not {len(cells)}; a text with "
            f"{header.separator!r} in it goes in quotes"
        )
    # Spreadsheets leave out blank cells at the end of a row. Columns that a film may leave out may
    # be missing there, others may not.
    missing = [each for each, index in header.fields.items() if index >= len(cells)]
    if lost := [each for each in missing if each not in COLUMNS_OF_FILM]:
        rule = f": {header.width} cells as in the line of names, not {len(cells)}"
        yield f"{rule}; {', '.join(lost)} is missing"
    for each in NUMBER_COLUMNS:
        index = header.fields.get(each, len(cells))
        if index < len(cells):
            try:
                header.parse_number(cells[index])
            except ValueError as exc:
                yield f", cell {column_letters(index)}{row}: {each}: {exc}"


def film_fields(header: CsvHeader, found: Mapping[str, str]) -> dict[str, Any]:
    """The fields of a film from its first row, without its shots."""
    fields: dict[str, Any] = {
        each: found[each] for each in ("key", "aspect_ratio", "image") if each in found
    }
    if "film_duration" in found:
        fields["duration"] = number_in(header, found["film_duration"])
    return {**fields, "shots": []}


def number_in(header: CsvHeader, cell: str | None) -> Any:
    """A cell as a number. Where it is none, row_faults reports it, and any valid value will do."""
    try:
        return None if cell is None else header.parse_number(cell)
    except ValueError:
        return 10

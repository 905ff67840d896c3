"""CSV manifests, as spreadsheets save them: one row a shot, with a line of names first.

Comma, semicolon or tab, as the names are separated; line ends of any kind; names without regard
to case and blanks. Text is taken as it is. A column of another name is a note, unless its name
is so near to one of ours that it may be meant for it.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import attrs

from apikley_async.batch.manifest.fields import FIELDS, MOST_SHOTS, Record, shown
from apikley_async.batch.manifest.formats import (
    LONGEST_LINE,
    Fault,
    Found,
    Remark,
    plain_value,
    text_of,
)
from apikley_async.errors import ManifestError

__all__ = ["read_csv"]

COLUMNS = ("key", "scene", "duration", "film_duration", "aspect_ratio", "image")
ALWAYS = ("scene", "duration")
OF_FILM = ("film_duration", "aspect_ratio", "image")
NUMBERS = ("duration", "film_duration")
IN_CSV = {"duration": "film_duration"}
SEPARATORS = ",;\t"
NEAR = 2  # letters
MOST_COLUMNS = 1000
LONGEST_NAME = 200
CHUNK = 64 * 1024
SEPARATED = re.compile(r'"?sep=([,;\t])"?\s*', re.IGNORECASE)  # how Excel names the separator
SHOT = re.compile(r"shots\[([0-9]+)\]\.(scene|duration)")
PAUSES = re.compile(r"[\s_\-]+")


@attrs.frozen
class Header:
    """What the columns of a table are: ours by their index, and those that are notes.

    Attributes:
        separator: between the cells.
        ours: the index of each of our columns.
        notes: the name of each column that is a note, by its index.
        width: how many columns there are.
    """

    separator: str
    ours: Mapping[str, int]
    notes: Mapping[int, str]
    width: int

    def number(self, cell: str) -> Any:
        """A cell as a number, where it looks like one."""
        decimal = cell if self.separator == "," else re.sub(r"(?<=[0-9]),(?=[0-9])", ".", cell)
        return plain_value(decimal.strip())


@attrs.define
class Film:
    """A film of which rows were read: its fields, its notes, and where they stand."""

    start: int
    first: Mapping[str, str]
    fields: dict[str, Any]
    notes: dict[str, Any] = attrs.field(factory=dict)
    rows: list[tuple[int, int]] = attrs.field(factory=list)


def read_csv(file: BinaryIO, name: str) -> Iterator[Found]:
    """One row a shot; the rows of a film stand together and share their key."""
    try:
        yield from _Table(file, name).films()
    except csv.Error as exc:
        raise ManifestError([f"{name}: CSV: {exc}"]) from None


class _Table:
    """One reading of a table: where it is, what its columns are, and the film being gathered."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._name = name
        self._lines = _texts(file, name)
        self._hidden = 0  # lines and rows above those of the reader
        self._skipped = 0
        self._nameless: set[int] = set()
        self._film: Film | None = None

    def films(self) -> Iterator[Found]:
        header = self._header()
        if header is None:
            raise ManifestError([f"{self._name}: no film in it"])
        if header.notes:
            named = ", ".join(map(shown, [*header.notes.values()][:20]))
            yield Remark(f"{self._name}: columns taken as notes, which are not sent: {named}")
        for line, row, cells in self._rows(header.separator):
            yield from self._row(header, line, row, cells)
        yield from self._ended(header)
        if self._nameless:
            letters = ", ".join(map(column, sorted(self._nameless)[:20]))
            yield Remark(f"{self._name}: columns without a name, whose text is ignored: {letters}")

    # --- the line of names ----------------------------------------------------------------------

    def _header(self) -> Header | None:
        """The columns, from the first line that is not blank."""
        given = ""
        for number, text in self._lines:
            if not text.strip(" \t,;\r\n\"'"):
                self._hidden, self._skipped = number, self._skipped + 1
                continue
            if not given and (found := SEPARATED.fullmatch(text)):
                given, self._hidden = found[1], number
                continue
            self._hidden, self._skipped = number, self._skipped + 1
            return self._columns(text, given or separator_of(text))
        return None

    def _columns(self, text: str, separator: str) -> Header:
        try:
            names = next(csv.reader([text], strict=True, delimiter=separator), [])
        except csv.Error:
            raise self._refused(["names in one line, in quotes that are closed"]) from None
        if len(names) > MOST_COLUMNS:
            raise self._refused([f"at most {MOST_COLUMNS} columns"])
        ours: dict[str, int] = {}
        notes: dict[int, str] = {}
        faults = []
        times = Counter(map(plain_name, names))
        for index, named in enumerate(names):
            if not named.strip():
                continue
            known = next((ours_ for ours_ in COLUMNS if same(ours_, named)), None)
            if times[plain_name(named)] > 1:
                faults.append(f"column {column(index)}: {shown(named)} stands there twice")
            elif known is not None:
                ours[known] = index
            elif told := mistaken(named):
                faults.append(f"column {column(index)}: {told}")
            else:
                notes[index] = named.strip()
        missing = [each for each in ALWAYS if each not in ours]
        if missing and not faults:
            told = f"missing: {', '.join(missing)}"
            if separator == "," and not ours and "|" in text:
                told += "; commas, semicolons or tabs between them, not '|'"
            faults.append(told)
        if faults:
            raise self._refused(faults[:10])
        return Header(separator, ours, notes, len(names))

    def _refused(self, faults: Sequence[str]) -> ManifestError:
        told = f"the columns {','.join(COLUMNS)}, each once; scene and duration always"
        return ManifestError([f"{self._name}, line {self._hidden}: {told}; {'; '.join(faults)}"])

    # --- the rows -------------------------------------------------------------------------------

    def _rows(self, separator: str) -> Iterator[tuple[int, int, list[str]]]:
        """Line, row and cells of each row that is not blank.

        Rows are counted as a spreadsheet does, where a cell may hold several lines.
        """
        rows = csv.reader((text for _, text in self._lines), strict=True, delimiter=separator)
        row = self._skipped
        while True:
            line = self._hidden + rows.line_num + 1
            try:
                cells = next(rows)
            except StopIteration:
                return
            except csv.Error as exc:
                told = "a quote is not closed" if "unexpected end" in str(exc) else str(exc)
                raise ManifestError([f"{self._name}, line {line}: CSV: {told}"]) from None
            row += 1
            if any(map(str.strip, cells)):
                yield line, row, cells

    def _row(self, header: Header, line: int, row: int, cells: list[str]) -> Iterator[Found]:
        yield from (
            Fault(f"{self._name}, line {line}{told}") for told in row_faults(header, row, cells)
        )
        found = {
            each: cells[index] if each == "scene" else cells[index].strip()
            for each, index in header.ours.items()
            if index < len(cells) and cells[index].strip()
        }
        film = self._film
        if film and ("key" in found) != ("key" in film.first):
            yield Fault(f"{self._name}, line {line}: key: on every row, or on none")
        if not film or "key" not in found or found["key"] != film.first.get("key"):
            yield from self._ended(header)
            film = self._film = Film(line, found, film_fields(header, found))
        else:
            yield from (
                Fault(
                    f"{self._name}, line {line}, cell {column(header.ours[each])}{row}: {each}: "
                    f"as in line {film.start}, or blank"
                )
                for each in OF_FILM
                if each in found and found[each] != film.first.get(each)
            )
        if len(film.fields["shots"]) <= MOST_SHOTS:  # one too many is enough to be told so
            film.fields["shots"].append(
                {"scene": found.get("scene"), "duration": number(header, found.get("duration"))}
            )
            film.rows.append((line, row))
            self._note(header, film, cells)

    def _note(self, header: Header, film: Film, cells: list[str]) -> None:
        """Keep what stands beside a film: one text, or all that differ."""
        for index, cell in enumerate(cells[: header.width]):
            if not (text := cell.strip()):
                continue
            if (named := header.notes.get(index)) is None:
                if index not in header.ours.values():
                    self._nameless.add(index)
                continue
            before = film.notes.get(named)
            known = before if isinstance(before, list) else [] if before is None else [before]
            if text not in known:
                film.notes[named] = [*known, text] if known else text

    def _ended(self, header: Header) -> Iterator[Found]:
        film, self._film = self._film, None
        if film is None:
            return

        def cells(path: str) -> tuple[str, str] | None:
            shot = SHOT.fullmatch(path)
            index = int(shot[1]) if shot else 0
            named = shot[2] if shot else IN_CSV.get(path, path)
            if named not in header.ours or index >= len(film.rows):
                return None
            line, row = film.rows[index]
            return f"{self._name}, line {line}, cell {column(header.ours[named])}{row}", named

        yield Record(self._name, "line", film.start, film.fields, IN_CSV, cells, notes=film.notes)


# --- bytes into lines ---------------------------------------------------------------------------


def _texts(file: BinaryIO, name: str) -> Iterator[tuple[int, str]]:
    """Number and text of each line, whatever ends it: CR LF, LF or CR."""
    for number, raw in enumerate(_raw_lines(file, name), start=1):
        yield number, text_of(raw, name, number)


def _raw_lines(file: BinaryIO, name: str) -> Iterator[bytes]:
    rest, number = b"", 0
    while chunk := file.read(CHUNK):
        lines = (rest + chunk).splitlines(keepends=True)
        # A CR at the end may be half of a line end.
        rest = b"" if lines[-1].endswith(b"\n") else lines.pop()
        for line in lines:
            number += 1
            yield _bounded(line, name, number)
        _bounded(rest, name, number + 1)
    if rest:
        yield rest


def _bounded(line: bytes, name: str, number: int) -> bytes:
    if len(line) > LONGEST_LINE:
        raise ManifestError([f"{name}, line {number}: at most a million bytes in a line"])
    return line


# --- names of columns ---------------------------------------------------------------------------


def separator_of(text: str) -> str:
    """What separates the names: what gives the most of ours; otherwise what there is most of."""

    def known(separator: str) -> tuple[int, int]:
        names = [name.strip('"') for name in text.split(separator)]
        return sum(any(same(ours, name) for ours in COLUMNS) for name in names), len(names)

    return max(SEPARATORS, key=known)


def plain_name(name: str) -> str:
    """A column's name without what people spell differently."""
    return PAUSES.sub("", name[:LONGEST_NAME]).casefold()


def same(ours: str, name: str) -> bool:
    return plain_name(ours) == plain_name(name)


def mistaken(name: str) -> str:
    """Why a column of that name is no note; nothing where it is one."""
    if any(same(field, name) for field in (*FIELDS, "films", "defaults", "input", "images")):
        return f"{shown(name)}: a CSV has no such column; YAML, JSON and TOML have that field"
    word = plain_name(name)
    for ours in COLUMNS:
        if distance(plain_name(ours), word) <= NEAR:
            return f"{shown(name)}: perhaps {ours} is meant; a note has a name less like it"
    return ""


def distance(one: str, other: str) -> int:
    """How many letters have to be added, removed or changed; far words are just far."""
    if abs(len(one) - len(other)) > NEAR:
        return NEAR + 1
    row: list[int] = [*range(len(other) + 1)]
    for number, letter in enumerate(one, start=1):
        before, row = row, [number]
        for index, there in enumerate(other):
            row.append(min(before[index] + (letter != there), before[index + 1] + 1, row[-1] + 1))
    return row[-1]


def column(index: int) -> str:
    """A column as spreadsheets call it: A, B, ..., Z, AA, ..."""
    letters, index = "", index + 1
    while index:
        index, letter = divmod(index - 1, 26)
        letters = chr(ord("A") + letter) + letters
    return letters


# --- cells --------------------------------------------------------------------------------------


def row_faults(header: Header, row: int, cells: list[str]) -> Iterator[str]:
    """What is wrong with a row as such; what its film makes of it comes with the film."""
    if len(cells) > header.width:
        yield (
            f": {header.width} cells as in the line of names, not {len(cells)}; a text with "
            f"{header.separator!r} in it goes in quotes"
        )
    # What a film may leave out, spreadsheets leave out at the end of a row too.
    cut = [each for each, index in header.ours.items() if index >= len(cells)]
    if lost := [each for each in cut if each not in OF_FILM]:
        told = f": {header.width} cells as in the line of names, not {len(cells)}"
        yield f"{told}; {', '.join(lost)} is missing"
    for each in NUMBERS:
        index = header.ours.get(each, len(cells))
        if index < len(cells):
            try:
                header.number(cells[index])
            except ValueError as exc:
                yield f", cell {column(index)}{row}: {each}: {exc}"


def film_fields(header: Header, found: Mapping[str, str]) -> dict[str, Any]:
    """The fields of a film from its first row."""
    fields: dict[str, Any] = {
        each: found[each] for each in ("key", "aspect_ratio", "image") if each in found
    }
    if "film_duration" in found:
        fields["duration"] = number(header, found["film_duration"])
    return {**fields, "shots": []}


def number(header: Header, cell: str | None) -> Any:
    try:
        return None if cell is None else header.number(cell)
    except ValueError:
        return 10  # what is wrong with it is told with its row

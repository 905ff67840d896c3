"""Manifests: which films a file asks for, checked whole before anything is planned.

What surprises (tags, aliases, names that stand twice, NaN, other encodings) is a fault with its
place, never a guess. JSON lines and CSV are read as they stream; the others whole, up to 64 MB.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import attrs

from apikley_async._disk import max_name_bytes, open_nonblocking
from apikley_async.batch.manifest.csv_format import read_csv
from apikley_async.batch.manifest.fields import (
    MOST_FAULTS,
    Record,
    defaults_of,
    encodes,
    entries_of,
    folded,
    image_digest,
    keys_of,
    name_fault,
    unfetched,
)
from apikley_async.batch.manifest.formats import (
    LARGEST,
    Defaults,
    Fault,
    Found,
    Remark,
    read_json,
    read_lines,
    read_toml,
)
from apikley_async.batch.manifest.yaml_format import read_yaml
from apikley_async.batch.store.protocol import Entry
from apikley_async.errors import ManifestConflictError, ManifestError, StoryboardError

__all__ = ["Survey", "check", "entries_in", "film_in", "is_manifest", "survey"]

READERS: Mapping[str, Callable[[BinaryIO, str], Iterator[Found]]] = {
    ".yaml": read_yaml,
    ".yml": read_yaml,
    ".jsonl": read_lines,
    ".ndjson": read_lines,
    ".json": read_json,
    ".toml": read_toml,
    ".csv": read_csv,
}
STREAMED = (read_lines, read_csv)
CLOSE = 0.05  # seconds: what rounding may leave of a film
MOST_NAMED = 3


def is_manifest(path: str | os.PathLike[str]) -> bool:
    """Say whether a file is called like a manifest: by its suffix, whatever is in it."""
    return Path(path).suffix.lower() in READERS


@attrs.frozen
class Survey:
    """What a manifest is, before anything of it is paid.

    Attributes:
        faults: what is wrong with it, up to 100; it can be planned only where there are none.
        remarks: what is not wrong, but should be known before paying: columns that are taken as
            notes, shots that do not fill their film, image URLs of this machine or of a private
            network, which the service cannot fetch.
        films: how many films it asks for, all takes counted.
        shots: how many shots they have; tasks of other models have none.
        seconds: how long the storyboards are in all.
    """

    faults: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    films: int = 0
    shots: int = 0
    seconds: int = 0


def survey(
    path: str | os.PathLike[str], *, allow_duplicates: bool = False, allow_outside: bool = False
) -> Survey:
    """Read a manifest to its end, images included, and say what it is.

    Nothing is planned or sent. It blocks, for as long as reading the files takes. A key whose
    film's name is too long for the disk of the manifest is a fault too.

    Raises:
        MissingExtraError: it is YAML, and PyYAML is not installed.
    """
    reading = _Reading(Path(path), allow_duplicates=allow_duplicates, allow_outside=allow_outside)
    most = max_name_bytes(reading.path.parent)
    faults: Sequence[str] = ()
    names: list[str] = []
    try:
        for entry in _entries(reading):
            if (fault := name_fault(entry.key, most)) and len(names) < MOST_FAULTS:
                names.append(one_line(f"{entry.where}: key: {fault}"))
    except ManifestError as error:
        faults = error.faults
    return Survey(
        (*(faults or names),), (*reading.remarks(),), reading.takes, reading.shots, reading.seconds
    )


def check(
    path: str | os.PathLike[str], *, allow_duplicates: bool = False, allow_outside: bool = False
) -> list[str]:
    """Say everything that is wrong with a manifest, images included; empty when all is well.

    Up to 100 faults, each with its file, its line or entry, its field and the rule. Nothing is
    planned or sent. It blocks, for as long as reading the files takes.

    Raises:
        MissingExtraError: it is YAML, and PyYAML is not installed.
    """
    found = survey(path, allow_duplicates=allow_duplicates, allow_outside=allow_outside)
    return [*found.faults]


def film_in(
    path: Path, *, takes: int | None = None, remarks: list[str] | None = None
) -> list[Entry]:
    """The takes of the one film that a file describes; without a key it is named after the file.

    Args:
        path: a manifest of one film.
        takes: how many takes there are in all; by default what the film says.
        remarks: takes what should be known before paying; see `Survey`.

    Raises:
        ManifestError: as `entries_in`, and when there is more than one film.
    """
    return [*_entries(_Reading(path, named=True, takes=takes), remarks)]


def entries_in(
    path: Path,
    *,
    allow_duplicates: bool = True,
    allow_outside: bool = False,
    remarks: list[str] | None = None,
) -> Iterator[Entry]:
    """Yield the entries of a manifest; raise at its end if anything in it was wrong.

    Use nothing of it before it has ended without an error; it gives no more entries once
    something was found wrong.

    Args:
        path: what it is follows from its suffix.
        allow_duplicates: whether the same content may stand under two keys.
        allow_outside: whether images may lie outside of the manifest's folder.
        remarks: takes what should be known before paying; see `Survey`.

    Raises:
        ManifestError: with up to 100 faults, each with its place, field and rule.
        ManifestConflictError: all of them are about films that share a key or their content.
    """
    reading = _Reading(path, allow_duplicates=allow_duplicates, allow_outside=allow_outside)
    yield from _entries(reading, remarks)


def _entries(reading: _Reading, remarks: list[str] | None = None) -> Iterator[Entry]:
    try:
        for found in films_of(reading.path):
            yield from reading.entries(found)
            if len(reading.faults) > MOST_FAULTS:
                break
    except ManifestError as error:
        reading.tell(error.faults)
    reading.end()
    if remarks is not None:
        remarks += reading.remarks()


class _Reading:
    """What one reading of a manifest has seen so far: defaults, names, contents, faults.

    Where the file is *named* by a person as one film, it must be one; *takes* are then its own.
    """

    def __init__(
        self,
        path: Path,
        *,
        allow_duplicates: bool = True,
        allow_outside: bool = False,
        named: bool = False,
        takes: int | None = None,
    ) -> None:
        self.path = path
        self.faults: list[str] = []
        self.only_conflicts = True
        self.films = self.takes = self.shots = self.seconds = 0
        self._told: list[str] = []
        self._short: list[str] = []
        self._shorts = 0
        self._named = named
        self._takes = {} if takes is None else {"takes": takes}
        self._defaults: Mapping[str, Any] = {}
        # Marks of names and contents, and the number of the line or film that had them first:
        # 100,000 films take some 20 MB.
        self._names: dict[int, int] = {}
        self._contents: dict[int, int] | None = None if allow_duplicates else {}
        # An image that many films share is read once; never longer than this reading lasts.
        self._digest_of = lru_cache(maxsize=1024)(
            lambda image: image_digest(path.parent, image, allow_outside)
        )

    def entries(self, found: Found) -> list[Entry]:
        """What was found, as entries; none once anything was wrong."""
        if isinstance(found, Fault):
            self.tell([found.told])
            return []
        if isinstance(found, Remark):
            self._told.append(found.told)
            return []
        if isinstance(found, Defaults):
            self._defaults, faults = defaults_of(found.fields, self._digest_of)
            self.tell(f"{found.file}, defaults: {fault}" for fault in faults)
            return []
        self.films += 1
        film = self._called(found)
        if film.broken:
            self.faults += self._names_taken(film, keys_of(film.fields, self._defaults))
            return []
        try:
            entries = entries_of(
                film, self._defaults, base=self.path.parent, digest_of=self._digest_of
            )
        except StoryboardError as error:
            self.tell(map(film.told, error.faults))
            self.faults += self._names_taken(film, keys_of(film.fields, self._defaults))
            return []
        self.faults += self._conflicts(film, entries)
        self._count(film, len(entries))
        return entries if not self.faults else []

    def _count(self, film: Record, takes: int) -> None:
        """Count what a film without faults asks for, and note shots that do not fill it."""
        self.takes += takes
        for place, told in unfetched(film.fields):
            if len(self._told) < MOST_FAULTS:
                self._told.append(film.told(f"{place}: {told}; it would be rejected"))
        if "task" in film.fields:
            return
        usual = {"duration": 15, **self._defaults}
        shots, whole = film.fields["shots"], {**usual, **film.fields}["duration"]
        self.shots += takes * len(shots)
        self.seconds += takes * int(whole)
        lengths = [shot.get("duration") for shot in shots]
        if None in lengths:  # such shots share what the others leave, so the film is full
            return
        filled = sum(lengths)
        if filled >= whole - CLOSE:
            return
        self._shorts += 1
        if self._shorts <= MOST_NAMED:
            self._short.append(f"{film.place_called}, {filled:.4g} of {whole:g} s")

    def remarks(self) -> Iterator[str]:
        """What is not wrong, and should be known before paying."""
        yield from map(one_line, self._told)
        if self._shorts:
            more = f", and {self._shorts - MOST_NAMED} more" if self._shorts > MOST_NAMED else ""
            yield one_line(
                f"{shown_name(self.path)}: the shots do not fill the film, which is paid whole: "
                f"{'; '.join(self._short)}{more}"
            )

    def _called(self, film: Record) -> Record:
        """The film with its key: one that has its file for itself is named after the file."""
        alone = not film.unit or (self._named and self.films == 1)
        fields = {**film.fields, **self._takes}
        if not alone or fields.get("key") is not None:
            return attrs.evolve(film, fields=fields)
        words = {**film.words, "key": "key, here the file's name"}
        return attrs.evolve(film, fields={**fields, "key": self.path.stem}, words=words)

    def end(self) -> None:
        """Raise what was found wrong."""
        name = shown_name(self.path)
        if not self.faults and not self.films:
            raise ManifestError([f"{name}: no film in it"])
        if self._named and self.films > 1:
            self.tell([f"{name}: one film, not {self.films}; apikley batch run makes many"])
        if self.faults:
            kind = ManifestConflictError if self.only_conflicts else ManifestError
            more = ["and more; these come first"] if len(self.faults) > MOST_FAULTS else []
            raise kind([*map(one_line, self.faults[:MOST_FAULTS]), *more])

    def tell(self, faults: Iterable[str]) -> None:
        before = len(self.faults)
        self.faults += faults
        self.only_conflicts &= len(self.faults) == before

    def _names_taken(self, record: Record, keys: Iterable[str]) -> Iterator[str]:
        """Films that would overwrite each other's files."""
        for key in keys:
            mark = mark_of(folded(key))
            if (first := self._names.get(mark)) is None:
                self._names[mark] = record.number
                continue
            yield (
                f"{record.where}: key: {key!r} names the same file as the film at "
                f"{record.place(first)}; the rows of a CSV's film stand together, and "
                "takes: 2 makes two films of one storyboard"
            )

    def _conflicts(self, record: Record, entries: list[Entry]) -> Iterator[str]:
        """Films that would overwrite each other's files, or be paid twice."""
        yield from self._names_taken(record, (entry.key for entry in entries))
        if self._contents is None:
            return
        mark = mark_of(entries[0].digest)
        if (first := self._contents.get(mark)) is None:
            self._contents[mark] = record.number
            return
        yield (
            f"{record.where}: {entries[0].key!r} has the same content as the film at "
            f"{record.place(first)}: it would be paid twice; say takes: 2, or allow duplicates"
        )


def films_of(path: Path) -> Iterator[Found]:
    """Yield what stands in a manifest, as it stands there; the defaults before the films."""
    name = shown_name(path)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise ManifestError([f"{name}: one of {', '.join(READERS)}, not {path.suffix!r}"])
    if "\0" in str(path) or not encodes(str(path.absolute())):
        raise ManifestError([f"{name}: a file and folders with names in Unicode"])
    try:
        with open(path, "rb", opener=open_nonblocking) as file:
            before = os.fstat(file.fileno())
            if not stat.S_ISREG(before.st_mode):
                raise ManifestError([f"{name}: a regular file, not a folder, pipe or device"])
            if before.st_size > LARGEST and reader not in STREAMED:
                told = f"at most 64 MB, not {before.st_size / 1e6:.0f}"
                raise ManifestError([f"{name}: {told}; JSON lines and CSV may be larger"])
            yield from reader(file, name)
            after = os.fstat(file.fileno())
    except OSError as exc:
        raise ManifestError([f"{name}: cannot be read: {exc.strerror}"]) from None
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise ManifestError([f"{name}: it changed while it was read"])


def shown_name(path: Path) -> str:
    """A file's name in a message: one line, whatever it is called."""
    return path.name if path.name.isprintable() and path.name else repr(str(path))


def mark_of(text: str) -> int:
    """A number that stands for a text; two texts of one number are not to be expected."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest())


def one_line(fault: str) -> str:
    """A fault as one printable line, whatever stands in the manifest."""
    told = fault if len(fault) <= 1000 else f"{fault[:997]}..."
    if told.isprintable():
        return told
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in told
    )

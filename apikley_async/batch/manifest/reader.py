"""Manifests: which films a file asks for, checked completely before anything is planned.

What other readers would guess at (tags, aliases, duplicate names, NaN, other encodings) is a fault
with its place. JSON lines and CSV are streamed; the other formats are read whole, up to 64 MB.
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
from apikley_async._text import encodes, escaped_line, fold_name
from apikley_async.batch.keys import file_name_fault
from apikley_async.batch.manifest.csv_format import read_csv
from apikley_async.batch.manifest.fields import (
    check_defaults,
    keys_of_faulty_film,
    make_entries,
    unfetchable_images,
)
from apikley_async.batch.manifest.film_record import FilmRecord
from apikley_async.batch.manifest.image_files import image_digest
from apikley_async.batch.manifest.json_format import read_json, read_json_lines
from apikley_async.batch.manifest.parts import (
    FilmDefaults,
    ManifestFault,
    ManifestPart,
    ManifestRemark,
)
from apikley_async.batch.manifest.text import LARGEST
from apikley_async.batch.manifest.toml_format import read_toml
from apikley_async.batch.manifest.work_fields import MOST_FAULTS
from apikley_async.batch.manifest.yaml_format import read_yaml
from apikley_async.batch.store.values import ManifestEntry
from apikley_async.errors import ManifestConflictError, ManifestError, StoryboardError

__all__ = [
    "ManifestSummary",
    "check_manifest",
    "is_manifest",
    "read_film_file",
    "read_manifest",
    "summarize_manifest",
]

READERS: Mapping[str, Callable[[BinaryIO, str], Iterator[ManifestPart]]] = {
    ".yaml": read_yaml,
    ".yml": read_yaml,
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".json": read_json,
    ".toml": read_toml,
    ".csv": read_csv,
}
STREAMED = (read_json_lines, read_csv)
ROUNDING = 0.05  # seconds that may be missing in a film whose shots fill it
MOST_NAMED = 3


def is_manifest(path: str | os.PathLike[str]) -> bool:
    """Say whether a file has the suffix of a manifest, whatever is in it."""
    return Path(path).suffix.lower() in READERS


@attrs.frozen
class ManifestSummary:
    """What a manifest asks for, before anything of it is paid.

    Attributes:
        faults: what is wrong with it, up to 100; with any of them it cannot be planned.
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


def summarize_manifest(
    path: str | os.PathLike[str], *, allow_duplicates: bool = False, allow_outside: bool = False
) -> ManifestSummary:
    """Read a manifest to its end, images included, and say what it asks for.

    Nothing is planned or sent. It blocks for as long as reading the files takes. A key that gives
    a file name too long for the disk of the manifest is a fault too.

    Args:
        path: a `.yaml`, `.json`, `.jsonl`, `.toml` or `.csv` file.
        allow_duplicates: whether the same content may be made under two keys.
        allow_outside: whether images may lie outside of the manifest's folder.

    Raises:
        MissingExtraError: it is YAML, and PyYAML is not installed.
    """
    reading = _Reading(Path(path), allow_duplicates=allow_duplicates, allow_outside=allow_outside)
    most = max_name_bytes(reading.path.parent)
    faults: Sequence[str] = ()
    long_names: list[str] = []
    try:
        for entry in _entries(reading):
            if (fault := file_name_fault(entry.key, most)) and len(long_names) < MOST_FAULTS:
                long_names.append(escaped_line(f"{entry.where}: key: {fault}"))
    except ManifestError as error:
        faults = error.faults
    return ManifestSummary(
        (*(faults or long_names),),
        (*reading.remarks(),),
        reading.takes,
        reading.shots,
        reading.seconds,
    )


def check_manifest(
    path: str | os.PathLike[str], *, allow_duplicates: bool = False, allow_outside: bool = False
) -> list[str]:
    """List everything that is wrong with a manifest, images included; empty when all is well.

    Up to 100 faults, each with its file, its line or film, its field and the rule. Nothing is
    planned or sent. It blocks for as long as reading the files takes.

    Args:
        path: a `.yaml`, `.json`, `.jsonl`, `.toml` or `.csv` file.
        allow_duplicates: whether the same content may be made under two keys.
        allow_outside: whether images may lie outside of the manifest's folder.

    Raises:
        MissingExtraError: it is YAML, and PyYAML is not installed.
    """
    found = summarize_manifest(path, allow_duplicates=allow_duplicates, allow_outside=allow_outside)
    return [*found.faults]


def read_film_file(
    path: Path, *, takes: int | None = None, remarks: list[str] | None = None
) -> list[ManifestEntry]:
    """The takes of the one film in a file; without a key the film is named after the file.

    Args:
        path: a manifest of one film.
        takes: how many takes there are in all; by default what the film says.
        remarks: a list that gets what should be known before paying.

    Raises:
        ManifestError: as `read_manifest`, and when there is more than one film.
    """
    return [*_entries(_Reading(path, one_film=True, takes=takes), remarks)]


def read_manifest(
    path: Path,
    *,
    allow_duplicates: bool = True,
    allow_outside: bool = False,
    remarks: list[str] | None = None,
) -> Iterator[ManifestEntry]:
    """Yield the entries of a manifest, and raise at its end if anything in it is wrong.

    So no entry may be used before the iteration has ended without an error. No more entries are
    yielded once something is wrong.

    Args:
        path: the manifest; its format follows from its suffix.
        allow_duplicates: whether the same content may be made under two keys.
        allow_outside: whether images may lie outside of the manifest's folder.
        remarks: a list that gets what should be known before paying.

    Raises:
        ManifestError: with up to 100 faults, each with its place, field and rule.
        ManifestConflictError: all faults are about films that share a key or their content.
    """
    reading = _Reading(path, allow_duplicates=allow_duplicates, allow_outside=allow_outside)
    yield from _entries(reading, remarks)


def _entries(reading: _Reading, remarks: list[str] | None = None) -> Iterator[ManifestEntry]:
    try:
        for part in read_parts(reading.path):
            yield from reading.entries(part)
            if len(reading.faults) > MOST_FAULTS:
                break
    except ManifestError as error:
        reading.report(error.faults)
    reading.finish()
    if remarks is not None:
        remarks += reading.remarks()


class _Reading:
    """What one reading of a manifest has found so far: defaults, keys, contents, faults.

    Args:
        path: the manifest.
        allow_duplicates: whether the same content may be made under two keys.
        allow_outside: whether images may lie outside of the manifest's folder.
        one_film: whether the file must hold one film, which is named after it.
        takes: how many takes each film has; by default what the film says.
    """

    def __init__(
        self,
        path: Path,
        *,
        allow_duplicates: bool = True,
        allow_outside: bool = False,
        one_film: bool = False,
        takes: int | None = None,
    ) -> None:
        self.path = path
        self.faults: list[str] = []
        self.only_conflicts = True
        self.films = self.takes = self.shots = self.seconds = 0
        self._remarks: list[str] = []
        self._unfilled_films: list[str] = []  # only the first few
        self._unfilled = 0
        self._one_film = one_film
        self._takes = {} if takes is None else {"takes": takes}
        self._defaults: Mapping[str, Any] = {}
        # Hashes of keys and contents, each with the line or film that had it first. Integers,
        # since 100,000 films then take some 20 MB.
        self._keys: dict[int, int] = {}
        self._contents: dict[int, int] | None = None if allow_duplicates else {}
        # An image that many films share is read once; the cache ends with this reading.
        self._digest_of = lru_cache(maxsize=1024)(
            lambda image: image_digest(path.parent, image, allow_outside)
        )

    def entries(self, part: ManifestPart) -> list[ManifestEntry]:
        """The entries of a part that was read; none once anything is wrong."""
        if isinstance(part, ManifestFault):
            self.report([part.message])
            return []
        if isinstance(part, ManifestRemark):
            self._remarks.append(part.message)
            return []
        if isinstance(part, FilmDefaults):
            self._defaults, faults = check_defaults(part.fields, self._digest_of)
            self.report(f"{part.file}, defaults: {fault}" for fault in faults)
            return []
        self.films += 1
        film = self._with_key(part)
        if film.broken:
            self.faults += self._key_conflicts(
                film, keys_of_faulty_film(film.fields, self._defaults)
            )
            return []
        try:
            entries = make_entries(
                film, self._defaults, base=self.path.parent, digest_of=self._digest_of
            )
        except StoryboardError as error:
            self.report(map(film.locate_files, error.faults))
            self.faults += self._key_conflicts(
                film, keys_of_faulty_film(film.fields, self._defaults)
            )
            return []
        self.faults += self._conflicts(film, entries)
        self._count(film, len(entries))
        return entries if not self.faults else []

    def remarks(self) -> Iterator[str]:
        """Yield what is not wrong, but should be known before paying."""
        yield from map(escaped_line, self._remarks)
        if self._unfilled:
            unnamed = self._unfilled - len(self._unfilled_films)
            more = f", and {unnamed} more" if unnamed else ""
            yield escaped_line(
                f"{printable_name(self.path)}: the shots do not fill the film, which is paid "
                f"whole: {'; '.join(self._unfilled_films)}{more}"
            )

    def report(self, faults: Iterable[str]) -> None:
        """Add faults that are no conflicts between films."""
        before = len(self.faults)
        self.faults += faults
        self.only_conflicts &= len(self.faults) == before

    def finish(self) -> None:
        """Raise what is wrong, if anything is."""
        name = printable_name(self.path)
        if not self.faults and not self.films:
            raise ManifestError([f"{name}: no film in it"])
        if self._one_film and self.films > 1:
            self.report([f"{name}: one film, not {self.films}; apikley batch run makes many"])
        if self.faults:
            kind = ManifestConflictError if self.only_conflicts else ManifestError
            more = ["and more; these come first"] if len(self.faults) > MOST_FAULTS else []
            raise kind([*map(escaped_line, self.faults[:MOST_FAULTS]), *more])

    def _count(self, film: FilmRecord, takes: int) -> None:
        """Count what a film without faults asks for, and what should be known about it."""
        self.takes += takes
        for field, fault in unfetchable_images(film.fields):
            if len(self._remarks) < MOST_FAULTS:
                self._remarks.append(film.locate_files(f"{field}: {fault}; it would be rejected"))
        if "task" in film.fields:
            return
        defaults = {"duration": 15, **self._defaults}
        shots, duration = film.fields["shots"], {**defaults, **film.fields}["duration"]
        self.shots += takes * len(shots)
        self.seconds += takes * int(duration)
        lengths = [shot.get("duration") for shot in shots]
        if None in lengths:  # such shots share what the others leave, so the film is full
            return
        filled = sum(lengths)
        if filled >= duration - ROUNDING:
            return
        self._unfilled += 1
        if self._unfilled <= MOST_NAMED:
            self._unfilled_films.append(f"{film.where_and_key}, {filled:.4g} of {duration:g} s")

    def _with_key(self, film: FilmRecord) -> FilmRecord:
        """The film with its key; a film that is alone in its file is named after the file."""
        alone = not film.unit or (self._one_film and self.films == 1)
        fields = {**film.fields, **self._takes}
        if not alone or fields.get("key") is not None:
            return attrs.evolve(film, fields=fields)
        aliases = {**film.aliases, "key": "key, here the file's name"}
        return attrs.evolve(film, fields={**fields, "key": self.path.stem}, aliases=aliases)

    def _key_conflicts(self, film: FilmRecord, keys: Iterable[str]) -> Iterator[str]:
        """Yield where a film would overwrite the files of an earlier one."""
        for key in keys:
            number = hash_of(fold_name(key))
            if (first := self._keys.get(number)) is None:
                self._keys[number] = film.number
                continue
            yield (
                f"{film.where}: key: {key!r} names the same file as the film at "
                f"{film.where_of(first)}; the rows of a CSV's film stand together, and "
                "takes: 2 makes two films of one storyboard"
            )

    def _conflicts(self, film: FilmRecord, entries: list[ManifestEntry]) -> Iterator[str]:
        """Yield where a film would overwrite the files of an earlier one, or be paid twice."""
        yield from self._key_conflicts(film, (entry.key for entry in entries))
        if self._contents is None:
            return
        number = hash_of(entries[0].digest)
        if (first := self._contents.get(number)) is None:
            self._contents[number] = film.number
            return
        yield (
            f"{film.where}: {entries[0].key!r} has the same content as the film at "
            f"{film.where_of(first)}: it would be paid twice; say takes: 2, or allow duplicates"
        )


def read_parts(path: Path) -> Iterator[ManifestPart]:
    """Yield what a manifest holds, in its order; the defaults come before the films.

    Raises:
        ManifestError: it cannot be read on, or it changed while it was read.
    """
    name = printable_name(path)
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
                rule = f"at most 64 MB, not {before.st_size / 1e6:.0f}"
                raise ManifestError([f"{name}: {rule}; JSON lines and CSV may be larger"])
            yield from reader(file, name)
            after = os.fstat(file.fileno())
    except OSError as exc:
        raise ManifestError([f"{name}: cannot be read: {exc.strerror}"]) from None
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise ManifestError([f"{name}: it changed while it was read"])


def printable_name(path: Path) -> str:
    """A file's name for a message: one line, whatever characters it has."""
    return path.name if path.name.isprintable() and path.name else repr(str(path))


def hash_of(text: str) -> int:
    """A number of 56 bits that stands for a text; collisions are not to be expected."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest())

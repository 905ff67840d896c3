"""How films are added to a batch: from manifests, from files of one film each, and from Python."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import attrs

from apikley_async import Work, images_of, work_faults
from apikley_async.batch.keys import key_faults
from apikley_async.batch.manifest.film_files import choose_version, read_film_files
from apikley_async.batch.manifest.image_files import image_digest, image_digests
from apikley_async.batch.manifest.payload import make_entry
from apikley_async.batch.manifest.reader import read_manifest
from apikley_async.batch.open_batch import OpenBatch
from apikley_async.batch.store.values import Item, ManifestEntry, PlanResult
from apikley_async.errors import ManifestConflictError, ManifestError, StoryboardError

__all__ = ["BatchAdditions", "ManifestSource"]

ManifestSource: TypeAlias = "str | os.PathLike[str] | Iterable[tuple[str, Work]]"


class BatchAdditions(OpenBatch):
    """The part of a batch that plans films."""

    _agreed: Mapping[str, str] | None = None

    def add_only(self, films: Mapping[str, str]) -> None:
        """Plan nothing from now on but these films, or what is in the journal already.

        For a program that asks about a private copy of the journal first: in a shared journal
        films are paid as soon as they are planned. Additions of others are refused whole.

        Args:
            films: their content digests by their keys, as items of the copy have them.
        """
        self._agreed = dict(films)

    async def add(
        self,
        source: ManifestSource,
        *,
        allow_duplicates: bool = False,
        allow_outside: bool = False,
    ) -> PlanResult:
        """Plan the films of a manifest, or of (key, storyboard) pairs: all of them, or none.

        Everything is checked before anything is stored; nothing is sent. Adding the same again
        adds nothing. A key may get other content as long as no task was created for it.

        Args:
            source: a `.yaml`, `.json`, `.jsonl`, `.toml` or `.csv` file, or pairs.
            allow_duplicates: whether the same content may be made under two keys.
            allow_outside: whether images may lie outside of the manifest's folder.

        Raises:
            ManifestError: with every fault and its place.
            ManifestConflictError: a key has other content than before, or two have the same.
        """
        return await self._add(source, allow_duplicates, allow_outside)

    async def _add(
        self,
        source: ManifestSource,
        allow_duplicates: bool,
        allow_outside: bool,
        failed: Collection[str] | None = (),
    ) -> PlanResult:
        """Plan films; the FAILED items in *failed* (None: all) may get new content, too."""
        remarks: list[str] = []
        if isinstance(source, str | os.PathLike):
            name = manifest_name(source)
            entries = read_manifest(
                Path(source),
                allow_duplicates=allow_duplicates,
                allow_outside=allow_outside,
                remarks=remarks,
            )
        else:
            name, entries = "", entries_of_pairs(source)
        result = await self._plan(entries, name, allow_duplicates, failed)
        return attrs.evolve(result, remarks=tuple(remarks))

    async def add_films(
        self,
        files: Iterable[str | os.PathLike[str]],
        *,
        takes: int | None = None,
        again: bool = False,
        allow_duplicates: bool = False,
    ) -> PlanResult:
        """Plan one film for each file, named after it: all of them, or none.

        Adding the same again adds nothing; `PlanResult.keys` names the films for `run(keys=)`.

        Args:
            files: manifests of one film each.
            takes: how many takes there are of each in all; by default what the film says.
            again: whether a file that has changed is a new film, `<key>.v2`. The same content
                is never a new film.
            allow_duplicates: whether the same content may be made under two keys.

        Raises:
            ManifestError: with every fault of every file and its place.
            ManifestConflictError: a file has changed, or two films have the same content.
        """
        remarks: list[str] = []
        paths = [Path(file) for file in files]
        films = await asyncio.to_thread(read_film_files, paths, takes=takes, remarks=remarks)
        chosen: list[ManifestEntry] = []
        for film in films:
            chosen += await choose_version(film, self._find, again=again)
        result = await self._plan(chosen, "", allow_duplicates)
        return attrs.evolve(result, remarks=tuple(remarks))

    async def _plan(
        self,
        entries: Iterable[ManifestEntry],
        source: str,
        allow_duplicates: bool,
        failed: Collection[str] | None = (),
    ) -> PlanResult:
        keys: list[str] = []
        known = (
            {item.key: item.digest async for item in self.items()}
            if self._agreed is not None
            else {}
        )

        def with_keys_noted() -> Iterator[ManifestEntry]:
            for entry in entries:
                if self._agreed is not None:
                    digests = (self._agreed.get(entry.key), known.get(entry.key))
                    if not any(each is not None and entry.matches(each) for each in digests):
                        raise ManifestConflictError(
                            f"{entry.where}: {entry.key!r} is not what was agreed to"
                        )
                keys.append(entry.key)
                yield entry

        result = await self.store.plan(
            with_keys_noted(), source=source, allow_duplicates=allow_duplicates, failed=failed
        )
        if self._run is not None:
            self._run.journal_changed()
        return attrs.evolve(result, keys=tuple(keys))

    async def _find(self, key: str) -> Item | None:
        try:
            return await self.store.item(key)
        except KeyError:
            return None


def manifest_name(path: str | os.PathLike[str]) -> str:
    """What tells a manifest from others: its absolute path."""
    return str(Path(path).absolute())


def entries_of_pairs(source: Iterable[tuple[str, Work]]) -> Iterator[ManifestEntry]:
    """Yield the entries of keys and works; raise at the end if any of them is wrong."""
    faults: list[str] = []
    for number, (key, work) in enumerate(source, start=1):
        where = f"pair {number}"
        faults += [f"{where}: {fault}" for fault in key_faults(key)]
        faults += [f"{where}: {fault}" for fault in work_faults(work)]
        if faults:
            continue
        try:
            digests = image_digests(
                images_of(work.images),
                lambda image: image_digest(Path.cwd(), image, allow_outside=True),
            )
        except StoryboardError as error:
            faults += [f"{where}: {fault}" for fault in error.faults]
            continue
        yield make_entry(work, key, base=Path.cwd(), where=where, digests=digests)
    if faults:
        raise ManifestError(faults)

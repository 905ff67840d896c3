"""File names of a batch's films: no two films want the same one.

A film of one file is `<key>.mp4`, a film of several is `<key>-1.mp4`, `<key>-2.mp4`, ... Where
another item has that key, or that file, it is `<key> (film).mp4`: no key can contain brackets.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from pathlib import Path, PurePath

from apikley_async._disk import max_name_bytes
from apikley_async._text import fold_name
from apikley_async.batch.store.protocol import Store, all_items
from apikley_async.batch.store.values import Item, Transition

__all__ = ["FilmNames", "numbered"]

NUMBERED = re.compile(r"(?P<base>.*)-[0-9]+", re.DOTALL)


class FilmNames:
    """The names of films in the folder of a run, or in its destination, where *folder* is None.

    The items of the journal are read only when a name could be another item's: for films of several
    files, for keys such as `kitten-1`, and for files that exist already. Of a store that other
    processes use too, those that they have added since are read each time.
    """

    def __init__(self, store: Store, folder: Path | None) -> None:
        self._store = store
        self._folder = None if folder is None else folder.absolute()
        self._keys: dict[str, str] | None = None  # by folded key
        self._newest = 0  # the order of the newest item among them
        self._saved: dict[str, str] = {}  # keys by the folded stems of their files
        self._longest: int | None = None
        self._changes = 0
        self._reading = asyncio.Lock()  # many films ask at once, and one of them reads for all

    @property
    def longest(self) -> int:
        """How many bytes a name may have in the folder."""
        if self._longest is None:
            self._longest = max_name_bytes(self._folder or Path())
        return self._longest

    async def stem(self, key: str, files: int) -> str:
        """The stem of the film of *key*, when it has so many files."""
        ambiguous = NUMBERED.fullmatch(key) is not None or (
            self._folder is None or (self._folder / f"{key}.mp4").exists()
        )
        if files == 1 and not ambiguous:
            return key
        stems = numbered(key, files)
        keys = await self._all_keys()
        if self._store.shared and (numbered_key := NUMBERED.fullmatch(key)) is not None:
            await self._read_files(keys.get(fold_name(numbered_key["base"])))
        owners = {
            names.get(fold_name(stem), key) for stem in stems for names in (keys, self._saved)
        }
        return key if owners <= {key} else f"{key} (film)"

    async def is_saved_file(self, path: PurePath) -> bool:
        """Whether a file that exists is one that the journal knows."""
        await self._all_keys()
        return fold_name(path.stem) in self._saved

    def add_files(self, key: str, saved: Item | Transition) -> None:
        """Remember what has been saved where this run saves."""
        if self._folder is None:
            for stored in saved.stored:
                self._saved[fold_name(PurePath(stored.name).stem)] = key
        for file in saved.files:
            if file.path.parent == self._folder:
                self._saved[fold_name(file.path.stem)] = key

    def journal_changed(self) -> None:
        """Read the items again before the next name: the journal has other items now."""
        self._keys = None
        self._changes += 1

    async def _read_files(self, key: str | None) -> None:
        """Look which files another process has saved for an item, `kitten` for `kitten-1`."""
        if key is not None:
            with contextlib.suppress(KeyError):  # it has another name by now
                self.add_files(key, await self._store.item(key))

    async def _all_keys(self) -> dict[str, str]:
        async with self._reading:
            while self._keys is None or self._store.shared:
                before = self._changes
                keys, newest = ({}, 0) if self._keys is None else (self._keys, self._newest)
                async for item in all_items(self._store, after=newest):
                    keys[fold_name(item.key)] = item.key
                    self.add_files(item.key, item)
                    newest = item.order
                if before == self._changes:  # else items were added while these were read
                    self._keys, self._newest = keys, newest
                    break
            return self._keys or {}


def numbered(stem: str, files: int) -> list[str]:
    """The stems of a film's files: its own, or `stem-1`, `stem-2`, ... of several."""
    return [stem] if files == 1 else [f"{stem}-{number}" for number in range(1, files + 1)]

"""What the films of a batch are called on the disk: no two of them ever want one name.

A film of one file is `<key>.mp4`, one of several is `<key>-1.mp4`, `<key>-2.mp4`, ... Where another
item is called so, or holds such a file, it is `<key> (film).mp4`, which nobody's key can be.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from apikley_async._disk import max_name_bytes
from apikley_async.batch.manifest.fields import folded
from apikley_async.batch.store.protocol import File, Store

__all__ = ["Names"]

NUMBERED = re.compile(r".*-[0-9]+", re.DOTALL)
PAGE = 1000


class Names:
    """The names of a run's films in its folder.

    The journal is read through only when a name could be another item's: for films of several
    files, for keys such as `kitten-1`, and for files that are there already.
    """

    def __init__(self, store: Store, folder: Path) -> None:
        self._store = store
        self._folder = folder.absolute()
        self._keys: dict[str, str] | None = None
        self._held: dict[str, str] = {}
        self._longest: int | None = None

    @property
    def longest(self) -> int:
        """How many bytes a name may have in the folder."""
        if self._longest is None:
            self._longest = max_name_bytes(self._folder)
        return self._longest

    async def stem(self, key: str, files: int) -> str:
        """What the film of *key* is called, when it has so many files."""
        single = (self._folder / f"{key}.mp4").exists() or NUMBERED.fullmatch(key) is not None
        if files == 1 and not single:
            return key
        stems = [key] if files == 1 else [f"{key}-{number}" for number in range(1, files + 1)]
        keys = await self._read()
        others = {owners.get(folded(stem), key) for stem in stems for owners in (keys, self._held)}
        return key if others <= {key} else f"{key} (film)"

    async def holds(self, path: Path) -> bool:
        """Whether a file that is there is one that the journal knows."""
        await self._read()
        return folded(path.stem) in self._held

    def hold(self, key: str, files: Iterable[File]) -> None:
        """Remember what has been saved."""
        for file in files:
            if file.path.parent == self._folder:
                self._held[folded(file.path.stem)] = key

    def forget(self) -> None:
        """Read the journal again before the next name: it holds other items now."""
        self._keys = None

    async def _read(self) -> dict[str, str]:
        if self._keys is None:
            self._keys = {}
            behind = 0
            while page := await self._store.items(after=behind, count=PAGE):
                behind = page[-1].order
                for item in page:
                    self._keys[folded(item.key)] = item.key
                    self.hold(item.key, item.files)
        return self._keys

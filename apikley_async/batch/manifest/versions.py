"""Films that are named by files, one film a file: `kitten.json` makes `kitten`, and stays that.

A file whose film is in the journal with other content is a new film only when a person says so:
then it is the next version, `kitten.v2`. The same content is the version that has it.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from pathlib import Path

import attrs

from apikley_async.batch.manifest.fields import folded
from apikley_async.batch.manifest.reader import film_in
from apikley_async.batch.store.protocol import Entry, Item
from apikley_async.errors import ManifestConflictError, ManifestError

__all__ = ["films_in", "version_of"]


def films_in(
    files: Iterable[Path], *, takes: int | None = None, remarks: list[str] | None = None
) -> list[list[Entry]]:
    """The takes of each file's film; all faults of all files at once. Blocks.

    What should be known before paying is added to *remarks*.

    Raises:
        ManifestError: with every fault, its file, field and rule; two files of one name included.
    """
    films: list[list[Entry]] = []
    faults: list[str] = []
    known: dict[str, Path] = {}
    for path in files:
        try:
            film = film_in(path, takes=takes, remarks=remarks)
        except ManifestError as error:
            faults += error.faults
            continue
        films.append(film)
        name = folded(film[0].key)
        if (first := known.setdefault(name, path)) is not path:
            faults.append(f"{path}: key: {film[0].key!r} is the film of {first} too; one file each")
    if faults:
        raise ManifestError(faults)
    return films


async def version_of(
    film: Sequence[Entry], find: Callable[[str], Awaitable[Item | None]], *, again: bool
) -> list[Entry]:
    """The film under the key of its version in the journal; *find* gives an item by its key.

    Args:
        again: whether content that no version has is a new one.

    Raises:
        ManifestConflictError: no version has this content, and there is at least one.
    """
    stem = film[0].key
    known = {name: item async for name, item in versions(stem, find)}
    free = stem if not known else f"{stem}.v{len(known) + 1}"
    same = [name for name, item in known.items() if film[0].matches(item.digest)]
    # Of the versions, somebody else's film may have the name: only a word of a person changes it.
    open_ = []
    for name in [name for name in known if again or name == stem]:
        takes = [await find(name + take.key.removeprefix(stem)) for take in film]
        if all(take is None or take.may_change for take in takes):
            open_.append(name)
    if known and not (same or open_ or again):
        raise ManifestConflictError(
            f"{film[0].where}: {stem!r} is in the journal with other content. It would be paid "
            f"as another film, {free!r}, and only if you say so: --again"
        )
    name = [*same, *open_[-1:], free][0]
    return [attrs.evolve(take, key=name + take.key.removeprefix(stem)) for take in film]


async def versions(
    stem: str, find: Callable[[str], Awaitable[Item | None]]
) -> AsyncIterator[tuple[str, Item]]:
    """The versions of a film that there are: kitten, kitten.v2, kitten.v3, ..."""
    name, numbers = stem, itertools.count(2)
    while (item := await find(name)) is not None:
        yield name, item
        name = f"{stem}.v{next(numbers)}"

"""Films that are named by files, one film in each: `kitten.json` makes the film `kitten`.

A file that was edited after its film was planned is a new film only when a person says so. Then it
is the next version, `kitten.v2`. Content that a version in the journal has already is that version.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from pathlib import Path

import attrs

from apikley_async._text import fold_name
from apikley_async.batch.manifest.reader import read_film_file
from apikley_async.batch.store.values import Item, ManifestEntry
from apikley_async.errors import ManifestConflictError, ManifestError

__all__ = ["choose_version", "read_film_files"]


def read_film_files(
    files: Iterable[Path], *, takes: int | None = None, remarks: list[str] | None = None
) -> list[list[ManifestEntry]]:
    """The takes of each file's film. Blocks.

    Args:
        files: manifests of one film each.
        takes: how many takes there are of each; by default what the film says.
        remarks: a list that gets what should be known before paying.

    Raises:
        ManifestError: with every fault of every file; also for two files that give one key.
    """
    films: list[list[ManifestEntry]] = []
    faults: list[str] = []
    known: dict[str, Path] = {}
    for path in files:
        try:
            film = read_film_file(path, takes=takes, remarks=remarks)
        except ManifestError as error:
            faults += error.faults
            continue
        films.append(film)
        name = fold_name(film[0].key)
        if (first := known.setdefault(name, path)) is not path:
            faults.append(f"{path}: key: {film[0].key!r} is the film of {first} too; one file each")
    if faults:
        raise ManifestError(faults)
    return films


async def choose_version(
    film: Sequence[ManifestEntry], find: Callable[[str], Awaitable[Item | None]], *, again: bool
) -> list[ManifestEntry]:
    """The film under the key of its version in the journal.

    Args:
        film: the takes of one film.
        find: gives an item by its key, or None.
        again: whether content that no version has makes a new one.

    Raises:
        ManifestConflictError: there are versions, and none of them has this content.
    """
    stem = film[0].key
    known = {name: item async for name, item in versions(stem, find)}
    unused = stem if not known else f"{stem}.v{len(known) + 1}"
    same = [name for name, item in known.items() if film[0].matches(item.digest)]
    # A later version may be the film of another file that has its name: its content is replaced
    # only when a person asks for a new version.
    replaceable = []
    for name in [name for name in known if again or name == stem]:
        takes = [await find(name + take.key.removeprefix(stem)) for take in film]
        if all(take is None or take.may_change for take in takes):
            replaceable.append(name)
    if known and not (same or replaceable or again):
        raise ManifestConflictError(
            f"{film[0].where}: {stem!r} is in the journal with other content. It would be paid "
            f"as another film, {unused!r}, and only if you say so: --again"
        )
    name = [*same, *replaceable[-1:], unused][0]
    return [attrs.evolve(take, key=name + take.key.removeprefix(stem)) for take in film]


async def versions(
    stem: str, find: Callable[[str], Awaitable[Item | None]]
) -> AsyncIterator[tuple[str, Item]]:
    """Yield the versions of a film that exist: kitten, kitten.v2, kitten.v3, ..."""
    name, numbers = stem, itertools.count(2)
    while (item := await find(name)) is not None:
        yield name, item
        name = f"{stem}.v{next(numbers)}"

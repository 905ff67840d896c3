"""How a run saves its films: under which names, and what stands in their way."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path, PurePath

import attrs

from apikley_async import Client, Result, SavedFile
from apikley_async.batch.destination import DestinationWriter
from apikley_async.batch.film_names import FilmNames, numbered
from apikley_async.batch.keys import file_name_fault
from apikley_async.batch.rehearsal import is_rehearsal
from apikley_async.batch.run_options import BatchRunOptions
from apikley_async.batch.states import ItemEvent
from apikley_async.batch.store.protocol import Store
from apikley_async.batch.store.values import Item, StoredFile, Transition
from apikley_async.errors import ApikleyError, DownloadError, ResultExpiredError

__all__ = ["FilmSaver", "result_to_json"]


class FilmSaver:
    """Saves the films of one run into its folder."""

    def __init__(self, store: Store, client: Client, options: BatchRunOptions) -> None:
        self._client = client
        self._options = options
        destination = options.destination
        self._writer = DestinationWriter(destination, client) if destination else None
        self.names: FilmNames = FilmNames(store, None if destination else options.folder)

    async def obstacle(self, item: Item) -> str | None:
        """Say why a film cannot be saved, before it is paid; None when nothing is in the way.

        Its name may be too long for the disk, or another file may have it.
        """
        if self._writer is not None:
            return await self._obstacle_there(self._writer, item)
        target = await self._target(item, 1)
        fault = file_name_fault(target.stem, self.names.longest)
        if fault is not None:
            return f"{fault}; nothing was paid"
        if self._options.overwrite:
            return None
        for path in (target, target.with_stem(f"{target.stem}-1")):
            exists = path.exists() and not is_rehearsal(path)
            if exists and not await self.names.is_saved_file(path):
                return f"{path} exists already; nothing was paid. Move it, or allow to overwrite it"
        return None

    async def _obstacle_there(self, writer: DestinationWriter, item: Item) -> str | None:
        if self._options.overwrite:
            return None
        stem = await self.names.stem(item.key, 1)
        for name in (f"{stem}.mp4", f"{stem}-1.mp4"):
            try:
                exists = await writer.exists(name)
            except ApikleyError as error:
                return f"{error.message}; nothing was paid"
            if exists and not await self.names.is_saved_file(PurePath(name)):
                fault = f"{name} is in the destination already; nothing was paid"
                return f"{fault}. Allow to overwrite it"
        return None

    async def save(self, item: Item) -> Transition:
        """Save a film, and give what happened; it is done when its files are on the disk, or there.

        Raises:
            ApikleyError, OSError: it could not be saved; it stays as it is.
        """
        result = result_from_json(item)
        if self._options.partial and result.urls:
            result = attrs.evolve(result, unusable=())
        if not result.urls:  # another model's answer without a file: its text is in the journal
            return Transition(ItemEvent.SAVE)
        try:
            if self._writer is not None:
                return Transition(
                    ItemEvent.SAVE, stored=await self._put(self._writer, item, result)
                )
            return Transition(ItemEvent.SAVE, files=await self._save_files(item, result))
        except ResultExpiredError as error:
            return Transition(ItemEvent.EXPIRE, cause=error.message)

    async def _put(
        self, writer: DestinationWriter, item: Item, result: Result
    ) -> tuple[StoredFile, ...]:
        """Put every file of a film into the destination, one after the other."""
        count = len(result.urls)
        names = numbered(await self.names.stem(item.key, count), count)
        stored = [await writer.put(result, index, name) for index, name in enumerate(names)]
        if result.unusable:
            raise DownloadError("A link of the film cannot be used; every other file is stored")
        return tuple(stored)

    async def _save_files(self, item: Item, result: Result) -> tuple[SavedFile, ...]:
        target = await self._target(item, len(result.urls))
        overwrite = self._options.overwrite or is_rehearsal
        files = await self._client.save_files(result, target, overwrite=overwrite)
        return tuple(attrs.evolve(file, path=file.path.absolute()) for file in files)

    async def _target(self, item: Item, files: int) -> Path:
        """The path of a film with so many files: its key, if no other item needs that name."""
        stem = await self.names.stem(item.key, files)
        return self._options.folder / f"{stem}.mp4"


def result_to_json(result: Result) -> str:
    """A result as the journal stores it."""
    expires = result.expires_at.timestamp() if result.expires_at else None
    fields = {"urls": result.urls, "expires_at": expires, "content": dict(result.raw)}
    fields |= {"unusable": result.unusable} if result.unusable else {}
    return json.dumps(fields)


def result_from_json(item: Item) -> Result:
    """The result that the journal has stored for an item."""
    fields = json.loads(item.result)
    expires = fields.get("expires_at")
    return Result(
        item.task_id or "",
        tuple(fields.get("urls", ())),
        expires_at=datetime.fromtimestamp(expires, UTC) if expires else None,
        unusable=tuple(fields.get("unusable", ())),
    )

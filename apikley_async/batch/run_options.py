"""What a run may do, and what it reports."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import attrs

from apikley_async.batch.destination import Destination
from apikley_async.batch.more_work import MoreWork
from apikley_async.batch.store.values import Item

__all__ = ["BatchRunOptions", "ItemUpdate"]


@attrs.frozen
class BatchRunOptions:
    """What a run may do.

    Attributes:
        folder: where the films are saved.
        max_running: films in the making at once, besides the client's own bound.
        retry: how often a failed film is made again; each time is a new charge.
        overwrite: whether other files of the films' names may be replaced.
        keys: the only items that are made, polled and saved; None for all of them.
        destination: where the films go instead of *folder*.
        more: what keeps the run going when nothing is left to claim; None: then it ends.
        owner: what the run is called in the store; None: a name of its own.
        claimed: the items that this owner has already.
        partial: whether a film is done without those of its links that cannot be used.
    """

    folder: Path
    max_running: int = attrs.field(default=100, validator=attrs.validators.ge(1))
    retry: int = attrs.field(default=0, validator=attrs.validators.ge(0))
    overwrite: bool = False
    keys: frozenset[str] | None = None
    partial: bool = False
    destination: Destination | None = None
    more: MoreWork | None = None
    owner: str | None = None
    claimed: Collection[str] = ()

    def includes(self, key: str) -> bool:
        """Whether the run is about the item of that key."""
        return self.keys is None or key in self.keys


@attrs.frozen
class ItemUpdate:
    """An item that has changed.

    Attributes:
        item: as it is now.
        is_last: whether this run does nothing more with it, as far as is known.
    """

    item: Item
    is_last: bool

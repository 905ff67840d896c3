"""One film as a reader found it in a manifest: its place and its fields, not yet checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from apikley_async.batch.keys import KEY

__all__ = ["FilmRecord"]


def no_cell(_field: str) -> None:
    """The cell of a field in a format that has no cells."""


@attrs.frozen
class FilmRecord:
    """One film as it was read.

    Attributes:
        file: the manifest's name, for messages.
        unit: what *number* counts, "line" or "film"; empty when the file is one film.
        number: which line or film it is.
        fields: the film's fields.
        aliases: what the format calls a field, where that differs from the field's name.
        cell_of: gives place and column of a field, in a format that is a table.
        metadata: columns that are no field; they are kept with the film and never sent.
        broken: whether some values could not be read. That is reported already, so only the
            film's key still counts.
    """

    file: str
    unit: str
    number: int
    fields: Mapping[str, Any]
    aliases: Mapping[str, str] = attrs.field(factory=dict)
    cell_of: Callable[[str], tuple[str, str] | None] = attrs.field(default=no_cell, repr=False)
    metadata: Mapping[str, Any] = attrs.field(factory=dict, repr=False)
    broken: bool = False

    @property
    def where(self) -> str:
        """The film's place in the manifest: "films.yaml, line 12"."""
        return self.where_of(self.number)

    @property
    def where_and_key(self) -> str:
        """The film's place and its key: "films.yaml, line 12 (kitten)"."""
        return f"{self.where}{self._key_in_brackets('')}"

    def where_of(self, number: int) -> str:
        """The place of another film in the same file."""
        return f"{self.file}, {self.unit} {number}" if self.unit else self.file

    def locate_files(self, fault: str) -> str:
        """A fault ("field: rule") with its place and the film's key, and the format's own names."""
        field, colon, rule = fault.partition(":")
        where, name = self.cell_of(field) or (self.where, self.aliases.get(field, field))
        return f"{where}{self._key_in_brackets(field)}: {name}{colon}{rule}"

    def _key_in_brackets(self, field: str) -> str:
        """The film's key, unless the key is missing or is itself what is wrong."""
        key = self.fields.get("key")
        if field == "key" or not self.unit or not isinstance(key, str) or not KEY.fullmatch(key):
            return ""
        return f" ({key})"

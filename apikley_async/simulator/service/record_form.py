"""The form of a record, as `apikley doctor --record` has kept it, and records in that form. Pure.

A recording has names, types, lengths and hosts, and nothing that was said. So a record that is made
in its form has the simulator's own values where there are any, and filler where there are none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

__all__ = ["RecordForm"]

LONGEST = 100_000  # characters of filler
MOST = 100  # elements of a list
DEEPEST = 8
TYPES = ("NoneType", "bool", "int", "float", "str", "list", "dict")


@attrs.frozen
class RecordForm:
    """The form of the record of a task in one state.

    Attributes:
        state: the word of that state.
        fields: by name, their type and what else is known of each.
    """

    state: str
    fields: Mapping[str, Mapping[str, Any]]

    @classmethod
    def from_json(cls, text: str) -> RecordForm:
        """Read a file that `apikley doctor --record` has written.

        Raises:
            ValueError: it is none.
        """
        try:
            value = json.loads(text)
            form = cls(value["state"], value["fields"])
            for field in form.fields.values():
                check(field)
        except (KeyError, TypeError, AttributeError, RecursionError):
            raise ValueError("it is no record that `apikley doctor --record` has kept") from None
        return form

    def shape(self, record: Mapping[str, Any], urls: Sequence[str]) -> dict[str, Any]:
        """A record with the fields of this form, if it is in the same state; else as it is.

        Args:
            record: as the simulator makes it.
            urls: of its files; they stand where the form has links.
        """
        if record["state"] != self.state:
            return dict(record)
        links = iter(urls)
        return {name: value_in(form, record.get(name), links) for name, form in self.fields.items()}


def check(form: Mapping[str, Any], depth: int = 0) -> None:
    """Raise unless it is the form of a value."""
    if form["type"] not in TYPES or depth > DEEPEST or not form.get("length", 0) >= 0:
        raise KeyError(form["type"])
    inner = [form[name] for name in ("json", "items") if name in form]
    for each in (*inner, *form.get("fields", {}).values()):
        check(each, depth + 1)


def value_in(form: Mapping[str, Any], known: Any, links: Iterator[str]) -> Any:
    """A value in a form: what is known, in its type; else filler of its length."""
    kind, length = form["type"], form.get("length", 0)
    if kind == "NoneType":
        return None
    if kind == "str":
        return text_in(form, known, links)
    if kind == "list":
        inner = form.get("items", {"type": "NoneType"})
        return [value_in(inner, None, links) for _ in range(min(length, MOST))]
    if kind == "dict":
        given = known if isinstance(known, Mapping) else {}
        fields = form.get("fields", {})
        return {name: value_in(each, given.get(name), links) for name, each in fields.items()}
    number = known if isinstance(known, int | float) else 0
    return {"bool": bool, "int": int, "float": float}[kind](number)


def text_in(form: Mapping[str, Any], known: Any, links: Iterator[str]) -> str:
    """A text in a form: a link, JSON in its form, what is known, or filler of its length."""
    if form.get("link"):
        return next(links, "")
    if "json" in form:
        return json.dumps(value_in(form["json"], None, links))
    if known is None:
        return "x" * min(int(form.get("length", 0)), LONGEST)
    return known if isinstance(known, str) else json.dumps(known)

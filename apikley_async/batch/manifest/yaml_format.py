"""YAML manifests: plain values from YAML's events, without what surprises.

No tags, no anchors and aliases, no merge keys, no name twice, one document. A plain scalar is
what JSON would make of it (a number, true, false, null) and text otherwise: `no` and `010` are
text. A quoted one is always text. Inside a task's `input`, where nobody else would notice, a
plain scalar that other readers of YAML would take for something else than text is a fault.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, BinaryIO, NoReturn

from apikley_async.batch.manifest.fields import MOST_FAULTS, shown
from apikley_async.batch.manifest.formats import (
    DEEPEST,
    Fault,
    Found,
    Marked,
    Remark,
    films_in,
    plain_value,
    read_whole,
)
from apikley_async.errors import ManifestError, MissingExtraError

__all__ = ["compose", "read_yaml"]

MOST_NODES = 1_000_000
CUT = re.compile(r"[ \t]+#[^\s#]")  # a comment as nobody writes one behind a text
TOO_DEEP = f"at most {DEEPEST} levels deep"
# Booleans and numbers of YAML 1.1 and 1.2 that are neither JSON's nor ours.
DOUBTFUL = re.compile(
    r"yes|no|on|off|[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)(e[-+]?[0-9]+)?|[-+]?0[xob][0-9a-f_]+",
    re.IGNORECASE,
)
QUOTED = re.compile(r"""(?<![^\s\[{,:])("([^"\\]|\\.)*+"?|'[^']*+'?|#[^\n]*+)""", re.DOTALL)


WANTS_QUOTES = (
    "a text with a comma in it wants quotes between braces, or a line of its own: "
    'scene: "A kitten, with a cake."'
)


def read_yaml(file: BinaryIO, name: str) -> Iterator[Found]:
    """Read the films of a YAML manifest; PyYAML is imported here."""
    try:
        import yaml
    except ModuleNotFoundError:
        raise MissingExtraError.of("YAML manifests need PyYAML", "yaml") from None
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    remarks: list[str] = []
    document, faults = compose(yaml, loader, read_whole(file, name), name, remarks)
    yield from map(Fault, faults)
    yield from map(Remark, remarks[:MOST_FAULTS])
    try:
        yield from films_in(document, name)
    except ManifestError:
        if not faults:
            raise


def compose(
    yaml: Any, loader: Any, text: str, name: str, remarks: list[str] | None = None
) -> tuple[Any, list[str]]:
    """The document as plain values, and what is wrong with it, line by line.

    Texts that a comment may have cut off are added to *remarks*.

    Raises:
        ManifestError: it is no YAML, or too deep or too large to go on.
    """
    composer = _Composer(yaml, name, text, [] if remarks is None else remarks)
    try:
        document = composer.read(iter(yaml.parse(text, Loader=loader)))
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None) or getattr(exc, "context_mark", None)
        line = mark.line if mark else text.count("\n", 0, getattr(exc, "position", 0))
        if mark and composer.levels_at(mark.index, text) > DEEPEST:
            composer.stop(line, TOO_DEEP)
        told = getattr(exc, "problem", None) or getattr(exc, "reason", None) or "not readable"
        faults = [*composer.faults, f"{name}, line {line + 1}: YAML: {told}"]
        raise ManifestError(faults) from None
    return document, composer.faults


def _is_nothing(event: Any) -> bool:
    """Whether an event is a value that nobody wrote: what a comma leaves behind between braces."""
    nothing = getattr(event, "value", "x") == "" and not event.style
    return nothing and event.tag is None and event.anchor is None


class _Composer:
    """Builds plain values from YAML's events, and notes what may not stand in a manifest."""

    def __init__(self, yaml: Any, name: str, text: str, remarks: list[str]) -> None:
        self.faults: list[str] = []
        self._text = text
        self._remarks = remarks
        self._yaml = yaml
        self._name = name
        self._nodes = 0
        self._depth = 0  # of the last event
        self._end = 0  # where it ends in the text

    def read(self, events: Iterator[Any]) -> Any:
        document: Any = None
        documents = 0
        for event in events:
            if isinstance(event, self._yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self.stop(event.start_mark.line, "one document, not several")
                document = self._value(next(events), events)
        return document

    def levels_at(self, index: int, text: str) -> int:
        """How deep the text is nested where the library gave up.

        It reads ahead of its events, and may have a limit of its own, with words of its own.
        Brackets inside quotes and comments do not count.
        """
        ahead = QUOTED.sub("", text[self._end : index])
        opened = ahead.count("[") + ahead.count("{") - ahead.count("]") - ahead.count("}")
        return self._depth + opened - 1

    def stop(self, line: int, rule: str) -> NoReturn:
        """Refuse the manifest, with all that was found so far."""
        raise ManifestError([*self.faults, f"{self._name}, line {line + 1}: {rule}"]) from None

    def _value(
        self, event: Any, events: Iterator[Any], depth: int = 0, *, strict: bool = False
    ) -> Any:
        self._check(event, depth)
        if isinstance(event, self._yaml.ScalarEvent):
            return self._scalar(event, strict)
        if isinstance(event, self._yaml.SequenceStartEvent):
            listed = []
            while not isinstance(inner := next(events), self._yaml.SequenceEndEvent):
                listed.append(self._value(inner, events, depth + 1, strict=strict))
            return listed
        if isinstance(event, self._yaml.MappingStartEvent):
            return self._mapping(event, events, depth, strict)
        return None  # an alias, which has been told

    def _mapping(self, event: Any, events: Iterator[Any], depth: int, strict: bool) -> Marked:
        found = Marked()
        found.line = event.start_mark.line + 1
        before = len(self.faults)
        while not isinstance(inner := next(events), self._yaml.MappingEndEvent):
            name = self._name_of(inner, events, depth)
            if name in found:
                self._tell(inner, f"{shown(name)} stands there twice")
            value = next(events)
            if event.flow_style and _is_nothing(value):
                self._tell(inner, f"{shown(name)} has no value; {WANTS_QUOTES}")
            found[name] = self._value(value, events, depth + 1, strict=strict or name == "input")
        found.broken = len(self.faults) > before
        return found

    def _name_of(self, event: Any, events: Iterator[Any], depth: int) -> str:
        if not isinstance(event, self._yaml.ScalarEvent):
            self._tell(event, "names are words")
            self._value(event, events, depth + 1)
            return ""
        self._check(event, depth)
        if event.value == "<<" and not event.style:
            self._tell(event, "no merge keys (<<); write it out")
        return str(event.value)

    def _scalar(self, event: Any, strict: bool) -> Any:
        if event.style:
            return event.value
        try:
            value = plain_value(event.value)
        except ValueError as exc:
            self._tell(event, str(exc))
            return None
        if isinstance(value, str) and CUT.match(self._text, event.end_mark.index):
            self._remarks.append(
                f"{self._name}, line {event.end_mark.line + 1}: the text ends before ' #', since "
                "a comment begins there; a text with # in it wants quotes"
            )
        if strict and isinstance(value, str) and DOUBTFUL.fullmatch(value):
            self._tell(event, f"a value as JSON has it, or text in quotes, not {value[:40]}")
        return value

    def _check(self, event: Any, depth: int) -> None:
        self._nodes += 1
        self._depth = depth + bool(getattr(event, "flow_style", False))
        self._end = event.end_mark.index
        if isinstance(event, self._yaml.AliasEvent) or event.anchor is not None:
            self._tell(event, "no anchors and aliases; write it out")
        elif event.tag is not None:
            self._tell(event, f"no tags such as {shown(event.tag)}")
        if depth > DEEPEST:
            self.stop(event.start_mark.line, TOO_DEEP)
        if self._nodes > MOST_NODES:
            self.stop(event.start_mark.line, "at most a million values; JSON lines may have more")

    def _tell(self, event: Any, rule: str) -> None:
        self.faults.append(f"{self._name}, line {event.start_mark.line + 1}: {rule}")
        if len(self.faults) > MOST_FAULTS:
            raise ManifestError(self.faults)

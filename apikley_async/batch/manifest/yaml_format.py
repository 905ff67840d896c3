"""YAML manifests: plain values from YAML's events, without YAML's surprises.

Tags, anchors, aliases, merge keys, duplicate names and several documents are faults. A plain scalar
is what JSON would make of it (a number, true, false, null), and text otherwise: `no` and `010` are
text. A quoted scalar is always text. Inside a task's `input`, where nobody would notice the
difference, a plain scalar that other readers of YAML would not read as text is a fault.

The values are built from PyYAML's events and not from the nodes that `yaml.compose` gives. A node
does not show an explicit tag or an unused anchor; an event does. Events also let the bounds on
depth and on the number of values hold before memory is filled, and the faults before a syntax error
are reported together with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, BinaryIO, NoReturn

from apikley_async._text import describe_value
from apikley_async.batch.manifest.document import plain_value, read_document
from apikley_async.batch.manifest.parts import (
    DEEPEST,
    AnnotatedDict,
    ManifestFault,
    ManifestPart,
    ManifestRemark,
)
from apikley_async.batch.manifest.text import read_whole
from apikley_async.batch.manifest.work_fields import MOST_FAULTS
from apikley_async.errors import ManifestError, MissingExtraError

__all__ = ["compose", "read_yaml"]

MOST_VALUES = 1_000_000
# A comment without a blank behind its #: it may be meant as a part of the text before it.
ACCIDENTAL_COMMENT = re.compile(r"[ \t]+#[^\s#]")
TOO_DEEP = f"at most {DEEPEST} levels deep"
# Booleans and numbers of YAML 1.1 and 1.2 that JSON does not know.
AMBIGUOUS = re.compile(
    r"yes|no|on|off|[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)(e[-+]?[0-9]+)?|[-+]?0[xob][0-9a-f_]+",
    re.IGNORECASE,
)
QUOTED_OR_COMMENT = re.compile(
    r"""(?<![^\s\[{,:])("([^"\\]|\\.)*+"?|'[^']*+'?|#[^\n]*+)""", re.DOTALL
)


NEEDS_QUOTES = (
    "a text with a comma in it needs quotes between braces, or a line of its own: "
    'scene: "A kitten, with a cake."'
)


def read_yaml(file: BinaryIO, name: str) -> Iterator[ManifestPart]:
    """Read the films of a YAML manifest; PyYAML is imported here."""
    try:
        import yaml
    except ModuleNotFoundError:
        raise MissingExtraError.of("YAML manifests need PyYAML", "yaml") from None
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    remarks: list[str] = []
    document, faults = compose(yaml, loader, read_whole(file, name), name, remarks)
    yield from map(ManifestFault, faults)
    yield from map(ManifestRemark, remarks[:MOST_FAULTS])
    try:
        yield from read_document(document, name)
    except ManifestError:
        if not faults:
            raise


def compose(
    yaml: Any, loader: Any, text: str, name: str, remarks: list[str] | None = None
) -> tuple[Any, list[str]]:
    """The document as plain values, and its faults with their lines.

    Texts that a comment may have cut off are added to *remarks*.

    Raises:
        ManifestError: it is not YAML, or too deep or too large to go on.
    """
    composer = _Composer(yaml, name, text, [] if remarks is None else remarks)
    try:
        document = composer.read(iter(yaml.parse(text, Loader=loader)))
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None) or getattr(exc, "context_mark", None)
        line = mark.line if mark else text.count("\n", 0, getattr(exc, "position", 0))
        if mark and composer.levels_at(mark.index, text) > DEEPEST:
            composer.stop(line, TOO_DEEP)
        rule = getattr(exc, "problem", None) or getattr(exc, "reason", None) or "not readable"
        faults = [*composer.faults, f"{name}, line {line + 1}: YAML: {rule}"]
        raise ManifestError(faults) from None
    return document, composer.faults


def _is_missing(event: Any) -> bool:
    """Whether an event is a value that was not written: what follows a comma between braces."""
    missing = getattr(event, "value", "x") == "" and not event.style
    return missing and event.tag is None and event.anchor is None


class _Composer:
    """Builds plain values from YAML's events, and collects what a manifest may not hold."""

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
        """How deep the text is nested at *index*, where the parser stopped.

        The parser reads ahead of its events, and may have a limit of its own with a message of its
        own. Brackets inside quotes and comments do not count.
        """
        ahead = QUOTED_OR_COMMENT.sub("", text[self._end : index])
        opened = ahead.count("[") + ahead.count("{") - ahead.count("]") - ahead.count("}")
        return self._depth + opened - 1

    def stop(self, line: int, rule: str) -> NoReturn:
        """Refuse the manifest, with all faults that were found so far."""
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
        return None  # an alias, which _check has reported

    def _mapping(
        self, event: Any, events: Iterator[Any], depth: int, strict: bool
    ) -> AnnotatedDict:
        mapping = AnnotatedDict()
        mapping.line = event.start_mark.line + 1
        before = len(self.faults)
        while not isinstance(inner := next(events), self._yaml.MappingEndEvent):
            name = self._name_of(inner, events, depth)
            if name in mapping:
                self._report(inner, f"{describe_value(name)} is given twice")
            value = next(events)
            if event.flow_style and _is_missing(value):
                self._report(inner, f"{describe_value(name)} has no value; {NEEDS_QUOTES}")
            mapping[name] = self._value(value, events, depth + 1, strict=strict or name == "input")
        mapping.broken = len(self.faults) > before
        return mapping

    def _name_of(self, event: Any, events: Iterator[Any], depth: int) -> str:
        if not isinstance(event, self._yaml.ScalarEvent):
            self._report(event, "names are words")
            self._value(event, events, depth + 1)
            return ""
        self._check(event, depth)
        if event.value == "<<" and not event.style:
            self._report(event, "no merge keys (<<); write it out")
        return str(event.value)

    def _scalar(self, event: Any, strict: bool) -> Any:
        if event.style:
            return event.value
        try:
            value = plain_value(event.value)
        except ValueError as exc:
            self._report(event, str(exc))
            return None
        if isinstance(value, str) and ACCIDENTAL_COMMENT.match(self._text, event.end_mark.index):
            self._remarks.append(
                f"{self._name}, line {event.end_mark.line + 1}: the text ends before ' #', since "
                "a comment begins there; a text with # in it needs quotes"
            )
        if strict and isinstance(value, str) and AMBIGUOUS.fullmatch(value):
            self._report(event, f"a value as JSON has it, or text in quotes, not {value[:40]}")
        return value

    def _check(self, event: Any, depth: int) -> None:
        self._nodes += 1
        self._depth = depth + bool(getattr(event, "flow_style", False))
        self._end = event.end_mark.index
        if isinstance(event, self._yaml.AliasEvent) or event.anchor is not None:
            self._report(event, "no anchors and aliases; write it out")
        elif event.tag is not None:
            self._report(event, f"no tags such as {describe_value(event.tag)}")
        if depth > DEEPEST:
            self.stop(event.start_mark.line, TOO_DEEP)
        if self._nodes > MOST_VALUES:
            self.stop(event.start_mark.line, "at most a million values; JSON lines may have more")

    def _report(self, event: Any, rule: str) -> None:
        self.faults.append(f"{self._name}, line {event.start_mark.line + 1}: {rule}")
        if len(self.faults) > MOST_FAULTS:
            raise ManifestError(self.faults)

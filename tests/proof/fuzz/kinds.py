"""The kinds of things that are read here, each with its cases and its promises."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
from fuzz.answers import Answer, collect
from fuzz.checks import examine, examine_pause
from fuzz.environment import examine_setting, settings
from fuzz.manifest_checks import examine_manifest, make_folder
from fuzz.manifests import manifests
from fuzz.mutations import Body, bodies, pauses
from fuzz.names import examine_name, names
from fuzz.promises import Defect, Findings
from fuzz.urls import examine_url, urls

__all__ = ["KINDS", "Kind", "Share", "case_of", "read"]

CHUNK = 2_000
THOROUGH = 16  # every so many cases, what came out is copied, measured and tried on the disk, too


@attrs.frozen
class Kind:
    """Cases of one kind: made from a seed, and examined in a folder that `prepare` made ready."""

    cases: Callable[[str, int], Iterator[Any]]
    examine: Callable[..., None]  # case, findings, thorough=, folder=
    prepare: Callable[[Path], None] = lambda folder: None


@attrs.define
class Share:
    """What one chunk gave."""

    findings: Findings = attrs.field(factory=Findings)
    defects: list[str] = attrs.field(factory=list)
    read: int = 0
    memory: int = 0  # MiB at the process's highest
    growth: int = 0  # MiB since its first chunk


@functools.cache
def answers() -> tuple[Answer, ...]:
    """The same everywhere, and collected once in each process."""
    return tuple(collect())


def _examine_body(body: Body, findings: Findings, *, thorough: bool, folder: Path) -> None:
    examine(body, findings, thorough=thorough)


def _examine_pause(
    pause: tuple[str, float | None], findings: Findings, *, thorough: bool, folder: Path
) -> None:
    examine_pause(*pause, findings)


KINDS: Mapping[str, Kind] = {
    "body": Kind(lambda seed, count: iter(bodies(answers(), seed, count)), _examine_body),
    "pause": Kind(lambda seed, count: iter(pauses(seed, count)), _examine_pause),
    "manifests": Kind(manifests, examine_manifest, make_folder),
    "names": Kind(names, examine_name),
    "urls": Kind(urls, examine_url),
    "environment": Kind(settings, examine_setting),
}


def read(
    seed: str,
    count: int = CHUNK,
    *,
    only: int | None = None,
    kinds: Mapping[str, Kind] = KINDS,
) -> Share:
    """Read *count* cases of one seed, which begins with the name of their kind."""
    kind, share = _kind_of(seed, kinds), Share()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        kind.prepare(folder)
        for number, case in enumerate(kind.cases(seed, count)):
            if only not in (None, number):
                continue
            share.read += 1
            thorough = only is not None or number % THOROUGH == 0
            try:
                kind.examine(case, share.findings, thorough=thorough, folder=folder)
            except Exception as error:  # noqa: BLE001 - whatever it is, it names its case
                defect = error if isinstance(error, Defect) else f"{type(error).__name__}: {error}"
                share.defects.append(f"{seed}:{number} {defect}\n    {case!r:.500}")
    return share


def case_of(name: str) -> tuple[str, int, Any]:
    """The seed, the number and the case that a name such as `urls/7/0:12` means."""
    seed, _, number = name.rpartition(":")
    *_, case = _kind_of(seed).cases(seed, int(number) + 1)
    return seed, int(number), case


def _kind_of(seed: str, kinds: Mapping[str, Kind] = KINDS) -> Kind:
    kind = kinds.get(seed.partition("/")[0])
    if kind is None:
        raise SystemExit(f"{seed!r}: a seed begins with one of {', '.join(KINDS)}")
    return kind

"""What must be true of every manifest: it is refused with a place and a rule, or it is its films.

Whatever is accepted is compared with what another reader finds in the same bytes, and each
request is judged by the simulator, which has the service's rules from elsewhere.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import tomllib
import tracemalloc
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import yaml
from fuzz.manifests import Manifest
from fuzz.promises import Findings, demand

from apikley_async import Storyboard
from apikley_async._text import fold_name
from apikley_async._wire.requests import create_task
from apikley_async.batch import Item, ItemState, ManifestEntry, check_manifest
from apikley_async.batch.manifest.payload import make_entry, work_of
from apikley_async.batch.manifest.reader import read_manifest
from apikley_async.errors import ManifestConflictError, ManifestError
from apikley_async.simulator.service.request_rules import TaskRequest, parse_task_request

__all__ = ["examine_manifest", "make_folder"]

SLOWEST = 0.5  # seconds for each 64 KiB: a hundred takes of every film are a hundred films
# A form that is read whole has a buffer for the largest; a film of 30 bytes may have 100 takes.
MOST_MEMORY = 66 * 1024**2
MOST_FOR_A_BYTE = 200
STORYBOARD = "sora-2-pro-storyboard"
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\0\x40\0\0\0\x30"
PLACE = re.compile(
    r"(, (line [0-9]+|film [0-9]+|defaults))?(, (column [0-9]+|cell [A-Z]+[0-9]+))?( \(.+?\))?: .+",
    re.DOTALL,
)
LOADER = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


def make_folder(folder: Path) -> None:
    """The images that manifests speak of, and what is none."""
    base = folder / "base"
    (base / "sub").mkdir(parents=True)
    for name in ("base/a.png", "base/b.png", "base/sub/b.png", "outside.png"):
        (folder / name).write_bytes(PNG + name.encode())
    (base / "text.png").write_text("no picture")
    (base / "link.png").symlink_to("../outside.png")
    (base / "loop.png").symlink_to("loop.png")
    (base / "links").symlink_to("..")
    (base / "sub" / "up").symlink_to("../..")
    os.mkfifo(base / "pipe")


def examine_manifest(
    manifest: Manifest, findings: Findings, *, thorough: bool, folder: Path
) -> None:
    """Read a manifest that lies in *folder*; raise `Defect` when a promise is broken."""
    path = folder / "base" / manifest.name
    path.write_bytes(manifest.raw)
    size = len(manifest.raw)
    findings.characters += size

    def read() -> list[ManifestEntry]:
        return [
            *read_manifest(
                path,
                allow_duplicates=manifest.allow_duplicates,
                allow_outside=manifest.allow_outside,
            )
        ]

    try:
        outcome = findings.read("reading", read, (ManifestError,), size=size, most=SLOWEST)
        if thorough:
            _check_memory(read, size)
            _check_again(manifest, path, outcome, read)
    finally:
        path.unlink()
    findings.outcomes[f"{path.suffix.lower()}: {_kind(outcome)}"] += 1
    if isinstance(outcome, ManifestError):
        _check_faults(manifest, outcome)
    elif isinstance(outcome, list):
        _check_entries(manifest, outcome, folder / "base")


def _kind(outcome: object) -> str:
    return type(outcome).__name__ if isinstance(outcome, ManifestError) else "films"


def _check_memory(read: Any, size: int) -> None:
    tracemalloc.start()
    try:
        read()
    except ManifestError:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    most = MOST_MEMORY + MOST_FOR_A_BYTE * size
    demand(peak <= most, f"{peak / 2**20:.0f} MiB for {size} bytes")


def _check_again(manifest: Manifest, path: Path, outcome: Any, read: Any) -> None:
    """A second reading finds the same, and so does `check_manifest`."""
    reported = check_manifest(
        path, allow_duplicates=manifest.allow_duplicates, allow_outside=manifest.allow_outside
    )
    if isinstance(outcome, ManifestError):
        demand(reported == list(outcome.faults), f"check says {reported[:1]!r:.200}")
    else:
        demand(reported == [], f"check says {reported[:1]!r:.200}")
        demand(read() == outcome, "read twice, it is not the same")


def _check_faults(manifest: Manifest, error: ManifestError) -> None:
    demand(1 <= len(error.faults) <= 101, f"{len(error.faults)} faults")
    for fault in error.faults:
        demand(fault.isprintable(), f"a fault that cannot be printed: {fault!r:.200}")
        demand(len(fault) <= 10_000, f"a fault of {len(fault)} characters")
        named = fault.removeprefix(manifest.name)
        placed = named != fault and PLACE.fullmatch(named) is not None
        demand(placed or fault.startswith("and more; "), f"a fault without place: {fault:.200}")
    places = [fault for fault in error.faults if "film" in fault or "paid twice" in fault]
    if isinstance(error, ManifestConflictError):
        demand(len(places) >= len(error.faults) - 1, "a conflict without the other film")


# --- what was accepted ---------------------------------------------------------------------------


def _check_entries(manifest: Manifest, entries: list[ManifestEntry], base: Path) -> None:
    demand(entries != [], "no film, and no fault")
    for fold in (fold_name, _disk):
        names = {fold(entry.key) for entry in entries}
        demand(len(names) == len(entries), "two films of one name")
    digests = {entry.digest for entry in entries}
    demand(manifest.allow_duplicates or len(digests) == len(entries), "two films of one content")
    judged: set[str] = set()
    for entry in entries:
        demand(entry.key.isprintable() and "/" not in entry.key, f"the key {entry.key!r}")
        demand(manifest.name in entry.where, f"it stands at {entry.where!r}")
        if entry.payload not in judged:
            judged.add(entry.payload)
            _check_work(manifest, entry, base)
    _compare(manifest, entries)


def _disk(key: str) -> str:
    """A key as a disk sees it that folds and decomposes."""
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", key).casefold())


def _check_work(manifest: Manifest, entry: ManifestEntry, base: Path) -> None:
    """It is a valid work, the same when it comes back, and a request that the service takes."""
    entry.payload.encode()
    demand(Path(entry.base) == base, f"its folder is {entry.base!r}")
    payload = json.loads(entry.payload)
    item = Item(entry.key, ItemState.PLANNED, payload=entry.payload, base=entry.base)
    work = work_of(item)
    url = None
    if isinstance(work, Storyboard):
        url = _checked_image(manifest, payload, work, base)
        bare = attrs.evolve(work, image=payload["image"])
        kept = json.loads(make_entry(bare, entry.key).payload)
        payload.pop("image_sha256", None)
        demand(kept == payload, "another film comes back")
    # Whatever id a storyboard is sold under, its input is that of the model the service knows.
    model = STORYBOARD if isinstance(work, Storyboard) else work.model
    raw = create_task(model, work.wire_input({"image": url} if url else {})).content()
    request = parse_task_request(raw or b"", models="*", strict=isinstance(work, Storyboard))
    demand(isinstance(request, TaskRequest), f"the service refuses it: {request!r:.200}")
    if isinstance(work, Storyboard) and isinstance(request, TaskRequest):
        scenes = (shot.scene for shot in work.shots)
        shots = tuple(zip(scenes, work.durations, strict=True))
        demand(request.shots == shots, "other shots are asked for")
        demand(
            (request.duration, request.image_url) == (work.duration, url),
            "another film is asked for",
        )


def _checked_image(
    manifest: Manifest, payload: Mapping[str, Any], work: Storyboard, base: Path
) -> str | None:
    """The URL that its image will have; a file must be one, and in the manifest's folder."""
    if work.image is None or "://" in str(work.image):
        demand("image_sha256" not in payload, "a picture without a file")
        return None if work.image is None else str(work.image)
    place = Path(work.image).resolve()
    inside = place.is_relative_to(base.resolve())
    demand(inside or manifest.allow_outside, f"an image outside: {work.image}")
    demand(place.read_bytes().startswith(PNG), f"an image that is none: {work.image}")
    [digest] = payload.get("image_sha256", {"": ""}).values()
    demand(len(digest) == 64, "a picture that is not held on to")
    return "https://files.example.com/a.png"


# --- what another reader finds -------------------------------------------------------------------


def _compare(manifest: Manifest, entries: list[ManifestEntry]) -> None:
    """The films are those that stand there: as many takes, the same scenes and durations."""
    document = _read(manifest)
    usual: Mapping[str, Any] = {}
    if isinstance(document, dict):
        usual = document.get("defaults", {})
        document = document.get("films", [document])
    wanted = [
        _facts(film) for film in document for _ in range(int({**usual, **film}.get("takes", 1)))
    ]
    found = [_facts(json.loads(entry.payload)) for entry in entries]
    demand(len(found) == len(wanted), f"{len(found)} films, not {len(wanted)}")
    for one, other in zip(found, wanted, strict=True):
        demand(one == other, f"{one!r:.150} for {other!r:.150}")


def _read(manifest: Manifest) -> Any:
    text = manifest.raw.decode("utf-8-sig")
    form = manifest.name.rpartition(".")[2].lower()
    if form in ("yaml", "yml"):
        return yaml.load(text, LOADER)  # noqa: S506 - it makes nothing but text
    if form == "toml":
        return tomllib.loads(text)
    if form == "json":
        return json.loads(text)
    if form != "csv":
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    films: list[dict[str, Any]] = []
    separator = max(",;\t", key=text.partition("duration")[0].count)
    head, rest = re.split(r"[\r\n]", text, maxsplit=1)
    head = re.sub(r"[ _]", "", head).casefold().replace("filmduration", "film_duration")
    text = f"{head}\n{rest}"
    for row in csv.DictReader(io.StringIO(text, newline=""), delimiter=separator):
        if not any(str(cell or "").strip() for cell in row.values()):
            continue
        if separator != ",":
            row["duration"] = str(row["duration"]).replace(",", ".")
        key = (row.get("key") or "").strip()
        if not films or not key or films[-1]["key"] != key:
            films.append({"key": key, "shots": []})
        films[-1]["shots"].append(row)
    return films


def _facts(film: Mapping[str, Any]) -> Any:
    """What is paid for, however its form spells it."""
    if "task" in film:
        return str(film["task"]["model"])
    return [(_word(shot["scene"]), _seconds(shot.get("duration"))) for shot in film["shots"]]


def _seconds(duration: Any) -> float | None:
    """A shot without a duration has a share of the film's."""
    text = str(duration if duration is not None else "").strip()
    return None if text.casefold() in ("", "~", "null") else float(text)


def _word(scene: Any) -> str:
    reported = str(scene)
    return str(int(reported)) if re.fullmatch("-?[0-9]{1,40}", reported) else reported

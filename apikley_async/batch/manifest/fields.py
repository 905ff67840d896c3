"""What one film of a manifest says: checked, and turned into an `Entry` of the journal.

Pure but for one look at each image file, which must be what it says before anything is paid.
The fields are those of DESIGN: key, takes, shots, duration, aspect_ratio, image; or task.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import attrs

from apikley_async import (
    Image,
    ModelTask,
    PinnedImage,
    Shot,
    Storyboard,
    Work,
    with_images,
)
from apikley_async._images import read_image
from apikley_async._urls import fetch_faults
from apikley_async.batch.store.protocol import Entry, Item
from apikley_async.errors import JournalError, ManifestError, StoryboardError, UploadError

__all__ = [
    "Record",
    "defaults_of",
    "digests_of",
    "entries_of",
    "entry_of",
    "folded",
    "is_key",
    "name_fault",
    "shown",
    "without_words",
    "work_of",
]

OF_A_STORYBOARD = ("shots", "duration", "aspect_ratio", "image", "model")
OF_A_TASK = ("model", "input", "images")
FIELDS = ("key", "takes", *OF_A_STORYBOARD, "task")
DEFAULTS = ("takes", *OF_A_STORYBOARD[1:])
USUAL = {f.name: f.default for f in attrs.fields(Storyboard) if f.default is not attrs.NOTHING}
USUAL_OF_A_TASK: Mapping[str, Any] = {"input": {}, "images": {}}
VERSION = 2  # of the digest; version 1 has no prefix, and counts these even where nobody gave them
SPELLED_IN_1 = ("shots", "duration", "aspect_ratio", "image", "model", "input")
NOTES = "metadata"  # the same, of its user: not sent, and no part of the digest
NOT_THERE = (Shot("Its absence is told elsewhere.", 0.1),)
PICTURE = "image_sha256"  # beside the work in a payload: its images as they were when planned
REMOVED = "(removed)"  # in the place of a scene
MOST_TAKES = 100
MOST_SHOTS = 10
MOST_FAULTS = 100
# Other than tab and line breaks; and what turns the direction of the text around it.
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
ONE_LINE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
KEY = re.compile(r"[^\W_][\w.\- ]{0,79}")
NUMBERED = re.compile(r"(\.v[0-9]{1,6})?(\.[0-9]{1,3})?$")
FILLERS = frozenset("\u115f\u1160\u3164\uffa0")  # letters that nobody sees, and some disks ignore
LONGEST_KEY = 160  # bytes; with its suffixes it must be a file's name, of at most 255
DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]) *(\..*)?", re.IGNORECASE)

Digests = Callable[[str], str]


def nowhere(_name: str) -> None:
    """Where a field is, in a form that has no cells."""
    return


@attrs.frozen
class Record:
    """One film as it was read: its file, where in it it stands, and its fields."""

    file: str
    unit: str
    number: int
    fields: Mapping[str, Any]
    words: Mapping[str, str] = attrs.field(factory=dict)
    """What the form calls a field, where that is not the field's name."""
    cells: Callable[[str], tuple[str, str] | None] = attrs.field(default=nowhere, repr=False)
    """The place and the column of a field, where the form is a table."""
    notes: Mapping[str, Any] = attrs.field(factory=dict, repr=False)
    """What stands beside the film and is no field of it: kept as its metadata."""
    broken: bool = False
    """Whether some of its values could not be read, which has been told: its name counts."""

    def told(self, fault: str) -> str:
        """A fault with its place and the film's key, in the words of the form."""
        name, colon, rule = fault.partition(":")
        where, word = self.cells(name) or (self.where, self.words.get(name, name))
        return f"{where}{self._called(name)}: {word}{colon}{rule}"

    @property
    def place_called(self) -> str:
        """Where it stands, and what it is called."""
        return f"{self.where}{self._called('')}"

    def _called(self, name: str) -> str:
        """The film's key, where it is one and not what is wrong."""
        key = self.fields.get("key")
        if name == "key" or not self.unit or not isinstance(key, str) or not KEY.fullmatch(key):
            return ""
        return f" ({key})"

    @property
    def where(self) -> str:
        return self.place(self.number)

    def place(self, number: int) -> str:
        """Where the film of that number stands, in the same file."""
        return f"{self.file}, {self.unit} {number}" if self.unit else self.file


# --- a film of a manifest -----------------------------------------------------------------------


def entries_of(
    record: Record, defaults: Mapping[str, Any], *, base: Path, digest_of: Digests
) -> list[Entry]:
    """The entries a record stands for: one, or as many as it has takes.

    Raises:
        StoryboardError: with every fault of the record, not yet with its place.
    """
    usual = defaults
    if "task" in record.fields:
        usual = {name: defaults[name] for name in ("takes",) if name in defaults}
    fields = {**usual, **record.fields}
    faults = [*islice(field_faults(fields), MOST_FAULTS)]
    work: Work | None = None
    try:
        work = read_work(fields)
    except StoryboardError as error:
        faults += error.faults
    digests: dict[str, str] = {}
    if not any(fault.startswith(("image", "task.image")) for fault in faults):
        try:
            digests = digests_of(images_in(fields), digest_of)
        except StoryboardError as error:
            faults += error.faults
    if faults or work is None:
        raise StoryboardError(faults)
    takes = range(1, fields.get("takes", 1) + 1)
    return takes_of(
        work,
        fields.get("key"),
        takes,
        base=base,
        where=record.where,
        digests=digests,
        notes=record.notes,
    )


def keys_of(fields: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """The names of a film that has a fault elsewhere; none where they are what is wrong."""
    key, takes = fields.get("key"), {**defaults, **fields}.get("takes", 1)
    if key is None or [*key_faults(key)]:
        return []
    counted = takes if type(takes) is int and 1 <= takes <= MOST_TAKES else 1
    return [name_of_take(_name(key), take) for take in range(1, counted + 1)]


def defaults_of(fields: Mapping[str, Any], digest_of: Digests) -> tuple[dict[str, Any], list[str]]:
    """The defaults, and what is wrong with them; what is wrong is told once, not with each film."""
    faults = [
        f"{shown(name)}: unknown; there are {', '.join(DEFAULTS)}"
        for name in islice(fields, MOST_FAULTS)
        if name not in DEFAULTS
    ]
    usual = {name: fields[name] for name in DEFAULTS if name in fields}
    probe = {**usual, "shots": NOT_THERE}
    faults += field_faults(probe)
    try:
        read_work(probe)
        digests_of(images_in(usual), digest_of)
    except StoryboardError as error:
        faults += error.faults
    if faults:  # films are checked against what they could have meant
        broken = {fault.partition(":")[0] for fault in faults}
        usual = {name: value for name, value in usual.items() if name not in broken}
        if "duration" in broken:
            usual["duration"] = 25
    return usual, faults


def field_faults(fields: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the fields that a storyboard does not know."""
    for name in fields:
        if name not in FIELDS:
            yield f"{shown(name)}: unknown; a film has {', '.join(FIELDS)}"
    if "task" in fields:
        mixed = [name for name in OF_A_STORYBOARD if name in fields]
        if mixed:
            yield f"task: instead of {' and '.join(mixed)}, not beside"
    elif "shots" not in fields:
        yield "shots: missing; or a task, with model and input"
    key = fields.get("key")
    if key is not None:
        yield from key_faults(key)
    takes = fields.get("takes", 1)
    if isinstance(takes, bool) or not isinstance(takes, int) or not 1 <= takes <= MOST_TAKES:
        yield f"takes: a whole number from 1 to {MOST_TAKES}, not {shown(takes)}"
    for name, image in images_in(fields):
        if isinstance(image, str) and ONE_LINE.search(image):
            yield f"{name}: without control characters"
    shots = fields.get("shots")
    for number, shot in enumerate(shots[:MOST_SHOTS] if isinstance(shots, list) else ()):
        scene = shot.get("scene") if isinstance(shot, Mapping) else None
        if isinstance(scene, str) and CONTROL.search(scene):
            yield f"shots[{number}].scene: without control characters"


def images_in(fields: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The images of a film's fields with their places, whatever stands there."""
    task = fields.get("task")
    images = task.get("images") if isinstance(task, Mapping) else None
    if isinstance(images, Mapping):
        for place, image in images.items():
            several = isinstance(image, list)
            for number, one in enumerate(image if several else [image]):
                yield f"task.images.{shown_place(place)}{f'[{number}]' if several else ''}", one
    if "image" in fields:
        yield "image", fields["image"]


def unfetched(fields: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The image URLs of a film, by place, that the service cannot fetch; each with the reason."""
    for place, image in images_in(fields):
        if isinstance(image, str) and "://" in image and (fault := next(fetch_faults(image), "")):
            yield place, fault


def read_work(fields: Mapping[str, Any]) -> Work:
    """The work that a film's fields, or a journal's payload, describe."""
    if "task" in fields:
        return _read_task(fields["task"])
    shots = fields.get("shots", NOT_THERE)
    if isinstance(shots, list):
        if len(shots) > MOST_SHOTS:
            raise StoryboardError(f"shots: 1 to {MOST_SHOTS}, not {len(shots)}")
        shots = [_as_shot(shot) for shot in shots]
    rest = {name: fields[name] for name in OF_A_STORYBOARD[1:] if name in fields}
    return Storyboard(shots, **rest)


def _read_task(task: object) -> ModelTask:
    if not isinstance(task, Mapping):
        raise StoryboardError(f"task: a mapping of model, input and images, not {shown(task)}")
    faults = [
        f"task.{shown(name)}: unknown; a task has model, input and images"
        for name in islice(task, MOST_FAULTS)
        if name not in OF_A_TASK
    ]
    try:
        rest = {name: task[name] for name in OF_A_TASK[1:] if name in task}
        made = ModelTask(task.get("model") or "", **rest)
    except StoryboardError as error:
        raise StoryboardError([*faults, *(f"task.{fault}" for fault in error.faults)]) from None
    if faults:
        raise StoryboardError(faults)
    return made


def _as_shot(shot: Any) -> Any:
    """A whole number is a scene's text too: `scene: 1984`."""
    scene = shot.get("scene") if isinstance(shot, Mapping) else None
    if type(scene) is int and abs(scene) < 10**40:
        return {**shot, "scene": str(scene)}
    return shot


# --- keys ---------------------------------------------------------------------------------------


def key_faults(key: object) -> Iterator[str]:
    """A key names files: letters, digits, spaces and `._-`, beginning with a letter or digit."""
    if isinstance(key, bool) or not isinstance(key, str | int):
        yield f"key: a word, not {shown(key)}; in quotes, anything is a word"
        return
    name = _name(key)
    if not KEY.fullmatch(name) or name[-1] in ". " or FILLERS & {*name}:
        yield (
            "key: letters, digits, spaces and ._-, at most 80, beginning with a letter or digit "
            f"and not ending with a dot or space, not {shown(key)}"
        )
    elif len(name.encode()) > LONGEST_KEY:
        yield f"key: at most {LONGEST_KEY} bytes in UTF-8, not {len(name.encode())}"
    elif DEVICES.fullmatch(name):
        yield f"key: a name that is a file's everywhere, not {name!r}"


def name_fault(stem: str, most: int) -> str | None:
    """Say that a disk whose names have *most* bytes cannot take a film's; None if it can."""
    name = len(f"{stem}-1.mp4".encode())
    if name <= most:
        return None
    return f"{shown(stem)} names a file of {name} bytes, and the disk takes {most}; a shorter key"


def is_key(key: str) -> bool:
    """Whether a journal may hold *key*: a manifest's, with the number of its version or take."""
    stem = NUMBERED.sub("", key)
    return _name(key) == key and not any(key_faults(stem))


def folded(key: str) -> str:
    """A key as the least discerning file system sees it: two of one fold would share a file."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", key).casefold())


def name_of_take(stem: str, take: int) -> str:
    """The key of a take: the film's own, with a number from the second on."""
    return stem if take == 1 else f"{stem}.{take}"


def _name(key: object) -> str:
    try:
        return unicodedata.normalize("NFC", str(key))
    except ValueError:  # a number of thousands of digits
        return ""


# --- what the journal holds ---------------------------------------------------------------------


def entry_of(
    work: Work,
    key: object,
    *,
    take: int = 1,
    base: Path | None = None,
    where: str = "",
    digests: Mapping[str, str] | None = None,
) -> Entry:
    """The entry for a work; without a key its name is made from its content.

    Raises:
        ManifestError: the folder's name cannot be written down.
    """
    [entry] = takes_of(work, key, (take,), base=base, where=where, digests=digests)
    return entry


def takes_of(
    work: Work,
    key: object,
    takes: Iterable[int],
    *,
    base: Path | None = None,
    where: str = "",
    digests: Mapping[str, str] | None = None,
    notes: Mapping[str, Any] | None = None,
) -> list[Entry]:
    """The entries for some takes of a work, which share what they have in common."""
    digests = digests or {}
    content = work.to_dict(
        with_images(work.images, lambda image: digests.get(os.fsdecode(image), image))
    )

    def placed(image: Image) -> Image:
        """What lies outside by permission is written down with its whole path."""
        far = os.fsdecode(image) in digests and leads_out(image)
        return os.path.normpath((base or Path()).absolute() / image) if far else image

    payload = dict(work.to_dict(with_images(work.images, placed)))
    if digests:
        payload[PICTURE] = {os.fsdecode(placed(name)): digest for name, digest in digests.items()}
    if notes:
        payload[NOTES] = dict(notes)
    words = spelled(payload)
    digest_of, former_of = digester(content), digester(content, 1)
    stem = f"film-{former_of(1)[:12]}" if key is None else _name(key)  # as it ever was
    folder = str(base.absolute()) if base else ""
    if not encodes(folder):
        raise ManifestError([f"{where}: a folder with a name in Unicode, not {folder!r}"])
    return [
        Entry(
            key=name_of_take(stem, take),
            payload=words,
            digest=digest_of(take),
            base=folder,
            where=where,
            named=key is not None,
            former=(former_of(take),),
        )
        for take in takes
    ]


def digester(content: Mapping[str, Any], version: int = VERSION) -> Callable[[int], str]:
    """What gives the digest of each take of a content; they share the work they have in common."""
    told = json.dumps(counted(content, version), sort_keys=True)
    mark = "" if version == 1 else f"{version}:"
    once, more = hashlib.sha256(told.encode()), hashlib.sha256(f"[{told}, ".encode())

    def digest_of(take: int) -> str:
        if take == 1:
            return f"{mark}{once.hexdigest()}"
        digest = more.copy()
        digest.update(f"{take}]".encode())
        return f"{mark}{digest.hexdigest()}"

    return digest_of


def counted(content: Mapping[str, Any], version: int = VERSION) -> dict[str, Any]:
    """What of a content counts in its digest."""
    if "task" in content:
        return {"task": given(content["task"], USUAL_OF_A_TASK, version)}
    return given(content, USUAL, version)


def given(
    fields: Mapping[str, Any], usual: Mapping[str, Any], version: int = VERSION
) -> dict[str, Any]:
    """The fields that are not as they would be if nobody had given them.

    So a field that is added later, and that nobody gives, changes no digest.
    """
    spelled_out = SPELLED_IN_1 if version == 1 else ()
    return {
        name: value
        for name, value in fields.items()
        if name in spelled_out or name not in usual or value != usual[name]
    }


def spelled(payload: Mapping[str, Any]) -> str:
    """A payload as text that a database takes, even with a file's name that is no Unicode."""
    text = json.dumps(payload, ensure_ascii=False, sort_keys=True)
    return text if encodes(text) else json.dumps(payload, sort_keys=True)


def work_of(item: Item) -> Work:
    """The work an item stands for: its image files in the manifest's folder, as they were planned.

    What has another content by then is not uploaded, nor what has no digest, nor what lies
    outside of that folder and is not named with its whole path.

    Raises:
        JournalError: what stands there is no film that a manifest could have named.
    """
    try:
        return _read_planned(item)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OSError) as error:
        told = str(error) if isinstance(error, StoryboardError) else "it is no film"
        raise JournalError(
            f"the journal is damaged, or was not written by this program: {shown(item.key)}: {told}"
        ) from None


def without_words(item: Item) -> str:
    """The payload of an item without its words and images; it costs what it did."""
    work = work_of(item)
    if isinstance(work, Storyboard):
        shots = [Shot(REMOVED, shot.duration) for shot in work.shots]
        return spelled(attrs.evolve(work, shots=shots, image=None).to_dict())
    return spelled(ModelTask(work.model).to_dict())


def _read_planned(item: Item) -> Work:
    payload = json.loads(item.payload)
    planned = payload.pop(PICTURE, {})
    payload.pop(NOTES, None)
    if isinstance(planned, str):  # as it was written when a film had one image at most
        planned = {payload["image"]: planned}
    if not payload.keys() & {"shots", "task"}:
        raise StoryboardError("shots: missing")

    def found(image: Image) -> Image:
        if not is_file(image):
            return image
        if leads_out(image):
            raise StoryboardError(f"image: inside the manifest's folder, not {shown(image)}")
        return PinnedImage(Path(item.base) / image, planned.get(image, ""))

    work = read_work(payload)
    if isinstance(work, ModelTask):
        return attrs.evolve(work, images=with_images(work.images, found))
    if isinstance(work, Storyboard) and work.image is not None:
        return attrs.evolve(work, image=found(work.image))
    return work


# --- images -------------------------------------------------------------------------------------


def is_file(image: object) -> bool:
    """Whether an image is a path, neither a URL nor nothing."""
    return isinstance(image, str) and "://" not in image and image.strip() != ""


def digests_of(images: Iterable[tuple[str, Any]], digest_of: Digests) -> dict[str, str]:
    """The digests of those images that are files, by their paths.

    Raises:
        StoryboardError: with the place and the fault of every one that cannot be used.
    """
    digests: dict[str, str] = {}
    faults: list[str] = []
    for place, image in images:
        name = os.fsdecode(image) if isinstance(image, os.PathLike) else image
        if not is_file(name):
            continue
        try:
            digests[name] = digest_of(name)
        except StoryboardError as error:
            faults += [f"{place}{fault.removeprefix('image')}" for fault in error.faults]
    if faults:
        raise StoryboardError(faults)
    return digests


def image_digest(base: Path, image: str, allow_outside: bool) -> str:
    """The SHA-256 of an image that may be used; it stays inside the manifest's folder.

    Raises:
        StoryboardError: it is not there, no image, or lies where it may not.
    """
    if not encodes(image):
        raise StoryboardError(f"image: a name in Unicode, not {shown(image)}")
    try:
        place = (base / image).resolve()
        inside = allow_outside or place.is_relative_to(base.resolve())
    except (OSError, ValueError, RuntimeError):  # links in a circle, a NUL, an endless name
        raise StoryboardError(f"image: a path, not {shown(image)}") from None
    if not inside:
        raise StoryboardError(f"image: inside the manifest's folder, not {shown(image)}")
    try:
        return read_image(place).sha256
    except UploadError as error:
        told = error.message.removeprefix("image ")
        raise StoryboardError(f"image: {told}") from None


def leads_out(image: Image) -> bool:
    """Whether a relative path leads out of the folder that it is relative to."""
    return Path(os.path.normpath(image)).parts[:1] == (os.pardir,)


# --- words --------------------------------------------------------------------------------------


def shown(value: object) -> str:
    """A value in an error message: one short line, however large or deep it is."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, str):
        return f"{value[:60]!r}{'...' if len(value) > 60 else ''}"
    try:
        text = repr(value)
    except ValueError:  # a number of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:57]}..."


def shown_place(place: object) -> str:
    """The name of a field in a message."""
    return place if isinstance(place, str) and place.isidentifier() else shown(place)


def encodes(text: str) -> bool:
    """Whether a text can be written down: no lone surrogate is in it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

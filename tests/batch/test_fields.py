"""What one film of a manifest says, and what the journal holds of it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
from batch.pictures import png
from hypothesis import given
from hypothesis import strategies as st

from apikley_async import (
    ModelTask,
    PinnedImage,
    Shot,
    Storyboard,
    Work,
    images_of,
    with_images,
)
from apikley_async._images import read_image
from apikley_async._text import describe_value, fold_name
from apikley_async.batch import Item, ItemState, ManifestEntry
from apikley_async.batch.keys import key_faults
from apikley_async.batch.manifest.fields import check_defaults, make_entries
from apikley_async.batch.manifest.film_record import FilmRecord
from apikley_async.batch.manifest.image_files import image_digest
from apikley_async.batch.manifest.payload import make_entry, work_of
from apikley_async.errors import StoryboardError, UploadError

SHOTS = [{"scene": "A kitten eats cake.", "duration": 7.5}, {"scene": "It is gone.", "duration": 5}]


def entries(
    fields: Mapping[str, Any],
    defaults: Mapping[str, Any] | None = None,
    base: Path = Path("/films"),
) -> list[ManifestEntry]:
    return make_entries(
        FilmRecord("films.yaml", "line", 3, fields),
        defaults or {},
        base=base,
        digest_of=lambda image: image_digest(base, image, False),
    )


def faults(fields: Mapping[str, Any], base: Path = Path("/films")) -> tuple[str, ...]:
    with pytest.raises(StoryboardError) as caught:
        entries(fields, base=base)
    return caught.value.faults


def item(entry: ManifestEntry) -> Item:
    return Item(entry.key, ItemState.PLANNED, payload=entry.payload, base=entry.base)


# --- keys ---------------------------------------------------------------------------------------


def test_a_key_that_can_name_files() -> None:
    """Words of any script, numbers too."""
    keys = [
        *("a", "7", 7, 0, "kitten", "kitten.2", "Kätzchen", "котёнок", "子猫", "010", "no", "null"),
        *(
            "a b",
            "a-b_c.d",
            "console",
            "comet",
            "x" * 80,
            "子" * 53,
            "e\u0301t\u00e9",
            "2026-01-01",
        ),
    ]

    assert {key: faults for key in keys if (faults := [*key_faults(key)])} == {}


def test_a_key_that_cannot_name_files() -> None:
    """It is refused, and the fault is one short line. (M4, M12)."""
    keys = [
        # what is a path, or hides
        *("", " ", ".", "..", ".hidden", "../up", "a/b", "/etc/passwd", "a\\b", "C:", "~", "-rf"),
        *("_x", "a.", "a ", " a", "a:b", "a*", "a?", 'a"b', "<a>", "a|b", "$HOME", "a%2fb"),
        # what forges a log
        *("a\nb", "a\n", "a\r", "a\tb", "a\0", "\x1b[31ma", "a\x7fb", "a\x85b", "a\u2028b"),
        # what turns the text around it, or is not seen
        *(
            "a\u202eb",
            "\u202ea",
            "a\u2066b",
            "a\u200bb",
            "a\u200fb",
            "a\ufeffb",
            "\u00ad",
            "a\ud800",
        ),
        # names of devices
        *("CON", "con", "Nul", "aux", "PRN", "COM1", "lpt9", "con.2", "NUL.tar.gz", "com¹"),
        # what is too long for a file's name with its suffixes
        *("x" * 81, "x" * 300, "子" * 54, "\U00020000" * 41),
        # no words
        *(True, False, 1.5, -5, float("nan"), [], {}, ["a"], b"a", 10**100, 10**5000),
    ]
    failures = []
    for number, key in enumerate(keys):
        faults = [*key_faults(key)]
        reported = len(faults) == 1 and faults[0].startswith("key: ")
        if not reported or len(faults[0]) >= 300 or not faults[0].isprintable():
            failures.append((number, faults))

    assert failures == []


@given(st.text(max_size=100))
def test_a_key_stays_in_its_folder(key: str) -> None:
    """What is accepted is one name, which a file can have with its suffixes. (M12)."""
    if [*key_faults(key)]:
        return
    [entry] = entries({"key": key, "shots": SHOTS})
    name = f".{entry.key}.100-10.0123456789abcdef.apikley.part.json"

    assert os.path.basename(name) == name  # noqa: PTH119 - the very question
    assert len(os.fsencode(name)) <= 255
    assert entry.key.isprintable()
    assert entry.key == entry.key.strip(" .")


def test_keys_that_name_the_same_file_on_some_disk() -> None:
    """Letter case and composition are ignored by some. (M4)."""
    pairs = [
        *(("Kitten", "kitten"), ("é", "e\u0301"), ("straße", "STRASSE"), ("ﬁlm", "film")),
        *(("ΣΑΣ", "σας"), ("Å", "\u212b"), ("K", "\u212a"), ("ｆｉｌｍ", "film")),
    ]

    assert [pair for pair in pairs if fold_name(pair[0]) != fold_name(pair[1])] == []


def test_keys_are_stored_in_composed_form() -> None:
    """However an editor writes an accent, it is one key."""
    [one] = entries({"key": "e\u0301", "shots": SHOTS})
    [other] = entries({"key": "\u00e9", "shots": SHOTS})

    assert one == other


@pytest.mark.parametrize(("key", "named"), [(7, "7"), ("007", "007")])
def test_a_number_is_a_key(key: object, named: str) -> None:
    """Also from Python."""
    board = Storyboard([Shot("A cat.", 5)])

    assert make_entry(board, key).key == named
    assert [each.key for each in entries({"key": key, "shots": SHOTS})] == [named]


# --- names made from the content ------------------------------------------------------------------


def test_a_film_without_a_key_is_named_after_its_content() -> None:
    """The same film has the same name, however it is written; another film another. (A21)."""
    [one] = entries({"shots": SHOTS})
    [same] = entries({"aspect_ratio": "landscape", "duration": 15, "shots": [*SHOTS], "key": None})
    [other] = entries({"shots": SHOTS, "duration": 25})

    assert one.key == same.key
    assert one.digest == same.digest
    assert not one.named
    assert other.key != one.key
    # It may never change: those who run a batch again would pay for all of it again.
    assert one.key == "film-98ac8dbf99f3"


def test_the_digest_does_not_depend_on_the_key() -> None:
    """Twins are found whatever they are called. (A22)."""
    [one] = entries({"key": "a", "shots": SHOTS})
    [other] = entries({"key": "b", "shots": SHOTS})

    assert one.digest == other.digest


def test_an_image_is_its_content(tmp_path: Path) -> None:
    """Renamed it is the same film; changed, another one. (M11)."""
    for name in ("a.png", "b.png"):
        tmp_path.joinpath(name).write_bytes(png())
    [one] = entries({"image": "a.png", "shots": SHOTS}, base=tmp_path)
    [same] = entries({"image": "b.png", "shots": SHOTS}, base=tmp_path)
    tmp_path.joinpath("b.png").write_bytes(png(b"another"))
    [other] = entries({"image": "b.png", "shots": SHOTS}, base=tmp_path)

    assert (one.key, one.digest) == (same.key, same.digest)
    assert other.digest != one.digest


# --- takes and defaults ---------------------------------------------------------------------------


def test_takes() -> None:
    """The first has the key, the others a number; each is a film of its own."""
    takes = entries({"key": "kitten", "takes": 3, "shots": SHOTS})

    assert [take.key for take in takes] == ["kitten", "kitten.2", "kitten.3"]
    assert len({take.digest for take in takes}) == 3
    assert len({take.payload for take in takes}) == 1
    assert takes[:1] == entries({"key": "kitten", "shots": SHOTS})


def test_takes_are_a_number() -> None:
    """From 1 to 100; a typo does not buy a thousand films."""
    failures = []
    for number, takes in enumerate((0, -1, 101, 1.0, True, "2", None, [], 10**5000, 1e999)):
        found = faults({"takes": takes, "shots": SHOTS})
        if len(found) != 1 or not found[0].startswith("takes: a whole number from 1 to 100, not "):
            failures.append((number, found))

    assert failures == []


def test_defaults() -> None:
    """They hold where a film says nothing, and a film may say null for no image."""
    usual = {
        "duration": 25,
        "aspect_ratio": "portrait",
        "takes": 2,
        "image": "https://x.test/a.png",
    }
    one, _ = entries({"shots": SHOTS}, usual)
    [other] = entries({"shots": SHOTS, "duration": 15, "takes": 1, "image": None}, usual)

    board = work_of(item(one))
    assert isinstance(board, Storyboard)
    assert (board.duration, board.aspect_ratio, board.image) == (25, "portrait", usual["image"])
    board = work_of(item(other))
    assert isinstance(board, Storyboard)
    assert (board.duration, board.aspect_ratio, board.image) == (15, "portrait", None)


def test_defaults_of_a_task() -> None:
    """Only its takes: the rest is a storyboard's."""
    usual = {"duration": 25, "image": "nowhere.png", "takes": 2}

    assert len(entries({"task": {"model": "m", "input": {}}}, usual)) == 2


def test_a_fault_of_the_defaults_is_reported_once(tmp_path: Path) -> None:
    """It is no fault of each film."""
    table: list[tuple[Mapping[Any, Any], str]] = [
        ({"duration": 12}, "duration: 10, 15 or 25"),
        ({"aspect_ratio": "square"}, "aspect_ratio: "),
        ({"takes": 0}, "takes: "),
        ({"image": "nowhere.png"}, "image: '.*nowhere.png': cannot be read"),
        ({"image": "../up.png"}, "image: inside the manifest's folder"),
        ({"shots": []}, "'shots': unknown"),
        ({"key": "a"}, "'key': unknown"),
        ({1: 2}, "1: unknown"),
    ]
    long = [{"scene": "A cat.", "duration": 12}] * 2
    failures = []
    for defaults, rule in table:
        usual, found = check_defaults(defaults, lambda image: image_digest(tmp_path, image, False))
        if len(found) != 1 or not re.match(rule, found[0]):
            failures.append((defaults, found))
        assert entries({"shots": long, "duration": 25} | usual)

    assert failures == []


# --- what is wrong with a film --------------------------------------------------------------------


def test_every_fault_of_a_film_is_reported() -> None:
    """So a user corrects a film once."""
    found = faults(
        {
            "key": "a/b",
            "takes": 0,
            "shots": [{"scene": "", "duration": 5}, {"scene": "a\0b", "duration": 99}],
            "duration": 12,
            "aspect_ratio": "round",
            "image": "../x.png",
            "colour": "red",
        }
    )

    assert [fault.partition(":")[0] for fault in found] == [
        *("'colour'", "key", "takes", "shots[1].scene", "shots[0].scene", "shots[1].duration"),
        *("duration", "aspect_ratio", "image"),
    ]


def test_what_is_wrong_with_a_film() -> None:
    """Rule and fact, with the field's path."""
    table: list[tuple[Mapping[str, Any], tuple[str, ...]]] = [
        ({}, ("shots: missing; or a task, with model and input",)),
        ({"key": "a"}, ("shots: missing; or a task, with model and input",)),
        ({"shots": None}, ("shots: a sequence of Shot, not None",)),
        ({"shots": []}, ("shots: 1 to 10, not 0",)),
        ({"shots": {}}, ("shots: a sequence of Shot, not {}",)),
        ({"shots": "a film"}, ("shots: a sequence of Shot, not 'a film'",)),
        ({"shots": SHOTS * 500_000}, ("shots: 1 to 10, not 1000000",)),
        ({"shots": SHOTS, "image": "a\nb.png"}, ("image: without control characters",)),
        ({"task": None}, ("task: a mapping of model, input and images, not None",)),
        ({"task": "m"}, ("task: a mapping of model, input and images, not 'm'",)),
        ({"task": {}}, ("task.model: a name, not blank",)),
        ({"task": {"model": 5}}, ("task.model: a name, not 5",)),
        ({"task": {"model": "m", "input": None}}, ("task.input: a mapping, not None",)),
        ({"task": {"model": "m\x1b"}}, ("task.model: without control characters",)),
        (
            {"task": {"model": "m", "inputs": {}}},
            ("task.'inputs': unknown; a task has model, input and images",),
        ),
        (
            {"task": {"model": "m", "input": {"x": float("nan")}}},
            ("task.input.x: a finite number, not nan",),
        ),
        (
            {"task": {"model": "m", "input": {}}, "shots": SHOTS, "duration": 10},
            ("task: instead of shots and duration, not beside",),
        ),
    ]

    assert [(found, rule) for fields, rule in table if (found := faults(fields)) != rule] == []


def test_a_scene_that_is_a_number() -> None:
    """A whole number is text as it stands; what could have been written otherwise is not."""
    table: list[tuple[object, str | None]] = [
        (1984, None),
        (0, None),
        (1.5, "1.5"),
        (True, "True"),
        (10**50, "1000"),
        (float("inf"), "inf"),
    ]
    failures = []
    for scene, refused in table:
        fields = {"shots": [{"scene": scene, "duration": 5}]}
        if refused is None:
            [entry] = entries(fields)
            if json.loads(entry.payload)["shots"][0]["scene"] != str(scene):
                failures.append((scene, entry.payload))
        elif not faults(fields)[0].startswith(f"shots[0].scene: a description, not {refused}"):
            failures.append((scene, str(faults(fields))))

    assert failures == []


# --- images ---------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A manifest's folder with images in it, and one beside it."""
    inside = tmp_path / "films"
    inside.joinpath("pictures").mkdir(parents=True)
    for place in ("a.png", "pictures/b.png", "../outside.png"):
        inside.joinpath(place).write_bytes(png(place.encode()))
    inside.joinpath("text.png").write_text("no picture")
    inside.joinpath("out.png").symlink_to("../outside.png")
    inside.joinpath("in.png").symlink_to("a.png")
    inside.joinpath("up").symlink_to("..")
    inside.joinpath("circle.png").symlink_to("circle.png")
    os.mkfifo(inside / "pipe.png")
    return inside


def test_an_image_in_the_folder(folder: Path) -> None:
    """Or below it, or linked within it."""
    for image in ("a.png", "./a.png", "pictures/b.png", "pictures/../a.png", "in.png"):
        assert len(image_digest(folder, image, False)) == 64, image


def test_an_absolute_path_into_the_folder(folder: Path) -> None:
    """It is inside, however it is written."""
    assert image_digest(folder, str(folder / "a.png"), False) == image_digest(
        folder, "a.png", False
    )


def test_an_image_outside_is_refused(folder: Path) -> None:
    """A manifest from elsewhere must not upload what lies on this machine. (M10)."""
    below = "pictures/../../outside.png"
    for image in ("../outside.png", "out.png", "up/outside.png", "/etc/passwd", below):
        with pytest.raises(StoryboardError, match="image: inside the manifest's folder"):
            image_digest(folder, image, False)


def test_an_image_outside_is_allowed_if_that_is_said(folder: Path) -> None:
    """The user knows the manifest."""
    assert image_digest(folder, "../outside.png", True) == image_digest(folder, "out.png", True)


@pytest.mark.timeout(10)
def test_a_file_that_is_no_image_is_refused(folder: Path) -> None:
    """Everything is read before anything is paid; nothing makes us wait."""
    table = [
        *(
            ("none.png", "cannot be read"),
            ("text.png", "JPEG, PNG or WebP"),
            (".", "cannot be read"),
        ),
        *(("pictures", "cannot be read"), ("pipe.png", "regular file"), ("circle.png", "image: ")),
        *(("a" * 300, "image: "), ("a/" * 3000, "image: "), ("a.png/b", "cannot be read")),
        *(("nul\0.png", "image: a path"), ("\udcff.png", "a name in Unicode")),
    ]
    for image, rule in table:
        with pytest.raises(StoryboardError, match=rule) as caught:
            image_digest(folder, image, False)

        assert caught.value.faults[0].startswith("image: ")


def check_pictures(work: Work) -> None:
    """Read the files of a work as they are read to be uploaded."""
    for _, image in images_of(work.images):
        if "://" not in os.fspath(image):
            read_image(image)


def task_of(images: object) -> dict[str, object]:
    return {"task": {"model": "m", "input": {"prompt": "A."}, "images": images}}


def test_the_images_of_a_task_are_those_that_were_planned(folder: Path) -> None:
    """Found in the manifest's folder, part of the content, and read again before paying."""
    images = {"frames": ["a.png", "pictures/b.png"], "face": "https://x.test/c.png"}
    [entry] = entries(task_of(images), base=folder)

    work = work_of(item(entry))

    assert with_images(work.images, os.fsdecode) == {
        "frames": [str(folder / "a.png"), str(folder / "pictures/b.png")],
        "face": "https://x.test/c.png",
    }
    check_pictures(work)
    [renamed] = entries(task_of({**images, "frames": ["in.png", "pictures/b.png"]}), base=folder)
    assert renamed.digest == entry.digest
    [turned] = entries(task_of({**images, "frames": ["pictures/b.png", "a.png"]}), base=folder)
    [without] = entries({"task": {"model": "m", "input": {"prompt": "A."}}}, base=folder)
    assert len({entry.digest, turned.digest, without.digest}) == 3
    folder.joinpath("pictures/b.png").write_bytes(png(b"another"))
    with pytest.raises(UploadError, match=r"pictures/b\.png' is not the picture"):
        check_pictures(work)


def test_an_image_that_was_planned_by_an_earlier_version_is_looked_at_too(folder: Path) -> None:
    """Its digest stood by itself, since a film had one image at most."""
    [entry] = entries({"shots": SHOTS, "image": "a.png"}, base=folder)
    payload = json.loads(entry.payload)
    payload["image_sha256"] = payload["image_sha256"]["a.png"]
    earlier = attrs.evolve(entry, payload=json.dumps(payload))

    check_pictures(work_of(item(earlier)))
    folder.joinpath("a.png").write_bytes(png(b"another"))
    with pytest.raises(UploadError, match="not the picture"):
        check_pictures(work_of(item(earlier)))


def test_an_image_that_no_plan_has_seen_is_not_uploaded(folder: Path) -> None:
    """A journal from elsewhere may name any file of ours."""
    [entry] = entries({"shots": SHOTS, "image": "a.png"}, base=folder)
    payload = json.loads(entry.payload)
    del payload["image_sha256"]

    with pytest.raises(UploadError, match="not the picture"):
        check_pictures(work_of(item(attrs.evolve(entry, payload=json.dumps(payload)))))


def test_a_task_with_an_image_that_cannot_be_used(folder: Path) -> None:
    """One fault each, with its field, before anything is paid."""
    table: list[tuple[object, str]] = [
        ({"frames": ["a.png", "none.png"]}, "task.images.frames[1]"),
        ({"face": "../outside.png"}, "task.images.face: inside the manifest's folder"),
        ({"face": "text.png"}, "task.images.face"),
        ({"face": "a\nb.png"}, "task.images.face: without control characters"),
        ({"face": ""}, "task.images.face: a path or an http(s) URL, not blank"),
        ({"prompt": "a.png"}, "task.images.prompt: given in input too"),
        (["a.png"], "task.images: a mapping of fields and images"),
    ]
    failures = []
    for images, rule in table:
        found = faults(task_of(images), base=folder)
        if len(found) != 1 or not found[0].startswith(rule):
            failures.append((images, found))

    assert failures == []


def test_a_film_names_its_model() -> None:
    """By itself or for all; the usual one is the same film, named or not."""
    [plain] = entries({"shots": SHOTS})
    [usual] = entries({"shots": SHOTS, "model": "sora-2-pro-storyboard"})
    [other] = entries({"shots": SHOTS, "model": "sora/s-2pro"})
    [by_default] = entries({"shots": SHOTS}, {"model": "sora/s-2pro"})

    assert (usual.payload, usual.digest) == (plain.payload, plain.digest)
    assert (by_default.payload, by_default.digest) == (other.payload, other.digest)
    assert other.digest != plain.digest
    assert work_of(item(other)).model == "sora/s-2pro"
    assert faults({"task": {"model": "m"}, "model": "n"}) == ("task: instead of model, not beside",)


# --- round trips ----------------------------------------------------------------------------------

TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40).filter(str.strip)
SHOT = st.builds(Shot, TEXT, st.integers(1, 24).map(lambda tenths: tenths / 10))
BOARDS = st.builds(
    Storyboard,
    st.lists(SHOT, min_size=1, max_size=4),
    duration=st.sampled_from([10, 15, 25]),
    aspect_ratio=st.sampled_from(["landscape", "portrait"]),
    image=st.sampled_from([None, "https://x.test/a.png", "HTTP://X.test/é.png"]),
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
TASKS = st.builds(
    ModelTask,
    TEXT.filter(str.isprintable),
    st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=5), JSON, max_size=4),
)


@given(BOARDS | TASKS, st.integers(1, 3))
def test_a_work_survives_the_journal(work: Storyboard | ModelTask, take: int) -> None:
    """What was planned is what is paid, to the last character. (M11)."""
    entry = make_entry(work, "a", take=take, base=Path("/films"))

    entry.payload.encode()
    back = work_of(item(entry))
    assert back == work
    assert make_entry(back, "a", take=take, base=Path("/films")) == entry


def test_an_image_is_found_where_the_manifest_was() -> None:
    """Whatever folder the next run is started in; even under a name that is no Unicode."""
    images: list[str | Path] = ["a.png", Path("a.png"), "pictures/a.png", os.fsdecode(b"\xff.png")]
    for image in images:
        board = Storyboard([Shot("A cat.", 5)], image=image)
        entry = make_entry(board, "a", base=Path("/films"), digests={os.fsdecode(image): "00"})

        entry.payload.encode()
        assert work_of(item(entry)) == attrs.evolve(
            board, image=PinnedImage(Path("/films") / image, "00")
        )


def test_any_value_can_be_shown() -> None:
    """Short, and on one line."""
    values = [{"a": [1]}, [1, [2]], "x" * 10_000_000, "a\nb", 10**5000, None, 1.5]
    for text in map(describe_value, values):
        assert len(text) <= 80
        assert text.isprintable()

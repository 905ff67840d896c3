"""Manifests: every form, every fault at once, and nothing planned that was not checked."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
import tracemalloc
from pathlib import Path
from typing import Any

import attrs
import pytest
from batch.pictures import png
from calls import counted_calls
from volume import volume

from apikley_async import Storyboard
from apikley_async.batch import Batch, ManifestEntry, check_manifest, summarize_manifest
from apikley_async.batch.manifest.payload import work_of
from apikley_async.batch.manifest.reader import read_manifest
from apikley_async.errors import ManifestConflictError, ManifestError

SHOTS = '"shots": [{"scene": "A cat.", "duration": 5}]'


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """Write a manifest, and say where it is."""

    def written(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return written


def read(path: Path, **options: bool) -> list[ManifestEntry]:
    return list(read_manifest(path, **options))


def bare(entries: list[ManifestEntry]) -> list[tuple[str, str, str, str]]:
    """Entries but for where they stand."""
    return [(entry.key, entry.payload, entry.digest, entry.base) for entry in entries]


# --- one film in five forms -----------------------------------------------------------------------

YAML = """\
# Two films.
defaults: {duration: 15, aspect_ratio: landscape}
films:
  - key: kitten   # with a picture
    image: kitten.png
    shots:
      - {scene: 'A kitten, "Orange", eats cake: yes.', duration: 7.5}
      - scene: >-
          The cake
          is gone.
        duration: 7.5
  - key: 010
    aspect_ratio: portrait
    duration: 10
    shots: [{scene: Лев идёт., duration: 5}]
"""
JSON: dict[str, Any] = {
    "defaults": {"duration": 15, "aspect_ratio": "landscape"},
    "films": [
        {
            "key": "kitten",
            "image": "kitten.png",
            "shots": [
                {"scene": 'A kitten, "Orange", eats cake: yes.', "duration": 7.5},
                {"scene": "The cake is gone.", "duration": 7.5},
            ],
        },
        {
            "key": "010",
            "aspect_ratio": "portrait",
            "duration": 10,
            "shots": [{"scene": "Лев идёт.", "duration": 5.0}],
        },
    ],
}
TOML = """\
[defaults]
duration = 15
aspect_ratio = "landscape"

[[films]]
key = "kitten"
image = "kitten.png"
shots = [
    {scene = 'A kitten, "Orange", eats cake: yes.', duration = 7.5},
    {scene = "The cake is gone.", duration = 7.50},
]

[[films]]
key = "010"
aspect_ratio = "portrait"
duration = 10
[[films.shots]]
scene = "Лев идёт."
duration = 5
"""
CSV = """\
image,scene,duration,key,film_duration,aspect_ratio
kitten.png,"A kitten, ""Orange"", eats cake: yes.",7.5,kitten,15,landscape
,The cake is gone.,7.50,kitten,,landscape

,Лев идёт.,5,010,10,portrait
"""
FORMS = {
    "films.yaml": YAML,
    "films.yml": "--- \n" + YAML + "...\n",
    "films.json": json.dumps(JSON, indent=2),
    "list.json": json.dumps([JSON["films"][0] | JSON["defaults"], JSON["films"][1]]),
    "films.jsonl": "\n".join(
        ["", *(json.dumps(JSON["defaults"] | film, ensure_ascii=False) for film in JSON["films"])]
    ),
    "films.toml": TOML,
    "films.csv": CSV,
}


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"], ids=["plain", "bom"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize("name", FORMS)
def test_every_format_gives_the_same_entries(
    write: Any, name: str, newline: str, bom: bytes
) -> None:
    """The same films in any form, with any line ends, are the same entries. (M6)."""
    write("kitten.png", png())
    usual = read(write("usual.json", json.dumps(JSON)))

    path = write(name, bom + FORMS[name].replace("\n", newline).encode())

    assert check_manifest(path) == []
    assert bare(read(path)) == bare(usual)
    assert [entry.key for entry in usual] == ["kitten", "010"]


def test_counts_of_items_by_state(write: Any) -> None:
    """Lines where the form has them, numbers elsewhere."""
    write("kitten.png", png())
    places = {
        name: [each.where for each in read(write(name, text))] for name, text in FORMS.items()
    }

    assert places == {
        "films.yaml": ["films.yaml, line 4", "films.yaml, line 12"],
        "films.yml": ["films.yml, line 5", "films.yml, line 13"],
        "films.json": ["films.json, line 7", "films.json, line 21"],
        "list.json": ["list.json, film 1", "list.json, film 2"],
        "films.jsonl": ["films.jsonl, line 2", "films.jsonl, line 3"],
        "films.toml": ["films.toml, line 5", "films.toml, line 13"],
        "films.csv": ["films.csv, line 2", "films.csv, line 5"],
    }


@pytest.mark.parametrize("suffix", [".json", ".yaml", ".jsonl"])
def test_a_task_keeps_jsons_types(write: Any, suffix: str) -> None:
    """Numbers, words and null inside of input are sent as they stand."""
    given_ = {"a": 5, "b": 5.5, "c": True, "d": None, "e": "5", "f": [1, {"g": "no"}], "h": -0.25}
    film = {"key": "other", "task": {"model": "kling-2.6/text-to-video", "input": given_}}
    text = json.dumps(film) if suffix == ".jsonl" else json.dumps({"films": [film]})

    [entry] = read(write(f"films{suffix}", text))

    assert json.loads(entry.payload) == {"task": film["task"]}
    types = [type(value) for value in json.loads(entry.payload)["task"]["input"].values()]
    assert types == [int, float, bool, type(None), str, list, float]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("film.json", f"{{{SHOTS}}}"),
        ("film.yaml", "shots: [{scene: A cat., duration: 5}]"),
        ("film.toml", 'shots = [{scene = "A cat.", duration = 5}]'),
        ("film.json", '{"task": {"model": "m", "input": {}}}'),
    ],
)
def test_one_film_alone_is_a_manifest_too(write: Any, name: str, text: str) -> None:
    """A film's own file, as `apikley generate` takes it."""
    path = write(name, text)

    assert check_manifest(path) == []
    assert [entry.where for entry in read(path)] == [name]


def test_quotes_and_line_breaks_in_cells(write: Any) -> None:
    """A cell is text as it stands, and places are counted in lines of the file."""
    path = write("films.csv", 'key,scene,duration\na,"One,\n""two"".",5\nb,Three.,5\nc,,5\n')

    assert check_manifest(path) == [
        "films.csv, line 5, cell B4 (c): scene: a description, not blank"
    ]
    path.write_text(path.read_text().replace("c,,5\n", ""))
    assert json.loads(read(path)[0].payload)["shots"][0]["scene"] == 'One,\n"two".'


def test_faults_of_a_csv_film_name_its_columns(write: Any) -> None:
    """What is `duration` elsewhere is `film_duration` there."""
    path = write("films.csv", "key,scene,duration,film_duration\na,One.,5,12\n")

    assert check_manifest(path) == [
        "films.csv, line 2, cell D2 (a): film_duration: 10, 15 or 25 seconds, not 12"
    ]


def test_a_csv_without_keys_has_a_film_a_row(write: Any) -> None:
    """Rows are grouped by key and by nothing else."""
    path = write("films.csv", "duration,scene\n5,One.\n5,Two.\n")

    assert [entry.where for entry in read(path)] == ["films.csv, line 2", "films.csv, line 3"]


def test_a_csv_film_of_too_many_rows(write: Any) -> None:
    """They are counted, not gathered."""
    path = write("films.csv", "key,scene,duration\n" + "a,A cat.,1\n" * volume(10_000, 50_000))

    assert check_manifest(path) == ["films.csv, line 2 (a): shots: 1 to 10, not 11"]


# --- all faults, at once --------------------------------------------------------------------------


def test_all_faults_of_a_manifest_are_reported(write: Any) -> None:
    """With file, place, field and rule: a user mends a manifest once. (M9)."""
    lines = [
        f"{{{SHOTS}}}",
        f'{{"key": "b/c", "takes": 0, {SHOTS}}}',
        "{not JSON",
        "[]",
        '{"key": "e", "shots": [{"scene": "", "duration": 99}]}',
        '{"key": "f", "shots": [], "image": "nowhere.png"}',
    ]
    path = write("films.jsonl", "\n".join(lines))

    found = check_manifest(path)

    assert [fault.split(": ")[:2] for fault in found] == [
        ["films.jsonl, line 2", "key"],
        ["films.jsonl, line 2", "takes"],
        ["films.jsonl, line 3, column 2", "JSON"],
        ["films.jsonl, line 4", "a film as a JSON object, not a list"],
        ["films.jsonl, line 5 (e)", "shots[0].scene"],
        ["films.jsonl, line 5 (e)", "shots[0].duration"],
        ["films.jsonl, line 5 (e)", "shots"],
        ["films.jsonl, line 6 (f)", "shots"],
        ["films.jsonl, line 6 (f)", "image"],
    ]


@pytest.mark.parametrize("name", ["films.jsonl", "films.csv", "films.yaml", "films.json"])
def test_a_hundred_faults_are_enough(write: Any, name: str) -> None:
    """The last one says that there are more."""
    films = [{"key": f"k{number}", "shots": []} for number in range(5000)]
    text = {
        ".jsonl": "\n".join(map(json.dumps, films)),
        ".csv": "key,scene,duration\n" + "".join(f"k{number},,5\n" for number in range(5000)),
        ".yaml": "\n".join(f"- {json.dumps(film)}" for film in films),
        ".json": json.dumps(films),
    }[Path(name).suffix]

    found = check_manifest(write(name, text))

    assert len(found) == 101
    assert found[-1] == "and more; these come first"
    assert re.search(r"(line 10[01]|film 100)\b.* \(k99\): ", found[99])


async def test_one_bad_entry_among_a_thousand(write: Any, tmp_path: Path) -> None:
    """Nothing is planned, and the entry is named. (M9)."""
    films = [
        {"key": f"k{number}", "shots": [{"scene": f"{number}.", "duration": 5}]}
        for number in range(1000)
    ]
    films[499]["shots"] = [{"scene": "Too long.", "duration": 16}]
    path = write("films.jsonl", "\n".join(map(json.dumps, films)))

    async with Batch.open(tmp_path / "batch.db") as batch:
        with pytest.raises(ManifestError) as caught:
            await batch.add(path)
        assert (await batch.status()).total == 0

    assert caught.value.faults == (
        "films.jsonl, line 500 (k499): shots[0].duration: 0.1 to 15 seconds, not 16",
        "films.jsonl, line 500 (k499): shots: 15 seconds together at most, not 16",
    )


# --- keys and contents that meet ------------------------------------------------------------------


def scene(key: str, text: str, **more: Any) -> str:
    return json.dumps({"key": key, "shots": [{"scene": text, "duration": 5}], **more})


@pytest.mark.parametrize(
    ("one", "other"),
    [("a", "a"), ("Kitten", "kitten"), ("é", "e\u0301"), ("straße", "STRASSE"), ("7", "7")],
)
def test_two_films_of_one_name(write: Any, one: str, other: str) -> None:
    """They would overwrite each other's files, here or elsewhere; both places are named. (M4)."""
    path = write("films.jsonl", f"{scene(one, 'One.')}\n\n{scene(other, 'Two.')}\n")

    [fault] = check_manifest(path)
    assert fault.startswith("films.jsonl, line 3: key: ")
    assert "films.jsonl, line 1" in fault
    with pytest.raises(ManifestConflictError):
        read(path)


@pytest.mark.parametrize("turned", [False, True])
def test_a_take_and_a_film_of_its_name(write: Any, turned: bool) -> None:
    """`kitten.2` beside two takes of kitten is one name for two films. (M4)."""
    films = [scene("kitten", "One.", takes=2), scene("Kitten.2", "Two.")]
    path = write("films.jsonl", "\n".join(reversed(films) if turned else films))

    [fault] = check_manifest(path)
    assert fault.startswith("films.jsonl, line 2: key: ")


def test_films_on_one_line_of_yaml(write: Any) -> None:
    """A place that two films share does not make them one."""
    film = "{key: a, shots: [{scene: %s., duration: 5}]}"
    path = write("films.yaml", f"films: [{film % 'One'}, {film % 'Two'}]")

    [fault] = check_manifest(path)
    assert fault.startswith("films.yaml, line 1: key: 'a'")


def test_the_same_film_under_two_keys(write: Any) -> None:
    """It would be paid twice, unless that is what is wanted. (A22)."""
    path = write(
        "films.jsonl", f"{scene('a', 'One.')}\n{scene('b', 'Two.')}\n{scene('c', 'One.')}\n"
    )

    [fault] = check_manifest(path)
    assert fault.startswith(
        "films.jsonl, line 3: 'c' has the same content as the film at films.jsonl, line 1"
    )
    assert check_manifest(path, allow_duplicates=True) == []


async def test_what_an_edited_manifest_changes(write: Any, tmp_path: Path) -> None:
    """Without keys an edited film is a new one, and the old one is gone. (A21, M11)."""
    films = [{"shots": [{"scene": text, "duration": 5}]} for text in ("One.", "Two.", "Three.")]
    path = write("films.json", json.dumps(films))
    async with Batch.open(tmp_path / "batch.db") as batch:
        first = await batch.add(path)
        again = await batch.add(path)
        films[1]["shots"][0]["scene"] = "Edited."
        path.write_text(json.dumps(films[::-1]))
        edited = await batch.add(path)

    assert (first.new, first.known, first.gone) == (3, 0, 0)
    assert (again.new, again.known, again.gone) == (0, 3, 0)
    assert (edited.new, edited.known, edited.gone) == (1, 2, 1)


async def test_another_picture_under_the_same_key(write: Any, tmp_path: Path) -> None:
    """It is another film, even if nothing else has changed: not even its size. (M11, A21)."""
    picture = write("a.png", png(b"one"))
    path = write("films.jsonl", scene("a", "One.", image="a.png"))
    about = picture.stat()
    async with Batch.open(tmp_path / "batch.db") as batch:
        await batch.add(path)
        picture.write_bytes(png(b"two"))
        os.utime(picture, ns=(about.st_atime_ns, about.st_mtime_ns))
        plan = await batch.add(path)

    assert (plan.changed, plan.known) == (1, 0)


async def test_images_outside_if_that_is_said(write: Any, tmp_path: Path) -> None:
    """Refused by default, from check and from a batch. (M10)."""
    tmp_path.joinpath("sub").mkdir()
    write("a.png", png())
    path = write("sub/films.jsonl", scene("a", "One.", image="../a.png"))

    assert len(check_manifest(path)) == 1
    assert check_manifest(path, allow_outside=True) == []
    async with Batch.open(tmp_path / "batch.db") as batch:
        with pytest.raises(ManifestError, match="inside the manifest's folder"):
            await batch.add(path)
        await batch.add(path, allow_outside=True)
        item = await batch.item("a")
    board = work_of(item)
    assert isinstance(board, Storyboard)
    assert os.fspath(board.image or "") == str(tmp_path / "a.png")


# --- files that are none --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["films.yaml", "films.json", "films.toml"])
def test_a_large_file_is_refused_before_it_is_read(tmp_path: Path, name: str) -> None:
    """64 MB are enough for a form that is read whole. (M2)."""
    path = tmp_path / name
    with path.open("wb") as file:
        file.truncate(10**12)  # with nothing in it; nobody could read that to its end

    assert check_manifest(path) == [
        f"{name}: at most 64 MB, not 1000000; JSON lines and CSV may be larger"
    ]


@pytest.mark.parametrize("name", ["films.jsonl", "films.csv"])
def test_a_line_without_end(tmp_path: Path, name: str) -> None:
    """A hundred megabytes in one line are passed over, never held. (M5)."""
    path = tmp_path / name
    with path.open("wb") as file:
        file.truncate(100 * 1024 * 1024)
        file.seek(0, os.SEEK_END)
        file.write(b"\n{}\n")
    tracemalloc.start()
    try:
        found = check_manifest(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert found[0] == f"{name}, line 1: at most a million bytes in a line"
    assert len(found) == (2 if name == "films.jsonl" else 1)
    assert peak < 8_000_000


@pytest.mark.timeout(10)
def test_what_is_no_file(tmp_path: Path, write: Any) -> None:
    """Nothing hangs, nothing is guessed."""
    os.mkfifo(tmp_path / "pipe.jsonl")
    tmp_path.joinpath("folder.yaml").mkdir()
    tmp_path.joinpath("circle.json").symlink_to("circle.json")

    for name, rule in {
        "pipe.jsonl": "a regular file",
        "folder.yaml": "cannot be read: ",
        "none.yaml": "cannot be read: ",
        "circle.json": "cannot be read: ",
        "films.txt": r"one of .yaml, .*, not '.txt'",
        "films": "one of .yaml, .*, not ''",
        "a\0b.json": "a file and folders with names in Unicode",
        os.fsdecode(b"\xff.json"): "a file and folders with names in Unicode",
        "x" * 300 + ".json": "cannot be read: ",
        "a\x1b[31m\n.json": "cannot be read",
    }.items():
        [fault] = check_manifest(tmp_path / name)
        assert re.search(rule, fault), fault
        assert fault.isprintable()


def test_a_file_that_is_edited_meanwhile(write: Any) -> None:
    """Half of one manifest and half of another is neither. (M11)."""
    path = write("films.jsonl", "\n".join(scene(f"k{n}", f"{n}.") for n in range(2000)))
    reading = read_manifest(path)
    next(reading)
    with path.open("a") as file:
        file.write("\n" + scene("late", "Late."))

    with pytest.raises(ManifestError, match="it changed while it was read"):
        list(reading)


# --- many -----------------------------------------------------------------------------------------


def many(path: Path, count: int, size: int) -> Path:
    words = "The same kitten licks its lips, calm and content. " * (size // 50)
    with path.open("w") as file:
        for number in range(count):
            file.write(scene(f"film-{number:06}", f"{number}: {words}", duration=10) + "\n")
    return path


@pytest.mark.slow
async def test_many_films_in_little_memory(tmp_path: Path) -> None:
    """The manifest streams into the journal: memory grows by marks of its films, no more. (M5)."""
    count = volume(1000, 4000)
    path = many(tmp_path / "films.jsonl", count, 5000)
    async with Batch.open(tmp_path / "batch.db") as batch:
        gc.collect()
        tracemalloc.start()
        try:
            plan = await batch.add(path)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert plan.new == count
    assert path.stat().st_size > count * 5000
    assert peak < 4_000_000


async def calls_of_planning(folder: Path, count: int) -> int:
    """How many functions are called to plan so many films, in all threads."""
    folder.mkdir()
    path = many(folder / "films.jsonl", count, 150)
    with counted_calls() as calls:  # in the journal's thread too, and the manifest's reader
        async with Batch.open(folder / "batch.db") as batch:
            opened = calls.number
            plan = await batch.add(path)
            planned = calls.number - opened
    assert plan.new == count
    return planned


def test_the_work_to_plan_a_film_is_the_same_among_many(tmp_path: Path) -> None:
    """Some four hundred calls for a film, among fifty as among a thousand. (M5)"""
    few, many_films = 50, volume(400, 1000)
    small = asyncio.run(calls_of_planning(tmp_path / "few", few))
    large = asyncio.run(calls_of_planning(tmp_path / "many", many_films))

    assert large / many_films < 1.1 * small / few
    assert large / many_films < 1000


# --- tables as spreadsheets save them -------------------------------------------------------------

COMMAS = "key,scene,duration,film_duration\nkitten,A cat.,7.5,15\nkitten,A dog.,7.5,\n"
SEMICOLONS = COMMAS.replace(",", ";").replace("7.5", "7,5")
SHEETS = {
    "commas": COMMAS,
    "semicolons": SEMICOLONS,
    "semicolons and points": COMMAS.replace(",", ";"),
    "tabs": SEMICOLONS.replace(";", "\t").replace("15", "15,0"),
    "a named separator": f"sep=;\n{SEMICOLONS}",
    "cases and blanks": COMMAS.replace(
        "scene,duration,film_duration", " Scene,DURATION,Film Duration"
    ),
    "blank rows": ",,,\n\n" + COMMAS.replace("\n", "\n,,,\n  , ,,\n\n"),
    "nameless columns": COMMAS.replace("\n", ",,\n").replace("15,,", "15,why,"),
    "quotes": re.sub("[^;\n]+", lambda cell: f'"{cell[0]}"', SEMICOLONS),
    "a comma in a name": SEMICOLONS.replace("film_duration", 'film_duration;"a, b, c, d"')
    .replace("cat.;7,5;15", "cat.;7,5;15;x")
    .replace("7,5;\n", "7,5;;\n"),
    "rows cut short": COMMAS.replace("film_duration", "film_duration,image").replace(
        "7.5,\n", "7.5\n"
    ),
}


def test_a_table_is_read_as_spreadsheets_save_it(write: Any) -> None:
    """Separators, decimal commas, line ends, names and blanks: always the same film."""
    shots = [{"scene": "A cat.", "duration": 7.5}, {"scene": "A dog.", "duration": 7.5}]
    usual = bare(read(write("usual.json", json.dumps([{"key": "kitten", "shots": shots}]))))
    wrong = {}
    for name, text in SHEETS.items():
        for end in ("\n", "\r\n", "\r"):
            for bom in (b"", b"\xef\xbb\xbf"):
                raw = bom + text.replace("\r\n", "\n").replace("\n", end).encode()
                path = write("sheet.csv", raw)
                found = check_manifest(path) or bare(
                    [attrs.evolve(entry, payload=without_notes(entry)) for entry in read(path)]
                )
                if found != usual:
                    wrong[name, end, bom] = found

    assert wrong == {}


def without_notes(entry: ManifestEntry) -> str:
    payload = json.loads(entry.payload)
    payload.pop("metadata", None)
    return json.dumps(payload, ensure_ascii=False, sort_keys=True)


def test_text_in_a_table_is_text(write: Any) -> None:
    """What a spreadsheet would run is a scene like any other, and is sent as it stands."""
    scenes = ["=1+1 is drawn", "-5 degrees", "+ and a cat", "@home, a cat", "\ttab", " blank"]
    rows = "".join(f'k{number},"{text}",5\n' for number, text in enumerate(scenes))
    path = write("films.csv", "key,scene,duration\n" + rows)

    assert check_manifest(path) == []
    assert [json.loads(e.payload)["shots"][0]["scene"] for e in read(path)] == scenes


def test_faults_of_a_table_name_the_cell(write: Any) -> None:
    """Line for an editor, cell for a spreadsheet, and the film's key."""
    path = write(
        "films.csv",
        'Key;Duration;Scene;image;Film Duration\na;5;"One,\ntwo.";;15\na;x;Three.;;\n\n'
        "b;16;Four.;no.png;12\nc;5\n",
    )
    place = path.parent / "no.png"
    missing = f"cell D5 (b): image: {str(place)!r}: cannot be read: No such file or directory"
    missing = f"films.csv, line 6, {missing}"

    assert check_manifest(path) == [
        "films.csv, line 4, cell B3 (a): duration: a number of seconds, not 'x'",
        "films.csv, line 7: 5 cells as in the line of names, not 2; scene is missing",
        "films.csv, line 6, cell B5 (b): duration: 0.1 to 15 seconds, not 16",
        "films.csv, line 6, cell E5 (b): film_duration: 10, 15 or 25 seconds, not 12",
        missing,
        "films.csv, line 7, cell C6 (c): scene: a description, not blank",
    ]


def test_other_columns_are_notes_and_near_names_are_faults(write: Any) -> None:
    """What may be meant for one of ours never becomes a note unseen."""
    path = write("films.csv", "key,scene,duration,Client,shot by\na,A cat.,5,ACME,me\n")
    found = summarize_manifest(path)

    assert found.faults == ()
    assert found.remarks[0] == (
        "films.csv: columns taken as notes, which are not sent: 'Client', 'shot by'"
    )
    [entry] = read(path)
    assert json.loads(entry.payload)["metadata"] == {"Client": "ACME", "shot by": "me"}
    plain = write("plain.csv", "key,scene,duration\na,A cat.,5\n")
    assert [entry.digest] == [each.digest for each in read(plain)]

    wrong = {}
    for name in ("scenes", "Szene", "durations", "keys", "imag", "aspectratios", "film duratoin"):
        found = check_manifest(write("films.csv", f"key,scene,duration,{name}\na,A cat.,5,x\n"))
        if not (len(found) == 1 and "perhaps" in found[0] and "column D" in found[0]):
            wrong[name] = found
    for name in ("takes", "Model", "shots", "task"):
        found = check_manifest(write("films.csv", f"key,scene,duration,{name}\na,A cat.,5,2\n"))
        if not (len(found) == 1 and "no such column" in found[0]):
            wrong[name] = found
    assert wrong == {}


def test_a_shift_of_cells_is_a_fault(write: Any) -> None:
    """A comma that is not in quotes makes no other film, however the row goes on."""
    rows = ["a,A cat, and a dog.,5", "a,A cat", "a,A cat.,5,", "a,A cat\nand a dog.,5"]
    names = ["scene,duration,key", "key,scene,duration", "key,duration,scene"]

    passed = [
        (name, row)
        for name in names
        for row in rows
        if not check_manifest(write("f.csv", f"{name}\n{row}\n"))
    ]

    assert passed == []


def test_json_and_toml_faults_name_key_and_line(write: Any) -> None:
    """Where each film has lines of its own, its line; otherwise its number."""
    film = {"key": "b", "shots": [{"scene": "", "duration": 5}]}
    good = {"key": "a", "shots": [{"scene": '{["films": [', "duration": 5}]}
    toml = (
        '[[films]] # [[films]]\nkey = "a"\n[[films.shots]]\nscene = """\n[[films]]\n"""\n'
        'duration = 5\n[[ "films" ]]\nkey = "b"\n[[films.shots]]\nscene = ""\nduration = 5\n'
    )
    both = f"{json.dumps(good)}\n,{json.dumps(film)}"
    texts = {
        "list.json": (json.dumps([good, film], indent=1), "line 11 (b)"),
        "escaped.json": (
            '{"fil\\u006ds": [\n' + f"{json.dumps(good)},\n\n{json.dumps(film)}" + "]}",
            "line 4 (b)",
        ),
        "defaults.json": (f'{{"defaults": {{}},\n"films":\n[{both}]}}', "line 4 (b)"),
        "one-line.json": (json.dumps([good, film]), "film 2 (b)"),
        "films.toml": (toml, "line 8 (b)"),
    }
    wrong = {}
    for name, (text, place) in texts.items():
        found = check_manifest(write(name, text))
        if found != [f"{name}, {place}: shots[0].scene: a description, not blank"]:
            wrong[name] = place, found

    assert wrong == {}


def test_a_film_with_a_fault_takes_part_in_the_other_checks(write: Any) -> None:
    """Two films of one name are reported although one of them has another fault."""
    shots = '"shots": [{"scene": "", "duration": 5}]'
    texts = {
        "films.jsonl": f'{{"key": "a", {shots}}}\n{{"key": "a", "takes": 2, {SHOTS}}}\n'
        f'{{"key": "a.2", {SHOTS}}}\n',
        "films.yaml": "- {key: a, shots: !x []}\n- {key: a, takes: 2, shots: []}\n- {key: a.2}\n",
        "films.csv": "key,scene,duration\na,,5\nb,A dog.,5\na,A cat.,5\n",
        "films.json": f'[{{"key": "a", "key": "a", {SHOTS}}}, {{"key": "a", {SHOTS}}}]',
    }

    found = {name: check_manifest(write(name, text)) for name, text in texts.items()}

    twins = {name: sum("names the same file" in each for each in found[name]) for name in found}
    assert twins == {"films.jsonl": 2, "films.yaml": 2, "films.csv": 1, "films.json": 1}, found


def test_a_comma_between_braces_needs_quotes(write: Any) -> None:
    """YAML would make another field of the text behind it."""
    path = write("films.yaml", "shots:\n- {scene: A kitten, with a cake., duration: 5}\n")

    assert check_manifest(path)[0].startswith(
        "films.yaml, line 2: 'with a cake.' has no value; a text with a comma in it needs quotes"
    )


def test_shots_that_do_not_fill_their_film_give_a_remark(write: Any) -> None:
    """It is no fault: the page of the model allows it, and the whole film is paid."""
    films = [{"key": f"k{n}", "shots": [{"scene": f"{n}.", "duration": n}]} for n in range(1, 6)]
    films.append({"key": "full", "duration": 10, "shots": [{"scene": "X.", "duration": 10}]})
    found = summarize_manifest(write("films.jsonl", "\n".join(map(json.dumps, films))))

    assert (found.faults, found.films, found.shots, found.seconds) == ((), 6, 6, 85)
    [remark] = found.remarks
    assert remark == (
        "films.jsonl: the shots do not fill the film, which is paid whole: films.jsonl, line 1 "
        "(k1), 1 of 15 s; films.jsonl, line 2 (k2), 2 of 15 s; films.jsonl, line 3 (k3), 3 of "
        "15 s, and 2 more"
    )


def test_shots_without_a_duration_are_stored_as_they_are(write: Any) -> None:
    """Their shares are worked out when the film is sent; such a film is always full."""
    shots = [{"scene": "A."}, {"scene": "B.", "duration": 7}]
    forms = {
        "film.json": json.dumps({"key": "a", "shots": shots}),
        "films.jsonl": json.dumps({"key": "a", "shots": shots}),
        "film.yaml": "key: a\nshots:\n  - scene: A.\n  - scene: B.\n    duration: 7\n",
        "film.toml": '[[films]]\nkey = "a"\nshots = [{scene = "A."}, {scene = "B.", duration = 7}]',
        "film.csv": "key,scene,duration\na,A.,\na,B.,7\n",
    }
    paths = [write(name, text) for name, text in forms.items()]

    found = [bare(read(path)) for path in paths]

    assert found == [found[0]] * len(paths)
    [(_key, payload, _digest, _base)] = found[0]
    assert json.loads(payload)["shots"] == shots
    assert all(not summarize_manifest(path).remarks for path in paths)


def test_a_shot_without_a_duration_and_without_time_is_a_fault(write: Any) -> None:
    film = {"shots": [{"scene": "A."}, {"scene": "B.", "duration": 15}]}

    [fault] = check_manifest(write("film.json", json.dumps(film)))

    assert "shots: 0 seconds are left for each shot without a duration" in fault

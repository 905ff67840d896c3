"""Manifests that mean harm, or were saved wrongly: each is refused with a place and a rule."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from calls import counted_calls
from hypothesis import given, settings
from hypothesis import strategies as st
from volume import volume

from apikley_async.batch import Batch, Item, ItemState, check_manifest
from apikley_async.batch.manifest.payload import work_of
from apikley_async.batch.manifest.reader import read_manifest
from apikley_async.errors import ManifestError

MOST_CALLS = 10_000  # of functions, to read a file of the corpus and to find its faults
CORPUS = Path(__file__).with_name("hostile")

# What one of the faults of each file of the corpus must say; `{}` is its name.
HOSTILE = {
    # YAML: code, bombs, and what readers disagree about (M1, M2, M3)
    "tag-python.yaml": "{}, line 3: no tags such as .*os.system",
    "tag-str.yaml": "{}, line 2: no tags",
    "tag-bang.yaml": "{}, line 2: no tags such as '!'",
    "alias.yaml": "{}, line 3: no anchors and aliases",
    "alias-bomb.yaml": "{}, line 2: no anchors and aliases",
    "merge.yaml": "{}, line 4: no merge keys",
    "twice.yaml": "{}, line 6: 'scene' is given twice",
    "twice-films.yaml": "{}, line 3: 'films' is given twice",
    "documents.yaml": "{}, line 3: one document",
    "tab.yaml": "{}, line 2: YAML: ",
    "deep.yaml": "{}, line 2: at most 32 levels",
    "deep-flow.yaml": "{}, line 1: at most 32 levels",
    "complex-name.yaml": "{}, line 2: names are words",
    "control.yaml": "{}, line 3: YAML: ",
    "escape.yaml": r"{}, line 2: shots\[0\].scene: without control characters",
    "bidi.yaml": r"{}, line 2: shots\[0\].scene: without control characters",
    "infinite.yaml": "{}, line 2: .*not .inf; text goes in quotes",
    "octal.yaml": "{}, line 2: .*not 010",
    "norway.yaml": "{}, line 2: .*text in quotes, not no",
    "huge-number.yaml": "{}, line 2: a finite number",
    "empty.yaml": "{}: no film in it",
    "comments.yaml": "{}: no film in it",
    "unfinished.yaml": "{}, line [23]: YAML: ",
    "word.yaml": "{}: a list of films",
    # JSON (M7, M4)
    "nan.json": r"{}, line [12]: shots\[0\].duration: a number of seconds, not nan",
    "too-large-number.json": "{}, line [12]: task.input.seed: a finite number",
    "endless-number.json": "{}, line [12]: task.input.seed: a number of at most 300 digits",
    "twice.json": r"{}, line [12]: shots\[0\]: 'duration' is given twice",
    "deep.json": "{}: at most 32 levels|{}, line 1",
    "deep-input.json": "{}, line [12]: task.input.x.*: at most 32 levels",
    "trailing.json": "{}, line 1, column 74: JSON: ",
    "comma.json": "{}, line [23], column [0-9]+: JSON: ",
    "surrogate.json": r"{}, line [12]: shots\[0\].scene: valid Unicode",
    "surrogate-image.json": "{}, line [12]: image: a name in Unicode",
    "nul-image.json": "{}, line [12]: image: without control characters",
    "unknown.json": "{}, line [12]: 'shot': unknown",
    "injected.json": r"{}, line [12]: key: .*not 'a\\n\\x1b",
    "string.json": "{}: a list of films",
    # JSON lines
    "document.jsonl": "{}, line 1: one film a line",
    "twice.jsonl": "{}, line 1: 'key' is given twice",
    "not-a-film.jsonl": "{}, line 2: a film as a JSON object",
    "half.jsonl": "{}, line 2, column 25: JSON: ",
    "bom-inside.jsonl": "{}, line 2, column 1: JSON: ",
    # TOML
    "twice.toml": "{}: TOML: ",
    "date.toml": "{}, line [12]: task.input.when: JSON, not date",
    "nan.toml": "{}, line [12]: task.input.strength: a finite number",
    "hex.toml": "{}, line [12]: task.input.seed: a number of at most 300 digits",
    "digits.toml": "{}: TOML: ",
    "deep.toml": "{}: at most 32 levels|{}: TOML: ",
    # CSV (M8)
    "unknown-column.csv": "{}, line 1: .*column C: 'durations': perhaps duration is meant",
    "missing-column.csv": "{}, line 1: .*missing: duration",
    "column-twice.csv": "{}, line 1: .*each once.*column B: 'scene' is given twice",
    "formula-at.csv": "{}, line 2, cell A2: key: letters, digits",
    "short-row.csv": "{}, line 2: 6 cells as in the line of names, not 2; duration is missing",
    "long-row.csv": "{}, line 2: 6 cells as in the line of names, not 7; a text with ','",
    "open-quote.csv": "{}, line 2: CSV: a quote is not closed",
    "control.csv": r"{}, line 2, cell B2: scene: without control characters",
    "comma-number.csv": r"{}, line 2, cell C2: duration: a number of seconds, not '7,5'",
    "apart.csv": "{}, line 4: key: 'a' .*{}, line 2; the rows of a CSV's film stand together",
    "some-keys.csv": "{}, line 3: key: on every row, or on none",
    "other-film.csv": "{}, line 3, cell D3: film_duration: as in line 2, or blank",
    # Encodings (M6)
    "utf-16.yaml": "{}: UTF-8, and this is UTF-16",
    "utf-16-bare.yaml": "{}, line 1: .*NUL, as in UTF-16",
    "utf-16.csv": "{}: UTF-8, and this is UTF-16",
    "utf-16.jsonl": "{}: UTF-8, and this is UTF-16",
    "cp1251.yaml": "{}, line 3: UTF-8, and byte 0xca is not",
    "cp1251.csv": "{}, line 3: UTF-8, and byte 0xca is not",
    "nul.jsonl": "{}, line 2: .*NUL",
    "surrogate-bytes.json": "{}, line 1: UTF-8, and byte 0xed is not",
    # Images (M10)
    "traversal.json": "{}, line [12]: image: inside the manifest's folder, not '../conformance.py'",
    "absolute.json": "{}, line [12]: image: inside the manifest's folder, not '/etc/passwd'",
    "device.json": "{}, line [12]: image: inside the manifest's folder, not '/dev/zero'",
    "not-an-image.json": "{}, line [12]: image: .*: a picture, not 0 bytes",
    "file-url.json": r"{}, line [12]: image: an http\(s\) URL, not file://",
    "credentials-url.json": "{}, line [12]: image: a URL without user name and password",
}


def test_the_table_lists_every_file_of_the_corpus() -> None:
    """No file of the corpus is forgotten."""
    assert {path.name for path in CORPUS.iterdir()} == {*HOSTILE, ".gitattributes"}


def test_every_hostile_file_is_refused_with_a_clear_fault() -> None:
    """Each fault names file, place and rule, in one printable line. (M1 to M10, M12)."""
    failures = []
    for name, pattern in HOSTILE.items():
        with counted_calls() as calls:
            faults = check_manifest(CORPUS / name)
        wanted = re.compile(
            pattern.replace("{}", re.escape(name)).replace(": ", r"(?: \(\w+\))?: ", 1)
        )
        found = any(wanted.match(fault) for fault in faults)
        clear = all(fault.startswith(name) and fault.isprintable() for fault in faults)
        if not found or not clear or calls.number > MOST_CALLS:
            failures.append((name, calls.number, faults))

    assert failures == []


async def test_nothing_of_a_hostile_file_is_planned(tmp_path: Path) -> None:
    """Through the front door as well: an error of ours each, and an empty journal. (M9)."""
    async with Batch.open(tmp_path / "batch.db") as batch:
        for name in HOSTILE:
            with pytest.raises(ManifestError):
                await batch.add(CORPUS / name)
        assert (await batch.status()).total == 0


# --- anything -------------------------------------------------------------------------------------

NAMES = st.sampled_from(
    [
        *("films", "defaults", "key", "takes", "shots", "scene", "duration", "aspect_ratio"),
        *("image", "task", "model", "input", "a.png", "https://x.test/a.png", "landscape"),
        *("../x", "a/b", "", "\ud800"),
    ]
)
VALUES = st.recursive(
    NAMES
    | st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([10, 15, 5, 7.5, 10**400]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(NAMES | st.text(max_size=3), inner, max_size=5)
    ),
    max_leaves=12,
)
FILMS = st.dictionaries(NAMES, VALUES, max_size=6)
DOCUMENTS = VALUES | st.fixed_dictionaries(
    {"films": st.lists(FILMS, max_size=3)}, optional={"defaults": FILMS}
)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@settings(max_examples=volume(40, 200))
@given(document=DOCUMENTS)
def test_any_document_is_entries_or_faults(folder: Path, document: Any) -> None:
    """In every form that can hold it; no other error escapes. (M7)."""
    text = json.dumps(document)
    for name in ("any.json", "any.yaml", "any.jsonl"):
        path = folder / name
        path.write_text(text)
        if not check_manifest(path):
            for entry in read_manifest(path):
                entry.payload.encode()
                work_of(Item(entry.key, ItemState.PLANNED, payload=entry.payload, base=entry.base))


@settings(max_examples=volume(50, 300))
@given(
    name=st.sampled_from(["a.json", "a.yaml", "a.jsonl", "a.toml", "a.csv"]),
    content=st.binary(max_size=60)
    | st.text(max_size=60).map(lambda text: text.encode(errors="replace"))
    | st.text('{}[]",:=-&*!|>#%@\\\n\t a1.', max_size=60).map(str.encode)
    | st.text('k,"\n=;a1', max_size=40).map(lambda text: f"key,scene,duration\n{text}".encode()),
)
def test_any_bytes_are_entries_or_faults(folder: Path, name: str, content: bytes) -> None:
    """Whatever is in the file: faults in single lines that begin with its name."""
    path = folder / name
    path.write_bytes(content)

    for fault in check_manifest(path):
        assert fault.startswith((name, "and more"))
        assert fault.isprintable()

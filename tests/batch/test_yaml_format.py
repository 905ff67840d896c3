"""What YAML means in a manifest: what JSON would, with libyaml and without."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from calls import counted_calls

from apikley_async.batch import check_manifest
from apikley_async.batch.manifest import yaml_format
from apikley_async.batch.manifest.yaml_format import compose
from apikley_async.errors import ManifestError, MissingExtraError

LOADERS = [yaml.SafeLoader, yaml.CSafeLoader] if yaml.__with_libyaml__ else [yaml.SafeLoader]

PLAIN: dict[str, Any] = {
    # JSON's
    "5": 5,
    "-5": -5,
    "0": 0,
    "7.5": 7.5,
    "1e3": 1000.0,
    "-1.5E-2": -0.015,
    "9" * 40: int("9" * 40),
    "true": True,
    "false": False,
    "null": None,
    "~": None,
    "": None,
    # and text
    **{word: word for word in ("no", "yes", "on", "Off", "y", "010", "0x1F", "0o17", "1_000")},
    **{word: word for word in ("12:30", "16:9", "2026-01-01", "+5", ".5", "5.", "1e", "nan")},
    **{word: word for word in ("A cat.", "=", "1.2.3", "１２", "inf")},
    # quoted, it is text whatever it is
    **{f"'{word}'": word for word in ("5", "true", "null", "~", "", "no", ".inf", "True", "1e400")},
    **{f'"{word}"': word for word in ("5", "true", "010")},
    "|\n   5\n": "5\n",
    ">-\n   true\n": "true",
}


@pytest.mark.parametrize("loader", LOADERS)
def test_a_yaml_scalar_is_what_json_would_make_of_it(loader: Any) -> None:
    """No YAML surprises: a word is text unless JSON says otherwise. (M3)."""
    failures = []
    for text, value in PLAIN.items():
        document, faults = compose(yaml, loader, f"a: {text}", "films.yaml")
        if faults or document != {"a": value} or type(document["a"]) is not type(value):
            failures.append((text, document, faults))

    assert failures == []


@pytest.mark.parametrize("loader", LOADERS)
def test_a_yaml_scalar_that_looks_like_json_is_refused(loader: Any) -> None:
    """What other readers take for true, null or a number is neither that nor text. (M3, M7)."""
    failures = []
    for word in ("True", "FALSE", "Null", ".inf", "-.INF", ".NaN", "1e400", "9" * 301):
        _, faults = compose(yaml, loader, f"\na: [{word}]", "films.yaml")
        if not re.fullmatch(r"films\.yaml, line 2: .*text goes in quotes", "|".join(faults)):
            failures.append((word, faults))

    assert failures == []


@pytest.mark.parametrize("loader", LOADERS)
def test_an_ambiguous_scalar_inside_an_input_is_refused(loader: Any) -> None:
    """Nobody would notice that the model is sent text where a number is meant. (M3)."""
    failures = []
    words = ("no", "Yes", "on", "OFF", "010", "0x1F", "0o17", "0b1", "1_000", "+5", ".5", "5.")
    for word in words:
        given = f"{{a: [{word}], b: '{word}', c: 16:9, d: 2026-01-01}}"
        text = f"task: {{model: {word}, input: {given}}}"
        document, faults = compose(yaml, loader, text, "films.yaml")
        rule = f"films.yaml, line 1: a value as JSON has it, or text in quotes, not {word}"
        read = (document["task"]["model"], document["task"]["input"]["b"])
        if faults != [rule] or read != (word, word):
            failures.append((word, read, faults))

    assert failures == []


@pytest.mark.parametrize("loader", LOADERS)
def test_all_faults_of_a_yaml_file_are_reported(loader: Any) -> None:
    """Line by line, in both loaders alike. (M1, M2, M3)."""
    text = "a: &x !t 1\nb: *x\nb: 2\n? [c]\n: !!str d\n<<: {e: 1}\n'<<': 1\n"

    document, faults = compose(yaml, loader, text, "f")

    assert faults == [
        "f, line 1: no anchors and aliases; write it out",
        "f, line 2: no anchors and aliases; write it out",
        "f, line 3: 'b' is given twice",
        "f, line 4: names are words",
        "f, line 5: no tags such as 'tag:yaml.org,2002:str'",
        "f, line 6: no merge keys (<<); write it out",
        "f, line 7: '<<' is given twice",
    ]
    assert document.broken


@pytest.mark.parametrize("loader", LOADERS)
def test_a_bomb_is_refused_before_it_is_expanded(loader: Any) -> None:
    """With work for its first levels or lines at most, whatever would follow. (M2)."""
    bombs = [
        ("&a " * 1 + "[" + "*a, " * 300_000 + "]", "no anchors"),
        ("a: " + "[" * 300_000, "at most 32 levels"),
        ("{a: " * 300_000, "at most 32 levels"),
        ("- " * 300_000, "at most 32 levels"),
        ("films: # [\n" + "  [" * 500 + "[" * 300_000, "line 2: at most 32 levels"),
        ("!x " * 100 + "a", "f, line 1: "),
        ("a: b\n--- c", "one document"),
    ]
    for text, rule in bombs:
        with counted_calls() as calls, pytest.raises(ManifestError, match=rule):
            compose(yaml, loader, text, "f")

        assert calls.number < 60_000, rule


@pytest.mark.parametrize("loader", LOADERS)
def test_what_is_broken_before_it_is_deep_is_not_called_deep(loader: Any) -> None:
    """Brackets in quotes and comments nest nothing, and are not counted."""
    texts = [
        "[" * 32 + "'" + "[" * 99 + "'\t\"" + "[" * 99 + "\\q",
        "a: [[[ # " + "[" * 99 + "\n- ]",
        "a: ]\nb: " + "[" * 99,
    ]
    for text in texts:
        with pytest.raises(ManifestError, match=r"line [12]: YAML: "):
            compose(yaml, loader, text, "f")


@pytest.mark.parametrize("loader", LOADERS)
def test_a_text_that_a_comment_may_have_cut_off_gives_a_remark(loader: Any) -> None:
    """It would be paid without its end. A comment written as one gives no remark."""
    text = (
        "a: Котёнок is #1 now\nb: fine # a comment\nc: '#1'\nd: >-\n  the #1\ne: 5 #five\n"
        "f: [x #1\n  ]\n# g: x #2\n"
    )
    remarks: list[str] = []

    document, faults = compose(yaml, loader, text, "f", remarks)

    assert (document["a"], document["d"], faults) == ("Котёнок is", "the #1", [])
    assert [remark.partition(": ")[0] for remark in remarks] == ["f, line 1", "f, line 7"]


def test_too_many_values_for_yaml(monkeypatch: pytest.MonkeyPatch) -> None:
    """A million is enough, and the fault says which format may have more. (M2)."""
    assert yaml_format.MOST_VALUES == 1_000_000
    monkeypatch.setattr(yaml_format, "MOST_VALUES", 1000)  # reading a million takes seconds
    document, faults = compose(yaml, LOADERS[-1], "[" + "1," * 999 + "]", "f")
    assert (len(document), faults) == (999, [])
    with pytest.raises(ManifestError, match="JSON lines may have more"):
        compose(yaml, LOADERS[-1], "[" + "1," * 1000 + "]", "f")


def test_a_film_with_broken_yaml_does_not_hide_faults_of_others(tmp_path: Path) -> None:
    """What is wrong with YAML in one film does not hide what is wrong with another."""
    path = tmp_path / "films.yaml"
    path.write_text(
        "films:\n- {key: a, takes: !x 9, shots: []}\n- {key: b, shots: []}\n- {key: a/b, key: c}\n",
    )

    assert check_manifest(path) == [
        "films.yaml, line 2: no tags such as '!x'",
        "films.yaml, line 4: 'key' is given twice",
        "films.yaml, line 3 (b): shots: 1 to 10, not 0",
    ]


def test_without_pyyaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """YAML says what to install; the other formats do not need it."""
    film = '{"shots": [{"scene": "A cat.", "duration": 5}]}'
    for name in ("film.yaml", "film.json"):
        tmp_path.joinpath(name).write_text(film)
    monkeypatch.setitem(sys.modules, "yaml", None)

    with pytest.raises(MissingExtraError, match=r'pip install "\.\[yaml\]"'):
        check_manifest(tmp_path / "film.yaml")
    assert check_manifest(tmp_path / "film.json") == []

"""Manifests as strangers write them: seeded, in every form, starting from valid ones."""

from __future__ import annotations

import copy
import csv
import io
import json
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import yaml
from fuzz.mutations import MARK, cut_up, rewritten

__all__ = ["Manifest", "manifests"]

KITTEN = {
    "key": "kitten",
    "image": "a.png",
    "takes": 2,
    "shots": [
        {"scene": "A kitten in orange headphones eats cake.", "duration": 7.5},
        {"scene": "The cake is gone.", "duration": 7.5},
    ],
}
FILMS: tuple[dict[str, Any], ...] = (
    KITTEN,
    {"shots": [{"scene": "Fog over a harbour.", "duration": 10}], "duration": 10},
    {
        "key": "маяк",
        "aspect_ratio": "portrait",
        "duration": 25,
        "image": "https://files.example.com/lighthouse.png?a=1",
        "shots": [{"scene": f"Маяк, день {day}.", "duration": 2.5} for day in range(10)],
    },
    {"key": 7, "shots": [{"scene": 1984, "duration": 0.1}], "duration": 15, "image": "sub/b.png"},
    {"key": "Café 2.1", "shots": [{"scene": 'Ёлка,\n"snow"; it\'s\tcold', "duration": 15}]},
    {
        "key": "other",
        "task": {
            "model": "kling-2.6/text-to-video",
            "input": {"prompt": "A lighthouse at dawn.", "duration": 5, "deep": [{"a": [None]}]},
        },
    },
)
DEFAULTS: tuple[dict[str, Any], ...] = (
    {"duration": 15, "aspect_ratio": "landscape"},
    {"duration": 25, "takes": 3, "image": "a.png"},
)
KEYS = (
    *("key", "takes", "shots", "scene", "duration", "aspect_ratio", "image", "task", "model"),
    *("input", "films", "defaults", "Scene", "", "x", "<<", "a.b", "\u202e", "\0", "n_frames"),
    *("film_duration", "k" * 300, "null", "1", "films ", "Films", "__class__"),
)
IMAGES = (
    *("b.png", "../outside.png", "sub/../a.png", "sub/../../outside.png", "link.png", "/dev/zero"),
    *("loop.png", "sub", "missing.png", "a.png/", "./a.png", "pipe", "text.png", "~/a.png", ""),
    *("/etc/passwd", "a.png\\u0000", "file:///etc/passwd", "https://u:p@h.test/a.png", " a.png"),
    *("data:image/png;base64,AA==", "http://[::1", "x" * 5000, "links/a.png", "sub/up/a.png"),
    *("https://h.test/a b.png", "HTTPS://h.test/%00", "//h.test/a.png", "C:\\\\a.png", "a.png:x"),
)
WORDS = (
    *("null", "true", "0", "1", "2", "-1", "10", "15", "25", "100", "101", "7.5", "0.1", "1e1"),
    *("15.0", "1.0", "1e400", "-1e999", "NaN", "Infinity", "9" * 30, "9" * 5000, "0.30000000004"),
    *('"10"', '"15"', '"landscape"', '"portrait"', '"Portrait"', '"kitten"', '"KITTEN"', '""'),
    *('"kitten.2"', '"ki\\u0301tten"', '"\\uff4bitten"', '"CON"', '"a/b"', '".."', '" "', '"a."'),
    *('"\\u0000"', '"\\ud800"', '"\\u202eabc"', '"\\u001b[2J"', '"' + "x" * 90 + '"', "[]", "{}"),
    *("[null]", '{"scene": "x", "duration": 5}', '[{"scene": "x", "duration": 5}]', "[[[[]]]]"),
    *('{"model": "m", "input": {}}', '{"a": 1, "a": 2}', "[" * 40 + "]" * 40),
    '{"model": "m", "input": {"seed": 1, "seed": 2}}',
    '[{"scene": "x", "duration": 5, "duration": 6}]',
    *(f'"{image}"' for image in IMAGES),
)
ONLY_YAML = (
    *("&a [1]", "*a", "<<", "!!python/object/apply:os.system [x]", "!!str 5", "!x", "~", "no"),
    *("010", "0x10", "1_000", ".inf", "-.nan", "+5", "2026-01-01", "12:30:45", "|", "? x", "---"),
    *("[*a, *a]", "{<<: {duration: 5}}", "!!binary aGk=", "%TAG", "@x", "`", "'it''s'", "Yes", "y"),
    *(
        '"\\x41"',
        '"\\\n  "',
        "# x",
        "{a: 1, a: 2}",
        "- -",
        "...",
        "\t",
        "!<tag:yaml.org,2002:int> 3",
    ),
)
ONLY_TOML = (
    *("0x10", "1_000", "+5", "inf", "-nan", "2026-01-01", "2026-01-01T00:00:00Z", "'x'", '"""x"""'),
    *("{a.b = 1}", "{a = 1, a = 2}", "07:32:00", "0b1", "1e1", "[1, 'x',]", "{}", "''"),
)
CELLS = (
    *("", " ", "=1+1", "+5", "-5", "@x", "\t=1", "kitten", "KITTEN", "10", "15", "7,5", "1e400"),
    *('"', '""', 'a"b', '"a\nb"', '"a\r\nb', "a\rb", "'", "a;b", "null", "NaN", "a.png", "\0"),
    *("../outside.png", "landscape", "x" * 200, "\u202e", "\ufeff", "true", "'=1", "x" * 140_000),
)
ENCODINGS = (
    *("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1251", "latin-1", "koi8-r"),
    *("utf-7", "gb18030", "shift_jis", "cp037"),
)
NAMES = {"json": ("json",), "jsonl": ("jsonl", "ndjson"), "yaml": ("yaml", "yml")}
BARE = re.compile(r"[A-Za-z0-9_-]+")


@attrs.frozen
class Manifest:
    """A file to be read: *kind* tells how it was made."""

    kind: str
    name: str
    raw: bytes
    allow_duplicates: bool = False
    allow_outside: bool = False


def manifests(seed: str, count: int) -> Iterator[Manifest]:
    """Make *count* manifests; equal seeds make equal ones."""
    rng = random.Random(seed)
    for _ in range(count):
        yield _manifest(rng)


def _manifest(rng: random.Random) -> Manifest:
    form = rng.choice(("json", "jsonl", "yaml", "yaml", "toml", "csv"))
    kind = rng.choices(("valid", "tree", "letters", "bulk", "bytes"), (20, 52, 16, 8, 4))[0]
    if kind == "bulk":
        text = _bulk(form, rng)
    elif kind == "bytes":
        text = rng.randbytes(rng.choice((0, 1, 5, 40, 400))).decode("latin-1")
    else:
        text = _written(form, rng, 0 if kind != "tree" else rng.choice((1, 1, 1, 2, 3, 5)))
        text = cut_up(text, rng, _words(form)) if kind == "letters" else text
    name = f"m.{rng.choice(NAMES.get(form, (form,)))}"
    if rng.random() < 0.02:
        name = rng.choice((name.upper(), "m", "m.txt", ".json", "m.json.bak", f"{'é' * 90}.{form}"))
    raw = _encoded(text, rng, plainly=kind == "valid")
    return Manifest(kind, name, raw, rng.random() < 0.2, rng.random() < 0.1)


def _words(form: str) -> tuple[str, ...]:
    return {"yaml": WORDS + ONLY_YAML, "toml": WORDS + ONLY_TOML, "csv": CELLS}.get(form, WORDS)


def _encoded(text: str, rng: random.Random, *, plainly: bool) -> bytes:
    if plainly or rng.random() < 0.92:
        return text.encode(errors="surrogatepass")
    if rng.random() < 0.6:
        return text.encode(rng.choice(ENCODINGS), errors="replace")
    raw = bytearray(text.encode(errors="surrogatepass"))
    for _ in range(rng.choice((1, 2, 5))):
        raw.insert(rng.randrange(len(raw) + 1), rng.choice((0, 0x80, 0xFF, 0xED, 0xC3, 0x1B, 0x85)))
    return bytes(raw)


# --- trees into text -----------------------------------------------------------------------------


def _written(form: str, rng: random.Random, times: int) -> str:
    films: list[dict[str, Any]] = []
    for number in range(rng.choice((1, 1, 2, 3, 6))):
        film = copy.deepcopy(rng.choice(FILMS))
        if "key" in film and number and rng.random() < 0.9:
            film["key"] = f"{film['key']} {number}"
        films.append(film)
    document: Any = {"films": films}
    if rng.random() < 0.3:
        document["defaults"] = copy.deepcopy(rng.choice(DEFAULTS))
    elif rng.random() < 0.2 and form in ("json", "yaml"):
        document = films if rng.random() < 0.6 else films[0]
    given = films if form == "csv" else document
    given, put = rewritten(given, rng, times, keys=KEYS, fragments=_words(form))
    text = WRITERS[form](given, rng)
    for number, word in enumerate(put):
        for quote in ('"', "'", ""):
            text = text.replace(f"{quote}{MARK}{number}{quote}", word)
    return text


def _json(document: Any, rng: random.Random) -> str:
    return json.dumps(
        document, ensure_ascii=rng.random() < 0.5, indent=rng.choice((None, None, 2, 0))
    )


def _jsonl(document: Any, rng: random.Random) -> str:
    films = document.get("films", [document]) if isinstance(document, dict) else [document]
    lines = [json.dumps(film, ensure_ascii=rng.random() < 0.5) for film in _listed(films)]
    if rng.random() < 0.2:
        lines.insert(rng.randrange(len(lines) + 1), rng.choice(("", "  ", "\r", "//", "null")))
    return rng.choice(("\n", "\n", "\r\n")).join(lines) + rng.choice(("", "\n"))


def _yaml(document: Any, rng: random.Random) -> str:
    if rng.random() < 0.4:
        return _json(document, rng)
    return str(
        yaml.dump(
            document,
            Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper),
            allow_unicode=rng.random() < 0.5,
            default_flow_style=rng.choice((False, False, None)),
            sort_keys=False,
            line_break=rng.choice(("\n", "\r\n")),
        )
    )


def _toml(document: Any, rng: random.Random) -> str:
    if not isinstance(document, dict):
        document = {"films": document}
    lines = [f"{_bare(name)} = {_inline(value)}" for name, value in document.items()]
    films = document.get("films")
    if isinstance(films, list) and all(isinstance(film, dict) for film in films):
        lines = [line for line in lines if not line.startswith("films =")]
        for film in films:
            lines.append("[[films]]")
            lines += [f"{_bare(name)} = {_inline(value)}" for name, value in film.items()]
    return "\n".join(lines) + "\n"


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return (
            f"{{{', '.join(f'{_bare(name)} = {_inline(inner)}' for name, inner in value.items())}}}"
        )
    if isinstance(value, list):
        return f"[{', '.join(map(_inline, value))}]"
    return "'null'" if value is None else json.dumps(value, ensure_ascii=False)


def _bare(name: object) -> str:
    return str(name) if BARE.fullmatch(str(name)) else json.dumps(str(name), ensure_ascii=False)


def _csv(document: Any, rng: random.Random) -> str:
    columns = ["key", "scene", "duration", "film_duration", "aspect_ratio", "image"]
    if rng.random() < 0.2:
        rng.shuffle(columns)
    written = io.StringIO()
    separator = rng.choice((",", ",", ";", "\t"))
    rows = csv.writer(written, delimiter=separator, lineterminator=rng.choice(("\n", "\r\n", "\r")))
    rows.writerow([rng.choice((str, str.upper, str.title))(column) for column in columns])
    for film in _listed(document):
        given = film if isinstance(film, dict) else {"key": film}
        for shot in _listed(given.get("shots", [])):
            cells = {**given, "film_duration": given.get("duration", "")}
            cells |= shot if isinstance(shot, dict) else {"scene": shot}
            row = [cells.get(column, "") for column in columns]
            if rng.random() < 0.1:
                row[rng.randrange(len(row))] = rng.choice(CELLS)
            reported = [cell if isinstance(cell, str) else json.dumps(cell) for cell in row]
            if separator != "," and rng.random() < 0.5:
                reported = [
                    text if isinstance(cell, str) else text.replace(".", ",")
                    for text, cell in zip(reported, row, strict=True)
                ]
            rows.writerow(reported)
            if rng.random() < 0.1:
                rows.writerow([""] * len(row))
    return written.getvalue()


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


WRITERS: dict[str, Callable[[Any, random.Random], str]] = {
    "json": _json,
    "jsonl": _jsonl,
    "yaml": _yaml,
    "toml": _toml,
    "csv": _csv,
}


# --- much of the same ----------------------------------------------------------------------------


def _bulk(form: str, rng: random.Random) -> str:
    """Deep, long, wide, or asked for many times."""
    size = rng.choice((33, 100, 1000, 5000, 12_000))
    if rng.random() < 0.02:
        size = 200_000
    shot = '{"scene": "x", "duration": 5}'
    wide = ",".join(f'"k{number}":{number}' for number in range(min(size, 5000)))
    makers: dict[str, tuple[Callable[[], str], ...]] = {
        "json": (
            lambda: "[" * size + "]" * size,
            lambda: '{"films":' * size + "1" + "}" * size,
            lambda: f'{{"takes": 100, "shots": [{{"scene": "{"é" * size}", "duration": 5}}]}}',
            lambda: f'{{"takes": 100, "task": {{"model": "m", "input": {{{wide}}}}}}}',
            lambda: "[" + ",".join([f'{{"takes": 2, "shots": [{shot}]}}'] * min(size, 2000)) + "]",
            lambda: f'{{"shots": [{",".join([shot] * size)}]}}',
            lambda: f'{{"films": [{{{wide}}}], {wide}}}',
            lambda: f'{{"task": {{"model": "m", "input": {{"x": {"[" * size + "]" * size}}}}}}}',
        ),
        "yaml": (
            lambda: "[" * size,
            lambda: "{a: " * size,
            lambda: "- " * size,
            lambda: "? " * size,
            lambda: "".join(f"{' ' * n}a:\n" for n in range(min(size, 300))),
            lambda: "a: &a [x, x]\n" + "".join(f"b{n}: &b{n} [*a, *a]\n" for n in range(size)),
            lambda: "films:\n" + f"- {{shots: [{shot}]}}\n" * min(size, 1500),
            lambda: "films:\n- shots:\n  - scene: |\n" + "      x\n" * size + "    duration: 5\n",
            lambda: '"' + "\\u0041" * size,
            lambda: "#" * size + "\n" + "--- \n" * min(size, 100),
            lambda: "%YAML 1.1\n" * size,
            lambda: "!" + "a" * size + " x",
        ),
        "toml": (
            lambda: "x = " + "[" * size + "]" * size,
            lambda: "a" + ".a" * size + " = 1",
            lambda: "[a" + ".a" * size + "]",
            lambda: "a" + ' . "a"' * size + " = 1",
            lambda: "x = {a" + ".a" * size + " = 1}",
            lambda: "x = {" + ", ".join(f"k{n} = {n}" for n in range(min(size, 3000))) + "}",
            lambda: "".join(f"[a{n}.b]\nc = 1\n" for n in range(min(size, 3000))),
            lambda: "[[films]]\n" * min(size, 3000),
            lambda: 'x = """' + '\\""" ' * size,
            lambda: "x = '''" + "'" * size,
            lambda: "x = " + "9" * size,
        ),
        "csv": (
            lambda: "key,scene,duration\n" + "a,b,5\n" * size,
            lambda: "key,scene,duration\n" + "".join(f"k{n},x,5\n" for n in range(min(size, 2000))),
            lambda: "scene,duration\n" + '"' + "x\n" * size,
            lambda: "," * size,
            lambda: "scene,duration\n" + "," * size,
            lambda: "scene,duration\n" + '"' * size,
            lambda: "scene,duration\n\n" + "\n" * size,
        ),
        "jsonl": (
            lambda: "[" * size,
            lambda: "{}\n" * size,
            lambda: f'{{"takes": 100, "shots": [{shot}]}}\n' * min(size, 300),
            lambda: "\n" * size + "null",
            lambda: '{"key": "' + "x" * size + '"}',
            lambda: '{"a": ' * size,
            lambda: f'{{"shots": [{shot}]}}' + " " * rng.choice((0, 1_100_000)),
        ),
    }
    return rng.choice(makers[form])()

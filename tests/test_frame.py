"""The frame around the package: what is promised about it elsewhere is what is there."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import apikley_async

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT_TEXT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
PYPROJECT = tomllib.loads(PYPROJECT_TEXT)
PROJECT = PYPROJECT["project"]
NOXFILE = (ROOT / "noxfile.py").read_text(encoding="utf-8")
CI = (ROOT / ".ci" / "run").read_text(encoding="utf-8")

# Written in pieces, so that this file may be searched too.
FORBIDDEN = {
    "a path of somebody's machine": re.compile(r"(?<![\w.>/])/(?:home|root|Users|work)/\w"),
    "a registry's host": re.compile(r"py" + r"pi\.org|python" + r"hosted|npm" + r"js\.(?:org|com)"),
}


def texts() -> Iterator[tuple[str, str]]:
    """Read every text file of the project, leaving out what tools have made."""
    made = {".git", ".nox", "__pycache__", "_build", "dist", "films"}
    made |= {".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis", ".venv", "venv"}
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in made]
        for name in files:
            path = Path(folder, name)
            try:
                yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue


def nox_sessions() -> set[str]:
    """List the names of the sessions, read from the noxfile without running it."""
    names = set()
    for node in ast.walk(ast.parse(NOXFILE)):
        if not isinstance(node, ast.FunctionDef):
            continue
        for decorator in node.decorator_list:
            call = decorator.func if isinstance(decorator, ast.Call) else decorator
            if ast.unparse(call) != "nox.session":
                continue
            keywords = decorator.keywords if isinstance(decorator, ast.Call) else []
            name = next((word.value for word in keywords if word.arg == "name"), None)
            if name is None:
                names.add(node.name)
            elif isinstance(name, ast.Constant):
                names.add(str(name.value))
            else:
                names |= {f"tests-{python}" for python in supported_pythons()}
    return names


def supported_pythons() -> list[str]:
    words = [re.fullmatch(r".* :: (3\.\d+)", word) for word in PROJECT["classifiers"]]
    return [word[1] for word in words if word]


def test_the_version_is_told_once() -> None:
    """The package says its version; the distribution repeats it."""
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc|\.dev|\.post)\d+)?", apikley_async.__version__)
    assert "version" in PROJECT["dynamic"]
    assert PYPROJECT["tool"]["hatch"]["version"]["path"] == "apikley_async/__init__.py"
    try:
        installed = importlib.metadata.version("apikley-async")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package is not installed, only importable")
    assert installed == apikley_async.__version__


def test_both_commands_lead_to_the_command_line() -> None:
    """`apikley` and `apikley-async` are one program."""
    assert set(PROJECT["scripts"]) == {"apikley", "apikley-async"}
    (target,) = set(PROJECT["scripts"].values())
    module, _, name = target.partition(":")

    assert callable(getattr(importlib.import_module(module), name))


def test_what_everybody_must_install_is_little() -> None:
    """Four libraries; whatever else is an extra."""
    names = [re.split(r"[<>=\[]", need)[0] for need in PROJECT["dependencies"]]

    assert names == ["aiohttp", "attrs", "cattrs", "backoff"]


def test_the_oldest_aiohttp_has_its_holes_mended() -> None:
    """Cookies that followed redirects, and decompression bombs, are history (N10)."""
    assert "aiohttp>=3.14.4,<4" in PROJECT["dependencies"]


def test_the_extra_all_means_all() -> None:
    extras = dict(PROJECT["optional-dependencies"])
    (everything,) = extras.pop("all")

    assert everything == f"apikley-async[{','.join(extras)}]"


def test_the_package_says_it_is_typed() -> None:
    assert (ROOT / "apikley_async" / "py.typed").is_file()
    assert "Typing :: Typed" in PROJECT["classifiers"]


def test_no_file_of_the_package_is_kept_out_of_the_wheel() -> None:
    """The wheel takes the whole package except what git ignores: so git must not ignore data."""
    assert PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["apikley_async"]
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout")
    data = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "apikley_async").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    ]

    ignored = subprocess.run(
        [git, "check-ignore", "--no-index", "--stdin"],
        input="\n".join(data),
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )

    assert ignored.stdout.split() == []


def test_the_supported_pythons_are_told_everywhere_alike() -> None:
    """Classifiers, requires-python, nox, ruff and mypy agree."""
    pythons = supported_pythons()
    oldest = pythons[0]

    assert f"PYTHONS = {pythons}".replace("'", '"') in NOXFILE
    assert PROJECT["requires-python"] == f">={oldest}"
    assert PYPROJECT["tool"]["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"
    assert PYPROJECT["tool"]["mypy"]["python_version"] == oldest
    assert PYPROJECT["tool"]["pyright"]["pythonVersion"] == oldest
    assert f'requires-python = ">={oldest}"' in NOXFILE


def test_the_noxfile_asks_for_one_nox() -> None:
    """The metadata at its top, what it installs and what it checks are the same."""
    asked = set(re.findall(r'nox>=([\d.]+)"', NOXFILE))
    asked |= set(re.findall(r'needs_version = ">=([\d.]+)"', NOXFILE))

    assert len(asked) == 1


def test_every_session_that_is_mentioned_exists() -> None:
    """README, pages and the gate name only sessions that there are."""
    mentioned = {
        (name, session)
        for name, text in texts()
        if name.endswith(".md") or name in {"noxfile.py", ".ci/run"}
        for session in re.findall(r"(?:\bnox|noxfile\.py) -s ([\w.-]+)", text)
    }

    assert {session for _, session in mentioned} >= {"demo", "tests"}
    assert {
        (name, session) for name, session in mentioned if session not in nox_sessions()
    } == set()


def test_the_gate_runs_the_readmes_command() -> None:
    """What a reader types is what is checked, first of all."""
    steps = re.findall(r'^step "[^"]+" (.+)$', CI, re.MULTILINE)

    assert steps[0] == "python3 noxfile.py -s tests"
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_every_lint_rule_that_is_off_says_why() -> None:
    """An ignored rule or warning without a reason is a rule nobody decided about."""
    section = PYPROJECT_TEXT.partition("\nignore = [")[2].partition("[tool.ruff.lint.flake8")[0]
    entries = re.findall(r'^ +"[A-Z]+\d+",.*$', section, re.MULTILINE)
    ruff = PYPROJECT["tool"]["ruff"]["lint"]
    rules = [
        *ruff["ignore"],
        *(rule for rules in ruff["per-file-ignores"].values() for rule in rules),
    ]

    assert len(entries) == len(rules)
    assert [entry for entry in entries if "  # " not in entry] == []


@pytest.mark.parametrize("what", FORBIDDEN)
def test_nothing_points_at_a_machine_or_a_registry(what: str) -> None:
    """The project is the same wherever it is checked out and whatever index serves it."""
    found = [
        f"{name}: {match[0]}" for name, text in texts() for match in FORBIDDEN[what].finditer(text)
    ]

    assert found == []

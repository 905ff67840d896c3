"""The frame around the package: what is promised about it elsewhere is what is there."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import apikley_async

ROOT = Path(__file__).resolve().parents[2]
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


def test_every_file_of_tests_that_the_gate_names_exists() -> None:
    """A renamed test leaves no session that runs, or leaves out, nothing."""
    gate = (ROOT / ".ci" / "run").read_text(encoding="utf-8").replace("\\\n", " ")
    loops = re.findall(
        r'for name in (.*?); do\s+\w+\+=\("(?:--ignore=)?(tests/\S+)"\)', gate, re.DOTALL
    )
    named = {path.replace("$name", name) for names, path in loops for name in names.split()}
    named |= set(re.findall(r'"(tests/[\w./-]+\.py)"', NOXFILE))

    assert len(loops) == 2
    assert "tests/batch/test_kill.py" in named
    assert [path for path in sorted(named) if not (ROOT / path).is_file()] == []


def requirements() -> dict[str, list[Requirement]]:
    """What pyproject.toml and the noxfile ask for, without what refers to itself."""
    extras = PROJECT["optional-dependencies"]
    asked = {"package": PROJECT["dependencies"], **extras, **PYPROJECT["dependency-groups"]}
    asked["nox"] = re.findall(r'^NEEDS = "(.+)"$', NOXFILE, re.MULTILINE)
    return {
        name: [need for need in map(Requirement, needs) if need.name != PROJECT["name"]]
        for name, needs in asked.items()
    }


def test_everything_that_is_asked_for_is_pinned() -> None:
    """A new release of somebody else's package turns none of the sessions red."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines)
    pinned = {canonicalize_name(name): version for name, version in pins.items()}

    assert all(re.fullmatch(r"[\w.-]+==[\w.+!-]+", line) for line in lines)
    assert lines == sorted(lines, key=str.lower)
    for name, needs in requirements().items():
        for need in needs:
            assert need.specifier.contains(pinned[canonicalize_name(need.name)]), name


def test_everything_that_is_asked_for_has_one_floor() -> None:
    """`lowest` installs just that, so one name may not have two."""
    floors: dict[str, set[str]] = {}
    for needs in requirements().values():
        for need in needs:
            found = [each.version for each in need.specifier if each.operator == ">="]
            assert len(found) == 1, need
            floors.setdefault(canonicalize_name(need.name), set()).update(found)

    assert {name: found for name, found in floors.items() if len(found) > 1} == {}


def test_pictures_are_read_without_known_holes() -> None:
    """Images come from strangers, and Pillow before 12.3 is no match for some of them."""
    (pillow,) = [need for need in requirements()["simulator"] if need.name == "Pillow"]

    assert pillow.specifier.contains("12.3")
    assert not pillow.specifier.contains("12.2.99")


def test_the_gate_runs_the_floors_and_the_newest() -> None:
    """The floors close the gate; the newest only raises its voice."""
    steps = dict(re.findall(r'^step "([^"]+)" (.+)$', CI, re.MULTILINE))

    for name in ("lowest", "newest"):
        assert f"-s {name} " in steps[name]


# The steps and asides of the gate: each one's name, and its (first) session.
ASKED = re.findall(r'^(?:step|aside) "([^"]+)" python3 .*?-s ([\w.-]+)', CI, re.MULTILINE)


def run_gate(tmp_path: Path, *red: str, ends_the_line: str = "-") -> list[str]:
    """What the gate prints with a python3 that runs nothing, and fails in the sessions *red*."""
    python = tmp_path / "python3"
    python.write_text(
        '#!/bin/sh\nwhile [ $# -gt 0 ] && [ "$1" != -s ]; do shift; done\n'
        'echo "session $2, TESTED=$TESTED"\n'
        f"case $2 in {'|'.join(red) or '-'}) exit 1;; {ends_the_line}) kill -9 $PPID; esac\n"
    )
    python.chmod(0o755)
    (tmp_path / "chromium").symlink_to(python)  # so that nothing is installed by a test
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "PYENV_VERSION": "x", "TMPDIR": str(tmp_path)}

    ran = subprocess.run(
        [ROOT / ".ci" / "run"], env=env, capture_output=True, text=True, check=False
    )
    lines = ran.stdout.splitlines()

    assert lines[-1].startswith("The gate is closed" if ran.returncode else "The gate is open")
    assert {path.name for path in tmp_path.iterdir()} == {"python3", "chromium"}
    return lines


@pytest.mark.parametrize(
    ("red", "said"),
    [
        ((), "The gate is open"),
        (("newest",), "The gate is open"),
        (("lowest",), "The gate is closed"),
        (("tests", "newest"), "The gate is closed"),
        (("typing",), "The gate is closed"),
        (("alike",), "The gate is closed"),
    ],
)
def test_the_gate_closes_for_what_is_ours(tmp_path: Path, red: tuple[str, ...], said: str) -> None:
    """Whether it runs among the steps or aside."""
    lines = run_gate(tmp_path, *red)

    assert lines[-1].startswith(said)
    assert any("NEWEST IS RED" in line for line in lines) == ("newest" in red)
    ours = [session for _, session in ASKED if session in red and session != "newest"]
    assert sum(line.startswith("FAILED ") for line in lines) == len(ours)


def test_the_gate_shows_what_ran_aside(tmp_path: Path) -> None:
    """Each session once, its output behind its name, whichever line it ran in."""
    lines = run_gate(tmp_path)

    shown = [(lines[at], lines[at + 1]) for at, line in enumerate(lines) if line[:4] == "==> "]
    assert sorted(
        (title.split(":")[0].removeprefix("==> "), said.split(",")[0].removeprefix("session "))
        for title, said in shown
    ) == sorted(ASKED)
    passed = [line.split(" s  ")[1] for line in lines if line.startswith("ok ")]
    assert passed == [name for name, _ in ASKED]


def test_the_gate_closes_where_its_second_line_ends_early(tmp_path: Path) -> None:
    """Killed, or out of memory: what it did not come to has failed."""
    lines = run_gate(tmp_path, ends_the_line="docs")

    failed = [line.rpartition("  ")[2] for line in lines if line.startswith("FAILED")]
    assert failed == [
        *("docs", "build", "PostgreSQL", "other markers", "one history", "many machines")
    ]
    assert "session docs, TESTED=" in lines


@pytest.mark.parametrize(("red", "tested"), [((), "3.13"), (("newest",), "")])
def test_the_python_of_the_newest_is_pinned_again_only_where_that_is_red(
    tmp_path: Path, red: tuple[str, ...], tested: str
) -> None:
    """Red or green, the newest Python has had the tests with one set of versions that counts."""
    assert f"session tests-others, TESTED={tested}" in run_gate(tmp_path, *red)
    assert supported_pythons()[-1] == "3.13"
    assert "python=PYTHONS[-1]" in NOXFILE.partition("def newest")[0].rpartition("@nox")[2]


def test_the_gate_runs_the_readmes_command() -> None:
    """What a reader types is what is checked, first of all."""
    steps = re.findall(r'^step "[^"]+" (.+)$', CI, re.MULTILINE)

    assert steps[0] == "python3 noxfile.py -s tests"
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


HANG_UP = """
import os, signal

def pytest_runtest_setup():
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.killpg(0, number)
"""


@pytest.mark.timeout(180)  # a whole pytest, on a machine that may be busy
@pytest.mark.slow
def test_the_tests_run_where_signals_are_ignored(tmp_path: Path) -> None:
    """Under nohup and its like, they go on when everybody in their group gets one.

    Tests that interrupt their own children still can.
    """
    (tmp_path / "hang_up.py").write_text(HANG_UP)
    test = "tests/core/test_client.py::test_ctrl_c_during_the_request_loses_no_film[submit]"
    words = f'-q -n 1 -p no:cacheprovider -p hang_up "{test}"'

    ran = subprocess.run(
        ["sh", "-c", f'trap "" INT HUP TERM; "{sys.executable}" -m pytest {words}'],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"},
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
    )

    assert ran.returncode == 0, ran.stdout
    assert "1 passed" in ran.stdout


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

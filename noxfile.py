# /// script
# requires-python = ">=3.11"
# dependencies = ["nox>=2025.5.1"]
# ///
"""Everything there is to run: the demo, the tests, the checks.

    python3 noxfile.py -s demo      the main job, end to end, on this machine alone
    python3 noxfile.py -s tests     the tests
    python3 noxfile.py -l           what else there is

Needs CPython 3.11 or newer, pip and a package index. Where nox is missing this file makes itself
a small environment with nox in `.nox/` and runs itself again in there. Where nox is installed,
`nox -s tests` is the same. Words after `--` go to the tool: `nox -s tests -- -k job`.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parent
CACHE = ROOT / ".nox"
NEEDS = "nox>=2025.5.1"
LOCK = "_NOXFILE_LOCK"  # names the open lock that keeps two set-ups apart
PYTHONS = ["3.11", "3.12", "3.13"]  # as in the classifiers
PINS = ROOT / "constraints.txt"  # versions that all of these Pythons can have
WHEEL_GOAL, MAX_WHEEL = 400, 700  # KiB without the film
PROVE = "tests/proof/simulation/prove.py"
DISTRIBUTED = "tests/proof/distributed"
SHARES = {  # what `simulate` runs of each part
    "seeds": 300,
    "kills": 200,
    "power": 100,
    "cancels": 100,
    "twice": 60,
    "upsets": 100,
    "callers": 40,
    "quick-mutants": 100,
}
PARTS = {  # how much the whole of each part is, and the minutes it takes
    "seeds": (20_000, 12),
    "kills": (10_000, 6),
    "power": (5_000, 4),
    "cancels": (5_000, 4),
    "twice": (2_000, 2),
    "upsets": (2_000, 2),
    "callers": (2_000, 1),
    "day": (24, 5),
    "same": (50, 1),
    "mutants": (2_000, 5),
    "pacing": (20_000, 1),
}

APART = ("postgres", "browser", "proof", "slow")  # markers of what the default tests leave out
ELSEWHERE = ("batch", "cli", "plugin", "proof", "simulator")
CORE = tuple(f"--ignore=tests/{folder}" for folder in ELSEWHERE)

# ------------------------------------------------- running without nox


def ensure_nox() -> None:
    """Return when nox is at hand; otherwise run this file again where it is."""
    if sys.version_info < (3, 11):  # noqa: UP036 - whoever starts it with an older one should know
        sys.exit(f"noxfile.py needs Python 3.11 or newer; this is {sys.version.split()[0]}.")
    CACHE.mkdir(exist_ok=True)
    take_lock()
    if not nox_is_at_hand():
        python = bootstrap()
        again = [str(python), str(ROOT / "noxfile.py"), *sys.argv[1:]]
        os.execv(python, again)  # noqa: S606 - a shell has no part in it


def nox_is_at_hand() -> bool:
    """Say whether this Python has a nox that knows what this file asks of it."""
    try:
        return [int(part) for part in version("nox").split(".")[:2]] >= [2025, 5]
    except PackageNotFoundError:
        return False


def bootstrap() -> Path:
    """Make the environment that holds nox, unless it is there and whole; return its Python."""
    place = CACHE / f"bootstrap-{sys.version_info.major}.{sys.version_info.minor}"
    python = place / "bin" / "python"
    whole = place / "whole.txt"  # written last: an interrupted start leaves none
    pins = pins_for(f"{sys.version_info.major}.{sys.version_info.minor}")
    made_for = f"{sys.version}\n{sys.base_prefix}\n{NEEDS}\n{PINS.read_text() if pins else ''}"
    if python.exists() and whole.exists() and whole.read_text() == made_for:
        return python

    say("nox is not installed: making a small environment for it in .nox/ (once)")
    shutil.rmtree(place, ignore_errors=True)
    # A pip that can install into another environment saves the time for a second pip, and the
    # ensurepip that some distributions leave out.
    beside = importlib.util.find_spec("pip") is not None
    if not beside and importlib.util.find_spec("ensurepip") is None:
        sys.exit(
            "noxfile.py: this Python has neither pip nor ensurepip. Install one of them (on Debian "
            "and Ubuntu: apt install python3-pip python3-venv), or install nox, and run this again."
        )
    pip = (
        [sys.executable, "-m", "pip", "--python", str(python)]
        if beside
        else [str(python), "-m", "pip"]
    )
    try:
        venv_options = ["--without-pip"] if beside else []
        subprocess.run([sys.executable, "-m", "venv", *venv_options, str(place)], check=True)
        subprocess.run([*pip, "install", "--quiet", *pins, NEEDS], check=True)
    except subprocess.CalledProcessError as error:
        shutil.rmtree(place, ignore_errors=True)
        step = "make an environment" if "venv" in error.cmd else "fetch nox from the package index"
        sys.exit(
            f"noxfile.py: could not {step}; what went wrong stands above. Is there a network, and "
            "does pip know its index and proxy? With nox installed by other means, "
            "`nox` runs everything here."
        )
    whole.write_text(made_for)
    return python


def pins_for(python: str) -> list[str]:
    """Options for pip that hold every version, on the Pythons that the pins are made for."""
    return ["-c", str(PINS)] if python in PYTHONS else []


def take_lock() -> None:
    """Let only one process at a time set up environments here; the others wait."""
    if LOCK in os.environ:  # taken before this file ran itself again
        return
    try:
        import fcntl
    except ModuleNotFoundError:  # not on this platform: two at once are on their own
        return
    lock = os.open(CACHE / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("another run is setting up its environment here; waiting for it")
        fcntl.flock(lock, fcntl.LOCK_EX)
    os.set_inheritable(lock, True)  # it outlives a second start, and ends with `install`
    os.environ[LOCK] = str(lock)


def release_lock() -> None:
    """Let the next one set up; the end of the process would do it too."""
    if lock := os.environ.pop(LOCK, None):
        os.close(int(lock))


def say(sentence: str) -> None:
    """Tell whoever waits at the terminal."""
    print(f"noxfile.py: {sentence}", file=sys.stderr, flush=True)


# The tests start our command again and again; without bytecode each start compiles everything anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

if __name__ == "__main__":
    ensure_nox()

import nox  # noqa: E402 - from here on it is there
from packaging.requirements import Requirement  # noqa: E402 - nox brings it

# ------------------------------------------------------------------ sessions

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "virtualenv"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False
nox.options.reuse_venv = "yes"


@nox.session(default=False)
def demo(session: nox.Session) -> None:
    """Storyboards to films and a report, through the simulator on this machine."""
    install(session, "-e", ".[cli,simulator]")
    session.run("apikley", "demo", *(session.posargs or ["-o", "films"]))


@nox.session
def tests(session: nox.Session) -> None:
    """The tests on the Python that runs this, in less than three minutes on two processors.

    Left out is what needs a server or long: `-- -m postgres`, and so on with browser, proof and
    slow, runs it. The other sessions of tests leave none out.
    """
    install(session, "-e", ".[all]", *group("tests"), *group("browser"))
    left_out = " and ".join(f"not {name}" for name in APART)
    session.run("pytest", "-m", left_out, *pytest_args(session))  # a later -m replaces it


@nox.session(default=False)
def long(session: nox.Session) -> None:
    """The tests at their whole volume: more seeds, steps, films and forgeries than by default."""
    install(session, "-e", ".[all]", *group("tests"))
    session.run("pytest", *pytest_args(session), env={"APIKLEY_LONG": "1"})


@nox.session(default=False)
def coverage(session: nox.Session) -> None:
    """The tests with branch coverage, which takes them twice as long."""
    install(session, "-e", ".[all]", *group("tests"))
    # Beside the environment, so that two sessions at once do not mix their figures.
    env = {"COVERAGE_FILE": str(Path(session.create_tmp(), "coverage"))}
    session.run("coverage", "erase", env=env)
    session.run("coverage", "run", "-m", "pytest", *pytest_args(session), env=env)
    session.run("coverage", "combine", "--quiet", env=env)
    session.run("coverage", "report", env=env)


@nox.session(name="tests-dev", default=False)
def tests_dev(session: nox.Session) -> None:
    """The tests once more with asyncio's and Python's debug modes, warnings being errors."""
    install(session, "-e", ".[all]", *group("tests"))
    # The environment rather than -X dev -W error: it also reaches the tests' own children.
    strict = {"PYTHONASYNCIODEBUG": "1", "PYTHONDEVMODE": "1", "PYTHONWARNINGS": "error"}
    session.run("pytest", "-o", "asyncio_debug=true", *pytest_args(session), env=strict)


@nox.session(default=False)
def uvloop(session: nox.Session) -> None:
    """The core's and the callbacks' async tests on uvloop; virtual time has a loop of its own."""
    install(session, "-e", ".[all]", *group("tests"), *group("uvloop"))
    words = ("--uvloop", "-m", "asyncio and not virtual", *CORE, *pytest_args(session))
    session.run("pytest", *words)


@nox.session(name="tests-all", venv_backend="none", default=False)
def tests_all(session: nox.Session) -> None:
    """The tests on every supported Python that this machine has."""
    notify_pythons(session, PYTHONS)


@nox.session(name="tests-others", venv_backend="none", default=False)
def tests_others(session: nox.Session) -> None:
    """The same without the Python that runs this, and without those that $TESTED names."""
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    tested = {running, *os.environ.get("TESTED", "").split()}
    notify_pythons(session, [python for python in PYTHONS if python not in tested])


for python in PYTHONS:

    @nox.session(name=f"tests-{python}", python=python, default=False)
    def tests_on(session: nox.Session) -> None:
        """The tests on this one Python."""
        install(session, "-e", ".[all]", *group("tests"))
        session.run("pytest", *pytest_args(session))


@nox.session(python=PYTHONS[0], default=False)
def lowest(session: nox.Session) -> None:
    """The tests with everything at the floors of pyproject.toml, on the oldest Python."""
    install(session, "-e", ".[all]", *group("tests"), *floors(), pinned=False)
    session.run("pytest", *pytest_args(session))


@nox.session(python=PYTHONS[-1], default=False)
def newest(session: nox.Session) -> None:
    """The tests with everything at its newest, on the newest Python; no pins hold here."""
    eager = ("--upgrade", "--upgrade-strategy", "eager")
    install(session, *eager, "-e", ".[all]", *group("tests"), pinned=False, again=True)
    session.run("pytest", *pytest_args(session))


@nox.session(python=PYTHONS[0], default=False)
def constraints(session: nox.Session) -> None:
    """Renew constraints.txt: the newest of everything that the oldest Python can have."""
    groups = nox.project.load_toml(ROOT / "pyproject.toml")["dependency-groups"]
    wanted = (NEEDS, *(need for name in groups for need in group(name)))
    eager = ("--upgrade", "--upgrade-strategy", "eager")
    install(session, *eager, "-e", ".[all]", *wanted, pinned=False, again=True)
    freeze = ("python", "-m", "pip", "freeze", "--exclude-editable", "--exclude", "setuptools")
    frozen = str(session.run(*freeze, silent=True)).splitlines()
    pins = [line for line in frozen if re.fullmatch(r"[\w.-]+==[\w.+!-]+", line)]
    if odd := sorted(set(frozen) - set(pins)):
        session.error(f"no name==version: {', '.join(odd)}")
    PINS.write_text("".join(f"{line}\n" for line in sorted(pins, key=str.lower)))
    for python in PYTHONS[1:]:
        session.log(f"is there a wheel of each for Python {python}?")
        session.run(
            *("python", "-m", "pip", "install", "--quiet", "--dry-run", "--no-deps"),
            *("--only-binary", ":all:", "--python-version", python),
            *("--target", session.create_tmp(), "-r", str(PINS)),
        )


@nox.session(default=False)
def fuzz(session: nox.Session) -> None:
    """A million answers nobody should get; `-- manifests names urls environment` for others."""
    install(session, "-e", ".[all]", *group("tests"))
    session.run("python", "tests/proof/fuzz/run.py", *session.posargs)


@nox.session(default=False)
def kill(session: nox.Session) -> None:
    """Batches killed 10 times at each point and at 200 random moments, and one of 10,000 films."""
    install(session, "-e", ".[all]", *group("tests"))
    env = {"APIKLEY_KILLS": "10", "APIKLEY_RANDOM_KILLS": "200", "APIKLEY_SCALE": "10000"}
    env |= {"APIKLEY_GENERATE_KILLS": "50", "APIKLEY_MISHAPS": "60"}
    tests = ["tests/batch/test_kill.py", "tests/batch/test_write_order.py"]
    tests += ["tests/batch/test_scale.py", "tests/cli/test_generate_kill.py"]
    session.run("pytest", *pytest_args(session), *tests, env=env)


@nox.session(default=False)
def simulate(session: nox.Session) -> None:
    """A short share of the simulation: faults, kills, power cuts, cancels, our own mistakes."""
    install(session, "-e", ".")
    for part, count in SHARES.items():
        session.run("python", PROVE, part, "--count", str(count), *session.posargs)


@nox.session(default=False)
def prove(session: nox.Session) -> None:
    """One part of the whole simulation, as `-- seeds --count 20000`; alone, it lists the parts."""
    if not session.posargs:
        for part, (count, minutes) in PARTS.items():
            words = f"{part} --count {count}"
            session.log(f"nox -s prove -- {words:<22} about {minutes} minutes on two cores")
        return
    install(session, "-e", ".")
    session.run("python", PROVE, *session.posargs)


@nox.session(default=False)
def distributed(session: nox.Session) -> None:
    """Processes that share a key by PostgreSQL, and die: five runs of each; `-- short` for one."""
    install(session, "-e", ".[all]", *group("tests"))
    if session.posargs == ["short"]:
        words = ("--films", "60", "--limit", "20", "--workers", "3", "--kills", "1", "--stops", "0")
        session.run("python", f"{DISTRIBUTED}/machines.py", *words, "--rate", "0")
        return
    for part in ("two_services", "machines"):
        words = session.posargs or ["--runs", "5"]
        session.run("python", f"{DISTRIBUTED}/{part}.py", *words)


@nox.session(default=False)
def mutants(session: nox.Session) -> None:
    """Mistakes planted into our own code, one at a time: the tests must notice each."""
    install(session, "-e", ".[all]", *group("tests"))
    session.run("python", "tests/proof/mutants/run.py", *session.posargs)


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Cost, memory, start-up, pacing and more beside others; `-- cost startup` for some parts."""
    install(session, "-e", ".[all]", *group("bench"))
    session.run("python", "tests/bench/run.py", *session.posargs)


@nox.session(default=False)
def alike(session: nox.Session) -> None:
    """The same histories on all Pythons that `tests-all` has made environments for."""
    install(session, "-e", ".")
    made = (CACHE / f"tests-{python.replace('.', '-')}" for python in PYTHONS)
    pythons = (place / "bin" / "python" for place in made)
    others = [str(python) for python in pythons if python.exists()]
    session.run("python", PROVE, "same", *(session.posargs or ["--count", "20"]), *others)


@nox.session
def lint(session: nox.Session) -> None:
    """Style and likely bugs; `-- --fix` mends what can be mended."""
    install(session, *group("lint"))
    session.run("ruff", "check", *session.posargs, ".")
    session.run("ruff", "format", *([] if "--fix" in session.posargs else ["--check"]), ".")


@nox.session
def typing(session: nox.Session) -> None:
    """Types: mypy strict on the package, pyright on what users see of it, both on the docs."""
    install(session, "-e", ".[all]", *group("typing"))
    session.run("mypy", *session.posargs, "apikley_async", "tests/typing")
    session.run("pyright", "tests/typing")
    session.run("pyright", "--verifytypes", "apikley_async", "--ignoreexternal")
    session.run("python", "tests/support/page_types.py")


@nox.session(default=False)
def docs(session: nox.Session) -> None:
    """The documentation, to .nox/docs/tmp/html; warnings are errors, doctests run."""
    install(session, "-e", ".[all]", *group("docs"))
    made = session.create_tmp()
    for builder in ("html", "doctest"):
        session.run(
            *("python", "-m", "sphinx", "-q", "-W", "--keep-going", "-j", "auto"),
            *("-b", builder, "-d", f"{made}/doctrees", "docs", f"{made}/{builder}"),
        )
    session.log(f"open {made}/html/index.html")


@nox.session(default=False)
def build(session: nox.Session) -> None:
    """Wheel and sdist, to dist/; checked for what must be inside, and installed once."""
    install(session, *group("build"))
    made = ROOT / "dist"
    shutil.rmtree(made, ignore_errors=True)
    session.run("hatchling", "build", "-d", str(made), silent=True)
    (wheel,) = made.glob("*.whl")
    (sdist,) = made.glob("*.tar.gz")
    if faults := faults_of_wheel(session, wheel):
        session.error("; ".join(faults))
    session.run("twine", "check", "--strict", str(wheel), str(sdist))
    session.run("check-wheel-contents", str(wheel))
    session.log(f"{sdist.name}: {sdist.stat().st_size / 1024:.1f} KiB")
    pins = pins_for(f"{sys.version_info.major}.{sys.version_info.minor}")
    session.run("python", "-m", "pip", "install", "-q", "--force-reinstall", *pins, str(wheel))
    session.chdir(session.create_tmp())  # away from the checkout: the wheel has to stand alone
    session.run("python", "-I", "-c", "import apikley_async as a; print(a.__version__)")


def pytest_args(session: nox.Session) -> list[str]:
    """Give pytest one worker a processor and one more, unless the caller chose otherwise.

    The one more works while others wait for processes that they have started.
    """
    if any(re.match(r"-n|--numprocesses|--pdb|--trace", word) for word in session.posargs):
        return list(session.posargs)
    return ["-n", str((os.cpu_count() or 1) + 1), "--dist", "worksteal", *session.posargs]


def notify_pythons(session: nox.Session, versions: list[str]) -> None:
    """Queue the tests for those of *versions* that run here, and name those that do not."""
    here = [python for python in versions if runs_here(python)]
    for python in versions:
        if python in here:
            session.notify(f"tests-{python}")
        else:
            session.warn(f"there is no usable Python {python} on this machine: not tested")
    if not here:
        session.skip("none of them is on this machine")


def runs_here(python: str) -> bool:
    """Say whether such a Python starts: a name on PATH may be a shim with nothing behind it."""
    command = shutil.which(f"python{python}")
    if command is None:
        return False
    ask = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        answer = subprocess.run(
            [command, "-c", ask], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.returncode == 0 and answer.stdout.strip() == python


def group(name: str) -> list[str]:
    """List a dependency group of pyproject.toml."""
    pyproject = nox.project.load_toml(ROOT / "pyproject.toml")
    return list(nox.project.dependency_groups(pyproject, name))


def floors() -> list[str]:
    """What the package, its extras and its tests need at least, as exactly that version."""
    project = nox.project.load_toml(ROOT / "pyproject.toml")["project"]
    extras = project["optional-dependencies"].values()
    needs = {*project["dependencies"], *(need for extra in extras for need in extra)}
    needs = {need for need in needs if not need.startswith(project["name"])} | {*group("tests")}
    return sorted(map(floor, needs))


def floor(need: str) -> str:
    """The oldest version that a requirement allows."""
    asked = Requirement(need)
    (oldest,) = [each.version for each in asked.specifier if each.operator == ">="]
    return f"{asked.name}=={oldest}"


def install(session: nox.Session, *wanted: str, pinned: bool = True, again: bool = False) -> None:
    """Install *wanted* into the session's environment, unless that is what it already holds.

    Versions are those of constraints.txt, unless *pinned* is false or the Python is one that the
    file is not made for. *again* asks the package index once more what there is.
    """
    place = Path(session.virtualenv.location)
    python = str(session.python or f"{sys.version_info.major}.{sys.version_info.minor}")
    pins = pins_for(python) if pinned else []
    if pinned and not pins:
        made_for = f"Python {PYTHONS[0]} to {PYTHONS[-1]}, and this is {python}"
        session.warn(f"{PINS.name} is made for {made_for}: the floors of pyproject.toml hold")
    stamp = place / "holds.txt"
    current = re.search(r'__version__ = "(.+)"', (ROOT / "apikley_async/__init__.py").read_text())
    holds = "\n".join(
        [
            str(ROOT),  # an editable install points here
            current[1] if current else "",
            *wanted,
            (ROOT / "pyproject.toml").read_text(),
            PINS.read_text() if pins else "",
        ]
    )
    if again or not stamp.exists() or stamp.read_text() != holds:
        stamp.unlink(missing_ok=True)
        if not is_whole(session):
            session.log("an interrupted start left half an environment: making it anew")
            shutil.rmtree(place)
            session.virtualenv.create()
        # The variable reaches what builds the package; it would cut a path at its blanks.
        env = {"PIP_BUILD_CONSTRAINT": PINS.name} if pins else {}
        session.install(*pins, *wanted, env=env)
        stamp.write_text(holds)
    release_lock()


def is_whole(session: nox.Session) -> bool:
    """Say whether the session's environment has a Python that finds a pip."""
    if shutil.which("python", path=session.bin) is None:
        return False
    ask = "import importlib.util as u; print(u.find_spec('pip') is not None)"
    return "True" in str(session.run_install("python", "-c", ask, silent=True, log=False))


def faults_of_wheel(session: nox.Session, wheel: Path) -> list[str]:
    """Tell the sizes of a wheel, and what is wrong with it."""
    package = ROOT / "apikley_async"
    with zipfile.ZipFile(wheel) as archive:
        sizes = {entry.filename: entry.compress_size for entry in archive.infolist()}
    films = sum(size for name, size in sizes.items() if name.endswith(".mp4"))
    rest = wheel.stat().st_size - films
    session.log(f"{wheel.name}: {rest / 1024:.1f} KiB, and {films / 1024:.1f} KiB of film")

    wanted = {
        file.relative_to(ROOT).as_posix()
        for file in package.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts and file.suffix != ".pyc"
    }
    faults = [f"{name} is missing" for name in sorted(wanted - sizes.keys())]
    if "apikley_async/py.typed" not in sizes:
        faults.append("there is no py.typed")
    if rest > MAX_WHEEL * 1024:
        faults.append(f"{rest / 1024:.1f} KiB without the film, more than {MAX_WHEEL}")
    if rest > WHEEL_GOAL * 1024:
        session.warn(f"the wheel is to come back under {WHEEL_GOAL} KiB")
    strays = sorted(
        name
        for name in sizes
        if not name.startswith("apikley_async/") and ".dist-info/" not in name
    )
    return [*faults, *(f"{name} has no place in it" for name in strays)]


if __name__ == "__main__":
    sys.argv[1:1] = ["--noxfile", str(ROOT / "noxfile.py")]
    nox.main()

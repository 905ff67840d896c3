"""The house as a whole: which room may know which, and what each may reach for.

Everything here is read from the source and nothing is imported, so an import that hides in a
function or under `TYPE_CHECKING` counts like any other.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = "apikley_async"
HOUSE = Path(__file__).resolve().parent.parent / PACKAGE

# The map, from the ground up. A room knows only rooms above its own line in this list.
LADDER = [
    # the ground: plain values
    "errors",  #      what can go wrong, sorted by what to do next
    "_clock",  #      time, to be handed in
    "_binding",  #    one event loop at a time
    "_disk",  #       locks, careful openings, names that last
    "_seal",  #       which tokens are ours
    "_storyboard",  # what a caller asks for
    "_budget",  #     how much may be spent
    "_result",  #     what the service says
    "_sqlite",  #    databases from elsewhere, opened with care
    # the edge: pure decisions
    "_lenient",  #    reading what cannot be trusted
    "_links",  #      where a record keeps its links
    "_words",  #      what the service's words say for certain
    "_wire",  #       every spelling of the service
    "_record",  #     what it says of a task
    "_policy",  #     how long to wait, whether to try again
    # the doors: what waits and talks
    "_limiter",  #    when an attempt may leave
    "_transport",  #  the only socket to the API
    "_house",  #      one event loop's worth of tasks, and their end
    "_questions",  #  what costs nothing: looks, credits, links, uploads
    "_images",  #     pictures on their way in
    "_films",  #      what a file is called, and whether it is whole
    "_parts",  #      a film in the making, on the disk
    "_hosts",  #      other people's machines, asked for bytes
    "_files",  #      films on their way to the disk
    # the film: bought, watched, made by the hundred
    "_submit",  #     the one request that pays
    "_spending",  #   what a client may spend, and has
    "_rooms",  #      what a client has in one loop
    "_job",  #        a film in the making
    "_unclaimed",  #  what nobody waits for
    "_parked",  #     what callbacks have said too early
    "_attempts",  #   which attempt became which job
    "_many",  #       many of them
    # the front
    "_client",  #     the person at the desk
    "testing",  #     a clock and a transport for users' own tests
    "__init__",  #    the front door
]
# Around it stand the outbuildings. Each stands alone, except for those named here.
LEANING = {"cli": {"batch", "simulator", "webhook"}, "pytest_plugin": {"simulator", "virtual"}}
# What subpackages may import of the core besides its public modules, by name.
FOUNDATIONS = {"_budget", "_disk", "_policy", "_seal", "_sqlite"}
OUTBUILDINGS = sorted(path.name for path in HOUSE.iterdir() if (path / "__init__.py").is_file())


# --- reading the source ---------------------------------------------------------------------------


def source_of(room: str) -> Path:
    return HOUSE / f"{room}.py"


def modules_of(outbuilding: str) -> list[Path]:
    return sorted((HOUSE / outbuilding).rglob("*.py"))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@cache
def nodes_of(path: Path) -> list[ast.AST]:
    return list(ast.walk(tree_of(path)))


@cache
def imports_of(path: Path) -> list[tuple[str, str, str]]:
    """Every import as (local name, module, name in it), wherever it stands."""
    return list(_imports_in(path))


def _imports_in(path: Path) -> Iterator[tuple[str, str, str]]:
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.asname or alias.name.partition(".")[0], alias.name, ""
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno}: imports are absolute here"
            for alias in node.names:
                yield alias.asname or alias.name, node.module or "", alias.name


@cache
def modules_imported_by(path: Path) -> set[str]:
    """Full names of modules; `from package import room` names the room."""
    found = set()
    for _, module, name in imports_of(path):
        inside = HOUSE.parent.joinpath(*module.split("."), name or "__init__")
        found.add(f"{module}.{name}" if _is_module(inside) and name else module)
    return found


def _is_module(path: Path) -> bool:
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def rooms_used_by(path: Path) -> set[str]:
    """The rooms of the core that a module imports; the package itself is `__init__`."""
    used = set()
    for module in modules_imported_by(path):
        top, _, below = module.partition(".")
        if top == PACKAGE:
            used.add(below.partition(".")[0] or "__init__")
    return used


@cache
def names_used_by(path: Path) -> list[tuple[str, int]]:
    """Every name and attribute by its full name: `aio.sleep` is `asyncio.sleep`."""
    return list(_names_in(path))


def _names_in(path: Path) -> Iterator[tuple[str, int]]:
    known = {
        local: f"{module}.{name}" if name else local if module.startswith(f"{local}.") else module
        for local, module, name in imports_of(path)
    }
    for node in nodes_of(path):
        words: list[str] = []
        part: ast.AST = node
        while isinstance(part, ast.Attribute):
            words.insert(0, part.attr)
            part = part.value
        if isinstance(part, ast.Name) and isinstance(node, ast.Attribute | ast.Name):
            yield ".".join([known.get(part.id, part.id), *words]), node.lineno


@cache
def code_of(path: Path) -> str:
    """The source without comments and docstrings, in which anything may be mentioned."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [inner for inner in node.body if not _is_remark(inner)] or [ast.Pass()]
    return ast.unparse(tree)


def _is_remark(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def offences(path: Path, forbidden: re.Pattern[str]) -> list[str]:
    return sorted(
        {
            f"{path.relative_to(HOUSE)}:{line}: {name}"
            for name, line in names_used_by(path)
            if forbidden.fullmatch(name)
        }
    )


# --- the ladder -----------------------------------------------------------------------------------


@pytest.mark.parametrize("room", LADDER)
def test_a_room_only_looks_down(room: str) -> None:
    """Every import, typing-only ones included, goes to a room below."""
    assert rooms_used_by(source_of(room)) <= set(LADDER[: LADDER.index(room)])


def test_every_room_is_on_the_map() -> None:
    modules = {path.stem for path in HOUSE.glob("*.py")}

    assert modules == {*LADDER, "__main__"}
    assert rooms_used_by(source_of("__main__")) == {"cli"}


def test_the_ladder_would_notice() -> None:
    """The reading itself is right: rooms are found in each form of import."""
    assert "_wire" in rooms_used_by(source_of("_questions"))  # from apikley_async import _wire as
    assert "errors" in rooms_used_by(source_of("_wire"))  # from apikley_async.errors import ...
    assert "__init__" in rooms_used_by(HOUSE / "simulator" / "_time.py")  # from apikley_async ...
    assert "_client" in rooms_used_by(source_of("__init__"))


@pytest.mark.parametrize("room", LADDER)
def test_the_core_lives_on_four_libraries(room: str) -> None:
    """Which are aiohttp with its yarl, attrs, cattrs, backoff; and the standard library."""
    allowed = {PACKAGE, "aiohttp", "yarl", "attrs", "cattrs", "backoff"}

    tops = {module.partition(".")[0] for module in modules_imported_by(source_of(room))}

    assert tops - set(sys.stdlib_module_names) <= allowed


# Each library has its rooms; where it is not needed it is not known.
HOMES = {
    "aiohttp": {"_transport", "_hosts", "_client"},
    "yarl": {"_transport", "_hosts"},
    "cattrs": {"_storyboard", "_record"},
    "backoff": {"_policy"},
    "sqlite3": {"_sqlite"},
    "pickle": set(),
}


@pytest.mark.parametrize("library", HOMES)
def test_a_library_stays_in_its_rooms(library: str) -> None:
    """`backoff` above all: it is archived, so it can be replaced in one file."""
    users = {
        room
        for room in LADDER
        if library in {name.partition(".")[0] for name in modules_imported_by(source_of(room))}
    }

    assert users <= HOMES[library]
    assert users or not HOMES[library]


@pytest.mark.parametrize("outbuilding", OUTBUILDINGS)
def test_an_outbuilding_stands_on_what_is_promised(outbuilding: str) -> None:
    """It imports the package, `.errors`, `.testing` and foundations, no other private module."""
    used = {
        f"{path.relative_to(HOUSE)} uses {room}"
        for path in modules_of(outbuilding)
        for room in rooms_used_by(path)
        if room.startswith("_") and room not in {"__init__", *FOUNDATIONS}
    }

    assert used == set()


@pytest.mark.parametrize("outbuilding", OUTBUILDINGS)
def test_outbuildings_do_not_lean_on_each_other(outbuilding: str) -> None:
    """Only the command line may know the others, and the core knows none of them."""
    neighbours = set(OUTBUILDINGS) - {outbuilding} - LEANING.get(outbuilding, set())
    used = {room for path in modules_of(outbuilding) for room in rooms_used_by(path)}

    assert not used & neighbours
    assert not any(outbuilding in rooms_used_by(source_of(room)) for room in LADDER)


def test_the_front_door_is_only_a_door() -> None:
    """Explicit imports, an alphabetical `__all__` of exactly what they bring, and the version."""
    door = tree_of(source_of("__init__"))
    imported = [local for local, _, _ in imports_of(source_of("__init__"))]
    assigned = {
        target.id: ast.literal_eval(node.value)
        for node in door.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }

    assert {type(node) for node in door.body[1:]} == {ast.ImportFrom, ast.Assign}
    assert set(assigned) == {"__all__", "__version__"}
    assert assigned["__all__"] == sorted(assigned["__all__"]) == sorted(imported)
    assert not any(name.startswith("_") for name in imported)


# --- money ----------------------------------------------------------------------------------------


def users_of(module: str, name: str) -> set[str]:
    """The rooms and outbuildings that name one function of a room, however they import it."""
    full = f"{PACKAGE}.{module}.{name}"
    paths = [path for path in HOUSE.rglob("*.py") if path != source_of(module)]
    return {
        path.relative_to(HOUSE).as_posix()
        for path in paths
        if any(used == full for used, _ in names_used_by(path))
        or (f"{PACKAGE}.{module}", name) in {(where, what) for _, where, what in imports_of(path)}
    }


@pytest.mark.parametrize("name", ["create_task", "open_submission"])
def test_one_room_pays(name: str) -> None:
    """The request that costs money is asked for and judged in `_submit` and nowhere else."""
    assert users_of("_wire", name) == {"_submit.py"}


def test_the_paying_request_is_built_once() -> None:
    """One call, outside of any loop of its own: the loop around it decides on what was sent."""
    calls = [name for name, _ in names_used_by(source_of("_submit"))].count(
        f"{PACKAGE}._wire.create_task"
    )
    spelled = [path.name for path in HOUSE.glob("*.py") if "createTask" in code_of(path)]

    assert calls == 1
    assert spelled == ["_wire.py"]


def test_the_paying_room_knows_no_retry_library() -> None:
    """What repeats a request on its own has no business beside the one that costs money."""
    imported = modules_imported_by(source_of("_submit"))

    assert not any(re.search("backoff|retry|tenacity|stamina", name) for name in imported)
    assert not any(
        node.decorator_list
        for node in nodes_of(source_of("_submit"))
        if isinstance(node, ast.AsyncFunctionDef)
    )


# --- the service's spelling -----------------------------------------------------------------------

OF_A_MODEL = ["Scene", "n_frames", "image_urls"]
SPELLINGS = [
    "callBackUrl",
    "taskId",
    "createTask",
    "recordInfo",
    "resultJson",
    "resultUrls",
    "failCode",
    "failMsg",
    "creditsConsumed",
    "createTime",
    "updateTime",
    "completeTime",
    "retryAfter",
    "uploadPath",
    "fileName",
    "fileUrl",
    "downloadUrl",
]
EVERYWHERE = [path for path in HOUSE.rglob("*.py") if "simulator" not in path.parts]


@pytest.mark.parametrize(
    ("room", "word"),
    [*(("_wire", word) for word in SPELLINGS), *(("_storyboard", word) for word in OF_A_MODEL)],
)
def test_the_services_words_are_spelled_in_one_room(room: str, word: str) -> None:
    """The service's in `_wire` and what reads records, a model's in its class (P6)."""
    spelled = re.compile(rf"\b{word}\b")

    found = {path for path in EVERYWHERE if spelled.search(code_of(path))}
    assert found
    assert found <= (
        {source_of(name) for name in ("_wire", "_record", "_links")}
        if room == "_wire"
        else {source_of(room)}
    )


def test_every_spelling_of_the_wire_is_on_the_list() -> None:
    """Words in the service's camel case that `_wire` learns later belong on it too."""
    words = {
        node.value
        for node in nodes_of(source_of("_wire"))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }

    camels = {word for word in words if re.fullmatch(r"[a-z]+([A-Z][a-z]+)+", word)}

    assert camels <= set(SPELLINGS)


# --- time, chance and waiting ---------------------------------------------------------------------

# What is handed in is not reached for. The rooms named here are those that hand it in.
REACHING = {
    "asyncio.wait_for": (set[str](), "it swallows a cancellation on 3.11: asyncio.timeout"),
    "asyncio.Condition": (set[str](), "it loses wake-ups on 3.11 and 3.12"),
    r"asyncio\.(shield|ensure_future)": ({"testing"}, "a task has an owner"),
    r"time\.\w+": ({"_clock"}, "time is the clock's"),
    r"datetime\.(datetime|date)\.(now|utcnow|today|fromtimestamp)": ({"_lenient"}, "the same"),
    r"random\.(?!Random$|SystemRandom$)\w+": (set[str](), "chance is handed in"),
    r"uuid(\.\w+)*|secrets(\.\w+)*|os\.urandom": (set[str](), "chance is handed in"),
    r"(threading|multiprocessing|concurrent)(\.\w+)*": (set[str](), "one loop, one thread"),
    r"print|breakpoint|eval|exec": (set[str](), "a library is silent"),
    r"pickle(\.\w+)*|marshal(\.\w+)*|subprocess(\.\w+)*": (set[str](), "not in this house"),
}


@pytest.mark.parametrize("pattern", REACHING)
def test_what_is_handed_in_is_not_reached_for(pattern: str) -> None:
    """A simulation of everything in virtual time stands on this."""
    allowed, reason = REACHING[pattern]

    found = [
        offence
        for room in LADDER
        if room not in allowed
        for offence in offences(source_of(room), re.compile(pattern))
    ]

    assert found == [], reason


@pytest.mark.parametrize("room", [room for room in LADDER if room not in {"_clock", "testing"}])
def test_waiting_is_the_clocks(room: str) -> None:
    """`asyncio.sleep(0)` gives way to others and waits for nothing; any other sleep is a wait."""
    sleeps = [
        ast.unparse(node)
        for node in nodes_of(source_of(room))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("asyncio.sleep")
    ]
    named = [name for name, _ in names_used_by(source_of(room))].count("asyncio.sleep")

    assert sleeps == ["asyncio.sleep(0)"] * named


@pytest.mark.parametrize("outbuilding", OUTBUILDINGS)
def test_outbuildings_wait_by_the_same_rules(outbuilding: str) -> None:
    """What breaks a cancellation breaks it there as well."""
    forbidden = re.compile(r"asyncio\.(wait_for|Condition)")

    assert [each for path in modules_of(outbuilding) for each in offences(path, forbidden)] == []


def test_the_simulated_world_is_given_its_chance_and_time() -> None:
    """One seed gives one world; what happens in it happens on its clock."""
    forbidden = re.compile(
        r"random\.(?!Random$)\w+|uuid\.\w+|secrets\.\w+|os\.urandom|time\.(time|monotonic)"
        r"|datetime\.(datetime|date)\.(now|utcnow|today)"
    )

    assert [each for path in modules_of("simulator") for each in offences(path, forbidden)] == []


def test_nothing_is_made_at_import() -> None:
    """No client, pool, lock or source of chance that every user and every test would share."""
    made = []
    for room in LADDER:
        for node in tree_of(source_of(room)).body:
            value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
            if isinstance(value, ast.Call) and re.match(
                r"(asyncio|aiohttp|random|threading)\.", ast.unparse(value.func)
            ):
                made.append(f"{room}: {ast.unparse(value)}")

    assert made == []


# --- the shape of a room --------------------------------------------------------------------------


@pytest.mark.parametrize("room", LADDER)
def test_a_room_says_what_it_holds(room: str) -> None:
    """It opens with a sentence, and keeps within what can be read in one go."""
    lines = source_of(room).read_text(encoding="utf-8").splitlines()
    told = ast.get_docstring(tree_of(source_of(room))) or ""

    assert "." in told.partition("\n\n")[0]
    assert len(lines) <= 600


@pytest.mark.parametrize("room", LADDER)
def test_a_room_hides_no_import(room: str) -> None:
    """None in a function, none under `TYPE_CHECKING`: a circle is the defect, not the import."""
    top = [node for node in tree_of(source_of(room)).body if _imports(node)]
    all_of_them = [node for node in nodes_of(source_of(room)) if _imports(node)]

    assert len(top) == len(all_of_them)


def _imports(node: ast.AST) -> bool:
    return isinstance(node, ast.Import | ast.ImportFrom)


@pytest.mark.parametrize("room", LADDER)
def test_no_failure_is_swallowed(room: str) -> None:
    """`except Exception: pass` and a bare `except` hide what went wrong, a cancellation too."""
    swallowed = [
        f"{room}:{node.lineno}"
        for node in nodes_of(source_of(room))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or ast.unparse(node.type) in {"Exception", "BaseException"})
        and all(isinstance(inner, ast.Pass | ast.Continue) for inner in node.body)
    ]

    assert swallowed == []

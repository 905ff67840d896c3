"""The architecture: which module may import which, and what each may reach for.

Everything here is read from the source and nothing is imported, so an import that hides in a
function or under `TYPE_CHECKING` counts like any other.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest
from syntax_trees import nodes_of, tree_of

PACKAGE = "apikley_async"
ROOT = Path(__file__).resolve().parents[2] / PACKAGE

# The modules of the core, from the foundations up. A module imports only from modules above it in
# this list.
ORDER = [
    # foundations: small, pure or nearly so
    "_error_base",
    "errors",
    "_clock",
    "_text",
    "_urls",
    "_tasks",
    "_secret",
    "_polling",
    "_durations",
    "_disk",
    "_images",
    "_tokens",
    "_validation",
    "_storyboard",
    "_budget",
    "_result",
    "events",
    "_outages",
    "_sqlite",
    "_postgres",
    # the service's JSON, read and written; pure
    "_wire.lenient",
    "_wire.refusals",
    "_wire.requests",
    "_wire.envelope",
    "_wire.task_ids",
    "_wire.files",
    "_wire.tasks",
    # decisions: how long to wait, whether to try again
    "_retry",
    "_gate",
    # what waits and talks
    "_rate",
    "_limiter",
    "_network",
    "_http",
    "_api",
    "_uploads",
    "_download.media",
    "_download.names",
    "_download.ranges",
    "_download.partfile",
    "_download.links",
    "_download.fetch",
    "_download.transfer",
    "_download.saver",
    "_download.stream",
    # jobs: submitted, polled, many at once
    "_environment",
    "_recorder",
    "_job",
    "_jobs",
    "_early_callbacks",
    "_spending",
    "_callbacks",
    "_submission",
    "_session",
    "_attempts",
    "_outcomes",
    "_generate",
    # what users import
    "_client",
    "testing",
    "virtual",
    "__init__",
]
CORE_FOLDERS = {"_wire", "_download"}
# Subpackages stand alone, except for those named here.
MAY_USE = {
    "cli": {"batch", "distributed", "simulator", "webhook"},
    "distributed": {"batch", "webhook"},
    "pytest_plugin": {"simulator"},
}
# What subpackages may import of the core besides its public modules, by name.
FOUNDATIONS = {
    *("_budget", "_clock", "_disk", "_images", "_postgres", "_retry", "_sqlite", "_tasks", "_text"),
    *("_tokens", "_urls"),
    *("_gate", "_rate"),  # pure: one state of a limiter, in one process or in a database
}
SUBPACKAGES = sorted(
    path.name
    for path in ROOT.iterdir()
    if (path / "__init__.py").is_file() and not path.name.startswith("_")
)
# The modules of each subpackage, from the bottom up. A module imports only from modules before it.
SUBPACKAGE_ORDER = {
    "batch": [
        "states",
        "keys",
        "rehearsal",
        # the store: its protocol, the journal's tables, and what holds them
        "store.values",
        "store.protocol",
        "store.database",
        "store.schema",
        "store.journal_errors",
        "store.rows",
        "store.rescue",
        "store.witness",
        "store.local_disk",
        "store.locks",
        "store.open_journal",
        "store.journal_file",
        "store.sqlite_journal",
        "store.postgres_schema",
        "store.postgres_journal",
        "store.spending",
        "store.items",
        "store.claims",
        "store.attempts",
        "store.adoption",
        "store.planning",
        "store.account",
        "store.records",
        "store.opening",
        "store.postgres_opening",
        "store.journal_kinds",
        "store.journal",
        # manifests: one module for each format, then what they share
        "manifest.work_fields",
        "manifest.image_files",
        "manifest.payload",
        "manifest.film_record",
        "manifest.fields",
        "manifest.parts",
        "manifest.text",
        "manifest.document",
        "manifest.json_format",
        "manifest.toml_format",
        "manifest.yaml_format",
        "manifest.csv_header",
        "manifest.csv_format",
        "manifest.reader",
        "manifest.film_files",
        # one run
        "destination",
        "more_work",
        "run_options",
        "budget",
        "run_claims",
        "recorder",
        "running_slots",
        "saved_files",
        "film_names",
        "saving",
        "endings",
        "stored_durations",
        "stored_pace",
        "stored_polls",
        "stored_runs",
        "run",
        # the batch, by capability
        "open_batch",
        "additions",
        "task_matching",
        "decisions",
        "uncertain",
        "reports",
        "batch",
        # the report as a page and as data
        "report.model",
        "report.posters",
        "report.rows",
        "report.history",
        "report.texts",
        "report.advice",
        "report.build",
        "report.charts",
        "report.page",
        "report.exports",
        "__init__",
    ],
    "cli": [
        "output.terminal_text",
        "output.sentences",
        "output.tally",
        "exit_codes",
        "output.reporter",
        "output.progress_view",
        "output.shell_words",
        "output.uncertain",
        "next_run",
        "events",
        "help_texts",
        "help_format",
        "signals",
        "option_types",
        "key_files",
        "profile",
        "options",
        "simulated_service",
        "simulator_server",
        "client_factory",
        "callback_server",
        "runner",
        "journal_location",
        "output_folder",
        "run_summary",
        "batch_status",
        "consent",
        "closing_report",
        "report_files",
        "film_run",
        "contact_sheet",
        "launch",
        "journal_actions",
        "report_command",
        "task_follower",
        "free_call",
        "doctor",
        "demo_run",
        "commands.generate",
        "commands.batch",
        "worker_run",
        "commands.tasks",
        "commands.worker",
        "commands.account",
        "commands.doctor",
        "commands.check",
        "commands.init",
        "commands.servers",
        "commands.database",
        "commands.demo",
        "app",
        "__init__",
    ],
    "distributed": [
        "inbox",
        "hints",
        "turns",
        "shared_state",
        "shared_store",
        "exchange_thread",
        "shared_limiter",
        "database",
        "worker",
        "__init__",
    ],
    "webhook": [
        "limits",
        "verify",
        "handler",
        "aiohttp_app",
        "asgi_app",
        "server",
        "endpoint",
        "inbox_thread",
        "inbox",
        "dispatch",
        "callback",
        "receiver",
        "__init__",
    ],
    "simulator": [
        "outbound",
        # the service: pure
        "service.durations",
        "service.rate_windows",
        "service.service_clock",
        "service.render_request",
        "service.request_rules",
        "service.lifecycle",
        "service.record_form",
        "service.terms",
        "service.ledger",
        "service.file_store",
        "service.responses",
        "service.service",
        # what can go wrong
        "faults.mutations",
        "faults.catalogue",
        "faults.schedule",
        # what waits and talks
        "callbacks.signed_request",
        "callbacks.sender",
        "video.still_image",
        "video.fonts",
        "video.frames",
        "video.encode",
        "video.renderers",
        "video.render_queue",
        "http.host_check",
        "http.response_sender",
        "http.request_pipeline",
        "http.upload_forms",
        "http.file_endpoints",
        "http.control_endpoints",
        "http.api_endpoints",
        "applications",
        "loop_thread",
        "server",
        "__init__",
    ],
    "pytest_plugin": [
        "marker_options",
        "running_service",
        "loop_scopes",
        "fixtures",
        "hooks",
        "__init__",
    ],
}


# --- reading the source ---------------------------------------------------------------------------


def source_of(module: str) -> Path:
    return ROOT.joinpath(*module.split(".")).with_suffix(".py")


def modules_of(subpackage: str) -> list[Path]:
    return sorted((ROOT / subpackage).rglob("*.py"))


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
    """Full names of modules; `from package import module` names the module."""
    found = set()
    for _, module, name in imports_of(path):
        inside = ROOT.parent.joinpath(*module.split("."), name or "__init__")
        found.add(f"{module}.{name}" if _is_module(inside) and name else module)
    return found


def _is_module(path: Path) -> bool:
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def core_modules_used_by(path: Path) -> set[str]:
    """The modules of the core that a module imports; the package itself is `__init__`.

    Of a subpackage, only its name.
    """
    used = set()
    for module in modules_imported_by(path):
        top, _, below = module.partition(".")
        if top == PACKAGE:
            child, _, _ = below.partition(".")
            used.add((below if child in CORE_FOLDERS else child) or "__init__")
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


def spells(path: Path, word: str) -> bool:
    """Whether *word* stands in the code of a module, which is taken apart only if it may."""
    whole = re.compile(rf"\b{word}\b")
    return bool(whole.search(path.read_text(encoding="utf-8")) and whole.search(code_of(path)))


def _is_remark(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def offences(path: Path, forbidden: re.Pattern[str]) -> list[str]:
    return sorted(
        {
            f"{path.relative_to(ROOT)}:{line}: {name}"
            for name, line in names_used_by(path)
            if forbidden.fullmatch(name)
        }
    )


# --- the order of imports -------------------------------------------------------------------------


def test_a_module_imports_only_what_stands_above_it() -> None:
    """Typing-only imports included."""
    wrong = {
        f"{module} imports {used}"
        for module in ORDER
        for used in core_modules_used_by(source_of(module)) - set(ORDER[: ORDER.index(module)])
    }

    assert wrong == set()


def test_every_module_is_in_the_order() -> None:
    paths = [*ROOT.glob("*.py"), *ROOT.glob("_*/*.py")]
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths}

    assert modules == {*ORDER, "__main__", *(f"{folder}.__init__" for folder in CORE_FOLDERS)}
    assert core_modules_used_by(source_of("__main__")) == {"cli"}
    assert not any(modules_imported_by(source_of(f"{folder}.__init__")) for folder in CORE_FOLDERS)


def test_each_form_of_import_is_found() -> None:
    assert "_wire.requests" in core_modules_used_by(source_of("_api"))  # from package import module
    assert "errors" in core_modules_used_by(source_of("_wire.envelope"))  # from module import name
    assert "__init__" in core_modules_used_by(ROOT / "simulator/service/service_clock.py")
    assert "_client" in core_modules_used_by(source_of("__init__"))


def test_the_core_lives_on_four_libraries() -> None:
    """Which are aiohttp with its yarl, attrs, cattrs, backoff; and the standard library."""
    allowed = {PACKAGE, "aiohttp", "yarl", "attrs", "cattrs", "backoff", *sys.stdlib_module_names}

    others = {
        f"{module} imports {used}"
        for module in ORDER
        for used in modules_imported_by(source_of(module))
        if used.partition(".")[0] not in allowed
    }

    assert others == set()


# The modules that may use a library; the others do not know it.
USERS = {
    "aiohttp": {"_environment", "_network", "_http", "_download.fetch"},
    "yarl": {"_http", "_urls"},
    "cattrs": {"_storyboard", "_wire.tasks"},
    "backoff": {"_polling"},
    "sqlite3": {"_sqlite"},
    "pickle": set(),
}


@pytest.mark.parametrize("library", USERS)
def test_a_library_is_used_where_it_is_said(library: str) -> None:
    """`backoff` above all: it is archived, so it can be replaced in one file."""
    users = {
        module
        for module in ORDER
        if library in {name.partition(".")[0] for name in modules_imported_by(source_of(module))}
    }

    assert users <= USERS[library]
    assert users or not USERS[library]


@pytest.mark.parametrize("subpackage", SUBPACKAGES)
def test_a_subpackage_stands_on_what_is_promised(subpackage: str) -> None:
    """It imports the package, `.errors`, `.testing` and foundations, no other private module."""
    used = {
        f"{path.relative_to(ROOT)} imports {module}"
        for path in modules_of(subpackage)
        for module in core_modules_used_by(path)
        if module.startswith("_") and module not in {"__init__", *FOUNDATIONS}
    }

    assert used == set()


@pytest.mark.parametrize("subpackage", SUBPACKAGES)
def test_subpackages_do_not_use_each_other(subpackage: str) -> None:
    """Only the command line may know the others, and the core knows none of them."""
    neighbours = set(SUBPACKAGES) - {subpackage} - MAY_USE.get(subpackage, set())
    used = {module for path in modules_of(subpackage) for module in core_modules_used_by(path)}

    assert not used & neighbours
    assert not any(subpackage in core_modules_used_by(source_of(module)) for module in ORDER)


def test_imports_in_a_subpackage_only_go_down() -> None:
    """Typing-only imports and imports in functions included; every module is in the order."""
    failures = []
    for subpackage, order in SUBPACKAGE_ORDER.items():
        paths = {module_in(subpackage, path): path for path in modules_of(subpackage)}
        inits = {module for module in paths if module.endswith(".__init__")}
        failures += [
            f"{subpackage}: not in the order: {name}" for name in {*paths} - inits - {*order}
        ]
        failures += [f"{subpackage}: no such module: {name}" for name in {*order} - {*paths}]
        for module, path in paths.items():
            below = set() if module in inits else {*order[: order.index(module)]}
            failures += [
                f"{subpackage}: {module} imports {imported}"
                for imported in sorted(imported_inside(subpackage, path) - below)
            ]

    assert failures == []


def test_folders_in_a_subpackage_have_no_circle() -> None:
    """Where modules of one folder import from another, none of that one imports from it."""
    circles = []
    for subpackage in SUBPACKAGE_ORDER:
        arrows = {
            (folder_of(module_in(subpackage, path)), folder_of(imported))
            for path in modules_of(subpackage)
            for imported in imported_inside(subpackage, path)
        }
        circles += [
            f"{subpackage}: {one} and {other}"
            for one, other in sorted(arrows)
            if one < other and (other, one) in arrows and "" not in (one, other)
        ]

    assert circles == []


def module_in(subpackage: str, path: Path) -> str:
    """The dotted name of a module within its subpackage."""
    return ".".join(path.relative_to(ROOT / subpackage).with_suffix("").parts)


def imported_inside(subpackage: str, path: Path) -> set[str]:
    """The modules of its own subpackage that a module imports."""
    prefix = f"{PACKAGE}.{subpackage}"
    found = {name for name in modules_imported_by(path) if f"{name}.".startswith(f"{prefix}.")}
    return {name.removeprefix(prefix).removeprefix(".") or "__init__" for name in found}


def folder_of(module: str) -> str:
    """The folder of a module within its subpackage; empty for the subpackage itself."""
    return module.rpartition(".")[0]


def test_init_holds_one_list_three_times_and_nothing_else() -> None:
    """What type checkers read, `__all__` and the table of late imports are the same names."""
    tree = tree_of(source_of("__init__"))
    typed, lazy = (node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in typed.body if isinstance(node, ast.ImportFrom)]
    read = {
        str(node.module): " ".join(alias.asname or alias.name for alias in node.names)
        for node in imports
    }
    assigned = {
        target.id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name) and target.id != "_MODULES"
    }
    names = " ".join(read.values()).split()

    assert [ast.unparse(node.test) for node in (typed, lazy)] == [
        "TYPE_CHECKING",
        "not TYPE_CHECKING",
    ]
    assert imports == typed.body
    assert [node.name for node in lazy.body if isinstance(node, ast.FunctionDef)] == [
        "__getattr__",
        "__dir__",
    ]
    assert {type(node) for node in tree.body[1:]} == {ast.ImportFrom, ast.If, ast.Assign}
    assert set(assigned) == {"__all__", "__version__", "_NAMES"}
    assert {f"{PACKAGE}.{name}": found for name, found in assigned["_NAMES"].items()} == read
    assert assigned["__all__"] == sorted(assigned["__all__"]) == sorted(names)
    assert not any(name.startswith("_") for name in names)


# --- money ----------------------------------------------------------------------------------------


def users_of(module: str, name: str) -> set[str]:
    """The modules that name one function of another, however they import it."""
    full = f"{PACKAGE}.{module}.{name}"
    paths = [path for path in ROOT.rglob("*.py") if path != source_of(module)]
    return {
        path.relative_to(ROOT).as_posix()
        for path in paths
        if any(used == full for used, _ in names_used_by(path))
        or (f"{PACKAGE}.{module}", name) in {(where, what) for _, where, what in imports_of(path)}
    }


def test_one_module_pays() -> None:
    """The request that costs money is built and its answer read in `_submission`, nowhere else."""
    assert users_of("_wire.requests", "create_task") == {"_submission.py"}
    assert users_of("_wire.task_ids", "decode_submission") == {"_submission.py"}


def test_the_paying_request_is_built_once() -> None:
    """One call, outside of any loop of its own: the loop around it decides on what was sent."""
    calls = [name for name, _ in names_used_by(source_of("_submission"))].count(
        f"{PACKAGE}._wire.requests.create_task"
    )
    spelled = [path.name for path in EVERYWHERE if spells(path, "createTask")]

    assert calls == 1
    assert spelled == ["requests.py"]


def test_the_paying_module_knows_no_retry_library() -> None:
    """What repeats a request on its own has no business beside the one that costs money."""
    imported = modules_imported_by(source_of("_submission"))

    assert not any(
        re.search("backoff|retrying|tenacity|stamina|aiohttp_retry", name) for name in imported
    )
    assert not any(
        node.decorator_list
        for node in nodes_of(source_of("_submission"))
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
    "paramJson",
    "resultUrl",
    "videoUrl",
]
EVERYWHERE = [path for path in ROOT.rglob("*.py") if "simulator" not in path.parts]


WIRE = sorted((ROOT / "_wire").glob("*.py"))


def test_the_services_words_are_spelled_in_one_place() -> None:
    """The service's in `_wire`, a model's in its class (P6)."""
    places = dict.fromkeys(SPELLINGS, WIRE) | {
        word: [source_of("_storyboard")] for word in OF_A_MODEL
    }
    wrong = []
    for word, allowed in places.items():
        found = {path for path in EVERYWHERE if spells(path, word)}
        if not found or not found <= set(allowed):
            wrong.append(f"{word}: {sorted(path.name for path in found)}")

    assert wrong == []


def test_every_spelling_of_the_wire_is_on_the_list() -> None:
    """Words in the service's camel case that `_wire` learns later belong on it too."""
    words = {
        node.value
        for path in WIRE
        for node in nodes_of(path)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }

    camels = {word for word in words if re.fullmatch(r"[a-z]+([A-Z][a-z]+)+", word)}

    assert camels <= set(SPELLINGS)


# --- time, chance and waiting ---------------------------------------------------------------------

# What is handed in is not reached for. The modules named here hand it in.
REACHING = {
    "asyncio.wait_for": (set[str](), "it swallows a cancellation on 3.11: asyncio.timeout"),
    "asyncio.Condition": (set[str](), "it loses wake-ups on 3.11 and 3.12"),
    r"asyncio\.(shield|ensure_future)": ({"testing"}, "a task has an owner"),
    r"time\.\w+": ({"_clock", "virtual"}, "time is the clock's"),
    r"datetime\.(datetime|date)\.(now|utcnow|today|fromtimestamp)": ({"_wire.lenient"}, "the same"),
    r"random\.(?!Random$|SystemRandom$)\w+": (set[str](), "chance is handed in"),
    r"uuid(\.\w+)*|secrets(\.\w+)*|os\.urandom": (set[str](), "chance is handed in"),
    r"(threading|multiprocessing|concurrent)(\.\w+)*": ({"virtual"}, "one loop, one thread"),
    r"print|breakpoint|eval|exec": (set[str](), "a library is silent"),
    r"pickle(\.\w+)*|marshal(\.\w+)*|subprocess(\.\w+)*": (set[str](), "not in this package"),
}


@pytest.mark.parametrize("pattern", REACHING)
def test_what_is_handed_in_is_not_reached_for(pattern: str) -> None:
    """A simulation of everything in virtual time stands on this."""
    allowed, reason = REACHING[pattern]

    found = [
        offence
        for module in ORDER
        if module not in allowed
        for offence in offences(source_of(module), re.compile(pattern))
    ]

    assert found == [], reason


def test_waiting_is_the_clocks() -> None:
    """`asyncio.sleep(0)` gives way to others and waits for nothing; any other sleep is a wait."""
    waits = []
    for module in set(ORDER) - {"_clock", "testing"}:
        sleeps = [
            ast.unparse(node)
            for node in nodes_of(source_of(module))
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("asyncio.sleep")
        ]
        named = [name for name, _ in names_used_by(source_of(module))].count("asyncio.sleep")
        if sleeps != ["asyncio.sleep(0)"] * named:
            waits.append(module)

    assert waits == []


@pytest.mark.parametrize("subpackage", SUBPACKAGES)
def test_subpackages_wait_by_the_same_rules(subpackage: str) -> None:
    """What breaks a cancellation breaks it there as well."""
    forbidden = re.compile(r"asyncio\.(wait_for|Condition)")

    assert [each for path in modules_of(subpackage) for each in offences(path, forbidden)] == []


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
    for module in ORDER:
        for node in tree_of(source_of(module)).body:
            value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
            if isinstance(value, ast.Call) and re.match(
                r"(asyncio|aiohttp|random|threading)\.", ast.unparse(value.func)
            ):
                made.append(f"{module}: {ast.unparse(value)}")

    assert made == []


# --- the shape of a module ------------------------------------------------------------------------


def test_a_module_says_what_it_holds() -> None:
    """It opens with a sentence, and keeps within what can be read in one go."""
    mute = [
        module
        for module in ORDER
        if "." not in (ast.get_docstring(tree_of(source_of(module))) or "").partition("\n\n")[0]
    ]
    lengths = {
        module: len(source_of(module).read_text(encoding="utf-8").splitlines()) for module in ORDER
    }

    assert mute == []
    assert {module: length for module, length in lengths.items() if length > 600} == {}


def test_a_module_hides_no_import() -> None:
    """None in a function, none under `TYPE_CHECKING`: a circle is the defect, not the import.

    Only `__init__` names everything and imports it late.
    """
    hidden = [
        f"{module}:{node.lineno}"
        for module in ORDER
        if module != "__init__"
        for node in set(_imports(nodes_of(source_of(module))))
        - set(_imports(_top_level(tree_of(source_of(module)))))
    ]

    assert hidden == []


def _top_level(tree: ast.Module) -> Iterator[ast.stmt]:
    """The statements of a module, also those for some platforms only."""
    for node in tree.body:
        yield node
        if isinstance(node, ast.If) and ast.unparse(node.test).startswith("sys.platform"):
            yield from node.body


def _imports(nodes: Iterable[ast.AST]) -> Iterator[ast.Import | ast.ImportFrom]:
    return (node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom))


def test_no_failure_is_swallowed() -> None:
    """`except Exception: pass` and a bare `except` hide what went wrong, a cancellation too."""
    swallowed = [
        f"{module}:{node.lineno}"
        for module in ORDER
        for node in nodes_of(source_of(module))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or ast.unparse(node.type) in {"Exception", "BaseException"})
        and all(isinstance(inner, ast.Pass | ast.Continue) for inner in node.body)
    ]

    assert swallowed == []

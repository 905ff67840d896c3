"""With `--json` every command ends with an event that says why, usage errors included."""

from __future__ import annotations

import json

import pytest
from cli.conftest import Run, write_films, write_manifest

from apikley_async.simulator import Fault, Simulator

pytestmark = pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning")


def test_every_end_has_its_reason(service: Simulator, run: Run) -> None:
    """A program needs no text for people, and no table of numbers."""
    write_films("tea")
    lines = {
        "generate --json": (2, "Missing argument"),
        "nonsense --json": (2, "No such command"),
        "generate tea.json --json --yes --price nan": (2, "'--price'"),
        "batch status missing.db --json": (2, "no such journal"),
        "batch report missing.db --json": (2, "no such journal"),
        "batch retry tea.json --json": (2, "tea.json was never run, or its journal is elsewhere"),
        "generate tea.json --json": (2, "nobody to ask"),
        "credits --json": (0, None),
        "generate tea.json --json --yes": (0, None),
        "check tea.json --json": (0, None),
        "batch verify films/apikley.db --json": (0, None),
    }

    wrong = {}
    for line, (code, message) in lines.items():
        result = run(*line.split())
        *events, end = result.events
        errors = [event["message"] for event in events if event["event"] == "error"]
        told = not errors if message is None else len(errors) == 1 and message in errors[0]
        if (result.code, end["event"], end["exit_code"], told) != (code, "end", code, True):
            wrong[line] = result.out
    assert wrong == {}


def test_what_was_not_asked_for_as_json_prints_none(service: Simulator, run: Run) -> None:
    """A file may be called `--json`."""
    assert run("generate").out == ""
    assert run("generate", "--yes", "--", "--json").out == ""


def test_a_run_that_stops_says_why(service: Simulator, run: Run) -> None:
    """Without credits: the cause is in the closing event, too."""
    path = write_manifest("tea", "sea")
    service.script("create", [Fault.OK, Fault.code(402)])

    result = run("batch", "run", path, "--yes", "--json", "--max-running", "1")

    assert "credits" in result.event("batch")["stopped"].lower()
    assert result.event("end")["reason"] == "stopped early; the same command resumes"
    assert json.loads(result.out.splitlines()[-1])["event"] == "end"

"""`apikley` itself: help, and options that do not exist."""

from __future__ import annotations

import pytest
from cli.conftest import Run

from apikley_async.cli.app import apikley

pytestmark = pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning")


def test_a_key_on_the_command_line_is_refused(run: Run) -> None:
    """Other users could list it: there is no such option, and it is not echoed. (S6)"""
    for words in (["--api-key=canary-0000", "credits"], ["credits", "--api-key", "canary-0000"]):
        assert run(*words).code == 2


def test_help_lists_commands_and_exit_codes(run: Run) -> None:
    """It needs no key."""
    result = run("--help")

    assert result.code == 0
    for command in ("generate", "wait", "status", "download", "upload", "credits", "demo"):
        assert f"\n  {command} " in result.out
    assert "130, 143" in result.out


def test_every_command_has_readable_help(run: Run) -> None:
    """Paragraphs that click must not wrap are marked by a character that it removes."""
    lines = [[name] for name in apikley.commands]
    for name, group in apikley.commands.items():
        lines += [[name, inner] for inner in getattr(group, "commands", {})]
    helps = {" ".join(line): run(*line, "--help") for line in lines}

    assert [line for line, result in helps.items() if result.code or "\\b" in result.out] == []
    assert len(helps) > 25

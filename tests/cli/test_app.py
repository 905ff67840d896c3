"""`apikley` itself: help, and options that do not exist."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
from cli.conftest import Run

from apikley_async.cli.app import apikley

pytestmark = pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning")


def commands() -> dict[str, click.Command]:
    """Each command by its name, imported."""
    context = click.Context(apikley)
    found = {name: apikley.resolve_command(context, [name])[1] for name in apikley.commands}
    return {name: command for name, command in found.items() if command is not None}


def test_the_list_says_of_each_command_what_its_own_help_says() -> None:
    """It is printed without importing them."""
    listed = {name: entry.get_short_help_str(1000) for name, entry in apikley.commands.items()}

    assert listed == {name: each.get_short_help_str(1000) for name, each in commands().items()}
    assert [*commands()] == [each.name for each in commands().values()]


@pytest.mark.parametrize("words", [["--help"], ["--version"]], ids=" ".join)
def test_help_and_version_import_nothing_heavy(words: list[str]) -> None:
    """A person who asks what there is does not wait for what is not used."""
    program = f"""
import sys
from apikley_async.cli import main
code = main({words!r})
heavy = {{"aiohttp", "asyncio", "attr", "cattrs", "yaml", "rich", "jinja2", "sqlite3", "PIL"}}
found = sorted(heavy & {{*sys.modules}})
sys.exit(code or (f"imported: {{found}}" if found else 0))
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )

    assert (ended.returncode, ended.stderr) == (0, "")
    assert "apikley" in ended.stdout


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

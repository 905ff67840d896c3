"""`--help`: of every command, at 80 columns, complete, with examples that can be typed."""

from __future__ import annotations

import shlex

import click
import pytest
from cli.conftest import Run
from command_page import all_commands

from apikley_async.cli import main
from apikley_async.cli.app import apikley
from apikley_async.cli.events import EVENTS
from apikley_async.cli.help_format import HelpCommand
from apikley_async.cli.help_texts import EXAMPLES

pytestmark = pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning")

COMMANDS = {" ".join(words): command for words, command in all_commands()}


def test_every_help_fits_80_columns_and_is_complete(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No line is longer, no sentence cut, no mark of click's left, no option without a word."""
    monkeypatch.setenv("COLUMNS", "80")

    found = {}
    for name in COMMANDS:
        result = run(*name.split(), "--help")
        lines = result.out.splitlines()
        found[name] = [
            line
            for line in lines
            if len(line) > 80 or line.endswith("...") or "\\b" in line or not line.isprintable()
        ]
        assert result.code == 0
    usage = ("FILE...", "TASK_ID...", "[ARGS]...", "KEY...]")
    assert {
        name: left
        for name, lines in found.items()
        if (left := [line for line in lines if not line.endswith(usage)])
    } == {}


def test_every_option_says_what_it_does() -> None:
    silent = [
        f"{name} {option.opts[0]}"
        for name, command in COMMANDS.items()
        for option in command.params
        if isinstance(option, click.Option) and not option.help
    ]

    assert silent == []


def test_examples_can_be_typed(run: Run) -> None:
    """Each names a command and options that exist."""
    assert {*EXAMPLES} <= {*COMMANDS}
    wrong = []
    for example in [example for examples in EXAMPLES.values() for example in examples]:
        words = shlex.split(example.split("$(")[0].split(" > ")[0])
        result = run(*words[1:], "--help")
        if words[0] != "apikley" or result.code:
            wrong.append(example)
    assert wrong == []


def test_the_events_of_a_command_are_in_the_list() -> None:
    named = {
        event
        for command in COMMANDS.values()
        if isinstance(command, HelpCommand)
        for event in command.events
    }

    assert named
    assert named <= {*EVENTS}


def test_every_command_is_listed_in_a_section(run: Run) -> None:
    assert {*apikley.commands} <= {*run("--help").out.split()}


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("apikley batch st", {"status"}), ("apikley generate --max", {"--max-credits"})],
)
def test_a_shell_completes_commands_and_options(
    typed: str,
    offered: set[str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """As the documentation says: click asks the command itself, those of groups too."""
    monkeypatch.setenv("_APIKLEY_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", "2")

    with pytest.raises(SystemExit):
        main([])

    assert offered <= {*capfd.readouterr().out.replace(",", "\n").split()}

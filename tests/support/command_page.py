"""Writes docs/commands.md: the help of every command as it is printed, and the events of `--json`.

`PYTHONPATH=$PWD:tests/support python tests/support/command_page.py` writes the page anew.
"""

from __future__ import annotations

from collections.abc import Iterator

import click
from pages import ROOT

from apikley_async.cli.app import apikley
from apikley_async.cli.events import EVENTS

PAGE = ROOT / "docs" / "commands.md"

HEAD = """# Commands

The help of every command, as `apikley COMMAND --help` prints it.
[Use the command line](howto/command-line.md) shows them at work.
"""

EVENTS_HEAD = """
## Events

With `--json` a command prints one JSON object a line on stdout.
Each has `event` and `at`, the time.
A fact that is not known is left out, and the last event is always `end`.

| event | when | facts |
| --- | --- | --- |
"""


def all_commands() -> Iterator[tuple[list[str], click.Command]]:
    """Every command and its words; those of groups after their group."""

    def walk(words: list[str], command: click.Command) -> Iterator[tuple[list[str], click.Command]]:
        yield words, command
        if isinstance(command, click.Group):
            context = click.Context(command, info_name="apikley")
            for name in command.list_commands(context):
                _, inner, _ = command.resolve_command(context, [name])
                if inner is not None:
                    yield from walk([*words, name], inner)

    return walk([], apikley)


def help_of(words: list[str], command: click.Command) -> str:
    """What `--help` prints at 80 columns."""
    context = click.Context(apikley, info_name="apikley", terminal_width=80)
    context.help_option_names = ["-h", "--help"]
    for word in words[:-1]:
        context = click.Context(apikley, info_name=word, parent=context)
    if words:
        context = click.Context(command, info_name=words[-1], parent=context)
    formatter = click.HelpFormatter(width=78)
    command.format_help(context, formatter)
    return "\n".join(line.rstrip() for line in formatter.getvalue().splitlines()).strip()


def command_page() -> str:
    """The whole page."""
    parts = [HEAD]
    for words, command in all_commands():
        title = " ".join(["apikley", *words])
        parts.append(f"\n## `{title}`\n\n```text\n{help_of(words, command)}\n```\n")
    parts.append(EVENTS_HEAD)
    for name, event in EVENTS.items():
        facts = ", ".join(f"`{fact}`" for fact in event.facts.split())
        parts.append(f"| `{name}` | {event.meaning} | {facts} |\n")
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(command_page(), encoding="utf-8")

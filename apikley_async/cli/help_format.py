"""How `--help` looks: options in groups, examples, events, and no line over 80 characters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from apikley_async.cli.events import EVENTS
from apikley_async.cli.help_texts import ARGUMENTS, BATCH_ARGUMENTS, EXAMPLES

__all__ = ["HelpCommand", "HelpGroup", "command"]

OPTION_GROUPS = {  # which options stand together; all others are the command's own
    "Money": {
        *("--max-credits", "--max-tasks", "--min-balance", "--price", "--retry"),
        *("--allow-duplicates", "--yes", "--dry-run", "--not-created"),
    },
    "Callbacks": {
        *("--callback-url", "--listen", "--inbox", "--hmac-key-file", "--token-secret-file"),
    },
    "Service": {"--key-file", "--config", "--base-url", "--proxy", "--allow-private", "--simulate"},
    "Output": {"--json", "--plain", "--help"},
}
LONG = 1000  # characters: more than any summary has


class HelpCommand(click.Command):
    """A command whose help has groups of options, examples and events.

    Args:
        events: names of the events that `--json` prints, for commands that print many.
    """

    def __init__(self, *args: Any, events: Sequence[str] = (), **options: Any) -> None:
        super().__init__(*args, **options)
        self.events: tuple[str, ...] = tuple(events)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_arguments(self, ctx, formatter)
        groups: dict[str, list[tuple[str, str]]] = {"Options": [], **{g: [] for g in OPTION_GROUPS}}
        for param in self.get_params(ctx):
            if not isinstance(param, click.Option):
                continue
            names = {*param.opts}
            group = next((g for g, options in OPTION_GROUPS.items() if names & options), None)
            if (record := param.get_help_record(ctx)) is not None:
                groups[group or "Options"].append(record)
        for title, records in groups.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_examples(ctx, formatter)
        super().format_epilog(ctx, formatter)
        if self.events:
            with formatter.section("Events with --json, one object a line"):
                formatter.write_dl(
                    [
                        (name, f"{EVENTS[name].meaning}: {', '.join(EVENTS[name].facts.split())}")
                        for name in self.events
                    ]
                )


class HelpGroup(click.Group):
    """A group of commands: its list does not cut what they do.

    Args:
        sections: the commands by the title that they stand under; without it, all under one.
    """

    command_class: type[click.Command] | None = HelpCommand

    def __init__(
        self, *args: Any, sections: Mapping[str, Sequence[str]] | None = None, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self._sections: Mapping[str, Sequence[str]] = sections or {}

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, names in (self._sections or {"Commands": sorted(self.commands)}).items():
            with formatter.section(title):
                formatter.write_dl(
                    [(name, self.commands[name].get_short_help_str(LONG)) for name in names]
                )

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_examples(ctx, formatter)
        if self.epilog:  # not indented: it begins with a title, as the sections above
            formatter.write_paragraph()
            formatter.write_text(self.epilog.strip())


def write_arguments(
    command: click.Command, ctx: click.Context, formatter: click.HelpFormatter
) -> None:
    """What the arguments are that several commands have."""
    known = {**ARGUMENTS, **(BATCH_ARGUMENTS if ctx.command_path.split()[1:2] == ["batch"] else {})}
    metavars = [each.metavar or "" for each in command.get_params(ctx)]
    if records := [(metavar, known[metavar]) for metavar in metavars if metavar in known]:
        with formatter.section("Arguments"):
            formatter.write_dl(records)


def write_examples(ctx: click.Context, formatter: click.HelpFormatter) -> None:
    """The examples of a command, as they are typed."""
    _, _, name = ctx.command_path.partition(" ")
    if examples := EXAMPLES.get(name):
        with formatter.section("Examples"):
            for example in examples:
                formatter.write(f"  {example}\n")


def command(
    name: str | None = None, *, events: Sequence[str] = ()
) -> Callable[[Callable[..., Any]], HelpCommand]:
    """`click.command`, with our help.

    Args:
        name: by default that of the function.
        events: names of the events that `--json` prints, for commands that print many.
    """
    return click.command(name, cls=HelpCommand, events=events)

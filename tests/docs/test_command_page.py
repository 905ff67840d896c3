"""docs/commands.md shows the help and the events as they are."""

from __future__ import annotations

from command_page import PAGE, command_page


def test_the_page_is_the_help_of_the_commands() -> None:
    """`python tests/support/command_page.py` writes it again."""
    assert PAGE.read_text(encoding="utf-8").splitlines() == command_page().splitlines()

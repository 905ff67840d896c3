"""Completion in bash, zsh and fish, by the lines of docs/howto/command-line.md."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pages import ROOT

PAGE = (ROOT / "docs" / "howto" / "command-line.md").read_text(encoding="utf-8")
LINES = {
    shell: next(iter(re.findall(rf".*_APIKLEY_COMPLETE={shell}_source.*", PAGE)))
    for shell in ("bash", "zsh", "fish")
}
ASK = {  # what a shell does when somebody types Tab after the words
    "bash": (
        "COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))\n"
        "_apikley_completion apikley; printf '%s\\n' \"${{COMPREPLY[@]}}\"; COMPREPLY=()\n"
    ),
    "zsh": (
        "_describe() {{ print -l -- ${{completions_with_descriptions%%:*}} }}\n"
        "words=({words}); CURRENT=$#words; _apikley_completion\n"
    ),
    "fish": "complete -C '{words}' | string split -f 1 \\t\n",
}
BEFORE = {"zsh": "autoload -Uz compinit; compinit -u -D\n"}
OPTIONS = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}


@pytest.mark.parametrize("shell", LINES)
@pytest.mark.slow
def test_commands_and_options_are_completed(shell: str, tmp_path: Path) -> None:
    if (program := shutil.which(shell)) is None:
        pytest.skip(f"{shell} is not installed")
    command = tmp_path / "apikley"
    main = "import sys; from apikley_async.cli import main; sys.exit(main())"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{main}" "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    asked = [ASK[shell].format(words=words) for words in ("apikley batch re", "apikley demo --fi")]
    script = tmp_path / "script"
    script.write_text(
        BEFORE.get(shell, "") + LINES[shell] + "\n" + "".join(asked), encoding="utf-8"
    )
    env = {
        **os.environ,
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }

    done = subprocess.run(
        [program, *OPTIONS[shell], script],
        capture_output=True,
        text=True,
        check=False,
        env=env,
        timeout=60,
    )

    words = ["rename", "report", "resolve", "resubmit", "retry", "revive", "--films"]
    assert done.stdout.split() == words, done.stderr

"""The shell blocks of docs/howto/rehearse.md that say `<!-- rehearsal -->`, in their order."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pages import ROOT, blocks_of

from apikley_async.simulator import Constant, Simulator, Terms

PAGE = ROOT / "docs" / "howto" / "rehearse.md"
BLOCK = re.compile(r"<!-- rehearsal -->\n```shell\n(.*?)```", re.DOTALL)
APIKLEY = f'#!/bin/sh\nexec "{sys.executable}" -m apikley_async "$@"\n'  # one process, to be killed
TASKS = "curl -fsS $APIKLEY_BASE_URL/_simulator/tasks | grep -o '\"task_id\"' | wc -l"

pytestmark = [
    pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl"),
    pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash"),
]


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator(Terms(duration=Constant(30)), speed=100) as simulator:
        yield simulator


def test_the_rehearsals_go_as_the_page_says(simulator: Simulator, tmp_path: Path) -> None:
    """Uncertain films are decided about and made, also after a kill; `doctor` finds a wrong key."""
    text = PAGE.read_text(encoding="utf-8")
    for block in blocks_of(text):
        if block.what == "file":
            (tmp_path / block.value).write_text(block.body, encoding="utf-8")
    command = tmp_path / "bin" / "apikley"
    command.parent.mkdir()
    command.write_text(APIKLEY, encoding="utf-8")
    command.chmod(0o755)
    settings = {"APIKLEY_BASE_URL": simulator.base_url, "APIKLEY_API_KEY": simulator.api_key}
    places = {"PATH": f"{command.parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    env = {**os.environ, **settings, **places, "PYTHONPATH": str(ROOT)}

    def run(script: str) -> tuple[int, str]:
        ran = subprocess.run(
            ["bash", "-c", script],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        return ran.returncode, ran.stdout + ran.stderr

    lost, again, killed, resumed, resolved, wrong_key = BLOCK.findall(text)

    code, said = run(lost)
    assert (code, len(simulator.ledger.paid)) == (3, 1), said
    assert "150 more" in said
    found = simulator.ledger.paid[0].task_id
    code, said = run(f"apikley batch resolve --task-id {found} owls.yaml owl")
    assert (code, "owl: submitted" in said) == (0, True), said
    code, said = run(again.replace("--undecided", "--undecided --yes"))  # nobody can be asked here
    assert (code, len(simulator.ledger.paid)) == (0, 3), said
    assert "nothing else was taken so far" in said
    assert "450 credits spent" in said
    assert len(list((tmp_path / "films").glob("*.mp4"))) == 3
    code, said = run(killed.replace("sleep 8", f"until [ $({TASKS}) = 23 ]; do :; done"))
    assert (code, said.count(": sending\n")) == (4, 20), said
    code, said = run(resumed)
    assert (code, len(simulator.ledger.paid)) == (3, 23), said
    assert "3,000 more was taken" in said
    code, said = run(resolved)
    assert (code, said.count("submitted, as task_")) == (0, 20), said
    assert len(simulator.ledger.paid) == 23
    assert "20 done; 3,000 credits spent" in said
    code, said = run(wrong_key)
    assert (code, said.count("WRONG  key"), said.count("ok     clock")) == (1, 1, 1), said

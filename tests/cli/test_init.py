"""`apikley init`: what it writes is right as it is, and nothing is replaced."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli.conftest import Run

from apikley_async.simulator import Simulator

pytestmark = pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning")


def test_the_manifest_can_be_made_as_it_is(service: Simulator, run: Run) -> None:
    """It has no fault and no remark, and becomes two films."""
    written = run("init", "campaign.yaml")
    checked = run("check", "campaign.yaml", "--json").event("checked")
    made = run("batch", "run", "campaign.yaml", "--yes")

    assert (written.code, written.out) == (0, "campaign.yaml\n")
    assert (checked["faults"], checked["remarks"], checked["films"]) == ([], [], 2)
    assert made.code == 0
    assert sorted(path.name for path in Path("films").glob("*.mp4")) == [
        "kitten.mp4",
        "lighthouse.mp4",
    ]


def test_what_is_commented_out_is_right_too(service: Simulator, run: Run) -> None:
    """Somebody will uncomment it."""
    run("init", "campaign.yaml")
    path = Path("campaign.yaml")
    text = path.read_text(encoding="utf-8")
    for line in ("- key: waves", "  task:", "    model:", "    input:"):
        text = text.replace(f"  # {line}", f"  {line}")
    path.write_text(text.replace("# takes: 2", "takes: 2"), encoding="utf-8")

    checked = run("check", path, "--json").event("checked")

    assert (checked["faults"], checked["films"]) == ([], 4)


def test_a_file_that_exists_is_left_alone(service: Simulator, run: Run) -> None:
    Path("storyboards.yaml").write_text("mine", encoding="utf-8")

    assert run("init").code == 2
    assert run("init", "campaign.txt").code == 2
    assert run("init", "missing/campaign.yaml").code == 2
    assert Path("storyboards.yaml").read_text(encoding="utf-8") == "mine"

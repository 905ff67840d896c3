"""Decisions about uncertain films: the evidence shown before, and several at once."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from pathlib import Path

import pytest
from cli.conftest import Run, write_manifest

from apikley_async.simulator import Fault, Simulator

pytestmark = pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning")


def run_with_uncertain_films(service: Simulator, run: Run) -> str:
    """Run four films, of which two become uncertain and one of those is paid; returns stderr."""
    service.script("create", [Fault.OK, Fault.RESET_AFTER, Fault.HTTP_500, Fault.OK])
    path = write_manifest("tea", "sea", "bee", "key")
    result = run("batch", "run", path, "--yes", "--price", "150")
    assert result.code == 3
    return result.err


def test_the_evidence_for_uncertain_films_is_shown(service: Simulator, run: Run) -> None:
    """Time, model, first words and balance of each; the commands to decide once. (A17)"""
    output = run_with_uncertain_films(service, run)
    shown = run("batch", "resubmit", "campaign.db", "bee").err

    for text in (output, shown):
        assert re.search(
            r"bee: UNCERTAIN: .*500.*\n  sent 2\S+ \S+ (?:[+-]\d{4} \(\S+ UTC\)|UTC) to "
            "sora-2-pro-storyboard: bee at dawn\n",
            text,
        )
        assert re.search(
            "The balance fell by 450 from .* to .*; 2 films accounted for by 300: 150 more", text
        )
    assert "bee: UNCERTAIN: it may have been received, and paid: HTTP 500" in output
    assert output.index("What to do is said at the end") < output.index("films/key.mp4")
    assert output.count("Is there a task of that time") == 1
    assert "yes: apikley batch resolve --task-id TASK_ID -- campaign.db KEY" in output
    assert "no:  apikley batch resubmit --undecided -- campaign.db" in output
    assert "sea: UNCERTAIN" not in shown


def test_all_undecided_films_at_once(service: Simulator, run: Run) -> None:
    """Only with --undecided: never all of them because none was named. (A17, A23)"""
    run_with_uncertain_films(service, run)

    unnamed = [run("batch", verb, "campaign.db").code for verb in ("resubmit", "drop")]
    both = run("batch", "resubmit", "campaign.db", "sea", "--undecided").code
    dropped = run("batch", "drop", "campaign.db", "--undecided", "--json")

    assert (unnamed, both) == ([2, 2], 2)
    decided = [event for event in dropped.events if event["event"] == "decided"]
    assert [(event["key"], event["item_state"]) for event in decided] == [
        ("sea", "dropped"),
        ("bee", "dropped"),
    ]
    uncertain = [event for event in dropped.events if event["event"] == "uncertain"]
    assert [(event["key"], "sent_at" in event) for event in uncertain] == [
        ("sea", True),
        ("bee", True),
    ]


def test_several_films_are_resolved_at_once(service: Simulator, run: Run) -> None:
    """A task for each key, in their order."""
    service.script("create", [Fault.RESET_AFTER] * 2)
    path = write_manifest("tea", "sea")
    run("batch", "run", path, "--yes")
    tasks = [word for charge in service.ledger.paid for word in ("--task-id", charge.task_id)]

    uneven = run("batch", "resolve", path, "tea", *tasks)
    result = run("batch", "resolve", path, "tea", "sea", *tasks)

    assert (uneven.code, result.code) == (2, 0)
    assert run("batch", "run", path).code == 0
    assert len(service.ledger.paid) == 2


def test_resolve_may_be_forced(service: Simulator, run: Run) -> None:
    """What differs is shown before, and recorded with the user's name. (A17)"""
    run_with_uncertain_films(service, run)
    mine = next(c.task_id for c in service.ledger.paid if "sea" in str(c.body))
    line = ["batch", "resolve", "campaign.db", "bee", "--task-id", mine]

    refused = run(*line)
    result = run(*line, "--force")

    assert refused.code == 2
    assert "made of something else; nothing was changed" in refused.err
    difference = r"shots: \[.*bee at dawn.* was submitted, and the task has \[.*sea at dawn"
    assert re.search(difference, refused.err)
    assert result.code == 0
    assert re.search(difference, result.err)
    with contextlib.closing(sqlite3.connect(Path("campaign.db"))) as db:
        [(by, cause)] = db.execute("SELECT by, cause FROM event WHERE event = 'resolve'")
    assert by
    assert "insisted on" in cause

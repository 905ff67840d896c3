"""A short share of `nox -s fuzz`: the wire reads what nobody should send."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable

import pytest
from fuzz.answers import Answer, collect
from fuzz.checks import Defect, Findings, examine, examine_pause
from fuzz.mutations import Body, bodies
from fuzz.run import read_bodies, read_pauses

from apikley_async import RateLimitError
from apikley_async._wire import Reply, open_submission


@pytest.fixture(scope="module")
def answers() -> list[Answer]:
    """Real answers of every endpoint."""
    return collect()


@pytest.mark.parametrize("seed", range(4))
def test_whatever_comes_is_a_value_or_a_documented_error(seed: int, answers: list[Answer]) -> None:
    """In bounded time, and no id that was sent is lost (P3, P6, A6)."""
    share = read_bodies(answers, f"suite/{seed}", 1_000)

    assert share.defects == []
    assert share.read == 1_000


@pytest.mark.parametrize("seed", range(2))
def test_a_retry_after_is_a_sensible_pause_or_none(seed: int) -> None:
    """Whatever stands in the header; digits mean what they say (R6, R7)."""
    share = read_pauses(f"suite/{seed}", 2_000)

    assert share.defects == []
    assert set(share.pauses) == {"seconds", "nonsense"}


@pytest.mark.parametrize("status", [200, 400, 429])
def test_an_id_is_found_however_deep_the_rest_is_nested(status: int) -> None:
    """A paid task is never called refused, and never sent again (A6)."""
    tower = "[" * 150 + "]" * 150
    text = f'{{"code": 200, "data": {{"taskId": "task_1", "new": {tower}}}}}'

    assert open_submission(Reply(status, text)) == "task_1"


# --- the fuzzing itself --------------------------------------------------------------------------


def test_the_answers_are_those_of_every_endpoint(answers: list[Answer]) -> None:
    """Values and refusals of each, so that there is something to be mutilated."""
    told: Counter[tuple[str, str]] = Counter()
    for answer in answers:
        try:
            body = json.loads(answer.text)
        except ValueError:
            body = None
        whole = isinstance(body, dict) and body.get("code") == 200 and bool(body.get("data"))
        told[answer.endpoint, "value" if whole else "other"] += 1

    assert len(answers) > 300
    for endpoint in ("create", "record", "credits", "download_url", "upload"):
        assert told[endpoint, "value"] > 5
        assert told[endpoint, "other"] > 5


def test_equal_seeds_make_equal_bodies(answers: list[Answer]) -> None:
    """A defect can be looked at again."""
    assert bodies(answers, "7", 50) == bodies(answers, "7", 50)
    assert bodies(answers, "7", 50) != bodies(answers, "8", 50)


def test_most_of_what_is_read_comes_out_in_many_ways(answers: list[Answer]) -> None:
    """The bodies are neither all nonsense nor all well: every kind of outcome is met."""
    outcomes = read_bodies(answers, "variety", 1_500).findings.outcomes

    for name in ("submission", "snapshot", "credits", "link", "upload"):
        kinds = {outcome for outcome in outcomes if outcome.startswith(f"{name}: ")}
        assert f"{name}: value" in kinds
        assert f"{name}: RateLimitError" in kinds
        assert len(kinds) > 8


def _wrong(reply: Reply) -> object:
    raise KeyError(reply.status)


def _lost(reply: Reply) -> object:
    raise RateLimitError("Too many requests", code=429)


@pytest.mark.parametrize(
    ("name", "read"), [("credits", _wrong), ("submission", _lost), ("pause", lambda reply: 1e9)]
)
def test_a_broken_promise_would_be_noticed(name: str, read: Callable[[Reply], object]) -> None:
    """Wrong errors, lost ids and endless pauses are defects."""
    body = Body("tree", 200, '{"code": 200, "data": {"taskId": "task_9"}}', {})

    with pytest.raises(Defect):
        examine(body, Findings(), openers={name: (read, (RateLimitError,))})
    with pytest.raises(Defect, match="not 7"):
        examine_pause("5", 7.0)


def test_the_volume_is_run_over_several_processes() -> None:
    """The command prints its seed and its figures, and ends well."""
    command = [sys.executable, "tests/fuzz/run.py", "--bodies", "200", "--pauses", "100"]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}

    done = subprocess.run(
        [*command, "--seed", "5", "--jobs", "1"],
        capture_output=True,
        text=True,
        env=env,
        cwd=__file__.rpartition("tests")[0],
        check=False,
        timeout=50,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("seed 5\n")
    assert "\n300 read in " in done.stdout
    assert done.stdout.endswith("seed 5: 0 promises broken\n")

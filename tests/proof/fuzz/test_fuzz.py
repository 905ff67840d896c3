"""A short share of `nox -s fuzz`: what nobody should send, write or name is read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable

import attrs
import pytest
from fuzz.answers import Answer, collect
from fuzz.checks import examine, examine_pause
from fuzz.kinds import KINDS, case_of, read
from fuzz.mutations import Body, bodies
from fuzz.promises import Defect, Findings
from fuzz.run import main
from volume import volume

from apikley_async import RateLimitError
from apikley_async._wire.envelope import Reply
from apikley_async._wire.task_ids import decode_submission


@pytest.fixture(scope="module")
def answers() -> list[Answer]:
    """Real answers of every endpoint."""
    return collect()


@pytest.mark.parametrize("seed", range(volume(1, 4)))
def test_whatever_comes_is_a_value_or_a_documented_error(seed: int) -> None:
    """In bounded time, and no id that was sent is lost (P3, P6, A6)."""
    share = read(f"body/suite/{seed}", 1_000)

    assert share.defects == []
    assert share.read == 1_000


@pytest.mark.parametrize("seed", range(2))
def test_a_retry_after_is_a_sensible_pause_or_none(seed: int) -> None:
    """Whatever stands in the header; digits mean what they say (R6, R7)."""
    share = read(f"pause/suite/{seed}", 2_000)

    assert share.defects == []
    assert {*share.findings.outcomes} == {"Retry-After: seconds", "Retry-After: nonsense"}


def test_a_manifest_is_its_films_or_its_faults() -> None:
    """The films that another reader finds, each a request that the service takes (M1 to M12)."""
    share = read("manifests/sheets/0", volume(300, 500))

    assert share.defects == []
    for form in ("json", "jsonl", "yaml", "toml", "csv"):
        assert share.findings.outcomes[f".{form}: films"] > 5
        assert share.findings.outcomes[f".{form}: ManifestError"] > 5


def test_a_name_stays_in_its_folder_on_every_disk() -> None:
    """Keys, ids and targets; two keys never share a file unless that is reported (D16, M4, M12)."""
    share = read("names/suite/0", volume(1_500, 2_500))

    assert share.defects == []
    assert share.findings.outcomes["key: a file, twins reported"] > 50
    assert share.findings.outcomes["target: opened"] > 20


def test_a_url_leads_nowhere_inward_and_is_not_repeated() -> None:
    """As another reader reads it; no secret of it is in a message (D10, P7, S9, S11, U8)."""
    share = read("urls/suite/0", 800)

    assert share.defects == []
    assert share.findings.outcomes["a film's link: taken"] > 100


def test_a_key_is_fit_for_a_header_and_never_shown() -> None:
    """From the environment and from files, in any bytes (S1, S4, S8, S12)."""
    share = read("environment/suite/0", volume(400, 600))

    assert share.defects == []
    for place in ("key", "key file", "signing keys", "signing file", "address"):
        assert share.findings.outcomes[f"{place}: taken"] > 5


@pytest.mark.parametrize("status", [200, 400, 429])
def test_an_id_is_found_however_deep_the_rest_is_nested(status: int) -> None:
    """A paid task is never called refused, and never sent again (A6)."""
    tower = "[" * 150 + "]" * 150
    text = f'{{"code": 200, "data": {{"taskId": "task_1", "new": {tower}}}}}'

    assert decode_submission(Reply(status, text)) == "task_1"


# --- the fuzzing itself --------------------------------------------------------------------------


def test_the_answers_are_those_of_every_endpoint(answers: list[Answer]) -> None:
    """Values and refusals of each, so that there is something to be mutilated."""
    reported: Counter[tuple[str, str]] = Counter()
    for answer in answers:
        try:
            body = json.loads(answer.text)
        except ValueError:
            body = None
        whole = isinstance(body, dict) and body.get("code") == 200 and bool(body.get("data"))
        reported[answer.endpoint, "value" if whole else "other"] += 1

    assert len(answers) > 300
    for endpoint in ("create", "record", "credits", "download_url", "upload"):
        assert reported[endpoint, "value"] > 5
        assert reported[endpoint, "other"] > 5


def test_equal_seeds_make_equal_bodies(answers: list[Answer]) -> None:
    """A defect can be looked at again."""
    assert bodies(answers, "7", 50) == bodies(answers, "7", 50)
    assert bodies(answers, "7", 50) != bodies(answers, "8", 50)


@pytest.mark.parametrize("kind", KINDS)
def test_a_case_can_be_read_again(kind: str) -> None:
    """Its seed and its number name it for ever."""
    seed, number, case = case_of(f"{kind}/7/3:12")

    assert (seed, number) == (f"{kind}/7/3", 12)
    assert case == [*KINDS[kind].cases(seed, 40)][12]
    assert read(seed, 13, only=12).read == 1


def test_most_of_what_is_read_comes_out_in_many_ways() -> None:
    """The bodies are neither all nonsense nor all well: every kind of outcome is met."""
    outcomes = read("body/variety", volume(1_000, 1_500)).findings.outcomes

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
        examine_pause("5", 7.0, Findings())


@pytest.mark.parametrize("kind", ["manifests", "names", "urls", "environment"])
def test_whatever_an_examination_raises_names_its_case(kind: str) -> None:
    """A check that fails is a defect, and one that breaks is one too."""

    def broken(case: object, findings: object, *, thorough: bool, folder: object) -> None:
        raise KeyError("a check")

    kinds = {kind: attrs.evolve(KINDS[kind], examine=broken)}

    share = read(f"{kind}/7/0", 2, kinds=kinds)

    assert [defect.partition("\n")[0] for defect in share.defects] == [
        f"{kind}/7/0:0 KeyError: 'a check'",
        f"{kind}/7/0:1 KeyError: 'a check'",
    ]


@pytest.mark.parametrize(
    ("given", "count"),
    [
        ([*KINDS, "--count", "40"], 40 * len(KINDS)),
        *volume([], [(["--bodies", "200", "--pauses", "100"], 300)]),
    ],
)
def test_the_volume_is_run_over_several_processes(given: list[str], count: int) -> None:
    """The command prints its seed and its figures, and ends well."""
    done = run(*given, "--seed", "5", "--jobs", "1")

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("seed 5\n")
    assert f"\n{count} read in " in done.stdout
    assert done.stdout.endswith("seed 5: 0 promises broken\n")


def test_one_case_is_read_again_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    """And a name that is none is refused."""
    assert main(["--only", "urls/5/0:3"]) == 0
    assert capsys.readouterr().out.startswith("Address(")

    with pytest.raises(SystemExit, match="a seed begins with one of body, pause, manifests"):
        main(["--only", "url/5/0:3"])


def run(*given: str) -> subprocess.CompletedProcess[str]:
    """The command, as somebody would type it."""
    return subprocess.run(
        [sys.executable, "tests/proof/fuzz/run.py", *given],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        cwd=__file__.rpartition("tests")[0],
        check=False,
        timeout=50,
    )

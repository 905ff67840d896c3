"""Before anything is paid: dry runs, estimates and the question write nothing to disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cli.conftest import Run, fail_bad_films, write_manifest

from apikley_async.simulator import Constant, Fault, Simulator, Terms

pytestmark = pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning")


def snapshot_of(*folders: Path) -> dict[str, int]:
    """Every file and folder, and when it was modified."""
    return {
        str(path): path.stat().st_mtime_ns
        for folder in folders
        for path in [folder, *folder.rglob("*")]
        if folder.exists()
    }


def changes_by(act: list[object], run: Run, code: int) -> tuple[str, set[tuple[str, int]]]:
    """What a command prints, and what it has changed on disk."""
    places = Path().absolute(), Path(os.environ["XDG_STATE_HOME"])
    before = snapshot_of(*places)
    result = run(*act)
    assert result.code == code, result
    return result.out + result.err, {*snapshot_of(*places).items()} ^ {*before.items()}


def test_nothing_is_written_before_consent(service: Simulator, run: Run) -> None:
    """No terminal to ask, or a no: no journal, no folder; a corrected typo is no conflict. (A23)"""
    path = write_manifest("tea", "sea")

    output, left = changes_by(["batch", "run", path], run, 2)
    _, more = changes_by(["generate", path, "--takes", "1"], run, 2)

    assert "2 new" in output
    assert left == set()
    assert more == set()
    path.write_text(path.read_text().replace("tea at", "coffee at"), encoding="utf-8")
    made = run("batch", "run", path, "--yes")
    assert made.code == 0
    assert "2 new" in made.err
    assert len(service.ledger.paid) == 2


def test_a_dry_run_is_a_run_of_a_copy(service: Simulator, run: Run) -> None:
    """What the journal knows is not paid again; edits and other accounts are refused. (A21, A23)"""
    path = write_manifest("tea", "sea", "bee")
    service.script("create", [Fault.OK, Fault.code(402)])
    run("batch", "run", path, "--yes", "--max-running", "1")
    line = ["batch", "run", path, "--dry-run", "--price", "150"]

    output, left = changes_by(line, run, 0)
    bounded, _ = changes_by([*line, "--max-credits", "300"], run, 0)
    poor, _ = changes_by([*line, "--min-balance", "9999600"], run, 0)
    estimate, more = changes_by(["batch", "estimate", path, "--price", "150"], run, 0)
    path.write_text(path.read_text().replace("tea at", "coffee at"), encoding="utf-8")
    edited, _ = changes_by(line, run, 2)
    estimated, _ = changes_by(["batch", "estimate", path], run, 2)

    assert "3 known" in output
    assert "2 films to be paid, 300 credits\n" in output
    assert "Balance: 9,999,850 credits" in output
    assert "the bounds let 1 film through" in bounded
    assert "the bounds let 1 film through" in poor
    assert "2 films to be paid, 300 credits" in estimate
    assert (left, more) == (set(), set())
    assert "'tea' is in the journal with other content (done)" in edited
    assert "'tea' is in the journal with other content (done)" in estimated


def test_a_dry_run_checks_the_journal_s_key(
    service: Simulator, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another key is refused as in the run; without a key the service is not asked."""
    path = write_manifest("tea")
    run("batch", "run", path, "--yes")

    monkeypatch.setenv("APIKLEY_API_KEY", "another-key-that-opens-nothing")
    refused = run("batch", "run", path, "--dry-run")
    monkeypatch.delenv("APIKLEY_API_KEY")
    unasked = run("batch", "run", path, "--dry-run")

    assert (refused.code, unasked.code) == (2, 0)
    assert "written with another key" in refused.err
    assert "Balance" not in unasked.err


def test_an_estimate_works_before_the_first_run(service: Simulator, run: Run) -> None:
    """For a manifest without a journal; and it leaves none."""
    path = write_manifest("tea")

    output, left = changes_by(["batch", "estimate", path, "--price", "150"], run, 0)

    assert "1 film to be paid, 150 credits" in output
    assert left == set()


@pytest.mark.usefixtures("placeholder_films")
def test_a_rehearsal_of_a_journal_makes_its_planned_films(service: Simulator, run: Run) -> None:
    """And leaves the journal alone."""
    path = write_manifest("tea", "sea")
    service.script("create", [Fault.OK, Fault.code(402)])
    run("batch", "run", path, "--yes", "--max-running", "1")
    before = Path("campaign.db").read_bytes()

    result = run("batch", "run", "campaign.db", "--simulate", "-o", "tried")

    assert result.code == 0
    assert [film.name for film in Path("tried").iterdir()] == ["sea.mp4"]
    assert Path("campaign.db").read_bytes() == before


@pytest.mark.parametrize("terms", [Terms(duration=Constant(0.01), decide=fail_bad_films)])
def test_a_failed_film_is_made_with_new_content(service: Simulator, run: Run) -> None:
    """`retry --changed` takes what the manifest has now; unchanged films are not retried. (A21)"""
    path = write_manifest("bad", "bad tea")
    assert run("batch", "run", path, "--yes").code == 1
    path.write_text(path.read_text().replace("bad tea at", "good tea at"), encoding="utf-8")
    refused = run("batch", "run", path, "--yes")
    unchanged = run("batch", "retry", "--changed", path, "bad")

    result = run("batch", "retry", "--changed", path)

    assert refused.code == 2
    assert "apikley batch retry --changed" in refused.err
    assert unchanged.code == 2
    assert result.code == 0
    assert run("batch", "run", path, "--yes").code == 1
    assert Path("films/bad tea.mp4").exists()
    assert len(service.ledger.paid) == 3

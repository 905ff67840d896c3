"""Where the journal of `apikley generate` is, and which journals of a folder are compared."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from cli.conftest import Run, edit_film, write_films

from apikley_async.batch.store import local_disk, locks
from apikley_async.cli.commands import generate
from apikley_async.cli.journal_location import MARKER
from apikley_async.simulator import Constant, Simulator, Terms

pytestmark = pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning")


def test_the_journal_may_be_named(service: Simulator, run: Run) -> None:
    """A marker in the folder names it."""
    result = run("generate", "--yes", *write_films("tea"), "--journal", "mine.db")

    assert result.code == 0
    assert Path("mine.db").exists()
    assert sorted(path.name for path in Path("films").iterdir()) == [MARKER, "tea.mp4"]


def test_a_named_journal_is_found_without_its_name(service: Simulator, run: Run) -> None:
    """Without `--journal` nothing is paid again; another name is the user's decision."""
    line = ("generate", "--yes", *write_films("tea"))
    run(*line, "--journal", "mine.db", "--max-tasks", "1")

    assert run(*line).code == 0
    assert run(*line, "--journal", "mine.db").code == 0
    assert len(service.ledger.paid) == 1
    assert run(*line, "--journal", "other.db").code == 4  # the film's name is taken
    assert len(service.ledger.paid) == 1


@pytest.mark.parametrize("terms", [Terms(duration=Constant(600))])
@pytest.mark.parametrize("first", [(), ("--journal", "mine.db")])
def test_another_journal_does_not_pay_what_the_folder_s_journal_has_sent(
    service: Simulator, run: Run, first: tuple[str, ...]
) -> None:
    """A film being made has no file yet: both journals are compared, by name and by content."""
    line = ("generate", "--yes", "--timeout", "0.05", *write_films("tea"))
    own = Path(*first[1:]) if first else Path("films/apikley.db")
    run(*line, *first)
    Path("cha.json").write_bytes(Path("tea.json").read_bytes())

    same = run(*line, "--journal", "other.db")
    renamed = run(*line[:-1], "cha.json", "--journal", "other.db", "--overwrite")
    edit_film("tea")
    changed = run(*line, "--journal", "other.db", "--dry-run")

    for result in (same, renamed, changed):
        assert result.code == 4
        assert f"): sent already, as {own.absolute()} says" in result.err
        assert f"resume with --journal {own.absolute()};" in result.err
    assert not Path("other.db").exists()
    assert len(service.ledger.paid) == 1


def test_another_journal_of_a_folder_is_reported(service: Simulator, run: Run) -> None:
    """It does no harm if it knows none of the films, or is the one named."""
    own = Path("films/apikley.db").absolute()
    alone = run("generate", "--yes", *write_films("tea"))
    same = run("generate", "--yes", *write_films("tea"), "--journal", "films/apikley.db")
    other = run("generate", "--yes", *write_films("sea"), "--journal", "other.db")
    again = run("generate", *write_films("sea"), "--journal", "other.db")

    assert [result.code for result in (alone, same, other, again)] == [0, 0, 0, 0]
    assert "another journal" not in alone.err + same.err
    assert f"films has another journal, {own}." in other.err
    assert len(service.ledger.paid) == 2


@pytest.mark.parametrize("terms", [Terms(duration=Constant(600))])
def test_a_batch_does_not_pay_what_the_journal_in_its_folder_has_sent(
    service: Simulator, run: Run
) -> None:
    """`generate` and `batch run` may share a folder: what they have in common is paid once."""
    run("generate", "--yes", "--timeout", "0.05", *write_films("tea"))
    (board,) = write_films("tea")
    film = f'{{"key": "%s", {Path(board).read_text()[1:]}\n'
    Path("same.jsonl").write_text(film % "tea", encoding="utf-8")
    Path("renamed.jsonl").write_text(film % "cha", encoding="utf-8")
    Path("other.jsonl").write_text(film.replace("tea", "sea") % "sea", encoding="utf-8")
    line = ("--yes", "--timeout", "0.05")

    same = run("batch", "run", "same.jsonl", *line)
    renamed = run("batch", "run", "renamed.jsonl", "-o", "films", *line)
    elsewhere = run("batch", "run", "renamed.jsonl", "-o", "elsewhere", "--dry-run")
    assert len(service.ledger.paid) == 1
    other = run("batch", "run", "other.jsonl", *line)

    for result in (same, renamed):
        assert result.code == 4
        assert "says, which is not the journal of this run. Nothing was sent now" in result.err
    assert "1 film to be paid" in elsewhere.out
    assert other.code == 4
    assert len(service.ledger.paid) == 2


@pytest.fixture
def network_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine on which `films` lies on a network disk; returns its user's state folder."""
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        f"1 0 0:1 / / rw - ext4 disk rw\n2 1 0:2 / {tmp_path}/films rw - nfs4 far:/films rw\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(local_disk, "MOUNTS", mounts)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "apikley"


def test_a_network_disk_holds_no_journal(service: Simulator, run: Run, network_disk: Path) -> None:
    """The journal goes into the user's state folder; this is printed once."""
    line = ("generate", "--yes", *write_films("tea"))

    first, again = run(*line), run(*line)

    (journal,) = network_disk.glob("*.db")
    assert (first.code, again.code) == (0, 0)
    assert again.out == first.out == "films/tea.mp4\n"
    assert f"It is {journal}" in first.err
    assert str(journal) not in again.err
    assert json.loads(Path("films", MARKER).read_text())["journal"] == str(journal)
    assert len(service.ledger.paid) == 1


def test_another_machine_is_refused(service: Simulator, run: Run, network_disk: Path) -> None:
    """Without the journal it cannot know what is paid; naming one is the user's decision."""
    line = ("generate", "--yes", *write_films("tea"))
    run(*line)
    for file in network_disk.glob("*.db*"):
        file.unlink()

    result = run(*line)
    named = run(*line, "--journal", "mine.db", "-o", "elsewhere")

    assert result.code == 4
    assert MARKER in result.err
    assert "--journal" in result.err
    assert named.code == 0
    assert len(service.ledger.paid) == 2


def test_a_damaged_marker_is_refused(service: Simulator, run: Run, network_disk: Path) -> None:
    """What it named cannot be known, so nothing is paid."""
    Path("films").mkdir()
    files = write_films("tea")
    accepted = []
    for content in (b"", b"{}", b"[1]", b'{"journal": 1}', b"[" * 60_000):
        Path("films", MARKER).write_bytes(content)
        if run("generate", "--yes", *files).code != 4:
            accepted.append(content[:20])

    assert accepted == []
    assert service.ledger.creations == []


def test_a_marker_that_is_a_link_is_refused(
    service: Simulator, run: Run, network_disk: Path
) -> None:
    """Another user may have put it there."""
    Path("films").mkdir()
    Path("films", MARKER).symlink_to("mine.json")
    Path("mine.json").write_text('{"journal": "/a.db", "machine": ""}', encoding="utf-8")

    assert run("generate", "--yes", *write_films("tea")).code == 4


def test_the_journal_s_lock_is_waited_for(
    service: Simulator, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the wait the command ends with 4; nothing was sent."""
    monkeypatch.setattr(generate, "LOCK_WAIT", 0.3)
    Path("films").mkdir()
    lock = locks.take_lock(Path("films/apikley.db").absolute())

    result = run("generate", "--yes", *write_films("tea"))

    assert result.code == 4
    assert "is in use by process" in result.err
    assert service.ledger.creations == []
    os.close(lock)
    assert run("generate", "--yes", *write_films("tea")).code == 0

"""`apikley batch report`, and the report at the end of a run."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cli.conftest import Run, write_manifest
from sample_batch import make_batch, storyboards

import apikley_async
from apikley_async.batch.report import posters
from apikley_async.simulator import Fault, Simulator

STATES = {"lighthouse": "uncertain", "tea": "failed", "harbour": "planned"}

pytestmark = pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the journal of a batch, as the current one."""
    monkeypatch.chdir(tmp_path)
    asyncio.run(make_batch(tmp_path / "campaign.db", storyboards(1), STATES))
    return tmp_path


def data_of(page: Path) -> dict[str, object]:
    data: dict[str, object] = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    return data


def test_the_report_lies_beside_the_films(here: Path, run: Run) -> None:
    """As a page, JSON and CSV, for its owner only; the link is printed."""
    result = run("batch", "report", "campaign.db")

    page = here / "films" / "report.html"
    assert result.code == 0
    assert result.out == "films/report.html\n" or result.out == f"{page}\n"
    assert f"Report: {page.as_uri()}" in result.err
    for suffix in (".html", ".json", ".csv"):
        assert stat.S_IMODE(page.with_suffix(suffix).stat().st_mode) == 0o600
    assert data_of(page)["title"] == "campaign"
    assert 'href="kitten.mp4"' in page.read_text(encoding="utf-8")


def test_it_may_be_written_elsewhere(here: Path, run: Run) -> None:
    """Films are found from there."""
    (here / "out").mkdir()

    result = run("batch", "report", "campaign.db", "-o", "out/look.html", "--json")

    assert result.code == 0
    assert result.event("report")["path"] == "out/look.html"
    assert 'href="../films/kitten.mp4"' in Path("out/look.html").read_text(encoding="utf-8")
    names = sorted(path.name for path in Path("out").iterdir())
    assert names == ["look.csv", "look.html", "look.json"]
    assert not Path("films/report.html").exists()


def test_its_name_need_not_be_unicode(here: Path, run: Run) -> None:
    """A disk of another time may have such folders and files."""
    target = here / os.fsdecode(b"r\xe9port.html")

    assert run("batch", "report", "campaign.db", "-o", str(target)).code == 0

    assert 'href="r%E9port.json"' in target.read_text(encoding="utf-8")


def test_without_a_name_it_is_the_only_journal_here(here: Path, run: Run) -> None:
    assert run("batch", "report").code == 0
    (here / "notes.db").write_bytes(b"SQLite format 3\0" + b"\0" * 100)
    assert run("batch", "report").code == 0

    asyncio.run(make_batch(here / "other.db", storyboards(1), {}))
    several = run("batch", "report")
    assert several.code == 2
    assert "name one of campaign.db, other.db" in several.err

    for path in here.glob("*.db"):
        path.unlink()
    none = run("batch", "report")
    assert none.code == 2
    assert "no journal here" in none.err


def test_the_commands_can_be_typed(here: Path, run: Run) -> None:
    """Exactly as the report prints them."""
    run("batch", "report", "campaign.db")
    data = data_of(here / "films" / "report.json")

    [group] = data["undecided"]  # type: ignore[misc]
    commands = [way["command"] for way in group["ways"]]  # type: ignore[index]
    assert commands == [
        "apikley batch resolve --task-id TASK_ID campaign.db lighthouse",
        "apikley batch resubmit campaign.db lighthouse",
        "apikley batch drop campaign.db lighthouse",
    ]
    assert run(*commands[2].split()[1:]).code == 2, "it asks, and nobody is there"
    assert run(*f"{commands[2]} --yes".split()[1:]).code == 0
    again = run("batch", "report", "campaign.db")
    assert again.code == 0
    assert data_of(here / "films" / "report.json")["undecided"] == []


@pytest.mark.parametrize("name", ["report.html", "report.json", "report.csv"])
def test_a_file_of_somebody_else_is_not_replaced(here: Path, run: Run, name: str) -> None:
    """The report takes another name; where a name was asked for, it refuses."""
    mine = here / "films" / name
    mine.write_text("mine")

    result = run("batch", "report", "campaign.db")
    asked = run("batch", "report", "campaign.db", "-o", mine.with_suffix(".html"))

    assert result.code == 0
    assert (here / "films" / "campaign.report.html").exists()
    assert asked.code == 2
    assert f"{name} exists and is no report" in asked.err
    assert mine.read_text() == "mine"


def test_a_link_in_its_place_is_not_followed(here: Path, run: Run) -> None:
    victim = here / "victim.html"
    victim.write_text("apikley batch report")
    (here / "films" / "report.html").symlink_to(victim)

    assert run("batch", "report", "campaign.db").code == 0

    assert victim.read_text() == "apikley batch report"
    assert (here / "films" / "report.html").is_symlink()


def test_two_batches_in_one_folder_have_two_reports(here: Path, run: Run) -> None:
    asyncio.run(make_batch(here / "other.db", storyboards(1), {}))
    run("batch", "report", "campaign.db")
    run("batch", "report", "other.db")
    run("batch", "report", "campaign.db")

    assert data_of(here / "films" / "report.json")["title"] == "campaign"
    assert data_of(here / "films" / "other.report.json")["title"] == "other"


def test_a_journal_of_generate_is_named_after_its_folder(here: Path, run: Run) -> None:
    """All of them have one name."""
    Path("campaign.db").rename("films/apikley.db")

    assert run("batch", "report").code == 0

    assert data_of(here / "report.json")["title"] == "films"


def test_it_changes_nothing_in_the_journal(here: Path, run: Run) -> None:
    before = Path("campaign.db").read_bytes()

    run("batch", "report", "campaign.db")

    assert Path("campaign.db").read_bytes() == before


def test_a_run_ends_with_its_report(service: Simulator, run: Run) -> None:
    """With posters where they can be made; the resume line is the command that was typed."""
    service.script("create", [Fault.code(402)])
    path = write_manifest("tea", "sea")

    stopped = run("batch", "run", "--yes", "--max-running", "1", path)
    page = Path("films/report.html")
    data = data_of(page)

    assert stopped.code == 4
    assert f"Report: {page.resolve().as_uri()}" in stopped.err
    assert data["unfinished"]["ways"][0]["command"] == (  # type: ignore[index]
        "apikley batch run --yes --max-running 1 campaign.jsonl"
    )

    done = run("batch", "run", "--yes", "--json", path)

    assert done.code == 0
    assert done.event("report")["url"] == page.resolve().as_uri()
    assert data_of(page)["totals"]["counts"] == {"here": 2}  # type: ignore[index]


def test_a_report_goes_on_within_the_bounds_of_the_last_run(service: Simulator, run: Run) -> None:
    """One that is made while a run goes on, or after it was killed, has only the journal to ask."""
    service.script("create", [Fault.code(402)] * 3)
    path = write_manifest("tea")
    bounds = ("--price", "10=150,15=270", "--max-credits", "6e+2")
    page = Path("films/report.html")

    def way() -> str:
        assert run("batch", "report", path).code == 0
        command: str = data_of(page)["unfinished"]["ways"][0]["command"]  # type: ignore[index]
        return command

    run("batch", "run", "--yes", *bounds, "--min-balance=.5", path)
    shown = way()
    with contextlib.closing(sqlite3.connect("campaign.db")) as journal, journal:
        foreign = json.dumps(
            ["--base-url", "http://x", "--price", "--yes", "--max-tasks", "$(ls)", 7]
        )
        journal.execute("UPDATE learned SET value = ? WHERE name = 'bounds'", (foreign,))
    harmless = way()
    run("batch", "run", "--yes", *bounds, path)
    bounded = way()
    run("batch", "run", "--yes", "--retry", "1", path)

    options = " ".join((*bounds, "--min-balance", ".5"))
    assert shown == f"apikley batch run {options} campaign.jsonl"
    assert harmless == "apikley batch run campaign.jsonl"
    assert bounded == f"apikley batch run {' '.join(bounds)} campaign.jsonl"
    assert way() == harmless, "the last run had none"


def test_a_report_that_cannot_be_written_spoils_no_run(service: Simulator, run: Run) -> None:
    """The films are there: exit code 0, and a line that says why."""
    path = write_manifest("tea")
    Path("films").mkdir()
    for name in ("report.html", "campaign.report.html"):
        Path("films", name).write_text("mine")

    result = run("batch", "run", "--yes", path)

    assert result.code == 0
    assert "There is no report: films/report.html exists" in result.err
    assert Path("films/report.html").read_text() == "mine"


def test_posters_are_made_of_what_is_saved(service: Simulator, run: Run) -> None:
    """Once, beside the film, of this very film, and never in place of another file."""
    pytest.importorskip("av")
    pytest.importorskip("PIL")
    Path("films").mkdir()
    Path("films/sea.poster.jpg").write_bytes(b"mine")

    assert run("batch", "run", "--yes", write_manifest("tea", "sea")).code == 0

    assert Path("films/tea.poster.jpg").read_bytes().startswith(b"\xff\xd8\xff")
    assert Path("films/sea.poster.jpg").read_bytes() == b"mine"
    page = Path("films/report.html").read_text(encoding="utf-8")
    assert 'src="tea.poster.jpg"' in page
    assert "sea.poster.jpg" not in page
    assert sorted(path.name for path in Path("films").iterdir() if path.name[0] == ".") == []

    Path("films/tea.mp4").unlink()
    Path("films/tea.poster.jpg").unlink()
    assert run("batch", "save", "campaign.db").code == 0
    assert Path("films/tea.poster.jpg").exists()


BOTH = """
import sys
from apikley_async.cli import main

assert main(["batch", "status", sys.argv[1]]) == 3
sys.exit(main(["batch", "report", sys.argv[1]]))
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs Linux and util-linux")
@pytest.mark.slow
def test_a_journal_on_a_read_only_disk_is_read(here: Path) -> None:
    """`status` and `report` read a copy, with what the log holds; nothing is written there. (J9)"""
    disk = here / "disk"
    disk.mkdir()
    script = f"""
        mount -t tmpfs none {disk} && cp -r campaign.db* films {disk} || exit 99
        rm -f {disk}/*-shm {disk}/*-wal
        mount -o remount,ro {disk} || exit 99
        exec {sys.executable} -c '{BOTH}' {disk}/campaign.db
    """
    root = Path(apikley_async.__file__).parents[1]
    ran = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", script],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode == 99 or "unshare" in ran.stderr:
        pytest.skip("this process may mount nothing")

    assert ran.returncode == 0, ran.stderr
    assert f"Report: {(here / 'report.html').as_uri()}" in ran.stderr
    assert 'href="disk/films/kitten.mp4"' in Path("report.html").read_text(encoding="utf-8")


def test_without_the_extra_it_is_said_how_to_get_pictures(
    service: Simulator, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line below the link; with the extra there is none."""
    path = write_manifest("tea")
    line = 'Pictures of films need more libraries: type pip install ".[cli,simulator]"'
    run("batch", "run", path, "--yes")

    with_extra = run("batch", "report", path)
    monkeypatch.setattr(posters, "find_spec", lambda name: None)
    without = run("batch", "report", path)

    assert (with_extra.err.count(line), without.err.count(line)) == (0, 1)

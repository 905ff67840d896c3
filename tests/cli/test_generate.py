"""`apikley generate`: one film a file, paid once, whatever happens in between."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli.conftest import Run, fate, films, picture

from apikley_async.batch import REHEARSAL_MARK
from apikley_async.batch.store import journal_file
from apikley_async.cli import simulated_service
from apikley_async.cli.commands import generate
from apikley_async.cli.journal_location import MARKER
from apikley_async.simulator import Constant, Fault, Simulator, Terms

# The commands run loops of their own, which 3.11 only misses when they are collected.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning")


def edit(name: str) -> None:
    """Let a file describe another film."""
    board = {"shots": [{"scene": f"Another {name}", "duration": 10}], "duration": 10}
    Path(f"{name}.json").write_text(json.dumps(board), encoding="utf-8")


# --- once and only once ---------------------------------------------------------------------------


def test_a_film_is_named_after_its_file(service: Simulator, run: Run) -> None:
    """Its id is told at once, its path at the end, and only that on stdout."""
    told = run("generate", "--yes", *films("tea", "sea"))

    assert told.code == 0
    assert told.out == "films/tea.mp4\nfilms/sea.mp4\n"
    for charge in service.ledger.paid:
        assert f"submitted as {charge.task_id}" in told.err
    assert "2 done; 300 credits spent" in told.err
    assert sorted(Path("films").glob("*.mp4")) == [Path("films/sea.mp4"), Path("films/tea.mp4")]
    assert Path("films/apikley.db").exists()


def test_the_same_line_again_pays_nothing(service: Simulator, run: Run) -> None:
    """It gives the same answer, without a question and without a request that pays."""
    line = ("generate", *films("tea", "sea"))
    first = run(*line, "--yes")

    again = run(*line)

    assert (again.code, again.out) == (0, first.out)
    assert "2 known" in again.err
    assert len(service.ledger.paid) == 2


@pytest.mark.parametrize("fault", [Fault.code(401), Fault.code(402), Fault.code(433)])
def test_the_same_line_goes_on_after_it_was_stopped(
    service: Simulator, run: Run, fault: Fault
) -> None:
    """Three times stopped early, and then made: each film is paid once."""
    service.script("create", [fault, Fault.OK, fault, fault])
    line = ("generate", "--yes", "--max-running", "1", *films("tea", "sea"))

    told = [run(*line) for _ in range(3)]
    last = run(*line)

    assert [each.code for each in told] == [4, 4, 4]
    assert last.code == 0
    assert last.out == "films/tea.mp4\nfilms/sea.mp4\n"
    assert len(service.ledger.paid) == 2


@pytest.mark.parametrize("terms", [Terms(duration=Constant(600))])
def test_a_film_that_takes_longer_is_taken_up_by_the_same_line(
    service: Simulator, run: Run
) -> None:
    """Time that is up is no failure, and no second charge."""
    line = ("generate", "--yes", *films("tea"))
    first = run(*line, "--timeout", "0.1")
    service.finish(service.ledger.paid[0].task_id)

    again = run(*line)

    assert first.code == 4
    assert "To go on: apikley generate --yes tea.json --timeout 0.1" in first.err
    assert (again.code, again.out) == (0, "films/tea.mp4\n")
    assert len(service.ledger.paid) == 1


def test_an_uncertain_submission_needs_a_decision(service: Simulator, run: Run) -> None:
    """The same line never submits it again; both ways out are commands that can be typed."""
    service.script("create", [Fault.RESET_AFTER])
    line = ("generate", "--yes", "--json", *films("tea"), "-o", "to")

    told, again = run(*line), run(*line)

    assert (told.code, again.code) == (3, 3)
    assert len(service.ledger.paid) == 1
    event = again.event("undecided")
    assert event["if_found"] == ("apikley batch resolve --task-id TASK_ID -- to/apikley.db tea")
    assert event["if_not_found"] == "apikley batch resubmit -- to/apikley.db tea"
    words = event["if_found"].replace("TASK_ID", service.ledger.paid[0].task_id).split()[1:]
    assert run(*words).code == 0
    assert run(*line).code == 0
    assert len(service.ledger.paid) == 1


@pytest.mark.parametrize("terms", [Terms(duration=Constant(0.01), decide=fate)])
def test_a_failed_film_is_made_again_only_by_a_word(service: Simulator, run: Run) -> None:
    """The others are saved; the reason is told, but it cannot paint the terminal. (A27)"""
    line = ("generate", "--yes", *films("bad", "tea"))

    told, again = run(*line), run(*line)

    assert (told.code, again.code) == (1, 1)
    assert told.out == again.out == "films/tea.mp4\n"
    assert "bad: FAILED" in told.err
    assert "kittens" in told.err
    assert not set("\x1b\u202e") & set(told.err)
    assert "apikley batch retry -- films/apikley.db" in told.err
    assert len(service.ledger.paid) == 2


def test_takes_are_counted_in_all(service: Simulator, run: Run) -> None:
    """Two, and later three: one more is paid; fewer pay nothing."""
    file = films("tea")

    first = run("generate", "--yes", "--takes", "2", *file)
    more = run("generate", "--yes", "--takes", "3", *file)
    fewer = run("generate", *file)

    assert first.out == "films/tea.mp4\nfilms/tea.2.mp4\n"
    assert more.out == first.out + "films/tea.3.mp4\n"
    assert (fewer.code, fewer.out) == (0, "films/tea.mp4\n")
    assert len(service.ledger.paid) == 3


def test_an_edited_file_spends_nothing_until_it_is_said(service: Simulator, run: Run) -> None:
    """Refused; with --again it is another film, once, however often the line is repeated."""
    file = films("tea")
    run("generate", "--yes", *file)
    edit("tea")

    refused = run("generate", "--yes", *file)
    assert refused.code == 2
    assert "--again" in refused.err
    assert len(service.ledger.paid) == 1

    again = [run("generate", "--yes", "--again", *file) for _ in range(2)]
    plain = run("generate", *file)
    assert [told.out for told in (*again, plain)] == ["films/tea.v2.mp4\n"] * 3
    assert len(service.ledger.paid) == 2

    films("tea")  # as it was at first
    first = run("generate", "--again", *file)
    assert (first.code, first.out) == (0, "films/tea.mp4\n")
    assert len(service.ledger.paid) == 2


def test_a_file_may_be_edited_until_it_was_sent(service: Simulator, run: Run) -> None:
    """What nothing was created for takes the new content, and is paid once. (A21)"""
    service.script("create", [Fault.code(402)])
    file = films("tea")
    assert run("generate", "--yes", *file).code == 4
    service.script("create", [Fault.code(422)])
    assert run("generate", "--yes", *file).code == 1
    edit("tea")

    told = run("generate", "--yes", *file)

    assert (told.code, told.out) == (0, "films/tea.mp4\n")
    assert "1 changed" in told.err
    (charge,) = service.ledger.paid
    assert charge.body["input"]["shots"][0]["Scene"] == "Another tea"


def test_a_version_has_takes_of_its_own(service: Simulator, run: Run) -> None:
    file = films("tea")
    run("generate", "--yes", *file)
    edit("tea")

    told = run("generate", "--yes", "--again", "--takes", "2", *file)

    assert told.out == "films/tea.v2.mp4\nfilms/tea.v2.2.mp4\n"


def test_a_run_is_about_its_files_only(service: Simulator, run: Run) -> None:
    """What else the journal of the folder holds is named, and neither paid nor waited for."""
    service.script("create", [Fault.code(402)])
    run("generate", "--yes", *films("tea"))

    told = run("generate", "--yes", *films("sea"))

    assert (told.code, told.out) == (0, "films/sea.mp4\n")
    assert "The journal also holds 1 film: tea (planned)" in told.err
    assert len(service.ledger.paid) == 1


def test_one_content_under_two_names_is_refused(service: Simulator, run: Run) -> None:
    """Unless it is said aloud: it would be paid twice. (A22)"""
    (tea,) = films("tea")
    Path("cup.json").write_text(Path(tea).read_text(encoding="utf-8"), encoding="utf-8")

    refused = run("generate", "--yes", tea, "cup.json")
    allowed = run("generate", "--yes", tea, "cup.json", "--allow-duplicates")

    assert (refused.code, allowed.code) == (2, 0)
    assert len(service.ledger.paid) == 2


def test_a_film_that_is_gone_is_not_made_again_in_silence(service: Simulator, run: Run) -> None:
    """It is paid: the line that may still fetch it is told."""
    line = ("generate", "--yes", *films("tea"))
    run(*line)
    Path("films/tea.mp4").unlink()

    told = run(*line)

    (charge,) = service.ledger.paid
    assert (told.code, told.out) == (1, "")
    assert f"apikley download -o films -- {charge.task_id}" in told.err


# --- where it is written down ---------------------------------------------------------------------


def test_the_journal_may_be_named(service: Simulator, run: Run) -> None:
    told = run("generate", "--yes", *films("tea"), "--journal", "mine.db")

    assert told.code == 0
    assert Path("mine.db").exists()
    assert sorted(path.name for path in Path("films").iterdir()) == [MARKER, "tea.mp4"]


def test_a_journal_that_was_named_is_found_without_its_name(service: Simulator, run: Run) -> None:
    """Forgetting `--journal` pays for nothing again; another name is a person's word."""
    line = ("generate", "--yes", *films("tea"))
    run(*line, "--journal", "mine.db", "--max-tasks", "1")

    assert run(*line).code == 0
    assert run(*line, "--journal", "mine.db").code == 0
    assert len(service.ledger.paid) == 1
    assert run(*line, "--journal", "other.db").code == 4  # the film's name is taken
    assert len(service.ledger.paid) == 1


@pytest.mark.parametrize("terms", [Terms(duration=Constant(600))])
@pytest.mark.parametrize("first", [(), ("--journal", "mine.db")])
def test_another_journal_pays_for_nothing_that_the_folder_s_own_has_sent(
    service: Simulator, run: Run, first: tuple[str, ...]
) -> None:
    """A film under way has no file yet: the folder's journal is asked, by name and by content."""
    line = ("generate", "--yes", "--timeout", "0.05", *films("tea"))
    own = Path(*first[1:]) if first else Path("films/apikley.db")
    run(*line, *first)
    Path("cha.json").write_bytes(Path("tea.json").read_bytes())

    same = run(*line, "--journal", "other.db")
    renamed = run(*line[:-1], "cha.json", "--journal", "other.db", "--overwrite")
    edit("tea")
    changed = run(*line, "--journal", "other.db", "--dry-run")

    for told in (same, renamed, changed):
        assert told.code == 4
        assert f"): sent already, as {own.absolute()} says" in told.err
        assert f"resume with --journal {own.absolute()};" in told.err
    assert not Path("other.db").exists()
    assert len(service.ledger.paid) == 1


def test_another_journal_of_a_folder_is_said(service: Simulator, run: Run) -> None:
    """It is in nobody's way where it knows nothing of the films, or when it is the one named."""
    own = Path("films/apikley.db").absolute()
    alone = run("generate", "--yes", *films("tea"))
    same = run("generate", "--yes", *films("tea"), "--journal", "films/apikley.db")
    other = run("generate", "--yes", *films("sea"), "--journal", "other.db")
    again = run("generate", *films("sea"), "--journal", "other.db")

    assert [told.code for told in (alone, same, other, again)] == [0, 0, 0, 0]
    assert "another journal" not in alone.err + same.err
    assert f"films has another journal, {own}." in other.err
    assert len(service.ledger.paid) == 2


@pytest.mark.parametrize("terms", [Terms(duration=Constant(600))])
def test_a_bound_does_not_wait_for_what_this_run_does_not_follow(
    service: Simulator, run: Run
) -> None:
    """Another film of the journal is bought and unfinished: its cost will not be known here."""
    run("generate", "--yes", *films("tea"), "--timeout", "0.05", "--price", "100")

    told = run("generate", *films("sea"), "--max-credits", "150", "--price", "100")

    assert told.code == 4
    assert "max_credits" in told.err
    assert len(service.ledger.paid) == 1


@pytest.fixture
def network_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine on which `films` lies on a network disk; the state folder of its user."""
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        f"1 0 0:1 / / rw - ext4 disk rw\n2 1 0:2 / {tmp_path}/films rw - nfs4 far:/films rw\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(journal_file, "MOUNTS", mounts)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "apikley"


def test_a_disk_that_cannot_hold_the_journal(
    service: Simulator, run: Run, network_disk: Path
) -> None:
    """The journal goes into the user's state folder, which is said once, and the line goes on."""
    line = ("generate", "--yes", *films("tea"))

    first, again = run(*line), run(*line)

    (journal,) = network_disk.glob("*.db")
    assert (first.code, again.code) == (0, 0)
    assert again.out == first.out == "films/tea.mp4\n"
    assert f"It is {journal}" in first.err
    assert str(journal) not in again.err
    assert json.loads(Path("films", MARKER).read_text())["journal"] == str(journal)
    assert len(service.ledger.paid) == 1


def test_another_machine_is_refused(service: Simulator, run: Run, network_disk: Path) -> None:
    """It does not have the journal, so it cannot know what is paid; naming one is a decision."""
    line = ("generate", "--yes", *films("tea"))
    run(*line)
    for file in network_disk.glob("*.db*"):
        file.unlink()

    told = run(*line)
    named = run(*line, "--journal", "mine.db", "-o", "elsewhere")

    assert told.code == 4
    assert MARKER in told.err
    assert "--journal" in told.err
    assert named.code == 0
    assert len(service.ledger.paid) == 2


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"journal": 1}', b"[" * 60_000])
def test_a_damaged_marker_is_refused(
    service: Simulator, run: Run, network_disk: Path, content: bytes
) -> None:
    """What it said cannot be known, so nothing is paid."""
    Path("films").mkdir()
    Path("films", MARKER).write_bytes(content)

    assert run("generate", "--yes", *films("tea")).code == 4
    assert service.ledger.creations == []


def test_a_marker_is_no_link(service: Simulator, run: Run, network_disk: Path) -> None:
    Path("films").mkdir()
    Path("films", MARKER).symlink_to("mine.json")
    Path("mine.json").write_text('{"journal": "/a.db", "machine": ""}', encoding="utf-8")

    assert run("generate", "--yes", *films("tea")).code == 4


def test_the_lock_is_waited_for_a_while(
    service: Simulator, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the same line goes on later; nothing was sent."""
    monkeypatch.setattr(generate, "LOCK_WAIT", 0.3)
    Path("films").mkdir()
    lock = journal_file.take_lock(Path("films/apikley.db").absolute())

    told = run("generate", "--yes", *films("tea"))

    assert told.code == 4
    assert "is in use by process" in told.err
    assert service.ledger.creations == []
    journal_file.os.close(lock)
    assert run("generate", "--yes", *films("tea")).code == 0


# --- before paying --------------------------------------------------------------------------------


def test_no_file_is_ever_replaced(service: Simulator, run: Run) -> None:
    """A name that is taken is paid for only when somebody says so: it may be the film. (D15)"""
    Path("films").mkdir()
    Path("films/tea.mp4").write_bytes(b"mine")

    told = run("generate", "--yes", *films("tea"))
    assert told.code == 4
    assert "films/tea.mp4 exists already; nothing was paid" in told.err
    assert service.ledger.creations == []
    assert Path("films/tea.mp4").read_bytes() == b"mine"

    assert run("generate", "--yes", "--overwrite", *films("tea")).code == 0
    assert Path("films/tea.mp4").read_bytes() != b"mine"


def test_all_faults_come_before_the_first_payment(service: Simulator, run: Run) -> None:
    """Every file is checked, and each fault is told with its file."""
    good, bad = films("tea", "bad", duration=10)
    Path(bad).write_text('{"shots": [], "duration": 11}', encoding="utf-8")
    Path("many.jsonl").write_text(Path(good).read_text() + "\n" + Path(good).read_text())

    told = run("generate", "--yes", good, bad, "none.json", "many.jsonl", "(.json")

    assert told.code == 2
    for fault in (
        "bad.json: shots",
        "bad.json: duration",
        "none.json: cannot be read",
        "many.jsonl: one film, not 2",
    ):
        assert fault in told.err
    assert service.ledger.creations == []
    assert run("check", bad).out.splitlines() == [
        line.strip() for line in told.err.splitlines() if "bad.json" in line
    ]


def test_a_name_that_cannot_be_a_film_s_says_what_to_do(service: Simulator, run: Run) -> None:
    """A file's name becomes its film's; a key of its own is the way out."""
    Path("tea?.json").write_text(Path(films("tea")[0]).read_text(encoding="utf-8"))

    told = run("generate", "--yes", "tea?.json")

    assert told.code == 2
    assert "tea?.json: key, here the file's name" in told.err


def test_two_files_of_one_name_are_a_fault(service: Simulator, run: Run) -> None:
    """In whatever folders they lie, and however they are spelled."""
    (tea,) = films("tea")
    Path("sub").mkdir()
    Path("sub/TEA.json").write_text(Path(tea).read_text(encoding="utf-8"), encoding="utf-8")

    assert run("generate", "--yes", tea, "sub/TEA.json").code == 2
    assert run("generate", "--yes", tea, tea).code == 2
    assert service.ledger.creations == []


@pytest.mark.parametrize(
    "image, fault",
    [
        ("bad.png", "JPEG, PNG or WebP"),
        ("none.png", "cannot be read"),
        ("../good.png", "inside the manifest's folder"),
        (".", "cannot be read"),
    ],
)
def test_a_bad_image_is_found_before_the_first_payment(
    service: Simulator, run: Run, image: str, fault: str
) -> None:
    """The same rules as everywhere: a picture, inside the folder of the file. (M10, U1)"""
    Path("good.png").write_bytes(picture())
    Path("bad.png").write_bytes(b"no picture")
    boards = [*films("tea", image="good.png"), *films("sea", image=image)]

    told = run("generate", "--yes", *boards)

    assert told.code == 2
    assert "sea.json: image: " in told.err
    assert fault in told.err
    assert fault in run("check", *boards).out
    assert service.ledger.creations == []


def test_an_image_lies_beside_its_file(service: Simulator, run: Run) -> None:
    """It is uploaded once, however many films are made of it."""
    Path("sub").mkdir()
    Path("sub/good.png").write_bytes(picture())
    boards = films("tea", "sea", image="good.png")
    for board in boards:
        Path(board).rename(Path("sub", board))

    told = run("generate", "--yes", *(Path("sub", board) for board in boards))

    assert told.code == 0
    assert len(service.ledger.arrivals("upload")) == 1


def test_nobody_pays_unasked(service: Simulator, run: Run) -> None:
    """In a pipe there is nobody to ask, so it must have been said before; here is how."""
    told = run("generate", *films("tea"), "-o", "to")

    assert told.code == 2
    assert "apikley generate tea.json -o to --yes" in told.err
    assert service.ledger.creations == []


def test_a_bound_is_an_agreement(service: Simulator, run: Run) -> None:
    """The same bounds as a batch has. (A23)"""
    told = run("generate", *films("tea", "sea"), "--price", "150", "--max-credits", "200", "--yes")

    assert told.code == 4
    assert "max_credits" in told.err
    assert "--price 150 --max-credits 200" in told.err.partition("To go on: ")[2]
    assert len(service.ledger.paid) == 1


def test_a_folder_that_cannot_be_is_found_before_the_first_payment(
    service: Simulator, run: Run
) -> None:
    Path("file").touch()

    told = run("generate", "--yes", *films("tea"), "-o", "file/films")

    assert told.code == 2
    assert "-o file/films" in told.err
    assert service.ledger.creations == []


def test_without_a_key_nothing_begins(
    service: Simulator, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line says all the ways to have one."""
    monkeypatch.delenv("APIKLEY_API_KEY")

    told = run("generate", "--yes", *films("tea"))

    assert told.code == 2
    assert told.err.count("\n") == 1
    assert "APIKLEY_API_KEY" in told.err
    assert "--key-file" in told.err


# --- while it runs --------------------------------------------------------------------------------


def test_what_blocks_one_blocks_all(service: Simulator, run: Run) -> None:
    """Without credits the rest is not even tried; the same line goes on with what is left."""
    service.script("create", [Fault.OK, Fault.code(402)])

    told = run("generate", "--yes", "--max-running", "1", *films("tea", "sea", "bee"))

    assert told.code == 4
    assert len(service.ledger.creations) == 2
    assert "1 done, 2 planned" in told.err
    assert "To go on: apikley generate --yes --max-running 1 tea.json sea.json bee.json" in told.err


def test_the_line_to_go_on_is_the_line_that_was_typed(service: Simulator, run: Run) -> None:
    """With its address, its key file and its bounds."""
    Path("key").write_text(service.api_key, encoding="ascii")
    Path("key").chmod(0o600)
    service.script("create", [Fault.code(402)])
    where = [
        "--key-file",
        "key",
        "--base-url",
        service.base_url,
        "--max-tasks",
        "5",
        "--",
        "tea.json",
    ]
    films("tea")

    told = run("generate", "--yes", *where)

    assert f"To go on: apikley generate --yes {' '.join(where)}" in told.err


@pytest.mark.parametrize("terms", [Terms(duration=Constant(0.05))])
def test_not_more_run_at_once_than_asked(service: Simulator, run: Run) -> None:
    told = run("generate", "--yes", "--max-running", "2", *films("a", "b", "c", "d", "e"))

    assert told.code == 0
    assert service.ledger.most_running == 2


def test_every_event_is_documented(service: Simulator, run: Run) -> None:
    """With --json stdout holds events and nothing else, each told of in --help."""
    helped = run("generate", "--help").out

    told = run("generate", "--yes", "--json", *films("tea"))

    kinds = {event["event"] for event in told.events}
    assert kinds >= {"submitted", "ready", "saved", "batch"}
    assert [kind for kind in kinds if f"\n    {kind} " not in helped] == []
    assert told.event("saved")["paths"] == ["films/tea.mp4"]
    assert told.event("saved")["key"] == "tea"
    assert told.event("batch")["done"] == 1


# --- rehearsals -----------------------------------------------------------------------------------


def test_a_rehearsal_stands_in_nobody_s_way(
    service: Simulator, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its films have the names of the real ones, which replace them; and it keeps no journal."""
    monkeypatch.setattr(simulated_service, "SPEED", 600.0)
    line = ("generate", *films("tea"))

    rehearsed = run(*line, "--simulate")
    assert (rehearsed.code, rehearsed.out) == (0, "films/tea.mp4\n")
    assert Path("films/tea.mp4").read_bytes().endswith(REHEARSAL_MARK)
    assert [path.name for path in Path("films").iterdir()] == ["tea.mp4"]

    real = run(*line, "--yes")
    assert (real.code, real.out) == (0, "films/tea.mp4\n")
    assert not Path("films/tea.mp4").read_bytes().endswith(REHEARSAL_MARK)
    assert len(service.ledger.paid) == 1

    later = run(*line, "--simulate")
    assert (later.code, later.out) == (0, "films/simulated/tea.mp4\n")
    assert not Path("films/tea.mp4").read_bytes().endswith(REHEARSAL_MARK)


def test_a_rehearsal_never_leads_to_the_paid_service(
    service: Simulator, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line to go on is a rehearsal too."""
    monkeypatch.setattr(simulated_service, "SPEED", 1.0)

    told = run("generate", "--simulate", *films("tea"), "--timeout", "0.2")

    assert told.code == 4
    assert "To go on: apikley generate --simulate tea.json --timeout 0.2" in told.err


def test_a_dry_run_keeps_nothing(service: Simulator, run: Run) -> None:
    told = run("generate", *films("tea", "sea"), "--dry-run", "--price", "150")

    assert (told.code, told.out) == (0, "2 films to be paid, 300 credits\n")
    assert not Path("films").exists()
    assert service.ledger.creations == []

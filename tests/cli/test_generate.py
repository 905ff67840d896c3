"""`apikley generate`: one film a file, paid once, whatever happens in between."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
from cli.conftest import Run, edit_film, fail_bad_films, grey_png, write_films

from apikley_async.cli.events import EVENTS
from apikley_async.events import Event
from apikley_async.simulator import Constant, Fault, Simulator, Terms

# The commands run loops of their own, which 3.11 only misses when they are collected.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning")


# --- once and only once ---------------------------------------------------------------------------


def test_a_film_is_named_after_its_file(service: Simulator, run: Run) -> None:
    """Its id is printed at once, its path at the end, and only that on stdout."""
    result = run("generate", "--yes", *write_films("tea", "sea"))

    assert result.code == 0
    assert result.out == "films/tea.mp4\nfilms/sea.mp4\n"
    for charge in service.ledger.paid:
        assert f"submitted as {charge.task_id}" in result.err
    assert "2 done; 300 credits spent" in result.err
    assert sorted(Path("films").glob("*.mp4")) == [Path("films/sea.mp4"), Path("films/tea.mp4")]
    assert Path("films/apikley.db").exists()


def test_the_same_command_again_pays_nothing(service: Simulator, run: Run) -> None:
    """It prints the same, without a question and without a request that pays."""
    line = ("generate", *write_films("tea", "sea"))
    first = run(*line, "--yes")

    again = run(*line)

    assert (again.code, again.out) == (0, first.out)
    assert "2 known" in again.err
    assert len(service.ledger.paid) == 2


@pytest.mark.parametrize("fault", [Fault.code(401), Fault.code(402), Fault.code(433)])
def test_the_same_command_resumes_after_an_early_stop(
    service: Simulator, run: Run, fault: Fault
) -> None:
    """Three times stopped early, and then made: each film is paid once."""
    service.script("create", [fault, Fault.OK, fault, fault])
    line = ("generate", "--yes", "--max-running", "1", *write_films("tea", "sea"))

    result = [run(*line) for _ in range(3)]
    last = run(*line)

    assert [each.code for each in result] == [4, 4, 4]
    assert last.code == 0
    assert last.out == "films/tea.mp4\nfilms/sea.mp4\n"
    assert len(service.ledger.paid) == 2


@pytest.mark.parametrize("terms", [Terms(duration=Constant(600))])
def test_the_same_command_resumes_after_a_timeout(service: Simulator, run: Run) -> None:
    """A timeout is no failure, and no second charge."""
    line = ("generate", "--yes", *write_films("tea"))
    first = run(*line, "--timeout", "0.1")
    service.finish(service.ledger.paid[0].task_id)

    again = run(*line)

    assert first.code == 4
    assert "To go on: apikley generate --yes tea.json --timeout 0.1" in first.err
    assert (again.code, again.out) == (0, "films/tea.mp4\n")
    assert len(service.ledger.paid) == 1


def test_an_uncertain_submission_needs_a_decision(service: Simulator, run: Run) -> None:
    """The same command never submits it again; both ways to decide are printed as commands."""
    service.script("create", [Fault.RESET_AFTER])
    line = ("generate", "--yes", "--json", *write_films("tea"), "-o", "to")

    result, again = run(*line), run(*line)

    assert (result.code, again.code) == (3, 3)
    assert len(service.ledger.paid) == 1
    event = again.event("undecided")
    assert event["if_found"] == ("apikley batch resolve --task-id TASK_ID to/apikley.db tea")
    assert event["if_not_found"] == "apikley batch resubmit to/apikley.db tea"
    words = event["if_found"].replace("TASK_ID", service.ledger.paid[0].task_id).split()[1:]
    assert run(*words).code == 0
    assert run(*line).code == 0
    assert len(service.ledger.paid) == 1


@pytest.mark.parametrize("terms", [Terms(duration=Constant(0.01), decide=fail_bad_films)])
def test_a_failed_film_is_not_made_again_by_itself(service: Simulator, run: Run) -> None:
    """The others are saved; the reason is shown without its control characters. (A27)"""
    line = ("generate", "--yes", *write_films("bad", "tea"))

    result, again = run(*line), run(*line)

    assert (result.code, again.code) == (1, 1)
    assert result.out == again.out == "films/tea.mp4\n"
    assert "bad: FAILED" in result.err
    assert "kittens" in result.err
    assert not set("\x1b\u202e") & set(result.err)
    assert "apikley batch retry films/apikley.db" in result.err
    assert len(service.ledger.paid) == 2


@pytest.mark.parametrize("terms", [Terms(duration=Constant(0.01), decide=fail_bad_films)])
def test_an_end_has_the_name_that_the_library_gives_it(service: Simulator, run: Run) -> None:
    """`finished`, a success or a failure, and then what became of it here."""
    made = run("generate", "--yes", "--json", *write_films("bad", "tea"))
    waited = run("wait", "--json", *[charge.task_id for charge in service.ledger.paid])

    for result in (made, waited):
        ended = {event["state"]: event for event in result.events if event["event"] == "finished"}
        assert set(ended) == {"success", "fail"}
        assert ended["success"]["urls"]
        assert ended["fail"]["fail_code"] == "400"
        names = [event["event"] for event in result.events]
        assert names.index("failed") > names.index("finished")
    shared = {"submitted", "uncertain", "polled", "finished", "saved", "uploaded"}
    assert {kind.name for kind in get_args(Event)} & set(EVENTS) == shared


def test_takes_are_counted_in_all(service: Simulator, run: Run) -> None:
    """Two, and later three: one more is paid; fewer pay nothing."""
    file = write_films("tea")

    first = run("generate", "--yes", "--takes", "2", *file)
    more = run("generate", "--yes", "--takes", "3", *file)
    fewer = run("generate", *file)

    assert first.out == "films/tea.mp4\nfilms/tea.2.mp4\n"
    assert more.out == first.out + "films/tea.3.mp4\n"
    assert (fewer.code, fewer.out) == (0, "films/tea.mp4\n")
    assert len(service.ledger.paid) == 3


def test_an_edited_file_needs_again(service: Simulator, run: Run) -> None:
    """It is refused; with --again it is another film, once, however often that is repeated."""
    file = write_films("tea")
    run("generate", "--yes", *file)
    edit_film("tea")

    refused = run("generate", "--yes", *file)
    assert refused.code == 2
    assert "--again" in refused.err
    assert len(service.ledger.paid) == 1

    again = [run("generate", "--yes", "--again", *file) for _ in range(2)]
    plain = run("generate", *file)
    assert [result.out for result in (*again, plain)] == ["films/tea.v2.mp4\n"] * 3
    assert len(service.ledger.paid) == 2

    write_films("tea")  # as it was at first
    first = run("generate", "--again", *file)
    assert (first.code, first.out) == (0, "films/tea.mp4\n")
    assert len(service.ledger.paid) == 2


def test_a_file_may_be_edited_until_it_was_sent(service: Simulator, run: Run) -> None:
    """If nothing was created for it, it takes the new content, and is paid once. (A21)"""
    service.script("create", [Fault.code(402)])
    file = write_films("tea")
    assert run("generate", "--yes", *file).code == 4
    service.script("create", [Fault.code(422)])
    assert run("generate", "--yes", *file).code == 1
    edit_film("tea")

    result = run("generate", "--yes", *file)

    assert (result.code, result.out) == (0, "films/tea.mp4\n")
    assert "1 changed" in result.err
    (charge,) = service.ledger.paid
    assert charge.body["input"]["shots"][0]["Scene"] == "Another tea"


def test_a_version_has_takes_of_its_own(service: Simulator, run: Run) -> None:
    """--takes counts each version by itself."""
    file = write_films("tea")
    run("generate", "--yes", *file)
    edit_film("tea")

    result = run("generate", "--yes", "--again", "--takes", "2", *file)

    assert result.out == "films/tea.v2.mp4\nfilms/tea.v2.2.mp4\n"


def test_a_run_is_about_its_files_only(service: Simulator, run: Run) -> None:
    """The journal's other films are named, and neither paid nor waited for."""
    service.script("create", [Fault.code(402)])
    run("generate", "--yes", *write_films("tea"))

    result = run("generate", "--yes", *write_films("sea"))

    assert (result.code, result.out) == (0, "films/sea.mp4\n")
    assert "The journal also holds 1 film: tea (planned)" in result.err
    assert len(service.ledger.paid) == 1


def test_one_content_under_two_names_is_refused(service: Simulator, run: Run) -> None:
    """Unless --allow-duplicates is given: it would be paid twice. (A22)"""
    (tea,) = write_films("tea")
    Path("cup.json").write_text(Path(tea).read_text(encoding="utf-8"), encoding="utf-8")

    refused = run("generate", "--yes", tea, "cup.json")
    allowed = run("generate", "--yes", tea, "cup.json", "--allow-duplicates")

    assert (refused.code, allowed.code) == (2, 0)
    assert len(service.ledger.paid) == 2


def test_a_lost_file_is_not_made_again(service: Simulator, run: Run) -> None:
    """The film is paid: the command that may still download it is printed."""
    line = ("generate", "--yes", *write_films("tea"))
    run(*line)
    Path("films/tea.mp4").unlink()

    result = run(*line)

    (charge,) = service.ledger.paid
    assert (result.code, result.out) == (1, "")
    assert f"apikley download -o films {charge.task_id}" in result.err


# --- where it is written down ---------------------------------------------------------------------


@pytest.mark.parametrize("terms", [Terms(duration=Constant(600))])
def test_a_bound_does_not_wait_for_films_of_other_runs(service: Simulator, run: Run) -> None:
    """Another film of the journal is unfinished: its cost will not be known in this run."""
    run("generate", "--yes", *write_films("tea"), "--timeout", "0.05", "--price", "100")

    result = run("generate", *write_films("sea"), "--max-credits", "150", "--price", "100")

    assert result.code == 4
    assert "max_credits" in result.err
    assert len(service.ledger.paid) == 1


# --- before paying --------------------------------------------------------------------------------


def test_other_files_are_not_replaced(service: Simulator, run: Run) -> None:
    """A film whose file name is taken is paid only with --overwrite: it may be the film. (D15)"""
    Path("films").mkdir()
    Path("films/tea.mp4").write_bytes(b"mine")

    result = run("generate", "--yes", *write_films("tea"))
    assert result.code == 4
    assert "films/tea.mp4 exists already; nothing was paid" in result.err
    assert service.ledger.creations == []
    assert Path("films/tea.mp4").read_bytes() == b"mine"

    assert run("generate", "--yes", "--overwrite", *write_films("tea")).code == 0
    assert Path("films/tea.mp4").read_bytes() != b"mine"


def test_all_faults_are_reported_before_anything_is_paid(service: Simulator, run: Run) -> None:
    """Of every file, each with the file's name."""
    good, bad = write_films("tea", "bad", duration=10)
    Path(bad).write_text('{"shots": [], "duration": 11}', encoding="utf-8")
    Path("many.jsonl").write_text(Path(good).read_text() + "\n" + Path(good).read_text())

    result = run("generate", "--yes", good, bad, "none.json", "many.jsonl", "(.json")

    assert result.code == 2
    for fault in (
        "bad.json: shots",
        "bad.json: duration",
        "none.json: cannot be read",
        "many.jsonl: one film, not 2",
    ):
        assert fault in result.err
    assert service.ledger.creations == []
    assert run("check", bad).out.splitlines() == [
        line.strip() for line in result.err.splitlines() if "bad.json" in line
    ]


def test_a_file_name_that_is_no_key_is_a_fault(service: Simulator, run: Run) -> None:
    """A film's key is its file's name, unless the file has a key."""
    Path("tea?.json").write_text(Path(write_films("tea")[0]).read_text(encoding="utf-8"))

    result = run("generate", "--yes", "tea?.json")

    assert result.code == 2
    assert "tea?.json: key, here the file's name" in result.err


def test_two_files_of_one_name_are_a_fault(service: Simulator, run: Run) -> None:
    """In whatever folders they are, and with whatever case."""
    (tea,) = write_films("tea")
    Path("sub").mkdir()
    Path("sub/TEA.json").write_text(Path(tea).read_text(encoding="utf-8"), encoding="utf-8")

    assert run("generate", "--yes", tea, "sub/TEA.json").code == 2
    assert run("generate", "--yes", tea, tea).code == 2
    assert service.ledger.creations == []


def test_a_bad_image_is_found_before_anything_is_paid(service: Simulator, run: Run) -> None:
    """The same rules as for manifests: a picture, inside the folder of the file. (M10, U1)"""
    Path("good.png").write_bytes(grey_png())
    Path("bad.png").write_bytes(b"no picture")
    failures = []
    for image, fault in (
        ("bad.png", "JPEG, PNG or WebP"),
        ("none.png", "cannot be read"),
        ("../good.png", "inside the manifest's folder"),
        (".", "cannot be read"),
    ):
        boards = [*write_films("tea", image="good.png"), *write_films("sea", image=image)]
        made, checked = run("generate", "--yes", *boards), run("check", *boards)
        named = "sea.json: image: " in made.err
        if made.code != 2 or not named or fault not in made.err or fault not in checked.out:
            failures.append((image, made, checked))

    assert failures == []
    assert service.ledger.creations == []


def test_an_image_lies_beside_its_file(service: Simulator, run: Run) -> None:
    """It is uploaded once, however many films use it."""
    Path("sub").mkdir()
    Path("sub/good.png").write_bytes(grey_png())
    boards = write_films("tea", "sea", image="good.png")
    for board in boards:
        Path(board).rename(Path("sub", board))

    result = run("generate", "--yes", *(Path("sub", board) for board in boards))

    assert result.code == 0
    assert len(service.ledger.arrivals("upload")) == 1


def test_spending_needs_consent(service: Simulator, run: Run) -> None:
    """In a pipe nobody can be asked: the message says what to type."""
    result = run("generate", *write_films("tea"), "-o", "to")

    assert result.code == 2
    assert "apikley generate tea.json -o to --yes" in result.err
    assert service.ledger.creations == []


def test_a_bound_is_consent(service: Simulator, run: Run) -> None:
    """The bounds are those of a batch. (A23)"""
    result = run(
        "generate", *write_films("tea", "sea"), "--price", "150", "--max-credits", "200", "--yes"
    )

    assert result.code == 4
    assert "max_credits" in result.err
    assert "--price 150 --max-credits 200" in result.err.partition("To go on: ")[2]
    assert "Raise --max-credits to make the rest.\n" in result.err
    assert len(service.ledger.paid) == 1


def test_a_bad_folder_is_found_before_anything_is_paid(service: Simulator, run: Run) -> None:
    """A file is in its place."""
    Path("file").touch()

    result = run("generate", "--yes", *write_films("tea"), "-o", "file/films")

    assert result.code == 2
    assert "-o file/films" in result.err
    assert service.ledger.creations == []


def test_a_missing_key_is_refused(
    service: Simulator, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names every way to give one."""
    monkeypatch.delenv("APIKLEY_API_KEY")

    result = run("generate", "--yes", *write_films("tea"))

    assert result.code == 2
    assert result.err.count("\n") == 1
    assert "APIKLEY_API_KEY" in result.err
    assert "--key-file" in result.err


# --- while it runs --------------------------------------------------------------------------------


def test_an_empty_balance_stops_the_run(service: Simulator, run: Run) -> None:
    """The other films are not tried; the same command resumes."""
    service.script("create", [Fault.OK, Fault.code(402)])

    result = run("generate", "--yes", "--max-running", "1", *write_films("tea", "sea", "bee"))

    assert result.code == 4
    assert len(service.ledger.creations) == 2
    assert "1 done, 2 planned" in result.err
    assert (
        "To go on: apikley generate --yes --max-running 1 tea.json sea.json bee.json" in result.err
    )


def test_the_printed_command_is_the_one_that_was_typed(service: Simulator, run: Run) -> None:
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
    write_films("tea")

    result = run("generate", "--yes", *where)

    assert f"To go on: apikley generate --yes {' '.join(where)}" in result.err


@pytest.mark.parametrize("terms", [Terms(duration=Constant(0.05))])
def test_max_running_bounds_films_in_the_making(service: Simulator, run: Run) -> None:
    """As the service counts them."""
    result = run("generate", "--yes", "--max-running", "2", *write_films("a", "b", "c", "d", "e"))

    assert result.code == 0
    assert service.ledger.most_running == 2


def test_every_event_is_documented(service: Simulator, run: Run) -> None:
    """With --json stdout has events and nothing else, each described in --help."""
    helped = run("generate", "--help").out

    result = run("generate", "--yes", "--json", *write_films("tea"))

    kinds = {event["event"] for event in result.events}
    assert kinds >= {"submitted", "finished", "saved", "batch"}
    assert [kind for kind in kinds if f"\n  {kind} " not in helped] == []
    assert result.event("saved")["paths"] == ["films/tea.mp4"]
    assert result.event("saved")["key"] == "tea"
    assert result.event("batch")["done"] == 1


# --- rehearsals -----------------------------------------------------------------------------------


def test_a_dry_run_keeps_nothing(service: Simulator, run: Run) -> None:
    """Not even the folder."""
    result = run("generate", *write_films("tea", "sea"), "--dry-run", "--price", "150")

    assert (result.code, result.out) == (0, "2 films to be paid, 300 credits\n")
    assert not Path("films").exists()
    assert service.ledger.creations == []

"""The commands, run in this process against a simulated service on loopback."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import attrs
import pytest
from cli.conftest import Run, fate

from apikley_async.cli import _questions, _session, _stage
from apikley_async.simulator import (
    Constant,
    Fault,
    FilmOrder,
    Simulator,
    Terms,
)

SHIPPED = Path(_session.__file__).with_name("storyboards")

# The commands run loops of their own, which 3.11 only misses when they are collected.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning")


def picture(shade: int = 0, side: int = 64) -> bytes:
    """A whole PNG, grey all over."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    rows = zlib.compress((b"\0" + bytes([shade]) * side) * side)
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", rows), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def films(*names: str, **fields: object) -> list[str]:
    """Write a storyboard a name into the current folder."""
    for name in names:
        board = {"shots": [{"scene": name, "duration": 10}], "duration": 10, **fields}
        Path(f"{name}.json").write_text(json.dumps(board), encoding="utf-8")
    return [f"{name}.json" for name in names]


# --- generate ------------------------------------------------------------------------------------


def test_a_film_is_named_after_its_file(service: Simulator, run: Run) -> None:
    """Its id is told at once, its path at the end, and only that on stdout."""
    told = run("generate", "--yes", *films("tea", "sea"))

    assert told.code == 0
    assert told.out == "films/tea.mp4\nfilms/sea.mp4\n"
    for charge in service.ledger.paid:
        assert f"submitted as {charge.task_id}" in told.err
    assert told.err.splitlines()[-1].startswith("2 films saved in films")
    assert sorted(path.name for path in Path("films").iterdir()) == ["sea.mp4", "tea.mp4"]


def test_no_file_is_ever_replaced(service: Simulator, run: Run) -> None:
    """Where the name is taken, a new film is named after its task."""
    Path("films").mkdir()
    Path("films/tea.mp4").write_bytes(b"mine")

    told = run("generate", "--yes", *films("tea"))

    (charge,) = service.ledger.paid
    assert told.code == 0
    assert told.out == f"films/{charge.task_id}.mp4\n"
    assert Path("films/tea.mp4").read_bytes() == b"mine"
    assert "films/tea.mp4 is another film" in told.err
    assert "Made before, and kept: films/tea.mp4" in told.err


def test_all_faults_come_before_the_first_payment(service: Simulator, run: Run) -> None:
    """Every file is checked, and each fault is told with its file."""
    good, bad = films("tea", "bad", duration=10)
    Path(bad).write_text('{"shots": [], "duration": 11}', encoding="utf-8")

    told = run("generate", "--yes", good, bad, "none.json")

    assert told.code == 2
    for fault in ("bad.json: shots", "bad.json: duration", "none.json: cannot be read"):
        assert fault in told.err
    assert service.ledger.creations == []


def test_a_bad_image_is_found_before_the_first_payment(service: Simulator, run: Run) -> None:
    """An image costs nothing to upload, so all of them go first."""
    Path("good.png").write_bytes(picture())
    Path("bad.png").write_bytes(b"no picture")
    boards = [*films("tea", image="good.png"), *films("sea", image="bad.png")]

    told = run("generate", "--yes", *boards)

    assert told.code == 2
    assert "sea.json: FAILED" in told.err
    assert "Nothing was submitted" in told.err
    assert service.ledger.creations == []


def test_an_image_is_uploaded_once(service: Simulator, run: Run) -> None:
    """The check before the first payment is the upload itself."""
    Path("good.png").write_bytes(picture())

    told = run("generate", "--yes", *films("tea", image="good.png"))

    assert told.code == 0
    assert len(service.ledger.times("upload")) == 1


def test_nobody_pays_unasked(service: Simulator, run: Run) -> None:
    """In a pipe there is nobody to ask, so it must have been said before; here is how."""
    told = run("generate", *films("tea"), "-o", "to")

    assert told.code == 2
    assert "apikley generate tea.json -o to --yes" in told.err
    assert service.ledger.creations == []


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


def test_the_key_may_lie_in_a_file(
    service: Simulator, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first line is the key; a file that is open to others is warned about."""
    monkeypatch.delenv("APIKLEY_API_KEY")
    key = Path("key")
    key.write_text(f"\ufeff{service.api_key} \r\nnotes\n", encoding="utf-8")

    key.chmod(0o600)
    private = run("credits", "--key-file", key)
    key.chmod(0o644)
    public = run("credits", "--key-file", key)

    assert (private.code, private.out, private.err) == (0, "10000000\n", "")
    assert public.code == 0
    assert "chmod 600 key" in public.err


@pytest.mark.parametrize("content", [b"", b"\n", b"two words\n", b"\xff\xfe\n", None])
def test_a_file_without_a_key_is_refused(
    service: Simulator, run: Run, content: bytes | None
) -> None:
    """Before anything is sent, and without a word of what it holds."""
    if content is not None:
        Path("key").write_bytes(content)
        Path("key").chmod(0o600)

    told = run("credits", "--key-file", "key")

    assert told.code == 2
    assert "two words" not in told.err
    assert service.ledger.unauthorized == 0


@pytest.mark.parametrize("terms", [Terms(duration=Constant(0.01), decide=fate)])
def test_one_failure_is_not_anothers(service: Simulator, run: Run) -> None:
    """The others are saved; the reason is told, but it cannot paint the terminal."""
    told = run("generate", "--yes", *films("bad", "tea"))

    assert told.code == 1
    assert told.out == "films/tea.mp4\n"
    assert "bad.json: FAILED" in told.err
    assert "kittens" in told.err
    assert not set("\x1b\u202e") & set(told.err)
    assert "1 film saved in films, 1 failed" in told.err
    assert "take up" not in told.err


def test_what_blocks_one_blocks_all(service: Simulator, run: Run) -> None:
    """Without credits the rest is not even tried; the line to go on with names what is left."""
    service.script("create", [Fault.OK, Fault.code(402)])

    told = run("generate", "--yes", "--max-running", "1", *films("tea", "sea", "bee"))

    assert told.code == 4
    assert len(service.ledger.creations) == 2
    assert "sea.json: stopped" in told.err
    assert "apikley generate sea.json bee.json -o films" in told.err


@pytest.mark.parametrize("fault", [Fault.code(401), Fault.code(455), Fault.code(433)])
def test_a_closed_door_is_resumable(service: Simulator, run: Run, fault: Fault) -> None:
    service.script("create", [fault])

    told = run("generate", "--yes", *films("tea"), "--json")

    assert told.code == 4
    assert told.event("stopped")["error"]
    assert told.event("unsubmitted")["files"] == ["tea.json"]


@pytest.mark.parametrize("terms", [Terms(duration=Constant(0.01), decide=fate)])
def test_an_uncertain_submission_needs_a_decision(service: Simulator, run: Run) -> None:
    """It names the attempt and its time, and both ways to go on; that is worse than a failure."""
    service.script("create", [Fault.RESET_AFTER])

    told = run("generate", "--yes", "--json", *films("tea"), *films("bad"), "-o", "to")

    assert told.code == 3
    event = told.event("uncertain")
    assert len(event["token"]) == 32
    assert event["ended_at"]
    assert event["if_found"] == "apikley wait TASK_ID -o to"
    assert event["if_not_found"].startswith("apikley generate ")
    assert event["token"] in told.err
    assert "UNCERTAIN" in told.err
    assert [event for event in told.events if event["event"] == "unsubmitted"] == []


def test_a_command_to_go_on_with_leads_to_the_same_service(service: Simulator, run: Run) -> None:
    """It repeats the address and where the key lies."""
    Path("key").write_text(service.api_key, encoding="ascii")
    Path("key").chmod(0o600)
    service.script("create", [Fault.code(402)])
    where = ["--key-file", "key", "--base-url", service.base_url]

    told = run("generate", "--yes", "--json", *films("tea"), *where)

    assert told.event("unsubmitted")["resume"].endswith(" ".join(where))


@pytest.mark.parametrize("terms", [Terms(duration=Constant(3600))])
def test_patience_ends_and_the_film_goes_on(service: Simulator, run: Run) -> None:
    """It is bought, and the line to take it up with says where it will go."""
    told = run("generate", "--yes", *films("tea"), "--timeout", "0.1")

    (charge,) = service.ledger.paid
    assert told.code == 4
    assert f"apikley wait {charge.task_id} -o films" in told.err


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
    assert kinds >= {"submitted", "ready", "saved", "summary"}
    assert [kind for kind in kinds if f"\n    {kind} " not in helped] == []
    assert told.event("saved")["paths"] == ["films/tea.mp4"]
    assert told.event("saved")["file"] == "tea.json"
    assert told.event("summary")["saved"] == 1


# --- the other commands --------------------------------------------------------------------------


def bought(service: Simulator, run: Run, count: int = 1) -> Sequence[str]:
    """The ids of films that were bought earlier."""
    run("generate", "--yes", *films(*(f"film{number}" for number in range(count))))
    return [charge.task_id for charge in service.ledger.paid]


def test_a_film_is_taken_up_again(service: Simulator, run: Run) -> None:
    """Without a folder its link is the answer, with one its file; nothing is paid."""
    first, second = bought(service, run, 2)

    links = run("wait", first, second)
    files = run("wait", second, first, second, "-o", "to")

    assert links.code == files.code == 0
    assert links.out.splitlines() == [service.result_urls(task)[0] for task in (first, second)]
    assert files.out == f"to/{second}.mp4\nto/{first}.mp4\n"
    assert len(service.ledger.paid) == 2


def test_a_download_can_be_repeated(service: Simulator, run: Run) -> None:
    """The same film under its name is no conflict; another one is, until it is said aloud."""
    (task,) = bought(service, run)
    run("download", task, "-o", "to")

    again = run("download", task, "-o", "to")
    Path(f"to/{task}.mp4").write_bytes(b"mine")
    refused = run("download", task, "-o", "to")
    forced = run("download", task, "-o", "to", "--overwrite")

    assert (again.code, refused.code, forced.code) == (0, 2, 0)
    assert Path(f"to/{task}.mp4").read_bytes() == Path("films/film0.mp4").read_bytes()


@pytest.mark.parametrize("terms", [Terms(duration=Constant(3600))])
def test_a_download_does_not_wait(service: Simulator, run: Run) -> None:
    run("generate", "--yes", *films("tea"), "--timeout", "0.1")
    task = service.ledger.paid[0].task_id

    told = run("download", task)

    assert told.code == 4
    assert f"apikley wait {task} -o films" in told.err


def test_the_state_is_one_line(service: Simulator, run: Run) -> None:
    (task,) = bought(service, run)

    told = run("status", task, task)

    assert (told.code, told.out, told.err) == (0, f"{task}  success\n", "")


def test_an_unknown_task_is_a_failure(service: Simulator, run: Run) -> None:
    (task,) = bought(service, run)

    told = run("status", "--json", "task_0", task)

    assert told.code == 1
    assert told.event("failed")["task_id"] == "task_0"
    assert told.event("status")["task_id"] == task


@pytest.mark.parametrize("command", ["status", "wait", "download"])
def test_what_cannot_be_an_id_is_not_asked_about(
    service: Simulator, run: Run, command: str
) -> None:
    told = run(command, "two words")

    assert told.code == 2
    assert service.ledger.looks.total() == 0


def test_uploads_give_their_urls_in_order(service: Simulator, run: Run) -> None:
    """One that is no picture is named, and does not keep the others."""
    for shade, name in enumerate(("a.png", "b.png", "c.png")):
        Path(name).write_bytes(picture(shade))
    Path("b.png").write_bytes(b"no picture")

    told = run("upload", "a.png", "b.png", "c.png")

    assert told.code == 2
    assert len(told.out.splitlines()) == 2
    assert "b.png: FAILED" in told.err


def test_the_balance_is_a_number(service: Simulator, run: Run) -> None:
    assert run("credits").out == "10000000\n"
    assert run("credits", "--json").event("credits")["credits"] == 10_000_000


def test_an_address_that_must_not_have_the_key_is_refused(service: Simulator, run: Run) -> None:
    """Unencrypted is only for this machine; it is said in one line."""
    told = run("credits", "--base-url", "http://host.test")

    assert told.code == 2
    assert "base_url" in told.err
    assert told.err.count("\n") == 1


def test_a_silent_service_is_waited_for_aloud(
    service: Simulator, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Questions are repeated for a while, and whoever waits is told."""
    monkeypatch.setattr(_questions, "LATE", 0.01)
    service.script("credits", [Fault.late(0.2)])

    told = run("credits")

    assert told.code == 0
    assert "still trying" in told.err


# --- on this machine -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["generate", SHIPPED / "tea.json"],
        ["wait", "task_1", "-o", "films"],
        ["download", "task_1"],
        ["status", "task_1"],
        ["upload", SHIPPED / "kitten.png"],
        ["credits"],
    ],
)
def test_every_command_can_be_tried(
    run: Run, words: list[str | Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without key, network and question, in seconds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_stage, "SPEED", 600.0)

    told = run(*words, "--simulate")

    assert told.code == 0
    assert told.out
    assert "Simulated" in told.err


async def test_equal_storyboards_become_equal_films() -> None:
    """In whatever order they arrive; and each says at its end that it was not paid."""

    class Seeds:
        async def film(self, task: FilmOrder) -> bytes:
            return b"film %d" % task.seed

    films = _stage.Rehearsal(Seeds())
    order = FilmOrder(
        task_id="a",
        model="m",
        shots=(("Tea.", 1.0),),
        duration=1.0,
        aspect="landscape",
        image=None,
        seed=1,
        prompt=None,
    )

    once = await films.film(order)
    again = await films.film(attrs.evolve(order, task_id="b", seed=2))
    another = await films.film(attrs.evolve(order, shots=(("Sea.", 1.0),)))

    assert once == again != another
    assert once.endswith(b"freeapikley: simulated")


def test_a_key_on_the_command_line_is_refused(run: Run) -> None:
    """Whoever lists processes would see it: there is no such option, nor an echo. (S6)"""
    for words in (["--api-key=canary-0000", "credits"], ["credits", "--api-key", "canary-0000"]):
        assert run(*words).code == 2


def test_help_needs_no_extra_word(run: Run) -> None:
    """It lists the commands and the exit codes."""
    told = run("--help")

    assert told.code == 0
    for command in ("generate", "wait", "status", "download", "upload", "credits", "demo"):
        assert f"\n  {command} " in told.out
    assert "130, 143" in told.out

"""The commands, run in this process against a simulated service on loopback."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import attrs
import pytest
from cli.conftest import Run, films, picture

from apikley_async.cli import client_factory, free_call, simulated_service
from apikley_async.simulator import (
    Constant,
    Fault,
    RenderRequest,
    Simulator,
    Terms,
)

SHIPPED = Path(client_factory.__file__).with_name("storyboards")

# The commands run loops of their own, which 3.11 only misses when they are collected.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning")


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
    assert f"apikley wait -o films -- {task}" in told.err


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
    assert service.ledger.polls.total() == 0


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
    monkeypatch.setattr(free_call, "SLOW", 0.01)
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
        ["upload", SHIPPED / "kitten.webp"],
        ["credits"],
    ],
)
def test_every_command_can_be_tried(
    run: Run, words: list[str | Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without key, network and question, in seconds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(simulated_service, "SPEED", 600.0)

    told = run(*words, "--simulate")

    assert told.code == 0
    assert told.out
    assert "Simulated" in told.err


async def test_equal_storyboards_become_equal_films() -> None:
    """In whatever order they arrive; and each says at its end that it was not paid."""

    class Seeds:
        async def render(self, request: RenderRequest) -> bytes:
            return b"film %d" % request.seed

    renderer = simulated_service.RehearsalRenderer(Seeds())
    request = RenderRequest(
        task_id="a",
        model="m",
        shots=(("Tea.", 1.0),),
        duration=1.0,
        aspect="landscape",
        image=None,
        seed=1,
        prompt=None,
    )

    once = await renderer.render(request)
    again = await renderer.render(attrs.evolve(request, task_id="b", seed=2))
    another = await renderer.render(attrs.evolve(request, shots=(("Sea.", 1.0),)))

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

"""`apikley wait`, `download` and `status`: tasks that are paid already."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from cli.conftest import Run, write_films

from apikley_async.cli import client_factory
from apikley_async.simulator import (
    Constant,
    Simulator,
    Terms,
)

SHIPPED = Path(client_factory.__file__).with_name("storyboards")

# The commands run loops of their own, which 3.11 only misses when they are collected.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning")


# --- the other commands --------------------------------------------------------------------------


def paid_tasks(service: Simulator, run: Run, count: int = 1) -> Sequence[str]:
    """The ids of films that were paid earlier."""
    run("generate", "--yes", *write_films(*(f"film{number}" for number in range(count))))
    return [charge.task_id for charge in service.ledger.paid]


def test_wait_finds_films_of_an_earlier_command(service: Simulator, run: Run) -> None:
    """Without a folder it prints links, with one file names; nothing is paid."""
    first, second = paid_tasks(service, run, 2)

    links = run("wait", first, second)
    files = run("wait", second, first, second, "-o", "to")

    assert links.code == files.code == 0
    assert links.out.splitlines() == [service.result_urls(task)[0] for task in (first, second)]
    assert files.out == f"to/{second}.mp4\nto/{first}.mp4\n"
    assert len(service.ledger.paid) == 2


def test_a_download_can_be_repeated(service: Simulator, run: Run) -> None:
    """The same film under its name is no conflict; another one is, unless --overwrite is given."""
    (task,) = paid_tasks(service, run)
    run("download", task, "-o", "to")

    again = run("download", task, "-o", "to")
    Path(f"to/{task}.mp4").write_bytes(b"mine")
    refused = run("download", task, "-o", "to")
    forced = run("download", task, "-o", "to", "--overwrite")

    assert (again.code, refused.code, forced.code) == (0, 2, 0)
    assert re.search(r"The film is at the service until 2\S+ \S+ .*UTC", refused.err)
    assert Path(f"to/{task}.mp4").read_bytes() == Path("films/film0.mp4").read_bytes()


@pytest.mark.parametrize("terms", [Terms(duration=Constant(3600))])
def test_a_download_does_not_wait(service: Simulator, run: Run) -> None:
    """The command that waits is printed."""
    run("generate", "--yes", *write_films("tea"), "--timeout", "0.1")
    task = service.ledger.paid[0].task_id

    result = run("download", task)

    assert result.code == 4
    assert f"apikley wait -o films {task}" in result.err


def test_status_prints_one_line_for_each_task(service: Simulator, run: Run) -> None:
    """A task that is named twice is polled once."""
    (task,) = paid_tasks(service, run)

    result = run("status", task, task)

    assert (result.code, result.out, result.err) == (0, f"{task}  success\n", "")


def test_an_unknown_task_is_a_failure(service: Simulator, run: Run) -> None:
    """The other tasks are reported all the same."""
    (task,) = paid_tasks(service, run)

    result = run("status", "--json", "task_0", task)

    assert result.code == 1
    assert result.event("failed")["task_id"] == "task_0"
    assert result.event("status")["task_id"] == task


def test_an_invalid_id_is_refused_before_any_request(service: Simulator, run: Run) -> None:
    """By every command that takes ids."""
    codes = {command: run(command, "two words").code for command in ("status", "wait", "download")}

    assert codes == {"status": 2, "wait": 2, "download": 2}
    assert service.ledger.polls.total() == 0

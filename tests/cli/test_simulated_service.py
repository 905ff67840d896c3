"""`--simulate`: every command can be tried, and a rehearsal never blocks the real run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest
from cli.conftest import Run, write_films
from volume import LONG

from apikley_async.batch import REHEARSAL_MARK
from apikley_async.cli import simulated_service, simulator_server
from apikley_async.cli.client_factory import client_for
from apikley_async.cli.options import ServiceOptions
from apikley_async.cli.simulator_server import WatchedRenderer
from apikley_async.simulator import (
    RenderRequest,
    Simulator,
)

SETTINGS: dict[str, Any] = {
    "speed": 60.0,
    "films": None,
    "limit": 20,
    "per": 10.0,
    "max_running": 100,
    "seed": 0,
    "balance": 1e6,
    "fail_rate": 0.0,
    "faults": (),
    "latency": None,
    "webhook_key": None,
}
SHIPPED = Path(simulated_service.__file__).with_name("storyboards")

pytestmark = pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning")


def test_every_command_can_be_simulated(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without key, network and question, in seconds; by default its films are not rendered."""
    monkeypatch.chdir(tmp_path)
    if not LONG:
        monkeypatch.setattr(simulated_service, "rendering_available", lambda: False)
    monkeypatch.setattr(simulated_service, "SPEED", 600.0)
    failures = []
    for words in (
        ["generate", SHIPPED / "tea.json"],
        ["wait", "task_1", "-o", "films"],
        ["download", "task_1"],
        ["status", "task_1"],
        ["upload", SHIPPED / "kitten.webp"],
        ["credits"],
    ):
        result = run(*words, "--simulate")
        if result.code != 0 or not result.out or "Simulated" not in result.err:
            failures.append((words, result))

    assert failures == []


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


async def test_films_that_rendering_holds_up_are_said_once() -> None:
    """With what helps; where they come in time nothing is said."""

    class Film:
        async def render(self, request: RenderRequest) -> bytes:
            return b"film"

    said: dict[float, list[str]] = {1.0: [], 1e12: []}
    request = RenderRequest("a", "m", (("Tea.", 1.0),), 1.0, "landscape", None, 1, None)
    for speed, lines in said.items():
        renderer = WatchedRenderer(Film(), speed, lines.append)
        assert [await renderer.render(request) for _ in range(3)] == [b"film"] * 3

    assert said[1.0] == []
    assert len(said[1e12]) == 1
    assert "--films placeholder" in said[1e12][0]


@pytest.mark.usefixtures("placeholder_films")
def test_a_rehearsal_does_not_block_the_real_run(
    service: Simulator, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its films have the real ones' names and are replaced by them; it keeps no journal."""
    monkeypatch.setattr(simulated_service, "SPEED", 600.0)
    line = ("generate", *write_films("tea"))

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


@pytest.mark.parametrize("available", [True, False])
def test_films_that_cannot_be_drawn_are_announced(
    run: Run, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], available: bool
) -> None:
    """In one line, with what to install; not where they show their storyboards, or none is made."""
    monkeypatch.setattr(simulated_service, "rendering_available", lambda: available)
    said: list[str] = []

    assert "placeholder" not in run("credits", "--simulate").err
    client_for(ServiceOptions(simulate=True))
    note = capfd.readouterr().err
    simulator = simulator_server.new_simulator("127.0.0.1", 0, **SETTINGS, say=said.append)
    del simulator

    for text in (note, "\n".join(said)):
        assert text.count("the same placeholder") == (not available), text
        assert text.count('pip install ".[cli,simulator]"') == (not available), text


@pytest.mark.usefixtures("placeholder_films")
def test_a_rehearsal_is_resumed_as_a_rehearsal(
    service: Simulator, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The printed command has --simulate too."""
    monkeypatch.setattr(simulated_service, "SPEED", 1.0)

    result = run("generate", "--simulate", *write_films("tea"), "--timeout", "0.2")

    assert result.code == 4
    assert "To go on: apikley generate --simulate tea.json --timeout 0.2" in result.err

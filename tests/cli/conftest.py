"""What the tests of commands share: a service on loopback, and a way to run a command."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from apikley_async import Backoff, Client
from apikley_async.cli import client_factory, main, simulated_service
from apikley_async.cli.events import EVENTS
from apikley_async.simulator import Constant, Failure, Simulator, TaskRequest, Terms

__all__ = [
    "CommandResult",
    "Run",
    "edit_film",
    "fail_bad_films",
    "grey_png",
    "write_films",
    "write_manifest",
]


@attrs.frozen
class CommandResult:
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str

    @property
    def events(self) -> list[dict[str, Any]]:
        """What was printed with `--json`; nothing but what the list of events names."""
        events = [json.loads(line) for line in self.out.splitlines()]
        for event in events:
            listed = {"event", "at", *EVENTS[event["event"]].facts.split()}
            assert event.keys() <= listed, event
        return events

    def event(self, name: str) -> dict[str, Any]:
        """The only event of that name."""
        (event,) = [event for event in self.events if event["event"] == name]
        return event


Run = Callable[..., CommandResult]


def fail_bad_films(request: TaskRequest) -> Failure | None:
    """Films with "bad" in their scene fail, with control characters in the reason."""
    failed = "bad" in request.shots[0][0]
    return Failure("400", "\x1b[31mno\n\u202ekittens") if failed else None


def grey_png(shade: int = 0, side: int = 64) -> bytes:
    """A valid PNG, all of one grey."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    rows = zlib.compress((b"\0" + bytes([shade]) * side) * side)
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", rows), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def write_films(*names: str, **fields: object) -> list[str]:
    """Write a storyboard for each name into the current folder; returns the files."""
    for name in names:
        board = {"shots": [{"scene": name, "duration": 10}], "duration": 10, **fields}
        Path(f"{name}.json").write_text(json.dumps(board), encoding="utf-8")
    return [f"{name}.json" for name in names]


def write_manifest(*keys: str, name: str = "campaign.jsonl") -> Path:
    """Write a manifest with a film for each key into the current folder."""
    films = (
        {"key": key, "shots": [{"scene": f"{key} at dawn", "duration": 10}], "duration": 10}
        for key in keys
    )
    path = Path(name)
    path.write_text("".join(json.dumps(film) + "\n" for film in films), encoding="utf-8")
    return path


def edit_film(name: str) -> None:
    """Let a file describe another film."""
    board = {"shots": [{"scene": f"Another {name}", "duration": 10}], "duration": 10}
    Path(f"{name}.json").write_text(json.dumps(board), encoding="utf-8")


@pytest.fixture
def terms() -> Terms:
    """What the service promises; a test may override it."""
    return Terms(duration=Constant(0.01))


@pytest.fixture
def service(terms: Terms, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Simulator]:
    """A service that environment variables name, polled without the usual delays."""
    key = "canary-0000-this-key-opens-nothing"
    with Simulator(terms, api_key=key, hosts=["localhost"]) as simulator:
        monkeypatch.setenv("APIKLEY_BASE_URL", simulator.base_url)
        monkeypatch.setenv("APIKLEY_API_KEY", simulator.api_key)
        monkeypatch.setattr(client_factory, "Client", quick_client)
        monkeypatch.chdir(tmp_path)
        yield simulator
        assert simulator.ledger.leaks == []


def quick_client(*args: Any, **options: Any) -> Client:
    """A client that polls without the usual delays, unless it is called."""
    quick = None if options.get("callback") else Backoff(initial=0.02, factor=1)
    return Client(*args, polling=quick, **options)


@pytest.fixture
def placeholder_films(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated services render the same small film for all: a test about journals is quick."""
    monkeypatch.setattr(simulated_service, "rendering_available", lambda: False)


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run one command, with its output in a pipe."""

    def run_it(*words: str | Path) -> CommandResult:
        code = main([str(word) for word in words])
        output = capfd.readouterr()
        assert "Traceback" not in output.err
        assert "canary" not in output.out + output.err
        return CommandResult(code, output.out, output.err)

    return run_it

"""`apikley upload` and `credits`, and how a call of the service is made."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli.conftest import Run, grey_png

from apikley_async.cli import free_call
from apikley_async.simulator import (
    Fault,
    Simulator,
)

pytestmark = pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning")


def test_upload_prints_urls_in_order(service: Simulator, run: Run) -> None:
    """A file that is no picture is named, and does not stop the others."""
    for shade, name in enumerate(("a.png", "b.png", "c.png")):
        Path(name).write_bytes(grey_png(shade))
    Path("b.png").write_bytes(b"no picture")

    result = run("upload", "a.png", "b.png", "c.png")

    assert result.code == 2
    assert len(result.out.splitlines()) == 2
    assert "b.png: FAILED" in result.err


def test_credits_prints_the_balance(service: Simulator, run: Run) -> None:
    """As a number, and as an event."""
    assert run("credits").out == "10000000\n"
    assert run("credits", "--json").event("credits")["credits"] == 10_000_000


def test_an_unencrypted_address_is_refused(service: Simulator, run: Run) -> None:
    """The key goes over http to this machine only."""
    result = run("credits", "--base-url", "http://host.test")

    assert result.code == 2
    assert "base_url" in result.err
    assert result.err.count("\n") == 1


def test_a_slow_answer_is_announced(
    service: Simulator, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call is retried for a while, and the user is result."""
    monkeypatch.setattr(free_call, "SLOW", 0.01)
    service.script("credits", [Fault.late(0.2)])

    result = run("credits")

    assert result.code == 0
    assert "still trying" in result.err

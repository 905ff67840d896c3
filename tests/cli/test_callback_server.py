"""Callbacks on the command line: a batch that receives them, and a separate receiver."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli.conftest import Run, write_manifest
from forked_process import ForkedProcess
from rawserver import reserved_port

from apikley_async.cli import main
from apikley_async.cli.output.sentences import sentence
from apikley_async.simulator import Fault, Simulator
from apikley_async.webhook import Inbox, token_secret

pytestmark = pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning")


def test_a_batch_receives_callbacks(service: Simulator, run: Run) -> None:
    """A submission whose answer was lost is found by its callback, without a decision. (A1)"""
    service.script("create", [Fault.OK, Fault.RESET_AFTER])

    with reserved_port() as port:
        at = f"127.0.0.1:{port}"
        hooks = ("--callback-url", f"http://{at}/hooks", "--listen", at)
        result = run("batch", "run", "--yes", write_manifest("tea", "sea", "bee"), *hooks)

    assert result.code == 0
    assert len(service.ledger.creations) == 3
    assert sum(service.ledger.polls.values()) <= 6
    assert {call.status for call in service.ledger.callbacks} == {200}


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """`apikley webhook serve` as a process; yields its port and its inbox."""
    inbox = tmp_path / "calls.db"
    words = ("webhook", "serve", "--json", "--inbox", str(inbox), "--port", "0")
    with contextlib.closing(ForkedProcess(main, *words, cwd=tmp_path, env=os.environ)) as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["port"], inbox


def test_a_batch_reads_the_inbox_of_a_receiver(
    service: Simulator, run: Run, receiver: tuple[int, Path]
) -> None:
    """The receiver stores callbacks whether or not the batch is running. (W8)"""
    port, inbox = receiver
    service.script("create", [Fault.RESET_AFTER])
    hooks = ("--callback-url", f"http://127.0.0.1:{port}/hooks", "--inbox", inbox)

    result = run("batch", "run", "--yes", write_manifest("tea"), *hooks)

    assert result.code == 0
    assert len(service.ledger.creations) == 1
    assert inbox.exists()


def test_an_acknowledged_callback_is_stored(receiver: tuple[int, Path]) -> None:
    """Before the answer is sent, and below any prefix. (W8)"""
    port, inbox = receiver
    token = "0123456789abcdef" * 2
    asked = urllib.request.Request(
        f"http://127.0.0.1:{port}/any/prefix/{token}",
        data=b'{"data": {"taskId": "task_1"}}',
        headers={"Content-Type": "application/json"},
        method="POST",
    )
    with urllib.request.urlopen(asked, timeout=10) as answer:  # noqa: S310 - loopback
        assert answer.status == 200

    async def stored_callbacks() -> list[tuple[str, str]]:
        async with Inbox(inbox) as stored:
            notifications, _ = await stored.read_after(None)
            return [(each.token, each.task_id) for each in notifications]

    assert asyncio.run(stored_callbacks()) == [(token, "task_1")]


def test_a_receiver_says_that_it_is_well(receiver: tuple[int, Path]) -> None:
    """For whoever watches it; any other GET is refused as before."""
    port, _ = receiver

    with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=10) as answer:
        assert (answer.status, answer.read()) == (200, b"ok")
    with pytest.raises(urllib.error.HTTPError, match="405"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz/x", timeout=10)


def test_a_receiver_says_once_what_its_gate_is(tmp_path: Path) -> None:
    """Not in the library's words too."""
    words = ("webhook", "serve", "--json", "--inbox", "calls.db", "--port", "0")
    with contextlib.closing(ForkedProcess(main, *words, cwd=tmp_path, env=os.environ)) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=20)

    assert err.count("whoever knows the address can fill the inbox") == 1
    assert "Gate: none: whoever" in err


IMPOSSIBLE: list[tuple[list[str], str]] = [
    (["--listen", "127.0.0.1:8787"], "--callback-url"),
    (["--inbox", "calls.db"], "--callback-url"),
    (["--callback-url", "ftp://hooks.test"], "https"),
    (["--callback-url", "https://hooks.test/?a=b"], "query"),
    (["--callback-url", "https://hooks.test", "--listen", "8787"], "HOST:PORT"),
    (["--callback-url", "https://a.test", "--listen", "a:1", "--inbox", "b"], "--listen or"),
    (["--callback-url", "https://a.test", "--hmac-key-file", "missing"], "cannot be read"),
]


def test_callback_options_that_cannot_work_are_refused(service: Simulator, run: Run) -> None:
    """Before anything is sent; the message names the option."""
    manifest = write_manifest("tea")
    failures = []
    for words, message in IMPOSSIBLE:
        result = run("batch", "run", "--yes", manifest, *words)
        if result.code != 2 or message not in result.err:
            failures.append((words, result))

    assert failures == []
    assert service.ledger.creations == []


def test_a_port_in_use_is_reported(
    service: Simulator, run: Run, receiver: tuple[int, Path]
) -> None:
    """And nothing is sent."""
    port, _ = receiver
    hooks = ("--callback-url", "https://hooks.test", "--listen", f"127.0.0.1:{port}")

    result = run("batch", "run", "--yes", write_manifest("tea"), *hooks)

    assert result.code == 2
    assert f"cannot listen on 127.0.0.1:{port}" in result.err
    assert service.ledger.creations == []


def test_a_receiver_needs_only_the_token_secret(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`webhook secret` prints it, `webhook serve` takes it and prints what it requires. (W2)"""
    key = "canary-key-that-opens-nothing"
    monkeypatch.setenv("APIKLEY_API_KEY", key)
    file = tmp_path / "secret"
    printed = run("webhook", "secret")
    file.write_text(printed.out, encoding="utf-8")
    file.chmod(0o600)

    assert (printed.code, printed.out.strip()) == (0, token_secret(key))
    assert key not in printed.out + printed.err
    monkeypatch.delenv("APIKLEY_API_KEY")
    assert run("webhook", "secret").code == 2
    facts = {"host": "h", "port": 1, "inbox": "i", "gate": "none: anybody", "name": ""}
    assert "Gate: none: anybody" in str(sentence("receiving", facts))
    file.write_text("not a secret", encoding="utf-8")
    refused = run("webhook", "serve", "--inbox", tmp_path / "a.db", "--token-secret-file", file)
    assert "token_secrets[0]: 64 hexadecimal digits" in refused.err


def test_keys_come_from_a_file_or_the_environment(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One a line, never echoed; if other users can read the file, a warning says so. (S12)"""
    from apikley_async.cli.callback_server import read_hmac_keys

    file = tmp_path / "keys"
    file.write_text("first-word\nsecond-word\n", encoding="utf-8")
    file.chmod(0o600)

    assert read_hmac_keys(file) == ["first-word", "second-word"]
    monkeypatch.setenv("APIKLEY_WEBHOOK_HMAC_KEY", "third-word")
    assert read_hmac_keys(None) == ["third-word"]
    file.write_text("\n", encoding="utf-8")
    result = run("webhook", "serve", "--inbox", tmp_path / "a.db", "--hmac-key-file", file)
    assert result.code == 2
    assert "it is empty" in result.err

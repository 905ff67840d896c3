"""What strangers have named or said does nothing to the terminal it is shown on."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import unicodedata
from pathlib import Path

import pytest
from cli.conftest import Run

from apikley_async.cli import main
from apikley_async.cli.options import ServiceOptions
from apikley_async.cli.output.shell_words import command_line, joined
from apikley_async.cli.output.terminal_text import HIDDEN, JOINERS, clean
from apikley_async.simulator import Simulator

pytestmark = pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning")

EVIL = "x\x1b]0;owned\x07\x1b[2J\r\u202egpj\x9b"
FILM = '{"key": "a", "shots": [{"scene": "Rain.", "duration": 15}]}\n'


def does_something(text: str) -> list[str]:
    """The letters of a text that a terminal would obey."""
    return [
        letter
        for letter in text
        if letter != "\n" and letter not in JOINERS and unicodedata.category(letter) in HIDDEN
    ]


def test_no_command_repeats_what_a_terminal_would_obey(
    service: Simulator, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names of files, ids, options and prices, wherever they are refused or asked about. (S11)"""
    manifest, journal = Path(f"{EVIL}.jsonl"), f"{EVIL}.db"
    manifest.write_text(FILM, encoding="utf-8")
    Path(f"{EVIL}.csv").write_text(f"key,scene,duration,{EVIL}\na,Rain.,15,\n", encoding="utf-8")
    Path(f"{EVIL}.json").write_text("{", encoding="utf-8")
    lines = [
        ("batch", "run", manifest),
        ("generate", manifest),
        ("generate", f"{EVIL}.json"),
        ("check", f"{EVIL}.csv"),
        ("check", f"{EVIL}.nothing"),
        ("batch", "run", f"{EVIL}.nothing", "--yes"),
        ("batch", "status", journal),
        ("batch", "run", manifest, "-o", f"{EVIL}/x/../{EVIL}"),
        ("batch", "run", manifest, "--price", EVIL),
        ("batch", "run", manifest, "--key-file", EVIL),
        ("batch", "run", manifest, "--base-url", f"http://{EVIL}"),
        ("batch", "run", manifest, "--callback-url", f"http://{EVIL}"),
        ("batch", "run", manifest, f"--{EVIL}"),
        ("batch", EVIL),
        (EVIL,),
        ("status", EVIL),
        ("wait", EVIL),
        ("download", EVIL),
        ("upload", f"{EVIL}.csv"),
        ("webhook", "serve", "--inbox", f"{EVIL}.csv"),
        ("simulate", "--fault", f"{EVIL}=1"),
        ("simulate", "--host", EVIL),
        ("preview", f"{EVIL}.json", "--films", "placeholder"),
    ]
    wrong = {}
    for line in lines:
        told = run(*line)
        if does_something(told.out) or does_something(told.err):
            wrong[line] = told

    assert wrong == {}
    assert service.ledger.creations == []


def test_what_the_library_warns_of_is_harmless_too(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Warnings reach the terminal where nobody else shows them, and repeat words of others."""
    logger = logging.getLogger("apikley_async")
    before = [*logger.handlers]
    from apikley_async.cli.app import library_warnings

    roots, logging.root.handlers = logging.root.handlers, []
    try:
        with library_warnings():
            logger.warning("the service says %s", EVIL)
    finally:
        logging.root.handlers = roots

    told = capsys.readouterr().err
    assert "the service says x\\x1b]0;owned" in told
    assert not does_something(told)
    assert logger.handlers == before


def test_a_fault_of_ours_has_its_own_code_and_is_harmless(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What nobody has foreseen is shown, and told from what was refused."""

    def fault(*_: object, **__: object) -> int:
        raise RuntimeError(EVIL)

    monkeypatch.setattr("apikley_async.cli.commands.check.check_files", fault)

    assert main(["check", __file__]) == 70
    told = capsys.readouterr().err
    assert "RuntimeError: x\\x1b]0;owned" in told
    assert not does_something(told)


def test_a_text_of_several_lines_keeps_its_lines() -> None:
    assert clean("a\nb\x1b[1m\n") == "a\nb\\x1b[1m\n"


def test_the_network_of_a_command_is_that_of_the_library(
    service: Simulator, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--proxy` and `--allow-private` reach the client; a password is in no line to go on. (S4)"""
    Path("a.jsonl").write_text(FILM, encoding="utf-8")
    proxy = "http://me:opens-nothing@127.0.0.1:9"
    words = ("--proxy", proxy, "--allow-private")
    refused = run("batch", "run", "a.jsonl", *words)

    assert refused.code == 2
    assert "--proxy 'http://me:***@127.0.0.1:9' --allow-private" in refused.err
    assert "opens-nothing" not in refused.err
    wrong = run("credits", "--proxy", "socks5://me:opens-nothing@a.test")
    assert (wrong.code, "opens-nothing" in wrong.err) == (2, False)
    assert "proxy: an http(s) URL" in wrong.err
    assert ServiceOptions(proxy=proxy, allow_private=True).words == (
        *("--proxy", "http://me:***@127.0.0.1:9"),
        "--allow-private",
    )
    assert run("credits", *words).code == 0  # no proxy leads to this machine


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_a_printed_command_is_what_was_meant_and_nothing_else(tmp_path: Path) -> None:
    """Typed into a shell it is the same words again; what looks like an option is a name. (S11)"""
    words = [EVIL, "it's \\ a\nlie", "$(touch owned)", "`id`", "--yes", "a b", "\udcff\udc80é", "ы"]
    for line in (joined(words), command_line("wait", names=words)):
        assert not does_something(line)
        told = subprocess.run(
            ["bash", "-c", f"apikley() {{ printf '%s\\0' \"$@\"; }}; printf '%s\\0' {line}"],
            capture_output=True,
            check=True,
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
        ).stdout
        found = [os.fsdecode(word) for word in told.split(b"\0")[:-1]]
        assert found[-len(words) :] == words

    assert not [*tmp_path.iterdir()]
    assert command_line("wait", names=["--base-url=http://evil.test"]).split()[2] == "--"

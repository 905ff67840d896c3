"""Nothing that others have named or said controls the terminal it is printed on."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import unicodedata
from pathlib import Path

import pytest
from cli.conftest import Run

from apikley_async.cli import main
from apikley_async.cli.exit_codes import RefusedError
from apikley_async.cli.options import ServiceOptions
from apikley_async.cli.output.shell_words import command_line, joined
from apikley_async.cli.output.terminal_text import HIDDEN, JOINERS, clean, plain
from apikley_async.simulator import Simulator

pytestmark = pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning")

EVIL = "x\x1b]0;owned\x07\x1b[2J\r\u202egpj\x9b"
FILM = '{"key": "a", "shots": [{"scene": "Rain.", "duration": 15}]}\n'


def control_characters(text: str) -> list[str]:
    """The characters of a text that a terminal would obey."""
    return [
        character
        for character in text
        if character not in JOINERS + "\n" and unicodedata.category(character) in HIDDEN
    ]


def test_no_command_prints_control_characters(
    service: Simulator, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From names of files, ids, options and prices, wherever they are shown. (S11)"""
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
        result = run(*line)
        if control_characters(result.out) or control_characters(result.err):
            wrong[line] = result

    assert wrong == {}
    assert service.ledger.creations == []


def test_library_warnings_are_safe_to_print(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """If no log handler takes them they are printed, with the time; they may repeat any words."""
    logger = logging.getLogger("apikley_async")
    before = [*logger.handlers]
    from apikley_async.cli.app import library_warnings

    roots, logging.root.handlers = logging.root.handlers, []
    try:
        with library_warnings():
            logger.warning("the service says %s", EVIL)
            logging.getLogger("psycopg.pool").warning("error connecting in 'pool-1'")
            logging.getLogger("procrastinate.worker").error("a stack of somebody else's")
    finally:
        logging.root.handlers = roots

    result = capsys.readouterr().err
    assert "pool-1" not in result, "what it means is said in words of our own"
    assert "somebody else" not in result
    time = r"\d\d-\d\d \d\d:\d\d:\d\d (UTC|\(\d\d:\d\d:\d\d UTC\))"
    assert re.match(time + re.escape(": the service says x\\x1b]0;owned"), result)
    assert not control_characters(result)
    assert logger.handlers == before


def test_an_internal_error_has_its_own_exit_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its traceback is safe to print."""

    def fault(*_: object, **__: object) -> int:
        raise RuntimeError(EVIL)

    monkeypatch.setattr("apikley_async.cli.commands.check.check_files", fault)

    assert main(["check", __file__]) == 70
    result = capsys.readouterr().err
    assert "RuntimeError: x\\x1b]0;owned" in result
    assert not control_characters(result)


def test_a_refusal_is_safe_to_print(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever wrote its message: some versions of click repeat what was typed as it is."""

    def refuse(*_: object, **__: object) -> int:
        raise RefusedError(EVIL)

    monkeypatch.setattr("apikley_async.cli.commands.check.check_files", refuse)

    assert main(["check", __file__]) == 2
    printed = capsys.readouterr().err
    assert "x\\x1b]0;owned" in printed
    assert not control_characters(printed)


def test_a_text_of_several_lines_keeps_its_lines() -> None:
    """Only other control characters are escaped."""
    assert clean("a\nb\x1b[1m\n") == "a\nb\\x1b[1m\n"


def test_network_options_reach_the_client(
    service: Simulator, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--proxy` and `--allow-private`; no printed command has the proxy's password. (S4)"""
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
def test_a_printed_command_is_safe_to_type(tmp_path: Path) -> None:
    """In a shell it is the same words; a name that looks like an option is a name. (S11)"""
    words = [EVIL, "it's \\ a\nlie", "$(touch owned)", "`id`", "--yes", "a b", "\udcff\udc80é", "ы"]
    for line in (joined(words), command_line("wait", names=words)):
        assert not control_characters(line)
        result = subprocess.run(
            ["bash", "-c", f"apikley() {{ printf '%s\\0' \"$@\"; }}; printf '%s\\0' {line}"],
            capture_output=True,
            check=True,
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
        ).stdout
        found = [os.fsdecode(word) for word in result.split(b"\0")[:-1]]
        assert found[-len(words) :] == words

    assert not [*tmp_path.iterdir()]
    assert command_line("wait", names=["--base-url=http://evil.test"]).split()[2] == "--"
    assert command_line("wait", names=["tea"]) == "apikley wait tea"  # an option may follow


def test_plain_text_has_no_control_characters() -> None:
    """Control and direction characters become visible; words stay as they are."""
    table = [
        ("\x1b[31mred\x1b]0;title\x07", "\\x1b[31mred\\x1b]0;title\\x07"),
        ("a\r\nb\tc", "a\\r\\nb\\tc"),
        ("\u202etxt.exe\u2066\u200f", "\\u202etxt.exe\\u2066\\u200f"),
        ("\x9b31m\u2028\udc80", "\\x9b31m\\u2028\\udc80"),
        ("Вечерний 'вокзал' \\ ελιές 👩\u200d🚀", "Вечерний 'вокзал' \\ ελιές 👩\u200d🚀"),
    ]

    assert [ascii(text) for text, shown in table if plain(text) != shown] == []

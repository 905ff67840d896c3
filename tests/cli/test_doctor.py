"""`apikley doctor`: a wrong key, a wrong clock, a film host that refuses, and what is kept."""

from __future__ import annotations

import asyncio
import json
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from cli.conftest import CommandResult, Run, write_films

from apikley_async import Client, Shot, Storyboard
from apikley_async.cli import doctor
from apikley_async.cli.doctor import Doctor
from apikley_async.cli.options import ServiceOptions
from apikley_async.cli.output.reporter import LineView, Reporter
from apikley_async.cli.simulator_server import read_recording
from apikley_async.simulator import Constant, Fault, Simulator, Terms

pytestmark = pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning")


def findings(result: CommandResult) -> dict[str, tuple[bool | None, str]]:
    """What was found, by what was checked."""
    return {
        event["check"]: (event.get("right"), event["message"])
        for event in result.events
        if event["event"] == "finding"
    }


def made(run: Run, service: Simulator) -> str:
    """The task of a film that was made."""
    write_films("tea")
    assert run("generate", "tea.json", "--yes").code == 0
    return service.ledger.paid[0].task_id


def test_a_healthy_service(service: Simulator, run: Run) -> None:
    """All checks, each a line, and nothing is paid."""
    result = run("doctor")

    checks = ("network", "clock", "key", "polling", "upload")
    assert (result.code, [line[:5] for line in result.out.splitlines()]) == (0, ["ok   "] * 5)
    assert [*findings(run("doctor", "--json"))] == [*checks]
    assert "9999" not in result.err
    assert service.ledger.creations == []


def test_no_proxy_leads_to_this_machine(service: Simulator, run: Run) -> None:
    """One that nobody answers at does no harm then."""
    result = run("doctor", "--proxy", "http://127.0.0.1:9", "--json")

    assert result.code == 0
    assert "proxy" not in findings(result)["network"][1]


def test_a_wrong_key(service: Simulator, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """One cause, one line: what needs the key is not tried; the way there and the clock are."""
    monkeypatch.setenv("APIKLEY_API_KEY", "another-key-that-opens-nothing")

    found = findings(result := run("doctor", "task_1", "--json"))
    printed = run("doctor", "task_1")

    assert result.code == 1
    assert result.event("end")["reason"].endswith("a check found a fault")
    assert "key" in found["key"][1].lower()
    assert [found[check][0] for check in ("network", "clock", "key")] == [True, True, False]
    skipped = dict.fromkeys(
        ("polling", "upload", "task task_1"), (None, "not tried: the key is wrong")
    )
    assert {check: found[check] for check in skipped} == skipped
    assert [line.split()[0] for line in printed.out.splitlines()] == [
        *("ok", "ok", "WRONG"),
        *("-", "-", "-"),
    ]
    assert len(service.ledger.arrivals("record")) == len(service.ledger.arrivals("upload")) == 0


def test_a_gateway_that_refuses_is_not_the_key(service: Simulator, run: Run) -> None:
    """The other ways to the service may be open."""
    service.script("credits", [Fault.http(403, page=True)])

    found = findings(result := run("doctor", "--json"))

    assert result.code == 1
    assert "says nothing of the key" in found["key"][1]
    assert (found["polling"][0], found["upload"][0]) == (True, True)


def test_one_cause_is_wrong_once(service: Simulator, run: Run) -> None:
    """Each check is made, since another one might show more."""
    for endpoint in ("credits", "record", "upload"):
        service.script(endpoint, [Fault.code(505)] * 9)

    result = run("doctor")

    assert result.code == 1
    assert [line.split()[0] for line in result.out.splitlines()] == ["ok", "ok", "WRONG", "-", "-"]
    assert result.out.count("for the same reason as key") == 2


@pytest.mark.parametrize(
    ("seconds", "found"),
    [
        (600, "WRONG  clock: this machine is 10 min ahead of the service."),
        (-7200, "WRONG  clock: this machine is 2 h 00 min behind the service."),
        (30, "ok     clock: as the service's"),
    ],
)
def test_a_wrong_clock(
    service: Simulator, seconds: float, found: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """In which direction, and how far."""

    async def examine() -> int:
        reporter = Reporter(LineView(), as_json=False)
        async with Client() as client:
            wrong = Doctor(client, ServiceOptions(), reporter, wall=lambda: time.time() + seconds)
            code = await wrong.examine([])
        reporter.close()
        return code

    assert asyncio.run(examine()) == (abs(seconds) > 60)
    assert found in capfd.readouterr().out


def test_a_wrong_clock_is_rehearsed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a simulator whose calendar is ahead, as that of `apikley simulate --clock-offset`."""
    with Simulator(Terms(clock_offset=3600)) as ahead:
        monkeypatch.setenv("APIKLEY_BASE_URL", ahead.base_url)
        monkeypatch.setenv("APIKLEY_API_KEY", ahead.api_key)
        found = findings(result := run("doctor", "--json"))

    assert result.code == 1
    assert [check for check, (right, _) in found.items() if not right] == ["clock"]
    assert found["clock"][1].startswith("this machine is 1 h 00 min behind the service")


def test_a_service_that_is_not_there(
    service: Simulator, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APIKLEY_BASE_URL", "http://127.0.0.1:9")

    found = findings(result := run("doctor", "--json"))

    assert result.code == 1
    assert found["network"][1].startswith("127.0.0.1: IPv4 fails: ")
    assert [*found] == ["network"]


def test_a_film_and_its_host(service: Simulator, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a finished task the first bytes of its film are read; nothing is saved."""
    monkeypatch.setattr(doctor, "FIRST_BYTES", 3.0)
    task = made(run, service)

    fine = findings(run("doctor", task, "--json"))[f"task {task}"]
    service.script("file", [Fault.http(403)] * 1000)
    refused = findings(result := run("doctor", task, "--json"))[f"task {task}"]

    assert fine[0]
    assert fine[1].startswith("success; the film comes from 127.0.0.1")
    assert (result.code, refused[0]) == (1, False)
    assert "the film does not come from 127.0.0.1: its host answers HTTP 403" in refused[1]


def test_records_keep_the_form_and_nothing_that_they_say(service: Simulator, run: Run) -> None:
    """No prompt, link, balance or token, and nobody else may read them."""
    task = made(run, service)

    assert run("doctor", task, "--record", "kept").code == 0
    assert run("doctor", task, "--record", "kept").code == 0

    first, second = sorted(Path("kept").iterdir())
    text = first.read_text(encoding="utf-8")
    form = json.loads(text)
    assert (first.name, second.name) == ("record-1.json", "record-2.json")
    assert form["fields"]["param"]["type"] == "str"
    assert form["fields"]["param"]["length"] > 50
    assert (form["state"], form["model"]) == ("success", "sora-2-pro-storyboard")
    assert form["hosts"] == ["127.0.0.1"]
    assert stat.S_IMODE(first.stat().st_mode) == 0o600
    assert not [word for word in ("tea", "http", task, "150") if word in text]


def test_a_recording_is_replayed(service: Simulator, run: Run) -> None:
    """What the simulator answers has the recorded form, and its film can be saved."""
    task = made(run, service)
    assert run("doctor", task, "--record", "kept").code == 0
    recording = Path("kept/record-1.json")
    form = json.loads(recording.read_text(encoding="utf-8"))
    assert form["fields"]["resultJson"]["json"]["fields"]["resultUrls"]["items"]["link"] is True
    form["fields"]["newField"] = {"type": "list", "length": 2, "items": {"type": "bool"}}
    del form["fields"]["costTime"]
    form["fields"]["createTime"] = {"type": "str", "length": 13}
    recording.write_text(json.dumps(form), encoding="utf-8")

    replayed = Simulator(Terms(record_forms=(read_recording(recording),), duration=Constant(0.01)))
    with replayed:

        async def make() -> tuple[dict[str, Any], list[Path]]:
            async with Client(replayed.api_key, base_url=replayed.base_url) as client:
                board = Storyboard([Shot("Another film.")], duration=10)
                result = await client.generate(board)
                snapshot = await client.poll(result.task_id)
                return dict(snapshot.raw), await client.save(result, "replayed")

        raw, paths = asyncio.run(make())

    assert raw["newField"] == [False, False]
    assert "costTime" not in raw
    assert raw["createTime"] == str(int(raw["createTime"]))
    assert [path.exists() for path in paths] == [True]


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{}", '{"state": "success", "fields": []}', "[" * 5000),
        '{"state": "success", "fields": {"a": {"type": "code"}}}',
        '{"state": "success", "fields": {"a": {"type": "str", "length": -1}}}',
        '{"state": "success", "fields": {"a": {"type": "str", "length": "x"}}}',
    ],
)
def test_what_is_no_recording_is_refused(run: Run, tmp_path: Path, text: str) -> None:
    path = tmp_path / "record.json"
    path.write_text(text, encoding="utf-8")

    result = run("simulate", "--replay", path, "--port", "0")

    assert (result.code, "--replay " in result.err) == (2, True)

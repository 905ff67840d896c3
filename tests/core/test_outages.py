"""Polls that keep failing are a warning, and many films with one trouble are one warning."""

from __future__ import annotations

import asyncio
import logging
import re

import pytest
from batch.helpers import board, make_client, simulated_service

from apikley_async._outages import Outages
from apikley_async.errors import NotFoundError, ServerError, UnreachableError
from apikley_async.simulator import Constant, Fault, Terms

BAD_GATEWAY = ServerError("bad gateway, see https://hooks.test/a-token?signed=1", code=502)


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno == logging.WARNING and record.getMessage().startswith("polling")
    ]


def test_one_film_is_named_after_a_minute_and_then_seldom(caplog: pytest.LogCaptureFixture) -> None:
    """Twenty-two minutes of silence, and nobody knows why nothing comes (STYLE, logs)."""
    caplog.set_level(logging.DEBUG, "apikley_async")
    outages = Outages()

    for now in range(0, 1320, 15):
        outages.failed("task_1", BAD_GATEWAY, float(now))
    outages.answered("task_1", 1325.0)
    outages.answered("task_1", 1340.0)

    assert warned(caplog) == [
        f"polling task_1 has failed for {lasted} s: bad gateway, see <url>"
        for lasted in (60, 660, 1260)
    ]
    assert sum(record.levelname == "DEBUG" for record in caplog.records) == 88
    assert "a-token" not in caplog.text
    over = "the service answers again after 22 min; nothing was lost: 1 film in flight went on"
    assert [r.getMessage() for r in caplog.records if r.levelname == "WARNING"][3:] == [over]


def test_an_answer_that_comes_late_tells_of_its_own_film(caplog: pytest.LogCaptureFixture) -> None:
    """Its last failure was long ago, when the others were forgotten."""
    caplog.set_level(logging.INFO, "apikley_async")
    outages = Outages()

    for now in range(0, 120, 15):
        outages.failed("task_1", BAD_GATEWAY, float(now))
    outages.answered("task_1", 1800.0)

    assert "answers again after 30 min; nothing was lost: 1 film in flight" in caplog.text


def test_many_films_with_one_trouble_are_one_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "apikley_async")
    outages = Outages()

    for now in range(0, 900, 15):
        for number in range(50):
            outages.failed(f"task_{number}", BAD_GATEWAY, now + number / 50)
    for number in range(50):
        outages.answered(f"task_{number}", 900.0 + number)

    assert warned(caplog) == [
        f"polling 50 films has failed for {lasted} s: bad gateway, see <url>"
        for lasted in (60, 660)
    ]
    assert caplog.text.count("answers again") == 1
    assert "answers again after 15 min; nothing was lost: 50 films in flight" in caplog.text


def test_another_trouble_is_another_line(caplog: pytest.LogCaptureFixture) -> None:
    outages = Outages()
    for now in range(0, 90, 15):
        outages.failed("a", BAD_GATEWAY, float(now))
        outages.failed("b", UnreachableError("no network"), float(now))
        outages.failed("c", NotFoundError("no such task", code=404), float(now))

    assert [line.partition(" for ")[0] for line in warned(caplog)] == [
        f"polling {task_id} has failed" for task_id in "abc"
    ]


def test_what_passes_is_no_outage(caplog: pytest.LogCaptureFixture) -> None:
    """Neither short ones that add up, nor two failures with hours between them."""
    outages = Outages()
    for now in range(0, 3000, 20):
        outages.failed("a", BAD_GATEWAY, float(now))
        if now % 60 == 40:
            outages.answered("a", float(now))
    outages.failed("b", BAD_GATEWAY, 0.0)
    outages.failed("b", BAD_GATEWAY, 8000.0)

    assert warned(caplog) == []


def test_films_that_nobody_waits_for_are_not_counted(caplog: pytest.LogCaptureFixture) -> None:
    outages = Outages()
    for number in range(30):
        outages.failed(f"given up {number}", BAD_GATEWAY, 0.0)
    for now in range(2000, 2100, 15):
        outages.failed("a", BAD_GATEWAY, float(now))

    assert [line.split(" for ")[0] for line in warned(caplog)] == ["polling a has failed"]


@pytest.mark.virtual
async def test_an_outage_of_a_client_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """Five minutes of a gateway's page, for a dozen films."""
    async with simulated_service(Terms(duration=Constant(60))) as simulator:
        simulator.script("record", [Fault.HTTP_502] * 5000)
        async with make_client(simulator) as client:
            jobs = [await client.submit(board(f"k{number}")) for number in range(12)]
            waiting = asyncio.gather(
                *(job.wait(timeout=300) for job in jobs), return_exceptions=True
            )
            await waiting

    [line] = warned(caplog)
    assert re.fullmatch(
        r"polling \d+ films has failed for \d+ s: The poll was refused: 502 Bad Gateway", line
    ), line

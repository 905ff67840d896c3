"""Numbers on the command line: what is no number of credits or seconds is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
from cli.conftest import Run, quick_client, write_films

from apikley_async import Client
from apikley_async.cli import client_factory
from apikley_async.simulator import Simulator

pytestmark = pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning")

NO_NUMBERS = ("nan", "inf", "-inf", "-1", "1e999", "many", "")
OPTIONS = ("--max-credits", "--min-balance", "--price", "--timeout", "--expected")


def test_bounds_and_prices_are_numbers(service: Simulator, run: Run) -> None:
    """No bound holds on "nan": it is refused before anything is sent, and the option is named."""
    write_films("tea")
    line = ["generate", "tea.json", "--yes", "--price", "150"]
    lines = [[*line, f"{option}={text}"] for option in OPTIONS for text in NO_NUMBERS]
    lines += [[*line, f"--price=10={text}"] for text in NO_NUMBERS]
    lines += [[*line, "--timeout=0"], [*line, "--price=10=1,10=2"], [*line, "--price==3"]]

    results = {words[-1]: run(*words) for words in lines}

    wrong = {
        word: (result.code, result.err)
        for word, result in results.items()
        if result.code != 2 or f"'{word.split('=')[0]}'" not in result.err
    }
    assert wrong == {}
    assert not service.ledger.arrivals("create")


def test_what_a_number_may_be_is_said(service: Simulator, run: Run) -> None:
    write_films("tea")

    bound = run("generate", "tea.json", "--max-credits", "nan", "--price", "1")
    price = run("generate", "tea.json", "--price", "10=150,15=inf")
    served = run("simulate", "--fail-rate", "1.5")

    assert "Invalid value for '--max-credits': credits, 0 or more, not nan" in bound.err
    assert "Invalid value for '--price': credits, 0 or more, not inf" in price.err
    assert "Invalid value for '--fail-rate': a share, 0 or more, 1 at most, not 1.5" in served.err


def test_prices_by_duration_and_model(service: Simulator, run: Run) -> None:
    write_films("tea")

    result = run("generate", "tea.json", "--dry-run", "--price", "10 = 150, kling-2.6/image=3.5")

    assert "1 film to be paid, 150 credits" in result.out


def test_expected_durations_reach_the_client(
    service: Simulator, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By duration or model, as `Batch.run(expected=)` takes them."""
    clients: list[Client] = []

    def kept(*args: Any, **options: Any) -> Client:
        clients.append(quick_client(*args, **options))
        return clients[-1]

    monkeypatch.setattr(client_factory, "Client", kept)
    write_films("tea")

    result = run("generate", "tea.json", "--yes", "--expected", "10=120,kling-2.6/image=30")

    durations = clients[0].attempts.durations
    assert result.code == 0
    assert durations.of("sora-2-pro-storyboard", 10).expected == 120
    assert durations.of("kling-2.6/image", "kling-2.6/image").expected == 30

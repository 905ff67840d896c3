"""The benchmarks still run: the smallest of them, with a few jobs, so that they do not rot."""

from __future__ import annotations

import asyncio

import pytest
from bench import ours, pacing, page, plots, polling, raw, run
from bench.films import Order, new_key
from bench.processes import service
from bench.tables import Figure, Table, ratios
from bench.worker import Contender, in_flight, whole


@pytest.mark.slow
def test_each_contender_makes_the_films_it_is_asked_for() -> None:
    contenders: list[Contender] = [raw.films, ours.submitted, ours.many]
    wrong = []
    with service() as url:
        for contend in contenders:
            order = Order(url, new_key(), jobs=12, flight=12, interval=0.1)
            cost = asyncio.run(whole(contend, order))
            measured = asyncio.run(in_flight(contend, order, 0.3, traced=False, finish=True))
            if cost["cpu"] <= 0 or cost["films"] != 12 or measured["polls"] <= 0:
                wrong.append((contend, cost, measured))

    assert wrong == []


def test_ratios_are_made_within_a_round() -> None:
    """A slow round strikes both, and leaves the ratio alone."""
    figure = Figure("ours / raw", ratios([2.0, 20.0, 4.0], [1.0, 10.0, 1.0]), gate=2.5)

    assert figure.median == 2.0
    assert figure.spread == (2.0, 4.0)
    assert "| ours / raw | 2 | 2 to 4 | 2.5 |" in Table("Cost", [figure]).markdown()


def test_each_way_to_keep_a_rate_submits_everything() -> None:
    """Where the limit is right this limiter is never refused; without one nearly all are."""
    ours_paced, alone = (pacing.paced(way, 20) for way in ("this limiter", "retry on 429 alone"))

    assert ours_paced.refusals == 0
    assert 1.0 <= ours_paced.seconds / ours_paced.ideal < 1.05
    assert alone.refusals > 200


def test_policies_of_polling_are_compared() -> None:
    """Twice the interval is half the polls and twice the lag."""
    often, seldom = (polling.fixed(seconds)("lognormal", 1) for seconds in (5, 10))

    assert often.polls > 1.8 * seldom.polls
    assert often.lag < 0.6 * seldom.lag


@pytest.mark.parametrize("name", plots.SHOWN)
def test_the_plots_show_the_data_beside_them(name: str) -> None:
    """`python tests/bench/plots.py` writes both again."""
    assert (plots.PLOTS / f"{name}.svg").read_text(encoding="utf-8") == plots.drawn(name)


def test_the_page_shows_every_part_once() -> None:
    """`python tests/bench/page.py` writes the tables again."""
    assert sorted(page.shown_parts(page.PAGE.read_text(encoding="utf-8"))) == sorted(run.PARTS)


def test_the_page_takes_the_tables_of_a_run() -> None:
    """Other parts stay as they are."""
    table = Table("Cost", [Figure("ours / raw", [2.0, 3.0, 4.0], gate=2.5)])
    found = {"tables": {"Cost": {"part": "cost", **table.to_dict()}}}
    text = "A\n<!-- cost -->\nold\n<!-- end -->\n<!-- polls -->\nkept\n<!-- end -->\n"

    shown = page.filled(text, page.parts_of(found))

    assert "| ours / raw | 3 | 2 to 4 | 2.5 |\n\n<!-- end -->" in shown
    assert "old" not in shown
    assert "<!-- polls -->\nkept\n<!-- end -->" in shown

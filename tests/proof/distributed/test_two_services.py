"""A short share of `two_services.py`; the session `distributed` of nox runs all of it."""

from __future__ import annotations

import pytest
from postgres_server import PostgresServer

pytest.importorskip("psycopg", reason="the extra postgres is not installed")

from distributed.two_services import run


@pytest.mark.timeout(180)
async def test_two_web_services_use_the_limit_and_one_is_killed(
    postgres_server: PostgresServer,
) -> None:
    """80 films at the service's limit, half a second for ten: nothing is refused, none is lost."""
    figures = await run(postgres_server, count=80, speed=20.0, window="sliding", seed=1)

    assert figures.faults == []
    assert figures.answered == 80

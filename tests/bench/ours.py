"""This package, as its documentation has it: `submit` and await, and `generate_many`."""

from __future__ import annotations

from bench.films import IMAGE, Order, scenes
from bench.raw import spread

from apikley_async import Backoff, Client, RateLimiter, Shot, Storyboard

__all__ = ["many", "submitted"]


def storyboard(number: int) -> Storyboard:
    first, second = scenes(number)
    return Storyboard([Shot(first, 7.5), Shot(second, 7.5)], duration=15, image=IMAGE)


def client_for(order: Order) -> Client:
    """A client whose limiter bounds what is sent at once and asks for no pause."""
    return Client(
        order.key,
        base_url=order.url,
        limiter=RateLimiter(order.posts, 0),
        max_running=order.flight,
        # As far apart as those of the hand-written loop, and as regular.
        polling=Backoff(order.interval, 1.0, order.interval, jitter=lambda delay, _: delay),
    )


async def submitted(order: Order) -> None:
    """`await client.submit(board)`, then `await job`."""
    async with client_for(order) as client:

        async def make(number: int) -> None:
            job = await client.submit(storyboard(number))
            result = await job
            assert result.urls

        await spread(make, order.jobs, order.flight)


async def many(order: Order) -> None:
    """`async for outcome in client.generate_many(boards)`."""
    boards = (storyboard(number) for number in range(order.jobs))
    async with client_for(order) as client:
        async for outcome in client.generate_many(boards):
            assert outcome.ok, outcome.error

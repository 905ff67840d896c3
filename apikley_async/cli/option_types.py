"""What options accept: numbers that are numbers, prices, and addresses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import click

from apikley_async._postgres import Dsn, is_dsn
from apikley_async.errors import ApikleyError

__all__ = [
    "CREDITS",
    "DATABASE",
    "PLACE",
    "SECONDS",
    "Number",
    "PerKind",
    "Place",
    "Whole",
    "read_address",
    "read_expected",
    "read_price",
    "read_task_ids",
]

PerKind: TypeAlias = float | Mapping[int | str, float] | None
"""A number for every film, or one for each duration or model."""


Place: TypeAlias = Path | Dsn
"""Where a journal is: a file, or a database that many machines share."""


class DsnType(click.types.StringParamType):
    """`postgresql://user@host/database`; a password in it would be in the list of processes."""

    name = "dsn"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not is_dsn(value):
            self.fail("postgresql://USER@HOST/DATABASE, or postgresql://?service=NAME", param, ctx)
        try:
            dsn = Dsn.parse(value)
        except ApikleyError as error:
            self.fail(error.message, param, ctx)
        if dsn.has_password:
            self.fail(
                "a password would be shown in the list of processes: put it into ~/.pgpass "
                "(host:port:database:user:password, readable by you only), or into PGPASSWORD",
                param,
                ctx,
            )
        return dsn


class PlaceType(click.Path):
    """A path, or a DSN."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if is_dsn(value):
            return DATABASE.convert(value, param, ctx)
        return super().convert(value, param, ctx)


class Number(click.types.FloatParamType):
    """A finite number: "nan" and "inf" are read as numbers elsewhere, and no bound holds on them.

    Args:
        name: what it counts, for messages.
        above: whether 0 is too little.
        maximum: the largest one.
    """

    def __init__(self, name: str, *, above: bool = False, maximum: float = math.inf) -> None:
        self.name = name
        self._above = above
        self._maximum = maximum

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        try:
            number = float(str(value))
        except ValueError:
            number = math.nan
        fits = number > 0 if self._above else number >= 0
        if not (fits and number <= self._maximum and math.isfinite(number)):
            self.fail(f"{self._range}, not {value}", param, ctx)
        return number

    @property
    def _range(self) -> str:
        least = "more than 0" if self._above else "0 or more"
        most = "" if math.isinf(self._maximum) else f", {self._maximum:g} at most"
        return f"{self.name}, {least}{most}"


class Whole(click.IntRange):
    """A whole number within bounds, which help says in words and not as `x>=1`."""

    def _describe_range(self) -> str:
        return f"{self.min} or more" if self.max is None else f"{self.min} to {self.max}"


DATABASE = DsnType()
PLACE = PlaceType(path_type=Path)
CREDITS = Number("credits")
SECONDS = Number("seconds", above=True)


def read_price(
    context: click.Context | None, option: click.Parameter | None, text: str | None
) -> PerKind:
    """`300`, or by duration or model: `10=150,15=270,25=270`."""
    return _read_per_kind(CREDITS, context, option, text)


def read_expected(
    context: click.Context | None, option: click.Parameter | None, text: str | None
) -> PerKind:
    """`180`, or by duration or model: `10=120,15=200`."""
    return _read_per_kind(SECONDS, context, option, text)


def _read_per_kind(
    number: Number,
    context: click.Context | None,
    option: click.Parameter | None,
    text: str | None,
) -> PerKind:
    if text is None:
        return None
    if "=" not in text:
        return number.convert(text, option, context)
    numbers: dict[int | str, float] = {}
    for part in text.split(","):
        kind, _, amount = (word.strip() for word in part.rpartition("="))
        name = int(kind) if kind.isascii() and kind.isdigit() else kind
        if not kind or name in numbers:
            raise click.BadParameter(
                f"{number.name}, or each duration or model once: 10=150,15=270, not {text}",
                ctx=context,
                param=option,
            )
        numbers[name] = number.convert(amount, option, context)
    return numbers


def read_address(
    context: click.Context, option: click.Parameter, text: str | None
) -> tuple[str, int] | None:
    """`127.0.0.1:8787`, or `[::1]:8787`."""
    if text is None:
        return None
    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) < 65536):
        raise click.BadParameter("HOST:PORT, such as 127.0.0.1:8787")
    return host.removeprefix("[").removesuffix("]"), int(port)


def read_task_ids(
    context: click.Context, option: click.Parameter, texts: tuple[str, ...]
) -> tuple[str, ...]:
    """Ids of tasks, several of them in one text as a list of them is copied.

    None has a blank or a comma: "task_1," would be a task that the service does not know.
    """
    words = (word for text in texts for word in text.replace(",", " ").split())
    if not (task_ids := tuple(words)):
        raise click.BadParameter("the id of a task, such as task_123")
    return task_ids

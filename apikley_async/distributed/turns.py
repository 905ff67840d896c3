"""Whose turn it is, among processes that wait for the same thing: nobody gets all of it. Pure.

Whoever asks first would get what is free, and that is always the process next to the database. So
each that waits may be a share ahead of those that got least, and then what is free is kept for
them, for a moment: one that has died or is stopped keeps nobody waiting for longer.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import attrs

__all__ = ["KEPT", "Turns"]

KEPT = 0.5  # seconds for which what is free is kept for those whose turn it is
WAITS = 5.0  # seconds for which a process that has asked is believed to wait; it asks every 2


@attrs.frozen
class Place:
    """The place of one process.

    Attributes:
        got: how many things it got. One that comes to wait has got as many as anybody else.
        until: when it is not believed to wait any more.
    """

    got: int
    until: float


class Turns:
    """Who waits for one kind of thing, and what they got.

    Args:
        stored: what `to_dict` gave.
        shift: seconds to add to all instants.
    """

    def __init__(self, stored: Mapping[str, Mapping[str, Any]], shift: float) -> None:
        self._places: dict[str, Place] = {
            name: Place(values["got"], values["until"] + shift) for name, values in stored.items()
        }

    def to_dict(self, known: Collection[str]) -> dict[str, Any]:
        """JSON values, of the processes that are *known*."""
        places = self._places.items()
        return {name: attrs.asdict(place) for name, place in places if name in known}

    def wait(self, name: str, now: float) -> bool:
        """Note that a process waits; return whether that has to be stored on its own."""
        place = self._places.get(name)
        if place is None or place.until <= now:
            place = Place(max((each.got for each in self._places.values()), default=0), now)
        elif place.until > now + WAITS / 2:
            return False
        self._places[name] = attrs.evolve(place, until=now + WAITS)
        return True

    def take(self, name: str) -> None:
        """Note that a process that waits got one."""
        place = self._places[name]
        self._places[name] = attrs.evolve(place, got=place.got + 1)

    def leave(self, name: str) -> None:
        """Note that a process got all that it wanted."""
        self._places[name] = attrs.evolve(self._places[name], until=0.0)

    def others(self, name: str, now: float) -> list[int]:
        """What those others got that wait, too."""
        return [
            place.got
            for other, place in self._places.items()
            if other != name and place.until > now
        ]

    def is_ahead(self, name: str, now: float, count: int) -> bool:
        """Whether it is the turn of others first, where there are *count* things for all."""
        others = self.others(name, now)
        if not others:
            return False
        return self._places[name].got - min(others) >= max(1, count // (len(others) + 1))

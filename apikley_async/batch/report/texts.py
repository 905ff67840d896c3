"""Foreign text for a report, and the report's own sentences. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from datetime import datetime

from apikley_async._text import count, in_credits, shorten
from apikley_async.batch.report.model import Category, Totals

__all__ = ["NEEDS_SOMEBODY", "duration", "sentence", "shown", "without_links"]

JOINERS = "\u200c\u200d"  # they shape words of some scripts, and emoji
HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # control, format, surrogate, separators
LINK = re.compile(
    r"\b(?!https://app\.apikley\.ru/keys[.;]?(?:\s|$))\w+://\S+"
)  # but not our advice
TOKEN = re.compile(r"\b[0-9a-fA-F]{32,}\b")
LONGEST_CAUSE = 600  # characters

NEEDS_SOMEBODY = {
    Category.UNCERTAIN: "undecided (sent, no answer came: perhaps paid)",
    Category.FAILED: "failed",
    Category.LOST: "lost a file",
}
"""The categories that need a person, in the order of their urgency, in words."""


def shown(text: str, longest: int) -> str:
    """One line of visible text: what controls a terminal or turns its direction is a blank."""
    text = text[: longest * 4]  # the rest would be cut anyway
    if not text.isprintable():
        text = "".join(
            " "
            if unicodedata.category(character) in HIDDEN and character not in JOINERS
            else character
            for character in text
        )
    return shorten(" ".join(text.split()), longest)


def without_links(text: str) -> str:
    """A cause without URLs, which may be signed, and without what may be a token."""
    return shown(TOKEN.sub("...", LINK.sub("<url>", text)), LONGEST_CAUSE)


def duration(seconds: float) -> str:
    """A span of time in its two largest units: 40 s, 5 min 10 s, 3 h 20 min, 2 d 4 h."""
    if seconds < 10:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    left = round(seconds)
    units = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))
    parts = []
    for unit, size in units:
        whole, left = divmod(left, size)
        parts.append((whole, unit))
    first = next((at for at, (whole, _) in enumerate(parts) if whole), len(parts) - 1)
    kept = [f"{whole} {unit}" for whole, unit in parts[first : first + 2] if whole]
    return " ".join(kept)


def sentence(totals: Totals, now: datetime) -> list[tuple[str, bool]]:
    """The truth about a batch in one breath: pieces of text, and whether each is stressed."""
    if not totals.films:
        return [("No film is planned yet.", False)]
    if _open(totals) == totals.films and not (totals.spent or totals.unpriced or totals.at_risk):
        return [(count(totals.films), True), (" planned. Nothing is paid.", False)]
    here = totals.counts.get(Category.HERE, 0)
    pieces = [
        (f"{here} of {count(totals.films)}", True),
        (f" {'is' if here == 1 else 'are'} here", False),
        (f", {totals.stored} of them in a destination" * bool(totals.stored), False),
        *_needs(totals),
        *_unfinished(totals),
        (". ", False),
        *_money(totals),
        *_deadline(totals, now),
        *_paid_once(totals),
    ]
    return [piece for piece in pieces if piece[0]]


def _needs(totals: Totals) -> list[tuple[str, bool]]:
    found = [(word, totals.counts.get(category, 0)) for category, word in NEEDS_SOMEBODY.items()]
    number = sum(films for _, films in found)
    if not number:
        return [("; none needs you", False)] if not _open(totals) else []
    listed = _listed(f"{films} {word}" for word, films in found if films)
    return [
        ("; ", False),
        (f"{number} need{'s' if number == 1 else ''} you", True),
        (f": {listed}", False),
    ]


def _unfinished(totals: Totals) -> list[tuple[str, bool]]:
    return [(f"; {_open(totals)} not finished", False)] if _open(totals) else []


def _open(totals: Totals) -> int:
    return totals.counts.get(Category.UNFINISHED, 0)


def _money(totals: Totals) -> list[tuple[str, bool]]:
    if totals.simulated and not totals.at_risk:
        return [("All was rehearsed on this machine, and nothing was paid.", False)]
    pieces = [(f"{in_credits(totals.spent)} credits", True)]
    if totals.per_film is not None:
        pieces.append((f", {in_credits(totals.per_film)} a film", False))
    if totals.unpriced:
        pieces.append((f", and {count(totals.unpriced, 'submission')} of unknown price", False))
    if totals.at_risk:
        pieces += [("; ", False), (f"{in_credits(totals.at_risk)} more at risk", True)]
    return [*pieces, (". ", False)]


def _deadline(totals: Totals, now: datetime) -> list[tuple[str, bool]]:
    ends = totals.first_link_ends_at
    if ends is None:
        return []
    left = (ends - now).total_seconds()
    if left <= 0:
        return [("The first link to a film that is not here has ended. ", True)]
    return [
        ("The first link to a film that is not here ends in ", False),
        (duration(left), True),
        (". ", False),
    ]


def _paid_once(totals: Totals) -> list[tuple[str, bool]]:
    if totals.simulated and not totals.at_risk:
        return []
    if totals.paid_twice:
        number = len(totals.paid_twice)
        return [(f"{count(number)} {'was' if number == 1 else 'were'} paid more than once.", True)]
    if totals.at_risk or totals.counts.get(Category.UNCERTAIN):
        return []  # that is for a person to find out
    if totals.unpriced:
        return [("Nothing is known to be paid twice.", False)]
    return [("Nothing was paid twice.", False)]


def _listed(parts: Iterable[str]) -> str:
    """Parts as a list in a sentence: "a, b and c"."""
    words = [*parts]
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))

"""The MAC behind a token: it proves that the token was made by a holder of the API key.

A receiver of callbacks in a process of its own knows no attempts. With the derived secret, which
opens nothing else, it accepts our tokens and refuses made-up ones. Pure.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from typing import NoReturn, Protocol, runtime_checkable

__all__ = ["TOKEN", "Marking", "Seal", "token_in", "token_secret"]

TOKEN = 32  # hexadecimal digits: 128 random bits, and as many for the mark
PURPOSE = b"apikley-async: marks of callback tokens, version 1"
SECRET = re.compile("[0-9a-f]{64}")
SEALED = re.compile("[0-9a-f]{64}")


def token_secret(api_key: str) -> str:
    """The secret that a receiver of its own verifies tokens with; the key does not follow from it.

    It is the same in every process that has the key.
    """
    return hmac.new(api_key.strip().encode(), PURPOSE, hashlib.sha256).hexdigest()


def token_in(text: str) -> str:
    """The token of an attempt; what follows it in the last part of a URL is the receiver's."""
    return text[:TOKEN] if re.match(f"[0-9a-f]{{{TOKEN}}}", text) else text


@runtime_checkable
class Marking(Protocol):
    """Callbacks that take a token with the mark behind it."""

    marked_tokens: bool


class Seal:
    """Marks tokens with the first of the secrets *given*, and knows the marks of any of them.

    The secrets cannot be read from it, shown or pickled.

    Raises:
        ValueError: one of them is no such secret; it is not repeated.
    """

    __slots__ = ("_macs",)

    def __init__(self, given: Iterable[str] = ()) -> None:
        self._macs: tuple[hmac.HMAC, ...] = ()  # what is counted, should one be refused
        fault = ": a list of secrets, not a single text"
        if not isinstance(given, str | bytes):
            given = [*given]
            fault = next(filter(None, map(_fault, given, range(len(given)))), "")
        if not fault:
            self._macs = tuple(
                hmac.new(each.strip().encode(), digestmod="sha256") for each in given
            )
        del given  # a traceback that shows locals must not show them
        if fault:
            raise ValueError(f"token_secrets{fault}")

    def __len__(self) -> int:
        return len(self._macs)

    def text(self, token: str) -> str:
        """The token with its mark behind it: the last part of a callback URL."""
        return token + _mark(self._macs[0], token) if self._macs else token

    def fits(self, text: str) -> bool:
        """Whether it is a token with a mark that was made with one of the secrets."""
        if not SEALED.fullmatch(text):
            return False
        token, mark = text[:TOKEN], text[TOKEN:]
        return any(hmac.compare_digest(_mark(mac, token), mark) for mac in self._macs)

    def __repr__(self) -> str:
        return f"<Seal {len(self)}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a seal does not pickle")


def _mark(mac: hmac.HMAC, token: str) -> str:
    trial = mac.copy()
    trial.update(token.encode())
    return trial.hexdigest()[:TOKEN]


def _fault(secret: object, number: int) -> str:
    if isinstance(secret, str) and SECRET.fullmatch(secret.strip()):
        return ""
    return f"[{number}]: 64 hexadecimal digits, as `apikley webhook secret` prints"

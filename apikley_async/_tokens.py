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

__all__ = ["MOST_NAMED_TASKS", "TOKEN", "CarriesMac", "TokenMac", "token_in", "token_secret"]

MOST_NAMED_TASKS = 8  # by callbacks for one attempt: one is its own, the rest are mistakes or worse
TOKEN = 32  # hexadecimal digits: 128 random bits, and as many for the MAC
PURPOSE = b"apikley-async: marks of callback tokens, version 1"
SECRET = re.compile("[0-9a-f]{64}")
WITH_MAC = re.compile("[0-9a-f]{64}")


def token_secret(api_key: str) -> str:
    """The secret that a receiver of its own verifies tokens with; the key does not follow from it.

    It is the same in every process that has the key.
    """
    return hmac.new(api_key.strip().encode(), PURPOSE, hashlib.sha256).hexdigest()


def token_in(text: str) -> str:
    """The token of an attempt; what follows it in the last part of a URL is the receiver's."""
    return text[:TOKEN] if re.match(f"[0-9a-f]{{{TOKEN}}}", text) else text


@runtime_checkable
class CarriesMac(Protocol):
    """Callbacks whose URLs take a token with its MAC behind it."""

    tokens_with_mac: bool


class TokenMac:
    """Makes MACs of tokens with the first of the secrets *given*, and verifies those of any.

    The secrets cannot be read from it, shown or pickled.

    Raises:
        ValueError: one of them is no such secret; it is not repeated.
    """

    __slots__ = ("_keyed",)

    def __init__(self, given: Iterable[str] = ()) -> None:
        self._keyed: tuple[hmac.HMAC, ...] = ()  # what is counted, should one be refused
        fault = ": a list of secrets, not a single text"
        if not isinstance(given, str | bytes):
            given = [*given]
            fault = next(filter(None, map(_fault, given, range(len(given)))), "")
        if not fault:
            self._keyed = tuple(
                hmac.new(each.strip().encode(), digestmod="sha256") for each in given
            )
        del given  # a traceback that shows locals must not show them
        if fault:
            raise ValueError(f"token_secrets{fault}")

    def __len__(self) -> int:
        return len(self._keyed)

    def append_to(self, token: str) -> str:
        """The token with its MAC behind it: the last part of a callback URL."""
        return token + _mac_of(self._keyed[0], token) if self._keyed else token

    def verifies(self, text: str) -> bool:
        """Whether it is a token with a MAC that was made with one of the secrets."""
        if not WITH_MAC.fullmatch(text):
            return False
        token, mac = text[:TOKEN], text[TOKEN:]
        return any(hmac.compare_digest(_mac_of(keyed, token), mac) for keyed in self._keyed)

    def __repr__(self) -> str:
        return f"<TokenMac {len(self)}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a TokenMac does not pickle")


def _mac_of(keyed: hmac.HMAC, token: str) -> str:
    mac = keyed.copy()
    mac.update(token.encode())
    return mac.hexdigest()[:TOKEN]


def _fault(secret: object, number: int) -> str:
    if isinstance(secret, str) and SECRET.fullmatch(secret.strip()):
        return ""
    return f"[{number}]: 64 hexadecimal digits, as `apikley webhook secret` prints"

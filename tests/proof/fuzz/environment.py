"""What is read from the environment and from key files: any text, any bytes, and never repeated.

A key that is accepted can stand in a header as it is. One that is refused is in no message, no
repr, no chain of errors, no log, and among no locals of a traceback.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import random
import re
import string
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import attrs
from fuzz.promises import Findings, demand

from apikley_async import ApikleyError, Client
from apikley_async.cli.callback_server import HMAC_KEYS, read_hmac_keys
from apikley_async.cli.exit_codes import RefusedError
from apikley_async.cli.key_files import read_api_key
from apikley_async.errors import AuthenticationError
from apikley_async.webhook import Callback

__all__ = ["Setting", "examine_setting", "settings"]

SLOWEST = 0.2
KEY, BASE_URL = "APIKLEY_API_KEY", "APIKLEY_BASE_URL"
HOME = "https://api.example.com"
PIECE = 10  # letters of a secret that are one too
ALPHABET = string.ascii_letters + string.digits + "-_.~+/="
HEADER = re.compile(r"[\x21-\x7e]+")
SPOILS = (
    *(
        "\n",
        "\r",
        "\r\nX-Injected: 1",
        "\t",
        "\x0b",
        "\x0c",
        "\x1c",
        "\x1f",
        "\x7f",
        "\x80",
        "\x85",
    ),
    *(
        " ",
        "\u00a0",
        "\u2003",
        "\u2028",
        "\u3000",
        "\ufeff",
        "\u200b",
        "\u202e",
        "\u00ad",
        "'",
        '"',
    ),
    *(
        "é",
        "к",
        "ａ",
        "\u0661",
        "²",
        "\udcff",
        "\ud800",
        "\x1b[2J",
        "=",
        ";",
        "#",
        "\\",
        "$(id)",
        "`",
    ),
    *("\n\n", "Bearer ", ",", ":", "\x00", "%0a", "\\n", "😀"),
)


@attrs.frozen
class Setting:
    """What stands in a variable or a file; *secrets* are the parts that nobody may see."""

    place: str
    raw: bytes = attrs.field(repr=False)
    secrets: tuple[str, ...] = attrs.field(repr=False)
    kind: str = ""


def settings(seed: str, count: int) -> Iterator[Setting]:
    """Make *count* settings; equal seeds make equal ones."""
    rng = random.Random(seed)
    for _ in range(count):
        place = rng.choice((*PLACES, "key", "key file"))
        secret = "".join(rng.choices(ALPHABET, k=rng.choice((12, 20, 32, 40, 64))))
        kind, text = _text(rng, secret)
        if place == "address" and rng.random() < 0.7:
            form = rng.choice(
                ("https://h.test{}", "https://h{}.test", "{}https://h.test/a", "http://localhost{}")
            )
            kind, text = (
                "address",
                form.format(rng.choice((*SPOILS, "", "", ":80", "/a", "/", ":x"))),
            )
        pieces = (secret[at : at + PIECE] for at in range(0, len(secret) - PIECE + 1, 4))
        yield Setting(place, _encoded(text, rng), tuple(pieces), kind)


def _text(rng: random.Random, secret: str) -> tuple[str, str]:
    kind = rng.choices(
        ("plain", "ends", "inside", "noise", "long", "url"), (12, 20, 40, 15, 1, 12)
    )[0]
    if kind == "ends":
        return kind, rng.choice(SPOILS) + secret + rng.choice((*SPOILS, "", "\n"))
    if kind == "inside":
        spoilt = secret
        for _ in range(rng.choice((1, 1, 2, 5))):
            at = rng.randrange(len(spoilt) + 1)
            spoilt = spoilt[:at] + rng.choice(SPOILS) + spoilt[at:]
        return kind, rng.choice((spoilt, f"{secret}\n{spoilt}", f"{spoilt}{secret}"))
    if kind == "noise":
        letters = [chr(rng.randrange(rng.choice((128, 256, 0x3000, 0x110000)))) for _ in range(30)]
        return kind, "".join(letters[: rng.randrange(31)])
    if kind == "long":
        return kind, secret * rng.choice((20, 60, 100, 1000, 3000))
    if kind == "url":
        form = rng.choice(
            ("https://u:{}@h.test", "https://h.test/?{}", "http://{}", "https://h:{}", "{}://h")
        )
        return kind, form.format(secret)
    return kind, secret


def _encoded(text: str, rng: random.Random) -> bytes:
    if rng.random() < 0.9:
        return text.encode(errors="surrogatepass")
    coding = rng.choice(("utf-8-sig", "utf-16", "utf-16-le", "latin-1", "cp1251", "utf-32"))
    return text.encode(coding, errors="replace")


def examine_setting(setting: Setting, findings: Findings, *, thorough: bool, folder: Path) -> None:
    """Read a setting as the client and the commands do; raise `Defect` at a broken promise."""
    size = len(setting.raw)
    findings.characters += size
    act = PLACES[setting.place]
    with _captured() as received:
        outcome = findings.read(
            setting.place,
            lambda: act(setting, folder),
            (ApikleyError, ValueError, RefusedError),
            size=size,
            most=SLOWEST,
        )
    demand(not _holds(received.getvalue(), setting), "the key is in the log")
    refused = isinstance(outcome, Exception)
    if isinstance(outcome, Exception):
        _check_refusal(setting, outcome, thorough)
    findings.outcomes[f"{setting.place}: {type(outcome).__name__ if refused else outcome}"] += 1


def _check_refusal(setting: Setting, error: Exception, thorough: bool) -> None:
    reported = str(error)
    demand(reported.isprintable() and len(reported) < 500, f"reported as {reported!r:.200}")
    demand(isinstance(error, RefusedError | AuthenticationError | ValueError), f"{error!r:.200}")
    found: BaseException | None = error
    while found is not None:  # whatever hangs on it, shown or not
        seen = f"{found!s} {found!r} {found.args!r} {vars(found)!r}"
        demand(not _holds(seen, setting), f"the key is in {type(found).__name__}")
        demand(not isinstance(found, UnicodeError), "an error that holds what it could not read")
        found = found.__cause__ or found.__context__
    if not thorough or not setting.place.startswith("key"):
        return
    frames = traceback.TracebackException.from_exception(error, capture_locals=True)
    ours = [frame for frame in frames.stack if "apikley_async" in frame.filename]
    seen = "".join(str(frame.locals) for frame in ours)
    demand(not _holds(seen, setting), "the key is among the locals")


def _holds(text: str, setting: Setting) -> bool:
    return any(piece in text for piece in setting.secrets)


@contextlib.contextmanager
def _captured() -> Iterator[io.StringIO]:
    """What is logged meanwhile, at any level."""
    received = io.StringIO()
    logger, before = logging.getLogger("apikley_async"), logging.root.manager.disable
    handler = logging.StreamHandler(received)
    level, further = logger.level, logger.propagate
    logging.disable(logging.NOTSET)
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield received
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = further
        logging.disable(before)


@contextlib.contextmanager
def _environment(**values: bytes) -> Iterator[None]:
    """The variables as a shell could set them: bytes without NUL."""
    before = {name: os.environb.get(name.encode()) for name in (KEY, BASE_URL, HMAC_KEYS)}
    try:
        for name in before:
            os.environb.pop(name.encode(), None)
        for name, value in values.items():
            os.environb[name.encode()] = value.replace(b"\0", b"")
        yield
    finally:
        for name, old in before.items():
            os.environb.pop(name.encode(), None)
            if old is not None:
                os.environb[name.encode()] = old


# --- the places ----------------------------------------------------------------------------------


def _key(setting: Setting, folder: Path) -> str:
    with _environment(**{KEY: setting.raw}):
        client = Client(base_url=HOME)
    wanted = os.fsdecode(setting.raw.replace(b"\0", b"")).strip()
    return _accepted(client, wanted)


def _key_file(setting: Setting, folder: Path) -> str:
    path = folder / "key"
    path.write_bytes(setting.raw)
    path.chmod(0o600)
    with _environment():
        key = read_api_key(path)
        client = Client(key, base_url=HOME)
        key = None
    first = setting.raw.split(b"\n", 1)[0].decode("utf-8-sig", errors="replace").strip()
    return _accepted(client, first)


def _accepted(client: Client, wanted: str) -> str:
    """It is what stood there, and goes into the header as it is; nothing shows it."""
    key = client.attempts.settings.key
    text = key.reveal()
    demand(text == wanted, "another key than the one given")
    demand(HEADER.fullmatch(text) is not None and not set(text) & set("'\""), "no header's value")
    spelled = f"Bearer {text}".encode("latin-1")
    demand(spelled.isascii() and b"\n" not in spelled, "no header's line")
    if len(text) >= 12:
        shown = f"{client!r} {key!r} {client.__dict__!r} {client.attempts.settings!r}"
        demand(text not in shown, "it is shown")
        demand(text not in key.blot(f"a {text} b"), "it is not blotted out")
    return "taken"


def _base_url(setting: Setting, folder: Path) -> str:
    with _environment(**{BASE_URL: setting.raw}):
        client = Client("key-of-the-tests")
    demand(repr(client).isprintable(), f"shown as {client!r:.200}")
    return "taken"


def _hmac_keys(setting: Setting, folder: Path) -> str:
    with _environment(**{HMAC_KEYS: setting.raw}):
        keys = read_hmac_keys(None)
        callback = Callback("https://hooks.example.com", hmac_keys=keys)
    return _signed(setting, callback, keys)


def _hmac_file(setting: Setting, folder: Path) -> str:
    path = folder / "keys"
    path.write_bytes(setting.raw)
    path.chmod(0o600)
    keys = read_hmac_keys(path)
    return _signed(setting, Callback("https://hooks.example.com", hmac_keys=keys), keys)


def _signed(setting: Setting, callback: Callback, keys: list[str]) -> str:
    for key in keys:
        demand(key.isprintable() and key == key.strip() and bool(key), "a key with a blank")
    shown = f"{callback!r} {callback.__dict__!r} {callback._verifier.keys!r}"  # noqa: SLF001 - what it holds shows nowhere else
    demand(not _holds(shown, setting), "a key is shown")
    demand(len(callback._verifier.keys) == len(keys), "keys are lost")  # noqa: SLF001 - what it holds shows nowhere else
    return "taken" if keys else "none"


PLACES: Mapping[str, Callable[[Setting, Path], str]] = {
    "key": _key,
    "key file": _key_file,
    "address": _base_url,
    "signing keys": _hmac_keys,
    "signing file": _hmac_file,
}

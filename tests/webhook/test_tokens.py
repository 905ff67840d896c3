"""Tokens with a MAC: whoever has the API key, or the secret derived from it, knows its own."""

from __future__ import annotations

import pickle
import random
from pathlib import Path

import pytest
from webhook.callback_requests import (
    BODY,
    JSON,
    TASK,
    TOKEN,
    FixedWallClock,
    raw_request,
    send_request,
    status_of,
)

from apikley_async import Client, Environment, Shot, Storyboard
from apikley_async._early_callbacks import MOST_EARLY, EarlyCallbacks
from apikley_async._tokens import TokenMac
from apikley_async.simulator import Constant, Simulator, Terms
from apikley_async.testing import LoopClock
from apikley_async.webhook import Callback, Inbox, Receiver, token_secret

KEY, NEXT_KEY = "canary-key-that-opens-nothing", "canary-key-that-comes-after-it"
BOARD = Storyboard([Shot("Rain.", duration=10)], duration=10)


def receiver(folder: Path, *keys: str) -> Receiver:
    secrets = [token_secret(key) for key in keys]
    return Receiver(Inbox(folder / "callbacks.db"), token_secrets=secrets, clock=FixedWallClock())


async def test_a_receiver_accepts_tokens_of_its_keys_and_no_others(tmp_path: Path) -> None:
    """A stranger who knows the address cannot fill the inbox, signed or not (W2)."""
    ours, other = TokenMac([token_secret(KEY)]), TokenMac([token_secret("another-key-altogether")])
    old = TokenMac([token_secret(NEXT_KEY)])
    tested = receiver(tmp_path, KEY, NEXT_KEY)
    paths = {
        ours.append_to(TOKEN): 200,
        old.append_to(TOKEN): 200,
        TOKEN: 404,
        TOKEN + "0" * 32: 404,
        other.append_to(TOKEN): 404,
        ours.append_to(TOKEN)[:-1] + "g": 404,
        ours.append_to(TOKEN).upper(): 404,
        "f" * 32 + ours.append_to(TOKEN)[32:]: 404,
    }
    async with tested.serve(port=0) as server:
        found = {
            path: await status_of(server.port, raw_request(BODY, JSON, path=f"/{path}"))
            for path in paths
        }
    stored, _ = await tested.inbox.read_after(None)
    await tested.inbox.aclose()

    assert found == paths
    assert {each.token for each in stored} == {ours.append_to(TOKEN), old.append_to(TOKEN)}


@pytest.mark.virtual
async def test_a_client_adds_a_mac_to_its_tokens_and_expects_them_with_any_mac() -> None:
    """Every process with the key makes the same MAC; a rotated key refuses no film in flight."""
    callback = Callback("https://hooks.test/apikley")
    terms = Terms(duration=Constant(60), callbacks="none")
    async with (
        Simulator(terms, clock=LoopClock(), rng=random.Random(7)) as simulator,
        Client(
            simulator.api_key,
            base_url=simulator.base_url,
            callback=callback,
            environment=Environment(clock=LoopClock()),
        ) as client,
    ):
        job = await client.submit(BOARD)
        text = str(simulator.ledger.paid[0].body["callBackUrl"]).rpartition("/")[2]

        assert job.token == text
        assert TokenMac([token_secret(simulator.api_key)]).verifies(text)
        async with callback.serve(port=0) as server:
            for path in (text, text[:32], text[:32] + "0" * 32):
                status, _ = await send_request(
                    server.port, raw_request(BODY, JSON, path=f"/{path}")
                )
                assert status == 200
            assert (await send_request(server.port, raw_request(BODY, JSON, path=f"/{'e' * 64}")))[
                0
            ] == 404


@pytest.mark.slow
def test_forged_tokens_displace_none_of_ours() -> None:
    """A callback that arrives before its attempt is known is kept for it."""
    token_mac = TokenMac([token_secret(KEY)])
    parked = EarlyCallbacks(token_mac)
    parked.add(token_mac.append_to(TOKEN), TASK)
    for number in range(MOST_EARLY + 1):
        parked.add(f"{number:032x}{0:032x}", TASK)

    assert parked.take(TOKEN) == {TASK: False}
    assert parked.take("0" * 32) == {}


def test_a_token_secret_reveals_no_key_and_is_never_shown() -> None:
    """It is printed on purpose only, and opens nothing else."""
    secret = token_secret(KEY)
    token_mac = TokenMac([secret])

    assert (len(secret), KEY in secret, token_secret(f" {KEY}\n")) == (64, False, secret)
    assert secret not in repr(token_mac)
    with pytest.raises(TypeError):
        pickle.dumps(token_mac)
    for wrong in ([secret[:-1]], [KEY], [""], [7], secret):
        with pytest.raises(ValueError, match="token_secrets") as caught:
            TokenMac(wrong)  # type: ignore[arg-type]
        assert KEY not in str(caught.value)
        assert secret[:-1] not in str(caught.value)


def test_a_receiver_says_what_it_requires(tmp_path: Path) -> None:
    """Without keys and secrets the token protects nothing, and `gate` says so."""
    inbox = Inbox(tmp_path / "callbacks.db")

    assert Receiver(inbox).gate.startswith("none: ")
    assert Receiver(inbox, hmac_keys=["k"]).gate == "a signature"
    assert receiver(tmp_path, KEY).gate == "a token that was made with the API key"
    assert Callback("https://hooks.test").gate == "a token that this process waits for"

"""Tokens that can be told from made-up ones: by whoever has the key, or what follows from it."""

from __future__ import annotations

import pickle
import random
from pathlib import Path

import pytest
from webhook.post import BODY, JSON, TASK, TOKEN, Noon, ask, raw

from apikley_async import Client, Environment, Shot, Storyboard
from apikley_async._early_callbacks import MOST_PARKED, Parked
from apikley_async._tokens import Seal
from apikley_async.simulator import Constant, Simulator, Terms
from apikley_async.testing import LoopClock
from apikley_async.webhook import Callback, Inbox, Receiver, token_secret

KEY, NEXT_KEY = "canary-key-that-opens-nothing", "canary-key-that-comes-after-it"
BOARD = Storyboard([Shot("Rain.", duration=10)], duration=10)


def receiver(folder: Path, *keys: str) -> Receiver:
    secrets = [token_secret(key) for key in keys]
    return Receiver(Inbox(folder / "callbacks.db"), token_secrets=secrets, clock=Noon())


async def test_a_receiver_keeps_tokens_of_its_keys_and_no_others(tmp_path: Path) -> None:
    """Whoever knows the address cannot fill the inbox, with keys for signing or without (W2)."""
    ours, other = Seal([token_secret(KEY)]), Seal([token_secret("another-key-altogether")])
    old = Seal([token_secret(NEXT_KEY)])
    post = receiver(tmp_path, KEY, NEXT_KEY)
    paths = {
        ours.text(TOKEN): 200,
        old.text(TOKEN): 200,
        TOKEN: 404,
        TOKEN + "0" * 32: 404,
        other.text(TOKEN): 404,
        ours.text(TOKEN)[:-1] + "g": 404,
        ours.text(TOKEN).upper(): 404,
        "f" * 32 + ours.text(TOKEN)[32:]: 404,
    }
    async with post.serve(port=0) as server:
        found = {
            path: (await ask(server.port, raw(BODY, JSON, path=f"/{path}")))[0] for path in paths
        }
    kept, _ = await post.inbox.after(None)
    await post.inbox.aclose()

    assert found == paths
    assert {each.token for each in kept} == {ours.text(TOKEN), old.text(TOKEN)}


@pytest.mark.virtual
async def test_a_client_marks_its_tokens_and_expects_them_whatever_the_mark() -> None:
    """Every process with the key makes the same; a key that has changed refuses no film."""
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
        assert Seal([token_secret(simulator.api_key)]).fits(text)
        async with callback.serve(port=0) as server:
            for path in (text, text[:32], text[:32] + "0" * 32):
                status, _ = await ask(server.port, raw(BODY, JSON, path=f"/{path}"))
                assert status == 200
            assert (await ask(server.port, raw(BODY, JSON, path=f"/{'e' * 64}")))[0] == 404


def test_made_up_tokens_push_out_none_of_ours() -> None:
    """What a callback says before anybody expects it is kept for whoever comes."""
    seal = Seal([token_secret(KEY)])
    parked = Parked(seal)
    parked.park(seal.text(TOKEN), TASK)
    for number in range(MOST_PARKED + 1):
        parked.park(f"{number:032x}{0:032x}", TASK)

    assert parked.take(TOKEN) == {TASK: False}
    assert parked.take("0" * 32) == {}


def test_a_secret_says_nothing_of_the_key_and_is_never_shown() -> None:
    """It is printed on purpose only, and is no key for signing or asking."""
    secret = token_secret(KEY)
    seal = Seal([secret])

    assert (len(secret), KEY in secret, token_secret(f" {KEY}\n")) == (64, False, secret)
    assert secret not in repr(seal)
    with pytest.raises(TypeError):
        pickle.dumps(seal)
    for wrong in ([secret[:-1]], [KEY], [""], [7], secret):
        with pytest.raises(ValueError, match="token_secrets") as caught:
            Seal(wrong)  # type: ignore[arg-type]
        assert KEY not in str(caught.value)
        assert secret[:-1] not in str(caught.value)


def test_a_receiver_says_what_its_gate_is(tmp_path: Path) -> None:
    """That it has none is said, rather than that the token were one."""
    inbox = Inbox(tmp_path / "callbacks.db")

    assert Receiver(inbox).gate.startswith("none: ")
    assert Receiver(inbox, hmac_keys=["k"]).gate == "a signature"
    assert receiver(tmp_path, KEY).gate == "a token that was made with the API key"
    assert Callback("https://hooks.test").gate == "a token that somebody here waits for"

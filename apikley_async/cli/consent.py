"""Consent: a user agrees to what a run pays for, and nothing else is paid."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Collection, Mapping
from pathlib import Path

import click

from apikley_async import ApikleyError, Client
from apikley_async.batch import BalanceEvidence, Batch, CostEstimate, ItemState
from apikley_async.cli.exit_codes import PostponedError, RefusedError
from apikley_async.cli.output.shell_words import same_command
from apikley_async.cli.output.terminal_text import count, in_credits, plain
from apikley_async.errors import JournalError

__all__ = [
    "ask_about_decision",
    "ask_consent",
    "changed_since",
    "films_to_pay",
    "note_balance",
    "refuse_sent_elsewhere",
    "refuse_unagreed",
]

BALANCE_TIMEOUT = 10.0  # seconds: the balance is only evidence, which may not be needed
SOON = 5.0  # seconds: a user waits for the question
MAX_NAMED = 3  # films that a message names
DECISIONS = {  # what they do with films that may have been paid
    "resubmit": "The next run submits {} again: what was received after all is then paid TWICE",
    "drop": "{} that may be paid will never be saved, and no charge is taken back",
}
PROBABLY_PAID = (
    "The balance says that MORE WAS PAID than the films with a task cost. Look for the task first "
    "(https://app.apikley.ru), and name it with `apikley batch resolve`.\n"
)


async def films_to_pay(batch: Batch, keys: Collection[str] | None) -> dict[str, str]:
    """The films that a run would pay for: their content digests by their keys."""
    return {
        item.key: item.digest
        async for item in batch.items(ItemState.PLANNED)
        if not item.gone and (keys is None or item.key in keys)
    }


async def ask_consent(estimate: CostEstimate, client: Client, *, bounded: bool = True) -> None:
    """Ask the user at the terminal whether to pay, with the account's balance if it can be read.

    Args:
        estimate: what would be paid.
        client: of the account.
        bounded: whether the command takes a bound in place of an agreement.

    Raises:
        RefusedError: the user says no, or there is no terminal.
    """
    if not estimate.films:
        return
    films = count(estimate.films)
    cost = f", about {in_credits(estimate.credits)} credits" if not estimate.unpriced else ""
    balance = await _balance_of(client) if _somebody_is_there() else ""
    await _agree(
        f"Submit {films}{cost}?{balance}",
        f"{films} would be paid{cost}",
        "--yes or --max-credits" if bounded else "--yes",
        "nothing was sent, nothing was paid",
    )


async def _balance_of(client: Client) -> str:
    """The account's balance as a sentence; nothing if the service does not answer soon."""
    try:
        async with asyncio.timeout(SOON):
            return f" The balance is {in_credits(await client.credits())}."
    except (ApikleyError, TimeoutError):
        return ""


async def ask_about_decision(
    decision: str, films: int, balances: Collection[BalanceEvidence]
) -> None:
    """Ask the user at the terminal whether to decide about films that may have been paid.

    Args:
        decision: "resubmit" or "drop".
        films: how many.
        balances: what the account's balance says about them.

    Raises:
        RefusedError: the user says no, or there is no terminal.
    """
    paid = any(balance.suggests_payment for balance in balances)
    meant = f"{PROBABLY_PAID if paid else ''}{DECISIONS[decision].format(count(films))}"
    await _agree(f"{meant}. Go on?", meant, "--yes", "nothing was changed")


async def note_balance(client: Client, batch: Batch) -> None:
    """Note the account's balance as evidence for uncertain films; nothing depends on it."""
    try:
        async with asyncio.timeout(BALANCE_TIMEOUT):
            await batch.record_balance(client)
    except JournalError:
        raise
    except (ApikleyError, TimeoutError):
        return


async def _agree(question: str, unasked: str, options: str, unchanged: str) -> None:
    if not _somebody_is_there():
        raise RefusedError(
            f"{unasked}, and there is nobody to ask here; to agree, add {options}:\n"
            f"  {same_command('--yes')}"
        )
    if not await _confirmed(question):
        raise RefusedError(f"stopped at your word: {unchanged}")


def _somebody_is_there() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


async def _confirmed(question: str) -> bool:
    """The answer of the user at the terminal; without one it is no."""
    while True:
        click.echo(f"{question} [y/N]: ", nl=False, err=True)
        line = await _typed_line()
        answer = line.strip().lower()
        if answer in ("", "n", "no", "y", "yes"):
            if not line:  # the end of the input, which has moved no cursor
                click.echo(err=True)
            return answer.startswith("y")
        click.echo("Please type y or n.", err=True)


async def _typed_line() -> str:
    """The next line that is typed. The event loop goes on meanwhile, and so do its signals."""
    loop, typed = asyncio.get_running_loop(), asyncio.Event()
    try:
        loop.add_reader(sys.stdin.fileno(), typed.set)
    except NotImplementedError:  # Windows waits for files in no event loop
        return sys.stdin.readline()
    try:
        await typed.wait()
    except asyncio.CancelledError:
        click.echo(err=True)  # what is said next begins on a line of its own
        raise
    finally:
        loop.remove_reader(sys.stdin.fileno())
    return sys.stdin.readline()


def refuse_unagreed(agreed: Mapping[str, str], to_pay: Mapping[str, str]) -> None:
    """Refuse to pay for films that nobody has agreed to.

    The question was asked about a copy of the journal: another process may have changed the
    journal since, or the user the manifest.
    """
    if not to_pay.items() <= agreed.items():
        raise changed_since()


def changed_since() -> PostponedError:
    """What is to be paid is not what the user has agreed to."""
    return PostponedError(
        "the films have changed since you agreed; nothing was sent, run this again"
    )


async def refuse_sent_elsewhere(
    other: Path, films: Mapping[str, str], *, names: bool = True
) -> None:
    """Refuse to pay for films if another journal has sent one of them.

    A film keeps its name when it is edited, and its content when the file is renamed.

    Args:
        other: the journal.
        films: content digests by keys.
        names: whether a film of such a key counts too, and not only of such a content.
    """
    digests, keys = set(films.values()), films.keys() if names else ()
    async with Batch.open(other, read_only=True) as batch:
        sent = [
            f"{item.key} ({item.state.value})"
            async for item in batch.items()
            if not item.may_change and (item.key in keys or item.digest in digests)
        ]
    if sent:
        more = f" and {len(sent) - MAX_NAMED} more" if len(sent) > MAX_NAMED else ""
        raise PostponedError(
            f"{plain(', '.join(sent[:MAX_NAMED]))}{more}: sent already, as {plain(other)} says, "
            "which is not the journal of this run. Nothing was sent now: resume with "
            f"--journal {plain(other)}; what is to be paid again needs another folder (-o)"
        )

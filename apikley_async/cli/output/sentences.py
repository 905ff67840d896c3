"""Events as sentences for people. Events without a sentence are for programs only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from apikley_async.cli.output.terminal_text import count, in_credits, plain

__all__ = ["sentence"]

Facts = Mapping[str, Any]


def sentence(event: str, facts: Facts) -> str | None:
    """An event in words; None if people need not read it.

    Args:
        event: the name of the event.
        facts: its facts, and under "name" how the film is called.
    """
    spell = SENTENCES.get(event)
    if spell is None:
        return None
    safe = {name: _safe(fact) for name, fact in facts.items()}
    return spell(safe, safe["name"])


def _safe(fact: Any) -> Any:
    if isinstance(fact, str | Path):
        return plain(fact)
    return [_safe(part) for part in fact] if isinstance(fact, list) else fact


def _submitted(facts: Facts, name: str) -> str:
    return f"{name}: {'begun' if 'simulated' in facts else 'submitted as ' + facts['task_id']}"


def _delayed(facts: Facts, name: str) -> str:
    """A film that is paid and could not be saved, or one that was not sent yet."""
    paid = facts.get("item_state") == "success"
    until = f" (at the service until {facts['until']})" if "until" in facts else ""
    return f"{name}: {'NOT SAVED' if paid else 'not submitted yet'}: {facts['reason']}{until}"


def _saved(facts: Facts, name: str) -> str:
    return f"{name}: saved {', '.join(facts['paths'])}"


def _failed(facts: Facts, name: str) -> str:
    return f"{name}: FAILED: {_reason(facts)}"


def _stopped(facts: Facts, name: str) -> str:
    return f"{name}: stopped: {_reason(facts)}"


def _error(facts: Facts, name: str) -> str:
    return f"Error: {_reason(facts)}"


def _reason(facts: Facts) -> str:
    details = [f"task {facts['task_id']}"] if "task_id" in facts and "file" in facts else []
    details += [f"code {facts['code']}"] if "code" in facts else []
    message = facts["message"].rstrip(".") + (f" ({', '.join(details)})" if details else "")
    return ". ".join(filter(None, [message, facts.get("advice", "")]))


def _undecided(facts: Facts, name: str) -> str:
    return (
        f"{name}: UNCERTAIN: it may have been received, and paid: {facts['cause']}\n"
        f"  sent {facts['sent']} to {facts['model']}: {facts['words']}\n"
        f"  balance: {facts['evidence']}"
    )


def _uncertain(facts: Facts, name: str) -> str:
    return (
        f"{name}: UNCERTAIN: it may have been received, and paid: {facts['cause']}. "
        "What to do is said at the end"
    )


def _listening(facts: Facts, name: str) -> str:
    return f"{name}: it may have been received ({facts['cause']}); a callback may still tell"


def _decided(facts: Facts, name: str) -> str:
    task = f", as {facts['task_id']}" if "task_id" in facts else ""
    cause = f" ({facts['cause']})" if "cause" in facts else ""
    return f"{name}: {facts['item_state']}{task}{cause}"


def _unmatched(facts: Facts, name: str) -> str:
    if "key" in facts:
        return f"{facts['task_id']}: known already, as the task of {name}"
    return f"{facts['task_id']}: NOT MATCHED: {facts['message'].rstrip('.')}"


def _batch(facts: Facts, name: str) -> str:
    others = (
        *("spent", "at_risk", "unpriced", "stopped", "takes", "per", "name", "event", "simulated"),
    )
    states = ", ".join(
        f"{number} {state}" for state, number in facts.items() if state not in others
    )
    states = states or "nothing planned"
    if "simulated" in facts:
        return f"{states}; simulated here, nothing was paid"
    text = f"{states}; {in_credits(facts['spent'])} credits spent"
    if "at_risk" in facts:
        text += f", {in_credits(facts['at_risk'])} more if those without an answer were received"
    if "unpriced" in facts:
        text += f", and {count(facts['unpriced'])} of unknown price"
    return f"{text}; {_pace(facts, name)}" if "takes" in facts else text


def _pace(facts: Facts, name: str) -> str:
    return f"the service takes {facts['takes']} per {facts['per']:g} s"


def _stopping(facts: Facts, name: str) -> str:
    """A signal came: what is waited for now. Only who pressed Ctrl-C can press it again."""
    submits = "nothing more is submitted. " if "out" in facts else ""
    waiting = "what is open is being closed"
    if facts.get("out"):
        sent = f"{count(facts['out'], 'submission')} under way"
        waiting = f"Waiting for the answer to {sent}, {facts['grace']:g} s at most"
    elif submits:
        waiting = waiting.capitalize()
    again = "Ctrl-C again" if facts["signal"] == "SIGINT" else "A second signal"
    return f"Stopping: {submits}{waiting}. {again} leaves at once."


def _unfinished(facts: Facts, name: str) -> str:
    number = len(facts["task_ids"])
    films = f"{count(number)} {'is' if number == 1 else 'are'} paid, but not finished here"
    return f"{films}; to resume:\n  {facts['resume']}"


def _receiving(facts: Facts, name: str) -> str:
    return (
        f"Receiving callbacks on {facts['host']}:{facts['port']}, stored in {facts['inbox']}\n"
        f"  Gate: {facts['gate']}"
    )


SENTENCES: dict[str, Callable[[Facts, str], str]] = {
    "batch": _batch,
    "pace": _pace,
    "decided": _decided,
    "delayed": _delayed,
    "error": _error,
    "failed": _failed,
    "listening": _listening,
    "finished": lambda facts, name: f"{name}: ready",
    "receiving": _receiving,
    "remark": lambda facts, name: f"Note: {facts['message']}",
    "report": lambda facts, name: f"Report: {facts['url']}",
    "saved": _saved,
    "polled": lambda facts, name: f"{name}: {facts['state']}",
    "sheet": lambda facts, name: f"Contact sheet: {facts['url']}",
    "stopped": _stopped,
    "stopping": _stopping,
    "submitted": _submitted,
    "uncertain": lambda facts, name: (_undecided if "sent" in facts else _uncertain)(facts, name),
    "undecided": _undecided,
    "unfinished": _unfinished,
    "unmatched": _unmatched,
    "working": lambda facts, name: (
        f"Working on {facts['journal']}, {facts['limit']} submissions per {facts['per']:g} s of "
        "all workers; Ctrl-C ends it"
    ),
    "uploaded": lambda facts, name: f"{name}: uploaded",
}

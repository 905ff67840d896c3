"""What the user gets to hear: events for programs on stdout, sentences for people on stderr.

An event is a word and some facts. As JSON it goes out as it is; for people it becomes a
sentence here. Whatever came from elsewhere (the service, a file's name) is made harmless first.
"""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, TextIO

import click

__all__ = ["Lines", "Screen", "Telling", "clean", "count", "plain", "sentence"]

JOINERS = "\u200c\u200d"  # they shape words of some scripts, and emoji
HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def plain(text: object) -> str:
    """*text* as a terminal may show it: control and direction characters become visible."""
    return "".join(
        repr(letter)[1:-1]
        if unicodedata.category(letter) in HIDDEN and letter not in JOINERS
        else letter
        for letter in str(text)
    )


def clean(text: str) -> str:
    """A text of several lines as a terminal may show it: the last look at all that is said."""
    return "\n".join(map(plain, text.split("\n")))


def count(number: int, thing: str = "film") -> str:
    """A number of things: "1 film", "2 films"."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


class Screen(Protocol):
    """Where people read: plain lines, or bars.

    Attributes:
        lively: whether it shows more than what has happened, such as how far a film is.
    """

    lively: bool

    def expect(self, films: int) -> None:
        """Let it know how many films are to come."""
        ...

    def show(self, event: str, facts: Mapping[str, Any]) -> None:
        """Let people know of an event."""
        ...

    def say(self, text: str) -> None:
        """Show a text, made harmless line by line."""
        ...

    def close(self) -> None:
        """Leave the terminal as it was found."""
        ...


class Lines:
    """One line after the other, for files, pipes and logs.

    Args:
        ends: with which event a film is done; "ready" is no news where saving follows.
    """

    lively = False

    def __init__(self, *, ends: str = "saved") -> None:
        self._ends = ends
        self._states: dict[str, str] = {}

    def expect(self, films: int) -> None:
        return

    def show(self, event: str, facts: Mapping[str, Any]) -> None:
        if event == "state" and not self._is_news(facts["name"], facts["state"]):
            return
        if event == "ready" != self._ends:
            return
        if told := sentence(event, facts):
            self.say(told)

    def _is_news(self, name: str, state: str) -> bool:
        """Per cent would fill a log; and what was just submitted waits."""
        before = self._states.get(name, "waiting")
        self._states[name] = state
        return state != before

    def say(self, text: str) -> None:
        click.echo(clean(text), err=True)

    def close(self) -> None:
        return


class Raw:
    """For last words: past every buffer and lock, since whoever holds one will not go on."""

    lively = False

    def expect(self, films: int) -> None:
        return

    def show(self, event: str, facts: Mapping[str, Any]) -> None:
        if told := sentence(event, facts):
            self.say(told)

    def say(self, text: str) -> None:
        os.write(2, f"{clean(text)}\n".encode(errors="backslashreplace"))

    def close(self) -> None:
        return


class Telling:
    """Passes events on: to programs with `--json`, to people always.

    Nobody listening any more (a closed pipe) is no reason to give up films that are paid.
    """

    def __init__(self, screen: Screen, *, as_json: bool) -> None:
        self.screen = screen
        self.as_json = as_json
        self.names: dict[str, str] = {}
        self._answers: list[str | Path] = []
        # Asked before bars are drawn: behind them, rich before 15 says that there is no terminal.
        self._one_screen = sys.stdout.isatty() and sys.stderr.isatty()
        self._hurried = False

    def __call__(self, event: str, **facts: Any) -> None:
        """Tell of an *event*; facts that are None are left out.

        People hear the short name of a film that has one in `names`.
        """
        known = {name: fact for name, fact in facts.items() if fact is not None}
        film = str(known.get("key") or known.get("file") or known.get("task_id") or "")
        if self.as_json:
            at = datetime.now(UTC).isoformat(timespec="milliseconds")
            self._out(json.dumps({"event": event, "at": at, **known}, default=str))
        shown = {**known, "name": plain(self.names.get(film, film))}
        self._shown(lambda: self.screen.show(event, shown))

    def say(self, text: str) -> None:
        """A sentence for people only."""
        self._shown(lambda: self.screen.say(plain(text)))

    def answer(self, text: str | Path, *, told: bool = False) -> None:
        """What was asked for: a line on stdout, once the bars are gone; JSON has its events.

        What people have been *told* already is not said twice to the same eyes.
        """
        if not self.as_json and not (told and self._one_screen):
            self._answers.append(text)

    def hurry(self) -> None:
        """From here on the process may end at any moment, even between two bytes of a buffer."""
        if not isinstance(self.screen, Lines):
            os.write(2, b"\r\x1b[J\x1b[?25h")  # no bars any more, and the cursor back
        self.screen, self._hurried = Raw(), True

    def give(self) -> None:
        """Print the answers there are."""
        answers, self._answers = self._answers, []
        for answer in answers:
            self._out(answer)

    def close(self) -> None:
        """Leave the terminal as it was, and give the answers."""
        self._shown(self.screen.close)
        self.give()

    def _out(self, line: str | Path) -> None:
        try:
            if self._hurried:
                os.write(1, f"{plain(line)}\n".encode(errors="backslashreplace"))
            elif isinstance(line, Path) and not sys.stdout.isatty():
                click.echo(bytes(line))  # a program wants the name as it is
            else:
                click.echo(plain(line))
        except OSError:
            _silence(sys.stdout)

    def _shown(self, show: Callable[[], None]) -> None:
        try:
            show()
        except OSError:
            _silence(sys.stderr)


def _silence(stream: TextIO) -> None:
    """Let what is written to *stream* from now on go nowhere: its reader has left."""
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


# --- sentences ------------------------------------------------------------------------------------


def sentence(event: str, facts: Mapping[str, Any]) -> str | None:
    """An event in words; None where people need none."""
    spell = SENTENCES.get(event)
    if spell is None:
        return None
    safe = {name: _safe(fact) for name, fact in facts.items()}
    return spell(safe, safe["name"])


def _safe(fact: Any) -> Any:
    if isinstance(fact, str | Path):
        return plain(fact)
    return [_safe(part) for part in fact] if isinstance(fact, list) else fact


def _saved(facts: Mapping[str, Any], name: str) -> str:
    other = f" ({facts['taken']} is another film)" if "taken" in facts else ""
    return f"{name}: saved {', '.join(facts['paths'])}{other}"


def _failed(facts: Mapping[str, Any], name: str) -> str:
    return f"{name}: FAILED: {_why(facts)}"


def _stopped(facts: Mapping[str, Any], name: str) -> str:
    return f"{name}: stopped: {_why(facts)}"


def _error(facts: Mapping[str, Any], name: str) -> str:
    return f"Error: {_why(facts)}"


def _why(facts: Mapping[str, Any]) -> str:
    known = [f"task {facts['task_id']}"] if "task_id" in facts and "file" in facts else []
    known += [f"code {facts['code']}"] if "code" in facts else []
    told = facts["message"].rstrip(".") + (f" ({', '.join(known)})" if known else "")
    return ". ".join(filter(None, [told, facts.get("advice", "")]))


def _uncertain(facts: Mapping[str, Any], name: str) -> str:
    return (
        f"{name}: UNCERTAIN: it may have been heard, and paid: {facts['cause']}\n"
        f"  attempt {facts['token']}, {facts.get('ended_at', facts['began_at'])}\n"
        f"  Is there a task of that time at https://app.apikley.ru?\n"
        f"    yes: {facts['if_found']}\n"
        f"    no:  {facts['if_not_found']}"
    )


def _undecided(facts: Mapping[str, Any], name: str) -> str:
    return (
        f"{name}: UNCERTAIN: it may have been heard, and paid: {facts['cause']}\n"
        f"  sent {facts['sent']} to {facts['model']}: {facts['words']}"
    )


def _batch(facts: Mapping[str, Any], name: str) -> str:
    known = ("spent", "at_risk", "unpriced", "name", "event")
    stands = ", ".join(f"{number} {state}" for state, number in facts.items() if state not in known)
    told = f"{stands or 'nothing planned'}; {facts['spent']:.12g} credits spent"
    if "at_risk" in facts:
        told += f", {facts['at_risk']:.12g} more if the uncertain ones were heard"
    if "unpriced" in facts:
        told += f", and {count(facts['unpriced'])} of unknown price"
    return told


def _stopping(facts: Mapping[str, Any], name: str) -> str:
    out = facts["out"]
    waits = f", and {count(out, 'submission')} on the way get their answer" if out else ""
    return f"Stopping: nothing more is submitted{waits}. Once more leaves at once."


def _unfinished(facts: Mapping[str, Any], name: str) -> str:
    number = len(facts["task_ids"])
    films = f"{count(number)} {'is' if number == 1 else 'are'} bought, but not finished here"
    return f"{films}; to take up:\n  {facts['resume']}"


def _unsubmitted(facts: Mapping[str, Any], name: str) -> str:
    number = len(facts["files"])
    films = f"{count(number)} {'was' if number == 1 else 'were'} not submitted"
    return f"{films}, nothing was paid; to go on:\n  {facts['resume']}"


SENTENCES: dict[str, Callable[[Mapping[str, Any], str], str]] = {
    "batch": _batch,
    "decided": lambda facts, name: (
        f"{name}: {facts['item_state']}" + (f" ({facts['cause']})" if "cause" in facts else "")
    ),
    "doubt": _undecided,
    "doubted": lambda facts, name: (
        f"{name}: UNCERTAIN: it may have been heard, and paid: {facts['cause']}. "
        "What to do is said at the end"
    ),
    "delayed": lambda facts, name: f"{name}: not accepted yet, trying again: {facts['reason']}",
    "error": _error,
    "failed": _failed,
    "listening": lambda facts, name: (
        f"{name}: it may have been heard ({facts['cause']}); a callback may still say so"
    ),
    "ready": lambda facts, name: f"{name}: ready",
    "receiving": lambda facts, name: (
        f"Receiving callbacks on {facts['host']}:{facts['port']}, kept in {facts['inbox']}\n"
        f"  Gate: {facts['gate']}"
    ),
    "remark": lambda facts, name: f"Note: {facts['message']}",
    "saved": _saved,
    "state": lambda facts, name: f"{name}: {facts['state']}",
    "stopped": _stopped,
    "stopping": _stopping,
    "submitted": lambda facts, name: f"{name}: submitted as {facts['task_id']}",
    "uncertain": _uncertain,
    "undecided": _undecided,
    "unfinished": _unfinished,
    "unsubmitted": _unsubmitted,
    "uploaded": lambda facts, name: f"{name}: uploaded",
}

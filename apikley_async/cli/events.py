"""The events of `--json`: the one list of their names and facts, for help, documents and tests.

What `Client(on_event=)` gives as well has the same name here: submitted, uncertain, polled,
finished, saved, uploaded.

Each is one JSON object a line, with "event" and "at". A fact that is not known is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["EVENTS", "RUN_EVENTS", "TASK_EVENTS", "Event"]


class Event(NamedTuple):
    """An event.

    Attributes:
        facts: the names of its facts, separated by blanks.
        meaning: when it comes, and what is not clear from the names.
    """

    facts: str
    meaning: str


FILM = "key item_state task_id"
REASON = "error code message advice"

EVENTS: Mapping[str, Event] = {
    # --- of films in the making ---
    "submitted": Event(f"{FILM} credits simulated", "the film is paid, unless it is simulated"),
    "delayed": Event(
        f"{FILM} reason expires_at until simulated",
        "not submitted yet (planned), or paid and not saved (success), with the end of its links",
    ),
    "polled": Event("key task_id state progress", "how far it is; progress in per cent"),
    "finished": Event(
        f"{FILM} state urls expires_at credits fail_code fail_message simulated",
        "it has ended: success, with links for about a day, or fail",
    ),
    "saved": Event(f"{FILM} paths credits simulated", "its files are on the disk"),
    "failed": Event(f"{FILM} file {REASON} simulated", "it, or the call for it, has failed"),
    "stopped": Event(f"{FILM} {REASON} simulated", "nothing is lost, and the same command resumes"),
    "uncertain": Event(
        "key cause sent_at sent model words evidence",
        "sent, and no answer came: it may be paid. Before a decision it has all that is known of "
        "the film; evidence: what the balance says",
    ),
    "listening": Event(
        "key cause", "uncertain, but a callback may still come and say what became of it"
    ),
    "undecided": Event(
        "key cause sent_at sent model words evidence if_found if_not_found",
        "at the end, and in `batch status`: it needs a decision, with the commands for it",
    ),
    "decided": Event("key item_state task_id cause", "what a decision has made of it"),
    "unmatched": Event(
        "task_id key candidates message",
        "a task that `resolve` has bound to no film; key: it is that film's already; candidates: "
        "films that it may be",
    ),
    "film": Event(
        f"{FILM} cause code message credits paths stored attempts",
        "all that a journal says of a film",
    ),
    # --- of runs and batches ---
    "remark": Event("message", "what should be known before paying"),
    "pace": Event(
        "takes per",
        "the service accepts less than the rate limit; takes: submissions in per seconds",
    ),
    "balance": Event(
        "before after began_at ended_at films cost uncertain unexplained",
        "the account's credits before and after uncertain attempts; cost: of the films with a "
        "task between the two; unexplained: what was taken beyond that",
    ),
    "estimate": Event(
        "films credits unpriced fitting",
        "what is still to be paid, in films and credits; unpriced: films without a price; "
        "fitting: films that the bounds let through",
    ),
    "stopping": Event(
        "signal out grace",
        "a signal came; out: submissions whose answer is awaited, for grace seconds at most",
    ),
    "batch": Event(
        "planned sending uncertain submitted success done failed rejected stalled expired dropped "
        "spent at_risk unpriced stopped takes per simulated",
        "films by state; credits spent, and at_risk: of uncertain films, perhaps charged; "
        "unpriced: films whose credits nobody knows; stopped: why nothing more was submitted; "
        "takes, per: as for pace",
    ),
    "report": Event("path url", "a page about the whole batch"),
    "unfinished": Event(
        "task_ids resume", "tasks paid and not finished, with the command for them"
    ),
    "summary": Event("films ready saved failed resumable seconds", "the tasks of one command"),
    # --- of other commands ---
    "status": Event(
        "task_id state progress urls fail_code fail_message credits", "the state of one task"
    ),
    "uploaded": Event("file url", "an image that is stored at the service"),
    "credits": Event("credits", "the account's balance"),
    "finding": Event(
        "check right message",
        "a check of `doctor`; right: all is well, left out where it was not made",
    ),
    "sheet": Event("path url", "a page with all storyboards of a manifest"),
    "written": Event("path", "a manifest was written"),
    "checked": Event("file faults remarks films shots seconds credits", "a manifest was checked"),
    "verified": Event("faults", "a journal and its films were checked"),
    "set_up": Event("database before now", "a database has its tables; versions of its parts"),
    "database": Event("database films", "a database can be used; its films by their state"),
    "backed_up": Event("path", "where the copy of a journal is"),
    "serving": Event("base_url api_key", "the simulated service, and the key that opens it"),
    "working": Event("journal folder limit per", "a worker takes up its work"),
    "receiving": Event("host port inbox gate", "the receiver of callbacks"),
    # --- of every command ---
    "error": Event(REASON, "the whole command has failed"),
    "end": Event("exit_code reason", "the last event of every command"),
}

RUN_EVENTS = (
    *("submitted", "delayed", "polled", "finished", "saved", "failed", "stopped", "uncertain"),
    *("listening", "undecided", "remark", "pace", "balance", "estimate", "stopping", "batch"),
    *("report", "error", "end"),
)
TASK_EVENTS = (
    *("polled", "finished", "saved", "failed", "stopped", "stopping", "unfinished", "summary"),
    *("error", "end"),
)

"""Which of several tasks is which uncertain film, by what was asked for. Binds nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import attrs

from apikley_async import Client, Snapshot, Work
from apikley_async._text import count
from apikley_async.batch.manifest.payload import work_of
from apikley_async.batch.store.adoption import is_stand_in
from apikley_async.batch.store.rows import read_time
from apikley_async.batch.store.values import Item
from apikley_async.errors import (
    ApikleyError,
    ClientClosedError,
    InvalidRequestError,
    NotFoundError,
    StoryboardError,
)

__all__ = ["SentFilm", "TaskMatch", "assign_tasks", "match_tasks", "sent_film"]

KNOWN = "it is known already"
NO_IMAGE = "the journal has lost with which image"
UNSEEN = "its record does not repeat its request, so it may be any uncertain film"
UNKNOWN = (NotFoundError, InvalidRequestError)  # with which the service says that there is none
CLOCKS_DIFFER = timedelta(minutes=10)  # that the service's clock may be behind ours


@attrs.frozen
class TaskMatch:
    """What became of a task that was to be matched with an uncertain film.

    Attributes:
        task_id: the task.
        key: the film that it belongs to; empty where that is not certain.
        candidates: keys of the uncertain films that it may be, where it is not certain which.
        reason: why it was bound to none now; empty where it was.
        compared: whether its record shows what was asked for. Otherwise it may be any film, and a
            person has to insist (`force`).
        unanswered: whether it could not be looked up: the same again, later, may find its film.
    """

    task_id: str
    key: str = ""
    candidates: tuple[str, ...] = ()
    reason: str = ""
    compared: bool = True
    unanswered: bool = False


@attrs.frozen
class SentFilm:
    """An uncertain film, and what is known of its uncertain attempts.

    Attributes:
        key: its name in the batch.
        work: what was to be made.
        began_at, sent_at: when the first and the last of them began; None for a *lost* one.
        tokens, fingerprints: of all of them.
        lost: whether one is missing in an adopted journal: nobody knows when it began, or its
            token.
    """

    key: str
    work: Work
    began_at: datetime | None
    sent_at: datetime | None
    tokens: tuple[str, ...]
    fingerprints: tuple[str, ...]
    lost: bool


def sent_film(item: Item, attempts: Sequence[Mapping[str, Any]]) -> SentFilm:
    """An uncertain film from its attempts."""
    unknown = [attempt for attempt in attempts if attempt["state"] == "unknown"]
    lost = any(map(is_stand_in, unknown))
    times = [] if lost else [attempt["began_at"] for attempt in unknown]
    return SentFilm(
        item.key,
        work_of(item),
        read_time(min(times, default=None)),
        read_time(max(times, default=None)),
        tuple(attempt["token"] for attempt in unknown),
        tuple(attempt["fingerprint"] for attempt in unknown),
        lost,
    )


async def match_tasks(
    client: Client,
    task_ids: Iterable[str],
    films: Sequence[SentFilm],
    attempts: Iterable[Mapping[str, Any]],
) -> list[TaskMatch]:
    """Poll tasks, and say which film each is.

    Args:
        client: polls them.
        task_ids: the tasks.
        films: those that are uncertain.
        attempts: all attempts of the journal, which may know a task already.

    Raises:
        ApikleyError: no task could be looked up.
    """
    films, rows = [with_content(client, film) for film in films], [*attempts]
    owners = {str(row["task_id"]): str(row["key"]) for row in rows if row["task_id"]}
    resolved = [str(row["token"]) for row in rows if row["state"] == "resolved"]
    named = dict.fromkeys(task_ids)
    records = await look_up(client, [task_id for task_id in named if task_id not in owners])
    matches = dict[str, TaskMatch]()
    for task_id in named:
        if task_id in owners:
            matches[task_id] = TaskMatch(task_id, owners[task_id], reason=KNOWN)
        elif isinstance(record := records[task_id], ApikleyError):
            matches[task_id] = unmatched(task_id, record)
        else:
            matches[task_id] = match_of(client, record, films, resolved)
    fitting = {task_id: match.candidates for task_id, match in matches.items() if not match.reason}
    unanswered = sum(match.unanswered for match in matches.values())
    # Where there are more tasks than films, a rival may be among those that were not looked up.
    hidden = unanswered if unanswered + len(fitting) > len(films) else 0
    found = {} if hidden else assign_tasks(fitting)
    for task_id in fitting:
        if task_id in found:
            matches[task_id] = TaskMatch(task_id, found[task_id])
        else:
            reason = rivalry(task_id, fitting, hidden)
            matches[task_id] = attrs.evolve(matches[task_id], reason=reason)
    return [*matches.values()]


async def look_up(client: Client, task_ids: Sequence[str]) -> Mapping[str, Snapshot | ApikleyError]:
    """Poll tasks; one that could not be polled has the error.

    After an error that every other would meet as well, the rest is not polled.

    Raises:
        ApikleyError: no task could be looked up.
    """
    found = dict[str, Snapshot | ApikleyError]()
    last: Snapshot | ApikleyError | None = None
    for task_id in task_ids:
        if isinstance(last, ApikleyError) and last.affects_all:
            found[task_id] = last
            continue
        try:
            last = await client.attempts.poll(task_id)
        except (ClientClosedError, StoryboardError):
            raise
        except ApikleyError as error:
            last = error
        found[task_id] = last
    errors = [each for each in found.values() if isinstance(each, ApikleyError)]
    if (
        errors
        and len(errors) == len(found)
        and not any(isinstance(each, UNKNOWN) for each in errors)
    ):
        raise errors[0]
    return found


def unmatched(task_id: str, error: ApikleyError) -> TaskMatch:
    """A task without a record: the service does not know it, or could not be asked."""
    if isinstance(error, UNKNOWN):
        return TaskMatch(task_id, reason=error.message)
    return TaskMatch(task_id, reason=f"it could not be looked up: {error.message}", unanswered=True)


def rivalry(task_id: str, candidates: Mapping[str, Sequence[str]], hidden: int) -> str:
    """Why it is not certain which film a task is: others may be the same films.

    Args:
        task_id: the task.
        candidates: by task, the films that it may be.
        hidden: how many more tasks may be any of them, as they could not be looked up.
    """
    if hidden:
        others = f"{count(hidden, 'task')} that could not be looked up may be the same film"
        return f"there are more tasks than uncertain films, and {others}"
    films = {*candidates[task_id]}
    rivals = sum(not films.isdisjoint(others) for others in candidates.values())
    alike = f"{rivals} tasks were submitted like {count(len(films), 'uncertain film')}"
    return f"{alike}, and nothing says which is which"


def match_of(
    client: Client, snapshot: Snapshot, films: Sequence[SentFilm], resolved: Sequence[str]
) -> TaskMatch:
    """The films that a task may be, the one sent nearest to its creation first; or why none is.

    A callback token proves one film. Without it those count that were submitted with the same
    model and input, which is all that is paid for, and before the task was created. A callback
    with another token is that of another submission, unless it is a *resolved* attempt's: that
    was given the task of a film of the same content, and this one is left for that film.
    """
    task_id, attempts = snapshot.task_id, client.attempts
    if not films:
        return TaskMatch(task_id, reason="no film is uncertain")
    if not (shown := attempts.fingerprints(snapshot)):
        keys = tuple(film.key for film in films)
        return TaskMatch(task_id, candidates=keys, reason=UNSEEN, compared=False)
    if attempts.names_token(snapshot, (token for film in films for token in film.tokens)):
        own = (film.key for film in films if attempts.names_token(snapshot, film.tokens))
        return TaskMatch(task_id, candidates=tuple(own))
    alike = [film for film in films if not shown.isdisjoint(film.fingerprints)]
    differences: tuple[str, ...] = ()
    for film in () if alike else films:  # the service may spell an input in another way
        differences = attempts.compare(snapshot, film.work)
        alike += [] if differences else [film]
    if not alike and (keys := but_for_images(client, snapshot, films)):
        reason = f"it was submitted like {', '.join(keys[:3])}, and {NO_IMAGE}"
        return TaskMatch(task_id, candidates=keys, reason=reason, compared=False)
    if alike:
        alike.sort(key=lambda film: distance(film.sent_at, snapshot.created_at))
        ours = attempts.names_token(snapshot, resolved)
        possible = tuple(film.key for film in alike if ours or not is_older(snapshot, film))
        if attempts.calls_back(snapshot) and not ours:
            reason = "it was submitted like {}, but with a callback of another submission"
            if any(film.lost for film in alike):
                reason += ", or of one that this journal has lost"
        elif not possible:
            reason = "it was submitted like {}, but before"
        else:
            return TaskMatch(task_id, candidates=possible)
        keys = tuple(film.key for film in alike)
        return TaskMatch(task_id, candidates=keys, reason=reason.format(", ".join(keys[:3])))
    reason = f"none of the {count(len(films), 'uncertain film')} was submitted like it"
    if len(films) == 1:
        reason = "; ".join(differences)
    return TaskMatch(task_id, reason=reason)


def with_content(client: Client, film: SentFilm) -> SentFilm:
    """A film, a lost one with the fingerprint that its request had, as far as that is known."""
    fingerprint = client.attempts.fingerprint(film.work) if film.lost else None
    return film if fingerprint is None else attrs.evolve(film, fingerprints=(fingerprint,))


def but_for_images(
    client: Client, snapshot: Snapshot, films: Sequence[SentFilm]
) -> tuple[str, ...]:
    """Keys of lost films that a task may be, if it has their images: those cannot be compared."""
    compare = client.attempts.compare
    lost = (film for film in films if film.lost and not any(film.fingerprints))
    return tuple(film.key for film in lost if not compare(snapshot, film.work, uploads=False))


def is_older(snapshot: Snapshot, film: SentFilm) -> bool:
    """Whether a task was created before the film was submitted, by more than clocks differ."""
    created_at, began_at = snapshot.created_at, film.began_at
    if created_at is None or began_at is None:
        return False
    return created_at < began_at - CLOCKS_DIFFER


def distance(sent_at: datetime | None, created_at: datetime | None) -> timedelta:
    """How far apart two times are; the longest where one is not known."""
    return timedelta.max if sent_at is None or created_at is None else abs(sent_at - created_at)


def assign_tasks(candidates: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Find the film of each task, as far as nothing is guessed.

    A film that is the only one for a task, and the only one of no other task, is certain. Of films
    that several tasks fit alike, any may be any: they were submitted with the same input. That
    holds only while there are enough of them, and no other task fits some of them.

    Args:
        candidates: by task, the films that it may be, the best first.

    Returns:
        Films by tasks; tasks whose film is not certain are left out.
    """
    found: dict[str, str] = {}
    while True:
        taken = {*found.values()}
        groups: dict[frozenset[str], list[str]] = {}
        for task, films in candidates.items():
            if task not in found:
                groups.setdefault(frozenset(films) - taken, []).append(task)
        certain = [films for films in groups if _is_certain(films, groups)]
        if not certain:
            return found
        free = set(certain[0])
        for task in groups[certain[0]]:
            found[task] = next(film for film in candidates[task] if film in free)
            free.discard(found[task])


def _is_certain(films: frozenset[str], groups: Mapping[frozenset[str], Sequence[str]]) -> bool:
    """Whether the tasks that fit just these films can be bound to them."""
    if not films or len(groups[films]) > len(films):
        return False
    return len(films) == 1 or all(films.isdisjoint(other) for other in groups if other != films)

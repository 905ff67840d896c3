"""A journal with films in every state, for tests of reports: written by the store itself.

python tests/support/sample_batch.py FOLDER [FILM...]     makes one to look at
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from manual_clock import ManualClock

from apikley_async import Attempt, ModelTask, SavedFile, Shot, Storyboard, Verdict, Work
from apikley_async.batch import Batch, ItemEvent, Journal, Transition
from apikley_async.batch.report.posters import make_posters
from apikley_async.batch.saved_files import hash_file

__all__ = ["BEGAN", "FATES", "make_batch", "storyboards"]

BEGAN = 60_000.0  # seconds of the manual clock
PRICE = 270.0
REFUSED = "We currently do not support uploads of images containing photorealistic people."
# What became of some films of `storyboards(2)`; the others are done.
FATES: Mapping[str, str] = {
    "paper-boat.2": "refused",
    "kitten.2": "refused",
    "night-train.2": "failed",
    "lighthouse": "uncertain",
    "tea.2": "unanswered",
    "lighthouse.2": "lost",
    "night-train": "expired",
    "olive-grove.2": "ready",
    "olive-grove": "throttled",
    "tea": "retried",
    "harbour": "planned",
    "paper-boat": "rejected",
}
SCENES: Mapping[str, tuple[str, ...]] = {
    "kitten": (
        "A fluffy kitten in orange headphones eats a slice of cake, cosy indoor light.",
        "The cake is gone; the same kitten licks its lips, calm and content.",
    ),
    "lighthouse": ("A lighthouse at dawn, aerial, slow push in.", "The keeper opens the door."),
    "night-train": ("Ночной поезд пересекает виадук под звёздами.", "Девочка рисует на стекле."),
    "paper-boat": ("A paper boat in a gutter.", "It passes under a bridge.", "A child waits."),
    "olive-grove": ("صباح هادئ في بستان الزيتون، ضباب خفيف بين الأشجار.",),
    "tea": ("Steam rises from a glass of tea.", "Hands close around it."),
}


def storyboards(takes: int) -> list[tuple[str, Work]]:
    """So many takes of six storyboards, and a film of another model."""
    works: list[tuple[str, Work]] = []
    for number, (name, scenes) in enumerate(SCENES.items()):
        aspect = "portrait" if number % 2 else "landscape"
        board = Storyboard([Shot(each) for each in scenes], duration=15, aspect_ratio=aspect)
        works += [(name if take == 1 else f"{name}.{take}", board) for take in range(1, takes + 1)]
    task = ModelTask("kling-2.6/text-to-video", {"prompt": "A harbour at night, rain."})
    return [*works, ("harbour", task)]


async def make_batch(
    path: Path,
    works: Sequence[tuple[str, Work]],
    fates: Mapping[str, str],
    *,
    films: Mapping[str, Path] | None = None,
    seed: int = 1,
) -> None:
    """Write a journal whose films went as *fates* says, by key; the others are done.

    Args:
        path: of the journal; films lie in `films` beside it.
        works: the films.
        fates: "sending", "uncertain", "unanswered" (the same for another cause), "failed",
            "refused", "rejected", "expired", "lost", "planned", "submitted", "ready", "dropped",
            "retried", "resolved" (twenty minutes after it was ready), or "throttled" (and done).
        films: files to copy as films, by the stem of the key; an empty file without.
        seed: of the times.
    """
    rng, clock = random.Random(seed), ManualClock(BEGAN)
    folder = path.parent / "films"
    folder.mkdir(exist_ok=True)
    async with Batch.open(path, clock=clock) as batch:
        await batch.add(works, allow_duplicates=True)
    journal = await Journal.open(path, clock=clock)
    await journal.add_folder(folder)
    await journal.record_balance(100_000.0)
    steps: list[tuple[float, str, str]] = []
    for number, (key, _) in enumerate(works):
        fate = fates.get(key, "done")
        at = BEGAN + number * 0.55 + rng.random() * 0.2
        for event in EVENTS[fate]:
            steps.append((at, key, event))
            at += rng.lognormvariate(*SPANS.get(event, (-1.0, 0.3)))
    writer = Writer(journal, clock, folder, films or {}, fates)
    for at, key, event in sorted(steps, key=lambda step: step[0]):
        clock.time = at
        await writer.apply(key, event)
    clock.time += 5
    await journal.record_balance(100_000.0 - PRICE * writer.charged)
    await journal.aclose()


# Of the logarithm of seconds.
SPANS = {"accept": (5.0, 0.35), "succeed": (0.8, 0.5), "doubt": (7.2, 0.1), "resolve": (0.8, 0.5)}
MADE_IN = 150.0  # seconds: a film that is found later
MADE = ("intend", "accept", "succeed")
EVENTS: Mapping[str, tuple[str, ...]] = {
    "done": (*MADE, "save"),
    "throttled": ("intend", "throttle", *MADE, "save"),
    "lost": (*MADE, "save"),
    "uncertain": ("intend", "uncertain"),
    "unanswered": ("intend", "unanswered"),
    "failed": ("intend", "accept", "fail"),
    "refused": ("intend", "accept", "fail"),
    "rejected": ("intend", "refuse"),
    "expired": (*MADE, "expire"),
    "planned": (),
    "sending": ("intend",),
    "submitted": ("intend", "accept"),
    "ready": MADE,
    "dropped": ("drop",),
    "resolved": ("intend", "doubt", "resolve", "succeed", "save"),
    "retried": ("intend", "accept", "fail", "retry", *MADE, "save"),
}
VERDICTS = {
    "accept": (Verdict.ACCEPTED, ItemEvent.ACCEPT, ""),
    "throttle": (Verdict.THROTTLED, ItemEvent.THROTTLE, "too many requests (429)"),
    "uncertain": (Verdict.UNCERTAIN, ItemEvent.UNCERTAIN, "the connection broke off after 3.1 s"),
    "doubt": (Verdict.UNCERTAIN, ItemEvent.UNCERTAIN, "the connection broke off after 3.1 s"),
    "unanswered": (Verdict.UNCERTAIN, ItemEvent.UNCERTAIN, "HTTP 502: Bad Gateway"),
    "refuse": (Verdict.REFUSED, ItemEvent.REFUSE, "Image format is not supported (code 422)"),
}


class Writer:
    """Writes events of films into a journal."""

    def __init__(
        self,
        journal: Journal,
        clock: ManualClock,
        folder: Path,
        films: Mapping[str, Path],
        fates: Mapping[str, str],
    ) -> None:
        self.charged = 0
        self._clock = clock
        self._journal = journal
        self._folder = folder
        self._films = films
        self._fates = fates
        self._tokens: dict[str, str] = {}
        self._sent: dict[str, float] = {}
        self._number = 0

    async def apply(self, key: str, event: str) -> None:
        journal = self._journal
        if event == "intend":
            self._number += 1
            self._tokens[key] = f"{self._number:032x}"
            self._sent[key] = self._clock.wall()
            await journal.intend(key, self._tokens[key], "0" * 64, PRICE)
        elif event in VERDICTS:
            verdict, kind, cause = VERDICTS[event]
            task_id = f"task_{self._number:06d}_{key}" if event == "accept" else None
            self.charged += event == "accept"
            attempt = Attempt(self._tokens[key], verdict, task_id=task_id, cause=cause)
            await journal.settle(key, attempt, Transition(kind, task_id=task_id, cause=cause))
        else:
            await journal.apply(key, self._transition(key, event))

    def _transition(self, key: str, event: str) -> Transition:
        if event == "fail":
            refused = self._fates[key] == "refused"
            broken = f"internal error {key}-{self._number}"
            code, message = ("400", REFUSED) if refused else ("500", broken)
            cause = f"The film failed: {code} {message}"
            self.charged -= 1
            return Transition(
                ItemEvent.FAIL, cause, fail_code=code, fail_message=message, credits=0.0
            )
        if event == "succeed":
            at = self._clock.wall()
            links = {"urls": [f"https://files.example.com/{key}.mp4?sign=secret-{key}"]}
            links |= {"expires_at": at + 86_400, "content": {}}  # type: ignore[dict-item]
            found = self._fates.get(key) == "resolved"
            ready = datetime.fromtimestamp(self._sent[key] + MADE_IN if found else at - 1, UTC)
            result = json.dumps(links)
            return Transition(ItemEvent.SUCCEED, credits=PRICE, result=result, success_at=ready)
        if event == "resolve":
            return Transition(ItemEvent.RESOLVE, task_id=f"task_found_{key}")
        if event == "save":
            return Transition(ItemEvent.SAVE, files=(self._save(key),))
        if event == "expire":
            return Transition(ItemEvent.EXPIRE, cause="every way to the film is refused")
        return Transition(ItemEvent(event))

    def _save(self, key: str) -> SavedFile:
        path = self._folder / f"{key}.mp4"
        source = self._films.get(key.partition(".")[0])
        content = source.read_bytes() if source else b""
        if self._fates.get(key) != "lost":
            path.write_bytes(content)
        return SavedFile(path, len(content), hashlib.sha256(content).hexdigest())


def main() -> None:
    """Make a batch to look at, with the films of an earlier demo where there are any."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    films = {path.stem: path for path in map(Path, sys.argv[2:])}
    fates = {
        "paper-boat.2": "refused",
        "kitten.3": "refused",
        "night-train.3": "failed",
        "paper-boat.3": "uncertain",
        "tea.4": "uncertain",
        "lighthouse.4": "lost",
        "night-train.4": "expired",
        "olive-grove.4": "ready",
        "tea.2": "throttled",
        "tea.3": "retried",
        "harbour": "planned",
    }
    asyncio.run(make_batch(folder / "campaign.db", storyboards(4), fates, films=films))
    saved = [path for path in (folder / "films").glob("*.mp4") if path.stat().st_size]
    make_posters([hash_file(path) for path in saved])


if __name__ == "__main__":
    main()

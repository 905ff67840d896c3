"""Runs batches in processes of their own, and ends them at given points.

Reads lines of JSON, of which each is one life. All have "place", a folder, and "setting", what
the batch and its client are to be (with "journal" the DSN of a shared one); and then:

    {"at": "after intent", "nth": 2}        end it at the second passing of that point
    {"at": "after answer", "full": true}    let no file grow any more from there on
    {"after": [0.25]}                       end it after so many seconds
    {}                                      let it run to its end
    {"adopt": true}                         the same, with the journal taken over as it is

A life is a child of this process, forked, that opens the batch in its place and runs it. SIGKILL
is what ends it, unless "signal" names another. REFUSED says that the journal was refused. For each
life one line of JSON comes back: how it ended, as `os.waitstatus_to_exitcode` says it.

The points are set by wrapping what the package does, here and nowhere in the package.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import signal
import sys
import time
import traceback
from asyncio import selector_events
from collections.abc import Callable
from pathlib import Path
from typing import Any

from apikley_async import Backoff, Client, JournalError, RateLimiter, Shot, Storyboard, Timeouts
from apikley_async._download.partfile import PartFile
from apikley_async._http import HttpTransport
from apikley_async.batch import Batch, ItemEvent, ItemState, recorder, run
from apikley_async.batch.store import attempts, claims, items
from apikley_async.webhook import Callback

POINTS = (
    *("before claim", "after claim", "before intent", "inside intent", "after intent"),
    *("before first byte", "after first byte", "after answer"),
    *("before id", "inside id", "after id", "before success", "after success"),
    *("during download", "before link", "after link", "before done", "inside done", "after done"),
)
HOOK_KEY = "a-word-that-signs"
REFUSED, NOT_AT_REST = 7, 4
REST = {
    ItemState.DONE,
    ItemState.FAILED,
    ItemState.REJECTED,
    ItemState.UNCERTAIN,
    ItemState.EXPIRED,
}
MOVES = {
    ItemEvent.INTEND: "intent",
    ItemEvent.ACCEPT: "id",
    ItemEvent.SUCCEED: "success",
    ItemEvent.SAVE: "done",
}


class Trap:
    """Ends the process when a point is passed so many times."""

    def __init__(self, life: dict[str, Any], journal: Path) -> None:
        self.point, self.left, self.full = life.get("at"), life.get("nth", 1), life.get("full")
        self.number = getattr(signal, life.get("signal", "SIGKILL"))
        self.journal = journal

    def pass_by(self, point: str) -> None:
        if point == self.point:
            self.left -= 1
            if self.left == 0 and self.full:
                size = self.journal.with_name(f"{self.journal.name}-wal").stat().st_size
                resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
            elif self.left == 0:
                os.kill(os.getpid(), self.number)
                if self.number == signal.SIGKILL:
                    time.sleep(60)  # in whichever thread: nothing may happen any more


def around(owner: Any, name: str, trap: Trap, point: Callable[..., str | None]) -> None:
    """Let the trap know before and after a call, if *point* has a name for it."""
    inner = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        named = point(*args, **kwargs)
        if named:
            trap.pass_by(f"before {named}")
        done = inner(*args, **kwargs)
        if named:
            trap.pass_by(f"after {named}")
        return done

    setattr(owner, name, call)


def set_traps(trap: Trap) -> None:
    around(attempts, "intend", trap, lambda *_, **__: "intent")
    around(claims, "claim", trap, lambda *_: "claim")
    around(attempts, "settle", trap, lambda *args: MOVES.get(args[-1].event))
    around(attempts, "apply", trap, lambda *args: MOVES.get(args[-1].event))
    around(os, "link", trap, lambda *_, **__: "link")
    move, send = items.move, HttpTransport.send
    begin, write = PartFile.begin, PartFile.write

    def moving(journal: Any, key: str, transition: Any, **options: Any) -> None:
        move(journal, key, transition, **options)
        trap.pass_by(f"inside {MOVES.get(transition.event)}")

    async def beginning(self: PartFile, *args: Any, **kwargs: Any) -> None:
        await begin(self, *args, **kwargs)
        trap.pass_by("during download")

    async def writing(self: PartFile, chunk: bytes) -> None:
        await write(self, chunk)
        trap.pass_by("during download")

    async def sending(self: HttpTransport, request: Any, *, on_sent: Any = None) -> Any:
        if request.repeatable:
            return await send(self, request, on_sent=on_sent)

        def leaving() -> None:
            on_sent()
            trap.pass_by("before first byte")

        reply = await send(self, request, on_sent=leaving)
        trap.pass_by("after answer")
        return reply

    items.move = moving
    PartFile.begin = beginning  # type: ignore[method-assign]
    PartFile.write = writing  # type: ignore[method-assign]
    HttpTransport.send = sending  # type: ignore[method-assign]
    for name in ("write", "writelines"):
        watch_socket(name, trap)


def watch_socket(name: str, trap: Trap) -> None:
    transport = selector_events._SelectorSocketTransport  # type: ignore[attr-defined]  # noqa: SLF001 - asyncio's own
    inner = getattr(transport, name)

    def write(self: Any, data: Any) -> None:
        inner(self, data)
        whole = data if isinstance(data, bytes | bytearray | memoryview) else b"".join(data)
        if b"/createTask" in bytes(whole):
            trap.pass_by("after first byte")

    setattr(transport, name, write)


def films(count: int) -> list[tuple[str, Storyboard]]:
    shots = [Shot(f"The scene of k{number}.", 5) for number in range(count)]
    return [(f"k{n}", Storyboard([shot], duration=10)) for n, shot in enumerate(shots)]


async def live(place: Path, setting: dict[str, Any], *, adopt: bool) -> int:
    """One life: 0 when every film has come to rest."""
    callback = None
    if setting.get("hook"):
        callback = Callback(setting["hook"], hmac_keys=[HOOK_KEY], inbox=place / "calls.db")
        recorder.CALLBACK_TIMEOUT = run.CALLBACK_TIMEOUT = setting["listening"]
    client = Client(
        setting["key"],
        callback=callback,
        base_url=setting["url"],
        limiter=RateLimiter(200, 0.05),
        polling=Backoff(initial=0.02, factor=1.2, maximum=0.1),
        job_timeout=30,
        timeouts=Timeouts(connect=5, read=5),
        retry_for=20,
    )
    journal = setting.get("journal") or place / "batch.db"
    async with client, Batch.open(journal, adopt=adopt) as batch:
        await batch.add(films(setting["films"]))
        running = setting["running"]
        last = {
            item.key: item
            async for item in batch.run(client, folder=place / "films", max_running=running)
        }
        left = [item async for item in batch.items() if item.state not in REST]
        for item in left:
            cause = last.get(item.key, item).cause or batch.stopped
            print(f"not at rest: {item.key} is {item.state.value}: {cause}", file=sys.stderr)
        return NOT_AT_REST if left else 0


def child(place: Path, setting: dict[str, Any], life: dict[str, Any]) -> int:
    set_traps(Trap(life, place / "batch.db"))
    try:
        return asyncio.run(live(place, setting, adopt=life.get("adopt", False)))
    except JournalError:
        return REFUSED
    except KeyboardInterrupt:
        return 130
    except BaseException:  # noqa: BLE001 - the parent is sent it
        traceback.print_exc()
        return 1


def main() -> None:
    for line in sys.stdin:
        life = json.loads(line)
        place, setting = Path(life.pop("place")), life.pop("setting")
        pid = os.fork()
        if pid == 0:
            gc.freeze()  # the collector would look through all that was imported, and so copy it
            code = 1
            try:
                code = child(place, setting, life)
            finally:
                sys.stderr.flush()
                os._exit(code)
        for after in life.get("after", ()):
            time.sleep(after)
            os.kill(pid, getattr(signal, life.get("signal", "SIGKILL")))
        _, status = os.waitpid(pid, 0)
        print(json.dumps({"code": os.waitstatus_to_exitcode(status)}), flush=True)


if __name__ == "__main__":
    main()

"""Mistakes that somebody could make in our own code; the simulation must notice each of them.

A mutant is a name and some replacements in a module's source. They are made while the module is
imported, in a process of their own: `install("skip the intent")` before the package is imported.
"""

from __future__ import annotations

from mutants.planting import Change, plant

__all__ = ["MUTANTS", "QUICK", "install"]

MUTANTS: dict[str, tuple[Change, ...]] = {
    # --- paying
    "skip the intent": (
        ("_recorder", "await recorder.intend(token, request)", "None"),
    ),
    "write the intent down behind the request": (
        ("batch.recorder", ("await self._claims.intend(self._planned, token, request.fingerprint,"
         " price, kind)"), "None; self._late = (token, request, price, kind)"),
        ("batch.recorder", "        self.item = await self._store.settle(",
         ("        token, request, price, kind = self._late\n"
          "        await self._claims.intend(self._planned, token, request.fingerprint,"
          " price, kind)\n"
          "        self.item = await self._store.settle(")),
    ),
    "try again whatever the error": (
        ("_submission", "except (RateLimitError, ServerError, UnreachableError) as error:",
         ("except (RateLimitError, ServerError, UnreachableError,"
          " SubmissionUncertainError) as error:")),
        ("_submission", "delay = retry_delay(error, repeatable=repeatable, delay=next(delays))",
         "delay = next(delays)"),
        ("batch.states", "(ItemState.PLANNED, ItemEvent.INTEND): ItemState.SENDING,",
         ("(ItemState.PLANNED, ItemEvent.INTEND): ItemState.SENDING,\n"
         "    (ItemState.UNCERTAIN, ItemEvent.INTEND): ItemState.SENDING,")),
    ),
    "take a lost answer for a lost request": (
        ("_http", "        if progress.sent:\n", "        if False:\n"),
    ),
    "forget that the first byte has left": (
        ("_http", "        self.sent = True\n", "        self.sent = False\n"),
    ),
    "take a 5xx for a refusal": (
        ("_wire.task_ids", "sure = status < 500 and code in ERROR_OF_CODE",
         "sure = status >= 500 or (status < 500 and code in ERROR_OF_CODE)"),
    ),
    "take a success without an id for a refusal": (
        ("_wire.task_ids",
         "    if isinstance(refused, ApiError) and sure:\n        raise refused\n",
         ("    if not (isinstance(refused, ApiError) and sure):\n"
         "        raise ServerError('no id', code=500)\n    raise refused\n")),
    ),
    "look past the id in a refusal": (
        ("_wire.task_ids", "    if task_id := find_task_id(reply.decoded):",
         "    if envelope.ok and (task_id := find_task_id(reply.decoded)):"),
    ),
    "plan again what was out in a crash": (
        ("batch.states", "(ItemState.SENDING, ItemEvent.CRASH): ItemState.UNCERTAIN",
         "(ItemState.SENDING, ItemEvent.CRASH): ItemState.PLANNED"),
    ),
    "plan again what is in doubt": (
        ("batch.states", "(ItemState.SENDING, ItemEvent.UNCERTAIN): ItemState.UNCERTAIN",
         "(ItemState.SENDING, ItemEvent.UNCERTAIN): ItemState.PLANNED"),
    ),
    "do not keep the id": (
        ("batch.recorder", "return Transition(ItemEvent.ACCEPT, task_id=attempt.task_id)",
         "return Transition(ItemEvent.UNSENT)"),
    ),
    "tell of the id before it is written down": (
        ("batch.recorder", "        self.item = await self._store.settle(",
         ("        import asyncio\n"
          "        self._late = asyncio.ensure_future(self._settle_late(outcome))\n\n"
          "    async def _settle_late(self, outcome: Attempt) -> None:\n"
          "        self.item = await self._store.settle(")),
    ),
    "NORMAL instead of FULL": (
        ("_sqlite", "PRAGMA synchronous = FULL", "PRAGMA synchronous = NORMAL"),
    ),
    "do not undo a step that failed": (
        ("batch.store.sqlite_journal", "            yield\n            self.db.execute(\"COMMIT\")",
         ("            self.db.execute(\"COMMIT\")\n            self.db.execute(\"BEGIN\")\n"
         "            yield\n            self.db.execute(\"COMMIT\")")),
        ("batch.store.attempts",
         "        items.move(journal, key, sending, owner=owner, digest=digest)\n", ""),
    ),
    # --- pacing
    "forget the limiter": (
        ("_submission", "async with Guarded(self._limiter.slot()):", "if True:"),
    ),
    "let slots come back when an attempt begins": (
        ("_limiter", "        self.times.take()\n",
         ("        self.times.take()\n"
          "        self.__dict__.setdefault(\"began\", {})[use] = self._clock.now()\n")),
        ("_limiter", "            self.times.give_back(ending, self._clock.now())\n",
         "            self.times.give_back(ending, self.__dict__[\"began\"].pop(use) - 2.0)\n"),
    ),
    "forget the window after a restart": (
        ("batch.recorder", "    limiter.remember(", "    [].append("),
    ),
    "lose a slot for each cancel": (
        ("_rate", "        if end is End.UNCERTAIN:\n            delay =",
         ("        if end in (End.OTHER, End.UNSENT):\n            delay = 1e9\n"
          "        elif end is End.UNCERTAIN:\n            delay =")),
    ),
    "lose a slot for each refusal": (
        ("_rate", "        if end is End.UNCERTAIN:\n            delay =",
         ("        if end in (End.REFUSED, End.PASSED):\n            delay = 1e9\n"
          "        elif end is End.UNCERTAIN:\n            delay =")),
    ),
    # --- looking
    "believe the first failure": (
        ("_job", "if snapshot.state is State.FAIL and not self._failing:", "if False:"),
    ),
    "take an unknown state for a failure": (
        ("_job", "        self._failing = snapshot.state is State.FAIL\n",
         ("        if snapshot.state is State.UNKNOWN:\n"
         "            import attrs\n"
         "            snapshot = attrs.evolve(snapshot, state=State.FAIL)\n"
         "        self._failing = snapshot.state is State.FAIL\n")),
    ),
    "take an empty result for a result": (
        ("_job", "        if snapshot.empty:", "        if False:"),
    ),
    "believe the state of another task": (
        ("_wire.tasks", "if named is not None and named != task_id:", "if False:"),
    ),
    "take an unknown task for a failed one": (
        ("batch.run", "            if not error.affects_all:\n",
         ("            if error.code == 404:\n"
          "                failed = Transition(ItemEvent.FAIL, cause=error.message)\n"
          "                return await self._apply(item, failed)\n"
          "            if not error.affects_all:\n")),
        ("_job", "MISSING_OWN = 600.0", "MISSING_OWN = 0.0"),
    ),
    "give up at the first outage": (
        ("_job", 'over = error.retry == "never"', "over = True"),
        ("batch.run", ("            if not error.affects_all:\n"
         "                return await self._apply(item, Transition(ItemEvent.STALL"),
         ("            if True:\n"
          "                return await self._apply(item, Transition(ItemEvent.FAIL")),
    ),
    # --- saving
    "do not look whether a film is whole": (
        ("_download.transfer", "if body.total is not None and sink.size != body.total:",
         "if False:"),
        ("_download.transfer", "if found is Completeness.TRUNCATED:", "if False:"),
        ("_download.ranges", 'framed = length is not None or "Transfer-Encoding" in headers',
         "framed = True"),
    ),
    "go on with whatever file is there": (
        ("_download.ranges", 'return {"Range": f"bytes={self.size}-", "If-Range": self.etag}',
         'return {"Range": f"bytes={self.size}-"}'),
        ("_download.ranges",
         "same = held.total in (None, total) and strong_etag(headers) == held.etag",
         "same = True"),
    ),
    "give a file its name before it is on the disk": (
        ("_download.partfile",
         "        sync_file(self._file)\n", ""),
    ),
    "do not sync the folder": (
        ("_download.partfile", "with synced_folder(final.parent):", "if True:"),
    ),
    "call it done before it is saved": (
        ("batch.run", "            transition = await self._saver.save(item)\n",
         ("            item = await self._apply(item, Transition(ItemEvent.SAVE))\n"
         "            transition = await self._saver.save(item)\n")),
        ("batch.run", "            item = await self._apply(item, transition)\n",
         "            pass\n"),
        ("batch.states", "(ItemState.EXPIRED, ItemEvent.RESUME): ItemState.SUCCESS,",
         ("(ItemState.EXPIRED, ItemEvent.RESUME): ItemState.SUCCESS,\n"
          "    (ItemState.DONE, ItemEvent.EXPIRE): ItemState.EXPIRED,")),
    ),
    "give up on the first dead link": (
        ("_download.transfer",
         "            except LinkRefusedError as error:\n                reason = str(error)\n",
         ("            except LinkRefusedError as error:\n"
         "                raise ResultExpiredError(str(error)) from None\n")),
    ),
    "show the key to the host of files": (
        ("_download.fetch", 'headers={"Accept-Encoding": "identity"} | held.range_headers(),',
         'headers={"Authorization": "Bearer canary-0000-this-key-opens-nothing"},'),
    ),
    # --- hearing
    "believe what a callback names": (
        ("_callbacks", "ours = belongs_to_attempt(snapshot, tokens=[token], fingerprints=())",
         "ours = True"),
    ),
    "bind by content alone": (
        ("_wire.tasks", ("if called is not None and"
         " any(token and token in called for token in tokens):"),
         "if tokens:"),
    ),
    # --- ending
    "leave tasks behind": (
        ("_tasks", ("            for task in self._tasks:\n                task.cancel()\n"
         "            if self._tasks:\n                await asyncio.wait(set(self._tasks))\n"),
         ""),
        ("batch.run", ("        while self._tasks:\n            for task in self._tasks:\n"
         "                task.cancel()\n            await asyncio.wait(set(self._tasks))\n"), ""),
        ("batch.run", "        for task in self._tasks:\n            task.cancel()\n", ""),
    ),
    "leave connections open": (
        ("_http", "            await session.close()\n", "            pass\n"),
    ),
    # --- others
    "leave the asking to one who is gone": (
        ("_job", "            run.polling = False\n", "            pass\n"),
        ("_job", "                await self._poll_once(run, left)\n",
         "                await self._poll_once(run, left)\n            run.polling = False\n"),
    ),
    "answer a callback before it is stored": (
        ("webhook.receiver",
         "            await self.inbox.add(notification.token, notification.task_id)\n",
         ("            import asyncio\n            self._adding = asyncio.ensure_future(\n"
          "                self.inbox.add(notification.token, notification.task_id))\n")),
    ),
    "give up what an inbox holds": (
        ("batch.recorder", "max(left, CONFIRMATION_TIMEOUT if named else 0.0)", "max(left, 0.0)"),
    ),
    # --- clocks
    "read nothing behind a stall": (
        ("_http", "loop.call_later(GRACE if stalled else 0.0, scope.cancel)",
         "loop.call_later(0.0, scope.cancel)"),
    ),
    "look by the wall clock": (
        ("_job", "        self._clock = clock\n",
         ("        same = {\"wall\": clock.wall, \"sleep\": clock.sleep}\n"
          "        self._clock = type(\"Wall\", (), same | {\"now\": clock.wall})()\n")),
    ),
    "wait for an answer for ever": (
        ("_http", "due = loop.time() + self._timeouts.connect + self._timeouts.read",
         "due = loop.time() + 1e9"),
    ),
}  # fmt: skip

SLOW = {
    "do not sync the folder",
    "give a file its name before it is on the disk",
    "look past the id in a refusal",
    "believe the first failure",
    "believe the state of another task",
    "take an unknown state for a failure",
    "go on with whatever file is there",
    "give up on the first dead link",
    "leave connections open",
    "wait for an answer for ever",
    "leave the asking to one who is gone",
    "answer a callback before it is stored",
    "give up what an inbox holds",
    "read nothing behind a stall",
    "look by the wall clock",
}
"""What takes more than some hundred runs to be noticed."""

QUICK = [name for name in MUTANTS if name not in SLOW]


def install(name: str) -> None:
    """Let the package be imported with a mistake in it."""
    plant(MUTANTS[name])

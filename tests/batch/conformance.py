"""What every store of a batch must do: subclass `StoreContract` and say how to open yours."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from batch.conformance_base import RUN, attempt, film
from batch.conformance_claims import ClaimContract

from apikley_async import SavedFile, Verdict
from apikley_async.batch import ItemEvent, ItemState, Store, StoredFile, Transition
from apikley_async.batch.store.values import ManifestEntry
from apikley_async.errors import DownloadError, JournalError, ManifestConflictError, ManifestError


class StoreContract(ClaimContract):
    """The promises of `apikley_async.batch.Store`."""

    async def test_a_plan_is_kept(self) -> None:
        """What was planned is there after closing and opening, in its order."""
        async with self.opened() as store:
            plan = await store.plan([film("b"), film("a")])
        async with self.opened() as store:
            items = await store.items()

        assert (plan.new, plan.known, plan.gone) == (2, 0, 0)
        assert [(item.key, item.state) for item in items] == [
            ("b", ItemState.PLANNED),
            ("a", ItemState.PLANNED),
        ]

    async def test_planning_the_same_again_adds_nothing(self, store: Store) -> None:
        """The same manifest is known, and what it no longer names is gone. (A21)."""
        await store.plan([film("a"), film("b")], source="one")

        again = await store.plan([film("a"), film("c")], source="one")

        assert (again.new, again.known, again.gone) == (1, 1, 1)
        assert [item.key for item in await store.items() if item.gone] == ["b"]

    async def test_two_manifests_do_not_forget_each_other(self, store: Store) -> None:
        """Only an earlier state of the same manifest can be gone from it."""
        await store.plan([film("a")], source="one")
        plan = await store.plan([film("b")], source="two")

        assert plan.gone == 0
        assert not [item.key for item in await store.items() if item.gone]

    async def test_films_without_a_source_are_never_gone(self, store: Store) -> None:
        """Without a manifest they come one by one, and add up."""
        await store.plan([film("a")])
        plan = await store.plan([film("b")])

        assert plan.gone == 0
        assert not [item.key for item in await store.items() if item.gone]

    async def test_what_is_named_again_is_not_gone_any_more(self, store: Store) -> None:
        """A film that comes back to its manifest is the one it was."""
        for keys in ("ab", "a", "ab"):
            await store.plan([film(key) for key in keys], source="one")

        assert [(item.key, item.gone) for item in await store.items()] == [
            ("a", False),
            ("b", False),
        ]

    async def test_other_content_under_a_key_is_refused(self, store: Store) -> None:
        """A changed film needs a new key once it was sent; nothing is planned. (A21, M11)."""
        await store.plan([film("a")])
        await self.intend(store, "a", "1" * 32)
        await store.settle(
            "a", attempt("1" * 32, Verdict.THROTTLED), Transition(ItemEvent.THROTTLE, cause="busy")
        )

        with pytest.raises(ManifestConflictError, match=r"'a'.*other content"):
            await store.plan([film("b"), film("a", "Something else.")])

        assert [item.key for item in await store.items()] == ["a"]

    async def test_content_may_change_until_something_was_sent(self, store: Store) -> None:
        """Planned, dropped before any attempt, or refused for good: it is planned anew. (M11)."""
        await store.plan([film("a"), film("b"), film("c")])
        await store.apply("b", Transition(ItemEvent.DROP, by="me"))
        await store.apply("c", Transition(ItemEvent.REFUSE, cause="no picture"))

        plan = await store.plan([film(key, "Something else.") for key in "a"])
        more = await store.plan([film("b", "Another."), film("c", "A third.")])

        assert (plan.changed, plan.new, plan.known, more.changed) == (1, 0, 0, 2)
        for key in "abc":
            item = await store.item(key)
            assert (item.state, item.cause) == (ItemState.PLANNED, "")
            assert [event["event"] for event in await store.events(key)][-1] == "change"
        assert "A third." in (await store.item("c")).payload
        assert await store.verify() == []

    async def test_the_same_content_under_two_keys_is_refused(self, store: Store) -> None:
        """Twins would be paid twice, unless that is allowed. (A22)."""
        twins = [film("a", "One scene."), film("b", "One scene.")]
        with pytest.raises(ManifestConflictError, match=r"'b'.*'a'.*paid twice"):
            await store.plan(twins)
        assert not await store.items()

        assert (await store.plan(twins, allow_duplicates=True)).new == 2

    async def test_a_dropped_film_may_be_planned_under_another_key(self, store: Store) -> None:
        """Nobody pays twice for what was given up. (A22)."""
        await store.plan([film("a", "One scene.")])
        await store.apply("a", Transition(ItemEvent.DROP, by="me"))

        assert (await store.plan([film("b", "One scene.")])).new == 1

    async def test_a_key_twice_is_refused(self, store: Store) -> None:
        """Two films of one key would overwrite each other. (M4)."""
        with pytest.raises(ManifestConflictError, match="entry a"):
            await store.plan([film("a"), film("a")])

    @pytest.mark.parametrize("other", ["KITTEN", "kItten", "\uff4bitten"])
    async def test_keys_that_name_one_file_are_refused(self, store: Store, other: str) -> None:
        """Where letters' cases do not count, both films would have one name. (M4, D16)."""
        twins = [film("kitten", "One scene."), film(other, "Another.")]
        with pytest.raises(ManifestConflictError, match="same file"):
            await store.plan(twins)
        await store.plan(twins[:1], source="one")

        with pytest.raises(ManifestConflictError, match="'kitten'"):
            await store.plan(twins[1:], source="two")

        assert [item.key for item in await store.items()] == ["kitten"]

    @pytest.mark.parametrize("error", [ValueError, KeyError, OSError, sqlite3.Error])
    async def test_an_error_of_whoever_names_the_films_is_theirs(
        self, store: Store, error: type[Exception]
    ) -> None:
        """It comes out as it is, nothing is planned, and the store goes on working. (M9)."""

        def entries():  # type: ignore[no-untyped-def]
            yield film("a")
            raise error("theirs")

        with pytest.raises(error, match="theirs"):
            await store.plan(entries())

        assert not await store.items()
        assert (await store.plan([film("a")])).new == 1

    async def test_a_bad_entry_at_the_end_plans_nothing(self, store: Store) -> None:
        """Entries are planned whole or not at all. (M9)."""

        def entries():  # type: ignore[no-untyped-def]
            yield film("a")
            raise ManifestError(["line 2: bad"])

        with pytest.raises(ManifestError, match="line 2"):
            await store.plan(entries())

        assert not await store.items()

    async def test_the_life_of_a_film(self, store: Store) -> None:
        """From planned to done, with everything that is learnt on the way."""
        await store.plan([film("a")])
        await self.intend(store, "a", "t1", 150.0)
        assert (await store.item("a")).state is ItemState.SENDING

        ended = attempt("t1", Verdict.ACCEPTED, "task_1")
        await store.settle("a", ended, Transition(ItemEvent.ACCEPT, task_id="task_1"))
        await store.apply("a", Transition(ItemEvent.SUCCEED, credits=150.0, result='{"urls": []}'))
        saved = SavedFile(Path("/films/a.mp4"), 5, "00ff" * 16)
        done = await store.apply("a", Transition(ItemEvent.SAVE, files=(saved,)))

        assert done == await store.item("a")
        assert done.state is ItemState.DONE
        assert done.task_id == "task_1"
        assert done.credits == 150.0
        assert done.files == (saved,)
        assert done.attempts == 1
        [charge] = await store.attempt_costs()
        assert (charge.uncertain, charge.reserved, charge.consumed) == (False, 150.0, 150.0)
        assert not await store.verify()

    async def test_a_balance_is_evidence_while_nothing_moves(self, store: Store) -> None:
        """Not while a film is sent or made, nor when one was sent while the balance was read."""
        await store.plan([film("a"), film("b")])
        assert await store.at_rest() == 0
        assert await store.record_balance(1000.0, attempts=0)

        await self.intend(store, "a", "t1")
        assert await store.at_rest() is None
        assert not await store.record_balance(850.0, attempts=0)
        ended = attempt("t1", Verdict.ACCEPTED, "task_1")
        await store.settle("a", ended, Transition(ItemEvent.ACCEPT, task_id="task_1"))
        assert await store.at_rest() is None
        await store.apply("a", Transition(ItemEvent.SUCCEED, credits=150.0, result='{"urls": []}'))
        assert await store.at_rest() == 1
        assert not await store.record_balance(850.0, attempts=0)

        await self.intend(store, "b", "t2")
        await store.settle("b", attempt("t2", Verdict.UNCERTAIN), Transition(ItemEvent.UNCERTAIN))
        assert await store.at_rest() == 2
        assert await store.record_balance(700.0, attempts=2)
        assert [read[1] for read in await store.balances()] == [1000.0, 700.0]

    async def test_what_was_put_into_a_destination(self, store: Store) -> None:
        """A film is in one place: where it was saved last."""
        await store.plan([film("a")])
        await self.accept(store, "a", "task_1")
        await store.apply("a", Transition(ItemEvent.SUCCEED, result='{"urls": []}'))
        stored = StoredFile("a.mp4", 5, "00ff" * 16, "s3://films/a.mp4")
        done = await store.apply("a", Transition(ItemEvent.SAVE, stored=(stored,)))

        assert done == await store.item("a")
        assert (done.files, done.stored) == ((), (stored,))
        await store.apply("a", Transition(ItemEvent.REFETCH))
        saved = SavedFile(Path("/films/a.mp4"), 5, "00ff" * 16)
        done = await store.apply("a", Transition(ItemEvent.SAVE, files=(saved,)))
        assert (done.files, done.stored) == ((saved,), ())
        assert not await store.verify()

    async def test_an_item_keeps_everything_under_a_new_key(self, store: Store) -> None:
        """Attempts, history, charges; the old key is free again. (A21)"""
        await store.plan([film("a")])
        await self.accept(store, "a", "task_1")

        await store.release(RUN)
        renamed = await store.rename("a", "b", by="me")

        assert (renamed.key, renamed.task_id, renamed.attempts) == ("b", "task_1", 1)
        assert [row["token"] for row in await store.attempts("b")] == ["token-a"]
        assert [charge.key for charge in await store.attempt_costs()] == ["b"]
        last = [*await store.events("b")][-1]
        assert (last["event"], last["by"]) == ("rename", "me")
        with pytest.raises(KeyError):
            await store.item("a")
        await store.plan([film("c")])
        with pytest.raises(ManifestConflictError):
            await store.rename("c", "B")
        assert not await store.verify()

    async def test_folders_are_kept_in_their_order(self) -> None:
        """Where films were saved, the newest last."""
        async with self.opened() as store:
            for name in ("one", "two", "one"):
                await store.add_folder(Path("/films") / name)
        async with self.opened() as store:
            assert [*await store.folders()] == [Path("/films/two"), Path("/films/one")]

    async def test_names_from_the_system_need_not_be_unicode(self, store: Store) -> None:
        """Of a folder and a user: such a folder is refused by name, and nothing else is."""
        await store.plan([film("a")])

        with pytest.raises(DownloadError, match=r"dcf4.*name in Unicode"):
            await store.add_folder(Path("/films/f\udcf4"))
        await store.apply("a", Transition(ItemEvent.DROP, by="m\udcf4"))

        assert [row["by"] for row in await store.events("a")][-1] == "m?"
        with pytest.raises(JournalError, match=r"Unicode only, and '\\udcf4' is none"):
            await store.item("\udcf4")
        assert not await store.folders()

    async def test_a_transition_needs_its_state(self, store: Store) -> None:
        """A step from another state is refused, and changes nothing. (I12)."""
        await store.plan([film("a")])

        with pytest.raises(LookupError):
            await store.apply("a", Transition(ItemEvent.SUCCEED))
        with pytest.raises(LookupError):
            await store.settle(
                "a", attempt("t", Verdict.ACCEPTED, "x"), Transition(ItemEvent.ACCEPT)
            )
        await self.intend(store, "a", "t1")
        with pytest.raises(LookupError):
            await self.intend(store, "a", "t2")

        assert [row["token"] for row in await store.attempts("a")] == ["t1"]

    async def test_what_was_being_sent_when_its_run_ended_is_uncertain(self) -> None:
        """An intent without an outcome may have been processed: it is never sent again. (A7)."""
        async with self.opened() as store:
            await store.plan([film("a")])
            await self.intend(store, "a", "t1", 150.0)
        async with self.taken_over() as store:
            item = await store.item("a")
            [charge] = await store.attempt_costs()

            assert item.state is ItemState.UNCERTAIN
            assert item.cause
            assert charge.uncertain
            assert not await store.verify()

    async def test_ways_out_of_uncertain(self, store: Store) -> None:
        """Resolved, submitted again or dropped: each leaves a trace of the first attempt."""
        await store.plan([film(key) for key in "abc"])
        for key in "abc":
            await self.intend(store, key, f"t-{key}")
            await store.settle(
                key, attempt(f"t-{key}", Verdict.UNCERTAIN), Transition(ItemEvent.UNCERTAIN)
            )

        resolved = await store.apply("a", Transition(ItemEvent.RESOLVE, task_id="task_a", by="me"))
        again = await store.apply("b", Transition(ItemEvent.RESUBMIT, by="me"))
        dropped = await store.apply("c", Transition(ItemEvent.DROP, by="me"))

        assert (resolved.state, resolved.task_id) == (ItemState.SUBMITTED, "task_a")
        assert (again.state, again.task_id) == (ItemState.PLANNED, None)
        assert dropped.state is ItemState.DROPPED
        uncertain = {charge.key for charge in await store.attempt_costs() if charge.uncertain}
        assert uncertain == {"b", "c"}
        assert not await store.verify()

    async def test_a_transition_of_one_attempt_leaves_the_others_alone(self, store: Store) -> None:
        """A late answer about an attempt that was given up decides nothing about a newer one."""
        await store.plan([film("a")])
        for token in ("t1", "t2"):
            await self.intend(store, "a", token)
            await store.settle(
                "a", attempt(token, Verdict.UNCERTAIN), Transition(ItemEvent.UNCERTAIN)
            )
            if token == "t1":
                await store.apply("a", Transition(ItemEvent.RESUBMIT, by="me"))

        with pytest.raises(LookupError, match="t1"):
            await store.apply("a", Transition(ItemEvent.RESOLVE, task_id="task_1", token="t1"))
        item = await store.item("a")
        assert (item.state, item.task_id) == (ItemState.UNCERTAIN, None)

        await store.apply("a", Transition(ItemEvent.RESOLVE, task_id="task_2", token="t2"))
        named = {row["token"]: row["task_id"] for row in await store.attempts("a")}
        assert named == {"t1": None, "t2": "task_2"}

    async def test_a_task_belongs_to_one_item(self, store: Store) -> None:
        """No second film is bound to a task that has one."""
        await store.plan([film("a"), film("b")])
        await self.accept(store, "a", "task_1")
        await self.intend(store, "b", "t-b")

        ended = attempt("t-b", Verdict.ACCEPTED, "task_1")
        item = await store.settle("b", ended, Transition(ItemEvent.ACCEPT, task_id="task_1"))

        assert (item.state, item.task_id) == (ItemState.UNCERTAIN, None)
        assert "the task of 'a'" in item.cause
        with pytest.raises(JournalError, match="'a'"):
            await store.apply("b", Transition(ItemEvent.RESOLVE, task_id="task_1", token="t-b"))
        assert (await store.item("b")).state is ItemState.UNCERTAIN

    async def test_a_film_made_again_has_a_new_task(self, store: Store) -> None:
        """A retry begins without a task id; the old charge stays in the books. (A27)."""
        await store.plan([film("a")])
        await self.accept(store, "a", "task_1")
        await store.apply("a", Transition(ItemEvent.FAIL, fail_code="500", credits=9.0))
        item = await store.apply("a", Transition(ItemEvent.RETRY, by="me"))
        assert (item.task_id, item.credits) == (None, None)
        await self.intend(store, "a", "t2", 150.0)
        ended = attempt("t2", Verdict.ACCEPTED, "task_2")
        await store.settle("a", ended, Transition(ItemEvent.ACCEPT, task_id="task_2"))

        assert [charge.consumed for charge in await store.attempt_costs()] == [9.0, None]
        assert not await store.verify()

    async def test_pages(self, store: Store) -> None:
        """Items come in pages, in their order, chosen by their states."""
        await store.plan([film(f"k{number}") for number in range(7)])
        await self.accept(store, "k3", "task_3")

        first = await store.items((ItemState.PLANNED,), count=4)
        rest = await store.items((ItemState.PLANNED,), after=first[-1].order)

        assert [item.key for item in (*first, *rest)] == ["k0", "k1", "k2", "k4", "k5", "k6"]
        assert await store.counts() == {ItemState.PLANNED: 6, ItemState.SUBMITTED: 1}

    async def test_recent_attempts(self, store: Store) -> None:
        """The ends of the last attempts are known, for a limiter's window. (R2)."""
        await store.plan([film("a")])
        await self.accept(store, "a", "task_1")

        [(age, uncertain)] = await store.recent_attempts(60.0)
        assert 0 <= age < 60
        assert not uncertain
        assert await store.recent_attempts(-1.0) == []

    async def test_recent_uncertain_attempts(self, store: Store) -> None:
        """Attempts that may still arrive are listed; those that never left are not. (R2)."""
        await store.plan([film("a"), film("b")])
        for key, verdict in (("a", Verdict.UNCERTAIN), ("b", Verdict.UNSENT)):
            event = ItemEvent.UNCERTAIN if verdict is Verdict.UNCERTAIN else ItemEvent.UNSENT
            await self.intend(store, key, f"token-{key}")
            await store.settle(key, attempt(f"token-{key}", verdict), Transition(event))

        assert [uncertain for _, uncertain in await store.recent_attempts(60.0)] == [True]

    async def test_what_was_learned_is_there_in_the_next_run(self) -> None:
        """The latest value of each name, and how old it is; nothing for a name nobody wrote."""
        async with self.opened() as store:
            for name, value in (("pace", "18"), ("durations", "[180.5]"), ("pace", "17")):
                await store.write_learned(name, value)
        async with self.opened() as store:
            pace, durations = (
                await store.read_learned("pace"),
                await store.read_learned("durations"),
            )

            assert pace is not None
            assert durations is not None
            assert (pace.value, durations.value) == ("17", "[180.5]")
            assert 0 <= pace.age < 60
            assert await store.read_learned("nothing") is None

    async def test_what_was_learned_is_no_history(self, store: Store) -> None:
        """It changes no film, and removing a film's words leaves it."""
        await store.plan([film("a")])
        await store.write_learned("pace", "18")
        await store.purge({"a": (await store.item("a")).payload})

        assert await store.read_learned("pace") is not None
        assert [event["event"] for event in await store.events()] == ["purge"]
        assert await store.verify() == []

    async def test_it_belongs_to_one_account(self) -> None:
        """Another key or address is refused, since its tasks would not be found. (J13)."""
        async with self.opened() as store:
            await store.bind("https://a.test", "mark")
            await store.plan([film("a")])
            await self.accept(store, "a", "task_1")
        async with self.opened() as store:
            await store.bind("https://a.test", "mark")
            with pytest.raises(JournalError, match="another key"):
                await store.bind("https://a.test", "other")
            for taken_over in (False, True):
                with pytest.raises(JournalError, match="another address"):
                    await store.bind("https://b.test", "mark", taken_over=taken_over)

    async def test_a_new_key_of_its_account_is_taken_over(self, store: Store) -> None:
        """Whoever says so has seen that the service knows a task with it. (J13)."""
        await store.bind("https://a.test", "mark")
        await store.plan([film("a")])
        await self.accept(store, "a", "task_1")
        await store.record_balance(1000.0)

        await store.bind("https://a.test", "new", taken_over=True)

        await store.bind("https://a.test", "new")
        with pytest.raises(JournalError, match="another key"):
            await store.bind("https://a.test", "mark")
        assert [balance for _, balance in await store.balances()] == [1000.0]
        assert await store.verify() == []

    async def test_an_unknown_key_is_an_error(self, store: Store) -> None:
        """An unknown key is a KeyError."""
        with pytest.raises(KeyError):
            await store.item("nobody")

    # --- what is written about an attempt ---------------------------------------------------------

    async def test_an_intent_is_written_once(self, store: Store) -> None:
        """Its commit may have succeeded although the answer was lost: again is no change."""
        await store.plan([film("a"), film("b")])
        for _ in range(2):
            await self.intend(store, "a", "t1", 150.0)

        with pytest.raises(LookupError):
            await self.intend(store, "b", "t1", 150.0)
        assert len(await store.attempts("a")) == len(await store.events("a")) == 1
        assert (await store.item("b")).state is ItemState.PLANNED

        await store.settle("a", attempt("t1", Verdict.UNSENT), Transition(ItemEvent.UNSENT))
        with pytest.raises(LookupError):
            await self.intend(store, "a", "t1", 150.0)
        assert (await store.item("a")).state is ItemState.PLANNED

    @pytest.mark.parametrize(
        ("verdict", "event", "state"),
        [
            (Verdict.ACCEPTED, ItemEvent.ACCEPT, ItemState.SUBMITTED),
            (Verdict.THROTTLED, ItemEvent.THROTTLE, ItemState.PLANNED),
            (Verdict.UNSENT, ItemEvent.UNSENT, ItemState.PLANNED),
            (Verdict.REFUSED, ItemEvent.REFUSE, ItemState.REJECTED),
            (Verdict.UNCERTAIN, ItemEvent.UNCERTAIN, ItemState.UNCERTAIN),
        ],
    )
    async def test_an_outcome_is_written_once(
        self, store: Store, verdict: Verdict, event: ItemEvent, state: ItemState
    ) -> None:
        """The same again gives the item, and changes nothing. (I13)."""
        task_id = "task_1" if verdict is Verdict.ACCEPTED else None
        ended, step = attempt("t1", verdict, task_id), Transition(event, task_id=task_id)
        await store.plan([film("a")])
        await self.intend(store, "a", "t1", 150.0)
        first = await store.settle("a", ended, step)
        reported = await store.events(), await store.attempts("a"), await store.attempt_costs()

        assert await store.settle("a", ended, step) == first

        assert (first.state, first.task_id) == (state, task_id)
        assert (
            await store.events(),
            await store.attempts("a"),
            await store.attempt_costs(),
        ) == reported
        assert not await store.verify()

    async def test_an_outcome_needs_its_attempt(self, store: Store) -> None:
        """A token that nobody intended, or that is another item's, settles nothing."""
        await store.plan([film("a"), film("b")])
        await self.intend(store, "a", "t1")
        for key, token in (("a", "t2"), ("b", "t1")):
            with pytest.raises(LookupError):
                await store.settle(
                    key,
                    attempt(token, Verdict.ACCEPTED, "x"),
                    Transition(ItemEvent.ACCEPT, task_id="x"),
                )

        assert (await store.item("a")).state is ItemState.SENDING
        assert (await store.item("b")).state is ItemState.PLANNED

    async def interrupted(self, *keys: str) -> None:
        """Leave items whose attempts were out when their owner ended."""
        async with self.opened() as store:
            await store.plan([film(key) for key in keys])
            for key in keys:
                await self.intend(store, key, f"t-{key}", 150.0)

    async def test_a_late_answer_resolves_its_attempt(self) -> None:
        """Its owner was believed dead; the film is paid, and is not paid again. (A28)."""
        await self.interrupted("a")
        async with self.taken_over() as store:
            for _ in range(2):
                item = await self.answer(store, "t-a", "a", "task_1")

                assert (item.state, item.task_id) == (ItemState.SUBMITTED, "task_1")
            last = (await store.events("a"))[-1]
            assert (last["from"], last["to"]) == (ItemState.UNCERTAIN, ItemState.SUBMITTED)
            assert (last["token"], "late" in last["cause"]) == ("t-a", True)
            assert [row["to"] for row in await store.events("a")].count("submitted") == 1
            [charge] = await store.attempt_costs()
            assert not charge.uncertain
            assert not await store.verify()

    async def test_a_late_answer_finds_its_item_under_a_new_key(self) -> None:
        """It was renamed meanwhile, as an uncertain film may be; its attempt is found by token."""
        await self.interrupted("a")
        async with self.taken_over() as store:
            await store.rename("a", "b", by="a person")

            item = await self.answer(store, "t-a", "a", "task_1")

            assert (item.key, item.state, item.task_id) == ("b", ItemState.SUBMITTED, "task_1")
            assert not await store.verify()

    @pytest.mark.parametrize(
        ("verdict", "event"),
        [
            (Verdict.THROTTLED, ItemEvent.THROTTLE),
            (Verdict.UNSENT, ItemEvent.UNSENT),
            (Verdict.REFUSED, ItemEvent.REFUSE),
            (Verdict.UNCERTAIN, ItemEvent.UNCERTAIN),
        ],
    )
    async def test_other_late_outcomes_change_nothing(
        self, verdict: Verdict, event: ItemEvent
    ) -> None:
        """Whoever has seen the item as uncertain may have decided by that."""
        await self.interrupted("a")
        async with self.taken_over() as store:
            before = await store.item("a"), await store.events()

            item = await store.settle("a", attempt("t-a", verdict), Transition(event))

            assert (item, await store.events()) == before
            assert item.state is ItemState.UNCERTAIN
            assert not await store.verify()

    @pytest.mark.parametrize(
        ("event", "state"),
        [(ItemEvent.RESUBMIT, ItemState.PLANNED), (ItemEvent.DROP, ItemState.DROPPED)],
    )
    async def test_a_late_answer_after_a_decision_is_kept(
        self, event: ItemEvent, state: ItemState
    ) -> None:
        """The decision stays; what was bought besides is in the books, and is read later. (A18)."""
        await self.interrupted("a")
        async with self.taken_over() as store:
            await store.apply("a", Transition(event, by="me"))
            reported = await store.events()
            for _ in range(2):
                item = await self.answer(store, "t-a", "a", "task_1")

                assert (item.state, item.task_id) == (state, None)
        async with self.opened() as store:
            [row] = await store.attempts("a")
            assert (row["state"], row["task_id"]) == ("abandoned", "task_1")
            [expected] = await store.expected_callbacks()
            named = expected.task_id, expected.named, expected.late
            assert named == ("", ("task_1",), "task_1")
            [charge] = await store.attempt_costs()
            assert (charge.uncertain, charge.reserved) == (False, 150.0)
            assert await store.events() == reported
            assert not await store.verify()

    async def test_a_second_task_of_an_attempt_is_kept(self, store: Store) -> None:
        """Somebody on the way has sent it twice: the item keeps its own task. (A14)."""
        await store.plan([film("a")])
        await self.intend(store, "a", "t-a", 150.0)
        await self.answer(store, "t-a", "a", "task_1")

        for _ in range(2):
            item = await self.answer(store, "t-a", "a", "task_2")

            assert (item.state, item.task_id) == (ItemState.SUBMITTED, "task_1")
        [expected] = await store.expected_callbacks()
        assert (expected.task_id, expected.named) == ("task_1", ("task_2",))
        assert expected.late is None
        assert not await store.verify()

    async def test_what_a_callback_names_is_kept_once(self, store: Store) -> None:
        """However often it calls, and only for an attempt that is known. (W8)."""
        await store.plan([film("a")])
        await self.intend(store, "a", "t1")
        await store.settle("a", attempt("t1", Verdict.UNCERTAIN), Transition(ItemEvent.UNCERTAIN))
        for _ in range(2):
            await store.keep_callback("t1", "task_1")
            await store.keep_callback("stranger", "task_2")

        [expected] = await store.expected_callbacks()
        assert (expected.token, expected.task_id, expected.named) == ("t1", None, ("task_1",))
        assert 0 <= expected.age < 60

    @pytest.mark.parametrize("event", [ItemEvent.RESOLVE, ItemEvent.RESUBMIT, ItemEvent.DROP])
    async def test_a_transition_of_an_attempt_is_applied_once(self, event: ItemEvent) -> None:
        """The same again changes nothing; another one is refused."""
        await self.interrupted("a")
        async with self.taken_over() as store:
            task_id = "task_1" if event is ItemEvent.RESOLVE else None
            step = Transition(event, token="t-a", task_id=task_id, by="callback")
            first = await store.apply("a", step)
            reported = await store.events()

            assert await store.apply("a", step) == first
            assert await store.events() == reported
            with pytest.raises(LookupError):
                await store.apply("a", Transition(ItemEvent.RESOLVE, token="t-a", task_id="task_2"))
            assert await store.item("a") == first
            assert not await store.verify()

    async def test_times_are_the_store_s(self, store: Store) -> None:
        """Callers may stand on machines whose clocks differ; what they say of time is not used."""
        await store.plan([film("a")])
        await self.accept(store, "a", "task_1")

        [row] = await store.attempts("a")
        reported = [event["at"] for event in await store.events("a")]
        assert reported == sorted(reported)
        assert [row["began_at"], row["ended_at"]] == reported
        assert abs(reported[0] - time.time()) < 60

    async def test_the_history_is_of_one_item_or_of_all(self, store: Store) -> None:
        """In its order, with who decided and about which attempt."""
        await store.plan([film("a"), film("b")])
        await self.intend(store, "a", "t1")
        await store.apply("b", Transition(ItemEvent.DROP, cause="given up", by="me"))

        one, all_ = await store.events("b"), await store.events()

        assert [(row["key"], row["event"]) for row in all_] == [("a", "intend"), ("b", "drop")]
        assert one == [all_[1]]
        assert (one[0]["cause"], one[0]["by"]) == ("given up", "me")
        assert [row["token"] for row in all_] == ["t1", None]

    async def test_reading_a_manifest_blocks_no_writer(self, store: Store) -> None:
        """The entries are read before the transaction: a paid film's id need not wait for them."""
        loop, written = asyncio.get_running_loop(), threading.Event()
        reading = asyncio.Event()
        await store.plan([film("a")])

        def entries() -> Iterator[ManifestEntry]:
            loop.call_soon_threadsafe(reading.set)
            yield film("b")
            assert written.wait(10)
            yield film("c")

        planning = asyncio.create_task(store.plan(entries()))
        await reading.wait()
        await self.accept(store, "a", "task_1")
        written.set()

        assert (await planning).new == 2
        assert (await store.item("a")).state is ItemState.SUBMITTED

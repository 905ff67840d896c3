"""What a person decides about the films of a batch. Only `resolve` and `resolve_tasks` ask."""

from __future__ import annotations

import getpass
from collections import defaultdict
from collections.abc import Mapping
from itertools import chain
from typing import Any

import attrs

from apikley_async import Client
from apikley_async._disk import user_id
from apikley_async.batch.additions import BatchAdditions, ManifestSource
from apikley_async.batch.keys import key_faults
from apikley_async.batch.manifest.payload import purged_payload
from apikley_async.batch.states import TRANSITIONS, ItemEvent, ItemState, NoTransitionError
from apikley_async.batch.store.values import Item, Transition
from apikley_async.batch.task_matching import SentFilm, TaskMatch, match_tasks, sent_film
from apikley_async.errors import ManifestError

__all__ = ["DROPPABLE", "BatchDecisions", "check_state", "current_user"]

DROPPABLE = tuple(state for state, event in TRANSITIONS if event is ItemEvent.DROP)


class BatchDecisions(BatchAdditions):
    """The part of a batch that carries out decisions."""

    async def resolve(self, key: str, *, task_id: str, client: Client, force: bool = False) -> Item:
        """Say which task an uncertain submission became; the task is polled and compared.

        Args:
            key: of the item.
            task_id: the task.
            client: polls the task, once.
            force: decide so although the task shows other content, or does not show its content.
                What was compared is then the item's `cause`, and in its history with the user's
                name.

        Raises:
            ManifestError: the task was made of something else; each difference is named.
            NotFoundError: the service knows no such task.
            JournalError: the client has another account than the journal.
        """
        film = await self._sent(key)
        await self.check_account(client)  # another one knows no task of this journal
        differences = client.attempts.compare(
            await client.attempts.poll(task_id),
            film.work,
            tokens=film.tokens,
            fingerprints=film.fingerprints,
        )
        if differences and not force:
            message = f"{key}: task {task_id} was made of something else; nothing was changed"
            raise ManifestError([message, *(f"  {difference}" for difference in differences)])
        cause = f"insisted on, although: {'; '.join(differences)}" if differences else ""
        return await self._decide(key, Transition(ItemEvent.RESOLVE, task_id=task_id, cause=cause))

    async def resolve_tasks(self, *task_ids: str, client: Client) -> list[TaskMatch]:
        """Say which tasks uncertain submissions became, without saying which is which.

        Each task is polled, and bound to the film whose callback token it shows, or which was
        submitted with the same model and input. Films that were submitted alike get such tasks in
        the order of their times. What is not certain is left as it is: where more tasks were
        submitted alike than films, one of them is somebody else's. A task that cannot be looked up
        now keeps no other from its film, while films enough are left for both.

        Args:
            task_ids: the tasks.
            client: polls each of them, once.

        Returns:
            What became of each task, in their order.

        Raises:
            JournalError: the client has another account than the journal.
            ApikleyError: no task at all could be looked up.
        """
        await self.check_account(client)
        # Films first: one that is sent between the two would seem to be older than any task.
        uncertain = [item async for item in self.items(ItemState.UNCERTAIN)]
        attempts = defaultdict[str, list[Mapping[str, Any]]](list)
        for attempt in await self.store.attempts():
            attempts[attempt["key"]].append(attempt)
        films = [sent_film(item, attempts[item.key]) for item in uncertain]
        matches = await match_tasks(client, task_ids, films, chain(*attempts.values()))
        for match in matches:
            if match.key and not match.reason:
                await self._decide(match.key, Transition(ItemEvent.RESOLVE, task_id=match.task_id))
        return matches

    async def _sent(self, key: str) -> SentFilm:
        """An uncertain film, and what is known of its attempts.

        Raises:
            ManifestError: it is in another state.
        """
        item = await self.item(key)
        check_state(item, ItemState.UNCERTAIN)
        return sent_film(item, await self.store.attempts(key))

    async def resubmit(self, *keys: str, undecided: bool = False) -> list[Item]:
        """Plan uncertain films again. One whose first submission was processed is paid twice.

        Args:
            keys: of the items.
            undecided: all items that are uncertain, instead of *keys*.
        """
        chosen = await self._named(keys, undecided)
        for item in chosen:
            check_state(item, ItemState.UNCERTAIN)
        transition = Transition(ItemEvent.RESUBMIT, cause="to be submitted again")
        return [await self._decide(item.key, transition) for item in chosen]

    async def drop(self, *keys: str, undecided: bool = False) -> list[Item]:
        """Give items up. Nothing is cancelled at the service.

        Args:
            keys: of the items.
            undecided: all items that are uncertain, instead of *keys*.
        """
        chosen = await self._named(keys, undecided)
        for item in chosen:
            check_state(item, *DROPPABLE)
        transition = Transition(ItemEvent.DROP, cause="given up")
        return [await self._decide(item.key, transition) for item in chosen]

    async def rename(self, key: str, new: str) -> Item:
        """Give an item another key, as its manifest has it now. Nothing is sent or paid.

        Its attempts, its history and its files stay with it; files keep their names.

        Raises:
            KeyError: there is no item of that key.
            ManifestError: *new* cannot be a key, another item has it, or the item is being sent.
        """
        if faults := [*key_faults(new)]:
            raise ManifestError(faults)
        try:
            item = await self.store.rename(key, new, by=current_user())
        except NoTransitionError as error:
            raise ManifestError([str(error)]) from None
        if self._run is not None:
            self._run.journal_changed()
        return item

    async def retry(self, *keys: str) -> list[Item]:
        """Plan failed and rejected films again: new charges.

        Args:
            keys: of the items; by default all that are failed or rejected.
        """
        retryable = (ItemState.FAILED, ItemState.REJECTED)
        chosen = await self._chosen(keys, *retryable)
        for item in chosen:
            check_state(item, *retryable)
        transition = Transition(ItemEvent.RETRY, cause="to be made again")
        return [await self._decide(item.key, transition) for item in chosen]

    async def retry_changed(
        self,
        source: ManifestSource,
        *keys: str,
        allow_duplicates: bool = False,
        allow_outside: bool = False,
    ) -> list[Item]:
        """Plan failed films again with the content that their manifest has now: new charges.

        Args:
            source: the manifest; it is added as by `add`.
            keys: of the items; by default all failed ones whose content has changed.
            allow_duplicates: as for `add`.
            allow_outside: as for `add`.

        Raises:
            ManifestError: as `add`; or a film that is named has not failed, or has not changed.
        """
        for key in keys:
            check_state(await self.item(key), ItemState.FAILED)
        failed = [item.key async for item in self.items(ItemState.FAILED)]
        await self._add(source, allow_duplicates, allow_outside, failed=keys or None)
        items = [await self.item(key) for key in failed]
        changed = [item for item in items if item.state is not ItemState.FAILED]
        if unchanged := {*keys} - {item.key for item in changed}:
            raise ManifestError(
                [f"{key}: its content has not changed" for key in sorted(unchanged)]
            )
        return changed

    async def revive(self, *keys: str) -> list[Item]:
        """Let the next run try to save films whose links had expired. Costs nothing.

        Args:
            keys: of the items; by default all that are expired.
        """
        chosen = await self._chosen(keys, ItemState.EXPIRED)
        return [await self._decide(item.key, Transition(ItemEvent.RESUME)) for item in chosen]

    async def purge(self, *keys: str) -> list[Item]:
        """Remove the prompts and images of films from the journal; prompts are personal data.

        What was paid is still recognised by its digest. Copies of the journal keep what they have.

        Args:
            keys: of the items; by default all that are done or dropped. Others still need them.

        Raises:
            ManifestError: one that is named is neither done nor dropped.
            JournalError: they are removed, and the journal's files still have them: another program
                is reading the file, or this user may not write the database's tables anew.
        """
        finished = (ItemState.DONE, ItemState.DROPPED)
        chosen = await self._chosen(keys, *finished)
        for item in chosen:
            check_state(item, *finished)
        payloads = {item.key: purged_payload(item) for item in chosen}
        await self.store.purge(payloads, by=current_user())
        return [await self.item(item.key) for item in chosen]

    async def _named(self, keys: tuple[str, ...], undecided: bool) -> list[Item]:
        if bool(keys) is undecided:
            raise TypeError("name the items, or say undecided=True for all that are uncertain")
        return await self._chosen(keys, ItemState.UNCERTAIN)

    async def _decide(self, key: str, transition: Transition) -> Item:
        try:
            return await self.store.apply(key, attrs.evolve(transition, by=current_user()))
        except NoTransitionError as error:
            raise ManifestError([f"{key}: {error}"]) from None


def check_state(item: Item, *states: ItemState) -> None:
    """Refuse a decision about an item that is in none of *states*.

    Raises:
        ManifestError: it is in another state.
    """
    if item.state not in states:
        names = " or ".join(state.value for state in states)
        raise ManifestError([f"{item.key}: it is {item.state.value}, and has to be {names}"])


def current_user() -> str:
    """The user who decides, for the history."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return str(user_id())

"""Decisions about uncertain films: the evidence shown before, and several at once."""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cli.conftest import Run, write_films, write_manifest

from apikley_async.batch import (
    BalanceEvidence,
    Batch,
    ItemEvent,
    Transition,
    UncertainItem,
)
from apikley_async.cli.output.reporter import LineView, Reporter
from apikley_async.cli.output.uncertain import report_evidence
from apikley_async.simulator import Constant, Fault, Simulator, Terms

pytestmark = pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning")


class Terminal(io.StringIO):
    """Something that says of itself that it is a terminal."""

    def isatty(self) -> bool:
        return True


def run_with_uncertain_films(service: Simulator, run: Run) -> str:
    """Run four films, of which two become uncertain and one of those is paid; returns stderr."""
    service.script("create", [Fault.OK, Fault.RESET_AFTER, Fault.HTTP_500, Fault.OK])
    path = write_manifest("tea", "sea", "bee", "key")
    result = run("batch", "run", path, "--yes", "--price", "150")
    assert result.code == 3
    return result.err


def test_the_evidence_for_uncertain_films_is_shown(service: Simulator, run: Run) -> None:
    """Time, model, first words and balance of each; the commands to decide once. (A17)"""
    output = run_with_uncertain_films(service, run)
    shown = run("batch", "resubmit", "campaign.db", "bee", "--yes").err

    for text in (output, shown):
        assert re.search(
            r"bee: UNCERTAIN: .*500.*\n  sent 2\S+ \S+ (?:[+-]\d{4} \(\S+ UTC\)|UTC) to "
            "sora-2-pro-storyboard: bee at dawn\n  balance: 150 more taken for 2 films together\n",
            text,
        )
        assert re.search(
            r"The balance fell by 450 from .* to .*; known tasks \(2 films\) cost 300: 150 more "
            "was taken than that. Unless others use this account, or a price is wrong, one or more "
            "of the 2 uncertain films WERE PAID",
            text,
        )
    assert "bee: UNCERTAIN: it may have been received, and paid: HTTP 500" in output
    assert output.index("What to do is said at the end") < output.index("films/key.mp4")
    assert output.count("There are tasks of that time at https://app.apikley.ru") == 1
    assert "\n    apikley batch resolve --task-id 'ID ID ...' campaign.jsonl\n" in output
    assert "\n    apikley batch resubmit --undecided campaign.jsonl\n" in output
    assert "\n    apikley batch drop --undecided campaign.jsonl\n" in output
    assert "sea: UNCERTAIN" not in shown


def test_commands_name_the_batch_as_the_user_has(service: Simulator, run: Run) -> None:
    """By its manifest, but for a journal that is not the one beside it."""
    service.script("create", [Fault.RESET_AFTER, Fault.RESET_AFTER])
    path, elsewhere = write_manifest("tea"), write_manifest("sea", name="sea.jsonl")

    beside = run("batch", "run", path, "--yes")
    named = run("batch", "run", elsewhere, "--yes", "--journal", "other.db", "-o", "others")

    assert "apikley batch resubmit campaign.jsonl tea" in beside.err
    assert "apikley batch resubmit campaign.jsonl tea" in Path("films/report.html").read_text()
    assert "apikley batch resubmit other.db sea" in named.err
    assert "apikley batch resubmit other.db sea" in Path("others/report.html").read_text()
    again = run("batch", "resubmit", "--yes", "--", "other.db", "sea")
    assert again.code == 0
    assert again.err.splitlines()[-1] == "To go on: apikley batch run other.db"


def test_all_undecided_films_at_once(service: Simulator, run: Run) -> None:
    """Only with --undecided: never all of them because none was named. (A17, A23)"""
    run_with_uncertain_films(service, run)

    unnamed = [run("batch", verb, "campaign.db", "--yes").code for verb in ("resubmit", "drop")]
    both = run("batch", "resubmit", "campaign.db", "sea", "--undecided").code
    dropped = run("batch", "drop", "campaign.db", "--undecided", "--json", "--yes")
    again = run("batch", "resubmit", "campaign.db", "--undecided", "--yes")

    assert (unnamed, both) == ([2, 2], 2)
    assert "To go on" not in dropped.err + again.err
    decided = [event for event in dropped.events if event["event"] == "decided"]
    assert [(event["key"], event["item_state"]) for event in decided] == [
        ("sea", "dropped"),
        ("bee", "dropped"),
    ]
    uncertain = [event for event in dropped.events if event["event"] == "uncertain"]
    assert [(event["key"], "sent_at" in event) for event in uncertain] == [
        ("sea", True),
        ("bee", True),
    ]


def test_what_a_provider_guarantees_is_said_before_paying(service: Simulator, run: Run) -> None:
    """With what it costs if that is not so."""
    path = write_manifest("tea")

    asked = run("batch", "run", path, "--not-created", "500", "--not-created", "501")

    assert asked.code == 2
    assert "--not-created 500 or 501: a film that is answered so is sent again, three" in asked.err
    assert "each time is paid if your provider's guarantee does not hold" in asked.err
    assert service.ledger.creations == []


@pytest.mark.parametrize("verb", ["resubmit", "drop"])
def test_a_film_that_may_be_paid_is_asked_about(service: Simulator, run: Run, verb: str) -> None:
    """Without a terminal nothing is decided before --yes; the evidence is shown all the same."""
    run_with_uncertain_films(service, run)

    refused = run("batch", verb, "campaign.db", "--undecided", "--json")

    assert refused.code == 2
    assert "sea: UNCERTAIN" in refused.err
    assert "The balance says that MORE WAS PAID than the films with a task cost" in refused.err
    assert "nobody to ask here; to agree, add --yes" in refused.err
    assert f"apikley batch {verb} campaign.db --undecided --json --yes" in refused.err
    assert [e for e in refused.events if e["event"] == "decided"] == []
    states = run("batch", "status", "campaign.db", "--json").event("batch")
    assert (states["uncertain"], "dropped" in states, "planned" in states) == (2, False, False)


def test_no_simulated_service_has_the_films_of_a_journal(service: Simulator, run: Run) -> None:
    """Neither offered nor done: what would be decided is real."""
    path = write_manifest("tea")
    run("batch", "run", path, "--yes")
    Path("films/tea.mp4").unlink()
    commands = {
        "save": [],
        "revive": [],
        "resubmit": ["tea", "--yes"],
        "drop": ["tea", "--yes"],
        "resolve": ["--task-id", service.ledger.paid[0].task_id],
    }

    for verb, words in commands.items():
        refused = run("batch", verb, path, *words, "--simulate")
        assert (verb, refused.code) == (verb, 2)
        assert "No such option" in refused.err
        assert "--simulate" not in run("batch", verb, "--help").out
    assert run("batch", "status", path, "--json").event("batch")["done"] == 1


def test_an_expired_film_is_revived_with_its_own_key_only(
    service: Simulator, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is refused leaves it expired. (D7, J13)"""

    async def expire() -> None:
        async with Batch.open(path.with_suffix(".db")) as batch:
            for event in (ItemEvent.REFETCH, ItemEvent.EXPIRE):
                await batch.store.apply("tea", Transition(event))

    path = write_manifest("tea")
    run("batch", "run", path, "--yes")
    Path("films/tea.mp4").unlink()
    asyncio.run(expire())

    with monkeypatch.context() as patched:
        patched.setenv("APIKLEY_API_KEY", "another-key-that-opens-nothing")
        refused = run("batch", "revive", path)
    states = run("batch", "status", path, "--json").event("batch")
    revived = run("batch", "revive", path)

    assert (refused.code, states["expired"], revived.code) == (2, 1, 0)
    assert "written with another key" in refused.err
    assert Path("films/tea.mp4").exists()


def test_the_balance_is_read_once_more_before_a_decision(
    service: Simulator, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was killed has read none after it. Without the key, or with another, none is."""
    service.script("create", [Fault.RESET_AFTER])
    path = write_manifest("tea")
    run("batch", "run", path, "--yes")
    with contextlib.closing(sqlite3.connect(path.with_suffix(".db"))) as db, db:
        db.execute("DELETE FROM balance WHERE at = (SELECT max(at) FROM balance)")
    line = ("batch", "resubmit", path, "tea")

    with monkeypatch.context() as patched:
        patched.delenv("APIKLEY_API_KEY")
        blind = run(*line)
        patched.setenv("APIKLEY_API_KEY", "another-key-that-opens-nothing")
        other = run(*line)
    simulated = run(*line, "--simulate", "--yes")
    shown = run(*line)

    assert [r.code for r in (blind, other, simulated, shown)] == [2, 2, 2, 2]
    assert "balance: not read since" in blind.err
    assert "The balance is not read: " in other.err
    assert "balance: not read since" in other.err
    assert "--simulate" in simulated.err
    assert "balance: 150 more taken" in shown.err
    assert "MORE WAS PAID" in shown.err
    assert len(service.ledger.paid) == 1


@pytest.mark.parametrize("terms", [Terms(duration=Constant(600))])
def test_a_run_that_only_goes_on_reads_the_balance_at_its_end(service: Simulator, run: Run) -> None:
    """While films were in the making it was evidence of nothing."""
    service.script("create", [Fault.OK, Fault.RESET_AFTER])
    path = write_manifest("tea", "sea")
    line = ("batch", "run", path, "--yes", "--price", "150")
    making = run(*line, "--timeout", "0.1")
    service.finish(service.ledger.paid[0].task_id)

    ended = run(*line)

    assert (making.code, ended.code) == (3, 3)
    assert "balance: not read since" in making.err
    assert "balance: 150 more taken" in ended.err


def test_the_balance_of_another_account_is_no_evidence(
    service: Simulator, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is refused before that is noted. (J13)"""

    def balances() -> list[tuple[float, float]]:
        with contextlib.closing(sqlite3.connect("campaign.db")) as db:
            return db.execute("SELECT * FROM balance").fetchall()

    run_with_uncertain_films(service, run)
    before = balances()
    with Simulator(api_key="canary-0000-another-account") as other:
        monkeypatch.setenv("APIKLEY_BASE_URL", other.base_url)
        monkeypatch.setenv("APIKLEY_API_KEY", other.api_key)

        refused = run("batch", "run", "campaign.db", "--yes")

    assert (refused.code, balances()) == (2, before)
    assert "written with another key" in refused.err


def test_a_balance_that_tells_of_nothing_is_not_called_a_payment(
    service: Simulator, run: Run
) -> None:
    """The question is asked, and what may come of it is said."""
    service.script("create", [Fault.HTTP_500])
    path = write_manifest("tea")
    run("batch", "run", path, "--yes")

    refused = run("batch", "resubmit", path, "tea")
    wrong = run("batch", "resubmit", path, "tea", "nobody", "--yes")

    assert (refused.code, wrong.code) == (2, 2)
    assert "balance: nothing more taken so far" in refused.err
    assert "MORE WAS PAID" not in refused.err
    assert "what was received after all is then paid TWICE" in refused.err
    assert run("batch", "status", path).code == 3


def test_what_nobody_has_received_is_given_up_without_a_question(
    service: Simulator, run: Run
) -> None:
    path = write_manifest("tea", "sea")
    service.script("create", [Fault.code(402)])
    run("batch", "run", path, "--yes", "--max-running", "1")

    assert run("batch", "drop", path, "tea").code == 0


def test_many_uncertain_films_are_one_table(service: Simulator, run: Run) -> None:
    """Key, time, first words; what all have in common and one command for all are said once."""
    keys = [f"tea-{number}" for number in range(20)]
    service.script("create", [Fault.RESET_AFTER, *[Fault.HTTP_500] * 19])
    path = write_manifest(*keys)

    ended = run("batch", "run", path, "--yes", "--price", "150")
    shown = run("batch", "status", path)
    told = run("batch", "status", path, "--json")

    assert (ended.code, shown.code) == (3, 3)
    for text in (ended.err, shown.out):
        lines = text.splitlines()
        first = next(n for n, line in enumerate(lines) if "20 films may have been received" in line)
        table = next(
            n for n, line in enumerate(lines) if re.match("  film +sent +first words", line)
        )
        balance = lines.index("  balance: 150 more taken for 20 films together")
        assert first < balance < table
        assert any(re.search("19 films: .*500", line) for line in lines[first:table])
        for key, line in zip(keys, lines[table + 1 :], strict=False):
            assert re.fullmatch(rf"  {key} +\d\d-\d\d \S+ .*UTC\)?  {key} at dawn", line), line
        assert max(map(len, lines[table : table + 21])) <= 120
    for text in (ended.err, shown.err):
        assert text.index("150 more was taken than that") < text.index("apikley batch resubmit")
        assert text.count("Uncertain: sent, and no answer came, so it may be paid.") == 1
        assert text.count("apikley batch resubmit --undecided campaign.") == 1
        assert text.count("apikley batch drop --undecided campaign.") == 1
        assert text.count("apikley batch resolve --task-id 'ID ID ...' campaign.") == 1
    few = run("batch", "status", path, "tea-3", "tea-9")
    assert "apikley batch resubmit campaign.jsonl tea-3 tea-9" in few.err, "not all of them"
    assert "tea-3: uncertain" not in shown.out
    undecided = [event for event in told.events if event["event"] == "undecided"]
    assert [event["key"] for event in undecided] == keys
    assert {event["evidence"] for event in undecided} == {"150 more taken for 20 films together"}
    assert undecided[3]["if_not_found"] == "apikley batch resubmit campaign.jsonl tea-3"


def test_a_table_keeps_within_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long keys and words are cut, never wrapped."""
    monkeypatch.setenv("COLUMNS", "80")
    at = datetime(2026, 11, 26, 20, 0, tzinfo=UTC)
    films = [
        UncertainItem(f"{'a-long-key-' * 5}{n}", at, "m", "many words " * 9, "HTTP 500")
        for n in range(9)
    ]

    with contextlib.redirect_stderr(Terminal()) as text:
        report_evidence(Reporter(LineView(), as_json=False), films, [])
    lines = text.getvalue().splitlines()

    assert len(lines) == 2 + 1 + 1 + 9
    assert max(map(len, lines)) < 80
    assert lines[2] == "  balance: not read since"


def test_a_table_shows_what_the_balance_says_of_each_time(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A column of its own where it does not say the same of all."""
    at = datetime(2026, 11, 26, 20, 0, tzinfo=UTC)
    films = [
        UncertainItem(f"film-{n}", at + timedelta(hours=n), "m", "words", "HTTP 500")
        for n in range(4)
    ]
    read = (at - timedelta(minutes=1), at + timedelta(hours=2, minutes=1))
    balance = BalanceEvidence(*read, 1000, 700, 0, 0, 0, 3)

    report_evidence(Reporter(LineView(), as_json=False), films, [balance])
    lines = capfd.readouterr().err.splitlines()

    table = next(n for n, line in enumerate(lines) if re.match("  film +sent +balance", line))
    assert [line.split("  ")[3].strip() for line in lines[table + 1 :]] == [
        *["300 more taken for 3 films together"] * 3,
        "not read since",
    ]
    assert lines[table - 1].startswith("The balance fell by 300")


def test_several_films_are_resolved_at_once(service: Simulator, run: Run) -> None:
    """A task for each key, in their order."""
    service.script("create", [Fault.RESET_AFTER] * 2)
    path = write_manifest("tea", "sea")
    run("batch", "run", path, "--yes")
    tasks = [word for charge in service.ledger.paid for word in ("--task-id", charge.task_id)]

    uneven = run("batch", "resolve", path, "tea", *tasks)
    result = run("batch", "resolve", path, "tea", "sea", *tasks)

    assert (uneven.code, result.code) == (2, 0)
    assert result.err.endswith("\nTo go on: apikley batch run campaign.jsonl\n")
    assert run("batch", "run", path).code == 0
    assert len(service.ledger.paid) == 2


def test_tasks_find_their_films_by_their_content(service: Simulator, run: Run) -> None:
    """As a list of ids is copied, in any order; what is known does no harm. (A17)"""
    service.script("create", [Fault.OK, *[Fault.RESET_AFTER] * 3])
    path = write_manifest("tea", "sea", "bee", "key")
    ended = run("batch", "run", path, "--yes")
    scenes = [charge.body["input"]["shots"][0]["Scene"] for charge in service.ledger.paid]
    known, *lost = [scene.removesuffix(" at dawn") for scene in scenes]
    first, *tasks = [charge.task_id for charge in service.ledger.paid]
    ids = "\n".join([tasks[1], first, tasks[0]])

    forced = run("batch", "resolve", path, "--task-id", ids, "--force")
    result = run("batch", "resolve", path, "--task-id", ids, "--task-id", tasks[2])
    again = run("batch", "resolve", path, "--task-id", ids, "--json")

    line = "\n    apikley batch resolve --task-id 'ID ID ...' campaign.jsonl\n"
    assert (ended.code, line in ended.err) == (3, True)
    assert (forced.code, result.code, again.code) == (2, 0, 0)
    assert result.err.endswith("\nTo go on: apikley batch run campaign.jsonl\n")
    assert "To go on" not in again.err
    for key, task in zip(lost, tasks, strict=True):
        assert f"{key}: submitted, as {task}\n" in result.err
    assert f"{first}: known already, as the task of {known}\n" in result.err
    unmatched = [event for event in again.events if event["event"] == "unmatched"]
    assert {event["key"] for event in unmatched} == {known, lost[0], lost[1]}
    assert run("batch", "run", path).code == 0
    assert len(service.ledger.paid) == 4


def test_a_task_that_cannot_be_looked_up_is_left_for_the_same_command(
    service: Simulator, run: Run
) -> None:
    """Exit code 4: the others are bound, and the same ids do no harm. (A17)"""
    service.script("create", [Fault.RESET_AFTER] * 2)
    path = write_manifest("tea", "sea")
    run("batch", "run", path, "--yes")
    task, other = (charge.task_id for charge in service.ledger.paid)
    service.script("record", [Fault.code(455)], task_id=other)

    first = run("batch", "resolve", path, "--task-id", f"{task} {other}")
    again = run("batch", "resolve", path, "--task-id", f"{task} {other}")

    assert (first.code, again.code) == (4, 0)
    assert f"tea: submitted, as {task}\n" in first.err
    assert f"{other}: NOT MATCHED: it could not be looked up: " in first.err
    assert "To bind a task by hand" not in first.err
    assert f"sea: submitted, as {other}\n" in again.err


def test_a_task_that_is_not_certain_is_left_to_a_person(service: Simulator, run: Run) -> None:
    """With the commands that bind it by hand. (A17)"""
    service.script("create", [Fault.RESET_AFTER] * 4)
    path = write_manifest("tea", "sea")
    run("batch", "run", path, "--yes")
    twins = write_manifest("tea", name="twins.jsonl")
    run("batch", "run", twins, "--yes")
    task, other, twin = (charge.task_id for charge in service.ledger.paid)

    result = run("batch", "resolve", path, "--task-id", f"{task}, {other},{twin} task_none")

    assert result.code == 3
    assert f"sea: submitted, as {other}\n" in result.err
    for uncertain in (task, twin):
        assert f"{uncertain}: NOT MATCHED: 2 tasks were submitted like 1 uncertain" in result.err
        command = f"    apikley batch resolve --task-id {uncertain} campaign.jsonl tea\n"
        assert result.err.count(command) == 1
    assert "task_none: NOT MATCHED: The service knows no such task\n" in result.err
    assert run("batch", "resolve", path, "tea", "--task-id", task).code == 0


def test_a_task_that_shows_nothing_is_bound_by_a_person(service: Simulator, run: Run) -> None:
    """The commands are there to copy, with what insists on one. (A17)"""
    service.script("create", [Fault.RESET_AFTER] * 2)
    path = write_manifest("tea", "sea")
    run("batch", "run", path, "--yes")
    task = service.ledger.paid[0].task_id
    service.script("record", [Fault.TORN_PARAM] * 2)

    result = run("batch", "resolve", path, "--task-id", task)

    commands = [line.split() for line in result.err.splitlines() if "--force" in line]
    start = ["apikley", "batch", "resolve", "--task-id", task, "--force", "campaign.jsonl"]
    assert (result.code, commands) == (3, [[*start, "tea"], [*start, "sea"]])
    assert run(*commands[0][1:]).code == 0


def test_ids_for_nothing_are_said_to_be_so(service: Simulator, run: Run) -> None:
    path = write_manifest("tea")
    run("batch", "run", path, "--yes")
    write_films("other")
    run("generate", "other.json", "--yes", "-o", "others")

    result = run("batch", "resolve", path, "--task-id", service.ledger.paid[1].task_id)

    assert (result.code, "NOT MATCHED: no film is uncertain" in result.err) == (3, True)


def test_resolve_may_be_forced(service: Simulator, run: Run) -> None:
    """What differs is shown before, and recorded with the user's name. (A17)"""
    run_with_uncertain_films(service, run)
    mine = next(c.task_id for c in service.ledger.paid if "sea" in str(c.body))
    line = ["batch", "resolve", "campaign.db", "bee", "--task-id", mine]

    refused = run(*line)
    result = run(*line, "--force")

    assert refused.code == 2
    assert "made of something else; nothing was changed" in refused.err
    difference = r"shots: \[.*bee at dawn.* was submitted, and the task has \[.*sea at dawn"
    assert re.search(difference, refused.err)
    assert result.code == 0
    assert re.search(difference, result.err)
    with contextlib.closing(sqlite3.connect(Path("campaign.db"))) as db:
        [(by, cause)] = db.execute("SELECT by, cause FROM event WHERE event = 'resolve'")
    assert by
    assert "insisted on" in cause

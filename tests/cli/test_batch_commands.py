"""`apikley batch ...`, run in this process against a simulated service on loopback."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from cli.conftest import Run, fail_bad_films, write_manifest
from film_frames import needs_codec
from sample_batch import make_batch, storyboards

from apikley_async.batch import ItemState, Journal
from apikley_async.cli import simulated_service
from apikley_async.cli.commands import check
from apikley_async.cli.run_summary import exit_code_of
from apikley_async.simulator import Constant, Fault, Simulator, Terms

pytestmark = pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning")


def test_a_batch_is_made_once(service: Simulator, run: Run) -> None:
    """The films are saved under their keys; running it again sends nothing. (A21)"""
    path = write_manifest("tea", "sea")

    first = run("batch", "run", "--yes", path)
    again = run("batch", "run", path)

    assert (first.code, again.code) == (0, 0)
    assert "2 new" in first.err
    assert "2 known" in again.err
    assert "2 done; 300 credits spent" in again.err
    assert len(service.ledger.paid) == 2
    assert sorted(file.name for file in Path("films").glob("*.mp4")) == ["sea.mp4", "tea.mp4"]
    assert Path("campaign.db").exists()


def test_consent_is_for_this_manifest(service: Simulator, run: Run) -> None:
    """Films that another manifest has planned in the same journal are named, not paid. (A23)"""
    service.script("create", [Fault.code(402)])
    run("batch", "run", "--yes", write_manifest("tea"))

    result = run("batch", "run", "--yes", write_manifest("sea", name="campaign.ndjson"))

    assert result.code == 0
    assert [charge.body["input"]["shots"][0]["Scene"] for charge in service.ledger.paid] == [
        "sea at dawn"
    ]
    assert "The journal also holds 1 film: tea (planned)" in result.err


def test_a_film_removed_from_the_manifest_before_it_was_sent_is_ignored(
    service: Simulator, run: Run
) -> None:
    """Neither a run nor `status` ends with 4 because of it."""
    service.script("create", [Fault.code(402)])
    run("batch", "run", "--yes", write_manifest("tea", "sea"))

    result = run("batch", "run", "--yes", write_manifest("sea"))

    assert result.code == 0
    assert run("batch", "status", "campaign.db").code == 0
    assert len(service.ledger.paid) == 1


def test_a_film_may_be_corrected_until_it_was_sent(service: Simulator, run: Run) -> None:
    """A film that was only planned takes its new content; one that was sent is refused. (M11)"""
    run("batch", "run", "--yes", "--max-tasks", "1", write_manifest("tea", "sea"))
    path = write_manifest("tea", "sea")
    path.write_text(path.read_text().replace("sea at dawn", "sea at noon"), encoding="utf-8")

    result = run("batch", "run", "--yes", path)
    path.write_text(path.read_text().replace("tea at dawn", "tea at noon"), encoding="utf-8")
    refused = run("batch", "run", "--yes", path)

    assert result.code == 0
    assert "1 changed, 1 known" in result.err
    assert refused.code == 2
    scenes = [charge.body["input"]["shots"][0]["Scene"] for charge in service.ledger.paid]
    assert scenes == ["tea at dawn", "sea at noon"]


def test_spending_needs_consent(service: Simulator, run: Run) -> None:
    """A pipe needs --yes or --max-credits, and the message says what to type."""
    path = write_manifest("tea")

    asked = run("batch", "run", path)
    bounded = run("batch", "run", path, "--max-credits", "150", "--price", "10=150")

    assert asked.code == 2
    assert "apikley batch run campaign.jsonl --yes" in asked.err
    assert bounded.code == 0
    assert len(service.ledger.paid) == 1


def test_a_bound_stops_early_and_can_be_raised(service: Simulator, run: Run) -> None:
    """What does not fit into --max-credits waits for a higher bound. (A23)"""
    path = write_manifest("tea", "sea", "bee")

    first = run("batch", "run", path, "--max-credits", "300", "--price", "150")
    assert first.code == 4
    assert "max_credits" in first.err
    assert "To go on: apikley batch run campaign.jsonl" in first.err
    assert len(service.ledger.paid) == 2

    assert run("batch", "run", path, "--max-credits", "450", "--price", "150").code == 0
    assert len(service.ledger.paid) == 3


def test_a_refused_key_is_said_once(
    service: Simulator, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what to do; and the report says it where it says how to go on."""
    monkeypatch.setenv("APIKLEY_API_KEY", "canary-1111-another-key-that-opens-nothing")
    path = write_manifest("tea", "sea", "fog")

    result = run("batch", "run", "--yes", "--json", path)

    assert result.code == 4
    assert result.err.count("Unauthorized") == 1
    assert "Nothing more was submitted: The submission to" in result.err
    assert "Check APIKLEY_API_KEY; keys are managed at https://app.apikley.ru/keys." in result.err
    delayed = [event["reason"] for event in result.events if event["event"] == "delayed"]
    assert 1 <= len(delayed) <= 3, "each film once at most"
    assert {*delayed} == {result.event("batch")["stopped"]}
    report = json.loads(Path("films/report.json").read_text(encoding="utf-8"))
    assert report["unfinished"]["cause"] == f"none is paid. {delayed[0].removesuffix('.')}"
    assert report["unfinished"]["cure"].startswith("When that is settled, run it again:")


def test_why_nothing_more_is_submitted_is_said_before_films_have_ended(
    service: Simulator, run: Run
) -> None:
    """They may take long; it is said again at the end, and for no single film."""
    service.script("create", [Fault.slow(0), Fault.slow(0), Fault.code(402)])
    service.script("record", ["success", *["generating"] * 40])  # one film ends, one goes on
    path = write_manifest("tea", "sea", "fog")

    result = run("batch", "run", "--yes", "--max-running", "2", path)

    said = [line.split(": ")[0] for line in result.err.splitlines() if "code 402" in line]
    assert result.code == 4
    assert said == ["Nothing more is submitted", "Nothing more was submitted"]


def test_a_bound_without_a_price_spends_nothing(service: Simulator, run: Run) -> None:
    """Without a price nobody knows what a film costs."""
    result = run("batch", "run", write_manifest("tea"), "--max-credits", "300")

    assert result.code != 0
    assert "price" in result.err
    assert not service.ledger.creations


def test_a_manifest_with_faults_is_not_begun(service: Simulator, run: Run) -> None:
    """Every fault is listed, and nothing is sent. (M9)"""
    path = write_manifest("tea")
    with path.open("a", encoding="utf-8") as file:
        file.write('{"key": "sea", "shots": [], "duration": 12}\n')

    result = run("batch", "run", "--yes", path)

    assert result.code == 2
    assert "line 2 (sea): shots: 1 to 10, not 0" in result.err
    assert "line 2 (sea): duration" in result.err
    assert not service.ledger.creations


def test_a_dry_run_keeps_nothing(service: Simulator, run: Run) -> None:
    """It checks and estimates, and leaves no journal behind."""
    line = ("batch", "run", write_manifest("tea", "sea"), "--dry-run")
    result = run(*line, "--price", "150")

    assert run(*line).out == "2 films to be paid, of unknown price (say --price)\n"
    assert result.code == 0
    assert result.out == "2 films to be paid, 300 credits\n"
    assert not Path("campaign.db").exists()
    assert not service.ledger.creations


def test_an_uncertain_film_waits_for_a_decision(service: Simulator, run: Run) -> None:
    """It is never sent again by itself; `resolve` attaches the paid task to it. (A17)"""
    path = write_manifest("tea")
    service.script("create", [Fault.HTTP_502_AFTER])

    first = run("batch", "run", "--yes", path)
    again = run("batch", "run", "--yes", path)
    assert (first.code, again.code) == (3, 3)
    assert "apikley batch resolve --task-id TASK_ID campaign.jsonl tea" in first.err
    (charge,) = service.ledger.paid

    other = run("batch", "resolve", path, "tea", "--task-id", "task_of_nobody")
    assert other.code != 0
    resolved = run("batch", "resolve", path, "tea", "--task-id", charge.task_id)
    assert resolved.code == 0
    assert run("batch", "run", "--yes", path).code == 0

    assert len(service.ledger.paid) == 1
    assert Path("films/tea.mp4").exists()


def test_resubmit_and_drop(service: Simulator, run: Run) -> None:
    """The two other decisions about uncertain films; where they do not apply they are refused."""
    path = write_manifest("tea", "sea")
    service.script("create", [Fault.RESET_AFTER, Fault.RESET_AFTER])
    run("batch", "run", "--yes", path)

    assert run("batch", "resubmit", path, "tea", "--yes").code == 0
    assert run("batch", "drop", path, "sea", "--yes").code == 0
    assert run("batch", "drop", path, "sea").code == 2
    assert run("batch", "drop", path, "nobody").code == 2
    assert run("batch", "run", "--yes", path).code == 0

    assert len(service.ledger.paid) == 3
    assert sorted(file.name for file in Path("films").glob("*.mp4")) == ["tea.mp4"]


@pytest.mark.parametrize("terms", [Terms(duration=Constant(0.01), decide=fail_bad_films)])
def test_failed_films_are_made_again_on_demand(service: Simulator, run: Run) -> None:
    """The reason is shown, and the film is paid again only after `retry`. (A27)"""
    path = write_manifest("bad")

    first = run("batch", "run", "--yes", path)
    again = run("batch", "run", "--yes", path)
    retried = run("batch", "retry", path)
    third = run("batch", "run", "--yes", path)

    assert (first.code, again.code, retried.code, third.code) == (1, 1, 0, 1)
    assert "\nTo go on: apikley batch run campaign.jsonl\n" in retried.err
    assert "\x1b" not in first.err
    assert len(service.ledger.paid) == 2


def test_status_estimate_and_verify_are_read_only(service: Simulator, run: Run) -> None:
    """They send nothing, change nothing, and report the states."""
    path = write_manifest("tea", "sea", "bee")
    run("batch", "run", path, "--max-tasks", "2", "--yes")
    polls = service.ledger.polls.total()

    status = run("batch", "status", path, "--json")
    estimate = run("batch", "estimate", path)
    verify = run("batch", "verify", path)

    assert status.code == 4
    assert status.event("batch")["done"] == 2
    assert estimate.out == "1 film to be paid, 150 credits\n"
    assert (verify.code, verify.out) == (0, "")
    assert service.ledger.polls.total() == polls
    Path("films/tea.mp4").write_bytes(b"short")
    hurt = run("batch", "verify", path)
    assert hurt.code == 1
    assert "tea" in hurt.out


def test_what_the_service_takes_is_shown(service: Simulator, run: Run) -> None:
    """While films are made, at the end and in `status`; as a line, and as facts of events."""
    path = write_manifest("tea", "sea")
    run("batch", "run", "--yes", "--max-tasks", "1", path)

    async def learn() -> None:
        journal = await Journal.open("campaign.db")
        await journal.write_learned("pace", '{"takes": 18, "per": 10.0}')
        await journal.aclose()

    asyncio.run(learn())
    result = run("batch", "run", "--yes", "--json", path)
    status = run("batch", "status", "campaign.db")

    takes = {"takes": 18, "per": 10.0}
    for name in ("pace", "batch"):
        assert takes.items() <= result.event(name).items()
    assert "2 done; 300 credits spent; the service takes 18 per 10 s" in status.err
    assert len(service.ledger.paid) == 2


@pytest.mark.usefixtures("placeholder_films")
def test_a_simulated_batch_leaves_no_journal(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--simulate needs no key and keeps nothing but the films."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    result = run("batch", "run", write_manifest("tea"), "--simulate")

    assert result.code == 0
    assert Path("films/tea.mp4").exists()
    assert not Path("campaign.db").exists()
    assert not Path("state").exists()


CODES = {
    ItemState.DONE: 0,
    ItemState.DROPPED: 0,
    ItemState.FAILED: 1,
    ItemState.REJECTED: 1,
    ItemState.EXPIRED: 1,
    ItemState.UNCERTAIN: 3,
    ItemState.SENDING: 4,  # another process is at it, or was killed while it was
    ItemState.PLANNED: 4,
    ItemState.SUBMITTED: 4,
    ItemState.STALLED: 4,
    ItemState.SUCCESS: 4,
}


def test_each_state_has_its_exit_code() -> None:
    """0: all is well; 1: a film has failed; 3: needs a decision; 4: can be resumed."""
    found = {state: exit_code_of({state: 1}) for state in ItemState}

    assert found == CODES


def test_what_a_killed_run_was_sending_is_undecided(run: Run, tmp_path: Path) -> None:
    """It is called uncertain by the next run only, and may have been paid all the same."""
    path = tmp_path / "killed.db"
    asyncio.run(make_batch(path, storyboards(1), {storyboards(1)[1][0]: "sending"}))

    shown = run("batch", "status", path, "--undecided")

    assert shown.code == 4
    assert "1 sending" in shown.out + shown.err
    assert "Sending: no answer has come to 1 film. Unless their run still waits" in shown.err
    assert "more if those without an answer were received" in shown.err


def test_a_missing_journal_is_refused(service: Simulator, run: Run, tmp_path: Path) -> None:
    """And no new one is begun in its place."""
    assert run("batch", "status", tmp_path / "none.db").code == 2
    assert run("batch", "run", "--yes", tmp_path / "none.db").code == 2
    assert not (tmp_path / "none.db").exists()


def test_a_journal_may_have_any_name(service: Simulator, run: Run) -> None:
    """Only a name like a manifest's stands for the journal beside it."""
    path = write_manifest("tea", name="campaign.jsonl")
    run("batch", "run", "--yes", path, "--journal", "paid.journal")
    run("batch", "run", "--yes", write_manifest("sea", name="paid.jsonl"))

    assert run("batch", "status", "paid.journal", "--json").event("batch")["done"] == 1
    assert run("batch", "drop", "paid.journal", "sea").code == 2  # that is in paid.db
    assert run("batch", "run", "--yes", "paid.journal").code == 0


@pytest.mark.parametrize("journal", [None, "paid.journal"])
def test_commands_to_type_lead_to_the_journal_of_the_run(
    journal: str | None, service: Simulator, run: Run
) -> None:
    """They name the batch as the user did: by the manifest, or by a journal that lies elsewhere."""
    service.script("create", [Fault.RESET_AFTER])
    path = write_manifest("tea", name="campaign.jsonl")
    options = ("--journal", journal) if journal else ()

    result = run("batch", "run", "--yes", "--json", path, "-o", "films", *options)

    way = f"apikley batch resubmit {journal or 'campaign.jsonl'} tea"
    assert result.event("undecided")["if_not_found"] == way
    [group] = json.loads(Path("films/report.json").read_text("utf-8"))["undecided"]
    assert way in [each["command"] for each in group["ways"]]
    assert run(*f"{way} --yes".split()[1:]).code == 0


def test_check_reports_every_fault_of_every_file(service: Simulator, run: Run) -> None:
    """And sends nothing. (M1)"""
    good, bad = write_manifest("tea", "sea"), Path("bad.jsonl")
    bad.write_text('{"shots": [{"scene": "", "duration": 99}], "duration": 10}\n', encoding="utf-8")

    fine = run("check", good)
    result = run("check", good, bad)
    events = run("check", "--json", good, bad).events

    assert (fine.code, result.code) == (0, 2)
    assert fine.out == ""
    assert "shots[0].scene" in result.out
    assert "shots[0].duration" in result.out
    assert [len(event["faults"]) > 0 for event in events[:-1]] == [False, True]
    assert service.ledger.creations == []


def test_remarks_are_shown_before_consent_is_asked(service: Simulator, run: Run) -> None:
    """Columns taken as notes, shots shorter than their film, images the service cannot fetch."""
    sheet = Path("sheet.csv")
    sheet.write_text(
        "key;scene;duration;image;Client\n"
        "tea;Tea at dawn;7,5;http://169.254.1.1/a.png;ACME\nsea;Sea;15;http://[::1]/b.png;\n",
        encoding="utf-8",
    )

    checked = run("check", sheet)
    asked = run("batch", "run", sheet)
    event = run("check", "--json", sheet).event("checked")

    for result in (checked.err, asked.err, str(event["remarks"])):
        assert "taken as notes, which are not sent: 'Client'" in result
        assert "(tea), 7.5 of 15 s" in result
        assert "line 2, cell D2 (tea): image: a URL the service can fetch" in result
        assert "line 3, cell D3 (sea): image: a URL the service can fetch" in result
    assert "2 films, 2 shots, 30 s" in checked.err
    assert (event["films"], event["shots"], event["seconds"]) == (2, 2, 30)
    assert (checked.code, asked.code) == (0, 2)
    assert service.ledger.creations == []


@needs_codec
def test_a_preview_has_24_frames_a_second(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cuts and motion are looked at before paying."""
    import av

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(simulated_service, "SPEED", 600.0)
    monkeypatch.setattr(check, "PREVIEW_SIDE", 90)  # a tenth of the work

    assert run("preview", write_manifest("tea")).code == 0

    with av.open("preview/tea.mp4") as film:
        assert film.streams.video[0].average_rate == 24


def test_a_preview_costs_nothing_and_replaces_only_previews(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It needs no key and no service, and leaves other films alone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(simulated_service, "SPEED", 600.0)
    path = write_manifest("tea", "sea")

    first = run("preview", path, "--films", "placeholder")
    again = run("preview", path, "--films", "placeholder")
    Path("preview/tea.mp4").write_bytes(b"mine")
    refused = run("preview", path, "--films", "placeholder")

    assert (first.code, again.code, refused.code) == (0, 0, 2)
    assert sorted(file.name for file in Path("preview").iterdir()) == ["sea.mp4", "tea.mp4"]
    assert Path("preview/tea.mp4").read_bytes() == b"mine"
    assert "preview/tea.mp4 is no preview" in refused.err
    assert not list(Path().glob("*.db"))


def test_a_restored_backup_pays_nothing_again(service: Simulator, run: Run) -> None:
    """It is refused; after `adopt`, films that may have been paid since are uncertain."""
    path = write_manifest("tea", "sea")
    service.script("create", [Fault.code(402), Fault.code(402)])
    run("batch", "run", "--yes", path)
    backed_up = run("batch", "backup", path, "copy.db")
    run("batch", "run", "--yes", path)
    Path("copy.db").replace("campaign.db")

    refused = run("batch", "run", "--yes", path)
    adopted = run("batch", "adopt", path)
    again = run("batch", "run", "--yes", path)

    assert (backed_up.code, refused.code, adopted.code, again.code) == (0, 2, 0, 3)
    assert "apikley batch adopt" in refused.err
    assert len(service.ledger.paid) == 2
    assert run("batch", "status", path).out.count("uncertain") >= 2


def test_check_says_what_a_manifest_costs(service: Simulator, run: Run) -> None:
    """With a price; where one is missing it says nothing, rather than too little."""
    path = write_manifest("tea", "sea")

    priced = run("check", path, "--price", "10=150")
    other = run("check", path, "--price", "15=270")

    assert f"{path}: nothing is wrong with it: 2 films, 2 shots, 20 s, 300 credits\n" in priced.err
    assert "2 films, 2 shots, 20 s\n" in other.err
    assert run("check", path, "--price", "150", "--json").event("checked")["credits"] == 300
    assert not Path("campaign.db").exists()

"""What is not known about the service, and the safe thing that the client does.

The sections are those of the API notes' list of unknowns. In each test the client meets the
simulator, which behaves in every way that the service may turn out to behave.
"""

from __future__ import annotations

import itertools
from typing import Literal

import pytest

from apikley_async import (
    ApiError,
    AuthenticationError,
    Client,
    FeatureDisabledError,
    InsufficientCreditsError,
    InvalidRequestError,
    JobFailedError,
    MaintenanceError,
    ModelTask,
    NotFoundError,
    Shot,
    Storyboard,
    StoryboardError,
    SubmissionUncertainError,
    UploadError,
)
from apikley_async._wire.requests import create_task
from apikley_async.simulator import Constant, Fault, RandomFaults, Simulator, Terms

pytestmark = pytest.mark.apikley

MODEL = "sora-2-pro-storyboard"
BOARD = Storyboard([Shot("A kitten.", 5), Shot("It purrs.", 5)], duration=10)


def input_sent_to(simulator: Simulator) -> dict[str, object]:
    """The `input` of the one task that was paid."""
    (charge,) = simulator.ledger.paid
    fields = charge.body["input"]
    assert isinstance(fields, dict)
    return fields


def assert_sent_once_and_nothing_paid(simulator: Simulator) -> None:
    assert len(simulator.ledger.creations) == 1
    assert simulator.ledger.paid == []


# --- how does the service refuse? ----------------------------------------------------------------


@pytest.mark.parametrize("invalid_code", [500, 422])
@pytest.mark.parametrize(
    "given",
    [{"n_frames": "11"}, {"aspect_ratio": "round"}, {"shots": []}, {"image_urls": ["kitten.png"]}],
    ids=str,
)
async def test_what_the_service_refuses_is_certain_in_both_its_ways(
    given: dict[str, object],
    invalid_code: Literal[500, 422],
    apikley_simulator: Simulator,
    apikley_client: Client,
) -> None:
    """HTTP 200 and code 500 with few words, or code 422: nothing was created for certain."""
    apikley_simulator.service.terms = Terms(invalid_code=invalid_code)
    apikley_simulator.service.reset()
    board = {"n_frames": "10", "shots": [{"Scene": "A kitten.", "duration": 5}]}

    with pytest.raises(InvalidRequestError) as caught:
        _ = await apikley_client.submit(ModelTask(MODEL, board | given))

    assert caught.value.code == invalid_code
    assert_sent_once_and_nothing_paid(apikley_simulator)


@pytest.mark.parametrize("short_code", [500, 402, 429])
async def test_an_empty_account_is_certain_in_all_its_ways(
    short_code: Literal[500, 402, 429], apikley_simulator: Simulator, apikley_client: Client
) -> None:
    """No film becomes uncertain because there is no money (API section 12)."""
    apikley_simulator.service.terms = Terms(short_code=short_code, credits=100)
    apikley_simulator.service.reset()

    with pytest.raises(InsufficientCreditsError, match="top up"):
        _ = await apikley_client.submit(BOARD)

    assert_sent_once_and_nothing_paid(apikley_simulator)


async def test_a_model_that_is_not_served_is_named(
    apikley_client: Client, apikley_simulator: Simulator
) -> None:
    with pytest.raises(InvalidRequestError, match="next-year/text-to-video") as caught:
        _ = await apikley_client.submit(ModelTask("next-year/text-to-video", {"prompt": "A sea."}))

    assert "withdrawn" in str(caught.value)
    assert "image" not in str(caught.value)
    assert_sent_once_and_nothing_paid(apikley_simulator)


async def test_a_film_comes_however_its_record_is_spelled(
    apikley_client: Client, apikley_simulator: Simulator
) -> None:
    """Links under other names, states in other words, a broken echo, code 505 (API section 12)."""
    failures = []
    for fault in (
        *(Fault.RESULT_NAMED, Fault.RESULT_SNAKE, Fault.RESULT_BARE, Fault.TORN_PARAM),
        *(Fault.STATE_SHOUTED, Fault.STATE_RESPELLED, Fault.DISABLED_RECORD),
    ):
        apikley_simulator.faults = RandomFaults(record={fault: 1.0})
        result = await apikley_client.generate(BOARD)
        if len(result.urls) != 1:
            failures.append((fault, result))

    assert failures == []


async def test_a_task_is_recognized_in_an_echo_of_another_spelling(
    apikley_client: Client, apikley_simulator: Simulator
) -> None:
    """The input as text, with a default that we never send; another film is not ours."""
    job = await apikley_client.submit(BOARD)
    apikley_simulator.faults = RandomFaults(record={Fault.NESTED_PARAM: 1.0})
    other = Storyboard(BOARD.shots, duration=15)
    prints = [create_task(b.model, b.wire_input({})).fingerprint for b in (BOARD, other)]

    assert await apikley_client.attempts.confirm(job.task_id, fingerprints=prints[:1])
    assert not await apikley_client.attempts.confirm(job.task_id, fingerprints=prints[1:])


# --- is the model still served? ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "message", "kind"),
    [
        (404, "Not found", NotFoundError),
        (422, "Validation failed", InvalidRequestError),
        (455, "Service unavailable", MaintenanceError),
        (505, "Feature disabled", FeatureDisabledError),
    ],
)
async def test_a_model_that_is_no_longer_served_is_a_clear_refusal(
    code: int,
    message: str,
    kind: type[ApiError],
    apikley_client: Client,
    apikley_simulator: Simulator,
) -> None:
    """It names the model and repeats the service's words; nothing is sent again (A26)."""
    apikley_simulator.script("create", [Fault.code(code, message)])

    with pytest.raises(kind, match=MODEL) as caught:
        _ = await apikley_client.submit(BOARD)

    assert caught.value.code == code
    assert message in str(caught.value)
    assert_sent_once_and_nothing_paid(apikley_simulator)


async def test_a_disabled_model_with_http_505_is_uncertain(
    apikley_client: Client, apikley_simulator: Simulator
) -> None:
    """The HTTP status counts: with 5xx it may have been processed (A3)."""
    apikley_simulator.script("create", [Fault.code(505, status=505)])

    with pytest.raises(SubmissionUncertainError):
        _ = await apikley_client.submit(BOARD)

    assert_sent_once_and_nothing_paid(apikley_simulator)


@pytest.mark.apikley(terms=Terms(generic_models={"next-year/text-to-video"}))
async def test_another_model_can_be_submitted(
    apikley_client: Client, apikley_simulator: Simulator
) -> None:
    """The core outlives one model."""
    work = ModelTask("next-year/text-to-video", {"prompt": "A lighthouse.", "duration": 5})

    result = await apikley_client.generate(work)

    assert result.urls
    assert input_sent_to(apikley_simulator) == {"prompt": "A lighthouse.", "duration": 5}


# --- is an image mandatory? ----------------------------------------------------------------------


async def test_a_film_without_an_image_says_nothing_of_images(
    apikley_client: Client, apikley_simulator: Simulator
) -> None:
    """The field is left out; an empty list would be invalid."""
    await apikley_client.generate(BOARD)

    assert "image_urls" not in input_sent_to(apikley_simulator)


@pytest.mark.parametrize("status", [200, 422])
async def test_if_an_image_is_mandatory_the_caller_reads_so(
    status: int, apikley_client: Client, apikley_simulator: Simulator
) -> None:
    """The service's own words arrive, and nothing is sent again."""
    reported = "image_urls is required"
    apikley_simulator.script("create", [Fault.code(422, reported, status=status)])

    with pytest.raises(InvalidRequestError, match=reported):
        _ = await apikley_client.submit(BOARD)

    assert_sent_once_and_nothing_paid(apikley_simulator)


# --- must the durations fill the film exactly? ---------------------------------------------------


@pytest.mark.parametrize("durations", [[0.1], [5, 4.9], [3.3, 3.3, 3.4], [0.1] * 10])
async def test_shots_that_leave_time_are_sent_as_they_are(
    durations: list[float], apikley_client: Client, apikley_simulator: Simulator
) -> None:
    """Less is the service's to judge."""
    shots = [Shot(f"Scene {n}.", duration) for n, duration in enumerate(durations)]

    await apikley_client.generate(Storyboard(shots, duration=10))

    fields = input_sent_to(apikley_simulator)
    assert fields["n_frames"] == "10"
    assert [shot["duration"] for shot in fields["shots"]] == durations  # type: ignore[attr-defined]


@pytest.mark.parametrize("durations", [[5, 5.1], [10.01], [15], [2.6] * 4])
async def test_shots_that_exceed_the_film_are_never_sent(
    durations: list[float], apikley_simulator: Simulator
) -> None:
    """More is certainly wrong: it costs no request (M9)."""
    with pytest.raises(StoryboardError):
        Storyboard([Shot("A scene.", duration) for duration in durations], duration=10)

    assert apikley_simulator.ledger.creations == []


# --- how long may a scene be? --------------------------------------------------------------------


@pytest.mark.parametrize("scene", ["x", "Кот. " * 5_000, "y" * 100_000], ids=len)
async def test_a_scene_of_any_length_is_sent_whole(
    scene: str, apikley_client: Client, apikley_simulator: Simulator
) -> None:
    """A limit that nobody documents is not enforced here, and nothing is cut off."""
    _ = await apikley_client.submit(Storyboard([Shot(scene, 10)], duration=10))

    assert input_sent_to(apikley_simulator)["shots"] == [{"Scene": scene, "duration": 10}]


@pytest.mark.parametrize("scene", ["", "  ", "\n\t", "\u3000"])
async def test_a_blank_scene_is_never_sent(scene: str, apikley_simulator: Simulator) -> None:
    with pytest.raises(StoryboardError, match="scene"):
        Shot(scene, 5)

    assert apikley_simulator.ledger.creations == []


async def test_what_could_be_paid_and_never_polled_is_never_sent(
    apikley_client: Client, apikley_simulator: Simulator
) -> None:
    """A record repeats the request, every letter escaped: there is a largest one."""
    scenes = [Shot("Кот" * 10_000, 1) for _ in range(10)]

    with pytest.raises(StoryboardError, match="never be polled"):
        _ = await apikley_client.submit(Storyboard(scenes, duration=10))

    assert apikley_simulator.ledger.creations == []


@pytest.mark.parametrize("fault", [Fault.OK, Fault.TORN_PARAM], ids=str)
async def test_the_largest_film_that_is_sent_can_be_polled(
    fault: Fault, apikley_client: Client, apikley_simulator: Simulator
) -> None:
    """However the service repeats it, the answer is not cut off before its links."""
    apikley_simulator.faults = RandomFaults(record={fault: 1.0})
    scenes = [Shot("Кот" * 7_600, 1) for _ in range(10)]

    result = await apikley_client.generate(Storyboard(scenes, duration=10))

    assert result.urls


# --- which HTTP status carries which refusal? ----------------------------------------------------


async def test_the_code_in_the_body_decides(
    apikley_client: Client, apikley_simulator: Simulator
) -> None:
    """Whatever status carries it, 200 included, for calls that cost and that do not (R8, R9)."""
    kinds: dict[int, type[ApiError]] = {
        400: InvalidRequestError,
        401: AuthenticationError,
        402: InsufficientCreditsError,
        404: NotFoundError,
        422: InvalidRequestError,
        455: MaintenanceError,
        505: FeatureDisabledError,
    }
    failures = []
    for (code, kind), status in itertools.product(kinds.items(), [200, 400, 403, 404]):
        apikley_simulator.service.reset()
        refused = Fault.code(code, "no", status=status)
        apikley_simulator.script("create", [refused])
        with pytest.raises(ApiError) as submitting:
            _ = await apikley_client.submit(BOARD)
        raised = [submitting.value]
        assert_sent_once_and_nothing_paid(apikley_simulator)
        if code != 455:  # what costs nothing is asked again
            apikley_simulator.script("credits", [refused])
            with pytest.raises(ApiError) as asking:
                await apikley_client.credits()
            raised.append(asking.value)
        if any(type(error) is not kind or error.code != code for error in raised):
            failures.append((code, status, raised))

    assert failures == []


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, AuthenticationError), (403, AuthenticationError), (404, NotFoundError)],
)
async def test_without_an_envelope_the_status_decides(
    status: int, kind: type[ApiError], apikley_client: Client, apikley_simulator: Simulator
) -> None:
    """A gateway's page has no code (R9)."""
    apikley_simulator.script("create", [Fault.http(status, page=True)])

    with pytest.raises(kind):
        _ = await apikley_client.submit(BOARD)

    assert_sent_once_and_nothing_paid(apikley_simulator)


# --- when are credits taken, are failures refunded? ----------------------------------------------


@pytest.mark.parametrize("refund", [True, False])
async def test_credits_are_reported_and_nothing_is_promised(
    refund: bool, apikley_simulator: Simulator, apikley_client: Client
) -> None:
    """A failed film may have cost something: the service's own numbers are shown."""
    apikley_simulator.service.terms = Terms(fail_rate=1.0, refund=refund, credits=1000)
    apikley_simulator.service.reset()

    with pytest.raises(JobFailedError) as caught:
        await apikley_client.generate(BOARD)

    assert await apikley_client.credits() == (1000 if refund else 850)
    assert not any(word in str(caught.value) for word in ("refund", "free", "not charged"))


@pytest.mark.apikley(terms=Terms(prices={"10": 12.75}, credits=100.5))
async def test_credits_may_be_fractions(apikley_client: Client) -> None:
    result = await apikley_client.generate(BOARD)

    assert result.credits == 12.75
    assert await apikley_client.credits() == 87.75


# --- does Apikley sign or retry callbacks? -------------------------------------------------------


@pytest.mark.parametrize("key", [None, "k"], ids=["unsigned", "signed"])
@pytest.mark.parametrize("callback", ["sent in vain", "never sent"])
async def test_a_film_is_found_without_its_callback(
    key: str | None, callback: str, apikley_simulator: Simulator, apikley_client: Client
) -> None:
    """Polling goes on whether a callback is signed, repeated, lost or never sent (A28)."""
    apikley_simulator.webhook_key = key
    if callback == "never sent":
        apikley_simulator.script("callback", [Fault.RESET])
    callback_url = apikley_simulator.base_url + "/no/receiver/here"

    job = await apikley_client.submit(BOARD, callback_url=callback_url)
    result = await job

    assert result.urls
    assert apikley_simulator.ledger.paid_for(callback_url)
    assert apikley_simulator.ledger.polls[result.task_id] > 1


# --- what does an upload answer? -----------------------------------------------------------------

PNG = (
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x10\0\0\0\x10\x08\x02\0\0\0\x90\x91h6"
    b"\0\0\0\0IEND\xaeB`\x82"
)


@pytest.mark.parametrize(
    "terms",
    [
        pytest.param(Terms(upload_shape="filePath"), id="filePath"),
        pytest.param(Terms(upload_shape="fileId"), id="fileId"),
    ],
)
async def test_both_answers_of_an_upload_are_understood(
    terms: Terms, apikley_simulator: Simulator, apikley_client: Client
) -> None:
    """The URL is found in either, and the film is made with it (U6)."""
    apikley_simulator.service.terms = terms
    apikley_simulator.service.reset()

    url = await apikley_client.upload(PNG)
    await apikley_client.generate(Storyboard([Shot("It moves.", 10)], duration=10, image=url))

    assert input_sent_to(apikley_simulator)["image_urls"] == [url]


async def test_an_upload_without_a_url_is_an_error(
    apikley_client: Client, apikley_simulator: Simulator
) -> None:
    """Nothing is bought for an image that is not there (U6)."""
    apikley_simulator.faults = RandomFaults(upload={Fault.NO_UPLOAD_URL: 1})

    with pytest.raises(UploadError):
        await apikley_client.upload(PNG)

    assert apikley_simulator.ledger.creations == []


# --- how many result URLs, in which order? -------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3, 12])
async def test_all_files_are_kept_in_their_order(
    count: int, apikley_simulator: Simulator, apikley_client: Client
) -> None:
    """The list is the service's; nobody sorts it, takes its first or drops its last (P8)."""
    files = [f"https://cdn.test/{n * 7 % 13}.mp4" for n in range(count)]
    job = await apikley_client.submit(BOARD)
    apikley_simulator.finish(job.task_id)
    apikley_simulator.script("record", [Fault.result_urls(*files)])

    result = await job

    assert result.urls == tuple(files)


# --- what does 455 mean on createTask? -----------------------------------------------------------


@pytest.mark.parametrize("status", [200, 455])
async def test_maintenance_is_raised_and_not_repeated(
    status: int, apikley_client: Client, apikley_simulator: Simulator
) -> None:
    """Nobody says whether the task was accepted, so that is the caller's to decide (A26)."""
    apikley_simulator.script("create", [Fault.code(455, status=status)])

    with pytest.raises(MaintenanceError):
        _ = await apikley_client.submit(BOARD)

    assert_sent_once_and_nothing_paid(apikley_simulator)


@pytest.mark.apikley(terms=Terms(duration=Constant(30)))
async def test_maintenance_while_polling_ends_nothing(
    apikley_client: Client, apikley_simulator: Simulator
) -> None:
    """A film that is paid outlives an hour of maintenance that its deadline outlives (P2)."""
    job = await apikley_client.submit(BOARD)
    apikley_simulator.script("record", [Fault.code(455)] * 10)

    assert (await job).urls

"""The state of the simulated service: no socket, no loop, a clock moved by hand."""

from __future__ import annotations

import json
import math
import statistics
from random import Random

import pytest
from calls import counted_calls
from manual_clock import ManualClock
from volume import volume

from apikley_async.simulator import (
    Constant,
    Failure,
    Lognormal,
    Refusal,
    Service,
    ServiceClock,
    SimulatedTask,
    Terms,
)

MODEL = "sora-2-pro-storyboard"
CALLBACK = "https://hooks.example.com/a?token=1"


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def make(clock):
    """Make a service with some terms changed; its films take a hundred seconds."""

    def make(*, speed=1.0, seed=0, renders=False, **terms):
        terms.setdefault("duration", Constant(100))
        service_clock = ServiceClock(clock, speed)
        service_clock.now()
        return Service(Terms(**terms), clock=service_clock, rng=Random(seed), renders=renders)

    return make


def body(*, n_frames="10", callback=None, **changes):
    request = {
        "model": MODEL,
        "input": {"n_frames": n_frames, "shots": [{"Scene": "Rain.", "duration": 5}], **changes},
    }
    return json.dumps(request | ({"callBackUrl": callback} if callback else {})).encode()


def created(service, **options):
    task = service.create(body(**options))
    assert isinstance(task, SimulatedTask)
    return task


def code(answer):
    return answer.code if isinstance(answer, Refusal) else 200


# -- states ------------------------------------------------------------------------------------


def test_a_task_passes_through_every_state(make, clock):
    """Waiting, queuing, generating with growing progress, success; never backwards."""
    service = make()
    task = created(service)

    seen = []
    for _ in range(101):
        now = service.clock.now()
        seen.append((task.state(now), task.progress(now)))
        clock.time += 1

    states = list(dict.fromkeys(state for state, _ in seen))
    assert states == ["waiting", "queuing", "generating", "success"]
    assert [p for _, p in seen] == sorted(p for _, p in seen)
    assert seen[99] == ("generating", 98)
    assert seen[100] == ("success", 100)


def test_a_new_task_can_be_unknown_for_a_while(make, clock):
    """A poll is answered as for an id that does not exist."""
    service = make(visible_after=5)
    task = created(service)

    assert service.poll(task.task_id) == Refusal(422, "recordInfo is null")
    clock.time += 5
    assert service.poll(task.task_id) is task
    assert service.poll("task_of_nobody") == Refusal(422, "recordInfo is null")
    assert service.ledger.polls == {task.task_id: 2, "task_of_nobody": 1}


def test_a_task_waits_for_its_rendered_film(make, clock):
    """It succeeds when its duration is over and its film is rendered, whichever is later."""
    service = make(renders=True)
    early, late = created(service), created(service)
    service.film_rendered(early.task_id)
    assert service.task(early.task_id).state(service.clock.now()) == "waiting"

    clock.time += 100
    assert service.task(early.task_id).state(service.clock.now()) == "success"
    assert service.task(late.task_id).state(service.clock.now()) == "generating"
    clock.time += 50
    service.film_rendered(late.task_id)
    assert service.task(late.task_id).ended_at == 150.0


def test_a_task_whose_rendering_fails_is_failed(make, clock):
    """At once, with code 500, and its credits are refunded."""
    service = make(renders=True, credits=1000)
    task = created(service)
    clock.time += 3

    service.rendering_failed(task.task_id, "no codec")

    task = service.task(task.task_id)
    assert task.state(service.clock.now()) == "fail"
    assert task.failure == Failure("500", "no codec")
    assert service.credits == 1000


def test_a_task_can_be_ended_now(make, clock):
    """With success or failure; a task that has ended is left alone."""
    service = make(fail_rate=1.0)
    task = created(service)
    clock.time += 7.3

    service.finish(task.task_id)
    service.finish(task.task_id, Failure())

    task = service.task(task.task_id)
    assert task.state(service.clock.now()) == "success"
    assert task.ended_at == service.clock.now()
    assert service.running == 0


def test_the_hook_is_called_once_for_each_ended_task(make, clock):
    """In the order of their ends."""
    service = make(duration=lambda rng: 10 * rng.random())
    finished = []
    service.on_finished = finished.append
    for _ in range(20):
        created(service)
    first = service.next_end()

    clock.time += 100
    service.update()
    service.update()

    ends = [task.ended_at for task in finished]
    assert len(finished) == 20
    assert ends == sorted(ends)
    assert ends[0] == first
    assert service.next_end() is None


def test_ended_tasks_can_be_evicted_and_restored(make, clock):
    """For runs of many hours: without them the service works on, with them it is as before."""
    service = make()
    kept, ended = created(service), created(service, callback=CALLBACK)
    clock.time += 100
    service.poll(ended.task_id)

    evicted = service.evict([ended.task_id])

    assert evicted == {ended.task_id: ended}
    assert service.tasks == (kept,)
    assert code(service.poll(ended.task_id)) == 422
    assert service.ledger.charge(ended.task_id) is None
    assert not service.ledger.paid_for(CALLBACK)
    assert len(service.ledger.paid) == 2
    assert service.other_task_id(kept.task_id) == ended.task_id
    service.restore(evicted)
    assert service.tasks == (kept, ended)


# -- randomness --------------------------------------------------------------------------------


def test_equal_seeds_give_equal_tasks(make):
    """The same seed and the same requests give the same durations, failures and films."""

    def tasks(seed):
        service = make(seed=seed, duration=Lognormal(), fail_rate=0.3, limit=None)
        tasks = [created(service) for _ in range(50)]
        return [(t.task_id, t.due_at, t.failure, t.seed) for t in tasks]

    assert tasks(1) == tasks(1)
    assert tasks(1) != tasks(2)


def test_most_films_take_about_three_minutes(make):
    """By default durations are lognormal around 180 seconds."""
    rng = Random(3)
    durations = [Lognormal()(rng) for _ in range(4000)]

    assert 170 < statistics.median(durations) < 190
    assert 0.38 < statistics.stdev(map(math.log, durations)) < 0.42


def test_failures_are_a_rate_or_a_decision(make):
    """A share of the tasks fails, or those that a function picks."""
    by_rate = make(fail_rate=0.25, limit=None, max_running=None)
    failed = sum(created(by_rate).failure is not None for _ in range(400))
    no_cats = Failure("422", "no cats")
    by_choice = make(decide=lambda request: no_cats if "cat" in str(request.shots) else None)

    assert 70 < failed < 130
    assert created(by_choice).failure is None
    cats = [{"Scene": "A cat.", "duration": 1}]
    assert created(by_choice, shots=cats).failure == no_cats


# -- limits ------------------------------------------------------------------------------------


def test_the_twenty_first_creation_in_ten_seconds_is_refused(make, clock):
    """It creates nothing and costs nothing, and the refusal says how long to wait."""
    for window, wait in (("sliding", 10.0), ("fixed", 10.0), ("bucket", 0.5)):
        service = make(window=window)
        codes = [code(service.create(body())) for _ in range(21)]

        refusal = service.create(body())

        assert codes == [200] * 20 + [429], window
        assert isinstance(refusal, Refusal)
        assert refusal.wait == wait, window
        assert len(service.ledger.paid) == len(service.tasks) == 20
        assert len(service.ledger.refused) == len(service.ledger.throttled) == 2
        clock.time += 10
        assert code(service.create(body())) == 200, window


def test_a_limit_may_change_in_mid_run(make, clock):
    """From that time on, whatever was accepted before."""
    service = make(limit=3, limit_changes=((10.0, 1), (20.0, 2)))
    accepted = []
    for _ in range(3):
        accepted.append(sum(code(service.create(body())) == 200 for _ in range(4)))
        clock.time += 10

    assert accepted == [3, 1, 2]


def test_windows_count_in_service_seconds(make, clock):
    """At ten times the speed, ten seconds are over after one."""
    service = make(speed=10, limit=1)

    assert code(service.create(body())) == 200
    clock.time += 0.99
    assert code(service.create(body())) == 429
    clock.time += 0.01
    assert code(service.create(body())) == 200


@pytest.mark.parametrize(("count_refused", "last"), [(False, 200), (True, 429)])
def test_refused_requests_may_count_against_the_limit(make, clock, count_refused, last):
    """Services differ in whether retrying too early makes the wait longer."""
    service = make(limit=1, count_refused=count_refused)
    service.create(body())
    clock.time += 5
    service.create(body())
    clock.time += 5

    assert code(service.create(body())) == last


def test_only_so_many_tasks_run_at_once(make, clock):
    """A task that has ended makes room for another one."""
    service = make(max_running=2, limit=None)
    created(service)
    clock.time += 30
    created(service)

    refusal = service.create(body())
    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.wait) == (429, 70.0)
    clock.time += 70
    created(service)
    assert service.ledger.most_running == 2


# -- money -------------------------------------------------------------------------------------


def test_a_task_is_charged_when_it_is_created(make):
    """The price depends on the length of the film."""
    for n_frames, price in (("10", 150), ("15", 270), ("25", 270)):
        service = make(credits=1000)
        task = created(service, n_frames=n_frames, callback=CALLBACK)

        assert service.credits == 1000 - price
        assert [(c.task_id, c.credits) for c in service.ledger.paid] == [(task.task_id, price)]
        assert service.ledger.paid_for(CALLBACK) == [service.ledger.charge(task.task_id)]


@pytest.mark.parametrize(("refund", "left"), [(True, 1000), (False, 850)])
def test_a_failed_task_is_refunded_or_not(make, clock, refund, left):
    """The credits are returned when the task fails, not before."""
    service = make(credits=1000, fail_rate=1.0, refund=refund)
    created(service)
    assert service.credits == 850

    clock.time += 100
    service.update()

    assert service.credits == left
    assert service.ledger.credits_spent == 1000 - left
    assert [r.at for r in service.ledger.refunds] == ([100.0] if refund else [])


def test_without_credits_nothing_is_created(make):
    """Code 500 or 402; or a 429, as of some services: the message names the credits."""
    for short_code in (500, 402, 429):
        service = make(credits=149.5, short_code=short_code)

        refusal = service.create(body())

        assert isinstance(refusal, Refusal)
        assert (refusal.code, refusal.wait) == (short_code, None)
        assert "Credits" in refusal.message
        assert service.credits == 149.5
        assert not service.tasks


@pytest.mark.parametrize("invalid_code", [500, 422])
def test_a_violated_rule_is_refused_as_upstream_does_or_as_documented(make, invalid_code):
    """By default 500 with a short message, as recorded; or 422 with every violation."""
    service = make(invalid_code=invalid_code)

    refusal = service.create(body(n_frames="11"))

    assert isinstance(refusal, Refusal)
    assert refusal.code == invalid_code
    short = "This n_frames is not within the range of allowed options"
    assert refusal.message == short or invalid_code == 422


def test_invalid_requests_cost_nothing(make):
    """The ledger has them all the same, as they were received."""
    service = make()
    service.create(b"{not json")
    service.create(body(n_frames="11", callback=CALLBACK))

    seen = [(c.outcome, c.code, c.callback_url) for c in service.ledger.creations]
    assert seen == [("refused", 400, None), ("refused", 500, CALLBACK)]
    assert service.ledger.creations[0].body is None
    assert not service.ledger.paid


def test_a_request_that_was_dropped_is_in_the_ledger(make):
    """It is neither created nor refused, but lost."""
    service = make()
    service.note_lost(body(callback=CALLBACK), fault="reset")

    (entry,) = service.ledger.creations
    assert (entry.outcome, entry.callback_url, entry.fault) == ("lost", CALLBACK, "reset")
    assert not service.tasks


# -- ids and times -----------------------------------------------------------------------------


def test_ids_are_unique_within_a_millisecond(make):
    """They have the service's own form: the model, then the time."""
    service = make()
    ids = [created(service).task_id for _ in range(3)]

    assert ids == [f"task_{MODEL}_{1_790_001_000_000 + n}" for n in range(3)]


def test_a_fast_service_is_quick_and_not_in_the_future(make, clock):
    """Timestamps are in the caller's time, whatever the speed."""
    service = make(speed=60)
    clock.time += 2

    assert service.clock.now() == 120.0
    assert service.clock.timestamp(120.0) == 1_790_001_002.0
    assert service.clock.caller_seconds(120.0) == 2.0


def test_a_calendar_may_be_ahead(clock):
    """The callers' clock is wrong then; how long things take is not."""
    right, ahead = ServiceClock(clock, 60), ServiceClock(clock, 60, 3600)
    for each in (right, ahead):
        each.now()
    clock.time += 2
    assert ahead.timestamp(120.0) == right.timestamp(120.0) + 3600
    assert (ahead.now(), ahead.caller_seconds(120.0)) == (right.now(), right.caller_seconds(120.0))


def test_a_speed_is_a_positive_number(clock):
    """A service without a speed is refused at construction."""
    for speed in (0, -1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="speed"):
            ServiceClock(clock, speed)


# -- files -------------------------------------------------------------------------------------


def finished(service, clock):
    task = created(service)
    clock.time += 100
    service.update()
    return task


def path_and_sign(url):
    path, _, sign = url.removeprefix("http://files.test").partition("?sign=")
    return path, sign


def test_result_urls_work_for_a_day(make, clock):
    """From success on, and not a second longer than the terms say."""
    service = make()
    service.files.base_url = "http://files.test"
    task = created(service)
    path, sign = path_and_sign(service.files.result_urls(task)[0])

    assert service.result(path, sign) is None
    clock.time += 100
    assert service.result(path, sign) is not None
    assert service.result(path, "forged") is None
    clock.time += 86_399
    assert service.result(path, sign) is not None
    clock.time += 1
    assert service.result(path, sign) is None


def test_links_to_an_expired_result_are_issued_and_expire_too(make, clock):
    """For two weeks; the link itself works for twenty minutes."""
    service = make()
    service.files.base_url = "http://files.test"
    (url,) = service.files.result_urls(finished(service, clock))
    clock.time += 2 * 86_400

    link = service.download_url(url)
    assert isinstance(link, str)
    path, _ = path_and_sign(link)
    service.files.drop_expired_links()
    assert service.result(path, "") == service.files.result_of(url)
    clock.time += 1200
    assert service.result(path, "") is None
    service.files.drop_expired_links()
    assert service.result(path, "") is None
    clock.time += 12 * 86_400
    assert code(service.download_url(url)) == 422


def test_links_are_issued_for_own_results_only(make):
    """Any other URL is refused with code 422."""
    service = make()
    service.files.base_url = "http://files.test"

    for url in ("https://elsewhere.example/x.mp4", "", "http://files.test/t/0"):
        assert code(service.download_url(url)) == 422, url


def test_no_link_is_issued_for_a_film_that_is_not_ready(make):
    """Its URL is known, and refused."""
    service = make()
    service.files.base_url = "http://files.test"
    (url,) = service.files.result_urls(created(service))

    assert code(service.download_url(url)) == 422


def test_a_missing_image_is_refused_before_anything_is_charged(make, clock):
    """An own upload that is unknown or expired is code 451; other URLs are not checked."""
    service = make()
    service.files.base_url = "http://files.test"
    url = service.files.upload_url(service.files.upload("in", "a.png", b"png bytes"))

    task = created(service, image_urls=[url])
    assert task.render_request().image == b"png bytes"
    assert created(service, image_urls=["https://elsewhere.example/b.png"]).image is None
    clock.time += 3 * 86_400
    assert code(service.create(body(image_urls=[url]))) == 451
    assert len(service.ledger.paid) == 2


# -- size --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_very_many_tasks_are_linear_work(make, clock):
    """Created, polled and ended; the ledger is right in the end."""
    few, many = volume((500, 2_000), (2_500, 10_000))

    work = {count: calls_of_tasks(make, clock, count) for count in (few, many)}

    assert work[many] < 1.1 * many / few * work[few]


def calls_of_tasks(make, clock, count):
    """How many functions are called for so many tasks, one in half a second."""
    service = make(limit=None, max_running=None, fail_rate=0.1, duration=Lognormal())
    raw = body()
    ids = set()
    with counted_calls() as calls:
        for _ in range(count):
            task = service.create(raw)
            assert isinstance(task, SimulatedTask)
            ids.add(task.task_id)
            clock.time += 0.5
            service.poll(task.task_id)
        clock.time += 86_400
        service.update()

    assert service.running == 0
    assert len(ids) == count
    assert service.ledger.credits_spent == 150 * (count - len(service.ledger.refunds))
    assert 300 < service.ledger.most_running < 600
    return calls.number

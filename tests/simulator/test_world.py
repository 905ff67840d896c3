"""The world behind the simulated service: no socket, no loop, time moved by hand."""

from __future__ import annotations

import json
import math
import statistics
from random import Random

import pytest

from apikley_async.simulator import (
    Constant,
    Failure,
    Lognormal,
    Refusal,
    Task,
    Terms,
    World,
    WorldTime,
)

MODEL = "sora-2-pro-storyboard"
CALLBACK = "https://hooks.example.com/a?token=1"


class HandClock:
    """Time that passes only when it is told to."""

    def __init__(self):
        self.time = 1000.0

    def now(self):
        return self.time

    def wall(self):
        return 1_790_000_000.0 + self.time

    async def sleep(self, delay, wake=None):
        self.time += delay


@pytest.fixture
def clock():
    return HandClock()


@pytest.fixture
def make(clock):
    """Make a world with some terms changed; its films take a hundred seconds."""

    def make(*, speed=1.0, seed=0, renders=False, **terms):
        terms.setdefault("duration", Constant(100))
        time = WorldTime(clock, speed)
        time.now()
        return World(Terms(**terms), time=time, rng=Random(seed), renders=renders)

    return make


def body(*, n_frames="10", callback=None, **changes):
    request = {
        "model": MODEL,
        "input": {"n_frames": n_frames, "shots": [{"Scene": "Rain.", "duration": 5}], **changes},
    }
    return json.dumps(request | ({"callBackUrl": callback} if callback else {})).encode()


def created(world, **options):
    task = world.create(body(**options))
    assert isinstance(task, Task)
    return task


def code(verdict):
    return verdict.code if isinstance(verdict, Refusal) else 200


# -- states ------------------------------------------------------------------------------------


def test_a_task_passes_through_every_state(make, clock):
    """Waiting, queuing, generating with growing progress, success; never backwards."""
    world = make()
    task = created(world)

    seen = []
    for _ in range(101):
        now = world.time.now()
        seen.append((task.state(now), task.progress(now)))
        clock.time += 1

    states = list(dict.fromkeys(state for state, _ in seen))
    assert states == ["waiting", "queuing", "generating", "success"]
    assert [p for _, p in seen] == sorted(p for _, p in seen)
    assert seen[99] == ("generating", 98)
    assert seen[100] == ("success", 100)


def test_a_fresh_task_can_be_invisible_for_a_while(make, clock):
    """Until then the service says that there is no such record, as for an id nobody knows."""
    world = make(visible_after=5)
    task = created(world)

    assert world.look(task.task_id) == Refusal(422, "recordInfo is null")
    clock.time += 5
    assert world.look(task.task_id) is task
    assert world.look("task_of_nobody") == Refusal(422, "recordInfo is null")
    assert world.ledger.looks == {task.task_id: 2, "task_of_nobody": 1}


def test_a_rendered_film_is_waited_for(make, clock):
    """A task is ready when its time is up and its film is, whichever comes last."""
    world = make(renders=True)
    early, late = created(world), created(world)
    world.film_ready(early.task_id)
    assert world.task(early.task_id).state(world.time.now()) == "waiting"

    clock.time += 100
    assert world.task(early.task_id).state(world.time.now()) == "success"
    assert world.task(late.task_id).state(world.time.now()) == "generating"
    clock.time += 50
    world.film_ready(late.task_id)
    assert world.task(late.task_id).ended_at == 150.0


def test_a_film_that_breaks_lets_its_task_fail(make, clock):
    """The failure comes at once, with code 500, and costs nothing."""
    world = make(renders=True, credits=1000)
    task = created(world)
    clock.time += 3

    world.film_broken(task.task_id, "no codec")

    task = world.task(task.task_id)
    assert task.state(world.time.now()) == "fail"
    assert task.failure == Failure("500", "no codec")
    assert world.credits == 1000


def test_a_task_can_be_made_to_end_now(make, clock):
    """Scripts end tasks early, either way; what has ended stays as it ended."""
    world = make(fail_rate=1.0)
    task = created(world)
    clock.time += 7.3

    world.finish(task.task_id)
    world.finish(task.task_id, Failure())

    task = world.task(task.task_id)
    assert task.state(world.time.now()) == "success"
    assert task.ended_at == world.time.now()
    assert world.running == 0


def test_the_end_of_a_task_is_told_once(make, clock):
    """The hook hears of each task in the order of their ends, and never twice."""
    world = make(duration=lambda rng: 10 * rng.random())
    told = []
    world.on_finished = told.append
    for _ in range(20):
        created(world)
    first = world.next_finish()

    clock.time += 100
    world.settle()
    world.settle()

    ends = [task.ended_at for task in told]
    assert len(told) == 20
    assert ends == sorted(ends)
    assert ends[0] == first
    assert world.next_finish() is None


# -- chance ------------------------------------------------------------------------------------


def test_equal_chance_gives_an_equal_world(make):
    """The same seed and the same requests decide the same lengths, failures and films."""

    def fates(seed):
        world = make(seed=seed, duration=Lognormal(), fail_rate=0.3, limit=None)
        tasks = [created(world) for _ in range(50)]
        return [(t.task_id, t.due_at, t.failure, t.seed) for t in tasks]

    assert fates(1) == fates(1)
    assert fates(1) != fates(2)


def test_most_films_take_about_three_minutes(make):
    """By default lengths are lognormal around 180 seconds."""
    rng = Random(3)
    lengths = [Lognormal()(rng) for _ in range(4000)]

    assert 170 < statistics.median(lengths) < 190
    assert 0.38 < statistics.stdev(map(math.log, lengths)) < 0.42


def test_who_fails_can_be_a_rate_or_a_decision(make):
    """A share of the tasks fails, or those that a function picks."""
    by_rate = make(fail_rate=0.25, limit=None, max_running=None)
    failed = sum(created(by_rate).failure is not None for _ in range(400))
    no_cats = Failure("422", "no cats")
    by_choice = make(decide=lambda order: no_cats if "cat" in str(order.shots) else None)

    assert 70 < failed < 130
    assert created(by_choice).failure is None
    cats = [{"Scene": "A cat.", "duration": 1}]
    assert created(by_choice, shots=cats).failure == no_cats


# -- limits ------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", ["sliding", "fixed"])
def test_the_twenty_first_creation_in_ten_seconds_is_refused(make, clock, window):
    """It creates nothing, costs nothing, and is told how long to wait."""
    world = make(window=window)
    verdicts = [code(world.create(body())) for _ in range(21)]

    refusal = world.create(body())

    assert verdicts == [200] * 20 + [429]
    assert isinstance(refusal, Refusal)
    assert refusal.wait == 10.0
    assert len(world.ledger.paid) == len(world.tasks) == 20
    assert len(world.ledger.refused) == len(world.ledger.throttled) == 2
    clock.time += 10
    assert code(world.create(body())) == 200


def test_windows_count_in_world_time(make, clock):
    """In a world ten times as fast, ten seconds are over after one."""
    world = make(speed=10, limit=1)

    assert code(world.create(body())) == 200
    clock.time += 0.99
    assert code(world.create(body())) == 429
    clock.time += 0.01
    assert code(world.create(body())) == 200


@pytest.mark.parametrize(("count_refused", "last"), [(False, 200), (True, 429)])
def test_refused_requests_may_use_up_the_window(make, clock, count_refused, last):
    """Services differ in whether knocking too often makes one wait longer."""
    world = make(limit=1, count_refused=count_refused)
    world.create(body())
    clock.time += 5
    world.create(body())
    clock.time += 5

    assert code(world.create(body())) == last


def test_only_so_many_tasks_run_at_once(make, clock):
    """The cap frees a place for every task that ends."""
    world = make(max_running=2, limit=None)
    created(world)
    clock.time += 30
    created(world)

    refusal = world.create(body())
    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.wait) == (429, 70.0)
    clock.time += 70
    created(world)
    assert world.ledger.most_running == 2


# -- money -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_frames", "price"), [("10", 150), ("15", 270), ("25", 270)])
def test_a_task_is_paid_when_it_is_created(make, n_frames, price):
    """The price goes by the length of the film."""
    world = make(credits=1000)
    task = created(world, n_frames=n_frames, callback=CALLBACK)

    assert world.credits == 1000 - price
    assert [(c.task_id, c.credits) for c in world.ledger.paid] == [(task.task_id, price)]
    assert world.ledger.paid_for(CALLBACK) == [world.ledger.charge(task.task_id)]


@pytest.mark.parametrize(("refund", "left"), [(True, 1000), (False, 850)])
def test_a_failed_task_is_paid_back_or_not(make, clock, refund, left):
    """The money comes back when the task fails, not before."""
    world = make(credits=1000, fail_rate=1.0, refund=refund)
    created(world)
    assert world.credits == 850

    clock.time += 100
    world.settle()

    assert world.credits == left
    assert world.ledger.credits_spent == 1000 - left
    assert [r.at for r in world.ledger.refunds] == ([100.0] if refund else [])


@pytest.mark.parametrize("short_code", [500, 402, 429])
def test_without_credits_nothing_is_created(make, short_code):
    """Code 500 or 402; or, from some services, a 429: the words speak of credits."""
    world = make(credits=149.5, short_code=short_code)

    refusal = world.create(body())

    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.wait) == (short_code, None)
    assert "Credits" in refusal.message
    assert world.credits == 149.5
    assert not world.tasks


@pytest.mark.parametrize("invalid_code", [500, 422])
def test_a_broken_rule_is_told_upstreams_way_or_by_the_documentations(make, invalid_code):
    """500 with few words by default, as recorded; 422 with every fault by a switch."""
    world = make(invalid_code=invalid_code)

    refusal = world.create(body(n_frames="11"))

    assert isinstance(refusal, Refusal)
    assert refusal.code == invalid_code
    few = "This n_frames is not within the range of allowed options"
    assert refusal.message == few or invalid_code == 422


def test_invalid_requests_cost_nothing(make):
    """The ledger has them all the same, as they were received."""
    world = make()
    world.create(b"{not json")
    world.create(body(n_frames="11", callback=CALLBACK))

    seen = [(c.verdict, c.code, c.callback_url) for c in world.ledger.creations]
    assert seen == [("refused", 400, None), ("refused", 500, CALLBACK)]
    assert world.ledger.creations[0].body is None
    assert not world.ledger.paid


def test_what_was_lost_on_the_doorstep_is_in_the_books(make):
    """A request that nobody acted on is neither created nor refused."""
    world = make()
    world.overhear(body(callback=CALLBACK), fault="reset")

    (entry,) = world.ledger.creations
    assert (entry.verdict, entry.callback_url, entry.fault) == ("unheard", CALLBACK, "reset")
    assert not world.tasks


# -- names and times ---------------------------------------------------------------------------


def test_ids_are_unique_within_a_millisecond(make):
    """They look like the service's own: the model, then the time."""
    world = make()
    ids = [created(world).task_id for _ in range(3)]

    assert ids == [f"task_{MODEL}_{1_790_001_000_000 + n}" for n in range(3)]


def test_a_fast_world_looks_quick_and_not_in_the_future(make, clock):
    """Stamps are in the caller's time, whatever the speed."""
    world = make(speed=60)
    clock.time += 2

    assert world.time.now() == 120.0
    assert world.time.stamp(120.0) == 1_790_001_002.0
    assert world.time.outside(120.0) == 2.0


@pytest.mark.parametrize("speed", [0, -1, float("inf"), float("nan")])
def test_time_has_to_pass(clock, speed):
    """A world that stands still, or has no speed at all, is a mistake."""
    with pytest.raises(ValueError, match="speed"):
        WorldTime(clock, speed)


# -- files -------------------------------------------------------------------------------------


def finished(world, clock):
    task = created(world)
    clock.time += 100
    world.settle()
    return task


def address(url):
    path, _, sign = url.removeprefix("http://files.test").partition("?sign=")
    return path, sign


def test_results_have_an_address_for_a_day(make, clock):
    """From success on, and not a second longer than the terms say."""
    world = make()
    world.files.base = "http://files.test"
    task = created(world)
    path, sign = address(world.files.result_urls(task)[0])

    assert world.result(path, sign) is None
    clock.time += 100
    assert world.result(path, sign) is not None
    assert world.result(path, "forged") is None
    clock.time += 86_399
    assert world.result(path, sign) is not None
    clock.time += 1
    assert world.result(path, sign) is None


def test_a_link_to_an_expired_result_can_be_had_and_expires_too(make, clock):
    """For two weeks; the link itself works for twenty minutes."""
    world = make()
    world.files.base = "http://files.test"
    (url,) = world.files.result_urls(finished(world, clock))
    clock.time += 2 * 86_400

    link = world.download_url(url)
    assert isinstance(link, str)
    path, _ = address(link)
    assert world.result(path, "") == world.files.place_of(url)
    clock.time += 1200
    assert world.result(path, "") is None
    clock.time += 12 * 86_400
    assert code(world.download_url(url)) == 422


@pytest.mark.parametrize("url", ["https://elsewhere.example/x.mp4", "", "http://files.test/t/0"])
def test_links_are_given_for_own_results_only(make, url):
    """Any other address is refused with code 422."""
    world = make()
    world.files.base = "http://files.test"

    assert code(world.download_url(url)) == 422


def test_there_is_no_link_to_a_film_in_the_making(make):
    """Nor to one that was never yielded."""
    world = make()
    world.files.base = "http://files.test"
    (url,) = world.files.result_urls(created(world))

    assert code(world.download_url(url)) == 422


def test_an_image_that_is_gone_is_noticed_before_anything_is_charged(make, clock):
    """An own upload that is unknown or expired is code 451; foreign addresses are not looked at."""
    world = make()
    world.files.base = "http://files.test"
    url = world.files.upload_url(world.files.upload("in", "a.png", b"png bytes"))

    task = created(world, image_urls=[url])
    assert task.film_order().image == b"png bytes"
    assert created(world, image_urls=["https://elsewhere.example/b.png"]).image is None
    clock.time += 3 * 86_400
    assert code(world.create(body(image_urls=[url]))) == 451
    assert len(world.ledger.paid) == 2


# -- size --------------------------------------------------------------------------------------


def test_ten_thousand_tasks_are_no_burden(make, clock):
    """Creating, looking at and settling them is quick, and the books are right in the end."""
    world = make(limit=None, max_running=None, fail_rate=0.1, duration=Lognormal())
    raw = body()
    ids = []
    for _ in range(10_000):
        task = world.create(raw)
        assert isinstance(task, Task)
        ids.append(task.task_id)
        clock.time += 0.5
        world.look(task.task_id)

    clock.time += 86_400
    world.settle()

    assert world.running == 0
    assert len(set(ids)) == 10_000
    assert world.ledger.credits_spent == 150 * (10_000 - len(world.ledger.refunds))
    assert 300 < world.ledger.most_running < 600

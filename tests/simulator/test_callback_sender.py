"""The callback sender: when callbacks are sent, to whom, retries, and faults."""

from __future__ import annotations

import asyncio
import json
import random

import aiohttp
import attrs
import pytest
from aiohttp import web

from apikley_async.simulator import (
    Constant,
    Fault,
    FixedRenderer,
    RandomFaults,
    Simulator,
    Terms,
    Uniform,
)
from apikley_async.simulator.callbacks.signed_request import signature
from apikley_async.testing import LoopClock

pytestmark = pytest.mark.virtual

KEY = "key-of-the-webhook"
RESULT = "https://elsewhere.example/film.mp4"


@attrs.define
class Receiver:
    """A receiver of callbacks: it answers with *answers* first, then with 200."""

    url: str = ""
    received: list = attrs.field(factory=list)
    answers: list = attrs.field(factory=list)

    async def handle(self, request):
        raw = await request.read()
        now = asyncio.get_running_loop().time()
        body = json.loads(raw) if raw.startswith(b"{") else raw
        self.received.append((round(now, 1), body, request.headers))
        answer = self.answers.pop(0) if self.answers else 200
        if answer is None:
            await asyncio.sleep(600)
        headers = {"Location": self.url} if answer == 307 else {}
        return web.Response(status=answer or 200, headers=headers)

    @property
    def task_ids(self):
        """The ids in the callbacks, in the order of their arrival."""
        return [body["data"]["taskId"] for _, body, _ in self.received]

    @property
    def times(self):
        return [at for at, _, _ in self.received]


@pytest.fixture
async def receiver():
    """A running receiver."""
    receiver = Receiver()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", receiver.handle)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hooks"
    yield receiver
    await runner.cleanup()


@pytest.fixture
async def start():
    """Start simulators; a film takes a hundred seconds. All are closed after the test."""
    running = []

    async def start(terms=None, **options):
        options = {"renderer": FixedRenderer(), "webhook_key": KEY, "clock": LoopClock()} | options
        options.setdefault("hosts", ("localhost",))
        simulator = Simulator(terms or Terms(duration=Constant(100)), **options)
        await simulator.start()
        running.append(simulator)
        return simulator

    yield start
    for simulator in running:
        await simulator.aclose()


async def create(simulator, callback_url=None):
    """Create a task over HTTP; its id, or None when the response was lost."""
    body = {
        "model": "sora-2-pro-storyboard",
        "input": {"n_frames": "10", "shots": [{"Scene": "Rain.", "duration": 5}]},
    }
    if callback_url is not None:
        body["callBackUrl"] = callback_url
    headers = {"Authorization": f"Bearer {simulator.api_key}"}
    url = simulator.base_url + "/api/v1/jobs/createTask"
    async with aiohttp.ClientSession(headers=headers) as session:
        try:
            async with session.post(url, json=body) as answer:
                return json.loads(await answer.text())["data"]["taskId"]
        except aiohttp.ClientError:
            return None


def outcomes(simulator):
    return [(c.outcome, c.status) for c in simulator.ledger.callbacks]


# -- without faults ----------------------------------------------------------------------------


async def test_a_callback_is_sent_when_a_film_ends(start, receiver):
    """At that moment, once, signed, and with everything that a poll would report."""
    simulator = await start(Terms(duration=Constant(100), credits=1000))
    task_id = await create(simulator, receiver.url + "?token=1")
    await asyncio.sleep(300)

    ((at, body, headers),) = receiver.received
    data = body["data"]
    assert at == pytest.approx(100, abs=0.2)
    assert (body["code"], data["taskId"], data["state"]) == (200, task_id, "success")
    assert json.loads(data["resultJson"])["resultUrls"] == list(simulator.result_urls(task_id))
    assert json.loads(data["param"])["callBackUrl"] == receiver.url + "?token=1"
    assert (data["consumeCredits"], data["remainedCredits"], data["costTime"]) == (150, 850, 100)
    assert data["completeTime"] - data["createTime"] == 100_000
    stamp = headers["X-Webhook-Timestamp"]
    assert abs(int(stamp) * 1000 - data["completeTime"]) <= 1000
    assert headers["X-Webhook-Signature"] == signature(KEY, task_id, stamp)
    (entry,) = simulator.ledger.callbacks
    assert (entry.task_id, entry.body_task_id, entry.attempt) == (task_id, task_id, 1)
    assert outcomes(simulator) == [("answered", 200)]
    assert not simulator.ledger.polls


async def test_a_failure_is_reported_too(start, receiver):
    """With code 501, the reason and the refunded credits; there is no result."""
    simulator = await start(Terms(duration=Constant(100), fail_rate=1.0, credits=1000))
    await create(simulator, receiver.url)
    await asyncio.sleep(101)

    ((_, body, _),) = receiver.received
    data = body["data"]
    assert (body["code"], data["state"], data["failCode"]) == (501, "fail", "500")
    assert (data["consumeCredits"], data["remainedCredits"]) == (0, 1000)
    assert data["failMsg"]
    assert "resultJson" not in data


async def test_a_service_can_send_notices_or_nothing(start, receiver):
    """As the terms say; then the result must be polled (W13, W16)."""
    noticing = await start(Terms(duration=Constant(100), callbacks="notice"))
    silent = await start(Terms(duration=Constant(100), callbacks="none"))
    task_id = await create(noticing, receiver.url)
    await create(silent, receiver.url)
    await asyncio.sleep(101)

    ((_, body, _),) = receiver.received
    assert (body["taskId"], body["data"]["task_id"]) == (task_id, task_id)
    assert body["data"].keys() == {"task_id", "callbackType"}
    assert not silent.ledger.callbacks


async def test_without_a_callback_url_nothing_runs(start):
    """No asyncio task of the simulator waits for the end of a film."""
    simulator = await start()
    before = asyncio.all_tasks()

    await create(simulator)

    assert not [t for t in asyncio.all_tasks() - before if "films" in t.get_name()]


async def test_the_watcher_ends_with_the_last_film(start, receiver):
    """And starts again for the next one."""
    simulator = await start()
    for _ in range(2):
        await create(simulator, receiver.url)
        await create(simulator)
        await asyncio.sleep(101)
        assert not [t for t in asyncio.all_tasks() if "films" in t.get_name()]

    assert len(receiver.received) == 2


async def test_the_callback_of_a_rendered_film_waits_for_it(start, receiver):
    """Until it is rendered, nobody knows how long it takes."""

    class Slow:
        async def render(self, request):
            await asyncio.sleep(250)
            return b"film"

    simulator = await start(renderer=Slow())
    await create(simulator, receiver.url)
    await asyncio.sleep(300)

    assert receiver.times == [pytest.approx(250, abs=0.5)]


async def test_many_callbacks_are_sent_in_the_order_of_the_ends(start, receiver):
    """Each once, though some films end at almost the same time."""
    terms = Terms(limit=None, duration=Uniform(10, 200))
    simulator = await start(terms, rng=random.Random(3))
    tasks = [await create(simulator, receiver.url) for _ in range(30)]
    await asyncio.sleep(210)

    assert sorted(receiver.task_ids) == sorted(tasks)
    ends = [simulator.service.task(task_id).ended_at for task_id in receiver.task_ids]
    assert ends == sorted(ends)


async def test_a_fast_service_calls_sooner(start, receiver):
    """A hundred service seconds take one of the receiver's; the timestamps are right."""
    simulator = await start(speed=100)
    await create(simulator, receiver.url)
    await asyncio.sleep(2)

    ((at, _, headers),) = receiver.received
    assert at == pytest.approx(1, abs=0.2)
    assert abs(int(headers["X-Webhook-Timestamp"]) - 1_790_000_001) <= 1


async def test_a_film_that_is_ended_early_is_reported_at_once(start, receiver):
    """By a call, or because time was skipped."""
    simulator = await start()
    first, second = await create(simulator, receiver.url), await create(simulator, receiver.url)
    simulator.finish(first)
    await asyncio.sleep(1)
    assert receiver.task_ids == [first]

    simulator.advance(100)
    await asyncio.sleep(1)
    assert receiver.task_ids == [first, second]


# -- receivers ---------------------------------------------------------------------------------


async def test_a_refused_callback_is_retried_three_times(start, receiver):
    """After ten, thirty and sixty seconds; then it is given up."""
    simulator = await start()
    receiver.answers = [500, 503, 404, 500, 200]
    await create(simulator, receiver.url)
    await asyncio.sleep(900)

    assert [round(at) for at in receiver.times] == [100, 110, 140, 200]
    assert outcomes(simulator) == [("answered", status) for status in (500, 503, 404, 500)]
    assert [c.attempt for c in simulator.ledger.callbacks] == [1, 2, 3, 4]
    stamps = [int(headers["X-Webhook-Timestamp"]) for _, _, headers in receiver.received]
    assert stamps == sorted(set(stamps)), "each attempt is signed anew"


async def test_a_receiver_may_take_fifteen_seconds(start, receiver):
    """A later answer does not count, and the callback is retried (W12)."""
    simulator = await start()
    receiver.answers = [None, 200]
    await create(simulator, receiver.url)
    await asyncio.sleep(200)

    assert [round(at) for at in receiver.times] == [100, 125]
    assert outcomes(simulator) == [("unanswered", None), ("answered", 200)]


async def test_a_receiver_that_is_down_is_no_error(start):
    """Four attempts, and nothing else happens (W13)."""
    simulator = await start()
    await create(simulator, "http://127.0.0.1:9/hooks")
    await asyncio.sleep(300)

    assert outcomes(simulator) == [("unanswered", None)] * 4


async def test_a_redirect_of_a_callback_is_not_followed(start, receiver):
    """It counts as a refusal."""
    simulator = await start(Terms(duration=Constant(100), callback_retries=()))
    receiver.answers = [307]
    await create(simulator, receiver.url)
    await asyncio.sleep(101)

    assert len(receiver.received) == 1
    assert outcomes(simulator) == [("answered", 307)]


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example.com/a",
        "http://10.0.0.1/a",
        "http://169.254.169.254/a",
        "http://0.0.0.0/a",
        "http://127.1/a",
        "http://2130706433/a",
        "http://127.0.0.1.example.com/a",
        "http://localhost.example.com/a",
        "http://[::ffff:10.0.0.1]/a",
    ],
)
async def test_callbacks_go_to_allowed_hosts_only(start, url):
    """No other host is even looked up, and the ledger notes it."""
    simulator = await start()
    task_id = await create(simulator, url)
    simulator.advance(100)

    (entry,) = simulator.ledger.callbacks
    assert (entry.task_id, entry.outcome, entry.url) == (task_id, "forbidden", url)
    assert url not in repr(entry), "the address may hold a token"


async def test_localhost_is_this_machine(start, receiver):
    """The name is not looked up."""
    simulator = await start()
    await create(simulator, receiver.url.replace("127.0.0.1", "localhost"))
    await asyncio.sleep(101)

    assert len(receiver.received) == 1


# -- faults ------------------------------------------------------------------------------------


async def test_a_callback_can_be_lost(start, receiver):
    """It is never sent and not retried, and the ledger notes it (W13)."""
    simulator = await start()
    simulator.script("callback", [Fault.LOST])
    lost, sent = await create(simulator, receiver.url), await create(simulator, receiver.url)
    await asyncio.sleep(300)

    assert receiver.task_ids == [sent]
    assert [(c.task_id, c.outcome) for c in simulator.ledger.callbacks] == [
        (lost, "lost"),
        (sent, "answered"),
    ]
    assert [(m.endpoint, m.fault) for m in simulator.ledger.faults] == [("callback", "lost")]


async def test_a_callback_can_be_lost_in_transit(start, receiver):
    """It is retried, and each attempt meets a fault of its own (W13)."""
    simulator = await start()
    simulator.script("callback", [Fault.MISSED, Fault.MISSED])

    sent = await create(simulator, receiver.url)
    await asyncio.sleep(300)

    assert receiver.task_ids == [sent]
    outcomes = [(c.attempt, c.outcome) for c in simulator.ledger.callbacks]
    assert outcomes == [(1, "lost"), (2, "lost"), (3, "answered")]


async def test_a_callback_can_arrive_twice(start, receiver):
    """By a fault, or because the receiver's answer was lost (W6)."""
    simulator = await start()
    simulator.script("callback", [Fault.TWICE, Fault.CLOSE_AFTER])
    first = await create(simulator, receiver.url)
    await asyncio.sleep(5)
    second = await create(simulator, receiver.url)
    await asyncio.sleep(200)

    assert receiver.task_ids == [first, first, second, second]
    assert outcomes(simulator)[2:] == [("unanswered", None), ("answered", 200)]


@pytest.mark.parametrize("fault", [Fault.late(40), Fault.queued(40)], ids=str)
async def test_a_callback_can_be_late(start, receiver, fault):
    """In the receiver's seconds; it reports the state at the end of the film (W8)."""
    simulator = await start(speed=10)
    simulator.script("callback", [fault])
    await create(simulator, receiver.url)
    await asyncio.sleep(100)

    ((at, body, _),) = receiver.received
    assert at == pytest.approx(50, abs=0.5)
    assert body["data"]["completeTime"] - body["data"]["createTime"] == pytest.approx(10_000, abs=9)


async def test_callbacks_can_arrive_out_of_order(start, receiver):
    """The next one is sent first; without a next one, the first is sent after a minute (W6)."""
    simulator = await start()
    simulator.script("callback", [Fault.OVERTAKEN, Fault.OK, Fault.OVERTAKEN])
    first = await create(simulator, receiver.url)
    await asyncio.sleep(20)
    second = await create(simulator, receiver.url)
    await asyncio.sleep(105)
    assert receiver.task_ids == [second, first]

    await create(simulator, receiver.url)
    await asyncio.sleep(200)
    assert receiver.times[-1] == pytest.approx(125 + 100 + 60, abs=1)


async def test_a_callback_can_name_another_task(start, receiver):
    """With an id that exists, and a valid signature for it (W5)."""
    simulator = await start()
    simulator.script("callback", [Fault.OTHER_TASK, Fault.LOST])
    first, second = await create(simulator, receiver.url), await create(simulator, receiver.url)
    await asyncio.sleep(200)

    assert receiver.task_ids == [second]
    entry = simulator.ledger.callbacks[-1]
    assert (entry.task_id, entry.body_task_id) == (first, second)


@pytest.mark.parametrize(
    "fault",
    [Fault.HTML_200, Fault.EMPTY, Fault.MALFORMED, Fault.BODY_LIST, Fault.BAD_GZIP, Fault.HUGE],
    ids=str,
)
async def test_a_callback_can_be_unreadable(start, receiver, fault):
    """A receiver must answer it all the same (W9, W11)."""
    simulator = await start(Terms(duration=Constant(100), callback_retries=()))
    simulator.script("callback", [fault])
    await create(simulator, receiver.url)
    await asyncio.sleep(120)

    (entry,) = simulator.ledger.callbacks
    assert entry.fault == fault.name
    assert entry.outcome == "answered"


@pytest.mark.parametrize(
    "fault",
    [
        Fault.CALLBACK_FIRST,
        attrs.evolve(Fault.RESET_AFTER, mutation="callback first"),
        attrs.evolve(Fault.late(30), mutation="callback first"),
    ],
    ids=str,
)
async def test_a_callback_can_arrive_before_the_response_to_the_creation(start, receiver, fault):
    """The film has ended while its caller does not know the id yet (W7, A16)."""
    simulator = await start()
    simulator.script("create", [fault])
    known = []
    receiver.answers = [200]
    creating = asyncio.create_task(create(simulator, receiver.url))
    creating.add_done_callback(lambda done: known.append(list(receiver.task_ids)))

    task_id = await creating
    await asyncio.sleep(0)

    (charge,) = simulator.ledger.paid
    assert task_id in {None, charge.task_id}
    assert known == [[charge.task_id]]


async def test_random_faults_strike_callbacks_too(start, receiver):
    """The same ones for the same seed, whatever strikes the other endpoints."""
    mix = {Fault.LOST: 0.3, Fault.TWICE: 0.3}

    async def history(**mixes):
        faults = RandomFaults(seed=4, callback=mix, **mixes)
        simulator = await start(Terms(limit=None, duration=Constant(1)), faults=faults)
        for _ in range(20):
            await create(simulator, receiver.url)
        await asyncio.sleep(10)
        return [c.outcome for c in sorted(simulator.ledger.callbacks, key=lambda c: c.task_id)]

    once = await history()
    assert once == await history(record={Fault.RESET: 1.0})
    assert once.count("lost") in range(2, 11)


async def test_callbacks_have_a_latency(start, receiver):
    """Drawn for each, in the receiver's seconds."""
    terms = Terms(duration=Constant(100), latency={"callback": Constant(7)})
    simulator = await start(terms, speed=100)
    await create(simulator, receiver.url)
    await asyncio.sleep(20)

    assert receiver.times == [pytest.approx(8, abs=0.2)]


# -- closing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [50, 101, 108], ids=["waiting", "unanswered", "between attempts"])
async def test_it_closes_while_callbacks_are_being_sent(start, receiver, after):
    """At once, and none of their tasks is left."""
    simulator = await start(Terms(duration=Constant(100), callback_timeout=5))
    receiver.answers = [None]
    await create(simulator, receiver.url)
    await asyncio.sleep(after)
    begin = asyncio.get_running_loop().time()

    await simulator.aclose()

    assert asyncio.get_running_loop().time() - begin < 2
    assert not [t for t in asyncio.all_tasks() if "callback of" in t.get_name()]


async def test_a_restarted_simulator_reports_films_that_have_ended(start, receiver):
    """Once, though late (W8)."""
    simulator = await start()
    task_id = await create(simulator, receiver.url)
    await simulator.aclose()
    await asyncio.sleep(500)

    await simulator.start()
    await asyncio.sleep(1)

    assert receiver.task_ids == [task_id]


async def test_the_users_own_hook_is_called_as_well(start, receiver):
    """And it is restored when the simulator has closed."""
    terms, hosts = Terms(duration=Constant(100)), ("localhost",)
    simulator = Simulator(terms, renderer=FixedRenderer(), clock=LoopClock(), hosts=hosts)
    ended = []
    hook = simulator.service.on_finished = ended.append
    async with simulator:
        task_id = await create(simulator, receiver.url)
        await asyncio.sleep(101)

    assert [task.task_id for task in ended] == receiver.task_ids == [task_id]
    assert simulator.service.on_finished is hook

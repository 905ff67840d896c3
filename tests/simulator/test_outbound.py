"""What the simulator asks of others: how far it goes, and files that it fetches for an upload."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from aiohttp import web

from apikley_async.simulator import Constant, Fault, FixedRenderer, Simulator, Terms
from apikley_async.simulator.outbound import MAX_FILE_SIZE, OutboundClient, is_loopback

PNG = b"\x89PNG\r\n\x1a\n and the rest of it"
UPLOAD = "/file-upload/api/file-url-upload"


# -- how far it goes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("localhost", True),
        ("LOCALHOST", True),
        ("", False),
        ("0.0.0.0", False),
        ("::", False),
        ("127.1", False),
        ("0x7f000001", False),
        ("10.0.0.1", False),
        ("169.254.169.254", False),
        ("::ffff:10.0.0.1", False),
        ("localhost.example.com", False),
        ("127.0.0.1.example.com", False),
    ],
)
def test_only_what_is_here_beyond_doubt_is_here(host, here):
    """Addresses in odd spellings and names in other domains are elsewhere (D10)."""
    assert is_loopback(host) is here


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("http://127.0.0.1:8080/hooks", True),
        ("https://[::1]/hooks", True),
        ("https://hooks.example.com/a", True),
        ("https://HOOKS.example.com:8443/a", True),
        ("https://example.com/a", False),
        ("https://x.hooks.example.com/a", False),
        ("https://hooks.example.com@evil.example/a", False),
        ("ftp://127.0.0.1/a", False),
        ("file:///etc/hosts", False),
        ("http://[::1", False),
        ("http://127.0.0.1:99999/a", False),
        ("", False),
    ],
)
def test_other_machines_have_to_be_named(url, allowed):
    """By their whole name, and for HTTP only."""
    assert OutboundClient(["hooks.example.com", "localhost"]).allows(url) is allowed
    assert not (
        ("127.0.0.1" in url or "[::1]" in url) and OutboundClient(["hooks.example.com"]).allows(url)
    )
    assert OutboundClient(["127.0.0.1"]).allows("http://127.0.0.1:8080/hooks")
    assert not OutboundClient(["127.0.0.1"]).allows("http://127.0.0.2:8080/hooks")


async def test_what_is_not_allowed_is_not_sent():
    """Even if somebody forgets to ask first."""
    with pytest.raises(ValueError, match="url"):
        await OutboundClient().post("http://10.0.0.1/", b"", {}, timeout=1)


# -- uploads by address ------------------------------------------------------------------------


class Elsewhere:
    """A host of files on this machine that is not the simulator's."""

    def __init__(self):
        self.url = ""
        self.asked = []

    async def handle(self, request):
        self.asked.append(request.path)
        self.headers = request.headers
        match request.path.split("/")[1:]:
            case ["redirect", count, *rest]:
                left = int(count) - 1
                to = f"/redirect/{left}" if left else "/kitten.png"
                return web.Response(status=302, headers={"Location": rest[0] if rest else to})
            case ["away"]:
                return web.Response(status=302, headers={"Location": "http://10.0.0.1/a.png"})
            case ["slow.png"]:
                await asyncio.sleep(300)
            case ["gone.png"]:
                return web.Response(status=404)
            case ["endless.png"]:
                response = web.StreamResponse()
                await response.prepare(request)
                while not request.transport.is_closing():
                    await response.write(bytes(8 << 20))
                return response
        return web.Response(body=PNG)


@pytest.fixture
async def elsewhere():
    host = Elsewhere()
    app = web.Application()
    app.router.add_get("/{path:.*}", host.handle)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield host
    await runner.cleanup()


@pytest.fixture
async def caller():
    """Uploads by address, and what comes of it: the answer and, if there is one, the file."""
    terms = Terms(duration=Constant(0))
    world = Simulator(terms, renderer=FixedRenderer(), hosts=("localhost",))
    async with world as simulator, aiohttp.ClientSession() as session:

        async def upload(url, **fields):
            headers = {"Authorization": f"Bearer {simulator.api_key}"}
            body = {"fileUrl": url, "uploadPath": "in"} | fields
            target = simulator.base_url + UPLOAD
            async with session.post(target, json=body, headers=headers) as answer:
                told = await answer.json(content_type=None)
            if not told["success"]:
                return told, None
            async with session.get(told["data"]["downloadUrl"]) as answer:
                return told, await answer.read()

        upload.simulator, upload.session = simulator, session
        yield upload


@pytest.mark.parametrize(
    ("path", "fields", "name"),
    [
        ("/kitten.png", {}, "kitten.png"),
        ("/pictures/a%20b.png?size=1", {}, "a b.png"),
        ("/kitten.png", {"fileName": "own.png"}, "own.png"),
        ("/redirect/5", {}, "5"),
    ],
)
async def test_a_file_is_fetched_from_its_address(caller, elsewhere, path, fields, name):
    """Redirects are followed, and the name is the address's own unless another is wished."""
    told, data = await caller(elsewhere.url + path, **fields)

    assert (told["code"], told["data"]["fileName"]) == (200, name)
    assert data == PNG
    assert "Authorization" not in elsewhere.headers


async def test_a_result_of_its_own_can_be_uploaded_again(caller):
    """It lies on the simulator's own host of files."""
    simulator = caller.simulator
    headers = {"Authorization": f"Bearer {simulator.api_key}"}
    given = {"shots": [{"Scene": "Rain.", "duration": 5}]}
    async with caller.session.post(
        simulator.base_url + "/api/v1/jobs/createTask",
        json={"model": "sora-2-pro-storyboard", "input": given},
        headers=headers,
    ) as answer:
        task_id = (await answer.json())["data"]["taskId"]

    told, data = await caller(simulator.result_urls(task_id)[0])

    assert data == await simulator.film(task_id)
    assert told["data"]["mimeType"] == "video/mp4"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/gone.png", "answers 404"),
        ("/redirect/7", "redirects"),
        ("/away", "not allowed"),
        ("/endless.png", f"{MAX_FILE_SIZE >> 20} MB"),
    ],
)
async def test_what_cannot_be_fetched_is_refused(caller, elsewhere, path, reason):
    """With code 400, and with the reason in words."""
    told, _ = await caller(elsewhere.url + path)

    assert (told["success"], told["code"], told["data"]) == (False, 400, None)
    assert reason in told["msg"]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://files.example.com/a.png", "not allowed"),
        ("http://169.254.169.254/latest/meta-data/", "not allowed"),
        ("http://127.0.0.1:9/a.png", "could not be fetched"),
        ("file:///etc/hosts", "must be a URI"),
        ("kitten.png", "must be a URI"),
        (None, "must be a URI"),
    ],
)
async def test_the_simulator_fetches_from_this_machine_only(caller, url, reason):
    """Anything else is refused without a request (D10)."""
    told, _ = await caller(url)

    assert (told["success"], told["code"]) == (False, 400)
    assert reason in told["msg"]


@pytest.mark.virtual
async def test_a_fetch_may_take_thirty_seconds(caller, elsewhere):
    """Then the service gives up."""
    begin = asyncio.get_running_loop().time()

    told, _ = await caller(elsewhere.url + "/slow.png")

    assert "30 seconds" in told["msg"]
    assert asyncio.get_running_loop().time() - begin == pytest.approx(30, abs=1)


async def test_an_upload_by_address_goes_wrong_like_the_others(caller, elsewhere):
    """Refused before it is fetched, or with an answer of no use after it."""
    caller.simulator.script("upload", [Fault.code(500), Fault.NO_UPLOAD_URL, Fault.UPLOAD_REFUSED])
    url = caller.simulator.base_url + UPLOAD
    headers = {"Authorization": f"Bearer {caller.simulator.api_key}"}
    answers = []
    for _ in range(3):
        body = {"fileUrl": elsewhere.url + "/kitten.png", "uploadPath": "in"}
        async with caller.session.post(url, json=body, headers=headers) as answer:
            answers.append(await answer.json(content_type=None))

    assert answers[0]["code"] == 500
    assert "downloadUrl" not in answers[1]["data"]
    assert answers[2]["success"] is False
    assert len(elsewhere.asked) == 2


# -- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "suffix"), [("iVBORw0KGgo=", ".bin"), ("data:image/png;base64,iVBORw0KGgo=", ".png")]
)
async def test_a_file_without_a_name_gets_a_new_one(caller, data, suffix):
    """No two are the same, so that none replaces another."""
    url = caller.simulator.base_url + UPLOAD.replace("url-upload", "base64-upload")
    headers = {"Authorization": f"Bearer {caller.simulator.api_key}"}
    names = set()
    for _ in range(2):
        body = {"base64Data": data, "uploadPath": "in"}
        async with caller.session.post(url, json=body, headers=headers) as answer:
            names.add((await answer.json())["data"]["fileName"])

    assert len(names) == 2
    assert all(name.endswith(suffix) for name in names)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("fileName", "a/b.png"),
        ("fileName", ".."),
        ("fileName", "a\x00.png"),
        ("fileName", "\ud800.png"),
        ("fileName", "a" * 300),
        ("fileName", 7),
        ("uploadPath", "in//deep"),
        ("uploadPath", "./in"),
        ("uploadPath", "\udfff"),
        ("uploadPath", 7),
    ],
)
async def test_a_name_that_is_none_is_refused(caller, elsewhere, field, value):
    """A path, a control character, half of a character (D16)."""
    told, _ = await caller(elsewhere.url + "/kitten.png", **{field: value})

    assert (told["success"], told["code"]) == (False, 400)
    assert field in told["msg"]

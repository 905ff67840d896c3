"""The requests that the simulator sends: which hosts are allowed, and uploads by URL."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from aiohttp import web

from apikley_async.simulator import Constant, Fault, FixedRenderer, Simulator, Terms
from apikley_async.simulator.outbound import MAX_FILE_SIZE, OutboundClient

PNG = b"\x89PNG\r\n\x1a\n and the rest of it"
UPLOAD = "/file-upload/api/file-url-upload"


# -- allowed hosts -----------------------------------------------------------------------------


LOOPBACK = {
    "127.0.0.1": True,
    "127.8.9.1": True,
    "::1": True,
    "::ffff:127.0.0.1": True,
    "localhost": True,
    "LOCALHOST": True,
    "": False,
    "0.0.0.0": False,
    "::": False,
    "127.1": False,
    "0x7f000001": False,
    "10.0.0.1": False,
    "169.254.169.254": False,
    "::ffff:10.0.0.1": False,
    "localhost.example.com": False,
    "127.0.0.1.example.com": False,
}


def test_localhost_allows_plain_names_of_this_machine_only():
    """Odd spellings of addresses and names in other domains are refused (D10)."""
    client = OutboundClient(["localhost"])
    urls = {host: f"http://[{host}]/" if ":" in host else f"http://{host}/" for host in LOOPBACK}

    assert {host: client.allows(url) for host, url in urls.items()} == LOOPBACK


ALLOWED = {
    "http://127.0.0.1:8080/hooks": True,
    "https://[::1]/hooks": True,
    "https://hooks.example.com/a": True,
    "https://HOOKS.example.com:8443/a": True,
    "https://example.com/a": False,
    "https://x.hooks.example.com/a": False,
    "https://hooks.example.com@evil.example/a": False,
    "ftp://127.0.0.1/a": False,
    "file:///etc/hosts": False,
    "http://[::1": False,
    "http://127.0.0.1:99999/a": False,
    "": False,
}


def test_hosts_are_allowed_by_their_whole_name():
    """For HTTP only; loopback needs `localhost` or the address itself."""
    both = OutboundClient(["hooks.example.com", "localhost"])
    other = OutboundClient(["hooks.example.com"])

    assert {url: both.allows(url) for url in ALLOWED} == ALLOWED
    local = [url for url in ALLOWED if "127.0.0.1" in url or "[::1]" in url]
    assert not [url for url in local if other.allows(url)]
    assert OutboundClient(["127.0.0.1"]).allows("http://127.0.0.1:8080/hooks")
    assert not OutboundClient(["127.0.0.1"]).allows("http://127.0.0.2:8080/hooks")


async def test_a_post_to_another_host_is_refused():
    """Even if the caller does not check first."""
    with pytest.raises(ValueError, match="url"):
        await OutboundClient().post("http://10.0.0.1/", b"", {}, timeout=1)


# -- uploads by URL ----------------------------------------------------------------------------


class OtherHost:
    """A file host on this machine that is not the simulator's."""

    def __init__(self):
        self.url = ""
        self.requested = []

    async def handle(self, request):
        self.requested.append(request.path)
        self.headers = request.headers
        match request.path.split("/")[1:]:
            case ["redirect", count, *rest]:
                left = int(count) - 1
                to = f"/redirect/{left}" if left else "/kitten.png"
                return web.Response(status=302, headers={"Location": rest[0] if rest else to})
            case ["forbidden"]:
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
async def other_host():
    host = OtherHost()
    app = web.Application()
    app.router.add_get("/{path:.*}", host.handle)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield host
    await runner.cleanup()


@pytest.fixture
async def upload():
    """A function that uploads by URL and returns the response and, if there is one, the file."""
    terms = Terms(duration=Constant(0))
    started = Simulator(terms, renderer=FixedRenderer(), hosts=("localhost",))
    async with started as simulator, aiohttp.ClientSession() as session:

        async def upload_url(url, **fields):
            headers = {"Authorization": f"Bearer {simulator.api_key}"}
            body = {"fileUrl": url, "uploadPath": "in"} | fields
            target = simulator.base_url + UPLOAD
            async with session.post(target, json=body, headers=headers) as answer:
                result = await answer.json(content_type=None)
            if not result["success"]:
                return result, None
            async with session.get(result["data"]["downloadUrl"]) as answer:
                return result, await answer.read()

        upload_url.simulator, upload_url.session = simulator, session
        yield upload_url


@pytest.mark.parametrize(
    ("path", "fields", "name"),
    [
        ("/kitten.png", {}, "kitten.png"),
        ("/pictures/a%20b.png?size=1", {}, "a b.png"),
        ("/kitten.png", {"fileName": "own.png"}, "own.png"),
        ("/redirect/5", {}, "5"),
    ],
)
async def test_a_file_is_fetched_from_its_url(upload, other_host, path, fields, name):
    """Redirects are followed; the name is the URL's last part unless another is given."""
    result, data = await upload(other_host.url + path, **fields)

    assert (result["code"], result["data"]["fileName"]) == (200, name)
    assert data == PNG
    assert "Authorization" not in other_host.headers


async def test_a_result_can_be_uploaded_again(upload):
    """It is on the simulator's own file host."""
    simulator = upload.simulator
    headers = {"Authorization": f"Bearer {simulator.api_key}"}
    given = {"shots": [{"Scene": "Rain.", "duration": 5}]}
    async with upload.session.post(
        simulator.base_url + "/api/v1/jobs/createTask",
        json={"model": "sora-2-pro-storyboard", "input": given},
        headers=headers,
    ) as answer:
        task_id = (await answer.json())["data"]["taskId"]

    result, data = await upload(simulator.result_urls(task_id)[0])

    assert data == await simulator.film(task_id)
    assert result["data"]["mimeType"] == "video/mp4"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/gone.png", "answers 404"),
        ("/redirect/7", "redirects"),
        ("/forbidden", "not allowed"),
        ("/endless.png", f"{MAX_FILE_SIZE >> 20} MB"),
    ],
)
async def test_what_cannot_be_fetched_is_refused(upload, other_host, path, reason):
    """With code 400 and the reason."""
    result, _ = await upload(other_host.url + path)

    assert (result["success"], result["code"], result["data"]) == (False, 400, None)
    assert reason in result["msg"]


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
async def test_the_simulator_fetches_from_allowed_hosts_only(upload, url, reason):
    """Anything else is refused without a request (D10)."""
    result, _ = await upload(url)

    assert (result["success"], result["code"]) == (False, 400)
    assert reason in result["msg"]


@pytest.mark.virtual
async def test_a_fetch_may_take_thirty_seconds(upload, other_host):
    """Then the upload is refused."""
    begin = asyncio.get_running_loop().time()

    result, _ = await upload(other_host.url + "/slow.png")

    assert "30 seconds" in result["msg"]
    assert asyncio.get_running_loop().time() - begin == pytest.approx(30, abs=1)


async def test_faults_strike_uploads_by_url_too(upload, other_host):
    """Refused before the file is fetched, or with an unusable response after it."""
    upload.simulator.script("upload", [Fault.code(500), Fault.NO_UPLOAD_URL, Fault.UPLOAD_REFUSED])
    url = upload.simulator.base_url + UPLOAD
    headers = {"Authorization": f"Bearer {upload.simulator.api_key}"}
    answers = []
    for _ in range(3):
        body = {"fileUrl": other_host.url + "/kitten.png", "uploadPath": "in"}
        async with upload.session.post(url, json=body, headers=headers) as answer:
            answers.append(await answer.json(content_type=None))

    assert answers[0]["code"] == 500
    assert "downloadUrl" not in answers[1]["data"]
    assert answers[2]["success"] is False
    assert len(other_host.requested) == 2


# -- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "suffix"), [("iVBORw0KGgo=", ".bin"), ("data:image/png;base64,iVBORw0KGgo=", ".png")]
)
async def test_a_file_without_a_name_gets_a_new_one(upload, data, suffix):
    """No two are the same, so that none replaces another."""
    url = upload.simulator.base_url + UPLOAD.replace("url-upload", "base64-upload")
    headers = {"Authorization": f"Bearer {upload.simulator.api_key}"}
    names = set()
    for _ in range(2):
        body = {"base64Data": data, "uploadPath": "in"}
        async with upload.session.post(url, json=body, headers=headers) as answer:
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
async def test_an_invalid_name_is_refused(upload, other_host, field, value):
    """A path, a control character, half of a character (D16)."""
    result, _ = await upload(other_host.url + "/kitten.png", **{field: value})

    assert (result["success"], result["code"]) == (False, 400)
    assert field in result["msg"]

"""What the fuzzing has found, one test for each: none of it may come back."""

from __future__ import annotations

import traceback
import tracemalloc
from pathlib import Path
from types import MappingProxyType

import pytest

from apikley_async import Client, DownloadError, Result, StoryboardError
from apikley_async._download.fetch import check_link
from apikley_async._download.names import safe_name, target_paths
from apikley_async._urls import AddressPolicy
from apikley_async.batch import check_manifest
from apikley_async.batch.keys import key_faults
from apikley_async.batch.manifest.reader import read_manifest
from apikley_async.cli.callback_server import read_hmac_keys
from apikley_async.cli.exit_codes import RefusedError
from apikley_async.errors import AuthenticationError
from apikley_async.simulator.service.request_rules import TaskRequest, parse_task_request
from apikley_async.webhook import Callback

HOME = "https://api.example.com"
RESULT = Result("task_1", ("https://cdn.test/1.mp4",), raw=MappingProxyType({}))

# --- manifests -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        *("a" + ".a" * 30_000 + " = 1", "[a" + ".a" * 30_000 + "]"),
        "x = {a" + ".a" * 30_000 + " = 1}",
        *("a" + ' . "b.c"' * 30_000 + " = 1", "a" + ".'b'" * 40 + " = 1"),
    ],
    ids=["name", "table", "inline", "quoted", "short"],
)  # fmt: skip
@pytest.mark.timeout(10)
def test_a_name_of_thousands_of_parts_is_not_read(tmp_path: Path, text: str) -> None:
    """It took TOML's reader 17 seconds and 4 GB for 64 KB (M2)."""
    path = tmp_path / "a.toml"
    path.write_text(text)

    assert check_manifest(path) == ["a.toml: at most 32 levels deep"]


@pytest.mark.parametrize("quotes", ['"', "'", '"""', "'''"])
def test_dots_in_a_text_are_no_name(tmp_path: Path, quotes: str) -> None:
    """However many, in a scene of any spelling or in a comment; 32 parts of a name are fine."""
    dots = "a.b" * 50
    scene = f"scene = {quotes}{dots}{quotes}, duration = 5"
    path = tmp_path / "a.toml"
    deep = ".".join("abcdefghijklmnopqrstuvwxyzabc")
    path.write_text(
        f"# it's {dots}\n[[films]]\nshots = [{{{scene}}}]\n"
        f'[[films]]\ntask.model = "m"\ntask.input.{deep} = 1 # "{dots}'
    )

    assert check_manifest(path) == []


def test_a_hundred_takes_share_what_they_have_in_common(tmp_path: Path) -> None:
    """A film of half a megabyte took a hundred times its size, and as long (M2)."""
    path = tmp_path / "a.jsonl"
    scene = "x" * 500_000
    path.write_text(f'{{"takes": 100, "shots": [{{"scene": "{scene}", "duration": 5}}]}}')

    tracemalloc.start()
    try:
        entries = [*read_manifest(path)]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert len({entry.digest for entry in entries}) == len({entry.key for entry in entries}) == 100
    assert peak < 20 * len(scene)


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("filler", ["\u115f", "\u1160", "\u3164", "\uffa0"])
def test_a_key_holds_no_letter_that_is_not_seen(filler: str) -> None:
    """Some disks take such a key for the same without it (D16, M12)."""
    assert [*key_faults(f"kitten{filler}")] != []
    assert [*key_faults(filler)] != []


@pytest.mark.parametrize("key", ["COM1 .x", "con  ..film", "lpt9   .mp4"])
def test_a_device_is_one_whatever_blanks_stand_behind_it(key: str) -> None:
    """Where there are devices, blanks before a dot do not count (D16)."""
    assert [*key_faults(key)] != []


def test_an_id_that_is_empty_names_a_film_all_the_same() -> None:
    """And not a hidden one (D16)."""
    assert safe_name("").startswith("film-")


@pytest.mark.parametrize("name", ["x" * 300 + ".mp4", "子" * 100 + ".webm"])
def test_a_name_that_no_disk_has_is_told_when_it_is_written(tmp_path: Path, name: str) -> None:
    """By an error of ours, not one of the system (D16)."""
    assert target_paths(RESULT, tmp_path / name) == [tmp_path / name]


@pytest.mark.parametrize("name", ["x" * 300 + ".mp4", "\ud800.mp4", "a\0.mp4", "\ud800/a.mp4"])
async def test_what_cannot_be_a_path_is_refused(tmp_path: Path, name: str) -> None:
    """`save` raises what it says it raises (D16)."""
    async with Client("key-of-the-tests", base_url="http://127.0.0.1:9") as client:
        with pytest.raises(DownloadError, match=r"written|not a path"):
            await client.save(RESULT, tmp_path / name)


# --- URLs ----------------------------------------------------------------------------------------

DISGUISED = [
    *("１２７.０.０.１", "①②⑦.0.0.1", "127。0。0。1", "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ", "ℓocalhost"),
    *("１０.0.0.1", "１６９.254｡169.254", "%31%32%37.0.0.1", "127%2e0%2e0%2e1"),
    "loc%61lhost",
]


@pytest.mark.parametrize("host", DISGUISED)
def test_a_host_is_judged_as_it_is_asked_for(host: str) -> None:
    """A link in other letters leads no proxy inward either (D10)."""
    with pytest.raises(DownloadError, match=r"private network|a valid URL"):
        check_link(f"https://{host}/1.mp4", AddressPolicy())


@pytest.mark.parametrize(
    "host",
    [
        *("10.0.0.1", "192.168.1", "169.254.169.254", "[fd00::1]", "[::ffff:10.0.0.1]", "127.1"),
        *("2130706433", "localhost.", "LOCALHOST", *DISGUISED),
    ],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_an_image_that_the_service_cannot_fetch_is_not_paid_for(
    host: str, scheme: str
) -> None:
    """Addresses of this network are refused before anything is sent (U8)."""
    async with Client("key-of-the-tests", base_url=HOME) as client:
        with pytest.raises(StoryboardError, match=r"^image: a (URL the service|valid URL)"):
            await client.upload(f"{scheme}://{host}/a.png")


@pytest.mark.parametrize(
    "url", ["https://user:canary@a\u2100b/", "https://user:canary/", "https://[canary@h/"]
)
def test_a_link_that_is_none_is_not_repeated(url: str) -> None:
    """Python's own words hold the password (S11)."""
    with pytest.raises(DownloadError) as caught:
        check_link(url, AddressPolicy())

    assert "canary" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "address",
    [
        *("https://a\\b", "http://evil.test\\.localhost", "http://evil.test%2f.localhost"),
        *("https://a b.test", "https://a\x1b[2Jb.test", "https://a\u202eb.test", "https://0[::1]"),
        *("https://h.test:0", "https://[]@", "https://h%2etest"),
    ],
)
def test_an_address_that_nobody_can_ask_is_refused_at_once(address: str) -> None:
    """It was taken, and its first request ended with an error that is not ours (S9)."""
    with pytest.raises(ValueError, match=r"^base_url: "):
        Client("key-of-the-tests", base_url=address)


def test_blanks_around_an_address_do_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    """As around a key: a line break at the end is soon there (S8)."""
    monkeypatch.setenv("APIKLEY_BASE_URL", f" {HOME}\r\n")

    assert repr(Client("key-of-the-tests")).startswith("<Client api.example.com ")


@pytest.mark.parametrize("url", ["https://a\\b/x", "https://0[::1]/x"])
def test_a_callback_address_that_nobody_can_ask_is_refused(url: str) -> None:
    """Before the first film counts on it (W13)."""
    with pytest.raises(ValueError, match="a valid URL"):
        Callback(url)


# --- keys ----------------------------------------------------------------------------------------


@pytest.mark.timeout(5)
def test_a_key_of_a_whole_novel_is_refused_at_once() -> None:
    """It took ten seconds to learn how to blot it out (S8)."""
    with pytest.raises(AuthenticationError, match="at most 2000 characters, not 131000"):
        Client("x" * 131_000, base_url=HOME)


def test_a_file_of_keys_that_is_no_text_hangs_on_no_error(tmp_path: Path) -> None:
    """Python's error holds the whole file (S12)."""
    path = tmp_path / "keys"
    path.write_bytes(b"canary\xff")
    path.chmod(0o600)

    with pytest.raises(RefusedError, match="it is no text") as caught:
        read_hmac_keys(path)

    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("url", "keys"), [("ftp://x", ()), (HOME, ["a\nb"]), (HOME, "abc"), (HOME, [""])]
)
def test_a_callback_that_was_refused_can_be_printed(url: str, keys: list[str]) -> None:
    """By a traceback that shows locals (S4)."""
    with pytest.raises(ValueError, match=r"public_url|hmac_keys") as caught:
        Callback(url, hmac_keys=keys)

    reported = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    assert "<Callback refused>" in "".join(reported.format())


# --- the simulator -------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["[]", "{}", "[[]]", "null", "1"])
def test_a_task_may_say_anything_about_its_shape(value: str) -> None:
    """The simulated service answered with a broken 500 (A4)."""
    raw = f'{{"model": "m", "input": {{"aspect_ratio": {value}}}}}'.encode()

    assert isinstance(parse_task_request(raw, models="*"), TaskRequest)

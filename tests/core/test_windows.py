"""Windows, imitated: without `fcntl` and what else it lacks. Never run there.

The modules, flags and calls that only POSIX has are hidden in a process before the package is
imported there. One such process has the locks of Windows and one has none; each runs the programs
of all tests, one after the other. A file that is open can be neither renamed nor removed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

import apikley_async

ROOT = str(Path(apikley_async.__file__).parent.parent)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the imitation knows Linux only")

IMITATION = '''
import asyncio, errno, fcntl, getpass, os, pathlib, signal, sqlite3, sys, tempfile, threading, types
import aiohttp.web, attrs, cattrs

HIDDEN = {"fcntl", "termios", "pwd", "grp", "resource", "pty", "tty"}


class Hide:
    def find_spec(self, name, path=None, target=None):
        if name in HIDDEN:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


flock, LOCK = fcntl.flock, fcntl.LOCK_EX | fcntl.LOCK_NB
for name in HIDDEN:
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Hide())
flags = "O_CLOEXEC O_DIRECTORY O_NOCTTY O_NOFOLLOW O_NONBLOCK"
for name in f"{flags} fchmod fchown fork geteuid getuid mkfifo pread pwrite".split():
    delattr(os, name)
for name in ("SIGHUP", "SIGUSR1", "SIGALRM"):
    delattr(signal, name)
for name in ("add_signal_handler", "remove_signal_handler"):
    delattr(asyncio.SelectorEventLoop, name)


def refusing(act):
    """What is open has to keep its name."""
    def call(path, *rest, **options):
        for handle in os.listdir("/proc/self/fd"):
            try:
                open_now = os.readlink(f"/proc/self/fd/{handle}") == os.path.realpath(path)
            except OSError:
                continue
            if open_now:
                raise PermissionError(errno.EACCES, "it is open", path)
        return act(path, *rest, **options)
    return call


for name in ("unlink", "remove", "rename", "replace"):
    setattr(os, name, refusing(getattr(os, name)))


def locking(handle, mode, count):
    """Keeps others from reading too, as the real one does, so never where something stands."""
    assert (mode, count) == (2, 1) and os.lseek(handle, 0, os.SEEK_CUR) > os.fstat(handle).st_size
    try:
        flock(handle, LOCK)
    except BlockingIOError:
        raise PermissionError(errno.EACCES, "it is locked") from None
'''
MSVCRT = """
sys.modules["msvcrt"] = types.SimpleNamespace(LK_NBLCK=2, locking=locking)
"""
FILMS = """
from pathlib import Path
from apikley_async import Backoff, Client, JournalError, Shot, Storyboard
from apikley_async.batch import Batch
from apikley_async.simulator import Constant, Simulator, Terms
from apikley_async.webhook import Inbox

TEA = Storyboard([Shot("Tea.", duration=10)], duration=10)


def world():
    return Simulator(Terms(duration=Constant(0.01)))


def client_of(service):
    return Client(service.api_key, base_url=service.base_url, polling=Backoff(initial=0.05))
"""
SAVED = """
async def main():
    async with world() as service, client_of(service) as client:
        result = await (await client.submit(TEA))
        (path,) = await client.save(result, "films")
        film = path.read_bytes()
        path.write_bytes(b"another")
        await client.save(result, "films", overwrite=True)
        assert path.read_bytes() == film and film[4:8] == b"ftyp"

asyncio.run(main())
print(*os.listdir("films"))
"""
REFUSED = """
async def main():
    async with world() as service, client_of(service) as client:
        result = await (await client.submit(TEA))
        (path,) = await client.save(result, "films")
        path.write_bytes(b"another")
        try:
            await client.save(result, "films")
        except Exception as error:
            print(type(error).__name__)
        print(path.read_text(), len(os.listdir("films")))

asyncio.run(main())
"""
SWEPT = """
async def main():
    async with world() as service, client_of(service) as client:
        await client.save(await (await client.submit(TEA)), "films")

asyncio.run(main())
"""
OWNED = """
async def main():
    async with world() as service, client_of(service) as client, Batch.open("a.db") as batch:
        try:
            async with Batch.open("a.db"):
                pass
        except JournalError as error:
            print(f"in use by process {os.getpid()}" in str(error))
        await batch.add([("tea", TEA)])
        async for item in batch.run(client, folder="films"):
            print(item.state)

asyncio.run(main())
"""
UNLOCKED = """
async def main():
    try:
        async with Batch.open("a.db"):
            pass
    except JournalError as error:
        print(error)

asyncio.run(main())
"""
KEPT = """
async def main():
    async with Inbox("inbox.db") as inbox, Inbox("inbox.db") as other:
        await inbox.add("token", "task_1")
        received, _ = await other.read_after(None)
        print(*[each.task_id for each in received])

asyncio.run(main())
"""
ENDED = """
from apikley_async.cli import main

class Out:
    def __init__(self, real):
        self.real = real
    def __getattr__(self, name):
        return getattr(self.real, name)
    def write(self, text):
        if "APIKLEY_API_KEY" in text:
            os.kill(os.getpid(), signal.SIGINT)
        return self.real.write(text)

sys.stdout = Out(sys.stdout)
code = main(["simulate", "--port", "0", "--films", "placeholder"])
sys.stdout = sys.stdout.real
print(code)
"""

# Runs each program in a folder of its own, with what it prints, or how it fails, in a file there.
PROGRAMS = """
import json, traceback

for name, program in json.loads(sys.stdin.read()).items():
    os.chdir(name)
    with open("printed.txt", "w") as sys.stdout:
        try:
            exec(compile(program, name, "exec"), {**globals()})
        except BaseException:
            traceback.print_exc(file=sys.stdout)
    sys.stdout = sys.__stdout__
    os.chdir("..")
"""


@attrs.frozen
class Imitation:
    """The folders of the programs, and what each of them has printed."""

    folder: Path
    printed: dict[str, str]


def imitation(folder: Path, programs: dict[str, str], *, msvcrt: bool) -> Imitation:
    """Run programs in one process, where no user has a name."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("APIKLEY_")}
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        env.pop(name, None)
    env |= dict.fromkeys(("XDG_STATE_HOME", "XDG_CONFIG_HOME"), str(folder))
    for name in programs:
        folder.joinpath(name).mkdir(exist_ok=True)
    ran = subprocess.run(
        [sys.executable, "-c", IMITATION + (MSVCRT if msvcrt else "") + FILMS + PROGRAMS],
        input=json.dumps(programs),
        env={**env, "PYTHONPATH": ROOT},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    printed = {name: folder.joinpath(name, "printed.txt").read_text() for name in programs}
    return Imitation(folder, printed)


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> Imitation:
    """A process with the locks of Windows."""
    folder = tmp_path_factory.mktemp("windows")
    left = folder / "swept" / "films" / ".task_0-1.apikley.part"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"x")
    os.utime(left, (0, 0))
    programs = {"saved": SAVED, "refused": REFUSED, "swept": SWEPT, "owned": OWNED}
    return imitation(folder, programs | {"kept": KEPT, "ended": ENDED}, msvcrt=True)


@pytest.fixture(scope="module")
def unlocked(tmp_path_factory: pytest.TempPathFactory) -> Imitation:
    """A process without any locks."""
    programs = {"saved": SAVED, "unlocked": UNLOCKED}
    return imitation(tmp_path_factory.mktemp("unlocked"), programs, msvcrt=False)


@pytest.mark.slow
def test_films_are_saved(windows: Imitation, unlocked: Imitation) -> None:
    """Under their names, whole, also over a file that stands there; without locks as well."""
    for ran in (windows, unlocked):
        names = ran.printed["saved"].split()

        assert "Traceback" not in names, ran.printed["saved"]
        assert [name for name in names if name.endswith(".mp4")], names
        assert len(names) == 1 or ran is unlocked


@pytest.mark.slow
def test_a_film_that_is_refused_its_name_leaves_nothing(windows: Imitation) -> None:
    """Another file of that name is not replaced unasked, and no part remains."""
    assert windows.printed["refused"].split() == ["DownloadError", "another", "1"]


def test_a_part_that_nobody_comes_back_for_is_swept(windows: Imitation) -> None:
    """After a week, as elsewhere."""
    films = [*windows.folder.joinpath("swept", "films").iterdir()]

    assert windows.printed["swept"] == ""
    assert [film.suffix for film in films] == [".mp4"]


def test_a_journal_has_one_owner(windows: Imitation) -> None:
    """The batch runs to its end, and a second process learns who has the journal."""
    assert windows.printed["owned"].split() == ["True", "done"]
    assert windows.folder.joinpath("owned", "films", "tea.mp4").exists()


@pytest.mark.slow
def test_without_any_lock_the_journal_says_so(unlocked: Imitation) -> None:
    """One sentence, and nothing is made."""
    out = unlocked.printed["unlocked"]

    assert "a.db cannot be locked (this Python has neither fcntl nor msvcrt)" in out
    assert out.count("\n") == 1
    assert not unlocked.folder.joinpath("unlocked", "a.db").exists()


def test_an_inbox_keeps_callbacks(windows: Imitation) -> None:
    """It is a file like the journal, shared by many."""
    assert windows.printed["kept"].split() == ["task_1"]


def test_the_command_ends_at_ctrl_c(windows: Imitation) -> None:
    """Where the loop knows no signals, Python's own handler tells it."""
    assert windows.printed["ended"].split()[-1] == "0"

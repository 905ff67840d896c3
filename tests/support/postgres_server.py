"""A real PostgreSQL server of the tests' own: on a socket in a folder of its own, never as root.

It listens on no network, trusts whoever can reach its socket, and syncs nothing to the disk unless
it is asked to. It needs the server's commands (Debian: `apt install postgresql`).

    with PostgresServer.temporary() as server:
        dsn = server.create_database()
        ...
        server.restart()                     # connections break, what was committed is there
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

__all__ = ["USER", "PostgresServer", "commands_folder", "missing"]

USER = "apikley"
PORT = 5432  # only the name of the socket
USERS = ("postgres", "nobody")  # whom root starts the server as
FASTER = {  # what is lost when the machine itself fails is lost
    "fsync": "off",
    "full_page_writes": "off",
}
SMALL = {
    "listen_addresses": "",
    "max_connections": "60",
    "shared_buffers": "16MB",
    "log_min_messages": "fatal",
    "autovacuum_naptime": "1d",
}
numbers = itertools.count(1)


def commands_folder() -> Path | None:
    """Where initdb and postgres are; the newest version where there are several."""
    found = shutil.which("postgres")
    if found and shutil.which("initdb"):
        return Path(found).resolve().parent
    folders = Path("/usr/lib/postgresql").glob("*/bin/postgres")
    known = sorted(folders, key=lambda path: int(path.parts[-3].partition(".")[0]))
    return known[-1].parent if known else None


def missing() -> str | None:
    """Say why no server can be started here; None where it can."""
    if commands_folder() is None:
        return "there is no PostgreSQL server on this machine (Debian: apt install postgresql)"
    if os.geteuid() == 0 and owner() is None:
        return "PostgreSQL does not run as root, and there is no other user to start it as"
    return None


def owner() -> pwd.struct_passwd | None:
    """The user that root starts the server as; None where this process is not root."""
    for name in USERS if os.geteuid() == 0 else ():
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    return None


class PostgresServer:
    """A cluster in *folder*, started and stopped at will.

    Args:
        folder: an empty one; the path of its socket must be short.
        settings: of the server, besides those for a small one.
    """

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        self.folder = folder
        self._settings = {**SMALL, **settings, "unix_socket_directories": str(folder)}
        self._process: subprocess.Popen[bytes] | None = None
        found = commands_folder()
        if found is None:
            raise FileNotFoundError(missing())
        self._commands = found

    @classmethod
    @contextlib.contextmanager
    def temporary(cls, settings: Mapping[str, str] = FASTER) -> Iterator[Self]:
        """Make a cluster, start it, and remove it at the end."""
        memory = Path("/dev/shm")
        place = str(memory) if os.access(memory, os.W_OK) and settings is FASTER else None
        with tempfile.TemporaryDirectory(prefix="apg-", dir=place) as name:
            server = cls(Path(name), settings)
            server.make()
            server.start()
            try:
                yield server
            finally:
                server.stop()

    def make(self) -> None:
        """Make the cluster."""
        if (user := owner()) is not None:
            os.chown(self.folder, user.pw_uid, user.pw_gid)
        words = ("--username", USER, "--auth", "trust", "--no-sync", "--no-instructions")
        self._run("initdb", "-D", str(self.folder / "data"), "-E", "UTF8", "--locale", "C", *words)

    @contextlib.contextmanager
    def silent(self, dsn: str) -> Iterator[None]:
        """Let what serves the connections of a database stand still, as on a stalled disk."""
        query = (
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
            " AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        served = self.execute(query, dsn.partition("@/")[2].partition("?")[0])
        standing = [int(pid) for pid in served.split()]
        for pid in standing:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in standing:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def start(self) -> None:
        """Start the server, and wait until it takes connections."""
        settings = itertools.chain.from_iterable(
            ("-c", f"{name}={value}") for name, value in self._settings.items()
        )
        self._process = subprocess.Popen(
            [self._commands / "postgres", "-D", str(self.folder / "data"), *settings],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **self._as_owner(),
        )
        self._run("pg_isready", "-q", "-h", str(self.folder), "-d", "postgres", attempts=400)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop the server: SIGINT breaks connections off, SIGQUIT is a crash."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait()
            self._process = None

    def restart(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop the server and start it again."""
        self.stop(how)
        self.start()

    def create_database(self, like: str = "template0") -> str:
        """Make a database, empty or *like* another one, and give its DSN."""
        name = f"test{next(numbers)}"
        # Files are copied twice as fast as their pages; older servers do so anyway.
        version = int((self.folder / "data" / "PG_VERSION").read_text(encoding="ascii"))
        how = " STRATEGY file_copy" if version >= 15 else ""
        self.execute(f"CREATE DATABASE {name} TEMPLATE {like}{how}")
        return self.dsn(name)

    def dsn(self, database: str) -> str:
        """The DSN of a database, by the server's socket."""
        return f"postgresql://{USER}@/{database}?host={self.folder}&port={PORT}"

    def execute(self, statement: str, database: str = "postgres") -> str:
        """Run a statement, and give the first value of its answer as text."""
        import psycopg

        with psycopg.connect(self.dsn(database), autocommit=True) as connection:
            cursor = connection.execute(statement)
            row = cursor.fetchone() if cursor.description else None
        return "" if row is None else str(row[0])

    def _run(self, command: str, *words: str, attempts: int = 1) -> str:
        for number in range(1, attempts + 1):
            done = subprocess.run(
                [self._commands / command, *words],
                capture_output=True,
                text=True,
                check=False,
                **self._as_owner(),
            )
            if done.returncode == 0:
                return done.stdout
            if number < attempts and self._process is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(0.05)  # returns at once when it has died
                    break
        raise RuntimeError(f"{command}: {done.stderr.strip() or done.stdout.strip()}")

    def _as_owner(self) -> dict[str, Any]:
        user = owner()
        if user is None:
            return {"cwd": self.folder}
        return {"cwd": self.folder, "user": user.pw_uid, "group": user.pw_gid, "extra_groups": ()}

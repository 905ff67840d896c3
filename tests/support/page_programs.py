"""The programs of a page of the documentation, run in processes of their own beside a simulator."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

from forked_process import ForkedProcess, python
from pages import blocks_of

from apikley_async.simulator import Simulator
from apikley_async.webhook import token_secret

__all__ = ["UVICORN", "ProgramRunner"]

UVICORN = ("-m", "uvicorn", "--no-access-log", "--log-level", "error", "--port")


class ProgramRunner:
    """The programs of *page* in *folder*, with an address that the *simulator* can call.

    Attributes:
        port: where they listen.
    """

    def __init__(self, page: Path, simulator: Simulator, folder: Path) -> None:
        self.simulator, self.folder = simulator, folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        for block in blocks_of(page.read_text("utf-8")):
            if block.what == "file":
                address = f"http://127.0.0.1:{self.port}"
                body = block.body.replace("https://hooks.example.com", address)
                (folder / block.value).write_text(body.replace("8787", str(self.port)), "utf-8")

    @property
    def url(self) -> str:
        """The address of a server."""
        return f"http://127.0.0.1:{self.port}"

    async def run(self, *words: str) -> str:
        """Run a program to its end; returns what it prints."""
        with contextlib.closing(self._start(*words)) as process:
            output, errors = await asyncio.to_thread(process.communicate, 50)
            assert process.returncode == 0, errors
        return output

    @contextlib.asynccontextmanager
    async def running(self, *words: str) -> AsyncIterator[ForkedProcess]:
        """Run a server for as long as the `async with` lasts."""
        process = self._start(*words)
        with contextlib.closing(process):
            async with asyncio.timeout(30):
                while True:
                    assert process.poll() is None
                    with contextlib.suppress(OSError):
                        _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                        break
                    await asyncio.sleep(0.05)
            writer.close()
            yield process
            if process.poll() is None:
                process.terminate()
                await asyncio.to_thread(process.wait)

    def _start(self, *words: str) -> ForkedProcess:
        settings = {
            "APIKLEY_API_KEY": self.simulator.api_key,
            "APIKLEY_BASE_URL": self.simulator.base_url,
            "APIKLEY_WEBHOOK_TOKEN_SECRET": token_secret(self.simulator.api_key),
        }
        return ForkedProcess(python, *words, cwd=self.folder, env=os.environ | settings)

"""Every example of README.md and docs/ runs, against a simulator of its own.

The conventions, for whoever writes a page:

- The ```python blocks of a page run from top to bottom, in one namespace and one empty folder.
  `await` may stand at the top level; a block without one may call `asyncio.run()`.
- APIKLEY_API_KEY and APIKLEY_BASE_URL point at a simulator, and `kitten.png` is in the folder.
- `<!-- file: name -->` above a block of any language writes the block into the folder.
- `<!-- not run: reason -->` above a ```python block: it has to compile, and that is all.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import struct
import textwrap
import threading
import types
import zlib
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [page for page in [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))] if page.exists()]

FENCE = re.compile(
    r"^(?P<indent> *)(?P<fence>`{3,})(?P<language>[\w{}-]*)[^\n`]*\n"
    r"(?P<body>.*?)^(?P=indent)(?P=fence) *$",
    re.MULTILINE | re.DOTALL,
)
NOTE = re.compile(r"<!-- (?P<what>file|not run): (?P<value>[^\n]+?) -->\s*\Z")


class Block(NamedTuple):
    """A fenced block of a page: where it stands, and what the note above it says."""

    line: int
    language: str
    body: str
    what: str = ""
    value: str = ""


def blocks_of(text: str) -> Iterator[Block]:
    """Find the fenced blocks of a page, in their order."""
    for match in FENCE.finditer(text):
        note = NOTE.search(text, 0, match.start())
        yield Block(
            line=text.count("\n", 0, match.start("body")) + 1,
            language=match["language"],
            body=textwrap.dedent(match["body"]),
            what=note["what"] if note else "",
            value=note["value"] if note else "",
        )


def run_page(page: Path, text: str, folder: Path) -> list[str]:
    """Run the blocks of a page in *folder*; say what was done with each."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    done = []
    with asyncio.Runner() as runner:
        for block in blocks_of(text):
            if block.what == "file":
                (folder / block.value).write_text(block.body, encoding="utf-8")
                done.append(f"wrote {block.value}")
            if block.language != "python":
                continue
            code = compile(
                "\n" * (block.line - 1) + block.body,  # so that a traceback names the page's line
                str(page),
                "exec",
                flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
                dont_inherit=True,
            )
            if block.what == "not run":
                done.append(f"compiled line {block.line}")
                continue
            outcome = types.FunctionType(code, namespace)()
            if code.co_flags & inspect.CO_COROUTINE:
                runner.run(outcome)
            done.append(f"ran line {block.line}")
    return done


@contextmanager
def simulator_in_a_thread() -> Iterator[tuple[str, str]]:
    """Serve a simulator from a thread with a loop of its own; give its address and a key."""
    from apikley_async.simulator import Simulator

    opened: Future[tuple[str, str, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve() -> None:
        end = asyncio.Event()
        async with Simulator(speed=100) as simulator:
            loop = asyncio.get_running_loop()
            opened.set_result((simulator.base_url, simulator.api_key, loop, end))
            await end.wait()

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            if opened.done():
                raise
            opened.set_exception(error)

    thread = threading.Thread(target=run, name="simulator")
    thread.start()
    try:
        address, key, loop, end = opened.result(timeout=30)
        try:
            yield address, key
        finally:
            loop.call_soon_threadsafe(end.set)
    finally:
        thread.join(timeout=30)


def tiny_png() -> bytes:
    """Draw a small orange picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    side = 64
    rows = (b"\0" + b"\xff\x99\x33" * side) * side
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_examples_of_a_page_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a reader copies from the page does what the page says."""
    text = page.read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kitten.png").write_bytes(tiny_png())

    if not any(block.language == "python" and block.what != "not run" for block in blocks_of(text)):
        run_page(page, text, tmp_path)
        return
    with simulator_in_a_thread() as (address, key):
        monkeypatch.setenv("APIKLEY_BASE_URL", address)
        monkeypatch.setenv("APIKLEY_API_KEY", key)
        run_page(page, text, tmp_path)


def test_the_conventions_hold(tmp_path: Path) -> None:
    """Blocks share a namespace, may await, may be files, and may be compiled only."""
    page = """
<!-- file: note.txt -->
```text
hello
```

1. In a list:

   ```python
   import asyncio, pathlib
   await asyncio.sleep(0)
   seen = [pathlib.Path(folder, "note.txt").read_text()]
   ```

<!-- not run: it would never end -->
```python
while True:
    await asyncio.sleep(1)
```

```python
async def main():
    seen.append("ran outside of a loop")

asyncio.run(main())
assert seen == ["hello\\n", "ran outside of a loop"]
```
""".replace("folder", repr(str(tmp_path)))

    done = run_page(Path("page.md"), page, tmp_path)

    assert done == ["wrote note.txt", "ran line 10", "compiled line 17", "ran line 22"]


def test_a_failure_names_the_line_of_the_page(tmp_path: Path) -> None:
    """Whoever broke an example finds it at once."""
    with pytest.raises(ZeroDivisionError) as caught:
        run_page(Path("page.md"), "# Title\n\n```python\nx = 0\n1 / x\n```\n", tmp_path)

    last = caught.traceback[-1]
    assert (Path(last.path).name, last.lineno + 1) == ("page.md", 5)

"""Every example of README.md and docs/ runs, against a simulator of its own.

The conventions, for whoever writes a page:

- The ```python blocks of a page run from top to bottom, in one namespace and one empty folder.
  `await` may stand at the top level. All of a page runs in one event loop, so an `asyncio.run()`
  outside of functions is awaited.
- APIKLEY_API_KEY and APIKLEY_BASE_URL point at a simulator. It is in the same loop, whose time is
  virtual: waiting costs nothing.
- `kitten.png` is in the folder of a page in docs/. README.md has an empty one.
- `<!-- file: name -->` above a block of any language writes the block into the folder, and does
  not run it; later blocks may import it. Files `test_*.py` are run by `tests/plugin`.
- `<!-- output -->` above a block: what the Python block before it prints; `...` is any text.
- `<!-- not run: reason -->` above a ```python block: it is compiled and type-checked, not run.
- `nox -s typing` type-checks all Python blocks (`tests/support/page_types.py`), so functions in
  them are annotated.
- `<!-- real time: reason -->` anywhere in a page: the loop is a plain one, and the simulator is in
  a thread beside it, a hundred times as fast as the service. For threads, processes and signals.
"""

from __future__ import annotations

import asyncio
import random
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from pages import PAGES, ROOT, RUSSIAN, blocks_of, run_page

from apikley_async.simulator import Simulator
from apikley_async.testing import LoopClock
from apikley_async.virtual import VirtualLoop

Run: TypeAlias = Callable[[Any], object]


@contextmanager
def simulator_in_the_loop() -> Iterator[tuple[str, str, Run]]:
    """Serve a simulator in a loop with virtual time; give its address, a key, and that loop."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        simulator = Simulator(clock=LoopClock(), rng=random.Random(0))
        runner.run(simulator.start())
        try:
            yield simulator.base_url, simulator.api_key, runner.run
        finally:
            runner.run(simulator.aclose())


@contextmanager
def simulator_in_a_thread() -> Iterator[tuple[str, str, Run]]:
    """Serve a simulator from a thread; give a plain loop beside it."""
    with Simulator(speed=100) as simulator, asyncio.Runner() as runner:
        yield simulator.base_url, simulator.api_key, runner.run


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
    if page.parent != ROOT:
        (tmp_path / "kitten.png").write_bytes(tiny_png())

    real = "<!-- real time: " in text
    with simulator_in_a_thread() if real else simulator_in_the_loop() as (address, key, run):
        monkeypatch.setenv("APIKLEY_BASE_URL", address)
        monkeypatch.setenv("APIKLEY_API_KEY", key)
        done = run_page(page, text, tmp_path, run)

    assert len(done) >= sum(block.language == "python" for block in blocks_of(text))


def test_no_code_of_a_page_is_wider_than_80_columns() -> None:
    """A page is read at 1280 pixels, where wider lines would have to be scrolled."""
    wide = [
        f"{page.relative_to(ROOT).as_posix()}:{block.line + number}: {len(line)}"
        for page in [*PAGES, RUSSIAN]
        for block in blocks_of(page.read_text(encoding="utf-8"))
        if not block.language.startswith("{")
        for number, line in enumerate(block.body.splitlines())
        if len(line) > 80
    ]

    assert wide == []


def test_a_reader_sees_what_a_file_is_called() -> None:
    """The note above its block is a comment, which no reader sees: a sentence before it says so."""
    unnamed = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for note in re.finditer(r"<!-- file: (\S+) -->", text):
            _, _, prose = text[: note.start()].rpartition("```")
            if f"`{note[1]}`" not in prose:
                unnamed.append(f"{page.relative_to(ROOT).as_posix()}: {note[1]}")

    assert unnamed == []


CONVENTIONS = """
<!-- file: note.txt -->
```text
hello
```

<!-- file: helper.py -->
```python
seen = []
1 / len(seen)  if __name__ == "__main__" else 0
```

1. In a list:

   ```python
   import asyncio, pathlib
   await asyncio.sleep(0)
   from helper import seen
   seen.append(pathlib.Path("note.txt").read_text())
   print(f"at {id(seen)}:", seen)
   ```

   <!-- output -->
   ```text
   at ...: ['hello\\n']
   ```

<!-- not run: it would never end -->
```python
while True:
    await asyncio.sleep(1)
```

```python
async def main():
    seen.append(asyncio.get_running_loop() is loop)

loop = asyncio.get_running_loop()
asyncio.run(main())
assert seen == ["hello\\n", True]
```
"""


@pytest.mark.parametrize("place", [simulator_in_the_loop, simulator_in_a_thread])
def test_the_conventions_hold(place: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks share a namespace and a loop, may await, may be files, and may be compiled only."""
    monkeypatch.chdir(tmp_path)

    with place() as (_, _, run):
        done = run_page(Path("page.md"), CONVENTIONS, tmp_path, run)

    assert done == [
        "wrote note.txt",
        "wrote helper.py",
        "compiled line 9",
        "ran line 16",
        "compared line 25",
        "compiled line 30",
        "ran line 35",
    ]


def test_a_page_that_shows_other_output_is_refused(tmp_path: Path) -> None:
    page = "```python\nprint('a film')\n```\n\n<!-- output -->\n```text\nno ...\n```\n"
    with pytest.raises(
        AssertionError, match=r"page\.md:7: the page says\nno \.\.\.\nand it is\na film"
    ):
        run_page(Path("page.md"), page, tmp_path, print)


def test_a_failure_names_the_line_of_the_page(tmp_path: Path) -> None:
    """Whoever broke an example finds it at once."""
    with pytest.raises(ZeroDivisionError) as caught:
        run_page(Path("page.md"), "# Title\n\n```python\nx = 0\n1 / x\n```\n", tmp_path, print)

    last = caught.traceback[-1]
    assert (Path(last.path).name, last.lineno + 1) == ("page.md", 5)

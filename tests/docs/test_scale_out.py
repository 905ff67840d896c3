"""The commands and the program of docs/scale-out.md, on a real database."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from pages import ROOT, blocks_of

from apikley_async.cli import main
from apikley_async.simulator import Constant, Simulator, Terms

pytest.importorskip("psycopg", reason="the extra postgres is not installed")
pytestmark = pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning")

PAGE = ROOT / "docs" / "scale-out.md"
PLACE = "postgresql://films@db.example/films"
MANIFEST = """films:
  - {key: kitten, duration: 10, shots: [{scene: A kitten at dawn., duration: 10}]}
  - {key: cake, duration: 10, shots: [{scene: A cake at dawn., duration: 10}]}
"""


def test_what_the_page_says_is_so(
    postgres_dsn: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Every command ends well; the program then finds both films made, and pays nothing."""
    blocks = [*blocks_of(PAGE.read_text("utf-8"))]
    shell = [each.body.replace("\\\n", "") for each in blocks if each.language == "bash"]
    lines = [line for body in shell for line in body.splitlines()]
    [program] = [block.body for block in blocks if block.what == "file"]
    monkeypatch.chdir(tmp_path)
    Path("storyboards.yaml").write_text(MANIFEST)
    Path("make_films.py").write_text(program.replace(PLACE, postgres_dsn))
    with Simulator(Terms(duration=Constant(0.01))) as simulator:
        monkeypatch.setenv("APIKLEY_BASE_URL", simulator.base_url)
        monkeypatch.setenv("APIKLEY_API_KEY", simulator.api_key)

        assert len(lines) == 4
        for line in lines:
            words = shlex.split(line)
            assert words.pop(0) == "apikley"
            assert main([word.replace(PLACE, postgres_dsn) for word in words]) == 0, line
        said = capfd.readouterr()
        assert "is set up" in said.err
        assert sorted(path.name for path in Path("films").glob("*.mp4")) == [
            "cake.mp4",
            "kitten.mp4",
        ]
        ended = subprocess.run(
            [sys.executable, "make_films.py"], capture_output=True, text=True, check=False
        )
        assert (ended.returncode, ended.stderr) == (0, "")
        assert len(simulator.ledger.paid) == 2

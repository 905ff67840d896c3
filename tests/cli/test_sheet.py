"""`apikley preview --sheet`: all storyboards of a manifest on one page; nothing is made or paid."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli.conftest import Run, grey_png, write_manifest

from apikley_async.simulator import Simulator

pytestmark = pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning")


def test_all_storyboards_are_on_one_page(service: Simulator, run: Run) -> None:
    """Their scenes, lengths and pictures; no film, no journal, no request."""
    keys = [f"film-{number:03}" for number in range(300)]
    path = write_manifest(*keys)
    Path("harbour.png").write_bytes(grey_png())
    with path.open("a", encoding="utf-8") as file:
        board = {"shots": [{"scene": "The harbour.", "duration": 4}], "duration": 10}
        file.write(json.dumps({"key": "harbour", **board, "image": "harbour.png"}) + "\n")
    before = {*Path().iterdir()}

    result = run("preview", path, "--sheet")

    page = Path("preview/sheet.html").read_text(encoding="utf-8")
    assert (result.code, result.out) == (0, "preview/sheet.html\n")
    assert [key for key in [*keys, "harbour"] if f"{key}" not in page] == []
    assert "film-299 at dawn" in page
    assert "../harbour.png" in page
    assert page.count('<div class="v') == 1  # no empty frames where there is no picture
    assert "301 films" in page
    assert "planned. Nothing is paid." in page
    assert '<p class="eyebrow">Contact sheet</p>' in page
    assert ": contact sheet</title>" in page
    assert f"Contact sheet: {Path('preview/sheet.html').resolve().as_uri()}" in result.err
    for word in ("Batch report", "Report:", "What needs you", "not finished", ">planned<"):
        assert word not in page.partition("</style>")[2].partition("<script>")[0] + result.err
    assert {*Path().iterdir()} - before == {Path("preview")}
    assert not [*Path("preview").glob("*.mp4")]
    assert not service.ledger.arrivals("create")


def test_faults_of_the_manifest_are_listed(service: Simulator, run: Run) -> None:
    """All of them, and no page is written."""
    Path("bad.jsonl").write_text('{"shots": [{"scene": ""}], "duration": 11}\n', encoding="utf-8")

    result = run("preview", "bad.jsonl", "--sheet", "--json")

    assert (result.code, result.event("end")["exit_code"]) == (2, 2)
    assert "shots[0].scene" in result.event("error")["message"]
    assert not Path("preview/sheet.html").exists()


def test_another_file_is_not_replaced(service: Simulator, run: Run) -> None:
    """A sheet is: it is of the same kind, and can be made again."""
    path = write_manifest("tea")
    assert run("preview", path, "--sheet").code == 0
    assert run("preview", path, "--sheet").code == 0
    Path("preview/sheet.html").write_text("my own", encoding="utf-8")

    refused = run("preview", path, "--sheet")

    assert refused.code == 2
    assert Path("preview/sheet.html").read_text(encoding="utf-8") == "my own"

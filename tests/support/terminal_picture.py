"""Draws docs/pictures/terminal.svg: a run in full swing, by the command line's own view.

`PYTHONPATH=$PWD:tests/support python tests/support/terminal_picture.py` draws it anew.
"""

from __future__ import annotations

import io
import os

from pages import ROOT
from rich.console import Console
from rich.text import Text

PICTURE = ROOT / "docs" / "pictures" / "terminal.svg"

# The template of rich, without its fonts from elsewhere and without a window's frame.
SVG = """<svg viewBox="0 0 {terminal_width} {terminal_height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: monospace; font-size: {char_height}px; }}
{styles}
</style>
<defs>{lines}</defs>
<rect fill="#14161c" width="100%" height="100%" rx="8"/>
<g transform="translate(10, 8)" class="{unique_id}-matrix">
{backgrounds}
{matrix}
</g>
</svg>
"""


def picture() -> str:
    """The picture as SVG."""
    os.environ |= {"COLUMNS": "80", "LINES": "24"}
    from apikley_async.cli.output.progress_view import ProgressView
    from apikley_async.cli.output.reporter import Reporter

    now = [0.0]
    view = ProgressView(0, clock=lambda: now[0])
    view.expect(30, slots=100)
    reporter = Reporter(view, as_json=False)
    for number in range(12):
        now[0] = 11.0 * number
        reporter.event("submitted", key=f"film-{number + 1:02}", task_id="task")
    now[0] = 212.0
    for number in range(6):
        key = f"film-{number + 1:02}"
        reporter.event("saved", key=key, paths=[f"films/{key}.mp4"], credits=270)
    reporter.event("failed", key="film-07", message="the content policy refuses it")
    reporter.event("uncertain", key="film-08", cause="no answer to the submission")
    for key, progress in {"film-09": 92, "film-10": 71, "film-11": 64, "film-12": 38}.items():
        reporter.event("polled", key=key, state="generating", progress=progress)
    console = Console(record=True, file=io.StringIO(), width=80, force_terminal=True)
    console.print(Text("$ apikley batch run campaign.yaml --price 270 --max-credits 9000"))
    console.print(Text("✓ film-05: saved films/film-05.mp4", style="green"))
    console.print(Text("✓ film-06: saved films/film-06.mp4", style="green"))
    console.print(Text("✗ film-07: FAILED: the content policy refuses it", style="red"))
    console.print(Text("? film-08: UNCERTAIN: it may have been received, and paid", style="yellow"))
    console.print(view)
    console.print()  # room below the last line
    view.close()
    return console.export_svg(code_format=SVG, unique_id="terminal")


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")

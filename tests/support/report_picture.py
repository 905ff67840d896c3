"""Makes docs/pictures/report.webp: the report of a batch, as a browser shows it.

Needs Chromium and playwright, and the films of a demo; after `apikley demo -o films`:

    PYTHONPATH=$PWD:tests/support python tests/support/report_picture.py films
"""

from __future__ import annotations

import asyncio
import io
import shutil
import sys
import tempfile
from pathlib import Path

import attrs
from pages import ROOT
from PIL import Image
from playwright.sync_api import sync_playwright
from sample_batch import make_batch, storyboards
from sample_report import page_of, report_of

from apikley_async.batch import Batch
from apikley_async.batch.report.posters import make_posters
from apikley_async.batch.report.rows import JournalRows, read_rows
from apikley_async.batch.saved_files import hash_file

PICTURE = ROOT / "docs" / "pictures" / "report.webp"
TAKES = 4
SHOWN = ("kitten", "lighthouse", "tea", "paper-boat")
FATES = {
    "kitten.3": "refused",
    "lighthouse.3": "uncertain",
    "lighthouse.4": "uncertain",
    "tea": "uncertain",
}
WIDTH, HEIGHT, SCALE = 1280, 1830, 0.75  # pixels of the browser, and of the picture in one of them


async def make_page(folder: Path, films: Path) -> Path:
    """A report with films in several states, in *folder*; the films are those of a demo."""
    works = [each for each in storyboards(TAKES) if each[0].partition(".")[0] in SHOWN]
    journal = folder / "campaign.db"
    sources = {name: films / f"{name}.mp4" for name in SHOWN}
    await make_batch(journal, works, FATES, films=sources)
    make_posters([hash_file(path) for path in (folder / "films").glob("*.mp4")])
    async with Batch.open(journal, read_only=True) as batch:
        rows = as_if_paid(await read_rows(batch, folder))
    page = folder / "films" / "report.html"
    page.write_text(page_of(report_of(rows, folder)), encoding="utf-8")
    return page


def as_if_paid(rows: JournalRows) -> JournalRows:
    """The films of a demo are marked as rehearsed; here they stand for real ones."""
    files = {key: attrs.evolve(facts, simulated=False) for key, facts in rows.files.items()}
    return attrs.evolve(rows, files=files)


def picture(page: Path) -> Image.Image:
    """The beginning of a page."""
    with sync_playwright() as runner:
        browser = runner.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        tab = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        tab.goto(page.as_uri())
        tab.wait_for_load_state("networkidle")
        shot = Image.open(io.BytesIO(tab.screenshot())).convert("RGB")
        browser.close()
    size = round(WIDTH * SCALE), round(HEIGHT * SCALE)
    return shot.resize(size, Image.Resampling.LANCZOS)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        page = asyncio.run(make_page(Path(folder), Path(sys.argv[1])))
        picture(page).save(PICTURE, quality=70, method=6)

"""The picture at the top of README.md: frames of the six films of the demo, side by side.

Usage, after `apikley demo -o films`; writes docs/pictures/films.webp again:

    python tests/support/contact_sheet.py films
"""

from __future__ import annotations

import sys
from pathlib import Path

import av
from PIL import Image

PICTURE = Path(__file__).resolve().parents[2] / "docs" / "pictures" / "films.webp"
HEIGHT = 270
COLUMNS = [["kitten"], ["night-train", "tea"], ["lighthouse"], ["olive-grove"], ["paper-boat"]]


def contact_sheet(films: Path) -> Image.Image:
    """One frame of each film at one height; two of them share a column."""
    tiles = []
    for names in COLUMNS:
        height = HEIGHT // len(names)
        frames = [frame_of(films / f"{name}.mp4", height) for name in names]
        tile = Image.new("RGB", (frames[0].width, HEIGHT))
        for number, frame in enumerate(frames):
            tile.paste(frame, (0, number * height))
        tiles.append(tile)
    sheet = Image.new("RGB", (sum(tile.width for tile in tiles), HEIGHT))
    left = 0
    for tile in tiles:
        sheet.paste(tile, (left, 0))
        left += tile.width
    return sheet


def frame_of(film: Path, height: int) -> Image.Image:
    """What the film shows two seconds after its beginning."""
    with av.open(film) as container:
        frame = next(f for f in container.decode(video=0) if f.time >= 2).to_image()
    return frame.resize((frame.width * height // frame.height, height), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    contact_sheet(Path(sys.argv[1])).save(PICTURE, quality=60, method=6)

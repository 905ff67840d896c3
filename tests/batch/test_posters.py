"""Posters: made of the film beside them, for that film only, and never over another file."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from film_frames import RED, close, needs_codec

from apikley_async import SavedFile
from apikley_async.batch.report.posters import make_posters, poster_of
from apikley_async.batch.saved_files import hash_file

pytestmark = needs_codec


def film_of(path: Path, seconds: int = 2) -> SavedFile:
    """A film that is black for a tenth of its time, and red from there on."""
    import av
    from PIL import Image

    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        for number in range(seconds * 10):
            colour = (0, 0, 0) if number < seconds else RED
            frame = av.VideoFrame.from_image(Image.new("RGB", (1280, 720), colour))
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return hash_file(path)


def test_a_poster_shows_the_film(tmp_path: Path) -> None:
    """A small picture, later than the black at its beginning; by the umask, as the film."""
    from PIL import Image

    before = os.umask(0o027)
    try:
        film = film_of(tmp_path / "kitten.v2.mp4")
        made = make_posters([film])
    finally:
        os.umask(before)

    assert made == [tmp_path / "kitten.v2.poster.jpg"] == [poster_of(film)]
    with Image.open(made[0]) as picture:
        assert picture.size == (480, 270)
        assert close(picture.getpixel((240, 135)), RED)
    assert made[0].stat().st_size < 40_000
    assert made[0].stat().st_mode & 0o777 == 0o640
    assert make_posters([film]) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "kitten.v2.mp4",
        "kitten.v2.poster.jpg",
    ]


@pytest.mark.slow
def test_a_poster_of_an_older_film_is_neither_shown_nor_kept(tmp_path: Path) -> None:
    old = film_of(tmp_path / "kitten.mp4")
    make_posters([old])
    new = film_of(tmp_path / "kitten.mp4", 3)

    assert poster_of(new) is None
    assert make_posters([new]) == [poster_of(new)]
    assert poster_of(old) is None


def test_another_file_of_that_name_stays(tmp_path: Path) -> None:
    """A picture of the user's, or a link that leads to one."""
    film = film_of(tmp_path / "kitten.mp4")
    mine, place = tmp_path / "mine.jpg", tmp_path / "kitten.poster.jpg"
    mine.write_bytes(b"\xff\xd8\xffmine")

    for take_place in (lambda: place.symlink_to(mine), lambda: place.write_bytes(b"mine")):
        place.unlink(missing_ok=True)
        take_place()
        before = place.read_bytes()
        assert make_posters([film]) == []
        assert poster_of(film) is None
        assert place.read_bytes() == before
    assert mine.read_bytes() == b"\xff\xd8\xffmine"


def test_what_is_no_film_gets_no_poster(tmp_path: Path) -> None:
    """Cut, empty, text, gone: the run goes on."""
    whole = film_of(tmp_path / "whole.mp4").path.read_bytes()
    contents = {"cut": whole[: len(whole) // 3], "empty": b"", "text": b"no film\n" * 99}
    for name, content in contents.items():
        (tmp_path / f"{name}.mp4").write_bytes(content)
    films = [SavedFile(tmp_path / f"{name}.mp4", 1, "0" * 64) for name in (*contents, "gone")]

    assert make_posters(films) == []
    assert not list(tmp_path.glob("*.jpg"))


def test_without_the_extra_there_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film = film_of(tmp_path / "kitten.mp4")
    monkeypatch.setitem(sys.modules, "av", None)

    assert make_posters([film]) == []


def test_a_full_disk_costs_only_the_poster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film = film_of(tmp_path / "kitten.mp4")
    (tmp_path / f".kitten.poster.jpg.{os.getpid()}.new").mkdir()

    assert make_posters([film]) == []

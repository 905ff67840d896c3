"""What may be uploaded as an image: read once, checked by its bytes, never decompressed."""

from __future__ import annotations

import errno
import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from images import EXIF, extended, jpeg, lossless, lossy, png, webp

from apikley_async._images import MAX_BYTES, dimensions, image_format, read_image
from apikley_async.errors import Blame, UploadError

# --- what may be uploaded --------------------------------------------------------------------


FORMATS = [
    (png(), "image/png", ".png"),
    (jpeg(), "image/jpeg", ".jpg"),
    (lossy(), "image/webp", ".webp"),
    (lossless(), "image/webp", ".webp"),
    (extended(), "image/webp", ".webp"),
]


def test_the_first_bytes_say_what_it_is(tmp_path: Path) -> None:
    """Neither the name nor its suffix matters (U1)."""
    wrong = []
    for content, content_type, suffix in FORMATS:
        for name in ("a.png", "a.html", "a"):
            (tmp_path / name).write_bytes(content)
            image = read_image(tmp_path / name)
            if (image.content, image.content_type, image.suffix) != (content, content_type, suffix):
                wrong.append((name, image))

    assert wrong == []


NO_IMAGES = [
    b"<!doctype html><img>",
    b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    b"MZ\x90\0" * 9,
    b"%PDF-1.7",
    b"GIF89a" + b"\0" * 30,
    b"BM" + b"\0" * 60,
    b"RIFF\0\0\0\0AVI " + b"\0" * 30,
    b"RIFF\0\0\0\0WAVE" + b"\0" * 30,
    b"\0\0\0\x20ftypavif",
    b"\x89PNG\n\x1a\n",
    b"\xff\xd8",
    b" " + png(),
]


def refusal(source: Any) -> str | None:
    """The message with which a source is refused; None when it is not."""
    try:
        read_image(source)
    except UploadError as error:
        return str(error)
    return None


def test_nothing_else_is_an_image(tmp_path: Path) -> None:
    """A page, a drawing or a program is refused under any name, before it costs a film (U1)."""
    path = tmp_path / "holiday.png"
    wrong = []
    for content in NO_IMAGES:
        path.write_bytes(content)
        wrong += [
            (content, type(source), message)
            for source in (content, path, io.BytesIO(content))
            if "none of them" not in (message := refusal(source) or "")
        ]

    assert wrong == []


@given(st.binary(max_size=300))
@example(b"\xff\xd8\xff")
@example(b"\x89PNG\r\n\x1a\n")
@example(b"RIFF\0\0\0\0WEBP")
def test_checking_never_raises_another_error(noise: bytes) -> None:
    """Whatever an image holds, there is an answer, and only `UploadError` says no (U1)."""
    for start in (b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBPVP8", png()[:16]):
        try:
            image = read_image(start + noise)
        except UploadError:
            continue
        assert image.content_type in {"image/png", "image/jpeg", "image/webp"}


# --- dimensions ------------------------------------------------------------------------------


DIMENSIONS = [
    (png(1, 1), (1, 1)),
    (png(70_000, 2), (70_000, 2)),
    (jpeg(640, 480), (640, 480)),
    (jpeg(640, 480, frame=0xC2), (640, 480)),  # progressive
    (jpeg(640, 480, before=EXIF), (640, 480)),  # a thumbnail has a frame of its own
    (jpeg(640, 480, before=b"\xff\xff\xff\xff\xc4\0\4ab"), (640, 480)),  # filling, a table
    (jpeg(640, 480, before=b"\xff\x01\xff\xd0"), (640, 480)),
    (lossy(640, 480), (640, 480)),
    (lossy(0xC000 | 640, 0x4000 | 480), (640, 480)),  # two bits are a scale
    (lossless(16_384, 1), (16_384, 1)),
    (lossless(1, 16_384), (1, 16_384)),
    (extended(16_777_216, 1), (16_777_216, 1)),
]


def test_dimensions_are_read_and_nothing_is_decompressed() -> None:
    """The header alone says how large an image is (U2)."""
    wrong = [
        (content, found)
        for content, expected in DIMENSIONS
        if (found := dimensions(content, str(image_format(content)))) != expected
    ]

    assert wrong == []


def test_the_headers_of_a_common_library_are_understood() -> None:
    """The headers that a common library writes give its own dimensions (U2)."""
    image = pytest.importorskip("PIL.Image")
    formats: list[tuple[str, dict[str, Any]]] = [
        ("PNG", {}),
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0"}),
    ]
    for format_, options in formats:
        out = io.BytesIO()
        image.new("RGB", (123, 45), "teal").save(out, format_, **options)
        content = out.getvalue()
        assert dimensions(content, str(image_format(content))) == (123, 45), (format_, options)


BOMBS = [
    png(8001, 8000),
    png(2**31, 2**31),
    jpeg(65_535, 65_535),
    lossy(16_383, 16_383),
    lossless(16_384, 16_384),
    extended(2**24, 2**24),
]


def test_a_decompression_bomb_is_refused() -> None:
    """A few bytes that claim to be gigapixels are not uploaded (U2)."""
    rule = "at most 64,000,000 pixels, not"

    assert [content for content in BOMBS if rule not in (refusal(content) or "")] == []


def test_large_pictures_are_fine() -> None:
    """64 megapixels are more than most cameras have (U2)."""
    assert read_image(png(8000, 8000)).content_type == "image/png"


INCOMPLETE = [
    png(0, 3),
    png(3, 0),
    png()[:20],
    b"\x89PNG\r\n\x1a\n" + b"\0\0\0\x04CgBI" + b"\0" * 40,
    jpeg(0, 3),
    jpeg(3, 0),
    jpeg()[:22],
    b"\xff\xd8\xff\xda" + b"\0" * 40,
    b"\xff\xd8\xff\xd9" + b"\0" * 40,
    b"\xff\xd8\xff\xe0" + b"\0" * 40,
    b"\xff\xd8\xff\xe0\xff\xff" + b"\0" * 40,
    b"\xff\xd8" + b"\xff" * 40,
    lossy()[:28],
    lossy(0, 3),
    webp(b"VP8 ", b"\0" * 30),
    webp(b"VP8L", b"\0" * 30),
    webp(b"ANIM", b"\0" * 30),
]


def test_a_header_without_dimensions_is_no_image() -> None:
    """What the service could not open either is refused here, for nothing (U2)."""
    rule = "no width and height"

    assert [content for content in INCOMPLETE if rule not in (refusal(content) or "")] == []


def test_a_jpeg_of_nothing_but_segments_is_read_quickly() -> None:
    """Ten megabytes of empty segments end within a moment (U2)."""
    content = (b"\xff\xd8" + b"\xff\xe0\0\2" * 2_500_000)[:MAX_BYTES]
    filling = b"\xff\xd8" + b"\xff" * (MAX_BYTES - 2)

    for trap in (content, filling):
        with pytest.raises(UploadError):
            read_image(trap)


# --- sizes -----------------------------------------------------------------------------------


SIZES = [
    (0, "not 0 bytes"),
    (MAX_BYTES, None),
    (MAX_BYTES + 1, "10.0 MB"),
    (11_000_000, "10.0 MB"),
]


def test_ten_megabytes_are_the_most(tmp_path: Path) -> None:
    """Exactly 10.0 MB pass, and one byte more does not (U2)."""
    path = tmp_path / "a.png"
    wrong = []
    for size, fault in SIZES:
        content = (png() + b"\0" * size)[:size]
        path.write_bytes(content)
        for source in (content, path, io.BytesIO(content)):
            message = refusal(source)
            if (fault is None) is not (message is None) or (fault or "") not in (message or ""):
                wrong.append((size, type(source), message))
    path.write_bytes((png() + b"\0" * MAX_BYTES)[:MAX_BYTES])

    assert wrong == []
    assert len(read_image(path).content) == MAX_BYTES


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    """A terabyte is refused by its size alone (U2)."""
    path = tmp_path / "huge.png"
    with path.open("wb") as file:
        file.write(png())
        file.truncate(2**40)

    with pytest.raises(UploadError, match="it is larger"):
        read_image(path)


def test_an_endless_file_object_is_not_read_to_its_end() -> None:
    """Reading stops at one byte more than is allowed (U2)."""

    class Endless(io.RawIOBase):
        given = 0

        def read(self, size: int = -1) -> bytes:
            assert 0 < size <= MAX_BYTES + 1
            self.given += min(size, 100_000)
            return b"\0" * min(size, 100_000)

    endless = Endless()
    with pytest.raises(UploadError, match="it is larger"):
        read_image(endless)  # type: ignore[arg-type]

    assert endless.given == MAX_BYTES + 1


# --- files of all kinds ----------------------------------------------------------------------


def test_a_path_may_be_text_or_a_path(tmp_path: Path) -> None:
    path = tmp_path / "котёнок с тортом.png"
    path.write_bytes(png())

    assert read_image(str(path)) == read_image(path)


@pytest.mark.parametrize("content", [bytes, bytearray, memoryview])
def test_content_may_be_any_bytes_like_object(content: Callable[[bytes], Any]) -> None:
    assert read_image(content(png())).content == png()


def test_a_missing_file_is_named_with_the_folder_it_was_looked_for_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UploadError, match=r"cannot be read: .* in ") as caught:
        read_image("kitten.png")
    assert str(tmp_path) in str(caught.value)


PATHS = [
    ("/dev/null", "a regular file"),
    ("/dev/zero", "a regular file"),
    ("/dev/random", "a regular file"),
    ("/dev/tty", "a regular file|cannot be read"),
    ("/proc/self/environ", "0 bytes"),
    ("/proc/self/mem", "0 bytes"),
    ("/proc/kmsg", "0 bytes|cannot be read"),
    ("/proc/kcore", "larger|cannot be read|0 bytes"),
    ("/etc/passwd", "none of them"),
    ("/", "cannot be read: "),
    ("/nowhere/at/all.png", "cannot be read: "),
    ("a\0b.png", "cannot be read"),
    ("\ud800.png", "cannot be read"),
    ("x" * 5000, "cannot be read"),
    ("https://cdn.test/a.png", "a URL is used as it is"),
]


def test_only_regular_files_are_read() -> None:
    """Devices, folders and the kernel's files are refused at once, and nothing is shown (U4)."""
    wrong = []
    for path, fault in PATHS:
        absent = path.startswith(("/proc", "/dev")) and not Path(path).exists()
        if not absent and not re.search(fault, message := refusal(path) or ""):
            wrong.append((path, message))

    assert wrong == []


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    """A FIFO with nobody at its other end, or with somebody, is refused without waiting (U4)."""
    path = tmp_path / "a.png"
    os.mkfifo(path)

    with pytest.raises(UploadError, match="a regular file"):
        read_image(path)

    writer = os.open(path, os.O_RDWR)
    try:
        os.write(writer, png())
        with pytest.raises(UploadError, match="a regular file"):
            read_image(path)
    finally:
        os.close(writer)


def test_a_symlink_to_an_image_is_followed(tmp_path: Path) -> None:
    """What a caller names may be a link; what it leads to must be a picture all the same (U4)."""
    (tmp_path / "real.png").write_bytes(png())
    (tmp_path / "good.png").symlink_to(tmp_path / "real.png")
    (tmp_path / "evil.png").symlink_to("/etc/passwd")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")

    assert read_image(tmp_path / "good.png").content == png()
    for name in ("evil.png", "loop.png"):
        with pytest.raises(UploadError):
            read_image(tmp_path / name)


def test_a_file_without_permission(tmp_path: Path) -> None:
    """The system's reason is in the message."""
    path = tmp_path / "a.png"
    path.write_bytes(png())
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("root may read everything")

    with pytest.raises(UploadError, match="cannot be read: "):
        read_image(path)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_too_many_open_files_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """That is no fault of the image: the same may be read a moment later."""
    path = tmp_path / "a.png"
    path.write_bytes(png())

    def full(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", full)
        with pytest.raises(UploadError, match="cannot be read: Too many") as raised:
            read_image(path)

    assert raised.value.resumable
    assert raised.value.blames is Blame.NETWORK
    assert read_image(path).content == png()


@pytest.mark.parametrize("tail", [b"\r\n", b"\0\0\0", b"\0\0\0\x18ftypmp42" + b"\0" * 90])
def test_trailing_bytes_of_an_image_are_kept(tail: bytes) -> None:
    """Line ends, or the film that a telephone hangs on: the picture is sent as it is."""
    for content in (png(), jpeg(), lossy()):
        assert read_image(content + tail).content == content + tail


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Have something done between the first look at an open file and the reading of it."""
    fstat = os.fstat

    def arrange(act: Callable[[], object]) -> None:
        acts = [act]

        def look(handle: int) -> os.stat_result:
            seen = fstat(handle)
            while acts:
                acts.pop()()
            return seen

        monkeypatch.setattr(os, "fstat", look)

    return arrange


@pytest.mark.parametrize("count", [0, 1, 19, 20, 21, 9_000_000, 11_000_000])
def test_a_file_that_changes_while_it_is_read(
    tmp_path: Path, meanwhile: Callable[[Callable[[], object]], None], count: int
) -> None:
    """Shorter, longer or rewritten: half old and half new is never uploaded nor waited for (U3)."""
    path = tmp_path / "a.png"
    path.write_bytes(png(more=b"." * 20))
    os.utime(path, (0, 0))
    meanwhile(lambda: path.write_bytes(png(more=b"!" * count)))

    with pytest.raises(UploadError, match="changed while it was read"):
        read_image(path)


@pytest.mark.parametrize("act", [Path.unlink, lambda path: path.rename(path.with_name("b"))])
def test_a_file_that_vanishes_while_it_is_read(
    tmp_path: Path, meanwhile: Callable[[Callable[[], object]], None], act: Any
) -> None:
    """Opened once, it is read to its end whatever becomes of its name (U3)."""
    path = tmp_path / "a.png"
    path.write_bytes(png())
    meanwhile(lambda: act(path))

    assert read_image(path).content == png()


def test_a_file_object_is_read_from_its_position() -> None:
    """In one piece or in crumbs."""

    class Crumbs(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(min(size or 7, 7))

    file = Crumbs(b"skip" + png())
    file.seek(4)

    assert read_image(file).content == png()


@pytest.mark.parametrize("image", [None, 7, ["a.png"], object()])
def test_other_types_are_refused(image: Any) -> None:
    with pytest.raises(UploadError, match="a path, bytes or a binary file"):
        read_image(image)


def test_odd_file_objects(tmp_path: Path) -> None:
    """Text mode, closed files and readers that have nothing yet are distinguished from pictures."""
    path = tmp_path / "a.png"
    path.write_text("text")
    closed = path.open("rb")
    closed.close()

    class Nothing:
        def read(self, _size: int) -> None:
            return None

    with path.open() as text, pytest.raises(UploadError, match="binary mode"):
        read_image(text)  # type: ignore[arg-type]
    with pytest.raises(UploadError, match="cannot be read: read of closed file"):
        read_image(closed)
    with pytest.raises(UploadError, match="not blocking"):
        read_image(Nothing())  # type: ignore[arg-type]


def test_no_file_stays_open(tmp_path: Path) -> None:
    """Refused or not, what was opened is closed (N8)."""
    code = """
import os, sys
from apikley_async._images import read_image
before = len(os.listdir("/dev/fd"))
for path in sys.argv[1:]:
    for _ in range(50):
        try:
            read_image(path)
        except Exception:
            pass
assert len(os.listdir("/dev/fd")) == before
"""
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "b.png").write_bytes(b"no")
    os.mkfifo(tmp_path / "c.png")
    paths = [str(tmp_path / name) for name in ("a.png", "b.png", "c.png", "", "none")]

    subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *paths],
        check=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )


def test_an_image_in_a_folder_that_is_gone_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The current folder may be removed while a program runs in it."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()

    with pytest.raises(UploadError, match="No such file"):
        read_image("kitten.png")

"""What may be uploaded as an image: JPEG, PNG or WebP of at most 10.0 MB, read once and checked.

An image file is opened once, must be a regular file, and is read whole before anything is sent,
so that what was checked is what is uploaded. Only its header is parsed; nothing is decompressed.
The rules are those of https://docs.apikley.ru/Sora-2/sora-2-pro-storyboard.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import attrs

from apikley_async._disk import TOO_MANY_FILES, open_nonblocking
from apikley_async.errors import Blame, UploadError

__all__ = ["ImageFile", "ImageSource", "PinnedImage", "read_image"]

ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | BinaryIO"

MAX_BYTES = 10_000_000  # "10.0MB" in its smaller meaning: an image that is refused is paid for
MAX_PIXELS = 64_000_000  # more is a decompression bomb
MAX_SEGMENTS = 10_000  # of a JPEG, before its frame header


@attrs.frozen
class ImageFile:
    """An image that may be uploaded.

    Attributes:
        content: all of its bytes, metadata included.
        content_type: by its first bytes.
        suffix: that fits its type.
        sha256: of its content.
    """

    content: bytes = attrs.field(repr=False)
    content_type: str
    suffix: str
    sha256: str = attrs.field(repr=False)


@attrs.frozen
class PinnedImage(os.PathLike[str]):
    """The path of an image file, and the SHA-256 that its content must have at the upload.

    The file is read once: what was compared is what is sent. Use it wherever a path is taken.
    """

    path: str = attrs.field(converter=os.fsdecode)
    sha256: str = attrs.field(repr=False)

    def __fspath__(self) -> str:
        return self.path


# --- reading -------------------------------------------------------------------------------------


def read_image(source: ImageSource) -> ImageFile:
    """Read an image once and check it. Blocks: call it in a thread.

    Args:
        source: a path, the content, or a file opened in binary mode.

    Raises:
        UploadError: it cannot be used; the message names the rule and the fact.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        return check_image(bytes(source), "the image")
    if isinstance(source, str | os.PathLike):
        name = f"image {os.fspath(source)!r}"
        if "://" in name:
            raise UploadError(f"{name}: a path or content; a URL is used as it is")
        image = check_image(_read_path(source, name), name)
        if isinstance(source, PinnedImage) and image.sha256 != source.sha256:
            raise UploadError(
                f"{name} is not the picture for which the film was planned; bring that back and "
                "retry, or give the film a new key"
            )
        return image
    if callable(getattr(source, "read", None)):
        return check_image(_read_file(source), "the image")
    raise UploadError(f"an image: a path, bytes or a binary file, not {type(source).__name__}")


def check_image(content: bytes, name: str) -> ImageFile:
    """Check the size, the first bytes and the dimensions of an image, without decompressing it.

    Raises:
        UploadError: one of them breaks a rule; *name* begins the message.
    """
    check_size(len(content), name)
    kind = image_format(content)
    if kind is None:
        raise UploadError(f"{name}: JPEG, PNG or WebP; its first bytes say that it is none of them")
    width, height = dimensions(content, kind) or (0, 0)
    if not width or not height:
        raise UploadError(f"{name}: a whole {kind.upper()}; no width and height can be read in it")
    if width * height > MAX_PIXELS:
        raise UploadError(f"{name}: at most {MAX_PIXELS:,} pixels, not {width} x {height}")
    suffix = ".jpg" if kind == "jpeg" else f".{kind}"
    return ImageFile(content, f"image/{kind}", suffix, hashlib.sha256(content).hexdigest())


def check_size(size: int, name: str) -> None:
    if size == 0:
        raise UploadError(f"{name}: a picture, not 0 bytes")
    if size > MAX_BYTES:
        raise UploadError(f"{name}: at most 10.0 MB (10,000,000 bytes), and it is larger")


def _read_path(path: str | os.PathLike[str], name: str) -> bytes:
    try:
        with open(path, "rb", opener=open_nonblocking) as file:
            before = os.fstat(file.fileno())
            if not stat.S_ISREG(before.st_mode):
                raise UploadError(f"{name}: a regular file, not a folder, pipe or device")
            check_size(before.st_size, name)
            content = file.read(MAX_BYTES + 1)
            after = os.fstat(file.fileno())
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "not a path"
        if isinstance(exc, FileNotFoundError) and not Path(path).is_absolute():
            with contextlib.suppress(OSError):  # that folder may be gone as well
                reason = f"{reason} in {Path.cwd()}"
        message = f"{name}: cannot be read: {reason}"
        if isinstance(exc, OSError) and exc.errno in TOO_MANY_FILES:  # some will be closed
            raise UploadError(message, resumable=True, blames=Blame.NETWORK) from None
        raise UploadError(message) from None
    same = (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
    if not same or len(content) != after.st_size:
        raise UploadError(f"{name}: it changed while it was read")
    return content


def _read_file(file: Any) -> bytes:
    """Read an open file from its position on; it may give fewer bytes than requested."""
    content = bytearray()
    while len(content) <= MAX_BYTES:
        try:
            piece = file.read(MAX_BYTES + 1 - len(content))
        except (OSError, ValueError) as exc:
            raise UploadError(f"the image: cannot be read: {exc}") from None
        if not isinstance(piece, bytes | bytearray):
            raise UploadError("the image: a file opened in binary mode ('rb'), and not blocking")
        if not piece:
            break
        content += piece
    return bytes(content)


# --- checking ------------------------------------------------------------------------------------


def image_format(content: bytes) -> str | None:
    """The format of an image by its first bytes; None for any other file."""
    if content.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "webp"
    return None


def dimensions(content: bytes, kind: str) -> tuple[int, int] | None:
    """Width and height according to the header of an image of that format; None without one."""
    if kind == "png":
        if content[8:16] != b"\0\0\0\x0dIHDR" or len(content) < 24:
            return None
        return _number(content, 16, 4), _number(content, 20, 4)
    return _jpeg_dimensions(content) if kind == "jpeg" else _webp_dimensions(content)


def _jpeg_dimensions(content: bytes) -> tuple[int, int] | None:
    """Walk the segments up to the frame header: SOF0 to SOF15, without DHT, JPG and DAC."""
    at = 2
    for _ in range(MAX_SEGMENTS):
        if at + 9 > len(content) or content[at] != 0xFF:
            return None
        marker = content[at + 1]
        if marker == 0xFF:  # padding
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return _number(content, at + 7, 2), _number(content, at + 5, 2)
        elif marker in (0x01, *range(0xD0, 0xD8)):  # without a length
            at += 2
        elif marker in (0xD9, 0xDA):  # the end, or the image data
            return None
        else:
            at += 2 + max(2, _number(content, at + 2, 2))
    return None


def _webp_dimensions(content: bytes) -> tuple[int, int] | None:
    if len(content) < 30:
        return None
    chunk, body = content[12:16], content[20:]
    if chunk == b"VP8 " and body[3:6] == b"\x9d\x01\x2a":
        width, height = (int.from_bytes(body[at : at + 2], "little") for at in (6, 8))
        return width & 0x3FFF, height & 0x3FFF
    if chunk == b"VP8L" and body[0] == 0x2F:
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk == b"VP8X":
        width, height = (int.from_bytes(body[at : at + 3], "little") for at in (4, 7))
        return width + 1, height + 1
    return None


def _number(content: bytes, at: int, size: int) -> int:
    return int.from_bytes(content[at : at + size], "big")

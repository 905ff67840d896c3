"""Images as bytes, as small as their headers allow, for tests that upload them."""

from __future__ import annotations

import struct
import zlib

__all__ = ["EXIF", "extended", "jpeg", "lossless", "lossy", "png", "webp"]

EXIF = b"\xff\xe1\0\x20Exif\0\0" + b"\xff\xc0\0\x0b\x08\xff\xff\xff\xff" + b"\0" * 15


def png(width: int = 4, height: int = 3, *, more: bytes = b"") -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", b"x" * 20 + more) + chunk(b"IEND", b"")


def jpeg(width: int = 4, height: int = 3, *, frame: int = 0xC0, before: bytes = b"") -> bytes:
    size = struct.pack(">BHH", 8, height, width)
    start = b"\xff\xd8\xff\xe0\0\x10JFIF\0" + b"\0" * 9
    return start + before + bytes([0xFF, frame]) + b"\0\x0b" + size + b"\1\1\x11\0" + b"\xff\xd9"


def webp(chunk: bytes, body: bytes) -> bytes:
    content = b"WEBP" + chunk + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", len(content)) + content


def lossy(width: int = 4, height: int = 3) -> bytes:
    return webp(b"VP8 ", b"\x30\1\0\x9d\1\x2a" + struct.pack("<HH", width, height) + b"\0" * 20)


def lossless(width: int = 4, height: int = 3) -> bytes:
    bits = (width - 1) | (height - 1) << 14
    return webp(b"VP8L", b"\x2f" + struct.pack("<I", bits) + b"\0" * 20)


def extended(width: int = 4, height: int = 3) -> bytes:
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return webp(b"VP8X", b"\x10\0\0\0" + size + b"\0" * 20)

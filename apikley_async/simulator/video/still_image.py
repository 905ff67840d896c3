"""The result of a model that makes images: a small PNG that names its task. Pure."""

from __future__ import annotations

import struct
import zlib

__all__ = ["still_image"]

LONG_SIDE, SHORT_SIDE = 320, 180


def still_image(task_id: str, seed: int, *, portrait: bool) -> bytes:
    """A PNG in two colours chosen by *seed*; a text chunk names the task."""
    width, height = (SHORT_SIDE, LONG_SIDE) if portrait else (LONG_SIDE, SHORT_SIDE)
    top, bottom = seed & 0xFFFFFF, (seed >> 8) & 0xFFFFFF ^ 0xFFFFFF
    rows = b"".join(
        b"\0" + (top if row < height // 2 else bottom).to_bytes(3) * width for row in range(height)
    )
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (
        _chunk(b"IHDR", head),
        _chunk(b"tEXt", b"Title\0" + task_id.encode("latin-1", errors="replace")),
        _chunk(b"IDAT", zlib.compress(rows)),
        _chunk(b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

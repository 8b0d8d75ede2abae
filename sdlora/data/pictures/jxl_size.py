"""Size of a JPEG XL picture from its header, since its reader decodes before it tells the size."""

from typing import BinaryIO

_CODESTREAM = b"\xff\x0a"
_CONTAINER = b"\0\0\0\x0cJXL \r\n\x87\n"
_HEADER_BYTES = 10  # at most 1 + 2 + 30 + 3 + 2 + 30 bits
_MOST_BOXES = 64

_SIDE_BITS = (9, 13, 18, 30)
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
"""Width to height, for the values 1 to 7 of the field."""


def jxl_size(stream: BinaryIO) -> tuple[int, int] | None:
    """Width and height that a JPEG XL file declares; ``None`` for other and damaged files.

    Args:
        stream: The file; it is left at its beginning.

    Source:
        ISO/IEC 18181-1 (SizeHeader), and 18181-2 (boxes ``jxlc`` and ``jxlp``).
    """
    stream.seek(0)
    try:
        header = _codestream(stream)
        return None if header is None else _size(header)
    finally:
        stream.seek(0)


def _codestream(stream: BinaryIO) -> bytes | None:
    """The first bytes of the codestream, behind its signature."""
    start = stream.read(len(_CONTAINER))
    if start.startswith(_CODESTREAM):
        return (start + stream.read(_HEADER_BYTES))[2:]
    if start != _CONTAINER:
        return None
    for _ in range(_MOST_BOXES):
        head = stream.read(8)
        if len(head) < 8:
            return None
        length, kind, taken = int.from_bytes(head[:4], "big"), head[4:], 8
        if length == 1:  # a long one: its length follows
            length, taken = int.from_bytes(stream.read(8), "big"), 16
        if kind in (b"jxlc", b"jxlp"):
            number = stream.read(4 * (kind == b"jxlp"))
            signature = stream.read(2)
            found = len(number) % 4 == 0 and signature == _CODESTREAM
            return stream.read(_HEADER_BYTES) if found else None
        if length < taken:  # up to the end of the file, or damaged
            return None
        stream.seek(length - taken, 1)
    return None


def _size(header: bytes) -> tuple[int, int] | None:
    if len(header) < 2:
        return None
    bits = int.from_bytes(header, "little")

    def take(count: int) -> int:
        nonlocal bits
        value, bits = bits & ((1 << count) - 1), bits >> count
        return value

    in_eights = take(1)

    def side() -> int:
        return 8 * (take(5) + 1) if in_eights else take(_SIDE_BITS[take(2)]) + 1

    height, ratio = side(), take(3)
    if ratio == 0:
        return side(), height
    across, down = _RATIOS[ratio - 1]
    return height * across // down, height

"""What is wrong with a file of weights: a web page, a pointer, half a download, another file."""

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sdlora.runtime.files import sha256

POINTER = "is a Git LFS pointer, not the file that it stands for"
PAGE = "is a web page, not weights"
TEXT = "is a JSON text, not weights"
GGUF = "is a GGUF file, whose weights are rounded to few bits"
PICKLE = "is pickle in spite of its name"

_REMEDIES = {
    POINTER: "run git lfs pull in its folder, or download the file itself",
    PAGE: "its download asked for a login, or had a wrong link; download the file itself",
    TEXT: "it is the answer to a download that failed; download the file itself",
    GGUF: "take the .safetensors version of the model",
}

_HEAD_BYTES = 512
_PAGES = (b"<!doctype", b"<html", b"<?xml", b"<head")
_OTHERS = {
    b"{": TEXT,
    b"GGUF": GGUF,
    b"PK\x03\x04": PICKLE,
    b"\x80\x02": PICKLE,
    b"\x80\x04": PICKLE,
}
"""First bytes of what is found under the name of a safetensors file -> what it is."""
_LONGEST_HEADER = 100 * 2**20  # safetensors' own limit
_FIXED_BYTES = {1: 8, 5: 4}  # wire types of protobuf
_DELIMITED = 2


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy of a file that is known to be good.

    Attributes:
        size: Its bytes.
        sha256: Its hash; ``None`` if only the size is known.
    """

    size: int
    sha256: str | None = None


def fault(path: Path, good: Sequence[Copy] = ()) -> str | None:
    """What is wrong with a file of weights, as the end of a sentence; ``None``: nothing is seen.

    Without a known copy only what the file's own structure tells is seen: its end for safetensors,
    zip (PyTorch) and protobuf (ONNX, Caffe).

    Args:
        path: The file.
        good: Known copies; it must be one of them, if there are any.
    """
    if not path.is_file():
        return "is missing"
    size = path.stat().st_size
    if not size:
        return "is empty, a download that broke off"
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if head.startswith(b"version https://git-lfs"):
        return POINTER
    if head.lstrip().lower().startswith(_PAGES):
        return PAGE
    return _not_a_copy(path, size, good) or _broken(path, size, head)


def remedy(what: str) -> str:
    """What to do about a fault, for a file that no command here fetches."""
    return _REMEDIES.get(what, "fetch it again")


def _not_a_copy(path: Path, size: int, good: Sequence[Copy]) -> str | None:
    if not good:
        return None
    sizes = sorted({copy.size for copy in good})
    if size not in sizes:
        if size < sizes[0]:
            return _cut(size, sizes[0])
        return f"is another file ({size} bytes instead of {' or '.join(map(str, sizes))})"
    hashes = [copy.sha256 for copy in good if copy.size == size]
    if None in hashes or sha256(path) in hashes:
        return None
    return f"is damaged, or another file (its SHA-256 is not {' or '.join(map(str, hashes))})"


def _broken(path: Path, size: int, head: bytes) -> str | None:
    if path.suffix == ".safetensors":
        return _broken_safetensors(path, size, head.lstrip())
    if path.suffix in (".pth", ".pt", ".bin"):
        return _broken_pickle(path, head)
    if path.suffix in (".onnx", ".caffemodel"):
        return _broken_protobuf(path, size)
    return None


def _cut(size: int, whole: int) -> str:
    return f"has {size} of {whole} bytes, a download that broke off"


def _broken_safetensors(path: Path, size: int, head: bytes) -> str | None:
    """Length of the header, header (JSON with the places of all tensors), tensors."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > _LONGEST_HEADER:
            known = (what for start, what in _OTHERS.items() if head.startswith(start))
            return next(known, "is no safetensors file")
        if length > size - 8:
            return _cut(size, 8 + length)
        try:
            header = json.loads(file.read(length))
            places = [each["data_offsets"] for name, each in header.items() if name[:2] != "__"]
            whole = 8 + length + max((int(end) for _, end in places), default=0)
        except (ValueError, TypeError, KeyError, AttributeError):
            return "is no safetensors file"
    return _cut(size, whole) if size < whole else None


def _broken_pickle(path: Path, head: bytes) -> str | None:
    """A zip, whose table of contents is its end; or, by old PyTorch, a bare pickle."""
    if zipfile.is_zipfile(path) or head.startswith(b"\x80"):
        return None
    if head.startswith(b"PK"):
        return "is half a file, a download that broke off"
    return "holds no weights of PyTorch"


def _broken_protobuf(path: Path, size: int) -> str | None:
    """Fields one after the other, the long ones with their length."""
    with path.open("rb") as file:
        while (place := file.tell()) < size:
            tag = _varint(file.read(10))
            if tag is None or not tag[0] >> 3:
                return "is damaged" if place else "is no network of its kind"
            kind, start = tag[0] & 7, place + tag[1]
            file.seek(start)
            length = _varint(file.read(10)) if kind in (0, _DELIMITED) else (0, 0)
            if length is None or kind not in (0, _DELIMITED, *_FIXED_BYTES):
                return "is damaged" if place else "is no network of its kind"
            end = start + length[1] + _FIXED_BYTES.get(kind, length[0] * (kind == _DELIMITED))
            if end > size:
                return "is half a file, a download that broke off"
            file.seek(end)
    return None


def _varint(data: bytes) -> tuple[int, int] | None:
    """A number of seven bits a byte, and its length in bytes."""
    value = 0
    for index, byte in enumerate(data):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, index + 1
    return None

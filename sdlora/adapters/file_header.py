"""Headers of safetensors files, read without torch: tensors, single numbers, free text."""

import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sdlora.adapters.spec import LoraError
from sdlora.weights.soundness import fault, remedy

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
CONVERT = "ask its author for a .safetensors file, or convert it where running its code is safe"

MAX_HEADER_BYTES = 100 * 2**20
"""safetensors' own limit."""

_NUMBERS = {
    "F64": "<d",
    "F32": "<f",
    "F16": "<e",
    "I64": "<q",
    "I32": "<i",
    "I16": "<h",
    "I8": "<b",
    "U8": "<B",
}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in a file.

    Attributes:
        dtype: safetensors' name of its type, such as ``BF16``.
        shape: Its shape.
        begin: First byte of its values in the file.
        end: The byte after its last.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class FileHeader:
    """The header of a file.

    Attributes:
        path: The file.
        tensors: By name.
        metadata: Free text.
    """

    path: Path
    tensors: Mapping[str, StoredTensor]
    metadata: Mapping[str, str]

    def scalars(self, names: Iterable[str]) -> dict[str, float]:
        """Numbers of the tensors that hold one number each; others are left out."""
        found = {}
        with self.path.open("rb") as file:
            for name in names:
                stored = self.tensors[name]
                file.seek(stored.begin)
                value = _number(stored, file.read(min(stored.end - stored.begin, 8)))
                if value is not None:
                    found[name] = value
        return found


def read_file_header(path: Path) -> FileHeader:
    """The header of a file; no weight is read.

    Raises:
        LoraError: If it is missing, a pickle, or not a whole safetensors file.
    """
    refuse_pickle(path)
    if (what := fault(path)) is not None:
        raise LoraError(f"{path}: {what}; {remedy(what)}")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        content = json.loads(file.read(length)) if length <= MAX_HEADER_BYTES else None
    if not isinstance(content, dict):
        raise LoraError(f"{path}: is no safetensors file; fetch it again")
    metadata = content.pop("__metadata__", {})
    try:
        tensors = {
            name: StoredTensor(
                str(each["dtype"]),
                tuple(int(number) for number in each["shape"]),
                *(8 + length + int(place) for place in each["data_offsets"]),
            )
            for name, each in content.items()
        }
    except (KeyError, TypeError, ValueError) as error:
        raise LoraError(f"{path}: is no safetensors file ({error}); fetch it again") from error
    return FileHeader(path, tensors, {str(k): str(v) for k, v in metadata.items()})


def refuse_pickle(path: Path) -> None:
    """Refuse a file that is missing, or that could run code when loaded.

    Raises:
        LoraError: Saying which.
    """
    if not path.is_file():
        raise LoraError(f"{path}: no such file; name a .safetensors file or its folder")
    with path.open("rb") as file:
        start = file.read(16)
    # a header of 640 bytes begins like a pickle, but its JSON follows
    is_header = start[8:9] == b"{"
    begins_so = start[:2] in (b"PK", b"\x80\x02", b"\x80\x04") and not is_header
    if path.suffix.lower() in PICKLE_SUFFIXES or begins_so:
        raise LoraError(f"{path}: a pickle, which can run any code when loaded; {CONVERT}")


def _number(stored: StoredTensor, data: bytes) -> float | None:
    count = 1
    for size in stored.shape:
        count *= size
    if count != 1:
        return None
    if stored.dtype == "BF16":
        return float(struct.unpack("<f", b"\0\0" + data)[0])
    code = _NUMBERS.get(stored.dtype)
    return None if code is None else float(struct.unpack(code, data)[0])

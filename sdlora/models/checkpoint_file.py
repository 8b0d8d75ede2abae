"""The header of a checkpoint in one file: names, dtypes and shapes of its weights, and metadata."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

PICKLES = (".ckpt", ".pt", ".pth", ".bin")
"""Endings of pickle files, which can run code when they are read."""

ENDINGS = (".safetensors", *PICKLES)
"""Endings of single files; other paths are folders or Hub ids."""

_BEGINNINGS = {
    b"PK\x03\x04": "pickle",
    b"\x80\x02": "pickle",
    b"\x80\x04": "pickle",
    b"version https://git-lfs": "a Git LFS pointer, not the file that it stands for; run git lfs "
    "pull in its folder, or download the file itself",
    b"<": "a web page, not a model (a download that asked for a login, or a wrong link); download "
    "the file itself",
    b"{": "a JSON text, not a model (the answer to a download that failed); download the file "
    "itself",
    b"GGUF": "a GGUF file, whose weights are rounded to few bits; take the .safetensors version "
    "of the model",
}
"""First bytes of files that are no safetensors -> what they are, and the remedy."""


class SingleFileError(ValueError):
    """A file that cannot be converted; the message gives reason and remedy."""


@dataclass(frozen=True, slots=True)
class CheckpointHeader:
    """What the header of a ``.safetensors`` file tells.

    Attributes:
        dtypes: Names of weights -> safetensors' names of their dtypes.
        shapes: Names of weights -> their shapes.
        metadata: Free text, such as ModelSpec's ``modelspec.*``.
    """

    dtypes: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    metadata: Mapping[str, str]

    def has(self, *starts: str) -> bool:
        """Whether the name of a weight begins with one of these."""
        return any(name.startswith(starts) for name in self.dtypes)


def read_header(file: Path) -> CheckpointHeader:
    """The header of a file.

    Raises:
        SingleFileError: If it is missing, pickle, damaged, or something else than weights.
    """
    if not file.is_file():
        raise SingleFileError("no such file; give a .safetensors file, a folder or a Hub id")
    if file.suffix in PICKLES:
        raise SingleFileError(pickle_remedy(file))
    try:
        with safe_open(file, "pt") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
            return CheckpointHeader(
                dtypes={name: each.get_dtype() for name, each in slices.items()},
                shapes={name: tuple(each.get_shape()) for name, each in slices.items()},
                metadata=opened.metadata() or {},
            )
    except (SafetensorError, OSError) as error:
        raise SingleFileError(_fault(file, error)) from error


def pickle_remedy(file: Path) -> str:
    """Why a pickle is not read, and the command that converts it.

    torch reads plain weights from it, and refuses whatever could run code.
    """
    target = file.with_suffix(".safetensors")
    return (
        "is pickle, which can run code; take the .safetensors version of the model, or convert "
        "it, which runs no code of it:\n"
        'python -c "import torch; from safetensors.torch import save_file; '
        f"w = torch.load(r'{file}', map_location='cpu', weights_only=True); "
        "w = w.get('state_dict', w); "
        "save_file({k: v.clone().contiguous() for k, v in w.items() if torch.is_tensor(v)}, "
        f"r'{target}')\"\n"
        f"and then use {target}"
    )


def _fault(file: Path, error: Exception) -> str:
    """What a file is that cannot be read as safetensors."""
    wanted, size = _whole_size(file), file.stat().st_size
    if wanted is not None and size < wanted:
        return f"is cut off: {size} of {wanted} bytes are there; fetch it again"
    with file.open("rb") as opened:
        first = opened.read(64).lstrip()
    if not first:
        return "is empty; fetch it again"
    is_length = b"\0" in first[:8] and first[:1] in b"<{\x80"  # of a damaged header
    known = next((what for start, what in _BEGINNINGS.items() if first.startswith(start)), None)
    if known == "pickle" and not is_length:
        return (
            "is pickle in spite of its name; rename it to "
            f"{file.with_suffix('.ckpt').name}, and name that: a message then has the command that "
            "converts it"
        )
    if known is not None and not is_length:
        return f"is {known}"
    return f"cannot be read ({error}); fetch it again"


def _whole_size(file: Path) -> int | None:
    """The size of the whole file by its header; ``None`` if that cannot be read."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if not 0 < length <= file.stat().st_size - 8:
            return None
        try:
            header = json.loads(opened.read(length))
            ends = [v["data_offsets"][1] for k, v in header.items() if k != "__metadata__"]
        except (ValueError, KeyError, TypeError, IndexError):
            return None
    return 8 + length + max(ends, default=0)

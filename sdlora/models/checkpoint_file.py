"""The header of a checkpoint in one file: names, dtypes and shapes of its weights, and metadata."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from sdlora.weights.soundness import PICKLE, fault, remedy

PICKLES = (".ckpt", ".pt", ".pth", ".bin")
"""Endings of pickle files, which can run code when they are read."""

ENDINGS = (".safetensors", *PICKLES)
"""Endings of single files; other paths are folders or Hub ids."""


HALVES = {"F16": torch.float16, "BF16": torch.bfloat16}
"""Names of half precision dtypes in safetensors."""


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
        what = fault(file) or f"cannot be read ({error})"
        way = _renamed(file) if what == PICKLE else remedy(what)
        raise SingleFileError(f"{what}; {way}") from error


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


def _renamed(file: Path) -> str:
    """The remedy for a pickle whose name says that it is none."""
    return (
        f"rename it to {file.with_suffix('.ckpt').name}, and name that: a message then has the "
        "command that converts it"
    )

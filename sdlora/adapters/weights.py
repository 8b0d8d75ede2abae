"""Safetensors files of adapter weights: written whole with a checksum, checked when read."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from sdlora.adapters.file_header import refuse_pickle
from sdlora.adapters.peft_config import DIFFUSERS_CONFIG
from sdlora.adapters.spec import LoraError, listing
from sdlora.runtime.files import write_bytes
from sdlora.weights.soundness import fault, remedy

SEAL = "sdlora_sha256"
MAX_METADATA_BYTES = 16 * 2**20


def write_weights(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], config: str = ""
) -> None:
    """Write tensors and metadata, whole or not at all, with a checksum in the header.

    Args:
        path: The ``.safetensors`` file.
        tensors: Tensors by key, on any device.
        metadata: Strings for the header.
        config: Text of a config file of the weights, included in the checksum.

    Raises:
        LoraError: If a tensor holds NaN or infinity, or the metadata is not text or too large.
    """
    check_finite(path, tensors)
    check_metadata(path, metadata)
    plain = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    seal = _seal(plain, metadata.get(DIFFUSERS_CONFIG, "") + config)
    write_bytes(path, save(plain, {**metadata, "format": "pt", SEAL: seal}))


def read_weights(
    path: Path, config: str = "", must_be_finite: bool = True
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors and metadata; no code in the file can run.

    Args:
        path: A ``.safetensors`` file, by any trainer.
        config: Text of the config file of the weights, if any.
        must_be_finite: Refuse NaN and infinity.

    Returns:
        Tensors on the CPU, and the header's strings.

    Raises:
        LoraError: If it is missing, a pickle, truncated, altered since this project wrote it, or
            holds NaN or infinity.
    """
    refuse_pickle(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = dict(file.metadata() or {})
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise _no_safetensors(path, error) from error
    if SEAL in metadata:
        seal = _seal(tensors, metadata.get(DIFFUSERS_CONFIG, "") + config)
        if seal != metadata[SEAL]:
            raise LoraError(
                f"{path}: not what was written (its SHA-256 differs); export or copy it again"
            )
    if must_be_finite:
        check_finite(path, tensors)
    return tensors, metadata


def check_metadata(path: Path, metadata: Mapping[str, str]) -> None:
    """Refuse strings that no header takes.

    Raises:
        LoraError: If one is not text, or all together are too large.
    """
    wrong = [repr(key) for key, value in metadata.items() if not isinstance(value, str)]
    if wrong:
        raise LoraError(f"{path}: metadata must be text; these are not: {', '.join(wrong)}")
    size = sum(len(k.encode()) + len(v.encode()) for k, v in metadata.items())
    if size > MAX_METADATA_BYTES:
        raise LoraError(
            f"{path}: {size} bytes of metadata, more than {MAX_METADATA_BYTES}; leave out the "
            "longest (a thumbnail?)"
        )


def check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that hold NaN or infinity.

    Raises:
        LoraError: Naming them.
    """
    bad = [key for key, value in tensors.items() if not torch.isfinite(value.float()).all()]
    if bad:
        raise LoraError(
            f"{path}: NaN or infinity in {len(bad)} tensors{listing(bad)}\n"
            "Its training diverged; use an earlier checkpoint."
        )


def _seal(tensors: Mapping[str, Tensor], config: str) -> str:
    digest = hashlib.sha256(config.encode())
    for key in sorted(tensors):
        value = tensors[key].contiguous()
        digest.update(f"\0{key}\0{value.dtype}\0{list(value.shape)}\0".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _no_safetensors(path: Path, error: Exception) -> LoraError:
    """What a file is that cannot be read, and what to do."""
    what = fault(path) or f"cannot be read ({error})"
    return LoraError(f"{path}: {what}; {remedy(what)}")

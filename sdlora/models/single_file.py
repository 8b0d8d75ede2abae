"""Conversion of checkpoints in one file to folders in the diffusers layout, once into the cache.

The files hold weights under the names of the original code, but neither configs nor tokenizers;
those come from a folder in the diffusers layout.
"""

import hashlib
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from diffusers.loaders.single_file_utils import SingleFileComponentError
from diffusers.utils import logging as diffusers_logging
from filelock import FileLock
from safetensors import SafetensorError, safe_open

from sdlora.models.families import description_of, families
from sdlora.runtime.files import file_mark, user_cache_folder, whole_folder

PICKLES = (".ckpt", ".pt", ".pth", ".bin")
"""Endings of pickle files, which can run code when they are read."""

ENDINGS = (".safetensors", *PICKLES)
"""Endings of single files; other paths are folders or Hub ids."""

_HALVES = {"F16": torch.float16, "BF16": torch.bfloat16}
"""Names of half precision dtypes in safetensors."""

_PARTS = {"a VAE": ("first_stage_model.",), "a UNet": ("model.diffusion_model.",)}
"""Parts of a whole checkpoint besides text encoders -> prefixes of their weights."""

_MISFITS = (OSError, ValueError, KeyError, AttributeError, RuntimeError)
"""Errors of diffusers for unexpected names, shapes or configs."""


class SingleFileError(ValueError):
    """A file that cannot be converted; the message gives reason and remedy."""


def converted_model(
    file: Path, family: str, config: str, config_folder: Callable[[], Path]
) -> Path:
    """The converted folder of a whole model in one file.

    Args:
        file: A ``.safetensors`` file with the original code's names.
        family: ``model.family``.
        config: ``model.config``, part of the cache key with the files in it.
        config_folder: Returns the folder with configs and tokenizers; not called if the file was
            converted before.

    Returns:
        A folder in the diffusers layout, in the user's cache, in the precision of the file (float32
        if it has several).

    Raises:
        SingleFileError: If it is missing, pickle, damaged, a LoRA, a part of a model, of another
            family, or does not fit the configs.
    """
    dtypes = _dtypes(file)
    _check_whole(dtypes, family)
    load = description_of(family).from_single_file
    assert load is not None, "the check refuses families that have no such files"

    def convert() -> Any:
        configs = str(config_folder())
        return _load(partial(load, str(file), config=configs, **_how(dtypes)))

    return _converted(file, family, config, convert)


def converted_vae(file: Path, base: Path) -> Path:
    """The converted folder of a VAE in one file, alone or in a checkpoint.

    Args:
        file: A ``.safetensors`` file with the original code's names.
        base: The model that uses it, in the diffusers layout; the config of its own VAE gives the
            shape.

    Raises:
        SingleFileError: If it is missing, pickle, damaged, or has another shape.
    """
    settings = {"config": str(base), "subfolder": "vae", **_how(_dtypes(file))}
    load = partial(AutoencoderKL.from_single_file, str(file), **settings)
    return _converted(file, "vae", str(base / "vae"), partial(_load, load))


def _how(dtypes: Mapping[str, str]) -> dict[str, Any]:
    """Options of loading: without network, in the precision of all weights, or else float32."""
    precisions = {dtype for dtype in dtypes.values() if not dtype.startswith(("I", "U"))}
    only = precisions.pop() if len(precisions) == 1 else "F32"
    return {"torch_dtype": _HALVES.get(only, torch.float32), "local_files_only": True}


def _check_whole(names: Collection[str], family: str) -> None:
    """Check by the names of the weights that it is a whole checkpoint of the family."""
    if any("lora_" in name for name in names):
        raise SingleFileError(
            "is a LoRA, not a model; name the model that it belongs to (to score it: "
            "sdlora evaluate lora=FILE)"
        )
    by_text = {each.single_file_text: each for each in families().values() if each.from_single_file}
    for what, starts in {**_PARTS, "a text encoder": tuple(by_text)}.items():
        if not any(name.startswith(starts) for name in names):
            raise SingleFileError(
                f"holds no weights of {what} ({starts[0]}*), so it is no whole checkpoint of the "
                "original code; take one that is, or a folder in the diffusers layout"
            )
    found = next(
        each for start, each in by_text.items() if any(name.startswith(start) for name in names)
    )
    wanted = description_of(family)
    if found.single_file_text != wanted.single_file_text:
        raise SingleFileError(
            f"is a checkpoint of {found.kind}, no {wanted.kind}; set model.family={found.name}"
        )


def _dtypes(file: Path) -> dict[str, str]:
    """Names and safetensors dtypes of a file's weights, from its header."""
    if not file.is_file():
        raise SingleFileError("no such file; give a .safetensors file, a folder or a Hub id")
    if file.suffix in PICKLES:
        raise SingleFileError(
            "is pickle, which can run code; take the .safetensors version of the model"
        )
    try:
        with safe_open(file, "pt") as opened:
            return {name: opened.get_slice(name).get_dtype() for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise SingleFileError(f"cannot be read ({error}); fetch it again") from error


def _converted(file: Path, what: str, config: str, convert: Callable[[], Any]) -> Path:
    """The folder of the converted file, from the cache or made by ``convert``."""
    configs = [path for path in Path(config).expanduser().rglob("*") if path.is_file()]
    marks = [file_mark(path) for path in (file, *sorted(configs))]
    key = hashlib.sha256(repr((what, config, marks)).encode()).hexdigest()[:16]
    folder = user_cache_folder() / "models" / f"{file.stem}-{key}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):  # the processes of a run on several GPUs all come here
        if not folder.is_dir():
            with whole_folder(folder) as temporary:
                convert().save_pretrained(temporary, safe_serialization=True)
    return folder


def _load(load: Callable[[], Any]) -> Any:
    """The converted model; an error if a weight is not in the file."""
    diffusers_logging.disable_progress_bar()  # it would draw over the run's own bars
    try:
        model = load()
    except NotImplementedError as error:  # of torch: weights without numbers cannot be moved
        raise SingleFileError("lacks some weights of its UNet or VAE; fetch it again") from error
    except (SingleFileComponentError, *_MISFITS) as error:
        reason = str(error).partition(". ")[0]  # then advice on diffusers' own arguments
        raise SingleFileError(
            f"does not fit the configs that it is read with ({reason}); name its architecture's "
            "with model.config"
        ) from error
    for name, part in getattr(model, "components", {"vae": model}).items():
        parameters = part.named_parameters() if hasattr(part, "named_parameters") else ()
        missing = [key for key, value in parameters if value.is_meta]
        if missing:
            raise SingleFileError(
                f"lacks {len(missing)} weights of its {name} ({', '.join(missing[:3])}); fetch it "
                "again"
            )
    return model

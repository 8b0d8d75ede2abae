"""Conversion of checkpoints in one file to folders in the diffusers layout, once into the cache.

The files hold weights under the names of the original code, but neither configs nor tokenizers;
those come from a folder in the diffusers layout.
"""

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from diffusers.loaders.single_file_utils import (
    SingleFileComponentError,
    convert_ldm_vae_checkpoint,
)
from diffusers.utils import logging as diffusers_logging
from filelock import FileLock
from safetensors.torch import load_file, save_file

from sdlora.models.checkpoint_file import HALVES, CheckpointHeader, SingleFileError, read_header
from sdlora.models.checkpoint_kind import VAE, check_kind
from sdlora.models.families import description_of
from sdlora.runtime.files import file_mark, user_cache_folder, whole_folder, write_text

_MISFITS = (OSError, ValueError, KeyError, AttributeError, RuntimeError)
"""Errors of diffusers for unexpected names, shapes or configs."""

_BUFFERS = ("denoiser.",)
"""Noise levels, which say nothing of the weights' precision, as names without a dot do not."""

_OLD_CLIP = re.compile(
    r"(?P<start>(cond_stage_model|conditioner\.embedders\.0)\.transformer\.)"
    r"(?P<rest>(embeddings|encoder|final_layer_norm)\.)"
)
"""Weights of CLIP as transformers named them before 4.31, without ``text_model.``."""


def converted_model(
    file: Path,
    family: str,
    config: str,
    config_folder: Callable[[], Path],
    has_vae: bool = False,
) -> Path:
    """The converted folder of a whole model in one file.

    Args:
        file: A ``.safetensors`` file with the original code's names.
        family: ``model.family``.
        config: ``model.config``, part of the cache key with the files in it.
        config_folder: Returns the folder with configs and tokenizers; not called if the file was
            converted before.
        has_vae: Whether another VAE takes the place of the file's own, which may be missing then.

    Returns:
        A folder in the diffusers layout, in the user's cache, in the precision of the file (float32
        if it has several). A VAE that the file does not hold has its config there alone.

    Raises:
        SingleFileError: If it is missing, pickle, damaged, a LoRA, a part of a model, of another
            family, or does not fit the configs.
    """
    header = read_header(file)
    check_kind(header, family, has_vae, str(file))
    load = description_of(family).from_single_file
    assert load is not None, "the check refuses families that have no such files"
    own_vae: dict[str, Any] = {} if header.has(VAE) else {"vae": None}

    def write(folder: Path) -> None:
        configs = config_folder()
        with _newly_spelled(file, header) as source, _quiet():
            settings = {"config": str(configs), **own_vae, **_how(header.dtypes)}
            model = _load(partial(load, str(source), **settings))
            model.save_pretrained(folder, safe_serialization=True)
        if own_vae:
            _add_vae_config(folder, configs)

    return _converted(file, family, config, write)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep diffusers' advice out of the log: a fault is an error here."""
    before = diffusers_logging.get_verbosity()
    diffusers_logging.set_verbosity_error()
    try:
        yield
    finally:
        diffusers_logging.set_verbosity(before)


def _add_vae_config(folder: Path, configs: Path) -> None:
    """Give a pipeline without VAE the config of one; its weights come from elsewhere."""
    (folder / "vae").mkdir()
    shutil.copy(configs / "vae/config.json", folder / "vae/config.json")
    index, named = (
        json.loads((place / "model_index.json").read_text("utf-8")) for place in (folder, configs)
    )
    write_text(folder / "model_index.json", json.dumps(index | {"vae": named["vae"]}, indent=2))


def converted_vae(file: Path, base: Path, kind: Any = AutoencoderKL) -> Path:
    """The converted folder of a VAE in one file, alone or in a checkpoint.

    Args:
        file: A ``.safetensors`` file with the original code's names.
        base: The model that uses it, in the diffusers layout; the config of its own VAE gives the
            shape.
        kind: Its class.

    Raises:
        SingleFileError: If it is missing, pickle, damaged, or has another shape.
    """
    settings = {"config": str(base), "subfolder": "vae", **_how(read_header(file).dtypes)}
    load = partial(AutoencoderKL.from_single_file, str(file), **settings)
    if kind is not AutoencoderKL:  # whose classes diffusers does not convert by itself
        load = partial(_converted_of, kind, file, base, settings["torch_dtype"])

    def write(folder: Path) -> None:
        with _quiet():
            _load(load).save_pretrained(folder, safe_serialization=True)

    return _converted(file, "vae", str(base / "vae"), write)


def _converted_of(kind: Any, file: Path, base: Path, dtype: torch.dtype) -> Any:
    """A VAE with the blocks of ``AutoencoderKL`` and further entries of its own, such as ``bn``."""
    config = kind.load_config(base, subfolder="vae")
    weights = load_file(file)
    found = weights
    if not any("down_blocks." in name for name in weights):
        found = convert_ldm_vae_checkpoint(dict(weights), config)
        found |= {name: value for name, value in weights.items() if name.startswith("bn.")}
    model = kind.from_config(config).to(dtype)
    missing, others = model.load_state_dict(found, strict=False)
    wrong = [*others, *(name for name in missing if not name.endswith("num_batches_tracked"))]
    if wrong:
        raise ValueError(f"{len(wrong)} names of weights do not fit, such as {wrong[0]}")
    return model


def _how(dtypes: Mapping[str, str]) -> dict[str, Any]:
    """Options of loading: without network, in the precision of all weights, or else float32."""
    weights = {name: dtype for name, dtype in dtypes.items() if not name.startswith(_BUFFERS)}
    precisions = {
        dtype for name, dtype in weights.items() if "." in name and not dtype.startswith(("I", "U"))
    }
    only = precisions.pop() if len(precisions) == 1 else "F32"
    return {"torch_dtype": HALVES.get(only, torch.float32), "local_files_only": True}


@contextmanager
def _newly_spelled(file: Path, header: CheckpointHeader) -> Iterator[Path]:
    """The file, or inside the block a copy whose text encoder has the names that diffusers knows.

    Yields:
        Its path.
    """
    if not any(_OLD_CLIP.match(name) for name in header.dtypes):
        yield file
        return
    with tempfile.TemporaryDirectory(dir=user_cache_folder()) as folder:
        renamed = Path(folder) / file.name
        weights = {
            _OLD_CLIP.sub(r"\g<start>text_model.\g<rest>", name, count=1): value
            for name, value in load_file(file).items()
        }
        save_file(weights, renamed)
        del weights
        yield renamed


def _converted(file: Path, what: str, config: str, write: Callable[[Path], None]) -> Path:
    """The folder of the converted file, from the cache or filled by ``write``."""
    configs = [path for path in Path(config).expanduser().rglob("*") if path.is_file()]
    marks = [file_mark(path) for path in (file, *sorted(configs))]
    key = hashlib.sha256(repr((what, config, marks)).encode()).hexdigest()[:16]
    folder = user_cache_folder() / "models" / f"{file.stem}-{key}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):  # the processes of a run on several GPUs all come here
        if not folder.is_dir():
            with whole_folder(folder) as temporary:
                write(temporary)
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

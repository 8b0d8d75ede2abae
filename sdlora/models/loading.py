"""Find a base model, check that it is whole, and load its parts."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import SafetensorError
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from sdlora.models.sd import StableDiffusion

EMBEDDED = "embedded:"
"""A path that begins so names a folder inside the package's own assets."""

_PARTS = ("vae", "text_encoder", "unet")
_WEIGHTS = {
    "vae": "diffusion_pytorch_model",
    "unet": "diffusion_pytorch_model",
    "text_encoder": "model",
}


class ModelError(ValueError):
    """A base model that is missing, not whole, or of another kind; the message says what to do."""


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a base model comes from and how it is held.

    Attributes:
        path: Hub id, local folder in the diffusers layout, or ``embedded:NAME``.
        revision: Hub branch, tag or commit; ``None`` for the default branch.
        variant: Weight file variant, e.g. ``"fp16"``.
        frozen_dtype: Precision in which weights that do not train are kept.
        trained: Parts whose own weights train; they are kept in float32.
        scratch: Parts that start from random weights instead of the files'.
        clip_skip: Last text-encoder layers to leave out.
    """

    path: str
    revision: str | None = None
    variant: str | None = None
    frozen_dtype: torch.dtype = torch.float32
    trained: tuple[str, ...] = ()
    scratch: tuple[str, ...] = ()
    clip_skip: int = 0


def families() -> dict[str, Callable[[ModelSource, int], StableDiffusion]]:
    """Model families by name: the built-in ones, and those that installed packages add."""
    added = {entry.name: entry.load() for entry in entry_points(group="sdlora.models")}
    return {"sd": load_stable_diffusion, **added}


def load_stable_diffusion(source: ModelSource, seed: int) -> StableDiffusion:
    """Load SD 1.x / 2.x, or any model of its layout.

    Args:
        source: Where from, and in which precision.
        seed: For the parts that start from random weights.

    Raises:
        ModelError: If a file is missing or not whole, or the model is of another kind; the message
            names it.
    """
    folder = resolve(source)
    check_folder(folder, source)
    parts: dict[str, Any] = {name: _load_part(name, folder, source, seed) for name in _PARTS}
    _check_kind(source, **{name: part.config for name, part in parts.items()})
    return StableDiffusion(
        tokenizer=load_tokenizer(folder),
        noise_schedule_config=noise_schedule_config(source),
        clip_skip=source.clip_skip,
        **parts,
    )


def noise_schedule_config(source: ModelSource) -> dict[str, Any]:
    """The model's ``scheduler_config.json``; reads no weight.

    Raises:
        ModelError: If it is missing or no JSON.
    """
    path = resolve(source) / "scheduler/scheduler_config.json"
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        fault = "is missing" if isinstance(error, OSError) else "is no JSON"
        raise ModelError(
            f"model.path={source.path}: scheduler/scheduler_config.json {fault} ({error}); "
            "fetch it again"
        ) from error


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    """The tokenizer alone, of a whole folder; captions are checked with it before any weight."""
    return CLIPTokenizer.from_pretrained(folder / "tokenizer")


def pixel_steps(folder: Path) -> tuple[int, int]:
    """Pixels to one latent along a side, and what sides must be multiples of; reads no weight."""
    scale, halvings = (
        2 ** (len(json.loads((folder / name).read_text("utf-8"))["block_out_channels"]) - 1)
        for name in ("vae/config.json", "unet/config.json")
    )
    return scale, scale * halvings


def resolve(source: ModelSource) -> Path:
    """The local folder of a base model, fetched from the Hub if it is an id.

    Raises:
        ModelError: If it is neither a folder nor a Hub id that can be fetched.
    """
    if source.path.startswith(EMBEDDED):
        return Path(str(resources.files("sdlora") / "assets" / source.path.removeprefix(EMBEDDED)))
    if Path(source.path).expanduser().is_dir():
        return Path(source.path).expanduser()
    if source.path.count("/") != 1 or source.path.startswith((".", "/", "~")):
        raise ModelError(
            f"model.path={source.path}: no such folder; give a folder in the diffusers layout "
            "(it holds model_index.json), or a Hub id such as owner/name"
        )
    return _fetch(source)


def check_folder(folder: Path, source: ModelSource) -> None:
    """Fail with the name of the first file that a whole pipeline would have and this one lacks."""
    whole = (folder / "tokenizer/tokenizer.json").is_file()  # else the older pair of files
    vocabulary = () if whole else ("tokenizer/vocab.json", "tokenizer/merges.txt")
    for name in (
        "model_index.json",
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer_config.json",
        *vocabulary,  # without one, transformers makes an empty tokenizer and says nothing
    ):
        if not (folder / name).is_file():
            raise ModelError(
                f"model.path={source.path}: {name} is missing in {folder}; the folder must be a "
                "whole pipeline in the diffusers layout (half a download? fetch it again)"
            )
    for part in _PARTS:
        _check_part(part, folder, source)


def _check_part(part: str, folder: Path, source: ModelSource) -> None:
    where = f"model.path={source.path}: {part}"
    if not (folder / part / "config.json").is_file():
        raise ModelError(f"{where}/config.json is missing in {folder}; fetch the model again")
    if part in source.scratch:
        return
    stem = _WEIGHTS[part] + (f".{source.variant}" if source.variant else "")
    names = [path.name for path in (folder / part).glob(f"{_WEIGHTS[part]}*.safetensors")]
    shard = re.compile(rf"{re.escape(_WEIGHTS[part])}.*-\d+-of-\d+.*\.safetensors")
    if any(name == f"{stem}.safetensors" or shard.fullmatch(name) for name in names):
        return
    if any((folder / part).glob("*.bin")):
        raise ModelError(
            f"{where} has only .bin weights, which are pickle and can run code; convert them with "
            "pipeline.save_pretrained(folder, safe_serialization=True)"
        )
    there = f" (there is {', '.join(sorted(names))})" if names else ""
    raise ModelError(
        f"{where}/{stem}.safetensors is missing in {folder}{there}; fetch it, or set model.variant"
    )


def _check_kind(source: ModelSource, *, vae: Any, text_encoder: Any, unet: Any) -> None:
    """Refuse what has the layout but not the shape: SDXL, inpainting, parts of two models."""
    for what, has, needs in (
        ("unet's in_channels", unet.in_channels, vae.latent_channels),
        ("unet's cross_attention_dim", unet.cross_attention_dim, text_encoder.hidden_size),
    ):
        if has != needs:
            raise ModelError(
                f"model.path={source.path}: {what} is {has}, where vae and text_encoder give "
                f"{needs}: no text-to-image Stable Diffusion 1.x or 2.x; choose another model"
            )


def _fetch(source: ModelSource) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = ["*.json", "*.txt", "*.safetensors", "*.model"]
    try:
        return Path(
            snapshot_download(source.path, revision=source.revision, allow_patterns=patterns)
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"model.path={source.path}: not a local folder, and it could not be fetched from the "
            f"Hub ({type(error).__name__}); check the id, log in if it is gated, or give a folder"
        ) from error


def _load_part(name: str, folder: Path, source: ModelSource, seed: int) -> nn.Module:
    if name in source.scratch:
        return _random_part(name, folder, seed)
    classes: dict[str, Any] = {
        "vae": AutoencoderKL,
        "text_encoder": CLIPTextModel,
        "unet": UNet2DConditionModel,
    }
    dtype = "dtype" if name == "text_encoder" else "torch_dtype"
    where = f"model.path={source.path}: {name}"
    try:
        part, report = classes[name].from_pretrained(
            folder / name,
            variant=source.variant,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            **{dtype: torch.float32 if name in source.trained else source.frozen_dtype},
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{where} cannot be loaded ({error}); fetch it again") from error
    if report["missing_keys"]:  # the libraries would go on with random weights there
        keys = sorted(report["missing_keys"])
        raise ModelError(
            f"{where}: its files lack {len(keys)} weights ({', '.join(keys[:3])}); fetch it again"
        )
    return part


def _random_part(name: str, folder: Path, seed: int) -> nn.Module:
    """Random float32 weights, a function of the seed; the caller's generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name == "text_encoder":
            return CLIPTextModel(CLIPTextConfig.from_pretrained(folder / name))
        model = {"vae": AutoencoderKL, "unet": UNet2DConditionModel}[name]
        return model.from_config(model.load_config(folder / name))

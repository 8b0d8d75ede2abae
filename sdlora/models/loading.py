"""Find a base model, check that it is whole, and load its parts."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import SafetensorError
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from sdlora.models.family import Family
from sdlora.models.sd import StableDiffusion
from sdlora.models.sdxl import StableDiffusionXL

EMBEDDED = "embedded:"
"""A path that begins so names a folder inside the package's own assets."""

_CLASSES: dict[str, Any] = {
    "vae": AutoencoderKL,
    "unet": UNet2DConditionModel,
    "text_encoder": CLIPTextModel,
    "text_encoder_2": CLIPTextModelWithProjection,
}
_PARTS = {
    "sd": ("vae", "text_encoder", "unet"),
    "sdxl": ("vae", "text_encoder", "text_encoder_2", "unet"),
}
"""Family -> what has weights."""


def _stem(part: str) -> str:
    """Name of a part's weight file: transformers' or diffusers'."""
    return "model" if part.startswith("text_encoder") else "diffusion_pytorch_model"


class ModelError(ValueError):
    """A base model that is missing, not whole, or of another kind; the message says what to do."""


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a base model comes from and how it is held.

    Attributes:
        path: Hub id, local folder in the diffusers layout, or ``embedded:NAME``.
        family: A key of :func:`families`.
        revision: Hub branch, tag or commit; ``None`` for the default branch.
        variant: Weight file variant, e.g. ``"fp16"``.
        frozen_dtype: Precision in which weights that do not train are kept.
        trained: Parts whose own weights train; they are kept in float32.
        scratch: Parts that start from random weights instead of the files'.
        clip_skip: Last text-encoder layers to leave out.
        vae: Another VAE in place of the model's own: Hub id, or folder with its ``config.json``.
        vae_dtype: Precision of the VAE; ``None``: ``frozen_dtype``.
    """

    path: str
    family: str = "sd"
    revision: str | None = None
    variant: str | None = None
    frozen_dtype: torch.dtype = torch.float32
    trained: tuple[str, ...] = ()
    scratch: tuple[str, ...] = ()
    clip_skip: int = 0
    vae: str | None = None
    vae_dtype: torch.dtype | None = None


def families() -> dict[str, Callable[[ModelSource, int], Family]]:
    """Model families by name: the built-in ones, and those that installed packages add."""
    added = {entry.name: entry.load() for entry in entry_points(group="sdlora.models")}
    return {"sd": load_stable_diffusion, "sdxl": load_stable_diffusion_xl, **added}


def part_names(family: str) -> tuple[str, ...]:
    """Parts with weights, the VAE first; an installed family is laid out as SD is."""
    return _PARTS.get(family, _PARTS["sd"])


def tokenizer_names(family: str) -> list[str]:
    """A tokenizer for each text encoder."""
    encoders = [part for part in part_names(family) if part.startswith("text_encoder")]
    return [part.replace("text_encoder", "tokenizer") for part in encoders]


def load_stable_diffusion(source: ModelSource, seed: int) -> StableDiffusion:
    """Load SD 1.x / 2.x, or any model of its layout.

    Args:
        source: Where from, and in which precision.
        seed: For the parts that start from random weights.

    Raises:
        ModelError: If a file is missing or not whole, or the model is of another kind; the message
            names it.
    """
    folder, parts = _load_parts(source, seed)
    widths = [parts["text_encoder"].config.hidden_size]
    _check_kind(source, parts, widths, "Stable Diffusion 1.x or 2.x")
    return StableDiffusion(
        tokenizer=load_tokenizers(folder, source.family)[0],
        noise_schedule_config=noise_schedule_config(source),
        clip_skip=source.clip_skip,
        **parts,
    )


def load_stable_diffusion_xl(source: ModelSource, seed: int) -> StableDiffusionXL:
    """Load SDXL, or any model of its layout; arguments and errors as for SD."""
    folder, parts = _load_parts(source, seed)
    encoders = (parts["text_encoder"], parts["text_encoder_2"])
    widths = [encoder.config.hidden_size for encoder in encoders]
    _check_kind(source, parts, widths, "Stable Diffusion XL")
    tokenizer, tokenizer_2 = load_tokenizers(folder, source.family)
    return StableDiffusionXL(
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        noise_schedule_config=noise_schedule_config(source),
        clip_skip=source.clip_skip,
        **parts,
    )


def _load_parts(source: ModelSource, seed: int) -> tuple[Path, dict[str, Any]]:
    folder = resolve(source)
    check_folder(folder, source)
    names = part_names(source.family)
    return folder, {name: _load_part(name, folder, source, seed) for name in names}


def noise_schedule_config(source: ModelSource) -> dict[str, Any]:
    """The model's ``scheduler_config.json``; reads no weight.

    Raises:
        ModelError: If it is missing or no JSON.
    """
    path = resolve(source) / "scheduler/scheduler_config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        fault = "is missing" if isinstance(error, OSError) else "is no JSON"
        raise ModelError(
            f"model.path={source.path}: scheduler/scheduler_config.json {fault} ({error}); "
            "fetch it again"
        ) from error
    return config


def load_tokenizers(folder: Path, family: str) -> list[CLIPTokenizer]:
    """The tokenizers alone, of a whole folder; captions are checked with them before any weight."""
    return [CLIPTokenizer.from_pretrained(folder / name) for name in tokenizer_names(family)]


def part_folder(part: str, base: Path, source: ModelSource) -> Path:
    """Where the files of a part lie; a VAE of its own lies elsewhere.

    Raises:
        ModelError: If that VAE is neither a folder nor a Hub id that can be fetched.
    """
    if part != "vae" or source.vae is None:
        return base / part
    own = resolve(ModelSource(source.vae, revision=None), key="model.vae")
    return own if (own / "config.json").is_file() else own / "vae"


def pixel_steps(folder: Path) -> tuple[int, int]:
    """Pixels to one latent along a side, and what sides must be multiples of; reads no weight."""
    scale, halvings = (
        2 ** (len(json.loads((folder / name).read_text("utf-8"))["block_out_channels"]) - 1)
        for name in ("vae/config.json", "unet/config.json")
    )
    return scale, scale * halvings


def resolve(source: ModelSource, key: str = "model.path") -> Path:
    """The local folder of a base model, fetched from the Hub if it is an id.

    Args:
        source: Where from.
        key: Of the config, that names it; for messages.

    Raises:
        ModelError: If it is neither a folder nor a Hub id that can be fetched.
    """
    if source.path.startswith(EMBEDDED):
        return Path(str(resources.files("sdlora") / "assets" / source.path.removeprefix(EMBEDDED)))
    if Path(source.path).expanduser().is_dir():
        return Path(source.path).expanduser()
    if source.path.count("/") != 1 or source.path.startswith((".", "/", "~")):
        raise ModelError(
            f"{key}={source.path}: no such folder; give a folder in the diffusers layout "
            "(it holds model_index.json), or a Hub id such as owner/name"
        )
    return _fetch(source, key)


def check_folder(folder: Path, source: ModelSource) -> None:
    """Fail with the name of the first file that a whole pipeline would have and this one lacks."""
    wanted = ["model_index.json", "scheduler/scheduler_config.json"]
    for tokenizer in tokenizer_names(source.family):
        wanted.append(f"{tokenizer}/tokenizer_config.json")
        # without a vocabulary, transformers makes an empty tokenizer and says nothing
        if not (folder / tokenizer / "tokenizer.json").is_file():
            wanted += [f"{tokenizer}/vocab.json", f"{tokenizer}/merges.txt"]  # the older pair
    for name in wanted:
        if not (folder / name).is_file():
            raise ModelError(
                f"model.path={source.path}: {name} is missing in {folder}; the folder must be a "
                "whole pipeline in the diffusers layout (half a download? fetch it again)"
            )
    for part in part_names(source.family):
        _check_part(part, folder, source)


def _check_part(part: str, folder: Path, source: ModelSource) -> None:
    own = part == "vae" and source.vae is not None
    where = f"model.vae={source.vae}:" if own else f"model.path={source.path}: {part}/"
    place = part_folder(part, folder, source)
    if not (place / "config.json").is_file():
        raise ModelError(f"{where}config.json is missing in {place.parent}; fetch the model again")
    if part in source.scratch:
        return
    variant = None if own else source.variant
    stem = _stem(part) + (f".{variant}" if variant else "")
    names = [path.name for path in place.glob(f"{_stem(part)}*.safetensors")]
    shard = re.compile(rf"{re.escape(_stem(part))}.*-\d+-of-\d+.*\.safetensors")
    if any(name == f"{stem}.safetensors" or shard.fullmatch(name) for name in names):
        return
    if any(place.glob("*.bin")):
        raise ModelError(
            f"{where.removesuffix('/')} has only .bin weights, which are pickle and can run code; "
            "convert them with pipeline.save_pretrained(folder, safe_serialization=True)"
        )
    there = f" (there is {', '.join(sorted(names))})" if names else ""
    raise ModelError(
        f"{where}{stem}.safetensors is missing in {place.parent}{there}; fetch it, or set "
        "model.variant"
    )


def _check_kind(
    source: ModelSource, parts: Mapping[str, Any], widths: Sequence[int], kind: str
) -> None:
    """Refuse what has the layout but not the shape: another family, inpainting, a mixture."""
    unet, vae = parts["unet"].config, parts["vae"].config
    sized = unet.get("addition_embed_type") == "text_time"
    if sized != (source.family == "sdxl"):
        other = "sdxl" if sized else "sd"
        raise ModelError(
            f"model.path={source.path}: its UNet is {'' if sized else 'not '}told the sizes of "
            f"pictures, as SDXL's is: no {kind}; set model.family={other}"
        )
    for what, has, needs in (
        ("unet's in_channels", unet.in_channels, vae.latent_channels),
        ("unet's cross_attention_dim", unet.cross_attention_dim, sum(widths)),
    ):
        if has != needs:
            raise ModelError(
                f"model.path={source.path}: {what} is {has}, where vae and text encoders give "
                f"{needs}: no text-to-image {kind}; choose another model"
            )


def _fetch(source: ModelSource, key: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = ["*.json", "*.txt", "*.safetensors", "*.model"]
    try:
        return Path(
            snapshot_download(source.path, revision=source.revision, allow_patterns=patterns)
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"{key}={source.path}: not a local folder, and it could not be fetched from the "
            f"Hub ({type(error).__name__}); check the id, log in if it is gated, or give a folder"
        ) from error


def _load_part(name: str, folder: Path, source: ModelSource, seed: int) -> nn.Module:
    if name in source.scratch:
        return _random_part(name, folder, seed)
    own = name == "vae" and source.vae is not None
    where = f"model.vae={source.vae}" if own else f"model.path={source.path}: {name}"
    frozen = source.vae_dtype if name == "vae" and source.vae_dtype else source.frozen_dtype
    argument = "dtype" if name.startswith("text_encoder") else "torch_dtype"
    try:
        part, report = _CLASSES[name].from_pretrained(
            part_folder(name, folder, source),
            variant=None if own else source.variant,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            **{argument: torch.float32 if name in source.trained else frozen},
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
        if name.startswith("text_encoder"):
            return _CLASSES[name](CLIPTextConfig.from_pretrained(folder / name))
        return _CLASSES[name].from_config(_CLASSES[name].load_config(folder / name))

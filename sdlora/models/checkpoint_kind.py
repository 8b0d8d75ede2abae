"""The kind of a checkpoint in one file, by the names and shapes in its header."""

import json
from pathlib import Path
from typing import Any

from sdlora.models.checkpoint_file import CheckpointHeader, SingleFileError
from sdlora.models.description import FamilyDescription
from sdlora.models.families import description_of, families

UNET = "model.diffusion_model."
VAE = "first_stage_model."
EMA = "model_ema."

OTHER_INPUTS = {
    5: "a depth-conditioned model",
    7: "an upscaling model",
    8: "an InstructPix2Pix model",
    9: "an inpainting model",
}
"""Input channels of UNets that take more than latents (of 4) -> what such a model is."""

IS_REFINER = (
    "is the refiner of Stable Diffusion XL (its one text encoder is OpenCLIP), which only finishes "
    "pictures; train the base: model=sdxl"
)

_OTHERS = {
    ("double_blocks.", f"{UNET}double_blocks.", "transformer.single_transformer_blocks."): "Flux",
    ("joint_blocks.", f"{UNET}joint_blocks."): "Stable Diffusion 3",
    ("control_model.", "controlnet_cond_embedding."): "a ControlNet",
    ("noise_augmentor.",): "Stable unCLIP",
    ("string_to_param", "emb_params"): "a textual inversion",
}
"""First letters of weights' names -> what the file is, where that is not supported."""

_REFINER_TEXT = "conditioner.embedders.0.model."
"""OpenCLIP as the first text encoder, which only SDXL's refiner has."""


def check_kind(header: CheckpointHeader, family: str, has_vae: bool, file: str) -> None:
    """Refuse what is no whole text-to-image checkpoint of the family.

    Args:
        header: Of the file.
        family: ``model.family``.
        has_vae: Whether ``model.vae`` names a VAE, so that the file needs none.
        file: Its path, for commands in messages.

    Raises:
        SingleFileError: Naming what the file is, and the remedy.
    """
    if any("lora_" in name for name in header.dtypes):
        raise SingleFileError(
            "is a LoRA, not a model; name the model that it belongs to (to score it: "
            "sdlora evaluate lora=FILE)"
        )
    _check_transformer(header, file)
    for starts, kind in _OTHERS.items():
        if header.has(*starts):
            raise SingleFileError(f"is {kind}, which is not supported; choose another model")
    _check_inputs(header)
    _check_parts(header, file)
    found, wanted = family_of_file(header), description_of(family)
    assert found is not None, "the check of parts refuses files without a text encoder"
    if found.single_file_text != wanted.single_file_text:
        raise SingleFileError(
            f"is a checkpoint of {found.kind}, no {wanted.kind}; set model.family={found.name}"
        )
    if not (has_vae or header.has(VAE)):
        raise SingleFileError(
            f"holds no VAE ({VAE}*); name one with model.vae: a Hub id, a folder or a file, such "
            f"as model.vae={wanted.usual_vae}"
        )


def family_of_file(header: CheckpointHeader) -> FamilyDescription | None:
    """The family of a whole checkpoint by its text encoders; ``None`` if it has none."""
    return next((each for each in _single_files() if header.has(each.single_file_text)), None)


def check_folder_kind(folder: Path, denoiser: str) -> None:
    """Refuse a folder in the diffusers layout of a model that is no text-to-image model.

    Args:
        folder: Of a latent diffusion model.
        denoiser: Name of its denoiser.

    Raises:
        SingleFileError: Naming what it is, and the remedy.
    """
    index = _json(folder / "model_index.json")
    encoders = [(index.get(name) or [None])[0] for name in ("text_encoder", "text_encoder_2")]
    if encoders[0] is None and encoders[1] is not None:
        raise SingleFileError(IS_REFINER)
    channels = _json(folder / denoiser / "config.json").get("in_channels")
    latent = _json(folder / "vae/config.json").get("latent_channels", 4)
    if channels in OTHER_INPUTS and channels != latent:
        raise SingleFileError(_other_inputs(channels))


def _json(path: Path) -> dict[str, Any]:
    """A file's content; empty if it cannot be read, which other checks name."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _other_inputs(channels: int) -> str:
    return (
        f"is {OTHER_INPUTS[channels]} ({channels} input channels), which cannot be trained here; "
        "train the text-to-image model that it was made from"
    )


def _single_files() -> list[FamilyDescription]:
    return [each for each in families().values() if each.from_single_file]


def _check_inputs(header: CheckpointHeader) -> None:
    """Refuse UNets that take more than noisy latents."""
    if header.has(_REFINER_TEXT):
        raise SingleFileError(IS_REFINER)
    for name in (f"{UNET}input_blocks.0.0.weight", "conv_in.weight"):
        channels = header.shapes.get(name, (0, 0))[1]
        if channels in OTHER_INPUTS:
            raise SingleFileError(_other_inputs(channels))


def _check_transformer(header: CheckpointHeader, file: str) -> None:
    """Refuse a transformer of a family that is read from folders, with the way to use it."""
    for each in families().values():
        if each.lone_transformer is None:
            continue
        own, of_diffusers = each.lone_transformer
        if not header.has(own, f"{UNET}{own}"):
            continue
        what = f"is the transformer of {each.kind}, which is read from a folder"
        use = f"use model.family={each.name} model.path=FOLDER"
        if header.has(of_diffusers):
            raise SingleFileError(
                f"{what}; copy the folder of its base as FOLDER, put this file there as "
                f"{each.denoiser}/diffusion_pytorch_model.safetensors in place of its own, and "
                f"{use}"
            )
        kind = each.parts[each.denoiser].__name__
        raise SingleFileError(
            f"{what}; copy the folder of its base as FOLDER, put this transformer into it:\n"
            f'python -c "from diffusers import {kind} as T; '
            f"T.from_single_file(r'{file}', config='FOLDER', subfolder='{each.denoiser}')"
            f".save_pretrained('FOLDER/{each.denoiser}')\"\n"
            f"and {use}"
        )


def _check_parts(header: CheckpointHeader, file: str) -> None:
    """Refuse a part of a model, with the way to use it."""
    if header.has(UNET) and family_of_file(header):
        return
    if header.has(UNET):
        raise SingleFileError(
            "holds a UNet but no weights of a text encoder ("
            f"{', '.join(f'{each.single_file_text}*' for each in _single_files())}); copy the "
            "folder of its base as FOLDER, put this UNet into it:\n"
            'python -c "from diffusers import UNet2DConditionModel as U; '
            f"U.from_single_file(r'{file}', config='FOLDER', subfolder='unet')"
            ".save_pretrained('FOLDER/unet')\"\n"
            "and use model.path=FOLDER"
        )
    if header.has("down_blocks.") and header.has("conv_in."):
        raise SingleFileError(
            "is a UNet alone, in the diffusers layout; copy the folder of its base as FOLDER, put "
            "this file there as unet/diffusion_pytorch_model.safetensors, and use "
            "model.path=FOLDER"
        )
    if header.has(EMA):
        raise SingleFileError(
            f"holds EMA weights only ({EMA}*), under names of training code; take the version of "
            f"the model whose weights are named {UNET}*"
        )
    if header.has("decoder.conv_in.", f"{VAE}decoder.conv_in."):
        raise SingleFileError(
            f"is a VAE alone; use model.vae={file}, and name with model.path the model that it is "
            "for"
        )
    raise SingleFileError(
        f"holds no weights of a UNet ({UNET}*), so it is no whole checkpoint of the original "
        "code; take one that is, or a folder in the diffusers layout"
    )

"""What lies in the folder of each model family, and which class reads it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from diffusers import AutoencoderKL, UNet2DConditionModel, UNet2DModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from sdlora.models.ddpm import UnconditionalDiffusion
from sdlora.models.family import Family
from sdlora.models.sd import StableDiffusion
from sdlora.models.sdxl import StableDiffusionXL


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A family's folder, in the diffusers layout.

    Attributes:
        kind: What people call such a model.
        make: Its class; takes all parts and tokenizers by name.
        parts: What has weights -> class, the VAE first, if there is one.
        tokenizers: One for each text encoder -> class; none where nothing tells what to draw.
        trainable: Parts that may be trained.
        is_told_sizes: Whether its UNet is told the sizes of pictures.
        blank: A folder without weights, for a UNet that the config describes.
    """

    kind: str
    make: Callable[..., Family]
    parts: Mapping[str, Any]
    tokenizers: Mapping[str, Any]
    trainable: tuple[str, ...]
    is_told_sizes: bool = False
    blank: str | None = None


LAYOUTS = {
    "sd": Layout(
        kind="Stable Diffusion 1.x or 2.x",
        make=StableDiffusion,
        parts={
            "vae": AutoencoderKL,
            "text_encoder": CLIPTextModel,
            "unet": UNet2DConditionModel,
        },
        tokenizers={"tokenizer": CLIPTokenizer},
        trainable=("text_encoder", "unet"),
    ),
    "sdxl": Layout(
        kind="Stable Diffusion XL",
        make=StableDiffusionXL,
        parts={
            "vae": AutoencoderKL,
            "text_encoder": CLIPTextModel,
            "text_encoder_2": CLIPTextModelWithProjection,
            "unet": UNet2DConditionModel,
        },
        tokenizers={"tokenizer": CLIPTokenizer, "tokenizer_2": CLIPTokenizer},
        trainable=("text_encoder", "text_encoder_2", "unet"),
        is_told_sizes=True,
    ),
    "ddpm": Layout(
        kind="unconditional diffusion model of pixels",
        make=UnconditionalDiffusion,
        parts={"unet": UNet2DModel},
        tokenizers={},
        trainable=("unet",),
        blank="embedded:ddpm",
    ),
}
"""Family (``model.family``) -> its layout."""


def layout_of(family: str) -> Layout:
    """The layout of a family; one that an installed package adds is laid out as SD is."""
    return LAYOUTS.get(family, LAYOUTS["sd"])

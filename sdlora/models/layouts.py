"""What lies in the folder of each model family, and which class reads it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from diffusers import (
    AutoencoderKL,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from diffusers.pipelines.kolors.text_encoder import ChatGLMModel
from diffusers.pipelines.kolors.tokenizer import ChatGLMTokenizer
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from sdlora.models.ddpm import UnconditionalDiffusion
from sdlora.models.family import Family
from sdlora.models.kolors import Kolors
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
        blank: A folder without weights, for a UNet that the config describes.
        from_single_file: Reads the original code's layout; ``None``: no model lies in one file.
        is_clip: Whether CLIP reads its captions: then last layers may be left out, and a long
            caption takes several chunks.
        max_tokens: Longest caption in tokens, special ones included; ``None``: as the tokenizer's
            own files say.
    """

    kind: str
    make: Callable[..., Family]
    parts: Mapping[str, Any]
    tokenizers: Mapping[str, Any]
    trainable: tuple[str, ...]
    blank: str | None = None
    from_single_file: Callable[..., Any] | None = None
    is_clip: bool = True
    max_tokens: int | None = None


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
        from_single_file=partial(
            StableDiffusionPipeline.from_single_file,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ),
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
        from_single_file=StableDiffusionXLPipeline.from_single_file,
    ),
    "kolors": Layout(
        kind="Kolors",
        make=Kolors,
        parts={
            "vae": AutoencoderKL,
            "text_encoder": ChatGLMModel,
            "unet": UNet2DConditionModel,
        },
        tokenizers={"tokenizer": ChatGLMTokenizer},
        trainable=("unet",),
        is_clip=False,
        max_tokens=256,  # max_sequence_length of diffusers' KolorsPipeline
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

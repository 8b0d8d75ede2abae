"""The real architectures of flow matching, without tokenizers: Z-Image, FLUX.2 klein."""

from types import SimpleNamespace
from typing import Any

from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2Transformer2DModel,
    ZImageTransformer2DModel,
)
from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3Model

from tests.architectures import FLUX_VAE, KLEIN, QWEN3

CAPTION_TOKENS = 128
"""Of Z-Image's captions; klein's always have 512."""


def z_image() -> Any:
    """Z-Image."""
    return _parts(
        AutoencoderKL(**FLUX_VAE),
        Qwen3Model(Qwen3Config(**QWEN3["4B"])),
        ZImageTransformer2DModel(),  # its defaults are those of the released model
    )


def klein_4b() -> Any:
    """FLUX.2 klein of 4 billion parameters."""
    return _klein("4B", "4B")


def klein_9b() -> Any:
    """FLUX.2 klein of 9 billion parameters."""
    return _klein("9B", "8B")


def _klein(size: str, text_size: str) -> Any:
    text = Qwen3ForCausalLM(Qwen3Config(**QWEN3[text_size]))
    width = 3 * int(text.config.hidden_size)
    return _parts(
        AutoencoderKLFlux2(),
        text,
        Flux2Transformer2DModel(**KLEIN[size], joint_attention_dim=width, guidance_embeds=False),
    )


def _parts(vae: Any, text_encoder: Any, transformer: Any) -> Any:
    return SimpleNamespace(
        vae=vae,
        text_encoder=text_encoder,
        transformer=transformer,
        tokenizer=None,
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )


FLOW_FAMILIES = {
    "z_image": ("z_image", z_image, (CAPTION_TOKENS, 2560)),
    "klein_4b": ("flux2_klein", klein_4b, (512, 3 * 2560)),
    "klein_9b": ("flux2_klein", klein_9b, (512, 3 * 4096)),
}
"""Name -> ``model=``, its parts, shape of one caption's embedding."""

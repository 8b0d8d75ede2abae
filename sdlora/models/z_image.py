"""The family Z-Image: one stream of image and caption tokens, captions by Qwen3."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from torch import Tensor
from transformers import Qwen2Tokenizer, Qwen3Model

from sdlora.models.chat import ChatTokenizer
from sdlora.models.conditioning import Conditioning
from sdlora.models.description import FamilyDescription, PartNames
from sdlora.models.drawing import Drawing
from sdlora.models.flow_transformer import FlowTransformer

MAX_TOKENS = 512
"""``max_sequence_length`` of diffusers' ZImagePipeline."""


class ZImage(FlowTransformer):
    """Z-Image.

    A prompt's embedding is the states of its tokens before the language model's last layer,
    without padding. The network counts time from noise to data, ``1 - s``, and predicts ``z_0 -
    eps``.

    Source:
        Z-Image Team 2025, "Z-Image: An Efficient Image Generation Foundation Model with
        Single-Stream Diffusion Transformer"; diffusers' ``ZImagePipeline``.
    """

    patch_size = 2

    def encode_prompt(self, token_ids: Tensor, length: int) -> Tensor:
        """States of the tokens before the last layer, ``[length, D]``.

        Padding follows the text, which does not attend to it, so it is left out from the start.
        """
        found = self.text_encoder(
            input_ids=token_ids[:, :length], use_cache=False, output_hidden_states=True
        )
        states: Tensor = found.hidden_states[-2][0]
        return states

    def latents(self, moments: Tensor, eps: Tensor) -> Tensor:
        """``(mode - shift_factor) * scaling_factor``, ``[B, C, h, w]``, float32."""
        config = self.vae.config
        return (moments.float() - config.shift_factor) * config.scaling_factor

    def denoise(
        self, z_t: Tensor, t: Tensor, conditioning: Conditioning, sizes: Tensor | None = None
    ) -> Tensor:
        """The velocity ``eps - z_0`` at level ``t``, float32; sizes are not used."""
        dtype = self.denoiser_dtype
        latents = list(z_t.to(dtype)[:, :, None])  # of each picture [C, 1, h, w]
        captions = [prompt.to(dtype) for prompt in conditioning]
        found = self.transformer(latents, 1 - t, captions, return_dict=False)[0]
        return -torch.stack([each.float() for each in found])[:, :, 0]

    @property
    def denoiser_dtype(self) -> torch.dtype:
        """Dtype of the transformer: of no Linear, which may be held in 4 bits."""
        found: torch.dtype = self.transformer.x_pad_token.dtype
        return found

    def prompt_arguments(self, conditioning: Conditioning) -> dict[str, Any]:
        """The embeddings, one tensor for each prompt."""
        return {"prompt_embeds": list(conditioning)}

    def drawing(self) -> Drawing:
        """How the pipeline is called: 0 is its guidance that does nothing."""
        return replace(super().drawing(), guidance=lambda scale: max(scale - 1.0, 0.0))

    def pipeline(self) -> ZImagePipeline:
        """A diffusers pipeline that shares these very modules (no copies)."""
        return ZImagePipeline(
            scheduler=FlowMatchEulerDiscreteScheduler.from_config(self.noise_schedule_config),
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.chat.tokenizer,
            transformer=self.transformer,
        )


def _misfit(parts: Mapping[str, Any]) -> str | None:
    transformer = parts["transformer"].config
    for what, has, needs in (
        ("in_channels", transformer.in_channels, parts["vae"].config.latent_channels),
        ("cap_feat_dim", transformer.cap_feat_dim, parts["text_encoder"].config.hidden_size),
    ):
        if has != needs:
            return f"transformer's {what} is {has}, where vae and text encoder give {needs}"
    return None


def _pixel_steps(vae: Mapping[str, Any], transformer: Mapping[str, Any]) -> tuple[int, int]:
    scale = 2 ** (len(vae["block_out_channels"]) - 1)
    return scale, scale * ZImage.patch_size


@torch.no_grad()
def _probe(transformer: Any, draws: torch.Generator) -> Tensor:
    """Output on fixed inputs."""
    config, device = transformer.config, transformer.x_pad_token.device
    latents = torch.randn(2, config.in_channels, 1, 4, 4, generator=draws).to(device)
    prompts = torch.randn(2, 7, config.cap_feat_dim, generator=draws).to(device)
    t = torch.tensor([0.1, 0.6], device=device)
    return torch.stack(transformer(list(latents), t, list(prompts), return_dict=False)[0])


ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
"""All attention, that of the four refiner blocks too: diffusers' train_dreambooth_lora_z_image."""

BLOCKS = tuple(
    f"layers.*.{layer}"
    for layer in (
        *(f"attention.{name}" for name in ATTENTION),
        *(f"feed_forward.w{number}" for number in (1, 2, 3)),
    )
)
"""Attention and feed-forward layers of the main blocks: musubi-tuner, OneTrainer."""

Z_IMAGE = FamilyDescription(
    name="z_image",
    kind="Z-Image",
    make=ZImage,
    parts={
        "vae": AutoencoderKL,
        "text_encoder": Qwen3Model,
        "transformer": ZImageTransformer2DModel,
    },
    tokenizers={"tokenizer": Qwen2Tokenizer},
    trainable={"transformer": PartNames(kohya=())},
    misfit=_misfit,
    has_denoiser=lambda config: "cap_feat_dim" in config,
    pipeline="ZImagePipeline",
    hub_tag="z-image",
    lone_transformer=("cap_pad_token", "all_x_embedder."),
    side_step_px=16,
    max_tokens=MAX_TOKENS,
    is_flow=True,
    pixel_steps=_pixel_steps,
    chat=lambda tokenizer: ChatTokenizer(tokenizer, True, MAX_TOKENS),
    presets={"attention": ATTENTION, "attention_mlp": BLOCKS, "all_linear": ("*",)},
    probe=_probe,
)

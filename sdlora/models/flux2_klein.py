"""The family FLUX.2 klein: double and single blocks, captions by three layers of Qwen3."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
)
from torch import Tensor
from transformers import Qwen2Tokenizer, Qwen3ForCausalLM

from sdlora.models.chat import ChatTokenizer
from sdlora.models.conditioning import Conditioning
from sdlora.models.description import FamilyDescription, PartNames
from sdlora.models.drawing import Drawing
from sdlora.models.flow_transformer import FlowTransformer

MAX_TOKENS = 512
"""``max_sequence_length`` of diffusers' Flux2KleinPipeline."""

TEXT_LAYERS = (9, 18, 27)
"""The states that its pipeline takes of the language model. Those of FLUX.2 dev's are others."""

PATCH = 2
"""Side of the squares of the VAE's latents that become the channels of one position."""


class Flux2Klein(FlowTransformer):
    """FLUX.2 klein, of 4 or 9 billion parameters.

    A prompt's embedding is the states of three layers side by side, of all ``max_tokens``
    positions: the transformer attends to those of the padding as well. Latents are squares of the
    VAE's, normalised by its running statistics; each position is a token.

    Source:
        Black Forest Labs 2026, FLUX.2 klein; diffusers' ``Flux2KleinPipeline``.
    """

    def encode_prompt(self, token_ids: Tensor, length: int) -> Tensor:
        """States of the three layers, ``[max_tokens, 3 D]``; no token attends to padding."""
        mask = torch.arange(token_ids.shape[1], device=token_ids.device)[None] < length
        found = self.text_encoder.model(  # the language model without its output layer
            input_ids=token_ids,
            attention_mask=mask.long(),
            use_cache=False,
            output_hidden_states=True,
        )
        states = [found.hidden_states[layer][0] for layer in TEXT_LAYERS]
        return torch.cat(states, dim=1)

    @property
    def latent_scale(self) -> int:
        """Pixels per latent along a side, as the denoiser is given them: of whole squares."""
        return self.vae_scale * PATCH

    def latents(self, moments: Tensor, eps: Tensor) -> Tensor:
        """Squares of the mode, normalised, ``[B, 4 C, h/2, w/2]``, float32."""
        statistics = self.vae.bn
        mean = statistics.running_mean.float().view(1, -1, 1, 1)
        variance = statistics.running_var.float().view(1, -1, 1, 1)
        squares = Flux2KleinPipeline._patchify_latents(moments.float())
        return (squares - mean) / torch.sqrt(variance + self.vae.config.batch_norm_eps)

    def denoise(
        self, z_t: Tensor, t: Tensor, conditioning: Conditioning, sizes: Tensor | None = None
    ) -> Tensor:
        """The velocity ``eps - z_0`` at level ``t``, float32; sizes are not used."""
        dtype = self.denoiser_dtype
        assert isinstance(conditioning, Tensor), "all prompts have max_tokens rows"
        found = self.transformer(
            hidden_states=Flux2KleinPipeline._pack_latents(z_t.to(dtype)),
            timestep=t,
            guidance=None,
            encoder_hidden_states=conditioning.to(dtype),
            txt_ids=Flux2KleinPipeline._prepare_text_ids(conditioning[:1]).to(z_t.device),
            img_ids=Flux2KleinPipeline._prepare_latent_ids(z_t[:1]).to(z_t.device),
            return_dict=False,
        )[0]
        return found.float().transpose(1, 2).reshape(z_t.shape)

    @property
    def denoiser_dtype(self) -> torch.dtype:
        """Dtype of the transformer: of no Linear, which may be held in 4 bits."""
        norm = self.transformer.single_transformer_blocks[0].attn.norm_q
        found: torch.dtype = norm.weight.dtype
        return found

    def prompt_arguments(self, conditioning: Conditioning) -> dict[str, Any]:
        """The embeddings."""
        return {"prompt_embeds": conditioning}

    def drawing(self) -> Drawing:
        """How the pipeline is called: it undoes squares and normalisation itself."""
        return replace(super().drawing(), vae_latents=Tensor.float)

    def pipeline(self) -> Flux2KleinPipeline:
        """A diffusers pipeline that shares these very modules (no copies)."""
        return Flux2KleinPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler.from_config(self.noise_schedule_config),
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.chat.tokenizer,
            transformer=self.transformer,
            is_distilled=self.is_distilled,
        )


def _misfit(parts: Mapping[str, Any]) -> str | None:
    transformer, text = parts["transformer"].config, parts["text_encoder"].config
    for what, has, needs in (
        ("in_channels", transformer.in_channels, parts["vae"].config.latent_channels * PATCH**2),
        ("joint_attention_dim", transformer.joint_attention_dim, text.hidden_size * 3),
        ("guidance_embeds", transformer.guidance_embeds, False),
    ):
        if has != needs:
            return f"transformer's {what} is {has}, where vae and text encoder give {needs}"
    return None


def _pixel_steps(vae: Mapping[str, Any], transformer: Mapping[str, Any]) -> tuple[int, int]:
    scale = 2 ** (len(vae["block_out_channels"]) - 1) * PATCH
    return scale, scale


@torch.no_grad()
def _probe(transformer: Any, draws: torch.Generator) -> Tensor:
    """Output on fixed inputs."""
    config, device = transformer.config, next(transformer.parameters()).device
    latents = torch.randn(2, config.in_channels, 2, 2, generator=draws).to(device)
    prompts = torch.randn(2, 7, config.joint_attention_dim, generator=draws).to(device)
    found: Tensor = transformer(
        hidden_states=Flux2KleinPipeline._pack_latents(latents),
        timestep=torch.tensor([0.1, 0.6], device=device),
        encoder_hidden_states=prompts,
        txt_ids=Flux2KleinPipeline._prepare_text_ids(prompts[:1]).to(device),
        img_ids=Flux2KleinPipeline._prepare_latent_ids(latents[:1]).to(device),
        return_dict=False,
    )[0]
    return found


SINGLE = tuple(f"single_transformer_blocks.*.attn.{name}" for name in ("to_qkv_mlp_proj", "to_out"))
"""Both layers of a single block, which attention and feed-forward share."""

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", *SINGLE)
"""The image stream's attention: diffusers' train_dreambooth_lora_flux2_klein."""

BLOCKS = (
    *ATTENTION,
    *(f"add_{name}_proj" for name in "qkv"),
    "to_add_out",
    *(f"{stream}.linear_{end}" for stream in ("ff", "ff_context") for end in ("in", "out")),
)
"""All Linear layers of both kinds of blocks: musubi-tuner."""

FLUX2_KLEIN = FamilyDescription(
    name="flux2_klein",
    kind="FLUX.2 klein",
    make=Flux2Klein,
    parts={
        "vae": AutoencoderKLFlux2,
        "text_encoder": Qwen3ForCausalLM,
        "transformer": Flux2Transformer2DModel,
    },
    tokenizers={"tokenizer": Qwen2Tokenizer},
    trainable={"transformer": PartNames(kohya=())},
    misfit=_misfit,
    has_denoiser=lambda config: "timestep_guidance_channels" in config,
    pipeline="Flux2KleinPipeline",
    hub_tag="flux2-klein",
    lone_transformer=("single_stream_modulation.", "single_stream_modulation.linear."),
    side_step_px=16,
    max_tokens=MAX_TOKENS,
    is_flow=True,
    pixel_steps=_pixel_steps,
    chat=lambda tokenizer: ChatTokenizer(tokenizer, False, MAX_TOKENS),
    presets={"attention": ATTENTION, "attention_mlp": BLOCKS, "all_linear": ("*",)},
    probe=_probe,
)

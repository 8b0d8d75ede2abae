"""The family Kolors: a UNet like SDXL's, conditioned on a language model, ChatGLM3."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import AutoencoderKL, KolorsPipeline, UNet2DConditionModel
from diffusers.pipelines.kolors.text_encoder import ChatGLMModel
from diffusers.pipelines.kolors.tokenizer import ChatGLMTokenizer
from torch import Tensor, nn

from sdlora.models.description import FamilyDescription, PartNames
from sdlora.models.latent import LatentFamily, latent_misfit
from sdlora.models.original_names import kohya_layer
from sdlora.models.sd import sampling_scheduler
from sdlora.models.sdxl import denoise_sized


class Kolors(LatentFamily):
    """Kolors.

    A row of its conditioning is the state of a token before the language model's last layer; the
    last row is the state of the last token after it, which represents the whole prompt.

    Args:
        vae: Pictures <-> latents; SDXL's, whose weights overflow in half precision.
        text_encoder: ChatGLM3, without its output layer.
        unet: The denoiser, which projects the states to its width.
        tokenizer: Of ChatGLM3; it pads on the left.
        noise_schedule_config: The ``scheduler_config.json`` as a mapping.
        clip_skip: 0; there is no CLIP.

    Source:
        Kolors Team 2024, "Kolors: Effective Training of Diffusion Model for Photorealistic
        Text-to-Image Synthesis"; diffusers' ``KolorsPipeline``.
    """

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: ChatGLMModel,
        unet: UNet2DConditionModel,
        tokenizer: ChatGLMTokenizer,
        noise_schedule_config: Mapping[str, Any],
        clip_skip: int = 0,
    ) -> None:
        super().__init__(vae, unet, [tokenizer], noise_schedule_config, clip_skip)
        self.text_encoder = text_encoder
        self.requires_grad_(False)
        self.eval()

    @property
    def text_encoders(self) -> dict[str, nn.Module]:
        """The one text encoder."""
        return {"text_encoder": self.text_encoder}

    def encode_prompts(self, token_ids: Tensor) -> Tensor:
        """States ``[B, L + 1, D]`` of token ids ``[B, L]``.

        Padding, and so the position of each token, follows from the ids: padding ends at the first
        other token, since a prompt begins with special tokens.
        """
        is_text = (token_ids != self.tokenizers[0].pad_token_id).cumsum(1) > 0  # [B, L]
        output = self.text_encoder(
            token_ids,
            position_ids=(is_text.cumsum(1) - 1).clamp(min=0),
            attention_mask=is_text.long(),
            use_cache=False,
            output_hidden_states=True,
            return_dict=True,
        )
        states, last = output.hidden_states[-2:]  # [L, B, D]
        return torch.cat([states, last[-1:]]).transpose(0, 1).contiguous()

    def denoise(
        self, z_t: Tensor, t: Tensor, conditioning: Tensor, sizes: Tensor | None = None
    ) -> Tensor:
        """The UNet's prediction at noise level ``t``, float32, shaped like ``z_t``."""
        prompts = self.prompt_arguments(conditioning)
        return denoise_sized(self.unet, z_t, t, prompts, sizes)

    def prompt_arguments(self, conditioning: Tensor) -> dict[str, Tensor]:
        """The states of the tokens and of the whole prompt."""
        return {
            "prompt_embeds": conditioning[:, :-1],
            "pooled_prompt_embeds": conditioning[:, -1],
        }

    def pipeline(self) -> KolorsPipeline:
        """A diffusers pipeline that shares these very modules (no copies)."""
        return KolorsPipeline(
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizers[0],
            unet=self.unet,
            scheduler=sampling_scheduler(self.noise_schedule_config),
        )


KOLORS = FamilyDescription(
    name="kolors",
    kind="Kolors",
    make=Kolors,
    parts={"vae": AutoencoderKL, "text_encoder": ChatGLMModel, "unet": UNet2DConditionModel},
    tokenizers={"tokenizer": ChatGLMTokenizer},
    trainable={"unet": PartNames(kohya=("lora_unet_",), layer=kohya_layer)},
    misfit=latent_misfit,
    has_denoiser=lambda unet: unet.get("encoder_hid_dim_type") == "text_proj",
    pipeline="KolorsPipeline",
    side_step_px=32,
    hub_tag="kolors",
    max_tokens=256,  # max_sequence_length of diffusers' KolorsPipeline
)

"""Stable Diffusion 1.x / 2.x: one VAE, one CLIP text encoder, one UNet."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from sdlora.diffusion.noise_schedule import changed_schedule
from sdlora.models.tokens import Tokens, tokenize


class StableDiffusion(nn.Module):
    """The parts of a Stable Diffusion model and the four things that training asks of them.

    Args:
        vae: Pictures <-> latents.
        text_encoder: Token ids -> embeddings.
        unet: The denoiser.
        tokenizer: Captions -> token ids.
        noise_schedule_config: The ``scheduler_config.json`` as a mapping.
        clip_skip: How many of the text encoder's last layers are left out.

    Attributes:
        noise_schedule_config: The one that is trained and sampled with.
        max_chunks: Longest caption in chunks of the tokenizer's length; each caption takes so many.
    """

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        unet: UNet2DConditionModel,
        tokenizer: CLIPTokenizer,
        noise_schedule_config: Mapping[str, Any],
        clip_skip: int = 0,
    ) -> None:
        super().__init__()
        self.vae = vae
        self.text_encoder = text_encoder
        self.unet = unet
        self.tokenizer = tokenizer
        self.noise_schedule_config = dict(noise_schedule_config)
        self._own_schedule_config = self.noise_schedule_config
        self.clip_skip = clip_skip
        self.max_chunks = 1
        self.requires_grad_(False)
        self.eval()

    @property
    def latent_scale(self) -> int:
        """Pixels to one latent along a side (8 for SD)."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def resolution_step(self) -> int:
        """Sides of training pictures, in pixels, must be a multiple of this."""
        return int(self.latent_scale * 2 ** (len(self.unet.config.block_out_channels) - 1))

    @property
    def native_resolution_px(self) -> int:
        """The side the UNet was made for, in pixels."""
        return int(self.unet.config.sample_size) * self.latent_scale

    def change_noise_schedule(self, prediction_type: str | None, zero_terminal_snr: bool) -> None:
        """From now on train and sample otherwise than the model came; see ``changed_schedule``."""
        self.noise_schedule_config = changed_schedule(
            self._own_schedule_config, prediction_type, zero_terminal_snr
        )

    @contextmanager
    def own_noise_schedule(self) -> Iterator[None]:
        """Inside the block the schedule is the one that the model came with."""
        changed, self.noise_schedule_config = self.noise_schedule_config, self._own_schedule_config
        try:
            yield
        finally:
            self.noise_schedule_config = changed

    def tokenize(self, captions: Sequence[str]) -> Tokens:
        """Encode captions, padded or cut to ``max_chunks`` times the tokenizer's length."""
        return tokenize(self.tokenizer, captions, self.max_chunks)

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> Tensor:
        """Posterior of the latents of pictures.

        Args:
            pixels: Shape ``[B, 3, H, W]``, in [-1, 1].

        Returns:
            Mean and log-variance, unscaled, concatenated: ``[B, 2C, H/f, W/f]``, float32.
        """
        parameter = next(self.vae.parameters())
        posterior = self.vae.encode(pixels.to(parameter.device, parameter.dtype)).latent_dist
        return torch.cat([posterior.mean.float(), posterior.logvar.float()], dim=1)

    def latents(self, moments: Tensor, eps: Tensor) -> Tensor:
        """Sample the posterior and scale: what the UNet works on, float32.

        Args:
            moments: Mean and log-variance as ``encode_images`` gives them, ``[B, 2C, h, w]``.
            eps: Standard normal draws, ``[B, C, h, w]``.

        Returns:
            ``(mean + exp(logvar / 2) eps) * scaling_factor``, shape ``[B, C, h, w]``.
        """
        mean, logvar = moments.float().chunk(2, dim=1)
        sample = mean + torch.exp(0.5 * logvar.clamp(-30.0, 20.0)) * eps
        shift = self.vae.config.get("shift_factor") or 0.0
        return (sample - shift) * self.vae.config.scaling_factor

    def encode_prompts(self, token_ids: Tensor) -> Tensor:
        """Text embeddings ``[B, L, D]`` of token ids ``[B, L]``; chunks are encoded each alone."""
        longest = self.text_encoder.config.max_position_embeddings
        if token_ids.shape[1] <= longest:
            return self._encode_chunk(token_ids)
        chunks = token_ids.unflatten(1, (-1, longest))  # [B, chunks, L]
        return self._encode_chunk(chunks.flatten(0, 1)).unflatten(0, chunks.shape[:2]).flatten(1, 2)

    def _encode_chunk(self, token_ids: Tensor) -> Tensor:
        if not self.clip_skip:
            return self.text_encoder(token_ids).last_hidden_state
        states = self.text_encoder(token_ids, output_hidden_states=True).hidden_states
        return self._final_layer_norm(states[-(self.clip_skip + 1)])

    def denoise(self, z_t: Tensor, t: Tensor, conditioning: Tensor) -> Tensor:
        """The UNet's prediction at noise level ``t``, float32, shaped like ``z_t``."""
        dtype = self.unet.dtype
        return self.unet(z_t.to(dtype), t, conditioning.to(dtype)).sample.float()

    def pipeline(self) -> StableDiffusionPipeline:
        """A diffusers pipeline that shares these very modules (no copies)."""
        return StableDiffusionPipeline(
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            unet=self.unet,
            scheduler=self._sampling_scheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )

    def _sampling_scheduler(self) -> DDIMScheduler:
        config = {**DDPMScheduler.from_config(self.noise_schedule_config).config}
        return DDIMScheduler.from_config(config)

    def _final_layer_norm(self, hidden: Tensor) -> Tensor:
        encoder = getattr(self.text_encoder, "text_model", self.text_encoder)
        return encoder.final_layer_norm(hidden)

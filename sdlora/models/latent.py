"""The base class of latent diffusion families: a VAE, text encoders and a UNet."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor

from sdlora.models.family import Family


class LatentFamily(Family):
    """A latent diffusion model.

    Args:
        vae: Pictures <-> latents.
        unet: The denoiser.
        tokenizers: Captions -> token ids, one for each text encoder.
        noise_schedule_config: The ``scheduler_config.json`` as a mapping.
        clip_skip: Number of the text encoders' last layers to skip.
    """

    unet: UNet2DConditionModel

    def __init__(
        self,
        vae: AutoencoderKL,
        unet: UNet2DConditionModel,
        tokenizers: Sequence[Any],
        noise_schedule_config: Mapping[str, Any],
        clip_skip: int,
    ) -> None:
        super().__init__(unet, noise_schedule_config, tokenizers)
        self.vae = vae
        self.clip_skip = clip_skip

    @property
    def latent_scale(self) -> int:
        """Pixels per latent along a side (8 for SD)."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def encoding_dtype(self) -> torch.dtype:
        """The VAE's dtype: half precision takes half the space."""
        return self.vae.dtype

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

    def posterior_shape(self, moments: Tensor) -> tuple[int, ...]:
        """Shape of the mean, ``(C, h, w)``."""
        return (moments.shape[1] // 2, *moments.shape[2:])

    def latents(self, moments: Tensor, eps: Tensor) -> Tensor:
        """Sample the posterior and scale, float32.

        Args:
            moments: Mean and log-variance from ``encode_images``, ``[B, 2C, h, w]``.
            eps: Standard normal draws, ``[B, C, h, w]``.

        Returns:
            ``(mean + exp(logvar / 2) eps) * scaling_factor``, shape ``[B, C, h, w]``.
        """
        mean, logvar = moments.float().chunk(2, dim=1)
        sample = mean + torch.exp(0.5 * logvar.clamp(-30.0, 20.0)) * eps
        shift = self.vae.config.get("shift_factor") or 0.0
        return (sample - shift) * self.vae.config.scaling_factor


def latent_misfit(parts: Mapping[str, Any]) -> str | None:
    """Why the shapes of loaded parts do not match, such as inpainting; ``None`` if they do.

    Args:
        parts: VAE, text encoders and UNet by their names in the diffusers layout.
    """
    unet, vae = parts["unet"].config, parts["vae"].config
    encoders = [part for name, part in parts.items() if name.startswith("text_encoder")]
    width = sum(encoder.config.hidden_size for encoder in encoders)
    text = "encoder_hid_dim" if unet.get("encoder_hid_dim") else "cross_attention_dim"
    for what, has, needs in (
        ("in_channels", unet.in_channels, vae.latent_channels),
        (text, unet[text], width),
    ):
        if has != needs:
            return f"unet's {what} is {has}, where vae and text encoders give {needs}"
    return None

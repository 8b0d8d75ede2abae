"""The family of unconditional pixel models: one UNet, no VAE, no prompts."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from torch import Tensor, nn

from sdlora.models.description import FamilyDescription, PartNames
from sdlora.models.family import Family, input_dtype


class UnconditionalDiffusion(Family):
    """An unconditional diffusion model of pixels.

    Encoded pictures are bytes, and "latents" are pixels in [-1, 1].

    Args:
        unet: The denoiser, of 3 channels.
        noise_schedule_config: The ``scheduler_config.json`` as a mapping.

    Source:
        Ho et al. 2020, arXiv:2006.11239.
    """

    unet: UNet2DModel

    def __init__(self, unet: UNet2DModel, noise_schedule_config: Mapping[str, Any]) -> None:
        super().__init__(unet, noise_schedule_config)
        self.requires_grad_(False)
        self.eval()

    @property
    def text_encoders(self) -> dict[str, nn.Module]:
        """None: no prompts."""
        return {}

    @property
    def latent_scale(self) -> int:
        """1: the UNet works on pixels."""
        return 1

    @property
    def encoding_dtype(self) -> torch.dtype:
        """uint8, the dtype of pictures."""
        return torch.uint8

    def encode_prompts(self, token_ids: Tensor) -> Tensor:
        """An empty tensor, ``[B, 0, 0]``."""
        return token_ids.new_empty((len(token_ids), 0, 0), dtype=torch.float32)

    def prompt_arguments(self, conditioning: Tensor) -> dict[str, Tensor]:
        """None: no prompts."""
        return {}

    def encode_images(self, pixels: Tensor) -> Tensor:
        """The pictures as bytes, ``[B, 3, H, W]``, uint8; exact for 8-bit pictures."""
        return ((pixels + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)

    def posterior_shape(self, moments: Tensor) -> tuple[int, ...]:
        """``(0,)``: there is no posterior to sample."""
        return (0,)

    def latents(self, moments: Tensor, eps: Tensor) -> Tensor:
        """Pixels in [-1, 1], ``[B, 3, H, W]``, float32; nothing is drawn."""
        return moments.float() / 127.5 - 1.0

    def denoise(
        self, z_t: Tensor, t: Tensor, conditioning: Tensor, sizes: Tensor | None = None
    ) -> Tensor:
        """The UNet's prediction at noise level ``t``, float32; other arguments are not used."""
        return self.unet(z_t.to(input_dtype(self.unet)), t).sample.float()

    def pipeline(self) -> DDPMPipeline:
        """A diffusers pipeline that shares the UNet (no copy)."""
        return DDPMPipeline(
            unet=self.unet, scheduler=DDPMScheduler.from_config(dict(self.noise_schedule_config))
        )


def _misfit(parts: Mapping[str, Any]) -> str | None:
    """Why a UNet is no unconditional pixel model; ``None`` if it is."""
    unet = parts["unet"].config
    for what, has, needs in (
        ("in_channels", unet["in_channels"], 3),
        ("out_channels", unet["out_channels"], 3),
        ("class embedding", unet["num_class_embeds"] or unet["class_embed_type"], None),
    ):
        if has != needs:
            return f"the unet's {what} is {has}, not {needs}"
    return None


DDPM = FamilyDescription(
    name="ddpm",
    kind="unconditional diffusion model of pixels",
    make=UnconditionalDiffusion,
    parts={"unet": UNet2DModel},
    tokenizers={},
    trainable={"unet": PartNames(kohya=("lora_unet_",))},
    misfit=_misfit,
    has_denoiser=lambda unet: "cross_attention_dim" not in unet,
    pipeline="DDPMPipeline",
    hub_tag="unconditional-image-generation",
    blank="embedded:ddpm",
)

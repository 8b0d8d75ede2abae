"""The base class of flow-matching families: a VAE, a language model, a transformer."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sdlora.models.chat import ChatTokenizer
from sdlora.models.conditioning import Conditioning, stacked
from sdlora.models.drawing import Drawing
from sdlora.models.family import Family


class FlowTransformer(Family):
    """A transformer of flow matching whose captions a language model reads.

    Its noise levels are :class:`sdlora.diffusion.flow_schedule.FlowSchedule`'s: ``t`` is the level
    ``s``, and :meth:`denoise` gives the velocity ``eps - z_0``, whatever sign and timestep the
    network has of its own. Pictures are encoded as the mode of the VAE's posterior.

    Args:
        vae: Pictures <-> latents.
        text_encoder: The language model.
        transformer: The denoiser.
        tokenizer: Captions -> token ids of a chat.
        noise_schedule_config: The ``scheduler_config.json`` as a mapping.

    Attributes:
        native_side_px: The side that such models draw.
        is_distilled: Whether it says that it draws in few steps, without guidance.
    """

    denoiser_name = "transformer"
    transformer: Any
    vae: Any
    text_encoder: Any
    native_side_px: ClassVar[int] = 1024
    is_distilled: bool = False

    def __init__(
        self,
        vae: Any,
        text_encoder: Any,
        transformer: Any,
        tokenizer: ChatTokenizer,
        noise_schedule_config: Mapping[str, Any],
    ) -> None:
        super().__init__(transformer, noise_schedule_config, [tokenizer])
        self.vae = vae
        self.text_encoder = text_encoder
        self.requires_grad_(False)
        self.eval()

    @property
    def chat(self) -> ChatTokenizer:
        """The tokenizer."""
        found: ChatTokenizer = self.tokenizers[0]
        return found

    @property
    def text_encoders(self) -> dict[str, nn.Module]:
        """The one language model."""
        return {"text_encoder": self.text_encoder}

    @property
    def vae_scale(self) -> int:
        """Pixels per latent of the VAE along a side."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def latent_scale(self) -> int:
        """Pixels per latent along a side, as the denoiser is given them."""
        return self.vae_scale

    @property
    def resolution_step(self) -> int:
        """Sides must be whole patches."""
        return self.latent_scale * self.patch_size

    @property
    def native_resolution_px(self) -> int:
        """The side that such models draw."""
        return self.native_side_px

    @property
    def encoding_dtype(self) -> torch.dtype:
        """The VAE's dtype: half precision takes half the space."""
        found: torch.dtype = self.vae.dtype
        return found

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> Tensor:
        """The mode of the latents' posterior, ``[B, C, H/f, W/f]``, float32, not normalised.

        Args:
            pixels: Shape ``[B, 3, H, W]``, in [-1, 1].
        """
        weight = next(self.vae.parameters())
        mode: Tensor = self.vae.encode(pixels.to(weight.device, weight.dtype)).latent_dist.mode()
        return mode.float()

    def posterior_shape(self, moments: Tensor) -> tuple[int, ...]:
        """``(0,)``: the mode is taken, nothing is drawn."""
        return (0,)

    def encode_prompts(self, token_ids: Tensor) -> Conditioning:
        """Each prompt alone, so that its embedding depends on no other."""
        rows = [
            self.encode_prompt(ids[None], length)
            for ids, length in zip(token_ids, self.chat.lengths(token_ids), strict=True)
        ]
        return stacked(rows)

    def encode_prompt(self, token_ids: Tensor, length: int) -> Tensor:
        """The embedding of one prompt, ``[rows, D]``.

        Args:
            token_ids: Shape ``[1, max_tokens]``.
            length: Of them, how many are no padding.
        """
        raise NotImplementedError

    def drawing(self) -> Drawing:
        """How the pipeline is called."""
        return Drawing(
            encode=self.encode_texts,
            dtype=self.denoiser_dtype,
            device=self.device,
            scale=self.latent_scale,
            side_step_px=self.resolution_step,
            noise_dtype=torch.float32,
        )

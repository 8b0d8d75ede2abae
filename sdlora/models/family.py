"""What a family of diffusion models is to the rest of the project."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sdlora.diffusion.noise_schedule import changed_schedule
from sdlora.models.tokens import Tokens, tokenize


class Family(nn.Module, ABC):
    """The parts of a diffusion model, and what training and drawing ask of them.

    All weights are frozen and in eval mode at first.

    Args:
        denoiser: What removes noise.
        noise_schedule_config: The ``scheduler_config.json`` as a mapping.
        tokenizers: Captions -> token ids, one for each text encoder.

    Attributes:
        denoiser_name: What the denoiser is called: its attribute here, its folder in the diffusers
            layout, and its key in the config.
        noise_schedule_config: The one that is trained and sampled with.
        max_chunks: Longest caption in chunks of the tokenizer's length; each caption takes so many.
    """

    denoiser_name: ClassVar[str] = "unet"

    def __init__(
        self,
        denoiser: Any,
        noise_schedule_config: Mapping[str, Any],
        tokenizers: Sequence[Any] = (),
    ) -> None:
        super().__init__()
        setattr(self, self.denoiser_name, denoiser)
        self.tokenizers = tuple(tokenizers)
        self.noise_schedule_config = dict(noise_schedule_config)
        self._own_schedule_config = self.noise_schedule_config
        self.max_chunks = 1

    @property
    def denoiser(self) -> Any:
        """What removes noise."""
        return getattr(self, self.denoiser_name)

    @property
    @abstractmethod
    def text_encoders(self) -> dict[str, nn.Module]:
        """Text encoders by part name; none where pictures are drawn without prompts."""

    @abstractmethod
    def encode_prompts(self, token_ids: Tensor) -> Tensor:
        """What the denoiser takes of prompts, as one tensor, so that it is cached as one.

        Args:
            token_ids: Of all tokenizers side by side, ``[B, tokenizers * chunks * L]``, int64.

        Returns:
            ``[B, rows, D]``; only this family knows what its rows are.
        """

    @abstractmethod
    def denoise(
        self, z_t: Tensor, t: Tensor, conditioning: Tensor, sizes: Tensor | None = None
    ) -> Tensor:
        """The denoiser's prediction at noise level ``t``, float32, shaped like ``z_t``.

        Args:
            z_t: Noisy latents (pixels, where there is no VAE), ``[B, C, h, w]``.
            t: Timesteps, ``[B]``.
            conditioning: As ``encode_prompts`` gives it.
            sizes: Of each picture, in pixels: its own height and width, top and left of the cut,
                height and width of the cut; ``[B, 6]``. Only some families ask for it.
        """

    @abstractmethod
    def prompt_arguments(self, conditioning: Tensor) -> dict[str, Tensor]:
        """The same as arguments of the diffusers pipeline (``prompt_embeds``, ...)."""

    @abstractmethod
    def pipeline(self) -> Any:
        """A diffusers pipeline that shares these very modules (no copies)."""

    @property
    @abstractmethod
    def latent_scale(self) -> int:
        """Pixels to one latent along a side (8 for SD)."""

    @property
    @abstractmethod
    def encoding_dtype(self) -> torch.dtype:
        """In which encoded pictures are kept, without loss."""

    @abstractmethod
    def encode_images(self, pixels: Tensor) -> Tensor:
        """What is kept of pictures.

        Args:
            pixels: Shape ``[B, 3, H, W]``, in [-1, 1].

        Returns:
            Moments for :meth:`latents`, ``[B, M, h, w]``.
        """

    @abstractmethod
    def posterior_shape(self, moments: Tensor) -> tuple[int, ...]:
        """Shape of the draws that :meth:`latents` takes for one picture of ``moments``."""

    @abstractmethod
    def latents(self, moments: Tensor, eps: Tensor) -> Tensor:
        """What the denoiser works on, float32.

        Args:
            moments: As ``encode_images`` gives them, ``[B, M, h, w]``.
            eps: Standard normal draws, ``[B, *posterior_shape]``; 0 gives the posterior's mean.

        Returns:
            ``[B, C, h, w]``, scaled as the noise schedule expects it.
        """

    @property
    def parts(self) -> dict[str, nn.Module]:
        """What can be trained, by part name: the denoiser first."""
        return {self.denoiser_name: self.denoiser, **self.text_encoders}

    @property
    def resolution_step(self) -> int:
        """Sides of training pictures, in pixels, must be a multiple of this."""
        return int(self.latent_scale * 2 ** (len(self.denoiser.config.block_out_channels) - 1))

    @property
    def native_resolution_px(self) -> int:
        """The side the denoiser was made for, in pixels."""
        return int(self.denoiser.config.sample_size) * self.latent_scale

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
        return tokenize(self.tokenizers, captions, self.max_chunks)


def input_dtype(unet: Any) -> torch.dtype:
    """What the UNet takes: the dtype of its first layer.

    diffusers' ``unet.dtype`` is the same and walks through every module to find it: 21 ms a step
    for SDXL.
    """
    found: torch.dtype = unet.conv_in.weight.dtype
    return found

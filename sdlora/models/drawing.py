"""The call of a diffusers pipeline for pictures, as far as families differ in it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """How a family's pipeline is called; the defaults are those of a UNet with its usual VAE.

    Attributes:
        encode: Texts -> the pipeline's arguments for them (``prompt_embeds``, and what else it
            takes), by name.
        dtype: Of the denoiser's inputs. diffusers' ``denoiser.dtype`` is that of its first weights:
            of a quantised one's adapter, or else of a norm.
        scale: Pixels per entry of the starting noise along a side; ``None``: the pipeline's.
        side_step_px: Sides must be multiples of it, in pixels.
        guidance: Guidance scale, of which 1 is off -> the pipeline's own.
        noise_dtype: Dtype of the starting noise; ``None``: ``dtype``.
        vae_latents: Latents as the pipeline returns them -> input of its VAE, float32; ``None``:
            undo ``scaling_factor`` and ``shift_factor``.
        device: Where it computes, which of streamed weights cannot be seen; ``None``: where the
            denoiser's first weights are.
    """

    encode: Callable[[Sequence[str]], dict[str, Any]]
    dtype: torch.dtype
    scale: int | None = None
    side_step_px: int = 8
    guidance: Callable[[float], float] = float
    noise_dtype: torch.dtype | None = None
    vae_latents: Callable[[Tensor], Tensor] | None = None
    device: torch.device | None = None

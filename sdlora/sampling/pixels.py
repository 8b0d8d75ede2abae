"""Sampling of unconditional pixel models, and conversion of pixels to pictures."""

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

if TYPE_CHECKING:
    from diffusers import DDPMPipeline


def denoised(
    pipeline: "DDPMPipeline",
    noise: Tensor,
    generators: Sequence[torch.Generator],
    num_steps: int,
    report: Callable[[int, int], None],
) -> Tensor:
    """Draw pictures from noise, with the pipeline's own UNet and scheduler.

    diffusers' ``DDPMPipeline`` neither takes noise nor scales it, as some samplers need.

    Args:
        pipeline: An unconditional UNet, which takes the timestep alone, and a scheduler.
        noise: Standard normal, ``[B, C, H, W]``.
        generators: One for each picture; samplers that add noise draw from them.
        num_steps: Denoising steps, >= 1.
        report: Called after each step with its number and the number of steps.

    Returns:
        Pixels in about [-1, 1], ``[B, C, H, W]``, float32.
    """
    unet, scheduler = pipeline.unet, pipeline.scheduler
    device = next(unet.parameters()).device
    scheduler.set_timesteps(num_steps, device=device)
    draws = {}
    if "generator" in inspect.signature(scheduler.step).parameters:
        draws["generator"] = list(generators)
    x_t = noise.to(device) * scheduler.init_noise_sigma
    for number, t in enumerate(scheduler.timesteps, start=1):
        seen = scheduler.scale_model_input(x_t, t).to(unet.dtype)
        prediction = unet(seen, t).sample.float()
        x_t = scheduler.step(prediction, t, x_t, **draws).prev_sample
        report(number, len(scheduler.timesteps))
    return x_t


def to_picture(pixels: Tensor, what: str) -> Image.Image:
    """Pixels ``[3, H, W]``, cut to [-1, 1], as an RGB picture.

    Args:
        pixels: On any device.
        what: Name of the picture for the error.

    Raises:
        ValueError: If a pixel is NaN or infinite.
    """
    if not torch.isfinite(pixels).all():
        raise ValueError(
            f"{what}: the picture is NaN or infinite; keep the frozen weights in bf16 or fp32, or "
            "train with a lower learning rate."
        )
    levels = (pixels.float() / 2 + 0.5).clamp(0, 1).permute(1, 2, 0).cpu().numpy()
    return Image.fromarray((levels * 255).round().astype("uint8"))

"""Batched drawing of prompts by a pipeline, with one random generator for each (prompt, seed)."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from sdlora.config.sampling import CAPTIONS, SamplingConfig
from sdlora.models.drawing import Drawing
from sdlora.runtime import randomness
from sdlora.runtime.progress import Progress
from sdlora.sampling.pixels import denoised, to_picture
from sdlora.sampling.prompts import Prompt, prompts_of
from sdlora.sampling.samplers import find_sampler, prepared, without_text_encoders

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

TILED_FROM = 192
"""Latents with a longer side (1536 pixels of Stable Diffusion) are decoded in tiles: in one piece
the VAE would need more memory than the rest of the model."""


def check_sampling(config: SamplingConfig) -> None:
    """Check the sampler's name and the prompt file.

    Raises:
        ConfigError: Naming key, value and remedy.
    """
    find_sampler(config.sampler)
    if config.prompts != CAPTIONS:  # those are known with the pictures
        prompts_of(config)


@torch.no_grad()
def generate(
    pipeline: "StableDiffusionPipeline",
    prompts: Sequence[Prompt],
    config: SamplingConfig,
    resolution: int,
    *,
    drawing: Drawing,
    progress: Progress | None = None,
    lora_scale: float = 1.0,
) -> list[Image.Image]:
    """Draw one picture for each prompt.

    The starting noise and the noise of stochastic samplers come from one CPU generator for each
    (text, seed), so a picture does not depend on its batch (up to rounding) and the global random
    state is neither read nor changed. The pipeline is restored: training mode of every module,
    scheduler, LoRA strength.

    Args:
        pipeline: Its modules are used with their adapters. One without a VAE draws pixels, and
            takes neither prompts nor guidance.
        prompts: Prompts and seeds.
        config: Sampler, steps, guidance (<= 1 switches it off), negative prompt, and batch size,
            which is halved with a warning when memory runs out.
        resolution: Side of the square pictures in pixels; a multiple of 8, if there is a VAE.
        drawing: How the family's pipeline is called.
        progress: Shows a bar of the pictures; a half denoised one counts half.
        lora_scale: Factor on the strength of every adapter; 0 is the base model.

    Returns:
        RGB pictures in the order of ``prompts``.

    Raises:
        ValueError: On an unknown sampler, a wrong resolution, or a picture of NaN.
    """
    build = find_sampler(config.sampler)
    _check_resolution(pipeline, resolution, drawing)
    if not prompts:
        return []
    progress = progress or Progress(enabled=False)
    bar = progress.add("sampling", total=len(prompts))
    pictures: list[Image.Image] = []
    size, report = config.batch_size, partial(_report, progress, bar)
    draw = partial(_draw, pipeline, config, resolution, drawing)
    try:
        with prepared(pipeline, build, lora_scale):
            for start in range(0, len(prompts), config.batch_size):
                chunk = prompts[start : start + config.batch_size]
                told = _told(pipeline, chunk, config, drawing)
                drawn, size = _drawn_in_parts(draw, chunk, told, size, partial(report, start))
                pictures += drawn
    finally:
        progress.remove(bar)
    return pictures


def _told(
    pipeline: Any, prompts: Sequence[Prompt], config: SamplingConfig, drawing: Drawing
) -> dict[str, Any]:
    """The pipeline's arguments for prompts; none for a pipeline that takes no prompts."""
    if not hasattr(pipeline, "vae"):
        return {}
    device = drawing.device or _denoiser(pipeline).device
    return _prompt_arguments([prompt.text for prompt in prompts], config, drawing, device)


def _drawn_in_parts(
    draw: Callable[..., list[Image.Image]],
    prompts: Sequence[Prompt],
    told: Mapping[str, Any],
    size: int,
    report: Callable[..., None],
) -> tuple[list[Image.Image], int]:
    """Draw prompts that were encoded together, fewer at a time where memory runs out.

    The arguments of a part are rows of those of all, so that no text encoder is asked again, and
    pictures do not depend on the parts.

    Returns:
        The pictures, and the number at a time that memory allows.
    """
    pictures: list[Image.Image] = []
    while len(pictures) < len(prompts):
        first = len(pictures)
        part = slice(first, first + size)
        batch = prompts[part]
        rows = {name: value[part] for name, value in told.items()}
        drawn = _drawn_if_memory_allows(draw, rows, batch, partial(report, first, len(batch)))
        if drawn is None:
            size = len(batch) // 2
            warnings.warn(
                f"sampling.batch_size: out of memory with {len(batch)} pictures at a time; "
                f"continuing with {size}.",
                stacklevel=3,
            )
            continue
        pictures += drawn
    return pictures, size


def text_batches(prompts: Sequence[Prompt], config: SamplingConfig) -> Iterator[list[str]]:
    """The texts that :func:`generate` encodes together, of prompts and of the negative prompt."""
    for start in range(0, len(prompts), config.batch_size):
        texts = [prompt.text for prompt in prompts[start : start + config.batch_size]]
        yield texts
        if config.guidance_scale > 1.0:
            yield [config.negative_prompt] * len(texts)


def _check_resolution(pipeline: Any, resolution: int, drawing: Drawing) -> None:
    step = max(drawing.side_step_px, _scale(pipeline, drawing)) if hasattr(pipeline, "vae") else 1
    if resolution < step or resolution % step:
        below = max(resolution // step, 1) * step
        raise ValueError(
            f"resolution={resolution}: must be a positive multiple of {step} pixels; "
            f"the nearest are {below} and {below + step}."
        )


def _scale(pipeline: Any, drawing: Drawing) -> int:
    """Pixels per noise entry along a side."""
    return drawing.scale or int(getattr(pipeline, "vae_scale_factor", 1))


def _denoiser(pipeline: Any) -> Any:
    return pipeline.unet if hasattr(pipeline, "unet") else pipeline.transformer


def _report(
    progress: Progress, bar: Any, start: int, done: int, num_now: int, step: int, steps: int
) -> None:
    progress.update(bar, start + done + num_now * step // steps, note=f"step {step}/{steps}")


def _drawn_if_memory_allows(
    draw: Callable[..., list[Image.Image]],
    told: Mapping[str, Any],
    batch: Sequence[Prompt],
    report: Callable[[int, int], None],
) -> list[Image.Image] | None:
    try:
        return draw(told, batch, report)
    except torch.OutOfMemoryError:
        if len(batch) == 1:
            raise
    if torch.cuda.is_available():  # after the except: the traceback would keep the tensors alive
        torch.cuda.empty_cache()
    return None


def _draw(
    pipeline: Any,
    config: SamplingConfig,
    resolution: int,
    drawing: Drawing,
    told: Mapping[str, Any],
    batch: Sequence[Prompt],
    report: Callable[[int, int], None],
) -> list[Image.Image]:
    denoiser = _denoiser(pipeline)
    generators = [randomness.generator(prompt.seed, "sample/" + prompt.text) for prompt in batch]
    side = resolution // _scale(pipeline, drawing)
    shape = (denoiser.config.in_channels, side, side)
    noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
    if not hasattr(pipeline, "vae"):
        pixels = denoised(pipeline, noise, generators, config.num_steps, report)
        return [to_picture(each, str(prompt)) for each, prompt in zip(pixels, batch, strict=True)]
    device = drawing.device or denoiser.device

    def on_step_end(pipe: Any, index: int, t: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        report(index + 1, pipe.num_timesteps)
        return tensors

    with without_text_encoders(pipeline):
        latents = pipeline(
            **told,
            latents=noise.to(device, drawing.noise_dtype or drawing.dtype),  # [B, C, h, w]
            generator=generators,
            num_inference_steps=config.num_steps,
            guidance_scale=drawing.guidance(config.guidance_scale),
            height=resolution,
            width=resolution,
            output_type="latent",
            callback_on_step_end=on_step_end,
        ).images
    return _decode(pipeline, _vae_latents(pipeline, latents, drawing), batch)


def _prompt_arguments(
    texts: list[str], config: SamplingConfig, drawing: Drawing, device: torch.device
) -> dict[str, Any]:
    """The pipeline's arguments for prompts and, with guidance, for the negative prompt."""
    embeddings = drawing.encode(texts)
    if config.guidance_scale > 1.0:
        against = drawing.encode([config.negative_prompt] * len(texts))
        embeddings |= {f"negative_{name}": value for name, value in against.items()}
    where = (device, drawing.dtype)
    return {
        name: value.to(*where) if isinstance(value, Tensor) else [each.to(*where) for each in value]
        for name, value in embeddings.items()
    }


def _vae_latents(pipeline: Any, latents: Tensor, drawing: Drawing) -> Tensor:
    """Latents as the VAE decodes them, float32."""
    if drawing.vae_latents is not None:
        return drawing.vae_latents(latents)
    config = pipeline.vae.config
    return latents.float() / config.scaling_factor + (config.get("shift_factor") or 0.0)


def _decode(pipeline: Any, latents: Tensor, batch: Sequence[Prompt]) -> list[Image.Image]:
    vae = pipeline.vae
    pictures = []
    # one by one: the decoder needs more memory than the UNet, and no step waits for it
    for prompt, latent in zip(batch, latents, strict=True):
        pixels = _decode_if_memory_allows(vae, latent[None].to(vae.dtype))
        if pixels is None:
            warnings.warn("out of memory in the VAE; decoding in tiles", stacklevel=2)
            pixels = _decode_tiled(vae, latent[None].to(vae.dtype))
        pictures.append(to_picture(pixels[0], str(prompt)))
    return pictures


def _decode_if_memory_allows(vae: Any, latents: Tensor) -> Tensor | None:
    if max(latents.shape[-2:]) > TILED_FROM:
        return _decode_tiled(vae, latents)
    try:
        return _decode_whole(vae, latents)
    except torch.OutOfMemoryError:
        pass
    if torch.cuda.is_available():  # after the except: the traceback would keep the tensors alive
        torch.cuda.empty_cache()
    return None


def _decode_whole(vae: Any, latents: Tensor) -> Tensor:
    # in the VAE's own precision, whatever the caller's autocast is: VAEs overflow in fp16
    with torch.autocast(latents.device.type, enabled=False):
        pixels: Tensor = vae.decode(latents, return_dict=False)[0].float()
    return pixels


def _decode_tiled(vae: Any, latents: Tensor) -> Tensor:
    """Decode in overlapping tiles: seams are blended, colours may differ slightly between tiles."""
    before = vae.use_tiling
    vae.enable_tiling()
    try:
        return _decode_whole(vae, latents)
    finally:
        vae.use_tiling = before

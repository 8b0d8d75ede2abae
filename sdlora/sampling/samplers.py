"""Samplers by name, and the temporary preparation of a pipeline for one."""

import difflib
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn

from sdlora.config.rules import ConfigError
from sdlora.diffusion.flow_schedule import is_flow


def _build_scheduler(
    class_name: str, config: Mapping[str, Any], in_pixels: bool = False, **fixed: Any
) -> Any:
    _refuse_what_it_cannot(class_name, config)
    if is_flow(config):
        class_name, fixed = _OF_FLOW[class_name], {}
    # by name, so that reading the sampler names does not import diffusers
    scheduler = getattr(importlib.import_module("diffusers"), class_name)
    # latents are not pictures in [-1, 1]: clipping x0 there breaks them
    keeps = in_pixels or is_flow(config)
    unbounded = {} if keeps else {"clip_sample": False, "thresholding": False}
    return scheduler.from_config({**config, **unbounded, **fixed})


def _refuse_what_it_cannot(class_name: str, config: Mapping[str, Any]) -> None:
    """Refuse what diffusers ignores silently (rescaled schedules) or fails at while drawing."""
    refusals = (
        (bool(config.get(_RESCALE)), _can_rescale, "schedules of zero-terminal SNR"),
        (config.get("prediction_type") == "sample", _knows_x0, "prediction_type=sample"),
        (is_flow(config), _OF_FLOW.__contains__, "flow matching"),
    )
    for is_asked, can, what in refusals:
        if is_asked and not can(class_name):
            able = ", ".join(name for name, build in SAMPLERS.items() if can(build.args[0]))
            raise ValueError(
                f"{class_name} does not support {what}; set sampling.sampler to one of {able}"
            )


def _can_rescale(class_name: str) -> bool:
    scheduler = getattr(importlib.import_module("diffusers"), class_name)
    return _RESCALE in inspect.signature(scheduler.__init__).parameters


def _knows_x0(class_name: str) -> bool:
    return class_name not in _WITHOUT_X0


_WITHOUT_X0 = (
    "PNDMScheduler",
    "EulerAncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
)
_OF_FLOW = {"EulerDiscreteScheduler": "FlowMatchEulerDiscreteScheduler"}
"""Scheduler class -> that of the same solver for flow matching, which pipelines of it can call."""

_RESCALE = "rescale_betas_zero_snr"
_DPM = "DPMSolverMultistepScheduler"

SAMPLERS: dict[str, partial[Any]] = {
    "ddim": partial(_build_scheduler, "DDIMScheduler"),
    "ddpm": partial(_build_scheduler, "DDPMScheduler"),
    "pndm": partial(_build_scheduler, "PNDMScheduler", skip_prk_steps=True),
    "euler": partial(_build_scheduler, "EulerDiscreteScheduler"),
    "euler_a": partial(_build_scheduler, "EulerAncestralDiscreteScheduler"),
    "heun": partial(_build_scheduler, "HeunDiscreteScheduler"),
    "dpm2": partial(_build_scheduler, "KDPM2DiscreteScheduler"),
    "dpm2_a": partial(_build_scheduler, "KDPM2AncestralDiscreteScheduler"),
    "dpm++": partial(_build_scheduler, _DPM, algorithm_type="dpmsolver++"),
    "dpm++_karras": partial(
        _build_scheduler, _DPM, algorithm_type="dpmsolver++", use_karras_sigmas=True
    ),
    "dpm++_sde": partial(_build_scheduler, _DPM, algorithm_type="sde-dpmsolver++"),
    "dpm++_sde_karras": partial(
        _build_scheduler, _DPM, algorithm_type="sde-dpmsolver++", use_karras_sigmas=True
    ),
    "deis": partial(_build_scheduler, "DEISMultistepScheduler"),
    "unipc": partial(_build_scheduler, "UniPCMultistepScheduler"),
}
"""Sampler name -> builder from a scheduler config (LMS is left out: it would need scipy)."""


def find_sampler(name: str) -> Callable[..., Any]:
    """The builder of a sampler.

    Args:
        name: A key of :data:`SAMPLERS`.

    Returns:
        A function from a diffusers scheduler config to a scheduler; ``in_pixels=True`` keeps the
        config's clipping, which breaks latents.

    Raises:
        ConfigError: If the name is unknown; it gives the nearest one.
    """
    if name in SAMPLERS:
        return SAMPLERS[name]
    nearest = difflib.get_close_matches(name.lower(), SAMPLERS, n=1, cutoff=0.0)[0]
    raise ConfigError(
        f"sampling.sampler={name}: unknown; did you mean {nearest!r}? Known: {', '.join(SAMPLERS)}."
    )


def check_sampler(name: str, config: Mapping[str, Any]) -> None:
    """Refuse a sampler that cannot follow a noise schedule.

    Args:
        name: A key of :data:`SAMPLERS`.
        config: A diffusers scheduler config, or the changed keys of one.

    Raises:
        ValueError: Naming the samplers that can.
    """
    _refuse_what_it_cannot(SAMPLERS[name].args[0], config)


@contextmanager
def without_text_encoders(pipeline: Any) -> Iterator[None]:
    """Hide the text encoders: a pipeline casts given embeddings to their dtype, not the UNet's."""
    hidden = {n: part for n, part in pipeline.components.items() if n.startswith("text_encoder")}
    try:
        for name in hidden:
            setattr(pipeline, name, None)
        yield
    finally:
        for name, module in hidden.items():
            setattr(pipeline, name, module)


@contextmanager
def prepared(pipeline: Any, build: Callable[..., Any], lora_scale: float) -> Iterator[None]:
    """Set eval mode, scheduler, LoRA strength and no tqdm bar, inside the block.

    Args:
        pipeline: A diffusers pipeline; restored afterwards.
        build: As :func:`find_sampler` gives it.
        lora_scale: Factor on the strength of every adapter layer.

    Raises:
        ValueError: If the strength is to change but an adapter is merged into the weights.
    """
    parts = [part for part in pipeline.components.values() if isinstance(part, nn.Module)]
    modes = [(module, module.training) for part in parts for module in part.modules()]
    scheduler = pipeline.scheduler
    bar_config = dict(getattr(pipeline, "_progress_bar_config", {}))
    try:
        for part in parts:
            part.eval()
        pipeline.scheduler = build(scheduler.config, in_pixels=not hasattr(pipeline, "vae"))
        pipeline.set_progress_bar_config(disable=True)
        with _scaled_adapters(parts, lora_scale):
            yield
    finally:
        pipeline.scheduler = scheduler
        pipeline.set_progress_bar_config(**bar_config)
        for module, training in modes:
            module.training = training


@contextmanager
def _scaled_adapters(parts: Sequence[nn.Module], factor: float) -> Iterator[None]:
    if factor == 1.0:
        yield
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    from sdlora.adapters.learned_embedding import learned

    layers: list[Any] = [
        m for part in parts for m in part.modules() if isinstance(m, BaseTunerLayer)
    ]
    if any(layer.merged for layer in layers):
        raise ValueError(
            f"lora_scale={factor}: the adapter is merged into the weights; set it before merging."
        )
    # kept and put back, as peft's unscale_layer divides and so drifts by rounding
    kept = [(layer, dict(layer.scaling)) for layer in layers]
    words = [(word, word.strength) for word in learned(*parts)]
    try:
        for word, strength in words:
            word.strength = strength * factor
        for layer, scaling in kept:
            layer.scaling = {name: value * factor for name, value in scaling.items()}
        yield
    finally:
        for word, strength in words:
            word.strength = strength
        for layer, scaling in kept:
            layer.scaling = scaling

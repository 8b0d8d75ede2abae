"""The typed schema of ``model.*``: the base model and its precision."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from sdlora.config.effect import TAKEN, Condition, absent, of, other_than, where
from sdlora.config.recommended import RecommendedConfig
from sdlora.config.rules import (
    require,
    require_choice,
    require_count,
)

PRECISIONS = ("fp32", "bf16", "fp16")


def _is_packed(path: str) -> bool:
    return path.startswith("embedded:") or path.endswith(".safetensors")


ON_THE_HUB = Condition(
    "model.path",
    lambda path: path is None or not (path.startswith("embedded:") or Path(path).exists()),
    "{} to a Hub id",
)
"""The base is fetched, and neither shipped nor a local path."""

UNPACKED = Condition(
    "model.path",
    lambda path: path is None or not _is_packed(path),
    "{} to a Hub id or a folder",
)
"""The base has a folder for each part, with files of several precisions."""

AUTO = "auto"
"""What the machine has; a run's own config holds what that came to."""


@dataclass(slots=True, kw_only=True)
class ModelConfig:
    """The base model: family, files, and precision of frozen weights."""

    family: str = MISSING
    """Model family: the code that loads and runs the parts. ``sd`` is Stable Diffusion 1.x / 2.x,
    ``sdxl`` is XL, ``kolors`` is Kolors, ``z_image`` is Z-Image, ``flux2_klein`` is FLUX.2 klein,
    ``ddpm`` an unconditional model of pixels."""
    path: str | None = MISSING
    """Hub id, local folder in the diffusers layout, checkpoint in one ``.safetensors`` file, or
    ``embedded:NAME`` for the shipped base; ``null``: random weights of ``model.architecture`` (ddpm
    only)."""
    architecture: dict[str, Any] = field(default_factory=dict, metadata=where(absent("model.path")))
    """Options of the denoiser (diffusers' ``UNet2DModel`` for ddpm) where ``model.path`` is null; a
    folder brings its own."""
    config: str | None = field(default=None, metadata=where(of("model.path", "*.safetensors")))
    """Hub id or folder with the configs and tokenizers of a checkpoint in one file, which holds
    weights only. Only those are fetched."""
    revision: str | None = field(default=None, metadata=where(ON_THE_HUB))
    """Hub branch, tag or commit."""
    variant: str | None = field(default=None, metadata=where(UNPACKED))
    """Weight file variant on the Hub, such as ``fp16``."""
    scratch: list[str] = field(default_factory=list)
    """Parts that start from random weights: any that the family may train, such as ``unet``."""
    clip_skip: int = 0
    """Number of the text encoder's last layers to skip (besides the last one, which SDXL never
    uses); >= 0."""
    vae: str | None = None
    """Another VAE instead of the model's own: Hub id, folder or ``.safetensors`` file, such as
    sdxl-vae-fp16-fix."""
    vae_precision: str | None = field(
        default=None, metadata=where(other_than("model.family", "ddpm"))
    )
    """Precision of the VAE: fp32, bf16 or fp16; ``null``: that of the run."""

    prediction_type: str | None = None
    """What the base predicts, where its files do not say it or contradict themselves: ``epsilon``,
    ``v_prediction`` or ``sample``; ``null``: what its scheduler, or the markers of a checkpoint in
    one file, say."""
    zero_terminal_snr: bool | None = None
    """Whether the base's noise ends in pure noise, where its files do not say it or contradict
    themselves; ``null``: as they say."""
    draw_with: str | None = None
    """Hub id or folder of the checkpoint of few steps that was distilled from the base, such as
    Z-Image-Turbo or klein: its transformer draws and scores, with the adapter and with steps and
    guidance of its own, and the base trains. ``null``: the base draws. For transformers of flow
    matching."""
    quantise: str | None = None
    """The denoiser's Linear layers are held in 8 bits (``int8``) or 4 (``nf4``, which needs
    bitsandbytes), so that a large base fits a small GPU; the LoRA is one for the unquantised base.
    ``null``: in the run's precision."""
    recommended: RecommendedConfig = field(default=MISSING, metadata=where(TAKEN))

    def __post_init__(self) -> None:
        if self.quantise is not None:
            require_choice("model.quantise", self.quantise, ("int8", "nf4"))
        if self.prediction_type is not None:
            known = ("epsilon", "v_prediction", "sample")
            require_choice("model.prediction_type", self.prediction_type, known)
        require_count("model.clip_skip", self.clip_skip, 0)
        if self.vae_precision is not None:
            require_choice("model.vae_precision", self.vae_precision, PRECISIONS)
        require(
            self.path is not None or bool(self.architecture),
            "model.path",
            "null",
            "name a folder or a Hub id; a model without one is experiment=unconditional",
        )

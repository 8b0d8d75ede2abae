"""What a base's files say of its prediction type and noise schedule."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from sdlora.config.rules import ConfigError
from sdlora.diffusion.noise_schedule import PREDICTION_TYPES
from sdlora.models.checkpoint_file import CheckpointHeader, SingleFileError
from sdlora.models.checkpoint_kind import UNET

PREDICTION = "prediction_type"
ZERO_SNR = "zero_terminal_snr"

V_PRED = "v_pred"
ZTSNR = "ztsnr"

SPELLINGS = {
    "v": "v_prediction",
    "v_prediction": "v_prediction",
    "vpred": "v_prediction",
    "velocity": "v_prediction",
    "epsilon": "epsilon",
    "eps": "epsilon",
    "sample": "sample",
}
"""Prediction types as headers spell them -> as diffusers does."""

IN_HEADER = ("modelspec.prediction_type", "modelspec.predict_key")
"""Header entries with a prediction type: ModelSpec's, and ComfyUI's name for it."""

ARCHITECTURES = {
    "stable-diffusion-v2-768-v": "v_prediction",
    "stable-diffusion-v2-512": "epsilon",
}
"""``modelspec.architecture`` of models that differ in their prediction type alone."""

EDM = ("edm_mean", "edm_std", "edm_vpred.sigma_max", "edm_vpred.sigma_min")
"""Tensors of models with EDM's continuous noise levels (Playground 2.5, CosXL)."""

LEVELS = ("alphas_cumprod", "model.alphas_cumprod")
SIGMAS = "denoiser.sigmas"
"""Tensors with the noise levels themselves, of CompVis' and of Stability's code."""

LEVEL_TOLERANCE = 1e-2
"""Relative tolerance of noise levels, which files round to 16 bits: bf16 to 2^-9."""

V_NORM = f"{UNET}output_blocks.11.1.transformer_blocks.0.norm1.bias"
V_NORM_STD = 0.09
"""By this weight's standard deviation ComfyUI tells Stable Diffusion 2's v-prediction models."""


@dataclass(frozen=True, slots=True)
class Marker:
    """One statement on a base.

    Attributes:
        key: ``prediction_type`` or ``zero_terminal_snr``.
        value: What it says.
        where: Its place, for messages.
    """

    key: str
    value: str | bool
    where: str

    def __str__(self) -> str:
        return f"{meaning(self.key, self.value)} ({self.where})"


def meaning(key: str, value: object) -> str:
    """A statement in words."""
    if key == PREDICTION:
        return str(value)
    return "zero-terminal SNR" if value else "no zero-terminal SNR"


def file_markers(header: CheckpointHeader) -> list[Marker]:
    """The statements of a checkpoint in one file.

    Raises:
        SingleFileError: If it is one of noise levels or a prediction type that are not supported.

    Source:
        ComfyUI, ``supported_models.py`` and ``nodes_model_merging.py`` (tensors,
        ``modelspec.predict_key``); Stability-AI/ModelSpec; kohya-ss/sd-scripts (``ss_*``).
    """
    tensors = {name.removeprefix(UNET) for name in header.dtypes}
    if edm := [name for name in EDM if name in tensors]:
        raise SingleFileError(
            f"holds the tensor {edm[0]}: it was trained with the continuous noise levels of EDM "
            "(arXiv:2206.00364), which are not supported; choose a model of discrete timesteps, "
            "such as model=sdxl"
        )
    found = [
        Marker(key, value, f"tensor {name}")
        for name, key, value in ((V_PRED, PREDICTION, "v_prediction"), (ZTSNR, ZERO_SNR, True))
        if name in tensors
    ]
    return found + _header_markers(header.metadata)


def believed(
    markers: Sequence[Marker], given: Mapping[str, str | bool | None], path: str
) -> dict[str, Marker]:
    """What a base is taken for: what its files agree on, and what ``model.*`` says beside them.

    Args:
        markers: The statements of its files.
        given: ``model.prediction_type`` and ``model.zero_terminal_snr``; ``None``: not given.
        path: ``model.path``, for messages.

    Returns:
        The statement by key; no entry where there is none.

    Raises:
        SingleFileError: If the files contradict themselves and ``model.*`` does not decide.
        ConfigError: If ``model.*`` contradicts the files.
    """
    found = {}
    for key, mine in given.items():
        said = [each for each in markers if each.key == key]
        if mine is not None:
            _check_given(key, mine, said, markers, path)
            found[key] = Marker(key, mine, f"model.{key}={_text(mine)}")
        elif len({each.value for each in said}) > 1:
            ways = {f"model.{key}={_text(each.value)}": None for each in said}
            raise SingleFileError(
                f"contradicts itself: {', '.join(map(str, said))}; set {' or '.join(ways)}"
            )
        elif said:
            found[key] = said[0]
    return found


def check_together(statements: Mapping[str, Marker], markers: Sequence[Marker]) -> None:
    """Refuse zero-terminal SNR with epsilon, where the last timestep has nothing to predict.

    Raises:
        SingleFileError: With the keys that decide.
    """
    snr, predicted = statements.get(ZERO_SNR), statements.get(PREDICTION)
    is_epsilon = predicted is None or predicted.value == "epsilon"
    if snr is None or not snr.value or not is_epsilon:
        return
    says = str(predicted) if predicted else "it does not say that it predicts v"
    way = f"model.{PREDICTION}=v_prediction"
    if any(each.value == "epsilon" for each in markers) or snr not in markers:
        way += f", or model.{ZERO_SNR}=false"
    raise SingleFileError(
        f"{snr}, but {says}: at pure noise epsilon has nothing to predict; set {way}"
    )


def written_markers(config: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header entries by which other programs, and this one, know a noise schedule.

    Args:
        config: A diffusers scheduler config.
    """
    import torch

    predicted = config.get(PREDICTION) or "epsilon"
    is_v = predicted == "v_prediction"
    tensors = {V_PRED: torch.zeros(1)} if is_v else {}
    if config.get("rescale_betas_zero_snr"):
        tensors[ZTSNR] = torch.zeros(1)
    return tensors, {IN_HEADER[0]: "v" if is_v else str(predicted)}


def level_markers(file: Path, header: CheckpointHeader, config: Mapping[str, Any]) -> list[Marker]:
    """What the noise levels in a file say; those of its config, not rescaled, say nothing.

    Args:
        file: The checkpoint.
        header: Of it.
        config: The scheduler config that it is read with.

    Raises:
        SingleFileError: If they are neither the config's nor those rescaled to zero-terminal SNR.
    """
    from diffusers import DDPMScheduler

    name = next((each for each in (*LEVELS, SIGMAS) if each in header.dtypes), None)
    if name is None:
        return []
    with safe_open(file, "pt") as opened:
        values = opened.get_tensor(name).double().flatten()
    levels = 1 / (1 + values.square()) if name == SIGMAS else values
    own = levels.sort(descending=True).values
    for rescaled in (False, True):
        same_but = {**config, "rescale_betas_zero_snr": rescaled}
        expected = DDPMScheduler.from_config(same_but).alphas_cumprod.double()
        if len(own) == len(expected) and _near(own, expected):
            return [Marker(ZERO_SNR, True, f"tensor {name}")] if rescaled else []
    raise SingleFileError(
        f"its noise levels (tensor {name}: {len(own)} from {own[0]:.4g} to {own[-1]:.4g}) are not "
        "those of model.config; name with model.config a pipeline whose scheduler has them"
    )


def looks_like_v(file: Path, header: CheckpointHeader) -> bool:
    """Whether a Stable Diffusion 2 that says nothing is one of v-prediction by ComfyUI's rule."""
    is_2 = header.has("cond_stage_model.model.") and V_NORM in header.dtypes
    if not is_2:
        return False
    with safe_open(file, "pt") as opened:
        return float(opened.get_tensor(V_NORM).float().std(unbiased=False)) > V_NORM_STD


def _near(own: Tensor, expected: Tensor) -> bool:
    return bool(((own - expected).abs() <= LEVEL_TOLERANCE * expected + 1e-6).all())


def _header_markers(metadata: Mapping[str, str]) -> list[Marker]:
    found = []
    for name in IN_HEADER:
        if (text := metadata.get(name)) is None:
            continue
        where = f"header {name}={text}"
        value = SPELLINGS.get(text.strip().lower().replace("-", "_"))
        if value is None:
            raise SingleFileError(
                f"{where}: a prediction type that is not supported; choose a model that predicts "
                f"{', '.join(PREDICTION_TYPES)}"
            )
        found.append(Marker(PREDICTION, value, where))
    architecture = metadata.get("modelspec.architecture", "")
    if architecture in ARCHITECTURES:
        where = f"header modelspec.architecture={architecture}"
        found.append(Marker(PREDICTION, ARCHITECTURES[architecture], where))
    version = metadata.get("ss_base_model_version", "")
    if version.startswith(("sd_v1", "sd_v2")):
        value = "v_prediction" if version.endswith("_v") else "epsilon"
        found.append(Marker(PREDICTION, value, f"header ss_base_model_version={version}"))
    for name, key, values in (
        ("ss_v_parameterization", PREDICTION, {"true": "v_prediction", "false": "epsilon"}),
        ("ss_zero_terminal_snr", ZERO_SNR, {"true": True, "false": False}),
    ):
        if (text := metadata.get(name, "")).lower() in values:
            found.append(Marker(key, values[text.lower()], f"header {name}={text}"))
    return found


def _check_given(
    key: str, mine: str | bool, said: Sequence[Marker], markers: Sequence[Marker], path: str
) -> None:
    """Refuse a key of ``model`` that all statements of the files contradict."""
    allowed, every = {each.value for each in said}, {each.value for each in markers}
    if key == PREDICTION and True in every:  # what else could end in pure noise
        allowed.add("v_prediction")
    if key == ZERO_SNR and "epsilon" in every:
        allowed.add(False)
    if not said or mine in allowed:
        return
    raise ConfigError(
        f"model.{key}={_text(mine)}: but model.path={path} says {said[0]}; leave model.{key} out, "
        "or take the mistaken marker out of the file (docs/families.md)"
    )


def _text(value: str | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else value

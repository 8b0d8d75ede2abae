"""The noise schedule of a base: its scheduler's config, with what its file and ``model.*`` say."""

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sdlora.diffusion.noise_schedule import PREDICTION_TYPES, changed_schedule
from sdlora.models.checkpoint_file import SingleFileError, read_header
from sdlora.models.families import description_of
from sdlora.models.noise_markers import (
    PREDICTION,
    ZERO_SNR,
    Marker,
    believed,
    check_together,
    file_markers,
    level_markers,
    looks_like_v,
)
from sdlora.models.source import (
    ModelError,
    ModelSource,
    inside,
    schedule_folder,
    single_file,
)

RESCALE = "rescale_betas_zero_snr"
FLOW_SCHEDULER = "FlowMatchEulerDiscreteScheduler"


@dataclass(frozen=True, slots=True)
class BaseNoise:
    """The noise schedule of a base.

    Attributes:
        config: A diffusers scheduler config.
        statements: What it follows, by key: ``prediction_type``, ``zero_terminal_snr``; without an
            entry diffusers' default holds.
    """

    config: dict[str, Any]
    statements: Mapping[str, Marker]


def base_noise(source: ModelSource) -> BaseNoise:
    """The noise schedule of a base; reads no weight of it, but converts a checkpoint in one file.

    Raises:
        ModelError: If its files contradict themselves, or it is of a kind that is not supported.
        ConfigError: If ``model.*`` contradicts its files.
    """
    config = scheduler_config(source)
    if description_of(source.family).is_flow:
        return BaseNoise(_flow_config(source, config), {})
    try:
        statements = _statements(source, config)
    except SingleFileError as error:
        raise ModelError(f"model.path={source.path}: {error}") from error
    predicted, snr = statements.get(PREDICTION), statements.get(ZERO_SNR)
    rescales = bool(config.get(RESCALE))
    changed = changed_schedule(
        config,
        None if predicted is None else str(predicted.value),
        snr is not None and bool(snr.value) and not rescales,
    )
    if snr is not None and not snr.value and rescales:
        changed[RESCALE] = False
    return BaseNoise(changed, statements)


def _flow_config(source: ModelSource, config: dict[str, Any]) -> dict[str, Any]:
    """The config of a scheduler of flow matching, which says nothing that could be otherwise."""
    if config.get("_class_name") != FLOW_SCHEDULER:
        raise ModelError(
            f"{_where(source)}: its scheduler is a {config.get('_class_name')}, where "
            f"{description_of(source.family).kind} has a {FLOW_SCHEDULER}; choose another model"
        )
    return config


def noise_schedule_config(source: ModelSource) -> dict[str, Any]:
    """The base's noise schedule as a diffusers scheduler config; see :func:`base_noise`."""
    return base_noise(source).config


def _statements(source: ModelSource, config: Mapping[str, Any]) -> dict[str, Marker]:
    file = single_file(source)
    named = "" if file is None else f"model.config={source.config}: "
    markers = schedule_markers(config, f"{named}its scheduler_config.json")
    header = None
    if file is not None:
        header = read_header(file)
        markers += file_markers(header) + level_markers(file, header, config)
    found = believed(markers, source.said, source.path)
    check_together(found, markers)
    if file is not None and header is not None and PREDICTION not in found:
        _ask_for_prediction(looks_like_v(file, header))
    return found


def _ask_for_prediction(looks_like_v: bool) -> None:
    if looks_like_v:
        raise SingleFileError(
            "does not say what it predicts, but its weights are like those of Stable Diffusion 2 "
            f"with v-prediction; set model.{PREDICTION}=v_prediction, or model.{PREDICTION}=epsilon"
        )


def scheduler_config(source: ModelSource) -> dict[str, Any]:
    """The model's ``scheduler_config.json``; reads no weight.

    Raises:
        ModelError: If it is missing or no JSON.
    """
    folder = schedule_folder(source)
    name = inside("scheduler/scheduler_config.json", folder, source)
    try:
        config: dict[str, Any] = json.loads((folder / name).read_text("utf-8"))
    except (OSError, ValueError) as error:
        fault = "is missing" if isinstance(error, OSError) else "is no JSON"
        raise ModelError(f"{_where(source)}: {name} {fault} ({error}); fetch it again") from error
    return config


def _where(source: ModelSource) -> str:
    key, value = source.instead(description_of(source.family).denoiser) or (
        "model.path",
        source.path,
    )
    return f"{key}={value}"


def schedule_markers(config: Mapping[str, Any], where: str) -> list[Marker]:
    """What a ``scheduler_config.json`` says besides diffusers' defaults.

    Args:
        config: Its content.
        where: Its place, for messages.

    Raises:
        SingleFileError: If its noise levels or its prediction type are not supported.
    """
    import diffusers

    name = str(config.get("_class_name"))
    kind = getattr(diffusers, name, None)
    known = inspect.signature(kind).parameters if isinstance(kind, type) else {}
    if "beta_schedule" not in {**config, **known}:
        raise SingleFileError(
            f"{where} is that of {name}, whose noise levels (EDM, flow matching) are not "
            "supported; choose a model of discrete timesteps"
        )
    found = []
    predicted = config.get(PREDICTION)
    if predicted not in (None, "epsilon"):
        if predicted not in PREDICTION_TYPES:
            raise SingleFileError(
                f"{where} says prediction_type={predicted}, which is not supported; choose a model "
                f"that predicts {', '.join(PREDICTION_TYPES)}"
            )
        found.append(Marker(PREDICTION, predicted, where))
    if config.get("rescale_betas_zero_snr"):
        found.append(Marker(ZERO_SNR, True, where))
    return found

"""Typed config -> the training objective, with checks against the model's noise schedule."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from diffusers import DDPMScheduler

from sdlora.config.objective import ObjectiveConfig, TimestepsConfig
from sdlora.config.rules import ConfigError, require
from sdlora.diffusion.flow_schedule import is_flow, token_points
from sdlora.diffusion.huber import Huber
from sdlora.diffusion.noise_schedule import NoiseSchedule, changed_schedule
from sdlora.diffusion.objective import Objective, Weight
from sdlora.diffusion.schedule import schedule_of
from sdlora.diffusion.timesteps import Shape, Shift, by_tokens, timestep_sampling
from sdlora.diffusion.training_noise import TrainingNoise
from sdlora.diffusion.weighting import (
    bell_weight,
    debiased_weight,
    min_snr_weight,
    p2_weight,
    table_weight,
)
from sdlora.models.base_noise import BaseNoise
from sdlora.models.family import Family
from sdlora.models.noise_markers import PREDICTION
from sdlora.sampling.samplers import check_sampler


def check_objective(
    config: ObjectiveConfig, schedule_config: Mapping[str, Any], has_teacher: bool = False
) -> None:
    """Check the objective against the model's own noise schedule; reads no weight.

    Args:
        config: The objective of the training.
        schedule_config: The model's ``scheduler_config.json``.
        has_teacher: Whether the bare base is the teacher of prior preservation.

    Raises:
        ConfigError: Naming key, value and remedy.
    """
    steps, count = config.timesteps, int(schedule_config.get("num_train_timesteps", 1000))
    for key, value in (("min", steps.min_timestep + 1), ("max", steps.max_timestep or 1)):
        require(
            value <= count,
            f"objective.timesteps.{key}_timestep",
            value - (key == "min"),
            f"this model has {count} timesteps",
        )
    if not is_flow(schedule_config):
        _check_discrete(config, schedule_config, has_teacher)


def _check_discrete(
    config: ObjectiveConfig, schedule_config: Mapping[str, Any], has_teacher: bool
) -> None:
    """Check what is changed of a discrete schedule."""
    own = DDPMScheduler.from_config(dict(schedule_config)).config
    if config.zero_terminal_snr and not config.prediction_type:
        require(
            own["prediction_type"] != "epsilon",
            "objective.zero_terminal_snr",
            True,
            "this model predicts epsilon, so its last timestep has nothing to learn; set "
            "objective.prediction_type=v_prediction, or choose a model that predicts v",
        )
    changed = changed_schedule(schedule_config, config.prediction_type, config.zero_terminal_snr)
    if has_teacher:
        _refuse_teaching(own, changed)
    try:
        NoiseSchedule.from_config(changed)
    except ValueError as error:  # names its argument; here that is a key of this group
        raise ConfigError(f"objective.{error}") from error


def check_retrained(config: ObjectiveConfig, base: BaseNoise, path: str) -> None:
    """Refuse a prediction type that contradicts what the base's files say, unless it is meant.

    It is meant if ``model.prediction_type`` names what the base predicts. An epsilon that only is
    diffusers' default is no statement.

    Args:
        config: The objective of the training.
        base: The noise schedule of the base.
        path: ``model.path``, for the message.

    Raises:
        ConfigError: Naming both, and the remedy.
    """
    says, wanted = base.statements.get(PREDICTION), config.prediction_type
    if says is None or wanted in (None, says.value) or says.where.startswith(f"model.{PREDICTION}"):
        return
    raise ConfigError(
        f"objective.prediction_type={wanted}: but model.path={path} predicts {says}; leave "
        "objective.prediction_type out (objective=default), or, to train it to another prediction "
        f"type, set model.{PREDICTION}={says.value}, too"
    )


def check_sampler_of_base(
    sampler: str, base: BaseNoise, prediction_type: str | None, zero_terminal_snr: bool
) -> None:
    """Refuse a sampler that cannot follow the noise schedule of the base, or that of the training.

    Args:
        sampler: ``sampling.sampler``.
        base: The noise schedule of the base.
        prediction_type: ``objective.prediction_type`` of the training.
        zero_terminal_snr: Its ``objective.zero_terminal_snr``.

    Raises:
        ConfigError: Naming the samplers that can.
    """
    changed = changed_schedule(base.config, prediction_type, zero_terminal_snr)
    for schedule in (base.config, changed):
        try:
            check_sampler(sampler, schedule)
        except ValueError as error:
            raise ConfigError(f"sampling.sampler={sampler}: {error}") from error


def _refuse_teaching(own: Mapping[str, Any], changed: Mapping[str, Any]) -> None:
    for key in ("prediction_type", "rescale_betas_zero_snr"):
        after = changed.get(key, own[key])
        require(
            after == own[key],
            "data.prior.mode",
            "teacher",
            f"the base was trained with {key}={own[key]} and cannot teach {key}={after}; set "
            "data.prior.mode=class, or keep the base's objective.prediction_type and "
            "objective.zero_terminal_snr",
        )


def objective(config: ObjectiveConfig, family: Family) -> Objective:
    """The objective: target, weight, error, noise and timesteps, on the model's noise schedule."""
    steps, noise = config.timesteps, config.noise
    return Objective(
        schedule_of(family.noise_schedule_config),
        weight=_weight(config),
        huber=_huber(config),
        timesteps=timestep_sampling(
            steps.name,
            shape=Shape(
                logit_mean=steps.logit_mean,
                logit_std=steps.logit_std,
                mode_scale=steps.mode_scale,
                bin_weights=tuple(steps.bin_weights),
            ),
            min_timestep=steps.min_timestep,
            max_timestep=steps.max_timestep,
            shift=_shift(steps, family.noise_schedule_config),
        ),
        training_noise=TrainingNoise(
            offset=noise.offset,
            pyramid_iterations=noise.pyramid_iterations,
            pyramid_discount=noise.pyramid_discount,
            perturbation=noise.perturbation,
        ),
    )


def _shift(steps: TimestepsConfig, schedule_config: Mapping[str, Any]) -> Shift | None:
    if steps.shift == "none":
        return None
    if steps.shift == "constant":
        return lambda num_tokens: steps.shift_factor
    first, last = token_points(schedule_config)
    if steps.shift_points:
        first, last = ((int(tokens), float(mu)) for tokens, mu in steps.shift_points)
    return partial(by_tokens, points=(first, last))


def _weight(config: ObjectiveConfig) -> Weight | None:
    if config.min_snr_gamma is not None:
        return partial(min_snr_weight, gamma=config.min_snr_gamma)
    weights: dict[str | None, Weight | None] = {
        None: None,
        "debiased": debiased_weight,
        "p2": partial(p2_weight, gamma=config.p2_gamma, k=config.p2_k),
        "bell": bell_weight,
        "table": partial(table_weight, weights=tuple(config.weight_table)),
    }
    return weights[config.weighting]


def _huber(config: ObjectiveConfig) -> Huber | None:
    error = config.error
    if error.name == "l2":
        return None
    return Huber(error.threshold, error.schedule, smooth_l1=error.name == "smooth_l1")

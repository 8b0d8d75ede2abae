"""Checks of the training config that need libraries but no weight."""

from dataclasses import replace

from transformers.utils import logging as transformers_logging

from sdlora.assembly.device import check_device, found_precision
from sdlora.assembly.family_limits import check_family_limits
from sdlora.assembly.optimizer import check_optimizer, check_schedule, trained_rates
from sdlora.assembly.scorers import check_choice, check_scores
from sdlora.config.rules import ConfigError
from sdlora.config.train import TrainConfig
from sdlora.diffusion.noise_schedule import changed_schedule
from sdlora.sampling.generate import check_sampling
from sdlora.sampling.samplers import check_sampler
from sdlora.training.loggers import require_logger


def with_found_precision(config: TrainConfig) -> TrainConfig:
    """The config with the precision that ``auto`` means on this machine."""
    trainer = config.trainer
    found = found_precision(trainer.precision, trainer.accelerator, config.model.family)
    return replace(config, trainer=replace(trainer, precision=found))


def check(config: TrainConfig) -> None:
    """Check names, options, prompts and devices, without reading a weight.

    Raises:
        ValueError: Naming key, value and remedy.
    """
    transformers_logging.disable_progress_bar()  # it would draw over the run's own bars
    check_family_limits(config)
    rates = trained_rates(config.optim, config.lora, config.model.family)
    check_optimizer(config.optim, config.trainer.accelerator, rates)
    check_schedule(config.scheduler, config.optim.name, config.trainer.ema_decay, rates)
    check_sampling(config.sampling)
    objective, sampler = config.objective, config.sampling.sampler
    try:
        changed = changed_schedule({}, objective.prediction_type, objective.zero_terminal_snr)
        check_sampler(sampler, changed)
    except ValueError as error:
        raise ConfigError(f"sampling.sampler={sampler}: {error}") from error
    for name in config.logger.names:
        require_logger(name)
    trainer = config.trainer
    check_device(trainer.accelerator, trainer.precision, trainer.compile)
    check_scores(config.evaluation, config.sampling)
    select = config.evaluation.select
    check_choice(config.evaluation, "evaluation.select", [select], instead="image_similarity")

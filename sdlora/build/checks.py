"""Checks that need the libraries but no weight; importing them all waits until these passed."""

from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from sdlora.config import EvaluateConfig, SamplingConfig, TrainConfig
from sdlora.config_rules import ConfigError, require
from sdlora.generate import Prompt, read_prompts
from sdlora.optim import (
    CUDA_ONLY,
    FLAT_SCHEDULES,
    ONE_RATE,
    SCHEDULES,
    averages_itself,
    check_options,
    choice,
    optimizer_factory,
)
from sdlora.samplers import find_sampler


def check(config: TrainConfig) -> None:
    """Check what needs the libraries, but no weight: names, options, prompts, devices.

    Raises:
        ValueError: Naming key, value and remedy.
    """
    transformers_logging.disable_progress_bar()  # it would draw over the run's own bars
    check_optimizer(config)
    check_schedule(config)
    check_sampling(config.sampling)
    check_device(config.trainer.accelerator, config.trainer.precision)
    references = config.evaluation.references
    if references is not None and not Path(references).is_dir():
        raise ConfigError(f"evaluation.references={references}: no such folder; name one, or null")


def check_optimizer(config: TrainConfig) -> None:
    """Build the optimizer on one number, so that a wrong option is known before anything loads."""
    optim = config.optim
    factory = optimizer_factory(optim.name)
    check_options("optim.options", factory, optim.options)
    try:
        factory([torch.nn.Parameter(torch.zeros(1))], lr=optim.unet_lr, **optim.options)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"optim.options={optim.options}: {optim.name} does not take such a value ({error})"
        ) from error
    if optim.name in ONE_RATE:
        rates = trained_rates(config)
        require(
            len(set(rates.values())) == 1,
            "optim.text_encoder_lr",
            optim.text_encoder_lr,
            f"{optim.name} takes one rate for all; set it to optim.unet_lr={optim.unet_lr}",
        )
        require(
            optim.lora_plus_ratio in (None, 1),
            "optim.lora_plus_ratio",
            optim.lora_plus_ratio,
            f"{optim.name} takes one rate for all; set it to null",
        )
    has_cuda = torch.cuda.is_available() and config.trainer.accelerator in ("auto", "gpu")
    require(
        has_cuda or optim.name not in CUDA_ONLY,
        "optim.name",
        optim.name,
        "needs an NVIDIA GPU, whose driver moves the state out of a full memory; elsewhere use "
        "adamw8bit",
    )


def check_schedule(config: TrainConfig) -> None:
    """Check the schedule's name, and that it suits the optimizer."""
    name = choice("scheduler.name", config.scheduler.name, SCHEDULES)
    if averages_itself(optimizer_factory(config.optim.name)):
        require(
            name in FLAT_SCHEDULES,
            "scheduler.name",
            name,
            f"{config.optim.name} averages the weights instead of lowering the rate; use "
            "scheduler=constant or constant_with_warmup",
        )
        require(
            config.trainer.ema_decay is None,
            "trainer.ema_decay",
            config.trainer.ema_decay,
            f"{config.optim.name} averages the weights itself; set it to null",
        )


def trained_rates(config: TrainConfig) -> dict[str, float]:
    """Learning rates of the parts that train."""
    rates = {"unet": config.optim.unet_lr, "text_encoder": config.optim.text_encoder_lr}
    return {p: rate for p, rate in rates.items() if getattr(config.lora, p).method != "frozen"}


def check_sampling(config: SamplingConfig) -> None:
    """Check sampler name and prompt file."""
    try:
        find_sampler(config.sampler)
        prompts(config)
    except ValueError as error:  # names its argument; here that is a key of this group
        raise ConfigError(f"sampling.{error}") from error


def check_device(accelerator: str, precision: str) -> None:
    """Check that the machine has what is asked for."""
    has_gpu = torch.cuda.is_available()
    if accelerator == "gpu" and not has_gpu:
        raise ConfigError("trainer.accelerator=gpu: no GPU that torch can use; set it to auto")
    if accelerator == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("trainer.accelerator=mps: not on this machine; set it to auto")
    if precision == "fp16" and not has_gpu:
        raise ConfigError("trainer.precision=fp16: needs a GPU; on the CPU use bf16 or fp32")


def prompts(config: SamplingConfig) -> tuple[Prompt, ...]:
    """Every prompt of the file with every seed."""
    texts = read_prompts(config.prompts)[: config.num_prompts]
    return tuple(Prompt(text, seed) for text in texts for seed in config.seeds)


def check_evaluation(config: EvaluateConfig) -> None:
    """Check names, prompts and paths before a weight is read.

    Raises:
        ValueError: Naming key, value and remedy.
    """
    transformers_logging.disable_progress_bar()  # it would draw over the run's own bars
    check_sampling(config.sampling)
    check_device(config.accelerator, config.precision)
    lora_path(config)


def lora_path(config: EvaluateConfig) -> Path:
    """The file or folder that holds the LoRA.

    Raises:
        ConfigError: If it is not there.
    """
    if config.lora_file is not None:
        path = Path(config.lora_file)
        if not path.exists():
            raise ConfigError(f"lora={path}: no such file or folder")
        return path
    assert config.run is not None, "the schema requires one of both"
    run = Path(config.run)
    if config.run_checkpoint == "best":
        best = run / "best" / "pytorch_lora_weights.safetensors"
        if not best.is_file():
            raise ConfigError(f"checkpoint=best: {run} has kept none; choose last or a step number")
        return best
    if config.run_checkpoint == "last" and (run / "lora").is_dir():
        return run / "lora" / "pytorch_lora_weights.safetensors"
    return _checkpoint(run, config.run_checkpoint)


def _checkpoint(run: Path, checkpoint: str) -> Path:
    from sdlora.checkpoint import step_folder, steps_on_disk  # brings Lightning, which is slow

    steps = steps_on_disk(run / "checkpoints")
    if not steps:
        raise ConfigError(f"run={run}: holds no checkpoint; give a folder that train.py wrote")
    if checkpoint != "last" and (not checkpoint.isdigit() or int(checkpoint) not in steps):
        known = ", ".join(map(str, steps))
        raise ConfigError(f"checkpoint={checkpoint}: not in {run}; choose last or one of {known}")
    step = steps[-1] if checkpoint == "last" else int(checkpoint)
    return step_folder(run / "checkpoints", step) / "pytorch_lora_weights.safetensors"

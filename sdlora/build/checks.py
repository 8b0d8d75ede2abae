"""Checks that need the libraries but no weight; importing them all waits until these passed."""

from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from sdlora.build.optimizer import check_optimizer, check_schedule
from sdlora.config import EvaluateConfig, SamplingConfig, TrainConfig
from sdlora.config_rules import ConfigError
from sdlora.generate import Prompt, read_prompts
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

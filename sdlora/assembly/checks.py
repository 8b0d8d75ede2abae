"""Checks that need the libraries but no weight; importing them all waits until these passed."""

from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from sdlora.adapters.textual_inversion import FOLDER as EMBEDDINGS
from sdlora.assembly.optimizer import check_optimizer, check_schedule
from sdlora.assembly.unconditional import check_told
from sdlora.config import EvaluateConfig, SamplingConfig, TrainConfig
from sdlora.config_evaluation import EvaluationConfig
from sdlora.config_rules import ConfigError, require
from sdlora.diffusion.noise_schedule import changed_schedule
from sdlora.generate import Prompt, read_prompts
from sdlora.metrics.scoring import with_class_word
from sdlora.samplers import check_sampler, find_sampler


def check(config: TrainConfig) -> None:
    """Check what needs the libraries, but no weight: names, options, prompts, devices.

    Raises:
        ValueError: Naming key, value and remedy.
    """
    transformers_logging.disable_progress_bar()  # it would draw over the run's own bars
    check_told(config)
    check_optimizer(config)
    check_schedule(config)
    check_sampling(config.sampling)
    objective, sampler = config.objective, config.sampling.sampler
    try:
        asked = changed_schedule({}, objective.prediction_type, objective.zero_terminal_snr)
        check_sampler(sampler, asked)
    except ValueError as error:
        raise ConfigError(f"sampling.sampler={sampler}: {error}") from error
    check_device(config.trainer.accelerator, config.trainer.precision)
    check_scores(config.evaluation, config.sampling)


def check_sampling(config: SamplingConfig) -> None:
    """Check sampler name and prompt file."""
    try:
        find_sampler(config.sampler)
        prompts(config)
    except ValueError as error:  # names its argument; here that is a key of this group
        raise ConfigError(f"sampling.{error}") from error


def check_scores(config: EvaluationConfig, sampling: SamplingConfig) -> None:
    """Check what the scores compare with."""
    prior_prompts(sampling, config)
    if config.references is not None and not Path(config.references).is_dir():
        raise ConfigError(
            f"evaluation.references={config.references}: no such folder; name one, or null"
        )


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
    """Every prompt of the file with every seed; without a file, every seed."""
    texts = [""] if config.prompts is None else read_prompts(config.prompts)[: config.num_prompts]
    after = range(max(config.seeds) + 1, max(config.seeds) + 1 + (config.num_seeds or 0))
    seeds = [*config.seeds, *after][: config.num_seeds or len(config.seeds)]
    return tuple(Prompt(config.prompt_prefix + text, seed) for text in texts for seed in seeds)


def prior_prompts(config: SamplingConfig, evaluation: EvaluationConfig) -> tuple[Prompt, ...]:
    """The first prompts that call the trigger word, with the class word instead.

    Raises:
        ConfigError: If they are wanted and no prompt calls it.
    """
    if not evaluation.prior_prompts:
        return ()
    words = evaluation.trigger_word, evaluation.class_word
    reworded = [(each, with_class_word(each.text, *words)) for each in prompts(config)]
    found = [Prompt(text, each.seed) for each, text in reworded if text != each.text]
    if not found:
        raise ConfigError(
            f"evaluation.trigger_word={evaluation.trigger_word}: in no prompt of "
            f"{config.prompts}; name the word that they call the person by"
        )
    return tuple(dict.fromkeys(found))[: evaluation.prior_prompts]


def check_evaluation(config: EvaluateConfig) -> None:
    """Check names, prompts and paths before a weight is read.

    Raises:
        ValueError: Naming key, value and remedy.
    """
    transformers_logging.disable_progress_bar()  # it would draw over the run's own bars
    check_sampling(config.sampling)
    check_scores(config.evaluation, config.sampling)
    check_device(config.accelerator, config.precision)
    for key, paths in (("lora", config.lora_file), ("images", config.images)):
        for path in paths:
            if not Path(path).exists():
                raise ConfigError(f"{key}={path}: no such file or folder")
    if config.data.root is not None and not Path(config.data.root).is_dir():
        raise ConfigError(f"data.root={config.data.root}: no such folder; name one, or null")
    if config.run is not None and not config.images:
        adapter = checkpoint_path(config.run, config.run_checkpoint)
        require(
            adapter.is_file() or (adapter.parent / EMBEDDINGS).is_dir(),
            "run",
            config.run,
            "holds no LoRA, as it trained all weights; its own report.html has their scores, and "
            "images=FOLDER scores pictures",
        )
    require(
        config.sampling.prompts is not None,
        "sampling.prompts",
        "null",
        "name a text file with one prompt a line",
    )


def checkpoint_path(folder: str, checkpoint: str) -> Path:
    """The LoRA file of a run.

    Args:
        folder: The run folder.
        checkpoint: ``last``, ``best`` or a step number; ``all`` checks that there is one.

    Raises:
        ConfigError: If it is not there.
    """
    run = Path(folder)
    if checkpoint == "best":
        best = run / "best" / "pytorch_lora_weights.safetensors"
        if not best.parent.is_dir():
            raise ConfigError(f"checkpoint=best: {run} has kept none; choose last or a step number")
        return best
    if checkpoint == "last" and (run / "lora").is_dir():
        return run / "lora" / "pytorch_lora_weights.safetensors"
    return _step_path(run, "last" if checkpoint == "all" else checkpoint)


def _step_path(run: Path, checkpoint: str) -> Path:
    from sdlora.checkpoint import step_folder, steps_on_disk  # brings Lightning, which is slow

    steps = steps_on_disk(run / "checkpoints")
    if not steps:
        raise ConfigError(f"run={run}: holds no checkpoint; give a folder that train.py wrote")
    if checkpoint != "last" and (not checkpoint.isdigit() or int(checkpoint) not in steps):
        known = ", ".join(map(str, steps))
        raise ConfigError(f"checkpoint={checkpoint}: not in {run}; choose last or one of {known}")
    step = steps[-1] if checkpoint == "last" else int(checkpoint)
    return step_folder(run / "checkpoints", step) / "pytorch_lora_weights.safetensors"

"""Checks of the config of ``evaluate.py`` that need libraries but no weight."""

from transformers.utils import logging as transformers_logging

from sdlora.adapters.textual_inversion import FOLDER as EMBEDDINGS
from sdlora.assembly.device import check_device
from sdlora.assembly.scorers import check_scores
from sdlora.config.evaluate import EvaluateConfig
from sdlora.config.rules import ConfigError, require
from sdlora.config.sampling import CAPTIONS
from sdlora.models.families import description_of
from sdlora.runs.adapter_file import checkpoint_path
from sdlora.runs.run_folder import PROMPTS
from sdlora.runtime.places import located
from sdlora.sampling.generate import check_sampling


def check_evaluation(config: EvaluateConfig) -> None:
    """Check names, prompts and paths before a weight is read.

    Raises:
        ValueError: Naming key, value and remedy.
    """
    transformers_logging.disable_progress_bar()  # it would draw over the run's own bars
    check_sampling(config.sampling)
    check_scores(config.evaluation, config.sampling)
    check_device(config.accelerator, config.precision)
    _check_what_is_scored(config)
    description = description_of(config.model.family)
    require(
        bool(config.images) or config.precision != "fp16" or not description.is_flow,
        "precision",
        "fp16",
        f"{description.kind} overflows in it; set it to bf16, or to fp32",
    )
    require(
        config.sampling.prompts is not None,
        "sampling.prompts",
        "null",
        "name a text file with one prompt for each line",
    )
    is_known = config.images or (config.run is None and config.data.root is not None)
    lacking = f"{config.run} holds no {PROMPTS}" if config.run else "there are no pictures"
    require(
        bool(is_known) or config.sampling.prompts != CAPTIONS,
        "sampling.prompts",
        CAPTIONS,
        f"{lacking}; name a text file with one prompt for each line"
        + ("" if config.run else ", or the training pictures with data.root=FOLDER"),
    )


def _check_what_is_scored(config: EvaluateConfig) -> None:
    """Check that files and folders exist, and that a run has an adapter."""
    for key, paths in (("lora", config.lora), ("images", config.images)):
        for path in paths:
            if not located(path).exists():
                raise ConfigError(f"{key}={path}: no such file or folder")
    if config.data.root is not None and not located(config.data.root).is_dir():
        raise ConfigError(f"data.root={config.data.root}: no such folder; name one, or null")
    scorers = ("face", "clip", "attributes", "image", "aesthetic")
    require(
        not config.images or any(getattr(config.evaluation, key).name != "none" for key in scorers),
        "images",
        config.images,
        "is to be scored, but evaluation has no scorer; choose one, such as evaluation=photos",
    )
    if config.run is not None and not config.images:
        adapter = checkpoint_path(config.run, config.checkpoint)
        require(
            adapter.is_file() or (adapter.parent / EMBEDDINGS).is_dir(),
            "run",
            config.run,
            "holds no LoRA, since it trained all weights; its own report.html has their scores, "
            "and images=FOLDER scores pictures",
        )

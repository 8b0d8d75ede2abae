"""Objects kept for the next cell of a process: base model, scorer, the base's pictures."""

import gc
from collections.abc import Callable
from dataclasses import asdict, replace

import torch

from sdlora.adapters.formats import remove_lora
from sdlora.assembly import base_model
from sdlora.assembly.adapters import trains_base
from sdlora.commands.train.training_run import TrainingRun
from sdlora.config.data import DataConfig
from sdlora.config.evaluation import EvaluationConfig
from sdlora.config.lora import LoraConfig
from sdlora.config.model import ModelConfig
from sdlora.config.train import TrainConfig
from sdlora.config.trainer import TrainerConfig
from sdlora.evaluation.evaluator import Evaluator
from sdlora.evaluation.scoring import Scorer
from sdlora.models.family import Family
from sdlora.models.memory import keep_activations
from sdlora.runtime.kept import Kept

FAMILY, SCORER, BASE_PICTURES = "family", "scorer", "base pictures"


def kept_base(config: TrainConfig, kept: Kept) -> Family:
    """The base without adapters, loaded unless the last run kept the same one."""

    def load() -> Family:
        return base_model.load(config.model, config.lora, config.trainer.precision, config.seed)

    return kept.take(FAMILY, _family_key(config.model, config.lora, config.trainer), load)


def kept_scorer(
    evaluation: EvaluationConfig,
    data: DataConfig,
    fingerprint: str,
    device: torch.device,
    kept: Kept,
    make: Callable[[], Scorer],
) -> Scorer:
    """The scorer with its models and references, made unless the last run kept the same one.

    Args:
        evaluation: The scores.
        data: The pictures.
        fingerprint: Fingerprint of the pictures.
        device: Device of the scorers.
        kept: Objects of the last run.
        make: Makes a new scorer.
    """
    key = (asdict(evaluation), asdict(data), fingerprint, device)
    found = kept.take(SCORER, key, make)
    kept.put(SCORER, key, found)
    return found


def with_kept_pictures(evaluator: Evaluator, config: TrainConfig, kept: Kept) -> Evaluator:
    """The evaluator with the base's pictures and scores, if the last run drew the same ones."""
    unknown = (evaluator.base, evaluator.base_prior)
    family_key = _family_key(config.model, config.lora, config.trainer)
    key = _pictures_key(family_key, evaluator)
    base, prior = kept.take(BASE_PICTURES, key, lambda: unknown)
    return replace(evaluator, base=base, base_prior=prior)


def keep(run: TrainingRun, kept: Kept) -> None:
    """Keep the objects that the next run may reuse; this run cannot be used afterwards."""
    config, evaluator = run.config, run.evaluator
    if _is_reusable(config.lora, config.model.family, config.trainer):
        key = _family_key(config.model, config.lora, config.trainer)
        pictures = (evaluator.base, evaluator.base_prior)
        kept.put(BASE_PICTURES, _pictures_key(key, evaluator), pictures)
        kept.put(FAMILY, key, restored_base(run.family))
    gc.collect()  # Lightning's objects hold each other
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def restored_base(family: Family) -> Family:
    """Undo the changes of a run with adapters to a model, in place, and return the model.

    Not undone, since such models are not kept: trained base weights, a new word, compilation.
    """
    remove_lora(*family.parts.values())
    keep_activations(family)
    family.keep_prompts(False)
    family.stream_blocks(False)
    family.place(None)
    for part in family.children():
        part.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    family.requires_grad_(False)
    family.change_noise_schedule(None, False)
    family.max_chunks = 1
    return family.eval()


def _is_reusable(lora: LoraConfig, family: str, trainer: TrainerConfig) -> bool:
    has_word = lora.new_word.name is not None
    return not trains_base(lora, family) and not has_word and not trainer.compile


def _family_key(model: ModelConfig, lora: LoraConfig, trainer: TrainerConfig) -> object:
    base = {**asdict(model), "recommended": None}  # acts through other keys only
    return (_is_reusable(lora, model.family, trainer), base, trainer.precision)


def _pictures_key(family_key: object, evaluator: Evaluator) -> object:
    """Key of the base's pictures; the objective has no effect on their noise schedule."""
    drawn = (evaluator.prompts, evaluator.prior_prompts, asdict(evaluator.sampling))
    size = (evaluator.resolution, evaluator.precision, evaluator.family.max_chunks)
    return (family_key, drawn, size, evaluator.scorer)

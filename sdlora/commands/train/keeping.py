"""What of a run the next one may use: the base as loaded, the scorer, the base's pictures."""

import gc
from collections.abc import Callable
from dataclasses import asdict

import torch

from sdlora.adapters.formats import remove_lora
from sdlora.assembly import adapters, base_model
from sdlora.assembly.memory import keep_activations
from sdlora.commands.train.job import TrainingJob
from sdlora.commands.train.reuse import Workshop
from sdlora.config.train import TrainConfig
from sdlora.data.selection.picture_set import PictureSet
from sdlora.evaluation.evaluator import Evaluator
from sdlora.evaluation.scoring import Scorer
from sdlora.models.family import Family

FAMILY, SCORER, BASE = "family", "scorer", "base pictures"


def kept_base(config: TrainConfig, workshop: Workshop) -> Family:
    """The base without adapters, loaded unless the last run left the same one."""

    def load() -> Family:
        return base_model.load(config.model, config.lora, config.trainer.precision, config.seed)

    return workshop.take(FAMILY, _family_key(config), load)


def scorer(
    config: TrainConfig,
    data: PictureSet,
    device: torch.device,
    workshop: Workshop,
    make: Callable[[], Scorer],
) -> Scorer:
    """The scorer with its models and references, made unless the last run had the same one."""
    key = (asdict(config.evaluation), asdict(config.data), data.fingerprint, device)
    found = workshop.take(SCORER, key, make)
    workshop.put(SCORER, key, found)
    return found


def know_base(config: TrainConfig, evaluator: Evaluator, workshop: Workshop) -> None:
    """Give the evaluator the base's pictures and scores, if the last run drew the same ones."""
    key = _base_key(config, evaluator)
    evaluator.base, evaluator.base_prior = workshop.take(BASE, key, lambda: (None, []))


def take_back(job: TrainingJob, workshop: Workshop) -> None:
    """Leave to the next run what it may use; the job is of no use afterwards."""
    if _is_reusable(job.config):
        key = _base_key(job.config, job.evaluator)
        workshop.put(BASE, key, (job.evaluator.base, job.evaluator.base_prior))
        workshop.put(FAMILY, _family_key(job.config), as_loaded(job.family))
    gc.collect()  # Lightning's objects hold each other
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def as_loaded(family: Family) -> Family:
    """Undo, in place, what a run with adapters did to a model; gives the model.

    Not undone, since such models are not kept: trained base weights, a new word, compilation.
    """
    remove_lora(*family.parts.values())
    keep_activations(family)
    for part in family.children():
        part.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    family.requires_grad_(False)
    family.change_noise_schedule(None, False)
    family.max_chunks = 1
    return family.eval()


def _is_reusable(config: TrainConfig) -> bool:
    has_word = config.lora.new_word.name is not None
    return "full" not in adapters.methods(config) and not has_word and not config.trainer.compile


def _family_key(config: TrainConfig) -> object:
    return (_is_reusable(config), asdict(config.model), config.trainer.precision)


def _base_key(config: TrainConfig, evaluator: Evaluator) -> object:
    """The base is drawn with its own noise schedule, so nothing of the objective belongs here."""
    drawn = (evaluator.prompts, evaluator.prior_prompts, asdict(evaluator.sampling))
    size = (evaluator.resolution, evaluator.precision, config.data.captions.max_chunks)
    return (_family_key(config), drawn, size, evaluator.scorer)

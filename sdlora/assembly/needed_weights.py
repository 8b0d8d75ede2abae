"""Typed config -> the files from elsewhere that a run needs, and what of them is not there.

It imports no slow library: a run that cannot work says so within seconds.
"""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sdlora.captioning.captioners import ChosenCaptioner
from sdlora.config.data import DataConfig
from sdlora.config.evaluate import EvaluateConfig
from sdlora.config.evaluation import STOP, EvaluationConfig, ScorerConfig
from sdlora.config.model import ModelConfig
from sdlora.config.rules import ConfigError
from sdlora.config.train import TrainConfig
from sdlora.weights.face_files import (
    DEFAULT_DETECTOR,
    DEFAULT_MODEL,
    DETECTORS,
    MODELS,
    Needs,
    described_faults,
    file_faults,
    library_fault,
)
from sdlora.weights.hub_models import (
    CONFIGS,
    FEATURES,
    PIPELINE,
    HubModel,
    is_hub_id,
    model_fault,
)

FEATURES_OF = {
    "clip": "openai/clip-vit-base-patch32",
    "image": "facebook/dinov2-base",
    "aesthetic": "openai/clip-vit-large-patch14",
}
"""Scorer -> model where its options name none."""

SINGLE_FILES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
"""Endings of checkpoints in one file."""


@dataclass(frozen=True, slots=True)
class Need:
    """Files from elsewhere that a part of a run reads.

    Attributes:
        key: Config key that asks for them.
        value: Its value.
        model: A model of the Hub.
        files: Files in deepface's folder of weights.
        library: What it needs besides files.
        is_score: Whether only scores are lost without it.
    """

    key: str
    value: str
    model: HubModel | None = None
    files: tuple[str, ...] = ()
    library: Needs | None = None
    is_score: bool = False

    def fault(self) -> str | None:
        """Why it cannot be used, with key and value; ``None``: it can."""
        if self.library is not None and (lacking := self.library_fault()) is not None:
            return lacking
        if faults := file_faults(self.files):
            return f"{self.key}={self.value}: {described_faults(faults)}"
        if self.model is not None and (what := model_fault(self.model)) is not None:
            return f"{self.key}={self.value}: {what}"
        return None

    def library_fault(self) -> str | None:
        """Which library it lacks, with the remedy; ``None``: none."""
        return None if self.library is None else library_fault(self.key, self.value, self.library)


def needed_for_training(config: TrainConfig) -> list[Need]:
    """What a training run needs from elsewhere; a check of its pictures needs no model."""
    of_data = list(_of_data(config.data))
    if config.check:
        return of_data
    return [*_of_model(config.model), *of_data, *_of_scores(config.evaluation)]


def needed_for_evaluation(config: EvaluateConfig, model: ModelConfig) -> list[Need]:
    """What an evaluation needs from elsewhere.

    Args:
        config: The evaluation.
        model: The base that draws.
    """
    drawn = [] if config.images else _of_model(model)
    return [*drawn, *_of_scores(config.evaluation)]


def needed_for_captions(chosen: ChosenCaptioner) -> list[Need]:
    """What a captioner needs from elsewhere."""
    library = Needs(library=chosen.kind.library, package=chosen.kind.package)
    need = Need("--model", chosen.given, chosen.hub, library=library)
    return [need] if chosen.hub is not None or library.library is not None else []


def require_weights(
    needs: Sequence[Need], evaluation: EvaluationConfig, fetch: Sequence[str]
) -> None:
    """Stop where files are missing that ``sdlora fetch`` gets, or damaged.

    Args:
        needs: What the run needs.
        evaluation: Whether scores may be missing.
        fetch: Words of the command that gets the files.

    Raises:
        ConfigError: Naming each of them, and the command.
    """
    may_lack = evaluation.on_missing != STOP
    faults = [(need, need.fault()) for need in needs if not (may_lack and need.is_score)]
    lacking = [(need, what) for need, what in faults if what is not None]
    if not lacking:
        return
    lines = ["this run needs what is not on this machine, or not whole:"]
    lines += [f"  {what}" for _, what in lacking]
    if any(need.library_fault() is None for need, _ in lacking):
        lines.append(f"get it once, with network: {shlex.join(fetch)}")
    if all(need.is_score for need, _ in lacking):
        lines.append("or go on without these scores: evaluation.on_missing=warn")
    raise ConfigError("\n".join(lines))


def _of_model(config: ModelConfig) -> Iterator[Need]:
    path = config.path or ""
    if path.endswith(SINGLE_FILES) and not Path(path).is_dir():
        if config.config is not None and is_hub_id(config.config):
            configs = HubModel(config.config, CONFIGS)
            yield Need("model.config", config.config, configs)
    elif is_hub_id(path):
        without = (*config.scratch, *(["vae"] if config.vae is not None else []))
        whole = HubModel(path, PIPELINE, config.revision, config.variant, without=without)
        yield Need("model.path", path, whole)
    if config.draw_with is not None and is_hub_id(config.draw_with):
        denoiser = HubModel(config.draw_with, PIPELINE, part="transformer")
        yield Need("model.draw_with", config.draw_with, denoiser)
    if config.vae is not None and is_hub_id(config.vae):
        yield Need("model.vae", config.vae, HubModel(config.vae, PIPELINE, part="vae"))


def _of_data(config: DataConfig) -> Iterator[Need]:
    if config.crop == "face" and config.face_detector in DETECTORS:
        name = config.face_detector
        yield Need("data.face_detector", name, files=DETECTORS[name].files)


def _of_scores(config: EvaluationConfig) -> Iterator[Need]:
    if config.face.name == "deepface":
        yield from _of_deepface(config.face)
    for key, model in FEATURES_OF.items():
        scorer: ScorerConfig = getattr(config, key)
        name = str(scorer.options.get("model", model))
        if scorer.name != "none" and is_hub_id(name):
            yield Need(
                f"evaluation.{key}.options.model", name, HubModel(name, FEATURES), is_score=True
            )


def _of_deepface(config: ScorerConfig) -> Iterator[Need]:
    """The network and the detector; unknown names are refused later, with all known ones."""
    for option, known, default in (
        ("model_name", MODELS, DEFAULT_MODEL),
        ("detector", DETECTORS, DEFAULT_DETECTOR),
    ):
        name = str(config.options.get(option, default))
        if name in known:
            needs = known[name]
            key = f"evaluation.face.options.{option}"
            yield Need(key, name, None, needs.files, needs, is_score=True)

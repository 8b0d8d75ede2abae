"""Typed config -> the scorer: its models, and the pictures that others are compared with."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from sdlora.config.evaluation import EvaluationConfig, ScorerConfig
from sdlora.config.rules import ConfigError, check_options
from sdlora.config.sampling import SamplingConfig
from sdlora.config.score_kinds import kind
from sdlora.data.pictures.decode import PICTURE_SUFFIXES, PictureError, read_picture
from sdlora.data.sources.picture_source import PictureSource, readable
from sdlora.evaluation.aesthetic import AestheticScorer
from sdlora.evaluation.clip_metric import ClipScore
from sdlora.evaluation.clip_scores import ClipScorer
from sdlora.evaluation.deepface_model import DeepFaceModel
from sdlora.evaluation.face_metric import TinyFace
from sdlora.evaluation.face_scores import FaceScorer
from sdlora.evaluation.hw10 import Hw10Scorer
from sdlora.evaluation.image_features import ImageFeatures
from sdlora.evaluation.image_scores import ImageScorer, image_names
from sdlora.evaluation.scoring import (
    Absent,
    KnownPictures,
    PictureScorer,
    Scorer,
)
from sdlora.models.source import EMBEDDED, ModelSource, resolve
from sdlora.runtime.places import located
from sdlora.runtime.progress import Progress
from sdlora.sampling.prompts import prior_prompts, with_class_word

MOST_REFERENCES = 100
"""So many training pictures, at most, are references where none is held out; and among so many,
copies are looked for."""


def scorer(
    config: EvaluationConfig,
    references: KnownPictures | None,
    training: KnownPictures,
    device: torch.device,
    progress: Progress,
) -> Scorer:
    """The scores that the config names; one that cannot be loaded says why, now.

    Args:
        config: Which scores.
        references: Pictures of the person that training does not see; ``None``: the training ones.
        training: The training pictures, as far as they are known.
        device: Where models run, unless their options name another.
        progress: Where notes are printed.
    """
    missing: dict[str, str] = {}
    load = partial(_load, device, missing)
    face = load("face", config.face, {"tiny_face": _tiny_face, "deepface": _deepface})
    clip = load("clip", config.clip, {"clip": ClipScore})
    features = load("image", config.image, {"image": ImageFeatures})
    aesthetic = load("aesthetic", config.aesthetic, {"aesthetic": AestheticScorer})
    _say_missing(missing, config.select, progress)
    if references is None and face and training.images:
        progress.print(
            "note: no held-out pictures (evaluation.references, data.val_fraction, or a folder "
            "held_out in data.root); faces are compared with the training pictures, which rewards "
            "copying them"
        )
    others = KnownPictures() if references is None else training
    references = training if references is None else references
    reworded = partial(
        with_class_word, trigger_word=config.trigger_word, class_word=config.class_word
    )
    names: dict[str, Sequence[str]] = {
        "face": FaceScorer.names,
        "clip": ClipScorer.names,
        "image": image_names(config.kid),
        "aesthetic": AestheticScorer.names,
    }
    scorers: list[PictureScorer] = [
        *([FaceScorer(face, references, others)] if face else []),
        *([ClipScorer(clip, reworded)] if clip else []),
        *([ImageScorer(features, references, training, config.kid)] if features else []),
        *([aesthetic] if aesthetic else []),
        *(Absent(names[key], reason) for key, reason in missing.items()),
    ]
    if config.hw10:
        lacking = "; ".join(missing[key] for key in ("face", "clip") if key in missing)
        whole = face and clip
        scorers.append(
            Hw10Scorer(face, clip, training) if whole else Absent(Hw10Scorer.names, lacking)
        )
    return Scorer(scorers)


def _say_missing(missing: Mapping[str, str], select: str, progress: Progress) -> None:
    """Say which scores there will not be, why, and how to leave them out."""
    for key, reason in missing.items():
        is_selected = key in kind(select).needs
        without = f"evaluation.{key}=none" + " evaluation.select=none" * is_selected
        progress.print(
            f"evaluation.{key}: will be reported as unavailable: {reason} Without it: {without}"
        )


def _load(
    device: torch.device,
    missing: dict[str, str],
    key: str,
    config: ScorerConfig,
    factories: Mapping[str, Callable[..., Any]],
) -> Any:
    """``None`` if it was not asked for, or cannot be loaded; then ``missing`` says why."""
    if config.name == "none":
        return None
    factory = factories[config.name]
    check_options(f"evaluation.{key}.options", factory, config.options)
    options = dict(config.options)
    if "device" in inspect.signature(factory).parameters:
        options.setdefault("device", device)
    try:
        return factory(**options)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        missing[key] = f"{type(error).__name__}: {error}"
        return None


def training_pictures(config: EvaluationConfig, source: PictureSource | None) -> KnownPictures:
    """The training pictures that scores compare with, if any do; the homework compares with all."""
    if source is None or config.face.name == config.image.name == "none":
        return KnownPictures()
    return first_pictures(source, None if config.hw10 else MOST_REFERENCES)


def warn_of_other_world(config: EvaluationConfig, model_path: str, progress: Progress) -> None:
    """Say so if the scorers of the drawn world are to judge another model's pictures."""
    drawn = config.face.name == "tiny_face" or config.clip.options.get("model") == "tiny"
    if drawn and not model_path.startswith(EMBEDDED):
        progress.print(
            "note: evaluation=default scores with models that know drawn portraits only; for "
            "photos choose evaluation=photos"
        )


def embedded(name: str) -> Path:
    """A folder among the package's own assets."""
    return resolve(ModelSource(path=EMBEDDED + name))


def pictures_in(folder: str) -> KnownPictures:
    """The references that lie in a folder.

    Raises:
        ConfigError: If there is no such folder, no picture in it, or one that cannot be read.
    """
    place = located(folder)
    if not place.is_dir():
        raise ConfigError(f"evaluation.references={folder}: no such folder; name one, or null")
    paths = sorted(p for p in place.iterdir() if p.suffix.lower() in PICTURE_SUFFIXES)
    if not paths:
        raise ConfigError(f"evaluation.references={folder}: holds no picture")
    images = []
    for path in paths:
        try:
            images.append(read_picture(path))
        except PictureError as error:
            raise ConfigError(f"evaluation.references: {path}: {error}") from error
    return KnownPictures([path.name for path in paths], images)


def first_pictures(source: PictureSource, limit: int | None = MOST_REFERENCES) -> KnownPictures:
    """As many pictures of a source as are compared with, save for those that cannot be read."""
    found = readable(source, limit)
    return KnownPictures([picture.name for picture, _ in found], [image for _, image in found])


def _tiny_face(
    device: torch.device | str = "cpu", batch_size: int = 64, threshold: float = 0.5
) -> TinyFace:
    return TinyFace(embedded("tiny-face"), device, batch_size, threshold)


def _deepface(
    model_name: str = "GhostFaceNet", detector: str = "ssd", batch_size: int = 32
) -> DeepFaceModel:
    model = DeepFaceModel(model_name, detector, batch_size)
    model.require_weights()
    return model


def check_scores(config: EvaluationConfig, sampling: SamplingConfig) -> None:
    """Check what the scores compare with."""
    prior_prompts(sampling, config)
    if config.references is not None and not located(config.references).is_dir():
        raise ConfigError(
            f"evaluation.references={config.references}: no such folder; name one, or null"
        )

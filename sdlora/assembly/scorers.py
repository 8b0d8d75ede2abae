"""Typed config -> the scorer: its models, and the reference and training pictures."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from sdlora.assembly.needed_weights import FEATURES_OF
from sdlora.assembly.unsuited_values import FOR_PHOTOS
from sdlora.config.evaluation import STOP, EvaluationConfig, ScorerConfig
from sdlora.config.rules import ConfigError, check_options, require
from sdlora.config.sampling import CAPTIONS, SamplingConfig
from sdlora.config.score_kinds import kind
from sdlora.data.pictures.decode import read_picture
from sdlora.data.pictures.picture_formats import PictureError
from sdlora.data.sources.flat_folder import pictures_directly_in
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
from sdlora.evaluation.prompt_followed import PromptFollowedScorer
from sdlora.evaluation.scoring import (
    Absent,
    KnownPictures,
    PictureScorer,
    Scorer,
)
from sdlora.evaluation.strangers import STRANGERS
from sdlora.models.source import ModelSource, resolve
from sdlora.runtime.places import EMBEDDED, located
from sdlora.runtime.progress import Progress
from sdlora.sampling.prompts import prior_prompts, with_class_word
from sdlora.weights.face_files import DEFAULT_DETECTOR, DEFAULT_MODEL, MODELS
from sdlora.weights.hub_models import FEATURES, HubModel, cached_folder, is_hub_id, model_fault
from sdlora.world.attributes import AttributeClassifier

MOST_REFERENCES = 100
"""Largest number of training pictures that are references if none is held out, and among which
copies are searched."""

FACE_REMEDIES = {
    "tiny_face": f"evaluation.face.name=tiny_face knows drawn portraits only; {FOR_PHOTOS}",
    "deepface": "",
}
"""Scorer of faces -> what to try where it finds none in most pictures of the person."""


def scorer(
    config: EvaluationConfig,
    references: KnownPictures | None,
    training: KnownPictures,
    device: torch.device,
    progress: Progress,
) -> Scorer:
    """The configured scorer; scores whose model cannot be loaded are reported now.

    Args:
        config: The scores.
        references: Held-out pictures of the person; ``None``: the training pictures.
        training: The training pictures, as far as known.
        device: Device of the models, unless their options name another.
        progress: Prints notes.
    """
    missing: dict[str, str] = {}
    load = partial(_load, device, missing)
    face = load("face", config.face, {"tiny_face": _tiny_face, "deepface": _deepface})
    clip = load("clip", config.clip, {"clip": ClipScore})
    attributes = load("attributes", config.attributes, {"tiny_attributes": _tiny_attributes})
    features = load("image", config.image, {"image": ImageFeatures})
    aesthetic = load("aesthetic", config.aesthetic, {"aesthetic": AestheticScorer})
    _tell_missing(missing, config, progress)
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
        "attributes": PromptFollowedScorer.names,
        "image": image_names(config.kid),
        "aesthetic": AestheticScorer.names,
    }
    scorers: list[PictureScorer] = [
        *([FaceScorer(face, references, others, FACE_REMEDIES[config.face.name])] if face else []),
        *([ClipScorer(clip, reworded)] if clip else []),
        *([attributes] if attributes else []),
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


def _tell_missing(missing: Mapping[str, str], config: EvaluationConfig, progress: Progress) -> None:
    """Stop, or say which scores are not taken, why, and how to switch them off."""
    lines = [
        f"evaluation.{key}: {reason}. To switch it off: {' '.join(config.without(key))}"
        for key, reason in missing.items()
    ]
    if lines and config.on_missing == STOP:
        raise ConfigError(
            "\n  ".join(["scores that cannot be taken:", *lines])
            + "\nto go on without them: evaluation.on_missing=warn"
        )
    for line in lines:
        progress.print(f"not taken: {line}")


def _load(
    device: torch.device,
    missing: dict[str, str],
    key: str,
    config: ScorerConfig,
    factories: Mapping[str, Callable[..., Any]],
) -> Any:
    """A scorer's model; ``None`` if not configured, or not loadable (then in ``missing``)."""
    if config.name == "none":
        return None
    factory = factories[config.name]
    check_options(f"evaluation.{key}.options", factory, config.options)
    options = dict(config.options)
    if key in FEATURES_OF:
        options.setdefault("model", FEATURES_OF[key])
    if "device" in inspect.signature(factory).parameters:
        options.setdefault("device", device)
    try:
        if "model" in options:
            options["model"] = _on_this_machine(key, config.name, str(options["model"]))
        return factory(**options)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        named = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        missing[key] = f"{named}{str(error).rstrip('.')}"
        return None


def _on_this_machine(key: str, scorer: str, model: str) -> str:
    """Where a scorer's model lies: scoring reads no network.

    Raises:
        ValueError: If a model of the Hub was not fetched, or is not whole.
    """
    if not is_hub_id(model):
        return model
    wanted = HubModel(model, FEATURES)
    if (what := model_fault(wanted)) is not None:
        raise ValueError(
            f"{model} {what}; get it once, with network: sdlora fetch "
            f"evaluation.{key}={scorer} evaluation.{key}.options.model={model}"
        )
    return str(cached_folder(wanted))


def training_pictures(config: EvaluationConfig, source: PictureSource | None) -> KnownPictures:
    """The training pictures for scores that need them; the homework's scores need all."""
    if source is None or config.face.name == config.image.name == "none":
        return KnownPictures()
    return first_pictures(source, None if config.hw10 else MOST_REFERENCES)


def asset_folder(name: str) -> Path:
    """A folder of the shipped assets."""
    return resolve(ModelSource(path=EMBEDDED + name))


def pictures_in(folder: str) -> KnownPictures:
    """The reference pictures in a folder.

    Raises:
        ConfigError: If there is no such folder, no picture in it, or one that cannot be read.
    """
    place = located(folder)
    if not place.is_dir():
        raise ConfigError(f"evaluation.references={folder}: no such folder; name one, or null")
    paths = pictures_directly_in(place)
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
    """The first readable pictures of a source, up to ``limit``."""
    found = readable(source, limit)
    return KnownPictures([picture.name for picture, _ in found], [image for _, image in found])


def _tiny_face(
    device: torch.device | str = "cpu", batch_size: int = 64, threshold: float = 0.5
) -> TinyFace:
    return TinyFace(asset_folder("tiny-face"), device, batch_size, threshold)


def _tiny_attributes(
    device: torch.device | str = "cpu", batch_size: int = 64
) -> PromptFollowedScorer:
    classifier = AttributeClassifier.from_pretrained(asset_folder("tiny-attributes"))
    return PromptFollowedScorer(classifier.to(device), batch_size)


def _deepface(
    model_name: str = DEFAULT_MODEL, detector: str = DEFAULT_DETECTOR, batch_size: int = 32
) -> DeepFaceModel:
    model = DeepFaceModel(model_name, detector, batch_size)
    model.require_weights()
    return model


def check_choice(
    evaluation: EvaluationConfig, key: str, scores: Sequence[str], instead: str
) -> None:
    """Check that a checkpoint or a trial can be chosen by these scores.

    Args:
        evaluation: The scorers.
        key: Where the scores are named.
        scores: Names of :data:`sdlora.config.score_kinds.KINDS`.
        instead: Another value of the key.

    Raises:
        ConfigError: If pictures without a face have no known value by the network.
    """
    network = evaluation.face.options.get("model_name")
    is_known = evaluation.face.name != "deepface" or network is None or network in STRANGERS
    for score in () if is_known else scores:
        require(
            "face" not in kind(score).needs or network not in MODELS,  # a typo is named elsewhere
            key,
            score,
            f"cannot choose with evaluation.face.options.model_name={network}: it is not known how "
            "far strangers' faces are by it, so a picture without a face has no value; choose one "
            f"of {', '.join(STRANGERS)}, or set {key}={instead}",
        )


def check_scores(config: EvaluationConfig, sampling: SamplingConfig) -> None:
    """Check the references and prompts of the scores."""
    if sampling.prompts != CAPTIONS:  # those are known with the pictures
        prior_prompts(sampling, config)
    if config.references is not None and not located(config.references).is_dir():
        raise ConfigError(
            f"evaluation.references={config.references}: no such folder; name one, or null"
        )

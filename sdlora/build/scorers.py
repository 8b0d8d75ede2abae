"""Typed config -> the scorer: its models, and the pictures that faces are compared with."""

from pathlib import Path

from PIL import Image

from sdlora.config import EvaluationConfig, ScorerConfig
from sdlora.config_rules import ConfigError
from sdlora.data.pictures import PICTURE_SUFFIXES, read_picture
from sdlora.data.sources import PictureSource
from sdlora.metrics.clip import ClipScore
from sdlora.metrics.face import DeepFaceModel, FaceModel, TinyFace
from sdlora.metrics.image_features import ImageFeatures
from sdlora.metrics.scoring import Scorer, load_or_reason
from sdlora.models.loading import EMBEDDED, ModelSource, resolve
from sdlora.optim import check_options
from sdlora.progress import Progress

MOST_REFERENCES = 100
"""So many training pictures, at most, are references where none is held out; and among so many,
copies are looked for."""


def scorer(
    config: EvaluationConfig,
    references: str | None,
    source: PictureSource | None,
    progress: Progress,
) -> Scorer:
    """The scores that the config names; one that cannot be loaded says why, now.

    Args:
        config: Which scores.
        references: Folder of pictures of the person; ``None``: the training pictures.
        source: The training pictures, if they are known.
        progress: Where notes are printed.
    """
    missing: dict[str, str] = {}
    face: FaceModel | None = None
    clip: ClipScore | None = None
    if config.face.name != "none":
        factory = DeepFaceModel if config.face.name == "deepface" else TinyFace
        check_options("evaluation.face.options", factory, config.face.options)
        face = load_or_reason(lambda: _face(config.face), "face", missing)
    if config.clip.name != "none":
        check_options("evaluation.clip.options", ClipScore, config.clip.options)
        clip = load_or_reason(lambda: ClipScore(**config.clip.options), "clip", missing)
    features: ImageFeatures | None = None
    if config.image.name != "none":
        check_options("evaluation.image.options", ImageFeatures, config.image.options)
        features = load_or_reason(lambda: ImageFeatures(**config.image.options), "image", missing)
    for name, reason in missing.items():
        progress.print(f"evaluation.{name}: will be reported as unavailable: {reason}")
    names, images = _references(references, source) if face or features else ([], [])
    training = _first_pictures(source) if features and source is not None else []
    if face and references is None and source is not None:
        progress.print(
            "note: no held-out pictures (evaluation.references, or a folder held_out in data.root);"
            " faces are compared with the training pictures, which rewards copying them"
        )
    return Scorer(
        face,
        clip,
        images,
        reference_names=names,
        missing=missing,
        features=features,
        training=training,
    )


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


def _references(
    folder: str | None, source: PictureSource | None
) -> tuple[list[str], list[Image.Image]]:
    if folder is None:
        if source is None:
            return [], []
        names = [picture.name for picture in source.pictures[:MOST_REFERENCES]]
        return names, _first_pictures(source)
    if not Path(folder).is_dir():
        raise ConfigError(f"evaluation.references={folder}: no such folder; name one, or null")
    paths = sorted(p for p in Path(folder).iterdir() if p.suffix.lower() in PICTURE_SUFFIXES)
    if not paths:
        raise ConfigError(f"evaluation.references={folder}: holds no picture")
    return [path.name for path in paths], [read_picture(path) for path in paths]


def _first_pictures(source: PictureSource) -> list[Image.Image]:
    return [source.image(index) for index in range(min(len(source.pictures), MOST_REFERENCES))]


def _face(config: ScorerConfig) -> FaceModel:
    if config.name == "deepface":
        model = DeepFaceModel(**config.options)
        model.require_weights()
        return model
    return TinyFace(embedded("tiny-face"), **config.options)

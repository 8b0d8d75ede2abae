"""The inputs of an evaluation: model, LoRAs, training pictures and references."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from sdlora.assembly import scorers
from sdlora.assembly.data_source import (
    file_index,
    held_out,
    held_out_fraction,
    picture_source,
)
from sdlora.cli.stored_config import literal
from sdlora.commands.evaluate.run_settings import model_of
from sdlora.config.data import DataConfig, RootConfig
from sdlora.config.evaluate import EvaluateConfig
from sdlora.config.model import ModelConfig
from sdlora.config.rules import ConfigError
from sdlora.config.sampling import CAPTIONS
from sdlora.data.selection.picture_set import automatic_fraction, split_numbers
from sdlora.data.sources.folder_names import held_out_folder
from sdlora.data.sources.folder_source import FolderSource
from sdlora.data.sources.picture_source import DataError, PictureSource, Selection
from sdlora.evaluation.scoring import KnownPictures
from sdlora.runs.adapter_file import checkpoint_path
from sdlora.runs.best import read_best
from sdlora.runs.checkpoints import CHECKPOINTS, steps_on_disk
from sdlora.runs.identity import read_record
from sdlora.runs.origin import ORIGIN, strange_places
from sdlora.runs.report import LORA_ROW
from sdlora.runs.run_config import read_config
from sdlora.runtime.places import located
from sdlora.runtime.progress import Progress
from sdlora.sampling.prompts import distinct_captions


@dataclass(frozen=True, slots=True)
class NamedLora:
    """A LoRA file with one strength.

    Attributes:
        label: Its row in the report.
        path: The file or folder.
        scale: Its strength.
    """

    label: str
    path: Path
    scale: float


@dataclass(frozen=True, slots=True)
class ScoringInputs:
    """What is scored.

    Attributes:
        model: The base.
        loras: LoRAs, a row for each; empty if only pictures are scored.
        training: The training pictures, if they exist.
        references: Held-out pictures of the person, if any.
        resolution: Side of the pictures in pixels; None: the model's own.
        captions: Captions that are the prompts; empty if they are those of a file.
    """

    model: ModelConfig
    loras: Sequence[NamedLora]
    training: PictureSource | None
    references: KnownPictures | None
    resolution: int | None
    captions: Sequence[str] = ()


def scoring_inputs(config: EvaluateConfig, progress: Progress) -> ScoringInputs:
    """The inputs of an evaluation, from the run folder or from the config itself."""
    if config.run is None:
        training, folder = _of_root(config.data.root)
        references = folder if config.evaluation.references is None else None
        model, resolution = config.model, config.resolution
    else:
        stored, _ = read_config(Path(config.run), key="run")
        model = model_of(config)
        plain = literal(stored["data"])
        data = _typed(OmegaConf.merge(OmegaConf.structured(DataConfig), plain), DataConfig)
        training, references = None, None
        if strange := _strange_data(Path(config.run)):
            named = ", ".join(f"{key}={value}" for key, value in strange.items())
            progress.print(
                "left out: the training pictures, since you did not make this run on this machine, "
                f"or an older version did ({named})"
            )
        else:
            training, references = _of_run(data, stored["evaluation"], progress)
        resolution = config.resolution or data.resolution
    if config.evaluation.references is not None:
        references = scorers.pictures_in(config.evaluation.references)
    captions = _captions(config)
    return ScoringInputs(model, named_loras(config), training, references, resolution, captions)


def named_loras(config: EvaluateConfig) -> list[NamedLora]:
    """Every LoRA with every strength; a single one is called ``LoRA``."""
    if config.images:
        return []
    if config.run is None:
        files = {label: located(path) for label, path in _labels(config.lora).items()}
    elif config.checkpoint == "all":
        files = _every_step(config.run)
    else:
        files = {LORA_ROW: checkpoint_path(config.run, config.checkpoint)}
    if len(config.lora) == 1:
        files = {LORA_ROW: located(config.lora[0])}
    many = len(config.lora_scale) > 1
    return [
        NamedLora(f"{label} x{scale:g}" if many else label, path, scale)
        for label, path in files.items()
        for scale in config.lora_scale
    ]


def _every_step(run: str) -> dict[str, Path]:
    """Every checkpoint on the disk, and the best step, whose checkpoint may be gone."""
    steps = steps_on_disk(Path(run) / CHECKPOINTS)
    paths = {step: checkpoint_path(run, str(step)) for step in steps}
    best = read_best(Path(run))
    if best is not None:
        paths.setdefault(best.step, checkpoint_path(run, "best"))
    return {
        f"step {step}" + " (best)" * (best is not None and step == best.step): path
        for step, path in sorted(paths.items())
    }


def labels_of_folders(folders: Sequence[str]) -> dict[str, str]:
    """Label -> folder of pictures: the shortest ends of their paths that tell them apart."""
    if len(folders) == 1:
        return {"pictures": folders[0]}
    paths = [located(folder).resolve().parts for folder in folders]
    longest = max(map(len, paths))
    for count in range(1, longest + 1):
        labels = ["/".join(parts[-count:]) for parts in paths]
        if len(set(labels)) == len(labels):
            return dict(zip(labels, folders, strict=True))
    raise ConfigError(f"images={list(folders)}: names a folder twice; name each once")


def _labels(files: Sequence[str]) -> dict[str, str]:
    """File names without their endings; folder names for files with standard names."""
    stems = [Path(file).stem for file in files]
    if "pytorch_lora_weights" in stems or len(set(stems)) < len(stems):
        stems = [
            f"{Path(file).parent.name}/{stem}" if Path(file).suffix else stem
            for file, stem in zip(files, stems, strict=True)
        ]
    seen = Counter[str]()
    labels = {}
    for file, stem in zip(files, stems, strict=True):
        seen[stem] += 1
        labels[stem if seen[stem] == 1 else f"{stem} ({seen[stem]})"] = file
    return labels


def _strange_data(run: Path) -> dict[str, str]:
    """Places of the pictures of a run that somebody else made."""
    record = read_record(run)
    found = strange_places(record["config"], record.get(ORIGIN))
    return {key: value for key, value in found.items() if key.startswith("data.")}


def _of_run(
    data: DataConfig, scores: Mapping[str, Any], progress: Progress
) -> tuple[PictureSource | None, KnownPictures | None]:
    """A run's training and held-out pictures, if they still exist.

    Args:
        data: The run's.
        scores: Its ``evaluation``.
        progress: Prints notes.
    """
    try:
        folder = held_out(data, progress)
        with file_index(data) as index:
            source = picture_source(data, index, progress)
    except DataError as error:
        progress.print(f"note: the run's training pictures no longer exist: {error}")
        return None, None
    references = None
    given, hw10 = scores.get("references"), scores.get("hw10", False)
    automatic = automatic_fraction(source.pictures)
    if part := held_out_fraction(data, given, hw10, folder, automatic):
        trained, others = split_numbers(source.pictures, part)
        references = scorers.first_pictures(Selection(source, others)) if others else None
        source = Selection(source, trained)
    if data.val_root is not None and located(data.val_root).is_dir():
        references = scorers.pictures_in(data.val_root)
    return source, references if folder is None else scorers.pictures_in(folder)


def _of_root(root: str | None) -> tuple[PictureSource | None, KnownPictures | None]:
    if root is None:
        return None, None
    folder = located(root)
    source = FolderSource([RootConfig(path=str(folder))], default_caption="")
    others = held_out_folder(folder)
    return source, None if others is None else scorers.pictures_in(str(others))


def _captions(config: EvaluateConfig) -> list[str]:
    """Captions of ``data.root`` that are prompts: of its held-out pictures, else of the others."""
    if config.sampling.prompts != CAPTIONS or config.data.root is None:
        return []
    root = located(config.data.root)
    for folder in [held_out_folder(root), root]:
        if folder is None or not folder.is_dir():
            continue
        pictures = FolderSource([RootConfig(path=str(folder))], default_caption="").pictures
        if found := distinct_captions((each.text for each in pictures), config.sampling):
            return found
    return []


def _typed(merged: Any, schema: type[Any]) -> Any:
    found = OmegaConf.to_object(merged)
    assert isinstance(found, schema)
    return found

"""The source of a base model: location, download, completeness; reads no weight."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sdlora.models.checkpoint_file import ENDINGS, SingleFileError, read_header
from sdlora.models.families import description_of
from sdlora.models.noise_markers import believed, file_markers
from sdlora.models.single_file import converted_model, converted_vae
from sdlora.runtime.places import ASSETS, EMBEDDED
from sdlora.runtime.progress import Progress
from sdlora.weights.hub_models import (
    CONFIGS,
    PIPELINE,
    HubModel,
    cached_folder,
    model_fault,
)


def weights_stem(part: str) -> str:
    """Name of a part's weight file, without its ending: transformers' or diffusers'."""
    return "model" if part.startswith("text_encoder") else "diffusion_pytorch_model"


class ModelError(ValueError):
    """A base model that is missing, incomplete, or of another family."""


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Location, revision and precision of a base model.

    Attributes:
        path: Hub id, local folder in the diffusers layout, ``embedded:NAME``, or a checkpoint in
            one ``.safetensors`` file of the original code's layout.
        config: Hub id or folder with configs and tokenizers for such a file.
        family: ``model.family``: the name of a built-in one, or of one that a package adds.
        revision: Hub branch, tag or commit; ``None`` for the default branch.
        variant: Weight file variant, e.g. ``"fp16"``.
        frozen_dtype: Precision in which weights that do not train are kept; ``None``: their files'.
        trained: Parts whose own weights train; they are kept in float32.
        scratch: Parts that start from random weights instead of the files'.
        clip_skip: Last text-encoder layers to leave out.
        vae: Another VAE in place of the model's own: Hub id, folder with its ``config.json``, or
            ``.safetensors`` file of the original code's layout.
        vae_dtype: Precision of the VAE; ``None``: ``frozen_dtype``.
        architecture: Options of a denoiser from random weights, over those of the folder's config.
        prediction_type: What the model predicts, if that is given by hand.
        zero_terminal_snr: Whether its noise ends in pure noise, if that is given by hand.
        draw_with: Another model whose denoiser and noise schedule are taken in place of its own:
            Hub id or folder; ``None``: its own.
    """

    path: str
    family: str = "sd"
    config: str | None = None
    revision: str | None = None
    variant: str | None = None
    frozen_dtype: torch.dtype | None = torch.float32
    trained: tuple[str, ...] = ()
    scratch: tuple[str, ...] = ()
    clip_skip: int = 0
    vae: str | None = None
    vae_dtype: torch.dtype | None = None
    architecture: Mapping[str, Any] = field(default_factory=dict)
    prediction_type: str | None = None
    zero_terminal_snr: bool | None = None
    draw_with: str | None = None

    def instead(self, part: str) -> tuple[str, str] | None:
        """Key and value of the model that a part is taken from; ``None``: the model's own."""
        if part == "vae" and self.vae is not None:
            return "model.vae", self.vae
        if self.draw_with is not None and part == description_of(self.family).denoiser:
            return "model.draw_with", self.draw_with
        return None

    @property
    def said(self) -> dict[str, str | bool | None]:
        """What is given by hand of its noise schedule, by key of ``model``."""
        return {
            "prediction_type": self.prediction_type,
            "zero_terminal_snr": self.zero_terminal_snr,
        }


def single_file(source: ModelSource) -> Path | None:
    """The checkpoint in one file; ``None`` for a folder or a Hub id."""
    path = Path(source.path).expanduser()
    is_file = path.suffix in ENDINGS and not source.path.startswith(EMBEDDED)
    return path if is_file and not path.is_dir() else None


def part_folder(part: str, base: Path, source: ModelSource) -> Path:
    """The folder of a part's files, which for ``model.vae`` and ``model.draw_with`` is elsewhere.

    Raises:
        ModelError: If that other model is neither a folder nor a Hub id that can be fetched.
    """
    other = source.instead(part)
    if other is None:
        return (base / inside(f"{part}/config.json", base, source)).parent
    key, value = other
    if key == "model.draw_with":
        return schedule_folder(source) / part
    file = Path(value).expanduser()
    if file.suffix in ENDINGS and not file.is_dir():
        try:
            return converted_vae(file, base, description_of(source.family).parts["vae"])
        except SingleFileError as error:
            raise ModelError(f"{key}={value}: {error}") from error
    own = resolve(ModelSource(value, revision=None), key=key)
    return own if (own / "config.json").is_file() else own / "vae"


def schedule_folder(source: ModelSource) -> Path:
    """The folder of the model whose denoiser is taken, with its noise schedule."""
    if source.draw_with is None:
        return resolve(source)
    return resolve(ModelSource(source.draw_with, source.family), key="model.draw_with")


def inside(name: str, folder: Path, source: ModelSource) -> str:
    """The path of a file in the model's folder, such as ``unet/config.json``.

    The first unconditional pipelines on the Hub (``google/ddpm-*``) have no folders in it.
    """
    if description_of(source.family).tokenizers:
        return name
    flat = name.rpartition("/")[2]
    is_flat = not (folder / name).is_file() and (folder / flat).is_file()
    return flat if is_flat else name


def part_config(part: str, folder: Path, source: ModelSource) -> dict[str, Any]:
    """The ``config.json`` of a part, with ``source.architecture`` for the denoiser."""
    place = part_folder(part, folder, source)
    config: dict[str, Any] = json.loads((place / "config.json").read_text("utf-8"))
    is_denoiser = part == description_of(source.family).denoiser
    return {**config, **source.architecture} if is_denoiser else config


def pixel_steps(folder: Path, source: ModelSource) -> tuple[int, int]:
    """Pixels per latent, and the number that sides must be multiples of; reads no weight."""
    description = description_of(source.family)
    if description.pixel_steps is not None:
        vae, denoiser = (
            part_config(part, folder, source) for part in ("vae", description.denoiser)
        )
        return description.pixel_steps(vae, denoiser)
    scale, halvings = (
        2 ** (len(part_config(part, folder, source)["block_out_channels"]) - 1)
        if part in description.parts
        else 1
        for part in ("vae", description.denoiser)
    )
    return scale, scale * halvings


def resolve(source: ModelSource, key: str = "model.path", weights: bool = True) -> Path:
    """The local folder of a base model, fetched from the Hub or converted from one file.

    Args:
        source: Location of the model.
        key: Config key of the location, for messages.
        weights: Whether weights are downloaded; configs and tokenizers always are.

    Raises:
        ModelError: If it is neither a folder, nor a file that can be converted, nor a Hub id that
            can be fetched.
    """
    if source.path.startswith(EMBEDDED):
        return ASSETS / source.path.removeprefix(EMBEDDED)
    path = Path(source.path).expanduser()
    if path.is_dir():
        return path
    if (file := single_file(source)) is not None:
        return _converted(file, source, key)
    require_hub_id(source, key)
    return _fetch(source, key, weights)


def require_hub_id(source: ModelSource, key: str) -> None:
    """Refuse a location that is neither on this machine nor written as a Hub id."""
    if source.path.count("/") != 1 or source.path.startswith((".", "/", "~")):
        raise ModelError(
            f"{key}={source.path}: no such folder; give a folder in the diffusers layout "
            "(it holds model_index.json), or a Hub id such as owner/name"
        )


def _converted(file: Path, source: ModelSource, key: str) -> Path:
    """The converted folder of a checkpoint in one file."""
    try:
        believed(file_markers(read_header(file)), source.said, source.path)  # before it is read
        return converted_model(
            file,
            source.family,
            str(source.config),
            lambda: _config_folder(source),
            has_vae=source.vae is not None,
        )
    except SingleFileError as error:
        raise ModelError(f"{key}={source.path}: {error}") from error


def _config_folder(source: ModelSource) -> Path:
    """The folder with configs and tokenizers for a model in one file."""
    if source.config is None:
        raise ModelError(
            f"model.config=None: {source.path} holds weights only; name the Hub id or the folder "
            "that has the configs and tokenizers of its architecture"
        )
    folder = resolve(ModelSource(source.config), key="model.config", weights=False)
    missing = missing_file(folder, source)
    if missing:
        raise ModelError(
            f"model.config={source.config}: {missing} is missing in {folder}; name a whole "
            "pipeline in the diffusers layout (only its weights may be missing)"
        )
    return folder


def missing_file(folder: Path, source: ModelSource) -> str | None:
    """Name of the first missing file of a whole pipeline, except weights and their configs."""
    wanted = ["model_index.json", inside("scheduler/scheduler_config.json", folder, source)]
    for tokenizer, kind in description_of(source.family).tokenizers.items():
        wanted.append(f"{tokenizer}/tokenizer_config.json")
        # without a vocabulary, transformers makes an empty tokenizer and says nothing
        names = dict(kind.vocab_files_names)  # all in one newer file, if it is there, or the others
        whole = names.pop("tokenizer_file", None)
        if whole is None or not (folder / tokenizer / whole).is_file():
            wanted += [f"{tokenizer}/{name}" for name in names.values()]
    return next((name for name in wanted if not (folder / name).is_file()), None)


def _fetch(source: ModelSource, key: str, weights: bool) -> Path:
    """The folder of a model of the Hub in the local cache, whole; fetched if it is not there."""
    kind, description = PIPELINE if weights else CONFIGS, description_of(source.family)
    model = HubModel(
        source.path,
        kind,
        source.revision,
        source.variant,
        part={"model.vae": "vae", "model.draw_with": description.denoiser}.get(key),
        without=(*source.scratch, *(["vae"] if source.vae is not None else [])),
    )
    if (what := model_fault(model)) is not None:
        from sdlora.weights.downloads import DownloadError, fetch_model

        try:
            fetch_model(model, Progress(enabled=False))
        except DownloadError as error:
            needed = {"model.path": "", "model.draw_with": " model.path=BASE"}.get(key)
            family = "" if needed is None else f" model.family={source.family}{needed}"
            words = f"{key if key == 'model.draw_with' else 'model.path'}={source.path}{family}"
            raise ModelError(
                f"{key}={source.path}: {what}, and it could not be fetched from the Hub ({error}); "
                "check the id, give a folder, or get it once on a machine with network: "
                f"sdlora fetch {words}"
            ) from error
    folder = cached_folder(model)
    assert folder is not None, "it was fetched"
    return folder

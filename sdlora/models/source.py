"""The source of a base model: location, download, completeness; reads no weight."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sdlora.models.checkpoint_file import ENDINGS, SingleFileError, read_header
from sdlora.models.checkpoint_kind import check_folder_kind
from sdlora.models.families import description_of, families
from sdlora.models.noise_markers import believed, file_markers
from sdlora.models.single_file import converted_model, converted_vae
from sdlora.runtime.places import ASSETS, EMBEDDED
from sdlora.runtime.progress import Progress
from sdlora.weights.hub_models import (
    CONFIGS,
    PIPELINE,
    HubModel,
    cached_folder,
    missing_shards,
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
    """The folder of a part's files, which for ``model.vae`` is elsewhere.

    Raises:
        ModelError: If that VAE is neither a folder nor a Hub id that can be fetched.
    """
    if part != "vae" or source.vae is None:
        return (base / inside(f"{part}/config.json", base, source)).parent
    file = Path(source.vae).expanduser()
    if file.suffix in ENDINGS and not file.is_dir():
        try:
            return converted_vae(file, base, description_of(source.family).parts["vae"])
        except SingleFileError as error:
            raise ModelError(f"model.vae={source.vae}: {error}") from error
    own = resolve(ModelSource(source.vae, revision=None), key="model.vae")
    return own if (own / "config.json").is_file() else own / "vae"


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


def is_distilled(folder: Path) -> bool:
    """Whether a pipeline says that it was distilled to draw in few steps, without guidance."""
    try:
        index = json.loads((folder / "model_index.json").read_text("utf-8"))
    except (OSError, ValueError):  # which other checks name
        return False
    return bool(index.get("is_distilled"))


def check_folder(folder: Path, source: ModelSource) -> None:
    """Raise an error naming the first missing file of a whole pipeline."""
    description = description_of(source.family)
    if "vae" in description.parts:
        try:
            check_folder_kind(folder, description.denoiser)
        except SingleFileError as error:
            raise ModelError(f"model.path={source.path}: {error}") from error
    missing = missing_file(folder, source)
    if missing:
        raise ModelError(
            f"model.path={source.path}: {missing} is missing in {folder}; the folder must be a "
            "whole pipeline in the diffusers layout (half a download? fetch it again)"
        )
    for part in description.parts:
        _check_part(part, folder, source)
    _check_transformer(folder, source)
    if not description.tokenizers:
        _require_unconditional(folder, source)


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


def _check_transformer(folder: Path, source: ModelSource) -> None:
    """Refuse the transformer of another family, whose folders have the same names."""
    description = description_of(source.family)
    denoiser = description.denoiser
    wanted, found = description.parts[denoiser].__name__, None
    if not description.is_flow:
        return
    found = part_config(denoiser, folder, source).get("_class_name", wanted)
    if found == wanted:
        return
    others = [each for each in families().values() if denoiser in each.parts]
    same = [each for each in others if each.parts[denoiser].__name__ == found]
    remedy = f"set model.family={same[0].name}" if same else "choose another model"
    raise ModelError(
        f"model.path={source.path}: its {denoiser} is a {found}, no {description.kind}; {remedy}"
    )


def _require_unconditional(folder: Path, source: ModelSource) -> None:
    """Refuse a pipeline with further parts, such as a VAE or text encoders."""
    description = description_of(source.family)
    index = json.loads((folder / "model_index.json").read_text("utf-8"))
    there = {name for name, kind in index.items() if isinstance(kind, list) and kind[0]}
    if others := there - {description.denoiser, "scheduler"}:
        raise ModelError(
            f"model.path={source.path}: has {', '.join(sorted(others))}, too: no "
            f"{description.kind}; choose its own model.family, or another model"
        )


def _check_part(part: str, folder: Path, source: ModelSource) -> None:
    own = part == "vae" and source.vae is not None
    where = f"model.vae={source.vae}:" if own else f"model.path={source.path}: {part}/"
    place = part_folder(part, folder, source)
    if not (place / "config.json").is_file():
        raise ModelError(f"{where}config.json is missing in {place.parent}; fetch the model again")
    if part in source.scratch:
        return
    variant = None if own else source.variant
    stem = weights_stem(part) + (f".{variant}" if variant else "")
    names = [path.name for path in place.glob(f"{weights_stem(part)}*.safetensors")]
    if f"{stem}.safetensors" in names:
        return
    shards = [name for name in names if _is_shard(name, weights_stem(part), variant)]
    if lacking := missing_shards(shards):
        raise ModelError(
            f"{where}{lacking[0]} is missing in {place.parent}: its weights are in several files "
            f"({len(lacking)} of them not there); fetch the model again"
        )
    if shards:
        return
    if any(place.glob("*.bin")):
        key, kind = ("vae", "AutoencoderKL") if own else ("path", "DiffusionPipeline")
        here = place if own else place.parent
        raise ModelError(
            f"{where.removesuffix('/')} has only .bin weights, which are pickle and can run code; "
            f"convert them, and use model.{key}={here}_safe:\n"
            f'python -c "from diffusers import {kind} as P; '
            f"P.from_pretrained(r'{here}').save_pretrained(r'{here}_safe')\""
        )
    there = f" (there is {', '.join(sorted(names))})" if names else ""
    variants = sorted(weight_kinds(part, place))
    way = " or ".join(f"model.variant={each or 'null'}" for each in variants) or "model.variant"
    raise ModelError(
        f"{where}{stem}.safetensors is missing in {place.parent}{there}; fetch it, or set {way}"
    )


def _is_shard(name: str, stem: str, variant: str | None) -> bool:
    """Whether a file has a share of a part's weights, of this variant."""
    dotted = re.escape(f".{variant}") if variant else ""
    one = r"-\d+-of-\d+"
    return re.fullmatch(rf"{stem}(?:{dotted}{one}|{one}{dotted})\.safetensors", name) is not None


def weight_kinds(part: str, place: Path) -> set[str]:
    """The variants of a part's weights in its folder, such as ``fp16``; ``""`` is none."""
    stem = weights_stem(part)
    rests = [path.name.removeprefix(stem) for path in place.glob(f"{stem}*.safetensors")]
    kinds = (rest.removesuffix(".safetensors").partition("-")[0].strip(".") for rest in rests)
    return set(kinds)


def _fetch(source: ModelSource, key: str, weights: bool) -> Path:
    """The folder of a model of the Hub in the local cache, whole; fetched if it is not there."""
    kind = PIPELINE if weights else CONFIGS
    model = HubModel(
        source.path,
        kind,
        source.revision,
        source.variant,
        part="vae" if key == "model.vae" else None,
        without=(*source.scratch, *(["vae"] if source.vae is not None else [])),
    )
    if (what := model_fault(model)) is not None:
        from sdlora.weights.downloads import DownloadError, fetch_model

        try:
            fetch_model(model, Progress(enabled=False))
        except DownloadError as error:
            family = f" model.family={source.family}" if key == "model.path" else ""
            raise ModelError(
                f"{key}={source.path}: {what}, and it could not be fetched from the Hub ({error}); "
                "check the id, give a folder, or get it once on a machine with network: "
                f"sdlora fetch model.path={source.path}{family}"
            ) from error
    folder = cached_folder(model)
    assert folder is not None, "it was fetched"
    return folder

"""Runs made from config values alone, and ways to see what became of each value."""

import copy
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import cache, cached_property
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lightning
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from omegaconf import DictConfig, OmegaConf, open_dict
from PIL import Image, ImageFilter
from safetensors.torch import load_file, save_file

from sdlora.adapters.file_writing import write_diffusers
from sdlora.adapters.lora import add_lora, lora_parameters
from sdlora.adapters.spec import LoraSpec
from sdlora.adapters.tuners import ADAPTER
from sdlora.assembly import base_model, family_limits, training_pictures
from sdlora.assembly.lightning_trainer import trainer
from sdlora.cli.composition import to_typed
from sdlora.commands.train import adapter_files, fit, preparation
from sdlora.commands.train.training_run import TrainingRun
from sdlora.config.data import RootConfig
from sdlora.config.keys import all_keys
from sdlora.config.train import TrainConfig
from sdlora.data.selection import measures
from sdlora.data.selection.picture_set import PictureSet
from sdlora.evaluation.scoring import Pictures
from sdlora.models import memory
from sdlora.models.loading import load_family
from sdlora.models.sd import SD
from sdlora.models.source import ModelSource
from sdlora.runtime.kept import Kept
from sdlora.runtime.places import ASSETS
from sdlora.runtime.progress import Progress
from tests.composed import composed_train
from tests.single_file import write_single_file
from tests.unit.data.hub_sets import png, rows, write_parquet

PARTS = ("unet", "text_encoder", "text_encoder_2")
ROOTS = "data.roots."


def keys_of_a_run() -> set[str]:
    """Every key that holds a value, as it is written, those of one of ``data.roots`` included."""
    known = list(all_keys(TrainConfig))
    named = {key.replace(".PART", f".{part}") for key in known for part in PARTS}
    groups = {name.rpartition(".")[0] for name in named} | {f"lora.{part}" for part in PARTS}
    return (named - groups) | {ROOTS + item.name for item in fields(RootConfig)}


@cache
def composed(*groups: str) -> DictConfig:
    """The config of ``train.py`` with these options of groups."""
    return composed_train(*groups)


def default_of(config: DictConfig, key: str) -> Any:
    """What a key has where nobody says anything."""
    if key.startswith(ROOTS):
        return next(each.default for each in fields(RootConfig) if ROOTS + each.name == key)
    return OmegaConf.to_container(OmegaConf.create({"x": OmegaConf.select(config, key)}))["x"]


def typed(groups: Sequence[str], values: Mapping[str, Any]) -> TrainConfig:
    """The config with these values; those of ``data.roots.KEY`` make its first root."""
    config = copy.deepcopy(composed(*groups))
    root = {k.removeprefix(ROOTS): v for k, v in values.items() if k.startswith(ROOTS)}
    with open_dict(config):
        for key, value in values.items():
            if key == "data.roots":
                config.data.roots = [RootConfig(**each) for each in value]
            elif not key.startswith(ROOTS):
                OmegaConf.update(config, key, value, merge=False)
        if root:
            config.data.roots = [RootConfig(**root), *config.data.roots]
    return to_typed(config, TrainConfig)


@dataclass
class Shown:
    """A prepared run, and what can be seen of it."""

    run: TrainingRun
    at: Path
    trainer_options: dict[str, Any]
    quantised: list[str]
    detectors: set[str]
    compiled: bool

    def layers(self, part: str) -> dict[str, Any]:
        """Layers of a part with an adapter, by name."""
        named = self.run.family.parts[part].named_modules()
        return {name: each for name, each in named if ADAPTER in getattr(each, "lora_A", {})}

    def layer(self, part: str, end: str) -> Any:
        """The first of them whose name ends so and is in no middle block."""
        found = self.layers(part).items()
        return next(each for name, each in found if name.endswith(end) and "mid" not in name)

    def matrix(self, part: str, which: str = "lora_A") -> torch.nn.Parameter:
        layer = next(iter(self.layers(part).values()))
        return getattr(layer, which)[ADAPTER].weight

    @cached_property
    def optimizer(self) -> Any:
        return self.run.module.configure_optimizers()["optimizer"]

    def group_of(self, parameter: torch.Tensor) -> dict[str, Any]:
        """The optimizer's group that trains this very parameter."""
        groups = self.optimizer.param_groups
        [found] = [g for g in groups if any(each is parameter for each in g["params"])]
        return found

    def rate(self, parameter: torch.Tensor) -> float:
        """Its learning rate before any schedule."""
        return round(float(self.group_of(parameter)["initial_lr"]), 12)

    @cached_property
    def factors(self) -> list[float]:
        """Of the UNet's rate, by step."""
        made = self.run.module.configure_optimizers()
        schedule = made["lr_scheduler"]["scheduler"]
        steps = range(self.run.trainer.max_steps + 1)
        return [schedule.lr_lambdas[0](step) for step in steps]

    @cached_property
    def callbacks(self) -> dict[str, Any]:
        """What Lightning is given to train with, by class."""

        class Begun(Exception):
            pass

        def fit_nothing(*args: Any, **options: Any) -> None:
            raise Begun

        without_estimate = patch.object(fit, "described_time", lambda run, cost: "")
        with patch.object(self.run.trainer, "fit", fit_nothing), without_estimate, suppress(Begun):
            fit.fit(self.run)
        found = self.run.trainer.callbacks
        return {type(each).__name__: each for each in found}

    @cached_property
    def batches(self) -> list[Any]:
        """Those of some epochs."""
        dataset: Any = self.run.datamodule.dataset
        return [dataset[number, 1] for number in range(12 * dataset.plan.batches_per_epoch)]

    @cached_property
    def samples(self) -> list[tuple[str, dict[str, Any]]]:
        """Name and content of each sample of these batches."""
        found = []
        for batch in self.batches:
            for place, name in enumerate(batch.names):
                fields_of = ("token_ids", "weights", "pixels", "moments", "mask", "sizes")
                whole = {field: getattr(batch, field) for field in fields_of}
                found.append((name, {k: None if v is None else v[place] for k, v in whole.items()}))
        return found

    @cached_property
    def streamed(self) -> list[Any]:
        """The first batches of a stream."""
        dataset: Any = self.run.datamodule.dataset
        return list(islice(dataset.batches(), 8))

    @property
    def drawn_texts(self) -> list[str]:
        return [prompt.text for prompt in self.run.evaluator.prompts]

    def of(self, name: str, field: str) -> list[Any]:
        """A field of all samples of a picture."""
        return [content[field] for shown, content in self.samples if shown.endswith(name)]

    def captions(self, name: str) -> list[str]:
        """What the text encoder reads of a picture, sample by sample."""
        tokenizer = self.run.family.tokenizers[0]
        return [
            tokenizer.decode(ids, skip_special_tokens=True) for ids in self.of(name, "token_ids")
        ]

    @cached_property
    def counts(self) -> Counter[str]:
        """How often the first epoch shows each picture."""
        dataset: Any = self.run.datamodule.dataset
        epoch = self.batches[: dataset.plan.batches_per_epoch]
        return Counter(name for batch in epoch for name in batch.names)

    @property
    def names(self) -> set[str]:
        return {picture.name for picture in self.run.data.source.pictures}

    @cached_property
    def drawn(self) -> list[tuple[Any, dict[str, Any]]]:
        """The pipeline's scheduler and arguments, each time that all pictures are drawn."""
        calls: list[tuple[Any, dict[str, Any]]] = []
        kind = StableDiffusionPipeline
        draw = kind.__call__

        def noted(pipeline: Any, **told: Any) -> Any:
            calls.append((pipeline.scheduler, told))
            return draw(pipeline, **told)

        with patch.object(kind, "__call__", noted):
            self.run.evaluator.draw()
        return calls

    def scorer(self, kind: str) -> Any:
        """The one of this class; ``None`` without it."""
        each = {type(scorer).__name__: scorer for scorer in self.run.evaluator.scorer._scorers}
        return each.get(kind)

    @cached_property
    def scores(self) -> Any:
        picture = Image.new("RGB", (64, 64), "red")
        return self.run.evaluator.scorer.score(Pictures([picture], ["a thing"]))

    def written(self, folder: Path) -> dict[str, dict[str, str]]:
        """Name -> header of the files of the adapter."""
        from safetensors import safe_open

        adapter_files.write_adapter(self.run, folder, kohya=True)
        headers = {}
        for path in folder.glob("*.safetensors"):
            with safe_open(path, "pt") as file:
                headers[path.name] = file.metadata()
        return headers


def shown_run(config: TrainConfig, folder: Path, at: Path) -> Shown:
    """Prepare a run, as ``train`` does; what this machine cannot do is only noted."""
    options: dict[str, Any] = {}
    quantised: list[str] = []
    detectors: set[str] = set()
    compiled: list[object] = []

    class NotedTrainer(lightning.Trainer):
        def __init__(self, **given: Any) -> None:
            options.update(given)
            super().__init__(**given)

    def find_face(image: Image.Image, detector: str) -> tuple[int, int, int, int]:
        detectors.add(detector)
        return (0, 0, 8, 8)

    with (
        patch.object(lightning, "Trainer", NotedTrainer),
        patch.object(base_model, "quantise", lambda unet, kind: quantised.append(kind)),
        patch.object(family_limits, "find_spec", lambda library: library),
        patch.object(measures, "find_face", find_face),
        patch.object(measures, "require_detector", lambda detector: None),
        patch.object(measures, "detector_mark", lambda detector: ""),
        patch.object(memory, "compile_denoiser", compiled.append),
    ):
        devices = trainer(
            config.trainer, config.logger, folder, Progress(enabled=False), skips_layers=False
        )
        run = preparation.prepared(config, folder, Progress(enabled=False), Kept(), devices)
    return Shown(run, at, options, quantised, detectors, compiled == [run.family.unet])


def chosen_pictures(config: TrainConfig, folder: Path) -> PictureSet:
    """What of the pictures is trained on, before anything is loaded."""
    progress = Progress(enabled=False)
    return training_pictures.training_pictures(
        config.data, config.model, folder, progress, is_check=False
    )


def noise(size: tuple[int, int], seed: int) -> Image.Image:
    draws = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (size[1], size[0], 3), generator=draws, dtype=torch.uint8)
    return Image.frombytes("RGB", size, pixels.numpy().tobytes())


def write_captioned(folder: Path, names: Sequence[str], size: tuple[int, int] = (64, 64)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        noise(size, hash_free(folder.name + name) + number).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"a {name}", "utf-8")


def hash_free(text: str) -> int:
    return sum(map(ord, text))


def write_inputs(at: Path, base: Path) -> None:
    """All that the variants read, below ``at``."""
    write_captioned(at / "few", ["aa", "bb", "cc", "dd"])
    write_captioned(at / "twenty", [f"p{number}" for number in range(20)])
    write_captioned(at / "held", ["h1", "h2"])
    write_captioned(at / "references", ["r1", "r2", "r3"])
    write_captioned(at / "class", ["k1", "k2"])
    _write_roots(at / "first", at / "second")
    _write_filtered(at / "filtered")
    _write_shapes(at / "shapes")
    _write_models(at, base)
    (at / "prompts.txt").write_text("one\nsks man two\nthree\n", "utf-8")
    save_file({"weight": torch.zeros(1, 128), "bias": torch.tensor([4.5])}, at / "head.safetensors")
    small = png("red", (24, 24))
    for split, first in (("train", 0), ("test", 10)):
        records = [
            {
                **row,
                "photo_2": {"bytes": small, "path": "x"},
                "t2": f"as {row['text']}",
            }
            for row in rows(8, first)
        ]
        write_parquet(at / "hub" / f"{split}-0.parquet", records)


def _write_roots(first: Path, second: Path) -> None:
    """Two roots: what the keys of pictures and captions make of them can be told apart."""
    write_captioned(first / "sub", ["nested"])
    for name in ("tags", "bare"):
        noise((64, 48), hash_free(name)).save(first / f"{name}.png")
    (first / "tags.cap").write_text("aa; bb; {cc|dd}\nsecond", "utf-8")
    (first / "tags.txt").write_text("of the usual ending", "utf-8")
    noise((16, 16), 3).save(first / "small.png")
    (first / "broken.png").write_bytes(b"no picture")
    clear = noise((64, 64), 4).convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize((64, 64)).point(lambda v: 255 * (v > 127)))
    clear.save(first / "clear.png")
    second.mkdir()
    halves = Image.new("RGB", (64, 64), "black")
    halves.paste("white", (0, 0, 32, 64))
    halves.save(second / "halves.png")


def _write_filtered(folder: Path) -> None:
    """A picture for each filter to leave out, by its name, and some to keep."""
    write_captioned(folder, ["kept", "z_copy"])
    shutil.copy(folder / "kept.png", folder / "z_copy.png")
    sizes = {"narrow": (40, 60), "low": (60, 40), "area": (50, 50), "standing": (60, 150)}
    for name, size in {**sizes, "lying": (150, 60)}.items():
        noise(size, hash_free(name)).save(folder / f"{name}.png")
    noise((200, 200), 8).save(folder / "heavy.png")
    noise((64, 64), 9).filter(ImageFilter.GaussianBlur(6)).save(folder / "blurred.png")
    motif, plain = noise((8, 8), 11), Image.Resampling.NEAREST
    motif.resize((96, 96), plain).save(folder / "motif.png")
    motif.resize((80, 80), plain).save(folder / "motif_again.png")
    for path in folder.glob("*.png"):
        path.with_suffix(".txt").write_text(path.stem, "utf-8")


def _write_shapes(folder: Path) -> None:
    folder.mkdir()
    for name, size in {"wide": (300, 100), "nearly": (110, 100)}.items():
        noise(size, 1).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(name, "utf-8")


def _write_models(at: Path, base: Path) -> None:
    shutil.copy(base / "unet/diffusion_pytorch_model.safetensors", at / "base.safetensors")
    shutil.copytree(ASSETS / "tiny-clip", at / "clip")
    clip = load_file(at / "clip/model.safetensors")
    clip["logit_scale"].fill_(1.25)
    save_file(clip, at / "clip/model.safetensors", {"format": "pt"})
    vae = AutoencoderKL.from_pretrained(base / "vae")
    with torch.no_grad():
        vae.encoder.conv_in.weight.mul_(1.5)
    vae.save_pretrained(at / "vae")
    shutil.copytree(base, at / "fp16")
    for path in (at / "fp16").rglob("*.safetensors"):
        weights = {name: value + 1 for name, value in load_file(path).items()}
        save_file(weights, path.with_suffix(".fp16.safetensors"), {"format": "pt"})
    pipeline = StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
    write_single_file(at / "single.safetensors", pipeline, open_clip=False)
    family = load_family(ModelSource(path=str(base)), seed=0)
    add_lora(family.parts["unet"], LoraSpec(8, 8.0, 0.0, ("to_q",)), seed=1)
    for parameter in lora_parameters(family.parts["unet"]).values():
        parameter.data = torch.full_like(parameter, 0.25)
    write_diffusers(at / "start.safetensors", parts=family.parts, names=SD.trainable, metadata={})

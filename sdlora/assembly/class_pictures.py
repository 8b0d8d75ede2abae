"""Class pictures of prior preservation: the base draws missing ones before training."""

from pathlib import Path

import torch

from sdlora.assembly import base_model
from sdlora.assembly.device import compute_device
from sdlora.config.data_prior import PriorConfig
from sdlora.config.train import TrainConfig
from sdlora.data.pictures.picture_formats import PICTURE_SUFFIXES
from sdlora.runtime.files import atomic_path
from sdlora.runtime.places import located
from sdlora.runtime.progress import Progress
from sdlora.sampling.generate import generate, text_batches
from sdlora.sampling.prompts import Prompt

FOLDER = "class_pictures"
"""Their folder in the run folder, unless the config names another."""


def class_folder(prior: PriorConfig, folder: Path) -> Path:
    """The folder of class pictures; ``folder``: the run's."""
    return located(prior.root) if prior.root else folder / FOLDER


def lacking_class_pictures(prior: PriorConfig, folder: Path) -> int:
    """How many class pictures the base still has to draw; ``folder``: the run's."""
    return max(0, prior.num_pictures - _num_pictures(class_folder(prior, folder)))


def _num_pictures(folder: Path) -> int:
    return sum(path.suffix.casefold() in PICTURE_SUFFIXES for path in folder.rglob("*"))


def draw_missing_class_pictures(
    config: TrainConfig, folder: Path, progress: Progress, *, blocks: bool = False
) -> None:
    """Fill the folder of class pictures up to ``data.prior.num_pictures``, as DreamBooth does.

    Each picture has a seed of its own, so a resumed run draws only missing ones.

    Args:
        config: The run's config.
        folder: The run folder.
        progress: Prints, and shows a bar.
        blocks: Whether the denoiser's blocks wait in main memory.
    """
    prior = config.data.prior
    target = class_folder(prior, folder)
    target.mkdir(parents=True, exist_ok=True)
    there = _num_pictures(target)
    lacking = lacking_class_pictures(prior, folder)
    if lacking <= 0:
        return
    progress.print(f"the base draws {lacking} class pictures into {target}")
    names = (f"class_{number:05d}" for number in range(prior.num_pictures + there))
    missing = [name for name in names if not (target / f"{name}.png").exists()][:lacking]
    family = base_model.load_to_draw(config.model, config.trainer.precision, config.seed)
    device, size = compute_device(config.trainer.accelerator), config.sampling.batch_size
    family.place(device, [part for part, _ in family.named_children()])
    family.keep_prompts(True)
    prompts = [Prompt(prior.prompt, int(name.rpartition("_")[2])) for name in missing]
    for texts in text_batches(prompts, config.sampling):
        family.encode_texts(texts)
    if blocks:
        family.stream_blocks()
    family.place(device, family.text_encoders)
    for start in range(0, len(missing), size):
        chunk = missing[start : start + size]
        pictures = generate(
            family.pipeline(),
            prompts[start : start + size],
            config.sampling,
            config.data.resolution,
            progress=progress,
            drawing=family.drawing(),
        )
        for name, picture in zip(chunk, pictures, strict=True):
            with atomic_path(target / f"{name}.png") as temporary:
                picture.save(temporary)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

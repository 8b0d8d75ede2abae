"""Pictures a second outside the training step: encoded into the cache, drawn, scored.

Each in two ways that take turns: as the project does it, and the plain way. Drawing and scoring one
prompt at a time; encoding without reading pictures or writing a cache, the VAE alone. Further
arguments are overrides of ``train.py``.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch

from benchmarks.prepared_run import prepared_run
from benchmarks.results import Result, machine, publish, show
from sdlora.assembly.training_batches import cache_of, picture_encoder_key
from sdlora.commands.train.duration import synchronize
from sdlora.commands.train.training_run import TrainingRun
from sdlora.config.sampling import SamplingConfig
from sdlora.data.cache.encoders import encoded_pictures
from sdlora.evaluation.scoring import Pictures
from sdlora.runtime.program import settle_libraries
from sdlora.runtime.progress import Progress
from sdlora.sampling.generate import generate

HEADERS = ("what", "how", "pictures/s", "min to max", "of the other")
VAE_BATCH = 8


def main() -> None:
    """Measure, print the table, and write it if asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pictures", description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="turns of each way")
    parser.add_argument("--prompts", type=int, default=25, help="drawn and scored")
    parser.add_argument("--write", action="store_true", help="into docs/speed.md and results/")
    options, overrides = parser.parse_known_args()
    settle_libraries()
    rates: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["SDLORA_CACHE"] = str(Path(scratch) / "cache")
        given = [f"sampling.num_prompts={options.prompts}", "data.cache=disk", *overrides]
        built = prepared_run(given, Path(scratch) / "run", Progress(enabled=False))
        for what, ways in ways_of(built, Path(scratch)).items():
            rates[what] = by_turns(ways, options.repeats, built)
    command = f"python -m benchmarks.pictures --repeats {options.repeats}"
    command = f"{command} --prompts {options.prompts}"
    result = Result(
        name="pictures",
        command=" ".join([command, *overrides]),
        machine=machine(),
        headers=HEADERS,
        rows=[row for what, ways in rates.items() for row in cells(what, ways)],
        measured=rates,
    )
    if options.write:
        publish(result)
    show(result)


def cells(what: str, ways: dict[str, list[float]]) -> list[tuple[str, ...]]:
    """A line for each way: the median rate, its spread, and the ratio to the last way's."""
    last = median(list(ways.values())[-1])
    return [
        (
            what,
            how,
            f"{median(rates):.1f}",
            f"{min(rates):.1f} to {max(rates):.1f}",
            f"{median(rates) / last:.2f}",
        )
        for how, rates in ways.items()
    ]


Way = Callable[[], int]
"""Does it once, and tells for how many pictures."""


def by_turns(ways: dict[str, Way], repeats: int, built: TrainingRun) -> dict[str, list[float]]:
    """Pictures a second of each way at each of its turns, the first of which does not count."""
    device = built.trainer.strategy.root_device
    rates: dict[str, list[float]] = {how: [] for how in ways}
    for number in range(repeats + 1):
        for how, way in ways.items():
            synchronize(device)
            began = time.perf_counter()
            count = way()
            synchronize(device)
            if number:
                rates[how].append(count / (time.perf_counter() - began))
    return rates


def ways_of(built: TrainingRun, scratch: Path) -> dict[str, dict[str, Way]]:
    """What is measured, each in two ways."""
    sampling = built.config.sampling
    images = draw(built, sampling)
    prompts = [prompt.text for prompt in built.evaluator.prompts]

    def score(size: int) -> int:
        for first in range(0, len(images), size):
            part = slice(first, first + size)
            pictures = Pictures(images[part], prompts[part])
            built.evaluator.scorer.score(pictures, built.progress)
        return len(images)

    one = replace(sampling, batch_size=1)
    return {
        "encoding": encoding_ways(built, scratch),
        "drawing": {
            f"batches of {sampling.batch_size}": lambda: len(draw(built, sampling)),
            "one at a time": lambda: len(draw(built, one)),
        },
        "scoring": {
            "all at once": lambda: score(len(images)),
            "one at a time": lambda: score(1),
        },
    }


def draw(built: TrainingRun, sampling: SamplingConfig) -> list:
    """All prompts, as the run draws them."""
    evaluator = built.evaluator
    family, side = built.family, evaluator.resolution
    return generate(family.pipeline(), evaluator.prompts, sampling, side, drawing=family.drawing())


def encoding_ways(built: TrainingRun, scratch: Path) -> dict[str, Way]:
    """Filling an empty cache on the disk, and the VAE on pictures that are read already."""
    device = built.trainer.strategy.root_device
    count = len(built.data.geometry)
    side = built.config.data.resolution
    key = picture_encoder_key(built.config.model, built.config.data, built.family)
    pixels = torch.rand(VAE_BATCH, 3, side, side, device=device) * 2 - 1

    def fill() -> int:
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            cache = replace(built.config.data.cache, dir=folder)
            data = replace(built.config.data, cache=cache)
            kept = cache_of(data, device, built.progress)
            assert kept is not None, "data.cache=disk"
            encoded_pictures(built.data, data, built.family, key, kept)
        return count

    def vae_alone() -> int:
        for first in range(0, count, VAE_BATCH):
            built.family.encode_images(pixels[: count - first])
        return count

    return {"into an empty cache": fill, "the VAE alone": vae_alone}


if __name__ == "__main__":
    main()

"""What the data side costs: indexing large folders, and a batch beside the model's step.

    python -m benchmarks.data                      # 1,000, 10,000 and 100,000 pictures
    python -m benchmarks.data --pictures 1000      # one size, a minute

Folders are made in a temporary folder and removed. Every start is a process of its own; "later"
starts find the index that the first one wrote.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageEnhance
from rich.console import Console
from rich.table import Table

from benchmarks.prepared_run import prepared_run
from sdlora.commands.train.training_run import TrainingRun
from sdlora.runtime.progress import Progress

BATCH = 8
DRAWN = 200
"""So many portraits are drawn; the others are these, shifted and brightened: all files differ."""

START = """
import json, resource, sys, time
from pathlib import Path
from sdlora.config.data import RootConfig
from sdlora.data.sources.folder_source import FolderSource
from sdlora.data.sources.file_index import FileIndex

def rss():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

before, began = rss(), time.perf_counter()
with FileIndex(Path(sys.argv[2])) as index:
    source = FolderSource([RootConfig(path=sys.argv[1])], index=index)
    seconds = time.perf_counter() - began
    count = len(source.pictures)
assert not source.findings, list(source.findings)[:3]
print(json.dumps({"seconds": seconds, "count": count, "bytes": (rss() - before) / count}))
"""


def main() -> None:
    """Measure, and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--batches", type=int, default=50, help="batches to time of each kind")
    options = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory() as scratch:
        console.print(_starts(options.pictures, Path(scratch)))
        console.print(_batches(options.batches, Path(scratch)))


def _starts(sizes: list[int], scratch: Path) -> Table:
    table = Table(
        "pictures", "first index, s", "later start, s", "s per 100,000", "bytes a picture"
    )
    for size in sizes:
        folder, index = scratch / f"folder-{size}", scratch / f"index-{size}.sqlite"
        write_folder(folder, size)
        first = _start(folder, index)
        later = [_start(folder, index) for _ in range(3)]
        seconds = statistics.median(run["seconds"] for run in later)
        table.add_row(
            f"{size:,}",
            f"{first['seconds']:.1f}",
            f"{seconds:.2f}",
            f"{first['seconds'] / size * 1e5:.1f}",
            f"{later[0]['bytes']:.0f}",
        )
        shutil.rmtree(folder)
    return table


def _start(folder: Path, index: Path) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", START, str(folder), str(index)],
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout)


def write_folder(folder: Path, num_pictures: int, side_px: int = 64) -> None:
    """Write drawn pictures, each of other bytes, with captions."""
    from sdlora.world.portraits import portrait

    folder.mkdir(parents=True)
    drawn = [portrait(seed, size=side_px) for seed in range(min(DRAWN, num_pictures))]
    draw = random.Random(0)
    for number in range(num_pictures):
        own = drawn[number % len(drawn)]
        shifted = Image.new("RGB", own.image.size)
        shifted.paste(own.image.convert("RGB"), (draw.randrange(-5, 6), draw.randrange(-5, 6)))
        buffer = BytesIO()
        ImageEnhance.Brightness(shifted).enhance(draw.uniform(0.7, 1.3)).save(
            buffer, "JPEG", quality=90, comment=str(number).encode()
        )
        stem = f"{number:07d}"
        (folder / f"{stem}.jpg").write_bytes(buffer.getvalue())
        (folder / f"{stem}.txt").write_text(f"{own.caption}, number {number}", "utf-8")
    # what lies there for years is not what was written a moment ago: such files are read again
    past = time.time() - 3600
    for entry in os.scandir(folder):
        os.utime(entry.path, (past, past))


def _batches(count: int, scratch: Path) -> Table:
    """One batch of each kind of set, beside the step of the model that it is for."""
    os.environ["SDLORA_CACHE"] = str(scratch / "cache")
    folder = scratch / "training"
    write_folder(folder, 1_000)
    table = Table("a batch of 8 from", "median, ms", "of the bare step")
    rows: dict[str, float] = {}
    for name, overrides in {
        "a resident set": (),
        "a memory-mapped set": ("data.cache.resident_gib=1e-9",),
        "no cache (decoded at every step)": ("data.cache=off",),
    }.items():
        given = [f"data.root={folder}", "evaluation=none", *overrides]
        run = scratch / "runs" / str(len(rows))
        built = prepared_run(given, run, Progress(enabled=False))
        dataset = built.datamodule.dataset
        rows[name] = _median_ms(partial(_next_batch, dataset), count)
        if not overrides:
            step = rows["(the bare step: forward, backward, optimizer)"] = _step_ms(built, count)
    for name, milliseconds in rows.items():
        table.add_row(name, f"{milliseconds:.2f}", f"{milliseconds / step:.3f}")
    return table


def _step_ms(built: TrainingRun, count: int) -> float:
    module = built.module
    module.log = lambda *args, **kwargs: None
    optimizer = module.configure_optimizers()["optimizer"]
    batches = [built.datamodule.dataset[number, 1] for number in range(count)]

    def step(numbers: Iterator[int]) -> None:
        module.training_step(batches[next(numbers) % count], 0).backward()
        optimizer.step()
        optimizer.zero_grad()

    return _median_ms(step, count)


def _next_batch(dataset: Any, numbers: Iterator[int]) -> Any:
    return dataset[next(numbers), 1]


def _median_ms(call: Callable[[Iterator[int]], object], count: int) -> float:
    numbers = iter(range(10_000))
    times = []
    for _ in range(count + 3):  # the first three warm up
        began = time.perf_counter()
        call(numbers)
        times.append(time.perf_counter() - began)
    return statistics.median(times[3:]) * 1e3


if __name__ == "__main__":
    torch.manual_seed(0)
    main()

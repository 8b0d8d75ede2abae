"""``python -m benchmarks.sweep_page``: the page of a fabricated sweep of 100 cells; one table.

Size of ``report.html``, how long it takes to write, and how long headless Chromium takes until its
pictures, maps and curves stand. The scores are drawn, the pictures coloured noise, which compresses
worse than what models draw.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from itertools import product
from pathlib import Path

import numpy as np
import yaml
from PIL import Image
from rich.console import Console
from rich.table import Table

from sdlora.reports.sweep_page import write_sweep_report

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
RANKS, RATES, SEEDS = (2, 4, 8, 16, 32), (1e-4, 3e-4, 1e-3, 3e-3, 1e-2), (0, 1, 2, 3)
STEPS = (100, 200, 300, 400)
NUM_PROMPTS = 8
NUM_POOLED = 40
MAX_MIB, MAX_SECONDS = 30, 3


def scores(distance: float, clip: float, seed: int) -> dict[str, object]:
    """Scores of 25 pictures around two means, as ``report.json`` has them."""
    rng = np.random.default_rng(seed)
    faces = (distance + rng.normal(0, 0.1, 25)).tolist()
    return {
        "num_pictures": 25,
        "values": {"face_distance": distance, "clip_score": clip, "diversity": 0.1 + distance / 9},
        "reasons": {},
        "intervals": {"face_distance": [distance - 0.04, distance + 0.04]},
        "per_picture": {"prompt": [str(n) for n in range(25)], "face_distance": faces},
    }


def write_sweep(folder: Path, side_px: int) -> None:
    """Write a folder as 100 runs would have left it."""
    rng = np.random.default_rng(0)
    pool = []
    for number in range(NUM_POOLED):
        coarse = rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((side_px, side_px), Image.Resampling.BICUBIC)
        pool.append(folder / f"pool_{number}.png")
        picture.save(pool[-1])
    entries = []
    for number, (rank, rate, seed) in enumerate(product(RANKS, RATES, SEEDS), 1):
        name = f"lora.r={rank},optim.unet_lr={rate},seed={seed}"
        swept = {"lora.r": rank, "optim.unet_lr": rate, "seed": seed}
        entries.append({"number": number, "folder": name, "overrides": swept})
        write_cell(folder / name, number, rank, rate, pool)
    for path in pool:
        path.unlink()
    swept_values = {"lora.r": [*RANKS], "optim.unet_lr": [*RATES], "seed": [*SEEDS]}
    sweep = {"version": 1, "name": "hundred", "command": ["lora.r=2,4,8,16,32"], "shared": []}
    text = yaml.safe_dump({**sweep, "swept": swept_values, "cells": entries})
    (folder / "sweep.yaml").write_text(text, encoding="utf-8")


def write_cell(folder: Path, number: int, rank: int, rate: float, pool: list[Path]) -> None:
    """Write one run: likelier faces with rank and rate, prompts lost at the highest rates."""
    rng = np.random.default_rng(number)
    learnt = 0.35 * np.log2(rank) / 5 + 0.5 * min(1, np.log10(rate / 1e-5) / 2.5)
    distance = float(1.3 - learnt + rng.normal(0, 0.02))
    clip = float(86.3 - 2.4 * max(0, np.log10(rate / 1e-3)) * rank / 16 + rng.normal(0, 0.1))
    listed = [
        {"file": f"{n:03d}.png", "text": f"prompt {n}", "seed": 0} for n in range(NUM_PROMPTS)
    ]
    for step in ("base", *(f"step_{step:07d}" for step in STEPS), "last"):
        (folder / "samples" / step).mkdir(parents=True)
        for entry in listed:
            picture = folder / "samples" / step / str(entry["file"])
            picture.hardlink_to(pool[rng.integers(len(pool))])
    lines = []
    for step in STEPS:
        value = 1.3 - (1.3 - distance) * (1 - np.exp(-step / 120))
        lines.append({"step": step, "eval/face_distance": value, "eval/clip_score": clip})
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines), "utf-8"
    )
    row = scores(distance, clip, number)
    evaluation = {"select": "face_distance", "max_clip_loss": 1.0}
    stored = {
        "samples/prompts.json": listed,
        "report.json": {"version": 2, "scores": {"base": scores(1.3, 86.3, 0), "LoRA": row}},
        "lora/scores.json": {"step": STEPS[-1], "scores": row},
        "config.json": {"config": {"evaluation": evaluation, "trainer": {"max_steps": 400}}},
        "cell.json": {
            **{"state": "done", "reason": None, "seconds": 60 + rank, "peak_memory_mib": 900},
            **{"trainable_parameters": 10000 * rank, "file_bytes": 40000 * rank},
        },
    }
    for name, value in stored.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(value), encoding="utf-8")


def seconds_to_open(report: Path) -> float:
    """Until the browser has shown all that stands on the page when it is opened."""
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, BROWSERS)))
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        begun = time.perf_counter()
        page.goto(report.as_uri())
        page.locator("#scatter circle").first.wait_for()
        page.locator("#grid img").first.wait_for()
        passed = time.perf_counter() - begun
        browser.close()
    return passed


def main() -> None:
    """Write, open, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep_page", description=__doc__)
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 512], help="of the pictures")
    parser.add_argument("--keep", type=Path, help="write the folders here, to be looked at")
    options = parser.parse_args()
    table = Table(title=f"Page of {len(RANKS) * len(RATES) * len(SEEDS)} cells")
    for heading in ("pictures, px", "page, MiB", "written in, s", "opens in, s"):
        table.add_column(heading, justify="right")
    is_fine = True
    for side_px in options.sides:
        with tempfile.TemporaryDirectory() as temporary:
            folder = (options.keep or Path(temporary)) / str(side_px)
            folder.mkdir(parents=True)
            write_sweep(folder, side_px)
            begun = time.perf_counter()
            report, _ = write_sweep_report(folder)
            written = time.perf_counter() - begun
            size = report.stat().st_size / 2**20
            opens = seconds_to_open(report)
            table.add_row(str(side_px), f"{size:.1f}", f"{written:.1f}", f"{opens:.1f}")
            is_fine = is_fine and size < MAX_MIB and opens < MAX_SECONDS
    Console().print(table)
    if not is_fine:
        sys.exit(f"a page is not under {MAX_MIB} MiB, or takes {MAX_SECONDS} s or more to open")


if __name__ == "__main__":
    main()

"""``python -m benchmarks.best_checkpoint FOLDER``: is the chosen checkpoint really the better one?

Runs the default training once a seed (those that lie in FOLDER already are not run again), scores
every checkpoint with noise that the choice never saw, and compares the chosen one with the last. A
difference of a picture is paired: same prompt, same noise. ``--write`` draws the scores of the
first seed by step, with the run's own noise, into ``docs/best_checkpoint.png``, and puts the table
into ``docs/evaluation.md``.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.default_run import followed
from sdlora.evaluation.interval import bootstrap_interval
from sdlora.runtime.files import atomic_path, write_text

ROOT = Path(__file__).resolve().parents[1]
EVERY = 75
OPENING, CLOSING = "<!-- best:begin -->", "<!-- best:end -->"
HEADERS = ("seed", "chosen", "face distance", "last", "chosen - last", "95 % interval")


def main() -> None:
    """Run what is missing, print the table, and write if asked."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.best_checkpoint", description=__doc__
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="write the picture and the table")
    options = parser.parse_args()
    rows = []
    for seed in track(range(options.seeds), "seeds"):
        run = options.folder / f"seed_{seed}"
        train(run, seed)
        score(run, "fresh", "sampling.seeds=[1000]")
        rows.append(compared(run, seed))
    table = Table(*HEADERS, title="Chosen against last checkpoint, on noise that chose neither")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    if options.write:
        first = options.folder / "seed_0"
        score(first, "own")
        draw(first, ROOT / "docs" / "best_checkpoint.png")
        write_table(rows, ROOT / "docs" / "evaluation.md")


def train(run: Path, seed: int) -> None:
    """The default run, with a checkpoint wherever it scores."""
    if not (run / "report.json").is_file():
        every = f"checkpoint.every_n_steps={EVERY}"
        call("train.py", f"seed={seed}", f"run_dir={run}", every, "logger.names=[]")


def score(run: Path, name: str, *overrides: str) -> None:
    """All its checkpoints, on the same prompts."""
    if not (run / name / "report.json").is_file():
        call("evaluate.py", f"run={run}", "checkpoint=all", f"run_dir={run / name}", *overrides)


def call(script: str, *arguments: str) -> None:
    subprocess.run([sys.executable, script, *arguments], cwd=ROOT, check=True)


def report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text("utf-8"))
    return found


def chosen_step(run: Path) -> int:
    return int(json.loads((run / "lora" / "scores.json").read_text("utf-8"))["step"])


def compared(run: Path, seed: int) -> tuple[str, ...]:
    """Face distances of the chosen and the last checkpoint, and their difference."""
    scores = report(run / "fresh")["scores"]
    steps = [name for name in scores if name.startswith("step ")]
    chosen, last = (
        np.array(scores[name]["per_picture"]["face_distance"])
        for name in (f"step {chosen_step(run)}", steps[-1])
    )
    low, high = bootstrap_interval((chosen - last).tolist())
    return (
        str(seed),
        f"step {chosen_step(run)}",
        f"{chosen.mean():.3f}",
        f"{last.mean():.3f}",
        f"{(chosen - last).mean():+.3f}",
        f"{low:+.3f} to {high:+.3f}",
    )


def draw(run: Path, path: Path) -> None:
    """Face distance, CLIP score and followed attributes by step, with intervals."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    found = report(run / "own")
    scores = found["scores"]
    names = [name for name in scores if name != "real pictures"]
    steps = [0 if name == "base" else int(name.split()[1]) for name in names]
    shares = [attributes(run / "own" / found["pictures"][name], scores[name]) for name in names]
    figure, axes = pyplot.subplots(1, 3, figsize=(11, 3.2), constrained_layout=True)
    titles = ("Face distance ↓", "CLIP score ↑", "Named attributes shown, % ↑")
    for axis, key, title in zip(axes, ("face_distance", "clip_score", None), titles, strict=True):
        if key is None:
            axis.plot(steps, [100 * share for share in shares], "o-")
            axis.set_ylim(80, 101)
        else:
            axis.plot(steps, [scores[name]["values"][key] for name in names], "o-")
            ends = [scores[name]["intervals"][key] for name in names]
            axis.fill_between(steps, *zip(*ends, strict=True), alpha=0.2)
            real = found["real_pictures"]["values"][key]
            axis.axhline(real, color="grey", linestyle=":", label="real pictures")
            axis.legend(loc="best", frameon=False)
        axis.axvline(chosen_step(run), color="tab:green", linestyle="--")
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step")
        axis.set_xticks(steps)
    figure.suptitle(f"Default run: step {chosen_step(run)} is chosen (dashed)", fontsize=11)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)


def attributes(folder: Path, scores: dict[str, Any]) -> float:
    return followed(folder, scores["per_picture"]["prompt"])["overall"]


def write_table(rows: list[tuple[str, ...]], page: Path) -> None:
    """Put the table between its marks."""
    lines = [f"| {' | '.join(HEADERS)} |", "|---" * len(HEADERS) + "|"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    before, _, rest = page.read_text("utf-8").partition(OPENING)
    after = rest.partition(CLOSING)[2]
    write_text(page, before + "\n".join([OPENING, *lines, CLOSING]) + after)


if __name__ == "__main__":
    main()

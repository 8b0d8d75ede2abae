"""Time of a training step with and without cached latents, by running ``train.py``; one table."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

REPOSITORY = Path(__file__).resolve().parent.parent
VARIANTS = {"with cache": "data.cache=disk", "without cache": "data.cache=off"}


def main() -> None:
    """Measure each variant and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--steps", type=int, default=60, help="timed optimizer steps")
    arguments, overrides = parser.parse_known_args()
    table = Table(title=f"{arguments.steps} optimizer steps, {os.cpu_count()} CPU cores")
    for heading in ("", "ms a step", "pictures a second", "peak memory, MiB"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, override in VARIANTS.items():
        step_ms, pictures_per_s, memory_mib = measure(arguments.steps, [override, *overrides])
        table.add_row(name, f"{step_ms:.0f}", f"{pictures_per_s:.1f}", f"{memory_mib:.0f}")
    Console().print(table)


def measure(num_steps: int, overrides: list[str]) -> tuple[float, float, float]:
    """Run ``train.py`` for twice as many steps and read the second half's numbers.

    Args:
        num_steps: Optimizer steps that are timed.
        overrides: Further arguments of ``train.py``.

    Returns:
        Milliseconds a step, pictures a second, largest memory so far in MiB.
    """
    with tempfile.TemporaryDirectory() as folder:
        few_pictures = [
            "evaluation=none",
            "sampling.num_prompts=1",
            "sampling.num_steps=1",
            "sampling.every_n_steps=0",
            "checkpoint.every_n_steps=0",
        ]
        command = [
            sys.executable,
            str(REPOSITORY / "train.py"),
            f"trainer.max_steps={2 * num_steps}",
            f"trainer.log_every_n_steps={num_steps}",
            f"hydra.run.dir={folder}",
            *few_pictures,
            *overrides,
        ]
        subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
        lines = (Path(folder) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        trained = [entry for entry in map(json.loads, lines) if "train/images_per_s" in entry][-1]
        config = OmegaConf.load(Path(folder) / ".hydra" / "config.yaml")
    pictures = config.data.batch_size * config.trainer.accumulate_grad_batches
    rate = trained["train/images_per_s"]
    return 1000 * pictures / rate, rate, trained["train/peak_memory_mib"]


if __name__ == "__main__":
    main()

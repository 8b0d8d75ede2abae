"""Seconds from the command: to the end of ``--help``, and to the first training step.

Commands run as a user's do, one after the other, several times. The first step is seen in
``metrics.jsonl``; then the run is ended. An empty cache means that pictures and captions are
encoded before that step. Further arguments go to ``train.py``.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.results import ROOT, Result, machine, publish, show

HEADERS = ("from the command to", "what is there", "median, s", "min to max, s")
POLL_S = 0.02
UNDRAWN = ["evaluation=none", "sampling.every_n_steps=0", "sampling.num_prompts=1"]


def main() -> None:
    """Time the commands, print the table, and write it if asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.start", description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="into docs/speed.md and results/")
    options, overrides = parser.parse_known_args()
    times: dict[tuple[str, str], list[float]] = {}
    for _ in range(options.repeats):
        times.setdefault(("the end of --help", ""), []).append(help_s())
        with tempfile.TemporaryDirectory() as cache:
            for what in ("empty cache", "cache"):
                key = ("the first step of the default run", what)
                times.setdefault(key, []).append(first_step_s(Path(cache), overrides))
            key = ("the same, one base picture, no scores", "cache")
            times.setdefault(key, []).append(first_step_s(Path(cache), [*UNDRAWN, *overrides]))
    command = f"python -m benchmarks.start --repeats {options.repeats}"
    result = Result(
        name="start",
        command=" ".join([command, *overrides]),
        machine=machine(),
        headers=HEADERS,
        rows=[
            (*key, f"{median(each):.1f}", f"{min(each):.1f} to {max(each):.1f}")
            for key, each in times.items()
        ],
        measured={" / ".join(key): each for key, each in times.items()},
    )
    if options.write:
        publish(result)
    show(result)


def help_s() -> float:
    """Seconds that ``python train.py --help`` takes."""
    began = time.perf_counter()
    command = [sys.executable, "train.py", "--help"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def first_step_s(cache: Path, overrides: list[str]) -> float:
    """Seconds until ``train.py`` has taken its first step; then it is killed.

    Raises:
        RuntimeError: If it ends before that.
    """
    with tempfile.TemporaryDirectory() as folder:
        given = ["trainer.log_every_n_steps=1", f"hydra.run.dir={folder}/run", *overrides]
        metrics = Path(folder) / "run" / "metrics.jsonl"
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "train.py", *given],
            cwd=ROOT,
            env={**os.environ, "SDLORA_CACHE": str(cache)},
            stdout=subprocess.DEVNULL,
        )
        try:
            while not (metrics.is_file() and "train/loss" in metrics.read_text("utf-8")):
                if process.poll() is not None:
                    raise RuntimeError(f"train.py ended with code {process.returncode}")
                time.sleep(POLL_S)
            return time.perf_counter() - began
        finally:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()

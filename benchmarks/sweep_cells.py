"""``python -m benchmarks.sweep_cells``: many short cells in one process; does anything grow?

Memory and open files of the sweep's process at the end of each cell, the most of each quarter of
them, and its processor time against that of the same runs in a process each. Further arguments go
to ``train.py``.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from sdlora.sweep.state import DONE, read_state

REPOSITORY = Path(__file__).resolve().parent.parent
SHORT = [
    "trainer.max_steps=3",
    "sampling.num_steps=2",
    "sampling.num_prompts=2",
    "sampling.every_n_steps=0",
]
POLL_S = 0.1


def main() -> None:
    """Run the sweep, then some of its runs alone, and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep_cells", description=__doc__)
    parser.add_argument("--cells", type=int, default=100, help="runs of the sweep")
    parser.add_argument("--alone", type=int, default=3, help="runs in a process of their own")
    options, overrides = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as scratch:
        cells, sweep_s = run_sweep(Path(scratch) / "sweep", options.cells, overrides)
        alone_s = [
            run_alone([*SHORT, *overrides, f"seed={seed}", f"hydra.run.dir={scratch}/{seed}"])
            for seed in range(options.alone)
        ]
    table = Table(title=f"{options.cells} cells in one process, {os.cpu_count()} CPU cores")
    for heading in ("cells", "largest memory, MiB", "most open files"):
        table.add_column(heading, justify="right")
    for quarter in range(4):
        first, end = (options.cells * part // 4 for part in (quarter, quarter + 1))
        memory, files = map(max, zip(*cells[first:end], strict=True))
        table.add_row(f"{first + 1} to {end}", f"{memory:.0f}", str(files))
    console = Console()
    console.print(table)
    a_cell, a_run = sweep_s / options.cells, sum(alone_s) / len(alone_s)
    times = f"{a_cell:.1f} s a cell, {a_run:.1f} s a run of its own"
    console.print(f"processor time: {times}: {a_cell / a_run:.0%}")


def run_sweep(
    folder: Path, num_cells: int, overrides: list[str]
) -> tuple[list[tuple[float, int]], float]:
    """Memory in MiB and open files after each cell, and the processor seconds of all."""
    seeds = ",".join(map(str, range(num_cells)))
    swept = ["-m", f"seed={seeds}", f"sweep.max_jobs={num_cells}", f"hydra.sweep.dir={folder}"]
    process = psutil.Popen(
        [sys.executable, "train.py", *SHORT, *overrides, *swept],
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
    )
    found: list[tuple[float, int]] = []
    used = 0.0
    while process.poll() is None:
        try:
            state = read_state(folder / f"seed={len(found)}")
            if state is not None and state.state == DONE:
                found.append((process.memory_info().rss / 2**20, process.num_fds()))
            used = sum(process.cpu_times()[:2])
        except psutil.Error:
            break
        time.sleep(POLL_S)
    if process.wait() != 0 or len(found) < num_cells:
        raise SystemExit(f"{len(found)} of {num_cells} cells were seen to end")
    return found, used


def run_alone(arguments: list[str]) -> float:
    """Processor seconds of one run in a process of its own."""
    before = os.times()
    command = [sys.executable, "train.py", *arguments]
    subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    return (after.children_user + after.children_system) - (
        before.children_user + before.children_system
    )


if __name__ == "__main__":
    main()

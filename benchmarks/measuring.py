"""One case measured: its loops started, taking turns, their windows gathered."""

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import torch

from benchmarks.cases import NUM_PICTURES, Case
from benchmarks.comparisons import library_example, tutorial
from benchmarks.data import write_folder
from benchmarks.full_size import write_base
from benchmarks.steps import floor, ours
from benchmarks.table import Ceiling, Measured
from benchmarks.windows import FLOPS, SYNCS, Loop, Order, RowError, Runner, Window
from sdlora.assembly.device import DTYPES
from sdlora.commands.train.duration import matmul_flop_per_s

LOOPS: dict[str, tuple[Loop, list[str]]] = {
    "floor": (floor, []),
    "ours": (ours, []),
    "ours, uncached": (ours, ["data.cache=off"]),
    "tutorial": (tutorial, []),
    "library example": (library_example, []),
}
"""Row -> its loop, and what it has other than the case's settings."""

FIRST = Order(num_steps=1)
"""A window that does not count: memory is taken, kernels are chosen, pages are read."""

WATCHED_STEPS = 3
"""Steps of the windows that count host waits and arithmetic, whose time is not taken."""

MATMUL_SIDE = {"cuda": 8192, "cpu": 1024}
"""Large enough for the device's full rate."""

MATMUL_TIMES = 20


class Turns:
    """Loops by row, each asked in turn; one that failed is not asked again.

    Attributes:
        failed: Row -> why.
    """

    def __init__(self) -> None:
        self._runners: dict[str, Runner] = {}
        self.failed: dict[str, str] = {}

    def add(self, row: str, runner: Runner) -> None:
        """A loop more; it is ready when this returns, so that no two fill the cache at once."""
        self._runners[row] = runner
        self.take(FIRST, [row])

    def take(self, order: Order, rows: Iterable[str] | None = None) -> dict[str, Window]:
        """One window of each row, or of those named."""
        found = {}
        for row in self._runners if rows is None else rows:
            if row not in self.failed:
                try:
                    found[row] = self._runners[row].run(order)
                except RowError as error:
                    self.failed[row] = str(error)
        return found


def measure(
    case: Case, num_windows: int, num_steps: int, scratch: Path, bases: Path
) -> tuple[dict[str, Measured | str], Ceiling | None]:
    """Every row of a case, and what its arithmetic could come to.

    Args:
        case: Its device is there.
        num_windows: Turns of each row.
        num_steps: Timed steps of a window.
        scratch: A folder for pictures and runs, to be made.
        bases: Where bases with random weights lie, or are written.

    Returns:
        By row, what was measured or why it failed; and the ceiling, if the floor did not fail.
    """
    overrides = [*case.overrides, *_inputs(case, scratch, bases)]
    turns = Turns()
    with ExitStack() as stack:
        for number, row in enumerate(case.rows):
            loop, other = LOOPS[row]
            arguments = ([*overrides, *other], scratch / f"run_{number}")
            turns.add(row, stack.enter_context(Runner(loop, arguments, case.device)))
        timed = [turns.take(Order(num_steps)) for _ in range(num_windows)]
        waits = turns.take(Order(WATCHED_STEPS, SYNCS))
        flops = turns.take(Order(1, FLOPS), ["floor"])
    rows: dict[str, Measured | str] = dict(turns.failed)
    for row in case.rows:
        if row not in turns.failed:
            windows = [turn[row] for turn in timed]
            peak_mib = max(window.peak_memory_mib for window in windows)
            rows[row] = Measured([w.step_s for w in windows], peak_mib, waits[row].count)
    ceiling = None
    if "floor" in flops:
        device, dtype = torch.device(case.device), DTYPES[case.precision]
        rate = matmul_flop_per_s(device, dtype, MATMUL_SIDE[case.device], MATMUL_TIMES)
        ceiling = Ceiling(flops["floor"].count, rate)
    return {row: rows[row] for row in case.rows}, ceiling


def _inputs(case: Case, scratch: Path, bases: Path) -> list[str]:
    """The pictures, and the base where the project has none; as overrides."""
    pictures = scratch / "pictures"
    write_folder(pictures, NUM_PICTURES, case.side_px)
    given = [f"data.root={pictures}"]
    if case.model != "tiny":
        given.append(f"model.path={write_base(bases / case.model, case.model)}")
    return given

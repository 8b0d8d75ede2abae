"""One case measured: its loops started, taking turns, their windows gathered."""

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter

import torch

from benchmarks.cases import NUM_PICTURES, Case
from benchmarks.comparisons import library_example, tutorial
from benchmarks.data import write_folder
from benchmarks.full_size import write_base
from benchmarks.steps import floor, ours
from benchmarks.table import Ceiling, Measured
from benchmarks.windows import FLOPS, SYNCS, Loop, Order, RowError, Runner, Window, wait_for
from sdlora.build.parts import DTYPES

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
    seen: dict[str, list[Window]] = {}
    failed: dict[str, str] = {}
    with ExitStack() as stack:
        runners: dict[str, Runner] = {}

        def turn(order: Order, names: Iterable[str] = case.rows) -> dict[str, Window]:
            found = {}
            for name in names:
                if name not in failed:
                    try:
                        found[name] = runners[name].run(order)
                    except RowError as error:
                        failed[name] = str(error)
            return found

        for name in case.rows:
            loop, other = LOOPS[name]
            arguments = ([*overrides, *other], scratch / name)
            runners[name] = stack.enter_context(Runner(loop, arguments, case.device))
            turn(FIRST, [name])  # one after the other: the cache that the first fills, others read
        for _ in range(num_windows):
            for name, window in turn(Order(num_steps)).items():
                seen.setdefault(name, []).append(window)
        waits = turn(Order(WATCHED_STEPS, SYNCS))
        flops = turn(Order(1, FLOPS))
    rows: dict[str, Measured | str] = {}
    for name in case.rows:
        if name in failed:
            rows[name] = failed[name]
            continue
        peak_mib = max(window.peak_memory_mib for window in seen[name])
        step_s = [window.step_s for window in seen[name]]
        rows[name] = Measured(step_s, peak_mib, waits[name].count)
    ceiling = None
    if "floor" in flops:
        ceiling = Ceiling(flops["floor"].count, matmul_flop_per_s(case.device, case.precision))
    return rows, ceiling


def _inputs(case: Case, scratch: Path, bases: Path) -> list[str]:
    """The pictures, and the base where the project has none; as overrides."""
    pictures = scratch / "pictures"
    write_folder(pictures, NUM_PICTURES, case.side_px)
    given = [f"data.root={pictures}"]
    if case.model != "tiny":
        given.append(f"model.path={write_base(bases / case.model, case.model)}")
    return given


def matmul_flop_per_s(device: str, precision: str) -> float:
    """The best rate of a large product of two random square matrices."""
    side = MATMUL_SIDE[device]
    left, right = (torch.randn(side, side, device=device, dtype=DTYPES[precision]) for _ in "ab")
    best_s = float("inf")
    for _ in range(MATMUL_TIMES):
        wait_for(torch.device(device))
        began = perf_counter()
        _ = left @ right
        wait_for(torch.device(device))
        best_s = min(best_s, perf_counter() - began)
    return 2 * side**3 / best_s

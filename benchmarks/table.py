"""The numbers of a case's rows -> the cells of the table: medians, spread, ratios."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

HEADERS = (
    "case",
    "row",
    "ms a step",
    "min to max",
    "pictures/s",
    "/ floor",
    "/ ours",
    "peak MiB",
    "host waits a step",
    "of matmul rate",
)
NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Measured:
    """One row of one case.

    Attributes:
        step_s: Seconds a step, of each window.
        peak_memory_mib: Largest of all windows.
        host_waits: Of a step.
    """

    step_s: Sequence[float]
    peak_memory_mib: float
    host_waits: float


@dataclass(frozen=True, slots=True)
class Ceiling:
    """What the case's arithmetic is, and how fast the device does such arithmetic at best.

    Attributes:
        flop: Floating-point operations of the floor's step.
        matmul_flop_per_s: Of a large matrix product in the same dtype.
    """

    flop: float
    matmul_flop_per_s: float


def cells(
    case: str,
    batch_size: int,
    rows: Mapping[str, Measured | str],
    ceiling: Ceiling | None = None,
) -> list[tuple[str, ...]]:
    """The table's lines of one case.

    Args:
        case: Its name.
        batch_size: Pictures a step.
        rows: What was measured of each row, or why nothing was.
        ceiling: ``None``: unknown.
    """
    medians = {name: median(row.step_s) for name, row in rows.items() if isinstance(row, Measured)}
    lines = []
    for name, row in rows.items():
        if isinstance(row, str):
            lines.append((case, name, row, *("",) * (len(HEADERS) - 3)))
            continue
        step_s, share = medians[name], ""
        if ceiling is not None:
            share = f"{ceiling.flop / step_s / ceiling.matmul_flop_per_s:.0%}"
        lines.append(
            (
                case,
                name,
                f"{1e3 * step_s:.1f}",
                f"{1e3 * min(row.step_s):.1f} to {1e3 * max(row.step_s):.1f}",
                f"{batch_size / step_s:.1f}",
                _ratio(step_s, medians.get("floor")),
                _ratio(step_s, medians.get("ours")),
                f"{row.peak_memory_mib:.0f}",
                f"{row.host_waits:.1f}",
                share,
            )
        )
    return lines


def _ratio(step_s: float, reference_s: float | None) -> str:
    return "" if reference_s is None else f"{step_s / reference_s:.2f}"

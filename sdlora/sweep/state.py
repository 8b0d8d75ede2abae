"""State of the cells of a sweep: ``cell.json`` in each folder, and a summary line."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sdlora.config.score_kinds import kind
from sdlora.evaluation.selection import Rule
from sdlora.runs.best import read_best
from sdlora.runs.report import read_scores
from sdlora.runtime.files import write_json

FILE_NAME = "cell.json"
RUNNING, DONE, FAILED = "running", "done", "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class CellState:
    """Content of ``cell.json``.

    Attributes:
        state: ``running`` (or killed, if no process holds the folder), ``done`` or ``failed``.
        reason: Why it failed.
        started: First start time, ISO 8601.
        seconds: Duration so far in seconds, without the time of killed processes.
        peak_memory_mib: Peak memory in MiB; None if an earlier cell of the same process had a
            higher peak, which hides this one's.
        trainable_parameters: Number of trained parameters.
        file_bytes: Size of its LoRA file.
    """

    state: str
    started: str
    reason: str | None = None
    seconds: float = 0.0
    peak_memory_mib: float | None = None
    trainable_parameters: int | None = None
    file_bytes: int | None = None


def read_state(folder: Path) -> CellState | None:
    """State of a cell; ``None`` if it has not begun or the file is damaged."""
    try:
        return CellState(**json.loads((folder / FILE_NAME).read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def write_state(folder: Path, state: CellState) -> None:
    """Write ``cell.json``."""
    write_json(folder / FILE_NAME, asdict(state))


@dataclass(frozen=True, slots=True)
class Standing:
    """Progress of a sweep.

    Attributes:
        total: Final number of cells.
        done: Finished cells.
        running: Cells that run, or were killed.
        failed: Failed cells.
        seconds_left: Estimate from the mean time of the finished cells; ``None`` before the first.
        best: Folder name and score of the best finished cell.
        is_better: Whether that is better than the base's score; True if the base's is not known.
    """

    total: int
    done: int
    running: int
    failed: int
    seconds_left: float | None
    best: tuple[str, float] | None
    is_better: bool = True

    def line(self, score: str) -> str:
        """Summary line; ``score`` is the name of the rule's score."""
        parts = [f"{self.done} of {self.total} cells done"]
        parts += [f"{self.running} running"] * (self.running > 0)
        parts += [f"{self.failed} failed"] * (self.failed > 0)
        if self.seconds_left:
            parts.append(f"about {math.ceil(self.seconds_left / 60)} min left")
        if self.best is not None:
            name, value = self.best
            parts.append(
                f"best so far: {name} ({score} {value:.4g})"
                if self.is_better
                else f"none better than the base so far (the best: {name}, {score} {value:.4g})"
            )
        return ", ".join(parts)


def standing(folders: Sequence[Path], rule: Rule, total: int) -> Standing:
    """Read the state of all cells.

    Args:
        folders: The known run folders.
        rule: Rule of the best checkpoint.
        total: Final number of cells.
    """
    states = {folder: read_state(folder) for folder in folders}
    finished = {f: state for f, state in states.items() if state and state.state == DONE}
    running = sum(state is not None and state.state == RUNNING for state in states.values())
    failed = sum(state is not None and state.state == FAILED for state in states.values())
    seconds = [state.seconds for state in finished.values()]
    left = total - len(finished) - failed
    best = _best(list(finished), rule)
    return Standing(
        total=total,
        done=len(finished),
        running=running,
        failed=failed,
        seconds_left=left * sum(seconds) / len(seconds) if seconds else None,
        best=None if best is None else (best[0].name, best[1]),
        is_better=best is None or _is_better(best, rule),
    )


def _best(folders: Sequence[Path], rule: Rule) -> tuple[Path, float] | None:
    """The best cell; every run's best step meets the rule's condition, so only its cost counts."""
    costs: list[tuple[float, Path, Any]] = []
    for folder in folders:
        best = read_best(folder)
        cost = None if best is None else rule.cost(best.scores, best.scores)
        if best is not None and cost is not None:
            costs.append((cost, folder, best.scores.value(rule.score)))
    if not costs:
        return None
    _, folder, value = min(costs)
    return folder, value


def _is_better(best: tuple[Path, float], rule: Rule) -> bool:
    folder, value = best
    try:
        base = read_scores(folder)["base"].value(rule.score)
    except (OSError, KeyError, TypeError, ValueError):
        return True
    return base is None or kind(rule.score).sign * (value - base) < 0

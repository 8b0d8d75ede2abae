"""The state of a run as its page shows it: running, stopped, failed or finished."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sdlora.runs.partial_files import is_number
from sdlora.runs.run_config import started_at

RUNNING, STOPPED, FAILED, FINISHED = "running", "stopped", "failed", "finished"

QUIET_S = 300.0
"""Seconds without a new page after which a page that says ``running`` doubts it, at least."""


@dataclass(frozen=True, slots=True)
class RunState:
    """What a run says of itself when its page is written.

    Attributes:
        name: ``running``, ``stopped``, ``failed`` or ``finished``.
        left_s: Estimated seconds until its end; ``None``: unknown.
        quiet_s: Seconds after which silence means that it draws for long, or was killed.
        go_on: The command that continues it.
        reason: Why it stopped, in words.
    """

    name: str
    left_s: float | None = None
    quiet_s: float = QUIET_S
    go_on: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Progressed:
    """How far a run is, as texts of its page.

    Attributes:
        state: See :class:`RunState`.
        step: Number of its steps so far.
        max_steps: Number of all; ``None``: unknown.
        loss: Mean of the newest training losses, as text; empty: none.
        left: Time left, as text; empty: unknown.
        began: When it first started, in local time; empty: unknown.
        took: How long it has been since; empty: unknown.
        written: When the page was written, in seconds since 1970.
        written_text: The same in local time.
    """

    state: RunState
    step: int
    max_steps: int | None
    loss: str
    left: str
    began: str
    took: str
    written: float
    written_text: str

    @property
    def share(self) -> float:
        """Share of the steps that is done, at most 1."""
        return min(1.0, self.step / self.max_steps) if self.max_steps else 0.0


def progressed(
    run: Path, state: RunState, lines: Sequence[Mapping[str, Any]], max_steps: Any
) -> Progressed:
    """How far a run is.

    Args:
        run: Its folder.
        state: What it says of itself.
        lines: Lines of its metrics, with ``step``.
        max_steps: ``trainer.max_steps`` of its config.
    """
    began, now = started_at(run), time.time()
    losses = [line["train/loss"] for line in lines if is_number(line.get("train/loss"))][-5:]
    return Progressed(
        state=state,
        step=max((line["step"] for line in lines), default=0),
        max_steps=max_steps if isinstance(max_steps, int) else None,
        loss=f"{sum(losses) / len(losses):.4f}" if losses else "",
        left="" if state.left_s is None else time_text(state.left_s),
        began="" if began is None else date_text(began),
        took=time_text(now - began) if began is not None and began <= now else "",
        written=now,
        written_text=date_text(now),
    )


def date_text(seconds: float) -> str:
    """Local date and time."""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M")


def time_text(seconds: float) -> str:
    """A duration in hours, minutes and seconds."""
    return str(timedelta(seconds=round(seconds)))

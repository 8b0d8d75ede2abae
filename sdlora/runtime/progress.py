"""The live progress display of caching, training, sampling and scoring."""

import os
import re
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Self, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress import Progress as RichProgress
from rich.table import Column
from rich.text import Text

from sdlora.runtime.log_file import write_to_log
from sdlora.runtime.program import message_of

Item = TypeVar("Item")

LINE_EVERY_S = 30.0
"""Seconds between the lines of a bar in a log, and before its first."""

STEPS_A_LINE = 50
"""Training steps between the lines of a log, where they come sooner."""

NOTEBOOK_EVERY_S = 1.0
"""Seconds between two states of the one line of a notebook."""

TERMINAL, NOTEBOOK, LOG = "terminal", "notebook", "log"

_NOTEBOOKS = ("JPY_PARENT_PID", "JPY_SESSION_NAME", "COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE")
"""Environment variables of notebooks, also in commands of a cell, whose output they show."""

_COMMAND = re.compile(r"(?<=[:;] )(?:sdlora|pip|python|pipe\.\w+|DiffusionPipeline)\b.*$")
_REST_OF_BAR = 70
"""Letters of the training bar's line without the bar."""


def shown_on(console: Console) -> str:
    """Where the console is seen: on a terminal, in a notebook, or as a log."""
    if console.is_jupyter or any(os.environ.get(name) for name in _NOTEBOOKS):
        return NOTEBOOK
    return TERMINAL if console.is_terminal else LOG


def wrapped(message: str, width: int) -> str:
    """A text with lines that fit, broken between words; commands stay whole, to be copied."""
    lines = []
    for line in message.split("\n"):
        command = _COMMAND.search(line) if len(line) > width else None
        text = line[: command.start()].rstrip() if command else line
        indent = " " * (len(line) - len(line.lstrip()))
        lines += textwrap.wrap(
            text,
            width,
            subsequent_indent=f"{indent}  ",
            break_long_words=False,
            break_on_hyphens=False,
        ) or [""]
        lines += [f"{indent}  {command[0]}"] if command else []
    return "\n".join(lines)


class _TimeLeft(ProgressColumn):
    """Time left at the mean rate since the bar began, with all that came between."""

    def render(self, task: Task) -> Text:
        """The text of a bar."""
        left = _left_s(task)
        return Text("" if left is None else f"{timedelta(seconds=round(left))} left")


@dataclass(slots=True)
class _Line:
    """When a bar last was a line, and after how many items it is one again."""

    at_s: float
    at_count: int
    steps: int | None


class Progress:
    """Progress bars that share one display, and lines above them.

    Where the console is no terminal, such as in a log file or under Slurm, a bar is a plain line
    every 30 s or 50 training steps; in a notebook it is one line that is written over. What is
    said, a log's lines included, stands in the log file of the program as well.

    Attributes:
        failing: What failed beside the training the last time that it was tried, with the reason.

    Args:
        enabled: Whether bars are drawn; the console stays usable either way.
        quiet: Whether nothing at all is shown, as in all processes of a run except the first.
        clock: Gives the time in seconds.
        console: Where it is shown; ``None``: standard output.
    """

    def __init__(
        self,
        enabled: bool = True,
        quiet: bool = False,
        clock: Callable[[], float] = time.monotonic,
        console: Console | None = None,
    ) -> None:
        self.console = console or Console(quiet=quiet)
        self.failing: dict[str, str] = {}
        self._said: set[tuple[str, str]] = set()
        self._clock = clock
        self._lined: dict[TaskID, _Line] = {}
        self._noted_s = 0.0
        self._over = 0  # letters of the notebook's line that are to be written over
        self._is_quiet, self._has_bars = quiet, enabled and not quiet
        self._shown_on = shown_on(self.console)
        self._bars = RichProgress(
            *_columns(self.console.width),
            console=self.console,
            disable=not self._has_bars or self._shown_on != TERMINAL,
        )

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def add(
        self, description: str, total: int | None, completed: int = 0, steps: int | None = None
    ) -> TaskID:
        """Start a bar of ``total`` items, ``None`` if unknown.

        Args:
            description: Its name.
            total: Number of items.
            completed: Number of those that are done.
            steps: Items after which a log has a line, also before 30 s are over.
        """
        bar = self._bars.add_task(
            description, total=total, completed=completed, note="", began=completed
        )
        self._lined[bar] = _Line(self._clock(), completed, steps)
        return bar

    def update(self, bar: TaskID, completed: int, note: str = "") -> None:
        """Set a bar to ``completed`` and show ``note`` behind it."""
        self._bars.update(bar, completed=completed, note=note)
        if not self._has_bars:
            return
        now, line = self._clock(), self._lined[bar]
        if self._shown_on == NOTEBOOK and now - self._noted_s >= NOTEBOOK_EVERY_S:
            self._noted_s = now
            self._write_over(_line(self._task(bar)))
        is_many = line.steps is not None and completed - line.at_count >= line.steps
        if now - line.at_s < LINE_EVERY_S and not is_many:
            return
        line.at_s, line.at_count = now, completed
        if self._shown_on == LOG:
            self.print(_line(self._task(bar)))
        else:
            write_to_log(_line(self._task(bar)))

    def remove(self, bar: TaskID) -> None:
        """Remove a bar from the display."""
        self._bars.remove_task(bar)
        del self._lined[bar]
        self._write_over("")

    def print(self, message: object) -> None:
        """Print above the bars; text is shown as it is, brackets are no markup.

        On a terminal long lines are broken between words.
        """
        self._write_over("")
        shown = message
        if isinstance(message, str) and self._shown_on == TERMINAL:
            shown = wrapped(message, self.console.width)
        self.console.print(shown, markup=False, highlight=False, soft_wrap=True)
        if not self._is_quiet:
            write_to_log(message)

    def _task(self, bar: TaskID) -> Task:
        return next(task for task in self._bars.tasks if task.id == bar)

    def _write_over(self, text: str) -> None:
        """Replace the one line of a notebook, which knows a return to its beginning."""
        if self._shown_on != NOTEBOOK or not (text or self._over):
            return
        self.console.file.write(f"\r{text:<{self._over}}" + "\r" * (not text))
        self.console.file.flush()
        self._over = len(text)

    def track(
        self, items: Iterable[Item], description: str, total: int | None = None
    ) -> Iterator[Item]:
        """Yield ``items`` while a bar counts them; the bar is removed at the end."""
        if total is None and isinstance(items, Sized):
            total = len(items)
        bar = self.add(description, total)
        try:
            for count, item in enumerate(items, start=1):
                yield item
                self.update(bar, count)
        finally:
            self.remove(bar)

    @contextmanager
    def working(self, description: str) -> Iterator[None]:
        """Show a bar of unknown length while the block runs."""
        bar = self.add(description, None)
        try:
            yield
        finally:
            self.remove(bar)

    @contextmanager
    def tolerating(self, what: str) -> Iterator[None]:
        """Go on after an error in the block, since training does not depend on it.

        The same reason is said once.

        Args:
            what: What the block does, for the message, such as a file's name.
        """
        try:
            yield
        except Exception as error:
            reason = message_of(error)
            if (what, reason) not in self._said:
                self.print(f"warning: {what}: {reason}; the run goes on without it")
            self._said.add((what, reason))
            self.failing[what] = reason
        else:
            self.failing.pop(what, None)

    def tasks(self) -> list[Task]:
        """The bars on display, for tests."""
        return list(self._bars.tasks)


def _columns(width: int) -> list[ProgressColumn]:
    """The columns of a bar, which fit into this width."""
    whole = Column(no_wrap=True)
    return [
        TextColumn("{task.description}", table_column=whole),
        BarColumn(max(4, min(40, width - _REST_OF_BAR))),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        _TimeLeft(table_column=whole),
        TextColumn("{task.fields[note]}", table_column=Column(no_wrap=True, overflow="ellipsis")),
    ]


def _left_s(task: Task) -> float | None:
    """Seconds left at the mean rate since the bar began; ``None``: unknown."""
    done = task.completed - task.fields["began"]
    if task.total is None or task.elapsed is None or done < min(3, task.total):
        return None
    return task.elapsed / done * (task.total - task.completed)


def _line(task: Task) -> str:
    """A bar as a line: ``Training: 120/300, loss 0.0123, 0:01:40 gone, 0:02:30 left``."""
    total = "" if task.total is None else f"/{task.total:g}"
    parts = [f"{task.description}: {task.completed:g}{total}", task.fields["note"]]
    times = {"gone": task.elapsed, "left": _left_s(task)}
    parts += [
        f"{timedelta(seconds=round(seconds))} {what}"
        for what, seconds in times.items()
        if seconds is not None
    ]
    return ", ".join(part for part in parts if part)

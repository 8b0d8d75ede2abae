"""The live progress display of caching, training, sampling and scoring."""

import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
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
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress

from sdlora.runtime.log_file import write_to_log
from sdlora.runtime.program import message_of

Item = TypeVar("Item")

LINE_EVERY_S = 30.0
"""Seconds between the lines of a bar in a log, and before its first."""


class Progress:
    """Progress bars that share one display, and lines above them.

    Where the console is no terminal, such as in a log file or under Slurm, a bar is a plain line
    every 30 s. What is said, these lines included, stands in the log file of the program as well.

    Attributes:
        failing: What failed beside the training the last time that it was tried, with the reason.

    Args:
        enabled: Whether bars are drawn; the console stays usable either way.
        quiet: Whether nothing at all is shown, as in all processes of a run except the first.
        clock: Gives the time in seconds.
    """

    def __init__(
        self,
        enabled: bool = True,
        quiet: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        columns: list[ProgressColumn | str] = [
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        ]
        self.console = Console(quiet=quiet)
        self.failing: dict[str, str] = {}
        self._said: set[tuple[str, str]] = set()
        self._clock = clock
        self._lined: dict[TaskID, float] = {}
        self._is_quiet, self._has_bars = quiet, enabled and not quiet
        self._bars = RichProgress(*columns, console=self.console, disable=quiet or not enabled)

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

    def add(self, description: str, total: int | None, completed: int = 0) -> TaskID:
        """Start a bar of ``total`` items, ``None`` if unknown."""
        bar = self._bars.add_task(description, total=total, completed=completed, note="")
        self._lined[bar] = self._clock()
        return bar

    def update(self, bar: TaskID, completed: int, note: str = "") -> None:
        """Set a bar to ``completed`` and show ``note`` behind it."""
        self._bars.update(bar, completed=completed, note=note)
        now = self._clock()
        if self._has_bars and now - self._lined[bar] >= LINE_EVERY_S:
            self._lined[bar] = now
            line = _line(next(task for task in self._bars.tasks if task.id == bar))
            if self.console.is_terminal:
                write_to_log(line)
            else:
                self.print(line)

    def remove(self, bar: TaskID) -> None:
        """Remove a bar from the display."""
        self._bars.remove_task(bar)
        del self._lined[bar]

    def print(self, message: object) -> None:
        """Print above the bars; text is shown as it is, brackets are no markup."""
        self.console.print(message, markup=False, highlight=False, soft_wrap=True)
        if not self._is_quiet:
            write_to_log(message)

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


def _line(task: Task) -> str:
    """A bar as a line: ``Training: 120/300, loss 0.0123, 0:01:40 gone, 0:02:30 left``."""
    total = "" if task.total is None else f"/{task.total:g}"
    parts = [f"{task.description}: {task.completed:g}{total}", task.fields["note"]]
    times = {"gone": task.elapsed, "left": task.time_remaining}
    parts += [
        f"{timedelta(seconds=round(seconds))} {what}"
        for what, seconds in times.items()
        if seconds is not None
    ]
    return ", ".join(part for part in parts if part)

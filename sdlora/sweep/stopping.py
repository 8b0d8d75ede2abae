"""The end by a signal of a sweep whose cells run in processes that it started.

The launcher would kill them. Here each saves its step: the first process tells those that train,
by SIGTERM, and those that come next find a file that tells them not to begin.
"""

import json
import os
import platform
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from sdlora.runs.run_folder import HOLDER
from sdlora.runtime.signals import ended_by_signals, stop_signals

_FIRST = "SDLORA_SWEEPS"
"""Environment variable of the started processes: the number of the first one."""

_HAS_SESSIONS = hasattr(os, "setsid")  # Windows has none of these signals


@contextmanager
def passing_on_signals(sweep: Path) -> Iterator[None]:
    """Let running cells save their step when a signal comes in the block, and end after them.

    A second SIGINT ends all at once.

    Args:
        sweep: Folder of the sweep.

    Raises:
        SystemExit: After the block if a signal came, with 128 plus its number.
    """
    if not _HAS_SESSIONS or threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    mark = _mark(sweep, os.getpid())

    def pass_on(number: int, frame: FrameType | None) -> None:
        if received and number == signal.SIGINT:
            raise SystemExit(128 + number)
        received.append(number)
        mark.touch()  # first: who looks before this has its process number there
        for process in _training(sweep):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGTERM)
        print("stopping after each cell's step; Ctrl-C once more stops at once", file=sys.stderr)

    mark.unlink(missing_ok=True)  # of one that was killed
    os.environ[_FIRST] = str(os.getpid())
    before = {number: signal.signal(number, pass_on) for number in stop_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        del os.environ[_FIRST]
        mark.unlink(missing_ok=True)
    if received:
        raise SystemExit(128 + received[0])


@contextmanager
def told_by_first_process() -> Iterator[None]:
    """In a process that a sweep started: be stopped by its first one alone.

    The terminal sends Ctrl-C to all of them, and a launcher kills the rest when one of them ends or
    raises an error; so signals end the block alone, and between two cells nothing.
    """
    if not _HAS_SESSIONS or os.environ.get(_FIRST) != str(os.getppid()):
        yield
        return
    if os.getsid(0) != os.getpid():
        os.setsid()
    for number in stop_signals():
        signal.signal(number, signal.SIG_IGN)
    try:
        with ended_by_signals():
            yield
    except SystemExit as end:
        if not isinstance(end.code, int) or end.code <= 128:
            raise


def is_stopping(sweep: Path) -> bool:
    """Whether no further cell is to begin."""
    return os.environ.get(_FIRST) is not None and _mark(sweep, os.getppid()).exists()


def _mark(sweep: Path, first: int) -> Path:
    """The file by which a first process says that it ends; others may share the sweep's folder."""
    return sweep / f".stop-{platform.node()}-{first}"


def _training(sweep: Path) -> Iterator[int]:
    """The processes that this one has started and that train a cell now."""
    for file in sweep.glob(f"*/{HOLDER}"):
        with suppress(OSError, ValueError, KeyError, TypeError):
            holder = json.loads(file.read_text("utf-8"))
            own = holder["parent"] == os.getpid() and holder["computer"] == platform.node()
            if own:
                yield int(holder["process"])

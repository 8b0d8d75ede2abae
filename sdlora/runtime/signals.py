"""Signals that end a program: which they are, and an end at once with the shell's exit code."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
_OF_LAUNCHERS = ("SIGUSR1", "SIGUSR2")


def stop_signals() -> list[int]:
    """Numbers of the signals that stop a run on this system.

    One that nohup has made the process ignore is none of them, nor is one of Slurm that a launcher
    such as submitit handles already.
    """
    numbers = []
    for name in _NAMES:
        number = getattr(signal, name, None)
        if number is None:  # Windows
            continue
        handler = signal.getsignal(number)
        is_taken = name in _OF_LAUNCHERS and callable(handler) and handler is not end_now
        if not is_taken and not (name == "SIGHUP" and handler == signal.SIG_IGN):
            numbers.append(number)
    return numbers


def end_now(number: int, frame: FrameType | None) -> NoReturn:
    """End the program with the exit code of the shell; files are whole or not there.

    Raises:
        SystemExit: With 128 plus the signal's number.
    """
    raise SystemExit(128 + number)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """End at once when a signal comes in the block, with clean-up and the shell's exit code."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, end_now) for number in stop_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""Signals that hit ``train.py`` on its way: at a call of a function, or some time after it."""

import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sdlora.commands.train.results
from sdlora.assembly import training_batches
from sdlora.commands.train import preparation
from sdlora.commands.train.live_page import LivePage
from sdlora.evaluation.scoring import Scorer
from sdlora.sampling import generate as sampling
from sdlora.training.callbacks.saving import Checkpoints
from sdlora.training.module import DiffusionModule

PLACES: dict[str, tuple[Any, str]] = {
    "scanning": (preparation, "base_hashes"),
    "caching": (training_batches, "encoded_pictures"),
    "step": (DiffusionModule, "training_step"),
    "saving": (Checkpoints, "save"),
    "drawing": (sampling, "_decode"),
    "scoring": (Scorer, "score"),
    "export": (sdlora.commands.train.results, "export_last"),
    "choice": (sdlora.commands.train.results, "export_chosen"),
    "page": (LivePage, "write_end"),
}


@dataclass(frozen=True, slots=True)
class Hit:
    """A signal and its moment.

    Attributes:
        name: Of the signal, such as ``TERM``.
        place: Where it hits.
        call: At which call of the function there, from 1.
        delay_s: Seconds after that.
        note: File that gets the time of the hit.
        hits_parent: Whether the process that started this one gets it instead.
    """

    name: str
    place: str
    call: int = 1
    delay_s: float = 0.0
    note: Path | None = None
    hits_parent: bool = False

    @property
    def number(self) -> int:
        return int(signal.Signals[f"SIG{self.name}"])

    def prepare(self) -> None:
        """Be ready to send the signal."""
        # tests that were started with nohup, which runs respect, would see no signal
        if self.name != "KILL" and not self.hits_parent:
            signal.signal(self.number, signal.SIG_DFL)
        owner, name = PLACES[self.place]
        real, calls = getattr(owner, name), [0]

        def hit(*given: Any, **named: Any) -> Any:
            calls[0] += 1
            if calls[0] == self.call:
                self._send_later() if self.delay_s else self._send()
            return real(*given, **named)

        setattr(owner, name, hit)

    def _send_later(self) -> None:
        timer = threading.Timer(self.delay_s, self._send)
        timer.daemon = True  # a run that ends before is not hit
        timer.start()

    def _send(self) -> None:
        if self.note is not None:
            self.note.write_text(str(time.monotonic()), "utf-8")
        os.kill(os.getppid() if self.hits_parent else os.getpid(), self.number)

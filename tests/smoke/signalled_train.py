"""``train.py`` that is hit by a signal at a chosen moment: STOP="TERM drawing", "HUP export"."""

import os
import signal
import sys
from typing import Any

import sdlora.commands.train.results
import train
from sdlora.assembly import training_batches
from sdlora.commands.train import preparation
from sdlora.sampling import generate as sampling
from sdlora.training.callbacks.saving import Checkpoints
from sdlora.training.module import DiffusionModule

SIGNAL, MOMENT = os.environ["STOP"].split()
# tests that were started with nohup, which runs respect, would see no signal
signal.signal(signal.Signals[f"SIG{SIGNAL}"], signal.Handlers.SIG_DFL)

PLACES: dict[str, tuple[Any, str, int]] = {
    "scanning": (preparation, "base_hashes", 1),
    "caching": (training_batches, "encoded_pictures", 1),
    "step": (DiffusionModule, "training_step", 1),
    "saving": (Checkpoints, "save", 1),
    "drawing": (sampling, "_decode", 2),  # the base's pictures come first
    "export": (sdlora.commands.train.results, "export_chosen", 1),
    "page": (sdlora.commands.train.results, "write_html_report", 1),
}


def hit_at(owner: Any, name: str, call: int) -> None:
    """Send the signal to this very process at the beginning of a call of a function."""
    real, calls = getattr(owner, name), [0]

    def hit(*given: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] == call:
            os.kill(os.getpid(), signal.Signals[f"SIG{SIGNAL}"])
        return real(*given, **named)

    setattr(owner, name, hit)


if __name__ == "__main__":
    hit_at(*PLACES[MOMENT])
    sys.argv[0] = "train.py"
    train.main()

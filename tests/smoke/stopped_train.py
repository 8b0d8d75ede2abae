"""``train.py`` that is hit by a signal at a chosen point: STOP="KILL ckpt 4", "TERM step 3", ...

- ``ckpt N``: the state of step N is written, under its temporary name;
- ``manifest N``: the state has its name, the manifest has not;
- ``step N``: between the two micro-batches of optimizer step N; ``twice N``: before it, too.

Of a sweep, ``step N 2`` means the second cell that this process trains.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import sdlora.commands.train.fit
import train
from sdlora.training.callbacks.stopping import StopSignals

SIGNAL, PLACE, STEP, *CELL = os.environ["STOP"].split()


def hit() -> None:
    """Send the signal to this very process."""
    os.kill(os.getpid(), signal.Signals[f"SIG{SIGNAL}"])


def replace(source: Any, target: Any, real: Any = os.replace) -> None:
    """``os.replace`` that is hit before the file named by PLACE gets its name."""
    name = {"ckpt": "trainer.ckpt", "manifest": "manifest.json"}.get(PLACE)
    target = Path(target)
    if target.name == name and target.parent.name == f"step_{int(STEP):07d}":
        hit()
    real(source, target)


class InTheMiddle(StopSignals):
    """Is hit at the start of an optimizer step's second micro-batch, or of both."""

    number = 0

    def __init__(self) -> None:
        super().__init__()
        InTheMiddle.number += 1  # one for each run

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        """The optimizer step that is going on is one more than those done."""
        super().on_train_batch_start(trainer, module, batch, batch_idx)
        due = PLACE == "twice" or (PLACE == "step" and batch_idx % 2 == 1)
        due = due and CELL in ([], [str(InTheMiddle.number)])
        if due and trainer.global_step == int(STEP) - 1:
            hit()


if __name__ == "__main__":
    os.replace = replace  # type: ignore[assignment]
    sdlora.commands.train.fit.StopSignals = InTheMiddle  # type: ignore[misc]
    sys.argv[0] = "train.py"
    train.main()

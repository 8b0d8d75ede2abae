"""``train.py`` whose cells of seed 1 and 2 train side by side, and let a signal hit it.

HIT="15 2 FOLDER" is signal 15 in step 2, with a folder for notes.
"""

import os
import signal
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sdlora.commands.train import training_door
from sdlora.training.module import DiffusionModule


@dataclass(frozen=True, slots=True)
class HitCells:
    """A signal to the command while its cells of seed 1 and 2 are both in a step.

    Attributes:
        number: Of the signal.
        step: The optimizer step, from 1.
        folder: For the pipe by which the two meet, and ``hit.txt`` with the time of the hit.
    """

    number: int
    step: int
    folder: Path

    def prepare(self) -> None:
        """Hand this on to the processes of the cells."""
        signal.signal(self.number, signal.SIG_DFL)  # tests in the background ignore SIGINT
        (self.folder / "meeting").unlink(missing_ok=True)
        os.mkfifo(self.folder / "meeting")
        training_door.train_cell = partial(_train_cell, self)  # type: ignore[assignment]

    def meet(self, seed: int) -> None:
        """Wait for the other cell, hit the command, and wait until it has passed the signal on."""
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer)
        with (self.folder / "meeting").open("rb" if seed == 1 else "wb"):
            pass
        if seed == 1:
            (self.folder / "hit.txt").write_text(str(time.monotonic()), "utf-8")
            os.kill(os.getppid(), self.number)
        os.read(reader, 1)
        signal.set_wakeup_fd(-1)


def _train_cell(hit: HitCells, *given: Any) -> None:
    real = DiffusionModule.training_step

    def training_step(module: DiffusionModule, *batch: Any) -> Any:
        if module.global_step == hit.step - 1:
            hit.meet(module.seed)
        return real(module, *batch)

    DiffusionModule.training_step = training_step  # type: ignore[method-assign]
    training_door.train_cell(*given)


if __name__ == "__main__":
    from tests.smoke.hit_cells import HitCells as Importable  # by the cells' processes

    number, step, folder = os.environ["HIT"].split(" ", 2)
    Importable(int(number), int(step), Path(folder)).prepare()
    sys.argv[0] = "train.py"
    training_door.main()

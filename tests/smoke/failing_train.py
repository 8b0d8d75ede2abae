"""``train.py`` on several devices whose training step fails in chosen processes.

Run as a script it is a further process of such a run: its first words are the fault.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdlora.cli import processes
from sdlora.training.module import DiffusionModule


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault in an optimizer step.

    Attributes:
        step: Number of the step, from 1.
        ranks: The processes that fail in it, such as ``(0, 1)``.
        note: File that gets the time of the fault.
    """

    step: int
    ranks: tuple[int, ...]
    note: Path

    def prepare(self) -> None:
        """Be ready to fail, in the processes for further devices too."""
        real_step, real_command = DiffusionModule.training_step, processes.command

        def training_step(module: DiffusionModule, *given: Any) -> Any:
            trainer = module.trainer
            if trainer.global_step == self.step - 1 and trainer.global_rank in self.ranks:
                self.note.write_text(str(time.monotonic()), "utf-8")
                raise RuntimeError(f"the device of process {trainer.global_rank} is lost")
            return real_step(module, *given)

        def command() -> list[str]:
            own = [str(self.step), ",".join(map(str, self.ranks)), str(self.note)]
            words = real_command()
            return [sys.executable, "-m", "tests.smoke.failing_train", *own, *words[4:]]

        DiffusionModule.training_step = training_step  # type: ignore[method-assign]
        processes.command = command


if __name__ == "__main__":
    from sdlora.__main__ import main

    step, ranks, note, *words = sys.argv[1:]
    Fault(int(step), tuple(map(int, ranks.split(","))), Path(note)).prepare()
    sys.argv = ["sdlora", *words]
    main()

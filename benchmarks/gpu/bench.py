"""The bench on which all parts of the GPU script stand: bases, pictures, and the real commands."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks.data import write_folder
from benchmarks.full_size import write_base

NUM_PICTURES = 64
"""In a folder that is trained on."""

SIDES_PX = {"sd15": 512, "sdxl": 1024}
TINY_PX = 64


@dataclass(frozen=True, slots=True)
class Bench:
    """Where the parts work, and on what.

    Attributes:
        folder: Of pictures, bases and runs.
        is_tiny: The embedded base on a CPU in place of the real shapes on a GPU.
    """

    folder: Path
    is_tiny: bool

    @property
    def device(self) -> torch.device:
        """That is trained on."""
        return torch.device("cpu" if self.is_tiny else "cuda")

    def side_px(self, family: str) -> int:
        """Side of the pictures."""
        return TINY_PX if self.is_tiny else SIDES_PX[family]

    def inputs(self, family: str, *, has_two_shapes: bool = False) -> list[str]:
        """Model, pictures and device as overrides; written where they are not there yet.

        Args:
            family: Of the base.
            has_two_shapes: Every second picture is a lying one, for a second bucket.
        """
        side = self.side_px(family)
        pictures = self.folder / f"pictures_{side}{'_two_shapes' * has_two_shapes}"
        if not pictures.is_dir():
            write_folder(pictures, NUM_PICTURES, side)
            for path in sorted(pictures.glob("*.jpg"))[::2] if has_two_shapes else ():
                _make_lying(path)
        given = [
            f"data.root={pictures}",
            f"data.resolution={side}",
            f"trainer.accelerator={'cpu' if self.is_tiny else 'gpu'}",
            "logger=none",
            # of the drawn world, and with the package: nothing is downloaded
            "evaluation=default",
            "sampling.prompts=example:prompts.txt",
        ]
        if self.is_tiny:
            return given
        base = write_base(self.folder / "bases" / family, family)
        return [f"model={family}", f"model.path={base}", *given]

    def train(self, *overrides: str, run: str) -> "Trained":
        """``sdlora train`` in a process of its own, to its end."""
        process, log = self.start(*overrides, run=run)
        return self.ended(process, log, run)

    def train_until_step(self, step: int, *overrides: str, run: str) -> "Trained":
        """``sdlora train``, which gets SIGTERM once this step stands in its metrics."""
        process, log = self.start(*overrides, run=run)
        while process.poll() is None and self.last_step(run) < step:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        return self.ended(process, log, run)

    def start(self, *overrides: str, run: str) -> tuple[subprocess.Popen[bytes], Path]:
        """The process, and the file of what it says."""
        folder = self.folder / "runs" / run
        log = self.folder / f"{run}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        where = (
            [] if any(each.startswith("resume=") for each in overrides) else [f"run_dir={folder}"]
        )
        with log.open("ab") as file:
            command = [sys.executable, "-m", "sdlora", "train", *overrides, *where]
            process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        return process, log

    def ended(self, process: subprocess.Popen[bytes], log: Path, run: str) -> "Trained":
        """What a process came to."""
        code = process.wait()
        return Trained(self.folder / "runs" / run, code, log.read_text("utf-8", errors="replace"))

    def last_step(self, run: str) -> int:
        """The last step in a run's metrics."""
        lines = metrics(self.folder / "runs" / run)
        return max((line["step"] for line in lines), default=0)


@dataclass(frozen=True, slots=True)
class Trained:
    """A run of ``sdlora train``.

    Attributes:
        folder: The run folder.
        code: Its exit code.
        told: What it said.
    """

    folder: Path
    code: int
    told: str

    def require(self, code: int = 0) -> "Trained":
        """Itself, if it ended with this exit code.

        Raises:
            RuntimeError: With the last line that it said.
        """
        if self.code != code:
            last = [line for line in self.told.splitlines() if line.strip()][-1:]
            raise RuntimeError(f"exit code {self.code} instead of {code}: {' '.join(last)}")
        return self

    def curve(self, name: str) -> list[float]:
        """A number of the metrics, by step."""
        return [line[name] for line in metrics(self.folder) if name in line]

    @property
    def lora(self) -> dict[str, torch.Tensor]:
        """The last step's weights."""
        from safetensors.torch import load_file

        return load_file(self.folder / "last" / "pytorch_lora_weights.safetensors")


def metrics(run: Path) -> list[dict[str, Any]]:
    """The whole lines of a run's ``metrics.jsonl``; one may be written just now."""
    file = run / "metrics.jsonl"
    lines = file.read_text("utf-8").split("\n")[:-1] if file.is_file() else []
    return [json.loads(line) for line in lines if line]


def _make_lying(path: Path) -> None:
    """Cut a quarter of a picture's height away."""
    with Image.open(path) as picture:
        lying = picture.crop((0, 0, picture.width, picture.height * 3 // 4))
    lying.save(path, quality=90)


def largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Of two files of weights; infinite if they have other names."""
    if one.keys() != other.keys():
        return float("inf")
    return max(float((one[k].float() - other[k].float()).abs().max()) for k in one)


def settle(folder: Path) -> None:
    """Keep what runs write outside their folders below this one."""
    os.environ["SDLORA_CACHE"] = str(folder / "cache")
    os.environ["HF_HUB_OFFLINE"] = "1"

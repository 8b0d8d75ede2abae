"""What ``trainer.compile`` brings and costs: the embedded UNet as it is, compiled in blocks, whole.

Forward and backward pass with LoRA on ready tensors, in one process, by turns. Each way has a
compiler's cache of its own, empty at first, and compiles once more with what the cache then has. A
second size of picture stands for the next bucket. Further arguments are overrides of ``train.py``.
"""

import argparse
import copy
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from benchmarks.data import write_folder
from benchmarks.prepared_run import prepared_run
from benchmarks.results import Result, machine, publish, show
from sdlora.commands.train.duration import synchronize
from sdlora.commands.train.training_run import TrainingRun
from sdlora.models.family import input_dtype
from sdlora.models.memory import compile_denoiser
from sdlora.runtime.program import settle_libraries
from sdlora.runtime.progress import Progress

HEADERS = (
    "UNet",
    "first pass, s",
    "with the compiler's cache, s",
    "first of another size, s",
    "ms a pass",
    "of the time",
    "gradients differ by",
)
WAYS: dict[str, Callable[[Any], None]] = {
    "as it is": lambda unet: None,
    "compiled in blocks": compile_denoiser,
    "compiled whole": lambda unet: unet.compile(dynamic=False),
}
SIDES = (16, 24)
"""Of the latents: of square pictures, and of a second bucket."""


def main() -> None:
    """Measure, print the table, and write it if asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compiled", description=__doc__)
    parser.add_argument("--repeats", type=int, default=7, help="turns of each way")
    parser.add_argument("--steps", type=int, default=6, help="passes of a turn")
    parser.add_argument("--write", action="store_true", help="into docs/speed.md and results/")
    options, overrides = parser.parse_known_args()
    settle_libraries()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["SDLORA_CACHE"] = str(Path(scratch) / "cache")
        write_folder(Path(scratch) / "pictures", 8)
        given = [f"data.root={scratch}/pictures", "lora.text_encoder.method=frozen", *overrides]
        built = prepared_run(given, Path(scratch) / "run", Progress(enabled=False))
        passes = Passes(built, Path(scratch))
        measured = passes.measure(options.repeats, options.steps)
    command = f"python -m benchmarks.compiled --repeats {options.repeats} --steps {options.steps}"
    result = Result(
        name="compiled",
        command=" ".join([command, *overrides]),
        machine=machine(),
        headers=HEADERS,
        rows=cells(measured),
        measured=measured,
    )
    if options.write:
        publish(result)
    show(result)


class Passes:
    """Forward and backward passes of copies of one UNet, each copy compiled in its way."""

    def __init__(self, built: TrainingRun, scratch: Path) -> None:
        self._unet, self._batch_size = built.family.unet, built.config.data.batch_size
        self._device = built.trainer.strategy.root_device
        self._precision = built.trainer.precision_plugin.forward_context
        self._scratch = scratch

    def measure(self, repeats: int, num_steps: int) -> dict[str, dict[str, list[float]]]:
        """Way -> what was measured, in seconds; ``differs`` is the relative error of gradients."""
        found: dict[str, dict[str, list[float]]] = {}
        for way, compile_it in WAYS.items():
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(self._scratch / way.replace(" ", "_"))
            first = self._timed(self._copy(compile_it), SIDES[0])
            torch.compiler.reset()  # but for what is on the disk
            unet = self._copy(compile_it)
            again = self._timed(unet, SIDES[0])
            found[way] = {"first": [first], "again": [again], "step": []}
            found[way]["other"] = [self._timed(unet, SIDES[1])]
        copies = {way: self._copy(compile_it) for way, compile_it in WAYS.items()}
        expected = self._gradient(copies["as it is"])
        for way, unet in copies.items():
            error = torch.linalg.vector_norm(self._gradient(unet) - expected)
            found[way]["differs"] = [float(error / torch.linalg.vector_norm(expected))]
        for _ in range(repeats):
            for way, unet in copies.items():
                began = time.perf_counter()
                for _ in range(num_steps):
                    self._pass(unet, SIDES[0])
                synchronize(self._device)
                found[way]["step"].append((time.perf_counter() - began) / num_steps)
        return found

    def _copy(self, compile_it: Callable[[nn.Module], None]) -> nn.Module:
        unet = copy.deepcopy(self._unet)
        compile_it(unet)
        return unet

    def _timed(self, unet: nn.Module, side: int) -> float:
        synchronize(self._device)
        began = time.perf_counter()
        self._pass(unet, side)
        synchronize(self._device)
        return time.perf_counter() - began

    def _gradient(self, unet: nn.Module) -> Tensor:
        self._pass(unet, SIDES[0])
        return torch.cat([p.grad.flatten() for p in unet.parameters() if p.grad is not None])

    def _pass(self, unet: nn.Module, side: int) -> None:
        unet.zero_grad()
        generator = torch.Generator().manual_seed(0)
        rows, width = 77, unet.config.cross_attention_dim  # type: ignore[union-attr]
        dtype = input_dtype(unet)
        shapes = ((4, side, side), (4, side, side), (rows, width))
        z, eps, told = (
            torch.randn(self._batch_size, *shape, generator=generator).to(self._device, dtype)
            for shape in shapes
        )
        t = torch.arange(self._batch_size, device=self._device) * 100
        with self._precision():
            loss = mse_loss(unet(z, t, told).sample.float(), eps.float())
        loss.backward()


def cells(measured: dict[str, dict[str, list[float]]]) -> list[tuple[str, ...]]:
    """A line a way."""
    plain = median(measured["as it is"]["step"])
    rows = []
    for way, found in measured.items():
        seconds = [f"{found[name][0]:.1f}" for name in ("first", "again", "other")]
        step = median(found["step"])
        error = found["differs"][0]
        rows.append((way, *seconds, f"{1e3 * step:.0f}", f"{step / plain:.2f}", f"{error:.0e}"))
    return rows


if __name__ == "__main__":
    main()

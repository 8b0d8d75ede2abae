"""Is it right on a GPU: loss and gradients of a step against the CPU's in float64."""

import copy
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.findings import Findings
from benchmarks.prepared_run import prepared_run
from sdlora.models.family import Family
from sdlora.runtime.progress import Progress

BOUNDS = {"fp32": 1e-4, "fp32 with TF32": 5e-3, "bf16": 5e-2, "fp16": 1e-2}
"""Largest error of all gradients together, relative to their length: a few hundred roundings of the
arithmetic's unit (6e-8, 5e-4, 4e-3, 5e-4), as they add up through the UNet."""

BATCH_SIZE = 4


def gradients(bench: Bench, findings: Findings) -> None:
    """One step of the embedded base on the device in each precision, on the same tensors."""
    with Progress(enabled=False) as progress:
        built = prepared_run(
            [
                "trainer.accelerator=cpu",
                "trainer.precision=fp32",
                "lora.text_encoder.method=frozen",
                f"data.batch_size={BATCH_SIZE}",
                "data.cache.mode=off",
                "evaluation=none",
                "logger=none",
            ],
            bench.folder / "runs" / "right",
            progress,
        )
    family = built.family.eval()
    step = Step(built.module, built.datamodule.dataset[0, 1])
    exact_loss, exact = step.taken(
        copy.deepcopy(family).double(), torch.device("cpu"), nullcontext()
    )
    for name, bound in BOUNDS.items():
        with findings.trying(f"a step in {name}"):
            if bench.is_tiny and name in ("fp32 with TF32", "fp16"):
                findings.not_measured(f"a step in {name}", "a GPU's arithmetic")
                continue
            with _tf32(name.endswith("TF32")):
                own = copy.deepcopy(family).to(bench.device)
                loss, found = step.taken(own, bench.device, _context(name, bench.device))
            error = float(torch.linalg.vector_norm(found - exact) / torch.linalg.vector_norm(exact))
            off = abs(loss - exact_loss) / exact_loss
            findings.add(
                f"a step in {name}, against float64",
                f"gradients {error:.1e} of their length off, loss {off:.1e}",
                f"at most {bound:g}",
                error <= bound and off <= bound,
            )


class Step:
    """The tensors of one step, drawn once.

    Args:
        module: Draws noise and timesteps.
        batch: Pictures and captions.
    """

    def __init__(self, module: Any, batch: Any) -> None:
        with torch.no_grad():
            z_0 = module.latents(batch)
            self.told = module.family.encode_prompts(batch.token_ids)
        self.t = module.timesteps(batch, z_0)
        self.eps, _ = module.noise(batch, z_0)
        self.z_t = module.objective.noise.add(z_0, self.eps, self.t)

    def taken(
        self, family: Family, device: torch.device, context: AbstractContextManager[Any]
    ) -> tuple[float, Tensor]:
        """Loss and all gradients, on the CPU in float64."""
        denoiser: Any = family.denoiser
        dtype = next(denoiser.parameters()).dtype
        z_t, eps, told = (each.to(device, dtype) for each in (self.z_t, self.eps, self.told))
        denoiser.zero_grad()
        with context:
            predicted = denoiser(z_t, self.t.to(device), told).sample
            loss = (predicted.to(eps.dtype) - eps).square().mean()
        (loss * SCALE).backward()
        grads = [
            p.grad.flatten().double().cpu() for p in denoiser.parameters() if p.grad is not None
        ]
        return loss.item(), torch.cat(grads) / SCALE


SCALE = 2.0**10
"""Of the loss, so that gradients do not vanish in fp16; a power of two changes no digit."""


def _context(name: str, device: torch.device) -> AbstractContextManager[Any]:
    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
    return torch.autocast(device.type, kinds[name]) if name in kinds else nullcontext()


class _tf32:
    """TF32 of matrix products and convolutions, on or off inside the block."""

    def __init__(self, is_on: bool) -> None:
        self._is_on = is_on

    def __enter__(self) -> None:
        self._before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = self._is_on

    def __exit__(self, *error: object) -> None:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = self._before

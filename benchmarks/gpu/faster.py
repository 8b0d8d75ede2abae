"""What would make a step faster on a GPU: the floor's step with one thing changed at a time."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, mse_loss

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.fast import RANK
from benchmarks.gpu.findings import Findings
from benchmarks.prepared_run import prepared_run
from benchmarks.steps import prediction_of
from sdlora.adapters.fused_linear import FusedLinear
from sdlora.commands.train.duration import synchronize
from sdlora.runtime.kept import Kept
from sdlora.runtime.progress import Progress

WANTED = 0.75
"""Of the eager floor's time, for a CUDA graph of the step at small batches."""

LR = 1e-4
WARM_STEPS, WINDOWS = 3, 3


def changes(bench: Bench, findings: Findings) -> None:
    """Each change at batch 1 and 2 (tiny: 2), its time and gradients beside the eager step's."""
    kept = Kept()
    for batch in (2,) if bench.is_tiny else (1, 2):
        with findings.trying(f"the floor at batch {batch}"):
            step = FloorStep(bench, batch, kept)
            eager = step.seconds()
            findings.add(f"batch {batch}, eager", f"{1e3 * eager:.1f} ms")
            for name, change in CHANGES.items():
                _changed(findings, step, f"batch {batch}, {name}", change, eager)
            _graph(bench, findings, step, f"batch {batch}, CUDA graph", eager)


class FloorStep:
    """Forward, backward and optimizer step on ready tensors, as the yardstick's floor.

    Args:
        bench: Where it stands.
        batch_size: Pictures a step.
        kept: The base of an earlier one.
    """

    def __init__(self, bench: Bench, batch_size: int, kept: Kept) -> None:
        given = [
            *bench.inputs("sd15"),
            *(f"data.batch_size={batch_size}", f"lora.r={RANK}", "lora.text_encoder.method=frozen"),
            f"trainer.precision={'fp32' if bench.is_tiny else 'bf16'}",
            "evaluation=none",
        ]
        self.num_steps = 2 if bench.is_tiny else 15
        with Progress(enabled=False) as progress:
            run = bench.folder / "runs" / f"faster_{batch_size}"
            built = prepared_run(given, run, progress, kept)
        self.device, self.unet = bench.device, built.family.denoiser
        self._context = built.trainer.strategy.precision_plugin.forward_context
        batch = built.datamodule.dataset[0, 1].to(self.device)
        z_0 = built.module.latents(batch)
        torch.manual_seed(0)
        self._eps = torch.randn_like(z_0)
        t = torch.full((len(z_0),), 500, device=self.device)
        z_t = built.module.objective.noise.add(z_0, self._eps, t)
        self._predict = prediction_of(built.family, batch, z_t, t)
        self.weights = [p for p in self.unet.parameters() if p.requires_grad]
        self.optimizer = self.adamw()

    def adamw(self, **options: Any) -> torch.optim.Optimizer:
        """An optimizer of its weights."""
        return torch.optim.AdamW(self.weights, lr=LR, **options)

    def loss(self) -> Tensor:
        """Of the forward pass."""
        with self._context():
            return mse_loss(self._predict(), self._eps)

    def gradients(self) -> Tensor:
        """All of one step, before the optimizer."""
        self.optimizer.zero_grad()
        self.loss().backward()
        return torch.cat([p.grad.flatten().float() for p in self.weights if p.grad is not None])

    def take(self) -> None:
        """One whole step."""
        self.loss().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def seconds(self, take: Callable[[], Any] | None = None) -> float:
        """Of one step: the median of some windows."""
        step = take or self.take
        for _ in range(WARM_STEPS):
            step()
        times = []
        for _ in range(WINDOWS):
            synchronize(self.device)
            began = time.perf_counter()
            for _ in range(self.num_steps):
                step()
            synchronize(self.device)
            times.append((time.perf_counter() - began) / self.num_steps)
        return median(times)


@contextmanager
def contiguous(step: FloorStep) -> Iterator[None]:
    """The UNet in torch's usual memory layout instead of channels_last."""
    step.unet.to(memory_format=torch.contiguous_format)
    try:
        yield
    finally:
        step.unet.to(memory_format=torch.channels_last)


@contextmanager
def fused_adamw(step: FloorStep) -> Iterator[None]:
    """One kernel for the optimizer's step."""
    before, step.optimizer = step.optimizer, step.adamw(fused=True)
    try:
        yield
    finally:
        step.optimizer = before


@contextmanager
def tf32(step: FloorStep) -> Iterator[None]:
    """Products of float32 with 10 bits of mantissa."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def cudnn_benchmark(step: FloorStep) -> Iterator[None]:
    """Convolutions by the algorithm that is fastest when tried."""
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@contextmanager
def merged_projections(step: FloorStep) -> Iterator[None]:
    """Query, key and value of self-attention in one product, and so their LoRAs' first matrices."""
    merged = [each for each in step.unet.modules() if _is_self_attention(each)]
    for attention in merged:
        _Projections(attention)
    try:
        yield
    finally:
        for attention in merged:
            for name in ("to_q", "to_k", "to_v"):
                del getattr(attention, name).forward


CHANGES: dict[str, Callable[[FloorStep], Any]] = {
    "contiguous": contiguous,
    "fused AdamW": fused_adamw,
    "TF32": tf32,
    "cudnn.benchmark": cudnn_benchmark,
    "q, k, v in one product": merged_projections,
}


def _changed(
    findings: Findings,
    step: FloorStep,
    what: str,
    change: Callable[[FloorStep], Any],
    eager: float,
) -> None:
    exact = step.gradients()  # at the weights that the steps before have come to
    with findings.trying(what), change(step):
        error = torch.linalg.vector_norm(step.gradients() - exact)
        seconds = step.seconds()
        off = float(error / torch.linalg.vector_norm(exact))
        findings.add(what, f"{seconds / eager:.2f} of the eager time; gradients {off:.0e} off")


def _graph(bench: Bench, findings: Findings, step: FloorStep, what: str, eager: float) -> None:
    """The whole step recorded once, and replayed without the processor."""
    if bench.device.type != "cuda":
        findings.not_measured(what, "a CPU has none")
        return
    with findings.trying(what):
        step.optimizer = step.adamw(fused=True, capturable=True)
        began = time.perf_counter()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_STEPS):
                step.take()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        step.optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(graph):
            step.loss().backward()
            step.optimizer.step()
        start = time.perf_counter() - began
        ratio = step.seconds(graph.replay) / eager
        saved = 200 * eager * (1 - ratio)
        findings.add(
            what,
            f"{ratio:.2f} of the eager time; recorded in {start:.1f} s, {saved:.1f} s saved in 200",
            f"at most {WANTED:g}, and recorded in less than it saves",
            ratio <= WANTED and start < saved,
        )


def _is_self_attention(module: nn.Module) -> bool:
    names = ("to_q", "to_k", "to_v")
    layers = [getattr(module, name, None) for name in names]
    return (
        all(isinstance(layer, FusedLinear) for layer in layers)
        and getattr(module, "is_cross_attention", True) is False
    )


class _Projections:
    """Computes all three where the first is asked for; the others take theirs.

    Args:
        attention: diffusers' self-attention with LoRA on its projections.
    """

    def __init__(self, attention: Any) -> None:
        self._layers = (attention.to_q, attention.to_k, attention.to_v)
        self._base = torch.cat([each.base_layer.weight for each in self._layers])
        self._found: list[Tensor] = []
        attention.to_q.forward = self._first
        attention.to_k.forward = lambda x: self._found[1]
        attention.to_v.forward = lambda x: self._found[2]

    def _first(self, x: Tensor) -> Tensor:
        plain = linear(x, self._base).chunk(3, dim=-1)
        down = linear(x, torch.cat([each.lora_A["default"].weight for each in self._layers]))
        self._found = [
            torch.addmm(
                whole.flatten(0, -2),
                low.flatten(0, -2),
                each.lora_B["default"].weight.t(),
                alpha=each.scaling["default"],
            ).view_as(whole)
            for each, whole, low in zip(self._layers, plain, down.chunk(3, dim=-1), strict=True)
        ]
        return self._found[0]

"""Does it work on a GPU: the real commands on bases of the real shape, and what only a GPU does."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from benchmarks.gpu.bench import Bench, Trained, largest_difference
from benchmarks.gpu.findings import Findings
from benchmarks.prepared_run import prepared_run
from sdlora.commands.train.fit import fit
from sdlora.runtime.progress import Progress

NUM_STEPS = 60
"""Long enough to be stopped on the way."""

FEW = ("sampling.num_prompts=4", "sampling.num_steps=8", "trainer.log_every_n_steps=1")
NOTHING_DRAWN = ("sampling.num_prompts=1", "sampling.num_steps=1", "evaluation=none")
WANTED_GIB = {("sdxl", "as it is"): 10, ("sdxl", "nf4"): 8}
"""Largest memory of a run at batch 1."""

FIRST_SCALE = 2.0**16
"""Of torch's gradient scaler."""


def sd15(bench: Bench, findings: Findings) -> None:
    """Stable Diffusion 1.5: a whole run, and the same one stopped and resumed."""
    steps = f"trainer.max_steps={NUM_STEPS}"
    common = (
        *bench.inputs("sd15"),
        *FEW,
        steps,
        "checkpoint.every_n_steps=20",
        "sampling.every_n_steps=30",
        "evaluation.every_n_steps=30",
    )
    whole: Trained | None = None
    with findings.trying("train, cache, draw, score, checkpoint, export"):
        whole = bench.train(*common, run="whole").require()
        _describe(whole, findings)
    with findings.trying("SIGTERM"):
        stopped = bench.train_until_step(25, *common, run="stopped").require(143)
        findings.add("SIGTERM", f"saved, exit code {stopped.code}", "143", True)
        again = bench.train(f"resume={stopped.folder}", steps, run="stopped").require()
        if whole is not None:
            difference = largest_difference(whole.lora, again.lora)
            same = "the same bits" if difference == 0 else f"largest difference {difference:.2g}"
            findings.add(
                "resumed run against the undisturbed one", same, "the same bits", not difference
            )


def _describe(run: Trained, findings: Findings) -> None:
    """What a whole run left, and its memory beside the estimate."""
    proved = "export proved" in run.told
    losses = run.curve("train/loss")
    finite = len(losses) > 0 and all(torch.isfinite(torch.tensor(losses)))
    files = [
        name
        for name in ("lora", "last", "report.json", "report.html")
        if (run.folder / name).exists()
    ]
    right = proved and finite and len(files) == 4
    found = f"{len(losses)} finite losses, export proved, {', '.join(files)}"
    findings.add(
        "train, cache, draw, score, checkpoint, export",
        found if right else run.told[-200:],
        "all of it",
        right,
    )
    peak = max(run.curve("train/peak_memory_mib"), default=0.0)
    said = next(
        (line for line in run.told.splitlines() if line.startswith("memory:")), "no estimate"
    )
    findings.add("its memory", f"{peak / 1024:.2f} GiB at the peak; {said}")


class Overflow(Callback):
    """Makes one gradient infinite, once, as an overflow in half precision does.

    Attributes:
        scales: The scaler's scale before each step.
    """

    def __init__(self, at_step: int | None) -> None:
        self._at_step = at_step
        self.scales: list[float] = []

    def on_train_batch_start(self, trainer: lightning.Trainer, *args: Any) -> None:
        self.scales.append(scale_of(trainer))

    def on_after_backward(self, trainer: lightning.Trainer, module: Any) -> None:
        if trainer.global_step == self._at_step:
            self._at_step = None
            weight = next(p for p in module.parameters() if p.grad is not None)
            weight.grad.fill_(float("inf"))


def scale_of(trainer: lightning.Trainer) -> float:
    """The scale of the loss in half precision."""
    scaler: Any = getattr(trainer.precision_plugin, "scaler", None)
    assert scaler is not None, "trainer.precision=fp16 scales the loss"
    return float(scaler.get_scale())


def fp16(bench: Bench, findings: Findings) -> None:
    """Half precision: the scaler backs off after an overflow, and a resumed run keeps its scale."""
    what = "fp16: the scaler backs off"
    if bench.is_tiny:
        findings.not_measured(what, "a CPU does not train in fp16")
        return
    run = bench.folder / "runs" / "fp16"
    common = [
        *bench.inputs("sd15"),
        *NOTHING_DRAWN,
        "trainer.precision=fp16",
        "sampling.every_n_steps=0",
    ]
    with findings.trying(what):
        first = _with_overflow(
            [*common, "trainer.max_steps=6", "checkpoint.every_n_steps=6"], run, 2
        )
        halved = first.scales[-1] == FIRST_SCALE / 2
        findings.add(
            what, f"scale {first.scales[0]:g}, then {first.scales[-1]:g}", "halved once", halved
        )
        again = [*common, f"resume={run}", "trainer.max_steps=8", "checkpoint.every_n_steps=6"]
        resumed = _with_overflow(again, run, None)
        kept = resumed.scales[0] == first.scales[-1]
        findings.add(
            "fp16: the scale of a resumed run",
            f"{resumed.scales[0]:g}",
            f"{first.scales[-1]:g}",
            kept,
        )


def _with_overflow(overrides: list[str], run: Path, at_step: int | None) -> Overflow:
    overflow = Overflow(at_step)
    with Progress(enabled=False) as progress:
        built = prepared_run(overrides, run, progress)
        built.trainer.callbacks.append(overflow)  # type: ignore[attr-defined]
        fit(built)
    return overflow


def sdxl(bench: Bench, findings: Findings) -> None:
    """Stable Diffusion XL at 1024 px, as it is and with what saves memory."""
    common = (
        *bench.inputs("sdxl"),
        *NOTHING_DRAWN,
        "trainer.max_steps=4",
        "data.batch_size=1",
        "trainer.log_every_n_steps=1",
        "sampling.every_n_steps=0",
    )
    saving = ("trainer.offload=true", "trainer.gradient_checkpointing=true")
    ways = {
        "as it is": (),
        "offload, checkpointing": saving,
        "blocks wait": ("trainer.offload=blocks",),
        **_quantised(findings, ("int8", "nf4")),
    }
    _variants(bench, findings, "sdxl", common, ways)


def options(bench: Bench, findings: Findings) -> None:
    """What saves memory or time on Stable Diffusion 1.5, and the loss beside that without it."""
    side = bench.side_px("sd15")
    buckets = ("data.buckets.mode=auto", f"data.buckets.min_side={side // 2}")
    common = (
        *bench.inputs("sd15", has_two_shapes=True),
        *NOTHING_DRAWN,
        *buckets,
        "trainer.max_steps=6",
        "trainer.log_every_n_steps=1",
        "sampling.every_n_steps=0",
    )
    ways: dict[str, tuple[str, ...]] = {
        "as it is": (),
        "checkpointing": ("trainer.gradient_checkpointing=true",),
        "offload": ("trainer.offload=true",),
        "blocks wait": ("trainer.offload=blocks",),
    }
    if not bench.is_tiny:  # a CPU refuses it
        ways["compile"] = ("trainer.compile=true",)
    ways |= _quantised(findings, ("nf4", "int8"))
    _variants(bench, findings, "sd15", common, ways)


def _quantised(findings: Findings, kinds: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """The base in few bits; in 4 where the package for it is installed."""
    ways = {kind: (f"model.quantise={kind}",) for kind in kinds}
    if "nf4" in ways and find_spec("bitsandbytes") is None:
        del ways["nf4"]
        findings.not_measured("nf4", "bitsandbytes is not installed; pip install bitsandbytes")
    return ways


def _variants(
    bench: Bench,
    findings: Findings,
    family: str,
    common: tuple[str, ...],
    ways: dict[str, tuple[str, ...]],
) -> None:
    """Short runs; each loss beside that of the first way."""
    first: list[float] = []
    for way, given in ways.items():
        what = f"{family}, {way}"
        with findings.trying(what):
            run = bench.train(
                *common, *given, run=f"{family}_{way.replace(', ', '_').replace(' ', '_')}"
            ).require()
            losses = run.curve("train/loss")
            peak_gib = max(run.curve("train/peak_memory_mib"), default=0.0) / 1024
            first = first or losses
            differs = max(abs(a - b) for a, b in zip(losses, first, strict=True))
            wanted = None if bench.is_tiny else WANTED_GIB.get((family, way))
            findings.add(
                what,
                f"loss {losses[-1]:.4f}, at most {differs:.1e} from the first way's; "
                f"{peak_gib:.2f} GiB",
                "" if wanted is None else f"at most {wanted} GiB",
                None if wanted is None else peak_gib <= wanted,
            )

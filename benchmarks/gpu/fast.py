"""How fast is it on a GPU: the floor, our step, others' loops; and the memory of a step."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from benchmarks.cases import Case
from benchmarks.comparisons import library_example, tutorial
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.findings import Findings
from benchmarks.pictures import draw
from benchmarks.prepared_run import prepared_run
from benchmarks.steps import floor_steps, our_steps
from benchmarks.windows import FLOPS, SYNCS, Order, Window, turns
from sdlora.assembly.device import DTYPES
from sdlora.commands.train.duration import matmul_flop_per_s, synchronize
from sdlora.commands.train.training_run import TrainingRun
from sdlora.evaluation.scoring import Pictures
from sdlora.runtime.kept import Kept
from sdlora.runtime.progress import Progress

MIB = 2**20
RANK = 32
WANTED_PEAK_MIB = {("sd15", 1): 4096, ("sdxl", 1): 10240}
WANTED_OF_FLOOR, WANTED_OF_TUTORIAL, WANTED_OF_EXAMPLE, WANTED_RATE = 1.05, 2.0, 1.8, 0.4
MATMUL_SIDE, TINY_MATMUL_SIDE, MATMUL_TIMES = 8192, 1024, 20

Loop = Callable[[list[str], Path, Iterator[None]], None]


@dataclass(frozen=True, slots=True)
class Seen:
    """Windows of one loop: the timed one, and counts of a step.

    Attributes:
        timed: Time and peak memory.
        host_waits: Times that the processor waits for the device.
        flop: Floating-point operations.
    """

    timed: Window
    host_waits: float
    flop: float

    @property
    def milliseconds(self) -> str:
        """Of a step."""
        return f"{1e3 * self.timed.step_s:.1f}"


def sd15(bench: Bench, findings: Findings) -> None:
    """Stable Diffusion 1.5 at four batch sizes."""
    batches = (2, 4) if bench.is_tiny else (1, 2, 8, 32)
    _family(bench, findings, "sd15", batches)


def sdxl(bench: Bench, findings: Findings) -> None:
    """Stable Diffusion XL at two batch sizes."""
    _family(bench, findings, "sdxl", (2,) if bench.is_tiny else (1, 4))


def others(bench: Bench, findings: Findings) -> None:
    """The tutorial's loop and the library's example beside our step, each with its own batch."""
    rows: Sequence[tuple[str, Loop, int, float]] = (
        ("tutorial", tutorial, 2, WANTED_OF_TUTORIAL),
        ("library example", library_example, 4, WANTED_OF_EXAMPLE),
    )
    kept = Kept()
    for name, loop, batch, wanted in rows:
        with findings.trying(f"{name} / ours at batch {batch}"):
            case = _case(bench, "sd15", batch)
            overrides = [*case.overrides, *bench.inputs("sd15")]
            built = _built(bench, overrides, kept)
            ours = _seen(partial(our_steps, built), bench)
            folder = bench.folder / "runs" / f"{name.replace(' ', '_')}"
            theirs = _seen(partial(loop, overrides, folder), bench)
            ratio = theirs.timed.step_s / ours.timed.step_s
            findings.add(
                f"{name} / ours at batch {batch}",
                f"{ratio:.2f} ({theirs.milliseconds} and {ours.milliseconds} ms)",
                f"at least {wanted:g}",
                None if bench.is_tiny else ratio >= wanted,
            )


def drawing(bench: Bench, findings: Findings) -> None:
    """Pictures a second, drawn and scored."""
    count = 4 if bench.is_tiny else 25
    built = _built(bench, [*bench.inputs("sd15"), f"sampling.num_prompts={count}"], Kept())
    images: list = []
    with findings.trying("drawing"):
        few = replace(built.config.sampling, num_steps=2)
        draw(built, few)  # takes memory, chooses kernels
        began = time.perf_counter()
        images = draw(built, built.config.sampling)
        synchronize(bench.device)
        rate = len(images) / (time.perf_counter() - began)
        steps = built.config.sampling.num_steps
        findings.add("drawing", f"{rate:.2f} pictures a second, {steps} steps each")
    with findings.trying("scoring"):
        prompts = [prompt.text for prompt in built.evaluator.prompts]
        pictures = Pictures(images, prompts)
        built.evaluator.scorer.score(pictures, built.progress)
        began = time.perf_counter()
        built.evaluator.scorer.score(pictures, built.progress)
        rate = len(images) / (time.perf_counter() - began)
        findings.add("scoring", f"{rate:.1f} pictures a second by the networks of the drawn world")


def _family(bench: Bench, findings: Findings, family: str, batches: Sequence[int]) -> None:
    """Floor and our step at each batch size, on a base that is loaded once."""
    kept = Kept()
    dtype = DTYPES[_case(bench, family, 1).precision]
    side = TINY_MATMUL_SIDE if bench.is_tiny else MATMUL_SIDE
    rate = matmul_flop_per_s(bench.device, dtype, side, MATMUL_TIMES)
    findings.add(f"{family}: rate of a large matrix product", f"{rate / 1e12:.1f} TFLOP/s")
    for batch in batches:
        with findings.trying(f"{family} at batch {batch}"):
            _batch(bench, findings, family, batch, kept, rate)


def _batch(
    bench: Bench, findings: Findings, family: str, batch: int, kept: Kept, rate: float
) -> None:
    case = _case(bench, family, batch)
    built = _built(bench, [*case.overrides, *bench.inputs(family)], kept)
    floor = _seen(partial(floor_steps, built), bench, counts_flop=True)
    ours = _seen(partial(our_steps, built), bench)
    at, ratio = f"{family} at batch {batch}", ours.timed.step_s / floor.timed.step_s
    share = floor.flop / ours.timed.step_s / rate
    is_wanted = not bench.is_tiny
    findings.add(
        f"{at}: ours / floor",
        f"{ratio:.2f} ({ours.milliseconds} and {floor.milliseconds} ms, "
        f"{batch / ours.timed.step_s:.1f} pictures a second)",
        f"at most {WANTED_OF_FLOOR:g}",
        ratio <= WANTED_OF_FLOOR if is_wanted else None,
    )
    is_large = is_wanted and (family, batch) == ("sd15", 32)
    findings.add(
        f"{at}: share of the matrix rate",
        f"{share:.0%}; {ours.host_waits:.1f} host waits a step",
        f"at least {WANTED_RATE:.0%}" if is_large else "",
        share >= WANTED_RATE if is_large else None,
    )
    wanted_mib = WANTED_PEAK_MIB.get((family, batch)) if is_wanted else None
    estimate = built.cost.total / MIB if built.cost is not None else float("nan")
    peak = ours.timed.peak_memory_mib
    findings.add(
        f"{at}: peak memory",
        f"{peak:.0f} MiB; the estimate is {estimate:.0f}",
        "" if wanted_mib is None else f"at most {wanted_mib} MiB",
        None if wanted_mib is None else peak <= wanted_mib,
    )


def _case(bench: Bench, family: str, batch: int) -> Case:
    """What a row trains."""
    return Case(
        name=f"{family}_b{batch}",
        model="tiny" if bench.is_tiny else family,
        device=bench.device.type,
        side_px=bench.side_px(family),
        batch_size=batch,
        precision="fp32" if bench.is_tiny else "bf16",
        rank=RANK,
    )


def _built(bench: Bench, overrides: list[str], kept: Kept) -> TrainingRun:
    """A prepared run in a new folder."""
    runs = bench.folder / "runs"
    number = len(list(runs.glob("fast_*"))) if runs.is_dir() else 0
    silent = (
        [*overrides, "evaluation=none"]
        if "sampling.num_prompts" not in str(overrides)
        else overrides
    )
    with Progress(enabled=False) as progress:
        return prepared_run(silent, runs / f"fast_{number:02d}", progress, kept)


def _seen(
    loop: Callable[[Iterator[None]], None], bench: Bench, *, counts_flop: bool = False
) -> Seen:
    """One loop in this process: a window to warm up, a timed one, and those that count."""
    found: list[Window] = []
    steps = 3 if bench.is_tiny else 20
    orders = [Order(1), Order(steps), Order(2, SYNCS)] + [Order(1, FLOPS)] * counts_flop
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()
    loop(turns(orders, found.append, bench.device))
    return Seen(found[1], found[2].count, found[3].count if counts_flop else 0.0)

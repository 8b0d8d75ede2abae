"""Estimate of a run's duration before its first step."""

from datetime import timedelta
from time import perf_counter

import torch

from sdlora.assembly.adapters import trains_base
from sdlora.commands.train.training_run import TrainingRun
from sdlora.training.callbacks.every_n_steps import every
from sdlora.training.step_cost import StepCost, recomputes

SHARE = 0.3
"""Assumed rate of a training step relative to that of a large matrix product. On two CPU cores it
is 0.21 to 0.31 (docs/speed.md)."""

DRAWING_SHARE = 0.4
"""The same for drawing, which has no backward pass."""

MATMUL_SIDE = {"cpu": 1024, "mps": 2048, "cuda": 4096}
"""Side of the matrices, large enough for nearly the device's full rate; 96 MiB in 16 bits."""

MATMUL_TIMES = 5
"""Repeats, so that the best is within some percent; 50 ms on one core."""


def described_time(run: TrainingRun, cost: StepCost) -> str:
    """The estimate as a line of text."""
    try:
        training, drawing = (timedelta(seconds=round(s)) for s in expected_seconds(run, cost))
    except RuntimeError as error:  # no room even for this on the device
        return f"time: not known before the first step ({error})"
    return f"time: roughly {training} for the steps and {drawing} for drawing pictures"


def expected_seconds(run: TrainingRun, cost: StepCost) -> tuple[float, float]:
    """Seconds of the remaining steps, and of drawing pictures in between.

    Scores and validation loss are not included. A denoising step is assumed to cost the training's
    forward pass for one picture, so drawing is overestimated if that includes encoding or a
    teacher.
    """
    done = run.first_step
    config, sampling = run.config, run.config.sampling
    device = run.trainer.strategy.root_device
    rate = matmul_flop_per_s(device, run.evaluator.precision, MATMUL_SIDE[device.type])
    # forward and backward; the weights' gradients where all of them train; the forward pass again
    passes = 2 + trains_base(config.lora, config.model.family) + recomputes(run.module)
    steps = max(0, config.trainer.max_steps - done) * config.trainer.accumulate_grad_batches
    computed = steps * passes * cost.forward_flops
    calls = sampling.num_steps * (2 if sampling.guidance_scale > 1 else 1)
    drawn = num_drawn(run, done) * calls * cost.forward_flops / cost.num_pictures
    return computed / (SHARE * rate), drawn / (DRAWING_SHARE * rate)


def num_drawn(run: TrainingRun, done: int) -> int:
    """Number of validation pictures from step ``done`` on, including the base's."""
    config, evaluator = run.config, run.evaluator
    scored, previews = 0, 0
    for step in range(done + 1, config.trainer.max_steps + 1):
        if step == config.trainer.max_steps or every(step, config.evaluation.every_n_steps):
            scored += 1
        elif every(step, config.sampling.every_n_steps):
            previews += 1
    all_prompts = len(evaluator.prompts) + len(evaluator.prior_prompts)
    of_base = 0 if evaluator.base else all_prompts
    return scored * all_prompts + previews * config.sampling.num_preview + of_base


def matmul_flop_per_s(
    device: torch.device, dtype: torch.dtype, side: int, times: int = MATMUL_TIMES
) -> float:
    """The best rate of a square matrix product, in floating point operations per second."""
    left = torch.ones(side, side, device=device, dtype=dtype)
    best_s = float("inf")
    for _ in range(times):
        synchronize(device)
        began = perf_counter()
        _ = left @ left
        synchronize(device)
        best_s = min(best_s, perf_counter() - began)
    return 2 * side**3 / best_s


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has finished all queued work."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)

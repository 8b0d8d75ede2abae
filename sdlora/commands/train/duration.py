"""How long a run will take, roughly, said before its first step."""

from datetime import timedelta
from time import perf_counter

import torch

from sdlora.assembly.adapters import trains_base
from sdlora.commands.train.training_run import TrainingRun
from sdlora.training.callbacks.every_n_steps import every
from sdlora.training.step_cost import StepCost, recomputes

SHARE = 0.3
"""Of the rate of one large matrix product, so much is taken to be reached by a training step. On
two CPU cores it is 0.21 to 0.31 (docs/speed.md)."""

DRAWING_SHARE = 0.4
"""The same for drawing, which keeps nothing for a backward pass."""

MATMUL_SIDE = {"cpu": 1024, "mps": 2048, "cuda": 4096}
"""Large enough for nearly the device's full rate; 96 MiB of a GPU in 16 bits."""

MATMUL_TIMES = 5
"""So that the best is within some percent; 50 ms on one core."""


def described_time(run: TrainingRun, cost: StepCost) -> str:
    """In words."""
    try:
        training, drawing = (timedelta(seconds=round(s)) for s in expected_seconds(run, cost))
    except RuntimeError as error:  # no room even for this on the device
        return f"time: not known before the first step ({error})"
    return f"time: roughly {training} for the steps and {drawing} for drawing pictures meanwhile"


def expected_seconds(run: TrainingRun, cost: StepCost) -> tuple[float, float]:
    """Of the steps still to be taken, and of drawing pictures meanwhile.

    Scores and validation loss are not in it. A picture's step is taken to cost what the training's
    forward pass does for one, so drawing is overestimated where that encodes pictures or captions
    too, or teaches a prior.
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
    drawn = num_drawn(run, done) * calls * cost.forward_flops / config.data.batch_size
    return computed / (SHARE * rate), drawn / (DRAWING_SHARE * rate)


def num_drawn(run: TrainingRun, done: int) -> int:
    """Validation pictures from step ``done`` on, the base's included."""
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
    """The best rate of the product of two square matrices, in floating point operations."""
    left = torch.ones(side, side, device=device, dtype=dtype)
    best_s = float("inf")
    for _ in range(times):
        wait_for(device)
        began = perf_counter()
        _ = left @ left
        wait_for(device)
        best_s = min(best_s, perf_counter() - began)
    return 2 * side**3 / best_s


def wait_for(device: torch.device) -> None:
    """Until a GPU has done all that it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)

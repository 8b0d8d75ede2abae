"""The rows of the table that train with this project: the floor, and our step through Lightning."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.nn.functional import mse_loss

from benchmarks.prepared_run import prepared_run
from sdlora.commands.train.fit import fit
from sdlora.commands.train.training_run import TrainingRun
from sdlora.data.batches.dataset import Batch
from sdlora.models.family import Family
from sdlora.runtime.progress import Progress

Windows = Iterator[None]


def floor(overrides: list[str], run: Path, windows: Windows) -> None:
    """The floor of these overrides."""
    with Progress(enabled=False) as progress:
        built = prepared_run(overrides, run, progress)
    floor_steps(built, windows)


def floor_steps(built: TrainingRun, windows: Windows) -> None:
    """What no trainer can do without: forward, backward and optimizer step on ready tensors.

    The same UNet, LoRA, memory layout, precision and optimizer as in our step, and the text encoder
    if it trains; neither Lightning nor data, no noise, no clipping, no schedule, no log.
    """
    module, family = built.module, built.family
    optimizer = module.configure_optimizers()["optimizer"]
    batch = built.datamodule.dataset[0, 1].to(built.trainer.strategy.root_device)
    z_0 = module.latents(batch)
    eps = torch.randn_like(z_0)
    t = torch.randint(module.objective.noise.num_train_timesteps, (len(z_0),), device=z_0.device)
    z_t = module.objective.noise.add(z_0, eps, t)
    predict = prediction_of(family, batch, z_t, t)
    for _ in windows:
        with built.trainer.strategy.precision_plugin.forward_context():
            loss = mse_loss(predict(), eps)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def prediction_of(family: Family, batch: Batch, z_t: Tensor, t: Tensor) -> Callable[[], Tensor]:
    """The UNet alone, called as it is for this batch; before it the text encoder, if it trains."""
    embeddings = batch.embeddings
    if embeddings is None:
        return lambda: family.denoise(z_t, t, family.encode_prompts(batch.token_ids), batch.sizes)
    calls: list[tuple[Any, Any]] = []
    hook = family.unet.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append((args, kwargs)), with_kwargs=True
    )
    with torch.no_grad():
        family.denoise(z_t, t, embeddings, batch.sizes)
    hook.remove()
    [(arguments, named)] = calls
    return lambda: family.unet(*arguments, **named).sample.float()


def ours(overrides: list[str], run: Path, windows: Windows) -> None:
    """Our step of these overrides."""
    with Progress() as progress:
        our_steps(prepared_run(overrides, run, progress), windows)


def our_steps(built: TrainingRun, windows: Windows) -> None:
    """Our step as ``train.py`` takes it: its callbacks and its logging, but nothing is drawn."""
    built.trainer.callbacks.append(Pace(windows))  # type: ignore[attr-defined]
    fit(built)


class Pace(Callback):
    """Asks for leave before each step, and stops the training when there is none."""

    def __init__(self, windows: Windows) -> None:
        self._windows = windows

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Wait for the first window."""
        self._go_on(trainer)

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any) -> None:
        """The step is done; from here on the clock runs for the next one."""
        self._go_on(trainer)

    def _go_on(self, trainer: lightning.Trainer) -> None:
        if next(self._windows, trainer) is trainer:
            trainer.should_stop = True

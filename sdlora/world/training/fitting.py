"""Common code of the four small trainings: batches, one-cycle AdamW, log lines."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from sdlora.runtime.randomness import generator

WORK_FOLDER = Path("outputs/world")
"""Folder of drawn pictures, logs and checkpoints of the trainings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Steps, batch size and learning rate of a training."""

    num_steps: int
    batch_size: int
    max_lr: float
    weight_decay: float = 1e-4
    seed: int = 0


class Batches(IterableDataset[Tensor]):
    """Index batches ``[B]``, each epoch a function of (seed, epoch)."""

    def __init__(self, num_items: int, recipe: Recipe) -> None:
        self.num_items, self.recipe = num_items, recipe

    def __iter__(self) -> Iterator[Tensor]:
        size = self.recipe.batch_size
        for epoch in range(10**6):
            order = torch.randperm(
                self.num_items, generator=generator(self.recipe.seed, "order", epoch)
            )
            yield from order[: self.num_items - self.num_items % size].split(size)


class Fit(L.LightningModule):
    """Base class of the trainings: optimizer, schedule, and log lines."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.started = time.monotonic()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW on a one-cycle schedule that ends near zero."""
        recipe = self.recipe
        optimizer = torch.optim.AdamW(
            self.parameters(), lr=recipe.max_lr, weight_decay=recipe.weight_decay, betas=(0.9, 0.99)
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, recipe.max_lr, total_steps=recipe.num_steps + 1, pct_start=0.08,
            final_div_factor=1e4,
        )  # fmt: skip
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def print_values(self, values: dict[str, Tensor | float], every_n_steps: int = 50) -> None:
        """Print the values at every ``every_n_steps``-th step, with the elapsed time."""
        if self.global_step % every_n_steps:
            return
        spent = time.monotonic() - self.started
        words = " ".join(f"{name} {float(value):.5f}" for name, value in values.items())
        print(f"step {self.global_step} {spent:.0f} s {words}", flush=True)


def fit(module: Fit, num_items: int, name: str) -> float:
    """Train ``module`` for its recipe's steps.

    Args:
        module: Its ``training_step`` takes the indices of a batch, ``[B]`` int64.
        num_items: Indices are below this.
        name: Name of the checkpoint under ``outputs/world``.

    Returns:
        Duration in seconds.
    """
    keep = ModelCheckpoint(WORK_FOLDER / name, filename="last", every_n_train_steps=200)
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=module.recipe.num_steps,
        precision="bf16-mixed" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "32-true",
        gradient_clip_val=1.0,
        callbacks=[keep],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = DataLoader(Batches(num_items, module.recipe), batch_size=None)
    module.started = started = time.monotonic()
    trainer.fit(module, loader)
    return time.monotonic() - started

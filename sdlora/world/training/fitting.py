"""What the four small trainings share: batches by step number, one-cycle AdamW, a plain log."""

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
"""Where drawn pictures, logs and checkpoints of the trainings lie."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How long and how fast a net is trained."""

    num_steps: int
    batch_size: int
    max_lr: float
    weight_decay: float = 1e-4
    seed: int = 0


class Batches(IterableDataset[Tensor]):
    """Index batches ``[B]``, each a function of (seed, epoch): no state to lose."""

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
    """Base of the trainings: optimizer, schedule, and one log line in a while."""

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

    def tell(self, values: dict[str, Tensor | float], every_n_steps: int = 50) -> None:
        """Print the values at every ``every_n_steps``-th step, with the time gone by."""
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
        name: Of the checkpoint under ``outputs/world``.

    Returns:
        The seconds it took.
    """
    keep = ModelCheckpoint(WORK_FOLDER / name, filename="last", every_n_train_steps=200)
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=module.recipe.num_steps,
        precision="bf16-mixed",
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

"""A module on the random base, batches for it, and a Trainer that says and writes nothing."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.utils.data import DataLoader, Dataset

from sdlora.adapters.lora import add_lora
from sdlora.adapters.spec import LoraSpec
from sdlora.data.batches.datamodule import StreamSampler
from sdlora.data.batches.dataset import Batch
from sdlora.diffusion.noise_schedule import NoiseSchedule
from sdlora.diffusion.objective import Objective
from sdlora.diffusion.weighting import min_snr_weight
from sdlora.models.sd import StableDiffusion
from sdlora.runs.checkpoint_io import WholeCheckpointIO
from sdlora.training.module import DiffusionModule

SEED = 11
TARGETS = {
    "unet": ("to_q", "to_k", "to_v", "to_out.0"),
    "text_encoder": ("q_proj", "k_proj", "v_proj", "out_proj"),
}


def adapted(
    family: StableDiffusion,
    parts: Iterable[str] = ("unet",),
    dropout: float = 0.0,
    **method: Any,
) -> StableDiffusion:
    """Adapters of rank 2 whose matrix B is not zero, so that A has a gradient from the start."""
    for part in parts:
        spec = LoraSpec(r=2, alpha=2.0, dropout=dropout, targets=TARGETS[part], **method)
        add_lora(getattr(family, part), spec, seed=1)
    generator = torch.Generator().manual_seed(5)
    for name, parameter in family.named_parameters():
        if "lora_B" in name and parameter.requires_grad:
            nn.init.normal_(parameter, std=0.05, generator=generator)
    return family


def diffusion_module(
    family: StableDiffusion, lr: float = 1e-2, optimizer: Any = torch.optim.SGD
) -> DiffusionModule:
    """One learning rate for all parts; the schedule halves it after each optimizer step."""
    return DiffusionModule(
        family,
        Objective(
            NoiseSchedule.from_config(family.noise_schedule_config),
            partial(min_snr_weight, gamma=5.0),
        ),
        make_optimizer=lambda parts: optimizer(
            [{"name": n, "params": list(p.values()), "lr": lr} for n, p in parts.items() if p]
        ),
        make_schedule=lambda opt: torch.optim.lr_scheduler.StepLR(opt, step_size=1, gamma=0.5),
        seed=SEED,
    )


def without_trainer(module: DiffusionModule) -> DiffusionModule:
    """So that a step can be called by hand."""
    module.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    return module


def batch(first: int, size: int = 2) -> Batch:
    """Samples ``first ..`` of a stream, latents cached: each a function of its index."""
    draws = [torch.Generator().manual_seed(index) for index in range(first, first + size)]
    moments = torch.stack([torch.randn(8, 8, 8, generator=draw) for draw in draws])
    moments[:, 4:] -= 3
    return Batch(
        sample_index=torch.arange(first, first + size),
        picture_index=torch.arange(size),
        token_ids=torch.stack([torch.randint(0, 188, (77,), generator=draw) for draw in draws]),
        names=tuple(f"{index}.png" for index in range(first, first + size)),
        weights=torch.ones(size),
        moments=moments,
    )


class Samples(Dataset[Batch]):
    """Batches of one size, by their number in the stream."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __getitem__(self, item: tuple[int, int]) -> Batch:
        return batch(item[0] * self.size, self.size)


class Stream(lightning.LightningDataModule):
    """Micro-batches without end, from where the trainer stands, as the project's own."""

    def __init__(self, size: int = 2, accumulate: int = 1) -> None:
        super().__init__()
        self.size = size
        self.accumulate = accumulate

    def train_dataloader(self) -> DataLoader[Batch]:
        assert self.trainer is not None
        done = self.trainer.global_step * self.accumulate
        return DataLoader(Samples(self.size), batch_size=None, sampler=StreamSampler(done))


def trainer(
    folder: Path, max_steps: int, callbacks: list[Callback] | None = None, **options: Any
) -> lightning.Trainer:
    return lightning.Trainer(
        max_steps=max_steps,
        callbacks=callbacks,
        accelerator="cpu",
        plugins=[WholeCheckpointIO()],
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **{"logger": False, "log_every_n_steps": 1, **options},
    )

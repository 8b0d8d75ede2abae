"""The rows of the table that others' loops give, written from how those are described.

Both train the same model with the same adapters on the same pictures as our step, encode pictures
and captions at every step, and read and decode the pictures at every epoch. Captions are turned
into token ids once, before the first step.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import DDPMScheduler
from diffusers.optimization import get_scheduler
from diffusers.training_utils import compute_snr
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, Dataset

from benchmarks.prepared_run import train_config
from sdlora.assembly import adapters, base_model
from sdlora.assembly.device import DTYPES, compute_device
from sdlora.config.train import TrainConfig
from sdlora.models.family import Family

Windows = Iterator[None]

TUTORIAL_WORKERS = 8
"""Of the tutorial's loader, whatever the machine has."""

SNR_GAMMA = 5.0


class PictureFolder(Dataset[dict[str, Tensor]]):
    """Pictures decoded, resized, mirrored at random and scaled to [-1, 1], with token ids."""

    def __init__(self, config: TrainConfig, family: Family) -> None:
        self.paths = sorted(Path(config.data.root).glob("*.jpg"))
        self.side_px = config.data.resolution
        captions = [path.with_suffix(".txt").read_text("utf-8") for path in self.paths]
        self.token_ids = family.tokenize(captions).ids

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        with Image.open(self.paths[index]) as picture:
            resized = picture.convert("RGB").resize((self.side_px, self.side_px))
        if torch.rand(()) < 0.5:
            resized = resized.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 127.5 - 1
        return {"pixels": pixels, "token_ids": self.token_ids[index]}


def tutorial(overrides: list[str], run: Path, windows: Windows) -> None:
    """The course tutorial on Stable Diffusion 1.5: everything in one dtype, adapters too.

    VAE and text encoder at every step, plain AdamW, min-SNR weights (gamma 5), a cosine schedule,
    no clipping; a loader of eight workers, which start anew at every epoch.
    """
    config = train_config(overrides, run)
    device = compute_device(config.trainer.accelerator)
    family = _adapted(config).to(device, DTYPES[config.trainer.precision])
    optimizer = torch.optim.AdamW(_trained(family), lr=config.optim.unet_lr)
    schedule = _schedule("cosine_with_restarts", optimizer)
    noise = DDPMScheduler.from_config(dict(family.noise_schedule_config))
    loader = DataLoader(
        PictureFolder(config, family),
        batch_size=config.data.batch_size,
        shuffle=True,
        num_workers=TUTORIAL_WORKERS,
    )
    for _, batch in zip(windows, _epochs(loader), strict=False):
        z_t, t, eps = _noised(family, noise, batch["pixels"].to(device))
        embeddings = family.encode_prompts(batch["token_ids"].to(device))
        prediction = family.denoise(z_t, t, embeddings, _sizes(config, t))
        snr = compute_snr(noise, t)
        weights = torch.clamp(snr, max=SNR_GAMMA) / snr
        errors = mse_loss(prediction, eps.float(), reduction="none").mean(dim=(1, 2, 3))
        loss = (errors * weights).mean()
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()


def library_example(overrides: list[str], run: Path, windows: Windows) -> None:
    """The LoRA example of diffusers, as its page describes it, on accelerate.

    Frozen weights in the dtype of mixed precision, adapters in float32 under autocast, VAE and text
    encoder at every step, AdamW with clipping, the loss read at every step for its progress bar; a
    loader in the training process, as the example's default is.
    """
    config = train_config(overrides, run)
    precision = config.trainer.precision
    accelerator = Accelerator(
        mixed_precision="no" if precision == "fp32" else precision,
        cpu=config.trainer.accelerator == "cpu",
    )
    family = _adapted(config).to(accelerator.device)
    noise = DDPMScheduler.from_config(dict(family.noise_schedule_config))
    loader = DataLoader(
        PictureFolder(config, family), batch_size=config.data.batch_size, shuffle=True
    )
    optimizer = torch.optim.AdamW(_trained(family), lr=config.optim.unet_lr)
    schedule = _schedule("constant", optimizer)
    for name, part in family.parts.items():
        if any(parameter.requires_grad for parameter in part.parameters()):
            prepared: Any = accelerator.prepare(part)
            setattr(family, name, prepared)
    optimizer, loader, schedule = accelerator.prepare(optimizer, loader, schedule)
    for _, batch in zip(windows, _epochs(loader), strict=False):
        with accelerator.accumulate(family.unet):
            z_t, t, eps = _noised(family, noise, batch["pixels"])
            embeddings = family.encode_prompts(batch["token_ids"])
            prediction = family.denoise(z_t, t, embeddings, _sizes(config, t))
            loss = mse_loss(prediction.float(), eps.float())
            accelerator.gather(loss.repeat(len(t))).mean().item()
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(_trained(family), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            loss.detach().item()


def _adapted(config: TrainConfig) -> Family:
    """The base with the adapters of the config, in torch's usual memory layout."""
    family = base_model.load(config.model, config.lora, config.trainer.precision, config.seed)
    adapters.add_adapters(
        family, adapters.lora_specs(config.lora, config.model.family), config.seed
    )
    return family


def _trained(family: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in family.parameters() if parameter.requires_grad]


def _schedule(name: str, optimizer: torch.optim.Optimizer) -> Any:
    return get_scheduler(
        name, optimizer, num_warmup_steps=100, num_training_steps=1_000_000, num_cycles=3
    )


def _epochs(loader: Iterable[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    """One epoch after the other, for ever; a loader with workers starts them anew for each."""
    while True:
        yield from loader


def _noised(family: Family, noise: DDPMScheduler, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy latents in the UNet's dtype, their timesteps, and the noise."""
    moments = family.encode_images(pixels)
    draws = torch.randn((len(pixels), *family.posterior_shape(moments)), device=moments.device)
    z_0 = family.latents(moments, draws).to(family.unet.dtype)
    eps = torch.randn_like(z_0)
    num_timesteps = noise.config.num_train_timesteps
    t = torch.randint(0, num_timesteps, (len(z_0),), device=z_0.device)
    return noise.add_noise(z_0, eps, t), t, eps


def _sizes(config: TrainConfig, t: Tensor) -> Tensor:
    """What SDXL is told: pictures of the trained size, not cut; made anew at every step."""
    side = config.data.resolution
    told = torch.tensor([side, side, 0, 0, side, side], dtype=torch.float32, device=t.device)
    return told.expand(len(t), -1)

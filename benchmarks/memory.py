"""``python -m benchmarks.memory``: what a training step takes of memory, as train.py estimates it.

For the real architectures, a LoRA of the UNet, and encodings that are cached. Weights have no
content, and nothing is computed or downloaded. Kernels are the processor's; a GPU's may keep
other tensors.
"""

import argparse
import time
from contextlib import nullcontext
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from rich.console import Console
from rich.table import Table

from benchmarks.full_size import FAMILIES
from sdlora.assembly import adapters, lightning_trainer
from sdlora.assembly.device import DTYPES
from sdlora.assembly.optimizer import optimizer
from sdlora.cli.composition import register_schemas, to_typed
from sdlora.config.train import TrainConfig
from sdlora.models.families import description_of
from sdlora.models.family import Family
from sdlora.models.memory import checkpoint_gradients
from sdlora.models.quantising import saved_bytes
from sdlora.runtime.places import CONF
from sdlora.training.module import DiffusionModule
from sdlora.training.step_cost import BatchShape, StepCost, held_bytes, step_cost, tensors

GIB = 2**30
SIDES_PX = {"sd15": 512, "sdxl": 1024}


def empty_family(config: TrainConfig, name: str) -> Family:
    """The whole model with adapters, in its dtypes; its memory is reserved and never touched."""
    description = description_of(config.model.family)
    with torch.device("meta"):
        pipeline: Any = FAMILIES[name]()
    family = description.make(
        **{part: getattr(pipeline, part) for part in (*description.parts, *description.tokenizers)},
        noise_schedule_config=dict(pipeline.scheduler.config),
        clip_skip=0,
    )
    family.to(DTYPES[config.trainer.precision])
    if config.model.vae_precision is not None:
        family.vae.to(DTYPES[config.model.vae_precision])  # type: ignore[operator]
    family.to_empty(device="cpu")
    adapters.add_adapters(
        family, adapters.lora_specs(config.lora, config.model.family), config.seed
    )
    return family


def config_of(name: str, overrides: list[str]) -> TrainConfig:
    """What ``train.py`` would be told."""
    register_schemas()
    own = [f"model={name}", "run_dir=none", "trainer.precision=bf16"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        given = [*own, "lora.text_encoder.method=frozen", *overrides]
        return to_typed(compose("train", given), TrainConfig)


def estimate(config: TrainConfig, module: DiffusionModule, side_px: int) -> StepCost:
    """Of a step on one picture, with cached encodings."""
    unet = module.family.unet.config
    pooled = unet.addition_embed_type == "text_time"
    shape = BatchShape(
        num_pictures=1,
        size=(side_px, side_px),
        has_latents=True,
        embeddings=(77 + pooled, unet.cross_attention_dim),
    )
    low = config.trainer.precision != "fp32"
    context = torch.autocast("cpu", torch.bfloat16) if low else nullcontext()
    return step_cost(
        module,
        shape,
        context,
        lambda weight: optimizer(
            config.optim, {"unet": {"weight": weight}}, denoiser="unet", scales_loss=False
        ),
    )


def main() -> None:
    """Estimate with and without gradient checkpointing, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--family", choices=FAMILIES, default="sd15")
    arguments, overrides = parser.parse_known_args()
    name, side_px = arguments.family, SIDES_PX[arguments.family]
    table = Table(title=f"{name}, {side_px} px, batch 1: estimates of a step, GiB")
    headings = ("checkpointing", "weights", "gradients + optimizer", "activations")
    for heading in (*headings, "together", "offload", "nf4", "both", "estimated in, s"):
        table.add_column(heading, justify="right")
    config = config_of(name, overrides)
    family = empty_family(config, name)
    module = lightning_trainer.module(config, family, None)
    for checkpointing in (False, True):
        if checkpointing:
            checkpoint_gradients(family)
        began = time.perf_counter()
        found = estimate(config, module, side_px)
        seconds = time.perf_counter() - began
        total, saved = found.total, saved_bytes(family.unet)
        waiting = held_bytes(tensors([*family.text_encoders.values(), family.vae]))  # type: ignore[list-item]
        gib = (found.weights, found.gradients + found.states, found.activations)
        less = (total - waiting, total - saved, total - waiting - saved)
        columns = [f"{each / GIB:.2f}" for each in (*gib, total, *less)]
        table.add_row("yes" if checkpointing else "no", *columns, f"{seconds:.0f}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()

"""``python -m benchmarks.memory``: what a training step takes of memory, as train.py estimates it,
and the plan that it makes for cards of several sizes.

For the real architectures, a LoRA of the UNet, and encodings that are cached. Weights have no
content, and nothing is computed or downloaded. Kernels are the processor's; a GPU's may keep
other tensors.
"""

import argparse
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from rich.console import Console
from rich.table import Table

from benchmarks.flow_bases import FLOW_FAMILIES
from benchmarks.full_size import FAMILIES
from sdlora.assembly import adapters, lightning_trainer
from sdlora.assembly.device import DTYPES
from sdlora.assembly.optimizer import optimizer
from sdlora.cli.composition import register_schemas, to_typed
from sdlora.commands.train.preflight import changed_values, present
from sdlora.config.train import TrainConfig
from sdlora.config.trainer import RESERVED_GIB
from sdlora.models.block_stream import streamed_bytes
from sdlora.models.families import description_of
from sdlora.models.family import Family
from sdlora.models.memory import checkpoint_gradients
from sdlora.models.quantising import KINDS, saved_bytes
from sdlora.runtime.places import CONF
from sdlora.training.memory_settings import Allowed, MemorySettings, StepMemory, chosen
from sdlora.training.module import DiffusionModule
from sdlora.training.step_cost import BatchShape, StepCost, held_bytes, step_cost, tensors

GIB = 2**30
SIDES_PX = {"sd15": 512}
"""Side of the pictures; 1024 of all others."""

CARDS_GB = (4, 6, 8, 12, 16, 24)
PIPELINES: dict[str, Callable[[], Any]] = {
    **FAMILIES,
    **{name: make for name, (_, make, _) in FLOW_FAMILIES.items()},
}


def empty_family(config: TrainConfig, name: str) -> Family:
    """The whole model with adapters, in its dtypes; its memory is reserved and never touched."""
    description = description_of(config.model.family)
    with torch.device("meta"):
        pipeline: Any = PIPELINES[name]()
    given: dict[str, Any] = {"clip_skip": 0} if description.is_clip else {}
    family = description.make(
        **{part: getattr(pipeline, part) for part in (*description.parts, *description.tokenizers)},
        noise_schedule_config=dict(pipeline.scheduler.config),
        **given,
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
    model = FLOW_FAMILIES[name][0] if name in FLOW_FAMILIES else name
    own = [f"model={model}", "run_dir=none", "trainer.precision=bf16"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        given = [*own, "lora.text_encoder.method=frozen", *overrides]
        return to_typed(compose("train", given), TrainConfig)


LESS: dict[str, dict[str, Any]] = {
    "offload": {"offload": True},
    "int8, offload": {"offload": True, "quantise": "int8"},
    "nf4, offload": {"offload": True, "quantise": "nf4"},
    "offload=blocks": {"offload": True, "blocks": True},
}
"""Columns of what saves memory."""


def embedding_shape(name: str, family: Family) -> tuple[int, int]:
    """Shape of one caption's embedding."""
    if name in FLOW_FAMILIES:
        return FLOW_FAMILIES[name][2]
    unet = family.denoiser.config
    return 77 + (unet.addition_embed_type == "text_time"), unet.cross_attention_dim


def estimate(
    config: TrainConfig, module: DiffusionModule, side_px: int, embeddings: tuple[int, int]
) -> StepCost:
    """Of a step on one picture, with cached encodings."""
    shape = BatchShape(
        num_pictures=1, size=(side_px, side_px), has_latents=True, embeddings=embeddings
    )
    part = module.family.denoiser_name
    low = config.trainer.precision != "fp32"
    context = torch.autocast("cpu", torch.bfloat16) if low else nullcontext()
    return step_cost(
        module,
        shape,
        context,
        lambda weight: optimizer(
            config.optim, {part: {"weight": weight}}, denoiser=part, scales_loss=False
        ),
    )


def plans(config: TrainConfig, memory: StepMemory) -> Table:
    """What ``trainer.memory_gb`` chooses for each card, with everything cached and bitsandbytes."""
    batch = memory.batch_size
    table = Table(title=f"plans for a batch of {batch}: estimates of a step, GiB")
    for heading in ("card, GB", "plan", "together"):
        table.add_column(heading, justify="left" if heading == "plan" else "right")
    allowed = Allowed(
        offload=True,
        gradient_checkpointing=True,
        smaller_batches=True,
        quantise=KINDS,
        blocks=True,
    )
    for card in CARDS_GB:
        room = round((card - RESERVED_GIB) * GIB)
        settings, is_enough = chosen(memory, present(config), allowed, room)
        changes = changed_values(config, present(config), settings)
        says = " ".join(changes) or "as it is"
        if not is_enough:
            says += "; does not fit"
        table.add_row(str(card), says, f"{memory.cost(settings).total / GIB:.2f}")
    return table


def main() -> None:
    """Estimate with and without gradient checkpointing, and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--family", choices=PIPELINES, default="sd15")
    arguments, overrides = parser.parse_known_args()
    name, side_px = arguments.family, SIDES_PX.get(arguments.family, 1024)
    table = Table(title=f"{name}, {side_px} px, batch 1: estimates of a step, GiB")
    headings = ("checkpointing", "weights", "gradients + optimizer", "activations")
    for heading in (*headings, "together", *LESS, "estimated in, s"):
        table.add_column(heading, justify="right")
    config = config_of(name, overrides)
    family = empty_family(config, name)
    module = lightning_trainer.module(config, family, None)
    costs, seconds = {}, {}
    for checkpointing in (False, True):
        if checkpointing:
            checkpoint_gradients(family)
        began = time.perf_counter()
        costs[checkpointing] = estimate(config, module, side_px, embedding_shape(name, family))
        seconds[checkpointing] = time.perf_counter() - began
    waiting: list[Any] = [*family.text_encoders.values(), family.vae]
    one = StepMemory(
        batch_size=1,
        estimate=costs.__getitem__,
        idle_bytes=held_bytes(tensors(waiting)),
        quantised_bytes={kind: saved_bytes(family.denoiser, kind) for kind in KINDS},
        streamed_bytes={kind: streamed_bytes(family.denoiser, kind) for kind in (None, "int8")},
        resolution_step=family.resolution_step,
    )
    for checkpointing, found in costs.items():
        now = MemorySettings(
            offload=False, gradient_checkpointing=checkpointing, batch_size=1, quantise=None
        )
        gib = (found.weights, found.gradients + found.states, found.activations, found.total)
        less = [one.cost(replace(now, **changes)).total for changes in LESS.values()]
        shown = [f"{each / GIB:.2f}" for each in (*gib, *less)]
        if not checkpointing:
            shown[-1] = "-"  # blocks need it
        table.add_row("yes" if checkpointing else "no", *shown, f"{seconds[checkpointing]:.0f}")
    console = Console(width=120)
    console.print(table)
    batch = config.data.batch_size
    console.print(plans(config, replace(one, batch_size=batch, estimate=scaled(costs, batch))))


def scaled(costs: Mapping[bool, StepCost], batch: int) -> Callable[[bool], StepCost]:
    """The costs of a batch from those of one picture."""
    return lambda recomputed: replace(
        costs[recomputed], activations=costs[recomputed].activations * batch
    )


if __name__ == "__main__":
    main()

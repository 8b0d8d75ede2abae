"""Before step 1: what is said of memory, and what is done where it is too little."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from sdlora.assembly import adapters, lightning_trainer
from sdlora.commands.train import preflight
from sdlora.commands.train.preflight import GIB, check_cost, fits, free_bytes, idle_parts
from sdlora.models.memory import memory_and_speed
from sdlora.training.step_cost import BatchShape, StepCost, recomputes, step_cost
from tests.unit.commands.train.test_reuse import load, train_config


def memory(activations: float, weights: float = 2.0) -> StepCost:
    """In GiB; a quarter each for gradients and optimizer."""
    return StepCost(
        weights=round(weights * GIB),
        gradients=GIB // 4,
        states=GIB // 4,
        activations=round(activations * GIB),
        forward_flops=0,
    )


class Run(SimpleNamespace):
    """Enough of a run: a step takes 6 GiB of activations, 1 with gradient checkpointing."""

    def __init__(self, base: Path, *overrides: str) -> None:
        config = train_config(base, "data.batch_size=6", *overrides)
        family = load(config)
        memory_and_speed(config.trainer, torch.device("cpu"), family)
        self.lines: list[str] = []
        super().__init__(
            config=config,
            family=family,
            module=SimpleNamespace(family=family),
            progress=SimpleNamespace(print=self.lines.append),
            trainer=SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cpu"))),
        )

    def check(self, monkeypatch: pytest.MonkeyPatch, free_gib: float) -> list[str]:
        """What is printed where so much is free beside the weights."""
        monkeypatch.setattr(preflight, "_estimate", lambda run: memory(self.activations()))
        monkeypatch.setattr(preflight, "held_bytes", self.held_bytes)
        monkeypatch.setattr(preflight, "described_time", lambda run, cost: "time: some")
        monkeypatch.setattr(preflight, "free_bytes", lambda device: round(free_gib * GIB))
        self.waiting = check_cost(self)  # type: ignore[arg-type]
        assert self.lines.pop() == "time: some"
        return self.lines

    def held_bytes(self, held: Iterator[torch.Tensor]) -> int:
        """2 GiB in the whole model, half of it in text encoder and VAE."""
        named = {id(tensor) for tensor in held}
        is_whole = named.issuperset(id(weight) for weight in self.family.parameters())
        return 2 * GIB if is_whole else GIB * bool(named)

    def activations(self) -> float:
        return 1.0 if recomputes(self.module) else 6.0


LINE = (
    "memory: about 8.5 GiB at the peak of a step (weights 2.0 GiB, gradients and optimizer "
    "512 MiB, activations 6.0 GiB); {} GiB free on cpu"
)


@pytest.mark.parametrize("checkpointing", ["auto", "false"])
def test_where_a_step_fits_one_line_says_so(
    checkpointing: str, random_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(random_base, f"trainer.gradient_checkpointing={checkpointing}")
    # 6.5 GiB beside the weights, and a fifth for the kernels: 7.8
    assert run.check(monkeypatch, free_gib=7.81) == [LINE.format("9.8")]
    assert not recomputes(run.module)


def test_auto_recomputes_where_it_would_not_fit(
    random_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(random_base, "trainer.gradient_checkpointing=auto")
    assert run.check(monkeypatch, free_gib=7.7) == [
        LINE.format("9.7"),
        "trainer.gradient_checkpointing=auto: switched on, since a step needs it to fit: about 3.5 "
        "GiB at the peak of a step (weights 2.0 GiB, gradients and optimizer 512 MiB, activations "
        "1.0 GiB)",
    ]
    assert recomputes(run.module)


def on_gpu(run: Run, monkeypatch: pytest.MonkeyPatch, **shape: Any) -> Run:
    """The same on one GPU, with everything cached unless ``shape`` says otherwise."""
    run.trainer.strategy.root_device = torch.device("cuda")
    cached = {"has_latents": True, "embeddings": (77, 32), **shape}
    found = BatchShape(num_pictures=6, size=(64, 64), **cached)
    monkeypatch.setattr(preflight, "batch_shape", lambda run: found)
    run.module.teacher = None
    return run


def test_auto_lets_parts_wait_before_it_recomputes(
    random_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = on_gpu(Run(random_base), monkeypatch)
    lines = run.check(monkeypatch, free_gib=6.81)
    assert lines[1:] == [
        "trainer.offload=auto: switched on, since a step needs it to fit: about 7.5 GiB at the "
        "peak of a step (weights 1.0 GiB, gradients and optimizer 512 MiB, activations 6.0 GiB)"
    ]
    assert run.waiting == [run.family.text_encoder, run.family.vae]
    assert not recomputes(run.module)
    lines = run.check(monkeypatch, free_gib=3.0)
    assert [line.partition(":")[0] for line in lines[3:]] == [
        "trainer.offload=auto",
        "trainer.gradient_checkpointing=auto",
    ]


def test_parts_wait_when_told_to(random_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = on_gpu(Run(random_base, "trainer.offload=true"), monkeypatch)
    [line] = run.check(monkeypatch, free_gib=99.0)
    assert "weights 1.0 GiB" in line
    assert run.waiting == [run.family.text_encoder, run.family.vae]


def test_parts_that_may_not_wait_are_a_change_to_make(
    random_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = on_gpu(Run(random_base, "trainer.offload=false"), monkeypatch)
    lines = run.check(monkeypatch, free_gib=0.5)
    assert [line.partition(":")[0].strip() for line in lines[2:5]] == [
        "warning",
        "trainer.offload=true",
        "data.batch_size=1 trainer.accumulate_grad_batches=6",
    ]
    assert run.waiting == []


def test_a_run_says_that_nothing_can_wait(
    random_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(random_base, "trainer.offload=true")  # on the CPU
    assert run.check(monkeypatch, free_gib=99.0)[0] == (
        "trainer.offload=true has no effect; it needs one CUDA GPU, and pictures or captions that "
        "are cached"
    )
    assert run.waiting == []


def test_only_what_no_step_calls_can_wait(
    random_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = on_gpu(Run(random_base), monkeypatch, has_latents=False)
    assert idle_parts(run) == [run.family.text_encoder]  # type: ignore[arg-type]
    run = on_gpu(Run(random_base), monkeypatch, embeddings=None)
    assert idle_parts(run) == [run.family.vae]  # type: ignore[arg-type]
    run = on_gpu(Run(random_base), monkeypatch)
    run.module.teacher = object()  # which reads the class prompt at every step
    assert idle_parts(run) == [run.family.vae]  # type: ignore[arg-type]
    several = on_gpu(Run(random_base, "trainer.devices=2"), monkeypatch)
    assert idle_parts(several) == []  # type: ignore[arg-type]
    assert idle_parts(Run(random_base)) == []  # type: ignore[arg-type]


def test_what_to_change_comes_with_what_each_would_take(
    random_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(random_base, "trainer.gradient_checkpointing=false")
    lines = run.check(monkeypatch, free_gib=3.1)
    assert lines[0] == LINE.format("5.1")
    assert lines[1].startswith("warning: this may not fit")
    assert lines[2:] == [
        "  trainer.gradient_checkpointing=true: about 3.5 GiB, fits",
        # 6 / 3 = 2 pictures hold 2 GiB, with 0.5 and a fifth: 3.0
        "  data.batch_size=2 trainer.accumulate_grad_batches=3: about 4.5 GiB, fits",
        "  model.quantise=nf4: about 8.5 GiB, not enough alone",  # of the tiny base hardly anything
        "  data.resolution=32: about 4.0 GiB, fits",
    ]
    assert not recomputes(run.module)  # it was only tried


def test_no_estimate_stops_no_run(random_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(random_base)

    def cannot(run: Any) -> StepCost:
        raise RuntimeError("it asks for a value")

    monkeypatch.setattr(preflight, "_estimate", cannot)
    check_cost(run)  # type: ignore[arg-type]
    assert run.lines == ["memory and time: not known before the first step (it asks for a value)"]


def test_smaller_weights_leave_more_room() -> None:
    assert not fits(memory(1.0, weights=2.0), room=3 * GIB)
    assert fits(memory(1.0, weights=1.0), room=3 * GIB)


def test_the_processors_free_memory_is_the_systems() -> None:
    free = free_bytes(torch.device("cpu"))
    assert free == pytest.approx(psutil.virtual_memory().available, rel=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sdxl", "kolors"])
def test_every_family_can_be_estimated(name: str, random_bases: dict[str, Path]) -> None:
    frozen = ("lora.text_encoder.method=frozen",)
    config = train_config(random_bases[name], *frozen, family=name)
    family = load(config)
    adapters.add_adapters(family, adapters.lora_specs(config.lora, name), config.seed)
    rows = family.encode_prompts(family.tokenize(["a picture"]).ids).shape[1:]
    side = 2 * family.resolution_step
    shape = BatchShape(num_pictures=2, size=(side, side), has_latents=False, embeddings=rows)
    found = step_cost(
        lightning_trainer.module(config, family, None),
        shape,
        nullcontext(),
        lambda weight: torch.optim.SGD([weight]),
    )
    assert found.states == 0
    assert found.activations > 2 * side * side * 3 * 4  # the pictures themselves

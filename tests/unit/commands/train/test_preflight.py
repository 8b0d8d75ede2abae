"""Before step 1: what is said of memory, and what the plan changes where it is too little."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from sdlora.commands.train import preflight
from sdlora.commands.train.preflight import GIB, Plan, free_bytes, plan
from sdlora.training.memory_settings import StepMemory
from sdlora.training.step_cost import StepCost
from tests.unit.commands.train.test_reuse import train_config

IDLE = ("text_encoder", "vae")


def estimate(is_recomputed: bool) -> StepCost:
    """A step takes 6 GiB of activations, 1 with gradient checkpointing."""
    return StepCost(
        weights=2 * GIB,
        gradients=GIB // 4,
        states=GIB // 4,
        activations=(1 if is_recomputed else 6) * GIB,
        forward_flops=0,
        num_pictures=6,
    )


class Run:
    """What a plan is made of, and what it prints."""

    def __init__(self, base: Path, *overrides: str, device: str = "cpu") -> None:
        self.config = train_config(base, "data.batch_size=6", *overrides)
        self.lines: list[str] = []
        self.device = torch.device(device)

    def plan(
        self,
        monkeypatch: pytest.MonkeyPatch,
        free_gib: float,
        idle: Sequence[str] = (),
        is_resumed: bool = False,
        has_bitsandbytes: bool = False,
        streamed_gib: int = 0,
    ) -> Plan:
        memory = StepMemory(
            batch_size=6,
            estimate=estimate,
            idle_bytes=GIB * bool(idle),
            quantised_bytes={"int8": GIB // 2, "nf4": GIB},
            streamed_bytes={None: GIB * streamed_gib, "int8": 0} if streamed_gib else {},
            resolution_step=8,
        )
        monkeypatch.setattr(preflight, "step_memory", lambda *_: (memory, tuple(idle)))
        monkeypatch.setattr(preflight, "free_bytes", lambda device: round(free_gib * GIB))
        monkeypatch.setattr(preflight, "find_spec", lambda name: has_bitsandbytes or None)
        trainer: Any = SimpleNamespace(strategy=SimpleNamespace(root_device=self.device))
        progress: Any = SimpleNamespace(print=self.lines.append)
        pictures: Any = None
        return plan(self.config, pictures, trainer, progress, is_resumed=is_resumed)


LINE = (
    "memory: about 8.5 GiB at the peak of a step (weights 2.0 GiB, gradients and optimizer "
    "512 MiB, activations 6.0 GiB); {}"
)


@pytest.mark.parametrize("checkpointing", ["auto", "false"])
def test_where_a_step_fits_one_line_says_so(
    checkpointing: str, random_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(random_base, f"trainer.gradient_checkpointing={checkpointing}")
    # 6.5 GiB beside 2 of weights, and a fifth for the kernels: 9.8
    found = run.plan(monkeypatch, free_gib=9.81)
    assert run.lines == [LINE.format("9.8 GiB free on cpu")]
    assert found.config == run.config
    assert not found.gradient_checkpointing
    assert not found.offload


def test_auto_recomputes_where_it_would_not_fit(
    random_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(random_base)
    found = run.plan(monkeypatch, free_gib=9.7)
    assert run.lines == [
        LINE.format("9.7 GiB free on cpu"),
        "plan: trainer.gradient_checkpointing=true, so that a step fits: about 3.5 GiB at the peak "
        "of a step (weights 2.0 GiB, gradients and optimizer 512 MiB, activations 1.0 GiB)",
    ]
    assert found.gradient_checkpointing
    assert found.config == run.config  # it changes no weight
    assert found.cost == estimate(True)


def test_auto_lets_parts_wait_before_it_recomputes(
    random_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(random_base, device="cuda")
    found = run.plan(monkeypatch, free_gib=8.81, idle=IDLE)
    assert run.lines[1].startswith("plan: trainer.offload=true, so that")
    assert (found.offload, found.gradient_checkpointing) == (True, False)
    both = run.plan(monkeypatch, free_gib=3.0, idle=IDLE)
    assert both.gradient_checkpointing
    assert both.offload


def test_parts_wait_when_told_to(random_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(random_base, "trainer.offload=true", device="cuda")
    found = run.plan(monkeypatch, free_gib=99.0, idle=IDLE)
    [line] = run.lines
    assert "weights 1.0 GiB" in line
    assert found.offload


def test_a_run_says_that_nothing_can_wait(
    random_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(random_base, "trainer.offload=true")
    run.plan(monkeypatch, free_gib=99.0)
    assert run.lines[1] == (
        "trainer.offload=true has no effect; it needs one CUDA GPU, and pictures or captions that "
        "are cached"
    )


def test_a_card_is_planned_for(random_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(random_base, "trainer.memory_gb=3.5", "trainer.accumulate_grad_batches=2")
    # 3.0 of it: 2 of weights, 0.5 + 1 / 6 and a fifth are 0.8
    found = run.plan(monkeypatch, free_gib=99.0)
    assert run.lines[0] == LINE.format("planned for trainer.memory_gb=3.5, 0.5 GiB of it reserved")
    assert run.lines[1] == (
        "plan: trainer.gradient_checkpointing=true data.batch_size=2 "
        "trainer.accumulate_grad_batches=6, so that a step fits: about 2.8 GiB at the peak of a "
        "step (weights 2.0 GiB, gradients and optimizer 512 MiB, activations 341 MiB)"
    )
    assert len(run.lines) == 2
    assert found.config.data.batch_size == 2
    assert found.config.trainer.accumulate_grad_batches == 6
    assert found.config.model.quantise is None


ALL_WEIGHTS = ("lora.unet.method=full", "lora.text_encoder.method=frozen")


@pytest.mark.parametrize(
    ("card_gb", "overrides", "has_bitsandbytes", "expected"),
    [
        (3.4, (), True, None),  # 2 of weights, and 1.2 (0.5 + 1 / 6) of a step with one picture
        (3, (), True, "int8"),
        (3, (), False, "int8"),
        (2.5, (), True, "nf4"),
        (2.5, (), False, "int8"),
        (3, ALL_WEIGHTS, True, None),
        (3, ("lora.init=pissa",), True, None),
    ],
)
def test_the_base_is_rounded_last_and_only_where_it_can_be(
    card_gb: float,
    overrides: tuple[str, ...],
    has_bitsandbytes: bool,
    expected: str | None,
    random_base: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Run(random_base, f"trainer.memory_gb={card_gb}", *overrides)
    found = run.plan(monkeypatch, free_gib=99.0, has_bitsandbytes=has_bitsandbytes)
    assert found.config.model.quantise == expected


def test_blocks_wait_before_the_base_is_rounded(
    random_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(random_base, "trainer.memory_gb=3", device="cuda")
    found = run.plan(monkeypatch, free_gib=99.0, streamed_gib=1)
    assert run.lines[1].startswith(
        "plan: trainer.offload=blocks trainer.gradient_checkpointing=true data.batch_size=3 "
        "trainer.accumulate_grad_batches=2, so that a step fits: about 2.0 GiB at the peak"
    )
    assert (found.blocks, found.gradient_checkpointing) == (True, True)
    assert found.config.model.quantise is None
    for given in ("trainer.offload=true", "trainer.gradient_checkpointing=false"):
        kept = Run(random_base, "trainer.memory_gb=3", given, device="cuda")
        assert not kept.plan(monkeypatch, free_gib=99.0, streamed_gib=1).blocks
        listed = [line.partition(":")[0].strip() for line in kept.lines]
        is_listed = "trainer.offload=blocks trainer.gradient_checkpointing=true" in listed
        assert is_listed == (given != "trainer.offload=true")  # that one fits, in 8 bits


def test_blocks_wait_when_told_to(random_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(random_base, "trainer.offload=blocks", device="cuda")
    found = run.plan(monkeypatch, free_gib=99.0, idle=IDLE, streamed_gib=1)
    [line] = run.lines
    assert "about 1.5 GiB at the peak of a step (weights 0 MiB," in line
    assert (found.offload, found.blocks, found.gradient_checkpointing) == (True, True, True)
    assert found.config == run.config
    elsewhere = Run(random_base, "trainer.offload=blocks")
    found = elsewhere.plan(monkeypatch, free_gib=99.0)
    assert elsewhere.lines[1] == (
        "trainer.offload=blocks has no effect; it needs one CUDA GPU, and a denoiser with blocks "
        "that repeat"
    )
    assert (found.blocks, found.gradient_checkpointing) == (False, False)


def test_a_resumed_run_keeps_its_batches(
    random_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(random_base, "trainer.memory_gb=3")
    found = run.plan(monkeypatch, free_gib=99.0, is_resumed=True, has_bitsandbytes=True)
    assert found.config == run.config
    assert found.gradient_checkpointing
    assert any(line.strip().startswith("data.batch_size=1 ") for line in run.lines)


def test_several_devices_follow_what_is_the_same_for_all(
    random_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(random_base, "trainer.devices=2")
    assert run.plan(monkeypatch, free_gib=1.0).config == run.config
    told = Run(random_base, "trainer.devices=2", "trainer.memory_gb=3.4")
    assert told.plan(monkeypatch, free_gib=1.0).config.data.batch_size == 1


def test_parts_that_may_not_wait_are_a_change_to_make(
    random_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(random_base, "trainer.offload=false", device="cuda")
    found = run.plan(monkeypatch, free_gib=0.5, idle=IDLE)
    assert found.config.data.batch_size == 1
    assert [line.partition(":")[0].strip() for line in run.lines[2:]] == [
        "warning",
        "trainer.offload=true",
        "data.resolution=32",
    ]
    assert not found.offload
    assert found.config.model.quantise == "int8"


def test_what_to_change_comes_with_what_each_would_take(
    random_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(random_base, "trainer.gradient_checkpointing=false")
    run.plan(monkeypatch, free_gib=5.1, is_resumed=True)
    assert run.lines[1].startswith("warning: this may not fit")
    assert run.lines[2:] == [
        "  trainer.gradient_checkpointing=true: about 3.5 GiB, fits",
        # 6 / 3 = 2 pictures hold 2 GiB, with 0.5 and a fifth: 3.0
        "  data.batch_size=2 trainer.accumulate_grad_batches=3: about 4.5 GiB, fits",
        "  model.quantise=int8: about 8.0 GiB, not enough alone",
        "  model.quantise=nf4: about 7.5 GiB, not enough alone",
        "  data.resolution=32: about 4.0 GiB, fits",
    ]


@pytest.mark.parametrize("error", [RuntimeError("it asks\nfor a value"), KeyError("train")])
def test_no_estimate_stops_a_run(
    error: Exception, random_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(random_base, "trainer.gradient_checkpointing=true")

    def cannot(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(preflight, "_choose", cannot)
    found = run.plan(monkeypatch, free_gib=9.0)
    [line] = run.lines
    told = {"RuntimeError": "RuntimeError: it asks", "KeyError": "KeyError: 'train'"}
    why = told[type(error).__name__]
    assert line == f"memory and time: not known before the first step ({why})"
    assert (found.config, found.cost, found.offload) == (run.config, None, False)
    assert found.gradient_checkpointing


def test_a_plan_that_was_asked_for_and_cannot_be_made_is_said(
    random_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(random_base, "trainer.offload=true", "trainer.memory_gb=8")
    monkeypatch.setattr(preflight, "_choose", lambda *_: 1 / 0)
    assert run.plan(monkeypatch, free_gib=9.0).offload  # what was set by hand is done all the same
    assert run.lines[1:] == [
        "warning: trainer.memory_gb=8: without effect, for that reason",
    ]


def test_the_processors_free_memory_is_the_systems() -> None:
    free = free_bytes(torch.device("cpu"))
    assert free == pytest.approx(psutil.virtual_memory().available, rel=0.2)

"""Optimizers and schedules by name; the schedule's rates against closed forms."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from sdlora.optim import (
    OPTIMIZERS,
    SCHEDULES,
    build_optimizer,
    build_schedule,
    check_options,
    optimizer_factory,
    parameter_groups,
)


def weights(*values: float) -> list[nn.Parameter]:
    return [nn.Parameter(torch.tensor([value])) for value in values]


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "adamw8bit"])
def test_every_optimizer_steps_downhill(name: str) -> None:
    parameters = weights(1.0)
    groups = parameter_groups({"unet": (parameters, 0.1)})
    optimizer = build_optimizer(name, groups, {})
    for _ in range(3):
        optimizer.zero_grad()
        (parameters[0] ** 2).sum().backward()
        optimizer.step()
    assert 0 < parameters[0].item() < 1


def test_adamw_first_step_by_hand() -> None:
    """Bias-corrected moments of one gradient g are g and g^2: the step is lr g / (|g| + eps)."""
    parameters = weights(2.0)
    groups = parameter_groups({"unet": (parameters, 0.01)})
    optimizer = build_optimizer("adamw", groups, {"weight_decay": 0.1, "eps": 1e-8})
    parameters[0].grad = torch.tensor([0.5])
    optimizer.step()
    # decay first: 2 - 0.01 * 0.1 * 2, then the step of 0.01; float32 rounds in the 7th digit
    assert parameters[0].item() == pytest.approx(2.0 - 0.002 - 0.01, abs=1e-6)


def test_each_part_has_its_own_rate_and_empty_parts_are_left_out() -> None:
    groups = parameter_groups(
        {"unet": (weights(1.0), 1e-3), "text_encoder": (weights(1.0, 2.0), 1e-4), "vae": ([], 1.0)}
    )
    optimizer = build_optimizer("sgd", groups, {"momentum": 0.9})
    found = [(g["name"], g["lr"], len(g["params"]), g["momentum"]) for g in optimizer.param_groups]
    assert found == [("unet", 1e-3, 1, 0.9), ("text_encoder", 1e-4, 2, 0.9)]


def rates(name: str, num_steps: int = 10, **options: Any) -> list[float]:
    optimizer = build_optimizer("sgd", parameter_groups({"unet": (weights(1.0), 2.0)}), {})
    schedule = build_schedule(name, optimizer, num_steps=num_steps, **options)
    found = []
    for _ in range(num_steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_cosine_with_restarts_against_its_formula() -> None:
    """Warm-up k / w, then (1 + cos(pi frac(n p))) / 2 with p the share of what is left."""
    found = rates("cosine_with_restarts", warmup_steps=2, num_cycles=2)
    expected = [0.0, 1.0] + [1 + math.cos(math.pi * (2 * k / 8 % 1)) for k in range(8)]
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_is_known_to_diffusers(name: str) -> None:
    found = rates(name, warmup_steps=0, num_cycles=1)
    assert found[0] == 2.0
    assert all(0 <= rate <= 2.0 for rate in found)
    assert rates("constant", warmup_steps=0, num_cycles=1) == [2.0] * 10


def test_unknown_names_and_options_say_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"^optim.name=adamq: unknown; did you mean adamw\? choic"):
        optimizer_factory("adamq")
    with pytest.raises(ValueError, match=r"^scheduler.name=cosin: unknown; did you mean cosine\?"):
        rates("cosin", warmup_steps=0, num_cycles=1)
    factory = optimizer_factory("adamw")
    check_options("optim.options", factory, {"eps": 1e-6, "betas": [0.9, 0.99]})
    with pytest.raises(ValueError, match=r"^optim.options.epss=1: unknown; did you mean eps\?"):
        check_options("optim.options", factory, {"epss": 1})
    for taken in ("lr", "params"):
        with pytest.raises(ValueError, match=f"^optim.options.{taken}=1: unknown"):
            check_options("optim.options", factory, {taken: 1})


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Any:
        raise ImportError("no bitsandbytes")

    monkeypatch.setitem(OPTIMIZERS, "adamw8bit", missing)
    with pytest.raises(ValueError, match="^optim.name=adamw8bit: .*pip install bitsandbytes$"):
        optimizer_factory("adamw8bit")


def test_an_installed_package_adds_names(monkeypatch: pytest.MonkeyPatch) -> None:
    class Entry:
        name = "mine"

        def load(self) -> type[torch.optim.Optimizer]:
            return torch.optim.SGD

    monkeypatch.setattr("sdlora.optim.entry_points", lambda group: [Entry()])
    assert optimizer_factory("mine") is torch.optim.SGD

"""Optimizers and schedules by name; the schedule's rates against closed forms."""

import math
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import nn

from sdlora.config.rules import check_options
from sdlora.training.optimizers import (
    COSINE_ANNEALING,
    FLAT_SCHEDULES,
    OPTIMIZERS,
    PACKAGES,
    SCHEDULES,
    averages_itself,
    build_optimizer,
    build_schedule,
    fused_where_faster,
    optimizer_factory,
    parameter_groups,
)


def weights(*values: float) -> dict[str, nn.Parameter]:
    return {f"w{n}": nn.Parameter(torch.tensor([value])) for n, value in enumerate(values)}


def group(named: dict[str, nn.Parameter], rate: float) -> list[dict[str, Any]]:
    return parameter_groups({"unet": named}, {"unet": rate})


@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU:UserWarning")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_steps_downhill(name: str) -> None:
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name].replace("-", "_"))
    named = weights(1.0)
    (weight,) = named.values()
    optimizer: Any = build_optimizer(name, group(named, 0.1), {})
    if averages_itself(optimizer_factory(name)):
        optimizer.train()
    for _ in range(3):
        optimizer.zero_grad()
        (weight**2).sum().backward()
        optimizer.step()
    assert 0 < weight.item() < 1


def test_which_optimizers_average_the_weights_themselves() -> None:
    pytest.importorskip("schedulefree")
    pytest.importorskip("pytorch_optimizer")
    found = [
        name
        for name in ("adamw", "prodigy", "lion", "came", "schedule_free_adamw")
        if averages_itself(optimizer_factory(name))
    ]
    assert found == ["schedule_free_adamw"]


def test_adamw_first_step_by_hand() -> None:
    """Bias-corrected moments of one gradient g are g and g^2: the step is lr g / (|g| + eps)."""
    named = weights(2.0)
    (weight,) = named.values()
    optimizer = build_optimizer("adamw", group(named, 0.01), {"weight_decay": 0.1, "eps": 1e-8})
    weight.grad = torch.tensor([0.5])
    optimizer.step()
    # decay first: 2 - 0.01 * 0.1 * 2, then the step of 0.01; float32 rounds in the 7th digit
    assert weight.item() == pytest.approx(2.0 - 0.002 - 0.01, abs=1e-6)


def after(weight: nn.Parameter, optimizer: torch.optim.Optimizer, *gradients: float) -> float:
    """The weight after a step on each of these gradients."""
    for gradient in gradients:
        weight.grad = torch.tensor([gradient])
        optimizer.step()
    return weight.item()


def test_sgd_with_nesterov_momentum_by_hand() -> None:
    """Momentum b of 1 and then 0.9 * 1 + 2 = 2.9; each step is lr (g + 0.9 b)."""
    named = weights(2.0)
    options = {"momentum": 0.9, "nesterov": True}
    optimizer = build_optimizer("sgd", group(named, 0.1), options)
    expected = 2.0 - 0.1 * (1 + 0.9 * 1) - 0.1 * (2 + 0.9 * 2.9)
    assert after(named["w0"], optimizer, 1.0, 2.0) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("gradients", "moved"),
    [
        ((0.5,), -0.1),
        ((0.5, -0.04), -0.2),  # 0.9 * 0.005 - 0.1 * 0.04 > 0: the momentum decides
        ((0.5, -0.06), 0.0),  # 0.9 * 0.005 - 0.1 * 0.06 < 0
    ],
)
def test_lion_steps_by_the_sign_of_its_momentum(gradients: Sequence[float], moved: float) -> None:
    """sign(0.9 m + 0.1 g), where m is 0.99 m + 0.01 g of the steps before."""
    pytest.importorskip("pytorch_optimizer")
    named = weights(2.0)
    options = {"betas": (0.9, 0.99), "weight_decay": 0.0}
    optimizer = build_optimizer("lion", group(named, 0.1), options)
    assert after(named["w0"], optimizer, *gradients) == pytest.approx(2.0 + moved, abs=1e-6)


def test_each_part_has_its_own_rate_and_empty_parts_are_left_out() -> None:
    groups = parameter_groups(
        {"unet": weights(1.0), "text_encoder": weights(1.0, 2.0), "vae": {}},
        {"unet": 1e-3, "text_encoder": 1e-4},
    )
    optimizer = build_optimizer("sgd", groups, {"momentum": 0.9})
    found = [(g["name"], g["lr"], len(g["params"]), g["momentum"]) for g in optimizer.param_groups]
    assert found == [("unet", 1e-3, 1, 0.9), ("text_encoder", 1e-4, 2, 0.9)]


def test_lora_plus_gives_the_matrices_b_a_rate_of_their_own() -> None:
    """By hand with plain gradient steps: A moves by lr g, B by 16 lr g."""
    names = ["to_q.lora_A.default.weight", "to_q.lora_B.default.weight", "to_q.lora_magnitude"]
    unet = dict(zip(names, weights(1.0, 1.0, 1.0).values(), strict=True))
    text_encoder = {"q.lora_B.default.weight": nn.Parameter(torch.ones(1))}
    parts, rates = {"unet": unet, "text_encoder": text_encoder}, {"unet": 0.01, "text_encoder": 0.5}
    groups = parameter_groups(parts, rates, lora_plus_ratio=16)
    found = [(g["name"], g["lr"], len(g["params"])) for g in groups]
    assert found == [("unet", 0.01, 2), ("unet_b", 0.16, 1), ("text_encoder_b", 8.0, 1)]

    optimizer = build_optimizer("sgd", groups, {})
    for weight in [*unet.values(), *text_encoder.values()]:
        weight.grad = torch.ones(1)
    optimizer.step()
    moved = [1 - weight.item() for weight in unet.values()]
    assert moved == pytest.approx([0.01, 0.16, 0.01], abs=1e-6)  # float32
    assert [g["name"] for g in parameter_groups(parts, rates)] == ["unet", "text_encoder"]


class OnCuda:
    """A weight as far as the choice of the kernel looks at one."""

    is_cuda = True


@pytest.mark.parametrize(
    ("name", "options", "scales_loss", "fused"),
    [
        ("adamw", {"weight_decay": 0.1}, False, True),
        ("adamw", {"fused": None}, False, True),
        ("adamw", {"fused": False}, False, False),
        ("adamw", {"foreach": True}, False, None),
        ("adamw", {}, True, None),
        ("sgd", {}, False, None),
    ],
)
def test_adamw_is_fused_on_cuda_unless_told_otherwise(
    name: str, options: dict[str, Any], scales_loss: bool, fused: bool | None
) -> None:
    on_cuda: Sequence[dict[str, Any]] = [{"params": [OnCuda()]}]
    found = fused_where_faster(name, on_cuda, options, scales_loss=scales_loss)
    assert found.pop("fused", None) == fused
    assert found == {key: value for key, value in options.items() if key != "fused"}
    on_cpu = group(weights(1.0), 0.1)
    assert fused_where_faster(name, on_cpu, options, scales_loss=scales_loss) == options


def rates(name: str, num_steps: int = 10, base: float = 2.0, **options: Any) -> list[float]:
    optimizer = build_optimizer("sgd", group(weights(1.0), base), {})
    settings = {"warmup_steps": 0, "num_cycles": 1, "num_steps": num_steps, **options}
    schedule = build_schedule(name, optimizer, **settings)
    found = []
    for _ in range(num_steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def torch_annealing(num_steps: int, base: float, eta_min: float) -> list[float]:
    """The rates of torch's own class, one more than it has steps."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=base)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps, eta_min)
    found = [base]
    for _ in range(num_steps):
        optimizer.step()
        schedule.step()
        found.append(schedule.get_last_lr()[0])
    return found


def test_cosine_annealing_is_torchs() -> None:
    found = rates(COSINE_ANNEALING, eta_min=0.5)
    expected = torch_annealing(10, 2.0, 0.5)
    assert found == pytest.approx(expected[:10], rel=1e-12)
    assert rates(COSINE_ANNEALING, num_steps=5, eta_min=2.0) == [2.0] * 5  # nothing to come down


def test_cosine_annealing_ends_at_the_least_rate_of_every_group() -> None:
    parts = {"unet": weights(1.0), "text_encoder": weights(1.0)}
    optimizer = build_optimizer(
        "sgd", parameter_groups(parts, {"unet": 2.0, "text_encoder": 0.125}), {}
    )
    schedule = build_schedule(
        COSINE_ANNEALING, optimizer, warmup_steps=0, num_steps=4, num_cycles=1, eta_min=0.1
    )
    for _ in range(2):
        optimizer.step()
        schedule.step()
    assert schedule.get_last_lr() == pytest.approx([1.05, 0.1125], rel=1e-12)  # half way
    for _ in range(2):
        optimizer.step()
        schedule.step()
    assert schedule.get_last_lr() == pytest.approx([0.1, 0.1], rel=1e-12)


def test_cosine_annealing_after_a_warm_up() -> None:
    """k / w of the rate, then torch's over the steps that are left."""
    found = rates(COSINE_ANNEALING, warmup_steps=4, eta_min=0.5)
    assert found[:4] == [0.0, 0.5, 1.0, 1.5]
    assert found[4:] == pytest.approx(torch_annealing(6, 2.0, 0.5)[:6], rel=1e-12)


def test_cosine_annealing_by_epoch_is_torchs_stepped_at_the_end_of_epochs() -> None:
    found = rates(COSINE_ANNEALING, num_steps=12, eta_min=0.5, steps_per_epoch=Fraction(3))
    by_epoch = torch_annealing(4, 2.0, 0.5)
    expected = [by_epoch[step // 3] for step in range(12)]
    assert found == pytest.approx(expected, rel=1e-12)


def test_an_epoch_may_end_within_a_step() -> None:
    """Epochs of 7 batches, 3 batches a step: the rate changes at steps 3 (of 7 / 3), 5, 7, 10."""
    found = rates(COSINE_ANNEALING, num_steps=11, eta_min=0.0, steps_per_epoch=Fraction(7, 3))
    changes = [step for step in range(1, 11) if found[step] != found[step - 1]]
    assert changes == [3, 5, 7, 10]
    # 33 batches are 33 / 7 epochs
    expected = [1 + math.cos(math.pi * epoch / (33 / 7)) for epoch in range(5)]
    assert [found[0], *(found[step] for step in changes)] == pytest.approx(expected, rel=1e-12)


def test_a_longer_run_goes_on_along_the_longer_cosine() -> None:
    """torch's class would keep the first length, and rise again."""

    def run(num_steps: int, until: int, state: dict[str, Any] | None = None) -> Any:
        optimizer = build_optimizer("sgd", group(weights(1.0), 2.0), {})
        schedule = build_schedule(
            COSINE_ANNEALING,
            optimizer,
            warmup_steps=0,
            num_steps=num_steps,
            num_cycles=1,
            eta_min=0.5,
        )
        if state is not None:
            schedule.load_state_dict(state)
        while schedule.last_epoch < until:
            optimizer.step()
            schedule.step()
        return schedule

    first = run(10, 10)
    assert first.get_last_lr() == pytest.approx([0.5])
    longer = run(20, 15, first.state_dict())
    assert longer.get_last_lr() == run(20, 15).get_last_lr()


def test_cosine_with_restarts_against_its_formula() -> None:
    """Warm-up k / w, then (1 + cos(pi frac(n p))) / 2 with p the share of what is left."""
    found = rates("cosine_with_restarts", warmup_steps=2, num_cycles=2)
    expected = [0.0, 1.0] + [1 + math.cos(math.pi * (2 * k / 8 % 1)) for k in range(8)]
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "factor"),
    [
        ("constant_with_warmup", lambda p: 1.0),
        ("linear", lambda p: 1 - p),
        ("cosine", lambda p: (1 + math.cos(math.pi * p)) / 2),
        ("polynomial", lambda p: (1 - p) + p * 1e-7 / 2),  # down to a rate of 1e-7
    ],
)
def test_schedules_against_their_formulas(name: str, factor: Callable[[float], float]) -> None:
    """Warm-up k / w, then the rate of 2 times a factor of p, the share of the other steps."""
    expected = [0.0, 1.0] + [2 * factor(k / 8) for k in range(8)]
    assert rates(name, warmup_steps=2) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_comes_down_from_the_full_rate(name: str) -> None:
    found = rates(name)
    assert found[0] == 2.0
    assert all(0 <= rate <= 2.0 for rate in found)
    assert (found == [2.0] * 10) == (name in FLAT_SCHEDULES)


def test_unknown_names_and_options_say_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"^optim.name=adamq: unknown; did you mean adamw\? choic"):
        optimizer_factory("adamq")
    with pytest.raises(ValueError, match=r"^scheduler.name=cosin: unknown; did you mean cosine\?"):
        rates("cosin")
    factory = optimizer_factory("adamw")
    check_options("optim.options", factory, {"eps": 1e-6, "betas": [0.9, 0.99]})
    with pytest.raises(ValueError, match=r"^optim.options.epss=1: unknown; did you mean eps\?"):
        check_options("optim.options", factory, {"epss": 1})
    for taken in ("lr", "params"):
        with pytest.raises(ValueError, match=f"^optim.options.{taken}=1: unknown"):
            check_options("optim.options", factory, {taken: 1})


@pytest.mark.parametrize(("name", "package"), PACKAGES.items())
def test_a_missing_package_is_named(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package.replace("-", "_"), None)  # as if it were not there
    told = f"^optim.name={name}: needs a package that is not installed; pip install {package}$"
    with pytest.raises(ValueError, match=told):
        optimizer_factory(name)


def test_an_installed_package_adds_names(monkeypatch: pytest.MonkeyPatch) -> None:
    class Entry:
        name = "mine"

        def load(self) -> type[torch.optim.Optimizer]:
            return torch.optim.SGD

    monkeypatch.setattr("sdlora.training.optimizers.entry_points", lambda group: [Entry()])
    assert optimizer_factory("mine") is torch.optim.SGD

"""One training step: loss and LoRA gradients against the formulas, written out in float64.

The reference shares with the module the frozen weights and the random draws, and nothing else: it
builds each adapted layer as W + alpha / r * B A, without peft, and takes gradients by A and B.
"""

import copy
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import lightning
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import DataLoader
from transformers import CLIPTextConfig, CLIPTextModel

from sdlora.adapters.lora import add_lora
from sdlora.adapters.spec import LoraSpec
from sdlora.data.batches.dataset import Batch
from sdlora.diffusion.noise_schedule import NoiseSchedule
from sdlora.diffusion.objective import Objective
from sdlora.diffusion.weighting import min_snr_weight
from sdlora.models.sd import StableDiffusion
from sdlora.runtime.randomness import normal, uniform
from sdlora.training.module import DiffusionModule

SEED, R, ALPHA, LENGTH = 7, 4, 6.0, 8
SCALING_FACTOR = 0.18215
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
TARGETS = {
    "unet": ("to_q", "to_k", "to_v", "to_out.0"),
    "text_encoder": ("q_proj", "k_proj", "v_proj", "out_proj"),
}


@dataclass(frozen=True)
class Case:
    prediction_type: str
    gamma: float
    text_encoder: bool = False


CASES = [
    Case("epsilon", math.inf),
    Case("epsilon", 5.0),
    Case("v_prediction", 5.0),
    Case("epsilon", 5.0, text_encoder=True),
]


def tiny_family() -> StableDiffusion:
    text = CLIPTextConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=8,
    )
    vae = AutoencoderKL(
        block_out_channels=(16, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=8,
        scaling_factor=SCALING_FACTOR,
    )
    return StableDiffusion(vae, CLIPTextModel(text), unet, cast(Any, None), BETAS)


def tiny_batch(num: int = 3) -> Batch:
    index = torch.arange(40, 40 + num)
    return Batch(
        sample_index=index,
        picture_index=torch.arange(num),
        token_ids=torch.randint(0, 50, (num, LENGTH)),
        names=tuple(f"{i}.png" for i in range(num)),
        weights=torch.ones(num),
        moments=torch.cat([torch.randn(num, 4, 8, 8) * 4, torch.randn(num, 4, 8, 8) - 3], dim=1),
    )


def adapted(family: StableDiffusion, case: Case) -> DiffusionModule:
    """The module under test, its adapters moved off zero so that A has a gradient too."""
    for part in ("unet", "text_encoder") if case.text_encoder else ("unet",):
        spec = LoraSpec(r=R, alpha=ALPHA, dropout=0.0, targets=TARGETS[part])
        add_lora(getattr(family, part), spec, seed=1)
    for name, parameter in family.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.1)
    schedule = NoiseSchedule.from_config(BETAS, case.prediction_type)
    unused = cast(Any, None)
    weight = partial(min_snr_weight, gamma=case.gamma)
    module = DiffusionModule(family, Objective(schedule, weight), unused, unused, SEED)
    module.log = lambda *args, **kwargs: None  # type: ignore[method-assign]  # no Trainer here
    return module


def pieces(batch: Batch, size: int) -> list[Batch]:
    assert batch.moments is not None
    return [
        Batch(
            sample_index=batch.sample_index[start : start + size],
            picture_index=batch.picture_index[start : start + size],
            token_ids=batch.token_ids[start : start + size],
            names=batch.names[start : start + size],
            weights=batch.weights[start : start + size],
            moments=batch.moments[start : start + size],
        )
        for start in range(0, len(batch), size)
    ]


def split(name: str) -> tuple[str, str]:
    """``unet.mid.to_q.lora_A.default.weight`` -> (``mid.to_q.weight``, ``A``)."""
    layer, _, rest = name.partition(".lora_")
    return f"{layer}.weight", rest[0]


class Reference:
    """The same step from the formulas, in float64."""

    def __init__(self, frozen: StableDiffusion, adapters: dict[str, dict[str, Tensor]]) -> None:
        self.unet = copy.deepcopy(frozen.unet).double()
        self.text_encoder = copy.deepcopy(frozen.text_encoder).double()
        self.leaves = {
            part: {n: p.detach().double().requires_grad_() for n, p in found.items()}
            for part, found in adapters.items()
        }

    def call(self, part: str, *args: Tensor) -> Any:
        module: nn.Module = getattr(self, part)
        weights = dict(module.named_parameters())
        for name, leaf in self.leaves.get(part, {}).items():
            weight, factor = split(name)
            if factor == "A":
                b = self.leaves[part][name.replace("lora_A", "lora_B")]
                weights[weight] = weights[weight] + ALPHA / R * b @ leaf
        return functional_call(module, weights, args)

    def loss(self, batch: Batch, case: Case) -> Tensor:
        draws = {
            purpose: normal((4, 8, 8), SEED, purpose, batch.sample_index).double()
            for purpose in ("posterior", "noise")
        }
        assert batch.moments is not None
        mean, logvar = batch.moments.double().chunk(2, dim=1)
        z_0 = SCALING_FACTOR * (mean + torch.exp(logvar / 2) * draws["posterior"])
        eps = draws["noise"]

        t = (1000 * uniform(SEED, "timestep", batch.sample_index).double()).floor().long()
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        alpha_bar = (1 - betas).cumprod(0)[t].view(-1, 1, 1, 1)
        alpha, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        z_t = alpha * z_0 + sigma * eps

        conditioning = self.call("text_encoder", batch.token_ids).last_hidden_state
        prediction = self.call("unet", z_t, t, conditioning).sample
        snr = (alpha / sigma).square().flatten()
        if case.prediction_type == "epsilon":
            target, weight = eps, torch.clamp(snr, max=case.gamma) / snr
        else:
            target, weight = alpha * eps - sigma * z_0, torch.clamp(snr, max=case.gamma) / (snr + 1)
        if math.isinf(case.gamma):
            weight = torch.ones_like(snr)
        return (weight * (prediction - target).square().mean(dim=(1, 2, 3))).mean()


def run_both(case: Case) -> tuple[Tensor, dict[str, Tensor], Tensor, dict[str, Tensor]]:
    """Loss and gradients by full name: the module's, then the reference's."""
    torch.manual_seed(3)
    family, batch = tiny_family(), tiny_batch()
    frozen = copy.deepcopy(family)
    module = adapted(family, case)
    trained = {n: p for n, p in family.named_parameters() if p.requires_grad}
    adapters: dict[str, dict[str, Tensor]] = {}
    for name, parameter in trained.items():
        part, _, rest = name.partition(".")
        adapters.setdefault(part, {})[rest] = parameter
    reference = Reference(frozen, adapters)

    loss = module.training_step(batch, 0)
    loss.backward()
    expected = reference.loss(batch, case)
    leaves = {
        f"{p}.{n}": leaf for p, found in reference.leaves.items() for n, leaf in found.items()
    }
    gradients = torch.autograd.grad(expected, list(leaves.values()))
    got = {name: cast(Tensor, parameter.grad) for name, parameter in trained.items()}
    return loss.detach(), got, expected.detach(), dict(zip(leaves, gradients, strict=True))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_loss_and_lora_gradients(case: Case) -> None:
    loss, got, expected_loss, expected = run_both(case)
    assert loss.dtype == torch.float32
    assert got.keys() == expected.keys()
    # UNet: one cross-attention transformer block down, one in the middle, two up (layers_per_block
    # + 1), with 2 attentions of 4 layers; text encoder: 2 blocks of 4; A and B for each
    assert len(got) == 2 * (4 * 2 * 4 + (2 * 4 if case.text_encoder else 0))
    # the module works in float32, 2**-24 a rounding, over some hundred operations: seen 4e-6
    assert loss.item() == pytest.approx(expected_loss.item(), rel=1e-5)
    for name, gradient in expected.items():
        assert gradient.norm() > 0, name
        off = (got[name].double() - gradient).norm() / gradient.norm()
        assert off < 3e-5, f"{name}: off by {off:.1e}"


def test_only_the_adapters_have_gradients() -> None:
    torch.manual_seed(3)
    family = tiny_family()
    adapted(family, Case("epsilon", 5.0, text_encoder=True)).training_step(
        tiny_batch(), 0
    ).backward()
    for name, parameter in family.named_parameters():
        assert (parameter.grad is not None) == ("lora_" in name), name


def test_pictures_give_the_loss_that_their_cached_latents_give() -> None:
    torch.manual_seed(3)
    family, batch = tiny_family(), tiny_batch()
    module = adapted(family, Case("epsilon", 5.0))
    batch.pixels = torch.rand(3, 3, 16, 16) * 2 - 1
    batch.moments = None
    drawn = module.training_step(batch, 0)
    batch.moments = family.encode_images(batch.pixels)
    batch.embeddings = family.encode_prompts(batch.token_ids)
    batch.pixels = None
    torch.testing.assert_close(module.training_step(batch, 0), drawn, rtol=0, atol=0)


def test_a_step_is_a_function_of_seed_and_sample_index() -> None:
    torch.manual_seed(3)
    family, batch = tiny_family(), tiny_batch()
    module = adapted(family, Case("epsilon", 5.0))
    first = module.training_step(batch, 0)
    torch.randn(17)  # whatever else draws in between changes nothing
    assert module.training_step(batch, 5).item() == first.item()
    batch.sample_index = batch.sample_index + 3
    assert module.training_step(batch, 0).item() != first.item()


def test_samples_do_not_depend_on_who_shares_their_batch() -> None:
    """The loss of three samples is the mean of their own losses, each computed alone."""
    torch.manual_seed(3)
    family, batch = tiny_family(), tiny_batch()
    module = adapted(family, Case("epsilon", 5.0))
    together = module.training_step(batch, 0).item()
    alone = [module.training_step(part, 0).item() for part in pieces(batch, 1)]
    # float32 kernels may sum in another order for another batch size
    assert together == pytest.approx(sum(alone) / 3, rel=1e-5)


@pytest.mark.parametrize("size", [4, 2, 1])
def test_accumulated_batches_make_the_step_of_the_whole_batch(size: int, tmp_path: Path) -> None:
    """A plain gradient step of the Trainer is -lr times the gradient of the mean of all samples."""
    torch.manual_seed(3)
    family, batch = tiny_family(), tiny_batch(4)
    module = adapted(family, Case("epsilon", 5.0, text_encoder=True))
    trained = module.all_trained_parameters()
    before = {name: parameter.detach().clone() for name, parameter in trained.items()}
    gradients = torch.autograd.grad(module.training_step(batch, 0), list(trained.values()))

    rates = {"unet": 0.5, "text_encoder": 0.25}
    module.make_optimizer = lambda parts: torch.optim.SGD(
        [{"params": list(found.values()), "lr": rates[part]} for part, found in parts.items()]
    )
    module.make_schedule = lambda optimizer: torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
    trainer = lightning.Trainer(
        max_steps=1,
        accumulate_grad_batches=4 // size,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, DataLoader(pieces(batch, size), batch_size=None))  # type: ignore[arg-type]
    for (name, parameter), gradient in zip(trained.items(), gradients, strict=True):
        step = (parameter.detach() - before[name]).double()
        expected = -rates[name.partition(".")[0]] * gradient.double()
        # float32: the update is rounded to the spacing of weights of about 0.1 (2**-27)
        torch.testing.assert_close(step, expected, rtol=1e-4, atol=3e-8)

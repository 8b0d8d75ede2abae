"""Training of flow matching as configured: levels, a step worked out again, rates, targets."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sdlora.assembly import adapters, base_model, lightning_trainer
from sdlora.assembly.adapters import check_adapters
from sdlora.assembly.optimizer import trained_rates
from sdlora.config.rules import ConfigError
from sdlora.config.train import TrainConfig
from sdlora.data.batches.dataset import Batch
from sdlora.runtime.randomness import normal, uniform
from sdlora.training.module import DiffusionModule
from tests.composed import train_config

Config = Callable[..., TrainConfig]

NAMES = ("z_image", "flux2_klein")


@pytest.fixture
def config(random_bases: dict[str, Path]) -> Config:
    def make(family: str, *overrides: str) -> TrainConfig:
        given = ["data.root=pictures", f"model={family}", *overrides]
        given += [f"model.path={random_bases[family]}", "trainer.precision=fp32"]
        return train_config(*given)

    return make


def module_of(config: TrainConfig) -> DiffusionModule:
    family = base_model.load(config.model, config.lora, "fp32", config.seed)
    adapters.add_adapters(family, adapters.lora_specs(config.lora, config.model.family), 0)
    made = lightning_trainer.module(config, family, batches_per_epoch=4)
    made.log = lambda *_, **__: None  # type: ignore[method-assign]
    return made


def levels(module: DiffusionModule, side: int, *, count: int = 3) -> Tensor:
    """Levels of the quarters of uniform draws, for pictures of a side."""
    family, drawn = module.family, module.objective
    scale = family.latent_scale
    tokens = family.num_tokens(torch.empty(1, 1, side // scale, side // scale))
    u = torch.arange(1, count + 1).double() / (count + 1)
    return drawn.timesteps.sample(drawn.noise, u, tokens)


def test_levels_are_shifted_as_the_models_were_trained(config: Config) -> None:
    """Z-Image's by 3; klein's by tokens, whose scheduler's table is not."""
    z_image = module_of(config("z_image"))
    assert levels(z_image, 512).tolist() == pytest.approx([0.5, 0.75, 0.9])
    klein = module_of(config("flux2_klein", "objective.timesteps.name=uniform"))
    for side, k in ((512, 1.88), (768, 2.33), (1024, 3.16)):
        middle = levels(klein, side, count=1).item()
        assert round(middle / (1 - middle), 2) == k
    krea = "objective.timesteps.shift_points=[[256,0.5],[6400,1.15]]"
    other = module_of(config("flux2_klein", "objective.timesteps.name=uniform", krea))
    middle = levels(other, 1024, count=1).item()
    assert round(middle / (1 - middle), 2) == 2.48


def test_keys_of_levels_and_weights_reach_the_objective(config: Config) -> None:
    made = module_of(
        config(
            "z_image",
            *("objective.timesteps.name=mode", "objective.timesteps.mode_scale=0.5"),
            *("objective.timesteps.shift_factor=2", "objective.weighting=table"),
            "objective.weight_table=[1,3]",
        )
    ).objective
    place, weight, shift = made.timesteps.place, made.weight, made.timesteps.shift
    assert place.keywords == {"scale": 0.5}  # type: ignore[attr-defined]
    assert weight.keywords == {"weights": (1.0, 3.0)}  # type: ignore[union-attr]
    assert shift is not None
    assert shift(1024) == 2


def batch_of(module: DiffusionModule, captions: list[str], first: int = 0) -> Batch:
    count = len(captions)
    generator = torch.Generator().manual_seed(first)
    return Batch(
        sample_index=torch.arange(first, first + count),
        picture_index=torch.arange(count),
        token_ids=module.family.tokenize(captions).ids,
        names=tuple(f"{n}.png" for n in range(count)),
        weights=torch.ones(count),
        pixels=2 * torch.rand(count, 3, 64, 64, generator=generator) - 1,
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_step_worked_out_again(name: str, config: Config) -> None:
    """Draws by seed, purpose and sample; straight path; velocity; squared error."""
    module = module_of(config(name, "seed=7"))
    batch = batch_of(module, ["a man", "a much longer caption"], first=5)
    with torch.no_grad():
        loss = module.training_step(batch, 0)
        u = uniform(7, "timestep", batch.sample_index).double()
        if name == "z_image":
            s = 3 * u / (1 + 2 * u)
        else:  # 16 tokens, a line through (256, 0.5) and (4096, 1.15), beyond its end
            place = torch.special.expit(torch.special.ndtri(u))
            k = math.exp(0.5 + (16 - 256) * 0.65 / 3840)
            s = k * place / (1 + (k - 1) * place)
        z_0 = module.latents(batch)
        eps = normal(z_0.shape[1:], 7, "noise", batch.sample_index)
        each = s.float().view(-1, 1, 1, 1)
        conditioning = module.family.encode_prompts(batch.token_ids)
        velocity = module.family.denoise((1 - each) * z_0 + each * eps, s.float(), conditioning)
    torch.testing.assert_close(loss, (velocity - (eps - z_0)).square().mean(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_transformers_rate_is_unet_lr_unless_it_has_its_own(name: str, config: Config) -> None:
    def rates(*given: str) -> dict[str, float]:
        found = config(name, *given)
        return trained_rates(found.optim, found.lora, name)

    assert rates() == {"unet": 1e-4}
    assert rates("optim.unet_lr=3e-4") == {"unet": 3e-4}
    assert rates("optim.unet_lr=3e-4", "optim.transformer_lr=5e-5") == {"transformer": 5e-5}
    optimizer = module_of(config(name, "optim.transformer_lr=5e-5")).configure_optimizers()
    (group,) = optimizer["optimizer"].param_groups
    assert (group["name"], group["initial_lr"]) == ("transformer", 5e-5)


def test_what_is_written_for_the_unet_holds_for_the_transformer(config: Config) -> None:
    given = config("z_image", "lora.unet.r=3", "lora.transformer.targets=[attention,w1]")
    spec = adapters.lora_specs(given.lora, "z_image")["transformer"]
    assert (spec.r, spec.alpha) == (3, 3.0)
    assert spec.targets == ("to_q", "to_k", "to_v", "to_out.0", "w1")


def test_a_name_that_hits_a_container_is_explained(config: Config) -> None:
    given = config("flux2_klein", "lora.transformer.targets=[to_out]")
    with pytest.raises(ConfigError) as error:
        check_adapters(given.model, given.lora)
    message = str(error.value)
    assert message.startswith(
        "lora.transformer.targets=to_out: transformer_blocks.0.attn.to_out is"
    )
    assert "a ModuleList" in message
    longer = ["to_out.0", "single_transformer_blocks.*.attn.to_out"]
    assert all(name in message for name in longer)
    given = config("flux2_klein", f"lora.transformer.targets=[{','.join(longer)}]")
    check_adapters(given.model, given.lora)  # the remedy works


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [("z_image", 6), ("flux2_klein", 4)])
def test_one_picture_is_learnt_in_60_steps(name: str, size: int, config: Config) -> None:
    """All weights, from random ones: what is drawn then is the picture's latents, not noise."""
    module = module_of(config(name, "lora=full"))
    family: Any = module.family
    module.on_fit_start()
    x = torch.linspace(-3, 3, 64)
    picture = torch.stack([x.sin().expand(64, 64), x.cos().expand(64, 64).mT, x.outer(x) / 9])
    with torch.no_grad():  # a random VAE's latents are small
        own = family.latents(family.encode_images(picture[None]), torch.empty(1, 0))
        family.vae.encoder.conv_out.weight /= own.std()
        z_0 = family.latents(family.encode_images(picture[None]), torch.empty(1, 0))
    before = likeness(family, z_0)
    optimizer = torch.optim.AdamW(module.all_trained_parameters().values())
    for step in range(60):
        for group in optimizer.param_groups:
            group["lr"] = 1.5e-3 * (1 + math.cos(math.pi * step / 60))
        batch = batch_of(module, ["a man"] * size, first=size * step)
        batch.pixels = picture.expand(size, -1, -1, -1)
        optimizer.zero_grad()
        module.training_step(batch, step).backward()
        optimizer.step()
    after = likeness(family, z_0)
    assert abs(before) < 0.2
    assert after > 0.4


@torch.no_grad()
def likeness(family: Any, z_0: Tensor) -> float:
    """Correlation of latents drawn in 20 Euler steps with those of the picture."""
    conditioning = family.encode_prompts(family.tokenize(["a man"]).ids)
    z = torch.randn(z_0.shape, generator=torch.Generator().manual_seed(1))
    s = torch.linspace(1, 0, 21)
    for now, then in zip(s[:-1], s[1:], strict=True):
        z = z + (then - now) * family.denoise(z, now[None], conditioning)
    return float(torch.corrcoef(torch.stack([z.flatten(), z_0.flatten()]))[0, 1])

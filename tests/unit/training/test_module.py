"""The LightningModule: what it trains, saves, clips, logs, and what it refuses."""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from sdlora.adapters.lora import add_lora
from sdlora.adapters.spec import LoraSpec
from sdlora.config.trainer import TrainerConfig
from sdlora.data.batches.dataset import PictureDataset
from sdlora.data.cache.encoders import encoded_captions, encoded_pictures
from sdlora.data.cache.encodings import Cache
from sdlora.data.captions.set_captions import SetCaptions
from sdlora.data.pictures.cuts import fitted
from sdlora.data.selection.picture_set import PictureSet
from sdlora.data.sources.portrait_source import PortraitSource
from sdlora.models.memory import checkpoint_gradients, memory_and_speed
from sdlora.models.sd import StableDiffusion
from sdlora.models.tokens import token_ids
from sdlora.runtime.randomness import normal, uniform
from sdlora.training.module import DiffusionModule, Teacher, TrainingError
from tests.configs import data_config
from tests.unit.tiny_training import (
    Stream,
    adapted,
    batch,
    diffusion_module,
    trainer,
    without_trainer,
)

BOTH = ("unet", "text_encoder")


def gradients(module: DiffusionModule, first: int = 0, size: int = 2) -> dict[str, Tensor]:
    """Of one step, by name, as copies."""
    module.zero_grad()
    without_trainer(module).training_step(batch(first, size), 0).backward()
    return {
        name: parameter.grad.detach().clone()
        for name, parameter in module.all_trained_parameters().items()
        if parameter.grad is not None
    }


def norm(values: dict[str, Tensor]) -> float:
    """Over all entries of all tensors, in float64."""
    return torch.cat([value.double().flatten() for value in values.values()]).norm().item()


def copies(module: DiffusionModule) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in module.all_trained_parameters().items()}


# what a checkpoint holds


def test_a_checkpoint_holds_the_trained_weights_and_nothing_else(family: StableDiffusion) -> None:
    num_base = sum(parameter.numel() for parameter in family.parameters())
    module = diffusion_module(adapted(family, BOTH))
    state = module.state_dict()
    assert all(".lora_A." in name or ".lora_B." in name for name in state)
    assert {name.partition(".")[0] for name in state} == set(BOTH)
    everything = sum(parameter.numel() for parameter in family.parameters())
    assert sum(value.numel() for value in state.values()) == everything - num_base
    assert not any(value.requires_grad for value in state.values())


def test_weights_come_back_bit_by_bit(family: StableDiffusion) -> None:
    module = diffusion_module(adapted(family, BOTH))
    kept = copies(module)
    base = family.unet.conv_in.weight.clone()
    for parameter in module.all_trained_parameters().values():
        parameter.data.add_(1.0)
    module.load_state_dict(kept)
    for name, value in copies(module).items():
        assert torch.equal(value, kept[name]), name
    assert torch.equal(family.unet.conv_in.weight, base)


@pytest.mark.parametrize("fault", ["missing", "unexpected", "shape"])
def test_weights_that_do_not_fit_are_named_and_none_is_loaded(
    family: StableDiffusion, fault: str
) -> None:
    module = diffusion_module(adapted(family))
    before = copies(module)
    state = {name: value + 1 for name, value in before.items()}
    name = sorted(state)[3]
    if fault == "missing":
        del state[name]
    elif fault == "unexpected":
        name = "unet.some.layer.lora_A.default.weight"
        state[name] = torch.zeros(2, 2)
    else:
        state[name] = state[name][:1]
    with pytest.raises(TrainingError, match=r"1 differ \(.*\); resume with the settings") as error:
        module.load_state_dict(state)
    assert name in str(error.value)
    for key, value in copies(module).items():
        assert torch.equal(value, before[key]), key


def test_a_part_that_trains_whole_is_saved_whole(family: StableDiffusion) -> None:
    family.unet.requires_grad_(True)
    module = diffusion_module(family)
    expected = {f"unet.{name}" for name, _ in family.unet.named_parameters()}
    assert set(module.state_dict()) == expected


# randomness


def test_a_batch_is_the_mean_of_its_halves(family: StableDiffusion) -> None:
    """Whoever shares a batch with a sample: its noise, timestep and latents stay its own."""
    module = without_trainer(diffusion_module(adapted(family)))
    whole = module.training_step(batch(20, 4), 0).item()
    halves = [module.training_step(batch(first, 2), 0).item() for first in (20, 22)]
    # float32, and other kernels for another batch size
    assert whole == pytest.approx(sum(halves) / 2, rel=1e-5)
    assert abs(halves[0] - halves[1]) > 1e-3 * whole  # the halves do differ


def test_dropout_follows_the_sample_index_not_the_global_state(family: StableDiffusion) -> None:
    module = without_trainer(diffusion_module(adapted(family, dropout=0.5)))
    module.on_fit_start()
    first = module.training_step(batch(0), 0).item()
    torch.manual_seed(123)
    torch.randn(7)
    assert module.training_step(batch(0), 3).item() == first
    module.seed += 1
    assert module.training_step(batch(0), 0).item() != first
    module.seed -= 1
    family.eval()
    assert module.training_step(batch(0), 0).item() != first  # it was dropout, and it was on


@pytest.mark.parametrize("cached", ["latents", "latents and embeddings"])
def test_cached_and_decoded_pictures_give_the_same_loss(
    family: StableDiffusion, cached: str
) -> None:
    """Through the dataset, flips and dropped captions included, over more than an epoch."""
    module = without_trainer(diffusion_module(adapted(family)))
    source = PortraitSource(3, size=32)
    pictures = PictureSet(source, [fitted((32, 32), (32, 32))] * 3, fingerprint="")
    data = data_config(batch_size=2, flip=True, captions={"dropout": 0.3}, cache={"mode": "off"})
    tokenize = partial(token_ids, family.tokenizers, 1)
    captions = SetCaptions(source.pictures, data.captions, tokenize, seed=3)
    dataset = partial(PictureDataset, pictures, captions, data, seed=3, latent_scale=4)
    cache = Cache(store=None, resident_bytes=2**30, device=torch.device("cpu"))
    tables = {"latents": encoded_pictures(pictures, data, family, "vae", cache)[0]}
    if "embeddings" in cached:
        tables["embeddings"] = encoded_captions(captions, family, "text encoder", cache)
    plain, served = dataset(), dataset(**tables)
    for number in range(4):
        decoded, stored = plain[number, 1], served[number, 1]
        assert decoded.moments is None
        assert stored.pixels is None
        assert (stored.embeddings is not None) == ("embeddings" in cached)
        got = module.training_step(stored, 0).item()
        # float32, and other kernels for another batch size
        assert got == pytest.approx(module.training_step(decoded, 0).item(), rel=1e-5)


def test_a_batchs_share_multiplies_what_is_stepped_on(family: StableDiffusion) -> None:
    module = without_trainer(diffusion_module(adapted(family)))
    whole, short = batch(0), batch(0)
    short.share = 0.25
    expected = 0.25 * module.training_step(whole, 0).item()
    assert module.training_step(short, 0).item() == pytest.approx(expected, rel=1e-6)


def test_masks_and_weights_reach_the_loss(family: StableDiffusion) -> None:
    module = without_trainer(diffusion_module(adapted(family)))
    plain = module.training_step(batch(0), 0).item()
    weighed, unmasked, hidden = batch(0), batch(0), batch(0)
    weighed.weights = torch.tensor([2.0, 2.0])
    assert module.training_step(weighed, 0).item() == pytest.approx(2 * plain, rel=1e-6)
    unmasked.mask = torch.full((2, 1, 8, 8), 0.5)  # alike everywhere: the same mean
    assert module.training_step(unmasked, 0).item() == pytest.approx(plain, rel=1e-5)
    hidden.mask = torch.zeros(2, 1, 8, 8)
    assert module.training_step(hidden, 0).item() == 0.0


# prior preservation


@pytest.mark.parametrize("init", ["default", "pissa"])
def test_the_teacher_is_the_bare_base_on_the_same_noisy_samples(
    init: str, family: StableDiffusion
) -> None:
    """Its part of the loss is the mean squared change that the adapters make to the prediction."""
    bare = copy.deepcopy(family)
    module = without_trainer(diffusion_module(adapted(family, BOTH, init=init)))
    module.objective = replace(module.objective, weight=None)
    plain = module.training_step(batch(0), 0).item()
    prompt = family.tokenize(["a person"]).ids
    module.teacher = Teacher(prompt, weight=0.5)
    taught = module.training_step(batch(0), 0)

    with torch.no_grad():
        samples, noise = batch(0), module.objective.noise
        z_0 = module.latents(samples)
        t = noise.sample_timesteps(uniform(module.seed, "timestep", samples.sample_index))
        eps = normal(z_0.shape[1:], module.seed, "noise", samples.sample_index)
        z_t = noise.add(z_0, eps, t)
        before = bare.denoise(z_t, t, bare.encode_prompts(prompt).expand(2, -1, -1))
        after = family.denoise(z_t, t, family.encode_prompts(prompt).expand(2, -1, -1))
    change = (before - after).double().square().mean().item()
    assert change > 0
    # the difference of two float32 losses of about 1
    assert taught.item() - plain == pytest.approx(0.5 * change, rel=1e-3, abs=1e-6)
    taught.backward()
    assert all(p.grad is not None for p in module.all_trained_parameters().values())


def test_an_adapter_that_does_nothing_has_nothing_to_learn_from_the_teacher(
    family: StableDiffusion,
) -> None:
    module = without_trainer(diffusion_module(adapted(family)))
    for name, parameter in module.all_trained_parameters().items():
        if "lora_B" in name:
            torch.nn.init.zeros_(parameter)
    plain = module.training_step(batch(0), 0).item()
    module.teacher = Teacher(family.tokenize(["a person"]).ids, weight=3.0)
    assert module.training_step(batch(0), 0).item() == plain


# gradients


def test_a_frozen_text_encoder_takes_no_part(family: StableDiffusion) -> None:
    module = without_trainer(diffusion_module(adapted(family)))
    assert not module.conditioning(batch(0)).requires_grad
    module.training_step(batch(0), 0).backward()
    for name, parameter in family.named_parameters():
        assert (parameter.grad is not None) == ("lora_" in name), name
    assert not any("text_encoder" in name for name in gradients(module))


def test_an_adapted_text_encoder_learns(family: StableDiffusion) -> None:
    module = without_trainer(diffusion_module(adapted(family, BOTH)))
    assert module.conditioning(batch(0)).requires_grad
    found = gradients(module)
    assert found.keys() == module.all_trained_parameters().keys()
    assert all(value.norm() > 0 for value in found.values())


def calls(layer: torch.nn.Module) -> list[int]:
    """A list that grows by one with each forward of ``layer``."""
    seen: list[int] = []
    layer.register_forward_pre_hook(lambda *_: seen.append(1))
    return seen


def trainer_config(**values: Any) -> TrainerConfig:
    """What decides about memory and speed."""
    usual = {"compile": False, "precision": "fp32"}
    return cast(TrainerConfig, SimpleNamespace(**{**usual, "accelerator": "cpu", **values}))


@pytest.mark.parametrize(("precision", "is_last"), [("fp32", True), ("bf16", False)])
def test_channels_lie_last_where_that_is_no_slower(
    family: StableDiffusion, precision: str, is_last: bool
) -> None:
    """In bf16 on a CPU convolutions of Stable Diffusion 1.5 take a third longer so."""
    memory_and_speed(trainer_config(precision=precision), torch.device("cpu"), family)
    weight = family.unet.conv_in.weight
    assert weight.is_contiguous(memory_format=torch.channels_last) is is_last


def test_a_dora_of_convolutions_trains_with_channels_last(family: StableDiffusion) -> None:
    """peft multiplies its matrices as views, which tensors with the channels last do not have."""
    spec = LoraSpec(r=2, alpha=2.0, dropout=0.0, targets=("conv1", "conv2"), use_dora=True)
    add_lora(family.unet, spec, seed=1)
    module = without_trainer(diffusion_module(family))
    module.on_fit_start()
    expected = module.training_step(batch(0), 0).item()
    memory_and_speed(trainer_config(), torch.device("cpu"), family)
    loss = module.training_step(batch(0), 0)
    loss.backward()
    assert loss.item() == pytest.approx(expected, rel=1e-5)  # convolutions sum in another order


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradient_checkpointing_changes_no_gradient(
    loaded_family: StableDiffusion, dropout: float
) -> None:
    found = []
    for checkpointing in (False, True):
        family = adapted(copy.deepcopy(loaded_family), BOTH, dropout)
        memory_and_speed(trainer_config(), torch.device("cpu"), family)
        if checkpointing:
            checkpoint_gradients(family)
        module = diffusion_module(family)
        module.on_fit_start()
        seen = (
            calls(family.unet.mid_block.attentions[0].transformer_blocks[0].attn1),
            calls(family.text_encoder.encoder.layers[1].self_attn),
        )
        found.append(gradients(module))
        # forward once more on the way back, or checkpointing did nothing
        assert [len(part) for part in seen] == ([2, 2] if checkpointing else [1, 1])
    plain, checkpointed = found
    assert plain.keys() == checkpointed.keys()
    assert sum("text_encoder" in name for name in plain) == 2 * 4 * 2
    for name, value in plain.items():
        torch.testing.assert_close(checkpointed[name], value, rtol=0, atol=0)


def test_only_what_trains_is_in_training_mode(family: StableDiffusion) -> None:
    module = diffusion_module(adapted(family))
    module.on_fit_start()
    assert family.unet.training
    assert not family.text_encoder.training
    assert not family.vae.training


# a step of the Trainer


@pytest.mark.parametrize("share", [0.25, 4.0])
def test_clipping_shortens_the_step_and_keeps_its_direction(
    family: StableDiffusion, tmp_path: Path, share: float
) -> None:
    """Plain gradient descent: the step is the rate times the clipped gradient, over both parts."""
    lr = 0.5
    module = diffusion_module(adapted(family, BOTH), lr=lr)
    module.on_fit_start()
    expected = gradients(module)
    module.zero_grad()
    del module.log  # type: ignore[attr-defined]
    before, length = copies(module), norm(expected)
    run = trainer(tmp_path, 1, gradient_clip_val=share * length)
    run.fit(module, datamodule=Stream())
    after = copies(module)
    step = {name: after[name].double() - before[name] for name in after}
    # weights of about 0.3 are rounded to 2**-25
    assert norm(step) == pytest.approx(lr * length * min(1.0, share), rel=1e-4)
    for name, value in expected.items():
        torch.testing.assert_close(
            step[name], -lr * min(1.0, share) * value.double(), rtol=1e-3, atol=6e-8
        )
    logged = run.callback_metrics["train/grad_norm"].item()
    assert logged == pytest.approx(length, rel=1e-5)  # before clipping


def test_without_clipping_the_norm_is_logged_all_the_same(
    family: StableDiffusion, tmp_path: Path
) -> None:
    module = diffusion_module(adapted(family), lr=0.5)
    module.on_fit_start()
    expected = gradients(module)
    module.zero_grad()
    del module.log  # type: ignore[attr-defined]
    before = copies(module)
    run = trainer(tmp_path, 1)
    run.fit(module, datamodule=Stream())
    assert run.callback_metrics["train/grad_norm"].item() == pytest.approx(norm(expected), rel=1e-5)
    step = {name: value.double() - before[name] for name, value in copies(module).items()}
    assert norm(step) == pytest.approx(0.5 * norm(expected), rel=1e-4)


def test_the_logged_norm_is_that_of_the_accumulated_gradient(
    family: StableDiffusion, tmp_path: Path
) -> None:
    module = diffusion_module(adapted(family))
    module.on_fit_start()
    expected = gradients(module, size=6)
    module.zero_grad()
    del module.log  # type: ignore[attr-defined]
    run = trainer(tmp_path, 1, accumulate_grad_batches=3)
    run.fit(module, datamodule=Stream(size=2, accumulate=3))
    assert run.callback_metrics["train/grad_norm"].item() == pytest.approx(norm(expected), rel=1e-4)


def test_the_rate_changes_once_an_optimizer_step(family: StableDiffusion, tmp_path: Path) -> None:
    module = diffusion_module(adapted(family, BOTH), lr=0.08)
    run = trainer(tmp_path, 3, accumulate_grad_batches=2)
    run.fit(module, datamodule=Stream(accumulate=2))
    groups = run.optimizers[0].param_groups
    assert [(group["name"], group["lr"]) for group in groups] == [
        ("unet", 0.08 / 8),  # halved after each of three steps
        ("text_encoder", 0.08 / 8),
    ]
    assert [len(group["params"]) for group in groups] == [
        len(module.trained_parameters(part)) for part in BOTH
    ]


def spoil(module: DiffusionModule, at_step: int) -> None:
    """From that optimizer step on the UNet gives NaN."""
    denoise: Callable[..., Tensor] = module.family.denoise

    def spoiled(*args: Tensor) -> Tensor:
        factor = float("nan") if module.global_step >= at_step else 1.0
        return denoise(*args) * factor

    module.family.denoise = spoiled  # type: ignore[method-assign]


def test_a_loss_that_is_no_number_stops_the_run_at_once(
    family: StableDiffusion, tmp_path: Path
) -> None:
    module = diffusion_module(adapted(family))
    spoil(module, at_step=2)
    run = trainer(tmp_path, 5)
    message = r"the loss is nan at step 2 \(pictures: 4\.png, 5\.png\); lower optim\.unet_lr"
    with pytest.raises(TrainingError, match=message):
        run.fit(module, datamodule=Stream())
    assert run.global_step == 2
    assert all(parameter.isfinite().all() for parameter in module.all_trained_parameters().values())


def test_training_follows_the_gradient(family: StableDiffusion, tmp_path: Path) -> None:
    """Twenty steps of Adam lower the loss of those very samples."""
    module = without_trainer(diffusion_module(adapted(family)))
    before = sum(module.training_step(batch(k), 0).item() for k in range(0, 8, 2))
    optimizer = torch.optim.Adam(module.all_trained_parameters().values(), lr=1e-2)
    for step in range(20):
        optimizer.zero_grad()
        module.training_step(batch(2 * (step % 4)), 0).backward()
        optimizer.step()
    after = sum(module.training_step(batch(k), 0).item() for k in range(0, 8, 2))
    assert after < 0.98 * before


def test_the_logged_loss_is_that_of_all_processes_at_points_of_the_curve(
    family: StableDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = diffusion_module(adapted(family))
    module.check_every_n_steps = 3
    asked: list[int] = []

    def reduce(loss: Tensor, reduce_op: str) -> Tensor:
        assert reduce_op == "mean"
        asked.append(module.global_step)
        return loss / 2

    together = SimpleNamespace(strategy=SimpleNamespace(reduce=reduce))
    monkeypatch.setattr(DiffusionModule, "trainer", together)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    losses = []
    for step in range(6):
        monkeypatch.setattr(DiffusionModule, "global_step", step)
        losses.append(float(module._over_processes(torch.tensor(1.0))))
    assert asked == [2, 5]  # before the third and the sixth step is counted
    assert losses == [1.0, 1.0, 0.5, 1.0, 1.0, 0.5]

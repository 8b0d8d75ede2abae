"""Unconditional diffusion of pixels does what diffusers' own pipelines do with the same UNet."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline
from safetensors.torch import load_file, save_file

from sdlora.data.pictures.decode import to_unit_range
from sdlora.export.layouts import export_pipeline
from sdlora.models.base_folder import check_folder
from sdlora.models.ddpm import UnconditionalDiffusion
from sdlora.models.drawing import Drawing
from sdlora.models.loading import load_family
from sdlora.models.source import ModelError, ModelSource, pixel_steps
from sdlora.runtime import randomness
from sdlora.sampling.generate import generate
from sdlora.sampling.prompts import Prompt
from tests.models import TINY_PIXELS
from tests.sampling import sampling_config

pytestmark = pytest.mark.filterwarnings("ignore:__array_(_ impl|wrap__ must):DeprecationWarning")

SEEDS = (3, 4, 11)


def source(**changed: Any) -> ModelSource:
    new = {"path": "embedded:ddpm", "scratch": ("unet",), "architecture": TINY_PIXELS}
    return ModelSource(**{"family": "ddpm", **new, **changed})


@pytest.fixture(scope="module")
def family() -> UnconditionalDiffusion:
    return load_family(source(), seed=0)


def draw(
    pipeline: Any, sampler: str = "ddim", batch_size: int = 3, resolution: int = 16
) -> np.ndarray:
    pictures = generate(
        pipeline,
        [Prompt("", seed) for seed in SEEDS],
        sampling_config(num_steps=4, sampler=sampler, batch_size=batch_size),
        resolution,
        drawing=Drawing(encode=lambda _: {}, dtype=torch.float32),
    )
    return np.stack([np.asarray(picture, dtype=int) for picture in pictures])


def of_diffusers(pipeline: Any) -> np.ndarray:
    """Noise comes from one generator for each picture, as here."""
    pipeline.set_progress_bar_config(disable=True)
    generators = [randomness.generator(seed, "sample/") for seed in SEEDS]
    drawn = pipeline(batch_size=len(SEEDS), generator=generators, num_inference_steps=4)
    return np.stack([np.asarray(picture, dtype=int) for picture in drawn.images])


def test_random_weights_are_a_function_of_the_seed_alone(family: UnconditionalDiffusion) -> None:
    state = torch.get_rng_state()
    again, other = (load_family(source(), seed).unet.state_dict() for seed in (0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    weights = family.unet.state_dict()
    assert all(torch.equal(again[name], value) for name, value in weights.items())
    assert not torch.equal(other["conv_in.weight"], weights["conv_in.weight"])
    assert list(family.parts) == ["unet"]
    assert (family.resolution_step, family.native_resolution_px) == (2, 16)


def test_pictures_are_kept_as_bytes_and_come_back_exactly(family: UnconditionalDiffusion) -> None:
    levels = torch.arange(256, dtype=torch.uint8).repeat(3).view(1, 3, 16, 16)
    pixels = to_unit_range(levels)
    kept = family.encode_images(pixels)
    assert kept.dtype == family.encoding_dtype == torch.uint8
    assert torch.equal(kept, levels)
    nothing = torch.zeros(1, *family.posterior_shape(kept))
    assert nothing.numel() == 0
    assert torch.equal(family.latents(kept, nothing), pixels)


def test_nothing_is_told(family: UnconditionalDiffusion) -> None:
    tokens = family.tokenize(["a very long caption " * 100, ""])
    assert tokens.ids.shape == (2, 0)
    assert tokens.cut == ["", ""]
    conditioning = family.encode_prompts(tokens.ids)
    x_t, t = torch.randn(2, 3, 16, 16), torch.tensor([5, 900])
    with torch.no_grad():
        assert torch.equal(family.denoise(x_t, t, conditioning), family.unet(x_t, t).sample)


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    unet = load_family(source(), seed=0).unet.requires_grad_(True).train()
    x_t, t = torch.randn(2, 3, 16, 16), torch.tensor([5, 900])

    def gradients() -> list[torch.Tensor]:
        loss = unet(x_t, t).sample.square().mean()
        return list(torch.autograd.grad(loss, list(unet.parameters())))

    plain = gradients()
    unet.enable_gradient_checkpointing()
    assert all(map(torch.equal, gradients(), plain))


def test_pictures_are_those_of_diffusers(family: UnconditionalDiffusion) -> None:
    ddpm = family.pipeline()
    ddim = DDIMPipeline(family.unet, DDIMScheduler.from_config(ddpm.scheduler.config))
    assert ddim.scheduler.config.clip_sample  # right for pixels, and kept
    found = draw(family.pipeline())
    np.testing.assert_array_equal(found, of_diffusers(ddim))
    np.testing.assert_array_equal(draw(family.pipeline(), "ddpm"), of_diffusers(ddpm))
    assert len({picture.tobytes() for picture in found}) == len(SEEDS)


def test_sides_need_be_no_multiple_of_8(family: UnconditionalDiffusion) -> None:
    assert draw(family.pipeline(), resolution=14).shape == (len(SEEDS), 14, 14, 3)


def test_clipping_follows_the_model(family: UnconditionalDiffusion) -> None:
    unclipped = UnconditionalDiffusion(
        family.unet, {**family.noise_schedule_config, "clip_sample": False}
    ).pipeline()
    found = draw(unclipped, "ddpm")
    np.testing.assert_array_equal(found, of_diffusers(unclipped))
    assert np.abs(found - draw(family.pipeline(), "ddpm")).max() > 0


@pytest.mark.parametrize("sampler", ["ddpm", "dpm++", "euler_a", "heun", "unipc"])
def test_a_picture_does_not_depend_on_its_batch(
    family: UnconditionalDiffusion, sampler: str
) -> None:
    together, alone = (draw(family.pipeline(), sampler, size) for size in (3, 1))
    assert np.abs(together - alone).max() <= 1  # sums in another order


def test_an_export_is_a_pipeline_of_diffusers_and_a_base_of_ours(
    family: UnconditionalDiffusion, tmp_path: Path
) -> None:
    folder = export_pipeline(tmp_path / "pipeline", family.pipeline())
    np.testing.assert_array_equal(
        of_diffusers(DDPMPipeline.from_pretrained(folder)), draw(family.pipeline(), "ddpm")
    )
    again = load_family(ModelSource(path=str(folder), family="ddpm"), seed=5)
    np.testing.assert_array_equal(draw(again.pipeline()), draw(family.pipeline()))
    assert again.noise_schedule_config["beta_schedule"] == "linear"


def test_the_first_pipelines_on_the_hub_lie_flat(
    family: UnconditionalDiffusion, tmp_path: Path
) -> None:
    """As google/ddpm-cifar10-32: all files in one folder, attention under its older names."""
    family.unet.save_pretrained(tmp_path)
    family.pipeline().scheduler.save_pretrained(tmp_path)
    index = {"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index), "utf-8")
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    named = load_file(weights)
    for now, before in older.items():
        named = {name.replace(f".{now}.", f".{before}."): value for name, value in named.items()}
    save_file(named, weights, {"format": "pt"})
    flat = ModelSource(path=str(tmp_path), family="ddpm")
    check_folder(tmp_path, flat)
    again = load_family(flat, seed=5)
    np.testing.assert_array_equal(draw(again.pipeline()), draw(family.pipeline()))
    assert pixel_steps(tmp_path, flat) == (1, 2)


def test_other_models_are_refused(
    family: UnconditionalDiffusion, random_base: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"has text_encoder, tokenizer, vae, too: no uncondit"):
        load_family(ModelSource(path=str(random_base), family="ddpm"), 0)
    for option in ({"in_channels": 1}, {"out_channels": 6}):
        with pytest.raises(ModelError, match=r"^model.architecture: the unet's (in|out)_channels"):
            load_family(source(architecture={**TINY_PIXELS, **option}), 0)
    folder = export_pipeline(tmp_path / "pipeline", family.pipeline())
    index = json.loads((folder / "model_index.json").read_text("utf-8"))
    (folder / "model_index.json").write_text(json.dumps({**index, "vqvae": ["a", "b"]}), "utf-8")
    with pytest.raises(ModelError, match="has vqvae, too"):  # its UNet works on latents
        load_family(ModelSource(path=str(folder), family="ddpm"), 0)

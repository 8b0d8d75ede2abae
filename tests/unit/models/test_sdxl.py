"""Stable Diffusion XL does what diffusers' own pipeline does with the same parts."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sdlora.models.loading import load_family
from sdlora.models.sdxl import StableDiffusionXL
from sdlora.models.source import ModelError, ModelSource
from sdlora.sampling.generate import generate
from sdlora.sampling.prompts import Prompt
from tests.sampling import sampling_config

pytestmark = pytest.mark.filterwarnings("ignore:__array_(_ impl|wrap__ must):DeprecationWarning")


@pytest.fixture(scope="module")
def family(random_xl: Path) -> StableDiffusionXL:
    return load_family(ModelSource(path=str(random_xl), family="sdxl"), 0)


def test_prompts_are_encoded_as_diffusers_does(family: StableDiffusionXL) -> None:
    captions = ["a man", "a woman with red hair, smiling"]
    theirs = family.pipeline().encode_prompt(captions, None, "cpu", 1, False)
    ours = family.prompt_arguments(family.encode_prompts(family.tokenize(captions).ids))
    assert ours["prompt_embeds"].shape == (2, 77, 40)
    assert torch.equal(ours["prompt_embeds"], theirs[0])
    assert torch.equal(ours["pooled_prompt_embeds"], theirs[2])


def test_the_second_tokenizer_pads_with_its_own_token(family: StableDiffusionXL) -> None:
    first, second = family.tokenize(["ab"]).ids.chunk(2, dim=1)
    ended = int((first[0] == family.tokenizers[0].eos_token_id).nonzero()[0])
    assert torch.equal(first[:, : ended + 1], second[:, : ended + 1])
    bang = family.tokenizers[1].convert_tokens_to_ids("!")
    assert set(second[0, ended + 1 :].tolist()) == {bang}


def test_long_captions_take_chunks_and_pool_the_first(family: StableDiffusionXL) -> None:
    long = " ".join("abcdefghijklmnopqrstuvwxyz" * 4)
    family.max_chunks = 2
    try:
        ours = family.prompt_arguments(family.encode_prompts(family.tokenize([long]).ids))
    finally:
        family.max_chunks = 1
    short = family.prompt_arguments(family.encode_prompts(family.tokenize([long]).ids))
    assert ours["prompt_embeds"].shape == (1, 154, 40)
    assert torch.allclose(ours["prompt_embeds"][:, :77], short["prompt_embeds"], atol=1e-6)
    assert torch.allclose(ours["pooled_prompt_embeds"], short["pooled_prompt_embeds"], atol=1e-6)


def test_the_unet_is_told_sizes_and_pooled_embedding(family: StableDiffusionXL) -> None:
    z_t, t = torch.randn(2, 4, 16, 16), torch.tensor([10, 900])
    conditioning = family.encode_prompts(family.tokenize(["a", "b"]).ids)
    sizes = torch.tensor([[64, 64, 0, 0, 64, 64], [512, 768, 0, 32, 64, 64]]).float()
    told = family.prompt_arguments(conditioning)
    with torch.no_grad():
        theirs = family.unet(
            z_t,
            t,
            encoder_hidden_states=told["prompt_embeds"],
            added_cond_kwargs={"text_embeds": told["pooled_prompt_embeds"], "time_ids": sizes},
        ).sample
        ours = family.denoise(z_t, t, conditioning, sizes)
        other = family.denoise(z_t, t, conditioning, sizes.flip(0))
    assert torch.equal(ours, theirs)
    assert not torch.allclose(ours, other)


def test_pictures_are_those_of_diffusers(family: StableDiffusionXL) -> None:
    prompts = [Prompt("a man", 3), Prompt("a hat", 4)]
    drawn = generate(
        family.pipeline(),
        prompts,
        sampling_config(),
        64,
        drawing=family.drawing(),
    )
    from sdlora.runtime import randomness

    noise = torch.stack(
        [
            torch.randn(4, 16, 16, generator=randomness.generator(p.seed, "sample/" + p.text))
            for p in prompts
        ]
    )
    pipeline = family.pipeline()
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        [prompt.text for prompt in prompts],
        negative_prompt=["bad"] * 2,
        num_inference_steps=2,
        guidance_scale=3.0,
        height=64,
        width=64,
        latents=noise,
    ).images
    for ours, other in zip(drawn, theirs, strict=True):
        difference = np.abs(np.asarray(ours, dtype=int) - np.asarray(other, dtype=int))
        assert difference.max() <= 1  # decoded one by one here, together there
    assert len({picture.tobytes() for picture in drawn}) == 2


def test_another_familys_model_is_refused(random_base: Path, random_xl: Path) -> None:
    with pytest.raises(ModelError, match=r"no Stable Diffusion 1.x or 2.x; set model.family=sdxl"):
        load_family(ModelSource(path=str(random_xl)), 0)
    with pytest.raises(ModelError, match=r"tokenizer_2/tokenizer_config.json is missing"):
        load_family(ModelSource(path=str(random_base), family="sdxl"), 0)


def test_another_vae_takes_the_place_of_the_models_own(random_base: Path, random_xl: Path) -> None:
    source = ModelSource(
        path=str(random_xl),
        family="sdxl",
        frozen_dtype=torch.bfloat16,
        vae=str(random_base / "vae"),
        vae_dtype=torch.float32,
    )
    other = load_family(source, 0)
    expected = load_family(ModelSource(path=str(random_base)), 0).vae.state_dict()
    found = other.vae.state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert other.vae.dtype == torch.float32
    assert other.unet.dtype == torch.bfloat16
    with pytest.raises(ModelError, match=r"^model.vae=nowhere: no such folder"):
        load_family(ModelSource(path=str(random_xl), family="sdxl", vae="nowhere"), 0)

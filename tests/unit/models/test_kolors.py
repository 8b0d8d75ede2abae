"""Kolors does what diffusers' own pipeline does with the same parts."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from sdlora.models.kolors import Kolors
from sdlora.models.loading import load_family, load_tokenizers
from sdlora.models.source import ModelError, ModelSource
from sdlora.models.tokens import tokenize
from sdlora.runtime import randomness
from sdlora.sampling.generate import generate
from sdlora.sampling.prompts import Prompt
from tests.sampling import sampling_config

CAPTIONS = ["a man", "", "a woman with red hair, smiling", "é ü 你好", "x y" * 200]
"""Of one length and another, none at all, letters that the vocabulary lacks, one that is cut."""


@pytest.fixture(scope="module")
def family(random_kolors: Path) -> Kolors:
    return load_family(ModelSource(path=str(random_kolors), family="kolors"), 0)


def test_prompts_are_encoded_as_diffusers_does(family: Kolors) -> None:
    theirs = family.pipeline().encode_prompt(CAPTIONS, "cpu", 1, False)
    ours = family.prompt_arguments(family.encode_prompts(family.tokenize(CAPTIONS).ids))
    assert ours["prompt_embeds"].shape == (5, 256, 32)
    assert ours["pooled_prompt_embeds"].shape == (5, 32)
    assert torch.equal(ours["prompt_embeds"], theirs[0])
    assert torch.equal(ours["pooled_prompt_embeds"], theirs[2])
    assert ours["pooled_prompt_embeds"].isfinite().all()


def test_captions_are_tokenised_as_diffusers_does(family: Kolors) -> None:
    (tokenizer,) = family.tokenizers
    settings = {"padding": "max_length", "max_length": 256, "truncation": True}
    theirs = tokenizer(CAPTIONS, **settings, return_tensors="pt")["input_ids"]
    found = tokenize([tokenizer], CAPTIONS)
    assert torch.equal(found.ids, theirs)
    # the last caption has 600 tokens after a space of the vocabulary's own; 254 of them are read
    assert found.cut == ["", "", "", "", CAPTIONS[-1][253:].strip()]
    assert tokenize([tokenizer], []).ids.shape == (0, 256)


def test_its_length_is_known_whatever_the_files_say(random_kolors: Path, tmp_path: Path) -> None:
    shutil.copytree(random_kolors / "tokenizer", tmp_path / "tokenizer")
    path = tmp_path / "tokenizer/tokenizer_config.json"
    config = json.loads(path.read_text("utf-8"))  # what the published file holds beside
    config["model_max_length"] = 1000000000000000019884624838656
    config |= {"pad_token": "<unk>", "unk_token": "<unk>", "eos_token": "</s>"}
    config |= {"auto_map": {"AutoTokenizer": ["tokenization_chatglm.ChatGLMTokenizer", None]}}
    path.write_text(json.dumps(config), "utf-8")
    (found,) = load_tokenizers(tmp_path, "kolors")
    (own,) = load_tokenizers(random_kolors, "kolors")
    assert found.model_max_length == own.model_max_length == 256
    assert torch.equal(tokenize([found], CAPTIONS).ids, tokenize([own], CAPTIONS).ids)
    worker = pickle.loads(pickle.dumps(found))  # as worker processes get it
    assert torch.equal(tokenize([worker], CAPTIONS).ids, tokenize([own], CAPTIONS).ids)


def test_files_named_as_the_published_ones_are_read(family: Kolors, tmp_path: Path) -> None:
    pipeline = family.pipeline()
    pipeline.save_pretrained(tmp_path, variant="fp16")
    shutil.rmtree(tmp_path / "text_encoder")
    pipeline.text_encoder.save_pretrained(
        tmp_path / "text_encoder", variant="fp16", max_shard_size="30KB"
    )
    shards = sorted(path.name for path in (tmp_path / "text_encoder").glob("*.safetensors"))
    assert shards[0] == f"model.fp16-00001-of-0000{len(shards)}.safetensors"
    found = load_family(ModelSource(str(tmp_path), family="kolors", variant="fp16"), 0)
    before, after = family.state_dict(), found.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_the_unet_is_told_sizes_and_the_whole_prompt(family: Kolors) -> None:
    z_t, t = torch.randn(2, 4, 16, 16), torch.tensor([10, 1050])
    conditioning = family.encode_prompts(family.tokenize(["a", "b"]).ids)
    sizes = torch.tensor([[64, 64, 0, 0, 64, 64], [512, 768, 0, 32, 64, 64]]).float()
    with torch.no_grad():
        theirs = family.unet(
            z_t,
            t,
            encoder_hidden_states=conditioning[:, :256],
            added_cond_kwargs={"text_embeds": conditioning[:, 256], "time_ids": sizes},
        ).sample
        ours = family.denoise(z_t, t, conditioning, sizes)
        other = family.denoise(z_t, t, conditioning, sizes.flip(0))
    assert torch.equal(ours, theirs)
    assert not torch.allclose(ours, other)


def test_pictures_are_those_of_diffusers(family: Kolors) -> None:
    prompts = [Prompt("a man", 3), Prompt("a hat", 4)]
    drawn = generate(
        family.pipeline(),
        prompts,
        sampling_config(),
        64,
        drawing=family.drawing(),
    )
    draws = [randomness.generator(p.seed, "sample/" + p.text) for p in prompts]
    noise = torch.stack([torch.randn(4, 16, 16, generator=each) for each in draws])
    pipeline = family.pipeline()
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        [prompt.text for prompt in prompts],
        negative_prompt=["bad"] * 2,
        num_inference_steps=2,
        height=64,
        width=64,
        latents=noise,
        guidance_scale=3.0,
    ).images
    for ours, other in zip(drawn, theirs, strict=True):
        difference = np.abs(np.asarray(ours, dtype=int) - np.asarray(other, dtype=int))
        assert difference.max() <= 1  # decoded one by one here, together there
    assert len({picture.tobytes() for picture in drawn}) == 2


def test_another_familys_model_is_refused(
    random_kolors: Path, random_xl: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"tokenizer/tokenizer.model is missing"):
        load_family(ModelSource(path=str(random_xl), family="kolors"), 0)
    mixed = tmp_path / "mixed"
    shutil.copytree(random_kolors, mixed)
    shutil.rmtree(mixed / "unet")
    shutil.copytree(random_xl / "unet", mixed / "unet")
    message = r"its unet is that of Stable Diffusion XL, no Kolors; set model.family=sdxl"
    with pytest.raises(ModelError, match=message):
        load_family(ModelSource(path=str(mixed), family="kolors"), 0)

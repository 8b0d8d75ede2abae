"""Which files of the Hub's models are needed, and what is wrong with those in the cache."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sdlora.weights.hub_models import (
    CONFIGS,
    FEATURES,
    PIPELINE,
    TAGGER,
    HubError,
    HubModel,
    cached_folder,
    chosen_files,
    chosen_weights,
    is_hub_id,
    model_fault,
    parts_in_index,
)

INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "requires_safety_checker": True,
    "image_encoder": [None, None],
}
SMALL = [
    *("model_index.json", "scheduler/scheduler_config.json", "tokenizer/merges.txt"),
    *("unet/config.json", "vae/config.json", "text_encoder/config.json"),
]
WEIGHTS = [
    "text_encoder/model.safetensors",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
]
UNUSED = [
    *("v1-5-pruned.ckpt", "v1-5-pruned.safetensors", "README.md", "safety_checker/config.json"),
    *("safety_checker/model.safetensors", "unet/diffusion_pytorch_model.non_ema.safetensors"),
    *("unet/diffusion_pytorch_model.bin", "feature_extractor/preprocessor_config.json"),
    *(name.replace(".safetensors", ".fp16.safetensors") for name in WEIGHTS),
]
PARTS = parts_in_index(INDEX)
SD = HubModel("owner/sd", PIPELINE)


def test_a_pipeline_needs_its_parts_and_nothing_else() -> None:
    assert PARTS == ["unet", "vae", "text_encoder"]
    assert chosen_files(SD, [*SMALL, *WEIGHTS, *UNUSED], PARTS) == sorted([*SMALL, *WEIGHTS])


def test_a_variant_and_parts_that_are_not_needed() -> None:
    half = HubModel("owner/sd", PIPELINE, variant="fp16", without=("vae",))
    assert chosen_weights(half, [*WEIGHTS, *UNUSED], PARTS) == [
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "text_encoder/model.fp16.safetensors",
    ]
    assert chosen_weights(HubModel("owner/sd", CONFIGS), SMALL, None) == []


def test_a_tagger_needs_its_network_and_its_tags() -> None:
    tagger = HubModel("owner/wd-tagger", TAGGER)
    files = ["config.json", "model.onnx", "model.safetensors", "selected_tags.csv", "sw_jax.json"]
    assert chosen_files(tagger, files, None) == ["model.onnx", "selected_tags.csv"]
    with pytest.raises(HubError, match=r"has no model\.onnx and no selected_tags\.csv"):
        chosen_weights(tagger, files[:1], None)


def test_shards_a_single_part_and_a_model_without_folders() -> None:
    shards = [f"unet/diffusion_pytorch_model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    assert chosen_weights(HubModel("o/n", PIPELINE, part="unet"), shards, None) == shards
    flat = ["config.json", "diffusion_pytorch_model.safetensors"]
    assert chosen_weights(HubModel("o/vae", PIPELINE, part="vae"), flat, None) == flat[1:]
    assert chosen_weights(HubModel("google/ddpm", PIPELINE), flat, ["unet"]) == flat[1:]


@pytest.mark.parametrize(
    ("variant", "name"),
    [
        (None, "unet/diffusion_pytorch_model-0000{}-of-00003.safetensors"),
        ("fp16", "unet/diffusion_pytorch_model.fp16-0000{}-of-00003.safetensors"),
        ("fp16", "unet/diffusion_pytorch_model-0000{}-of-00003.fp16.safetensors"),
    ],
)
def test_a_missing_shard_is_named(variant: str | None, name: str) -> None:
    model = HubModel("o/n", PIPELINE, part="unet", variant=variant)
    shards = [name.format(number) for number in (1, 2, 3)]
    assert chosen_weights(model, shards, None) == shards
    with pytest.raises(HubError, match=f"lacks {shards[1]} of"):
        chosen_weights(model, [shards[0], shards[2]], None)


def test_a_model_that_scores_may_have_pickled_weights_alone() -> None:
    clip = HubModel("openai/clip", FEATURES)
    both = ["config.json", "pytorch_model.bin", "model.safetensors", "flax_model.msgpack"]
    assert chosen_files(clip, both, None) == ["config.json", "model.safetensors"]
    assert chosen_files(clip, both[:2], None) == ["config.json", "pytorch_model.bin"]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["unet/diffusion_pytorch_model.fp16.safetensors"], "set model.variant"),
        (["unet/diffusion_pytorch_model.bin"], "pickle and can run code; choose another"),
        ([], "has no unet/diffusion_pytorch_model.safetensors"),
    ],
)
def test_a_model_without_such_weights_says_what_to_do(files: list[str], said: str) -> None:
    with pytest.raises(HubError, match=said):
        chosen_weights(SD, files, ["unet"])


def test_ids_folders_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_hub_id("stable-diffusion-v1-5/stable-diffusion-v1-5")
    (tmp_path / "mine/base").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for path in ("mine/base", "./a", "../a", "~/a", "/a/b", "a/b/c", "tiny", "a/b.safetensors"):
        assert not is_hub_id(path), path
    assert not is_hub_id("embedded:tiny-sd")


def write_cache(hub: Path, model: str, files: dict[str, bytes]) -> Path:
    """A model as the Hub's client lays it down."""
    place = hub / f"models--{model.replace('/', '--')}"
    snapshot = place / "snapshots" / "abc"
    for name, data in files.items():
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).write_bytes(data)
    (place / "refs").mkdir(exist_ok=True)
    (place / "refs" / "main").write_text("abc")
    return snapshot


def test_a_model_in_the_cache_is_whole_or_says_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert "is no folder here, and no model of the Hub that was fetched" in str(model_fault(SD))
    save_file({"w": torch.ones(100)}, tmp_path / "w.safetensors")
    weights = (tmp_path / "w.safetensors").read_bytes()
    files = {"model_index.json": json.dumps(INDEX).encode(), **dict.fromkeys(WEIGHTS, weights)}
    snapshot = write_cache(tmp_path, "owner/sd", files)
    assert cached_folder(SD) == snapshot
    assert model_fault(SD) is None
    unet = snapshot / WEIGHTS[1]
    unet.write_bytes(weights[:-9])
    broke_off = "unet/diffusion_pytorch_model.safetensors has 463 of 472 bytes, a download that"
    assert broke_off in str(model_fault(SD))
    unet.unlink()
    assert "is not whole in" in str(model_fault(SD))
    assert model_fault(HubModel("owner/sd", PIPELINE, without=("unet",))) is None
    assert model_fault(HubModel("owner/sd", CONFIGS)) is None
    assert model_fault(HubModel("owner/sd", PIPELINE, revision="v2")) is not None

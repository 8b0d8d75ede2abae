"""A base model is loaded as its files say, or refused with the name of what is wrong."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdlora.models.loading import load_family
from sdlora.models.source import ModelError, ModelSource, resolve

UNET = "unet/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"


@pytest.fixture
def base(random_base: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return shutil.copytree(random_base, tmp_path / "base")


def load(folder: Path, **source: object):
    return load_family(ModelSource(path=str(folder), **source), seed=5)  # type: ignore[arg-type]


def change_json(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | values), encoding="utf-8")


def change_weights(path: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def test_weights_are_those_of_the_files(random_base: Path) -> None:
    family = load(random_base)
    for name, part in (("unet", family.unet), ("vae", family.vae)):
        stored = load_file(random_base / name / "diffusion_pytorch_model.safetensors")
        assert stored.keys() == part.state_dict().keys()
        for key, value in part.state_dict().items():
            assert torch.equal(value, stored[key]), key
    stored = load_file(random_base / TEXT)
    query = "encoder.layers.1.self_attn.q_proj.weight"
    assert torch.equal(family.text_encoder.state_dict()[query], stored[query])
    assert family.noise_schedule_config["beta_end"] == 0.012
    assert family.tokenizers[0].model_max_length == 77


def test_old_files_of_the_hub_load(base: Path, random_base: Path) -> None:
    """SD1.5's own files: attention of the VAE and prefix of the text encoder by older names."""
    older = {
        ".to_q.": ".query.",
        ".to_k.": ".key.",
        ".to_v.": ".value.",
        ".to_out.0.": ".proj_attn.",
    }

    def rename(weights: dict[str, torch.Tensor]) -> None:
        for key in list(weights):
            new = key
            for now, before in older.items():
                new = new.replace(now, before)
            weights[new] = weights.pop(key)

    def prefix(weights: dict[str, torch.Tensor]) -> None:
        for key in list(weights):
            weights[f"text_model.{key}"] = weights.pop(key)
        weights["text_model.embeddings.position_ids"] = torch.arange(77)[None]

    change_weights(base / "vae/diffusion_pytorch_model.safetensors", rename)
    change_weights(base / TEXT, prefix)
    old, new = load(base), load(random_base)
    for part in ("vae", "text_encoder"):
        expected = getattr(new, part).state_dict()
        for key, value in getattr(old, part).state_dict().items():
            assert torch.equal(value, expected[key]), key


@pytest.mark.parametrize(
    "name",
    [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer_config.json",
        "vae/config.json",
        "unet/config.json",
        "text_encoder/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        UNET,
        TEXT,
    ],
)
def test_a_missing_file_is_named(base: Path, name: str) -> None:
    (base / name).unlink()
    with pytest.raises(ModelError, match=f"{name} is missing") as error:
        load(base)
    assert str(base) in str(error.value)
    assert "fetch" in str(error.value)


def test_a_tokenizer_without_words_is_refused(base: Path) -> None:
    """transformers 5 makes one of two tokens of it, and every caption becomes the empty one."""
    (base / "tokenizer/tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"tokenizer/vocab\.json is missing"):
        load(base)
    (base / "tokenizer/vocab.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match=r"tokenizer/merges\.txt is missing"):
        load(base)


def test_pickled_weights_are_refused_unopened(base: Path) -> None:
    (base / UNET).unlink()
    (base / "unet/diffusion_pytorch_model.bin").write_bytes(b"\x80\x02 whatever runs code")
    with pytest.raises(ModelError, match=r"unet has only \.bin weights.*convert"):
        load(base)


def test_weights_of_another_variant_are_told(base: Path) -> None:
    (base / UNET).rename(base / "unet/diffusion_pytorch_model.fp16.safetensors")
    with pytest.raises(ModelError, match=r"there is diffusion_pytorch_model\.fp16.*model\.variant"):
        load(base)
    with pytest.raises(ModelError, match=r"vae/diffusion_pytorch_model\.fp16\.safetensors is miss"):
        load(base, variant="fp16")


def test_a_variant_is_read_from_its_files(base: Path) -> None:
    for part, stem in (("vae", UNET), ("unet", UNET), ("text_encoder", TEXT)):
        name = Path(stem).name
        path = base / part / name
        change_weights(path, lambda weights: [value.add_(1) for value in weights.values()])
        path.rename(base / part / name.replace(".safetensors", ".fp16.safetensors"))
    family = load(base, variant="fp16")
    stored = load_file(base / "unet/diffusion_pytorch_model.fp16.safetensors")
    assert torch.equal(family.unet.conv_in.weight, stored["conv_in.weight"])


@pytest.mark.parametrize("name", [UNET, TEXT])
@pytest.mark.parametrize("content", ["cut", "web page"])
def test_half_a_download_is_named(base: Path, name: str, content: str) -> None:
    whole = (base / name).read_bytes()
    (base / name).write_bytes(whole[: len(whole) // 2] if content == "cut" else b"<html>...")
    fault = {"cut": r"has \d+ of \d+ bytes, a download that broke off", "web page": "is a web page"}
    told = (
        rf"{Path(name).parent} cannot be loaded \({Path(name).name} {fault[content]}.*fetch it ag"
    )
    with pytest.raises(ModelError, match=told):
        load(base)


def test_a_missing_shard_is_named(base: Path) -> None:
    index = {"metadata": {"total_size": 1}, "weight_map": {}}
    shards = ["diffusion_pytorch_model-00001-of-00002", "diffusion_pytorch_model-00002-of-00002"]
    weights = load_file(base / UNET)
    (base / UNET).unlink()
    for number, key in enumerate(weights):
        index["weight_map"][key] = f"{shards[number % 2]}.safetensors"
    for shard in shards:
        own = {k: v for k, v in weights.items() if index["weight_map"][k].startswith(shard)}
        save_file(own, base / "unet" / f"{shard}.safetensors", metadata={"format": "pt"})
    path = base / "unet/diffusion_pytorch_model.safetensors.index.json"
    path.write_text(json.dumps(index), encoding="utf-8")
    assert torch.equal(load(base).unet.conv_in.weight, weights["conv_in.weight"])

    (base / "unet" / f"{shards[1]}.safetensors").unlink()
    with pytest.raises(ModelError, match=rf"unet/{shards[1]}\.safetensors is missing in .*fetch"):
        load(base, scratch=("vae", "text_encoder"))


@pytest.mark.parametrize(
    ("name", "key"),
    [(UNET, "conv_in.weight"), (TEXT, "encoder.layers.0.self_attn.q_proj.weight")],
)
def test_a_missing_weight_is_no_random_weight(base: Path, name: str, key: str) -> None:
    change_weights(base / name, lambda weights: weights.pop(key))
    with pytest.raises(ModelError, match=rf"lack 1 weights \({key}\)"):
        load(base)


@pytest.mark.parametrize(
    ("name", "key"),
    [(UNET, "conv_in.bias"), (TEXT, "encoder.layers.0.self_attn.q_proj.weight")],
)
def test_a_weight_of_another_shape_is_refused(base: Path, name: str, key: str) -> None:
    def shorten(weights: dict[str, torch.Tensor]) -> None:
        weights[key] = weights[key][:2].clone()

    change_weights(base / name, shorten)
    with pytest.raises(ModelError, match=f"{Path(name).parent} cannot be loaded"):
        load(base)


def test_damaged_json_is_named(base: Path) -> None:
    (base / "unet/config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match="unet cannot be loaded"):
        load(base, scratch=("vae", "text_encoder"))


def test_a_damaged_noise_schedule_is_named(base: Path) -> None:
    (base / "scheduler/scheduler_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match=r"scheduler/scheduler_config\.json is no JSON"):
        load(base)


def test_models_of_another_kind_are_refused(base: Path) -> None:
    """Such a folder has all the files; training on it would fail much later."""
    before = (base / "unet/config.json").read_text("utf-8")
    for key, value in (("in_channels", 6), ("cross_attention_dim", 48)):
        change_json(base / "unet/config.json", **{key: value})
        with pytest.raises(ModelError, match=f"unet's {key} is {value}, where .* give (4|16)"):
            load(base, scratch=("unet",))
        (base / "unet/config.json").write_text(before, encoding="utf-8")


def test_frozen_parts_are_kept_low_and_trained_ones_in_float32(random_base: Path) -> None:
    family = load(random_base, frozen_dtype=torch.bfloat16, trained=("unet",))
    dtypes = {
        part: {parameter.dtype for parameter in getattr(family, part).parameters()}
        for part in ("vae", "text_encoder", "unet")
    }
    assert dtypes == {
        "vae": {torch.bfloat16},
        "text_encoder": {torch.bfloat16},
        "unet": {torch.float32},
    }
    stored = load_file(random_base / UNET)["conv_in.weight"]
    assert torch.equal(family.unet.conv_in.weight, stored)  # not rounded on the way


def test_parts_from_scratch_are_a_function_of_the_seed(random_base: Path) -> None:
    source = ModelSource(
        path=str(random_base), frozen_dtype=torch.bfloat16, scratch=("unet", "text_encoder")
    )
    before = torch.get_rng_state()
    first = load_family(source, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    again, other = load_family(source, seed=1), load_family(source, seed=2)
    for part in ("unet", "text_encoder"):
        weights = getattr(first, part).state_dict()
        same, different = (getattr(f, part).state_dict() for f in (again, other))
        assert all(torch.equal(same[key], value) for key, value in weights.items())
        drawn = [key for key, value in weights.items() if value.dim() > 1]
        assert drawn
        assert not any(torch.equal(different[key], weights[key]) for key in drawn)
        assert {value.dtype for value in weights.values()} == {torch.float32}
    stored = load_file(random_base / UNET)["conv_in.weight"]
    assert not torch.equal(first.unet.conv_in.weight, stored)
    assert first.vae.dtype == torch.bfloat16


def test_parts_from_scratch_need_no_weights(base: Path) -> None:
    (base / UNET).unlink()
    assert load(base, scratch=("unet",)).unet.conv_in.weight.isfinite().all()


def test_clip_skip_reaches_the_model(random_base: Path) -> None:
    assert load(random_base, clip_skip=1).clip_skip == 1


def test_embedded_names_a_folder_of_the_package() -> None:
    folder = resolve(ModelSource(path="embedded:tiny-sd"))
    assert folder.parts[-3:] == ("sdlora", "assets", "tiny-sd")
    assert (folder / "model_index.json").is_file()


def test_an_embedded_name_that_is_not_there_is_told() -> None:
    with pytest.raises(ModelError, match=r"model\.path=embedded:big-sd.*model_index\.json"):
        load_family(ModelSource(path="embedded:big-sd"), seed=0)


@pytest.mark.parametrize("path", ["no-such-folder", "./a/b", "/a/b", "a/b/c", "~/nothing"])
def test_what_is_no_folder_and_no_hub_id_is_refused(path: str) -> None:
    with pytest.raises(ModelError, match=rf"model\.path={path}: no such folder; give"):
        resolve(ModelSource(path=path))


def test_a_hub_id_that_cannot_be_fetched_is_told() -> None:
    """Offline, as all tests are; nothing of that name is in the cache."""
    with pytest.raises(ModelError, match=r"model\.path=nobody/nothing: .*could not be fetched"):
        resolve(ModelSource(path="nobody/nothing"))


def test_the_home_folder_is_known(
    random_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    (tmp_path / "sd").mkdir()
    assert resolve(ModelSource(path="~/sd")) == tmp_path / "sd"

"""Checkpoints in one file give the very weights that they hold, and say what is wrong with them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor

from sdlora.models.base_noise import noise_schedule_config
from sdlora.models.loading import load_family
from sdlora.models.single_file import converted_model
from sdlora.models.source import ModelError, ModelSource, resolve
from tests.single_file import write_single_file

pytestmark = pytest.mark.filterwarnings("ignore:__array_(_ impl|wrap__ must):DeprecationWarning")


@pytest.fixture(scope="module")
def sd_file(random_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random base in one file, as SD1.x lies there."""
    pipeline = StableDiffusionPipeline.from_pretrained(random_base, safety_checker=None)
    return write_single_file(tmp_path_factory.mktemp("files") / "sd.safetensors", pipeline, False)


def change(path: Path, target: Path, to: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Path:
    """The file ``path`` with other weights, as ``target``."""
    save_file({key: value.contiguous() for key, value in to(load_file(path)).items()}, target)
    return target


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
def test_weights_are_those_of_the_file(
    kind: str, random_base: Path, random_xl: Path, tmp_path: Path
) -> None:
    is_xl = kind == "sdxl"
    folder = random_xl if is_xl else random_base
    pipeline_class = StableDiffusionXLPipeline if is_xl else StableDiffusionPipeline
    pipeline = pipeline_class.from_pretrained(folder)
    file = write_single_file(tmp_path / "model.safetensors", pipeline, open_clip=kind == "sd2")
    family = "sdxl" if is_xl else "sd"
    configs = tmp_path / "configs"  # as they are fetched, without weights
    shutil.copytree(folder, configs, ignore=shutil.ignore_patterns("*.safetensors"))
    source = ModelSource(str(file), family=family, config=str(configs))
    expected = load_family(ModelSource(str(folder), family=family), 0)
    found = load_family(source, 0)
    before, after = expected.state_dict(), found.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert torch.equal(found.tokenize(["a man"]).ids, expected.tokenize(["a man"]).ids)
    assert noise_schedule_config(source) == noise_schedule_config(ModelSource(str(folder)))


def test_a_file_is_converted_once_in_its_own_precision(
    sd_file: Path, random_base: Path, tmp_path: Path
) -> None:
    def halved(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        return {key: value.half() for key, value in weights.items()}

    file = change(sd_file, tmp_path / "half.safetensors", halved)
    source = ModelSource(str(file), config=str(random_base))
    folder = resolve(source)
    unet = folder / "unet/diffusion_pytorch_model.safetensors"
    assert {value.dtype for value in load_file(unet).values()} == {torch.float16}
    written = unet.stat().st_mtime_ns
    assert resolve(source) == folder
    assert unet.stat().st_mtime_ns == written
    own = load_family(ModelSource(str(random_base)), 0).unet.state_dict()
    found = load_family(source, 0).unet.state_dict()  # asked for in float32
    assert all(torch.equal(found[key], value.half().float()) for key, value in own.items())

    def halved_unet(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        return {k: v.half() if k.startswith("model.") else v for k, v in weights.items()}

    mixed = change(sd_file, tmp_path / "mixed.safetensors", halved_unet)
    loaded = load_family(ModelSource(str(mixed), config=str(random_base)), 0)
    vae = load_family(ModelSource(str(random_base)), 0).vae.state_dict()
    assert all(torch.equal(loaded.unet.state_dict()[key], value) for key, value in found.items())
    assert all(torch.equal(loaded.vae.state_dict()[key], value) for key, value in vae.items())

    # afterwards a configs' home on the Hub is not asked again: the run works offline
    def unreachable() -> Path:
        raise AssertionError("asked")

    again = converted_model(file, "sd", "owner/name", lambda: random_base)
    assert converted_model(file, "sd", "owner/name", unreachable) == again != folder
    file.touch()  # its times tell that it may be another
    with pytest.raises(AssertionError, match="asked"):
        converted_model(file, "sd", "owner/name", unreachable)


@pytest.mark.parametrize("alone", [True, False])
def test_a_vae_may_lie_in_one_file_too(
    alone: bool, sd_file: Path, random_base: Path, tmp_path: Path
) -> None:
    def others(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        found = {k: v + 1 for k, v in weights.items() if k.startswith("first_stage_model.")}
        cut = "first_stage_model." if alone else ""
        return {key.removeprefix(cut): value for key, value in found.items()}

    file = change(sd_file, tmp_path / "vae.safetensors", others)
    found = load_family(ModelSource(str(random_base), vae=str(file)), 0).vae.state_dict()
    own = load_family(ModelSource(str(random_base)), 0).vae.state_dict()
    assert all(torch.equal(found[key], value + 1) for key, value in own.items())
    with pytest.raises(ModelError, match=r"^model.vae=none.safetensors: no such file"):
        load_family(ModelSource(str(random_base), vae="none.safetensors"), 0)


def without(start: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda weights: {k: v for k, v in weights.items() if not k.startswith(start)}


@pytest.mark.parametrize(
    ("to", "message"),
    [
        (lambda _: {"lora_unet_x.lora_down.weight": torch.ones(1)}, "is a LoRA, not a model"),
        (
            without("first_stage_model."),
            r"holds no VAE \(first_stage_model.*model.vae=stab",
        ),
        (without("cond_stage_model."), "holds a UNet but no weights of a text encoder"),
        (without("model.diffusion_model.out.2"), "lacks some weights of its UNet or VAE"),
        (
            without("cond_stage_model.transformer.text_model.final_layer_norm"),
            r"lacks 2 weights of its text_encoder \(final_layer_norm.weight, ",
        ),
        (
            lambda w: {k: v[..., :1] if "attn2.to_k" in k else v for k, v in w.items()},
            r"does not fit the configs .*but got torch[^)]*\)\); name .* with model.config",
        ),
        (
            lambda w: {k.replace("cond_stage_model", "conditioner.embedders.0"): w[k] for k in w},
            "is a checkpoint of Stable Diffusion XL, no .*set model.family=sdxl",
        ),
    ],
    ids=["lora", "no-vae", "no-text", "half-unet", "half-text", "other-shapes", "xl"],
)
def test_what_is_no_such_checkpoint_is_named(
    to: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    message: str,
    sd_file: Path,
    random_base: Path,
    tmp_path: Path,
) -> None:
    file = change(sd_file, tmp_path / "other.safetensors", to)
    with pytest.raises(ModelError, match=f"^model.path={file}: {message}"):
        resolve(ModelSource(str(file), config=str(random_base)))


def test_files_that_are_not_read(sd_file: Path, random_base: Path, tmp_path: Path) -> None:
    pickle = tmp_path / "model.ckpt"
    pickle.write_bytes(b"\x80\x04.")
    page = tmp_path / "page.safetensors"
    page.write_text("<html>not found</html>", "utf-8")
    for path, message in (
        (pickle, "is pickle, which can run code; take the .safetensors version"),
        (page, "is a web page, not weights; .*; download the file itself"),
        (tmp_path / "none.safetensors", "no such file; give a .safetensors file, a folder or"),
    ):
        with pytest.raises(ModelError, match=f"^model.path={path}: {message}"):
            resolve(ModelSource(str(path), config=str(random_base)))
    shutil.copytree(random_base / "unet", tmp_path / "part/unet")
    shutil.copytree(random_base, tmp_path / "mute")
    (tmp_path / "mute/tokenizer/tokenizer.json").unlink()
    for config, message in (
        (None, "model.config=None: .* holds weights only; name the Hub id or the folder"),
        ("owner/name", r"model.config=owner/name: .*and it could not be fetched from the Hub"),
        (str(tmp_path / "part"), "model.config=.*: model_index.json is missing in"),
        (str(tmp_path / "mute"), "model.config=.*: tokenizer/vocab.json is missing in"),
    ):
        with pytest.raises(ModelError, match=f"^{message}"):
            resolve(ModelSource(str(sd_file), config=config))

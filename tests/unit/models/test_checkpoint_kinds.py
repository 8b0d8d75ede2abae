"""Files that are no whole checkpoint: named as what they are, with remedies that work."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor

from sdlora.models.base_folder import check_folder
from sdlora.models.base_noise import base_noise
from sdlora.models.base_notes import base_notes
from sdlora.models.loading import load_family
from sdlora.models.source import ModelError, ModelSource, resolve
from tests.single_file import write_single_file

pytestmark = pytest.mark.filterwarnings("ignore:__array_(_ impl|wrap__ must):DeprecationWarning")

UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model."
CONV_IN = f"{UNET}input_blocks.0.0.weight"
Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def checkpoint(random_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random base in one file, as SD1.x lies there."""
    pipeline = StableDiffusionPipeline.from_pretrained(random_base, safety_checker=None)
    file = tmp_path_factory.mktemp("files") / "model.safetensors"
    return write_single_file(file, pipeline, False)


def only(*starts: str) -> Callable[[Weights], Weights]:
    return lambda weights: {k: v for k, v in weights.items() if k.startswith(starts)}


def renamed(old: str, new: str) -> Callable[[Weights], Weights]:
    return lambda weights: {key.replace(old, new): value for key, value in weights.items()}


def channels(number: int) -> Callable[[Weights], Weights]:
    return lambda weights: weights | {CONV_IN: torch.zeros(8, number, 3, 3)}


def written(target: Path, weights: Weights) -> Path:
    save_file({key: value.contiguous().clone() for key, value in weights.items()}, target)
    return target


def refused(source: ModelSource) -> str:
    with pytest.raises(ModelError) as error:
        resolve(source)
    message = str(error.value)
    assert message.startswith(f"model.path={source.path}: ")
    return message.partition(": ")[2]


def same(one: Any, other: Any) -> bool:
    before, after = one.state_dict(), other.state_dict()
    return before.keys() == after.keys() and all(
        torch.equal(after[k], v) for k, v in before.items()
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (channels(9), "is an inpainting model (9 input channels), which cannot be trained here; "),
        (channels(8), "is an InstructPix2Pix model (8 input channels), "),
        (channels(7), "is an upscaling model (7 input channels), "),
        (channels(5), "is a depth-conditioned model (5 input channels), "),
        (
            renamed(TEXT + "transformer.", "conditioner.embedders.0.model."),
            "is the refiner of Stable Diffusion XL (its one text encoder is OpenCLIP)",
        ),
        (lambda w: renamed(UNET, "model_ema.")(w), "holds EMA weights only (model_ema.*)"),
        (lambda _: {"double_blocks.0.x": torch.ones(1)}, "is Flux, which is not supported"),
        (lambda _: {"joint_blocks.0.x": torch.ones(1)}, "is Stable Diffusion 3, which is not"),
        (lambda w: w | {"control_model.x": torch.ones(1)}, "is a ControlNet, which is not"),
        (lambda _: {"emb_params": torch.ones(1)}, "is a textual inversion, which is not"),
        (only(TEXT), "holds no weights of a UNet (model.diffusion_model.*)"),
    ],
)
def test_kinds_are_named(
    change: Callable[[Weights], Weights],
    message: str,
    checkpoint: Path,
    random_base: Path,
    tmp_path: Path,
) -> None:
    file = written(tmp_path / "other.safetensors", change(load_file(checkpoint)))
    assert refused(ModelSource(str(file), config=str(random_base))).startswith(message)


def test_a_pickle_is_converted_by_the_command_of_the_message(
    checkpoint: Path, random_base: Path, tmp_path: Path
) -> None:
    weights = load_file(checkpoint)
    for name in ("model.ckpt", "model.pt", "model.bin", "pickle.safetensors"):
        path = tmp_path / name
        torch.save({"state_dict": weights, "global_step": 7}, path)
        message = refused(ModelSource(str(path), config=str(random_base)))
        if name == "pickle.safetensors":
            better = re.match(r"is pickle in spite of its name; rename it to (\S+), and", message)
            assert better is not None
            path = path.rename(path.with_name(better[1]))
            message = refused(ModelSource(str(path), config=str(random_base)))
        assert message.startswith("is pickle, which can run code")
        code = re.search(r'^python -c "(.+)"$', message, re.MULTILINE)
        assert code is not None
        exec(code[1], {})
        file = message.rpartition("use ")[2]
        found = load_family(ModelSource(file, config=str(random_base)), 0)
        assert same(found.unet, load_family(ModelSource(str(random_base)), 0).unet)
        Path(file).unlink()


def test_a_pickle_that_runs_code_is_not_converted(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"state_dict": Evil()}, tmp_path / "model.ckpt")
    message = refused(ModelSource(str(tmp_path / "model.ckpt")))
    code = re.search(r'^python -c "(.+)"$', message, re.MULTILINE)
    assert code is not None
    with pytest.raises(Exception, match="[Ww]eights.only"):
        exec(code[1], {})
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer"),
        (b"<!DOCTYPE html><html></html>", "is a web page, not weights; its download"),
        (b'{"error": "unauthorised"}', "is a JSON text, not weights; it is the answer"),
        (b"GGUF\x03\x00\x00\x00", "is a GGUF file"),
        (b"", "is empty, a download that broke off; fetch it again"),
        (b"\x00" * 40, "is no safetensors file; fetch it again"),
    ],
)
def test_files_of_another_content_are_named(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert refused(ModelSource(str(path))).startswith(message)


def test_half_a_download_is_named_with_both_sizes(checkpoint: Path, tmp_path: Path) -> None:
    whole = checkpoint.read_bytes()
    path = tmp_path / "model.safetensors"
    path.write_bytes(whole[: len(whole) // 2])
    sizes = f"has {len(whole) // 2} of {len(whole)} bytes, a download that broke off"
    assert refused(ModelSource(str(path))) == f"{sizes}; fetch it again"


def test_a_unet_alone_is_put_into_a_folder(
    checkpoint: Path, random_base: Path, tmp_path: Path
) -> None:
    """By the command of the message where it has the original names, else by a copy."""
    weights = {k: v + 1 for k, v in load_file(checkpoint).items()}
    file = written(tmp_path / "unet.safetensors", only(UNET)(weights))
    folder = shutil.copytree(random_base, tmp_path / "folder")
    message = refused(ModelSource(str(file), config=str(random_base)))
    assert message.startswith("holds a UNet but no weights of a text encoder")
    code = re.search(r'^python -c "(.+)"$', message, re.MULTILINE)
    assert code is not None
    exec(code[1].replace("FOLDER", str(folder)), {})
    found = load_family(ModelSource(str(folder)), 0)
    own = load_family(ModelSource(str(random_base)), 0)
    assert torch.equal(found.unet.conv_in.weight, own.unet.conv_in.weight + 1)

    alone = folder / "unet/diffusion_pytorch_model.safetensors"
    message = refused(ModelSource(str(alone), config=str(random_base)))
    assert message.startswith("is a UNet alone, in the diffusers layout; copy the folder of its")
    other = shutil.copytree(random_base, tmp_path / "other")
    shutil.copy(alone, other / "unet/diffusion_pytorch_model.safetensors")
    assert same(load_family(ModelSource(str(other)), 0).unet, found.unet)


@pytest.mark.parametrize("cut", ["", VAE])
def test_a_vae_alone_belongs_into_another_key(
    cut: str, checkpoint: Path, random_base: Path, tmp_path: Path
) -> None:
    weights = {k.removeprefix(cut): v + 1 for k, v in only(VAE)(load_file(checkpoint)).items()}
    file = written(tmp_path / "vae.safetensors", weights)
    message = refused(ModelSource(str(file), config=str(random_base)))
    assert message.startswith(f"is a VAE alone; use model.vae={file}, and name with model.path")
    found = load_family(ModelSource(str(random_base), vae=str(file)), 0)
    own = load_family(ModelSource(str(random_base)), 0)
    assert torch.equal(found.vae.decoder.conv_in.weight, own.vae.decoder.conv_in.weight + 1)


@pytest.mark.parametrize("kind", ["folder", "file", "part"])
def test_a_checkpoint_without_vae_takes_one(
    kind: str, checkpoint: Path, random_base: Path, tmp_path: Path
) -> None:
    weights = load_file(checkpoint)
    file = written(tmp_path / "bare.safetensors", only(UNET, TEXT)(weights))
    source = ModelSource(str(file), config=str(random_base))
    assert refused(source).startswith("holds no VAE (first_stage_model.*); name one with model.vae")
    vaes = {"folder": random_base, "part": random_base / "vae", "file": checkpoint}
    found = load_family(replace(source, vae=str(vaes[kind])), 0)
    own = load_family(ModelSource(str(random_base)), 0)
    assert all(same(found.get_submodule(p), own.get_submodule(p)) for p in ("vae", "unet"))
    assert same(found.text_encoder, own.text_encoder)


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_clip_as_it_was_once_spelled(
    family: str, random_base: Path, random_xl: Path, tmp_path: Path
) -> None:
    is_xl = family == "sdxl"
    folder = random_xl if is_xl else random_base
    kind = StableDiffusionXLPipeline if is_xl else StableDiffusionPipeline
    file = write_single_file(tmp_path / "new.safetensors", kind.from_pretrained(folder), False)
    old = renamed("transformer.text_model.", "transformer.")(load_file(file))
    found = load_family(
        ModelSource(str(written(tmp_path / "old.safetensors", old)), family, str(folder)), 0
    )
    assert same(found, load_family(ModelSource(str(folder), family), 0))


def test_ema_beside_the_weights_is_said(
    checkpoint: Path, random_base: Path, tmp_path: Path
) -> None:
    weights = load_file(checkpoint)
    ema = {f"model_ema.{k.replace('.', '')}": v + 1 for k, v in only(UNET)(weights).items()}
    file = written(tmp_path / "ema.safetensors", weights | ema)
    source = ModelSource(str(file), config=str(random_base))
    assert base_notes(source, base_noise(source)) == [
        "note: ema.safetensors holds EMA weights, too (model_ema.*); its weights named "
        "model.diffusion_model.* are read"
    ]
    own = load_family(ModelSource(str(random_base)), 0)
    assert same(load_family(source, 0).unet, own.unet)


def test_variants_of_a_folder(random_base: Path, tmp_path: Path) -> None:
    """Which one is read is said; a missing one is named with the key that works."""
    folder = shutil.copytree(random_base, tmp_path / "folder")
    plain = folder / "unet/diffusion_pytorch_model.safetensors"
    shutil.copy(plain, folder / "unet/diffusion_pytorch_model.non_ema.safetensors")
    source = ModelSource(str(folder))
    assert base_notes(source, base_noise(source)) == [
        "note: unet: diffusion_pytorch_model.safetensors is read; diffusion_pytorch_model.non_ema "
        "is there, too (model.variant)"
    ]
    for path in folder.rglob("*.safetensors"):
        if "non_ema" not in path.name:
            path.rename(path.with_suffix(".fp16.safetensors"))
    with pytest.raises(ModelError) as error:
        load_family(source, 0)
    found = re.search(r"set model\.variant=(\w+)$", str(error.value))
    assert found is not None
    assert load_family(replace(source, variant=found[1]), 0).unet is not None


@pytest.mark.parametrize("number", [5, 7, 8, 9])
def test_folders_of_other_inputs_are_named_before_a_weight_is_read(
    number: int, random_base: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(random_base, tmp_path / "folder")
    config = folder / "unet/config.json"
    text = config.read_text("utf-8")
    config.write_text(text.replace('"in_channels": 4', f'"in_channels": {number}'), "utf-8")
    (folder / "unet/diffusion_pytorch_model.safetensors").write_bytes(b"unread")
    source = ModelSource(str(folder))
    with pytest.raises(ModelError, match=rf": is an? [\w -]+ \({number} input channels\), which"):
        check_folder(folder, source)


def test_a_refiners_folder_is_named(random_xl: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(random_xl, tmp_path / "refiner")
    shutil.rmtree(folder / "text_encoder")
    shutil.rmtree(folder / "tokenizer")
    index = json.loads((folder / "model_index.json").read_text("utf-8"))
    index |= {"text_encoder": [None, None], "tokenizer": [None, None]}  # as it is there
    (folder / "model_index.json").write_text(json.dumps(index), "utf-8")
    with pytest.raises(ModelError, match="is the refiner of Stable Diffusion XL .*model=sdxl$"):
        check_folder(folder, ModelSource(str(folder), "sdxl"))


@pytest.mark.parametrize("is_vae", [False, True])
def test_a_folder_of_bin_files_is_converted_by_the_command_of_the_message(
    is_vae: bool, random_base: Path, tmp_path: Path
) -> None:
    here = shutil.copytree(random_base / "vae" if is_vae else random_base, tmp_path / "folder")
    for path in here.rglob("*.safetensors"):
        name = "pytorch_model" if path.stem == "model" else path.stem
        torch.save(load_file(path), path.with_name(f"{name}.bin"))
        path.unlink()
    paths = {"path": str(random_base), "vae": str(here)} if is_vae else {"path": str(here)}
    with pytest.raises(ModelError, match="has only .bin weights, which are pickle") as error:
        load_family(ModelSource(**paths), 0)
    code = re.search(r'^python -c "(.+)"$', str(error.value), re.MULTILINE)
    use = re.search(r"use model\.(path|vae)=(.+):$", str(error.value), re.MULTILINE)
    assert code is not None
    assert use is not None
    exec(code[1], {})
    found = load_family(ModelSource(**{**paths, use[1]: use[2]}), 0)
    assert same(found, load_family(ModelSource(str(random_base)), 0))

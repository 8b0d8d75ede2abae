"""The proof of an export fails for every fault of a file, in each layout, and a blind reader."""

import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from sdlora.adapters.weights import SEAL
from sdlora.export import proof
from sdlora.export.layouts import export_lora
from sdlora.export.proof import ExportError, prove_export
from sdlora.models.sd import SD
from tests.unit.adapters.tiny_models import (
    ATTENTION,
    tiny_pipeline,
    tiny_text_encoder,
    tiny_unet,
    with_lora,
)

FILES = {
    "diffusers": "pytorch_lora_weights.safetensors",
    "kohya": "face.safetensors",
    "peft": "unet/adapter_model.safetensors",
}
ALPHAS = {"kohya": "", "diffusers": "lora_adapter_metadata", "peft": "unet/adapter_config.json"}
"""Where a layout keeps the alpha of a layer: kohya in a tensor of its own."""

Weights = dict[str, Tensor]

pytestmark = [
    # what readers say of keys that are not there, or not theirs
    pytest.mark.filterwarnings("ignore:.*(missing|unexpected).*keys.*"),
    pytest.mark.filterwarnings("ignore:.*No LoRA keys.*"),
]


@pytest.fixture(scope="module")
def parts() -> dict[str, torch.nn.Module]:
    return {
        "unet": with_lora(tiny_unet(), "unet", ATTENTION),
        "text_encoder": with_lora(tiny_text_encoder(), "text_encoder", ATTENTION, r=3, alpha=1.25),
    }


@pytest.fixture(scope="module")
def sound(parts: dict[str, torch.nn.Module], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound") / "lora"
    export_lora(folder, parts=parts, names=SD.trainable, metadata={}, name="face")
    return folder


@pytest.fixture
def exported(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "lora"))


def rewrite(path: Path, change: Callable[[Weights], Weights]) -> None:
    """Other weights under the same header, but for the seal, which a faulty writer would renew."""
    with safe_open(path, "pt") as file:
        header = {k: v for k, v in file.metadata().items() if k != SEAL}
    save_file(change(load_file(path)), path, header)


def of_unet(weights: Weights) -> str:
    """A matrix of the UNet's adapter."""
    others = ("text_encoder", "lora_te", "alpha")
    return next(key for key in sorted(weights) if not any(word in key for word in others))


def a_little_off(weights: Weights) -> Weights:
    key = of_unet(weights)
    value = weights[key].clone()
    value.flatten()[0] += 1e-6
    return {**weights, key: value}


def without_a_layer(weights: Weights) -> Weights:
    layer = re.split(r"\.lora_", of_unet(weights))[0]
    return {key: value for key, value in weights.items() if not key.startswith(f"{layer}.")}


def under_names_that_nobody_reads(weights: Weights) -> Weights:
    layer = of_unet(weights)
    return {("nobody." + key if key == layer else key): value for key, value in weights.items()}


FAULTS = {
    "a little off": a_little_off,
    "without a layer": without_a_layer,
    "a key that nobody reads": under_names_that_nobody_reads,
}


@pytest.mark.parametrize("layout", FILES)
def test_a_sound_file_is_proved_and_a_blind_reader_proves_nothing(
    layout: str,
    exported: Path,
    parts: dict[str, torch.nn.Module],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fresh = partial(tiny_pipeline, tmp_path / "tokenizer")
    assert max(prove_export(exported, fresh, parts).values()) < 1e-5
    monkeypatch.setitem(proof.LOADERS, layout, lambda path, pipeline, parts: None)
    with pytest.raises(ExportError, match=rf"{layout}/unet: .* adapter entries are not the same"):
        prove_export(exported, fresh, parts)


@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
def test_a_file_that_its_users_read_is_proved_by_their_reader(
    layout: str,
    exported: Path,
    parts: dict[str, torch.nn.Module],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fresh = partial(tiny_pipeline, tmp_path / "tokenizer")
    monkeypatch.setattr(
        StableDiffusionPipeline, "load_lora_weights", lambda pipeline, *args, **options: None
    )
    path = exported / FILES[layout]
    expected = proof.expectation(parts)
    with pytest.raises(ExportError, match=rf"{layout}/unet: .* adapter entries are not the same"):
        proof.prove_file(path, layout, fresh(), expected)


@pytest.mark.filterwarnings("ignore:While injecting the PEFT adapters:RuntimeWarning")
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("layout", FILES)
def test_a_fault_of_a_file_is_found(
    layout: str, fault: str, exported: Path, parts: dict[str, torch.nn.Module], tmp_path: Path
) -> None:
    rewrite(exported / FILES[layout], FAULTS[fault])
    fresh = partial(tiny_pipeline, tmp_path / "tokenizer")
    with pytest.raises(ValueError, match=r"adapter entries are not the same|are no LoRA of"):
        prove_export(exported, fresh, parts)


@pytest.mark.parametrize("layout", FILES)
def test_a_wrong_alpha_is_found(
    layout: str, exported: Path, parts: dict[str, torch.nn.Module], tmp_path: Path
) -> None:
    path = exported / FILES[layout]
    if layout == "kohya":
        rewrite(path, lambda w: {k: v * 2 if "alpha" in k else v for k, v in w.items()})
    elif layout == "peft":
        place = exported / ALPHAS[layout]
        config = json.loads(place.read_text("utf-8"))
        place.write_text(json.dumps({**config, "lora_alpha": 2 * config["lora_alpha"]}), "utf-8")
    else:
        with safe_open(path, "pt") as file:
            header = file.metadata()
        config = json.loads(header[ALPHAS[layout]])
        config |= {key: 2 * v for key, v in config.items() if key.endswith("lora_alpha")}
        header = {**header, ALPHAS[layout]: json.dumps(config)}
        save_file(load_file(path), path, {k: v for k, v in header.items() if k != SEAL})
    fresh = partial(tiny_pipeline, tmp_path / "tokenizer")
    with pytest.raises(ExportError, match=rf"{layout}/unet: .* adapter entries are not the same"):
        prove_export(exported, fresh, parts)

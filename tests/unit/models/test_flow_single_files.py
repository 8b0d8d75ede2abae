"""Single files of flow families: what of them is read, and remedies that work to the bit."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdlora.models.loading import load_family
from sdlora.models.source import ModelError, ModelSource
from tests.flow_single_files import original_klein, original_z_image
from tests.single_file import original_vae

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
ORIGINAL = {"z_image": original_z_image, "flux2_klein": original_klein}


def refused(file: Path, family: str, config: Path) -> str:
    with pytest.raises(ModelError) as error:
        load_family(ModelSource(str(file), family=family, config=str(config)), 0)
    return str(error.value)


@pytest.fixture(params=sorted(ORIGINAL))
def base(request: pytest.FixtureRequest, random_bases: dict[str, Path]) -> tuple[str, Path]:
    return request.param, random_bases[request.param]


@pytest.mark.parametrize("asked_for", ["itself", "sd"])
def test_a_transformer_alone_is_put_into_a_folder(
    asked_for: str, base: tuple[str, Path], tmp_path: Path
) -> None:
    family, place = base
    changed = {name: value + 1 for name, value in load_file(place / WEIGHTS).items()}
    folder = shutil.copytree(place, tmp_path / "folder")
    file = tmp_path / "alone.safetensors"
    save_file({k: v.contiguous() for k, v in ORIGINAL[family](changed).items()}, file)
    message = refused(file, family if asked_for == "itself" else "sd", place)
    assert "UNet" not in message
    assert f"use model.family={family} model.path=FOLDER" in message
    code = re.search(r'^python -c "(.+)"$', message, re.MULTILINE)
    assert code is not None
    exec(code[1].replace("FOLDER", str(folder)), {})
    found = load_family(ModelSource(str(folder), family=family), 0).denoiser.state_dict()
    assert found.keys() == changed.keys()
    assert all(torch.equal(found[name], value) for name, value in changed.items())

    message = refused(folder / WEIGHTS, family, place)
    assert f"put this file there as {WEIGHTS} in place of its own" in message
    other = shutil.copytree(place, tmp_path / "other")
    shutil.copy(folder / WEIGHTS, other / WEIGHTS)
    again = load_family(ModelSource(str(other), family=family), 0).denoiser.state_dict()
    assert all(torch.equal(again[name], value) for name, value in changed.items())


@pytest.mark.parametrize("layout", ["original", "diffusers"])
def test_a_vae_in_one_file(layout: str, base: tuple[str, Path], tmp_path: Path) -> None:
    family, place = base
    own: Any = load_family(ModelSource(str(place), family=family), 0).vae
    with torch.no_grad():
        for tensor in (*own.parameters(), *own.buffers()):
            tensor.add_(1)
    file = tmp_path / "vae.safetensors"
    weights = original_vae(own) if layout == "original" else own.state_dict()
    save_file({k: v.contiguous() for k, v in weights.items()}, file)
    source = ModelSource(str(place), family=family, vae=str(file))
    found = load_family(source, 0).vae.state_dict()
    for name, value in own.state_dict().items():
        assert name.endswith("num_batches_tracked") or torch.equal(found[name], value), name

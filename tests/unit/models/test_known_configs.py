"""What is known of a base without fetching or converting anything."""

import shutil
from pathlib import Path

import pytest

from sdlora.models.families import families
from sdlora.models.known_configs import known_configs
from sdlora.models.source import ModelError, ModelSource, pixel_steps
from sdlora.runtime.places import ASSETS
from tests.architectures import SD15_UNET, SDXL_UNET

TINY = ASSETS / "tiny-sd"


def test_the_configs_of_a_folder_are_enough(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(TINY, tmp_path / "base"))
    for weights in folder.rglob("*.safetensors"):
        weights.unlink()
    source = ModelSource(str(folder), vae="owner/elsewhere")
    assert known_configs(source) == folder
    (folder / "unet" / "config.json").unlink()
    assert known_configs(source) is None
    assert known_configs(ModelSource("embedded:tiny-sd")) == TINY


def test_a_single_file_has_those_of_its_config(tmp_path: Path) -> None:
    file = tmp_path / "base.safetensors"
    file.touch()
    assert known_configs(ModelSource(str(file), config=str(TINY))) == TINY
    assert known_configs(ModelSource(str(file), config="owner/elsewhere")) is None
    assert known_configs(ModelSource(str(file))) is None


def test_what_is_elsewhere_is_unknown_and_what_is_nowhere_an_error(tmp_path: Path) -> None:
    assert known_configs(ModelSource("owner/elsewhere")) is None
    with pytest.raises(ModelError, match=r"^model\.path=.*: no such folder"):
        known_configs(ModelSource(str(tmp_path / "none")))
    with pytest.raises(ModelError, match=r"^model\.path=models/none\.safetensors: no such file"):
        known_configs(ModelSource("models/none.safetensors"))


@pytest.mark.parametrize(("name", "unet"), [("sd", SD15_UNET), ("sdxl", SDXL_UNET)])
def test_the_step_of_a_family_is_that_of_its_released_models(
    name: str, unet: dict[str, tuple[int, ...]]
) -> None:
    """The VAE of both has eight pixels a latent; each level of the UNet but the last halves."""
    halvings = 2 ** (len(unet["block_out_channels"]) - 1)
    assert families()[name].side_step_px == 8 * halvings
    assert pixel_steps(TINY, ModelSource(str(TINY)))[1] == 16  # the shipped one is smaller

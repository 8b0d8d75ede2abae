"""``sdlora lora`` on bases as they are shared: one file, without VAE, v-prediction, Kolors."""

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import KolorsPipeline, StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from sdlora.adapters.file_writing import write_kohya
from sdlora.adapters.lora import add_lora
from sdlora.adapters.spec import LoraSpec
from sdlora.commands.lora.arguments import main
from sdlora.models.base_noise import base_noise
from sdlora.models.families import description_of
from sdlora.models.loading import load_family
from sdlora.models.source import ModelSource
from tests.single_file import write_single_file
from tests.unit.adapters.tiny_models import ATTENTION, randomise

pytestmark = pytest.mark.filterwarnings("ignore:__array_(_ impl|wrap__ must):DeprecationWarning")

VAE = "first_stage_model."


def call(*arguments: object) -> None:
    main([str(each) for each in arguments])


@pytest.fixture
def message_of(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def refused(*arguments: object) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            call(*arguments)
        assert stop.value.code == 2
        return capsys.readouterr().err

    return refused


@pytest.fixture(scope="module")
def lora(random_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lora_file(random_base, "sd", tmp_path_factory.mktemp("lora") / "a.safetensors")


def lora_file(base: Path, family: str, path: Path) -> Path:
    unet = load_family(ModelSource(str(base), family), 0).parts["unet"]
    spec = LoraSpec(r=4, alpha=6.0, dropout=0.0, targets=ATTENTION["unet"])
    return write_kohya(
        path,
        parts={"unet": randomise(add_lora(unet, spec, seed=1))},
        names=description_of(family).trainable,
        metadata={"ss_base_model_version": "sd_v1" if family == "sd" else family},
    )


@pytest.fixture(scope="module")
def checkpoint(random_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pipeline = StableDiffusionPipeline.from_pretrained(random_base, safety_checker=None)
    file = tmp_path_factory.mktemp("checkpoint") / "model.safetensors"
    return write_single_file(file, pipeline, False)


def changed(checkpoint: Path, target: Path, without: str = "none", **more: Tensor) -> Path:
    kept = {k: v for k, v in load_file(checkpoint).items() if not k.startswith(without)}
    save_file({**kept, **more}, target)
    return target


def test_merge_and_extract_take_one_file(
    lora: Path, checkpoint: Path, random_base: Path, tmp_path: Path
) -> None:
    """The same weights as from the folder that the file was made of; and the LoRA is found."""
    how = ("--dtype", "fp32", "--out")
    call("merge", lora, "--base", random_base, *how, tmp_path / "of_folder.safetensors")
    config, merged = ("--config", random_base), tmp_path / "of_file.safetensors"
    call("merge", lora, "--base", checkpoint, *config, *how, merged)
    one, other = load_file(tmp_path / "of_folder.safetensors"), load_file(merged)
    assert one.keys() == other.keys()
    assert all(torch.equal(other[key], value) for key, value in one.items())
    out = tmp_path / "found.safetensors"
    call("extract", "--tuned", merged, "--base", checkpoint, *config, "--r", "4", "--out", out)
    assert load_file(out)


def test_without_a_config_it_is_asked_for_by_the_options_name(
    lora: Path, checkpoint: Path, random_base: Path, tmp_path: Path, message_of: Callable[..., str]
) -> None:
    arguments = ("merge", lora, "--base", checkpoint, "--out", tmp_path / "out")
    message = message_of(*arguments)
    assert "--config=None: " in message
    assert "name the Hub id or the folder that has the configs" in message
    assert "model." not in message.replace("model.safetensors", "")
    call(*arguments, "--config", random_base)


def test_a_checkpoint_without_vae_is_merged_with_another(
    lora: Path, checkpoint: Path, random_base: Path, tmp_path: Path, message_of: Callable[..., str]
) -> None:
    bare = changed(checkpoint, tmp_path / "bare.safetensors", VAE)
    out = tmp_path / "out.safetensors"
    arguments = ("merge", lora, "--base", bare, "--config", random_base, "--out", out)
    message = message_of(*arguments)
    assert f"--base={bare}: holds no VAE (first_stage_model.*); name one with --vae" in message
    call(*arguments, "--dtype", "fp32", "--vae", checkpoint)
    vae = {key: value for key, value in load_file(out).items() if key.startswith(VAE)}
    wanted = {k: v for k, v in load_file(checkpoint).items() if k.startswith(VAE)}
    assert vae.keys() == wanted.keys()
    assert all(torch.equal(vae[key], value) for key, value in wanted.items())


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_merged_model_says_what_it_predicts(
    kind: str, lora: Path, checkpoint: Path, random_base: Path, tmp_path: Path
) -> None:
    marked = changed(
        checkpoint,
        tmp_path / "marked.safetensors",
        v_pred=torch.tensor([]),
        ztsnr=torch.tensor([]),
    )
    out = tmp_path / ("out.safetensors" if kind == "file" else "out")
    call("merge", lora, "--base", marked, "--config", random_base, "--out", out)
    found = base_noise(ModelSource(str(out), config=str(random_base))).config
    assert found["prediction_type"] == "v_prediction"
    assert found["rescale_betas_zero_snr"] is True
    assert found["timestep_spacing"] == "trailing"
    if kind == "file":  # as ComfyUI and Forge know it
        assert {"v_pred", "ztsnr"} <= load_file(out).keys()
        with safe_open(out, "pt") as opened:
            assert opened.metadata()["modelspec.prediction_type"] == "v"


def test_a_contradiction_is_decided_by_the_option(
    lora: Path, checkpoint: Path, random_base: Path, tmp_path: Path, message_of: Callable[..., str]
) -> None:
    file = tmp_path / "both.safetensors"
    weights = {**load_file(checkpoint), "v_pred": torch.tensor([])}
    save_file(weights, file, {"modelspec.prediction_type": "epsilon"})
    out = tmp_path / "out"
    arguments = ("merge", lora, "--base", file, "--config", random_base, "--out", out)
    message = message_of(*arguments)
    assert "set --prediction-type=v_prediction or --prediction-type=epsilon" in message
    call(*arguments, *shlex.split(message.partition("; set ")[2].partition(" or ")[0]))
    assert base_noise(ModelSource(str(out))).config["prediction_type"] == "v_prediction"


def test_kolors_is_merged_into_a_folder(
    random_kolors: Path, tmp_path: Path, message_of: Callable[..., str]
) -> None:
    lora = lora_file(random_kolors, "kolors", tmp_path / "a.safetensors")
    arguments = ("merge", lora, "--base", random_kolors, "--dtype", "fp32")
    out = tmp_path / "merged.safetensors"
    message = message_of(*arguments, "--out", out)
    assert "Kolors has no layout of one file; give a folder, such as --out " in message
    folder = Path(message.rpartition("--out ")[2].split()[0])
    call(*arguments, "--out", folder)  # the remedy
    before = KolorsPipeline.from_pretrained(random_kolors).unet.state_dict()
    after = KolorsPipeline.from_pretrained(folder).unet.state_dict()
    assert before.keys() == after.keys()
    assert any(not torch.equal(after[key], value) for key, value in before.items())

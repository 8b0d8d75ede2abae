"""``train.py`` on a checkpoint in one file gives what it gives on the same model in a folder."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.single_file import write_single_file
from tests.smoke.conftest import SMALL, TrainHere

pytestmark = pytest.mark.slow


def test_the_lora_is_that_of_the_same_model_in_a_folder(
    random_base: Path, pictures: Path, train_here: TrainHere, tmp_path: Path
) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(random_base, safety_checker=None)
    file = write_single_file(tmp_path / "model.safetensors", pipeline, open_clip=False)
    old = {
        key.replace("transformer.text_model.", "transformer."): value
        for key, value in load_file(file).items()
        if not key.startswith("first_stage_model.")
    }
    save_file(old, bare := tmp_path / "bare.safetensors")
    small = (f"data.root={pictures}", "data.resolution=32", "trainer.max_steps=1", *SMALL)
    loras = []
    for name, base in (
        ("folder", (f"model.path={random_base}",)),
        ("file", (f"model.path={file}", f"model.config={random_base}")),
        ("bare", (f"model.path={bare}", f"model.config={random_base}", f"model.vae={file}")),
    ):
        train_here(*small, *base, f"run_dir={tmp_path / name}")
        loras.append(load_file(tmp_path / name / "lora/pytorch_lora_weights.safetensors"))
    for other in loras[1:]:
        assert other.keys() == loras[0].keys()
        assert all(torch.equal(other[key], value) for key, value in loras[0].items())


def test_marked_v_prediction_trains_as_a_folder_that_says_so(
    random_base: Path,
    pictures: Path,
    train_here: TrainHere,
    message_of: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(random_base, safety_checker=None)
    file = write_single_file(tmp_path / "model.safetensors", pipeline, open_clip=False)
    markers = {"v_pred": torch.tensor([]), "ztsnr": torch.tensor([])}
    save_file({**load_file(file), **markers}, file)
    folder = tmp_path / "folder"
    shutil.copytree(random_base, folder)
    scheduler = folder / "scheduler/scheduler_config.json"
    told = {
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
    }
    scheduler.write_text(json.dumps(json.loads(scheduler.read_text("utf-8")) | told), "utf-8")
    small = (f"data.root={pictures}", "data.resolution=32", "trainer.max_steps=1", *SMALL)
    found = {}
    for name, base in (
        ("folder", (f"model.path={folder}",)),
        ("file", (f"model.path={file}", f"model.config={random_base}")),
    ):
        train_here(*small, *base, "sampling.sampler=ddim", f"run_dir={tmp_path / name}")
        lora = tmp_path / name / "lora/pytorch_lora_weights.safetensors"
        said = "".join(capsys.readouterr().out.split())
        assert ("v_prediction(tensorv_pred),zero-terminalSNR(tensorztsnr)" in said) is (
            name == "file"
        )
        with safe_open(lora, "pt") as opened:
            header = opened.metadata()
        assert header["modelspec.prediction_type"] == "v"
        assert header["ss_base_model_version"] == "sd_v1_v"
        assert header["ss_zero_terminal_snr"] == "True"
        drawn = sorted((tmp_path / name / "samples").rglob("*.png"))
        found[name] = (load_file(lora), [path.read_bytes() for path in drawn])
    before, after = found["folder"], found["file"]
    assert before[0].keys() == after[0].keys()
    assert all(torch.equal(after[0][key], value) for key, value in before[0].items())
    assert after[1] == before[1]
    assert after[1]
    base = (f"model.path={file}", f"model.config={random_base}", f"run_dir={tmp_path / 'no'}")
    capsys.readouterr()
    message = message_of(*small, *base, "objective.prediction_type=epsilon")
    assert message.startswith("objective.prediction_type=epsilon: but model.path=")
    assert "predicts v_prediction (tensor v_pred)" in message

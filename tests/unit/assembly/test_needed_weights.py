"""What a run needs from elsewhere, by its config, and the message where it is not there."""

import subprocess
import sys
from pathlib import Path

import pytest

from sdlora.assembly.needed_weights import needed_for_training, require_weights
from sdlora.cli.arguments import opened_options
from sdlora.config.rules import ConfigError
from sdlora.config.train import TrainConfig
from sdlora.weights.hub_models import CONFIGS
from tests.composed import train_config
from tests.places import REPOSITORY

FETCH = ["sdlora", "fetch", "model=sd15", "data.root=my photos"]


@pytest.fixture(autouse=True)
def _empty_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DEEPFACE_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def typed(*given: str) -> TrainConfig:
    arguments = opened_options([*given], TrainConfig)
    return train_config(*arguments)


def needed(*given: str) -> dict[str, str]:
    return {need.key: need.value for need in needed_for_training(typed(*given))}


SD15 = {
    "model.path": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "evaluation.face.options.model_name": "GhostFaceNet",
    "evaluation.face.options.detector": "yunet",
    "evaluation.clip.options.model": "openai/clip-vit-base-patch32",
    "evaluation.image.options.model": "facebook/dinov2-base",
}


def test_the_embedded_base_needs_nothing_and_a_real_one_all_of_its_own() -> None:
    assert needed() == {}
    found = needed("model=sd15")
    assert found.keys() == SD15.keys()
    assert found["model.path"] == SD15["model.path"]


def test_what_is_not_used_is_not_needed(tmp_path: Path) -> None:
    only_base = {"model.path": SD15["model.path"]}
    assert needed("model=sd15", "evaluation=none") == only_base
    assert needed("model=sd15", "check=true") == {}
    assert "model.path" not in needed("model=sd15", f"model.path={tmp_path}")
    assert needed("data.crop=face", "data.face_detector=yunet") == {"data.face_detector": "yunet"}


def test_a_file_brings_weights_and_its_config_the_rest(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    config = typed("model=sd15", f"model.path={file}", "model.vae=owner/vae", "evaluation=none")
    configs, vae = needed_for_training(config)
    assert (configs.key, configs.value) == ("model.config", SD15["model.path"])
    assert configs.model is not None
    assert configs.model.kind == CONFIGS
    assert vae.model is not None
    assert (vae.key, vae.model.name, vae.model.part) == ("model.vae", "owner/vae", "vae")


def test_of_what_draws_the_transformer_is_needed() -> None:
    config = typed("model=z_image", "model.draw_with=owner/few", "evaluation=none")
    _, few = needed_for_training(config)
    assert few.model is not None
    found = (few.key, few.model.name, few.model.part)
    assert found == ("model.draw_with", "owner/few", "transformer")


def message(*given: str) -> str:
    config = typed(*given)
    with pytest.raises(ConfigError) as error:
        require_weights(needed_for_training(config), config.evaluation, FETCH)
    return str(error.value)


def test_the_message_names_each_and_the_command(tmp_path: Path) -> None:
    lines = message("model=sd15").splitlines()
    assert lines[0] == "this run needs what is not on this machine, or not whole:"
    assert len(lines) == 2 + len(SD15)
    for key, line in zip(SD15, lines[1:-1], strict=True):
        assert line.startswith(f"  {key}=")
    assert lines[-1] == "get it once, with network: sdlora fetch model=sd15 'data.root=my photos'"


def test_scores_alone_may_be_missing(tmp_path: Path) -> None:
    photos = ("evaluation=photos", "evaluation.image=none", "evaluation.kid=false")
    photos = tuple(item.replace("image=none", "image.name=none") for item in photos)
    assert message(*photos).endswith("or go on without these scores: evaluation.on_missing=warn")
    config = typed(*photos, "evaluation.on_missing=warn")
    require_weights(needed_for_training(config), config.evaluation, FETCH)
    assert "model.path=" in message("model=sd15", "evaluation.on_missing=warn")
    assert "evaluation." not in message("model=sd15", "evaluation.on_missing=warn")


def test_a_damaged_file_is_named_and_a_library_has_its_own_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ".deepface" / "weights"
    folder.mkdir(parents=True)
    (folder / "ghostfacenet_v1.pth").write_text("<html>Not Found</html>")
    only_face = ("evaluation=none", "evaluation.face.name=deepface")
    opencv = "evaluation.face.options={detector: opencv}"
    told = message(*only_face, opencv)
    assert "ghostfacenet_v1.pth is a web page, not weights in " in told
    mtcnn = "evaluation.face.options={model_name: GhostFaceNet, detector: fastmtcnn}"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "detector=fastmtcnn: cannot be used: facenet-pytorch needs" in message(*only_face, mtcnn)


def test_it_is_known_before_any_slow_import() -> None:
    slow = "{'torch', 'transformers', 'diffusers', 'lightning', 'deepface', 'cv2'}"
    code = "import sys, sdlora.assembly.needed_weights, sdlora.commands.fetch.fetching_door\n"
    code += "import sdlora.commands.train.training_door, sdlora.commands.evaluate.scoring_door\n"
    code += f"assert not {slow} & set(sys.modules), {slow} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)

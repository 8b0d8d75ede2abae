"""What a base's files say of prediction type and noise levels is followed, or refused by name."""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from safetensors.torch import load_file, save_file
from torch import Tensor

from sdlora.assembly.loss import check_retrained, check_sampler_of_base
from sdlora.config.objective import ObjectiveConfig
from sdlora.config.rules import ConfigError
from sdlora.models.base_noise import base_noise
from sdlora.models.base_notes import base_notes
from sdlora.models.loading import load_family
from sdlora.models.source import ModelError, ModelSource, resolve
from tests.composed import train_config
from tests.places import REPOSITORY
from tests.single_file import write_single_file

pytestmark = pytest.mark.filterwarnings("ignore:__array_(_ impl|wrap__ must):DeprecationWarning")

EMPTY = torch.tensor([])
V = {"v_pred": EMPTY}
ZERO = {"ztsnr": EMPTY}
UNET = "model.diffusion_model."


def objective_config(*overrides: str) -> ObjectiveConfig:
    return train_config(*overrides).objective


def levels(rescaled: bool, end: float = 0.012) -> Tensor:
    return DDPMScheduler(
        beta_start=0.00085,
        beta_end=end,
        beta_schedule="scaled_linear",
        rescale_betas_zero_snr=rescaled,
    ).alphas_cumprod


@pytest.fixture(scope="module")
def weights(random_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """Those of the random base, as SD1.x lies in one file."""
    pipeline = StableDiffusionPipeline.from_pretrained(random_base, safety_checker=None)
    file = tmp_path_factory.mktemp("files") / "sd.safetensors"
    return load_file(write_single_file(file, pipeline, False))


@pytest.fixture
def marked(weights: dict[str, Tensor], random_base: Path, tmp_path: Path) -> Any:
    """``marked(tensors, header, **model)`` is a base in one file with these markers."""

    def make(
        tensors: Mapping[str, Tensor], header: Mapping[str, str] | None = None, **model: Any
    ) -> ModelSource:
        file = tmp_path / "model.safetensors"
        save_file({**weights, **tensors}, file, dict(header or {}))
        return ModelSource(str(file), config=str(random_base), **model)

    return make


@pytest.fixture
def changed_folder(random_base: Path, tmp_path: Path) -> Any:
    """``changed_folder(**changes)`` is the random base with another ``scheduler_config.json``."""

    def make(**changes: Any) -> ModelSource:
        folder = tmp_path / "folder"
        shutil.copytree(random_base, folder, dirs_exist_ok=True)
        path = folder / "scheduler/scheduler_config.json"
        content = json.loads(path.read_text("utf-8")) | changes
        path.write_text(json.dumps({k: v for k, v in content.items() if v != "left out"}), "utf-8")
        return ModelSource(str(folder))

    return make


def type_and_snr(source: ModelSource) -> tuple[str, bool]:
    config = base_noise(source).config
    return config["prediction_type"], bool(config.get("rescale_betas_zero_snr"))


@pytest.mark.parametrize(
    ("tensors", "header", "expected"),
    [
        ({}, {}, ("epsilon", False)),
        (V, {}, ("v_prediction", False)),
        ({f"{UNET}v_pred": torch.ones(1)}, {}, ("v_prediction", False)),
        (V | ZERO, {}, ("v_prediction", True)),
        ({}, {"modelspec.prediction_type": "v"}, ("v_prediction", False)),
        ({}, {"modelspec.prediction_type": "V-Prediction"}, ("v_prediction", False)),
        ({}, {"modelspec.prediction_type": "epsilon"}, ("epsilon", False)),
        (V, {"modelspec.predict_key": "v"}, ("v_prediction", False)),
        (
            {},
            {"modelspec.architecture": "stable-diffusion-v2-768-v"},
            ("v_prediction", False),
        ),
        ({}, {"ss_base_model_version": "sd_v1_v"}, ("v_prediction", False)),
        ({}, {"ss_base_model_version": "sdxl_base_v1-0"}, ("epsilon", False)),
        (
            V,
            {"ss_v_parameterization": "true", "ss_zero_terminal_snr": "True"},
            ("v_prediction", True),
        ),
        (V | {"alphas_cumprod": levels(True)}, {}, ("v_prediction", True)),
        (V | {"alphas_cumprod": levels(False).bfloat16()}, {}, ("v_prediction", False)),
        (
            V | {"denoiser.sigmas": (1 / levels(False) - 1).sqrt().flip(0)},
            {},
            ("v_prediction", False),
        ),
        (V | ZERO | {"alphas_cumprod": levels(False)}, {}, ("v_prediction", True)),
    ],
)
def test_markers_are_believed(
    tensors: dict[str, Tensor], header: dict[str, str], expected: tuple[str, bool], marked: Any
) -> None:
    assert type_and_snr(marked(tensors, header)) == expected


@pytest.mark.parametrize(("family", "zero"), [("sd", False), ("sd", True), ("sdxl", True)])
def test_pictures_are_those_of_diffusers_with_that_schedule(
    family: str, zero: bool, random_base: Path, random_xl: Path, tmp_path: Path
) -> None:
    is_xl = family == "sdxl"
    folder = random_xl if is_xl else random_base
    kind = StableDiffusionXLPipeline if is_xl else StableDiffusionPipeline
    file = write_single_file(tmp_path / "model.safetensors", kind.from_pretrained(folder), False)
    save_file({**load_file(file), **V, **(ZERO if zero else {})}, file)
    own = DDIMScheduler.from_pretrained(folder / "scheduler").config
    told = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"} if zero else {}
    scheduler = DDIMScheduler.from_config({**own, "prediction_type": "v_prediction", **told})
    wanted = kind.from_pretrained(folder, scheduler=scheduler)
    found = load_family(ModelSource(str(file), family, str(folder)), 0).pipeline()
    pictures = []
    for pipeline in (wanted, found):
        pipeline.set_progress_bar_config(disable=True)
        noise = torch.Generator().manual_seed(3)
        drawn = pipeline(
            "a man", num_inference_steps=3, generator=noise, height=32, width=32, output_type="np"
        )
        pictures.append(torch.from_numpy(drawn.images))
    assert torch.equal(*pictures)


def test_what_is_believed_is_said(marked: Any) -> None:
    source = marked(V | ZERO)
    assert base_notes(source, base_noise(source)) == [
        f"base: {source.path}: v_prediction (tensor v_pred), zero-terminal SNR (tensor ztsnr)"
    ]
    plain = marked({})
    assert base_notes(plain, base_noise(plain)) == []


@pytest.mark.parametrize(
    ("tensors", "header", "message"),
    [
        ({"edm_mean": EMPTY, "edm_std": EMPTY}, {}, "holds the tensor edm_mean: .*EDM"),
        ({"edm_vpred.sigma_max": torch.ones(1)}, {}, "holds the tensor edm_vpred.sigma_max: "),
        (
            {},
            {"modelspec.prediction_type": "flow"},
            "header modelspec.prediction_type=flow: a prediction type that is not supported",
        ),
        (
            {"alphas_cumprod": levels(False, 0.014)},
            {},
            "its noise levels .tensor alphas_cumprod: 1000 from .* name with model.config a",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused(
    tensors: dict[str, Tensor], header: dict[str, str], message: str, marked: Any
) -> None:
    source = marked(tensors, header)
    with pytest.raises(ModelError, match=f"^model.path={source.path}: {message}"):
        base_noise(source)


def test_contradictions_are_refused_before_the_file_is_converted(
    marked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdlora.models.source.converted_model", lambda *_, **__: 1 / 0)
    with pytest.raises(ModelError, match="contradicts itself: v_prediction .tensor v_pred., eps"):
        resolve(marked(V, {"modelspec.prediction_type": "epsilon"}))
    with pytest.raises(ModelError, match="holds the tensor edm_mean"):
        resolve(marked({"edm_mean": EMPTY}))


@pytest.mark.parametrize(
    ("tensors", "header"),
    [
        (V, {"modelspec.prediction_type": "epsilon"}),
        (V | ZERO, {"ss_base_model_version": "sd_v1"}),
        (V | ZERO, {"ss_zero_terminal_snr": "False"}),
        (ZERO, {}),
        (ZERO, {"modelspec.prediction_type": "epsilon"}),
    ],
)
def test_each_way_out_of_a_contradiction_works(
    tensors: dict[str, Tensor], header: dict[str, str], marked: Any
) -> None:
    """The keys that the message offers are set, one after the other, until it is satisfied."""
    with pytest.raises(ModelError) as error:
        base_noise(source := marked(tensors, header))
    offered = re.findall(r"model\.(\w+)=(\w+)", str(error.value).partition("; set ")[2])
    offered += re.findall(r"model\.(\w+)=(\w+)", str(error.value).partition(": set ")[2])
    assert offered
    for key, text in offered:
        value = {"true": True, "false": False}.get(text, text)
        chosen = replace(source, **{key: value})
        for _ in range(2):
            try:
                found = base_noise(chosen)
            except ModelError as further:
                more = re.search(r"set model\.(\w+)=(\w+)", str(further))
                assert more is not None
                value = {"true": True, "false": False}.get(more[2], more[2])
                chosen = replace(chosen, **{more[1]: value})
            else:
                break
        said = chosen.said
        assert (
            found.config["prediction_type"] == said["prediction_type"]
            or not said["prediction_type"]
        )


def test_keys_that_contradict_the_file_are_refused(marked: Any) -> None:
    source = marked(V, prediction_type="epsilon")
    with pytest.raises(ConfigError) as error:
        base_noise(source)
    assert str(error.value) == (
        f"model.prediction_type=epsilon: but model.path={source.path} says v_prediction (tensor "
        "v_pred); leave model.prediction_type out, or take the mistaken marker out of the file "
        "(docs/families.md)"
    )
    page = (REPOSITORY / "docs/families.md").read_text("utf-8")
    code = page.partition("```python\n")[2].partition("```")[0]
    corrected = Path(source.path).with_name("corrected.safetensors")
    code = code.replace("corrected.safetensors", str(corrected))
    exec(code.replace('"model.safetensors"', repr(source.path)), {})
    assert type_and_snr(replace(source, path=str(corrected))) == ("epsilon", False)
    assert type_and_snr(replace(source, prediction_type=None)) == ("v_prediction", False)
    assert type_and_snr(replace(source, prediction_type="v_prediction"))[0] == "v_prediction"
    unmarked = marked({}, prediction_type="v_prediction", zero_terminal_snr=True)
    assert type_and_snr(unmarked) == ("v_prediction", True)
    with pytest.raises(ConfigError, match=r"^model.zero_terminal_snr=false: but .*tensor ztsnr"):
        base_noise(marked(V | ZERO, zero_terminal_snr=False))


def test_the_config_of_a_file_may_not_say_otherwise(marked: Any, changed_folder: Any) -> None:
    predicts_v = changed_folder(prediction_type="v_prediction")
    source = replace(marked({}), config=predicts_v.path)
    assert type_and_snr(source) == ("v_prediction", False)
    source = replace(marked({}, {"modelspec.predict_key": "epsilon"}), config=predicts_v.path)
    both = "v_prediction .model.config=.*scheduler_config.json., epsilon .header"
    with pytest.raises(ModelError, match=both):
        base_noise(source)


def test_an_objective_that_contradicts_the_base(marked: Any, changed_folder: Any) -> None:
    wrong = objective_config("objective.prediction_type=epsilon")
    right = objective_config()
    for source in (marked(V), changed_folder(prediction_type="v_prediction")):
        base = base_noise(source)
        check_retrained(right, base, source.path)
        with pytest.raises(ConfigError) as error:
            check_retrained(wrong, base, source.path)
        message = str(error.value)
        assert message.startswith(
            f"objective.prediction_type=epsilon: but model.path={source.path} predicts v_pred"
        )
        assert "model.prediction_type=v_prediction, too" in message
        meant = replace(source, prediction_type="v_prediction")  # the remedy
        check_retrained(wrong, base_noise(meant), source.path)
    to_v = objective_config("objective=zero_terminal_snr")
    check_retrained(to_v, base_noise(marked({})), "unmarked")
    epsilon = base_noise(marked({}, {"modelspec.predict_key": "epsilon"}))
    with pytest.raises(ConfigError, match="^objective.prediction_type=v_prediction: but"):
        check_retrained(to_v, epsilon, "base.safetensors")


def test_the_sampler_must_follow_the_bases_schedule(marked: Any) -> None:
    base = base_noise(marked(V | ZERO))
    with pytest.raises(ConfigError, match="^sampling.sampler=pndm: .* set sampling.sampler to one"):
        check_sampler_of_base("pndm", base, None, False)
    check_sampler_of_base("ddim", base, None, False)
    check_sampler_of_base("pndm", base_noise(marked(V)), None, False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"_class_name": "EDMEulerScheduler", "beta_schedule": "left out"},
            "its scheduler_config.json is that of EDMEulerScheduler, whose noise levels .*EDM",
        ),
        (
            {"_class_name": "FlowMatchEulerDiscreteScheduler", "beta_schedule": "left out"},
            "its scheduler_config.json is that of FlowMatchEulerDiscreteScheduler",
        ),
        (
            {"prediction_type": "flow_prediction"},
            "its scheduler_config.json says prediction_type=flow_prediction, which is not",
        ),
        ({"rescale_betas_zero_snr": True}, "zero-terminal SNR .its scheduler_config.json., but it"),
    ],
)
def test_folders_of_other_noise_levels_are_refused(
    changes: dict[str, Any], message: str, changed_folder: Any
) -> None:
    source = changed_folder(**changes)
    with pytest.raises(ModelError, match=f"^model.path={source.path}: {message}"):
        base_noise(source)


def test_a_folders_schedule_is_kept_as_it_is(changed_folder: Any) -> None:
    said = {
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "leading",
    }
    found = base_noise(changed_folder(**said)).config
    assert said.items() <= found.items()


@pytest.mark.parametrize(("std", "is_asked"), [(0.12, True), (0.05, False)])
def test_stable_diffusion_2_that_says_nothing_is_asked_for(
    std: float, is_asked: bool, marked: Any, random_base: Path, tmp_path: Path
) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(random_base, safety_checker=None)
    file = write_single_file(tmp_path / "two.safetensors", pipeline, open_clip=True)
    bias = torch.tensor([std, -std])
    name = f"{UNET}output_blocks.11.1.transformer_blocks.0.norm1.bias"
    save_file({**load_file(file), name: bias}, file)
    source = ModelSource(str(file), config=str(random_base))
    if not is_asked:
        assert type_and_snr(source)[0] == "epsilon"
        return
    with pytest.raises(ModelError, match="does not say what it predicts, but its weights are like"):
        base_noise(source)
    for value in ("v_prediction", "epsilon"):  # both remedies
        assert type_and_snr(replace(source, prediction_type=value))[0] == value

"""What happens to the command line before Hydra reads it, and to a config before it is used."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from sdlora.command_line import (
    flags_first,
    named_by_sweep,
    opened_options,
    prepared_arguments,
    resumed_arguments,
    to_typed,
)
from sdlora.composition_errors import unknown_keys
from sdlora.config import EvaluateConfig, OptimConfig, TrainConfig
from sdlora.config_rules import ConfigError

EXCLUDED = "hydra.job.config.override_dirname.exclude_keys"


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "10-00-00"
    (folder / ".hydra").mkdir(parents=True)
    overrides = ["lora.r=16", "+optim.options.eps=1e-6", "data.root='my photos'"]
    OmegaConf.save(OmegaConf.create(overrides), folder / ".hydra" / "overrides.yaml")
    return folder


def test_resume_repeats_the_overrides_and_writes_on_in_the_folder(run_folder: Path) -> None:
    assert resumed_arguments([f"resume={run_folder}"]) == [
        "lora.r=16",
        "+optim.options.eps=1e-6",
        "data.root='my photos'",
        f"resume={run_folder}",
        f"hydra.run.dir={run_folder}",
        "hydra.output_subdir=null",
    ]


def test_what_is_given_now_goes_before_what_was_given_then(run_folder: Path) -> None:
    now = ["lora.r=4", "optim.options.eps=1e-8", f"resume='{run_folder}'", "trainer.max_steps=9"]
    arguments = resumed_arguments(now)
    assert arguments[:3] == ["lora.r=4", "optim.options.eps=1e-8", "data.root='my photos'"]
    assert "trainer.max_steps=9" in arguments


def test_a_folder_with_odd_letters_is_quoted(run_folder: Path) -> None:
    odd = run_folder.rename(run_folder.parent / "it's, here")
    arguments = resumed_arguments([f"resume={odd}"])
    assert arguments[-2] == "hydra.run.dir='" + str(odd).replace("'", "\\'") + "'"


@pytest.mark.parametrize("arguments", [[], ["lora.r=4"], ["resume=null"], ["resume="]])
def test_without_resume_nothing_changes(arguments: list[str]) -> None:
    assert resumed_arguments(arguments) == arguments


def test_resume_refuses_what_it_cannot_do(run_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"resume=.*: not a run folder \(it has no .hydra"):
        resumed_arguments([f"resume={tmp_path}"])
    with pytest.raises(ValueError, match="goes on with one run; leave out -m"):
        resumed_arguments(["-m", f"resume={run_folder}", "lora.r=2,4"])
    with pytest.raises(ValueError, match="goes on in that folder; leave out hydra.run.dir"):
        resumed_arguments([f"resume={run_folder}", "hydra.run.dir=elsewhere"])


def test_options_may_be_added_without_a_plus() -> None:
    given = [
        "optim.options.eps=1",
        "+optim.options.eps=1",
        "evaluation.face.options.x=1",
        "lora.r=1",
    ]
    assert opened_options(given, TrainConfig) == [
        "++optim.options.eps=1",
        "+optim.options.eps=1",
        "++evaluation.face.options.x=1",
        "lora.r=1",
    ]


def test_evaluate_takes_a_file_where_train_has_a_group() -> None:
    given = ["lora=my file.safetensors", "lora_scale=0.5"]
    renamed = ["lora_file=my file.safetensors", "lora_scale=0.5"]
    assert prepared_arguments(given, EvaluateConfig) == renamed
    assert prepared_arguments(["lora=conv"], TrainConfig) == ["lora=conv"]


def test_flags_come_first() -> None:
    given = ["lora.r=4", "-m", "a=1", "--config-dir", "mine", "b=2", "--config-name=x", "c=3"]
    ordered = ["-m", "--config-dir", "mine", "--config-name=x", "lora.r=4", "a=1", "b=2", "c=3"]
    assert flags_first(given) == ordered
    assert flags_first([]) == []


def test_a_sweep_is_named_by_what_it_sweeps() -> None:
    given = ["-m", "lora.r=2,4", "model.path=/some/where", "optim.unet_lr=1e-3,1e-4", "seed=1"]
    assert named_by_sweep(given) == [*given, f"{EXCLUDED}=[model.path,seed]"]
    assert named_by_sweep(given[1:]) == given[1:]
    assert named_by_sweep(["-m", "lora.r=[1"]) == ["-m", "lora.r=[1"]


def test_unknown_keys_are_found_at_every_depth_but_in_options() -> None:
    composed = OmegaConf.create(
        {"lora": {"r": 4, "rr": 3, "unet": {"x": {"y": 1}}}, "optim": {"options": {"a": 1}}, "z": 1}
    )
    assert unknown_keys(composed, TrainConfig) == {"lora.rr": 3, "lora.unet.x": {"y": 1}, "z": 1}


def test_to_typed_names_an_added_key() -> None:
    composed = OmegaConf.create({"name": "adamw", "unet_lr": 1e-3, "text_encoder_lr": 1e-4})
    composed["unet_rl"] = 1
    with pytest.raises(ConfigError, match=r"^unet_rl=1: unknown key; did you mean unet_lr\?"):
        to_typed(composed, OptimConfig)

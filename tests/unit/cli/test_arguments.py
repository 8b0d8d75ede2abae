"""What happens to the command line before Hydra reads it."""

import os
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException, MissingConfigException

from sdlora.cli.arguments import (
    flags_first,
    named_by_sweep,
    opened_options,
    opened_shortcuts,
    prepared_arguments,
    resumed_arguments,
)
from sdlora.cli.composition import register_evaluate, to_typed
from sdlora.cli.composition_errors import explain
from sdlora.commands.evaluate.run_settings import with_run_settings
from sdlora.config.evaluate import EvaluateConfig
from sdlora.config.keys import as_written
from sdlora.config.train import TrainConfig
from sdlora.runs.run_config import write_config
from sdlora.runs.run_folder import RunFolderError
from sdlora.runtime.places import CONF
from tests.composed import composed_evaluate, store_left_as_found, train_config

EXCLUDED = "hydra.job.config.override_dirname.exclude_keys"


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "10-00-00"
    (folder / ".hydra").mkdir(parents=True)
    (folder / "config.json").write_text("{}", "utf-8")
    (folder / ".hydra" / "overrides.yaml").write_text("- +hydra.callbacks.x={}", "utf-8")
    return folder


def parsed(arguments: list[str], key: str) -> list[Override]:
    """The overrides of a key, as Hydra reads them."""
    overrides = OverridesParser.create().parse_overrides(arguments)
    return [override for override in overrides if override.key_or_group == key]


def test_resume_writes_on_in_the_folder_and_repeats_no_override_of_it(run_folder: Path) -> None:
    now = ["lora.r=4", f"resume='{run_folder}'", "trainer.max_steps=9"]
    assert resumed_arguments(now) == [
        "lora.r=4",
        f"resume={run_folder}",
        "trainer.max_steps=9",
        f"hydra.run.dir={run_folder}",
        "hydra.output_subdir=null",
        "hydra.mode=RUN",
    ]


def test_the_latest_run_is_the_one_that_was_started_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="resume=latest: outputs/ holds no run"):
        resumed_arguments(["resume=latest"])
    for time, name in enumerate(["mine", "2026-01-01/10-00-00", "2026-01-01/09-00-00"]):
        record = tmp_path / "outputs" / name / "config.json"
        record.parent.mkdir(parents=True)
        record.touch()
        os.utime(record, (time % 2, time % 2))
    assert "hydra.run.dir=outputs/2026-01-01/10-00-00" in resumed_arguments(["resume=latest"])
    assert capsys.readouterr().err == "latest: resume=outputs/2026-01-01/10-00-00\n"
    (tmp_path / "latest").mkdir()
    (tmp_path / "latest" / "config.json").touch()
    assert "resume=latest" in resumed_arguments(["resume=latest"])


@pytest.mark.parametrize("name", ["it's, here", "lora.r=4,seed=1"])  # the second is a cell's
def test_a_folder_with_odd_letters_is_quoted(run_folder: Path, name: str) -> None:
    odd = run_folder.rename(run_folder.parent / name)
    read = OverridesParser.create().parse_overrides(resumed_arguments([f"resume={odd}"]))
    values = {override.key_or_group: override.value() for override in read}
    assert values["resume"] == values["hydra.run.dir"] == str(odd)


@pytest.mark.parametrize("arguments", [[], ["lora.r=4"], ["resume=null"], ["resume="]])
def test_without_resume_nothing_changes(arguments: list[str]) -> None:
    assert resumed_arguments(arguments) == arguments


def test_resume_refuses_what_it_cannot_do(run_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"resume=.*: not a run folder \(it has no config.json"):
        resumed_arguments([f"resume={tmp_path}"])
    with pytest.raises(ValueError, match="continues one run; leave out -m"):
        resumed_arguments(["-m", f"resume={run_folder}", "lora.r=2,4"])
    with pytest.raises(ValueError, match="continues one run; leave out sweep=seeds"):
        resumed_arguments([f"resume={run_folder}", "sweep=seeds"])
    with pytest.raises(ValueError, match="continues in that folder; leave out hydra.run.dir"):
        resumed_arguments([f"resume={run_folder}", "hydra.run.dir=elsewhere"])
    with pytest.raises(ValueError, match="continues in that folder; leave out hydra.run.dir"):
        prepared_arguments([f"resume={run_folder}", "run_dir=elsewhere"], TrainConfig)


def test_options_may_be_added_without_a_plus() -> None:
    given = [
        "optim.options.eps=1",
        "+optim.options.eps=1",
        "evaluation.face.options.x=1",
        "lora.unet.rank_pattern={mid_block:4}",
        "lora.r=1",
    ]
    assert opened_options(given, TrainConfig) == [
        "++optim.options.eps=1",
        "+optim.options.eps=1",
        "++evaluation.face.options.x=1",
        "lora.unet.rank_pattern={mid_block:4}",
        "lora.r=1",
    ]


@pytest.mark.parametrize(
    ("given", "prepared"),
    [
        ("lora=a.safetensors", "lora=[a.safetensors]"),
        ("lora=my file.safetensors", "lora=[my file.safetensors]"),
        ("lora='a, b.safetensors'", "lora=['a, b.safetensors']"),
        ("lora=a,b", "lora=[a,b]"),
        ("lora=[a,b]", "lora=[a,b]"),
        ("lora_scale=0.5", "lora_scale=[0.5]"),
        ("lora_scale=0.6,0.8", "lora_scale=[0.6,0.8]"),
        ("lora_scale=[0.6,0.8]", "lora_scale=[0.6,0.8]"),
        ("images=folder", "images=[folder]"),
        ("images=[a,b]", "images=[a,b]"),
        ("checkpoint=300", "checkpoint=300"),
        ("sweep=outputs/a", "sweep=outputs/a"),
        ("run=a", "run=a"),
    ],
)
def test_evaluate_takes_files_where_train_has_a_group(given: str, prepared: str) -> None:
    assert prepared_arguments([given], EvaluateConfig) == [prepared]


def test_a_sweep_is_written_where_it_lies(tmp_path: Path) -> None:
    assert prepared_arguments([f"sweep={tmp_path}"], EvaluateConfig) == [
        *(f"sweep={tmp_path}", f"hydra.run.dir={tmp_path}"),
        *("hydra.output_subdir=null", "hydra/job_logging=none"),
    ]


def test_train_takes_groups() -> None:
    given = ["lora=conv", "checkpoint=default"]
    assert prepared_arguments(given, TrainConfig) == given


def evaluate_config(*given: str) -> EvaluateConfig:
    """As ``evaluate.py`` has it, of its command line."""
    arguments = prepared_arguments(given, EvaluateConfig)
    return to_typed(with_run_settings(composed_evaluate(*given), arguments), EvaluateConfig)


def test_evaluate_sees_what_it_takes() -> None:
    """No group of ``train.py``, and no option that could only be refused."""
    groups = {path.name for path in CONF.iterdir() if path.is_dir()}
    with store_left_as_found() as store:
        register_evaluate()
        assert groups & set(store.list("")) == {"hydra", *EvaluateConfig.GROUPS}
        assert "sd15.yaml" in store.list("model")
        assert "ddpm.yaml" not in store.list("model")
    assert evaluate_config("lora=conv").lora == ["conv"]  # a file of that name, and no option
    with pytest.raises(MissingConfigException, match="photo"):
        evaluate_config("evaluation=photo")


def test_a_group_of_train_is_no_group_of_evaluate() -> None:
    with pytest.raises(ConfigCompositionException) as error:
        evaluate_config("scheduler=constant")
    told = explain(error.value, EvaluateConfig, ["scheduler=constant"], [CONF])
    assert told.startswith("scheduler=constant: unknown key; ")
    assert "did you mean scheduler" not in told


@pytest.mark.parametrize("group", [*EvaluateConfig.GROUPS, "hydra/help"])
def test_what_evaluate_takes_needs_no_header(group: str) -> None:
    """The store keeps no ``# @package``."""
    for path in (CONF / group).glob("*.yaml"):
        assert "@package" not in path.read_text("utf-8"), path


def test_files_and_strengths_are_read_as_they_were_given() -> None:
    config = evaluate_config("lora=my file,b.safetensors", "lora_scale=0.6,0.8", "resolution=64")
    assert config.lora == ["my file", "b.safetensors"]
    assert config.lora_scale == [0.6, 0.8]
    assert evaluate_config("images='C:\\my, pictures'").images == ["C:\\my, pictures"]


@pytest.fixture
def finished_run(tmp_path: Path) -> Path:
    """A run that was drawn and scored unlike the defaults."""
    given = [
        "sampling.num_steps=7",
        "sampling.seeds=[4,5]",
        "evaluation.every_n_steps=33",
        "evaluation.kid=true",
        "evaluation.face.options.threshold=0.25",
    ]
    config = train_config(*opened_options(given, TrainConfig))
    write_config(tmp_path, as_written(config), {})
    return tmp_path


def test_a_run_is_drawn_and_scored_as_it_was(finished_run: Path) -> None:
    config = evaluate_config(f"run={finished_run}")
    assert (config.sampling.num_steps, config.sampling.seeds) == (7, [4, 5])
    assert (config.evaluation.every_n_steps, config.evaluation.kid) == (33, True)
    assert config.evaluation.face.options == {"threshold": 0.25}
    assert evaluate_config("lora=a").sampling.num_steps != 7  # without a run


def test_the_options_of_a_run_are_its_own(tmp_path: Path) -> None:
    """Other scorers than the default ones take other options; none of the default ones is left."""
    config = train_config("evaluation=photos")
    config.evaluation.clip.options = {}
    write_config(tmp_path, as_written(config), {})
    found = evaluate_config(f"run={tmp_path}").evaluation
    assert found == config.evaluation
    more = evaluate_config(f"run={tmp_path}", "evaluation.face.options.batch_size=3").evaluation
    assert more.face.options == {**config.evaluation.face.options, "batch_size": 3}


def test_what_is_given_now_goes_before_the_run(finished_run: Path) -> None:
    now = ["sampling.num_steps=9", "evaluation.face.options.threshold=0.75"]
    config = evaluate_config(f"run={finished_run}", *now)
    assert (config.sampling.num_steps, config.sampling.seeds) == (9, [4, 5])
    assert (config.evaluation.every_n_steps, config.evaluation.kid) == (33, True)
    assert config.evaluation.face.options == {"threshold": 0.75}


def test_a_group_that_is_chosen_now_is_taken_whole(finished_run: Path) -> None:
    config = evaluate_config(
        f"run={finished_run}", "evaluation=none", "evaluation.image.name=image"
    )
    assert (config.evaluation.every_n_steps, config.evaluation.kid) == (0, False)
    assert (config.evaluation.face.name, config.evaluation.image.name) == ("none", "image")
    assert config.sampling.num_steps == 7  # the other group is the run's


def test_a_group_that_is_chosen_now_suits_the_model_of_the_run(tmp_path: Path) -> None:
    given = ["model=sdxl", "model.recommended.num_steps=33"]
    config = train_config(*given)
    write_config(tmp_path, as_written(config), {})
    found = evaluate_config(f"run={tmp_path}", "sampling=default", "evaluation=default")
    assert (found.sampling.guidance_scale, found.sampling.num_steps) == (5.0, 33)
    assert found.evaluation == config.evaluation
    assert found.precision == "auto"
    (tmp_path / "prompts.txt").write_text("a cat\n", "utf-8")
    for more in ([], ["sampling=default"], ["sampling.prompts=captions"]):
        prompts = evaluate_config(f"run={tmp_path}", *more).sampling.prompts
        assert prompts == str(tmp_path / "prompts.txt")
    assert evaluate_config(f"run={tmp_path}", "sampling.prompts=a").sampling.prompts == "a"


def test_a_run_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="^run=.*: config.json is missing or damaged"):
        evaluate_config(f"run={tmp_path}")


def test_a_name_stands_for_a_scorer_as_for_a_group() -> None:
    given = ["evaluation.face=none", "evaluation.clip={name: none}", "evaluation.kid=false"]
    opened = ["evaluation.face.name=none", "evaluation.clip={name: none}", "evaluation.kid=false"]
    assert opened_shortcuts([*given, "data.cache=off", "data.cache={mode: off}"]) == [
        *opened,
        "data.cache.mode=off",
        "data.cache={mode: off}",
    ]


def test_the_folder_of_a_run_is_hydras_too_but_not_of_a_sweep() -> None:
    assert opened_shortcuts(["run_dir=here", "a=1"]) == ["hydra.run.dir=here", "a=1"]
    assert opened_shortcuts(["-m", "run_dir=here"]) == ["-m", "run_dir=here"]


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

"""What is checked before a weight is read: paths, and a run's adapters."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from sdlora.cli.command_line import prepared_arguments, register_schemas, to_typed
from sdlora.commands.evaluate.config_checks import check_evaluation
from sdlora.config.evaluate import EvaluateConfig
from sdlora.config.rules import ConfigError
from sdlora.runtime.places import CONF


def config_of(*given: str) -> EvaluateConfig:
    register_schemas()
    arguments = ["run_dir=here", *prepared_arguments(given, EvaluateConfig)]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return to_typed(compose("evaluate", arguments), EvaluateConfig)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    file.write_text("", "utf-8")
    check_evaluation(config_of(f"lora={file}"))
    missing = tmp_path / "missing"
    for given, message in (
        ([f"lora=[{file},{missing}]"], f"^lora={missing}: no such file or folder$"),
        ([f"images={missing}"], f"^images={missing}: no such file or folder$"),
        ([f"lora={file}", f"data.root={missing}"], f"^data.root={missing}: no such folder; name"),
        ([f"lora={file}", f"data.root={file}"], f"^data.root={file}: no such folder; name"),
        (
            [f"lora={file}", f"evaluation.references={missing}"],
            f"^evaluation.references={missing}: no such folder",
        ),
        ([f"run={tmp_path}"], f"^run={tmp_path}: holds no checkpoint; give a folder that train"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_evaluation(config_of(*given))
    check_evaluation(config_of(f"run={tmp_path}", f"images={tmp_path}"))  # no adapter is needed

"""What is checked before a weight is read: paths, and a run's adapters."""

from pathlib import Path

import pytest

from sdlora.commands.evaluate.config_checks import check_evaluation
from sdlora.config.rules import ConfigError
from tests.composed import evaluate_config


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    file.write_text("", "utf-8")
    check_evaluation(evaluate_config(f"lora={file}"))
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
        (
            [f"images={tmp_path}", "evaluation=none"],
            r"^images=\[.*\]: is to be scored, but evaluation has no scorer; choose one, such as e",
        ),
        ([f"run={tmp_path}"], f"^run={tmp_path}: holds no checkpoint; give a folder that train"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_evaluation(evaluate_config(*given))
    check_evaluation(
        evaluate_config(f"run={tmp_path}", f"images={tmp_path}")
    )  # no adapter is needed

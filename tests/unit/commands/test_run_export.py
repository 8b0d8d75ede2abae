"""``sdlora lora run`` on folders that other versions wrote."""

from pathlib import Path
from typing import Any

import pytest

from sdlora.cli.composition import defaults_of_training, to_typed
from sdlora.commands.lora.run_export import run_config
from sdlora.config.keys import as_written
from sdlora.config.rules import ConfigError
from sdlora.config.train import TrainConfig
from sdlora.runs.run_config import write_config


@pytest.fixture
def stored(tmp_path: Path) -> dict[str, Any]:
    composed = defaults_of_training()
    composed.run_dir = str(tmp_path)
    return as_written(to_typed(composed, TrainConfig))


def test_keys_that_an_older_version_did_not_write_have_todays_defaults(
    tmp_path: Path, stored: dict[str, Any]
) -> None:
    del stored["lora"]["type"], stored["lora"]["oft_block_size"]
    stored["lora"]["unet"]["r"] = 3
    stored["export"] = {"name": "old", "licence": None}
    write_config(tmp_path, stored, {})
    found = run_config(tmp_path, "apache-2.0")
    assert (found.lora.type, found.lora.part("unet").r) == ("lora", 3)
    assert (found.export.dtype, found.export.thumbnail) == ("fp32", False)
    assert (found.export.name, found.export.licence) == ("old", "apache-2.0")


def test_keys_of_a_later_version_are_named(tmp_path: Path, stored: dict[str, Any]) -> None:
    stored["lora"]["twist"] = 2
    write_config(tmp_path, stored, {})
    with pytest.raises(ConfigError, match=r"^run=.*: made with .* unknown here: lora.twist"):
        run_config(tmp_path, None)

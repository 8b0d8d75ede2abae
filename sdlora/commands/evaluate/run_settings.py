"""Settings of ``run=FOLDER``: the run's own sampling and scores, with overrides over them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from sdlora.cli.stored_config import given_keys, literal
from sdlora.config.evaluate import EvaluateConfig
from sdlora.config.model import ModelConfig
from sdlora.config.sampling import CAPTIONS
from sdlora.runs.identity import read_record
from sdlora.runs.origin import ORIGIN, refuse_strange
from sdlora.runs.run_config import read_config
from sdlora.runs.run_folder import PROMPTS
from sdlora.runtime.places import CONF

GROUPS = ("model", "sampling", "evaluation")
"""Groups that a run brings, the one that others refer to first."""


def with_run_settings(composed: DictConfig, arguments: Sequence[str]) -> DictConfig:
    """The config with the run's model and settings of sampling and scores, under the overrides.

    Prompts that were captions are read from the file that the run wrote. Values are plain data:
    ``${...}`` in one stays text.

    Args:
        composed: The config of ``evaluate.py``.
        arguments: The command line's overrides.

    Raises:
        ValueError: If ``run`` does not name a run folder, or one with places of somebody else.
    """
    if composed.run is None:
        return composed
    folder, given = Path(composed.run), given_keys(arguments)
    stored, _ = read_config(folder, key="run")
    record = read_record(folder)
    refuse_strange(record["config"], record.get(ORIGIN), given, f"run={folder}", GROUPS)
    for group in GROUPS:
        if group not in given:
            _lay_under(composed, group, literal(stored[group]), given)
    if "model.draw_with" in given and "sampling" not in given:
        _take_steps_of_drawing(composed, given)
    own = folder / PROMPTS
    if composed.sampling.prompts == CAPTIONS and own.is_file():
        composed.sampling.prompts = str(own)
    return composed


def _take_steps_of_drawing(composed: DictConfig, given: Sequence[str]) -> None:
    """Steps and guidance that suit what draws, where it is another than the run's was.

    The run's own numbers are those of what it drew with; the model's file has both.
    """
    files = {path.stem: path for path in (CONF / "model").glob("*.yaml")}
    if composed.model.family not in files:  # a package adds it
        return
    known = OmegaConf.create({"model": OmegaConf.load(files[composed.model.family])})
    known.model.draw_with = composed.model.draw_with
    for key in ("num_steps", "guidance_scale"):
        if f"sampling.{key}" not in given:
            composed.sampling[key] = known.model.recommended[key]


def _lay_under(
    composed: DictConfig, group: str, stored: Mapping[str, Any], given: Sequence[str]
) -> None:
    """A group of the run's config, with the overrides over it."""
    values = {key: OmegaConf.select(composed, key) for key in given if key.startswith(f"{group}.")}
    options = {
        f"{group}.{key}.options": value["options"]
        for key, value in stored.items()
        if isinstance(value, dict) and "options" in value
    }
    with open_dict(composed):  # options are the run's own, not those of the default scorers
        composed[group] = OmegaConf.merge(composed[group], stored)
        for key, value in {**options, **values}.items():
            OmegaConf.update(composed, key, value, merge=False)


def model_of(config: EvaluateConfig) -> ModelConfig:
    """The base that draws; a run's is loaded whole."""
    return config.model if config.run is None else replace(config.model, scratch=[])

"""Settings of ``run=FOLDER``: the run's own sampling and scores, with overrides over them."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from omegaconf import DictConfig, OmegaConf, open_dict

from sdlora.config.evaluate import EvaluateConfig
from sdlora.config.model import ModelConfig
from sdlora.config.sampling import CAPTIONS
from sdlora.runs.run_config import read_config
from sdlora.runs.run_folder import PROMPTS


def with_run_settings(composed: DictConfig, arguments: Sequence[str]) -> DictConfig:
    """The config with the run's settings of sampling and scores, under the given overrides.

    Prompts that were captions are read from the file that the run wrote.

    Args:
        composed: The config of ``evaluate.py``.
        arguments: The command line's overrides.

    Raises:
        ValueError: If ``run`` does not name a run folder.
    """
    if composed.run is None:
        return composed
    stored, _ = read_config(Path(composed.run), key="run")
    if suits := stored["model"].get("recommended"):  # other groups refer to it
        composed.model = OmegaConf.merge(composed.model, {"recommended": suits})
    keys = [item.partition("=")[0].lstrip("+~") for item in arguments]
    for group in ("sampling", "evaluation"):
        if any(item.startswith(f"{group}=") for item in arguments):
            continue
        values = {
            key: OmegaConf.select(composed, key) for key in keys if key.startswith(f"{group}.")
        }
        options = {
            f"{group}.{key}.options": value["options"]
            for key, value in stored[group].items()
            if isinstance(value, dict) and "options" in value
        }
        with open_dict(composed):  # options are the run's own, not those of the default scorers
            composed[group] = OmegaConf.merge(composed[group], stored[group])
            for key, value in {**options, **values}.items():
                OmegaConf.update(composed, key, value, merge=False)
    own = Path(composed.run) / PROMPTS
    if composed.sampling.prompts == CAPTIONS and own.is_file():
        composed.sampling.prompts = str(own)
    return composed


def model_of(config: EvaluateConfig) -> ModelConfig:
    """The base that draws: the run's own, which is loaded whole, or that of the config."""
    if config.run is None:
        return config.model
    stored, _ = read_config(Path(config.run), key="run")
    base = {"recommended": asdict(config.model.recommended), **stored["model"]}
    found = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ModelConfig), base))
    assert isinstance(found, ModelConfig)
    return replace(found, scratch=[])

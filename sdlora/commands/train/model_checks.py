"""Checks of a run against its base's configs: objective, sampler, adapters; no weight is read."""

from dataclasses import replace
from pathlib import Path

from sdlora.assembly import adapters, base_model
from sdlora.assembly.loss import check_objective, check_retrained, check_sampler_of_base
from sdlora.config.train import TrainConfig
from sdlora.models.base_noise import base_noise
from sdlora.models.base_notes import base_notes
from sdlora.models.drawing_base import check_drawing_base
from sdlora.models.known_configs import known_configs
from sdlora.models.loading import check_parts
from sdlora.models.source import ModelSource, single_file
from sdlora.runtime.places import EMBEDDED


def check_without_weights(config: TrainConfig) -> list[str]:
    """Check objective, sampler and adapters by the model's configs.

    Returns:
        Notes on the base, one line each.

    Raises:
        ValueError: Naming key, value and remedy.
    """
    source, objective = base_model.model_source(config.model), config.objective
    check_parts(source)
    base = base_noise(source)
    check_retrained(objective, base, source.path)
    check_objective(objective, base.config, config.data.prior.mode == "teacher")
    trained_to = objective.prediction_type, objective.zero_terminal_snr
    check_sampler_of_base(config.sampling.sampler, base, *trained_to)
    adapters.check_adapters(config.model, config.lora)
    if config.model.draw_with is not None:
        drawing = base_model.drawing_source(config.model)
        check_parts(drawing)
        check_drawing_base(source, drawing)
    return base_notes(source, base)


def check_what_is_here(config: TrainConfig) -> list[str]:
    """:func:`check_without_weights`, as far as the base is on this machine; nothing is fetched.

    Of a base in one file, which would have to be converted, the adapters alone.

    Raises:
        ValueError: As there.
    """
    source = base_model.model_source(config.model)
    configs = known_configs(source)
    if configs is None:
        return [
            "not checked, without the base's files: objective, sampler and the layers of adapters"
        ]
    model = replace(config.model, vae=None, draw_with=None)  # they may be elsewhere
    if _is_folder(source):
        return check_without_weights(replace(config, model=model))
    model = replace(model, path=str(configs), config=None, revision=None)
    if single_file(source) is None:
        return check_without_weights(replace(config, model=model))
    adapters.check_adapters(model, config.lora)
    return ["not checked, as the base is one file: objective and sampler"]


def _is_folder(source: ModelSource) -> bool:
    """Whether the base is a folder of its own, or comes with the package."""
    return source.path.startswith(EMBEDDED) or Path(source.path).expanduser().is_dir()

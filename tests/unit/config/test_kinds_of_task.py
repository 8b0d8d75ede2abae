"""``experiment=person``, ``style`` and ``object``: with every model, and not its numbers."""

from dataclasses import fields

import pytest
from omegaconf import DictConfig, OmegaConf

from sdlora.assembly.unsuited_values import training_notes
from sdlora.cli.composition import to_typed
from sdlora.commands.train import config_checks
from sdlora.config.recommended import RecommendedConfig
from sdlora.config.train import TrainConfig
from tests.composed import composed_train

TASKS = ("person", "style", "object")
MODELS = ("tiny", "tiny_flow", "sd15", "sd21", "sdxl", "kolors", "z_image", "flux2_klein")
OF_THE_TASK = {"prompts", "select", "face", "attributes", "text_encoder_method"}
"""Recommended values of a model that a kind of task may replace."""


def composed(*given: str) -> DictConfig:
    found = composed_train("data.root=example:portraits", *given)
    OmegaConf.resolve(found)
    return found


def values(config: DictConfig) -> dict[str, object]:
    """The values that follow the model's recommended ones, by the name of each."""
    return {
        "resolution": config.data.resolution,
        "batch_size": config.data.batch_size,
        "val_fraction": config.data.val_fraction,
        "caption_dropout": config.data.captions.dropout,
        "max_steps": config.trainer.max_steps,
        "precision": config.trainer.precision,
        "unet_lr": config.optim.unet_lr,
        "text_encoder_lr": config.optim.text_encoder_lr,
        "min_snr_gamma": config.objective.min_snr_gamma,
        "timesteps": config.objective.timesteps.name,
        "shift": config.objective.timesteps.shift,
        "shift_factor": config.objective.timesteps.shift_factor,
        "r": config.lora.r,
        "sampler": config.sampling.sampler,
        "num_steps": config.sampling.num_steps,
        "guidance_scale": config.sampling.guidance_scale,
        "draw_batch_size": config.sampling.batch_size,
        "draw_every_n_steps": config.sampling.every_n_steps,
        "score_every_n_steps": config.evaluation.every_n_steps,
        "clip_model": config.evaluation.clip.options.model,
        "image_model": config.evaluation.image.options.model,
        "face_detector": config.data.face_detector,
    }


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("task", TASKS)
def test_a_kind_of_task_suits_every_model(task: str, model: str) -> None:
    config = composed(f"model={model}", f"experiment={task}")
    own = config.model.recommended
    assert values(config) == {name: own[name] for name in values(config)}
    known = {field.name for field in fields(RecommendedConfig)}
    assert known - set(values(config)) - OF_THE_TASK == {"new_word_lr"}
    typed = config_checks.with_found_precision(to_typed(config, TrainConfig))
    config_checks.check(typed)
    assert training_notes(typed) == []


@pytest.mark.parametrize(
    ("task", "prior", "flip", "select", "words"),
    [
        ("person", "teacher", False, "face_distance", ("ohwx", "person")),
        ("object", "teacher", False, "image_similarity", ("ohwx", "object")),
        ("style", "none", True, "image_similarity", ("ohwx style", None)),
    ],
)
def test_what_a_kind_of_task_means(
    task: str, prior: str, flip: bool, select: str, words: tuple[str, str | None]
) -> None:
    config = composed("model=sd15", f"experiment={task}")
    assert (config.data.prior.mode, config.data.flip) == (prior, flip)
    assert config.evaluation.select == select
    assert (config.data.trigger_word, config.data.class_word) == words
    assert (config.evaluation.face.name == "deepface") is (task == "person")


def test_the_words_of_a_person_go_everywhere() -> None:
    given = ("data.trigger_word=zkw", "data.class_word=woman")
    config = composed("model=sd15", "experiment=person", *given)
    assert config.data.captions.default == "a photo of zkw woman"
    assert config.data.prior.prompt == "a photo of a woman"
    assert (config.evaluation.trigger_word, config.evaluation.class_word) == ("zkw", "woman")
    assert config.sampling.trigger_word == "zkw"


def test_a_style_can_do_without_a_word() -> None:
    given = ("data.trigger_word=null", "data.captions.default=''")
    config = composed("model=sd15", "experiment=style", *given)
    assert config.data.captions.default == ""
    assert config.sampling.trigger_word is None

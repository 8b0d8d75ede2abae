"""The model brings the numbers: what each model's file says reaches the keys, and what is set wins.

The values and sources stand once more here, so that a slip in one file is seen.
"""

import inspect
from typing import Any

import pytest
from omegaconf import OmegaConf

from sdlora.cli.arguments import prepared_arguments
from sdlora.config.keys import as_written, flat
from sdlora.config.recommended import RecommendedConfig
from sdlora.config.rules import ConfigError
from sdlora.config.train import TrainConfig
from sdlora.evaluation.deepface_model import DeepFaceModel
from sdlora.evaluation.hw10 import TUTORIAL_PARTS
from tests.composed import composed_train, evaluate_config, train_config

KEYS = {
    "resolution": "data.resolution",
    "batch_size": "data.batch_size",
    "val_fraction": "data.val_fraction",
    "caption_dropout": "data.captions.dropout",
    "max_steps": "trainer.max_steps",
    "precision": "trainer.precision",
    "unet_lr": "optim.unet_lr",
    "text_encoder_lr": "optim.text_encoder_lr",
    "new_word_lr": "optim.new_word_lr",
    "min_snr_gamma": "objective.min_snr_gamma",
    "timesteps": "objective.timesteps.name",
    "shift": "objective.timesteps.shift",
    "shift_factor": "objective.timesteps.shift_factor",
    "r": "lora.r",
    "text_encoder_method": "lora.text_encoder.method",
    "prompts": "sampling.prompts",
    "sampler": "sampling.sampler",
    "num_steps": "sampling.num_steps",
    "guidance_scale": "sampling.guidance_scale",
    "draw_batch_size": "sampling.batch_size",
    "draw_every_n_steps": "sampling.every_n_steps",
    "score_every_n_steps": "evaluation.every_n_steps",
    "face": "evaluation.face.name",
    "face_detector": "data.face_detector",
    "attributes": "evaluation.attributes.name",
    "clip_model": "evaluation.clip.options.model",
    "image_model": "evaluation.image.options.model",
    "select": "evaluation.select",
}
"""What suits a model -> the key that it is for."""

CLIP, DINO = "openai/clip-vit-base-patch32", "facebook/dinov2-base"
PHOTOS = {
    "evaluation.face.name": "deepface",  # HW10
    "data.face_detector": "yunet",
    "evaluation.attributes.name": "none",
    "evaluation.clip.options.model": CLIP,  # HW10
    "evaluation.image.options.model": DINO,  # DreamBooth's DINO score, of today's DINO
    "evaluation.select": "face_distance",
    "trainer.precision": "auto",
    "sampling.prompts": "captions",
    "sampling.num_steps": 30,  # HW10
    "data.val_fraction": None,  # a tenth
    "data.captions.dropout": 0.05,  # ai-toolkit, config/examples
    "optim.unet_lr": 1e-4,  # HW10, kohya's docs, diffusers, DiffSynth-Studio
    "optim.new_word_lr": 5e-4,  # diffusers, examples/textual_inversion
    "objective.min_snr_gamma": 5.0,  # HW10, kohya's docs
    "objective.timesteps.name": "uniform",
    "objective.timesteps.shift": "none",
    "objective.timesteps.shift_factor": 1.0,
    "lora.r": 16,  # LyCORIS; the alpha of HW10 and of kohya's docs
    "lora.alpha": 16.0,
}
SD = PHOTOS | {
    "data.resolution": 512,  # the bases' own
    "data.batch_size": 2,  # HW10
    "trainer.max_steps": 2000,  # HW10
    "optim.text_encoder_lr": 1e-4,  # HW10
    "lora.text_encoder.method": "lora",  # HW10, LyCORIS
    "sampling.sampler": "pndm",  # the pipelines' own
    "sampling.guidance_scale": 7.5,  # default of diffusers' StableDiffusionPipeline
    "sampling.batch_size": 4,  # HW10
    "sampling.every_n_steps": 250,
    "evaluation.every_n_steps": 250,
}
XL = PHOTOS | {
    "data.resolution": 1024,  # the base's own
    "data.batch_size": 1,  # diffusers, examples/dreambooth/README_sdxl.md
    "trainer.max_steps": 2000,  # there 500 steps of 4 pictures
    "optim.text_encoder_lr": 1e-5,  # kohya's docs
    "lora.text_encoder.method": "frozen",  # diffusers, examples/dreambooth/README_sdxl.md
    "sampling.sampler": "euler",  # the pipeline's own
    "sampling.guidance_scale": 5.0,  # default of diffusers' StableDiffusionXLPipeline
    "sampling.batch_size": 1,
    "sampling.every_n_steps": 250,
    "evaluation.every_n_steps": 250,
}

TABLE: dict[str, dict[str, Any]] = {
    "model=tiny": {  # measured by the project
        "data.resolution": 64,
        "data.batch_size": 8,
        "data.val_fraction": 0.0,
        "data.captions.dropout": 0.0,
        "trainer.max_steps": 300,
        "trainer.precision": "fp32",
        "optim.unet_lr": 3e-3,
        "optim.text_encoder_lr": 2e-4,
        "optim.new_word_lr": 5e-3,
        "objective.min_snr_gamma": 5.0,
        "objective.timesteps.name": "uniform",
        "objective.timesteps.shift": "none",
        "objective.timesteps.shift_factor": 1.0,
        "lora.r": 8,
        "lora.alpha": 8.0,
        "lora.text_encoder.method": "lora",
        "sampling.prompts": "example:prompts.txt",
        "sampling.sampler": "ddim",
        "sampling.num_steps": 30,
        "sampling.guidance_scale": 2.5,
        "sampling.batch_size": 8,
        "sampling.every_n_steps": 100,
        "evaluation.every_n_steps": 75,
        "evaluation.face.name": "tiny_face",
        "data.face_detector": "opencv",
        "evaluation.attributes.name": "tiny_attributes",
        "evaluation.clip.options.model": "tiny",
        "evaluation.image.options.model": "tiny",
        "evaluation.select": "face_distance",
    },
    "model=sd15": SD,
    "model=sd21": SD,
    "model=sdxl": XL,
    "model=kolors": XL
    | {
        "trainer.max_steps": 500,  # DiffSynth-Studio's tutorial: one epoch
        "sampling.every_n_steps": 100,
        "evaluation.every_n_steps": 100,
    },
    "model=tiny_flow": {  # measured by the project
        "data.resolution": 64,
        "data.batch_size": 8,
        "data.val_fraction": 0.0,
        "data.captions.dropout": 0.0,
        "trainer.max_steps": 150,
        "trainer.precision": "fp32",
        "optim.unet_lr": 2e-3,
        "optim.text_encoder_lr": 1e-5,
        "optim.new_word_lr": 5e-4,
        "objective.min_snr_gamma": None,
        "objective.timesteps.name": "uniform",
        "objective.timesteps.shift": "constant",
        "objective.timesteps.shift_factor": 3.0,
        "lora.r": 8,
        "lora.alpha": 8.0,
        "lora.text_encoder.method": "frozen",
        "sampling.prompts": "example:prompts.txt",
        "sampling.sampler": "euler",
        "sampling.num_steps": 28,
        "sampling.guidance_scale": 3.0,
        "sampling.batch_size": 8,
        "sampling.every_n_steps": 50,
        "evaluation.every_n_steps": 50,
        "evaluation.face.name": "tiny_face",
        "data.face_detector": "opencv",
        "evaluation.attributes.name": "tiny_attributes",
        "evaluation.clip.options.model": "tiny",
        "evaluation.image.options.model": "tiny",
        "evaluation.select": "face_distance",
    },
    "experiment=unconditional": {  # diffusers, examples/unconditional_image_generation/README.md
        "data.resolution": 64,
        "data.batch_size": 16,
        "data.val_fraction": 0.0,
        "data.captions.dropout": 0.0,
        "trainer.max_steps": 50_000,  # 100 epochs of 8189 flowers
        "trainer.precision": "auto",
        "optim.unet_lr": 1e-4,
        "optim.text_encoder_lr": 1e-4,
        "optim.new_word_lr": 1e-4,
        "objective.min_snr_gamma": None,  # the experiment's
        "objective.timesteps.name": "uniform",
        "objective.timesteps.shift": "none",
        "objective.timesteps.shift_factor": 1.0,
        "lora.r": 16,
        "lora.alpha": 16.0,
        "lora.text_encoder.method": "frozen",
        "sampling.prompts": None,
        "sampling.sampler": "ddim",
        "sampling.num_steps": 50,  # default of diffusers' DDIMPipeline
        "sampling.guidance_scale": 1.0,
        "sampling.batch_size": 16,
        "sampling.every_n_steps": 1000,
        "evaluation.every_n_steps": 5000,
        "evaluation.face.name": "none",
        "data.face_detector": "yunet",
        "evaluation.attributes.name": "none",
        "evaluation.clip.options.model": None,  # there is no such scorer
        "evaluation.image.options.model": DINO,
        "evaluation.select": "kid",
    },
}


def typed(*given: str) -> TrainConfig:
    arguments = prepared_arguments([*given, "data.root=photos"], TrainConfig)
    return train_config(*arguments)


def values(*given: str) -> dict[str, Any]:
    return flat(as_written(typed(*given)))


def test_everything_that_suits_a_model_is_for_some_key() -> None:
    assert KEYS.keys() == set(RecommendedConfig.__dataclass_fields__)
    assert all(table.keys() == {*KEYS.values(), "lora.alpha"} for table in TABLE.values())


@pytest.mark.parametrize("given", TABLE)
def test_the_model_alone_sets_them(given: str) -> None:
    found = values(given)
    assert {key: found.get(key) for key in TABLE[given]} == TABLE[given]


@pytest.mark.parametrize("name", KEYS)
def test_the_model_is_where_the_value_comes_from(name: str) -> None:
    """Composed, the key holds a reference and no number of its own."""
    written = OmegaConf.to_container(composed_train(), resolve=False)
    found = flat(written)[KEYS[name]]  # type: ignore[arg-type]
    own = f"${{model.recommended.{name}}}"
    assert found in (own, f"${{times:${{lora.relative_rate}},{own}}}")
    assert (found == own) == (name not in ("unet_lr", "text_encoder_lr"))


def test_evaluate_takes_them_too() -> None:
    config = evaluate_config("lora=a", "model=sdxl")
    assert (config.sampling.guidance_scale, config.sampling.sampler) == (5.0, "euler")
    assert config.evaluation.clip.options == {"model": CLIP}
    assert config.precision == "auto"
    assert evaluate_config("lora=a").precision == "fp32"


def test_scores_find_faces_as_cuts_do() -> None:
    """One detector for photos, in the cuts of training and in the scores; the homework has its."""
    own = inspect.signature(DeepFaceModel).parameters["detector"].default
    assert own == values("model=sd15")["data.face_detector"]
    photos = values("model=sd15", "evaluation=photos")
    assert photos["evaluation.face.options.detector"] == photos["data.face_detector"]
    detector, network = "evaluation.face.options.detector", "evaluation.face.options.model_name"
    for given in (["evaluation=hw10"], ["experiment=hw10"]):
        found = values("model=sd15", *given) if "experiment" not in given[0] else values(*given)
        assert (found[network], found[detector]) == TUTORIAL_PARTS


def test_alpha_follows_the_rank_unless_set() -> None:
    assert typed("lora.r=32").lora.alpha == 32
    assert typed("model=sd15", "lora.r=4").lora.alpha == 4
    assert typed("lora.r=32", "lora.alpha=8").lora.alpha == 8
    assert typed("experiment=hw10").lora.alpha == 16  # of rank 32
    assert typed("experiment=kolors_anime").lora.alpha == 4  # of rank 16
    assert typed("experiment=anime_style", "lora.r=4").lora.alpha == 8


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data.resolution", 768),
        ("data.batch_size", 4),
        ("optim.unet_lr", 5e-5),
        ("trainer.precision", "fp16"),
        ("lora.text_encoder.method", "frozen"),
        ("sampling.prompts", "mine.txt"),
        ("evaluation.clip.options.model", "mine"),
    ],
)
def test_what_is_set_wins(key: str, value: Any) -> None:
    assert values("model=sd15", f"{key}={value}")[key] == value


def test_an_experiment_wins() -> None:
    found = values("experiment=hw10")
    assert (found["lora.r"], found["trainer.precision"]) == (32, "bf16")
    assert found["data.captions.dropout"] == 0.0
    assert values("experiment=sd_full")["optim.unet_lr"] == 1e-5
    for name in ("hw10", "sd_full", "anime_style", "kolors_anime"):  # they train on all pictures
        assert values(f"experiment={name}")["data.val_fraction"] == 0
    assert values("experiment=hw10", "lora.r=8", "lora.alpha=8")["lora.r"] == 8


@pytest.mark.parametrize(
    ("optimizer", "rates"),
    [
        ("adamw", (1e-4, 1e-5)),
        ("adamw8bit", (1e-4, 1e-5)),  # bitsandbytes: a replacement
        ("paged_adamw8bit", (1e-4, 1e-5)),
        ("adafactor", (1e-4, 1e-5)),
        ("schedule_free_adamw", (2e-4, 2e-5)),  # its README: 1 to 10 times
        ("lion", (3.3e-5, 3.3e-6)),  # arXiv:2302.06675, section 5: a third to a tenth
        ("came", (3.3e-5, 5e-6)),
        ("prodigy", (1.0, 1.0)),  # finds its own
        ("sgd", (10.0, 1.0)),
    ],
)
def test_rates_of_another_size_are_the_optimizers_own(
    optimizer: str, rates: tuple[float, float]
) -> None:
    optim = typed("model=sdxl", f"optimizer={optimizer}").optim
    assert (optim.unet_lr, optim.text_encoder_lr) == pytest.approx(rates)


@pytest.mark.parametrize(
    ("given", "rate"),
    [
        (["lora.type=loha"], 3.33e-4),
        (["lora.type=lokr"], 3.33e-4),
        (["lora.type=oft"], 3.3e-5),
        (["lora.type=oft", "optimizer=schedule_free_adamw"], 6.6e-5),
        (["lora.type=oft", "lora.relative_rate=0.1"], 1e-5),
        (["lora.type=oft", "optim.unet_lr=2e-4"], 2e-4),
        (["lora.type=oft", "optimizer=prodigy"], 1.0),
        (["lora.type=loha", "lora=full"], 1e-4),
        (["lora.use_dora=true"], 1e-4),
    ],
)
def test_rates_of_a_type_are_relative_to_the_models(given: list[str], rate: float) -> None:
    assert typed("model=sd15", *given).optim.unet_lr == pytest.approx(rate)


def test_an_option_of_a_scorer_leaves_the_rest() -> None:
    before = typed("model=sd15").evaluation
    after = typed("model=sd15", "evaluation.face.options.detector=yunet").evaluation
    assert after.face.options == {"detector": "yunet"}
    assert (after.face.name, after.clip, after.image) == (
        before.face.name,
        before.clip,
        before.image,
    )
    more = typed("model=sd15", "evaluation.clip.options.batch_size=3").evaluation.clip
    assert more.options == {"model": CLIP, "batch_size": 3}
    photos = typed("model=sd15", "evaluation=photos", "evaluation.face.options.detector=yunet")
    assert photos.evaluation.face.options == {"model_name": "GhostFaceNet", "detector": "yunet"}


@pytest.mark.parametrize("name", ["resolution", "batch_size", "max_steps", "r", "unet_lr"])
def test_what_suits_no_model_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^model\.recommended\.{name}=0(\.0)?: must be a"):
        typed(f"model.recommended.{name}=0", f"{KEYS[name]}=8")

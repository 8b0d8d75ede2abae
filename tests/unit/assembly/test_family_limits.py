"""What a family cannot do is said before any weight is read."""

import pytest

from sdlora.assembly.family_limits import check_family_limits, check_model, check_side
from sdlora.config.rules import ConfigError
from sdlora.config.train import TrainConfig
from sdlora.models.source import ModelSource, resolve
from sdlora.sampling.prompts import Prompt, prompts_of
from tests.composed import train_config


def config_of(*given: str) -> TrainConfig:
    return train_config(*given)


ALONE = "experiment=unconditional"


def test_the_experiment_alone_makes_a_run() -> None:
    config = config_of(ALONE, "data.root=here", "data.resolution=32")
    check_family_limits(config)
    assert config.model.architecture["sample_size"] == 32
    assert config.lora.methods(("unet", "text_encoder")) == {
        "unet": "full",
        "text_encoder": "frozen",
    }
    assert (config.evaluation.select, config.data.captions.default) == ("kid", "")
    assert prompts_of(config.sampling) == tuple(Prompt("", seed) for seed in range(64))


@pytest.mark.parametrize(
    ("seeds", "count", "expected"),
    [("[5,2]", "null", [5, 2]), ("[5,2]", "4", [5, 2, 6, 7]), ("[5,2]", "1", [5])],
)
def test_seeds_may_be_counted(seeds: str, count: str, expected: list[int]) -> None:
    config = config_of(ALONE, f"sampling.seeds={seeds}", f"sampling.num_seeds={count}")
    assert [prompt.seed for prompt in prompts_of(config.sampling)] == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["lora=attention"], "lora.unet.method=lora: an adapter cannot be exported .* to full, or"),
        (["lora.text_encoder.method=full"], "lora.text_encoder.method=full: it has none; set it"),
        (["sampling.prompts=captions"], r"sampling.prompts=captions: .* set it to null"),
        (["model.clip_skip=1"], "model.clip_skip=1: unconditional .* has no CLIP .* set it to 0"),
        (["data.captions.max_chunks=2"], "data.captions.max_chunks=2: .* set it to 1"),
        (["sampling.guidance_scale=7"], "sampling.guidance_scale=7.0: .* set it to 1.0"),
        (["evaluation=default", "sampling.num_seeds=1"], "evaluation.clip.name=clip"),
        (["data.buckets.mode=auto"], "data.buckets.mode=auto: its pictures have one size"),
        (
            ["++model.architecture.layers_per_blok=1"],
            r"model.architecture.layers_per_blok=1: unknown; did",
        ),
        (
            ["model.architecture.block_out_channels=[8,8]"],
            r"model.architecture=.*is no valid UNet2D",
        ),
        (
            ["++model.architecture.norm_num_groups=7"],
            r"model.architecture=.*is no valid UNet2DModel",
        ),
    ],
)
def test_what_does_nothing_is_refused(given: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        check_family_limits(config_of(ALONE, *given))


def test_the_model_alone_is_refused_with_the_command_that_makes_a_run() -> None:
    with pytest.raises(ConfigError, match=r"^lora.unet.method=lora: .* or use experiment") as e:
        check_family_limits(config_of("model=ddpm", "data.root=here"))
    remedy = str(e.value).partition("or use ")[2].partition(",")[0]
    check_family_limits(config_of("model=ddpm", "data.root=here", remedy))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ["model.path=null"],
            "model.path=null: name .* experiment=unconditional",
        ),
        ([ALONE, "sampling.num_prompts=3"], "sampling.num_prompts=3: there are no prompts"),
        (["evaluation.select=kid"], "evaluation.select=kid: is not scored"),
    ],
)
def test_the_schema_refuses(given: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        config_of(*given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ["model.family=sdx"],
            "model.family=sdx: unknown; did you mean sdxl?.* kolors, sd, sdxl, z_image",
        ),
        (["lora.unte.r=4"], "lora.unte: no such part; did you mean lora.unet.* trains text_encod"),
        (["lora.dit.method=lora"], "lora.dit.targets=.*: names no layer"),
        (["lora.dit.method=full", "lora=full"], "lora.dit: no such part; Stable"),
        (["lora.vae.method=full", "lora=full"], "lora.vae.method=full: the vae of Stable .*frozen"),
        (["lora.unet.method=null"], "lora.unet.method=null: this part has no training method"),
        (
            ["lora.unet.method=frozen", "lora.text_encoder.method=frozen"]
            + ["lora.text_encoder_2.method=lora"],
            "lora.unet.method=frozen: leaves no part of Stable .* train; its parts: text_encoder,",
        ),
        (
            ["lora.use_dora=true"],
            "lora.use_dora=True: works on unet only; set lora.text_encoder.me",
        ),
        (["model.scratch=[unett]"], "model.scratch=unett: unknown; did you mean unet"),
        (["model.scratch=[unet]"], "model.scratch=unet: random .* set lora.unet.method=full"),
        (
            ["model=kolors", "lora.text_encoder.method=lora"],
            "lora.text_encoder.method=lora: the text encoder of Kolors cannot be",
        ),
        (
            ["model=kolors", "lora.text_encoder.method=frozen", "data.captions.max_chunks=2"],
            "data.captions.max_chunks=2: Kolors reads captions in one piece, of 256 tokens; set",
        ),
        (
            ["model=kolors", "lora.text_encoder.method=frozen", "model.clip_skip=1"],
            "model.clip_skip=1: Kolors has no CLIP",
        ),
    ],
)
def test_what_a_family_cannot_do_is_named(given: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        check_family_limits(config_of(*given))


def test_what_it_can_do_is_let_through() -> None:
    check_family_limits(config_of("model.clip_skip=1", "data.captions.max_chunks=2"))
    check_family_limits(config_of("model=sdxl", "lora.text_encoder.method=frozen"))
    dora = ("lora.use_dora=true", "lora.text_encoder.method=frozen")
    check_family_limits(config_of(*dora, "lora.text_encoder_2.method=lora"))  # sd has none
    both = config_of("model=sdxl", "lora=full", "lora.text_encoder_2.method=full")
    both.model.scratch = ["text_encoder_2"]
    check_family_limits(both)
    check_model(both.model)


def test_other_models_take_prompts() -> None:
    with pytest.raises(ConfigError, match=r"^sampling.prompts=null: this model takes prompts"):
        check_family_limits(config_of("sampling.prompts=null"))
    with pytest.raises(ConfigError, match=r"^model.architecture=.*this model's folder brings"):
        check_family_limits(config_of("++model.architecture.sample_size=64"))


def test_the_pipeline_draws_what_was_trained_on() -> None:
    source = ModelSource("embedded:ddpm", "ddpm", architecture={"sample_size": 64})
    check_side(64, resolve(source), source)
    with pytest.raises(ConfigError, match=r"^data.resolution=32: its pictures have a side of 64"):
        check_side(32, resolve(source), source)

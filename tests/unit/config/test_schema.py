"""The schema: every shipped file fits it, and what cannot work is named with a remedy."""

from dataclasses import MISSING as NO_DEFAULT
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from sdlora.cli.composition import schema_node, to_typed
from sdlora.config.keys import all_keys, as_written, nearest_key
from sdlora.config.rules import ConfigError, require, require_choice
from sdlora.config.train import TrainConfig
from tests.composed import evaluate_config, train_config
from tests.places import REPOSITORY

CONF = REPOSITORY / "conf"
GROUPS = sorted(path for path in CONF.glob("*/*.yaml") if path.parent.name != "hydra")


@pytest.mark.parametrize("path", GROUPS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_shipped_file_fits_the_schema(path: Path) -> None:
    group, name = path.parent.name, path.stem
    # what a file leaves to the command line: where the pictures are
    needed = group == "experiment" or (group, name) == ("data", "hub")
    config = train_config(f"{group}={name}", *(["data.root=owner/name"] if needed else []))
    values = [getattr(config, item.name) for item in fields(TrainConfig)]
    assert "???" not in repr(values)


def test_defaults_and_overrides_meet_in_one_config() -> None:
    config = train_config("optimizer=prodigy", "optim.unet_lr=0.5", "lora.unet.r=4", "seed=3")
    assert (config.optim.name, config.optim.unet_lr) == ("prodigy", 0.5)
    assert (config.lora.r, config.lora.part("unet").r, config.lora.part("text_encoder").r) == (
        8,
        4,
        None,
    )
    assert (config.seed, config.run_dir) == (3, "here")
    assert evaluate_config("lora=[file.safetensors]").lora == ["file.safetensors"]


def test_an_experiment_may_be_changed_from_the_command_line() -> None:
    config = train_config("experiment=tiny_base", "trainer.max_steps=7")
    assert (config.trainer.max_steps, config.trainer.ema_decay) == (7, 0.999)


@pytest.mark.parametrize("name", ["hw10", "anime_style", "sd_full"])
def test_a_recipe_for_real_pictures_asks_for_them(name: str) -> None:
    with pytest.raises(ConfigError, match="^data.root=None: name the folder with your"):
        train_config(f"experiment={name}")


def test_the_ranks_of_a_sweep_may_carry_their_alphas() -> None:
    config = train_config(
        "experiment=anime_style", "data.root=a", "lora.r=4", "lora.alpha=${lora.r}"
    )
    assert (config.lora.r, config.lora.alpha) == (4, 4.0)
    assert config.lora.part("unet").targets[-1] == "to_v"
    assert (config.scheduler.per, config.data.captions.default) == ("epoch", "")


def test_a_second_text_encoder_is_trained_as_the_first_unless_told_otherwise() -> None:
    first = ("lora.text_encoder.r=3", "lora.text_encoder.targets=[fc1]")
    alike = train_config(*first).lora
    assert alike.parts["text_encoder_2"] == alike.parts["text_encoder"]
    other = train_config(*first, "lora.text_encoder_2.method=frozen").lora
    encoders = ("text_encoder", "text_encoder_2")
    assert list(other.methods(encoders).values()) == ["lora", "frozen"]
    frozen = train_config("lora.text_encoder.method=frozen").lora
    assert list(frozen.methods(encoders).values()) == ["frozen", "frozen"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["lora.dropout=1"], r"^lora.dropout=1.0: must be a number in \[0, 1\)"),
        (["lora.alpha=-inf"], "^lora.alpha=-inf: must be a finite number > 0"),
        (["lora.text_encoder.r=0"], "^lora.text_encoder.r=0: must be a whole number >= 1"),
        (["lora.text_encoder.alpha=0"], "^lora.text_encoder.alpha=0.0: must be a finite"),
        (["lora.unet.targets=[]"], r"^lora.unet.targets=\[\]: names no layer; list some, or set"),
        (["lora.init=zero"], "^lora.init=zero: unknown; choices: default, gaussian, pissa, olora"),
        (["lora.rank_dropout=1"], r"^lora.rank_dropout=1.0: must be a number in \[0, 1\)"),
        (["+lora.unet.rank_pattern={to_q:0}"], "^lora.unet.rank_pattern.to_q=0: must be a whole"),
        (["+lora.unet.alpha_pattern={to_q:0}"], "^lora.unet.alpha_pattern.to_q=0.0: must be a fin"),
        (
            ["lora.init=olora", "lora.init_from=a.safetensors"],
            "^lora.init=olora: has no effect where lora.init_from gives the weights; set it to",
        ),
        (
            ["lora.use_dora=true", "lora.text_encoder.method=frozen", "lora.init=pissa"],
            "^lora.init=pissa: changes the norm that DoRA divides by; set it to default, or",
        ),
        (
            ["lora.use_dora=true", "lora.text_encoder.method=frozen", "lora.rank_dropout=0.1"],
            "^lora.rank_dropout=0.1: changes the norm that DoRA divides by; set it to 0, or",
        ),
        (
            ["lora.text_encoder.method=frozen", "lora.text_encoder_2.method=full"],
            "^lora.text_encoder_2.method=full: cannot be mixed with lora.unet.method=lora; train",
        ),
        (
            ["lora.unet.method=frozen", "lora.text_encoder.method=frozen"],
            "leaves nothing to train; set one to lora or full",
        ),
        (["lora.unet.method=full"], "^lora.text_encoder.method=lora: cannot be mixed with"),
        (["data.root=null"], "^data.root=None: name the folder with your pictures"),
        (["data=hub"], "^data.root=None: name the Hugging Face set, such as OWNER/NAME, or a"),
        (["data.resolution=100"], "multiple of 8 between 8 and 4096; the nearest is 96$"),
        (["data.resolution=5000"], "the nearest is 4096$"),
        (["data.crop=random"], "^data.crop=random: .* needs data.cache=off"),
        (["objective.min_snr_gamma=0"], "^objective.min_snr_gamma=0.0: must be a finite"),
        (["objective.prediction_type=x0"], "^objective.prediction_type=x0: unknown"),
        (["objective.weighting=debias"], "^objective.weighting=debias: .*did you mean debiased"),
        (
            ["objective.weighting=p2"],
            "^objective.weighting=p2: and objective.min_snr_gamma=5.0 are two .*set objective.min",
        ),
        (["objective=debiased", "objective.min_snr_gamma=5"], "^objective.weighting=debiased: and"),
        (["objective=p2", "objective.p2_gamma=0"], "^objective.p2_gamma=0.0: must be a finite"),
        (["objective=p2", "objective.p2_k=-1"], "^objective.p2_k=-1.0: must be a finite"),
        (
            ["objective.zero_terminal_snr=true", "objective.prediction_type=epsilon"],
            "^objective.zero_terminal_snr=True: with .*set objective.prediction_type=v_prediction",
        ),
        (
            ["objective=zero_terminal_snr", "objective.prediction_type=epsilon"],
            "^objective.zero_terminal_snr=True: with objective.prediction_type=epsilon",
        ),
        (["objective.error.name=hubert"], "^objective.error.name=hubert: .*did you mean huber"),
        (["objective.error.threshold=0"], "^objective.error.threshold=0.0: must be a finite"),
        (["objective.error.schedule=linear"], "^objective.error.schedule=linear: unknown; choices"),
        (["objective.noise.offset=-0.1"], "^objective.noise.offset=-0.1: .* 0 is off"),
        (["objective.noise.perturbation=inf"], "^objective.noise.perturbation=inf: must be a fin"),
        (
            ["objective.noise.pyramid_iterations=1"],
            r"^objective.noise.pyramid_iterations=1: must be 0 \(off\) or >= 2",
        ),
        (["objective.noise.pyramid_discount=1"], "^objective.noise.pyramid_discount=1.0: must be"),
        (["objective.noise.pyramid_discount=0"], "^objective.noise.pyramid_discount=0.0: must be"),
        (
            ["objective.noise.pyramid_iterations=6", "objective.noise.offset=0.1"],
            "^objective.noise.offset=0.1: and pyramid noise both add coarse noise; set",
        ),
        (["objective.timesteps.name=sigmoid"], "^objective.timesteps.name=sigmoid: unknown"),
        (["objective.timesteps.min_timestep=-1"], "^objective.timesteps.min_timestep=-1: must be"),
        (
            ["objective.timesteps.min_timestep=600", "objective.timesteps.max_timestep=600"],
            "^objective.timesteps.max_timestep=600: must be above .*min_timestep=600, or null",
        ),
        (["objective.timesteps.logit_std=0"], "^objective.timesteps.logit_std=0.0: must be a fin"),
        (["objective.timesteps.logit_mean=nan"], "^objective.timesteps.logit_mean=nan: must be"),
        (
            ["objective.timesteps.name=bins"],
            r"^objective.timesteps.bin_weights=\[\]: give a weight for each of at least two bins",
        ),
        (
            ["objective.timesteps.name=bins", "objective.timesteps.bin_weights=[0,0]"],
            r"^objective.timesteps.bin_weights=\[0.0, 0.0\]: give a weight .* such as \[1,2,1\]",
        ),
        (
            ["objective.timesteps.name=bins", "objective.timesteps.bin_weights=[1,-1]"],
            r"^objective.timesteps.bin_weights=\[1.0, -1.0\]: must be finite numbers >= 0",
        ),
        (
            ["objective.timesteps.bin_weights=[1,2]"],
            r"^objective.timesteps.bin_weights=\[1.0, 2.0\]: takes no part in .*set .*name=bins",
        ),
        (["trainer.precision=fp16", "trainer.accelerator=cpu"], "needs a GPU; on the CPU use bf16"),
        (["trainer.devices=0"], "^trainer.devices=0: must be a whole number >= 1"),
        (["trainer=ddp", "trainer.accelerator=mps"], "^trainer.devices=2: mps has one device"),
        (["trainer.gradient_clip_val=nan"], "^trainer.gradient_clip_val=nan: must be a finite"),
        (["optim.new_word_lr=0"], "^optim.new_word_lr=0.0: must be a finite number > 0"),
        (["lora.new_word.name='two words'"], "^lora.new_word.name='two words': must be one word"),
        (["lora.new_word.name=zwk", "lora.new_word.init=' '"], "^lora.new_word.init=' ': names no"),
        (["lora.new_word.num_vectors=0"], "^lora.new_word.num_vectors=0: must be a whole number"),
        (
            ["lora=full", "lora.new_word.name=zwk"],
            "^lora.new_word.name=zwk: goes with adapters or frozen parts only; set all methods",
        ),
        (
            ["lora=textual_inversion", "lora.new_word.name=null"],
            "^lora.unet.method=frozen: .*nothing to train; set .* or lora.new_word.name$",
        ),
        (["optim.lora_plus_ratio=0"], "^optim.lora_plus_ratio=0.0: must be a finite number > 0"),
        (
            ["experiment=tiny_base", "optim.lora_plus_ratio=16"],
            "^optim.lora_plus_ratio=16.0: needs an adapter; set it to null where all weights",
        ),
        (
            ["trainer.precision=fp16", "+optim.options.fused=true"],
            "^optim.options.fused=True: takes the loss scale of fp16 out of the gradients after",
        ),
        (["scheduler.eta_min=1e-6"], "^scheduler.eta_min=1e-06: cosine_with_restarts has none"),
        (["scheduler=linear", "scheduler.per=step"], "^scheduler.per=step: linear has none; use"),
        (
            ["scheduler=cosine_annealing", "scheduler.eta_min=-1"],
            "^scheduler.eta_min=-1.0: must be a finite number >= 0",
        ),
        (
            ["scheduler=cosine_annealing", "scheduler.eta_min=nan"],
            "^scheduler.eta_min=nan: must be a finite number >= 0",
        ),
        (
            ["scheduler=cosine_annealing", "scheduler.eta_min=null"],
            "^scheduler.eta_min=None: must be a finite number >= 0",
        ),
        (["scheduler=cosine_annealing", "scheduler.per=steps"], "^scheduler.per=steps: .*step, ep"),
        (
            [
                *("data=hub", "data.root=a/b", "data.hub.streaming=true", "data.cache.mode=off"),
                *("scheduler=cosine_annealing", "scheduler.per=epoch"),
            ],
            "^scheduler.per=epoch: a streamed set has no epochs of whole batches; use step",
        ),
        (["trainer.ema_decay=1"], "^trainer.ema_decay=1.0: must be a number in"),
        (["sampling.guidance_scale=nan"], "^sampling.guidance_scale=nan: must be a finite"),
        (["sampling.num_prompts=0"], "^sampling.num_prompts=0: must be a whole number >= 1"),
        (["evaluation.face.name=tiny"], "^evaluation.face.name=tiny: .*did you mean tiny_face"),
        (["evaluation.prior_prompts=-1"], "^evaluation.prior_prompts=-1: must be a whole number"),
        (["checkpoint.keep_last=0"], "^checkpoint.keep_last=0: must be a whole number >= 1"),
        (["logger.names=[tensorbord]"], "^logger.names=tensorbord: .*did you mean tensorboard"),
        (["export.name=../x"], "^export.name=../x: becomes a file name"),
        (["export.name=..."], "^export.name=...: becomes a file name"),
        (["model.clip_skip=-1"], "^model.clip_skip=-1: must be a whole number >= 0"),
        (["seed=-1"], "^seed=-1: must be a whole number in"),
    ],
)
def test_what_cannot_work_is_named_with_a_remedy(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train_config(*overrides)


TRIGGER = ("evaluation.trigger_word=sks", "evaluation.class_word=man")
NO_FEATURES = "compares features; set evaluation.image.name=image, too, or evaluation."


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["evaluation.kid=true"], f"^evaluation.kid=True: {NO_FEATURES}"),
        (
            ["evaluation.prior_prompts=3", *TRIGGER],
            f"^evaluation.prior_prompts=3: {NO_FEATURES}",
        ),
        (
            ["evaluation.prior_prompts=3", "evaluation.image.name=image"],
            "^evaluation.prior_prompts=3: needs data.trigger_word and data.class_word$",
        ),
        (
            ["evaluation.hw10=true"],
            "^evaluation.hw10=True: is measured with evaluation.face.name=deepface and "
            "evaluation.clip.name=clip$",
        ),
        (["evaluation.hw10=true", "evaluation.face.name=deepface"], "^evaluation.hw10=True: is"),
        (
            [
                "evaluation.hw10=true",
                "evaluation.face.name=tiny_face",
                "evaluation.clip.name=clip",
            ],
            "^evaluation.hw10=True: is",
        ),
        (
            ["evaluation.prior_prompts=3", "evaluation.image.name=image", "data.trigger_word=sks"],
            "^evaluation.prior_prompts=3: needs data.trigger_word and data.class_word$",
        ),
        (["evaluation.aesthetic.name=x"], "^evaluation.aesthetic.name=x: unknown; choices: aesth"),
        (["evaluation.select=clip_score"], "^evaluation.select=clip_score: is not scored; choose"),
        (["evaluation.select=image_similarity"], "^evaluation.select=image_similarity: is not sco"),
    ],
)
def test_what_a_score_stands_on_must_be_there(overrides: list[str], message: str) -> None:
    """Beginning with no scores at all."""
    with pytest.raises(ConfigError, match=message):
        train_config("evaluation=none", *overrides)


def test_scores_that_have_what_they_need_are_taken() -> None:
    config = train_config(
        "evaluation=none",
        "evaluation.image.name=image",
        "evaluation.kid=true",
        "evaluation.prior_prompts=3",
        *TRIGGER,
    ).evaluation
    assert (config.kid, config.prior_prompts, config.class_word) == (True, 3, "man")
    homework = train_config("evaluation=hw10", "sampling=hw10")
    assert homework.evaluation.hw10
    assert (homework.sampling.num_prompts, homework.sampling.seeds) == (25, [1126])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "^run=None: give either run=RUN_FOLDER, lora=FILE or images=FOLDER"),
        (["run=a", "lora=[b]"], "^run=a: give either run=RUN_FOLDER, lora=FILE or images="),
        (["run=a", "sweep=b"], "^run=a: has a report of its own; give it without sweep="),
        (["images=[a]", "sweep=b"], r"^images=\['a'\]: has a report of its own"),
        (["run=a", "lora=[b]", "images=[c]"], "^run=a: give either run=RUN_FOLDER"),
        (["lora=[b]", "images=[c]"], r"^images=\['c'\]: is scored by itself, without lora="),
        (["run=a", "lora_scale=[nan]"], r"^lora_scale=\[nan\]: must be finite numbers, at least"),
        (["run=a", "lora_scale=[1.0,inf]"], r"^lora_scale=\[1.0, inf\]: must be finite numbers"),
        (["run=a", "lora_scale=[]"], r"^lora_scale=\[\]: must be finite numbers, at least one$"),
        (
            ["run=a", "data.root=b"],
            "^data.root=b: a run brings its own training pictures; leave it",
        ),
        (["run=a", "precision=bf17"], "^precision=bf17: unknown; did you mean bf16"),
        (["run=a", "accelerator=cuda"], "^accelerator=cuda: unknown; .*choices: auto, cpu, gpu"),
        (["run=a", "resolution=0"], "^resolution=0: must be a whole number >= 8"),
    ],
)
def test_evaluate_too(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate_config(*overrides)


def test_what_can_be_evaluated() -> None:
    assert evaluate_config("run=a").lora_scale == [1.0]
    assert evaluate_config("sweep=a").sweep == "a"
    beside = evaluate_config("run=a", "images=[b,c]")
    assert (beside.run, beside.images, beside.lora) == ("a", ["b", "c"], [])
    alone = evaluate_config("images=[b]", "data.root=c")
    assert (alone.run, alone.images, alone.data.root) == (None, ["b"], "c")
    many = evaluate_config("lora=[a,b]", "lora_scale=[0.5,1]")
    assert (many.lora, many.lora_scale) == (["a", "b"], [0.5, 1.0])


def test_numbers_are_chosen_in_conf_alone() -> None:
    """The schema's own defaults say "nothing" (``None``, empty) or "as the model is" (0)."""
    pending: list[type] = [TrainConfig]
    while pending:
        schema = pending.pop()
        for item in fields(schema):
            if item.default is not NO_DEFAULT:
                assert item.default in (None, "???", 0), f"{schema.__name__}.{item.name}"
            if isinstance(item.type, type) and is_dataclass(item.type):
                pending.append(item.type)


def test_parts_are_written_in_the_group_itself() -> None:
    """As on the command line, in files, and as run folders and headers of every version hold it."""
    written = as_written(train_config("lora.unet.r=4", "lora.dit.targets=[to_q]"))["lora"]
    assert "parts" not in written
    assert (written["r"], written["unet"]["r"]) == (8, 4)
    assert written["dit"] == {
        "method": None,
        "targets": ["to_q"],
        "r": None,
        "alpha": None,
        "rank_pattern": {},
        "alpha_pattern": {},
    }
    again = OmegaConf.merge(schema_node(TrainConfig), as_written(train_config("lora.unet.r=4")))
    assert isinstance(again, DictConfig)
    assert to_typed(again, TrainConfig) == train_config("lora.unet.r=4")


def test_all_keys_and_the_nearest() -> None:
    keys = all_keys(TrainConfig)
    assert keys["lora.r"] == "int"
    assert keys["lora.PART.targets"] == "list"
    assert keys["optim.options"] == "dict"
    assert keys["trainer.ema_decay"] == "float | None"
    for wrong, right in [
        ("lora.rr", "lora.r"),
        ("lora.rank", "lora.r"),
        ("lora.unet.rr", "lora.unet.r"),
        ("lora.anything.target", "lora.anything.targets"),
        ("unet_lr", "optim.unet_lr"),
        ("optim.unet_rl", "optim.unet_lr"),
        ("training.max_steps", "trainer.max_steps"),
        ("max_steps", "trainer.max_steps"),
        ("qqq", None),
    ]:
        assert nearest_key(wrong, TrainConfig) == right, wrong


def test_require() -> None:
    require(True, "key", 1, "never")
    require_choice("key", "a", ("a", "b"))
    with pytest.raises(ConfigError, match=r"^key=c: unknown; choices: a, b$"):
        require_choice("key", "c", ("a", "b"))


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (("evaluation=none",), "nothing is scored"),
        (("lora.unet.method=full", "lora.text_encoder.method=frozen"), "only an adapter has"),
    ],
)
def test_strengths_need_scores_and_an_adapter(overrides: tuple[str, ...], reason: str) -> None:
    with pytest.raises(ConfigError, match=rf"^evaluation\.scales=\[0\.5\]: .*{reason}"):
        train_config("evaluation.scales=[0.5]", *overrides)
    assert train_config("evaluation.scales=[0.5]").evaluation.scales == [0.5]

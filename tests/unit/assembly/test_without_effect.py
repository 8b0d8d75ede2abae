"""Keys that were set and have no effect: each is named, with a remedy; none that has one is."""

import shlex

import pytest

from sdlora.assembly.without_effect import (
    unused_in_evaluation,
    unused_in_sweep,
    unused_in_training,
)
from sdlora.cli.arguments import prepared_arguments
from sdlora.cli.composition import to_typed
from sdlora.cli.set_keys import keys_set
from sdlora.config.effect import declared_conditions
from sdlora.config.evaluate import EvaluateConfig
from sdlora.config.train import TrainConfig
from tests.composed import composed_evaluate, composed_train

TRAINING = [
    # a command, the key in it that has no effect there, and what of the reason must be said
    ("model.architecture={}", "", ""),
    ("model.config=configs", "model.config", "model.path=embedded:tiny-sd"),
    ("lora=full lora.r=4", "lora.r", "lora.unet.method=full"),
    ("lora=full lora.alpha=4", "lora.alpha", "set lora.unet.method=lora"),
    ("lora=full lora.dropout=0.1", "lora.dropout", ""),
    ("lora=full lora.rank_dropout=0.1", "lora.rank_dropout", ""),
    ("lora=full lora.init=gaussian", "lora.init", ""),
    ("lora=full lora.init_from=some.safetensors", "lora.init_from", ""),
    ("lora=full lora.use_rslora=true", "lora.use_rslora", ""),
    ("lora=full lora.use_dora=true", "lora.use_dora", ""),
    ("lora=full lora.type=lokr", "lora.type", ""),
    ("lora.type=oft lora.r=4", "lora.r", "lora.type"),
    ("lora.decompose_factor=4", "lora.decompose_factor", "set lora.type=lokr"),
    ("lora.oft_block_size=16", "lora.oft_block_size", "set lora.type=oft"),
    ("lora.type=loha optim.lora_plus_ratio=4", "optim.lora_plus_ratio", "lora.type"),
    ("lora=full export.dtype=fp16", "export.dtype", ""),
    ("lora=full export.thumbnail=true", "export.thumbnail", ""),
    ("lora.text_encoder.method=frozen lora.text_encoder.r=4", "lora.text_encoder.r", "frozen"),
    ("lora=full lora.unet.targets=[to_q]", "lora.unet.targets", ""),
    ("lora=full lora.unet.alpha=2", "lora.unet.alpha", ""),
    ("lora=full 'lora.unet.rank_pattern={mid_block:2}'", "lora.unet.rank_pattern.mid_block", ""),
    ("lora=full 'lora.unet.alpha_pattern={mid_block:2}'", "lora.unet.alpha_pattern.mid_block", ""),
    ("lora.text_encoder_2.r=4", "lora.text_encoder_2.r", "trains no text_encoder_2"),
    ("lora.new_word.init=person", "lora.new_word.init", "set lora.new_word.name"),
    ("lora.new_word.num_vectors=2", "lora.new_word.num_vectors", ""),
    ("data=portraits data.root=photos", "data.root", "data.source=portraits"),
    ("data=portraits data.nested=true", "data.nested", "set data.source=folder"),
    ("data=portraits data.on_error=skip", "data.on_error", ""),
    ("data=portraits 'data.background=\"#000000\"'", "data.background", ""),
    ("data=portraits data.alpha=mask", "data.alpha", ""),
    ("data=portraits data.captions.default=x", "data.captions.default", ""),
    ("data=portraits data.captions.endings=[.cap]", "data.captions.endings", ""),
    ("data.num_pictures=9", "data.num_pictures", "set data.source=portraits"),
    ("data.face_detector=ssd", "data.face_detector", "set data.crop=face"),
    ("data.buckets.step=16", "data.buckets.step", "set data.buckets.mode=auto"),
    ("data.buckets.min_side=16", "data.buckets.min_side", ""),
    ("data.buckets.max_side=99", "data.buckets.max_side", ""),
    ("data.buckets.max_aspect=3", "data.buckets.max_aspect", ""),
    ("data.cache=off data.cache.max_gib=1", "data.cache.max_gib", ""),
    ("data.cache=off data.cache.resident_gib=1", "data.cache.resident_gib", "disk or memory"),
    ("data.hub.split=test", "data.hub.split", "data.source=folder; leave it out"),
    ("data.hub.image_column=x", "data.hub.image_column", ""),
    ("data=hub data.root=a/b data.hub.shuffle_buffer=9", "data.hub.shuffle_buffer", "streaming"),
    ("data.captions.separator=';'", "data.captions.separator", "data.captions.tags"),
    ("data.prior.root=classes", "data.prior.root", "set data.prior.mode=class"),
    ("data.prior.prompt=man", "data.prior.prompt", "class or teacher"),
    ("data.prior.weight=2", "data.prior.weight", ""),
    ("data.prior.num_pictures=9", "data.prior.num_pictures", ""),
    ("objective.error.threshold=0.2", "objective.error.threshold", "huber or smooth_l1"),
    ("objective.error.schedule=snr", "objective.error.schedule", ""),
    ("'objective.noise={pyramid_discount:0.2}'", "objective.noise.pyramid_discount", "=0; leave"),
    ("objective.timesteps.logit_mean=1", "objective.timesteps.logit_mean", "logit_normal"),
    ("objective.timesteps.logit_std=2", "objective.timesteps.logit_std", ""),
    ("objective.p2_gamma=2", "objective.p2_gamma", "set objective.weighting=p2"),
    ("objective.p2_k=2", "objective.p2_k", ""),
    ("lora=textual_inversion lora.new_word.name=sks optim.unet_lr=1", "optim.unet_lr", "frozen"),
    ("lora.text_encoder.method=frozen optim.text_encoder_lr=1e-5", "optim.text_encoder_lr", ""),
    ("model=kolors optim.text_encoder_lr=1e-5", "optim.text_encoder_lr", "has no lora.text_enc"),
    ("model=z_image optim.transformer_lr=1e-4 optim.unet_lr=1e-5", "optim.unet_lr", "leave it out"),
    ("optim.transformer_lr=1e-4", "optim.transformer_lr", "this model has no lora.transformer"),
    ("model=z_image lora.unet.targets=[to_q]", "lora.unet.targets", "trains no unet"),
    ("objective.timesteps.mode_scale=1", "objective.timesteps.mode_scale", "=mode"),
    ("model=z_image objective.timesteps.shift=none objective.timesteps.shift_factor=2",
     "objective.timesteps.shift_factor", "shift=constant"),
    ("optim.new_word_lr=1", "optim.new_word_lr", "set lora.new_word.name"),
    ("scheduler=constant scheduler.warmup_steps=5", "scheduler.warmup_steps", "another scheduler"),
    ("scheduler=cosine scheduler.num_cycles=2", "scheduler.num_cycles", "cosine_with_restarts"),
    ("trainer.timeout_min=5", "trainer.timeout_min", "trainer.devices above 1"),
    ("sampling.guidance_scale=1 sampling.negative_prompt=x", "sampling.negative_prompt", "above 1"),
    ("evaluation=none evaluation.every_n_steps=5", "evaluation.every_n_steps", "face.name=none"),
    ("evaluation=none evaluation.on_missing=warn", "evaluation.on_missing", ""),
    ("evaluation.face=none evaluation.select=none 'evaluation.face.options={a:1}'",
     "evaluation.face.options.a", ""),
    ("evaluation.select=none evaluation.max_clip_loss=2", "evaluation.max_clip_loss", ""),
    ("evaluation.class_word=man", "evaluation.class_word", "set evaluation.trigger_word"),
    ("lora=full export.licence=mit", "export.licence", ""),
    ("checkpoint.every_n_steps=0 checkpoint.keep_last=2", "checkpoint.keep_last", "every_n_steps"),
    ("model.revision=main", "model.revision", "to a Hub id"),
    ("model.path=a.safetensors model.variant=fp16", "model.variant", "folder"),
    ("model=z_image lora=full lora.unet.r=4", "lora.unet.r", "trains no unet"),
    ("model=z_image lora.unet.r=4 lora.transformer.r=8", "lora.unet.r", "trains no unet"),
    ("model=kolors lora.text_encoder.r=4", "lora.text_encoder.r", "trains no text_encoder"),
    ("sweep.num_trials=3", "sweep.num_trials", "start one with -m"),
    ("sweep.name=x", "sweep.name", ""),
    ("sweep.max_jobs=2", "sweep.max_jobs", ""),
    ("'sweep.objectives=[kid]'", "sweep.objectives", ""),
    ("sweep.trials_at_once=2", "sweep.trials_at_once", ""),
    ("sweep.prune_after=2", "sweep.prune_after", ""),
    ("experiment=unconditional data.captions.prefix=x", "data.captions.prefix", "another model"),
    ("experiment=unconditional sampling.prompt_prefix=x", "sampling.prompt_prefix", ""),
    ("experiment=unconditional sampling.trigger_word=x", "sampling.trigger_word", ""),
    ("experiment=unconditional model.vae_precision=bf16", "model.vae_precision", ""),
    ("model=sd15 model.architecture={a:1}", "model.architecture.a", "model.path"),
    # the keys that take it are set, or have no effect themselves
    ("model.recommended.max_steps=9 trainer.max_steps=5", "model.recommended.max_steps", "take it"),
    ("model.recommended.draw_every_n_steps=9 'sampling.every_n_steps=5'",
     "model.recommended.draw_every_n_steps", "leave it out"),
    ("model.recommended.new_word_lr=1", "model.recommended.new_word_lr", "take it"),
    ("lora=full model.recommended.r=16", "model.recommended.r", "take it"),
    ("optimizer=prodigy lora.relative_rate=2", "lora.relative_rate", "take it"),
    ("lora.r=16 lora.unet.r=4 lora.text_encoder.r=2", "lora.r", "lora.unet.r=4, lora.text_enc"),
    ("lora.r=16 lora.unet.r=4 lora.text_encoder.method=frozen", "lora.r", "leave it out"),
    ("model=kolors lora.r=16 lora.unet.r=4", "lora.r", "lora.unet.r=4"),
    ("lora.r=16 lora.alpha=3 lora.unet.r=4 lora.text_encoder.method=frozen lora.unet.alpha=8",
     "lora.r lora.alpha", "lora.unet.alpha=8"),
    ("model=z_image lora.alpha=3 lora.transformer.alpha=4", "lora.alpha", "lora.transformer.al"),
]  # fmt: skip

WITH_EFFECT = [
    "sampling.every_n_steps=99999 evaluation.every_n_steps=99999 checkpoint.every_n_steps=99999",
    "data=hub data.root=a/b data.captions.default=x",
    "model=sdxl lora.text_encoder.method=frozen lora.text_encoder_2.method=lora"
    " lora.text_encoder.r=3 lora.text_encoder.alpha=2 lora.text_encoder.targets=[q_proj]",
    "data.cache=off data.cache.dir=x evaluation=none evaluation.references=x",
    "model=kolors lora.text_encoder.method=frozen",
    "model.path=owner/name model.revision=main model.variant=fp16",
    "lora.r=4 lora.unet.r=2 optim.unet_lr=1e-4 optim.text_encoder_lr=1e-5",
    "model=z_image lora.unet.r=4 optim.unet_lr=1e-4",
    "model=z_image lora.unet.method=full optim.unet_lr=1e-4",
    "model=z_image lora.transformer.r=4 optim.transformer_lr=1e-4",
    "model=sdxl lora.text_encoder_2.method=lora optim.text_encoder_lr=1e-5",
    "experiment=textual_inversion optim.new_word_lr=0.1 lora.new_word.num_vectors=2",
    "scheduler=cosine_with_restarts scheduler.num_cycles=2 scheduler.warmup_steps=5",
    "trainer.max_epochs=2 evaluation.every_n_steps=9999 sampling.every_n_steps=9999",
    "trainer.devices=2 trainer.timeout_min=5",
    "trainer.num_nodes=2 trainer.timeout_min=5",
    "data.prior.mode=class data.class_word=man data.prior.root=x data.prior.num_pictures=3",
    "data.prior.mode=teacher data.class_word=man data.prior.weight=2",
    "objective.noise.pyramid_iterations=6 objective.noise.pyramid_discount=0.2",
    "model.path=a.safetensors model.config=configs",
    "model.recommended.unet_lr=1e-4 model.recommended.r=4",
    "optimizer=prodigy model.recommended.precision=bf16",
    "lora.relative_rate=2",
    "lora.r=16 lora.unet.r=4",
    # the strength is that of the others: alpha beside the rank
    "lora.r=16 lora.alpha=4 lora.unet.r=4 lora.text_encoder.r=2",
    "lora.alpha=4 lora.unet.alpha=4",
    # what is off anyway is nothing that was lost
    "data.prior.root=null data.captions.shuffle=false evaluation=none evaluation.every_n_steps=0",
    "scheduler=constant optimizer=prodigy",
]

EVALUATION = [
    ("run=R evaluation.every_n_steps=5", "evaluation.every_n_steps", "evaluate does not read it"),
    ("run=R evaluation.select=face_distance", "evaluation.select", ""),
    ("run=R evaluation.max_clip_loss=2", "evaluation.max_clip_loss", ""),
    ("run=R sampling.every_n_steps=5", "sampling.every_n_steps", ""),
    ("lora=a checkpoint=best", "checkpoint", "set run"),
    ("images=a merge=true", "merge", "images=['a']; leave it out"),
    ("images=a lora_scale=0.5", "lora_scale", ""),
    ("images=a lora_skip_unknown=true", "lora_skip_unknown", ""),
    ("images=a resolution=512", "resolution", ""),
    ("images=a sampling.prompts=x.txt", "sampling.prompts", "images=['a']; leave it out"),
    ("images=a sampling.seeds=[1]", "sampling.seeds", ""),
    *[
        (f"images=a sampling.{key}=5", f"sampling.{key}", "")
        for key in (
            "num_steps",
            "num_seeds",
            "num_prompts",
            "batch_size",
            "guidance_scale",
            "sampler",
        )
    ],
    ("sweep=a evaluation.kid=true", "evaluation.kid", "sweep=a"),
    ("sweep=a data.root=x", "data.root", ""),
    ("run=R lora_scale=0.5 merge=true resolution=512 sampling.num_steps=5", "", ""),
]


def unused(command: str, *, is_sweep: bool = False) -> list[str]:
    """The notes of a command of ``train.py``."""
    arguments = prepared_arguments(shlex.split(command), TrainConfig)
    composed = composed_train(*arguments)
    config = to_typed(composed, TrainConfig)
    return unused_in_training(config, composed, keys_set(arguments, {}), is_sweep=is_sweep)


@pytest.mark.parametrize(("command", "key", "said"), TRAINING)
def test_a_key_without_effect_is_named(command: str, key: str, said: str) -> None:
    notes = unused(command)
    assert [note.partition("=")[0].partition(" ")[0] for note in notes] == key.split()
    assert said in "".join(notes)
    assert "leave it out" in "".join(notes) or not key


@pytest.mark.parametrize("command", WITH_EFFECT)
def test_what_has_an_effect_is_not_named(command: str) -> None:
    assert unused(command) == []


def test_in_a_sweep_the_line_is_of_one_cell() -> None:
    (line,) = unused("scheduler=constant scheduler.warmup_steps=5", is_sweep=True)
    assert line.endswith("has no effect: in this cell: scheduler.name=constant")


def test_keys_of_sweeps_have_an_effect_in_one() -> None:
    assert unused("sweep.max_jobs=3 sweep.name=x", is_sweep=True) == []


SWEEPS = [
    ("sweep.max_jobs=9 sweep.name=x", False, "", ""),
    ("sweep.num_trials=3", False, "sweep.num_trials", "this sweep is a grid"),
    ("'sweep.objectives=[kid]'", False, "sweep.objectives", "add sweep=search"),
    ("sweep.trials_at_once=2", False, "sweep.trials_at_once", ""),
    ("sweep.prune_after=2", False, "sweep.prune_after", ""),
    ("sweep.prune_after=2 sweep.num_trials=3 sweep.trials_at_once=2", True, "", ""),
    ("sweep.prune_after=2 'sweep.objectives=[kid,clip_score]'", True, "sweep.prune_after", "one s"),
    ("sweep.prune_after=2 evaluation.every_n_steps=0", True, "sweep.prune_after", "every_n_steps"),
]


@pytest.mark.parametrize(("command", "is_search", "key", "said"), SWEEPS)
def test_keys_of_a_sweep_itself(command: str, is_search: bool, key: str, said: str) -> None:
    given = shlex.split(command)
    composed = composed_train(*given)
    keys = [item.partition("=")[0] for item in given]
    notes = unused_in_sweep(composed, keys, is_search=is_search)
    assert [note.partition("=")[0] for note in notes] == [key] * bool(key)
    assert said in "".join(notes)
    assert "leave it out" in "".join(notes) or not key


def test_every_condition_is_tried() -> None:
    conditional = {key for key, conditions in declared_conditions(TrainConfig) if conditions}
    keys = {
        key.removesuffix(".a").removesuffix(".mid_block") for _, key, _ in TRAINING + EVALUATION
    }
    named = {key.replace("lora.unet.", "lora.PART.") for key in keys}
    groups = {key for key in conditional if any(each.startswith(f"{key}.") for each in conditional)}
    others = {key for key in conditional - groups - named if not tried_by_its_kind(key)}
    assert others == set()


def tried_by_its_kind(key: str) -> bool:
    """Whether a key has the condition of its group alone, or is refused where it has no effect."""
    same = ("data.captions.", "data.hub.", "evaluation.", "lora.PART.")
    same += ("model.recommended.", "trainer.max_steps", "checkpoint.every_n_steps")
    return key.startswith(same) or key.endswith("every_n_epochs")


@pytest.mark.parametrize(("command", "key", "said"), EVALUATION)
def test_keys_of_an_evaluation(command: str, key: str, said: str) -> None:
    given = shlex.split(command)
    composed = composed_evaluate(*given)
    config = to_typed(composed, EvaluateConfig)
    notes = unused_in_evaluation(config, composed, [item.partition("=")[0] for item in given])
    assert [note.partition("=")[0] for note in notes] == [key] * bool(key)
    assert said in "".join(notes)

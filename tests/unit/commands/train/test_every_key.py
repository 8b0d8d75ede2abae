"""Every key of a run reaches what uses it: set to another value, it is read off there.

Each variant is a run (or its pictures alone) made of values that all differ from the defaults; each
row of it says where the value must be seen: at Lightning's trainer, peft's layers, the optimizer's
groups, a batch, a score. A key of the schema that no row and no other test shows turns this red.
"""

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from safetensors.torch import load_file

from sdlora.adapters.learned_embedding import learned
from sdlora.assembly.base_model import model_source
from sdlora.assembly.data_source import hub_set
from sdlora.assembly.training_batches import cache_of
from sdlora.assembly.without_effect import unused_in_training
from sdlora.cli.composition import register_schemas
from sdlora.config.train import TrainConfig
from sdlora.data.cache.encodings import Mapped, Resident
from sdlora.data.sources.picture_source import DataError
from sdlora.diffusion.weighting import debiased_weight, min_snr_weight, p2_weight
from sdlora.models.source import ModelError, resolve
from sdlora.runtime.places import CONF
from sdlora.training.step_cost import recomputes
from tests.models import TINY_PIXELS
from tests.places import REPOSITORY
from tests.unit.commands.train import shown_runs
from tests.unit.commands.train.shown_runs import ROOTS, Shown, default_of, keys_of_a_run

pytestmark = pytest.mark.filterwarnings("ignore:__array_(_ impl|wrap__ must):DeprecationWarning")

Reader = Callable[[Any], Any]
Row = tuple[Any, Reader] | tuple[Any, Reader, Any]
"""Another value of a key; where it is seen; what is seen there, unless it is the value itself."""

UNSCORED = ("evaluation=none", "logger=none")
BASE = {"model.path": "{base}"}
FEW_PICTURES = {"data.root": "{at}/few"}
FEW = {f"{name}.png" for name in ("aa", "bb", "cc", "dd")}


def conv_in(shown: Shown) -> torch.Tensor:
    return shown.run.family.unet.conv_in.weight.detach()


def stored(path: str, name: str = "conv_in.weight") -> Reader:
    """Whether the UNet has the weights of this file."""
    return lambda s: torch.equal(conv_in(s), load_file(s.at / path)[name])


def conv_weight(shown: Shown) -> torch.nn.Parameter:
    return shown.run.family.unet.conv_in.weight


def targets(part: str) -> Reader:
    """The last names of the layers with an adapter."""
    return lambda s: sorted({name.rpartition(".")[2] for name in s.layers(part)})


def objective(shown: Shown) -> Any:
    return shown.run.module.objective


def not_taken(shown: Shown) -> dict[str, list[str]]:
    """Why scorers are missing, and their scores."""
    return shown.run.evaluator.scorer.not_taken()


def first_at_full_rate(shown: Shown) -> int:
    return shown.factors.index(max(shown.factors))


def steps_of_one_rate(shown: Shown) -> int:
    """For how many steps the rate stands still where it falls."""
    late = shown.factors[3:]
    return max(late.count(factor) for factor in late)


def share(found: list[str], word: str) -> float:
    return round(sum(word in text for text in found) / len(found), 3)


def near(value: float) -> Any:
    return pytest.approx(value, abs=0.1)


def orders(shown: Shown) -> set[tuple[str, ...]]:
    """In which orders the free tags come."""
    texts = (t.split(" ; ")[3:-1] for t in shown.captions("tags.png") if t)
    return {tuple(tags) for tags in texts}


def opaque(shown: Shown) -> tuple[float, float]:
    mask = shown.of("clear.png", "mask")[0]
    return float(mask.min()), float(mask.max())


def clear_colour(shown: Shown) -> list[int]:
    """What lies under a transparent part, in [0, 255]."""
    pixels: torch.Tensor = min(shown.of("clear.png", "pixels"), key=lambda p: float(p[1].mean()))
    place = pixels[1:].sum(0).argmin()
    colour = pixels.flatten(1)[:, place]
    return [round(float(v + 1) * 127.5) for v in colour]


def sides_shown(shown: Shown) -> set[bool]:
    """Whether the white half lies left: a mirrored picture has it right."""
    pixels = shown.of("halves.png", "pixels")
    return {bool(p[:, :, :8].mean() > p[:, :, -8:].mean()) for p in pixels}


def cuts(shown: Shown) -> int:
    return len({tuple(sizes[2:4].tolist()) for sizes in shown.of("tags.png", "sizes")})


def table(shown: Shown) -> Any:
    return shown.run.datamodule.dataset.latents


def left_out(name: str) -> Reader:
    return lambda pictures: name not in {each.name for each in pictures.source.pictures}


def bucket(name: str) -> Reader:
    """The size that a picture is cut to."""
    return lambda pictures: (
        dict(zip((p.name for p in pictures.source.pictures), pictures.geometry, strict=True))[
            name
        ].bucket
    )


ADAPTER: dict[str, Row] = {
    "seed": (5, lambda s: s.run.module.seed),
    "model.path": ("{base}", stored("base.safetensors"), True),
    "model.clip_skip": (1, lambda s: s.run.family.clip_skip),
    "model.vae": (
        "{at}/vae",
        lambda s: torch.equal(
            s.run.family.vae.encoder.conv_in.weight,
            load_file(s.at / "vae/diffusion_pytorch_model.safetensors")["encoder.conv_in.weight"],
        ),
        True,
    ),
    "model.quantise": ("nf4", lambda s: s.quantised, ["nf4"]),
    "lora.r": (3, lambda s: s.layer("text_encoder", "v_proj").r["default"]),
    "lora.alpha": (5.0, lambda s: s.layer("text_encoder", "v_proj").lora_alpha["default"]),
    "lora.dropout": (0.25, lambda s: s.layer("unet", "to_q").lora_dropout["default"].p),
    "lora.rank_dropout": (
        0.125,
        lambda s: next(iter(s.layer("unet", "to_q").lora_A["default"]._forward_hooks.values())).p,
    ),
    "lora.init": (  # the default is uniform between -1/4 and 1/4 for 16 inputs
        "gaussian",
        lambda s: bool(s.matrix("text_encoder").abs().max() > 0.25),
        True,
    ),
    "lora.use_rslora": (True, lambda s: s.layer("unet", "to_q").use_rslora["default"]),
    "lora.unet.targets": (
        ["to_q", "to_v"],
        lambda s: sorted({name.rpartition(".")[2] for name in s.layers("unet")}),
    ),
    "lora.unet.r": (2, lambda s: s.layer("unet", "attn1.to_q").r["default"]),
    "lora.unet.alpha": (6.0, lambda s: s.layer("unet", "attn1.to_q").lora_alpha["default"]),
    "lora.unet.rank_pattern": (
        {"mid_block": 4},
        lambda s: {e.r["default"] for n, e in s.layers("unet").items() if "mid_block" in n},
        {4},
    ),
    "lora.unet.alpha_pattern": (
        {"attn2": 7.0},
        lambda s: {e.lora_alpha["default"] for n, e in s.layers("unet").items() if "attn2" in n},
        {7.0},
    ),
    "lora.text_encoder.targets": (
        ["v_proj"],
        lambda s: sorted({name.rpartition(".")[2] for name in s.layers("text_encoder")}),
    ),
    "data.root": ("{at}/few", lambda s: s.names, FEW),
    "data.val_root": (
        "{at}/held",
        lambda s: len(s.run.validation._held_out.moments),
        2,
    ),
    "data.cache.dir": (
        "{at}/own-cache",
        lambda s: any((s.at / "own-cache/encodings").iterdir()),
        True,
    ),
    "data.cache.max_gib": (
        2.0,
        lambda s: cache_of(s.run.config.data, torch.device("cpu"), s.run.progress).store._max_bytes,
        2 * 2**30,
    ),
    "data.prior.mode": ("teacher", lambda s: s.run.module.teacher is not None, True),
    "data.prior.prompt": (
        "a thing",
        lambda s: s.run.family.tokenizers[0].decode(
            s.run.module.teacher.token_ids[0], skip_special_tokens=True
        ),
    ),
    "data.prior.weight": (0.5, lambda s: s.run.module.teacher.weight),
    "objective.min_snr_gamma": (3.0, lambda s: objective(s).weight.keywords["gamma"]),
    "objective.error.name": ("smooth_l1", lambda s: objective(s).huber.smooth_l1, True),
    "objective.error.threshold": (0.3, lambda s: objective(s).huber.threshold),
    "objective.error.schedule": ("exponential", lambda s: objective(s).huber.schedule),
    "objective.noise.offset": (0.05, lambda s: objective(s).training_noise.offset),
    "objective.noise.perturbation": (0.2, lambda s: objective(s).training_noise.perturbation),
    "objective.timesteps.name": (
        "logit_normal",
        lambda s: objective(s).timesteps.place.func.__name__,
    ),
    "objective.timesteps.min_timestep": (10, lambda s: objective(s).timesteps.min_timestep),
    "objective.timesteps.max_timestep": (900, lambda s: objective(s).timesteps.max_timestep),
    "objective.timesteps.logit_mean": (
        0.5,
        lambda s: objective(s).timesteps.place.keywords["mean"],
    ),
    "objective.timesteps.logit_std": (2.0, lambda s: objective(s).timesteps.place.keywords["std"]),
    "optim.name": ("sgd", lambda s: type(s.optimizer).__name__, "SGD"),
    "optim.options": (
        {"momentum": 0.5},
        lambda s: {"momentum": s.group_of(s.matrix("unet"))["momentum"]},
    ),
    "optim.unet_lr": (1e-3, lambda s: s.rate(s.matrix("unet"))),
    "optim.text_encoder_lr": (5e-4, lambda s: s.rate(s.matrix("text_encoder"))),
    "optim.lora_plus_ratio": (
        4.0,
        lambda s: s.rate(s.matrix("unet", "lora_B")) / s.rate(s.matrix("unet")),
        pytest.approx(4.0),
    ),
    "scheduler.name": (
        "cosine_annealing",
        lambda s: round(s.factors[20], 6),  # of 40: two epochs of 2 batches, 4 steps are one
        pytest.approx(0.5, abs=0.1),
    ),
    "scheduler.warmup_steps": (3, first_at_full_rate),
    "scheduler.eta_min": (1e-5, lambda s: s.factors[40] * 1e-3, pytest.approx(1e-5)),
    "scheduler.per": ("epoch", steps_of_one_rate, 2),
    "trainer.max_steps": (40, lambda s: s.run.trainer.max_steps),
    "trainer.accelerator": ("cpu", lambda s: s.trainer_options["accelerator"]),
    "trainer.accumulate_grad_batches": (
        2,
        lambda s: {
            s.run.trainer.accumulate_grad_batches,
            s.run.datamodule.accumulate_grad_batches,
        },
        {2},
    ),
    "trainer.gradient_clip_val": (0.5, lambda s: s.run.trainer.gradient_clip_val),
    "trainer.gradient_checkpointing": (True, lambda s: recomputes(s.run.module)),
    "trainer.ema_decay": (0.5, lambda s: s.callbacks["ExponentialMovingAverage"].decay),
    "trainer.log_every_n_steps": (
        3,
        lambda s: {
            s.run.trainer.log_every_n_steps,
            s.run.module.check_every_n_steps,
            s.callbacks["Throughput"].log_every_n_steps,
        },
        {3},
    ),
    "data.batch_size": (1, lambda s: max(map(len, s.batches))),
    "sampling.prompts": ("{at}/prompts.txt", lambda s: s.drawn_texts[0], "in oil: one"),
    "sampling.num_prompts": (2, lambda s: len(set(s.drawn_texts))),
    "sampling.prompt_prefix": ("in oil: ", lambda s: s.drawn_texts[-1], "in oil: sks man two"),
    "sampling.negative_prompt": (
        "ugly",
        lambda s: torch.equal(
            s.drawn[0][1]["negative_prompt_embeds"][:1],
            s.run.family.encode_texts(["ugly"])["prompt_embeds"],
        ),
        True,
    ),
    "sampling.sampler": (
        "euler",
        lambda s: type(s.drawn[0][0]).__name__,
        "EulerDiscreteScheduler",
    ),
    "sampling.num_steps": (2, lambda s: s.drawn[0][1]["num_inference_steps"]),
    "sampling.guidance_scale": (3.0, lambda s: s.drawn[0][1]["guidance_scale"]),
    "sampling.seeds": ([7, 3], lambda s: [p.seed for p in s.run.evaluator.prompts[:2]]),
    "sampling.num_seeds": (3, lambda s: [p.seed for p in s.run.evaluator.prompts[:3]], [7, 3, 8]),
    "sampling.batch_size": (4, lambda s: len(s.drawn[0][1]["latents"])),
    "sampling.every_n_steps": (6, lambda s: s.callbacks["Evaluate"].pictures_every_n_steps),
    "sampling.num_preview": (1, lambda s: len(s.run.evaluator.draw(preview=True).images)),
    "checkpoint.every_n_steps": (9, lambda s: s.callbacks["Checkpoints"].every_n_steps),
    "checkpoint.keep_last": (2, lambda s: s.callbacks["Checkpoints"].keep_last),
    "logger.names": (
        ["csv"],
        lambda s: [type(each).__name__ for each in s.run.trainer.loggers],
        ["RunCsv"],
    ),
    "evaluation.face.name": ("none", lambda s: s.scorer("FaceScorer"), None),
    "evaluation.clip.name": ("none", lambda s: s.scorer("ClipScorer"), None),
    "evaluation.attributes.name": ("none", lambda s: s.scorer("PromptFollowedScorer"), None),
    "evaluation.image.name": ("none", lambda s: s.scorer("ImageScorer"), None),
    "evaluation.aesthetic.name": ("aesthetic", lambda s: "aesthetic" in s.scores.values, True),
    "evaluation.aesthetic.options": (
        {"head": "{at}/head.safetensors", "model": "{clip}"},
        lambda s: s.scores.values["aesthetic"],
        pytest.approx(4.5),
    ),
    "evaluation.select": ("none", lambda s: s.callbacks["Evaluate"].best, None),
}
"""Adapters on UNet and text encoder, everything cached, the base as teacher, scores by one head."""

PICTURES: dict[str, Row] = {
    ROOTS + "path": ("{at}/first", lambda s: any(n.startswith("first/") for n in s.names), True),
    ROOTS + "repeats": (3, lambda s: s.counts["first/tags.png"]),
    ROOTS + "prefix": ("zwk", lambda s: share(s.captions("tags.png"), "zwk ; pre"), near(0.8)),
    ROOTS + "class_caption": (
        "thing",
        lambda s: share(s.captions("bare.png"), "pre ; thing"),
        near(0.8),
    ),
    "data.roots": (
        [{"path": "{at}/second"}],
        lambda s: {name.partition("/")[0] for name in s.names},
        {"first", "second"},
    ),
    "data.nested": (False, lambda s: "first/sub/nested.png" in s.names),
    "data.on_error": (
        "skip",
        lambda s: "first/broken.png" in {f.name for f in s.run.data.source.findings},
        True,
    ),
    "data.resolution": (
        32,
        lambda s: {*s.of("tags.png", "pixels")[0].shape[1:], s.run.evaluator.resolution},
        {32},
    ),
    "data.crop": ("random", lambda s: cuts(s) > 5, True),
    "data.upscale": (False, lambda s: "first/small.png" in s.names),
    "data.flip": (True, sides_shown, {True, False}),
    "data.background": ("#ff0000", clear_colour, [255, 0, 0]),
    "data.alpha": ("mask", lambda s: opaque(s)[1], 1.0),
    "data.mask_weight": (0.25, lambda s: opaque(s)[0]),
    "data.cache.mode": ("off", table, None),
    "data.num_workers": (2, lambda s: s.run.datamodule.num_workers),
    "data.batch_size": (3, lambda s: max(map(len, s.batches))),
    "data.captions.endings": ([".cap"], lambda s: share(s.captions("tags.png"), "usual"), 0.0),
    "data.captions.default": ("none", lambda s: share(s.captions("halves.png"), "none"), near(0.8)),
    "data.captions.lines": ("first", lambda s: share(s.captions("tags.png"), "second"), 0.0),
    "data.captions.tags": (True, lambda s: len(orders(s)) > 1, True),
    "data.captions.separator": ("; ", lambda s: share(s.captions("tags.png"), " ; "), near(0.8)),
    "data.captions.shuffle": (
        True,
        lambda s: {order[0] == "bb" for order in orders(s) if len(order) == 2},
        {True, False},
    ),
    "data.captions.keep_tokens": (
        1,
        lambda s: share([t for t in s.captions("tags.png") if t], "pre ; aa ;"),
        1.0,
    ),
    "data.captions.tag_dropout": (
        0.5,
        lambda s: 1 - share([t for t in s.captions("tags.png") if t], "bb"),
        pytest.approx(0.5, abs=0.2),
    ),
    "data.captions.dropout": (0.25, lambda s: s.captions("tags.png").count("") / 36, near(0.25)),
    "data.captions.prefix": ("pre", lambda s: share(s.captions("halves.png"), "pre"), near(0.8)),
    "data.captions.suffix": ("post", lambda s: share(s.captions("halves.png"), "post"), near(0.8)),
    "data.captions.wildcards": (True, lambda s: share(s.captions("tags.png"), "|"), 0.0),
    "data.captions.max_chunks": (2, lambda s: s.batches[0].token_ids.shape[1], 2 * 77),
    "lora.text_encoder.method": (
        "frozen",
        lambda s: s.run.module.trained_parameters("text_encoder"),
        {},
    ),
    "lora.use_dora": (True, lambda s: s.layer("unet", "to_q").use_dora["default"]),
    "objective.prediction_type": ("v_prediction", lambda s: objective(s).noise.prediction_type),
    "objective.zero_terminal_snr": (
        True,
        lambda s: float(objective(s).noise.alphas_cumprod[-1]) == 0.0,
    ),
    "objective.weighting": ("debiased", lambda s: objective(s).weight is debiased_weight, True),
    "objective.min_snr_gamma": (None, lambda s: objective(s).weight is debiased_weight, True),
    "objective.error.name": ("huber", lambda s: objective(s).huber.smooth_l1, False),
    "scheduler.name": (
        "linear",
        lambda s: [s.factors[step] for step in (0, 100, 200)],
        [1, 0.5, 0],
    ),
    "scheduler.warmup_steps": (0, first_at_full_rate),
    "trainer.max_steps": (200, lambda s: s.callbacks["Evaluate"] and s.run.trainer.max_steps),
    "trainer.precision": (
        "bf16",
        lambda s: {
            s.run.evaluator.precision,
            s.run.family.unet.conv_in.weight.dtype,
            s.run.trainer.precision,
        },
        {torch.bfloat16, "bf16-mixed"},
    ),
    "trainer.gradient_clip_val": (None, lambda s: s.run.trainer.gradient_clip_val),
    "trainer.gradient_checkpointing": (False, lambda s: recomputes(s.run.module)),
    "export.name": (
        "his face",
        lambda s: "his face.safetensors" in s.written(s.at / "written"),
        True,
    ),
    "export.licence": (
        "apache-2.0",
        lambda s: s.written(s.at / "licensed")["his face.safetensors"]["modelspec.license"],
    ),
}
"""Two roots without a cache, so that batches show pictures and captions as they are made."""

SCORED: dict[str, Row] = {
    "model.path": ("{at}/fp16", stored("fp16/unet/diffusion_pytorch_model.fp16.safetensors"), True),
    "model.variant": (
        "fp16",
        stored("fp16/unet/diffusion_pytorch_model.fp16.safetensors"),
        True,
    ),
    "model.vae_precision": ("bf16", lambda s: s.run.family.vae.dtype, torch.bfloat16),
    "lora.init_from": (
        "{at}/start.safetensors",
        lambda s: set(s.matrix("unet", "lora_B").flatten().tolist()),
        {0.25},
    ),
    "lora.unet.targets": (
        ["to_q"],
        lambda s: {n.rpartition(".")[2] for n in s.layers("unet")},
        {"to_q"},
    ),  # fmt: skip
    "lora.text_encoder.method": ("frozen", lambda s: list(s.layers("text_encoder")), []),
    "data.root": ("{at}/twenty", lambda s: min(s.names).startswith("p"), True),
    "data.val_fraction": (0.2, lambda s: len(s.names), pytest.approx(16, abs=2)),
    "data.cache.resident_gib": (1e-9, lambda s: isinstance(table(s), Mapped), True),
    "objective.min_snr_gamma": (None, lambda s: objective(s).weight.func is min_snr_weight, False),
    "objective.weighting": ("p2", lambda s: objective(s).weight.func is p2_weight, True),
    "objective.p2_gamma": (0.5, lambda s: objective(s).weight.keywords["gamma"]),
    "objective.p2_k": (2.0, lambda s: objective(s).weight.keywords["k"]),
    "objective.noise.pyramid_iterations": (
        3,
        lambda s: objective(s).training_noise.pyramid_iterations,
    ),
    "objective.noise.pyramid_discount": (
        0.4,
        lambda s: objective(s).training_noise.pyramid_discount,
    ),
    "objective.timesteps.name": (
        "bins",
        lambda s: objective(s).timesteps.place.func.__name__,
        "by_bins",
    ),  # fmt: skip
    "objective.timesteps.bin_weights": (
        [1.0, 3.0],
        lambda s: list(objective(s).timesteps.place.keywords["weights"]),
    ),
    "scheduler.num_cycles": (  # so often the rate comes back to the full one
        4,
        lambda s: (
            sum(b > 0.9 > 0.1 > a for a, b in zip(s.factors, s.factors[1:], strict=False)) + 1
        ),
    ),
    "sampling.prompts": ("{at}/prompts.txt", lambda s: s.run.evaluator.prompts[0].text, "one"),
    "evaluation.face.options": (
        {"threshold": 0.9},
        lambda s: {"threshold": s.scorer("FaceScorer").model._threshold},
    ),
    "evaluation.clip.options": (
        {"model": "{clip}"},
        lambda s: float(s.scorer("ClipScorer").metric.model.model.logit_scale),
        1.25,
    ),
    "evaluation.attributes.options": (
        {"batch_size": 5},
        lambda s: {"batch_size": s.scorer("PromptFollowedScorer").batch_size},
    ),
    "evaluation.image.options": (
        {"model": "tiny", "batch_size": 5},
        lambda s: s.scorer("ImageScorer").features._batch_size,
        5,
    ),
    "evaluation.kid": (True, lambda s: "kid" in s.scores.values),
    "evaluation.trigger_word": ("sks", lambda s: s.run.evaluator.prior_prompts[0].text, "man two"),
    "evaluation.class_word": (
        "man",
        lambda s: s.scorer("ClipScorer").reworded("a sks man"),
        "a man",
    ),
    "evaluation.prior_prompts": (1, lambda s: len(s.run.evaluator.prior_prompts)),
    "evaluation.references": (
        "{at}/references",
        lambda s: list(s.scorer("FaceScorer").references.names),
        ["r1.png", "r2.png", "r3.png"],
    ),
    "evaluation.every_n_steps": (4, lambda s: s.callbacks["Evaluate"].scores_every_n_steps),
    "evaluation.scales": ([0.5], lambda s: list(s.run.evaluator.scales)),
    "evaluation.select": ("clip_score", lambda s: s.callbacks["Evaluate"].best.rule.score),
    "evaluation.max_clip_loss": (
        2.5,
        lambda s: s.callbacks["Evaluate"].best.rule.max_clip_loss,
    ),
    "evaluation.stop_patience": (2, lambda s: s.callbacks["Evaluate"].stop_patience),
}
"""A file's adapter goes on, its encodings lie on the disk, and every scorer has its options."""

WORD: dict[str, Row] = {
    "model.path": ("{at}/single.safetensors", stored("base.safetensors"), True),
    "model.config": ("{base}", lambda s: s.run.family.tokenizers[0].model_max_length, 77),
    "model.prediction_type": ("v_prediction", lambda s: objective(s).noise.prediction_type),
    "model.zero_terminal_snr": (
        True,
        lambda s: float(objective(s).noise.alphas_cumprod[-1]) == 0.0,
    ),
    "lora.unet.method": ("frozen", lambda s: s.run.module.trained_parameters("unet"), {}),
    "lora.text_encoder.r": (6, lambda s: s.layer("text_encoder", "q_proj").r["default"]),
    "lora.text_encoder.alpha": (
        9.0,
        lambda s: s.layer("text_encoder", "q_proj").lora_alpha["default"],
    ),
    "lora.text_encoder.rank_pattern": (
        {"layers.1": 2},
        lambda s: {e.r["default"] for n, e in s.layers("text_encoder").items() if "layers.1" in n},
        {2},
    ),
    "lora.text_encoder.alpha_pattern": (
        {"k_proj": 3.0},
        lambda s: s.layer("text_encoder", "k_proj").lora_alpha["default"],
        3.0,
    ),
    "lora.new_word.name": (
        "qzx",
        lambda s: len(s.run.family.tokenizers[0]("qzx", add_special_tokens=False)["input_ids"]),
        1,
    ),
    "lora.new_word.init": (
        "w",
        lambda s: torch.equal(
            word(s).new_rows[0],
            word(s).weight[s.run.family.tokenizers[0]("w")["input_ids"][1]].float(),
        ),
        True,
    ),
    "lora.new_word.num_vectors": (2, lambda s: len(word(s).new_rows)),
    "optim.new_word_lr": (7e-3, lambda s: s.rate(word(s).new_rows)),
    "optim.text_encoder_lr": (5e-4, lambda s: s.rate(s.matrix("text_encoder"))),
    "optim.unet_lr": (
        1e-3,
        lambda s: {g["name"] for g in s.optimizer.param_groups},
        {"text_encoder", "text_encoder_new_word"},
    ),  # fmt: skip
    "data.root": ("{at}/class", lambda s: s.names, {"k1.png", "k2.png"}),
    "data.captions.prefix": ("qzx", lambda s: share(s.captions("k1.png"), "qzx"), 1.0),
}
"""A new word and an adapter on the text encoder alone, on a checkpoint in one file."""

CLASS: dict[str, Row] = {
    "model.path": ("{base}", stored("base.safetensors"), True),
    "data.root": ("{at}/few", lambda s: {n for n in s.names if "/" not in n}, FEW),
    "data.prior.mode": ("class", lambda s: len({n for n in s.names if "/" in n}), 3),
    "data.prior.root": ("{at}/class", lambda s: len(list((s.at / "class").glob("*.png"))), 3),
    "data.prior.num_pictures": (3, lambda s: len({n for n in s.names if "/" in n})),
    "data.prior.prompt": ("a thing", lambda s: s.captions("class_00000.png")[0]),
    "data.prior.weight": (0.5, lambda s: float(s.of("k1.png", "weights")[0])),
    "data.trigger_word": ("zwk", lambda s: share(s.captions("aa.png"), "zwk"), 1.0),
    "data.class_word": ("man", lambda s: s.run.config.evaluation.class_word),
    "data.cache.mode": ("memory", lambda s: type(table(s)), Resident),
    "data.crop": ("face", lambda s: set(s.run.data.faces), {(0, 0, 8, 8)}),
    "data.face_detector": ("yunet", lambda s: s.detectors, {"yunet"}),
    "evaluation.face.name": (
        "deepface",
        lambda s: "GhostFaceNet" in s.scores.reasons["face_distance"],
        True,
    ),
    "evaluation.on_missing": (
        "warn",
        lambda s: any("face_distance" in names for names in not_taken(s).values()),
        True,
    ),
    "evaluation.hw10": (True, lambda s: "hw10_face" in s.scores.values),
    "trainer.compile": (True, lambda s: s.compiled),
}
"""Class pictures train along, one of them drawn first; cuts around faces; the homework's scores."""

FULL: dict[str, Row] = {
    "model.path": ("{base}", lambda s: stored("base.safetensors")(s), False),
    "model.scratch": (["unet"], lambda s: stored("base.safetensors")(s), False),
    "lora.unet.method": ("full", lambda s: s.run.family.unet.conv_in.weight.requires_grad, True),
    "lora.text_encoder.method": ("frozen", lambda s: s.group_of(conv_weight(s))["name"], "unet"),
    "optim.unet_lr": (2e-3, lambda s: s.rate(conv_weight(s))),
    "trainer.devices": (2, lambda s: s.run.trainer.num_devices),
    "trainer.num_nodes": (2, lambda s: s.run.trainer.num_nodes),
    "trainer.timeout_min": (7, lambda s: s.run.trainer.strategy._timeout.total_seconds(), 420),
    "data.source": ("portraits", lambda s: sorted(s.names)[0], "portrait-0000000"),
    "data.num_pictures": (5, lambda s: len(s.names)),
}
"""All weights of the UNet, from random ones, on several devices, with drawn portraits."""

XL: dict[str, Row] = {
    "model.family": ("sdxl", lambda s: type(s.run.family).__name__, "StableDiffusionXL"),
    "model.path": ("{xl}", lambda s: len(s.run.family.text_encoders), 2),
    "lora.text_encoder_2.targets": (["fc1", "q_proj"], targets("text_encoder_2")),
    "lora.text_encoder_2.r": (5, lambda s: s.layer("text_encoder_2", "fc1").r["default"]),
    "lora.text_encoder_2.alpha": (
        11.0,
        lambda s: s.layer("text_encoder_2", "0.mlp.fc1").lora_alpha["default"],
    ),
    "lora.text_encoder_2.rank_pattern": (
        {"q_proj": 2},
        lambda s: {"q_proj": s.layer("text_encoder_2", "q_proj").r["default"]},
    ),
    "lora.text_encoder_2.alpha_pattern": (
        {"layers.1": 3.0},
        lambda s: {
            "layers.1": s.layer("text_encoder_2", "1.mlp.fc1").lora_alpha["default"],
        },
    ),
    "optim.text_encoder_lr": (5e-4, lambda s: s.rate(s.matrix("text_encoder_2"))),
    "optim.unet_lr": (1e-3, lambda s: s.rate(s.matrix("unet"))),
}
"""SDXL, whose second text encoder has an adapter of its own."""

XL_FIRST: dict[str, Row] = {
    "model.family": ("sdxl", lambda s: type(s.run.family).__name__, "StableDiffusionXL"),
    "model.path": ("{xl}", lambda s: len(s.layers("text_encoder")) > 0, True),
    "lora.text_encoder_2.method": ("frozen", lambda s: s.layers("text_encoder_2"), {}),
}

PIXELS: dict[str, Row] = {
    "model.architecture": (
        {**TINY_PIXELS, "block_out_channels": [8, 24]},
        lambda s: list(s.run.family.unet.config.block_out_channels),
        [8, 24],
    ),
    "model.family": ("ddpm", lambda s: list(s.run.family.text_encoders), []),
    "model.path": (None, lambda s: conv_weight(s).requires_grad, True),
    "data.resolution": (16, lambda s: s.samples[0][1]["moments"].shape[-1]),
}
"""An unconditional model of pixels, from its architecture alone."""

STREAM: dict[str, Row] = {
    "data.source": ("hub", lambda s: len(s.names), 8),
    "data.root": ("{at}/hub", lambda s: s.streamed[0].names[0].startswith("row "), True),
    "data.hub.streaming": (
        True,
        lambda s: type(s.run.datamodule.dataset).__name__,
        "StreamedBatches",
    ),
    "data.hub.shuffle_buffer": (3, lambda s: s.run.datamodule.dataset._source._shuffle_buffer),
    "data.batch_size": (2, lambda s: {len(batch) for batch in s.streamed}, {2}),
    "data.flip": (True, lambda s: s.run.datamodule.dataset._data.flip),
    "data.crop": (
        "random",
        lambda s: len({tuple(b.sizes[0, 2:4].tolist()) for b in s.streamed}) > 1,
        True,
    ),  # fmt: skip
}
"""A set that is streamed."""

SUITED: dict[str, Row] = {
    f"model.recommended.{name}": row
    for name, row in {
        "resolution": (32, lambda s: s.run.evaluator.resolution),
        "batch_size": (3, lambda s: max(map(len, s.batches))),
        "caption_dropout": (
            0.5,
            lambda s: share(["" if t else "-" for n in FEW for t in s.captions(n)], "-"),
            pytest.approx(0.5, abs=0.2),
        ),
        "max_steps": (40, lambda s: s.run.trainer.max_steps),
        "precision": ("bf16", lambda s: s.run.trainer.precision, "bf16-mixed"),
        "unet_lr": (1e-3, lambda s: s.rate(s.matrix("unet"))),
        "text_encoder_lr": (5e-4, lambda s: s.rate(s.matrix("text_encoder"))),
        "r": (
            3,
            lambda s: (s.layer("unet", "to_q").r["default"], s.layer("unet", "to_q").lora_alpha),
            (3, {"default": 3.0}),
        ),
        "prompts": ("captions", lambda s: s.drawn_texts, ["a aa", "a bb", "a cc", "a dd"]),
        "sampler": ("euler", lambda s: type(s.drawn[0][0]).__name__, "EulerDiscreteScheduler"),
        "num_steps": (2, lambda s: s.drawn[0][1]["num_inference_steps"]),
        "guidance_scale": (3.0, lambda s: s.drawn[0][1]["guidance_scale"]),
        "draw_batch_size": (3, lambda s: len(s.drawn[0][1]["latents"])),
        "draw_every_n_steps": (6, lambda s: s.callbacks["Evaluate"].pictures_every_n_steps),
        "score_every_n_steps": (4, lambda s: s.callbacks["Evaluate"].scores_every_n_steps),
        "face": ("none", lambda s: s.scorer("FaceScorer"), None),
        "attributes": ("none", lambda s: s.scorer("PromptFollowedScorer"), None),
        "clip_model": (
            "{clip}",
            lambda s: float(s.scorer("ClipScorer").metric.model.model.logit_scale),
            1.25,
        ),
        "image_model": (
            "{clip}",
            lambda s: float(s.scorer("ImageScorer").features._network.model.logit_scale),
            1.25,
        ),
        "select": ("clip_score", lambda s: s.callbacks["Evaluate"].best.rule.score),
    }.items()
}
"""What suits the model reaches the keys of other groups that nobody sets."""

SUITED_FROZEN: dict[str, Row] = {
    "model.recommended.text_encoder_method": (
        "frozen",
        lambda s: s.layers("text_encoder"),
        {},
    ),
    "sampling.trigger_word": (
        "zwk",
        lambda s: {prompt.text[:5] for prompt in s.run.evaluator.prompts},
        {"zwk, "},
    ),
    "model.recommended.val_fraction": (0.2, lambda s: len(s.names), pytest.approx(16, abs=2)),
    "data.root": ("{at}/twenty", lambda s: min(s.names).startswith("p"), True),
    "data.crop": ("face", lambda s: set(s.run.data.faces), {(0, 0, 8, 8)}),
    "model.recommended.face_detector": ("ssd", lambda s: s.detectors, {"ssd"}),
    "model.recommended.new_word_lr": (7e-3, lambda s: s.rate(word(s).new_rows)),
    "lora.new_word.name": ("p1", lambda s: word(s) is not None, True),
}

RUNS: dict[str, tuple[tuple[str, ...], dict[str, Any], dict[str, Row]]] = {
    "adapter": ((), {}, ADAPTER),
    "pictures": (UNSCORED, {**BASE, "data.root": None}, PICTURES),
    "scored": ((), {}, SCORED),
    "word": (UNSCORED, {"data.captions.default": "qzx"}, WORD),
    "class": (UNSCORED, {"sampling.num_steps": 2, "evaluation.clip.name": "clip"}, CLASS),
    "full": (UNSCORED, {}, FULL),
    "xl": (UNSCORED, FEW_PICTURES, XL),
    "xl_first": (UNSCORED, FEW_PICTURES, XL_FIRST),
    "pixels": (
        ("experiment=unconditional", *UNSCORED[1:]),
        {**FEW_PICTURES, "trainer.precision": "fp32", "evaluation.on_missing": "warn"},
        PIXELS,
    ),
    "suited": ((), {**BASE, **FEW_PICTURES}, SUITED),
    "suited_frozen": (UNSCORED, {**BASE, **FEW_PICTURES}, SUITED_FROZEN),
    "stream": (UNSCORED, {**BASE, "data.cache.mode": "off"}, STREAM),
}
"""Variant -> options of groups and values that it needs beside its rows; its rows."""

FILTERED: dict[str, Row] = {
    "data.root": ("{at}/filtered", left_out("kept.png"), False),
    "data.filters.min_width": (50, left_out("narrow.png"), True),
    "data.filters.min_height": (50, left_out("low.png"), True),
    "data.filters.min_area_px": (2600, left_out("area.png"), True),
    "data.filters.min_aspect": (0.5, left_out("standing.png"), True),
    "data.filters.max_aspect": (2.0, left_out("lying.png"), True),
    "data.filters.max_file_mib": (0.1, left_out("heavy.png"), True),
    "data.filters.exact_duplicates": (True, left_out("z_copy.png")),
    "data.filters.near_duplicates": (4, left_out("motif_again.png"), True),
    "data.filters.min_sharpness": (50.0, left_out("blurred.png"), True),
}

ASPECTS: dict[str, Row] = {
    "data.root": ("{at}/shapes", bucket("nearly.png"), (96, 96)),
    "data.resolution": (96, bucket("nearly.png"), (96, 96)),
    "data.buckets.mode": ("auto", bucket("wide.png"), (112, 80)),
    "data.buckets.max_aspect": (1.5, bucket("wide.png"), (112, 80)),  # 144x64 by default
    "data.buckets.step": (16, bucket("nearly.png"), (96, 96)),  # 104x88 by default
}

SHORTEST: dict[str, Row] = {
    "data.root": ("{at}/shapes", bucket("wide.png"), (72, 56)),
    "data.buckets.mode": ("auto", bucket("wide.png"), (72, 56)),
    "data.buckets.min_side": (56, bucket("wide.png"), (72, 56)),  # 96x40 by default
}

LONGEST: dict[str, Row] = {
    "data.root": ("{at}/shapes", bucket("wide.png"), (72, 32)),
    "data.buckets.mode": ("auto", bucket("wide.png"), (72, 32)),
    "data.buckets.max_side": (72, bucket("wide.png"), (72, 32)),
}

FIXED: dict[str, Row] = {
    "data.root": ("{at}/shapes", bucket("wide.png"), (64, 32)),
    "data.buckets.mode": ("fixed", bucket("wide.png"), (64, 32)),
    "data.buckets.sizes": (["64x32"], bucket("nearly.png"), (64, 32)),
}

TABLE: dict[str, Row] = {
    "data.source": ("hub", lambda s: len(s.source.pictures), 8),
    "data.root": ("{at}/hub", lambda s: s.source.findings, []),
    "data.hub.split": ("test", lambda s: s.source.pictures[0].text, "as number 10"),
    "data.hub.image_column": ("photo_2", lambda s: s.source.image(0).size, (24, 24)),
    "data.hub.caption_column": ("t2", lambda s: s.source.pictures[7].text, "as number 17"),
}

CHOSEN = {
    "filters": FILTERED,
    "aspects": ASPECTS,
    "shortest": SHORTEST,
    "longest": LONGEST,
    "fixed": FIXED,
    "table": TABLE,
}
"""Variants of which the pictures alone are looked at."""

HERE = "unit/commands/train/test_every_key.py"

WITHOUT_EFFECT = {"word": {"optim.unet_lr"}}
"""What is seen there is that the key has none."""

OF_TYPES = (
    "unit/assembly/test_adapters.py::"
    "test_the_message_gives_the_overrides_that_fit_a_file_of_another_type"
)

ELSEWHERE = {
    "resume_step": "smoke/test_run_end.py::test_a_run_goes_back_to_a_chosen_step",
    "resume": "smoke/test_resume.py::test_stopped_and_resumed_ends_as_if_never_stopped",
    "from_lora": "smoke/test_from_lora.py::test_it_gives_the_same_bits",
    "lora.type": OF_TYPES,
    "lora.relative_rate": (
        "unit/config/test_recommended.py::test_rates_of_a_type_are_relative_to_the_models"
    ),
    "lora.decompose_factor": OF_TYPES,
    "lora.oft_block_size": OF_TYPES,
    "export.dtype": (
        "unit/export/test_export_of_types.py::test_files_of_16_bits_hold_the_rounded_weights"
    ),
    "export.thumbnail": "smoke/test_train.py::test_a_run_writes_everything_that_it_promises",
    "check": "smoke/test_train.py::test_the_check_alone_decodes_everything_and_trains_nothing",
    "run_dir": "smoke/test_train.py::test_a_run_writes_everything_that_it_promises",
    "trainer.max_epochs": "smoke/test_epochs.py::test_epochs_become_steps",
    "sampling.every_n_epochs": "smoke/test_epochs.py::test_epochs_become_steps",
    "evaluation.every_n_epochs": (
        "unit/commands/train/test_epochs_to_steps.py::test_each_key_by_hand"
    ),
    "checkpoint.every_n_epochs": "smoke/test_epochs.py::test_epochs_become_steps",
    "model.revision": f"{HERE}::test_a_revision_is_asked_of_the_hub",
    "data.captions.from_name": "smoke/test_data_folders.py::test_file_names_as_captions",
    "data.hub.revision": f"{HERE}::test_a_revision_is_asked_of_the_hub",
    "model.draw_with": "unit/models/test_drawing_base.py::"
    "test_it_draws_with_the_adapter_and_the_base_is_as_it_was",
    "trainer.offload": "unit/commands/train/test_preflight.py::test_parts_wait_when_told_to",
    "trainer.memory_gb": "unit/commands/train/test_preflight.py::test_a_card_is_planned_for",
    "objective.timesteps.shift": (
        "unit/assembly/test_flow_training.py::test_levels_are_shifted_as_the_models_were_trained"
    ),
    "objective.timesteps.shift_points": (
        "unit/assembly/test_flow_training.py::test_levels_are_shifted_as_the_models_were_trained"
    ),
    "objective.timesteps.shift_factor": (
        "unit/assembly/test_flow_training.py::test_keys_of_levels_and_weights_reach_the_objective"
    ),
    "objective.timesteps.mode_scale": (
        "unit/assembly/test_flow_training.py::test_keys_of_levels_and_weights_reach_the_objective"
    ),
    "objective.weight_table": (
        "unit/assembly/test_flow_training.py::test_keys_of_levels_and_weights_reach_the_objective"
    ),
    "optim.transformer_lr": (
        "unit/assembly/test_flow_training.py::test_a_transformers_rate_is_unet_lr_unless_it_has_its_own"
    ),
    "model.recommended.min_snr_gamma": (
        "unit/config/test_recommended.py::test_the_model_alone_sets_them"
    ),
    "model.recommended.timesteps": (
        "unit/config/test_recommended.py::test_the_model_alone_sets_them"
    ),
    "model.recommended.shift": ("unit/config/test_recommended.py::test_the_model_alone_sets_them"),
    "model.recommended.shift_factor": (
        "unit/config/test_recommended.py::test_the_model_alone_sets_them"
    ),
    "sweep.name": f"{HERE}::test_a_sweep_lies_in_the_folder_of_its_name",
    "sweep.max_jobs": "smoke/test_sweep.py::test_too_many_runs_ask_for_a_yes",
    "sweep.objectives": "unit/assembly/test_search_goal.py::test_a_goal_is_what_the_keys_say",
    "sweep.num_trials": "smoke/test_search.py::test_a_search_that_is_cut_ends_as_if_it_never_was",
    "sweep.trials_at_once": "unit/sweep/test_search_rounds.py::test_so_many_trials_go_together",
    "sweep.prune_after": "unit/assembly/test_search_goal.py::test_a_goal_is_what_the_keys_say",
}
"""Keys that no run shows, each with the test that shows it."""


def word(shown: Shown) -> Any:
    [found] = learned(shown.run.family.text_encoder)
    return found


def test_a_revision_is_asked_of_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[object] = []

    def ask(name: str, *, revision: str | None = None, **others: Any) -> None:
        asked.append((name, revision))
        raise OSError("offline")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda self, *a, **k: ask(*a, **k))
    monkeypatch.setattr("datasets.load_dataset", ask)
    values = {"model.path": "owner/model", "model.revision": "v2", "data.source": "hub"}
    values |= {"data.root": "owner/set", "data.hub.revision": "v3"}
    config = shown_runs.typed(UNSCORED, values)
    with pytest.raises(ModelError, match="owner/model"):
        resolve(model_source(config.model))
    with pytest.raises(DataError, match="owner/set"):
        hub_set(config.data).load()
    assert asked == [("owner/model", "v2"), ("owner/set", "v3")]


def test_a_sweep_lies_in_the_folder_of_its_name() -> None:
    register_schemas()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", ["sweep.name=mine"], return_hydra_config=True)
    assert config.hydra.sweep.dir == "outputs/mine"


def filled(value: Any, places: dict[str, str]) -> Any:
    """A value with the places in it."""
    if isinstance(value, str):
        return value.format(**places)
    if isinstance(value, list):
        return [filled(each, places) for each in value]
    if isinstance(value, dict):
        return {key: filled(each, places) for key, each in value.items()}
    return value


def config_of(variant: str, places: dict[str, str]) -> TrainConfig:
    """The whole config of a variant."""
    groups, needs, rows = RUNS.get(variant, (UNSCORED, BASE, CHOSEN.get(variant, {})))
    values = {**needs, **{key: row[0] for key, row in rows.items()}}
    return shown_runs.typed(groups, {k: filled(v, places) for k, v in values.items()})


@pytest.fixture(scope="module")
def places(
    random_base: Path, random_xl: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """Where the inputs of all variants lie."""
    at = tmp_path_factory.mktemp("inputs")
    shown_runs.write_inputs(at, random_base)
    return {"at": str(at), "base": str(random_base), "xl": str(random_xl), "clip": str(at / "clip")}


@pytest.fixture(scope="module")
def shown(places: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """Each variant's run, or its pictures, made once."""

    @cache
    def make(name: str) -> Any:
        config = config_of(name, places)
        folder = tmp_path_factory.mktemp(name)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DEEPFACE_HOME", str(folder / "nobody"))
            if name in CHOSEN:
                return shown_runs.chosen_pictures(config, folder)
            return shown_runs.shown_run(config, folder, Path(places["at"]))

    return make


VARIANTS = {**{name: rows for name, (_, _, rows) in RUNS.items()}, **CHOSEN}
ROWS = [(variant, key) for variant, rows in VARIANTS.items() for key in rows]


@pytest.mark.parametrize(("variant", "key"), ROWS, ids=[f"{v}-{k}" for v, k in ROWS])
def test_the_value_is_seen_where_it_is_used(
    variant: str, key: str, shown: Callable[[str], Any], places: dict[str, str]
) -> None:
    value, reader, *expected = VARIANTS[variant][key]
    assert reader(shown(variant)) == (expected[0] if expected else filled(value, places))


@pytest.mark.parametrize("variant", VARIANTS)
def test_of_what_is_seen_nothing_is_said_to_have_no_effect(
    variant: str, places: dict[str, str]
) -> None:
    config = config_of(variant, places)
    keys = {key for key in VARIANTS[variant] if not key.startswith(ROOTS)}
    keys -= WITHOUT_EFFECT.get(variant, set())
    assert unused_in_training(config, shown_runs.composed(), keys, is_sweep=False) == []


def test_every_key_is_seen_somewhere() -> None:
    seen = {key for _, key in ROWS} | ELSEWHERE.keys()
    assert seen == keys_of_a_run()
    assert not ELSEWHERE.keys() & {key for _, key in ROWS}


def test_no_value_is_the_default() -> None:
    config = copy.deepcopy(shown_runs.composed())
    OmegaConf.resolve(config)
    for variant, rows in VARIANTS.items():
        for key, (value, *_) in rows.items():
            default = default_of(config, key)
            assert value != default, f"{variant}: {key} is {value!r} by default"


@pytest.mark.parametrize("key", ELSEWHERE)
def test_the_other_tests_are_there(key: str) -> None:
    file, _, name = ELSEWHERE[key].partition("::")
    assert f"def {name}(" in (REPOSITORY / "tests" / file).read_text("utf-8")

"""What is in the cache serves exactly the configs that would encode the same.

Every key of the groups ``model`` and ``data`` is tried: those that change what the VAE or the text
encoder makes of one picture or caption change its entry's key, and no other does.
"""

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from sdlora.assembly import base_model
from sdlora.assembly.training_batches import caption_encoder_key, picture_encoder_key
from sdlora.assembly.training_pictures import training_pictures
from sdlora.config.train import TrainConfig
from sdlora.data.cache.encodings import embedding_keys, latent_keys
from sdlora.data.selection import measures
from sdlora.runtime.progress import Progress
from tests.unit.commands.train.shown_runs import ROOTS, keys_of_a_run, typed, write_inputs

LATENTS, EMBEDDINGS = "latents", "embeddings"
BOTH = {LATENTS, EMBEDDINGS}
AUTO = {"data.buckets.mode": "auto"}
TAGS = {"data.captions.tags": True}

CHANGES: dict[str, tuple[Any, set[str], dict[str, Any]]] = {
    "model.path": ("{at}/other", BOTH, {}),
    "model.variant": ("fp16", BOTH, {"model.path": "{at}/fp16"}),
    "model.clip_skip": (1, {EMBEDDINGS}, {}),
    "model.vae": ("{at}/vae", {LATENTS}, {}),
    "model.vae_precision": ("bf16", {LATENTS}, {}),
    "trainer.precision": ("bf16", BOTH, {}),
    "model.recommended.precision": ("bf16", BOTH, {}),  # for trainer.precision
    "model.recommended.resolution": (96, {LATENTS}, {}),  # for data.resolution
    "data.resolution": (96, {LATENTS}, {}),
    "data.buckets.mode": ("auto", {LATENTS}, {}),
    "data.buckets.sizes": (
        ["64x32"],
        {LATENTS},
        {"data.buckets.mode": "fixed", "data.buckets.sizes": ["32x64"]},
    ),
    "data.buckets.step": (16, {LATENTS}, AUTO | {"data.resolution": 96}),
    "data.buckets.min_side": (56, {LATENTS}, AUTO),
    "data.buckets.max_side": (72, {LATENTS}, AUTO),
    "data.buckets.max_aspect": (1.5, {LATENTS}, AUTO),
    "data.crop": ("face", {LATENTS}, {}),
    "data.face_detector": ("yunet", {LATENTS}, {"data.crop": "face"}),
    "data.upscale": (False, {LATENTS}, AUTO | {"data.resolution": 128}),
    "data.background": ("#ff0000", {LATENTS}, {}),
    "data.alpha": ("mask", {LATENTS}, {}),
    "data.captions.max_chunks": (2, {EMBEDDINGS}, {}),
}
"""Another value; which entries it makes others; what else is set before and after."""

SAME: dict[str, tuple[Any, dict[str, Any]]] = {
    "model.quantise": ("nf4", {}),  # of the UNet
    "model.draw_with": ("owner/few", {}),  # another denoiser
    "model.prediction_type": ("v_prediction", {}),  # of the denoiser
    "model.zero_terminal_snr": (True, {"model.prediction_type": "v_prediction"}),
    "model.revision": ("main", {}),  # of the Hub: the files' bytes count
    **{
        f"model.recommended.{name}": (value, {})
        for name, value in {
            "batch_size": 3,
            "val_fraction": 0.5,
            "caption_dropout": 0.5,
            "max_steps": 9,
            "unet_lr": 1e-3,
            "text_encoder_lr": 1e-3,
            "new_word_lr": 1e-3,
            "min_snr_gamma": 3.0,
            "timesteps": "logit_normal",
            "shift": "constant",
            "shift_factor": 2.0,
            "r": 3,
            "text_encoder_method": "frozen",
            "prompts": "captions",
            "sampler": "euler",
            "num_steps": 9,
            "guidance_scale": 3.0,
            "draw_batch_size": 3,
            "draw_every_n_steps": 9,
            "score_every_n_steps": 9,
            "face": "none",
            "face_detector": "ssd",
            "attributes": "none",
            "clip_model": "other",
            "image_model": "other",
            "select": "none",
        }.items()
    },
    "model.scratch": (["unet"], {"lora.unet.method": "full", "lora.text_encoder.method": "frozen"}),
    "data.root": ("{at}/moved", {}),
    "data.roots": (
        [{"path": "{at}/shapes"}, {"path": "{at}/held"}],
        {"data.root": None, "data.roots": [{"path": "{at}/shapes"}, {"path": "{at}/few"}]},
    ),
    "data.nested": (False, {}),
    "data.val_root": ("{at}/held", {}),
    "data.val_fraction": (0.2, {}),
    "data.trigger_word": ("sks", {}),  # in the captions, which have entries by their text
    "data.class_word": ("man", {"data.trigger_word": "sks"}),
    "data.on_error": ("skip", {}),
    "data.num_pictures": (5, {}),
    "data.flip": (True, {}),  # the mirrored one has an entry beside this
    "data.mask_weight": (0.5, {}),
    "data.captions.endings": ([".txt", ".cap"], {}),
    "data.captions.default": ("none", {}),
    "data.captions.from_name": (True, {}),
    "data.captions.lines": ("first", {}),
    "data.captions.tags": (True, {}),
    "data.captions.separator": ("; ", {}),
    "data.captions.shuffle": (True, TAGS),
    "data.captions.keep_tokens": (1, TAGS),
    "data.captions.tag_dropout": (0.5, TAGS),
    "data.captions.dropout": (0.5, {}),
    "data.captions.prefix": ("before", {}),
    "data.captions.suffix": ("behind", {}),
    "data.captions.wildcards": (True, {}),
    "data.filters.min_width": (50, {}),
    "data.filters.min_height": (50, {}),
    "data.filters.min_area_px": (50, {}),
    "data.filters.min_aspect": (0.5, {}),
    "data.filters.max_aspect": (4.0, {}),
    "data.filters.max_file_mib": (9.0, {}),
    "data.filters.exact_duplicates": (True, {}),
    "data.filters.near_duplicates": (1, {}),
    "data.filters.min_sharpness": (1.0, {}),
    "data.prior.mode": ("teacher", {"data.prior.prompt": "a thing"}),
    "data.prior.prompt": ("a thing", {}),
    "data.prior.weight": (0.5, {}),
    "data.prior.root": ("{at}/class", {}),
    "data.prior.num_pictures": (3, {}),
    "data.cache.mode": ("memory", {}),
    "data.cache.dir": ("{at}/own-cache", {}),
    "data.cache.max_gib": (9.0, {}),
    "data.cache.resident_gib": (9.0, {}),
    "data.hub.split": ("test", {}),
    "data.hub.revision": ("main", {}),
    "data.hub.image_column": ("photo", {}),
    "data.hub.caption_column": ("words", {}),
    "data.hub.streaming": (True, {}),
    "data.hub.shuffle_buffer": (9, {}),
    "data.batch_size": (3, {}),
    "data.num_workers": (1, {}),
}

OTHER_MODELS = {"model.family", "model.architecture", "model.config", "data.source"}
"""These go with other files, whose bytes are in the key."""


@pytest.fixture(scope="module")
def keys_of(
    random_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[dict[str, Any]], dict[str, dict[str, str]]]:
    """Values -> the keys of the encodings of each picture and of one caption."""
    at = tmp_path_factory.mktemp("inputs")
    write_inputs(at, random_base)
    shutil.copytree(at / "shapes", at / "moved")
    shutil.copytree(random_base, at / "other")
    for path in (at / "other").rglob("*.safetensors"):
        weights = {name: value + 1 for name, value in load_file(path).items()}
        save_file(weights, path, {"format": "pt"})

    def filled(value: Any) -> Any:
        if isinstance(value, list):
            return [filled(each) for each in value]
        if isinstance(value, dict):
            return {key: filled(each) for key, each in value.items()}
        return value.format(at=at) if isinstance(value, str) else value

    @cache
    def family(path: str, variant: str | None, vae: str | None, kinds: tuple[str | None, ...]):
        values = {"model.path": path, "model.variant": variant, "model.vae": vae}
        values |= {"trainer.precision": kinds[0], "model.vae_precision": kinds[1]}
        config = typed(("evaluation=none",), values)
        return base_model.load(config.model, None, config.trainer.precision, 0)

    def find_face(image: Any, detector: str) -> tuple[int, int, int, int]:
        return (0, 0, 8, 8) if detector == "opencv" else (90, 0, 8, 8)

    def keys(values: dict[str, Any]) -> dict[str, dict[str, str]]:
        basic = {"model.path": str(random_base), "data.root": "{at}/shapes"}
        config = typed(("evaluation=none",), filled(basic | values))
        model, data = config.model, config.data
        kinds = (config.trainer.precision, model.vae_precision)
        loaded = family(str(model.path), model.variant, model.vae, kinds)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(measures, "find_face", find_face)
            patch.setattr(measures, "require_detector", lambda detector: None)
            patch.setattr(measures, "detector_mark", lambda detector: "")
            found = pictures_of(config, at)
        encoder = picture_encoder_key(model, data, loaded)
        names = [picture.name for picture in found.source.pictures]
        views = latent_keys(found, data.flip, encoder)[:: 2 if data.flip else 1]
        caption = embedding_keys(["a thing"], caption_encoder_key(model, data, loaded))
        return {
            LATENTS: dict(zip(names, views, strict=True)),
            EMBEDDINGS: {"a thing": caption[0]},
        }

    return keys


def pictures_of(config: TrainConfig, at: Path) -> Any:
    progress = Progress(enabled=False)
    return training_pictures(config.data, config.model, at, progress, is_check=False)


def changed(before: dict[str, dict[str, str]], after: dict[str, dict[str, str]]) -> set[str]:
    """What has another key, of what both have."""
    found = set()
    for kind in BOTH:
        common = before[kind].keys() & after[kind].keys()
        assert common
        if any(before[kind][name] != after[kind][name] for name in common):
            found.add(kind)
    return found


@pytest.mark.parametrize("key", CHANGES)
def test_what_changes_an_encoding_changes_its_key(key: str, keys_of: Callable[..., Any]) -> None:
    value, expected, others = CHANGES[key]
    assert changed(keys_of(others), keys_of(others | {key: value})) == expected


def test_nothing_else_does(keys_of: Callable[..., Any]) -> None:
    for key, (value, others) in SAME.items():
        after = others | {key: value}
        if key == "data.hub.streaming":
            after |= {"data.cache.mode": "off"}
        assert changed(keys_of(others), keys_of(after)) == set(), key


def test_a_family_reads_the_same_files_in_its_own_way() -> None:
    """Z-Image and klein take other layers of one language model; here two names of one family."""
    config = typed(("evaluation=none",), {})
    family = base_model.load(config.model, config.lora, "fp32", 0)
    other = replace(config.model, family="flux2_klein")
    for key_of in (caption_encoder_key, picture_encoder_key):
        own, another = (key_of(model, config.data, family) for model in (config.model, other))
        assert own != another


def test_every_key_of_model_and_data_is_tried() -> None:
    groups = {key for key in keys_of_a_run() if key.startswith(("model.", "data."))}
    rows = {key for key in groups if key.startswith(ROOTS)}
    assert CHANGES.keys() | SAME.keys() | OTHER_MODELS == groups - rows | {"trainer.precision"}

"""Lists that let something pass or hold it back, pinned whole: a longer one is another rule.

What a resumed run may change is pinned key by key in ``runs/test_resume_guard.py``.
"""

from dataclasses import asdict
from importlib import import_module

import pytest

from sdlora.data.sources.archive_rules import Limits

LISTS = {
    "adapters.file_writing.CONFIG_FIELDS": {
        "r",
        "lora_alpha",
        "lora_dropout",
        "target_modules",
        "rank_pattern",
        "alpha_pattern",
        "use_rslora",
        "use_dora",
    },
    "adapters.file_header.PICKLE_SUFFIXES": {".bin", ".pt", ".pth", ".ckpt", ".pkl"},
    "cli.stored_config.OVERLAYS": {"experiment", "debug"},
    "commands.lora.arguments.LAYOUTS": {"diffusers", "kohya", "peft"},
    "commands.train.from_lora.OF_THIS_RUN": {
        "from_lora",
        "resume",
        "resume_step",
        "check",
        "run_dir",
        "sweep",
    },
    "commands.train.resumed_config.OF_THIS_START": {"resume", "resume_step", "check", "run_dir"},
    "commands.train.from_lora.SAME_CONTENT": {"data.num_workers", "data.cache"},
    "config.data.SOURCES": {"folder", "hub", "portraits"},
    "config.evaluation.UNSET": {"none", False},  # and 0, which is equal
    "config.lora.FROM_BASE": {"pissa", "olora"},
    "config.lora.METHODS": {"lora", "full", "frozen"},
    "config.model.PRECISIONS": {"fp32", "bf16", "fp16"},
    "data.pictures.picture_formats.PICTURE_SUFFIXES": {
        *(".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".avif", ".tif", ".tiff"),
        *(".heic", ".heif", ".hif", ".jxl", ".jfif", ".jpe", ".mpo", ".apng", ".avifs"),
        *(".jp2", ".j2k", ".jpx", ".jpf", ".tga", ".qoi", ".ppm", ".pgm", ".pbm", ".pnm"),
    },
    "data.pictures.picture_formats.PLUGINS": {"HEIF", "JPEG XL"},
    "data.pictures.picture_formats._FORMATS": {
        *("PNG", "JPEG", "WEBP", "BMP", "GIF", "AVIF", "TIFF", "JPEG2000", "QOI", "PPM", "TGA"),
    },
    "data.sources.companions.CAPTION_FOLDERS": {
        *("caption", "captions", "text", "texts", "txt", "tags"),
    },
    "data.sources.companions.MASK_FOLDERS": {"mask", "masks"},
    "data.sources.archive._ENDINGS": {".zip", ".tar", ".tar.gz", ".tgz"},
    "data.sources.archive_entries._ZIP_METHODS": {0, 8},  # stored and deflated
    "data.sources.caption_table.METADATA_NAMES": {"metadata.jsonl", "metadata.csv"},
    "diffusion.huber.SCHEDULES": {"constant", "exponential", "snr"},
    "diffusion.noise_schedule.PREDICTION_TYPES": {"epsilon", "v_prediction", "sample"},
    "export.lora_files.OF_THE_FILE": {
        "sshs_model_hash",
        "sshs_legacy_hash",
        "modelspec.hash_sha256",
        "format",
        "sdlora_sha256",
        "lora_adapter_metadata",
    },
    "export.lora_files.OF_THE_RUN": {"sdlora.config", "sdlora.hashes"},
    "export.lora_files.OF_THE_WEIGHTS": {
        "ss_network_dim",
        "ss_network_alpha",
        "ss_network_args",
        "ss_output_name",
        "modelspec.title",
    },
    "models.families.FAMILIES": {"sd", "sdxl", "kolors", "z_image", "flux2_klein", "ddpm"},
    "models.checkpoint_file.ENDINGS": {".safetensors", ".ckpt", ".pt", ".pth", ".bin"},
    "models.checkpoint_file.PICKLES": {".ckpt", ".pt", ".pth", ".bin"},
    "runs.identity.BATCHES_A_STEP": {
        "trainer.accumulate_grad_batches",
        "trainer.devices",
        "trainer.num_nodes",
    },
    "sampling.samplers._WITHOUT_X0": {
        "PNDMScheduler",
        "EulerAncestralDiscreteScheduler",
        "KDPM2DiscreteScheduler",
        "KDPM2AncestralDiscreteScheduler",
    },
    "training.optimizers.CUDA_ONLY": {"paged_adamw8bit"},
    "training.optimizers.FINDS_ITS_STEP": {"prodigy"},
    "training.optimizers.FLAT_SCHEDULES": {"constant", "constant_with_warmup"},
    "training.optimizers.ONE_RATE": {"prodigy"},
    "training.optimizers.RATES_LIKE_ADAMW": {
        "adamw",
        "adamw8bit",
        "paged_adamw8bit",
        "adafactor",
        "schedule_free_adamw",
        "lion",
        "came",
    },
    "training.optimizers.SCHEDULES": {
        "constant",
        "constant_with_warmup",
        "linear",
        "cosine",
        "cosine_with_restarts",
        "polynomial",
        "cosine_annealing",
    },
}

NUMBERS = {
    "adapters.weights.MAX_METADATA_BYTES": 16 * 2**20,
    "assembly.data_source.STREAM_HEAD": 64,
    "assembly.scorers.MOST_REFERENCES": 100,
    "assembly.unsuited_values.FAR_RATE": 20,
    "assembly.unsuited_values.HIGHEST_SIDE": 3 / 2,
    "assembly.unsuited_values.LOWEST_SIDE": 2 / 3,
    "assembly.validation_set.MOST_PICTURES": 32,
    "config.data_filters.MAX_HASH_DISTANCE": 16,
    "data.captions.caption_text.MAX_CAPTION_BYTES": 65_536,
    "data.pictures.decode.MAX_PIXELS": 178_956_970,
    "data.sources.hub_rows.MAX_PICTURE_BYTES": 2**30,
    "evaluation.similarity.SAME_PICTURE": 0.999,
    "export.extraction.RELATIVE_TOLERANCE": 1e-3,
    "export.lora_files.ALPHA_TOLERANCE": 1e-6,
    "export.proof.TOLERANCE": 1e-4,
    "sampling.prompts.MOST_CAPTIONS": 8,
    "sweep.choice.LEVEL": 0.95,
}


def value_of(place: str) -> object:
    module, _, name = place.rpartition(".")
    return getattr(import_module(f"sdlora.{module}"), name)


@pytest.mark.parametrize("place", LISTS)
def test_a_list_is_exactly_this(place: str) -> None:
    found = list(value_of(place))
    assert set(found) == LISTS[place]
    assert len(set(found)) == len(found) - (place == "config.evaluation.UNSET")


@pytest.mark.parametrize("place", NUMBERS)
def test_a_limit_is_exactly_this(place: str) -> None:
    assert value_of(place) == NUMBERS[place]


def test_an_archive_may_unpack_to_this() -> None:
    assert asdict(Limits()) == {
        "max_entries": 500_000,
        "max_bytes": 200 * 2**30,
        "max_ratio": 100.0,
        "harmless_bytes": 64 * 2**20,
    }

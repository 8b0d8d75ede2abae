"""The header of a run's LoRA files: metadata for other programs, and the run's config."""

import json
import math
from collections import Counter
from datetime import UTC, datetime
from typing import Any

from sdlora import __version__
from sdlora.assembly import base_model
from sdlora.commands.train.from_lora import OF_THIS_RUN
from sdlora.commands.train.training_run import TrainingRun
from sdlora.config.keys import as_written
from sdlora.config.model import ModelConfig
from sdlora.data.batches.dataset import PictureDataset
from sdlora.data.sources.picture_source import CLASS_PICTURES
from sdlora.export.model_card import trigger_phrase
from sdlora.models.description import FamilyDescription
from sdlora.models.families import description_of
from sdlora.models.family import Family
from sdlora.runs.origin import ORIGIN, seal
from sdlora.runs.run_config import now, started_at
from sdlora.runtime import versions
from sdlora.runtime.randomness import derive_seed

MOST_TAGS = 1000
"""Number of tags in the header, the most frequent ones."""


def metadata(run: TrainingRun) -> dict[str, str]:
    """The file's header: entries for A1111 and model managers, and the config to repeat the run."""
    recipe = {key: value for key, value in as_written(run.config).items() if key not in OF_THIS_RUN}
    model, path = run.config.model, base_model.model_source(run.config.model).path
    return {
        **base_fields(
            path, description_of(model.family), text_width(run.family), prediction_type(run)
        ),
        **_kohya_fields(run),
        **_model_spec(run),
        "sdlora.config": json.dumps(recipe, sort_keys=True),
        "sdlora.hashes": json.dumps(run.hashes, sort_keys=True),
        "sdlora.versions": json.dumps(versions.versions(), sort_keys=True),
        f"sdlora.{ORIGIN}": seal(recipe) or "",
    }


def base_fields(
    name: str, description: FamilyDescription, width: int, predicted: str
) -> dict[str, str]:
    """Header entries that say which base model a LoRA is for.

    Args:
        name: Of the base: its Hub id or place.
        description: Of its family.
        width: Of its (first) text encoder.
        predicted: What its denoiser predicts.
    """
    version, architecture = description.base_names(width, predicted)
    return {
        "ss_sd_model_name": name,
        "ss_base_model_version": version,
        "ss_v2": str(version.startswith("sd_v2")),
        "modelspec.architecture": architecture,
    }


def text_width(family: Family) -> int:
    """Width of the (first) text encoder, 0 if the model has none."""
    encoder: Any = next(iter(family.text_encoders.values()), None)
    return 0 if encoder is None else int(encoder.config.hidden_size)


def prediction_type(run: TrainingRun) -> str:
    """What the run's denoiser predicts."""
    return run.module.objective.noise.prediction_type


def tag_frequency(captions: list[str], separator: str) -> dict[str, int]:
    """Number of captions with each tag, the most frequent first; a sentence counts as one tag."""
    counts: Counter[str] = Counter()
    for caption in captions:
        tags = (tag.strip() for line in caption.splitlines() for tag in line.split(separator))
        counts.update(list(dict.fromkeys(tag for tag in tags if tag)))
    return dict(counts.most_common(MOST_TAGS))


def _kohya_fields(run: TrainingRun) -> dict[str, str]:
    """The ``ss_*`` entries of kohya's trainer."""
    config, step = run.config, run.trainer.global_step
    pictures = run.data.source.pictures
    captions = [each.text for each in pictures if not each.name.startswith(CLASS_PICTURES)]
    separator = config.data.captions.separator.strip() if config.data.captions.tags else ","
    tags = tag_frequency(captions, separator or ",")
    began = started_at(run.folder) or now()
    window = config.trainer.accumulate_grad_batches * run.trainer.world_size
    session = derive_seed(config.seed, f"session/{began}/{json.dumps(run.hashes)}") % 2**32
    schedule = run.family.noise_schedule_config
    rate = str(config.optim.denoiser_lr(run.family.denoiser_name))
    fields = {
        "ss_resolution": f"({config.data.resolution}, {config.data.resolution})",
        "ss_num_train_images": str(len(pictures)),
        "ss_tag_frequency": json.dumps({config.export.name: tags}, ensure_ascii=False),
        "ss_steps": str(step),
        "ss_max_train_steps": str(config.trainer.max_steps),
        "ss_total_batch_size": str(config.data.batch_size * window),
        "ss_seed": str(config.seed),
        "ss_learning_rate": rate,
        "ss_unet_lr": rate,
        "ss_text_encoder_lr": str(config.optim.text_encoder_lr),
        "ss_lr_scheduler": config.scheduler.name,
        "ss_optimizer": config.optim.name,
        "ss_mixed_precision": config.trainer.precision,
        "ss_min_snr_gamma": str(config.objective.min_snr_gamma),
        "ss_debiased_estimation": str(config.objective.weighting == "debiased"),
        "ss_noise_offset": str(config.objective.noise.offset or None),
        "ss_zero_terminal_snr": str(bool(schedule.get("rescale_betas_zero_snr"))),
        "ss_training_started_at": str(began),
        "ss_training_finished_at": str(now()),
        "ss_session_id": str(session),
        "ss_training_comment": f"sdlora {__version__}",
    }
    dataset = run.datamodule.dataset
    if isinstance(dataset, PictureDataset):  # a stream does not know its length
        fields["ss_epoch"] = str(math.ceil(step * window / dataset.plan.batches_per_epoch))
    if _counts_clip_layers(config.model) and config.model.clip_skip:
        fields["ss_clip_skip"] = str(config.model.clip_skip + 1)
    return fields


def _model_spec(run: TrainingRun) -> dict[str, str]:
    """The entries of ModelSpec 1.0.1, except title and hash, which the writers add."""
    config = run.config
    side = config.data.resolution
    predicted = prediction_type(run)
    fields = {
        "modelspec.resolution": f"{side}x{side}",
        "modelspec.date": datetime.fromtimestamp(now(), UTC).isoformat(timespec="seconds"),
        "modelspec.prediction_type": "v" if predicted == "v_prediction" else predicted,
        "modelspec.tags": "text-to-image, lora",
    }
    if _counts_clip_layers(config.model):  # 1 is the last layer
        fields["modelspec.encoder_layer"] = str(config.model.clip_skip + 1)
    if config.export.licence is not None:
        fields["modelspec.license"] = config.export.licence
    trigger = trigger_phrase(config.evaluation, config.data)
    return fields if trigger is None else {**fields, "modelspec.trigger_phrase": trigger}


def _counts_clip_layers(model: ModelConfig) -> bool:
    """Whether other programs ask which CLIP layer is read: not where the last is never used."""
    description = description_of(model.family)
    return description.is_clip and not description.unused_clip_layers

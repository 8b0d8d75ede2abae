"""Typed config -> the training batches, cached or encoded at every step."""

from functools import partial

import torch

from sdlora.assembly.adapters import trains_text
from sdlora.assembly.data_source import cache_folder, is_streamed, streamed_source
from sdlora.assembly.hashes import part_key
from sdlora.config.data import DataConfig
from sdlora.config.model import ModelConfig
from sdlora.config.train import TrainConfig
from sdlora.config.trainer import TrainerConfig
from sdlora.data.batches.datamodule import CaptionDataModule
from sdlora.data.batches.dataset import PictureDataset
from sdlora.data.batches.streamed_batches import StreamedBatches
from sdlora.data.cache.encoders import encoded_captions, encoded_pictures
from sdlora.data.cache.encodings import Cache
from sdlora.data.cache.tensor_store import TensorStore
from sdlora.data.captions.set_captions import SetCaptions
from sdlora.data.selection.picture_set import PictureSet
from sdlora.models.families import description_of
from sdlora.models.family import Family
from sdlora.models.tokens import token_ids
from sdlora.runtime.progress import Progress

GIB = 2**30


def cache_of(
    data: DataConfig, device: torch.device, progress: Progress, reserved_bytes: int = 0
) -> Cache | None:
    """The cache of encodings; ``None``: no cache.

    Args:
        data: Its settings.
        device: Device of the encoders, and of what is kept there.
        progress: Shows bars.
        reserved_bytes: What is free on the device and needed for something else.
    """
    settings = data.cache
    if settings.mode == "off":
        return None
    store = None
    if settings.mode == "disk":
        store = TensorStore(
            cache_folder(settings) / "encodings",
            max_bytes=round(settings.max_gib * GIB),
            say=progress.print,
        )
    return Cache(
        store=store,
        resident_bytes=resident_bytes(settings.resident_gib, device, reserved_bytes),
        device=device,
        progress=progress,
        num_workers=data.num_workers,
    )


def resident_bytes(gib: float, device: torch.device, reserved_bytes: int = 0) -> int:
    """Largest set that is kept on the device: at most a quarter of a GPU's free memory.

    The rest is for activations and for drawing while training.
    """
    wanted = round(gib * GIB)
    if device.type != "cuda":
        return wanted
    free, _ = torch.cuda.mem_get_info(device)
    return min(wanted, max(0, free - reserved_bytes) // 4)


def training_batches(
    config: TrainConfig,
    pictures: PictureSet,
    family: Family,
    device: torch.device,
    progress: Progress,
) -> tuple[PictureDataset | StreamedBatches, PictureSet]:
    """The training batches, encoded once unless ``data.cache=off``.

    Returns:
        The batches, and the set without pictures that cannot be decoded.
    """
    data, latents, embeddings = config.data, None, None
    tokenize = partial(token_ids, family.tokenizers, data.captions.max_chunks)
    if is_streamed(data):
        rows = streamed_source(data, config.seed, data.hub.shuffle_buffer)
        return StreamedBatches(rows, data, config.seed, tokenize), pictures
    coming = sum(p.nbytes for p in family.parameters() if p.device.type != device.type)
    cache = cache_of(data, device, progress, coming)
    if cache is not None:
        encoder = picture_encoder_key(config.model, data, family)
        latents, pictures = encoded_pictures(pictures, data, family, encoder, cache)
    captions = SetCaptions(pictures.source.pictures, data.captions, tokenize, config.seed)
    if cache is not None:
        is_fixed = captions.is_static and not trains_text(config.lora, config.model.family)
        if family.text_encoders and is_fixed:
            encoder = caption_encoder_key(config.model, data, family)
            embeddings = encoded_captions(captions, family, encoder, cache)
        if cache.store is not None:
            cache.store.evict()
    batches = PictureDataset(
        pictures,
        captions,
        data,
        seed=config.seed,
        latent_scale=family.latent_scale,
        latents=latents,
        embeddings=embeddings,
    )
    return batches, pictures


def picture_encoder_key(model: ModelConfig, data: DataConfig, family: Family) -> str:
    """Cache key of everything that latents depend on besides their pictures."""
    parts = [part for part in description_of(model.family).parts if part == "vae"]
    settings = (model.family, str(family.encoding_dtype), data.background, data.alpha)
    return part_key(parts, model, data, settings)


def caption_encoder_key(model: ModelConfig, data: DataConfig, family: Family) -> str:
    """Cache key of everything that prompt embeddings depend on besides their captions."""
    dtype = str(next(next(iter(family.text_encoders.values())).parameters()).dtype)
    settings = (model.family, dtype, str(model.clip_skip), str(data.captions.max_chunks))
    parts = [*family.text_encoders, *description_of(model.family).tokenizers]
    return part_key(parts, model, data, settings)


def batches_per_epoch(batches: PictureDataset | StreamedBatches) -> int | None:
    """Batches of an epoch over all processes; ``None``: a stream has no epochs of batches."""
    return batches.plan.batches_per_epoch if isinstance(batches, PictureDataset) else None


def datamodule(
    data: DataConfig, trainer: TrainerConfig, batches: PictureDataset | StreamedBatches
) -> CaptionDataModule:
    """The data module; workers are for pictures that are decoded at every step."""
    decodes = isinstance(batches, PictureDataset) and batches.latents is None
    return CaptionDataModule(
        batches,
        num_workers=data.num_workers if decodes else 0,
        accumulate_grad_batches=trainer.accumulate_grad_batches,
    )

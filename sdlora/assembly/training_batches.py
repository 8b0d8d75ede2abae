"""Typed config -> the training batches: encoded once through the frozen parts, or at every step."""

from functools import partial

import torch

from sdlora.assembly.adapters import trains_text
from sdlora.assembly.data_source import cache_folder, is_streamed, named_roots, streamed_source
from sdlora.assembly.hashes import part_key
from sdlora.assembly.training_pictures import CheckedData, batch_plan
from sdlora.config.train import TrainConfig
from sdlora.data.batches.datamodule import CaptionDataModule
from sdlora.data.batches.dataset import Look, PictureDataset, Table
from sdlora.data.batches.streamed_batches import StreamedBatches
from sdlora.data.cache.encoders import CaptionEncoder, PictureEncoder
from sdlora.data.cache.encodings import Cache, Encodings, embedding_keys, latent_keys
from sdlora.data.cache.tensor_store import TensorStore
from sdlora.data.pictures.picture import ERROR
from sdlora.data.sources.picture_source import DataError
from sdlora.models.family import Family
from sdlora.models.layouts import layout_of
from sdlora.models.tokens import token_ids
from sdlora.runtime.progress import Progress

GIB = 2**30


def cache_of(config: TrainConfig, device: torch.device, progress: Progress) -> Cache | None:
    """Where encodings are kept; ``None``: nowhere."""
    settings = config.data.cache
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
        resident_bytes=resident_bytes(settings.resident_gib, device),
        device=device,
        progress=progress,
        num_workers=config.data.num_workers,
    )


def resident_bytes(gib: float, device: torch.device) -> int:
    """How large a set may be to live on the device: of a GPU's free memory a quarter at most.

    The rest is for activations and pictures drawn while training; an 8 GB card has little to spare.
    """
    wanted = round(gib * GIB)
    if device.type != "cuda":
        return wanted
    free, _ = torch.cuda.mem_get_info(device)
    return min(wanted, free // 4)


def encoded_pictures(
    config: TrainConfig, data: CheckedData, family: Family, cache: Cache
) -> tuple[Table, CheckedData]:
    """Latents of all pictures, and the data without those that turned out not to decode."""
    dtype = family.encoding_dtype
    settings = (str(dtype), config.data.background, config.data.alpha)
    encoders = [part for part in layout_of(config.model.family).parts if part == "vae"]
    name = part_key(encoders, config, settings)
    flip = config.data.flip

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        return family.encode_images(pixels).to(dtype)

    def keys(data: CheckedData) -> list[str]:
        return latent_keys(data.source, data.geometry, flip, name)

    def encoder(data: CheckedData) -> PictureEncoder:
        return PictureEncoder(data.source, data.geometry, flip, encode, cache)

    encodings, first = Encodings(cache), encoder(data)
    encodings.fill(keys(data), first)
    left = data.without(first.faults)
    return encodings.table(keys(left), encoder(left)), left


def encoded_captions(
    config: TrainConfig, dataset: PictureDataset, family: Family, cache: Cache
) -> Table:
    """Prompt embeddings of all captions, in the order of ``dataset.captions``."""
    dtype = str(next(next(iter(family.text_encoders.values())).parameters()).dtype)
    settings = (dtype, str(config.model.clip_skip), str(config.data.captions.max_chunks))
    files = [*family.text_encoders, *layout_of(config.model.family).tokenizers]
    name = part_key(files, config, settings)
    keys = embedding_keys(dataset.captions, name)
    encoder = CaptionEncoder(dataset.token_ids, family.encode_prompts, cache)
    encodings = Encodings(cache)
    encodings.fill(keys, encoder)
    return encodings.table(keys, encoder)


def dataset(config: TrainConfig, data: CheckedData, family: Family) -> PictureDataset:
    """The training batches, of pictures as they are."""
    return PictureDataset(
        data.source,
        data.geometry,
        batch_plan(data, config),
        data.recipe,
        partial(token_ids, family.tokenizers, config.data.captions.max_chunks),
        look(config, family),
    )


def look(config: TrainConfig, family: Family) -> Look:
    """How samples are made of their pictures."""
    return Look(
        seed=config.seed,
        flip=config.data.flip,
        random_crop=config.data.crop == "random",
        mask_weight=config.data.mask_weight,
        latent_scale=family.latent_scale,
    )


def streamed_batches(config: TrainConfig, data: CheckedData, family: Family) -> StreamedBatches:
    """The training batches of a set that is read as it comes."""
    side = config.data.resolution
    return StreamedBatches(
        streamed_source(config.data, config.seed, config.data.hub.shuffle_buffer),
        (side, side),
        config.data.batch_size,
        data.recipe,
        partial(token_ids, family.tokenizers, config.data.captions.max_chunks),
        look(config, family),
    )


def training_set(
    config: TrainConfig,
    data: CheckedData,
    family: Family,
    device: torch.device,
    progress: Progress,
) -> tuple[PictureDataset | StreamedBatches, CheckedData]:
    """The training batches, encoded once unless ``data.cache=off``.

    Returns:
        The batches, and the data without pictures that turned out not to decode.
    """
    if is_streamed(config.data):
        return streamed_batches(config, data, family), data
    cache = cache_of(config, device, progress)
    if cache is None:
        return dataset(config, data, family), data
    latents, data = encoded_pictures(config, data, family, cache)
    if not data.geometry:
        lines = [f"\n  {item}" for item in data.source.findings if item.severity == ERROR]
        raise DataError(f"{named_roots(config.data)}: no picture can be used:{''.join(lines)}")
    batches = dataset(config, data, family)
    batches.latents = latents
    if family.text_encoders and not trains_text(config) and data.recipe.is_static:
        batches.embeddings = encoded_captions(config, batches, family, cache)
    if cache.store is not None:
        cache.store.evict()
    return batches, data


def batches_per_epoch(batches: PictureDataset | StreamedBatches) -> int | None:
    """Batches of an epoch over all processes; ``None``: a stream has no epochs of batches."""
    return batches.plan.batches_per_epoch if isinstance(batches, PictureDataset) else None


def datamodule(config: TrainConfig, batches: PictureDataset | StreamedBatches) -> CaptionDataModule:
    """The stream of batches; workers are for pictures that must be decoded again and again."""
    decodes = isinstance(batches, PictureDataset) and batches.latents is None
    return CaptionDataModule(
        batches,
        num_workers=config.data.num_workers if decodes else 0,
        accumulate_grad_batches=config.trainer.accumulate_grad_batches,
    )

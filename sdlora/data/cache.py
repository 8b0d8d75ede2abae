"""Latents and prompt embeddings of a whole dataset, encoded once before training."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sdlora.data.captions import quoted
from sdlora.data.dataset import PictureDataset
from sdlora.data.pictures import to_unit_range
from sdlora.progress import Progress

_WORTH_WORKERS = 256
"""Below so many pictures, starting worker processes takes longer than it saves."""


@dataclass(frozen=True, slots=True)
class LatentCache:
    """What the frozen parts of a model make of a dataset, in memory.

    The moments are kept, not a sample: each step draws its own latents from them, so that a run
    with a cache sees what a run without it does.

    Attributes:
        moments: Posterior mean and log-variance, unscaled, ``[N, F, 2C, h, w]``, float32; ``F`` is
            2 (as it is, mirrored) if the dataset flips, else 1.
        embeddings: Prompt embeddings of ``captions``, ``[len(captions), L, D]``, or ``None``.
        names: The pictures' names, in the order of ``moments``.
        captions: The dataset's different captions; the first is ``""``.
        resolution: Side of the encoded pictures in pixels.
    """

    moments: Tensor
    embeddings: Tensor | None
    names: tuple[str, ...]
    captions: tuple[str, ...]
    resolution: int

    @classmethod
    def build(
        cls,
        dataset: PictureDataset,
        encode_images: Callable[[Tensor], Tensor],
        encode_prompts: Callable[[Tensor], Tensor] | None = None,
        *,
        device: torch.device | str = "cpu",
        batch_size: int = 16,
        progress: Progress | None = None,
        num_workers: int = 0,
    ) -> "LatentCache":
        """Encode every picture (and caption) once; decoded pictures are not kept.

        Args:
            dataset: What to encode; its own cache, if any, is not used.
            encode_images: Pixels ``[B, 3, H, W]`` in [-1, 1] -> moments ``[B, 2C, h, w]``.
            encode_prompts: Token ids ``[B, L]`` -> embeddings ``[B, L, D]``; ``None`` leaves the
                prompts to the training steps.
            device: Where both encoders work.
            batch_size: Pictures, or captions, encoded at a time.
            progress: Display to count on.
            num_workers: Processes that decode or draw; 0 does it here. Few pictures never use any.

        Raises:
            ValueError: If an encoder gives NaN or infinity, naming all pictures or captions
                concerned, or if the dataset crops at random.
        """
        progress = Progress(enabled=False) if progress is None else progress
        moments = _moments(dataset, encode_images, device, batch_size, progress, num_workers)
        embeddings = None
        if encode_prompts is not None:
            embeddings = _embeddings(dataset, encode_prompts, device, batch_size, progress)
        return cls(moments, embeddings, dataset.names, dataset.captions, dataset.resolution)


class _Pictures(Dataset[Tensor]):
    """The training squares as uint8, by picture index."""

    def __init__(self, dataset: PictureDataset) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return self._dataset.num_pictures

    def __getitem__(self, index: int) -> Tensor:
        return self._dataset.picture(index)


@torch.no_grad()
def _moments(
    dataset: PictureDataset,
    encode_images: Callable[[Tensor], Tensor],
    device: torch.device | str,
    batch_size: int,
    progress: Progress,
    num_workers: int,
) -> Tensor:
    if dataset.crop != "center":
        raise ValueError(
            f"data.crop={dataset.crop}: cached latents hold one crop only; "
            "set data.crop=center or switch the cache off"
        )
    workers = num_workers if dataset.num_pictures >= _WORTH_WORKERS else 0
    loader = DataLoader(_Pictures(dataset), batch_size, num_workers=workers)
    encoded: list[Tensor] = []
    for squares in progress.track(loader, f"encoding pictures, {batch_size} at a time"):
        pixels = to_unit_range(squares.to(device))
        views = [pixels, pixels.flip(-1)] if dataset.flip else [pixels]
        encoded.append(torch.stack([encode_images(v).float().cpu() for v in views], dim=1))
    moments = torch.cat(encoded)
    finite = moments.isfinite().flatten(1).all(dim=1).tolist()
    broken = [name for name, sound in zip(dataset.names, finite, strict=True) if not sound]
    if broken:
        listing = ", ".join(quoted(name) for name in broken)
        raise ValueError(
            f"the VAE gives NaN or infinity for {len(broken)} picture(s): {listing}; "
            "use a VAE in float32 (SDXL's own overflows in float16)"
        )
    return moments


@torch.no_grad()
def _embeddings(
    dataset: PictureDataset,
    encode_prompts: Callable[[Tensor], Tensor],
    device: torch.device | str,
    batch_size: int,
    progress: Progress,
) -> Tensor:
    chunks = dataset.token_ids.split(batch_size)
    tracked = progress.track(chunks, f"encoding captions, {batch_size} at a time")
    embeddings = torch.cat([encode_prompts(ids.to(device)).cpu() for ids in tracked])
    finite = embeddings.isfinite().flatten(1).all(dim=1).tolist()
    broken = [text for text, sound in zip(dataset.captions, finite, strict=True) if not sound]
    if broken:
        raise ValueError(
            f"the text encoder gives NaN or infinity for {len(broken)} caption(s): {broken}; "
            "run it in float32"
        )
    return embeddings

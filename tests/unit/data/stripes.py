"""Pictures whose pixels tell their number, in the way of a source, and batches made of them."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from sdlora.data.batches.dataset import Batch, PictureDataset
from sdlora.data.cache.encodings import Table
from sdlora.data.captions.set_captions import SetCaptions
from sdlora.data.pictures.cuts import Size, fitted
from sdlora.data.pictures.picture import Finding, Picture
from sdlora.data.selection.picture_set import PictureSet
from tests.configs import data_config


class Stripes:
    """The left half of picture ``i`` is ``(i, 0, 0)``, the right half white."""

    def __init__(
        self,
        num_pictures: int,
        sizes: tuple[tuple[int, int], ...] = ((16, 16),),
        **common: Any,
    ) -> None:
        self.pictures = [
            Picture(
                name=f"{i}.png",
                size=sizes[i % len(sizes)],
                text=f"caption {i % 3}",
                content=f"{i:064x}",
                **common,
            )
            for i in range(num_pictures)
        ]
        self.findings: list[Finding] = []
        self.notes: list[str] = []

    def image(self, index: int) -> Image.Image:
        width, height = self.pictures[index].size
        image = Image.new("RGB", (width, height), "white")
        image.paste((index, 0, 0), (0, 0, width // 2, height))
        return image

    def mask(self, index: int) -> Image.Image | None:
        width, height = self.pictures[index].size
        image = Image.new("L", (width, height), 0)
        image.paste(255, (0, 0, width // 2, height))
        return image


def tokenize(captions: Sequence[str]) -> Tensor:
    """Token 1 + the caption's number, 0 for the empty one."""
    return torch.tensor([[1 + int(c[-1]) if c else 0] * 4 for c in captions])


def whole(source: Stripes, bucket: Size | None = None) -> PictureSet:
    """Every picture cut to ``bucket``, or to the bucket of its own size if that is ``None``."""
    cuts = [fitted(picture.size, bucket or picture.size) for picture in source.pictures]
    return PictureSet(source, cuts, fingerprint="")


def dataset(
    source: Stripes,
    *,
    bucket: Size | None = (16, 16),
    seed: int = 0,
    latents: Table | None = None,
    embeddings: Table | None = None,
    **data: Any,
) -> PictureDataset:
    """Batches of four, of every picture cut to ``bucket``; ``data``: what else differs."""
    config = data_config(**{"batch_size": 4, "cache": {"mode": "off"}} | data)
    return PictureDataset(
        whole(source, bucket),
        SetCaptions(source.pictures, config.captions, tokenize, seed),
        config,
        seed=seed,
        latent_scale=4,
        latents=latents,
        embeddings=embeddings,
    )


def batches(data: PictureDataset, count: int, window: int = 1) -> list[Batch]:
    return [data[number, window] for number in range(count)]


def joined(items: list[Batch], name: str) -> Tensor:
    """One field of several batches, one behind the other."""
    return torch.cat([getattr(item, name) for item in items])

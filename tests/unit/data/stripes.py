"""Pictures whose pixels tell their number, in the way of a source, and batches made of them."""

from typing import Any

import torch
from PIL import Image
from torch import Tensor

from sdlora.data.batches.dataset import Batch, Look, PictureDataset
from sdlora.data.batches.plan import BatchPlan
from sdlora.data.captions.recipe import CaptionRecipe
from sdlora.data.pictures.cuts import fitted
from sdlora.data.pictures.picture import Finding, Picture


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


def tokenize(captions: list[str]) -> Tensor:
    """Token 1 + the caption's number, 0 for the empty one."""
    return torch.tensor([[1 + int(c[-1]) if c else 0] * 4 for c in captions])


def dataset(
    source: Stripes,
    *,
    bucket: tuple[int, int] | None = (16, 16),
    batch_size: int = 4,
    recipe: CaptionRecipe | None = None,
    **look: Any,
) -> PictureDataset:
    """Every picture cut to ``bucket``, or to the bucket of its own size if that is ``None``."""
    geometry = [fitted(picture.size, bucket or picture.size) for picture in source.pictures]
    kinds = {size: number for number, size in enumerate({cut.bucket for cut in geometry})}
    look = {"seed": 0, "latent_scale": 4} | look
    plan = BatchPlan(
        [kinds[cut.bucket] for cut in geometry],
        [picture.repeats for picture in source.pictures],
        batch_size,
        look["seed"],
    )
    return PictureDataset(source, geometry, plan, recipe or CaptionRecipe(), tokenize, Look(**look))


def batches(data: PictureDataset, count: int, window: int = 1) -> list[Batch]:
    return [data[number, window] for number in range(count)]


def joined(items: list[Batch], name: str) -> Tensor:
    """One field of several batches, one behind the other."""
    return torch.cat([getattr(item, name) for item in items])

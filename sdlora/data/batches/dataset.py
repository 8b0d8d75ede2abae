"""The endless stream of training batches, each a function of its number."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from sdlora.data.batches.plan import BatchPlan
from sdlora.data.captions.recipe import CaptionRecipe
from sdlora.data.pictures.cuts import Geometry, cut_out, fitted, told_sizes
from sdlora.data.pictures.decode import to_tensor, to_unit_range
from sdlora.data.sources.picture_source import PictureSource
from sdlora.runtime.devices import send
from sdlora.runtime.randomness import uniform


class Table(Protocol):
    """Tensors by number; ``cache`` has the kinds."""

    def rows(self, numbers: Tensor) -> Tensor:
        """Those of ``numbers`` ``[B]``, stacked; all of one shape."""


@dataclass(slots=True)
class Batch:
    """Samples stacked along the first dimension; all of one size.

    Attributes:
        sample_index: Global counter of the stream, ``[B]``, int64: the key of all randomness.
        picture_index: Which picture of the source, ``[B]``, int64.
        token_ids: Tokenised captions (that of ``""`` where dropped), ``[B, L]``, int64.
        names: The pictures' names.
        weights: Factor on each sample's loss, ``[B]``, float32.
        share: How much this batch counts in its optimizer step, see ``BatchPlan.share``.
        pixels: ``[B, 3, H, W]`` in [-1, 1], float32; ``None`` with a cache.
        moments: Posterior mean and log-variance, unscaled, ``[B, 2C, h, w]``; ``None`` without.
        embeddings: Prompt embeddings, ``[B, L, D]``; ``None`` unless cached.
        mask: Factor on the loss of each latent pixel, ``[B, 1, h, w]``, float32; ``None``: 1.
        sizes: In pixels: height and width of the picture, top and left of its cut, height and width
            of the cut; ``[B, 6]``, float32 (see :func:`told_sizes`).
    """

    sample_index: Tensor
    picture_index: Tensor
    token_ids: Tensor
    names: tuple[str, ...]
    weights: Tensor
    share: float = 1.0
    pixels: Tensor | None = None
    moments: Tensor | None = None
    embeddings: Tensor | None = None
    mask: Tensor | None = None
    sizes: Tensor | None = None

    def __len__(self) -> int:
        return len(self.names)

    def to(self, device: torch.device) -> "Batch":
        """The same batch on ``device``; the indices stay, as all draws are made on the CPU."""
        stay = ("sample_index", "picture_index")
        return self._map(lambda tensor: send(tensor, device), stay)

    def pin_memory(self) -> "Batch":
        """The same batch in page-locked memory, from where copies to a GPU run alongside it."""
        return self._map(lambda tensor: tensor if tensor.is_cuda else tensor.pin_memory())

    def _map(self, change: Callable[[Tensor], Tensor], stay: tuple[str, ...] = ()) -> "Batch":
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        for name, value in values.items():
            if isinstance(value, Tensor) and name not in stay:
                values[name] = change(value)
        return Batch(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How a sample is made of its picture.

    Attributes:
        seed: The run's seed.
        flip: Whether each sample is mirrored with probability 1/2.
        random_crop: Whether each sample shows another cut of its picture.
        mask_weight: Factor on the loss where a mask is black, in [0, 1].
        latent_scale: Pixels to one latent along a side: masks are that much coarser.
    """

    seed: int
    flip: bool = False
    random_crop: bool = False
    mask_weight: float = 0.0
    latent_scale: int = 8


class PictureDataset(Dataset[Batch]):
    """Training batches by their number in a stream without end.

    Which pictures a batch shows is the plan's; cut, flip and caption are drawn with the sample's
    global index as key. So a batch is the same in any process, for any number of workers, and
    after any resume.

    Args:
        source: The captioned pictures.
        geometry: What of each picture is trained on.
        plan: Which pictures each batch shows.
        recipe: How a written caption becomes a sample's.
        tokenize: Captions -> token ids ``[n, L]``, int64.
        look: The rest.

    Attributes:
        captions: All different captions, the first ``""``; only that one if they vary.
        token_ids: Their token ids, ``[len(captions), L]``, int64.
        latents: Moments by ``2 * picture + mirrored`` (by picture without flips), if cached.
        embeddings: Prompt embeddings by caption, if cached.
    """

    def __init__(
        self,
        source: PictureSource,
        geometry: Sequence[Geometry],
        plan: BatchPlan,
        recipe: CaptionRecipe,
        tokenize: Callable[[list[str]], Tensor],
        look: Look,
    ) -> None:
        self.source = source
        self.geometry = list(geometry)
        self.plan = plan
        self.recipe = recipe
        self.look = look
        self._tokenize = tokenize
        self._weights = torch.tensor([picture.loss_weight for picture in source.pictures])
        self._masked = any(picture.has_mask for picture in source.pictures)
        self._masks: dict[int, Tensor] = {}
        self.captions: tuple[str, ...] = ("",)
        if recipe.is_static:
            texts = [recipe.static_caption(p.text, p.prefix) for p in source.pictures]
            self.captions = tuple(dict.fromkeys(["", *texts]))
            row = {text: index for index, text in enumerate(self.captions)}
            self._caption_row = torch.tensor([row[text] for text in texts], dtype=torch.int64)
        self.token_ids = tokenize(list(self.captions))
        self.latents: Table | None = None
        self.embeddings: Table | None = None

    @property
    def num_samples(self) -> int:
        """Samples of an epoch. The stream itself has no end."""
        return self.plan.num_samples

    def __getitem__(self, item: tuple[int, int]) -> Batch:
        """Batch ``number`` of the stream, where ``window`` batches make one optimizer step.

        Args:
            item: ``(number, window)``.
        """
        number, window = item
        draw = self.plan.draw(number)
        index, picture = draw.sample_index, draw.pictures
        flipped = self._chance("flip", index, 0.5 if self.look.flip else 0.0)
        batch = Batch(
            sample_index=index,
            picture_index=picture,
            token_ids=self.token_ids[:0],
            names=tuple(self.source.pictures[i].name for i in picture.tolist()),
            weights=self._weights[picture],
            share=self.plan.share(number, window),
        )
        self._caption(batch)
        cuts = self._cuts(index, picture)
        own = [self.source.pictures[i].size for i in picture.tolist()]
        batch.sizes = told_sizes(own, cuts, flipped)
        if self._masked:
            batch.mask = self._mask(picture, cuts, flipped)
        if self.latents is None:
            batch.pixels = self._pixels(picture, cuts, flipped)
        else:
            views = 2 if self.look.flip else 1
            batch.moments = self.latents.rows(picture * views + flipped)
        return batch

    def _caption(self, batch: Batch) -> None:
        index = batch.sample_index
        if self.recipe.is_static:
            dropped = self._chance("caption_dropout", index, self.recipe.dropout)
            row = self._caption_row[batch.picture_index].masked_fill(dropped, 0)
            batch.token_ids = self.token_ids[row]
            if self.embeddings is not None:
                batch.embeddings = self.embeddings.rows(row)
            return
        shown = [self.source.pictures[i] for i in batch.picture_index.tolist()]
        batch.token_ids = self._tokenize(
            [
                self.recipe.caption(picture.text, picture.prefix, self.look.seed, sample)
                for picture, sample in zip(shown, index.tolist(), strict=True)
            ]
        )

    def _chance(self, purpose: str, index: Tensor, probability: float) -> Tensor:
        if probability == 0.0:
            return torch.zeros(len(index), dtype=torch.bool)
        return uniform(self.look.seed, purpose, index) < probability

    def _cuts(self, index: Tensor, picture: Tensor) -> list[Geometry]:
        cuts = [self.geometry[i] for i in picture.tolist()]
        if not self.look.random_crop:
            return cuts
        across = uniform(self.look.seed, "crop_x", index).tolist()
        down = uniform(self.look.seed, "crop_y", index).tolist()
        sizes = [self.source.pictures[i].size for i in picture.tolist()]
        return [
            fitted(size, cut.bucket, anchor)
            for size, cut, anchor in zip(sizes, cuts, zip(across, down, strict=True), strict=True)
        ]

    def _pixels(self, picture: Tensor, cuts: list[Geometry], flipped: Tensor) -> Tensor:
        chosen = zip(picture.tolist(), cuts, strict=True)
        pixels = torch.stack([to_tensor(cut_out(self.source.image(i), cut)) for i, cut in chosen])
        return to_unit_range(torch.where(flipped[:, None, None, None], pixels.flip(-1), pixels))

    def _mask(self, picture: Tensor, cuts: list[Geometry], flipped: Tensor) -> Tensor:
        chosen = zip(picture.tolist(), cuts, strict=True)
        masks = torch.stack([self._one_mask(i, cut) for i, cut in chosen])  # [B, 1, h, w] uint8
        masks = torch.where(flipped[:, None, None, None], masks.flip(-1), masks)
        shown = masks.float() / 255
        return shown + (1 - shown) * self.look.mask_weight

    def _one_mask(self, picture: int, cut: Geometry) -> Tensor:
        """Masks are kept once read, at the latents' resolution: a file a step would be slow."""
        if picture in self._masks:
            return self._masks[picture]
        width, height = (side // self.look.latent_scale for side in cut.bucket)
        mask = None
        if self.source.pictures[picture].has_mask:
            mask = self.source.mask(picture)
        if mask is None:
            tensor = torch.full((1, height, width), 255, dtype=torch.uint8)
        else:
            small = mask.resize((width, height), Image.Resampling.BOX, box=cut.crop)
            tensor = torch.from_numpy(np.array(small, dtype=np.uint8))[None]
        if not self.look.random_crop:
            self._masks[picture] = tensor
        return tensor

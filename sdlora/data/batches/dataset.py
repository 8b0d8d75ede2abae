"""The endless stream of training batches, each a function of its number."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from sdlora.config.data import DataConfig
from sdlora.data.batches.plan import plan_of
from sdlora.data.cache.encodings import Table
from sdlora.data.captions.set_captions import SetCaptions
from sdlora.data.pictures.cuts import Geometry, cut_out, fitted, size_conditioning
from sdlora.data.pictures.decode import to_tensor, to_unit_range
from sdlora.data.selection.picture_set import PictureSet
from sdlora.models.conditioning import Conditioning
from sdlora.runtime.devices import send
from sdlora.runtime.randomness import chance, uniform


@dataclass(slots=True)
class Batch:
    """Samples stacked along the first dimension; all of one size.

    Attributes:
        sample_index: Global counter of the stream, ``[B]``, int64: the key of all randomness.
        picture_index: Which picture of the source, ``[B]``, int64.
        token_ids: Tokenised captions (of ``""`` where dropped), ``[B, L]``, int64.
        names: The pictures' names.
        weights: Factor on each sample's loss, ``[B]``, float32.
        share: Weight of this batch in its optimizer step, see ``BatchPlan.share``.
        pixels: ``[B, 3, H, W]`` in [-1, 1], float32; ``None`` with a cache.
        moments: Posterior mean and log-variance, unscaled, ``[B, 2C, h, w]``; ``None`` without.
        embeddings: Prompt embeddings, ``[B, L, D]``, or ``[L, D]`` of each caption where their
            lengths differ; ``None`` unless cached.
        mask: Factor on the loss of each latent pixel, ``[B, 1, h, w]``, float32; ``None``: 1.
        sizes: In pixels: height and width of the picture, top and left of its cut, height and width
            of the cut; ``[B, 6]``, float32 (see :func:`size_conditioning`).
    """

    sample_index: Tensor
    picture_index: Tensor
    token_ids: Tensor
    names: tuple[str, ...]
    weights: Tensor
    share: float = 1.0
    pixels: Tensor | None = None
    moments: Tensor | None = None
    embeddings: Conditioning | None = None
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
            elif name == "embeddings" and value is not None:
                values[name] = tuple(change(each) for each in value)
        return Batch(**values)


class PictureDataset(Dataset[Batch]):
    """Training batches by their number in a stream without end.

    The plan decides the pictures of a batch; cut, flip and caption are drawn by the sample's
    global index. So a batch is the same in any process, for any number of workers, and
    after any resume.

    Args:
        pictures: The captioned pictures, and what of each is trained on.
        captions: Their captions as token ids.
        data: Batch size, flips, random cuts and the weight of what is masked.
        seed: The run's seed.
        latent_scale: Pixels per latent along a side; masks are reduced by it.
        latents: Moments by ``2 * picture + mirrored`` (by picture without flips), if cached.
        embeddings: Prompt embeddings by caption, if cached; the captions must be static.

    Attributes:
        plan: The pictures of each batch.
    """

    def __init__(
        self,
        pictures: PictureSet,
        captions: SetCaptions,
        data: DataConfig,
        *,
        seed: int,
        latent_scale: int = 8,
        latents: Table | None = None,
        embeddings: Table | None = None,
    ) -> None:
        self.source = pictures.source
        self.geometry = pictures.geometry
        self.captions = captions
        self.plan = plan_of(pictures, data.batch_size, seed)
        self.latents = latents
        self.embeddings = embeddings
        self._data = data
        self._seed = seed
        self._latent_scale = latent_scale
        self._weights = torch.tensor([each.loss_weight for each in self.source.pictures])
        self._masked = any(picture.has_mask for picture in self.source.pictures)
        self._masks: dict[int, Tensor] = {}

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
        shown = [self.source.pictures[i] for i in picture.tolist()]
        cuts = self._cuts(index, picture)
        flipped = flips(self._seed, self._data, index)
        token_ids, embeddings = self._captions(picture, index)
        batch = Batch(
            sample_index=index,
            picture_index=picture,
            token_ids=token_ids,
            names=tuple(each.name for each in shown),
            weights=self._weights[picture],
            share=self.plan.share(number, window),
            embeddings=embeddings,
            sizes=size_conditioning([each.size for each in shown], cuts, flipped),
        )
        if self._masked:
            batch.mask = self._mask(picture, cuts, flipped)
        if self.latents is None:
            images = [self.source.image(i) for i in picture.tolist()]
            batch.pixels = stacked_pixels(images, cuts, flipped)
        else:
            views = 2 if self._data.flip else 1
            moments = self.latents.rows(picture * views + flipped)
            assert isinstance(moments, Tensor), "pictures of a batch are of one size"
            batch.moments = moments
        return batch

    def _captions(self, picture: Tensor, index: Tensor) -> tuple[Tensor, Conditioning | None]:
        if not self.captions.is_static:
            return self.captions.sample_token_ids(picture, index), None
        row = self.captions.rows(picture, index)
        embeddings = None if self.embeddings is None else self.embeddings.rows(row)
        return self.captions.token_ids[row], embeddings

    def _cuts(self, index: Tensor, picture: Tensor) -> list[Geometry]:
        cuts = [self.geometry[i] for i in picture.tolist()]
        if self._data.crop != "random":
            return cuts
        sizes = [self.source.pictures[i].size for i in picture.tolist()]
        anchors = random_anchors(self._seed, index)
        return [
            fitted(size, cut.bucket, anchor)
            for size, cut, anchor in zip(sizes, cuts, anchors, strict=True)
        ]

    def _mask(self, picture: Tensor, cuts: list[Geometry], flipped: Tensor) -> Tensor:
        chosen = zip(picture.tolist(), cuts, strict=True)
        masks = torch.stack([self._one_mask(i, cut) for i, cut in chosen])  # [B, 1, h, w] uint8
        masks = torch.where(flipped[:, None, None, None], masks.flip(-1), masks)
        shown = masks.float() / 255
        return shown + (1 - shown) * self._data.mask_weight

    def _one_mask(self, picture: int, cut: Geometry) -> Tensor:
        """Masks are kept in memory at the latents' resolution; reading a file each step is slow."""
        if picture in self._masks:
            return self._masks[picture]
        width, height = (side // self._latent_scale for side in cut.bucket)
        mask = None
        if self.source.pictures[picture].has_mask:
            mask = self.source.mask(picture)
        if mask is None:
            tensor = torch.full((1, height, width), 255, dtype=torch.uint8)
        else:
            small = mask.resize((width, height), Image.Resampling.BOX, box=cut.crop)
            tensor = torch.from_numpy(np.array(small, dtype=np.uint8))[None]
        if self._data.crop != "random":
            self._masks[picture] = tensor
        return tensor


def flips(seed: int, data: DataConfig, samples: Tensor) -> Tensor:
    """Whether each sample is mirrored, ``[B]``, bool; ``samples``: global counters ``[B]``."""
    return chance(seed, "flip", samples, 0.5 if data.flip else 0.0)


def random_anchors(seed: int, samples: Tensor) -> list[tuple[float, float]]:
    """Anchor of each sample's random cut, as :func:`fitted` takes it."""
    across, down = (uniform(seed, purpose, samples).tolist() for purpose in ("crop_x", "crop_y"))
    return list(zip(across, down, strict=True))


def stacked_pixels(
    images: Sequence[Image.Image], cuts: Sequence[Geometry], flipped: Tensor
) -> Tensor:
    """Pictures of one bucket, cut and perhaps mirrored, ``[B, 3, H, W]`` in [-1, 1], float32."""
    shown = [to_tensor(cut_out(image, cut)) for image, cut in zip(images, cuts, strict=True)]
    pixels = torch.stack(shown)
    return to_unit_range(torch.where(flipped[:, None, None, None], pixels.flip(-1), pixels))

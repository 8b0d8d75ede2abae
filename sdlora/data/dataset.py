"""The endless stream of training samples, as a function of their global index."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from sdlora.data.pictures import fit_square, to_tensor, to_unit_range
from sdlora.data.sources import PictureSource
from sdlora.randomness import generator, uniform

CROPS = ("center", "random")


class Encoded(Protocol):
    """What serves a dataset in place of picture files; ``cache.LatentCache`` documents it."""

    @property
    def moments(self) -> Tensor: ...
    @property
    def embeddings(self) -> Tensor | None: ...
    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def captions(self) -> tuple[str, ...]: ...
    @property
    def resolution(self) -> int: ...


@dataclass(slots=True)
class Batch:
    """Samples stacked along the first dimension.

    Attributes:
        sample_index: Global counter of the stream, ``[B]``, int64: the key of all randomness.
        picture_index: Which picture of the source, ``[B]``, int64.
        token_ids: Tokenised captions (that of ``""`` where dropped), ``[B, L]``, int64.
        names: The pictures' names.
        pixels: ``[B, 3, H, W]`` in [-1, 1], float32; ``None`` with a cache.
        moments: Posterior mean and log-variance, unscaled, ``[B, 2C, h, w]``; ``None`` without.
        embeddings: Prompt embeddings, ``[B, L, D]``; ``None`` unless cached.
    """

    sample_index: Tensor
    picture_index: Tensor
    token_ids: Tensor
    names: tuple[str, ...]
    pixels: Tensor | None = None
    moments: Tensor | None = None
    embeddings: Tensor | None = None

    def __len__(self) -> int:
        return len(self.names)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """The same batch with its tensors on ``device``."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        """The same batch in page-locked memory, from where copies to a GPU run alongside it."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        values = {k: change(v) if isinstance(v, Tensor) else v for k, v in values.items()}
        return Batch(**values)


def collate(samples: Batch | Sequence[Batch]) -> Batch:
    """Stack batches to one; a batch that is whole already (``__getitems__``) passes through."""
    if isinstance(samples, Batch):
        return samples
    stacked: dict[str, Any] = {}
    for field in fields(Batch):
        values = [getattr(sample, field.name) for sample in samples]
        if field.name == "names":
            stacked["names"] = tuple(name for names in values for name in names)
        else:
            stacked[field.name] = None if values[0] is None else torch.cat(values)
    return Batch(**stacked)


class PictureDataset(Dataset[Batch]):
    """Training samples by their global index ``n`` in a stream without end.

    Epoch ``n // N`` visits each of the ``N`` pictures once, in an order that only the seed and the
    epoch decide; crop, flip and caption dropout are drawn with ``n`` as key. So a sample is the
    same in any process, for any number of workers, and after any resume.

    Args:
        source: The captioned pictures.
        tokenize: Captions -> token ids ``[n, L]``, int64; called once, here.
        resolution: Side of the training square in pixels.
        crop: ``"center"`` or ``"random"``: which square of a picture is shown.
        flip: Whether each sample is mirrored with probability 1/2.
        caption_dropout: Probability in [0, 1] that a sample gets the caption ``""``.
        seed: The run's seed.
        cache: Latents made from this data before; see :meth:`with_cache`.

    Attributes:
        captions: All different captions; the first is ``""``.
        token_ids: Their token ids, ``[len(captions), L]``, int64.
    """

    def __init__(
        self,
        source: PictureSource,
        tokenize: Callable[[list[str]], Tensor],
        *,
        resolution: int,
        crop: str = "center",
        flip: bool = False,
        caption_dropout: float = 0.0,
        seed: int = 0,
        cache: Encoded | None = None,
    ) -> None:
        _check(resolution, crop, caption_dropout)
        self.source = source
        self.resolution = resolution
        self.crop = crop
        self.flip = flip
        self.caption_dropout = caption_dropout
        self.seed = seed
        self.names = tuple(sample.name for sample in source.samples)
        texts = [sample.caption for sample in source.samples]
        self.captions = tuple(dict.fromkeys(["", *texts]))
        row = {text: index for index, text in enumerate(self.captions)}
        self._caption_row = torch.tensor([row[text] for text in texts], dtype=torch.int64)
        self.token_ids = tokenize(list(self.captions))
        self.cache: Encoded | None = None
        self._orders: dict[int, Tensor] = {}
        if cache is not None:
            self._attach(cache)

    @property
    def num_pictures(self) -> int:
        """Pictures of the source: the length of an epoch. The stream itself has no end."""
        return len(self.names)

    def with_cache(self, cache: Encoded) -> "PictureDataset":
        """This dataset, from now on served out of ``cache``.

        Raises:
            ValueError: If the cache was made from other data or settings, or cannot serve them.
        """
        self._attach(cache)
        return self

    def __getitem__(self, sample_index: int) -> Batch:
        """Sample ``sample_index`` of the stream, as a batch of one."""
        return self.__getitems__([sample_index])

    def __getitems__(self, sample_indices: Sequence[int]) -> Batch:
        """Several samples of the stream at once: what a DataLoader asks for."""
        index = torch.tensor(sample_indices, dtype=torch.int64)
        picture = self._pictures(index)
        flipped = self._draw("flip", index, 0.5 if self.flip else 0.0)
        row = self._caption_row[picture]
        row = row.masked_fill(self._draw("caption_dropout", index, self.caption_dropout), 0)
        batch = Batch(
            sample_index=index,
            picture_index=picture,
            token_ids=self.token_ids[row],
            names=tuple(self.names[i] for i in picture.tolist()),
        )
        if self.cache is None:
            batch.pixels = self._decoded(index, picture, flipped)
            return batch
        batch.moments = self.cache.moments[picture, flipped.long()]
        if self.cache.embeddings is not None:
            batch.embeddings = self.cache.embeddings[row]
        return batch

    def picture(self, index: int, anchor: tuple[float, float] = (0.5, 0.5)) -> Tensor:
        """Picture ``index`` of the source, cut to the training square.

        Args:
            index: Which picture, not which sample.
            anchor: Where the square lies, see :func:`sdlora.data.pictures.fit_square`.

        Returns:
            Shape ``[3, resolution, resolution]``, uint8, never mirrored.
        """
        return to_tensor(fit_square(self.source.image(index), self.resolution, anchor))

    def _pictures(self, index: Tensor) -> Tensor:
        epoch = index // self.num_pictures
        place = index % self.num_pictures
        picture = torch.empty_like(index)
        for number in epoch.unique().tolist():
            here = epoch == number
            picture[here] = self._order(number)[place[here]]
        return picture

    def _order(self, epoch: int) -> Tensor:
        if epoch not in self._orders:
            while len(self._orders) >= 2:
                self._orders.pop(next(iter(self._orders)))
            draw = generator(self.seed, "order", epoch)
            self._orders[epoch] = torch.randperm(self.num_pictures, generator=draw)
        return self._orders[epoch]

    def _draw(self, purpose: str, index: Tensor, probability: float) -> Tensor:
        if probability == 0.0:
            return torch.zeros(len(index), dtype=torch.bool)
        return uniform(self.seed, purpose, index) < probability

    def _decoded(self, index: Tensor, picture: Tensor, flipped: Tensor) -> Tensor:
        anchors = [(0.5, 0.5)] * len(index)
        if self.crop == "random":
            across = uniform(self.seed, "crop_x", index).tolist()
            down = uniform(self.seed, "crop_y", index).tolist()
            anchors = list(zip(across, down, strict=True))
        chosen = zip(picture.tolist(), anchors, strict=True)
        pixels = torch.stack([self.picture(i, anchor) for i, anchor in chosen])
        pixels = torch.where(flipped[:, None, None, None], pixels.flip(-1), pixels)
        return to_unit_range(pixels)

    def _attach(self, cache: Encoded) -> None:
        if self.crop == "random":
            raise ValueError(
                "data.crop=random: cached latents hold one crop only; "
                "set data.crop=center or switch the cache off"
            )
        if cache.names != self.names or cache.captions != self.captions:
            raise ValueError("data.cache: made from other pictures or captions; build it anew")
        if cache.resolution != self.resolution:
            raise ValueError(
                f"data.resolution={self.resolution}: the cache was built for {cache.resolution}; "
                "build it anew"
            )
        if self.flip and cache.moments.shape[1] != 2:
            raise ValueError("data.flip=true: the cache holds no mirrored latents; build it anew")
        self.cache = cache


def _check(resolution: int, crop: str, caption_dropout: float) -> None:
    if resolution < 1:
        raise ValueError(f"data.resolution={resolution}: must be a positive number of pixels")
    if crop not in CROPS:
        raise ValueError(f"data.crop={crop!r}: must be one of {', '.join(CROPS)}")
    if not 0.0 <= caption_dropout <= 1.0:
        raise ValueError(f"data.caption_dropout={caption_dropout}: a probability, 0 to 1")

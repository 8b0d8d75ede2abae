"""The captions of a set as token ids: encoded once if static, else for each sample."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sdlora.config.captions import CaptionsConfig
from sdlora.data.captions.recipe import is_static, sample_caption, static_caption
from sdlora.data.pictures.picture import Picture
from sdlora.runtime.randomness import chance

Tokenize = Callable[[Sequence[str]], Tensor]
"""Captions -> token ids ``[n, L]``, int64."""


class SetCaptions:
    """Captions of a set's samples.

    Args:
        pictures: The set's.
        recipe: How a written caption becomes a sample's.
        tokenize: Captions -> token ids; can be pickled for worker processes.
        seed: The run's seed.

    Attributes:
        is_static: Whether all samples of a picture have one caption, except for dropout.
        texts: All different captions, the first is ``""``; only that one if captions vary.
        token_ids: Their token ids, ``[len(texts), L]``, int64.
    """

    def __init__(
        self, pictures: Sequence[Picture], recipe: CaptionsConfig, tokenize: Tokenize, seed: int
    ) -> None:
        self._pictures = pictures
        self._recipe = recipe
        self._tokenize = tokenize
        self._seed = seed
        self.is_static = is_static(recipe)
        written = []
        if self.is_static:
            written = [static_caption(recipe, each.text, each.prefix) for each in pictures]
        self.texts = tuple(dict.fromkeys(["", *written]))
        row = {text: number for number, text in enumerate(self.texts)}
        self._row = torch.tensor([row[text] for text in written], dtype=torch.int64)
        self.token_ids = tokenize(self.texts)

    def rows(self, pictures: Tensor, samples: Tensor) -> Tensor:
        """Row in ``texts`` of each sample's caption; the captions must be static.

        Args:
            pictures: Picture of each sample, ``[B]``, int64.
            samples: Global counter of the stream, ``[B]``, int64.
        """
        dropped = chance(self._seed, "caption_dropout", samples, self._recipe.dropout)
        return self._row[pictures].masked_fill(dropped, 0)

    def sample_token_ids(self, pictures: Tensor, samples: Tensor) -> Tensor:
        """Token ids of captions that vary, ``[B, L]``, int64; arguments as of :meth:`rows`."""
        shown = [self._pictures[number] for number in pictures.tolist()]
        return self._tokenize(
            [
                sample_caption(self._recipe, picture.text, picture.prefix, self._seed, sample)
                for picture, sample in zip(shown, samples.tolist(), strict=True)
            ]
        )

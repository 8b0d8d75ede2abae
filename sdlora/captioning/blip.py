"""The captioner BLIP (Li et al. 2022, arXiv:2201.12086): a short sentence."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from sdlora.captioning.beam_search import most_probable_texts
from sdlora.captioning.captioner import Compute, Wishes
from sdlora.captioning.network_loading import load_network, load_processor


@dataclass(frozen=True, slots=True)
class Blip:
    """BLIP without a beginning of the sentence.

    Attributes:
        network: A ``BlipForConditionalGeneration``.
        processor: Its processor.
        max_new_tokens: Most tokens of a caption.
    """

    network: Any
    processor: Any
    max_new_tokens: int

    @torch.inference_mode()
    def caption(self, images: Sequence[Image.Image]) -> list[str]:
        """Describe pictures; see ``Captioner``."""
        inputs = self.processor(images=list(images), return_tensors="pt")
        return most_probable_texts(self.network, self.processor, inputs, self.max_new_tokens)


def load(folder: Path, compute: Compute, wishes: Wishes) -> Blip:
    """Load BLIP from its files."""
    from transformers import BlipForConditionalGeneration

    network = load_network(BlipForConditionalGeneration, folder, compute)
    return Blip(network, load_processor(folder), wishes.max_new_tokens)

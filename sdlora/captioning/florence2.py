"""The captioner Florence-2 (Xiao et al. 2023, arXiv:2311.06242), as transformers has it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from sdlora.captioning.beam_search import most_probable_texts
from sdlora.captioning.captioner import Compute, Wishes
from sdlora.captioning.network_loading import CaptionerError, load_network, load_processor

DEFAULT_TASK = "detailed_caption"


@dataclass(frozen=True, slots=True)
class Florence2:
    """Florence-2 with one of its captioning tasks.

    Attributes:
        network: A ``Florence2ForConditionalGeneration``.
        processor: Its processor.
        task: ``caption``, ``detailed_caption`` or ``more_detailed_caption``.
        max_new_tokens: Most tokens of a caption.
    """

    network: Any
    processor: Any
    task: str
    max_new_tokens: int

    @torch.inference_mode()
    def caption(self, images: Sequence[Image.Image]) -> list[str]:
        """Describe pictures; see ``Captioner``."""
        asked = [f"<{self.task.upper()}>"] * len(images)
        inputs = self.processor(images=list(images), text=asked, return_tensors="pt")
        return most_probable_texts(self.network, self.processor, inputs, self.max_new_tokens)


def load(folder: Path, compute: Compute, wishes: Wishes) -> Florence2:
    """Load Florence-2 from its files.

    Raises:
        CaptionerError: If it is a copy that runs with code of its own.
    """
    from transformers import Florence2ForConditionalGeneration

    if "auto_map" in json.loads((folder / "config.json").read_text("utf-8")):
        raise CaptionerError(
            f"--model: the Florence-2 in {folder} runs with code of its own; take one in "
            "transformers' layout, such as florence-community/Florence-2-large"
        )
    network = load_network(Florence2ForConditionalGeneration, folder, compute)
    task = wishes.instruction or DEFAULT_TASK
    return Florence2(network, load_processor(folder), task, wishes.max_new_tokens)

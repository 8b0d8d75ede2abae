"""A vision language model: questions about pictures by its chat template, answered in words."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from sdlora.captioning.captioner import Compute
from sdlora.captioning.network_loading import CaptionerError, load_network, load_processor


@dataclass(frozen=True, slots=True)
class VisionLanguageModel:
    """A model that answers questions about pictures, such as Qwen-VL.

    Attributes:
        network: A model of transformers' ``AutoModelForImageTextToText``.
        processor: Its processor, with a chat template.
    """

    network: Any
    processor: Any

    def chats(self, images: Sequence[Image.Image], question: str) -> Any:
        """One chat for each picture, up to the begin of the answer: the model's inputs.

        Padded on the left, so that all answers begin at the same place.
        """
        turns = [
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "image": image},
                        {"type": "text", "text": question},
                    ],
                }
            ]
            for image in images
        ]
        inputs = self.processor.apply_chat_template(
            turns,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True, "padding_side": "left"},
        )
        return inputs.to(self.network.device, self.network.dtype)

    @torch.inference_mode()
    def answers(
        self, images: Sequence[Image.Image], question: str, max_new_tokens: int
    ) -> list[str]:
        """Ask the same question about each picture; the most probable tokens, none is drawn.

        Args:
            images: Mode ``RGB``, any sizes; at least one.
            question: The user's turn beside the picture.
            max_new_tokens: Most tokens of an answer, >= 1.
        """
        inputs = self.chats(images, question)
        tokens = self.network.generate(
            **inputs, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1
        )
        new = tokens[:, inputs["input_ids"].shape[1] :]
        texts: list[str] = self.processor.batch_decode(new, skip_special_tokens=True)
        return texts


def load_vision_language(folder: Path, compute: Compute) -> VisionLanguageModel:
    """Load a vision language model from its files.

    Raises:
        CaptionerError: If it cannot be loaded whole, or has no chat template.
    """
    from transformers import AutoModelForImageTextToText

    processor = load_processor(folder)
    if not getattr(processor, "chat_template", None):
        raise CaptionerError(
            f"--model: the model in {folder} has no chat template, so it cannot be asked; choose "
            "an instruct model, such as Qwen/Qwen3-VL-4B-Instruct"
        )
    network = load_network(AutoModelForImageTextToText, folder, compute)
    return VisionLanguageModel(network, processor)

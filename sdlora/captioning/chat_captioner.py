"""The captioner of any vision language model, by an instruction of the user's."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from sdlora.captioning.captioner import Compute, Wishes
from sdlora.captioning.vision_language import VisionLanguageModel, load_vision_language

INSTRUCTION = (
    "Describe this picture in one sentence for training an image generator: the subject, clothes, "
    "pose, background and light. Begin with the subject, and do not mention the picture itself."
)
"""What is asked where the user asks nothing."""


@dataclass(frozen=True, slots=True)
class ChatCaptioner:
    """A vision language model with an instruction.

    Attributes:
        model: The model.
        instruction: What is asked about each picture.
        max_new_tokens: Most tokens of a caption.
    """

    model: VisionLanguageModel
    instruction: str
    max_new_tokens: int

    def caption(self, images: Sequence[Image.Image]) -> list[str]:
        """Describe pictures; see ``Captioner``."""
        return self.model.answers(images, self.instruction, self.max_new_tokens)


def load(folder: Path, compute: Compute, wishes: Wishes) -> ChatCaptioner:
    """Load a vision language model from its files."""
    model = load_vision_language(folder, compute)
    return ChatCaptioner(model, wishes.instruction or INSTRUCTION, wishes.max_new_tokens)

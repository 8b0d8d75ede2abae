"""The typed schema of ``export.*``: what the trained LoRA is called."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from sdlora.config.effect import given, of, where
from sdlora.config.rules import (
    require,
)


@dataclass(slots=True, kw_only=True)
class ExportConfig:
    """Name and licence of the exported LoRA."""

    name: str = MISSING
    """Title of the LoRA, and name of the file for ComfyUI / A1111."""
    licence: str | None = field(
        default=None, metadata=where((of("lora.*.method", "lora"), given("lora.new_word.name")))
    )
    """Licence of the LoRA, for its model card and header, as the Hugging Face Hub names them, such
    as ``apache-2.0`` or ``creativeml-openrail-m``; ``null``: not chosen (``unknown``)."""

    def __post_init__(self) -> None:
        allowed = all(letter.isalnum() or letter in "-_. " for letter in self.name)
        require(
            bool(self.name.strip(" .")) and allowed and len(self.name) <= 100,
            "export.name",
            self.name,
            "becomes a file name: 1 to 100 letters, digits, spaces, '-', '_' or '.'",
        )

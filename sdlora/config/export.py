"""The typed schema of ``export.*``: name, licence, precision and picture of the LoRA."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from sdlora.config.effect import given, of, where
from sdlora.config.rules import require, require_choice

DTYPES = ("fp32", "fp16", "bf16")


@dataclass(slots=True, kw_only=True)
class ExportConfig:
    """Name, licence, precision and picture of the exported LoRA."""

    name: str = MISSING
    """Title of the LoRA, and name of the file for ComfyUI / A1111."""
    licence: str | None = field(
        default=None, metadata=where((of("lora.*.method", "lora"), given("lora.new_word.name")))
    )
    """Licence of the LoRA, for its model card and header, as the Hugging Face Hub names them, such
    as ``apache-2.0`` or ``creativeml-openrail-m``; ``null``: not chosen (``unknown``)."""

    dtype: str = field(default=MISSING, metadata=where(of("lora.*.method", "lora")))
    """Precision of the adapter in exported files: ``fp32``, as trained, or ``fp16`` or ``bf16``, of
    half the size. What training resumes from is always fp32."""

    thumbnail: bool = field(default=MISSING, metadata=where(of("lora.*.method", "lora")))
    """A small validation picture of the chosen step in the files' headers, where lists of models in
    ComfyUI and A1111 look for one. Who gets the file sees it."""

    def __post_init__(self) -> None:
        require_choice("export.dtype", self.dtype, DTYPES)
        allowed = all(letter.isalnum() or letter in "-_. " for letter in self.name)
        require(
            bool(self.name.strip(" .")) and allowed and len(self.name) <= 100,
            "export.name",
            self.name,
            "becomes a file name: 1 to 100 letters, digits, spaces, '-', '_' or '.'",
        )

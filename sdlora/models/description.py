"""The description of a model family: its classes, and its names in files."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sdlora.models.chat import ChatTokenizer
from sdlora.models.family import Family


@dataclass(frozen=True, slots=True, kw_only=True)
class PartNames:
    """Names of a part and its layers in LoRA files.

    Attributes:
        kohya: Prefixes in the kohya layout: the first is written, all are read. Empty: that file
            has diffusers' names as well, which ComfyUI reads for such parts.
        layer: Layer name in diffusers -> layer name in the kohya layout, with dots.
        is_clip: Whether it is a CLIP text encoder: files keep its layers inside ``text_model.``.
        is_nested: Whether transformers 5, and so peft's folders, keep ``text_model.`` as well.
        embedding: Its tensor in an embeddings file for several text encoders.
    """

    kohya: tuple[str, ...]
    layer: Callable[[str], str] = str
    is_clip: bool = False
    is_nested: bool = False
    embedding: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyDescription:
    """A model family: everything that differs between families.

    Attributes:
        name: Its ``model.family``.
        kind: Name of such models for messages.
        make: Its class, with all parts and tokenizers as arguments.
        parts: Parts with weights: folder in the diffusers layout -> class; the VAE first, if there
            is one.
        tokenizers: Tokenizers of the text encoders: folder -> class; empty if the model takes no
            prompts.
        trainable: Trainable parts -> names in LoRA files.
        misfit: Loaded parts -> why their shapes are not of this family; ``None`` if they are.
        has_denoiser: Whether a denoiser with this config is of this family.
        pipeline: Pipeline class in ``model_index.json``.
        hub_tag: Tag of its models on the Hugging Face Hub.
        versions: Width of the (first) text encoder and prediction type -> kohya's
            ``ss_base_model_version`` and ModelSpec's ``modelspec.architecture``; ``None``: both are
            the family's own name.
        blank: A folder without weights, for a denoiser of ``model.architecture``.
        from_single_file: Pipeline class that reads the original layout; ``None``: single files are
            not supported.
        single_file_text: Prefixes of the text encoders' weights in that layout.
        lone_transformer: Of families that are read from folders alone: beginnings of names in a
            file of their transformer, in any layout and in diffusers' one.
        usual_vae: Hub id of a VAE for such a file without one, for messages.
        is_clip: Whether its text encoders are CLIP, so that clip_skip and several chunks are
            possible.
        unused_clip_layers: Number of CLIP's last layers that it never uses.
        side_step_px: Number that sides of pictures must be multiples of in its released models, in
            pixels; known without a model's files.
        max_tokens: Longest caption in tokens, special ones included; ``None``: as in
            the tokenizer's own files.
        is_flow: Whether its noise schedule is one of flow matching.
        pixel_steps: Configs of VAE and denoiser -> pixels per latent, and the number that sides
            must be multiples of; ``None``: those of a UNet.
        chat: A language model's tokenizer -> that of its chat; ``None``: captions are read as they
            are.
        presets: Names for ``lora.PART.targets`` -> targets of the denoiser.
        probe: The denoiser's output on fixed inputs drawn from a generator, by which an export is
            proved; ``None``: that of a UNet.
    """

    name: str
    kind: str
    make: type[Family]
    parts: Mapping[str, Any]
    tokenizers: Mapping[str, Any]
    trainable: Mapping[str, PartNames]
    misfit: Callable[[Mapping[str, Any]], str | None]
    has_denoiser: Callable[[Mapping[str, Any]], bool]
    pipeline: str
    hub_tag: str
    versions: Callable[[int, str], tuple[str, str]] | None = None
    blank: str | None = None
    from_single_file: Callable[..., Any] | None = None
    single_file_text: str = ""
    lone_transformer: tuple[str, str] | None = None
    usual_vae: str = ""
    is_clip: bool = False
    unused_clip_layers: int = 0
    side_step_px: int = 1
    max_tokens: int | None = None
    is_flow: bool = False
    pixel_steps: Callable[[Mapping[str, Any], Mapping[str, Any]], tuple[int, int]] | None = None
    chat: Callable[[Any], ChatTokenizer] | None = None
    presets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    probe: Callable[[Any, torch.Generator], Tensor] | None = None

    @property
    def denoiser(self) -> str:
        """Name of the denoiser."""
        return self.make.denoiser_name

    @property
    def programs(self) -> tuple[str, ...]:
        """Programs other than diffusers that draw with a LoRA of this family.

        Source: A1111's own model classes, none of which is a transformer of flow matching.
        """
        return ("ComfyUI",) if self.is_flow else ("ComfyUI", "A1111")

    @property
    def trainable_encoders(self) -> tuple[str, ...]:
        """Trainable text encoders."""
        return tuple(part for part in self.trainable if part != self.denoiser)

    def base_names(self, text_width: int, prediction_type: str) -> tuple[str, str]:
        """Names of a base model of this family for kohya's trainer and ModelSpec.

        Args:
            text_width: Width of the (first) text encoder, 0 without one.
            prediction_type: ``epsilon`` or ``v_prediction``.

        Returns:
            ``ss_base_model_version`` and ``modelspec.architecture``.

        Source:
            kohya-ss/sd-scripts, library/model_util.py ``get_model_version_str_for_sd1_sd2`` and
            library/sai_model_spec.py ``determine_architecture``.
        """
        if self.versions is None:
            return self.name, f"{self.name}/lora"
        return self.versions(text_width, prediction_type)

"""The description of a model family: what it is made of, and what files call it and its parts."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sdlora.models.family import Family


@dataclass(frozen=True, slots=True, kw_only=True)
class PartNames:
    """What LoRA files call a part of a model and its layers.

    Attributes:
        kohya: How names begin in the kohya layout: the first is written, all are read.
        layer: A layer's name in diffusers -> the one in the kohya layout, dots left in.
        is_clip: Whether it is a CLIP text encoder: files keep its layers inside ``text_model.``.
        is_nested: Whether transformers 5 keeps them there as well, and so peft's folders do.
        embedding: Its tensor in a file of a new word's embeddings for several text encoders.
    """

    kohya: tuple[str, ...]
    layer: Callable[[str], str] = str
    is_clip: bool = False
    is_nested: bool = False
    embedding: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyDescription:
    """A model family. Everything that differs from one to another and no weight tells stands here.

    Attributes:
        name: Its ``model.family``.
        kind: What people call such a model.
        make: Its class; takes all parts and tokenizers by name.
        parts: What has weights, by its folder in the diffusers layout -> class; the VAE first, if
            there is one.
        tokenizers: One for each text encoder -> class; none where the model takes no prompts.
        trainable: Parts that may be trained -> what LoRA files call them.
        misfit: Loaded parts -> what about their shapes is not this family's; ``None``: nothing.
        has_denoiser: Whether a denoiser with this config is one of this family.
        pipeline: Class of its pipelines, in ``model_index.json``.
        hub_tag: Of its models on the Hugging Face Hub.
        versions: Width of the (first) text encoder and prediction type -> kohya's
            ``ss_base_model_version`` and ModelSpec's ``modelspec.architecture``; ``None``: both go
            by the family's own name.
        made_lora: Whether a LoRA file is for this family, by its ``ss_base_model_version`` (may be
            empty) and its layers, each behind its part's name; ``None``: nothing tells.
        blank: A folder without weights, for a denoiser that the config describes.
        from_single_file: Reads the original code's layout; ``None``: no model lies in one file.
        single_file_text: How that layout names the weights of text encoders.
        is_clip: Whether CLIP reads its captions: then last layers may be left out, and a long
            caption takes several chunks.
        unused_clip_layers: How many of CLIP's last layers it never uses.
        max_tokens: Longest caption in tokens, special ones included; ``None``: as the tokenizer's
            own files say.
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
    made_lora: Callable[[str, Collection[str]], bool] | None = None
    blank: str | None = None
    from_single_file: Callable[..., Any] | None = None
    single_file_text: str = ""
    is_clip: bool = False
    unused_clip_layers: int = 0
    max_tokens: int | None = None

    @property
    def denoiser(self) -> str:
        """The part that removes noise."""
        return self.make.denoiser_name

    @property
    def trainable_encoders(self) -> tuple[str, ...]:
        """Text encoders that may be trained."""
        return tuple(part for part in self.trainable if part != self.denoiser)

    def base_names(self, text_width: int, prediction_type: str) -> tuple[str, str]:
        """What kohya's trainer and ModelSpec call a base model of this family.

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

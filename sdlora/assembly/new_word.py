"""Typed config -> the new word of textual inversion, on tokenizers and model."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sdlora.adapters.textual_inversion import (
    FOLDER,
    NewWord,
    add_new_word,
    add_to_tokenizer,
)
from sdlora.assembly.base_model import model_source
from sdlora.config.lora import NewWordConfig
from sdlora.config.model import ModelConfig
from sdlora.config.rules import ConfigError
from sdlora.config.train import TrainConfig
from sdlora.data.selection.picture_set import PictureSet
from sdlora.models.families import description_of
from sdlora.models.family import Family
from sdlora.models.loading import load_tokenizers
from sdlora.models.source import resolve
from sdlora.runtime.progress import Progress
from sdlora.sampling.prompts import Prompt


def new_word(config: NewWordConfig) -> NewWord | None:
    """The new word, if one is configured."""
    if config.name is None:
        return None
    return NewWord(config.name, config.init, config.num_vectors)


def teach(family: Family, config: NewWordConfig) -> None:
    """Add the word to the model's tokenizers and text encoders, in place; its embeddings train."""
    word = new_word(config)
    if word is not None:
        add_new_word(family.tokenizers, family.text_encoders, word)


def tokenizers(model: ModelConfig, config: NewWordConfig, folder: Path | None = None) -> list[Any]:
    """The base's tokenizers alone, with the new word if configured; reads no weight.

    Args:
        model: The base.
        config: The new word.
        folder: Where its configs are, if that is known.
    """
    found = load_tokenizers(folder or resolve(model_source(model)), model.family)
    word = new_word(config)
    if word is not None:
        for tokenizer in found:
            add_to_tokenizer(tokenizer, word)
    return found


def check_new_word(
    config: TrainConfig, pictures: PictureSet, prompts: Iterable[Prompt], progress: Progress
) -> None:
    """Check that the word can be learned: some caption must contain it, and some prompt should.

    Args:
        config: The word, and how captions are made.
        pictures: The training pictures.
        prompts: Those of the validation pictures.
        progress: Prints a warning.

    Raises:
        ConfigError: If no caption does, or the family's text encoders cannot be trained.
    """
    name = config.lora.new_word.name
    if name is None:
        return
    description = description_of(config.model.family)
    if not description.trainable_encoders:
        raise ConfigError(
            f"lora.new_word.name={name}: {description.kind} has no CLIP text encoder that could "
            "learn a word; set it to null"
        )
    frame = config.data.captions
    if not _in_any(
        name,
        (
            " ".join((each.prefix, frame.prefix, each.text, frame.suffix))
            for each in pictures.source.pictures
        ),
    ):
        raise ConfigError(
            f"lora.new_word.name={name}: in no caption, so it cannot be learned; set "
            f"data.captions.prefix='{name}, '"
        )
    if not _in_any(name, (prompt.text for prompt in prompts)):
        progress.print(
            f"warning: lora.new_word.name={name}: in no prompt of {config.sampling.prompts}, so "
            f"pictures and scores will not show it; set sampling.prompt_prefix='{name}, '"
        )


def _in_any(name: str, texts: Iterable[str]) -> bool:
    pattern = re.compile(rf"(?<!\w){re.escape(name)}(?!\w)", re.IGNORECASE)
    return any(pattern.search(text) for text in texts)


def embeddings_of(adapter: Path) -> Path | None:
    """The embeddings file beside a LoRA file, or in an adapter's folder; ``None``: none."""
    folder = (adapter if adapter.is_dir() else adapter.parent) / FOLDER
    return next(iter(sorted(folder.glob("*.safetensors"))), None)

"""Textual inversion: a new word in tokenizers and text encoders, and its embedding files.

Neither the vocabulary's own embeddings nor other weights of the base change.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from torch import Tensor, nn

from sdlora.adapters.learned_embedding import LearnedEmbedding, learned
from sdlora.adapters.weights import read_weights, write_weights
from sdlora.models.description import PartNames

FOLDER = "embeddings"
"""Folder of the new word's embeddings, beside a LoRA file."""


class EmbeddingError(ValueError):
    """An impossible new word, or a file that does not fit; the message gives the remedy."""


@dataclass(frozen=True, slots=True)
class NewWord:
    """A word that the text encoders do not know yet.

    Attributes:
        name: Spelling in captions and prompts.
        init: Words that initialise its embeddings, repeated if it has more vectors than they.
        num_vectors: Number of its embeddings; >= 1.
    """

    name: str
    init: str
    num_vectors: int


def add_to_tokenizer(tokenizer: Any, word: NewWord) -> None:
    """Add the new word to a tokenizer, in place: ``name``, ``name_1``, ..., one for each vector.

    It matches whole words only, and is case-insensitive if the tokenizer is.

    Args:
        tokenizer: A CLIP tokenizer.
        word: The new word.

    Raises:
        EmbeddingError: If the word exists already.
    """
    if len(tokenizer(word.name, add_special_tokens=False)["input_ids"]) == 1:
        raise EmbeddingError(
            f"lora.new_word.name={word.name}: the tokenizer has it already; choose a word that it "
            "does not have, such as <my-face>"
        )
    names = [word.name, *(f"{word.name}_{number}" for number in range(1, word.num_vectors))]
    tokenizer.add_tokens([AddedToken(name, single_word=True, normalized=True) for name in names])


def add_new_word(
    tokenizers: Iterable[Any], text_encoders: Mapping[str, nn.Module], word: NewWord
) -> None:
    """Add the new word to tokenizers and text encoders, in place; its embeddings train.

    Args:
        tokenizers: One for each text encoder.
        text_encoders: CLIP text encoders by part name.
        word: The new word.

    Raises:
        EmbeddingError: If the word exists already, or ``init`` contains no word.
    """
    for tokenizer, encoder in zip(tokenizers, text_encoders.values(), strict=True):
        add_to_tokenizer(tokenizer, word)
        inside: Any = encoder
        vocabulary = inside.get_input_embeddings()
        ids = tokenizer(word.init, add_special_tokens=False)["input_ids"]
        if not ids:
            raise EmbeddingError(
                f"lora.new_word.init={word.init!r}: names no word; give one that is near, such as "
                "person"
            )
        rows = [vocabulary.weight[ids[number % len(ids)]] for number in range(word.num_vectors)]
        inside.set_input_embeddings(LearnedEmbedding(vocabulary, torch.stack(rows)))
        for module in encoder.modules():
            # Old configs have 2 here, for which transformers takes the largest id as a text's end:
            # the pooled embedding would be read off at the new word.
            if hasattr(module, "eos_token_id"):
                module.eos_token_id = tokenizer.eos_token_id


def learned_rows(parts: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """The new word's embeddings by part, ``[n, D]``, float32, copies on the CPU, if any."""
    return {
        part: found.new_rows.detach().cpu().clone()
        for part, module in parts.items()
        for found in learned(module)
    }


def embedding_keys(
    rows: Iterable[str], names: Mapping[str, PartNames], word: str
) -> dict[str, str]:
    """Part with a new word -> its tensor in the file, as in diffusers, ComfyUI and A1111.

    A file for one text encoder holds one tensor, under the new word.
    """
    learning = list(rows)
    return {part: names[part].embedding if len(learning) > 1 else word for part in learning}


def write_embeddings(
    folder: Path,
    *,
    parts: Mapping[str, nn.Module],
    names: Mapping[str, PartNames],
    word: str,
    metadata: Mapping[str, str],
) -> list[Path]:
    """Write the new word's embeddings in the layout that diffusers, ComfyUI and A1111 read.

    Args:
        folder: Folder of the adapter; the file is ``embeddings/NAME.safetensors`` in it.
        parts: Parts of the model; without a new word nothing is written.
        names: Names of its family's parts in files.
        word: The new word.
        metadata: Text for the header.

    Returns:
        The file, or nothing.

    Raises:
        LoraError: If the embeddings hold NaN or infinity.
    """
    rows = learned_rows(parts)
    if not rows:
        return []
    keys = embedding_keys(rows, names, word)
    path = folder / FOLDER / f"{file_name(word)}.safetensors"
    tensors = {keys[part]: value for part, value in rows.items()}
    write_weights(path, tensors, {**metadata, "sdlora.new_word": word})
    return [path]


def file_name(name: str) -> str:
    """The new word as a valid file name: ``<my-face>`` is ``my-face``."""
    return "".join(letter for letter in name if letter.isalnum() or letter in "-_.") or "word"


def load_embeddings(
    path: Path, parts: Mapping[str, nn.Module], names: Mapping[str, PartNames]
) -> None:
    """Load embeddings from a file into a model that has the new word.

    Args:
        path: A file of ``write_embeddings``, or of another trainer in the same layout.
        parts: Parts of the model.
        names: Names of its family's parts in files.

    Raises:
        EmbeddingError: If the file is for other text encoders, or has another number of vectors.
        LoraError: If it cannot be read, or holds NaN or infinity.
    """
    tensors, _ = read_weights(path)
    of_parts = {part: found for part, module in parts.items() for found in learned(module)}
    keys = embedding_keys(of_parts, names, next(iter(tensors), ""))
    for part, found in of_parts.items():
        value = tensors.get(keys[part])
        shape = list(found.new_rows.shape)
        if value is None or list(value.reshape(-1, value.shape[-1]).shape) != shape:
            has = {name: list(tensor.shape) for name, tensor in tensors.items()}
            raise EmbeddingError(
                f"{path}: holds {has}, where {part} needs {shape}; it was trained for another base "
                "model, or with another lora.new_word.num_vectors"
            )
        with torch.no_grad():
            found.new_rows.copy_(value.reshape(shape))

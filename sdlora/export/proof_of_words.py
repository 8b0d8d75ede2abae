"""Proof of a new word's embeddings: diffusers loads them back exactly."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from sdlora.adapters.textual_inversion import embedding_keys, learned_rows
from sdlora.adapters.weights import read_weights
from sdlora.export.proof import ExportError
from sdlora.models.description import PartNames


def prove_embeddings(
    path: Path,
    fresh_pipeline: Callable[[], DiffusionPipeline],
    parts: Mapping[str, nn.Module],
    names: Mapping[str, PartNames],
    name: str,
    tokenize: Callable[[Sequence[str]], Tensor],
) -> None:
    """Load a new word's embeddings by diffusers' loader, and compare ids and rows exactly.

    Args:
        path: As ``write_embeddings`` wrote it.
        fresh_pipeline: Loads the base model, without the word.
        parts: The trained parts, by their names as attributes of the pipeline.
        names: What files call the parts of the family.
        name: The word.
        tokenize: Texts -> token ids of all tokenizers side by side, as in training.

    Raises:
        ExportError: If a prompt with the word gives other token ids or embeddings.
    """
    rows = learned_rows(parts)
    keys = embedding_keys(rows, names, name)
    pipeline: Any = fresh_pipeline()
    stored, _ = read_weights(path)
    loaded = []
    for part, value in rows.items():
        encoder = getattr(pipeline, part).float()
        tokenizer = getattr(pipeline, part.replace("text_encoder", "tokenizer"))
        tensor = stored[keys[part]]
        pipeline.load_textual_inversion(
            {name: tensor}, token=name, text_encoder=encoder, tokenizer=tokenizer
        )
        prompt = pipeline.maybe_convert_prompt(f"a picture of {name}", tokenizer)
        ids = tokenizer(prompt, padding="max_length", return_tensors="pt").input_ids
        loaded.append(ids)
        new = ids[ids > tokenizer.convert_tokens_to_ids(name) - 1]
        found = encoder.get_input_embeddings()(new[: len(value)]).cpu()
        if not torch.equal(found, value):
            raise ExportError(f"{path}: loaded back, the embeddings of {name} are not the same")
    if not torch.equal(torch.cat(loaded, dim=1), tokenize([f"a picture of {name}"])):
        raise ExportError(f"{path}: loaded back, a prompt with {name} has other token ids")

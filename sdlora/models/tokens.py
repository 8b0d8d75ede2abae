"""Captions as token ids, in one or more chunks of the text encoder's length."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count, takewhile

import torch
from torch import Tensor
from transformers import CLIPTokenizer


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids of captions, and what did not fit.

    Attributes:
        ids: Shape ``[n, tokenizers * chunks * L]``, int64.
        cut: For each caption the words that were lost, ``""`` if none.
    """

    ids: Tensor
    cut: list[str]


def tokenize(
    tokenizers: Sequence[CLIPTokenizer], captions: Sequence[str], num_chunks: int = 1
) -> Tokens:
    """Encode captions in chunks of the tokenizer's length ``L`` (77 for CLIP).

    Each chunk has its own start and end token around up to ``L - 2`` tokens of text, and is padded;
    a caption takes all its chunks, however short it is, so that all have one shape. With one chunk
    this is the tokenizer's own padding and truncation. What several tokenizers give stands side by
    side; the first says what is cut (SDXL's two differ in nothing but the padding). Without any,
    captions are not read: no ids, nothing cut.
    """
    if not tokenizers:
        none = torch.empty((len(captions), 0), dtype=torch.int64)
        return Tokens(ids=none, cut=[""] * len(captions))
    ids, cuts = zip(*(_tokenize(each, captions, num_chunks) for each in tokenizers), strict=True)
    return Tokens(ids=torch.cat(ids, dim=1), cut=cuts[0])


def _tokenize(
    tokenizer: CLIPTokenizer, captions: Sequence[str], num_chunks: int
) -> tuple[Tensor, list[str]]:
    length = tokenizer.model_max_length
    room = length - 2
    texts = []
    if captions:  # transformers fails on none; not verbose: it would warn of what chunks are for
        texts = tokenizer(
            list(captions), add_special_tokens=False, truncation=False, verbose=False
        )["input_ids"]
    runs = _runs(tokenizer)
    texts = [[each for token in text for each in runs.get(token, (token,))] for text in texts]
    ids = torch.full((len(texts), num_chunks, length), int(tokenizer.pad_token_id))
    cut = []
    for row, tokens in zip(ids, texts, strict=True):
        for chunk, start in zip(row, range(0, num_chunks * room, room), strict=True):
            words = [tokenizer.bos_token_id, *tokens[start : start + room], tokenizer.eos_token_id]
            chunk[: len(words)] = torch.tensor(words)
        lost = tokens[num_chunks * room :]
        cut.append(str(tokenizer.decode(lost)) if lost else "")
    return ids.flatten(1), cut


def _runs(tokenizer: CLIPTokenizer) -> dict[int, list[int]]:
    """The first id of a new word of several vectors -> all its ids: ``word``, ``word_1``, ..."""
    added = tokenizer.added_tokens_encoder
    runs = {}
    for name, first in added.items():
        names = takewhile(added.__contains__, (f"{name}_{number}" for number in count(1)))
        runs[first] = [first, *(added[each] for each in names)]
    return runs


def token_ids(
    tokenizers: Sequence[CLIPTokenizer], num_chunks: int, captions: Sequence[str]
) -> Tensor:
    """Token ids alone, ``[n, tokenizers * chunks * L]``; plain, so that worker processes get it."""
    return tokenize(tokenizers, captions, num_chunks).ids

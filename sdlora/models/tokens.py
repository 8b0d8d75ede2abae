"""Tokenisation of captions, in one or more chunks of the text encoder's length."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count, takewhile
from typing import Any

import torch
from diffusers.pipelines.kolors.tokenizer import ChatGLMTokenizer
from torch import Tensor

from sdlora.models.chat import ChatTokenizer


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids of captions, and the words that did not fit.

    Attributes:
        ids: Shape ``[n, tokenizers * chunks * L]``, int64.
        cut: Words of each caption that were cut, ``""`` if none.
    """

    ids: Tensor
    cut: list[str]


def tokenize(tokenizers: Sequence[Any], captions: Sequence[str], num_chunks: int = 1) -> Tokens:
    """Encode captions in chunks of the tokenizer's length ``L`` (77 for CLIP).

    A language model's chat is one chunk (:class:`ChatTokenizer`). Each chunk of others has its own
    two special tokens around (CLIP) or before (ChatGLM) up to ``L - 2`` tokens of text, and is
    padded; every caption has all chunks, so that all have one shape. With one chunk this is the
    tokenizer's own padding and truncation. The ids of several tokenizers are concatenated; the
    first gives the cut words (SDXL's two differ only in padding). Without a tokenizer there are no
    ids and no cut words.
    """
    if not tokenizers:
        none = torch.empty((len(captions), 0), dtype=torch.int64)
        return Tokens(ids=none, cut=[""] * len(captions))
    ids, cuts = zip(*(_tokenize(each, captions, num_chunks) for each in tokenizers), strict=True)
    return Tokens(ids=torch.cat(ids, dim=1), cut=cuts[0])


def _tokenize(tokenizer: Any, captions: Sequence[str], num_chunks: int) -> tuple[Tensor, list[str]]:
    if isinstance(tokenizer, ChatTokenizer):
        return tokenizer.encode(captions)
    length = tokenizer.model_max_length
    before, after = _special_tokens(tokenizer)
    room = length - len(before) - len(after)
    texts = []
    if captions:  # transformers fails on none; not verbose: it would warn of what chunks are for
        texts = tokenizer(
            list(captions), add_special_tokens=False, truncation=False, verbose=False
        )["input_ids"]
    runs = _runs(tokenizer)
    texts = [[each for token in text for each in runs.get(token, (token,))] for text in texts]
    ids = torch.full((len(texts), num_chunks, length), int(tokenizer.pad_token_id))
    is_left = tokenizer.padding_side == "left"
    cut = []
    for row, tokens in zip(ids, texts, strict=True):
        for chunk, start in zip(row, range(0, num_chunks * room, room), strict=True):
            words = torch.tensor([*before, *tokens[start : start + room], *after])
            where = slice(-len(words), None) if is_left else slice(len(words))
            chunk[where] = words
        lost = tokens[num_chunks * room :]
        cut.append(str(tokenizer.decode(lost)) if lost else "")
    return ids.flatten(1), cut


def _runs(tokenizer: Any) -> dict[int, list[int]]:
    """First id of a new word of several vectors -> all its ids: ``word``, ``word_1``, ..."""
    added = tokenizer.added_tokens_encoder
    runs = {}
    for name, first in added.items():
        names = takewhile(added.__contains__, (f"{name}_{number}" for number in count(1)))
        runs[first] = [first, *(added[each] for each in names)]
    return runs


def _special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Special tokens before and after a text: CLIP's start and end, ChatGLM's two starts."""
    if isinstance(tokenizer, ChatGLMTokenizer):
        return tokenizer.get_prefix_tokens(), []
    return [tokenizer.bos_token_id], [tokenizer.eos_token_id]


def token_ids(tokenizers: Sequence[Any], num_chunks: int, captions: Sequence[str]) -> Tensor:
    """Token ids alone, ``[n, tokenizers * chunks * L]``; a plain function for worker processes."""
    return tokenize(tokenizers, captions, num_chunks).ids

"""Captions as chunks: every token once, in order, each chunk with its own start and end."""

import random

import pytest
import torch

from sdlora.models.sd import StableDiffusion
from sdlora.models.tokens import token_ids, tokenize

LETTERS = "abcdefghij"


def sentence(num_words: int, seed: int = 0) -> str:
    draw = random.Random(seed)
    return " ".join(draw.choice(LETTERS) for _ in range(num_words))


@pytest.mark.parametrize("num_words", [0, 1, 75, 76, 200])
def test_one_chunk_is_the_tokenizers_own_padding_and_cut(
    family: StableDiffusion, num_words: int
) -> None:
    text = sentence(num_words)
    theirs = family.tokenizers[0](
        [text], padding="max_length", max_length=77, truncation=True, return_tensors="pt"
    )["input_ids"]
    assert torch.equal(tokenize(family.tokenizers, [text]).ids, theirs)


def test_no_caption_gives_no_row(family: StableDiffusion) -> None:
    tokens = tokenize(family.tokenizers, [], num_chunks=2)
    assert tokens.ids.shape == (0, 2 * 77)
    assert tokens.cut == []


@pytest.mark.parametrize("num_words", [0, 1, 75, 76, 150, 151, 225])
def test_chunks_hold_every_token_in_order(family: StableDiffusion, num_words: int) -> None:
    tokenizer, text = family.tokenizers[0], sentence(num_words)
    tokens = tokenize([tokenizer], [text], num_chunks=3)
    assert tokens.cut == [""]
    chunks = tokens.ids.reshape(3, 77).tolist()
    found = []
    for chunk in chunks:
        end = chunk.index(tokenizer.eos_token_id)
        assert chunk[0] == tokenizer.bos_token_id
        assert set(chunk[end:]) <= {tokenizer.eos_token_id, tokenizer.pad_token_id}
        found += chunk[1:end]
    assert found == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_what_is_cut_is_quoted(family: StableDiffusion) -> None:
    text = sentence(160)
    kept = " ".join(text.split()[:150])
    tokens = tokenize(family.tokenizers, [text, kept], num_chunks=2)
    lost = "".join(text.split()[150:])
    assert "".join(tokens.cut[0].replace("</w>", "").split()) == lost
    assert tokens.cut[1] == ""
    assert torch.equal(tokens.ids[0], tokens.ids[1])


def test_chunks_are_encoded_each_alone(family: StableDiffusion) -> None:
    ids = token_ids(family.tokenizers, 2, [sentence(100), "a"])
    together = family.encode_prompts(ids)
    assert together.shape == (2, 154, 16)
    alone = torch.cat([family.encode_prompts(ids[:, :77]), family.encode_prompts(ids[:, 77:])], 1)
    # float32, and other kernels for another batch size
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)

"""The tokenizer knows every text and is short on captions."""

from pathlib import Path

import pytest
from transformers import CLIPTokenizer

from sdlora.world.portraits import HELD_OUT_SEEDS, caption, random_scene
from sdlora.world.training.tokenizer import build_tokenizer


@pytest.fixture(scope="module")
def tokenizer(repository: Path) -> CLIPTokenizer:
    folder = repository / "sdlora" / "assets" / "tiny-sd" / "tokenizer"
    return CLIPTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("text", ["naïve café", "日本語 テスト", "🙂 zxqv", "a man's hat, 1999!"])
def test_any_text_comes_back(tokenizer: CLIPTokenizer, text: str) -> None:
    ids = tokenizer(text).input_ids

    assert tokenizer.eos_token_id not in ids[1:-1]  # which is also what unknown would be
    decoded = tokenizer.decode(ids, skip_special_tokens=True)
    assert decoded.replace(" ", "") == text.replace(" ", "")


def test_captions_take_one_token_a_word(tokenizer: CLIPTokenizer) -> None:
    for seed in HELD_OUT_SEEDS[:200]:
        text = caption(random_scene(seed), seed)
        num_words = len(text.replace(",", " ,").split())

        assert len(tokenizer(text).input_ids) == num_words + 2


def test_pads_to_77_with_the_end_token(tokenizer: CLIPTokenizer) -> None:
    ids = tokenizer("a man", padding="max_length", truncation=True).input_ids

    assert len(ids) == 77
    assert set(ids[3:]) == {tokenizer.eos_token_id}


def test_built_tokenizer_knows_captions_and_any_text(tmp_path: Path) -> None:
    built = build_tokenizer(tmp_path, num_captions=300)

    assert len(built(["a smiling woman in a green shirt"]).input_ids[0]) == 7 + 2
    assert built.decode(built("ä🙂").input_ids, skip_special_tokens=True).replace(" ", "") == "ä🙂"
    assert built.eos_token_id == len(built) - 1

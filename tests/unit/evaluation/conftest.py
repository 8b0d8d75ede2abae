"""Random small models: a CLIP in Hugging Face layout, and a face network where deepface looks."""

import string
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.unit.evaluation.random_deepface import write_weights

MAX_TOKENS = 12


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights, tokenizer (single letters) and picture preparation of a random CLIP."""
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    letters = [letter + end for letter in string.ascii_lowercase for end in ("", "</w>")]
    vocabulary = [*letters, "<|startoftext|>", "<|endoftext|>"]
    start, end = len(letters), len(letters) + 1
    tiny = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    config = CLIPConfig(
        text_config={
            **tiny,
            "vocab_size": len(vocabulary),
            "max_position_embeddings": MAX_TOKENS,
            "bos_token_id": start,
            "eos_token_id": end,
            "pad_token_id": end,
        },
        vision_config={**tiny, "image_size": 32, "patch_size": 8},
        projection_dim=8,
    )
    folder = tmp_path_factory.mktemp("clip")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        CLIPModel(config).save_pretrained(folder)
    side = {"height": 32, "width": 32}
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=side).save_pretrained(folder)
    ids = {token: index for index, token in enumerate(vocabulary)}
    CLIPTokenizer(vocab=ids, merges=[], model_max_length=MAX_TOKENS).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where deepface finds a random GhostFaceNet, and no other weights."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEEPFACE_HOME", str(folder))
        patch.setenv("DEEPFACE_BACKEND_ENGINE", "pytorch")
        write_weights(folder)
        yield folder

"""The outline of the small flow base, and its language model."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, ZImageTransformer2DModel
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3ForCausalLM

from sdlora.models.chat import ChatTokenizer
from sdlora.world.portraits import caption, random_scene
from sdlora.world.training.fitting import Recipe
from sdlora.world.training.flow_outline import MAX_LENGTH, write_flow_outline
from sdlora.world.training.language_model import LanguageFit, repeated_captions


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("outline") / "tiny-flow"
    write_flow_outline(folder, num_captions=300)
    return folder


def tokenizer_of(folder: Path) -> Qwen2Tokenizer:
    found: Qwen2Tokenizer = Qwen2Tokenizer.from_pretrained(folder / "tokenizer")
    return found


def test_any_text_goes_through_the_tokenizer(folder: Path) -> None:
    tokenizer = tokenizer_of(folder)
    for text in ("a man with brown hair", "Zoë's 東京 ☂", "A\nB"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    ids, cut = ChatTokenizer(tokenizer, True, MAX_LENGTH).encode(["a red hat"])
    words = tokenizer.convert_ids_to_tokens(ids[0][:12].tolist())
    assert words[:3] == ["<|im_start|>", "user", "Ċ"]
    assert cut == [""]


def test_the_parts_fit_each_other(folder: Path) -> None:
    config = ZImageTransformer2DModel.load_config(folder / "transformer")
    with torch.device("meta"):
        transformer = ZImageTransformer2DModel.from_config(config)
    assert 5.0e6 < sum(weight.numel() for weight in transformer.parameters()) < 5.5e6
    vae = AutoencoderKL.from_pretrained(folder / "vae")
    text = Qwen3Config.from_pretrained(folder / "text_encoder")
    assert transformer.config.in_channels == vae.config.latent_channels
    assert vae.config.shift_factor == 0.0
    assert transformer.config.cap_feat_dim == text.hidden_size
    assert text.vocab_size == len(tokenizer_of(folder))


def test_the_language_model_learns_captions(folder: Path) -> None:
    tokenizer = tokenizer_of(folder)
    ids = repeated_captions(tokenizer, list(range(32)))
    padding = tokenizer.pad_token_id
    assert isinstance(padding, int)
    torch.manual_seed(0)
    net = Qwen3ForCausalLM(Qwen3Config.from_pretrained(folder / "text_encoder"))
    module = LanguageFit(net, ids, padding, Recipe(num_steps=20, batch_size=8, max_lr=3e-3))
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    losses = []
    for step in range(12):
        loss = module.training_step(torch.arange(8) + 8 * (step % 4), step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert tokenizer.decode(ids[0]).count(caption(random_scene(0), 0)) == 2

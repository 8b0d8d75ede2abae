"""Outline of a small flow base: Z-Image's layout with small sizes, its tokenizer and configs."""

import json
import shutil
from pathlib import Path
from typing import Any

from diffusers import FlowMatchEulerDiscreteScheduler, ZImageTransformer2DModel
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import Qwen2Tokenizer, Qwen3Config

from sdlora.runtime.files import write_json
from sdlora.runtime.places import ASSETS
from sdlora.world.training.tokenizer import NUM_CAPTIONS, training_texts

WIDTH = 128
"""Width of the text encoder."""

NUM_TOKENS = 1_200
END, BEGIN_TURN, END_TURN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
MAX_LENGTH = 512

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""A chat of turns in Qwen's form."""


def transformer_config() -> dict[str, object]:
    """A transformer of about 5 M parameters over 16x16 latents of 4 channels, in 64 patches."""
    return {
        "in_channels": 4,
        "dim": 192,
        "n_layers": 6,
        "n_refiner_layers": 1,
        "n_heads": 6,
        "n_kv_heads": 6,
        "cap_feat_dim": WIDTH,
        "axes_dims": [8, 12, 12],
        "axes_lens": [1024, 64, 64],
    }


def text_config(tokenizer: Qwen2Tokenizer) -> Qwen3Config:
    """A language model of three layers for ``tokenizer``."""
    return Qwen3Config(
        architectures=["Qwen3Model"],
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=WIDTH // 4,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        initializer_range=WIDTH**-0.5,  # Qwen's 0.02 is for wide layers: words would begin alike
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )


def build_chat_tokenizer(folder: Path, num_captions: int = NUM_CAPTIONS) -> Qwen2Tokenizer:
    """Train a byte-level BPE and write it to ``folder`` as Qwen's, with a chat template.

    Every byte is a token. Ties are not deterministic, as in
    :func:`sdlora.world.training.tokenizer.build_tokenizer`.

    Args:
        folder: Gets the tokenizer's files.
        num_captions: Number of captions it is trained on.
    """
    learner = Tokenizer(BPE())
    learner.pre_tokenizer = ByteLevel(add_prefix_space=False)
    trainer = BpeTrainer(
        vocab_size=NUM_TOKENS,
        min_frequency=10,
        initial_alphabet=sorted(ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = [*training_texts(num_captions), *["user", "assistant"] * 100]
    learner.train_from_iterator([*texts, *(f" {text}" for text in texts)], trainer)
    model = json.loads(learner.to_str())["model"]
    merges: Any = [tuple(pair) for pair in model["merges"]]  # its annotation says text
    tokenizer = Qwen2Tokenizer(vocab=model["vocab"], merges=merges, model_max_length=MAX_LENGTH)
    tokenizer.add_special_tokens({"additional_special_tokens": [BEGIN_TURN, END_TURN]})
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    return Qwen2Tokenizer.from_pretrained(folder)


MODEL_INDEX = {
    "_class_name": "ZImagePipeline",
    "_diffusers_version": "0.36.0",
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "Qwen3Model"],
    "tokenizer": ["transformers", "Qwen2Tokenizer"],
    "transformer": ["diffusers", "ZImageTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def write_flow_outline(folder: Path, num_captions: int = NUM_CAPTIONS) -> None:
    """Write tokenizer, configs and the VAE of the embedded UNet base; no other weights.

    Args:
        folder: The folder of the base, which becomes whole when its nets are trained.
        num_captions: Number of captions that the tokenizer is trained on.
    """
    tokenizer = build_chat_tokenizer(folder / "tokenizer", num_captions)
    text_config(tokenizer).save_pretrained(folder / "text_encoder")
    transformer = ZImageTransformer2DModel(**transformer_config())
    transformer.save_config(folder / "transformer")
    FlowMatchEulerDiscreteScheduler().save_pretrained(folder / "scheduler")
    vae = folder / "vae"
    shutil.copytree(ASSETS / "tiny-sd" / "vae", vae, dirs_exist_ok=True)
    config = json.loads((vae / "config.json").read_text("utf-8"))
    write_json(vae / "config.json", config | {"shift_factor": 0.0})
    write_json(folder / "model_index.json", MODEL_INDEX)

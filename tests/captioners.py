"""Random captioners in the folder layouts of the Hub: BLIP, Florence-2, Qwen2-VL."""

from pathlib import Path
from typing import Any

import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    BartTokenizer,
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipProcessor,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    Qwen2Tokenizer,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

WORDS = (
    *("a", "the", "man", "woman", "with", "red", "blue", "green", "hair"),
    *("shirt", "hat", "picture", "of", "on", "in", "sky", "tree"),
)

CHAT = (
    "{% for turn in messages %}<|im_start|>{{ turn['role'] }}\n{% for part in turn['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}"
    "{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Qwen-VL's chat template, without its part for films."""


def write_random_blip(folder: Path, seed: int = 0) -> Path:
    """Write a random BLIP of 17 words."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]"]
    tokenizer = BertTokenizer(vocab={word: n for n, word in enumerate([*special, *WORDS])})
    tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    layers = {"intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BlipConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 16,
            "encoder_hidden_size": 16,
            "projection_dim": 8,
            "max_position_embeddings": 64,
            "bos_token_id": tokenizer.bos_token_id,
            "pad_token_id": 0,
            "eos_token_id": 3,
            "sep_token_id": 3,
            **layers,
        },
        vision_config={"hidden_size": 16, "image_size": 16, "patch_size": 8, **layers},
        projection_dim=8,
    )
    processor = BlipProcessor(BlipImageProcessorPil(size={"height": 16, "width": 16}), tokenizer)
    return _written(folder, BlipForConditionalGeneration, config, seed, processor)


def write_random_florence2(folder: Path, seed: int = 0) -> Path:
    """Write a random Florence-2 that writes bytes; a picture is 17 tokens."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = BartTokenizer(
        vocab={token: n for n, token in enumerate([*special, *sorted(ByteLevel.alphabet())])},
        merges=[],
        extra_special_tokens={"image_token": "<image>"},
    )
    ids = {
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
    }
    config = Florence2Config(
        vision_config={
            "depths": [1, 1],
            "patch_size": [7, 3],
            "patch_stride": [4, 2],
            "patch_padding": [3, 1],
            "patch_prenorm": [False, True],
            "embed_dim": [8, 16],
            "num_heads": [1, 2],
            "num_groups": [1, 2],
            "window_size": 4,
            "projection_dim": 16,
            "drop_path_rate": 0.0,
        },
        text_config={
            "model_type": "bart",
            "vocab_size": len(tokenizer),
            "d_model": 16,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 16,
            "decoder_ffn_dim": 16,
            "max_position_embeddings": 256,
            **ids,
        },
        image_token_id=tokenizer.image_token_id,
        **ids,
    )
    side = {"height": 32, "width": 32}
    pictures = CLIPImageProcessorPil(
        size=side, crop_size=side, do_center_crop=False, image_seq_length=17
    )
    processor = Florence2Processor(pictures, tokenizer)
    return _written(folder, Florence2ForConditionalGeneration, config, seed, processor)


def write_random_qwen_vl(folder: Path, seed: int = 0, template: str | None = CHAT) -> Path:
    """Write a random Qwen2-VL that writes bytes; files are those of the Hub, films left out."""
    marks = ("vision_start", "vision_end", "image_pad", "video_pad")
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|{mark}|>" for mark in marks)]
    tokenizer = Qwen2Tokenizer(
        vocab={token: n for n, token in enumerate(sorted(ByteLevel.alphabet()))},
        merges=[],
        model_max_length=4096,
    )
    tokenizer.add_special_tokens({"additional_special_tokens": special[1:]})
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in special}
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [1, 1, 2],
            },
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
        },
        vision_config={
            "depth": 1,
            "embed_dim": 16,
            "hidden_size": 16,
            "num_heads": 2,
            "mlp_ratio": 1,
            "patch_size": 4,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    tokenizer.chat_template = template
    pixels = {"shortest_edge": 64, "longest_edge": 1024}
    pictures = Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, size=pixels)
    pictures.save_pretrained(folder)
    return _written(folder, Qwen2VLForConditionalGeneration, config, seed, tokenizer)


def _written(folder: Path, network: Any, config: Any, seed: int, processor: Any) -> Path:
    """Write a network, whose weights are so large that pictures change its words."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = network(config)
        for weight in model.parameters():
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, std=0.5)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder

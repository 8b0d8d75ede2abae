"""Random models in the folder layouts of Z-Image and FLUX.2 klein, small enough to train."""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3ForCausalLM, Qwen3Model

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}"
)
"""What Qwen3's own does with one user turn."""

LEVELS = {
    "block_out_channels": (8, 8, 8, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "norm_num_groups": 4,
    "layers_per_block": 1,
    "sample_size": 64,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}


def write_random_z_image(folder: Path, seed: int = 0) -> Path:
    """Write a random Z-Image; latents are an eighth of a picture's side, tokens a sixteenth."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = _tokenizer()
        transformer = ZImageTransformer2DModel(
            dim=64, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=16,
            axes_dims=[16, 8, 8],
        )  # fmt: skip
        for token in (transformer.x_pad_token, transformer.cap_pad_token):
            nn.init.normal_(token)  # zeros would hide what is padded
        ZImagePipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=AutoencoderKL(
                latent_channels=16, scaling_factor=0.3611, shift_factor=0.1159, **LEVELS
            ),
            text_encoder=_spread(Qwen3Model(_text_config(len(tokenizer), 3))),
            tokenizer=tokenizer,
            transformer=transformer,
        ).save_pretrained(folder)
    return folder


def write_random_klein(folder: Path, seed: int = 0) -> Path:
    """Write a random FLUX.2 klein; latents of the denoiser are a sixteenth of a picture's side."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = _tokenizer()
        vae = AutoencoderKLFlux2(latent_channels=8, **LEVELS)
        nn.init.normal_(vae.bn.running_mean)
        nn.init.uniform_(vae.bn.running_var, 0.5, 2.0)
        Flux2KleinPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
            vae=vae,
            text_encoder=_spread(Qwen3ForCausalLM(_text_config(len(tokenizer), 30))),
            tokenizer=tokenizer,
            transformer=Flux2Transformer2DModel(
                in_channels=32,
                num_layers=1,
                num_single_layers=2,
                attention_head_dim=16,
                num_attention_heads=2,
                joint_attention_dim=3 * 16,
                timestep_guidance_channels=32,
                axes_dims_rope=(4, 4, 4, 4),
                guidance_embeds=False,
            ),
        ).save_pretrained(folder)
    return folder


def _tokenizer() -> Qwen2Tokenizer:
    """A vocabulary of bytes, with Qwen3's special tokens and a chat template."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {token: number for number, token in enumerate(sorted(ByteLevel.alphabet()))}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[], model_max_length=4096)
    tokenizer.add_special_tokens({"additional_special_tokens": special[1:]})
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def _spread(encoder: Any) -> Any:
    """A language model whose layers differ: the usual start leaves all states nearly the same."""
    for weight in encoder.parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, std=0.3)
    return encoder


def _text_config(num_tokens: int, num_layers: int) -> Any:
    return Qwen3Config(
        vocab_size=num_tokens,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=num_layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        tie_word_embeddings=True,
    )

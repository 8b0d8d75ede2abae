"""A random Stable Diffusion in the SD1.5 folder layout, small enough to train in a second."""

import string
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)


def write_random_base(folder: Path, seed: int = 0) -> Path:
    """Write a pipeline of random weights; latents are a quarter of a picture's side."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = _letter_tokenizer()
        pipeline = StableDiffusionPipeline(
            vae=_vae(),
            text_encoder=CLIPTextModel(_text_config(len(tokenizer))),
            unet=_unet(),
            tokenizer=tokenizer,
            scheduler=_scheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipeline.save_pretrained(folder)
    return folder


def write_random_xl(folder: Path, seed: int = 0) -> Path:
    """Write a random Stable Diffusion XL; its second tokenizer pads with ``!``, as the real one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer, tokenizer_2 = _letter_tokenizer(), _letter_tokenizer(pad_token="!")
        pipeline = StableDiffusionXLPipeline(
            vae=_vae(),
            text_encoder=CLIPTextModel(_text_config(len(tokenizer))),
            text_encoder_2=CLIPTextModelWithProjection(
                _text_config(len(tokenizer), hidden_size=24, projection_dim=20)
            ),
            unet=_unet(
                cross_attention_dim=16 + 24,
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=20 + 6 * 8,
                transformer_layers_per_block=(1, 2),
            ),
            tokenizer=tokenizer,
            tokenizer_2=tokenizer_2,
            scheduler=_scheduler(),
            add_watermarker=False,
        )
    pipeline.save_pretrained(folder)
    return folder


def _scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def _letter_tokenizer(**options: str) -> CLIPTokenizer:
    letters = [letter + end for letter in string.printable[:94] for end in ("", "</w>")]
    vocabulary = [*letters, "<|startoftext|>", "<|endoftext|>"]
    ids = {token: index for index, token in enumerate(vocabulary)}
    return CLIPTokenizer(vocab=ids, merges=[], model_max_length=77, **options)


def _text_config(num_tokens: int, **changed: int) -> CLIPTextConfig:
    values = {
        "vocab_size": num_tokens,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 77,
        "bos_token_id": num_tokens - 2,
        "eos_token_id": num_tokens - 1,
        "pad_token_id": num_tokens - 1,
    }
    return CLIPTextConfig(**{**values, **changed})


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=64,
    )


def _unet(**changed: Any) -> UNet2DConditionModel:
    values: dict[str, Any] = dict(
        sample_size=16,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        norm_num_groups=4,
        attention_head_dim=4,
        layers_per_block=1,
    )
    return UNet2DConditionModel(**{**values, **changed})

"""Configurations of the embedded base: those of Stable Diffusion 1.5, with small sizes."""

from pathlib import Path

from diffusers import DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTokenizer

from sdlora.runtime.files import write_json
from sdlora.world.training.tokenizer import build_tokenizer

WIDTH = 128
"""Width of the text encoder and of the UNet's cross-attention."""


def text_config(tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    """A two-layer text encoder for ``tokenizer``, which gives the special tokens' ids."""
    return CLIPTextConfig(
        architectures=["CLIPTextModel"],
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def unet_config() -> dict[str, object]:
    """A UNet of about 7 M parameters over 16x16 latents of 4 channels."""
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D",) * 3,
        up_block_types=("CrossAttnUpBlock2D",) * 3,
        block_out_channels=(64, 128, 128),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )
    return dict(unet.config)


def noise_schedule() -> DDIMScheduler:
    """The noise schedule of Stable Diffusion 1.5."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
    )


MODEL_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.30.0",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def write_outline(folder: Path) -> None:
    """Write the base's tokenizer and the configurations of its parts; no weights.

    Args:
        folder: The folder of the base, which becomes whole when its nets are trained.
    """
    tokenizer = build_tokenizer(folder / "tokenizer")
    text_config(tokenizer).save_pretrained(folder / "text_encoder")
    unet = {k: v for k, v in unet_config().items() if not k.startswith("_")}
    write_json(
        folder / "unet" / "config.json",
        {"_class_name": "UNet2DConditionModel", "_diffusers_version": "0.30.0", **unet},
    )
    noise_schedule().save_pretrained(folder / "scheduler")
    write_json(folder / "model_index.json", MODEL_INDEX)

"""Random models in the folder layouts of SD1.5, SDXL and Kolors, small enough to train in a
second."""

import io
import string
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    KolorsPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig, ChatGLMModel, RMSNorm
from diffusers.pipelines.kolors.tokenizer import ChatGLMTokenizer
from sentencepiece import SentencePieceTrainer
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

TINY_PIXELS = {
    "sample_size": 16,
    "block_out_channels": [8, 16],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 4,
}
"""Architecture of an unconditional model (``model.architecture``) of pictures of 16 pixels."""


def write_random_base(folder: Path, seed: int = 0) -> Path:
    """Write a pipeline of random weights; latents are a quarter of a picture's side."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = _letter_tokenizer()
        pipeline = StableDiffusionPipeline(
            vae=_vae(),
            text_encoder=_text_encoder(len(tokenizer)),
            unet=_unet(),
            tokenizer=tokenizer,
            scheduler=DDIMScheduler(
                beta_start=0.00085,
                beta_end=0.012,
                beta_schedule="scaled_linear",
                clip_sample=False,
                set_alpha_to_one=False,
                steps_offset=1,
            ),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipeline.save_pretrained(folder)
    return folder


def random_xl(seed: int = 0) -> StableDiffusionXLPipeline:
    """SDXL's parts, widths aside: two text encoders, three levels, sizes and pooled text added."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer, tokenizer_2 = _letter_tokenizer(), _letter_tokenizer()
        tokenizer_2.pad_token = "!"  # as SDXL has it
        num_tokens = len(tokenizer)
        return StableDiffusionXLPipeline(
            vae=_vae(),
            text_encoder=CLIPTextModel(_text_config(num_tokens, 16)),
            text_encoder_2=CLIPTextModelWithProjection(_text_config(num_tokens, 24)),
            tokenizer=tokenizer,
            tokenizer_2=tokenizer_2,
            unet=_xl_unet(),
            scheduler=EulerDiscreteScheduler(
                beta_start=0.00085,
                beta_end=0.012,
                beta_schedule="scaled_linear",
                timestep_spacing="leading",
                steps_offset=1,
            ),
            add_watermarker=False,
        )


def write_random_xl(folder: Path, seed: int = 0) -> Path:
    """Write :func:`random_xl` as a diffusers folder; latents are a quarter of a picture's side."""
    random_xl(seed).save_pretrained(folder)
    return folder


def write_random_kolors(folder: Path, seed: int = 0) -> Path:
    """Write a random Kolors as a diffusers folder; latents are a quarter of a picture's side."""
    vocabulary = folder / "tokenizer/tokenizer.model"
    vocabulary.parent.mkdir(parents=True)
    vocabulary.write_bytes(_sentencepiece_model())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        KolorsPipeline(
            vae=_vae(),
            text_encoder=_chat_glm(),
            tokenizer=ChatGLMTokenizer(str(vocabulary)),
            unet=_kolors_unet(),
            scheduler=EulerDiscreteScheduler(  # the real one's numbers
                num_train_timesteps=1100,
                beta_start=0.00085,
                beta_end=0.014,
                beta_schedule="scaled_linear",
                timestep_spacing="leading",
                steps_offset=1,
            ),
        ).save_pretrained(folder)
    return folder


def _sentencepiece_model() -> bytes:
    """A vocabulary of single letters, with ids as ChatGLM's: unknown 0, start 1, end 2."""
    written = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(string.printable[:94]),
        model_writer=written,
        model_type="char",
        vocab_size=98,
        minloglevel=2,
    )
    return written.getvalue()


def _chat_glm() -> ChatGLMModel:
    """Blocks as in ChatGLM3: queries in groups, biases of query, key and value alone."""
    config = ChatGLMConfig(
        num_layers=2,
        padded_vocab_size=112,
        hidden_size=32,
        ffn_hidden_size=32,
        kv_channels=8,
        num_attention_heads=4,
        seq_length=256,
        add_qkv_bias=True,
        multi_query_attention=True,
        multi_query_group_num=2,
        original_rope=True,
    )
    model = ChatGLMModel(config, empty_init=False)
    for module in model.modules():
        if isinstance(module, RMSNorm):  # which leaves them as they lie in memory
            nn.init.ones_(module.weight)
    return model


def _letter_tokenizer() -> CLIPTokenizer:
    letters = [letter + end for letter in string.printable[:94] for end in ("", "</w>")]
    vocabulary = [*letters, "<|startoftext|>", "<|endoftext|>"]
    ids = {token: index for index, token in enumerate(vocabulary)}
    return CLIPTokenizer(vocab=ids, merges=[], model_max_length=77)


def _text_encoder(num_tokens: int) -> CLIPTextModel:
    return CLIPTextModel(_text_config(num_tokens, 16))


def _text_config(num_tokens: int, width: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=num_tokens,
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=77,
        projection_dim=width,
        bos_token_id=num_tokens - 2,
        eos_token_id=num_tokens - 1,
        pad_token_id=num_tokens - 1,
    )


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=64,
    )


def _unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        norm_num_groups=4,
        attention_head_dim=4,
        layers_per_block=1,
    )


def _xl_unet() -> UNet2DConditionModel:
    """Told of a prompt by token embeddings and a pooled embedding of other widths."""
    return _sized_unet(cross_attention_dim=16 + 24, pooled=24)


def _kolors_unet() -> UNet2DConditionModel:
    """Told of a prompt by states of one width, which it projects itself."""
    text = {"encoder_hid_dim": 32, "encoder_hid_dim_type": "text_proj"}
    return _sized_unet(cross_attention_dim=24, pooled=32, **text)


def _sized_unet(cross_attention_dim: int, pooled: int, **text: object) -> UNet2DConditionModel:
    """Blocks as in SDXL: no attention at the top, then one and two transformer layers."""
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(8, 16, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 2),
        attention_head_dim=(1, 2, 2),
        cross_attention_dim=cross_attention_dim,
        norm_num_groups=4,
        layers_per_block=2,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=pooled + 6 * 4,
        **text,
    )

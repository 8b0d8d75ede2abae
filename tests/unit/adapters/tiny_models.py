"""A tiny Stable Diffusion with random weights, and adapters on it that do something."""

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from sdlora.adapters.lora import add_lora, lora_parameters
from sdlora.adapters.spec import LoraSpec

LENGTH = 8
ATTENTION = {
    "unet": ("to_q", "to_k", "to_v", "to_out.0"),
    "text_encoder": ("q_proj", "k_proj", "v_proj", "out_proj"),
}
EVERYTHING = {
    "unet": (
        *ATTENTION["unet"],
        *("ff.net.0.proj", "ff.net.2", "proj_in", "proj_out", "time_emb_proj"),
        *("conv_in", "conv_out", "conv1", "conv2", "conv_shortcut", "conv"),
        *("time_embedding.linear_1", "time_embedding.linear_2"),
    ),
    "text_encoder": (*ATTENTION["text_encoder"], "fc1", "fc2"),
}


def tiny_unet(seed: int = 0, linear_projection: bool = False) -> UNet2DConditionModel:
    torch.manual_seed(seed)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=8,
        use_linear_projection=linear_projection,
    )


def tiny_text_encoder(seed: int = 0) -> CLIPTextModel:
    torch.manual_seed(seed)
    config = CLIPTextConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
    )
    return CLIPTextModel(config).eval()


def tiny_tokenizer(folder: Path) -> CLIPTokenizer:
    """A tokenizer of single letters."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = ["<|startoftext|>", "<|endoftext|>", *letters[:20], *(f"{a}</w>" for a in letters)]
    vocabulary = {word: index for index, word in enumerate(words)}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    return CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=LENGTH
    )


def tiny_pipeline(folder: Path, dtype: torch.dtype = torch.float32) -> StableDiffusionPipeline:
    """The same weights at every call."""
    torch.manual_seed(2)
    vae = AutoencoderKL(
        block_out_channels=(16, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=8,
    )
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=tiny_text_encoder().to(dtype),
        tokenizer=tiny_tokenizer(folder),
        unet=nn.Module.to(tiny_unet(), dtype),
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def randomise(module: nn.Module, seed: int = 9) -> nn.Module:
    """Move the adapter off zero, so that it does something."""
    draws = torch.Generator().manual_seed(seed)
    for name, parameter in lora_parameters(module).items():
        if "magnitude" in name:
            parameter.data.mul_(1 + 0.2 * torch.rand(parameter.shape, generator=draws))
        else:
            parameter.data.copy_(torch.randn(parameter.shape, generator=draws) * 0.2)
    return module


def with_lora(module: nn.Module, part: str, targets: dict[str, tuple[str, ...]], **spec: object):
    """``module`` with a LoRA whose alpha is not its rank."""
    values: dict = {"r": 4, "alpha": 6.0, "dropout": 0.0, "targets": targets[part], **spec}
    return randomise(add_lora(module, LoraSpec(**values), seed=1))


@torch.no_grad()
def outputs(unet: nn.Module | None = None, text_encoder: nn.Module | None = None) -> torch.Tensor:
    """What the parts give on one input, as one vector."""
    draws = torch.Generator().manual_seed(3)
    found = []
    if unet is not None:
        z_t = torch.randn(2, 4, 8, 8, generator=draws)
        context = torch.randn(2, LENGTH, 16, generator=draws)
        found.append(unet.eval()(z_t, torch.tensor([3, 700]), context).sample.flatten())
    if text_encoder is not None:
        ids = torch.randint(0, 50, (2, LENGTH), generator=draws)
        found.append(text_encoder.eval()(ids).last_hidden_state.flatten())
    return torch.cat(found)

"""The family Stable Diffusion XL: two text encoders, pooled embedding, size conditioning."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from sdlora.models.description import FamilyDescription, PartNames
from sdlora.models.family import input_dtype
from sdlora.models.latent import LatentFamily, latent_misfit
from sdlora.models.original_names import sdxl_layer
from sdlora.models.sd import sampling_scheduler


class StableDiffusionXL(LatentFamily):
    """Stable Diffusion XL.

    A row of its conditioning is a token's embedding by both encoders, concatenated; the last row is
    the pooled embedding of the second encoder, padded with zeros.

    Args:
        vae: Pictures <-> latents; its own weights overflow in half precision.
        text_encoder: CLIP ViT-L.
        text_encoder_2: OpenCLIP bigG, with the projection that gives the pooled embedding.
        unet: The denoiser.
        tokenizer: Tokenizer of the first encoder.
        tokenizer_2: Tokenizer of the second, which has another padding token.
        noise_schedule_config: The ``scheduler_config.json`` as a mapping.
        clip_skip: Number of last layers to skip besides the last one, which SDXL never uses.

    Source:
        Podell et al. 2023, arXiv:2307.01952.
    """

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        text_encoder_2: CLIPTextModelWithProjection,
        unet: UNet2DConditionModel,
        tokenizer: CLIPTokenizer,
        tokenizer_2: CLIPTokenizer,
        noise_schedule_config: Mapping[str, Any],
        clip_skip: int = 0,
    ) -> None:
        super().__init__(vae, unet, [tokenizer, tokenizer_2], noise_schedule_config, clip_skip)
        self.text_encoder = text_encoder
        self.text_encoder_2 = text_encoder_2
        self.requires_grad_(False)
        self.eval()

    @property
    def text_encoders(self) -> dict[str, nn.Module]:
        """Both text encoders."""
        return {"text_encoder": self.text_encoder, "text_encoder_2": self.text_encoder_2}

    def encode_prompts(self, token_ids: Tensor) -> Tensor:
        """Embeddings of both encoders and the pooled one, ``[B, chunks * L + 1, D]``.

        Chunks are encoded separately; the first gives the pooled embedding.
        """
        longest = self.text_encoder.config.max_position_embeddings
        hidden: list[Tensor] = []
        for encoder, ids in zip(self._encoders(), token_ids.chunk(2, dim=1), strict=True):
            chunks = ids.unflatten(1, (-1, longest))  # [B, chunks, L]
            output = encoder(chunks.flatten(0, 1), output_hidden_states=True)
            state = output.hidden_states[-(self.clip_skip + 2)]
            hidden.append(state.unflatten(0, chunks.shape[:2]).flatten(1, 2))
            pooled = output[0].unflatten(0, chunks.shape[:2])[:, 0]  # of the second encoder: [B, P]
        embeddings = torch.cat([state.to(pooled.dtype) for state in hidden], dim=2)
        last = F.pad(pooled, (0, embeddings.shape[2] - pooled.shape[1]))
        return torch.cat([embeddings, last[:, None]], dim=1)

    def denoise(
        self, z_t: Tensor, t: Tensor, conditioning: Tensor, sizes: Tensor | None = None
    ) -> Tensor:
        """The UNet's prediction at noise level ``t``, float32, shaped like ``z_t``."""
        prompts = self.prompt_arguments(conditioning)
        return denoise_sized(self.unet, z_t, t, prompts, sizes)

    def prompt_arguments(self, conditioning: Tensor) -> dict[str, Tensor]:
        """Token embeddings and pooled embedding."""
        width = self.text_encoder_2.text_projection.out_features
        return {
            "prompt_embeds": conditioning[:, :-1],
            "pooled_prompt_embeds": conditioning[:, -1, :width],
        }

    def pipeline(self) -> StableDiffusionXLPipeline:
        """A diffusers pipeline that shares these very modules (no copies)."""
        return StableDiffusionXLPipeline(
            vae=self.vae,
            text_encoder=self.text_encoder,
            text_encoder_2=self.text_encoder_2,
            tokenizer=self.tokenizers[0],
            tokenizer_2=self.tokenizers[1],
            unet=self.unet,
            scheduler=sampling_scheduler(self.noise_schedule_config),
            add_watermarker=False,
        )

    def _encoders(self) -> Sequence[nn.Module]:
        return self.text_encoder, self.text_encoder_2


def denoise_sized(
    unet: UNet2DConditionModel,
    z_t: Tensor,
    t: Tensor,
    prompts: Mapping[str, Tensor],
    sizes: Tensor | None,
) -> Tensor:
    """The prediction of a UNet with size conditioning and pooled embedding.

    Args:
        unet: The denoiser, with ``addition_embed_type: text_time``.
        z_t: Noisy latents, ``[B, C, h, w]``.
        t: Timesteps, ``[B]``.
        prompts: ``prompt_embeds`` ``[B, L, D]`` and ``pooled_prompt_embeds`` ``[B, P]``.
        sizes: Size conditioning as in ``Family.denoise``, ``[B, 6]``.

    Returns:
        Float32, shaped like ``z_t``.
    """
    assert sizes is not None, "this UNet needs the sizes of pictures"
    dtype = input_dtype(unet)
    added = {
        "text_embeds": prompts["pooled_prompt_embeds"].to(dtype),
        "time_ids": sizes.to(z_t.device),
    }
    embeddings = prompts["prompt_embeds"].to(dtype)
    return unet(z_t.to(dtype), t, embeddings, added_cond_kwargs=added).sample.float()


def _has_denoiser(unet: Mapping[str, Any]) -> bool:
    is_sized = unet.get("addition_embed_type") == "text_time"
    return is_sized and unet.get("encoder_hid_dim_type") != "text_proj"


SDXL = FamilyDescription(
    name="sdxl",
    kind="Stable Diffusion XL",
    make=StableDiffusionXL,
    parts={
        "vae": AutoencoderKL,
        "text_encoder": CLIPTextModel,
        "text_encoder_2": CLIPTextModelWithProjection,
        "unet": UNet2DConditionModel,
    },
    tokenizers={"tokenizer": CLIPTokenizer, "tokenizer_2": CLIPTokenizer},
    trainable={
        "text_encoder": PartNames(
            kohya=("lora_te1_", "lora_te_"), is_clip=True, embedding="clip_l"
        ),
        "text_encoder_2": PartNames(
            kohya=("lora_te2_",), is_clip=True, is_nested=True, embedding="clip_g"
        ),
        "unet": PartNames(kohya=("lora_unet_",), layer=sdxl_layer),
    },
    misfit=latent_misfit,
    has_denoiser=_has_denoiser,
    pipeline="StableDiffusionXLPipeline",
    side_step_px=32,
    hub_tag="stable-diffusion-xl",
    versions=lambda *_: ("sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora"),
    from_single_file=StableDiffusionXLPipeline.from_single_file,
    single_file_text="conditioner.embedders.",
    usual_vae="madebyollin/sdxl-vae-fp16-fix",
    is_clip=True,
    unused_clip_layers=1,
)

"""The family Stable Diffusion 1.x / 2.x: one VAE, one CLIP text encoder, one UNet."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from sdlora.models.description import FamilyDescription, PartNames
from sdlora.models.family import input_dtype
from sdlora.models.latent import LatentFamily, latent_misfit
from sdlora.models.original_names import kohya_layer


class StableDiffusion(LatentFamily):
    """Stable Diffusion 1.x or 2.x; a row of its conditioning is a token's embedding.

    Args:
        vae: Pictures <-> latents.
        text_encoder: Token ids -> embeddings.
        unet: The denoiser.
        tokenizer: Captions -> token ids.
        noise_schedule_config: The ``scheduler_config.json`` as a mapping.
        clip_skip: Number of the text encoder's last layers to skip.
    """

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        unet: UNet2DConditionModel,
        tokenizer: CLIPTokenizer,
        noise_schedule_config: Mapping[str, Any],
        clip_skip: int = 0,
    ) -> None:
        super().__init__(vae, unet, [tokenizer], noise_schedule_config, clip_skip)
        self.text_encoder = text_encoder
        self.requires_grad_(False)
        self.eval()

    @property
    def text_encoders(self) -> dict[str, nn.Module]:
        """The one text encoder."""
        return {"text_encoder": self.text_encoder}

    def encode_prompts(self, token_ids: Tensor) -> Tensor:
        """Text embeddings ``[B, L, D]`` of token ids ``[B, L]``; chunks are encoded separately."""
        longest = self.text_encoder.config.max_position_embeddings
        if token_ids.shape[1] <= longest:
            return self._encode_chunk(token_ids)
        chunks = token_ids.unflatten(1, (-1, longest))  # [B, chunks, L]
        return self._encode_chunk(chunks.flatten(0, 1)).unflatten(0, chunks.shape[:2]).flatten(1, 2)

    def _encode_chunk(self, token_ids: Tensor) -> Tensor:
        if not self.clip_skip:
            return self.text_encoder(token_ids).last_hidden_state
        states = self.text_encoder(token_ids, output_hidden_states=True).hidden_states
        return self._final_layer_norm(states[-(self.clip_skip + 1)])

    def denoise(
        self, z_t: Tensor, t: Tensor, conditioning: Tensor, sizes: Tensor | None = None
    ) -> Tensor:
        """The UNet's prediction at noise level ``t``, float32; sizes are not used."""
        dtype = input_dtype(self.unet)
        return self.unet(z_t.to(dtype), t, conditioning.to(dtype)).sample.float()

    def prompt_arguments(self, conditioning: Tensor) -> dict[str, Tensor]:
        """The embeddings."""
        return {"prompt_embeds": conditioning}

    def pipeline(self) -> StableDiffusionPipeline:
        """A diffusers pipeline that shares these very modules (no copies)."""
        return StableDiffusionPipeline(
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizers[0],
            unet=self.unet,
            scheduler=sampling_scheduler(self.noise_schedule_config),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )

    def _final_layer_norm(self, hidden: Tensor) -> Tensor:
        encoder = getattr(self.text_encoder, "text_model", self.text_encoder)
        return encoder.final_layer_norm(hidden)


def sampling_scheduler(noise_schedule_config: Mapping[str, Any]) -> DDIMScheduler:
    """The sampling scheduler of exported pipelines."""
    config = {**DDPMScheduler.from_config(dict(noise_schedule_config)).config}
    return DDIMScheduler.from_config(config)


SD2_TEXT_WIDTH = 1024
"""Text encoder width of Stable Diffusion 2 (OpenCLIP ViT-H); that of 1 is 768."""


def _versions(text_width: int, prediction_type: str) -> tuple[str, str]:
    is_v = prediction_type == "v_prediction"
    if text_width == SD2_TEXT_WIDTH:
        side = "768-v" if is_v else "512"
        return "sd_v2_v" if is_v else "sd_v2", f"stable-diffusion-v2-{side}/lora"
    return "sd_v1_v" if is_v else "sd_v1", "stable-diffusion-v1/lora"


def _has_denoiser(unet: Mapping[str, Any]) -> bool:
    """Whether a UNet takes neither SDXL's size conditioning nor a language model's states."""
    is_sized = unet.get("addition_embed_type") == "text_time"
    return not is_sized and unet.get("encoder_hid_dim_type") != "text_proj"


SD = FamilyDescription(
    name="sd",
    kind="Stable Diffusion 1.x or 2.x",
    make=StableDiffusion,
    parts={"vae": AutoencoderKL, "text_encoder": CLIPTextModel, "unet": UNet2DConditionModel},
    tokenizers={"tokenizer": CLIPTokenizer},
    trainable={
        "text_encoder": PartNames(kohya=("lora_te_", "lora_te1_"), is_clip=True),
        "unet": PartNames(kohya=("lora_unet_",), layer=kohya_layer),
    },
    misfit=latent_misfit,
    has_denoiser=_has_denoiser,
    pipeline="StableDiffusionPipeline",
    side_step_px=64,
    hub_tag="stable-diffusion",
    versions=_versions,
    from_single_file=partial(
        StableDiffusionPipeline.from_single_file,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ),
    single_file_text="cond_stage_model.",
    usual_vae="stabilityai/sd-vae-ft-mse",
    is_clip=True,
)

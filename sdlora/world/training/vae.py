"""Training of the base's autoencoder: 64x64 pictures to 16x16 latents of 4 channels and back."""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from sdlora.runtime.randomness import generator
from sdlora.world.portraits import HELD_OUT_SEEDS, TRAIN_SEEDS
from sdlora.world.training.fitting import WORK_FOLDER, Fit, Recipe, fit
from sdlora.world.training.many_portraits import cached, to_tensor

NUM_PICTURES = 12_000
RECIPE = Recipe(num_steps=3_500, batch_size=16, max_lr=2e-3)
KL_WEIGHT = 1e-6
"""Weight of the KL divergence summed over a picture's latents, relative to a mean error per
pixel."""


FIRST_LOG_VARIANCE = -6.0
"""Initial log-variance of the posterior: at the usual 0 its noise hides the picture, and the
decoder learns to ignore it."""


def new_vae() -> AutoencoderKL:
    """An untrained autoencoder of about 0.9 M parameters."""
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 64, 64),
        layers_per_block=1,
        norm_num_groups=16,
        latent_channels=4,
        sample_size=64,
        mid_block_add_attention=False,
    )
    assert vae.quant_conv is not None
    assert vae.quant_conv.bias is not None
    with torch.no_grad():
        vae.quant_conv.bias[4:] += FIRST_LOG_VARIANCE
    return vae


def _edges(pixels: Tensor) -> tuple[Tensor, Tensor]:
    return pixels.diff(dim=2), pixels.diff(dim=3)


def reconstruction_loss(predicted: Tensor, pixels: Tensor) -> Tensor:
    """L1 and squared error of pixels, and L1 of their gradients, which keeps eyes sharp.

    Args:
        predicted: Decoded pixels, ``[B, 3, H, W]``, [-1, 1].
        pixels: The pictures, same shape and range.

    Returns:
        A scalar, the mean over all pixels.
    """
    edges = sum(F.l1_loss(a, b) for a, b in zip(_edges(predicted), _edges(pixels), strict=True))
    return F.l1_loss(predicted, pixels) + 2 * F.mse_loss(predicted, pixels) + edges


class VaeFit(Fit):
    """Training on reconstruction plus a weak KL term."""

    def __init__(self, pixels: Tensor, recipe: Recipe = RECIPE) -> None:
        super().__init__(recipe)
        torch.manual_seed(recipe.seed)
        self.vae = new_vae()
        self.pixels = pixels

    def _forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        posterior = self.vae.encode(x).latent_dist
        z = posterior.mean + posterior.std * noise
        return self.vae.decode(z).sample, posterior.mean, posterior.kl().float().mean()

    def training_step(self, indices: Tensor, step: int) -> Tensor:
        """Loss on the pictures at ``indices``, ``[B]``."""
        x = to_tensor(self.pixels[indices].numpy())
        noise = torch.randn(len(x), 4, 16, 16, generator=generator(0, "posterior", step))
        predicted, mean, kl = self._forward(x, noise)
        error = reconstruction_loss(predicted.float(), x)
        self.print_values({"error": error, "kl": kl, "z_std": mean.float().std()})
        return error + KL_WEIGHT * kl


@torch.no_grad()
def latents_std(vae: AutoencoderKL, pixels: Tensor) -> float:
    """Standard deviation of all latents of the pictures, ``[N, 3, 64, 64]`` in [-1, 1]."""
    latents = [vae.encode(part).latent_dist.mean for part in pixels.split(50)]
    return float(torch.cat(latents).std())


@torch.no_grad()
def reconstruction_psnr(vae: AutoencoderKL, pixels: Tensor) -> float:
    """Mean over pictures of the peak signal-to-noise ratio, in dB.

    Args:
        vae: Encodes to the posterior's mean and decodes.
        pixels: ``[N, 3, 64, 64]`` in [-1, 1].
    """
    errors = []
    for part in pixels.split(50):
        decoded = vae.decode(vae.encode(part).latent_dist.mean).sample.clamp(-1, 1)
        errors.append(((decoded - part) / 2).square().mean(dim=(1, 2, 3)))
    return float((-10 * torch.cat(errors).log10()).mean())


def train_vae(folder: Path, recipe: Recipe = RECIPE) -> dict[str, float]:
    """Train the autoencoder and write it to ``folder`` in the diffusers layout.

    Returns:
        PSNR in dB on held-out drawings, the latents' scale, seconds.
    """
    pixels = cached(WORK_FOLDER, "train", list(TRAIN_SEEDS[:NUM_PICTURES]))
    module = VaeFit(torch.from_numpy(pixels), recipe)
    seconds = fit(module, len(pixels), "vae")
    vae = module.vae.eval()
    scale = 1 / latents_std(vae, to_tensor(pixels[:1000]))
    vae.register_to_config(scaling_factor=round(scale, 5))
    unseen = to_tensor(cached(WORK_FOLDER, "held_out", list(HELD_OUT_SEEDS[:500])))
    measured = {"psnr_db": reconstruction_psnr(vae, unseen), "scale": scale, "seconds": seconds}
    print(json.dumps(measured), flush=True)
    vae.save_pretrained(folder)
    return measured

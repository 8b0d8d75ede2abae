"""Latents, text embeddings, predictions: against formulas by hand and diffusers' pipeline."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from sdlora.adapters.lora import add_lora
from sdlora.adapters.spec import LoraSpec
from sdlora.models.loading import load_family
from sdlora.models.sd import StableDiffusion
from sdlora.models.source import ModelSource


@pytest.fixture(scope="module")
def family(random_base: Path) -> StableDiffusion:
    return load_family(ModelSource(path=str(random_base)), seed=0)


@pytest.fixture(scope="module")
def theirs(random_base: Path) -> StableDiffusionPipeline:
    """The same files, loaded by diffusers alone."""
    return StableDiffusionPipeline.from_pretrained(random_base, local_files_only=True)


def test_the_parts_are_frozen_and_in_eval_mode(family: StableDiffusion) -> None:
    assert not any(parameter.requires_grad for parameter in family.parameters())
    assert not any(module.training for module in family.modules())


def test_sizes_follow_from_the_parts(family: StableDiffusion) -> None:
    # three VAE blocks halve twice, two UNet blocks once; the UNet was made for 16 latents a side
    assert family.latent_scale == 4
    assert family.resolution_step == 8
    assert family.native_resolution_px == 64


def test_latents_by_hand(family: StableDiffusion) -> None:
    mean = torch.tensor([0.5, -1.0, 2.0, 0.0]).view(1, 4, 1, 1)
    logvar = torch.tensor([0.0, math.log(4.0), -100.0, 50.0]).view(1, 4, 1, 1)
    eps = torch.tensor([1.0, -0.5, 1e6, 1.0]).view(1, 4, 1, 1)
    # (mean + sigma eps) 0.18215: (0.5 + 1 * 1), (-1 + 2 * -0.5), then the clamps of the
    # log-variance: (2 + e^-15 * 10^6), (0 + e^10 * 1)
    expected = [1.5, -2.0, 2 + 0.30590232, 22026.4657948]
    got = family.latents(torch.cat([mean, logvar], dim=1), eps)
    assert got.shape == (1, 4, 1, 1)
    assert got.flatten().tolist() == pytest.approx([0.18215 * x for x in expected], rel=1e-6)


def test_latents_against_float64_and_diffusers(family: StableDiffusion) -> None:
    moments = torch.cat([torch.randn(3, 4, 5, 5) * 3, torch.randn(3, 4, 5, 5) * 15], dim=1)
    eps = torch.randn(3, 4, 5, 5)
    got = family.latents(moments, eps)
    mean, logvar = moments.double().chunk(2, dim=1)
    expected = 0.18215 * (mean + logvar.clip(-30, 20).div(2).exp() * eps.double())
    assert got.dtype == torch.float32
    # float32 has 2**-24 = 6e-8 a rounding; exp magnifies that of its argument (up to 15) 15-fold
    torch.testing.assert_close(got.double(), expected, rtol=2e-6, atol=1e-7)
    posterior = DiagonalGaussianDistribution(moments)
    torch.testing.assert_close(got, 0.18215 * (posterior.mean + posterior.std * eps))


def test_low_precision_moments_make_float32_latents(family: StableDiffusion) -> None:
    moments, eps = torch.randn(2, 8, 4, 4), torch.randn(2, 4, 4, 4)
    got = family.latents(moments.bfloat16(), eps)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, family.latents(moments.bfloat16().float(), eps))


def test_latents_have_unit_scale_and_shift_of_newer_vaes(family: StableDiffusion) -> None:
    """SD3's and Flux' VAEs shift as well: (sample - shift) scale, diffusers' convention."""
    vae = AutoencoderKL(
        block_out_channels=(8,),
        norm_num_groups=4,
        latent_channels=4,
        scaling_factor=2.0,
        shift_factor=0.25,
    )
    shifted = StableDiffusion(
        vae, family.text_encoder, family.unet, family.tokenizers[0], family.noise_schedule_config
    )
    moments = torch.tensor([1.0, 0.0]).repeat_interleave(4).view(1, 8, 1, 1)
    got = shifted.latents(moments, torch.full((1, 4, 1, 1), 0.5))
    assert got.flatten().tolist() == [(1.0 + 0.5 - 0.25) * 2.0] * 4


def test_encoding_is_the_vaes_own(family: StableDiffusion, theirs: StableDiffusionPipeline) -> None:
    pixels = torch.rand(2, 3, 32, 24) * 2 - 1
    moments = family.encode_images(pixels)
    assert moments.shape == (2, 8, 8, 6)
    assert moments.dtype == torch.float32
    assert not moments.requires_grad
    with torch.no_grad():
        posterior = theirs.vae.encode(pixels).latent_dist
    torch.testing.assert_close(moments, posterior.parameters)
    generator = torch.Generator().manual_seed(4)
    eps = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(4))
    sample = posterior.sample(generator) * theirs.vae.config.scaling_factor
    torch.testing.assert_close(family.latents(moments, eps), sample)


def test_encoding_takes_any_float_type(family: StableDiffusion) -> None:
    pixels = torch.rand(1, 3, 32, 32) * 2 - 1
    expected = family.encode_images(pixels)
    torch.testing.assert_close(family.encode_images(pixels.double()), expected)


def test_tokens_are_the_tokenizers(family: StableDiffusion) -> None:
    tokens = family.tokenize(["ab", "", "a b"])
    start, end = 188, 189  # after 94 letters, each with and without </w>
    a, a_end, b_end = 20, 21, 23  # printable characters begin with ten digits
    assert tokens.ids.dtype == torch.int64
    assert tokens.ids.shape == (3, 77)
    assert tokens.ids[:, :5].tolist() == [
        [start, a, b_end, end, end],
        [start, end, end, end, end],
        [start, a_end, b_end, end, end],
    ]
    assert (tokens.ids[:, 5:] == end).all()
    assert tokens.cut == ["", "", ""]


@pytest.mark.parametrize(
    ("num_words", "lost"),
    [(74, ""), (75, ""), (76, "l"), (80, "l m n o p")],
)
def test_what_a_cut_caption_loses(family: StableDiffusion, num_words: int, lost: str) -> None:
    """77 tokens are 75 words of one letter between start and end."""
    words = [chr(ord("a") + (i + 14) % 26) for i in range(num_words)]  # word 75 is "l"
    tokens = family.tokenize([" ".join(words), "short"])
    assert tokens.cut == [lost, ""]
    kept = family.tokenizers[0].decode(tokens.ids[0], skip_special_tokens=True).split()
    assert kept == words[:75]
    assert tokens.ids[0, -1] == 189


def test_token_ids_are_those_of_diffusers(
    family: StableDiffusion, theirs: StableDiffusionPipeline
) -> None:
    captions = ["a smiling woman", "", " ".join("x" * 90)]
    expected, _ = theirs.encode_prompt(captions, "cpu", 1, False)
    got = family.encode_prompts(family.tokenize(captions).ids)
    assert got.shape == (3, 77, 16)
    torch.testing.assert_close(got, expected)


@pytest.fixture
def theirs_with_text_model(theirs: StableDiffusionPipeline) -> Iterator[StableDiffusionPipeline]:
    """diffusers 0.42 looks for the final norm where transformers 4 had it."""
    object.__setattr__(theirs.text_encoder, "text_model", theirs.text_encoder)
    yield theirs
    object.__delattr__(theirs.text_encoder, "text_model")


@pytest.mark.parametrize("clip_skip", [1, 2])
def test_clip_skip_is_that_of_diffusers(
    family: StableDiffusion, theirs_with_text_model: StableDiffusionPipeline, clip_skip: int
) -> None:
    skipping = StableDiffusion(
        family.vae,
        family.text_encoder,
        family.unet,
        family.tokenizers[0],
        family.noise_schedule_config,
        clip_skip=clip_skip,
    )
    captions = ["a smiling woman", ""]
    pipeline = theirs_with_text_model
    expected, _ = pipeline.encode_prompt(captions, "cpu", 1, False, clip_skip=clip_skip)
    got = skipping.encode_prompts(skipping.tokenize(captions).ids)
    torch.testing.assert_close(got, expected)
    assert not torch.allclose(got, family.encode_prompts(skipping.tokenize(captions).ids))


def test_skipping_no_layer_by_hand_is_the_last_hidden_state(family: StableDiffusion) -> None:
    """The formula of the skip, with 0 layers left out, meets the plain path."""
    ids = family.tokenize(["abc"]).ids
    states = family.text_encoder(ids, output_hidden_states=True).hidden_states
    assert len(states) == 3  # embeddings, and two layers
    plain = family.encode_prompts(ids)
    torch.testing.assert_close(family._final_layer_norm(states[-1]), plain)


def test_the_prediction_is_the_unets(
    family: StableDiffusion, theirs: StableDiffusionPipeline
) -> None:
    z_t, conditioning = torch.randn(2, 4, 16, 16), torch.randn(2, 77, 16)
    t = torch.tensor([3, 900])
    with torch.no_grad():
        got = family.denoise(z_t, t, conditioning)
        torch.testing.assert_close(got, theirs.unet(z_t, t, conditioning).sample)
        alone = family.denoise(z_t[1:], t[1:], conditioning[1:])
    torch.testing.assert_close(got[1:], alone)  # each sample at its own noise level


def test_a_low_precision_unet_gives_float32(random_base: Path) -> None:
    source = ModelSource(path=str(random_base), frozen_dtype=torch.bfloat16)
    low = load_family(source, seed=0)
    add_lora(low.unet, LoraSpec(r=2, alpha=2.0, dropout=0.0, targets=("to_q", "conv_in")), seed=0)
    z_t, conditioning = torch.randn(1, 4, 16, 16), torch.randn(1, 77, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = low.denoise(z_t, torch.tensor([5]), conditioning)
    assert got.dtype == torch.float32
    full = load_family(ModelSource(path=str(random_base)), seed=0)
    expected = full.denoise(z_t, torch.tensor([5]), conditioning)
    # bfloat16 keeps 8 bits: 0.4 % a rounding, some ten of them one after another
    assert (got - expected).norm() < 0.04 * expected.norm()


def test_the_pipeline_shares_the_modules(family: StableDiffusion) -> None:
    pipeline = family.pipeline()
    assert pipeline.unet is family.unet
    assert pipeline.vae is family.vae
    assert pipeline.text_encoder is family.text_encoder
    assert pipeline.tokenizer is family.tokenizers[0]


def test_the_pipelines_scheduler_has_the_models_noise_schedule(
    family: StableDiffusion, theirs: StableDiffusionPipeline
) -> None:
    scheduler = family.pipeline().scheduler
    torch.testing.assert_close(
        scheduler.alphas_cumprod, theirs.scheduler.alphas_cumprod, rtol=0, atol=0
    )
    for key in ("set_alpha_to_one", "steps_offset", "clip_sample", "prediction_type"):
        assert scheduler.config[key] == theirs.scheduler.config[key], key


def test_v_prediction_reaches_the_pipeline(family: StableDiffusion) -> None:
    config = {**family.noise_schedule_config, "prediction_type": "v_prediction"}
    other = StableDiffusion(
        family.vae, family.text_encoder, family.unet, family.tokenizers[0], config
    )
    assert other.pipeline().scheduler.config.prediction_type == "v_prediction"

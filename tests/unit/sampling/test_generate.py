"""Pictures depend on (prompt, seed) alone; samplers, strength and state behave as promised."""

import copy
import random

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from peft import LoraConfig
from transformers import CLIPTextConfig, CLIPTextModel

from sdlora.models.drawing import Drawing
from sdlora.runtime import randomness
from sdlora.runtime.progress import Progress
from sdlora.sampling import generate as generate_module
from sdlora.sampling.generate import generate
from sdlora.sampling.prompts import Prompt
from sdlora.sampling.samplers import SAMPLERS, find_sampler
from tests.sampling import sampling_config

# diffusers 0.42 gives tensors to numpy functions, which torch 2.13 answers in the old protocol
pytestmark = pytest.mark.filterwarnings("ignore:__array_(_ impl|wrap__ must):DeprecationWarning")

WIDTH = 16
LENGTH = 8


class Tokenizer:
    """Bytes as tokens: enough of CLIPTokenizer's behaviour for a pipeline."""

    model_max_length = LENGTH
    added_tokens_encoder: dict[str, int] = {}

    def tokenize(self, text):
        return list(text)

    def batch_decode(self, ids):
        return [str(row.tolist()) for row in ids]

    def __call__(self, texts, padding=None, return_tensors=None, **_):
        texts = [texts] if isinstance(texts, str) else texts
        ids = [[1 + byte % 62 for byte in text.encode()][:LENGTH] for text in texts]
        ids = [row + [0] * (LENGTH - len(row)) for row in ids]
        return type("Encoding", (), {"input_ids": torch.tensor(ids)})()


@pytest.fixture(scope="module")
def parts():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = AutoencoderKL(
            block_out_channels=(8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            norm_num_groups=4,
            latent_channels=4,
            layers_per_block=1,
        )
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8, 16),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=WIDTH,
            norm_num_groups=4,
            attention_head_dim=4,
            layers_per_block=1,
        )
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=64,
                hidden_size=WIDTH,
                intermediate_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=LENGTH,
                eos_token_id=0,
            )
        )
    return vae.eval(), unet.eval(), text_encoder.eval()


@pytest.fixture
def pipeline(parts):
    vae, unet, text_encoder = parts
    return StableDiffusionPipeline(
        vae=vae,
        unet=unet,
        text_encoder=text_encoder,
        tokenizer=Tokenizer(),
        scheduler=DDPMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


PROMPTS = [Prompt(text, seed) for seed in (0, 1) for text in ("a cat", "a dog", "a man", "a hat")]


def drawing_of(pipeline) -> Drawing:
    """Prompts as the pipeline encodes them."""

    def encode(texts):
        return {"prompt_embeds": pipeline.encode_prompt(list(texts), "cpu", 1, False)[0]}

    return Drawing(encode=encode, dtype=pipeline.unet.dtype)


def draw(pipeline, prompts=PROMPTS, resolution=32, lora_scale=1.0, **changed) -> np.ndarray:
    config = sampling_config(**{"num_steps": 4, "batch_size": 8, **changed})
    drawn = generate(
        *(pipeline, prompts, config, resolution),
        lora_scale=lora_scale,
        drawing=drawing_of(pipeline),
    )
    return np.stack([np.asarray(picture, int) for picture in drawn])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_gives_the_same_picture_in_any_batch(pipeline, sampler):
    together = draw(pipeline, sampler=sampler)
    alone = draw(pipeline, PROMPTS[4:6], sampler=sampler, batch_size=1)
    assert together.shape == (8, 32, 32, 3)
    # float rounding differs between batch sizes: at most one or two of 255 levels after decoding
    assert np.abs(together[4:6] - alone).max() <= 2
    assert np.abs(together[0] - together[4]).max() > 2  # another seed, another picture
    assert np.abs(together[0] - together[1]).max() > 2  # another prompt, another picture


def test_same_call_gives_the_same_bytes(pipeline):
    np.testing.assert_array_equal(
        draw(pipeline, sampler="euler_a"), draw(pipeline, sampler="euler_a")
    )


def test_global_random_state_is_neither_read_nor_moved(pipeline):
    for sampler in SAMPLERS:
        torch.manual_seed(1)
        before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
        first = draw(pipeline, PROMPTS[:1], sampler=sampler)
        assert torch.equal(before[0], torch.get_rng_state()), sampler
        assert before[1] == random.getstate()
        np.testing.assert_array_equal(before[2], np.random.get_state()[1])
        torch.manual_seed(2)
        np.testing.assert_array_equal(first, draw(pipeline, PROMPTS[:1], sampler=sampler))


def test_ddim_picture_equals_a_loop_written_from_the_paper(pipeline):
    """DDIM (arXiv:2010.02502, eq. 12, eta 0) with guidance, step by step, in float64."""
    prompt, steps, guidance = PROMPTS[0], 4, 3.0
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alphas = torch.cumprod(1 - betas, 0)
    tokenizer = pipeline.tokenizer
    with torch.no_grad():
        text = pipeline.text_encoder(tokenizer(["bad", prompt.text]).input_ids).last_hidden_state
        z = torch.randn(
            (1, 4, 8, 8), generator=randomness.generator(prompt.seed, "sample/" + prompt.text)
        ).double()
        for t in [751, 501, 251, 1]:  # "leading" spacing with offset 1
            eps = pipeline.unet(torch.cat([z, z]).float(), t, text).sample.double()
            eps = eps[:1] + guidance * (eps[1:] - eps[:1])
            now = alphas[t]
            then = alphas[t - 250] if t > 250 else torch.tensor(1.0, dtype=torch.float64)
            x_0 = (z - (1 - now).sqrt() * eps) / now.sqrt()
            z = then.sqrt() * x_0 + (1 - then).sqrt() * eps
        pixels = pipeline.vae.decode((z / pipeline.vae.config.scaling_factor).float()).sample
    expected = ((pixels[0].permute(1, 2, 0) / 2 + 0.5).clamp(0, 1) * 255).round().numpy()
    got = draw(pipeline, [prompt], num_steps=steps, guidance_scale=guidance)[0]
    assert np.abs(got - expected).max() <= 1  # float32 against float64, then 8 bits


def test_pipeline_is_left_as_it_was(pipeline):
    pipeline.unet.train()
    pipeline.unet.conv_in.eval()
    scheduler = pipeline.scheduler
    draw(pipeline, PROMPTS[:1], sampler="unipc")
    assert pipeline.unet.training
    assert not pipeline.unet.conv_in.training
    assert not pipeline.vae.training
    assert pipeline.scheduler is scheduler
    pipeline.unet.eval()


def test_dropout_is_off_while_drawing(pipeline):
    quiet = draw(pipeline, PROMPTS[:1])
    pipeline.unet.train()
    np.testing.assert_array_equal(quiet, draw(pipeline, PROMPTS[:1]))
    pipeline.unet.eval()


def test_guidance_off_ignores_the_negative_prompt(pipeline):
    one = draw(pipeline, PROMPTS[:1], guidance_scale=1.0, negative_prompt="x")
    np.testing.assert_array_equal(
        one, draw(pipeline, PROMPTS[:1], guidance_scale=1.0, negative_prompt="y")
    )
    guided = draw(pipeline, PROMPTS[:1], negative_prompt="x")
    assert np.abs(guided - draw(pipeline, PROMPTS[:1], negative_prompt="y")).max() > 0


def test_lora_scale_scales_and_is_put_back_exactly(parts, pipeline):
    base = draw(pipeline, PROMPTS[:1])
    pipeline.unet = unet = copy.deepcopy(parts[1])
    unet.add_adapter(LoraConfig(r=2, lora_alpha=3, target_modules=["to_q", "to_v", "to_out.0"]))
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(0))
    layers = [module for module in unet.modules() if hasattr(module, "scaling")]
    full = draw(pipeline, PROMPTS[:1])
    assert np.abs(full - base).max() > 0
    np.testing.assert_array_equal(base, draw(pipeline, PROMPTS[:1], lora_scale=0.0))
    third = draw(pipeline, PROMPTS[:1], lora_scale=0.3)
    assert all(layer.scaling["default"] == 1.5 for layer in layers)
    for layer in layers:
        layer.scaling["default"] = 1.5 * 0.3
    np.testing.assert_array_equal(third, draw(pipeline, PROMPTS[:1]))


def test_out_of_memory_halves_the_batch(pipeline, monkeypatch):
    expected = draw(pipeline)
    sizes = []
    whole = generate_module._draw

    def small_machine(*arguments):
        sizes.append(len(arguments[-2]))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(*arguments)

    asked = []
    monkeypatch.setattr(generate_module, "_draw", small_machine)
    hook = pipeline.text_encoder.register_forward_pre_hook(lambda *_: asked.append(1))
    with pytest.warns(UserWarning, match="out of memory") as warned:
        got = draw(pipeline)
    hook.remove()
    assert len(asked) == 2  # for the whole batch, and for its negative prompts
    assert "with 8 pictures at a time; continuing with 4" in str(warned[0].message)
    assert sizes == [8, 4, 2, 2, 2, 2]
    assert np.abs(got - expected).max() <= 2


def test_out_of_memory_with_one_picture_is_an_error(pipeline, monkeypatch):
    def no_memory(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(generate_module, "_draw", no_memory)
    with pytest.raises(torch.OutOfMemoryError):
        draw(pipeline, PROMPTS[:1])


class CrampedVae:
    """Takes the place of ``vae.decode``: too little memory for a whole picture at these calls."""

    def __init__(self, vae, fails_at):
        self.decode = vae.decode
        self.vae = vae
        self.fails_at = fails_at
        self.was_tiled = []

    def __call__(self, *args, **kwargs):
        self.was_tiled.append(self.vae.use_tiling)
        if len(self.was_tiled) in self.fails_at:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.decode(*args, **kwargs)


@pytest.mark.parametrize("tiled_before", [False, True])
def test_a_picture_that_the_vae_cannot_decode_whole_is_decoded_in_tiles(
    pipeline, monkeypatch, tiled_before
):
    """Tiles are 8 latents wide here, so that these latents of 16 are four of them."""
    vae = pipeline.vae
    monkeypatch.setattr(vae, "use_tiling", tiled_before)
    whole = draw(pipeline, PROMPTS[:2], resolution=64)
    cramped = CrampedVae(vae, fails_at={1})
    monkeypatch.setattr(vae, "decode", cramped)
    with pytest.warns(UserWarning, match="out of memory in the VAE; decoding in tiles") as warned:
        got = draw(pipeline, PROMPTS[:2], resolution=64)
    assert len(warned) == 1
    assert cramped.was_tiled == [tiled_before, True, tiled_before]
    assert vae.use_tiling is tiled_before
    np.testing.assert_array_equal(got[1], whole[1])
    assert got.shape == whole.shape
    monkeypatch.setattr(vae, "decode", cramped.decode)
    monkeypatch.setattr(vae, "use_tiling", True)
    tiled = draw(pipeline, PROMPTS[:2], resolution=64)
    np.testing.assert_array_equal(got[0], tiled[0])
    assert np.array_equal(tiled[0], whole[0]) is tiled_before  # the tiles were real ones


def test_no_memory_for_a_tile_either_is_an_error_and_tiling_is_off_again(pipeline, monkeypatch):
    monkeypatch.setattr(pipeline.vae, "decode", CrampedVae(pipeline.vae, fails_at={1, 2}))
    with pytest.warns(UserWarning, match="in tiles"), pytest.raises(torch.OutOfMemoryError):
        draw(pipeline, PROMPTS[:1])
    assert pipeline.vae.use_tiling is False


@pytest.mark.parametrize(("longest", "is_tiled"), [(16, False), (15, True)])
def test_large_pictures_are_tiled_from_the_start(pipeline, monkeypatch, longest, is_tiled):
    monkeypatch.setattr(generate_module, "TILED_FROM", longest)
    seen = CrampedVae(pipeline.vae, fails_at=())
    monkeypatch.setattr(pipeline.vae, "decode", seen)
    draw(pipeline, PROMPTS[:1], resolution=64)  # latents of 16 x 16
    assert seen.was_tiled == [is_tiled]
    assert pipeline.vae.use_tiling is False


def test_low_precision_draws_nearly_the_same(parts, pipeline):
    exact = draw(pipeline, PROMPTS[:2])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = draw(pipeline, PROMPTS[:2])
    # bf16 keeps 8 bits: a few levels of 255 on average, far from another picture
    assert 0 < np.abs(mixed - exact).mean() < 8
    pipeline.unet = copy.deepcopy(parts[1]).bfloat16()  # VAE and text encoder stay in float32
    assert 0 < np.abs(draw(pipeline, PROMPTS[:2]) - exact).mean() < 8


def test_nan_picture_is_an_error_not_a_black_picture(pipeline, monkeypatch):
    weight = pipeline.vae.post_quant_conv.weight
    kept = weight.data.clone()
    weight.data.fill_(float("nan"))
    try:
        with pytest.raises(ValueError, match="'a cat' .seed 0.*NaN"):
            draw(pipeline, PROMPTS[:1])
    finally:
        weight.data.copy_(kept)


def test_progress_counts_pictures(pipeline):
    seen = []

    class Recorder(Progress):
        def update(self, bar, completed, note=""):
            seen.append((completed, note))

    recorder = Recorder(enabled=False)
    config = sampling_config(num_steps=4, batch_size=2)
    drawing = drawing_of(pipeline)
    generate(pipeline, PROMPTS[:3], config, 32, drawing=drawing, progress=recorder)
    assert [count for count, _ in seen] == [0, 1, 1, 2, 2, 2, 2, 3]
    assert seen[1][1] == "step 2/4"
    assert recorder.tasks() == []


@pytest.mark.parametrize(
    ("name", "nearest"), [("dpm+", "dpm++"), ("eulera", "euler_a"), ("DDIM", "ddim")]
)
def test_unknown_sampler_names_the_nearest(name, nearest):
    with pytest.raises(ValueError, match="^sampling.sampler=") as error:
        find_sampler(name)
    assert f"did you mean {nearest!r}" in str(error.value)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"resolution": 500}, "nearest are 496 and 504"),
        ({"resolution": 0}, "resolution=0"),
        ({"sampler": "dmp++"}, "did you mean 'dpm\\+\\+'"),
    ],
)
def test_bad_numbers_name_the_remedy(pipeline, changed, words):
    with pytest.raises(ValueError, match=words):
        draw(pipeline, **changed)


def test_no_prompts_no_pictures(pipeline):
    assert generate(pipeline, [], sampling_config(), 32, drawing=drawing_of(pipeline)) == []

"""Z-Image and FLUX.2 klein on random models, against diffusers' own pipelines."""

import json
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import Flux2KleinPipeline
from torch import Tensor, nn

from sdlora.adapters.lora import add_lora
from sdlora.adapters.spec import LoraSpec
from sdlora.models import quantising
from sdlora.models.base_noise import base_noise
from sdlora.models.base_notes import base_notes
from sdlora.models.families import FAMILIES
from sdlora.models.flow_transformer import FlowTransformer
from sdlora.models.loading import check_parts, load_family
from sdlora.models.source import ModelError, ModelSource
from sdlora.runtime import randomness
from sdlora.sampling.generate import generate
from sdlora.sampling.prompts import Prompt
from tests.sampling import sampling_config

NAMES = ("z_image", "flux2_klein")
CAPTIONS = ["a man", "a rather long caption of a hat, with seven words more", ""]
SIDE = 64


@pytest.fixture(params=NAMES)
def family(request: pytest.FixtureRequest, random_bases: dict[str, Path]) -> Any:
    found = load_family(ModelSource(str(random_bases[request.param]), request.param), 0)
    assert isinstance(found, FlowTransformer)
    return found


def encoded(family: Any, captions: list[str]) -> list[Tensor]:
    return list(family.encode_prompts(family.tokenize(captions).ids))


def quiet(family: Any) -> Any:
    pipeline = family.pipeline()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_embeddings_are_those_of_the_pipeline(family: Any) -> None:
    """Its template, layers, padding and mask; each prompt alone, there all of them at once."""
    theirs = quiet(family).encode_prompt(list(CAPTIONS), device="cpu")[0]
    ours = encoded(family, CAPTIONS)
    assert [each.shape for each in ours] == [each.shape for each in theirs]
    for own, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)
    lengths = {len(each) for each in ours}
    assert (
        lengths == {512} if family.denoiser.config.get("joint_attention_dim") else len(lengths) == 3
    )


def steps_of(
    family: Any, captions: list[str], **options: Any
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Prediction, timestep and latents of each step of the pipeline."""
    pipeline, found = quiet(family), []
    step = pipeline.scheduler.step

    def recorded(prediction: Tensor, t: Tensor, latents: Tensor, **kwargs: Any) -> Any:
        found.append((prediction.clone(), t.clone(), latents.clone()))
        return step(prediction, t, latents, **kwargs)

    pipeline.scheduler.step = recorded
    pipeline(
        prompt=list(captions),
        num_inference_steps=3,
        height=SIDE,
        width=SIDE,
        generator=torch.Generator().manual_seed(1),
        output_type="latent",
        **options,
    )
    return found


def test_predictions_are_those_of_the_pipeline(family: Any) -> None:
    """At its three levels: sign, timestep, packing, position ids; of prompts of other lengths."""
    captions = CAPTIONS[:2]
    conditioning = family.encode_prompts(family.tokenize(captions).ids)
    steps = steps_of(family, captions, guidance_scale=0.0)
    assert len({float(t) for _, t, _ in steps}) == 3
    for theirs, t, latents in steps:
        z, expected = latents, theirs
        if z.ndim == 3:  # packed
            ids = Flux2KleinPipeline._prepare_latent_ids(torch.empty(2, 1, 4, 4))
            z, expected = (Flux2KleinPipeline._unpack_latents_with_ids(x, ids) for x in (z, theirs))
        with torch.no_grad():
            ours = family.denoise(z, (t / 1000).expand(2), conditioning)
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_a_batch_of_unequal_captions_equals_single_ones(family: Any) -> None:
    z, s = torch.randn(2, *start_noise(family).shape), torch.tensor([0.9, 0.4])
    rows = encoded(family, CAPTIONS[:2])
    with torch.no_grad():
        together = family.denoise(z, s, family.encode_prompts(family.tokenize(CAPTIONS[:2]).ids))
        alone = [family.denoise(z[n : n + 1], s[n : n + 1], rows[n][None])[0] for n in (0, 1)]
        swapped = family.denoise(z[:1], s[:1], rows[1][None])[0]
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(together[0], swapped, atol=1e-3)  # captions count


def start_noise(family: Any, text: str = "a man", seed: int = 3) -> Tensor:
    channels, side = family.denoiser.config.in_channels, SIDE // family.latent_scale
    draws = randomness.generator(seed, "sample/" + text)
    return torch.randn(channels, side, side, generator=draws)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_pictures_are_those_of_diffusers(family: Any, guidance: float) -> None:
    prompts = [Prompt("a man", 3), Prompt("a much longer hat", 4)]
    config = sampling_config(sampler="euler", guidance_scale=guidance, negative_prompt="")
    drawn = generate(family.pipeline(), prompts, config, SIDE, drawing=family.drawing())
    counts_from_0 = family.__class__.__name__ == "ZImage"
    theirs = quiet(family)(
        prompt=[prompt.text for prompt in prompts],
        num_inference_steps=config.num_steps,
        guidance_scale=guidance - counts_from_0,
        height=SIDE,
        width=SIDE,
        latents=torch.stack([start_noise(family, each.text, each.seed) for each in prompts]),
    ).images
    for ours, other in zip(drawn, theirs, strict=True):
        difference = np.abs(np.asarray(ours, dtype=int) - np.asarray(other, dtype=int))
        assert difference.max() <= 1  # decoded one by one here, together there
    assert len({picture.tobytes() for picture in drawn}) == 2


def test_guidance_changes_pictures(family: Any) -> None:
    def pixels(**options: Any) -> Any:
        config = sampling_config(sampler="euler", **options)
        (drawn,) = generate(
            family.pipeline(), [Prompt("a man", 3)], config, SIDE, drawing=family.drawing()
        )
        return np.asarray(drawn, dtype=int)

    off, on = pixels(guidance_scale=1.0), pixels(guidance_scale=4.0)
    assert np.abs(off - on).max() > 1
    against = pixels(guidance_scale=4.0, negative_prompt="a very bad hat")
    assert np.abs(against - on).max() > 1


def test_latents_are_those_of_the_pipeline_and_decode_back(family: Any) -> None:
    pixels = torch.rand(2, 3, SIDE, SIDE) * 2 - 1
    moments = family.encode_images(pixels)
    with torch.no_grad():
        mode = family.vae.encode(pixels).latent_dist.mode()
    assert torch.equal(moments, mode)
    z_0 = family.latents(moments, torch.empty(2, *family.posterior_shape(moments)))
    if isinstance(pipeline := quiet(family), Flux2KleinPipeline):
        theirs = pipeline._encode_vae_image(pixels, torch.Generator())
        mean, variance = (
            x.view(1, -1, 1, 1) for x in (family.vae.bn.running_mean, family.vae.bn.running_var)
        )
        back = pipeline._unpatchify_latents(z_0 * torch.sqrt(variance + 1e-4) + mean)
        assert z_0.shape == (2, 32, 4, 4)
    else:
        theirs = (mode - 0.1159) * 0.3611  # of its VAE's config
        back = z_0 / 0.3611 + 0.1159
        assert z_0.shape == (2, 16, 8, 8)
    torch.testing.assert_close(z_0, theirs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(back, mode, rtol=1e-5, atol=1e-5)


def test_geometry(family: Any) -> None:
    """A token is 16 x 16 pixels in both, whichever way it comes to that."""
    assert family.resolution_step == 16
    assert family.num_tokens(torch.empty(1, *start_noise(family).shape)) == (SIDE // 16) ** 2
    assert family.native_resolution_px == 1024


def test_a_caption_that_is_too_long_is_cut_as_by_the_pipeline(family: Any) -> None:
    long = "word " * 200  # the tokenizer's tokens are letters
    tokens = family.tokenize([long, "a man"])
    assert tokens.ids.shape == (2, 512)
    assert tokens.cut[1] == ""
    assert long.endswith(tokens.cut[0])
    assert 450 < len(long) - len(tokens.cut[0]) < 512
    theirs = quiet(family).encode_prompt([long], device="cpu")[0]
    torch.testing.assert_close(encoded(family, [long])[0], theirs[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_another_familys_model_is_refused(
    name: str, random_bases: dict[str, Path], random_base: Path
) -> None:
    (other,) = set(NAMES) - {name}
    kind = FAMILIES[name].kind
    message = rf"its transformer is a \w+, no {kind}; set model.family={other}"
    with pytest.raises(ModelError, match=message):
        load_family(ModelSource(str(random_bases[other]), name), 0)
    with pytest.raises(ModelError, match=r"transformer.*is missing|has only"):
        load_family(ModelSource(str(random_base), name), 0)


@pytest.mark.parametrize("name", NAMES)
def test_a_tokenizer_without_a_template_is_refused(
    name: str, random_bases: dict[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(random_bases[name], tmp_path / name)
    (folder / "tokenizer/chat_template.jinja").unlink()
    with pytest.raises(ModelError, match=r"tokenizer: has no chat template"):
        load_family(ModelSource(str(folder), name), 0)


def test_a_distilled_pipeline_is_told(random_klein: Path, tmp_path: Path) -> None:
    source = ModelSource(str(random_klein), "flux2_klein")
    assert base_notes(source, base_noise(source)) == []
    folder = shutil.copytree(random_klein, tmp_path / "klein")
    index = json.loads((folder / "model_index.json").read_text("utf-8"))
    (folder / "model_index.json").write_text(json.dumps(index | {"is_distilled": True}), "utf-8")
    source = ModelSource(str(folder), "flux2_klein")
    (note,) = base_notes(source, base_noise(source))
    assert "is distilled to draw in few steps" in note
    family: Any = load_family(source, 0)
    assert family.pipeline().config.is_distilled  # which its files say after a merge, too
    assert (
        not load_family(ModelSource(str(random_klein), "flux2_klein"), 0)
        .pipeline()
        .config["is_distilled"]
    )


@pytest.mark.parametrize("name", ["Z-Image-Turbo", "my-z-image-distilled-v2"])
def test_a_distilled_model_is_told_by_its_name(
    name: str, random_z_image: Path, tmp_path: Path
) -> None:
    """The files of Z-Image Turbo are those of a base of other weights."""
    folder = shutil.copytree(random_z_image, tmp_path / name)
    source = ModelSource(str(folder), "z_image")
    (note,) = base_notes(source, base_noise(source))
    assert note.startswith(f"note: model.path={folder}: is distilled to draw in few steps, by its")
    assert "such as model=z_image without model.path" in note
    assert note.endswith(f"draw with this one: model.draw_with={folder}")


def test_parts_that_do_not_match_are_refused_before_a_weight_is_read(
    random_z_image: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(random_z_image, tmp_path / "z_image")
    for file in folder.rglob("*.safetensors"):
        file.write_bytes(b"no weights")
    config = folder / "text_encoder/config.json"
    values = json.loads(config.read_text("utf-8")) | {"hidden_size": 32, "head_dim": 16}
    config.write_text(json.dumps(values), "utf-8")
    with pytest.raises(ModelError, match="cap_feat_dim is 16, where vae and text encoder give 32"):
        check_parts(ModelSource(str(folder), "z_image"))


class Packed(nn.Linear):
    """A layer as bitsandbytes leaves it: bytes for weights, unpacked as it computes."""

    def __init__(self, layer: nn.Linear, *_: Any) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=False, device="meta")
        self.bias, self.unpacked = layer.bias, [layer.weight]
        self.weight = nn.Parameter(torch.zeros(1, dtype=torch.uint8), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.unpacked[0], self.bias)


def test_a_quantised_klein_draws_in_the_dtype_of_its_weights(
    random_klein: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first floating weights are the adapter's, which diffusers takes for its dtype."""
    source = ModelSource(str(random_klein), "flux2_klein", frozen_dtype=torch.bfloat16)
    family: Any = load_family(source, 0)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "bitsandbytes", ModuleType("bitsandbytes"))
        patch.setitem(sys.modules, "bitsandbytes.nn", ModuleType("bitsandbytes.nn"))
        patch.setattr(quantising, "_packed", Packed)
        quantising.quantise(family.transformer, "nf4")
    add_lora(family.transformer, LoraSpec(r=2, alpha=2.0, dropout=0.0, targets=("to_q",)), seed=0)
    assert family.transformer.dtype == torch.float32
    seen = set()
    family.transformer.x_embedder.register_forward_pre_hook(lambda _, args: seen.add(args[0].dtype))
    family.transformer.context_embedder.register_forward_pre_hook(
        lambda _, args: seen.add(args[0].dtype)
    )
    config = sampling_config(sampler="euler", num_steps=1, guidance_scale=1.0)
    with torch.autocast("cpu", torch.bfloat16):
        generate(family.pipeline(), [Prompt("a man", 3)], config, SIDE, drawing=family.drawing())
    assert seen == {torch.bfloat16}


def test_a_scheduler_of_another_kind_is_refused(random_klein: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(random_klein, tmp_path / "klein")
    path = folder / "scheduler/scheduler_config.json"
    path.write_text(json.dumps({"_class_name": "DDIMScheduler"}), "utf-8")
    with pytest.raises(
        ModelError, match=r"its scheduler is a DDIMScheduler, where FLUX.2 klein has"
    ):
        base_noise(ModelSource(str(folder), "flux2_klein"))


def test_a_sampling_schedule_shifts_as_the_models_own(family: Any) -> None:
    """Z-Image's constant shift, and klein's by tokens, reach the levels that are drawn at."""
    levels = [float(t) / 1000 for _, t, _ in steps_of(family, ["a"], guidance_scale=0.0)]
    third = 1 / 3
    if family.__class__.__name__ == "ZImage":
        expected = [3 * s / (1 + 2 * s) for s in (1, 2 * third, third)]
    else:
        from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

        k = float(np.exp(compute_empirical_mu((SIDE // 16) ** 2, 3)))
        expected = [k * s / (1 + (k - 1) * s) for s in (1, 2 * third, third)]
    assert levels == pytest.approx(expected, rel=1e-5)

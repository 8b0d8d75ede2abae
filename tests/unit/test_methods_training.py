"""Every way to train: resumed it ends as if it had not been stopped; a whole model is exported."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline

from sdlora.export.layouts import export_pipeline
from sdlora.models.sd import StableDiffusion
from sdlora.training.callbacks.averaging import ExponentialMovingAverage
from sdlora.training.module import DiffusionModule
from tests.unit.test_optimizers_resume import stop_and_resume
from tests.unit.tiny_training import Stream, adapted, batch, diffusion_module, trainer

METHODS: dict[str, dict[str, Any]] = {
    "pissa": {"init": "pissa"},
    "olora with rank dropout": {"init": "olora", "rank_dropout": 0.5},
    "dora by pattern": {"use_dora": True, "rank_pattern": {"attn1": 3}},
}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_every_method_resumes_bit_by_bit(
    method: dict[str, Any], loaded_family: StableDiffusion, tmp_path: Path
) -> None:
    def make(family: StableDiffusion) -> DiffusionModule:
        return diffusion_module(adapted(family, **method), lr=0.1)

    stop_and_resume(loaded_family, tmp_path, make)


def test_rank_dropout_follows_the_sample_index(family: StableDiffusion) -> None:
    module = diffusion_module(adapted(family, rank_dropout=0.5))
    module.on_fit_start()
    module.log = lambda *_, **__: None  # type: ignore[method-assign]
    torch.manual_seed(1)
    first = module.training_step(batch(0), 0).item()
    torch.manual_seed(2)
    assert module.training_step(batch(0), 0).item() == first
    family.eval()
    assert module.training_step(batch(0), 0).item() != first


def test_a_whole_model_with_its_average_is_loaded_by_diffusers(
    family: StableDiffusion, tmp_path: Path
) -> None:
    """UNet and text encoder; the folder gives the averaged weights, and the same pictures."""
    for part in family.parts.values():
        part.requires_grad_(True)
    module = diffusion_module(family, lr=0.1)
    average = ExponentialMovingAverage(0.5)
    trainer(tmp_path / "run", 3, [average]).fit(module, datamodule=Stream())
    parameters = module.all_trained_parameters()
    last = {name: value.detach().clone() for name, value in parameters.items()}
    assert sum(value.numel() for value in last.values()) == sum(
        p.numel() for part in family.parts.values() for p in part.parameters()
    )
    average.settle(parameters)
    family.eval()
    folder = export_pipeline(tmp_path / "pipeline", family.pipeline())

    loaded = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    moved = 0
    for part in ("unet", "text_encoder"):
        for name, value in getattr(loaded, part).named_parameters():
            assert torch.equal(value, average.average[f"{part}.{name}"])
            moved += int(not torch.equal(value, last[f"{part}.{name}"]))
    assert moved > len(last) / 2

    def drawn(pipeline: StableDiffusionPipeline) -> torch.Tensor:
        pipeline.set_progress_bar_config(disable=True)
        draws = torch.Generator().manual_seed(4)
        return pipeline(
            "a", num_inference_steps=2, height=32, width=32, generator=draws, output_type="pt"
        ).images

    assert torch.equal(drawn(loaded), drawn(copy.deepcopy(family).pipeline()))

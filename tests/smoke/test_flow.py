"""``train.py`` and ``evaluate.py`` on Z-Image and FLUX.2 klein: resume, one file, refusals."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.smoke.conftest import SMALL, TrainHere

pytestmark = pytest.mark.slow

FILE = "lora/my_lora.safetensors"
NAMES = ("z_image", "flux2_klein")


@pytest.fixture(params=NAMES)
def flow(
    request: pytest.FixtureRequest, random_bases: dict[str, Path], pictures: Path
) -> list[str]:
    """Overrides of a small run."""
    return [
        f"model={request.param}",
        f"model.path={random_bases[request.param]}",
        f"data.root={pictures}",
        "data.resolution=32",
        "data.batch_size=2",
        "scheduler=constant",
        "optim.unet_lr=1e-2",
        "lora.r=4",
        "lora.alpha=3",
        "checkpoint.every_n_steps=1",
        *SMALL,
    ]


def without_knowledge(file: Path, parts: dict[str, torch.nn.Module]) -> dict[str, Tensor]:
    """The update of each layer as a reader finds it that knows no rank, alpha or header."""
    tensors = load_file(file)
    assert {key.rpartition(".lora_")[2] for key in tensors} == {"A.weight", "B.weight"}
    assert {value.dtype for value in tensors.values()} == {torch.float32}
    layers = {key.rpartition(".lora_")[0] for key in tensors}
    for layer in layers:
        part, _, name = layer.partition(".")
        assert isinstance(parts[part].get_submodule(name), torch.nn.Linear)
    return {
        layer: tensors[f"{layer}.lora_B.weight"] @ tensors[f"{layer}.lora_A.weight"]
        for layer in layers
    }


def test_training_resume_export_and_drawing(
    flow: list[str], train_here: TrainHere, tmp_path: Path
) -> None:
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    train_here(*flow, "trainer.max_steps=3", f"run_dir={whole}")
    train_here(*flow, "trainer.max_steps=1", f"run_dir={parted}")
    few = few_steps(path_of(flow), tmp_path / "few")  # draws from here on, and changes no weight
    train_here(f"resume={parted}", "trainer.max_steps=3", f"model.draw_with={few}")
    expected, resumed = load_file(whole / FILE), load_file(parted / FILE)
    assert expected.keys() == resumed.keys()
    assert all(torch.equal(resumed[key], value) for key, value in expected.items())

    path = path_of(flow)
    pipeline = DiffusionPipeline.from_pretrained(path)
    found = without_knowledge(whole / FILE, {"transformer": pipeline.transformer})
    assert all(update.abs().max() > 0 for update in found.values())
    with safe_open(whole / "last/pytorch_lora_weights.safetensors", "pt") as other:
        assert sorted(other.keys()) == sorted(expected)
        assert all(torch.equal(other.get_tensor(key), value) for key, value in expected.items())
    trained = load_file(whole / "last/transformer/adapter_model.safetensors")  # alpha beside it
    for layer, update in found.items():
        a, b = (
            trained[f"base_model.model.{layer.partition('.')[2]}.lora_{name}.weight"]
            for name in "AB"
        )
        torch.testing.assert_close(update, 3 / 4 * b @ a)
    pipeline.load_lora_weights(whole / "lora", weight_name="my_lora.safetensors")
    for layer, update in found.items():
        loaded = pipeline.transformer.get_submodule(layer.partition(".")[2])
        torch.testing.assert_close(loaded.get_delta_weight("default_0"), update)

    drawn = ("sampling.num_prompts=1", "lora_scale=0,1", f"run_dir={tmp_path / 'drawn'}")
    train_here(f"run={whole}", *drawn, evaluate=True)
    folders = json.loads((tmp_path / "drawn/report.json").read_text("utf-8"))["pictures"]
    base, off, on = (
        next((tmp_path / "drawn" / folders[name]).glob("*.png")).read_bytes()
        for name in ("base", "LoRA x0", "LoRA x1")
    )
    assert base == off != on
    of_base, of_lora = drawn_by(parted, tmp_path / "few_drawn", train_here)
    for state, own in (("base", of_base), ("last", of_lora)):
        of_run = pixels(min((parted / "samples" / state).glob("*.png")))
        assert np.abs(of_run - own).max() <= 1  # a file's strength lies in its weights
    assert (of_base != of_lora).any()
    assert np.abs(of_base - pixels(min((whole / "samples/base").glob("*.png")))).max() > 1
    card = (parted / "lora/README.md").read_text("utf-8")
    assert "| Pictures drawn with | few, 2 steps, guidance " in card
    assert "Drawn with" in (parted / "report.html").read_text("utf-8")


def path_of(flow: list[str]) -> Path:
    return Path(flow[1].partition("=")[2])


def few_steps(base: Path, target: Path) -> Path:
    """A checkpoint of other weights that has what it draws with, and nothing else."""
    for part in ("transformer", "scheduler"):
        shutil.copytree(base / part, target / part)
    shutil.copy(base / "model_index.json", target)
    file = target / "transformer/diffusion_pytorch_model.safetensors"
    save_file({key: 0.8 * value for key, value in load_file(file).items()}, file, {"format": "pt"})
    return target


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), dtype=int)


def drawn_by(run: Path, folder: Path, train_here: TrainHere) -> list[np.ndarray]:
    """Pictures of base and LoRA of one prompt, as ``evaluate.py`` draws them."""
    train_here(f"run={run}", "sampling.num_prompts=1", f"run_dir={folder}", evaluate=True)
    folders = json.loads((folder / "report.json").read_text("utf-8"))["pictures"]
    return [pixels(min((folder / folders[name]).glob("*.png"))) for name in ("base", "LoRA")]


def test_options_go_together(flow: list[str], train_here: TrainHere, tmp_path: Path) -> None:
    """Buckets, batches of a step, an average, flips, all layers, held-out pictures, a teacher."""
    held_out = tmp_path / "held_out"
    held_out.mkdir()
    Image.effect_noise((40, 40), 90).convert("RGB").save(held_out / "one.png")
    (held_out / "one.txt").write_text("another picture", "utf-8")
    options = (
        "data.buckets.mode=auto",
        "data.buckets.min_side=32",
        "data.flip=true",
        "lora=all_linear",
        "trainer.accumulate_grad_batches=2",
        "trainer.ema_decay=0.5",
        "trainer.gradient_checkpointing=true",
        "objective=bell",
        "trainer.log_every_n_steps=1",
        "trainer.max_steps=2",
        f"data.val_root={held_out}",
        "data.prior.mode=teacher",
        "data.prior.prompt=a picture",
    )
    run = tmp_path / "run"
    train_here(*flow, *options, f"run_dir={run}")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    assert len(losses) == 2
    assert np.isfinite(losses).all()
    layers = {key.rpartition(".lora_")[0] for key in load_file(run / FILE)}
    assert any("embedder" in layer for layer in layers)
    assert any("val/loss_q4" in line for line in lines)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "objective.min_snr_gamma=5",
            "objective.min_snr_gamma=5.0: weighs timesteps of a discrete",
        ),
        ("objective.weighting=debiased", "objective.weighting=debiased: weighs timesteps of a"),
        ("objective.prediction_type=v_prediction", "predicts the velocity of flow matching and"),
        ("model.prediction_type=epsilon", "model.prediction_type=epsilon: "),
        ("objective.zero_terminal_snr=true", "its levels end in pure noise by themselves; set it"),
        (
            "objective.noise.offset=0.05",
            "objective.noise.offset=0.05: adds noise so that brightness",
        ),
        ("sampling.sampler=pndm", "sampling.sampler=pndm: "),
        ("lora.use_dora=true", "lora.use_dora=True: diffusers drops the magnitudes from files of"),
        ("lora.text_encoder.method=lora", "lora.text_encoder.method=lora: the text encoder of"),
        (
            "lora.new_word.name=zwk",
            "language model learns no words; choose lora=attention, without",
        ),
        ("data.captions.max_chunks=2", "reads captions in one piece, of 512 tokens; set it to 1"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_what_a_flow_has_no_use_for_is_an_error(
    name: str, override: str, message: str, message_of: Callable[..., str], tmp_path: Path
) -> None:
    nowhere = "model.path=owner/no-such-model"  # nothing is fetched or read before
    given = (f"model={name}", nowhere, "data.root=here", override, f"run_dir={tmp_path}")
    assert message in message_of(*given)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("objective.timesteps.shift=constant", "moves levels of flow matching, which Stable Diff"),
        (
            "objective=bell",
            "objective.weighting=bell: weighs levels of flow matching, which Stable",
        ),
        (
            "optim.transformer_lr=1e-4",
            "Stable Diffusion 1.x or 2.x has no transformer; set optim.unet",
        ),
    ],
)
def test_what_a_unet_has_no_use_for_is_an_error(
    override: str, message: str, message_of: Callable[..., str], tmp_path: Path
) -> None:
    assert message in message_of(override, f"run_dir={tmp_path}")

"""A new word through ``train.py`` and ``evaluate.py``, alone and with a LoRA."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.smoke.conftest import SMALL, TrainHere

pytestmark = pytest.mark.slow

WORD = "lora/embeddings/zwk.safetensors"


@pytest.fixture
def settings(pictures: Path) -> tuple[str, ...]:
    """Overrides of a small run whose word moves far in two steps."""
    return (
        "experiment=textual_inversion",
        f"data.root={pictures}",
        "data.resolution=32",
        "data.crop=center",
        "data.val_fraction=0",
        "scheduler=constant",
        "optim.new_word_lr=1.0",
        "checkpoint.every_n_steps=1",
        *SMALL,
    )


def test_a_word_alone_resumes_and_is_scored(
    settings: tuple[str, ...],
    train_here: TrainHere,
    random_base: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    settings = (*settings, f"model.path={random_base}")
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    steps = "trainer.max_steps=2"
    for overrides in (
        (*settings, steps, f"run_dir={whole}"),
        (*settings, "trainer.max_steps=1", f"run_dir={parted}"),
        (f"resume={parted}", steps),
    ):
        train_here(*overrides)
    assert "diffusers loads the embeddings of zwk exactly" in capsys.readouterr().out
    expected, found = load_file(whole / WORD), load_file(parted / WORD)
    assert expected["zwk"].shape == (4, 16)
    assert torch.equal(expected["zwk"], found["zwk"])
    first = load_file(parted / "checkpoints/step_0000001/embeddings/zwk.safetensors")
    assert not torch.equal(first["zwk"], found["zwk"])
    assert not (whole / "lora/pytorch_lora_weights.safetensors").exists()

    drawn = tmp_path / "drawn"
    few = ("sampling.num_prompts=1", "lora_scale=0,1", f"run_dir={drawn}")
    train_here(f"run={whole}", *few, evaluate=True)
    folders = json.loads((drawn / "report.json").read_text("utf-8"))["pictures"]
    base, off, on = (
        next((drawn / folders[name]).glob("*.png")).read_bytes()
        for name in ("base", "LoRA x0", "LoRA x1")
    )
    assert base == off != on


def test_the_best_step_of_a_word_alone_is_its_embeddings(
    settings: tuple[str, ...],
    train_here: TrainHere,
    random_base: Path,
    tmp_path: Path,
) -> None:
    scored = [item for item in settings if item != "evaluation=none"]
    scored.append(f"model.path={random_base}")
    best = ("evaluation.every_n_steps=1", "evaluation.select=kid", "evaluation.kid=true")
    train_here(*scored, *best, "trainer.max_steps=1", f"run_dir={tmp_path}")
    assert load_file(tmp_path / "lora/embeddings/zwk.safetensors")["zwk"].shape == (4, 16)
    assert not (tmp_path / "pipeline").exists()


def test_pivotal_tuning_writes_both_files(
    settings: tuple[str, ...],
    train_here: TrainHere,
    random_base: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    run, base = tmp_path / "run", f"model.path={random_base}"
    train_here(*settings, base, "lora=pivotal", "trainer.max_steps=1", f"run_dir={run}")
    printed = capsys.readouterr().out
    assert load_file(run / WORD)["zwk"].shape == (2, 16)
    keys = load_file(run / "lora/pytorch_lora_weights.safetensors")
    assert {key.split(".")[0] for key in keys} == {"unet"}
    assert "loaded back in 3 layouts" in printed

    lora, small = f"lora={run / 'lora'}", ("sampling.num_prompts=1", "sampling.num_steps=1")
    few = (*small, "evaluation=none", "resolution=32", f"run_dir={tmp_path / 'drawn'}")
    train_here(lora, base, *few, evaluate=True)
    told = " ".join(capsys.readouterr().out.split())
    assert "is left out: new words are supported with run= only" in told


def test_a_word_that_no_caption_holds_stops_the_run(
    settings: tuple[str, ...], message_of: Callable[..., str], garbage_base: Path
) -> None:
    base = f"model.path={garbage_base}"
    message = message_of(*settings, base, "data.captions.prefix=''")
    assert message.startswith("lora.new_word.name=zwk: in no caption")
    assert "data.captions.prefix='zwk, '" in message

"""``train.py from_lora=FILE``: the run of a file's header, once more."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sdlora.commands.lora.arguments import main
from sdlora.runs.origin import seal
from tests.smoke.conftest import SMALL, TrainHere

FILE = "pytorch_lora_weights.safetensors"


@pytest.fixture(scope="module")
def first_run(
    train_here: TrainHere,
    random_base: Path,
    pictures: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Three steps unlike the defaults, on a set that may be moved."""
    folder = tmp_path_factory.mktemp("first")
    shutil.copytree(pictures, folder / "set")
    train_here(
        *SMALL,
        f"model.path={random_base}",
        *("trainer.max_steps=3", "seed=5", "lora.r=3", "lora.alpha=7", "optim.unet_lr=1e-2"),
        *("optim.options.eps=1e-7", "export.name=mine", "checkpoint.every_n_steps=2"),
        f"data.root={folder / 'set'}",
        f"run_dir={folder / 'run'}",
    )
    return folder / "run"


def lora(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "lora" / FILE)


def with_header(file: Path, out: Path, **changed: object) -> Path:
    """A copy whose header tells otherwise."""
    with safe_open(file, "pt") as opened:
        header = opened.metadata()
    for name, value in changed.items():
        key = f"sdlora.{name}"
        header[key] = json.dumps({**json.loads(header[key]), **value})  # type: ignore[dict-item]
    header["sdlora.origin"] = str(seal(json.loads(header["sdlora.config"])))  # by this user
    save_file(load_file(file), out, header)
    return out


@pytest.mark.slow
def test_it_gives_the_same_bits(
    first_run: Path, train_here: TrainHere, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = first_run / "lora" / "mine.safetensors"
    train_here(f"from_lora={file}", f"run_dir={tmp_path}")
    told = capsys.readouterr().out
    before, after = lora(first_run), lora(tmp_path)
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert any(value.abs().max() > 0 for key, value in before.items() if "lora_B" in key)
    assert f"repeats {file}" in told
    notes = [line for line in told.splitlines() if line.startswith("note:")]
    # random, with tiny's numbers, and in few steps
    of_the_base = ("note: model.path=", "note: sampling.prompts=", "note: scheduler.warmup_steps=")
    assert all(note.startswith(of_the_base) for note in notes)  # none of the recipe


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", ["chosen", "last", "2"])
def test_a_checkpoint_is_exported_again(checkpoint: str, first_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    given = ["--checkpoint", checkpoint, "--out", str(out), "--licence", "apache-2.0"]
    main(["run", str(first_run), *given])
    whole = first_run / "lora"  # nothing is scored there: the last step is handed over
    trained = {"chosen": whole, "last": whole, "2": first_run / "checkpoints" / "step_0000002"}
    before, after = load_file(trained[checkpoint] / FILE), load_file(out / FILE)
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert (out / "unet" / "adapter_config.json").is_file()
    with safe_open(out / "mine.safetensors", "pt") as opened:
        header = opened.metadata()
    assert header["ss_steps"] == {"2": "2"}.get(checkpoint, "3")
    assert header["modelspec.license"] == "apache-2.0"
    card = ModelCard.load(out / "README.md")
    assert card.data.license == "apache-2.0"
    assert len(card.data.to_dict().get("widget", [])) == {"2": 0}.get(checkpoint, 2)
    with pytest.raises(SystemExit):
        main(["run", str(first_run), *given])  # it is there already


def test_what_is_no_repeat_stops(
    first_run: Path, message_of: Callable[..., str], tmp_path: Path
) -> None:
    file, run = first_run / "lora" / FILE, f"run_dir={tmp_path / 'run'}"
    picture = first_run.parent / "set" / "picture_0.txt"
    text = picture.read_text("utf-8")
    picture.write_text("another caption", "utf-8")
    try:
        told = message_of(f"from_lora={file}", run)
    finally:
        picture.write_text(text, "utf-8")  # the other tests repeat the run on it
    assert "data differs from that of the training (SHA-256), so this would be no repeat" in told

    moved = with_header(file, tmp_path / "moved.safetensors", config={"data": {"root": "nowhere"}})
    told = message_of(f"from_lora={moved}", run)
    assert "data.root=nowhere: named by" in told
    assert told.endswith("but not found; give the path on this machine with data.root=...")

    newer = with_header(file, tmp_path / "newer.safetensors", config={"lora": {"magic": 1}})
    told = message_of(f"from_lora={newer}", run)
    assert "whose config has keys that are unknown here: lora.magic" in told

    theirs = tmp_path / "theirs.safetensors"
    save_file(load_file(file), theirs, {"ss_network_dim": "3"})
    assert "its header holds no sdlora config" in message_of(f"from_lora={theirs}", run)
    assert "no such file" in message_of(f"from_lora={tmp_path / 'none.safetensors'}", run)
    told = message_of(f"from_lora={file}", "experiment=tiny_base", run)
    assert told.startswith("experiment=tiny_base: an overlay under from_lora=")

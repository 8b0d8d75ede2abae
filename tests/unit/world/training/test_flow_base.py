"""A trained flow base, stored for the assets."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdlora.world.training.flow_base import WEIGHTS, store


def written_pipeline(folder: Path, value: float) -> Path:
    (folder / "transformer").mkdir(parents=True)
    (folder / "vae").mkdir()
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "ZImagePipeline"}))
    save_file({"a": torch.tensor([value, 1 / 3])}, folder / WEIGHTS)
    save_file({"b": torch.tensor([1 / 3])}, folder / "vae" / "weights.safetensors")
    return folder


def test_the_transformer_alone_is_rounded(tmp_path: Path) -> None:
    out = tmp_path / "assets" / "tiny-flow"

    store(written_pipeline(tmp_path / "pipeline", 2.5), out)

    stored = load_file(out / WEIGHTS)["a"]
    assert stored.dtype == torch.float16
    torch.testing.assert_close(stored, torch.tensor([2.5, 1 / 3], dtype=torch.float16))
    assert load_file(out / "vae" / "weights.safetensors")["b"].item() == pytest.approx(1 / 3)
    assert (out / "model_index.json").is_file()


def test_weights_beyond_half_precision_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"

    with pytest.raises(ValueError, match="a exceeds float16's range"):
        store(written_pipeline(tmp_path / "pipeline", 1e6), out)

    assert not out.exists()

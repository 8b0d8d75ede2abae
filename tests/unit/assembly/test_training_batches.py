"""Which encodings a run keeps: those of fixed captions, unless what encodes them trains."""

from pathlib import Path

import pytest

from benchmarks.data import write_folder
from benchmarks.prepared_run import prepared_run
from sdlora.data.batches.dataset import PictureDataset
from sdlora.runtime.progress import Progress


@pytest.mark.parametrize(
    ("method", "dropout", "is_kept"),
    [("frozen", 0.0, True), ("lora", 0.0, False), ("frozen", 0.5, True), ("lora", 0.5, False)],
)
def test_prompts_are_encoded_once_if_their_encoder_is_frozen(
    method: str, dropout: float, is_kept: bool, random_base: Path, tmp_path: Path
) -> None:
    pictures = tmp_path / "pictures"
    write_folder(pictures, 3)
    given = [
        *(f"model.path={random_base}", f"data.root={pictures}", "data.resolution=32"),
        *(f"lora.text_encoder.method={method}", f"data.captions.dropout={dropout}"),
        *("data.cache.mode=memory", "evaluation=none", "logger=none", "trainer.accelerator=cpu"),
    ]
    built = prepared_run(given, tmp_path / "run", Progress(enabled=False))
    dataset = built.datamodule.dataset
    assert isinstance(dataset, PictureDataset)
    assert (dataset[0, 1].embeddings is not None) == is_kept
    assert dataset.latents is not None

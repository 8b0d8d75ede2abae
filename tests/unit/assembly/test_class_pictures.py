"""Class pictures that the base draws: as many as lack, each with a seed of its own."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from sdlora.assembly import class_pictures
from sdlora.cli.composition import to_typed
from sdlora.config.train import TrainConfig
from sdlora.runtime.progress import Progress
from sdlora.sampling.prompts import Prompt
from tests.composed import composed_train, train_config


@pytest.mark.parametrize(("there", "seeds"), [(0, [0, 1, 2]), (2, [2]), (3, []), (4, [])])
def test_what_lacks_is_drawn(
    there: int, seeds: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    drawn: list[Prompt] = []

    def generate(pipeline: Any, prompts: Sequence[Prompt], *told: Any, **more: Any) -> list[Any]:
        drawn.extend(prompts)
        return [Image.new("RGB", (8, 8))] * len(prompts)

    family = SimpleNamespace(
        place=lambda device, waiting: None,
        named_children=lambda: [],
        text_encoders={},
        keep_prompts=lambda keep: None,
        encode_texts=lambda texts: {},
        pipeline=lambda: None,
        drawing=lambda: None,
    )
    monkeypatch.setattr(class_pictures.base_model, "load", lambda *told: family)
    monkeypatch.setattr(class_pictures, "generate", generate)
    own = ["data.prior.mode=class", "data.prior.prompt=a man"]
    composed = composed_train(*own, "data.prior.num_pictures=3", "sampling.batch_size=2")
    config = to_typed(composed, TrainConfig)
    folder = class_pictures.class_folder(config.data.prior, tmp_path)
    folder.mkdir(parents=True)
    for number in range(there):
        Image.new("RGB", (8, 8)).save(folder / f"class_{number:05d}.png")
    class_pictures.draw_missing_class_pictures(config, tmp_path, Progress(enabled=False))
    assert [(prompt.text, prompt.seed) for prompt in drawn] == [("a man", seed) for seed in seeds]
    assert len(list(folder.glob("*.png"))) == max(there, 3)


@pytest.mark.parametrize("model", ["sdxl", "z_image", "flux2_klein"])
def test_families_draw_them_with_prompts_of_their_own(
    model: str, random_bases: dict[str, Path], tmp_path: Path
) -> None:
    own = [f"model={model}", f"model.path={random_bases[model]}", "data.resolution=32"]
    own += ["data.prior.mode=class", "data.prior.prompt=a man", "data.prior.num_pictures=2"]
    own += ["data.root=here", "sampling.num_steps=1", "trainer.precision=fp32"]
    config = train_config(*own)
    class_pictures.draw_missing_class_pictures(config, tmp_path, Progress(enabled=False))
    folder = class_pictures.class_folder(config.data.prior, tmp_path)
    drawn = [path.read_bytes() for path in sorted(folder.glob("*.png"))]
    assert len(set(drawn)) == 2

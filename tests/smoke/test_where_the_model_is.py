"""Where the model is while it draws: Lightning leaves it in main memory when training ends."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch

from sdlora.evaluation.evaluator import Evaluator
from sdlora.models.family import Family
from tests.smoke.conftest import SMALL, TrainHere

pytestmark = pytest.mark.slow


def test_last_pictures_and_strengths_are_drawn_on_the_device(
    random_base: Path,
    pictures: Path,
    train_here: TrainHere,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The CPU stands for the device: what counts is that the model was put there again."""
    place, cpu, drawn = Family.place, lightning.LightningModule.cpu, Evaluator._pictures
    moves: list[str] = []
    seen: list[str] = []

    def put(family: Family, device: torch.device, waiting: Collection[str] = ()) -> Family:
        moves.append("device")
        return place(family, device, waiting)

    def taken_off(module: lightning.LightningModule) -> Any:
        moves.append("main memory")
        return cpu(module)

    def pictures_of(self: Evaluator, *args: Any, **options: Any) -> Any:
        seen.append(moves[-1])
        return drawn(self, *args, **options)

    monkeypatch.setattr(Family, "place", put)
    monkeypatch.setattr(lightning.LightningModule, "cpu", taken_off)
    monkeypatch.setattr(Evaluator, "_pictures", pictures_of)
    train_here(
        *[each for each in SMALL if not each.startswith("evaluation")],
        "evaluation.face.name=none",
        "evaluation.select=clip_score",
        f"model.path={random_base}",
        f"data.root={pictures}",
        "data.resolution=32",
        "trainer.max_steps=1",
        "evaluation.scales=[0.5]",
        f"run_dir={tmp_path / 'run'}",
    )
    assert "main memory" in moves
    assert len(seen) >= 3  # the base, the last step, a strength
    assert set(seen) == {"device"}

"""The verdict of ``debug=overfit``, from numbers and pictures that were made up."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from PIL import Image

from sdlora.commands.train.learnt import LearntNothing, fallen, require_learnt
from sdlora.commands.train.training_run import TrainingRun
from sdlora.runs.metrics import append_metrics


def test_the_loss_of_the_same_noise_counts_before_that_of_steps() -> None:
    lines: list[dict[str, Any]] = [
        {"step": step, "train/loss": loss} for step, loss in enumerate((0.1, 0.3, 0.2, 0.4))
    ]
    assert fallen(lines) == (
        False,
        "the training loss, first to last quarter, did not fall: from 0.10000 to 0.40000",
    )
    lines += [{"step": step, "val/loss": 0.5, "val/gap": gap} for step, gap in ((0, 0.1), (3, 0.0))]
    assert fallen(lines)[0]
    assert "fell from 0.60000 to 0.50000" in fallen(lines)[1]
    assert not fallen([])[0]


@pytest.mark.parametrize(
    ("color", "losses", "reason"),
    [
        ("gradient", (0.4, 0.1), None),
        ("gradient", (0.1, 0.4), "did not fall"),
        ("black", (0.4, 0.1), "of one colour"),
        ("base", (0.4, 0.1), "the picture is the base's"),
        ("none", (0.4, 0.1), "no picture was drawn"),
    ],
)
def test_the_picture_must_have_come(
    color: str, losses: tuple[float, float], reason: str | None, tmp_path: Path
) -> None:
    for step, loss in enumerate(losses, start=1):
        append_metrics(tmp_path, step, {"train/loss": loss})
    base = Image.linear_gradient("L").convert("RGB")
    pictures = {"gradient": base.rotate(90), "black": Image.new("RGB", (256, 256)), "base": base}
    for folder, picture in (("base", base), ("last", pictures.get(color))):
        if picture is not None:
            (tmp_path / "samples" / folder).mkdir(parents=True)
            picture.save(tmp_path / "samples" / folder / "000-a.png")
    said: list[str] = []
    run = SimpleNamespace(
        folder=tmp_path,
        trainer=SimpleNamespace(global_step=20),
        progress=SimpleNamespace(print=said.append),
    )
    if reason is None:
        require_learnt(cast(TrainingRun, run))
        assert said[0].endswith("This setup learns.")
    else:
        with pytest.raises(LearntNothing, match=reason):
            require_learnt(cast(TrainingRun, run))

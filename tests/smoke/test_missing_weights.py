"""A run on a machine without weights and network: what it says, and what it does without scores."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.smoke.conftest import SMALL, TrainHere

MessageOf = Callable[..., str]

NOBODY = ("evaluation.clip=clip", "evaluation.clip.options.model=owner/nobody")
SCORED = (
    *(item for item in SMALL if not item.startswith("evaluation")),
    "evaluation=none",
    *NOBODY,
)


@pytest.fixture(autouse=True)
def _empty_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DEEPFACE_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def test_training_says_what_to_fetch_and_begins_nothing(
    message_of: MessageOf, pictures: Path, tmp_path: Path
) -> None:
    given = ("model=sd15", f"data.root={pictures}")
    lines = message_of(*given, f"hydra.run.dir={tmp_path}/run").splitlines()
    assert "model.path=stable-diffusion-v1-5/stable-diffusion-v1-5: is no folder" in lines[1]
    assert lines[-1] == f"get it once, with network: sdlora fetch {' '.join(given)}"
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_check_needs_nothing_but_the_detector_of_a_cut(
    message_of: MessageOf, train_here: TrainHere, pictures: Path, tmp_path: Path
) -> None:
    given = ("model=sd15", f"data.root={pictures}")
    train_here("check=true", *given, f"hydra.run.dir={tmp_path}/run")
    assert (tmp_path / "run" / "contact_sheet.png").is_file()
    cut = (*given, "data.crop=face")
    lines = message_of("check=true", *cut).splitlines()
    assert lines[1].startswith("  data.face_detector=yunet: face_detection_yunet_2023mar.onnx is ")
    assert lines[-1].endswith(f"sdlora fetch {' '.join(cut)}")
    assert len(lines) == 3


def test_an_evaluation_says_what_to_fetch(
    message_of: MessageOf, pictures: Path, tmp_path: Path
) -> None:
    given = (f"images={pictures}", f"data.root={pictures}", "evaluation=photos")
    told = message_of(*given, f"hydra.run.dir={tmp_path}/run", evaluate=True)
    assert "model.path=" not in told
    assert f"sdlora fetch evaluate 'images=[{pictures}]' {' '.join(given[1:])}" in told
    assert told.endswith("or go on without these scores: evaluation.on_missing=warn")


@pytest.mark.slow
def test_without_scores_it_goes_on_and_its_end_says_so(
    train_here: TrainHere,
    random_base: Path,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    message_of: MessageOf,
) -> None:
    base = (f"model.path={random_base}", f"data.root={pictures}", "data.resolution=32")
    given = (*SCORED, *base, "trainer.max_steps=2", f"hydra.run.dir={tmp_path}/run")
    assert message_of(*given).endswith("evaluation.on_missing=warn")
    train_here(*given, "evaluation.on_missing=warn")
    [end] = [line for line in capsys.readouterr().out.splitlines() if "not scored" in line]
    assert end.startswith("not scored: clip_score: owner/nobody is no folder here")
    assert "sdlora fetch evaluation.clip=clip" in end
    told = message_of(
        f"images={pictures}", *NOBODY, "evaluation.on_missing=warn",
        f"hydra.run.dir={tmp_path}/scores", evaluate=True,
    )  # fmt: skip
    assert told.startswith("nothing was scored")
    assert "CLIP score: owner/nobody is no folder here" in told

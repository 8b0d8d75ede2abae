"""``python evaluate.py`` on a run, and on single LoRA files in both layouts."""

import json
from pathlib import Path

import pytest

from tests.smoke.conftest import SMALL, Train

pytestmark = pytest.mark.slow

DRAW = ("sampling.num_steps=2", "sampling.num_prompts=2", "evaluation=none", "resolution=32")


@pytest.fixture(scope="module")
def run_folder(
    train_process: Train, pictures: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("run")
    few = ("data.resolution=32", "trainer.max_steps=2", "scheduler=constant")
    done = train_process(*SMALL, *few, f"data.root={pictures}", f"hydra.run.dir={folder}")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def pngs(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.png"))}


def test_a_run_and_its_files_draw_the_same(
    run_folder: Path, train_process: Train, tmp_path: Path
) -> None:
    lora = run_folder / "lora"
    what = {
        "run": (f"run={run_folder}", "checkpoint=2"),
        "kohya": (f"lora={lora / 'my_lora.safetensors'}",),
        "off": (f"lora={lora / 'pytorch_lora_weights.safetensors'}", "lora_scale=0"),
    }
    for name, arguments in what.items():
        here = f"hydra.run.dir={tmp_path / name}"
        done = train_process(*arguments, *DRAW, here, script="evaluate.py")
        assert done.returncode == 0, done.stdout + done.stderr
        report = json.loads((tmp_path / name / "report.json").read_text("utf-8"))
        assert set(report["scores"]) >= {"base", "LoRA"}
        assert (tmp_path / name / "grid.png").is_file()
    drawn = {name: pngs(tmp_path / name / "lora") for name in what}
    assert len(drawn["run"]) == 2
    assert drawn["run"] == drawn["kohya"]
    assert drawn["off"] == pngs(tmp_path / "off" / "base") == pngs(tmp_path / "run" / "base")
    assert drawn["run"] != drawn["off"]


def test_a_run_of_another_schedule_is_drawn_as_it_was_trained(
    train_process: Train, pictures: Path, tmp_path: Path
) -> None:
    """v-prediction and zero-terminal SNR on a base that has neither: the run's own pictures."""
    few = ("data.resolution=32", "trainer.max_steps=2", "objective=zero_terminal_snr")
    run = tmp_path / "run"
    done = train_process(*SMALL, *few, f"data.root={pictures}", f"hydra.run.dir={run}")
    assert done.returncode == 0, done.stdout + done.stderr
    here = f"hydra.run.dir={tmp_path / 'drawn'}"
    done = train_process(f"run={run}", *DRAW, here, script="evaluate.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert pngs(tmp_path / "drawn" / "lora") == pngs(run / "samples" / "last")
    assert pngs(tmp_path / "drawn" / "base") == pngs(run / "samples" / "base")


def test_bad_input_stops_with_one_message(train_process: Train, tmp_path: Path) -> None:
    stopped = train_process(
        "lora=missing.safetensors", f"hydra.run.dir={tmp_path}", script="evaluate.py"
    )
    assert stopped.returncode == 2
    assert stopped.stderr.startswith("error: lora=missing.safetensors: no such file or folder")
    assert len(stopped.stderr.splitlines()) == 2

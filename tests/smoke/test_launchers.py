"""Cells of a sweep in processes of their own, by the launchers that people install."""

import json
import shutil
from pathlib import Path

import pytest

from tests.smoke.conftest import SMALL, TrainHere

pytestmark = pytest.mark.slow


def states(sweep: Path) -> dict[str, str]:
    """State of each cell by its folder."""
    files = sorted(sweep.glob("*/cell.json"))
    return {file.parent.name: json.loads(file.read_text("utf-8"))["state"] for file in files}


def test_cells_run_in_other_processes(
    train_here: TrainHere, random_base: Path, pictures: Path, tmp_path: Path
) -> None:
    """Two side by side by joblib, of which one fails; submitit runs that one again, alone."""
    loky = pytest.importorskip("joblib.externals.loky", reason="joblib is not installed")
    for name in ("joblib", "submitit"):
        package = f"hydra_plugins.hydra_{name}_launcher"
        pytest.importorskip(package, reason=f"{package} is not installed")
    sweep, photos = tmp_path / "sweep", tmp_path / "photos"
    photos.mkdir()
    command = (
        *("-m", *SMALL, f"model.path={random_base}", f"data.root={photos},{pictures}"),
        *("data.resolution=32", "data.batch_size=2", "trainer.max_steps=1"),
        f"hydra.sweep.dir={sweep}",
    )
    with pytest.raises(ValueError, match="photos"):
        train_here(*command, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    loky.get_reusable_executor().shutdown()
    assert sorted(states(sweep).values()) == ["done", "failed"]
    page = (sweep / "report.html").read_text("utf-8")
    assert "1 done" in page
    assert "1 failed" in page

    [done] = [cell for cell, state in states(sweep).items() if state == "done"]
    before = (sweep / done / "cell.json").stat().st_mtime_ns
    shutil.copytree(pictures, photos, dirs_exist_ok=True)
    train_here(*command, "hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5")
    assert set(states(sweep).values()) == {"done"}
    assert (sweep / done / "cell.json").stat().st_mtime_ns == before


def test_a_cell_runs_on_ray(
    train_here: TrainHere, random_base: Path, pictures: Path, tmp_path: Path
) -> None:
    """A Ray of this machine alone, as hydra.launcher.ray.init.address names that of a cluster."""
    package = "hydra_plugins.hydra_ray_launcher.ray_launcher"
    pytest.importorskip(package, reason="ray and hydra-ray-launcher are not installed")
    ray = pytest.importorskip("ray")
    init = ("num_cpus=1", "include_dashboard=false")
    train_here(
        *("-m", *SMALL, f"model.path={random_base}", f"data.root={pictures}"),
        *("data.resolution=32", "data.batch_size=2", "trainer.max_steps=1"),
        *("hydra/launcher=ray", *(f"+hydra.launcher.ray.init.{item}" for item in init)),
        f"hydra.sweep.dir={tmp_path}",
    )
    ray.shutdown()
    assert states(tmp_path) == {"run": "done"}

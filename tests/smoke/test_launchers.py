"""Cells of a sweep in processes of their own, by the launchers that people install."""

import json
import os
import shlex
import shutil
import signal
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.smoke.conftest import SMALL, Train, TrainHere

pytestmark = pytest.mark.slow

FILE = "lora/pytorch_lora_weights.safetensors"


def states(sweep: Path) -> dict[str, str]:
    """State of each cell by its folder."""
    files = sorted(sweep.glob("*/cell.json"))
    return {file.parent.name: json.loads(file.read_text("utf-8"))["state"] for file in files}


def test_cells_run_in_other_processes(
    train_only: TrainHere, random_base: Path, pictures: Path, tmp_path: Path
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
        train_only(*command, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    loky.get_reusable_executor().shutdown()
    assert sorted(states(sweep).values()) == ["done", "failed"]
    page = (sweep / "report.html").read_text("utf-8")
    assert "1 done" in page
    assert "1 failed" in page

    [done] = [cell for cell, state in states(sweep).items() if state == "done"]
    before = (sweep / done / "cell.json").stat().st_mtime_ns
    shutil.copytree(pictures, photos, dirs_exist_ok=True)
    train_only(*command, "hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5")
    assert set(states(sweep).values()) == {"done"}
    assert (sweep / done / "cell.json").stat().st_mtime_ns == before


MOST_S = 60.0
"""Seconds in which all cells save their step and the command ends, on a machine with other work."""


@pytest.mark.skipif(os.name == "nt", reason="Windows has none of these signals")
def test_a_signal_loses_no_step_of_cells_in_other_processes(
    train_only: TrainHere,
    train_process: Train,
    random_base: Path,
    pictures: Path,
    tmp_path: Path,
) -> None:
    """Two of three cells train; SIGTERM, then Ctrl-C; the printed command ends the sweep."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="joblib is not installed")
    sweep, whole = tmp_path / "my sweep", tmp_path / "whole"
    given = (
        *("-m", *SMALL, f"model.path={random_base}", f"data.root={pictures}", "seed=1,2,3"),
        *("data.resolution=32", "data.batch_size=2", "trainer.max_steps=5", "lora.dropout=0.1"),
        *("checkpoint.every_n_steps=0", f"data.cache.dir={tmp_path}/cache"),
    )
    train_only(*given, f"hydra.sweep.dir={whole}")
    words = [*given, f"hydra.sweep.dir='{sweep}'"]
    words += ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    for number, step in ((signal.SIGTERM, 2), (signal.SIGINT, 4)):
        hit = {"HIT": f"{int(number)} {step} {tmp_path}", "PYTHONPATH": "."}
        ended = train_process(
            *words, script="tests/smoke/hit_cells.py", environment=hit, fresh=True
        )
        seconds = time.monotonic() - float((tmp_path / "hit.txt").read_text("utf-8"))
        told = ended.stdout + ended.stderr
        assert ended.returncode == 128 + number, told
        assert "Warning" not in told
        assert seconds < MOST_S
        assert "Traceback" not in told
        assert told.count(f"stopped at step {step} of 5 and saved") == 2
        assert states(sweep) == {"seed=1": "running", "seed=2": "running"}
        hint = told.partition(f"sweep {sweep}: 0 of 3 cells done; go on with: ")[2]
        words = shlex.split(hint.splitlines()[0])[2:]
    ended = train_process(*words, fresh=True)
    assert ended.returncode == 0, ended.stderr
    for cell in ("seed=1", "seed=2", "seed=3"):
        assert states(sweep)[cell] == "done"
        ours, theirs = (load_file(folder / cell / FILE) for folder in (sweep, whole))
        assert all(ours[name].equal(theirs[name]) for name in theirs)
    assert not list(sweep.glob(".stop*"))


def test_a_cell_runs_on_ray(
    train_only: TrainHere, random_base: Path, pictures: Path, tmp_path: Path
) -> None:
    """A Ray of this machine alone, as hydra.launcher.ray.init.address names that of a cluster."""
    package = "hydra_plugins.hydra_ray_launcher.ray_launcher"
    pytest.importorskip(package, reason="ray and hydra-ray-launcher are not installed")
    ray = pytest.importorskip("ray")
    init = ("num_cpus=1", "include_dashboard=false")
    train_only(
        *("-m", *SMALL, f"model.path={random_base}", f"data.root={pictures}"),
        *("data.resolution=32", "data.batch_size=2", "trainer.max_steps=1"),
        *("hydra/launcher=ray", *(f"+hydra.launcher.ray.init.{item}" for item in init)),
        f"hydra.sweep.dir={tmp_path}",
    )
    ray.shutdown()
    assert states(tmp_path) == {"run": "done"}

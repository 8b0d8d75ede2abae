"""``python -m benchmarks.gpu --tiny``: the parts that no other test runs, on a CPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.places import REPOSITORY

pytestmark = pytest.mark.slow


def test_the_script_runs_on_a_cpu_and_writes_its_page(tmp_path: Path) -> None:
    out = tmp_path / "out"
    parts = ["works_fp16", "right", "fast_sd15", "faster"]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.gpu", "--tiny", "--parts", ",".join(parts)),
            *("--out", str(out), "--scratch", str(tmp_path / "scratch")),
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads((out / f"{part}.json").read_text("utf-8")) for part in parts]
    found = {line["what"]: line for part in lines for line in part}
    assert found["a step in fp32, against float64"]["is_right"]
    assert found["a step in bf16, against float64"]["is_right"]
    assert found["batch 2, CUDA graph"]["found"].startswith("not measured")
    assert "sd15 at batch 4: ours / floor" in found
    assert not [what for what, line in found.items() if line["is_right"] is False]
    page = (out / "gpu.md").read_text("utf-8")
    assert "| ✓ | a step in fp32, against float64 |" in page
    assert "## works_sd15" in page

"""The Slurm script of the docs as a job of submitit: warned, it saves, is requeued and goes on."""

import os
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.smoke.conftest import SMALL, TrainHere

pytestmark = pytest.mark.slow

FILE = "lora/pytorch_lora_weights.safetensors"

SDLORA = """\
#!/bin/sh
shift
if [ -e warned ]; then exec {python} {repository}/train.py "$@"; fi
touch warned
STOP="USR1 step 3 parent" exec {python} {repository}/tests/smoke/signalled_train.py "$@"
"""
"""``sdlora train``; in the first job the script gets Slurm's warning at the third step."""

SCONTROL = """\
#!/bin/sh
echo "$@" > asked
"""


def script(repository: Path, outputs: Path, given: tuple[str, ...]) -> str:
    """The docs' script, for this run."""
    text = (repository / "docs" / "resuming.md").read_text("utf-8")
    body = "#!/bin/bash" + text.partition("#!/bin/bash")[2].partition("```")[0]
    own = "data.root=/shared/photos model=sd15"
    assert body.count(own) == 1
    return body.replace(own, " ".join(given)).replace("/shared/outputs", str(outputs))


def test_a_job_that_is_warned_is_requeued_and_ends_as_if_it_had_not_been(
    random_base: Path, pictures: Path, repository: Path, train_only: TrainHere, tmp_path: Path
) -> None:
    submitit = pytest.importorskip("submitit", reason="submitit is not installed")
    given = (
        *SMALL,
        *(f"model.path={random_base}", f"data.root={pictures}", "data.resolution=32"),
        *("data.batch_size=2", "trainer.max_steps=5", "lora.dropout=0.1"),
    )
    train_only(*given, f"run_dir={tmp_path}/whole")
    programs = {"sdlora": SDLORA, "scontrol": SCONTROL}
    for name, text in programs.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text.format(python=sys.executable, repository=repository), "utf-8")
        path.chmod(0o755)
    (tmp_path / "job.sh").write_text(script(repository, tmp_path / "outputs", given), "utf-8")
    own = {
        "PATH": f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(repository),
        "SLURM_JOB_ID": "77",
    }

    def job() -> str:
        """What the script prints; an exit code that is not 0 is an error."""
        executor = submitit.LocalExecutor(folder=tmp_path / "jobs")
        executor.update_parameters(timeout_min=5)
        command = submitit.helpers.CommandFunction(
            ["bash", "job.sh"], verbose=False, cwd=tmp_path, env={**os.environ, **own}
        )
        printed: str = executor.submit(command).result()
        return printed

    told = job()
    assert "stopped at step 3 of 5 and saved" in told
    assert (tmp_path / "asked").read_text("utf-8") == "requeue 77\n"
    assert "continuing from step 3 of 5" in job()
    ours, theirs = (load_file(tmp_path / run / FILE) for run in ("outputs/77", "whole"))
    assert all(ours[key].equal(theirs[key]) for key in theirs)

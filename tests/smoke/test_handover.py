"""What a run leaves: the chosen LoRA in ``lora/``, the last in ``last/``, and how it ends."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file

from sdlora.evaluation.scores import Scores
from sdlora.evaluation.selection import Rule
from tests.smoke.conftest import TrainHere

pytestmark = pytest.mark.slow

FILE = "pytorch_lora_weights.safetensors"
SCORED = (
    "evaluation.face.name=none",
    "evaluation.kid=false",
    "evaluation.select=clip_score",
    "evaluation.every_n_steps=1",
    "evaluation.scales=[0.5]",
    "sampling.num_steps=2",
    "sampling.num_prompts=2",
    "sampling.every_n_steps=0",
    "logger=none",
)
PICTURES = {
    "base": "samples/base",
    "LoRA": "samples/step_0000001",
    "last, step 2": "samples/last",
}
LAYOUTS = [
    "my_lora.safetensors",
    FILE,
    "text_encoder/adapter_model.safetensors",
    "unet/adapter_model.safetensors",
]


def first_is_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scores of the first step that is considered cost less than all others."""
    seen: list[object] = []

    def cost(self: Rule, scores: Scores, base: Scores) -> float:
        seen.append(scores.per_picture)
        return float(scores.per_picture != seen[0])

    monkeypatch.setattr(Rule, "cost", cost)


def same(one: Path, other: Path) -> bool:
    ours, theirs = load_file(one), load_file(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.safetensors"))


@pytest.mark.parametrize("init", ["default", "pissa"])
def test_lora_is_the_chosen_step_and_last_is_the_last(
    init: str,
    train_here: TrainHere,
    random_base: Path,
    pictures: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    first_is_best(monkeypatch)
    run = tmp_path / "run"
    train_here(
        *SCORED,
        f"model.path={random_base}",
        f"data.root={pictures}",
        f"lora.init={init}",
        "lora.text_encoder.method=lora",
        "optim.unet_lr=0.01",
        "trainer.max_steps=2",
        "checkpoint.every_n_steps=1",
        "sampling.num_preview=1",
        f"run_dir={run}",
    )
    assert files(run / "lora") == files(run / "last") == LAYOUTS
    steps = run / "checkpoints"
    assert same(run / "lora" / FILE, steps / "step_0000001" / FILE)
    assert same(run / "last" / FILE, steps / "step_0000002" / FILE)
    assert not same(run / "lora" / FILE, run / "last" / FILE)
    assert not (run / "best").exists()
    assert json.loads((run / "lora" / "scores.json").read_text("utf-8"))["step"] == 1
    for folder, step in (("lora", "1"), ("last", "2")):
        with safe_open(run / folder / "my_lora.safetensors", "pt") as opened:
            assert opened.metadata()["ss_steps"] == step
    assert "| Steps | 1 |" in (run / "lora" / "README.md").read_text("utf-8")

    told = capsys.readouterr().out
    assert "export proved: loaded back in 3 layouts" in told
    choice, good, program, diffusers, look = told.strip().splitlines()[-5:]
    assert choice == "lora/ is step 1, chosen by CLIP score; last/ is step 2, the last"
    assert good.startswith(("How good: CLIP score ", "Nothing beats the base: CLIP score "))
    assert (run / "lora" / "my_lora.safetensors").as_posix() in program
    assert "CLIP score at 0.5: " in program
    assert look.startswith(f"Look at: {(run / 'report.html').as_posix()}")
    report = json.loads((run / "report.json").read_text("utf-8"))
    rows, kept = report["scores"], json.loads((run / "lora" / "scores.json").read_text("utf-8"))
    assert list(rows) == ["base", "LoRA x0.5", "LoRA", "last, step 2"]
    assert rows["LoRA"] == kept["scores"] != rows["last, step 2"]
    drawn = {name: sorted((run / folder).glob("*.png")) for name, folder in PICTURES.items()}
    assert report["pictures"] == PICTURES
    assert [len(files) for files in drawn.values()] == [2, 2, 2]  # of all prompts, not the preview

    pipe = StableDiffusionPipeline.from_pretrained(random_base, safety_checker=None)
    for line in diffusers.removeprefix("diffusers: ").split("; "):  # as it is told
        exec(line, {"pipe": pipe})
    assert pipe.get_active_adapters() == ["lora"]
    page = (run / "report.html").read_text("utf-8")
    assert "lora/my_lora.safetensors" in page


def test_a_run_of_an_older_version_goes_on_with_its_choice(
    train_here: TrainHere,
    random_base: Path,
    pictures: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """There the chosen step lay in ``best/`` without a peft layout, the last one in ``lora/``."""
    first_is_best(monkeypatch)
    run = tmp_path / "run"
    made = (*SCORED, f"model.path={random_base}", f"data.root={pictures}", f"run_dir={run}")
    train_here(*made, "trainer.max_steps=1", "optim.unet_lr=0.01")
    first = load_file(run / "lora" / FILE)
    shutil.rmtree(run / "lora" / "unet")
    (run / "lora").rename(run / "best")
    (run / "last").rename(run / "lora")

    train_here(f"resume={run}", "trainer.max_steps=2")
    assert not (run / "best").exists()
    chosen, last = load_file(run / "lora" / FILE), load_file(run / "last" / FILE)
    assert all(torch.equal(first[key], value) for key, value in chosen.items())
    assert any(not torch.equal(first[key], value) for key, value in last.items())
    assert (run / "lora" / "unet" / "adapter_model.safetensors").is_file()


def test_where_nothing_is_scored_lora_is_the_last_step(
    train_here: TrainHere,
    random_base: Path,
    pictures: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    few = [each for each in SCORED if not each.startswith("evaluation")]
    made = (f"model.path={random_base}", f"data.root={pictures}", f"run_dir={run}")
    train_here(*few, *made, "evaluation=none", "trainer.max_steps=1")
    told = capsys.readouterr().out.strip().splitlines()
    assert told[-5] == "lora/ is step 1, the last: no step was scored"
    for name in files(run / "last"):
        assert (run / "lora" / name).read_bytes() == (run / "last" / name).read_bytes()

    command = told[-4].partition("sdlora evaluate ")[2].split()  # the remedy, as it is told
    train_here(*command, f"run_dir={tmp_path / 'scored'}", evaluate=True)
    assert "face distance" in capsys.readouterr().out

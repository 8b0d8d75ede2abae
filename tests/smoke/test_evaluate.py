"""``python evaluate.py`` on a run, and on single LoRA files in both layouts."""

import json
import shutil
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdlora.world.portraits import EXAMPLE_IDENTITY_SEED, portrait
from tests.smoke.conftest import SMALL, Train, TrainHere
from tests.unit.evaluation.random_deepface import write_weights

pytestmark = pytest.mark.slow

DRAW = ("sampling.num_steps=2", "sampling.num_prompts=2", "evaluation=none", "resolution=32")


@pytest.fixture(scope="module")
def few(random_base: Path, pictures: Path) -> tuple[str, ...]:
    """Overrides of a run of two steps."""
    given = ("data.resolution=32", "trainer.max_steps=2")
    return (*SMALL, *given, f"model.path={random_base}", f"data.root={pictures}")


@pytest.fixture(scope="module")
def run_folder(
    few: tuple[str, ...], train_only: TrainHere, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run; read it, never write in it."""
    folder = tmp_path_factory.mktemp("run")
    train_only(*few, "scheduler=constant", f"hydra.run.dir={folder}")
    return folder


@pytest.fixture
def evaluate_here(train_here: TrainHere, random_base: Path) -> TrainHere:
    """``evaluate.py`` in this process, on the random base."""
    return partial(train_here, f"model.path={random_base}", evaluate=True)


def pngs(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.png"))}


def test_a_run_and_its_files_draw_the_same(
    run_folder: Path, train_process: Train, evaluate_here: TrainHere, tmp_path: Path
) -> None:
    """The run in a process of its own, as a user does; the files in this one."""
    lora = run_folder / "lora"
    what = {
        "run": (f"run={run_folder}", "checkpoint=2"),
        "kohya": (f"lora={lora / 'my_lora.safetensors'}",),
        "off": (f"lora={lora / 'pytorch_lora_weights.safetensors'}", "lora_scale=0"),
    }
    for name, arguments in what.items():
        given = (*arguments, *DRAW, f"hydra.run.dir={tmp_path / name}")
        if name == "run":
            done = train_process(*given, script="evaluate.py", fresh=True)
            assert done.returncode == 0, done.stdout + done.stderr
        else:
            evaluate_here(*given)
        report = json.loads((tmp_path / name / "report.json").read_text("utf-8"))
        assert set(report["scores"]) >= {"base", "LoRA"}
        assert (tmp_path / name / "grid.png").is_file()
    drawn = {name: pngs(tmp_path / name / "lora") for name in what}
    assert len(drawn["run"]) == 2
    assert drawn["run"] == drawn["kohya"]
    assert drawn["off"] == pngs(tmp_path / "off" / "base") == pngs(tmp_path / "run" / "base")
    assert drawn["run"] != drawn["off"]


def test_a_run_of_another_schedule_is_drawn_as_it_was_trained(
    few: tuple[str, ...], train_only: TrainHere, evaluate_here: TrainHere, tmp_path: Path
) -> None:
    """v-prediction and zero-terminal SNR on a base that has neither: the run's own pictures."""
    run = tmp_path / "run"
    train_only(*few, "objective=zero_terminal_snr", f"hydra.run.dir={run}")
    evaluate_here(f"run={run}", *DRAW, f"hydra.run.dir={tmp_path / 'drawn'}")
    assert pngs(tmp_path / "drawn" / "lora") == pngs(run / "samples" / "last")
    assert pngs(tmp_path / "drawn" / "base") == pngs(run / "samples" / "base")


def test_bad_input_stops_with_one_message(train_process: Train, tmp_path: Path) -> None:
    both = ("lora=a", "images=b", f"hydra.run.dir={tmp_path}")
    stopped = train_process(*both, script="evaluate.py")
    assert stopped.returncode == 2
    assert stopped.stderr.startswith("error: images=['b']: is scored by itself, without lora=")
    assert len(stopped.stderr.splitlines()) == 2


def test_checkpoints_and_strengths_share_one_load(
    run_folder: Path, evaluate_here: TrainHere, tmp_path: Path
) -> None:
    several = ("checkpoint=all", "lora_scale=0,1")
    evaluate_here(f"run={run_folder}", *several, *DRAW, f"run_dir={tmp_path}")
    report = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert report["version"] == 2
    assert report["pictures"] == {
        "base": "base",
        "step 2 x0": "step-2-x0",
        "step 2 x1": "step-2-x1",
    }
    assert pngs(tmp_path / "step-2-x0") == pngs(tmp_path / "base") != pngs(tmp_path / "step-2-x1")
    assert (tmp_path / "report.html").stat().st_size > 1000


def test_several_files_are_taken_off_again(
    run_folder: Path, evaluate_here: TrainHere, tmp_path: Path
) -> None:
    lora = run_folder / "lora"
    files = (lora / "my_lora.safetensors", lora / "pytorch_lora_weights.safetensors")
    evaluate_here(f"lora=[{','.join(map(str, files))}]", *DRAW, f"run_dir={tmp_path}")
    report = json.loads((tmp_path / "report.json").read_text("utf-8"))
    first, second = (pngs(tmp_path / folder) for folder in list(report["pictures"].values())[1:])
    # the same LoRA twice: had the first stayed on the model, the second would come on top
    assert first == second != pngs(tmp_path / "base")


def test_pictures_made_elsewhere_are_scored(
    evaluate_here: TrainHere, repository: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "drawn"
    folder.mkdir()
    for seed in range(3):
        drawn = portrait(900_000 + seed, EXAMPLE_IDENTITY_SEED)
        drawn.image.save(folder / f"{seed}.png")
        (folder / f"{seed}.txt").write_text(drawn.caption, "utf-8")
    copied = repository / "examples/portraits/portrait_07"
    shutil.copyfile(copied.with_suffix(".png"), folder / "copy.png")
    shutil.copyfile(copied.with_suffix(".txt"), folder / "copy.txt")
    evaluate_here(f"images={folder}", "data.root=examples/portraits", f"run_dir={tmp_path / 'out'}")
    report = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))
    values = report["scores"]["pictures"]["values"]
    # drawings of the person with their own captions: as good as the held-out ones
    assert values["face_distance"] < 0.4
    assert values["clip_score"] > 70
    assert values["faceless"] == 0
    columns = report["scores"]["pictures"]["per_picture"]
    assert [len(column) for column in columns.values()] == [4] * len(columns)
    copy = columns["training_similarity"].index(max(columns["training_similarity"]))
    assert columns["nearest_training"][copy] == "portrait_07.png"
    assert values["largest_training_similarity"] == pytest.approx(1, abs=1e-4)
    assert values["copying"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("lora=missing.safetensors",), "lora=missing.safetensors: no such file or folder"),
        (("images=nowhere",), "images=nowhere: no such file or folder"),
        ((), "run=None: give either run=RUN_FOLDER, lora=FILE or images=FOLDER"),
        (("lora=pyproject.toml", "data.root=nowhere"), "data.root=nowhere: no such folder"),
        (("lora=a", "lora_scale=nan"), "lora_scale=[nan]: must be finite numbers"),
    ],
)
def test_what_cannot_be_scored_is_said(
    arguments: tuple[str, ...],
    message: str,
    message_of: Callable[..., str],
    random_base: Path,
    tmp_path: Path,
) -> None:
    given = (*arguments, f"model.path={random_base}", f"run_dir={tmp_path}")
    assert message_of(*given, evaluate=True).startswith(message)


def test_the_homework_prints_its_three_numbers(
    evaluate_here: TrainHere,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DEEPFACE_HOME", str(tmp_path))
    monkeypatch.setenv("DEEPFACE_BACKEND_ENGINE", "pytorch")
    with warnings.catch_warnings():  # deepface silences those of the process
        write_weights(tmp_path)
    for name, seeds in (("training", range(4)), ("drawn", range(10, 14))):
        (tmp_path / name).mkdir()
        for seed in seeds:
            drawn = portrait(900_000 + seed, EXAMPLE_IDENTITY_SEED)
            drawn.image.resize((512, 512)).save(tmp_path / name / f"{seed}.png")
            (tmp_path / name / f"{seed}.txt").write_text(drawn.caption, "utf-8")
    evaluate_here(
        f"images={tmp_path / 'drawn'}",
        f"data.root={tmp_path / 'training'}",
        "evaluation=hw10",
        "evaluation.face.options.detector=opencv",
        "evaluation.clip.options.model=tiny",
        "evaluation.image.options.model=tiny",
        f"run_dir={tmp_path / 'out'}",
    )
    report = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))
    values = report["scores"]["pictures"]["values"]
    assert values["hw10_faceless"] < 4
    printed = (
        f"Face Similarity Score: {values['hw10_face']} CLIP Score: {values['hw10_clip']} "
        f"Faceless Images: {values['hw10_faceless']}"
    )
    assert printed in capsys.readouterr().out
    # no adapter and no prompt file of the homework is needed to see the honest scores beside it
    assert 0 < values["face_distance"] <= 2
    assert values["kid"] is not None


def test_a_training_picture_that_cannot_be_read_is_named(
    evaluate_here: TrainHere,
    repository: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for folder in ("training", "drawn"):
        (tmp_path / folder).mkdir()
        for name in ("portrait_01.png", "portrait_02.png"):
            shutil.copyfile(repository / "examples/portraits" / name, tmp_path / folder / name)
    broken = tmp_path / "training" / "portrait_02.png"
    broken.write_bytes(broken.read_bytes()[:300])
    evaluate_here(
        f"images={tmp_path / 'drawn'}",
        f"data.root={tmp_path / 'training'}",
        f"run_dir={tmp_path / 'out'}",
    )
    told = capsys.readouterr().out
    assert "left out, since they cannot be read: portrait_02.png\n" in told
    report = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))
    assert report["real_pictures"]["num_pictures"] == 1


def test_captions_that_a_run_drew_are_drawn_again(
    random_base: Path,
    pictures: Path,
    train_only: TrainHere,
    evaluate_here: TrainHere,
    message_of: Callable[..., str],
    tmp_path: Path,
) -> None:
    """What suits real models: prompts are captions, precision is the machine's."""
    run, root = tmp_path / "run", shutil.copytree(pictures, tmp_path / "pictures")
    train_only(
        "model=sd15",
        f"model.path={random_base}",
        f"data.root={root}",
        *("data.resolution=32", "trainer.max_steps=1", "trainer.accelerator=cpu"),
        *("sampling.num_steps=2", "sampling.every_n_steps=0", "sampling.num_prompts=3"),
        *("evaluation=none", "logger=none", f"hydra.run.dir={run}"),
    )
    stored = json.loads((run / "config.json").read_text("utf-8"))["config"]
    assert stored["trainer"]["precision"] == "fp32"
    assert stored["model"]["recommended"]["precision"] == "auto"
    captions = (run / "prompts.txt").read_text("utf-8").splitlines()
    assert captions == [path.read_text("utf-8") for path in sorted(root.glob("*.txt"))][:3]
    shutil.rmtree(root)
    few = ("sampling.num_steps=2", "evaluation=none", "resolution=32")
    evaluate_here(f"run={run}", *few, f"hydra.run.dir={tmp_path / 'again'}")
    drawn = json.loads((tmp_path / "again/prompts.json").read_text("utf-8"))
    assert [each["text"] for each in drawn] == captions

    file = ("model=sd15", f"lora={run / 'lora/my_lora.safetensors'}", *few)
    base, none = f"model.path={random_base}", f"hydra.run.dir={tmp_path / 'none'}"
    told = message_of(*file, base, none, evaluate=True)
    assert told.startswith("sampling.prompts=captions: there are no pictures; name a text file")
    assert told.endswith("or the training pictures with data.root=FOLDER")
    shutil.copytree(pictures, root)
    evaluate_here(*file, f"data.root={root}", f"hydra.run.dir={tmp_path / 'file'}")
    drawn = json.loads((tmp_path / "file/prompts.json").read_text("utf-8"))
    assert [each["text"] for each in drawn][:3] == captions
    (run / "prompts.txt").unlink()
    told = message_of(f"run={run}", f"hydra.run.dir={tmp_path / 'lost'}", evaluate=True)
    assert told.startswith(f"sampling.prompts=captions: {run} holds no prompts.txt; name a text")


def test_a_sampler_that_cannot_follow_the_base_is_refused_before_weights_are_read(
    random_base: Path, run_folder: Path, message_of: Callable[..., str], tmp_path: Path
) -> None:
    base = shutil.copytree(random_base, tmp_path / "base")
    place = base / "scheduler" / "scheduler_config.json"
    markers = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    place.write_text(json.dumps(json.loads(place.read_text("utf-8")) | markers), "utf-8")
    for weights in base.rglob("*.safetensors"):
        weights.write_bytes(b"")
    told = message_of(
        f"lora={run_folder / 'lora'}",
        *("model=sd15", f"model.path={base}", "sampling.prompts=example:prompts.txt"),
        *("sampling.sampler=pndm", "evaluation=none", f"hydra.run.dir={tmp_path / 'scores'}"),
        evaluate=True,
    )
    assert told.startswith("sampling.sampler=pndm: ")
    assert "set sampling.sampler to one" in told


def test_an_evaluation_without_any_number_is_an_error(
    message_of: Callable[..., str], repository: Path, tmp_path: Path
) -> None:
    """The only scorer has no weights: what is written is there, and the message says why."""
    (tmp_path / "drawn").mkdir()
    shutil.copyfile(repository / "examples/portraits/portrait_01.png", tmp_path / "drawn" / "a.png")
    message = message_of(
        f"images={tmp_path / 'drawn'}",
        "evaluation=none",
        "evaluation.clip.name=clip",
        "evaluation.clip.options.model=tiny",
        f"run_dir={tmp_path / 'out'}",
        evaluate=True,
    )
    lines = message.splitlines()
    assert lines[0].startswith("nothing was scored")
    assert lines[1:] == ["  no CLIP score: there are no prompts to compare with"]
    assert (tmp_path / "out" / "report.json").is_file()


def test_two_folders_of_pictures_have_no_base(
    evaluate_here: TrainHere, repository: Path, tmp_path: Path
) -> None:
    for number, name in enumerate(("first", "second"), start=1):
        (tmp_path / name).mkdir()
        picture = repository / f"examples/portraits/portrait_0{number}.png"
        shutil.copyfile(picture, tmp_path / name / "a.png")
    evaluate_here(
        f"images=[{tmp_path / 'first'},{tmp_path / 'second'}]",
        "data.root=examples/portraits",
        f"run_dir={tmp_path / 'out'}",
    )
    report = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))
    assert list(report["scores"]) == ["first", "second"]
    assert report["gap_closed"] == {"first": None, "second": None}


def test_files_of_others_are_evaluated(
    evaluate_here: TrainHere, message_of: Callable[..., str], random_base: Path, tmp_path: Path
) -> None:
    """A LoHa at two strengths, merged or not: the same pictures; an unknown key stops it."""
    unet = load_file(random_base / "unet" / "diffusion_pytorch_model.safetensors")
    layer = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    stem, side = f"lora_unet_{layer.replace('.', '_')}", len(unet[f"{layer}.weight"])
    draws = torch.Generator().manual_seed(0)
    tensors = {f"{stem}.hada_w{n}_{m}": torch.randn(shape, generator=draws) for n in (1, 2)
               for m, shape in (("a", (side, 2)), ("b", (2, side)))}  # fmt: skip
    file = tmp_path / "loha.safetensors"
    save_file({**tensors, "bundle_emb.sks.clip_l": torch.zeros(1, 16)}, file)
    told = message_of(f"lora={file}", *DRAW, f"model.path={random_base}", evaluate=True)
    assert "bundle_emb.sks.clip_l: the embedding of the word sks" in told
    assert "lora_skip_unknown=true" in told
    for name, merge in (("beside", "false"), ("merged", "true")):
        evaluate_here(f"lora={file}", *DRAW, "lora_skip_unknown=true", "lora_scale=0,1",
                      f"merge={merge}", f"hydra.run.dir={tmp_path / name}")  # fmt: skip
    rows = {path.name for path in (tmp_path / "beside").iterdir() if path.is_dir()}
    for row in rows:
        assert pngs(tmp_path / "beside" / row) == pngs(tmp_path / "merged" / row)
    drawn = {row: pngs(tmp_path / "beside" / row) for row in rows if "lora" in row or row == "base"}
    off, on = (drawn[row] for row in sorted(row for row in drawn if row != "base"))
    assert off == drawn["base"] != on

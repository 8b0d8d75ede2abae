"""``python train.py`` as the README calls it, on a random base of the SD1.5 layout."""

import json
import re
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import yaml
from huggingface_hub import ModelCard
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sdlora.export.thumbnail import THUMBNAIL, thumbnail_uri
from tests.places import PHOTOS
from tests.smoke.conftest import SMALL, Train, TrainHere, write_pictures


@pytest.fixture(scope="module")
def small(random_base: Path) -> tuple[str, ...]:
    """Overrides of a small run on the random base."""
    return (*SMALL, f"model.path={random_base}", "data.resolution=32")


def test_help_lists_groups_and_the_ten_most_used_keys(train_process: Train) -> None:
    shown = train_process("--help", fresh=True)
    assert shown.returncode == 0, shown.stderr
    optimizers = "adafactor, adamw, adamw8bit, came, lion, paged_adamw8bit, prodigy, "
    assert f"optimizer: {optimizers}schedule_free_adamw, sgd" in shown.stdout
    keys = shown.stdout.partition("keys that people use most")[2].splitlines()[2:12]
    assert [line.split()[0] for line in keys] == [
        "data.root",
        "data.resolution",
        "data.batch_size",
        "lora.r",
        "lora.alpha",
        "optim.unet_lr",
        "optim.text_encoder_lr",
        "trainer.max_steps",
        "trainer.precision",
        "sampling.prompts",
    ]
    assert all(len(line.split(maxsplit=1)[1]) > 10 for line in keys)


def test_cfg_job_shows_the_config_and_writes_nothing(train_process: Train, tmp_path: Path) -> None:
    shown = train_process(
        "--cfg", "job", "experiment=tiny_base", f"hydra.run.dir={tmp_path}/run", fresh=True
    )
    assert shown.returncode == 0, shown.stderr
    config = yaml.safe_load(shown.stdout)
    assert config["lora"]["unet"]["method"] == "full"
    assert config["model"]["scratch"] == ["unet", "text_encoder"]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lora.rr=16", "error: lora.rr=16: unknown key; did you mean lora.r? lora has type, r"),
        ("lora.r=0", "error: lora.r=0: must be a whole number >= 1\n"),
        ("optim.name=adamq", "error: optim.name=adamq: unknown; did you mean adamw? choices: ada"),
    ],
)
def test_bad_input_stops_with_one_message(
    override: str, message: str, train_process: Train, tmp_path: Path
) -> None:
    stopped = train_process(override, f"hydra.run.dir={tmp_path}")
    assert stopped.returncode == 2
    assert stopped.stderr.startswith(message)
    assert stopped.stderr.endswith("(set HYDRA_FULL_ERROR=1 for the traceback)\n")
    assert len(stopped.stderr.splitlines()) == 2


def test_the_traceback_is_there_when_asked_for(train_process: Train, tmp_path: Path) -> None:
    arguments = ("lora.r=0", f"hydra.run.dir={tmp_path}")
    stopped = train_process(*arguments, environment={"HYDRA_FULL_ERROR": "1"}, fresh=True)
    assert stopped.returncode == 1
    assert "Traceback" in stopped.stderr
    assert "lora.r=0: must be a whole number >= 1" in stopped.stderr


@pytest.mark.slow
def test_a_run_writes_everything_that_it_promises(
    train_process: Train, pictures: Path, tmp_path: Path
) -> None:
    done = train_process(
        "lora.r=16",
        "optim.unet_lr=1e-4",
        "trainer.max_steps=4",
        "trainer.log_every_n_steps=2",
        "sampling.num_steps=2",
        "sampling.num_prompts=2",
        "sampling.every_n_steps=2",
        "checkpoint.every_n_steps=2",
        "checkpoint.keep_last=1",
        "evaluation=none",
        "export.thumbnail=true",
        f"data.root={pictures}",
        f"hydra.run.dir={tmp_path}",
        fresh=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    end = done.stdout.strip().splitlines()[-5:]
    assert end[0] == "lora/ is step 4, the last: no step was scored"
    named = [Path(each) for each in re.findall(rf"{tmp_path}[^ ,\"]*", "\n".join(end[2:]))]
    assert [path.name for path in named] == ["my_lora.safetensors", "lora", "report.html"]
    assert all(path.exists() for path in named)
    log = (tmp_path / "train.log").read_text("utf-8")
    assert all(line.rstrip() in log for line in done.stdout.splitlines())

    with safe_open(tmp_path / "lora" / "my_lora.safetensors", "pt") as file:
        header = file.metadata()
    assert header["ss_base_model_version"] == "sd_v1"
    assert header["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert header["modelspec.resolution"] == "64x64"
    assert header["ss_steps"] == "4"
    assert int(header["ss_epoch"]) >= 1
    assert sum(json.loads(header["ss_tag_frequency"])["my_lora"].values()) >= 1
    started, finished = (float(header[f"ss_training_{w}_at"]) for w in ("started", "finished"))
    assert 1.7e9 < started <= finished
    assert not any(str(tmp_path) in text for text in header.values())
    drawn = min((tmp_path / "samples" / "last").glob("*.png"))  # the last step is the chosen one
    assert header[THUMBNAIL] == thumbnail_uri(Image.open(drawn))
    card = ModelCard.load(tmp_path / "lora" / "README.md")
    assert len(card.data.widget) == 2
    assert all((tmp_path / "lora" / each["output"]["url"]).is_file() for each in card.data.widget)
    assert str(tmp_path) not in card.content

    weights = load_file(tmp_path / "lora" / "pytorch_lora_weights.safetensors")
    down = {name: tensor for name, tensor in weights.items() if "lora_A" in name}
    assert {tensor.shape[0] for tensor in down.values()} == {16}
    assert {name.partition(".")[0] for name in down} == {"unet", "text_encoder"}

    stored = json.loads((tmp_path / "config.json").read_text("utf-8"))
    assert stored["config"]["optim"]["unet_lr"] == 1e-4
    assert "data" in stored["hashes"]
    steps = [path.name for path in (tmp_path / "checkpoints").iterdir()]
    assert steps == ["step_0000004"]
    assert len(list((tmp_path / "samples").glob("step_*.png"))) == 2

    report = json.loads((tmp_path / "report.json").read_text("utf-8"))
    differences = report["settings"]["export_differences"]
    layouts = ("diffusers", "kohya", "peft")
    assert differences.keys() == {
        f"{x}/{part}" for x in layouts for part in ("unet", "text_encoder")
    }
    assert max(differences.values()) < 1e-4

    lines = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text("utf-8").splitlines()]
    curves = [line for line in lines if "train/loss" in line]
    assert [line["step"] for line in curves] == [2, 4]
    for key in ("train/lr_unet", "train/lr_text_encoder", "train/images_per_s"):
        assert all(line[key] > 0 for line in curves), key

    events = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"images": 0}).Reload()
    tags = events.Tags()
    assert {"loss/training", "training/grad_norm", "training/lr_unet"} <= set(tags["scalars"])
    assert min(tags["scalars"]).startswith("loss/")  # the group that TensorBoard opens on
    assert "samples" in tags["images"]
    assert any(tag.startswith("config") for tag in tags["tensors"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("optimizer=prodigy", "optim.unet_lr=1.0", "lora=attention_mlp"),
        ("debug=overfit", "trainer.max_steps=2", "objective.prediction_type=v_prediction"),
        (
            "objective=zero_terminal_snr",
            "objective.error.name=huber",
            "objective.noise.pyramid_iterations=6",
            "objective.timesteps.name=bins",
            "objective.timesteps.bin_weights=[1,2]",
        ),
        ("lora=conv", "data.cache=off", "data.crop=random", "trainer.gradient_checkpointing=true"),
        (
            "data.cache.mode=memory",
            "data.captions.max_chunks=2",
            "data.prior.mode=teacher",
            "data.prior.prompt=a person",
        ),
        ("trainer.precision=bf16", "lora.text_encoder.method=frozen", "logger=csv"),
        (
            "experiment=tiny_base",
            "data.num_pictures=4",
            "data.batch_size=2",
            "data.num_workers=0",
            "trainer.compile=false",
        ),
    ],
    ids=["prodigy", "overfit", "objective", "uncached", "teacher", "bf16", "experiment"],
)
def test_other_settings_run_to_the_end(
    arguments: tuple[str, ...],
    small: tuple[str, ...],
    train_here: TrainHere,
    pictures: Path,
    tmp_path: Path,
) -> None:
    data = () if "experiment=tiny_base" in arguments else (f"data.root={pictures}",)
    train_here(*small, *data, "trainer.max_steps=2", f"hydra.run.dir={tmp_path}", *arguments)
    result = "pipeline" if "experiment=tiny_base" in arguments else "lora"
    assert (tmp_path / result).is_dir()


@pytest.mark.slow
def test_a_sweep_makes_a_folder_for_each_combination(
    small: tuple[str, ...], train_here: TrainHere, pictures: Path, tmp_path: Path
) -> None:
    train_here(
        *small,
        "-m",
        "lora.r=2,4",
        "optim.unet_lr=1e-3,1e-4",
        "trainer.max_steps=1",
        f"data.root={pictures}",
        f"hydra.sweep.dir={tmp_path}",
    )
    folders = {path.name: path for path in tmp_path.iterdir() if path.is_dir()}
    rates = {"0.001": 1e-3, "0.0001": 1e-4}
    assert set(folders) == {f"lora.r={r},optim.unet_lr={lr}" for r in (2, 4) for lr in rates}
    for name, folder in folders.items():
        config = json.loads((folder / "config.json").read_text("utf-8"))["config"]
        assert f"lora.r={config['lora']['r']}," in name
        assert (folder / "lora" / "pytorch_lora_weights.safetensors").is_file()


@pytest.mark.slow
def test_a_failing_run_of_a_sweep_is_named_and_the_others_go_on(
    train_process: Train, pictures: Path, tmp_path: Path
) -> None:
    done = train_process(
        *SMALL,
        "-m",
        "lora.r=0,2",
        "trainer.max_steps=1",
        "data.resolution=32",
        f"data.root={pictures}",
        f"hydra.sweep.dir={tmp_path}",
    )
    assert done.returncode == 2
    assert "run lora.r=0:\nerror: lora.r=0: must be a whole number >= 1\n" in done.stderr
    assert (tmp_path / "lora.r=2" / "lora" / "pytorch_lora_weights.safetensors").is_file()


@pytest.mark.slow
def test_a_broken_picture_stops_the_run_or_is_left_out_by_name(
    small: tuple[str, ...],
    train_here: TrainHere,
    message_of: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    write_pictures(folder)
    broken = folder / "picture_2.png"
    broken.write_bytes(broken.read_bytes()[:200])
    few = (*small, f"data.root={folder}", "trainer.max_steps=1")
    told = message_of(*few, f"hydra.run.dir={tmp_path}/raise")
    assert "picture_2.png" in told
    assert "data.on_error=skip" in told
    train_here(*few, f"hydra.run.dir={tmp_path}/skip", "data.on_error=skip")
    assert "left out: picture_2.png: cannot be decoded" in capsys.readouterr().out
    sheet = json.loads((tmp_path / "skip" / "dataset.json").read_text("utf-8"))
    assert [picture["name"] for picture in sheet["pictures"]] == [
        f"picture_{number}.png" for number in (0, 1, 3, 4)
    ]


@pytest.mark.slow
def test_a_hundred_real_photos(
    random_base: Path,
    train_here: TrainHere,
    repository: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    if not PHOTOS.is_dir():
        pytest.skip(f"the photos are not here ({PHOTOS})")
    train_here(
        *SMALL,
        f"model.path={random_base}",
        f"data.root={PHOTOS}",
        f"sampling.prompts={PHOTOS.parent}/prompts/validation_prompt.txt",
        "trainer.max_steps=2",
        f"hydra.run.dir={tmp_path}",
    )
    assert "100 pictures, 100 samples an epoch" in capsys.readouterr().out
    assert (tmp_path / "lora" / "pytorch_lora_weights.safetensors").is_file()


@pytest.mark.slow
def test_class_pictures_are_drawn_and_train_along(
    small: tuple[str, ...],
    train_here: TrainHere,
    pictures: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    train_here(
        *small,
        f"data.root={pictures}",
        "data.prior.mode=class",
        "data.prior.prompt=a picture",
        "data.prior.num_pictures=2",
        "data.prior.weight=0.5",
        "trainer.max_steps=2",
        f"hydra.run.dir={tmp_path}",
    )
    told = capsys.readouterr().out
    assert told.count("memory: about") == 1
    assert 0 < told.index("memory: about") < told.index("the base draws 2 class pictures into")
    assert len(list((tmp_path / "class_pictures").glob("*.png"))) == 2
    sheet = json.loads((tmp_path / "dataset.json").read_text("utf-8"))
    kinds = [(item["caption"], item["loss_weight"], item["repeats"]) for item in sheet["pictures"]]
    assert kinds[-2:] == [("a picture", 0.5, 2)] * 2  # 5 of ours: twice each
    assert {weight for _, weight, _ in kinds[:-2]} == {1.0}


def test_the_check_alone_decodes_everything_and_trains_nothing(
    small: tuple[str, ...],
    train_here: TrainHere,
    message_of: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    write_pictures(folder)
    broken = folder / "picture_2.png"
    broken.write_bytes(broken.read_bytes()[:200])
    (folder / "lost.txt").write_text("no picture", "utf-8")
    arguments = (*small, "check=true", f"data.root={folder}")
    told = message_of(*arguments, f"hydra.run.dir={tmp_path}/check")
    assert told.startswith("2 finding(s) prevent training:")
    assert "lost.txt" in told
    assert "picture_2.png: cannot be decoded" in told
    assert (tmp_path / "check" / "contact_sheet.png").is_file()
    assert not (tmp_path / "check" / "checkpoints").exists()
    broken.unlink()
    broken.with_suffix(".txt").unlink()
    (folder / "lost.txt").unlink()
    train_here(*arguments, f"hydra.run.dir={tmp_path}/sound")
    assert "4 pictures, 4 samples an epoch" in capsys.readouterr().out


@pytest.mark.slow
def test_every_sort_of_source_trains(
    small: tuple[str, ...],
    train_here: TrainHere,
    pictures: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """An archive in buckets with tags and masks, then the same pictures as a streamed set."""
    packed = tmp_path / "pictures.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted(pictures.iterdir()):
            archive.write(path, f"set/{path.name}")
        mask = BytesIO()
        Image.new("L", (40, 40), 255).save(mask, "PNG")
        archive.writestr("set/picture_1.mask.png", mask.getvalue())
    few = (*small, "trainer.max_steps=3")
    train_here(
        *few,
        f"data.root={packed}",
        "data.buckets.mode=auto",
        "data.buckets.min_side=16",
        "data.captions.tags=true",
        "data.captions.shuffle=true",
        "data.flip=true",
        f"hydra.run.dir={tmp_path}/zip",
    )
    sheet = json.loads((tmp_path / "zip" / "dataset.json").read_text("utf-8"))
    assert [item["has_mask"] for item in sheet["pictures"]] == [False, True, False, False, False]

    table = {"image": [], "text": []}
    for path in sorted(pictures.glob("*.png")):
        table["image"].append({"bytes": path.read_bytes(), "path": None})
        table["text"].append(path.with_suffix(".txt").read_text("utf-8"))
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "set.parquet")
    train_here(
        *few,
        "data=hub",
        f"data.root={tmp_path}/set.parquet",
        "data.hub.streaming=true",
        "data.cache=off",
        "data.batch_size=2",
        f"hydra.run.dir={tmp_path}/hub",
    )
    assert "the set is streamed; only its first 5 rows are checked" in capsys.readouterr().out
    assert (tmp_path / "hub" / "lora" / "pytorch_lora_weights.safetensors").is_file()

"""What ``evaluate.py`` is told to score: its rows, and the pictures that they are compared with."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from PIL import Image

from sdlora.cli.composition import to_typed
from sdlora.commands.evaluate.run_settings import with_run_settings
from sdlora.commands.evaluate.scoring_inputs import (
    labels_of_folders,
    named_loras,
    scoring_inputs,
)
from sdlora.config.evaluate import EvaluateConfig
from sdlora.config.keys import as_written
from sdlora.config.rules import ConfigError
from sdlora.evaluation.scores import Scores
from sdlora.runs.run_config import write_config
from sdlora.runtime.progress import Progress
from tests.composed import composed_evaluate, evaluate_config, train_config


@pytest.mark.parametrize(
    ("given", "labels"),
    [
        (["lora=a/x.safetensors"], ["LoRA"]),
        (["lora=a/x.safetensors", "lora_scale=0.5,1"], ["LoRA x0.5", "LoRA x1"]),
        (["lora=a/x.safetensors,b/y.safetensors"], ["x", "y"]),
        (["lora=a/x.safetensors,b/x.safetensors"], ["a/x", "b/x"]),
        (["lora=a/x.safetensors,a/x.safetensors"], ["a/x", "a/x (2)"]),
        (["lora=first,second"], ["first", "second"]),
        (
            ["lora=a/x.safetensors,b/y.safetensors", "lora_scale=0.5,1"],
            ["x x0.5", "x x1", "y x0.5", "y x1"],
        ),
        (["images=a"], []),
    ],
)
def test_each_adapter_with_each_strength_is_a_row(given: list[str], labels: list[str]) -> None:
    config = evaluate_config(*given)
    rows = named_loras(config)
    assert [row.label for row in rows] == labels
    expected = [(Path(file), scale) for file in config.lora for scale in config.lora_scale]
    assert [(row.path, row.scale) for row in rows] == expected


def test_adapters_of_one_name_are_called_by_their_folders() -> None:
    name = "pytorch_lora_weights.safetensors"
    rows = named_loras(evaluate_config(f"lora=a/{name},b/other.safetensors"))
    assert [row.label for row in rows] == ["a/pytorch_lora_weights", "b/other"]


def write_pictures(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True)
    for number, name in enumerate(names):
        Image.new("RGB", (8 + number, 8), "red").save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"a {name}", "utf-8")
    return folder


def names_of(known: object) -> list[str]:
    return list(known.names)  # type: ignore[attr-defined]


def test_a_folder_of_training_pictures_gives_what_is_held_out_of_it(tmp_path: Path) -> None:
    root = write_pictures(tmp_path / "set", "a", "b")
    given = ("lora=x", f"data.root={root}")
    found = scoring_inputs(evaluate_config(*given), Progress(enabled=False))
    assert found.training is not None
    assert [picture.text for picture in found.training.pictures] == ["a a", "a b"]
    assert found.references is None
    write_pictures(root / "held_out", "c")
    found = scoring_inputs(evaluate_config(*given), Progress(enabled=False))
    assert names_of(found.references) == ["c.png"]
    assert len(found.training.pictures) == 2  # type: ignore[union-attr]
    other = write_pictures(tmp_path / "other", "d", "e")
    found = scoring_inputs(
        evaluate_config(*given, f"evaluation.references={other}"), Progress(enabled=False)
    )
    assert names_of(found.references) == ["d.png", "e.png"]


def test_without_training_pictures_there_is_nothing_to_compare_with() -> None:
    found = scoring_inputs(evaluate_config("lora=x", "resolution=128"), Progress(enabled=False))
    assert (found.training, found.references, found.resolution) == (None, None, 128)


def run_on(tmp_path: Path, root: Path, *given: str) -> Path:
    settings = [f"data.root={root}", "data.resolution=48", *given]
    config = train_config(*settings)
    run = tmp_path / "run"
    (run / "lora").mkdir(parents=True)
    write_config(run, as_written(config), {})
    return run


def config_of_run(*given: str) -> EvaluateConfig:
    """The config with what the run brings."""
    return to_typed(with_run_settings(composed_evaluate(*given), given), EvaluateConfig)


def test_a_run_knows_its_model_and_pictures(tmp_path: Path) -> None:
    root = write_pictures(tmp_path / "set", *(f"p{number}" for number in range(20)))
    run = run_on(tmp_path, root, "data.val_fraction=0.5", "model.clip_skip=1")
    found = scoring_inputs(config_of_run(f"run={run}"), Progress(enabled=False))
    assert (found.resolution, found.model.clip_skip) == (48, 1)
    assert [(row.label, row.scale) for row in found.loras] == [("LoRA", 1.0)]
    assert found.loras[0].path == run / "lora" / "pytorch_lora_weights.safetensors"
    assert found.training is not None
    trained = [picture.name for picture in found.training.pictures]
    unseen = names_of(found.references)
    assert trained
    assert unseen
    assert sorted([*trained, *unseen]) == sorted(f"p{number}.png" for number in range(20))
    larger = scoring_inputs(config_of_run(f"run={run}", "resolution=96"), Progress(enabled=False))
    assert larger.resolution == 96


def test_what_looks_like_an_interpolation_in_a_run_is_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_TOKEN", "secret")
    root, text = write_pictures(tmp_path / "set", "one"), "${oc.env:A_TOKEN}"
    run = run_on(tmp_path, root)
    file = run / "config.json"
    record = json.loads(file.read_text("utf-8"))
    record["config"]["sampling"]["negative_prompt"] = text
    record["config"]["evaluation"]["class_word"] = text
    record["config"]["data"]["captions"]["default"] = text
    (root / "one.txt").unlink(missing_ok=True)
    file.write_text(json.dumps(record), "utf-8")
    config = config_of_run(f"run={run}")
    assert (config.sampling.negative_prompt, config.evaluation.class_word) == (text, text)
    training = scoring_inputs(config, Progress(enabled=False)).training
    assert training is not None
    assert [picture.text for picture in training.pictures] == [text]


def test_a_run_held_out_a_tenth_by_itself(tmp_path: Path) -> None:
    root = write_pictures(tmp_path / "set", *(f"p{number}" for number in range(20)))
    run = run_on(tmp_path, root, "data.val_fraction=null")
    found = scoring_inputs(config_of_run(f"run={run}"), Progress(enabled=False))
    assert found.training is not None
    trained = [picture.name for picture in found.training.pictures]
    unseen = names_of(found.references)
    assert (len(trained), len(unseen)) == (18, 2)
    assert not set(trained) & set(unseen)
    write_pictures(root / "held_out", "other")
    found = scoring_inputs(config_of_run(f"run={run}"), Progress(enabled=False))
    assert names_of(found.references) == ["other.png"]
    assert found.training is not None
    assert len(found.training.pictures) == 20


def test_a_run_whose_pictures_are_gone_says_so_and_is_scored(tmp_path: Path) -> None:
    run = run_on(tmp_path, tmp_path / "gone")
    progress = Progress(enabled=False)
    with progress.console.capture() as said:
        found = scoring_inputs(config_of_run(f"run={run}"), progress)
    assert (found.training, found.references) == (None, None)
    assert "note: the run's training pictures no longer exist: " in said.get()
    assert len(found.loras) == 1


def test_folders_of_pictures_are_called_by_what_tells_them_apart(tmp_path: Path) -> None:
    long = "a-very-long-name-of-a-folder-of-pictures-that-somebody-drew"
    ones, others = tmp_path / f"{long}-1", tmp_path / f"{long}-2"
    assert labels_of_folders([str(ones)]) == {"pictures": str(ones)}
    assert labels_of_folders([str(ones), str(others)]) == {
        f"{long}-1": str(ones),
        f"{long}-2": str(others),
    }
    deep = [str(ones / "samples" / "last"), str(others / "samples" / "last")]
    assert list(labels_of_folders(deep)) == [f"{long}-{n}/samples/last" for n in (1, 2)]
    with pytest.raises(ConfigError, match=r"^images=.*: names a folder twice; name each once"):
        labels_of_folders([str(ones), f"{ones}/"])


def test_all_checkpoints_are_with_the_best_step(tmp_path: Path) -> None:
    run = run_on(tmp_path, write_pictures(tmp_path / "set", "a"))
    for step in (10, 30):
        (run / "checkpoints" / f"step_{step:07d}").mkdir(parents=True)
        (run / "checkpoints" / f"step_{step:07d}" / "manifest.json").write_bytes(b"")
    found = named_loras(evaluate_config(f"run={run}", "checkpoint=all"))
    assert [lora.label for lora in found] == ["step 10", "step 30"]
    best = {"step": 20, "scores": asdict(Scores(num_pictures=1))}
    (run / "best").mkdir()
    (run / "best" / "scores.json").write_text(json.dumps(best), "utf-8")
    found = named_loras(evaluate_config(f"run={run}", "checkpoint=all"))
    assert [lora.label for lora in found] == ["step 10", "step 20 (best)", "step 30"]
    assert found[1].path.parent == run / "best"
    (run / "best" / "scores.json").write_text(json.dumps(best | {"step": 30}), "utf-8")
    found = named_loras(evaluate_config(f"run={run}", "checkpoint=all"))
    assert [lora.label for lora in found] == ["step 10", "step 30 (best)"]

"""From the config to the scorer: what is missing has a reason, options are checked."""

import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from sdlora.assembly.scorers import check_choice, pictures_in, scorer
from sdlora.cli.arguments import opened_options, opened_shortcuts
from sdlora.config.evaluation import EvaluationConfig
from sdlora.config.rules import ConfigError
from sdlora.config.train import TrainConfig
from sdlora.evaluation.scores import Scores
from sdlora.evaluation.scoring import KnownPictures, Pictures
from sdlora.evaluation.strangers import STRANGERS
from sdlora.runtime.progress import Progress
from sdlora.world.portraits import EXAMPLE_IDENTITY_SEED, portrait
from tests.composed import train_config

PERSON = [portrait(seed, EXAMPLE_IDENTITY_SEED).image for seed in range(4)]
TRAINING = KnownPictures(["a.png", "b.png"], PERSON[:2])
HELD_OUT = KnownPictures(["c.png"], PERSON[2:3])


def evaluation_config(*given: str) -> EvaluationConfig:
    arguments = opened_options(opened_shortcuts(given), TrainConfig)
    return train_config(*arguments).evaluation


def found(
    references: KnownPictures | None, *given: str, prompts: tuple[str, ...] | None = None
) -> tuple[Scores, str]:
    """Scores of a picture of the person, and what was printed."""
    config = evaluation_config(*given)
    progress = Progress(enabled=False)
    with progress.console.capture() as said:
        made = scorer(config, references, TRAINING, torch.device("cpu"), progress)
        scores = made.score(Pictures(PERSON[3:], prompts), progress)
    return scores, said.get()


def test_the_default_scores_of_the_drawn_world() -> None:
    scores, said = found(HELD_OUT, prompts=("a man",))
    assert said == ""
    assert set(scores.values) == {
        "face_distance",
        "face_cosine",
        "face_distance_training",
        "face_cosine_training",
        "faceless",
        "several_faces",
        "clip_score",
        "prompt_followed",
        "image_similarity",
        "image_similarity_training",
        "diversity",
        "copying",
        "largest_training_similarity",
        "copying_yardstick",
    }
    assert set(scores.reasons) == {"diversity"}
    assert scores.value("faceless") == 0


def test_without_held_out_pictures_it_says_what_faces_are_compared_with() -> None:
    scores, said = found(None)
    assert said.startswith("note: no held-out pictures (evaluation.references, data.val_fraction,")
    assert "which rewards copying them" in said
    assert scores.value("face_distance") is not None
    assert "face_distance_training" not in scores.values
    assert "image_similarity_training" not in scores.values


def test_what_cannot_be_loaded_stops_the_run_or_costs_its_own_scores(tmp_path: Path) -> None:
    missing = tmp_path / "nothing"
    asked = f"evaluation.clip.options.model={missing}"
    with pytest.raises(
        ConfigError, match=r"^scores that cannot be taken:\n  evaluation\.clip: CLIP"
    ):
        found(HELD_OUT, asked)
    warn = "evaluation.on_missing=warn"
    scores, said = found(HELD_OUT, asked, warn, prompts=("a man",))
    assert said.startswith("not taken: evaluation.clip: CLIP model")
    assert scores.value("clip_score") is None
    assert "cannot be loaded" in scores.reasons["clip_score"]
    assert scores.value("face_distance") is not None
    scores, _ = found(HELD_OUT, f"evaluation.image.options.model={missing}", warn)
    assert {name for name in scores.reasons if scores.value(name) is None} == {
        "image_similarity",
        "diversity",
        "copying",
        "clip_score",  # there are no prompts
        "prompt_followed",
    }


def test_the_remedies_of_a_scorer_that_is_missing_work(tmp_path: Path) -> None:
    asked = "evaluation.face={name: deepface, options: {}}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEEPFACE_HOME", str(tmp_path))
        with pytest.raises(ConfigError) as error:
            found(HELD_OUT, asked)
        message = str(error.value)
        assert "to go on without them: evaluation.on_missing=warn" in message
        switched_off = re.findall(r"To switch it off: (.*)", message)[0].split()
        assert switched_off == ["evaluation.face=none", "evaluation.select=none"]
        scores, said = found(HELD_OUT, asked, *switched_off)
    assert said == ""
    assert "face_distance" not in scores.values


HW10 = ("evaluation=hw10", "evaluation.every_n_steps=5")
FEATURES = (
    *("evaluation=photos", "evaluation.prior_prompts=1", "evaluation.scales=[0.5]"),
    *("data.trigger_word=sks", "data.class_word=man", "evaluation.stop_patience=2"),
)


@pytest.mark.parametrize(
    ("scorer_name", "given"),
    [
        ("image", (*FEATURES, "evaluation.select=kid")),
        ("image", ("evaluation=unconditional",)),
        ("image", ("evaluation=unconditional", "evaluation.scales=[0.5]", "evaluation.kid=false")),
        ("face", HW10),
        ("clip", HW10),
        ("face", FEATURES),
        ("attributes", ("evaluation=default",)),
    ],
)
def test_a_scorer_is_switched_off_with_what_needs_it(
    scorer_name: str, given: tuple[str, ...]
) -> None:
    """Where one more key is in the way, its own message would send the reader round in circles."""
    if "evaluation.kid=false" in given:
        given = (*given, "evaluation.select=image_similarity")
    without = evaluation_config(*given).without(scorer_name)
    left = evaluation_config(*given, *without)
    assert getattr(left, scorer_name).name == "none"
    assert len({item.partition("=")[0] for item in without}) == len(without)


def test_a_score_without_its_model_is_told_both_ways_out() -> None:
    given = ("evaluation=photos", "evaluation.image=none")
    with pytest.raises(ConfigError, match="^evaluation.kid=True: compares features; set") as error:
        evaluation_config(*given)
    remedy = str(error.value).rpartition(" ")[2]
    assert remedy == "evaluation.kid=false"
    assert evaluation_config(*given, remedy).image.name == "none"


def test_no_scorer_reads_the_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    for key in ("clip", "image"):
        with pytest.raises(ConfigError, match="no model of the Hub that was fetched") as error:
            found(HELD_OUT, f"evaluation.{key}.options.model=owner/nobody")
        remedy = f"sdlora fetch evaluation.{key}={key} evaluation.{key}.options.model=owner/nobody"
        assert remedy in str(error.value)


def test_what_was_not_asked_for_is_not_there() -> None:
    scores, said = found(HELD_OUT, "evaluation=none")
    assert (scores.values, scores.reasons, said) == ({}, {}, "")
    scores, _ = found(
        HELD_OUT, "evaluation=none", "evaluation.image.name=image", "evaluation.on_missing=warn"
    )
    assert "face_distance" not in scores.values


def test_an_option_that_a_scorer_does_not_take_is_named() -> None:
    message = r"^evaluation\.face\.options\.treshold=0\.5: unknown; did you mean threshold\?"
    with pytest.raises(ValueError, match=message):
        found(HELD_OUT, "evaluation.face.options.treshold=0.5")


def test_prompts_are_scored_with_the_class_word() -> None:
    words = ("evaluation.trigger_word=sks", "evaluation.class_word=man")
    asked = "a portrait of a sks man in a red hat"
    reworded, _ = found(HELD_OUT, *words, prompts=(asked,))
    plain, _ = found(HELD_OUT, prompts=(asked.replace("sks ", ""),))
    assert reworded.value("clip_score") == plain.value("clip_score")
    assert reworded.per_picture["prompt"] == [asked]


def test_a_folder_of_references(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="^evaluation.references=.*gone: no such folder"):
        pictures_in(str(tmp_path / "gone"))
    with pytest.raises(ConfigError, match="holds no picture"):
        pictures_in(str(tmp_path))
    Image.new("RGB", (4, 4), "red").save(tmp_path / "b.png")
    Image.new("RGB", (4, 4), "lime").save(tmp_path / "a.PNG")
    (tmp_path / "a.txt").write_text("a caption", "utf-8")
    found_there = pictures_in(str(tmp_path))
    assert list(found_there.names) == ["a.PNG", "b.png"]
    assert found_there.images[0].getpixel((0, 0)) == (0, 255, 0)
    (tmp_path / "c.png").write_bytes(b"no picture")
    with pytest.raises(ConfigError, match="c.png"):
        pictures_in(str(tmp_path))


def check_choice_of(*given: str) -> None:
    arguments = ["data.root=photos", "model=sd15", *given]
    config = train_config(*arguments)
    select = config.evaluation.select
    check_choice(config.evaluation, "evaluation.select", [select], instead="image_similarity")


def test_no_checkpoint_is_chosen_where_strangers_are_not_known() -> None:
    """Both remedies of the message work when followed."""
    network = "evaluation.face.options.model_name"
    with pytest.raises(ConfigError) as error:
        check_choice_of("evaluation=photos", f"{network}=OpenFace")
    assert str(error.value) == (
        f"evaluation.select=face_distance: cannot choose with {network}=OpenFace: it is not known "
        "how far strangers' faces are by it, so a picture without a face has no value; choose one "
        "of ArcFace, Buffalo_L, Facenet512, GhostFaceNet, SFace, VGG-Face, Dlib, or set "
        "evaluation.select=image_similarity"
    )
    photos = ("evaluation=photos", f"{network}=OpenFace", "evaluation.select=image_similarity")
    check_choice_of(*photos)
    for name in STRANGERS:
        check_choice_of("evaluation=photos", f"{network}={name}")
    check_choice_of()  # deepface's own defaults

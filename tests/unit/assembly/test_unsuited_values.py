"""Values that can hardly be meant are noted, and the remedy of each note makes it go away."""

import re

import pytest
import torch

from sdlora.assembly.scorers import scorer
from sdlora.assembly.unsuited_values import (
    drawn_scorers_note,
    drawn_world_notes,
    training_notes,
)
from sdlora.cli.arguments import prepared_arguments
from sdlora.config.train import TrainConfig
from sdlora.evaluation.scoring import KnownPictures, Pictures
from sdlora.runtime.places import CONF
from sdlora.runtime.progress import Progress
from tests.composed import evaluate_config, train_config

WITH_PROMPTS = [
    path.stem for path in sorted((CONF / "model").glob("*.yaml")) if path.stem != "ddpm"
]
"""Models by name; ``experiment=unconditional`` has the other one."""


def typed(*given: str) -> TrainConfig:
    last = dict(item.split("=", 1) for item in ["data.root=photos", *given])
    arguments = prepared_arguments([f"{k}={v}" for k, v in last.items()], TrainConfig)
    return train_config(*arguments)


def remedy_of(note: str) -> str:
    """The override that a note says to set or to choose."""
    found = re.search(r"(?:set|choose|too:) ([\w.]+=[\w./-]*\w)", note)
    assert found, note
    return found[1]


@pytest.mark.parametrize(
    ("given", "key"),
    [
        (["model=sd15", "data.resolution=64"], "data.resolution=64"),
        (["model=sd15", "data.resolution=336"], "data.resolution=336"),
        (["model=sd15", "data.resolution=776"], "data.resolution=776"),
        (["data.resolution=512"], "data.resolution=512"),
        (["model=sd15", "optim.unet_lr=3e-3"], "optim.unet_lr=0.003"),
        (["model=sd15", "optim.unet_lr=2e-3"], "optim.unet_lr=0.002"),
        (["model=sd15", "optim.unet_lr=5e-6"], "optim.unet_lr=5e-06"),
        (["model=sd15", "optim.text_encoder_lr=1"], "optim.text_encoder_lr=1"),
        (["model=sd15", "optimizer=lion", "optim.unet_lr=3e-3"], "optim.unet_lr=0.003"),
        (["optim.unet_lr=1e-4"], "optim.unet_lr=0.0001"),
        (["scheduler.warmup_steps=300"], "scheduler.warmup_steps=300"),
        (["trainer.max_steps=5", "scheduler.warmup_steps=9"], "scheduler.warmup_steps=9"),
        (["experiment=textual_inversion", "optim.new_word_lr=1"], "optim.new_word_lr=1"),
        (["optimizer=prodigy", "optim.unet_lr=1e-4"], "optim.unet_lr=0.0001"),
        (["model=sd15", "sampling.prompts=example:prompts.txt"], "sampling.prompts=example:pro"),
        (["model=sd15", "evaluation.face=tiny_face"], "evaluation.face.name=tiny_face"),
        (
            ["model=sd15", "evaluation.attributes=tiny_attributes"],
            "evaluation.attributes.name=tiny_attributes",
        ),
        (
            ["model=sd15", "evaluation.clip.options.model=tiny"],
            "evaluation.clip.options.model=tiny",
        ),
        (
            ["model=sdxl", "evaluation.image.options.model=tiny"],
            "evaluation.image.options.model=tiny",
        ),
    ],
)
def test_one_note_with_a_remedy_that_works(given: list[str], key: str) -> None:
    [note] = training_notes(typed(*given))
    assert note.startswith(key)
    remedy = remedy_of(note)
    assert training_notes(typed(*given, remedy)) == []


def test_a_path_alone_has_the_numbers_of_the_embedded_base() -> None:
    """So its resolution and its rates are no measure; the note says which model to choose."""
    given = ["model.path=owner/name", "data.resolution=512", "optim.unet_lr=1e-4"]
    notes = training_notes(typed(*given))
    assert [note.partition(":")[0] for note in notes] == [
        "model.path=owner/name",
        "sampling.prompts=example",
        "evaluation.face.name=tiny_face",
        "evaluation.attributes.name=tiny_attributes",
        "evaluation.clip.options.model=tiny",
        "evaluation.image.options.model=tiny",
    ]
    assert remedy_of(notes[0]) == "model=sd15"
    assert {remedy_of(note) for note in notes[2:]} == {"evaluation=photos"}
    assert len(training_notes(typed(*given, "evaluation=photos"))) == 2
    assert training_notes(typed(*given, "model=sd15")) == []


@pytest.mark.parametrize(
    "given",
    [
        *([f"model={name}"] for name in WITH_PROMPTS),
        ["experiment=unconditional"],
        *(
            [f"experiment={path.stem}"]
            for path in sorted((CONF / "experiment").glob("*.yaml"))
            if path.stem != "unconditional"
        ),
        *([f"optimizer={path.stem}"] for path in sorted((CONF / "optimizer").glob("*.yaml"))),
        ["model=sd15", "data.resolution=344"],  # the lowest and the highest sides and rates
        ["model=sd15", "data.resolution=768"],
        ["model=sd15", "optim.unet_lr=1.9e-3"],
        ["model=sd15", "optim.unet_lr=5.1e-6"],
        ["model=sd15", "optimizer=sgd", "optim.unet_lr=100"],  # rates of another kind
        ["experiment=sd_full", "optim.unet_lr=1e-6"],  # of all weights, not of an adapter
        ["experiment=unconditional", "data.resolution=256"],  # pictures decide
        ["model=sd15", "lora.text_encoder.method=frozen", "optim.text_encoder_lr=1"],
        ["model=sd15", "evaluation=none"],
    ],
    ids=" ".join,
)
def test_what_can_be_meant_has_no_note(given: list[str]) -> None:
    assert training_notes(typed(*given)) == []


def test_the_numbers_stand_in_the_note() -> None:
    [high] = training_notes(typed("model=sd15", "optim.unet_lr=3e-3"))
    assert "is 30 times the model's rate; set optim.unet_lr=0.0001" in high
    [low] = training_notes(typed("optim.unet_lr=1e-4"))
    assert "the model's rate is 30 times as high; set optim.unet_lr=0.003" in low


def test_a_base_of_another_size_says_its_own() -> None:
    assert training_notes(typed("model=sd21", "model.recommended.resolution=768")) == []
    [note] = training_notes(typed("model=sd21", "data.resolution=1024"))
    assert "model.recommended.resolution" in note


def test_evaluate_has_notes_of_the_drawn_world() -> None:
    def notes(*given: str) -> list[str]:
        config = evaluate_config("lora=a", *given)
        return drawn_world_notes(config.model, config.sampling.prompts, config.evaluation)

    assert notes() == notes("model=sd15") == []
    [note] = notes("model=sd15", "evaluation.face=tiny_face")
    assert note.startswith("evaluation.face.name=tiny_face: knows drawn portraits only; set")
    assert notes("model=sd15", "evaluation.face=tiny_face", remedy_of(note)) == []


def test_references_without_a_face_for_the_scorer_name_another_one() -> None:
    from PIL import Image

    blank = KnownPictures(
        ["a.png", "b.png"], [Image.new("RGB", (64, 64), c) for c in ("red", "lime")]
    )
    progress = Progress(enabled=False)
    given = ["evaluation.clip=none", "evaluation.image=none"]
    with progress.console.capture() as said:
        made = scorer(typed(*given).evaluation, blank, blank, torch.device("cpu"), progress)
        made.score(Pictures(list(blank.images)), progress)
    told = " ".join(said.get().split())
    assert "2 of 2 references show no face" in told
    assert "evaluation.face.name=tiny_face knows drawn portraits only; for photos choose" in told


def test_pictures_that_are_hardly_drawn_ones_have_one_note() -> None:
    """Those of other programs have no model; the remedy makes the note go away."""
    config = evaluate_config("images=photos")
    note = drawn_scorers_note(config.model, config.evaluation, [(64, 64), (512, 768)])
    assert note == (
        "evaluation.face.name=tiny_face, evaluation.attributes.name=tiny_attributes, "
        "evaluation.clip.options.model=tiny, evaluation.image.options.model=tiny: such scorers "
        "know drawn portraits only; for photos choose evaluation=photos"
    )
    assert drawn_scorers_note(config.model, config.evaluation, [(64, 64)]) is None
    photos = evaluate_config("images=photos", remedy_of(note))
    assert drawn_scorers_note(photos.model, photos.evaluation, [(512, 768)]) is None
    real = evaluate_config("images=photos", "model=sd15", "evaluation.face=tiny_face")
    assert drawn_scorers_note(real.model, real.evaluation, [(512, 768)]) is None

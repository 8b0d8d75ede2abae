"""The first screen: verdict in words, strengths and steps against the base, the file to use."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from sdlora.evaluation.scores import Scores
from sdlora.reports.first_screen import judged_run, offers
from sdlora.reports.page import write_html_report
from sdlora.reports.run_state import FAILED, RUNNING, RunState
from sdlora.reports.score_tables import read_states
from sdlora.reports.thumbnails import Thumbnails
from sdlora.reports.usage import usage_of
from sdlora.reports.verdict import BAD, GOOD, OPEN, Judged, best_strength, verdict_on

PROMPTS = [f"prompt {number}" for number in range(8)]
CONFIG = {
    "export": {"name": "my_lora"},
    "evaluation": {"select": "face_distance", "max_clip_loss": 1.0},
    "trainer": {"max_steps": 300},
}


def scores(face: float, clip: float = 86.0, copying: float = 0.0, spread: float = 0.01) -> Scores:
    """Scores whose pictures lie evenly around the mean."""
    shifts = [spread * (index - 3.5) for index in range(len(PROMPTS))]
    return Scores(
        len(PROMPTS),
        {"face_distance": face, "clip_score": clip, "copying": copying},
        intervals={"face_distance": (face - spread, face + spread)},
        per_picture={"prompt": PROMPTS, "face_distance": [face + shift for shift in shifts]},
    )


BASE = scores(1.3)


@pytest.mark.parametrize(
    ("chosen", "tone", "words"),
    [
        (scores(0.5), GOOD, "Yes, use it: likeness is better than the base"),
        (scores(1.4), BAD, "Do not use this one"),
        (scores(1.3), BAD, "no better than the base"),
        (scores(0.5, clip=84.0), OPEN, "prompts suffer"),
        (scores(0.5, copying=0.25), OPEN, "pictures are copied"),
        (None, OPEN, "nothing was scored"),
    ],
)
def test_the_verdict_in_words(chosen: Scores | None, tone: str, words: str) -> None:
    said = verdict_on(Judged(BASE, chosen, max_clip_loss=1.0, selected="face_distance"))
    assert said.tone == tone
    assert words in said.headline


def test_what_may_be_chance_is_said() -> None:
    noisy = Scores(
        2,
        {"face_distance": 1.29},
        per_picture={"prompt": PROMPTS, "face_distance": [1.0, 1.6] * 4},
    )
    said = verdict_on(Judged(BASE, noisy, selected="face_distance"))
    assert (said.tone, "chance" in said.headline) == (OPEN, True)


def test_the_reasons_have_the_numbers() -> None:
    said = verdict_on(Judged(BASE, scores(0.55), scores(0.3), max_clip_loss=1.0))
    likeness, prompts, copies = said.sentences
    assert "0.550, base 1.300, real pictures 0.300: 75% of the way" in likeness
    assert "Better by 0.750 (95 %: 0.750 to 0.750), paired over 8 pictures" in likeness
    assert prompts == "Prompts are kept: CLIP score 86.00 (base 86.00)."
    assert copies == "Copying: no picture is a copy of a training picture."


def test_the_best_strength_is_that_of_training_among_equals() -> None:
    tried = {0.6: scores(0.5), 1.0: scores(0.5), 1.2: scores(0.7)}
    assert best_strength("face_distance", tried) == 1.0
    assert best_strength("face_distance", {**tried, 0.8: scores(0.4)}) == 0.8


def report(**rows: Scores) -> dict[str, Any]:
    from dataclasses import asdict

    return {"scores": {name.replace("_x", " x"): asdict(row) for name, row in rows.items()}}


LINES: list[Mapping[str, Any]] = [
    {"step": 0, "base/face_distance": 1.3, "base/face_distance_low": 1.2}
    | {"base/face_distance_high": 1.4},
    {"step": 75, "eval/face_distance": 1.25, "eval/face_distance_low": 1.1}
    | {"eval/face_distance_high": 1.3},
    {"step": 150, "eval/face_distance": 0.5, "eval/face_distance_low": 0.4}
    | {"eval/face_distance_high": 0.6},
    {"step": 225, "eval/face_distance": 1.5},
]


def test_strengths_and_steps_are_tested_against_the_base(tmp_path: Path) -> None:
    states = read_states(report(base=BASE, **{"LoRA_x0.8": scores(0.4), "LoRA": scores(0.5)}))
    judged = judged_run(CONFIG, states, {"step": 150}, LINES)
    (tmp_path / "checkpoints" / "step_0000075").mkdir(parents=True)
    strengths, steps = offers(tmp_path, judged, LINES, 150, 0.8)
    assert [(row.label, row.is_taken) for row in strengths.rows] == [
        ("strength 0.8", True),
        ("strength 1", False),
    ]
    first, best, last = steps.rows
    assert (first.tone, "chance" in first.words) == (OPEN, True)
    assert first.command.startswith("sdlora lora run ")
    assert first.command.endswith("--checkpoint 75")
    assert (best.is_taken, best.tone) == (True, GOOD)
    assert (last.words, last.tone, last.command) == ("not better than the base", BAD, "")
    assert "not kept" in last.how


def test_what_does_not_beat_the_base_is_not_offered(tmp_path: Path) -> None:
    states = read_states(report(base=BASE, **{"LoRA_x0.8": scores(1.35), "LoRA": scores(1.4)}))
    judged = judged_run(CONFIG, states, {"step": 150}, [])
    (strengths,) = offers(tmp_path, judged, [], 150, 0.8)
    assert not any(row.is_taken for row in strengths.rows)


def exported(run: Path, trigger: str = "") -> None:
    pair = {f"lora_unet_mid_block.lora_{side}.weight": torch.ones(1, 1) for side in ("up", "down")}
    (run / "lora").mkdir(parents=True, exist_ok=True)
    header = {"modelspec.trigger_phrase": trigger} if trigger else {"a": "b"}
    save_file(pair, run / "lora" / "my_lora.safetensors", header)


def test_the_file_has_a_place_in_each_program(tmp_path: Path) -> None:
    assert usage_of(tmp_path, CONFIG, 1.0) is None
    exported(tmp_path, "sks man")
    usage = usage_of(tmp_path, CONFIG, 0.8)
    assert usage is not None
    assert usage.file == "lora/my_lora.safetensors"
    texts = [f"{use.steps} {use.code}" for use in usage.uses]
    assert all("sks man" in text for text in texts)
    assert "models/loras" in texts[0]
    assert "<lora:my_lora:0.8>" in texts[1]
    assert 'set_adapters("lora", 0.8)' in texts[2]


def test_a1111_is_named_for_models_that_it_draws(tmp_path: Path) -> None:
    exported(tmp_path)
    usage = usage_of(tmp_path, CONFIG | {"model": {"family": "z_image"}}, 1.0)
    assert usage is not None
    assert [use.program for use in usage.uses] == ["ComfyUI", "diffusers"]


@pytest.mark.parametrize("name", ["../my_lora", "/etc/passwd", None])
def test_a_foreign_name_is_not_followed(name: Any, tmp_path: Path) -> None:
    assert usage_of(tmp_path, {"export": {"name": name}}, 1.0) is None


@pytest.fixture
def running(tmp_path: Path) -> Path:
    run = tmp_path / "run_a"
    run.mkdir()
    stored = {"config": CONFIG, "started_at": 1_700_000_000.0}
    (run / "config.json").write_text(json.dumps(stored), "utf-8")
    text = "".join(json.dumps({**line, "train/loss": 0.25}) + "\n" for line in LINES)
    (run / "metrics.jsonl").write_text(text, "utf-8")
    return run


def test_a_running_page_says_how_far_it_is_and_how_to_go_on(running: Path) -> None:
    state = RunState(RUNNING, left_s=90.0, go_on="sdlora train resume=run_a")
    text = write_html_report(running, state).read_text("utf-8")
    for shown in ("step 225 of 300", "loss 0.2500", "0:01:30 left", "sdlora train resume=run_a"):
        assert shown in text
    assert "<title>225/300 my_lora · 2023-11-1" in text
    assert "No sign of life since" in text  # shown when it is old
    assert "Likeness" not in text
    ended = write_html_report(running).read_text("utf-8")
    assert 'id="live"' not in ended
    failed = write_html_report(running, RunState(FAILED, reason="<b>no memory</b>")).read_text()
    assert "Failed" in failed
    assert "&lt;b&gt;no memory" in failed


def test_an_earlier_end_is_not_the_verdict_of_a_run_that_goes_on(running: Path) -> None:
    (running / "report.json").write_text(json.dumps(report(base=BASE, LoRA=scores(0.1))), "utf-8")
    text = write_html_report(running, RunState(RUNNING)).read_text("utf-8")
    assert "0.100" not in text


def test_a_picture_is_encoded_once(tmp_path: Path) -> None:
    path, made = tmp_path / "a.png", Thumbnails()
    Image.new("RGB", (400, 200), "red").save(path)
    first = made.of(path, 100, 100)
    assert (first.width, first.height) == (100, 50)
    assert made.of(path, 100, 100) is first
    Image.new("RGB", (300, 300), "blue").save(path)
    assert made.of(path, 100, 100).height == 100

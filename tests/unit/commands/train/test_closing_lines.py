"""The five last lines of a run, from scores that were made up."""

import ast
import shlex
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from safetensors.torch import save_file

from sdlora.adapters.spec import LoraSpec
from sdlora.commands.train.closing_lines import Outcome, closing_lines
from sdlora.commands.train.training_run import TrainingRun
from sdlora.evaluation.scores import Scores
from sdlora.evaluation.selection import Rule
from sdlora.runs.best import Best, BestAdapter
from tests.composed import train_config

BASE = Scores(2, {"face_distance": 1.3, "clip_score": 86.0})
GOOD = Scores(2, {"face_distance": 0.5, "clip_score": 87.25})
BAD = Scores(2, {"face_distance": 1.4, "clip_score": 85.5})
REAL = Scores(2, {"face_distance": 0.3})
SELECT = "evaluation.select=face_distance"


def lines(
    outcome: Outcome, best: int | None = None, *overrides: str, folder: Path = Path("run")
) -> list[str]:
    """The lines of a run that ended at step 30 and keeps its best by the face distance."""
    config = train_config(*overrides)
    adapted = "lora.unet.method=full" not in overrides
    own = config.lora
    spec = LoraSpec(4, 4.0, 0.0, ("to_q",), use_dora=own.use_dora, type=own.type)
    run = SimpleNamespace(
        config=config,
        folder=folder,
        has_adapter=adapted,
        specs={"unet": spec} if adapted else {},
        trainer=SimpleNamespace(global_step=30),
        family=SimpleNamespace(denoiser_name="unet"),
    )
    keeper: Any = None
    if config.evaluation.select != "none":
        chosen = None if best is None else Best(best, GOOD)
        keeper = SimpleNamespace(best=chosen, rule=Rule(config.evaluation.select, 1.0))
    return closing_lines(cast(TrainingRun, run), cast(BestAdapter, keeper), outcome)


def test_five_lines_say_what_was_chosen_how_good_it_is_and_where_it_is_used() -> None:
    assert lines(Outcome(BASE, GOOD, REAL), 20, SELECT) == [
        "lora/ is step 20, chosen by face distance; last/ is step 30, the last",
        "How good: face distance 0.500 (base 1.300, real pictures 0.300, 80% of the gap closed), "
        "CLIP score 87.25 (base 86.00)",
        "ComfyUI, A1111: run/lora/my_lora.safetensors, strength 1",
        'diffusers: pipe.load_lora_weights("run/lora", adapter_name="lora")',
        "Look at: run/report.html (pictures, scores, curves, all files)",
    ]


@pytest.mark.parametrize(
    ("outcome", "best", "overrides", "first"),
    [
        (
            Outcome(BASE, GOOD),
            30,
            [SELECT],
            "lora/ is step 30, the last, chosen by face distance; last/ is the same",
        ),
        (
            Outcome(BASE, GOOD),
            None,
            ["evaluation.select=none"],
            "lora/ is step 30, the last: no score chooses a step (evaluation.select=none)",
        ),
        (
            Outcome(BASE, GOOD),
            None,
            [SELECT],
            "lora/ is step 30, the last: no scored step has a face distance and a CLIP score "
            "within 1 points of the base's (evaluation.max_clip_loss)",
        ),
        (Outcome(), None, [SELECT], "lora/ is step 30, the last: no step was scored"),
    ],
)
def test_the_last_step_and_why(
    outcome: Outcome, best: int | None, overrides: list[str], first: str
) -> None:
    assert lines(outcome, best, *overrides)[0] == first


def test_what_does_not_beat_the_base_is_said() -> None:
    second = lines(Outcome(BASE, BAD), 30, SELECT)[1]
    assert second.startswith("Nothing beats the base: face distance 1.400 (base 1.300)")
    same = lines(Outcome(BASE, BASE), 30, SELECT)[1]
    assert same.startswith("Nothing beats the base: ")


def test_without_scores_the_command_that_scores_is_said() -> None:
    assert lines(Outcome(), None, "evaluation=none")[1] == (
        "How good: unknown, nothing was scored; score it with: sdlora evaluate run=run "
        "evaluation=default"
    )


def test_commands_and_calls_hold_for_any_folder_name() -> None:
    folder = Path("my 'best' \"r\" é")
    _, score, _, call, _ = lines(Outcome(), None, "evaluation=none", folder=folder)
    words = shlex.split(score.partition("score it with: ")[2])
    assert words == ["sdlora", "evaluate", f"run={folder}", "evaluation=default"]
    given = ast.parse(call.partition(": ")[2], mode="eval").body
    assert isinstance(given, ast.Call)
    assert ast.literal_eval(given.args[0]) == f"{folder}/lora"


@pytest.mark.parametrize(
    ("strengths", "strength", "call"),
    [
        ({0.8: BAD}, "strength 1 (face distance at 0.8: 1.400, 1: 0.500)", ""),
        (
            {0.8: REAL, 1.2: BAD},
            "strength 0.8 (face distance at 0.8: 0.300, 1: 0.500, 1.2: 1.400)",
            '; pipe.set_adapters("lora", 0.8)',
        ),
    ],
)
def test_the_best_strength_is_named(
    strengths: Mapping[float, Scores], strength: str, call: str
) -> None:
    said = lines(Outcome(BASE, GOOD, None, strengths), 30, SELECT)
    assert said[2] == f"ComfyUI, A1111: run/lora/my_lora.safetensors, {strength}"
    assert said[3] == f'diffusers: pipe.load_lora_weights("run/lora", adapter_name="lora"){call}'
    assert ("at strength 0.8" in said[1]) == bool(call)


def test_words_and_whole_models_have_lines_of_their_own(tmp_path: Path) -> None:
    word = tmp_path / "lora" / "embeddings" / "zwk.safetensors"
    word.parent.mkdir(parents=True)
    word.touch()
    said = lines(Outcome(), None, "lora=pivotal", "lora.new_word.name=zwk", folder=tmp_path)
    place = word.as_posix()
    assert said[2].endswith(f"strength 1; {place} (an embedding; zwk in the prompt)")
    assert said[3].endswith(f'; pipe.load_textual_inversion("{place}", token="zwk")')
    whole = lines(Outcome(), None, "lora.unet.method=full", "lora.text_encoder.method=frozen")
    assert whole[0] == "pipeline/ is step 30, the last: no step was scored"
    assert whole[2] == 'diffusers: DiffusionPipeline.from_pretrained("run/pipeline")'
    assert len(whole) == 4


def test_the_trigger_word_is_told() -> None:
    words = ("evaluation.trigger_word=sks", "evaluation.class_word=man")
    assert lines(Outcome(), None, *words)[2].endswith('strength 1, "sks" in the prompt')


@pytest.mark.parametrize(("share", "advised"), [("0.0312", False), ("0.3000", True)])
def test_of_a_dora_the_plain_file_is_named_with_what_it_lacks(
    share: str, advised: bool, tmp_path: Path
) -> None:
    (tmp_path / "lora").mkdir()
    twin = tmp_path / "lora" / "my_lora_plain.safetensors"
    dora = ("lora.use_dora=true", "lora.text_encoder.method=frozen", "evaluation=none")
    line = lines_of_files(tmp_path, *dora, twin=twin, share=share)
    assert line.startswith(f"ComfyUI, A1111: {twin} (the DoRA as a plain LoRA, ")
    assert f"{float(share):.1%} of its update missing" in line
    command = f"sdlora lora merge {tmp_path}/lora/my_lora.safetensors --base embedded:tiny-sd"
    assert (command in line) == advised


def test_of_another_type_each_program_has_its_file(tmp_path: Path) -> None:
    (tmp_path / "lora").mkdir()
    folder, twin = tmp_path / "lora", tmp_path / "lora" / "my_lora_plain.safetensors"
    line = lines_of_files(tmp_path, "lora.type=lokr", "evaluation=none", twin=twin, share="0.0500")
    assert line == f"ComfyUI, A1111: {folder}/my_lora.safetensors, strength 1"
    said = lines(Outcome(), None, "lora.type=lokr", "evaluation=none", folder=tmp_path)
    assert said[3].endswith(' adapter_name="lora") (the plain LoRA)')
    assert said[4] == (f"sd-scripts: {twin} (the LoKr as a plain LoRA, 5.0% of its update missing)")
    assert said[5] == f'peft: PeftModel.from_pretrained(pipe.unet, "{folder}/unet")'
    line = lines_of_files(tmp_path, "lora.type=oft", "evaluation=none", twin=twin, share="0.0500")
    assert line.startswith(f"ComfyUI, A1111: {twin} (the OFT as a plain LoRA, 5.0% of its")
    said = lines(Outcome(), None, "lora.type=oft", "evaluation=none", folder=tmp_path)
    assert said[4] == f"OneTrainer, sdlora: {folder}/my_lora.safetensors"


def lines_of_files(folder: Path, *overrides: str, twin: Path, share: str) -> str:
    """The line of other programs, where this plain file is."""
    pair = {f"lora_unet_mid_block.lora_{side}.weight": torch.ones(1, 1) for side in ("up", "down")}
    save_file(pair, twin, {"sdlora.missing_share": share})
    found = lines(Outcome(), None, *overrides, folder=folder)
    return next(line for line in found if line.startswith("ComfyUI"))

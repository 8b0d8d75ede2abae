"""The last lines of a run: what was chosen, how good it is, which file is for which program."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sdlora.adapters.formats import read_metadata
from sdlora.adapters.spec import TITLES
from sdlora.assembly.new_word import embeddings_of
from sdlora.commands.train.training_run import TrainingRun
from sdlora.config.score_kinds import PROMPT_SCORE, kind
from sdlora.evaluation.comparison import gap_closed_by
from sdlora.evaluation.scores import Scores
from sdlora.export.model_card import trigger_phrase
from sdlora.export.plain_twin import (
    MISSING,
    NEAR,
    file_of_others,
    is_read_by_others,
    twin_name,
)
from sdlora.models.families import description_of
from sdlora.reports.page import FILE_NAME as PAGE
from sdlora.reports.verdict import best_strength, is_better, telling_score
from sdlora.runs.best import BestAdapter
from sdlora.runs.run_folder import LAST_STEP, LORA, PIPELINE
from sdlora.runtime.places import from_here


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the scores of a run came to; without scores all are ``None``.

    Attributes:
        base: Scores of the base model.
        chosen: Scores of the chosen step.
        real: Scores of the training pictures.
        strengths: Scores of the chosen step at other strengths than as trained.
    """

    base: Scores | None = None
    chosen: Scores | None = None
    real: Scores | None = None
    strengths: Mapping[float, Scores] = field(default_factory=dict)


def closing_lines(run: TrainingRun, keeper: BestAdapter | None, outcome: Outcome) -> list[str]:
    """The chosen step, how good it is, the files by program, and where to look."""
    folder = run.folder / (LORA if run.has_adapter else PIPELINE)
    return [
        _choice(run, keeper, outcome, folder.name),
        _quality(run, outcome),
        *_uses(run, folder, outcome),
        f"Look at: {from_here(run.folder / PAGE)} (pictures, scores, curves, all files)",
    ]


def _choice(run: TrainingRun, keeper: BestAdapter | None, outcome: Outcome, folder: str) -> str:
    """Which step is in the chosen folder, and why."""
    step = run.trainer.global_step
    best = None if keeper is None else keeper.best
    if keeper is not None and best is not None:
        title = kind(keeper.rule.score).title
        if best.step != step:
            return (
                f"{folder}/ is step {best.step}, chosen by {title}; "
                f"{LAST_STEP}/ is step {step}, the last"
            )
        return f"{folder}/ is step {step}, the last, chosen by {title}; {LAST_STEP}/ is the same"
    return f"{folder}/ is step {step}, the last: {_why_none(run, keeper, outcome)}"


def _why_none(run: TrainingRun, keeper: BestAdapter | None, outcome: Outcome) -> str:
    if _main_score(run, outcome) is None:
        return "no step was scored"
    if keeper is None:
        return "no score chooses a step (evaluation.select=none)"
    near = (
        f" and a CLIP score within {keeper.rule.max_clip_loss:g} points of the base's "
        "(evaluation.max_clip_loss)"
    )
    has_clip = run.config.evaluation.clip.name != "none"
    return f"no scored step has a {kind(keeper.rule.score).title}{near if has_clip else ''}"


def _quality(run: TrainingRun, outcome: Outcome) -> str:
    """The chosen step against the base and the real pictures."""
    name, base = _main_score(run, outcome), outcome.base
    scale, _ = _strength(run, outcome)
    chosen = outcome.strengths.get(scale, outcome.chosen)
    if name is None or base is None or chosen is None:
        return f"How good: unknown, nothing was scored{_how_to_score(run)}"
    against = [f"base {_text(name, base)}"]
    if outcome.real is not None and outcome.real.value(name) is not None:
        against.append(f"real pictures {_text(name, outcome.real)}")
        share = gap_closed_by(chosen, base, outcome.real)
        against += [] if share is None else [f"{share:.0%} of the gap closed"]
    at = f" at strength {scale:g}" if scale != 1 else ""
    line = f"{kind(name).title} {_text(name, chosen)}{at} ({', '.join(against)})"
    if name != PROMPT_SCORE and None not in (chosen.value(PROMPT_SCORE), base.value(PROMPT_SCORE)):
        line += (
            f", {kind(PROMPT_SCORE).title} {_text(PROMPT_SCORE, chosen)} "
            f"(base {_text(PROMPT_SCORE, base)})"
        )
    if not _is_better(name, chosen, base):
        return f"Nothing beats the base: {line}; do not use this one"
    return f"How good: {line}"


def _how_to_score(run: TrainingRun) -> str:
    """The command that scores the LoRA afterwards; a whole model has none."""
    if not run.has_adapter:
        return ""
    evaluation = run.config.evaluation
    scorers = (evaluation.face, evaluation.clip, evaluation.image, evaluation.aesthetic)
    others = [] if any(each.name != "none" for each in scorers) else ["evaluation=default"]
    command = ["sdlora", "evaluate", f"run={from_here(run.folder)}", *others]
    return f"; score it with: {shlex.join(command)}"


def _main_score(run: TrainingRun, outcome: Outcome) -> str | None:
    """The score that chooses, else the first with a direction that both have."""
    return telling_score(run.config.evaluation.select, outcome.base, outcome.chosen)


def _is_better(name: str, scores: Scores, base: Scores) -> bool:
    now, before = scores.value(name), base.value(name)
    assert now is not None
    assert before is not None
    return is_better(name, now, before)


def _text(name: str, scores: Scores) -> str:
    value = scores.value(name)
    return "unknown" if value is None else f"{value:.{kind(name).digits}f}"


def _strength(run: TrainingRun, outcome: Outcome) -> tuple[float, str]:
    """The best strength by the main score, and what was scored, as text."""
    name = _main_score(run, outcome)
    scored = {1.0: outcome.chosen, **outcome.strengths}
    found = {
        scale: _text(name, scores)
        for scale, scores in sorted(scored.items())
        if name is not None and scores is not None and scores.value(name) is not None
    }
    if name is None or len(found) < 2:
        return 1.0, "strength 1"
    known = {scale: scores for scale, scores in scored.items() if scores is not None}
    best = best_strength(name, known)
    listed = ", ".join(f"{scale:g}: {text}" for scale, text in found.items())
    return best, f"strength {best:g} ({kind(name).title} at {listed})"


def _file_of_others(run: TrainingRun, folder: Path) -> str:
    """The file for ComfyUI and A1111; of a plain LoRA beside another type, how near it is."""
    adapter, name = _type(run), run.config.export.name
    file = file_of_others(folder, name, adapter)
    is_dora = any(spec.use_dora for spec in run.specs.values())
    if not is_dora and (adapter == "lora" or is_read_by_others(adapter)):
        return from_here(file)
    return f"{from_here(file)} ({_nearness(run, folder, file)})"


def _type(run: TrainingRun) -> str:
    return next(iter(run.specs.values())).type


def _nearness(run: TrainingRun, folder: Path, file: Path) -> str:
    """What a plain LoRA lacks of the adapter beside it, and how to use it exactly."""
    title = "DoRA" if _type(run) == "lora" else TITLES[_type(run)]
    share = read_metadata(file).get(MISSING)
    if share is None:  # of a quantised base
        return f"a {title}, which they draw otherwise: docs/lora_files.md"
    near = f"the {title} as a plain LoRA, {float(share):.1%} of its update missing"
    if float(share) > NEAR:
        own = shlex.quote(from_here(folder / f"{run.config.export.name}.safetensors"))
        base = shlex.quote(str(run.config.model.path))
        near += f"; exactly: sdlora lora merge {own} --base {base} --out merged.safetensors"
    return near


def _lines_of_type(run: TrainingRun, folder: Path) -> list[str]:
    """Where each exact file goes, of another type than LoRA; diffusers has the plain one."""
    adapter, name = _type(run), run.config.export.name
    if adapter == "lora":
        return []
    own, twin = folder / f"{name}.safetensors", folder / twin_name(name)
    lines = []
    if is_read_by_others(adapter):
        lines.append(f"sd-scripts: {from_here(twin)} ({_nearness(run, folder, twin)})")
    else:
        lines.append(f"OneTrainer, sdlora: {from_here(own)}")
    part = (
        denoiser if (denoiser := run.family.denoiser_name) in run.specs else next(iter(run.specs))
    )
    return [*lines, f'peft: PeftModel.from_pretrained(pipe.{part}, "{from_here(folder / part)}")']


def _in_python(path: Path) -> str:
    """A path as a text of Python."""
    return json.dumps(from_here(path), ensure_ascii=False)


def _uses(run: TrainingRun, folder: Path, outcome: Outcome) -> list[str]:
    """The file for each program, and how strong."""
    shown = _in_python(folder)
    if not run.has_adapter:
        return [f"diffusers: DiffusionPipeline.from_pretrained({shown})"]
    word, embeddings = run.config.lora.new_word.name, embeddings_of(folder)
    programs, calls = [], []
    if run.specs:
        scale, strength = _strength(run, outcome)
        programs.append(f"{_file_of_others(run, folder)}, {strength}")
        calls.append(f'pipe.load_lora_weights({shown}, adapter_name="lora")')
        if _type(run) != "lora":
            calls[-1] += " (the plain LoRA)"
        calls += [f'pipe.set_adapters("lora", {scale:g})'] * (scale != 1)
    if embeddings is not None:
        programs.append(f"{from_here(embeddings)} (an embedding; {word} in the prompt)")
        token = json.dumps(word, ensure_ascii=False)
        calls.append(f"pipe.load_textual_inversion({_in_python(embeddings)}, token={token})")
    trigger = trigger_phrase(run.config.evaluation, run.config.data)
    if run.specs and trigger is not None and trigger != word:
        programs[0] += f', "{trigger}" in the prompt'
    return [
        f"{', '.join(description_of(run.config.model.family).programs)}: {'; '.join(programs)}",
        f"diffusers: {'; '.join(calls)}",
        *(_lines_of_type(run, folder) if run.specs else ()),
    ]

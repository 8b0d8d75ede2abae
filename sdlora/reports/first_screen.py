"""The first screen of a run's page: verdict, pictures beside the base, what to take."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdlora.reports.gallery import Gallery, Shown
from sdlora.reports.score_tables import Head, State, score_head, score_text, state_of
from sdlora.reports.thumbnails import Thumbnail, Thumbnails
from sdlora.reports.usage import Usage
from sdlora.reports.verdict import BAD, Judged, Verdict, advantage_words, telling_score
from sdlora.runs.checkpoints import CHECKPOINTS
from sdlora.runs.partial_files import is_number, mapping
from sdlora.runs.report import handed_over
from sdlora.runs.samples import SAMPLES, TRAINING, step_name
from sdlora.runtime.places import from_here

SHOWN_ROWS = 3
"""Prompts on the first screen."""

_SIDE_PX = 256

Lines = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Compared:
    """One prompt on the first screen: the base's picture, and that of the step to use."""

    prompt: str
    base: Shown | None
    own: Shown


@dataclass(frozen=True, slots=True)
class Offer:
    """A strength or a step that could be taken.

    Attributes:
        label: Its name.
        value: The telling score.
        words: Whether it is better than the base.
        tone: ``good``, ``open`` or ``bad``.
        is_taken: Whether it is the one to take.
        how: What to do to take it, in words.
        command: A command for it; empty: none is needed.
    """

    label: str
    value: str
    words: str
    tone: str
    is_taken: bool
    how: str
    command: str = ""


@dataclass(frozen=True, slots=True)
class Offers:
    """A table of what could be taken, with the score that it is about."""

    title: str
    score: Head
    rows: list[Offer]


@dataclass(frozen=True, slots=True)
class Screen:
    """What the first screen of a run's page shows.

    Attributes:
        verdict: Is it any good.
        usage: The file to use, and how; ``None``: there is none yet.
        compared: Pictures beside the base's.
        training: Training pictures.
        offers: What could be taken.
    """

    verdict: Verdict
    usage: Usage | None
    compared: list[Compared]
    training: list[Thumbnail]
    offers: list[Offers]


def judged_run(
    config: Mapping[str, Any], states: Sequence[State], best: Mapping[str, Any], lines: Lines
) -> Judged:
    """What the verdict compares: the final scores, else the best step so far.

    Args:
        config: The run's config.
        states: Rows of ``report.json``.
        best: ``scores.json`` of the chosen folder.
        lines: Lines of ``metrics.jsonl``.
    """
    evaluation = mapping(config.get("evaluation"))
    margin = evaluation.get("max_clip_loss")
    selected = evaluation.get("select")
    rows = {state.name: state for state in states if not state.is_real}
    real = next((state for state in states if state.is_real), None)
    name = handed_over(rows)
    strengths: dict[float, State] = {}
    base: State | None
    chosen: State | None
    if name is not None:
        base, chosen = states[0], rows[name]
        for label, state in rows.items():
            if found := re.fullmatch(rf"{re.escape(name)} x(\d+(?:\.\d+)?)", label):
                strengths[float(found[1])] = state
    else:
        base, chosen = line_state(lines, "base"), _chosen_so_far(best, lines)
    return Judged(
        base=base,
        chosen=chosen,
        real=real,
        strengths=strengths,
        max_clip_loss=margin if is_number(margin) else None,
        selected=selected if isinstance(selected, str) else None,
    )


def line_state(lines: Lines, prefix: str, step: int | None = None) -> State | None:
    """The newest scores of ``metrics.jsonl`` with this prefix, of one step or of the last."""
    values: dict[str, float] = {}
    for line in lines:
        found = {key: value for key, value in line.items() if key.startswith(f"{prefix}/")}
        if found and step in (None, line["step"]):
            values |= {key: value for key, value in found.items() if is_number(value)}
    named = {key.removeprefix(f"{prefix}/"): value for key, value in values.items()}
    ends = {
        name: [named[f"{name}_low"], named[f"{name}_high"]]
        for name in named
        if {f"{name}_low", f"{name}_high"} <= named.keys()
    }
    known = {name: value for name, value in named.items() if not name.endswith(("_low", "_high"))}
    return state_of(prefix, {"values": known, "intervals": ends}) if known else None


def _chosen_so_far(best: Mapping[str, Any], lines: Lines) -> State | None:
    if scores := mapping(best.get("scores")):
        return state_of(f"step {best.get('step')}", scores)
    scored = [line["step"] for line in lines if any(key.startswith("eval/") for key in line)]
    return line_state(lines, "eval", max(scored)) if scored else None


def compared(gallery: Gallery, label: str | None) -> list[Compared]:
    """The first prompts with the picture of the step to use, else of the last step."""
    chosen = []
    for row in gallery.rows:
        own = [shown for shown in row.pictures if not shown.column.is_base]
        wanted = [shown for shown in own if shown.column.label == label] or own[-1:]
        if wanted:
            base = next((shown for shown in row.pictures if shown.column.is_base), None)
            chosen.append(Compared(row.text, base, wanted[-1]))
    exact = [each for each in chosen if each.own.column.label == label]
    return (exact or chosen)[:SHOWN_ROWS]


def training_pictures(run: Path, thumbnails: Thumbnails, notes: list[str]) -> list[Thumbnail]:
    """The first training pictures of a run's samples, as cut."""
    found = []
    for path in sorted((run / SAMPLES / TRAINING).glob("*.png"))[:SHOWN_ROWS]:
        try:
            found.append(thumbnails.of(path, _SIDE_PX, _SIDE_PX))
        except OSError as error:
            notes.append(f"{path.relative_to(run).as_posix()} cannot be read ({error}).")
    return found


def offers(
    run: Path, judged: Judged, lines: Lines, best: int | None, strength: float
) -> list[Offers]:
    """The strengths and the steps that were scored, each tested against the base."""
    name = telling_score(judged.selected, judged.base, judged.chosen)
    if name is None:
        return []
    tables = [
        Offers("Strengths", score_head(name), list(_strengths(judged, name, strength))),
        Offers("Steps", score_head(name), list(_steps(run, judged, name, lines, best))),
    ]
    return [table for table in tables if len(table.rows) > 1]


def _strengths(judged: Judged, name: str, strength: float) -> Iterator[Offer]:
    assert judged.base is not None
    assert judged.chosen is not None
    for scale, state in sorted({1.0: judged.chosen, **judged.strengths}.items()):
        value = state.values.get(name)
        if value is None:
            continue
        words, tone = advantage_words(name, state, judged.base)
        yield Offer(
            label=f"strength {scale:g}",
            value=score_text(name, value),
            words=words,
            tone=tone,
            is_taken=scale == strength and tone != BAD,
            how=f"Set strength {scale:g}.",
        )


def _steps(run: Path, judged: Judged, name: str, lines: Lines, best: int | None) -> Iterator[Offer]:
    assert judged.base is not None
    scored = {line["step"] for line in lines if is_number(line.get(f"eval/{name}"))}
    for step in sorted(scored):
        state = line_state(lines, "eval", step)
        if state is None:
            continue
        is_best = step == best
        tested = judged.chosen if is_best and judged.chosen is not None else state
        words, tone = advantage_words(name, tested, judged.base)
        how, command = _how_to_take(run, step, is_best)
        yield Offer(
            label=f"step {step}",
            value=score_text(name, state.values[name]),
            words=words,
            tone=tone,
            is_taken=is_best and tone != BAD,
            how=how,
            command=command,
        )


def _how_to_take(run: Path, step: int, is_best: bool) -> tuple[str, str]:
    if is_best:
        return "It is the file above.", ""
    if (run / CHECKPOINTS / step_name(step)).is_dir():
        return "", shlex.join(["sdlora", "lora", "run", from_here(run), "--checkpoint", str(step)])
    return "Its checkpoint was not kept (checkpoint.keep_last).", ""

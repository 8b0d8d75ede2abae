"""The recommended cell on a sweep's page: sentences and commands."""

import shlex
from pathlib import Path

from sdlora.config.score_kinds import LOWER, PROMPT_SCORE, kind
from sdlora.evaluation.advantage import Advantage
from sdlora.reports.score_tables import score_text
from sdlora.runs.run_folder import LORA
from sdlora.runtime.places import from_here
from sdlora.sweep.cells import SEED, Cell, Sweep, value_text
from sdlora.sweep.choice import Candidate, Choice, candidates, rule_of

_MOST_REFUSED = 10
"""Number of refused cells that are named."""


def sentences(sweep: Sweep, choice: Choice | None) -> list[str]:
    """Sentences on the recommended cell, the runner-up and refused cells; never empty."""
    if choice is None:
        return [_why_none(sweep)]
    winner, name, score = choice.winner, choice.rule.score, kind(choice.rule.score).title
    least = "lowest" if kind(name).arrow == LOWER else "highest"
    what = "cells" if winner.spread is None else "settings"
    of = f"the {least} {score} of {choice.num_candidates} {what}"
    of += " that keep their prompts" if choice.refused else ""
    if choice.num_candidates == 1:
        of = f"the only {score} that can be chosen"
    said = [
        f"Take {_called(winner)}, at step {_step(winner.cell)}: it has {of}, "
        f"{_value(winner, name)}{_of_base(sweep, name)}{_prompts_kept(choice)}."
    ]
    if choice.runner_up is not None:
        said.append(_against(choice, choice.runner_up))
    if choice.refused:
        cells = ", ".join(str(cell.number) for cell in choice.refused[:_MOST_REFUSED])
        more = len(choice.refused) - _MOST_REFUSED
        said.append(
            f"Not chosen: {'cells' if len(choice.refused) > 1 else 'cell'} {cells}"
            f"{f' and {more} more' if more > 0 else ''}, where no scored step has a {score} and a "
            f"CLIP score not more than {choice.rule.max_clip_loss:g} below the base's."
        )
    file = _for_ui(choice.winner.cell)
    if file.is_file():
        said.append(
            f"Its LoRA: {from_here(file)} (ComfyUI, A1111), {from_here(file.parent)} (diffusers)."
        )
    return said


def commands(sweep: Sweep, choice: Choice) -> dict[str, str]:
    """Next commands for the recommended cell: title -> command line."""
    cell = choice.winner.cell
    folder = from_here(cell.folder)
    steps = cell.at("trainer.max_steps")
    longer = 2 * steps if isinstance(steps, int) else 2 * (cell.last_step or 1)
    quoted = f'"{folder}"' if set(folder) & set(",= ") else folder  # Hydra's grammar uses these
    resume = ["sdlora", "train", f"resume={quoted}", f"trainer.max_steps={longer}"]
    export = ["sdlora", "lora", "run", folder]
    commands = {f"Train it for longer, to step {longer}": shlex.join(resume)}
    if not _for_ui(cell).is_file():
        commands["Export it"] = shlex.join(export)  # its run was stopped before its end
    return commands


def _for_ui(cell: Cell) -> Path:
    """The cell's chosen LoRA in the layout of ComfyUI and A1111."""
    return cell.folder / LORA / f"{cell.at('export.name')}.safetensors"


def _why_none(sweep: Sweep) -> str:
    rule = rule_of(sweep)
    if rule is None:
        return (
            "No cell is recommended: its runs keep no best checkpoint (evaluation.select=none), or "
            "none has begun."
        )
    if found := candidates(sweep, rule):
        title = kind(rule.score).title
        return (
            f"Take none of them: no cell has a better {title} than the base. The best, "
            f"{_called(found[0])}, has {_value(found[0], rule.score)}{_of_base(sweep, rule.score)}."
            " Train for longer, or with other rates."
        )
    return "No cell is recommended yet: none is finished that can be chosen."


def _called(candidate: Candidate) -> str:
    """Name of the cell, or the settings and the cell of the best seed."""
    cell = candidate.cell
    if candidate.spread is None:
        return f"cell {cell.number} ({cell.name})" if cell.name else f"cell {cell.number}"
    settings = ", ".join(
        f"{key}={value_text(value)}" for key, value in cell.overrides.items() if key != SEED
    )
    seed = value_text(cell.overrides.get(SEED))
    return f"{settings or 'these settings'}, best with seed {seed} (cell {cell.number})"


def _step(cell: Cell) -> int:
    assert cell.chosen is not None, "a candidate has a scored step"
    return cell.chosen.step


def _value(candidate: Candidate, name: str) -> str:
    if candidate.spread is None:
        return score_text(name, candidate.mean)
    return (
        f"{score_text(name, candidate.mean)} on average over {len(candidate.cells)} seeds with a "
        f"standard deviation of {score_text(name, candidate.spread)}"
    )


def _of_base(sweep: Sweep, name: str) -> str:
    base = None if sweep.base is None else sweep.base.value(name)
    return "" if base is None else f" (base {score_text(name, base)})"


def _prompts_kept(choice: Choice) -> str:
    """The clause on the CLIP score that the rule requires."""
    cell = choice.winner.cell
    now = None if cell.chosen is None else cell.chosen.scores.value(PROMPT_SCORE)
    before = None if cell.base is None else cell.base.value(PROMPT_SCORE)
    if now is None or before is None:
        return ""
    return (
        f", and its CLIP score, {score_text(PROMPT_SCORE, now)}, is not more than "
        f"{choice.rule.max_clip_loss:g} below the base's {score_text(PROMPT_SCORE, before)}"
    )


def _against(choice: Choice, runner_up: Candidate) -> str:
    name = choice.rule.score
    said = f"The runner-up is {_called(runner_up)} with {_value(runner_up, name)}"
    found = choice.advantage
    if found is None:
        return f"{said}; the two have no common pictures or seeds to compare."
    verdict = (
        f"which excludes 0: more than chance among these {found.over}"
        if found.is_clear
        else "which contains 0: the two cannot be distinguished"
    )
    return f"{said}. The difference is {_interval(name, found)}, {verdict}."


def _interval(name: str, found: Advantage) -> str:
    digits = kind(name).digits + 1  # a difference is small beside its scores
    mean, low, high = (f"{each:.{digits}f}" for each in (found.mean, found.low, found.high))
    return f"{mean} over {found.count} common {found.over} (95 % interval {low} to {high})"

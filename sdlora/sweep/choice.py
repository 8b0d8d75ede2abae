"""Choice of the best cell of a sweep: by the rule of the best checkpoint, with seeds as repeats."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sdlora.config.score_kinds import kind
from sdlora.evaluation.advantage import LEVEL, Advantage, advantage_by_picture
from sdlora.evaluation.scores import Scores
from sdlora.evaluation.selection import Rule
from sdlora.sweep.cells import SEED, Cell, Sweep
from sdlora.sweep.state import DONE


@dataclass(frozen=True, slots=True)
class Candidate:
    """Finished cells that differ only in their seed; a single one if no seed is swept.

    Attributes:
        cells: The best first.
        mean: Mean of the rule's score over the cells, each at its chosen step.
        spread: Standard deviation over the seeds; None for a single one.
    """

    cells: Sequence[Cell]
    mean: float
    spread: float | None

    @property
    def cell(self) -> Cell:
        """The cell to take."""
        return self.cells[0]


@dataclass(frozen=True, slots=True)
class Choice:
    """The best cell, and its evidence.

    Attributes:
        rule: The rule of the choice.
        winner: The best candidate.
        runner_up: The second best; None without another.
        advantage: Advantage of the winner over the runner-up; None without pairs.
        num_candidates: Number of candidates.
        refused: Finished cells that no longer follow prompts, or lack the score.
    """

    rule: Rule
    winner: Candidate
    runner_up: Candidate | None
    advantage: Advantage | None
    num_candidates: int
    refused: Sequence[Cell]


def rule_of(sweep: Sweep) -> Rule | None:
    """The rule of the best checkpoint in the runs of this sweep; None if they keep none."""
    for cell in sweep.cells:
        score, margin = cell.at("evaluation.select"), cell.at("evaluation.max_clip_loss")
        if isinstance(score, str) and isinstance(margin, int | float):
            return None if score == "none" else Rule(score, float(margin))
    return None


def choose(sweep: Sweep) -> Choice | None:
    """The best cell by the rule of its runs; None if no finished cell can be chosen.

    The best one must be better than the bare base: a LoRA that is not better is not worth taking.
    """
    rule = rule_of(sweep)
    found = [] if rule is None else candidates(sweep, rule)
    if rule is None or not found or beats_base(rule, found[0]) is False:
        return None
    runner_up = found[1] if len(found) > 1 else None
    return Choice(
        rule=rule,
        winner=found[0],
        runner_up=runner_up,
        advantage=None if runner_up is None else advantage(rule, found[0], runner_up),
        num_candidates=len(found),
        refused=[cell for cell in sweep.in_state(DONE) if _cost(rule, cell) is None],
    )


def candidates(sweep: Sweep, rule: Rule) -> list[Candidate]:
    """The settings that can be chosen, the best first.

    Cells that differ only in their seed are one candidate: their mean counts, and settings that
    stop following prompts with one seed are not chosen. The first of equal candidates wins.
    """
    groups: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in sweep.in_state(DONE):
        settings = [(key, str(value)) for key, value in cell.overrides.items() if key != SEED]
        groups.setdefault(tuple(sorted(settings)), []).append(cell)
    made = [_candidate(rule, cells) for cells in groups.values()]
    sign = kind(rule.score).sign  # turns a score into a cost and back
    return sorted((each for each in made if each), key=lambda each: sign * each.mean)


def beats_base(rule: Rule, candidate: Candidate) -> bool | None:
    """Whether the mean score is better than the base's; None if the base's is not known."""
    bases = [cell.base.value(rule.score) for cell in candidate.cells if cell.base is not None]
    known = [value for value in bases if value is not None]
    if not known:
        return None
    return kind(rule.score).sign * (candidate.mean - statistics.mean(known)) < 0


def advantage(rule: Rule, winner: Candidate, other: Candidate) -> Advantage | None:
    """Paired difference of two candidates.

    Two or more common seeds give Student's interval of the mean of their differences; otherwise the
    pictures of both best cells give its bootstrap interval. None if neither can be paired.
    """
    by_seed = _by_seed(rule, winner, other)
    if len(by_seed) > 1:
        from scipy import stats  # slow to import, and only seeds need it

        mean, error = statistics.mean(by_seed), statistics.stdev(by_seed) / len(by_seed) ** 0.5
        margin = float(stats.t.ppf((1 + LEVEL) / 2, len(by_seed) - 1)) * error
        return Advantage(mean, mean - margin, mean + margin, len(by_seed), "seeds")
    own, theirs = winner.cell.chosen, other.cell.chosen
    if own is None or theirs is None:
        return None
    tables = own.scores.per_picture, theirs.scores.per_picture
    return advantage_by_picture(rule.score, *tables)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other point dominates.

    Args:
        points: Two costs each; lower is better.

    Returns:
        In the order of the first cost; all of equal points.
    """
    front = [
        index
        for index, (x, y) in enumerate(points)
        if not any(u <= x and v <= y and (u, v) != (x, y) for u, v in points)
    ]
    return sorted(front, key=lambda index: points[index])


def _candidate(rule: Rule, cells: Sequence[Cell]) -> Candidate | None:
    costs = {cell.number: _cost(rule, cell) for cell in cells}
    known = {number: cost for number, cost in costs.items() if cost is not None}
    if len(known) < len(costs):
        return None
    ordered = sorted(cells, key=lambda cell: known[cell.number])
    spread = statistics.stdev(known.values()) if len(known) > 1 else None
    return Candidate(ordered, kind(rule.score).sign * statistics.mean(known.values()), spread)


def _cost(rule: Rule, cell: Cell) -> float | None:
    if cell.chosen is None:
        return None
    return rule.cost(cell.chosen.scores, cell.base or Scores(num_pictures=0))


def _by_seed(rule: Rule, winner: Candidate, other: Candidate) -> list[float]:
    first, second = (
        {
            str(cell.overrides[SEED]): _cost(rule, cell)
            for cell in each.cells
            if SEED in cell.overrides
        }
        for each in (winner, other)
    )
    pairs = [(first[seed], second[seed]) for seed in first if seed in second]
    return [theirs - own for own, theirs in pairs if own is not None and theirs is not None]

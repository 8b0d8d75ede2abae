"""Scores on the terminal: the table, what was not scored, and the refusal of nothing scored."""

from collections.abc import Mapping

from sdlora.config.score_kinds import kind
from sdlora.evaluation.comparison import score_table
from sdlora.evaluation.hw10 import FACE, tutorial_line
from sdlora.evaluation.scores import Scores
from sdlora.evaluation.scoring import Scorer
from sdlora.runtime.progress import Progress


def refuse_no_score(scores: Mapping[str, Scores]) -> None:
    """Stop with an error where scores were asked for and none could be measured.

    Raises:
        NothingScored: With the reasons.
    """
    reasons: dict[str, list[str]] = {}
    for row in scores.values():
        if any(value is not None for value in row.values.values()):
            return
        for name, reason in row.reasons.items():
            titles = reasons.setdefault(reason, [])
            titles += [kind(name).title] * (kind(name).title not in titles)
    if reasons:
        lines = (f"no {', '.join(titles)}: {reason}" for reason, titles in reasons.items())
        raise NothingScored("\n  ".join(["nothing was scored", *lines]))


class NothingScored(ValueError):
    """An evaluation without a single number."""


def print_scores(
    scores: Mapping[str, Scores],
    real: Scores | None,
    progress: Progress,
    *,
    has_base: bool = True,
    judged_only: bool = False,
) -> None:
    """Print the table of all scores, and the homework's line of each model."""
    if any(value is not None for row in scores.values() for value in row.values.values()):
        table = score_table(scores, floor=real, has_base=has_base, judged_only=judged_only)
        progress.print(table)
    for name, row in scores.items():
        if FACE in row.values:
            progress.print(f"{name}: {tutorial_line(row)}")


def say_not_taken(scorer: Scorer, progress: Progress) -> None:
    """Say which scores were not taken for lack of their model, and why."""
    for reason, names in scorer.not_taken().items():
        progress.print(f"not scored: {', '.join(names)}: {reason}")

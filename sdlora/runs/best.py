"""The best adapter of a run so far: its files and scores in ``best/``."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from sdlora.evaluation.scores import Scores, scores_from
from sdlora.evaluation.selection import Rule
from sdlora.runtime.files import whole_folder, write_json

FOLDER = "best"
SCORES = "scores.json"


@dataclass(frozen=True, slots=True)
class Best:
    """The best checkpoint so far.

    Attributes:
        step: Optimizer step that it was scored at.
        scores: All its scores.
    """

    step: int
    scores: Scores


class BestAdapter:
    """Keeps the adapter of the best scored step in ``best/`` of the run folder.

    The choice is on the disk, so a resumed run compares with it.

    Args:
        run: The run folder.
        rule: The rule of the choice.
        write_adapter: Writes the adapter's files into a folder.
    """

    def __init__(self, run: Path, rule: Rule, write_adapter: Callable[[Path], None]) -> None:
        self.folder = run / FOLDER
        self.rule = rule
        self._write_adapter = write_adapter
        self.best = read_best(run)

    def consider(self, step: int, scores: Scores, base: Scores) -> bool:
        """Keep the current adapter, if it is better than any before.

        Args:
            step: Current optimizer step.
            scores: Its scores.
            base: Scores of the base on the same prompts and noise.

        Returns:
            Whether it was kept.
        """
        cost = self.rule.cost(scores, base)
        if cost is None:
            return False
        before = None if self.best is None else self.rule.cost(self.best.scores, base)
        if before is not None and cost >= before:
            return False
        with whole_folder(self.folder) as temporary:
            self._write_adapter(temporary)
            write_json(
                temporary / SCORES,
                {"step": step, "rule": asdict(self.rule), "scores": asdict(scores)},
            )
        self.best = Best(step, scores)
        return True


def read_best(run: Path) -> Best | None:
    """The best checkpoint of a run folder; ``None`` if it has none that can be read."""
    try:
        stored = json.loads((run / FOLDER / SCORES).read_text("utf-8"))
        return Best(int(stored["step"]), scores_from(stored["scores"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None

"""Pictures of one state of a model, with their scores."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from sdlora.evaluation.scores import Scores
from sdlora.sampling.prompts import Prompt


@dataclass(slots=True)
class Evaluation:
    """Pictures of one state of the model, and their scores.

    Attributes:
        prompts: Prompts of the pictures.
        images: One for each prompt.
        scores: ``None`` for a preview, which is not scored.
    """

    prompts: Sequence[Prompt]
    images: list[Image.Image]
    scores: Scores | None = None

    def named(self, prefix: str) -> dict[str, float | None | str]:
        """Scores as ``prefix/name`` -> number, or ``None`` with ``prefix/name_reason``.

        Ends of an interval are ``prefix/name_low`` and ``prefix/name_high``.
        """
        if self.scores is None:
            return {}
        scores = self.scores
        values: dict[str, float | None | str] = {
            f"{prefix}/{name}": value for name, value in scores.values.items()
        }
        for name, (low, high) in scores.intervals.items():
            values.update({f"{prefix}/{name}_low": low, f"{prefix}/{name}_high": high})
        reasons = {f"{prefix}/{name}_reason": why for name, why in scores.reasons.items()}
        return {**values, **reasons}

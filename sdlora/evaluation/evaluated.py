"""Pictures of one state of a model, with their scores."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import Image

from sdlora.config.score_kinds import IDENTITY_SCORES, PROMPT_SCORE, kind
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


def short_scores(evaluation: Evaluation, base: Evaluation) -> Iterator[str]:
    """The scores of identity and prompt beside the base's, for one line: none of a preview."""
    if evaluation.scores is None:
        return
    names = [name for name in IDENTITY_SCORES if evaluation.scores.value(name) is not None][:1]
    for name in (*names, PROMPT_SCORE):
        value = evaluation.scores.value(name)
        before = None if base.scores is None else base.scores.value(name)
        if value is None:
            continue
        short, digits = kind(name).title.split()[0], min(2, kind(name).digits)
        of_base = "" if before is None else f" (base {before:.{digits}f})"
        yield f"{short} {value:.{digits}f}{of_base}"
    followed = evaluation.scores.value("prompt_followed")
    if followed is not None:
        yield f"prompts {followed:.0%}"

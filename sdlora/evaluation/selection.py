"""The rule that chooses the best of several scored checkpoints."""

from dataclasses import dataclass

from sdlora.config.score_kinds import PROMPT_SCORE, kind
from sdlora.evaluation.scores import Scores


@dataclass(frozen=True, slots=True)
class Rule:
    """How checkpoints are compared.

    Attributes:
        score: Score with a better direction, by which the best is chosen.
        max_clip_loss: A checkpoint whose CLIP score is lower than the base's by more than this is
            not chosen, since it no longer follows prompts. In points of 100 * cosine, >= 0. It does
            not apply where one of the two CLIP scores is missing.
    """

    score: str
    max_clip_loss: float

    def cost(self, scores: Scores, base: Scores) -> float | None:
        """Cost of a checkpoint, lower is better; ``None`` for one that cannot be chosen."""
        if not self.follows_prompts(scores, base):
            return None
        value = scores.value(self.score)
        return None if value is None else kind(self.score).sign * value

    def follows_prompts(self, scores: Scores, base: Scores) -> bool:
        """Whether the CLIP score is not lower than the base's by more than the margin."""
        now, before = scores.value(PROMPT_SCORE), base.value(PROMPT_SCORE)
        if now is None or before is None:
            return True
        return before - now <= self.max_clip_loss

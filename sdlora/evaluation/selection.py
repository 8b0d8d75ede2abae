"""Which of several scored checkpoints is the best: a rule that a person can say in a sentence."""

from dataclasses import dataclass

from sdlora.config.score_kinds import PROMPT_SCORE, kind
from sdlora.evaluation.scores import Scores


@dataclass(frozen=True, slots=True)
class Rule:
    """How checkpoints are compared.

    Attributes:
        score: A score that has a better direction; the best wins.
        max_clip_loss: A checkpoint whose CLIP score lies by more than this below the base's is not
            chosen, however alike its faces: it no longer draws what it is asked for. In points of
            100 * cosine, >= 0. It needs both CLIP scores; without one of them it is no condition.
    """

    score: str
    max_clip_loss: float

    def cost(self, scores: Scores, base: Scores) -> float | None:
        """What the best checkpoint has least of; ``None`` for one that cannot be chosen."""
        if not self.follows_prompts(scores, base):
            return None
        value = scores.value(self.score)
        return None if value is None else kind(self.score).sign * value

    def follows_prompts(self, scores: Scores, base: Scores) -> bool:
        """Whether the CLIP score has not fallen by more than the margin."""
        now, before = scores.value(PROMPT_SCORE), base.value(PROMPT_SCORE)
        if now is None or before is None:
            return True
        return before - now <= self.max_clip_loss
